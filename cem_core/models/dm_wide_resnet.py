"""DeepMind's WideResNet in PyTorch: Gowal 2020, Rebuffi 2021, DM-Improves-AT and their heirs.

Its keys could be renamed to those of `wide_resnet`, and the weights would load; but the padding is TensorFlow's SAME,
so strides look elsewhere.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from cem_core.models.activations import ACTIVATIONS
from cem_core.models.family import Evidence, Plan, Shapes, head_named, shown
from cem_core.models.model import Network, fold_pair, pooled
from cem_core.models.wide_resnet import Sizes, classes_of, sizes

FAMILY: Final = "dm_wide_resnet"
_NORMALISATIONS: Final = {10: "CIFAR-10", 100: "CIFAR-100"}


class SameConv2d(nn.Conv2d):
    """3×3 with the padding that TensorFlow calls SAME: with stride 2 only at the right and at the bottom."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 3, stride, 1 if stride == 1 else 0, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.stride == (1, 1) else functional.pad(x, (0, 1, 0, 1)))


def framed(x: Tensor) -> Tensor:
    """An MNIST digit, 28×28, gets a frame to 32×32: black, which is -1 once it is normalised."""
    return functional.pad(x, (2, 2, 2, 2), value=-1.0) if x.shape[1] == 1 else x


def size_of(channels: int, classes: int) -> int:
    """Side of the images that such a network was trained on."""
    return 28 if channels == 1 else 64 if classes == 200 else 32


def normalisation(channels: int, classes: int, name: str) -> tuple[str, float, str] | None:
    """DeepMind's code normalises within the network, by constants for each data set that are not in the file."""
    if channels == 1 or "svhn" in name.lower():
        return "[-1,1]", 0.9, f"DeepMind's code for {'MNIST' if channels == 1 else 'SVHN'}"
    if classes in _NORMALISATIONS:
        return _NORMALISATIONS[classes], 0.9, f"DeepMind's code for {classes} classes"
    return None


class Block(nn.Module):
    """Where the width changes, the shortcut takes the activated input too."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str) -> None:
        super().__init__()
        self.act = ACTIVATIONS[activation]()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = SameConv2d(inputs, outputs, stride)
        self.batchnorm_1: nn.Module = nn.BatchNorm2d(outputs)
        self.conv_1 = SameConv2d(outputs, outputs, 1)
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.batchnorm_0(x))
        if hasattr(self, "shortcut"):
            x = self.shortcut(h)
        return x + self.conv_1(self.act(self.batchnorm_1(self.conv_0(h))))  # type: ignore[no-any-return]


class Group(nn.Module):
    """A stage; the name of its only part is part of the keys."""

    def __init__(self, blocks: list[tuple[int, int, int]], activation: str) -> None:
        super().__init__()
        self.block = nn.Sequential(*(Block(*block, activation) for block in blocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)  # type: ignore[no-any-return]


class DMWideResNet(Network):
    """Normalised (B, C, H, W) to logits (B, K); `classes` 0: no head."""

    def __init__(self, sizes: Sizes, classes: int, activation: str) -> None:
        super().__init__()
        features = sizes.widths[-1]
        self.init_conv = SameConv2d(sizes.channels, sizes.stem, 1)
        self.layer = nn.Sequential(*(Group(blocks, activation) for blocks in sizes.layout()))
        self.batchnorm = nn.BatchNorm2d(features)
        self.act = ACTIVATIONS[activation]()
        self.head = nn.Linear(features, classes) if classes else None

    def features(self, x: Tensor) -> Tensor:
        return pooled(self.act(self.batchnorm(self.layer(self.init_conv(framed(x))))), 8)

    def fold(self) -> None:
        for block in self.modules():
            if isinstance(block, Block):
                fold_pair(block, "conv_0", "batchnorm_1")


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    found = sizes(shapes, "init_conv", [f"layer.{stage}.block" for stage in range(3)], "conv_0")
    if found is None or not {"batchnorm.weight", "layer.0.block.0.batchnorm_0.weight"} <= shapes.keys():
        return None
    features = found.widths[-1]
    classes = classes_of(shapes, "logits", features)
    if classes is None or len({*found.widths}) < 3:  # only where the width changes is there a shortcut that strides
        return None
    activation = evidence.settle("activation", tuple(ACTIVATIONS), "silu", 0.9, "all published files")
    return Plan(
        family=FAMILY,
        title=f"WideResNet-{found.depth}-{found.widening} (DeepMind)",
        channels=found.channels,
        classes=classes,
        features=features,
        size=size_of(found.channels, classes),
        facts=(shown("depth", found.depth), shown("width", found.widening), activation),
        build=partial(DMWideResNet, found, classes, activation.value),
        key_of=head_named("logits"),
        normalisation=normalisation(found.channels, classes, evidence.name),
        stem=("init_conv.weight", "layer.0.block.0.batchnorm_0"),
    )
