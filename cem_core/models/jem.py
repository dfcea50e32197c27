"""JEM and JEM++ (Grathwohl et al. 2020, Yang et al. 2021): a WideResNet that is a classifier and an energy in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from cem_core.messages import Fact
from cem_core.models.family import Evidence, Plan, Shapes, shown
from cem_core.models.model import Network, fold_pair, pooled
from cem_core.models.wide_resnet import Sizes, classes_of, sizes

FAMILY: Final = "jem"
_HEADS: Final = {"class logits": "class_output", "energy output": "energy_output"}
_IDLE: Final = ("f.linear.", "f.layer_one.", "f.other_layers.")
"""A last layer that is never called, and JEM++'s second names for all layers."""


class ActNorm(nn.Module):
    """A shift and a scale for each channel, once set by the first batch. Files also hold whether that has happened."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x + self.loc)


_NORMS: Final[Mapping[str, Callable[[int], nn.Module]]] = {
    "none": nn.Identity,
    "batch": nn.BatchNorm2d,
    "act": ActNorm,
    "layer": partial(nn.GroupNorm, 1),
    "instance": partial(nn.InstanceNorm2d, affine=True),
}


class Block(nn.Module):
    """Strides in its second convolution; the shortcut takes the raw input."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.act = nn.LeakyReLU(0.2)
        self.bn1 = _NORMS[norm](inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.bn2 = _NORMS[norm](outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.act(self.bn2(self.conv1(self.act(self.bn1(x))))))
        return h + (self.shortcut(x) if hasattr(self, "shortcut") else x)  # type: ignore[no-any-return]


class JEM(Network):
    """Normalised (B, C, H, W) to logits (B, K), or to (B, 1), of which the energy is the negative."""

    def __init__(self, sizes: Sizes, classes: int, norm: str) -> None:
        super().__init__()
        features = sizes.widths[-1]
        self.conv1 = nn.Conv2d(sizes.channels, sizes.stem, 3, 1, 1)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(Block(*block, norm) for block in blocks)) for blocks in sizes.layout()
        )
        self.bn1 = _NORMS[norm](features)
        self.act = nn.LeakyReLU(0.2)
        self.head = nn.Linear(features, classes) if classes else None

    def features(self, x: Tensor) -> Tensor:
        h = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return pooled(self.act(self.bn1(h)), 8)

    def fold(self) -> None:
        for block in self.modules():
            if isinstance(block, Block):
                fold_pair(block, "conv1", "bn2")


def _norm(shapes: Shapes, evidence: Evidence) -> Fact | None:
    """By what the first one keeps."""
    prefix = "f.layer1.0.bn1."
    kept = {key.removeprefix(prefix) for key in shapes if key.startswith(prefix)}
    if not kept:
        return shown("norm", "none")
    if "running_mean" in kept:
        return shown("norm", "batch")
    if "loc" in kept:
        return shown("norm", "act")
    if "weight" in kept:
        return evidence.settle("norm", ("layer", "instance"), "layer", 0.5, "both keep the same")
    return None


def _energy(heads: Mapping[str, int], evidence: Evidence) -> Fact:
    """Which head the energy is read from."""
    if len(heads) == 1:
        return shown("energy", *heads)
    return evidence.settle("energy", tuple(_HEADS), "class logits", 0.9, "the unconditional model was not published")


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    found = sizes(shapes, "f.conv1", [f"f.layer{stage}" for stage in (1, 2, 3)], "conv1")
    if found is None or not {"f.conv1.bias", "f.layer1.0.conv1.bias", "f.layer1.0.conv2.bias"} <= shapes.keys():
        return None
    features = found.widths[-1]
    heads = {name: classes_of(shapes, key, features) for name, key in _HEADS.items()}
    sound = {name: classes for name, classes in heads.items() if classes}
    norm = _norm(shapes, evidence)
    if None in heads.values() or norm is None:
        return None
    facts = [shown("depth", found.depth), shown("width", found.widening), shown("activation", "leaky relu 0.2"), norm]
    head, classes = "", 0
    if sound:
        energy = _energy(sound, evidence)
        head, classes = _HEADS[energy.value], sound[energy.value]
        facts.append(energy)
    unread = tuple(f"{key}." for key in _HEADS.values() if key != head)
    return Plan(
        family=FAMILY,
        title=f"WideResNet-{found.depth}-{found.widening} (JEM)",
        channels=found.channels,
        classes=classes,
        features=features,
        size=32,
        facts=tuple(facts),
        build=partial(JEM, found, classes, norm.value),
        key_of=lambda key: key.replace("head", head, 1) if key.startswith("head.") else f"f.{key}",
        normalisation=("[-1,1]", 0.95, "JEM's code"),
        idle=lambda key: key.startswith((*_IDLE, *unread)) or key.endswith(".initialized"),
    )
