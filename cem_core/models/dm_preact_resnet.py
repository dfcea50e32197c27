"""DeepMind's PreAct ResNet in PyTorch: Rebuffi 2021, Gowal 2021 and Rade 2021. Padded as its WideResNet."""

from __future__ import annotations

from functools import partial
from typing import Final

from torch import Tensor, nn

from cem_core.models.activations import ACTIVATIONS
from cem_core.models.dm_wide_resnet import SameConv2d, framed, normalisation, size_of
from cem_core.models.family import Evidence, Plan, Shapes, head_named, shown
from cem_core.models.model import Network, fold_pair, pooled
from cem_core.models.wide_resnet import Sizes, classes_of, sizes

FAMILY: Final = "dm_preact_resnet"


class Block(nn.Module):
    """The shortcut is a 3×3 convolution of the raw input."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str) -> None:
        super().__init__()
        self.act = ACTIVATIONS[activation]()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_2d_1 = SameConv2d(inputs, outputs, stride)
        self.batchnorm_1: nn.Module = nn.BatchNorm2d(outputs)
        self.conv_2d_2 = SameConv2d(outputs, outputs, 1)
        if stride != 1 or inputs != outputs:
            self.shortcut = SameConv2d(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_2d_1(self.act(self.batchnorm_0(x)))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x)
        return x + self.conv_2d_2(self.act(self.batchnorm_1(h)))  # type: ignore[no-any-return]


class DMPreActResNet(Network):
    """Normalised (B, C, H, W) to logits (B, K); `classes` 0: no head."""

    def __init__(self, sizes: Sizes, classes: int, activation: str) -> None:
        super().__init__()
        features = sizes.widths[-1]
        self.conv_2d = SameConv2d(sizes.channels, sizes.stem, 1)
        self.layer_0, self.layer_1, self.layer_2, self.layer_3 = (
            nn.Sequential(*(Block(*block, activation) for block in blocks)) for blocks in sizes.layout()
        )
        self.batchnorm = nn.BatchNorm2d(features)
        self.act = ACTIVATIONS[activation]()
        self.head = nn.Linear(features, classes) if classes else None

    def features(self, x: Tensor) -> Tensor:
        h = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(framed(x))))))
        return pooled(self.act(self.batchnorm(h)), 4)

    def fold(self) -> None:
        for block in self.modules():
            if isinstance(block, Block):
                fold_pair(block, "conv_2d_1", "batchnorm_1")


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    found = sizes(shapes, "conv_2d", [f"layer_{stage}" for stage in range(4)], "conv_2d_1")
    if found is None or not {"batchnorm.weight", "layer_0.0.batchnorm_0.weight"} <= shapes.keys():
        return None
    features = found.widths[-1]
    classes = classes_of(shapes, "logits", features)
    if classes is None:
        return None
    activation = evidence.settle("activation", tuple(ACTIVATIONS), "silu", 0.9, "all published files")
    return Plan(
        family=FAMILY,
        title=f"PreAct ResNet-{found.depth} (DeepMind)",
        channels=found.channels,
        classes=classes,
        features=features,
        size=size_of(found.channels, classes),
        facts=(shown("depth", found.depth), shown("width", found.stem), activation),
        build=partial(DMPreActResNet, found, classes, activation.value),
        key_of=head_named("logits"),
        normalisation=normalisation(found.channels, classes, evidence.name),
        stem=("conv_2d.weight", "layer_0.0.batchnorm_0"),
    )
