"""WideResNet for 32×32 images, as xternalz, AugMix, TRADES and their many heirs name its keys (Zagoruyko 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from cem_core.models.activations import ACTIVATIONS
from cem_core.models.family import Evidence, Plan, Shapes, count, head_named, shown
from cem_core.models.model import Network, fold_pair, pooled

FAMILY: Final = "wide_resnet"
_SCALES: Final = {"cosine": 1.0, "cosine x15": 15.0}


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a residual network settle."""

    channels: int
    stem: int
    """Channels after the first convolution."""
    widths: tuple[int, ...]
    """Channels after each stage."""
    blocks: tuple[int, ...]
    """In each stage."""

    @property
    def depth(self) -> int:
        """Counted as in a name: WideResNet-28-10 has three stages of four blocks."""
        return 2 * sum(self.blocks) + (4 if len(self.blocks) == 3 else 2)

    @property
    def widening(self) -> str:
        return f"{self.widths[0] / self.stem:g}"

    def layout(self) -> Iterator[list[tuple[int, int, int]]]:
        """(inputs, outputs, stride) of each block, stage by stage; all stages but the first halve the image."""
        inputs = self.stem
        for stage, (outputs, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            stride = 1 if stage == 0 else 2
            yield [(inputs, outputs, stride), *[(outputs, outputs, 1)] * (blocks - 1)]
            inputs = outputs


def sizes(shapes: Shapes, stem: str, stages: Sequence[str], conv: str) -> Sizes | None:
    """Those of a network with 3×3 convolutions, from the first one and the first of each stage; None: it is not one."""
    kernels = [shapes.get(f"{key}.weight", ()) for key in (stem, *(f"{stage}.0.{conv}" for stage in stages))]
    blocks = tuple(count(shapes, stage) for stage in stages)
    if 0 in blocks or any(len(kernel) != 4 or tuple(kernel[2:]) != (3, 3) or min(kernel) < 1 for kernel in kernels):
        return None
    if any(kernel[1] != before[0] for before, kernel in pairwise(kernels)):
        return None
    return Sizes(kernels[0][1], kernels[0][0], tuple(kernel[0] for kernel in kernels[1:]), blocks)


def classes_of(shapes: Shapes, head: str, features: int) -> int | None:
    """Outputs of a linear layer; 0: the file has none; None: it does not take such features."""
    shape = shapes.get(f"{head}.weight")
    if shape is None:
        return 0
    return shape[0] if len(shape) == 2 and shape[0] > 0 and shape[1] == features else None


class Block(nn.Module):
    """Where the width changes, the shortcut takes the activated input too."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str) -> None:
        super().__init__()
        self.act = ACTIVATIONS[activation]()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if inputs != outputs:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.bn1(x))
        if hasattr(self, "convShortcut"):
            x = self.convShortcut(h)
        return x + self.conv2(self.act(self.bn2(self.conv1(h))))  # type: ignore[no-any-return]


class Group(nn.Module):
    """A stage; the name of its only part is part of the keys."""

    def __init__(self, blocks: list[tuple[int, int, int]], activation: str) -> None:
        super().__init__()
        self.layer = nn.Sequential(*(Block(*block, activation) for block in blocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class Cosine(nn.Linear):
    """The cosine of the angle between the features and each row, scaled."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__(features, classes, bias=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * functional.linear(functional.normalize(x), functional.normalize(self.weight))


class WideResNet(Network):
    """Normalised (B, C, H, W) to logits (B, K); `classes` 0: no head."""

    def __init__(self, sizes: Sizes, classes: int, activation: str, head: str, *, bias: bool) -> None:
        super().__init__()
        features = sizes.widths[-1]
        self.conv1 = nn.Conv2d(sizes.channels, sizes.stem, 3, 1, 1, bias=False)
        self.block1, self.block2, self.block3 = (Group(blocks, activation) for blocks in sizes.layout())
        self.bn1 = nn.BatchNorm2d(features)
        self.act = ACTIVATIONS[activation]()
        if classes:
            scale = _SCALES.get(head)
            self.head = Cosine(features, classes, scale) if scale else nn.Linear(features, classes, bias=bias)

    def features(self, x: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(self.conv1(x))))
        return pooled(self.act(self.bn1(h)), 8)

    def fold(self) -> None:
        for block in self.modules():
            if isinstance(block, Block):
                fold_pair(block, "conv1", "bn2")


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    found = sizes(shapes, "conv1", [f"block{stage}.layer" for stage in (1, 2, 3)], "conv1")
    if found is None or not {"bn1.weight", "block1.layer.0.bn1.weight", "block1.layer.0.bn2.weight"} <= shapes.keys():
        return None
    features = found.widths[-1]
    classes = classes_of(shapes, "fc", features)
    if classes is None or len({*found.widths}) < 3:  # only where the width changes is there a shortcut that strides
        return None
    activation = evidence.settle("activation", tuple(ACTIVATIONS), "relu", 0.9, "all published files")
    facts = [shown("depth", found.depth), shown("width", found.widening), activation]
    head, bias = "linear", "fc.bias" in shapes
    if classes and not bias:
        why = "the last layer has no bias, as in Boosting AT and Bag of Tricks, which normalise features and weights"
        fact = evidence.settle("last layer", (*_SCALES, "linear"), "cosine", 0.8, why)
        head = fact.value
        facts.append(fact)
    return Plan(
        family=FAMILY,
        title=f"WideResNet-{found.depth}-{found.widening}",
        channels=found.channels,
        classes=classes,
        features=features,
        size=64 if classes == 200 else 32,  # TinyImageNet
        facts=tuple(facts),
        build=partial(WideResNet, found, classes, activation.value, head, bias=bias),
        key_of=head_named("fc"),
        stem=("conv1.weight", "block1.layer.0.bn1"),
        idle=lambda key: key.startswith("sub_block1."),  # TRADES makes a second first stage and never calls it
    )
