"""PreAct ResNet for 32×32 images, as kuangliu/pytorch-cifar and locuslab name its keys (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from torch import Tensor, nn

from cem_core.models.activations import ACTIVATIONS
from cem_core.models.family import Evidence, Plan, Shapes, count, head_named, shown
from cem_core.models.model import Network, fold_pair, pooled

FAMILY: Final = "preact_resnet"
_DEPTHS: Final[Mapping[tuple[bool, tuple[int, ...]], int]] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
BLOCKS: Final = {depth: blocks for (_, blocks), depth in _DEPTHS.items()}
"""Blocks of each stage, by depth."""


class Block(nn.Module):
    """Two 3×3 convolutions; as a bottleneck, 1×1, 3×3 and 1×1 to four times the width."""

    def __init__(
        self, inputs: int, width: int, stride: int, activation: str, *, bottleneck: bool, shortcut_activated: bool
    ) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        self.act = ACTIVATIONS[activation]()
        self.shortcut_activated = shortcut_activated
        self.bn1 = nn.BatchNorm2d(inputs)
        self.bn2: nn.Module = nn.BatchNorm2d(width)
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.bn3: nn.Module = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.bn1(x))
        if hasattr(self, "shortcut"):
            x = self.shortcut(h if self.shortcut_activated else x)
        h = self.conv2(self.act(self.bn2(self.conv1(h))))
        if hasattr(self, "conv3"):
            h = self.conv3(self.act(self.bn3(h)))
        return x + h  # type: ignore[no-any-return]

    def fold(self) -> None:
        fold_pair(self, "conv1", "bn2")
        if hasattr(self, "conv3"):
            fold_pair(self, "conv2", "bn3")


class PreActResNet(Network):
    """Normalised (B, C, H, W) to logits (B, K); `classes` 0: no head.

    Args:
        projection: length of what f(x,x') compares, behind two layers as contrastive training has them; 0: g(x) itself.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        channels: int,
        classes: int,
        activation: str,
        *,
        bottleneck: bool,
        shortcut_activated: bool,
        final_bn: bool,
        projection: int = 0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        inputs = width
        for stage, number in enumerate(blocks, start=1):
            inner = width * 2 ** (stage - 1)
            strides = (1 if stage == 1 else 2, *[1] * (number - 1))
            layer = []
            for stride in strides:
                block = Block(
                    inputs, inner, stride, activation, bottleneck=bottleneck, shortcut_activated=shortcut_activated
                )
                layer.append(block)
                inputs = 4 * inner if bottleneck else inner
            setattr(self, f"layer{stage}", nn.Sequential(*layer))
        self.stages = len(blocks)
        self.act = ACTIVATIONS[activation]()
        if final_bn:
            self.bn = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, classes) if classes else None
        if projection:
            self.projection = nn.Sequential(
                nn.Linear(inputs, inputs, bias=False),
                nn.BatchNorm1d(inputs),
                ACTIVATIONS[activation](),
                nn.Linear(inputs, projection),
            )

    def features(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        for stage in range(1, self.stages + 1):
            h = getattr(self, f"layer{stage}")(h)
        if hasattr(self, "bn"):
            h = self.act(self.bn(h))
        return pooled(h, 4)

    def embedding(self, x: Tensor) -> Tensor:
        g = self.features(x)
        if hasattr(self, "projection"):
            g = self.projection(g)
        return g

    def fold(self) -> None:
        for block in self.modules():
            if isinstance(block, Block):
                block.fold()


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    signature = {"conv1.weight", "layer1.0.bn1.weight", "layer1.0.conv2.weight", "layer4.0.conv2.weight"}
    if not signature <= shapes.keys() or "bn1.weight" in shapes or "layer4.0.shortcut.0.weight" not in shapes:
        return None
    stem, last = shapes["conv1.weight"], shapes.get("linear.weight", (0, 0))
    projected = shapes.get("projection.3.weight", (0, 0)) if "projection.1.running_var" in shapes else (0, 0)
    blocks = tuple(count(shapes, f"layer{stage}") for stage in range(1, 5))
    if len(stem) != 4 or stem[2] != 3 or len(last) != 2 or len(projected) != 2 or 0 in blocks:
        return None
    bottleneck = "layer1.0.conv3.weight" in shapes
    final_bn = "bn.weight" in shapes
    activation = evidence.settle("activation", tuple(ACTIVATIONS), "relu", 0.9, "all published files")
    facts = [shown("width", stem[0]), activation]
    shortcut = "activated"  # the only one that is ever written with bottlenecks
    if not bottleneck:
        guess, why = ("activated", "as locuslab's, with its final bn") if final_bn else ("raw", "there is no final bn")
        fact = evidence.settle("shortcut input", ("activated", "raw"), guess, 0.7, why)
        shortcut = fact.value
        facts.append(fact)
    if projected[0]:
        facts.append(shown("projection", projected[0]))
    depth = _DEPTHS.get((bottleneck, blocks), 2 + (3 if bottleneck else 2) * sum(blocks))
    width = stem[0]
    return Plan(
        family=FAMILY,
        title=f"PreAct ResNet-{depth}",
        channels=stem[1],
        classes=last[0],
        features=width * 8 * (4 if bottleneck else 1),
        size=32,
        facts=(shown("depth", depth), *facts),
        build=partial(
            PreActResNet,
            blocks,
            width,
            stem[1],
            last[0],
            activation.value,
            bottleneck=bottleneck,
            shortcut_activated=shortcut == "activated",
            final_bn=final_bn,
            projection=projected[0],
        ),
        key_of=head_named("linear"),
        stem=("conv1.weight", "layer1.0.bn1"),
    )
