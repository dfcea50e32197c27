"""Several processes that train as one, each on its part of every batch, as torchrun starts them.

Weights, noise and what is drawn by chance are the same in all; the first one writes, measures and speaks. For one
alone, nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cem_core.messages import Refused

_PATIENCE: Final = timedelta(hours=1)
"""How long the others wait while the first one measures and writes; torchrun ends them at once if it fails."""

Lowered = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images, labels and noise to a loss."""


class Ranks:
    """Which of how many this process is."""

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count

    @property
    def first(self) -> bool:
        return self.index == 0

    def part(self, x: Tensor, batch: int) -> Tensor:
        """This one's part of (B, …); of (2B, …), the same part of both halves."""
        if self.count == 1:
            return x
        own, rest = batch // self.count, x.shape[1:]
        return x.reshape(-1, batch, *rest)[:, self.index * own : (self.index + 1) * own].reshape(-1, *rest)

    def gathered(self, g: Tensor) -> Tensor:
        """(2B, D) of the whole batch, from each one's (2B/N, D).

        What all lower is the same loss of the whole batch, of which each knows the derivative by its own part; the mean
        over all, which their gradients become, is N times too small for a sum. So the own part counts N times.
        """
        if self.count == 1:
            return g
        parts = [torch.empty_like(g) for _ in range(self.count)]
        distributed.all_gather(parts, g.detach().contiguous())
        parts[self.index] = g + (self.count - 1) * (g - g.detach())
        return torch.stack([part.reshape(2, -1, g.shape[1]) for part in parts], 1).flatten(0, 2)

    def mean(self, value: float) -> float:
        """Over all; no number where one has none."""
        return self._sum(value) / self.count if self.count > 1 else value

    def any(self, asked: bool) -> bool:
        return self._sum(float(asked)) > 0 if self.count > 1 else asked

    def share(self, tensors: Sequence[Tensor]) -> None:
        """All get what the first one has."""
        for tensor in tensors if self.count > 1 else ():
            distributed.broadcast(tensor, 0)

    def normed(self, net: nn.Module, place: torch.device) -> None:
        """Batch norms in the network see the whole batch, where torch can do that."""
        if self.count > 1 and place.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]

    def joined(self, net: nn.Module, lowered: Lowered) -> Lowered:
        """A loss whose gradients are the mean over all."""
        if self.count == 1:
            return lowered
        return DistributedDataParallel(_Lowered(net, lowered))

    def gradients(self, loss: Tensor, weights: list[nn.Parameter]) -> tuple[Tensor, ...]:
        if self.count == 1:
            return torch.autograd.grad(loss, weights)
        for weight in weights:
            weight.grad = None
        loss.backward()  # type: ignore[no-untyped-call]  # the gradients are joined on their way into the weights
        return tuple(weight.grad for weight in weights if weight.grad is not None)

    def _sum(self, value: float) -> float:
        place = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        total = torch.tensor(value, dtype=torch.float64, device=place)
        distributed.all_reduce(total)
        return total.item()


class _Lowered(nn.Module):
    """As torch joins gradients: of a module, which is called once a step."""

    def __init__(self, net: nn.Module, lowered: Lowered) -> None:
        super().__init__()
        self.net = net
        self._lowered = lowered

    def forward(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        return self._lowered(x, y, noise)


@contextmanager
def ranks(place: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Who this process is, and the device that is its own.

    Raises:
        Refused: there are more processes than devices, or another one has ended before its time.
    """
    if not _several():
        yield Ranks(), place
        return
    if place.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise Refused(f"This machine has {torch.cuda.device_count()} CUDA devices: start as many processes.")
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size()), place
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise Refused("Another of the processes has ended, and has said why: this one ends, too.") from error
    finally:
        distributed.destroy_process_group()


def speaks() -> bool:
    """Whether this process is the one that prints."""
    return not _several() or os.environ["RANK"] == "0"


def _several() -> bool:
    return distributed.is_torchelastic_launched() and os.environ.get("WORLD_SIZE", "1") != "1"
