"""One step of 16 chains with the bundled model on the CPU, all telemetry included, against a bare loop.

The bare loop is what one writes first: a frozen network (nothing folded, float32), one forward pass, one
`autograd.grad`, one normalised step; no energies, no logits, no record.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from statistics import median

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from cem_core import bundle, checkpoints, runner
from cem_core.messages import Chain, ImageStart, Message, Precision, RunEnd, RunSpec
from cem_core.models import Model
from cem_core.presets import SAMPLERS
from tests.bench import ROUNDS, in_turns, ratio
from tests.plain import PlainNet

CHAINS = 16
STEPS = 8
"""Of each contender in a round."""
PATH = bundle.models()[bundle.DEFAULT_MODEL]
BARE = "bare loop, float32"


def chains() -> tuple[Chain, ...]:
    return tuple(Chain(ImageStart(str(path)), i, (i + 5) % 10) for i, path in enumerate(bundle.samples()[:CHAINS]))


def played(sampler: str, precision: Precision) -> Callable[[], int]:
    """Steps of one long run, as the window or the command line gets them."""
    row = replace(SAMPLERS[sampler], steps=100_000)
    messages: Iterator[Message] = runner.play(RunSpec("bench", bundle.DEFAULT_MODEL, row, chains(), "cpu", precision))
    next(messages)

    def steps() -> int:
        for _ in range(STEPS):
            message = next(messages)
            assert not isinstance(message, RunEnd), message.detail
        return STEPS

    return steps


def start() -> tuple[Tensor, Tensor]:
    """x (16, 3, 32, 32) and the targets of the same chains."""
    from cem_core import starts

    checkpoint = checkpoints.load(bundle.DEFAULT_MODEL, "cpu")[1]
    pixels, *_ = starts.make(checkpoint, chains())
    return torch.from_numpy(pixels), torch.tensor([chain.label for chain in chains()])


def bare(logits_of: Callable[[Tensor], Tensor]) -> Callable[[], int]:
    x, y = start()

    def steps() -> int:
        nonlocal x
        for _ in range(STEPS):
            leaf = x.requires_grad_()
            loss = nn.functional.cross_entropy(logits_of(leaf), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
            with torch.no_grad():
                length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
                x = (leaf - 0.25 * gradient / length).clamp(0, 1)
        return STEPS

    return steps


class PlainModule(nn.Module):
    """The plain network as Foolbox wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = PlainNet(PATH)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def foolboxed(network: nn.Module) -> Callable[[], int] | None:
    """Foolbox's L2 PGD towards the same targets, if it is installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import foolbox
    except ImportError:
        return None
    model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2PGD(abs_stepsize=0.25, steps=STEPS, random_start=False)
    x, y = start()
    criterion = foolbox.criteria.TargetedMisclassification(y)

    def steps() -> int:
        attack.run(model, x, criterion, epsilon=1e4)
        return STEPS

    return steps


def main() -> None:
    model: Model = checkpoints.load(bundle.DEFAULT_MODEL, "cpu")[0]
    contenders: dict[str, Callable[[], int]] = {
        BARE: bare(PlainNet(PATH)),
        "bare loop, float32, our network": bare(model),
        "ours, TA, float32": played("TA", "float32"),
        "ours, RCS (with noise), float32": played("RCS", "float32"),
        "ours, TA, bfloat16": played("TA", "bfloat16"),
    }
    for name, network in (("Foolbox L2 PGD", PlainModule()), ("Foolbox L2 PGD, our network", model)):
        if attack := foolboxed(network):
            contenders[name] = attack
    seconds = in_turns(contenders)
    theirs = "Foolbox L2 PGD" if "Foolbox L2 PGD" in contenders else None
    print(
        f"  {torch.get_num_threads()} threads, median of {ROUNDS} rounds of {STEPS} steps in turns; ours: goal ≤ 1.00"
    )
    print(f"  {'':34} {'ms a step':>9} {'÷ bare':>7} {'÷ Foolbox':>10}")
    for name, times in seconds.items():
        against = f"{ratio(times, seconds[theirs]):10.2f}" if theirs else f"{'-':>10}"
        print(f"  {name:34} {1000 * median(times):9.1f} {ratio(times, seconds[BARE]):7.2f} {against}")
    if not theirs:
        print("  Foolbox is not installed: pip install -e .[bench]")
