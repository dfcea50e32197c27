"""Energies that are known in closed form, as functions x (B, C, H, W) → logits (B, K), and chains to start them with.

Sums over pixels are products and sums, never matrix products: the rounding of those depends on the size of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cem_core import samplers
from cem_core.messages import Sampler
from cem_core.samplers import Logits, Reading, State
from cem_core.similarity import Similarity

SHAPE = (3, 8, 8)


def well(curvature: float, centre: float = 0.5) -> Logits:
    """One class: f(x) = -k/2 ‖x-c‖², so E(x) = E(x,0) is a quadratic well and LSE = f."""
    return lambda x: (-curvature / 2 * (x - centre).square().flatten(1).sum(1))[:, None]


def well_and_plain(curvature: float, centre: float = 0.5) -> Logits:
    """Two classes: the well, and a plain at 0. With one class the drift of TA would vanish."""
    of = well(curvature, centre)
    return lambda x: torch.cat([of(x), torch.zeros_like(x[:, :1, 0, 0])], 1)


def linear(w: Tensor, bias: float) -> Logits:
    """Two classes: f(x,0) = (w·x + b)/2 = -f(x,1), so the margin of class 0 is w·x + b. w: (C, H, W)."""

    def logits(x: Tensor) -> Tensor:
        half = ((w * x).flatten(1).sum(1) + bias) / 2
        return torch.stack([half, -half], 1)

    return logits


def smooth(
    classes: int = 4, hidden: int = 6, seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32
) -> Logits:
    """K classes: a random net with one layer of tanh, infinitely differentiable."""
    random = torch.Generator().manual_seed(seed)
    first = torch.randn(hidden, *shape, generator=random, dtype=dtype)
    first /= first[0].numel() ** 0.5 / 3
    second = torch.randn(classes, hidden, generator=random, dtype=dtype) * 2

    def logits(x: Tensor) -> Tensor:
        h = ((x - 0.5)[:, None] * first).flatten(2).sum(2).tanh()
        return (h[:, None] * second).sum(2)

    return logits


class Encoder:
    """g(x): a random net with two layers of tanh, as a `Model` shows itself to `Similarity`."""

    device = torch.device("cpu")

    def __init__(self, features: int = 5, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self._of = smooth(features, seed=seed, dtype=dtype)

    def embedding(self, x: Tensor) -> Tensor:
        return self._of(x).tanh()


def alike(*, cosine: bool = True, temperature: float = 0.5, dtype: torch.dtype = torch.float32) -> Similarity:
    """f(x,·) of that encoder over a batch of six."""
    batch = beginnings(6, seed=9).to(dtype)
    return Similarity(Encoder(dtype=dtype), batch, cosine=cosine, temperature=temperature)  # type: ignore[arg-type]


def beginnings(chains: int = 5, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    """(B, C, H, W) in [0,1], a third of the pixels at an edge, exactly 0 or 1."""
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(chains, *shape, generator=random) * 3 - 1).clamp(0, 1)


def walk(logits_of: Logits, sampler: Sampler, state: State, steps: int) -> Iterator[tuple[State, Reading]]:
    """`steps` steps with one sampler: steps + 1 states and what was read there."""
    last = state.step + steps
    for visited, reading, _ in samplers.evolve(logits_of, sampler, state, lambda i: sampler if i < last else None):
        yield visited, reading
