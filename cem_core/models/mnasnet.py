"""MNASNet-B1 as torchvision has it (Tan et al. 2019)."""

from __future__ import annotations

from functools import partial
from typing import Final

from torch import Tensor, nn

from cem_core.models.family import Evidence, Plan, Shapes, head_named, shown
from cem_core.models.model import Network
from cem_core.models.torchvision_nets import have, head_size, imagenet, import_torchvision, multiplier

FAMILY: Final = "mnasnet"
_WIDTHS: Final = (32, 16, 24, 40, 80, 96, 192, 320)
_HEAD: Final = "classifier.1"
_KEYS: Final = ("layers.0", "layers.6", *(f"layers.{stack}.0.layers.6" for stack in range(8, 14)))
_FEATURES: Final = 1280


class MNASNet(Network):
    """Normalised (B, C, H, W) to logits (B, K); `classes` 0: no head.

    Only the layers are torchvision's: its network refuses weights that do not come with a version number.
    """

    def __init__(self, multiple: float, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = import_torchvision().models.MNASNet(multiple, num_classes=1).layers
        if channels != 3:
            self.layers[0] = nn.Conv2d(channels, self.layers[0].out_channels, 3, stride=2, padding=1, bias=False)
        self.head = nn.Linear(_FEATURES, classes) if classes else None

    def features(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))  # type: ignore[no-any-return]


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:  # noqa: ARG001 - shapes settle all
    """A plan if the keys are those of this family, else None."""
    if not have(shapes, 4, "layers.14.weight", *(f"{key}.weight" for key in _KEYS)):
        return None
    multiple = multiplier(_WIDTHS, [shapes[f"{key}.weight"][0] for key in _KEYS])
    if multiple is None or shapes["layers.14.weight"][0] != _FEATURES:
        return None
    channels = shapes["layers.0.weight"][1]
    classes = head_size(shapes, _HEAD, _FEATURES)
    return Plan(
        family=FAMILY,
        title="MNASNet",
        channels=channels,
        classes=classes,
        features=_FEATURES,
        size=224,
        facts=(shown("width multiplier", f"{multiple:g}"),),
        build=partial(MNASNet, multiple, channels, classes),
        key_of=head_named(_HEAD),
        normalisation=imagenet(classes),
        stem=("layers.0.weight", "layers.1"),
    )
