"""MobileNetV2 as torchvision has it (Sandler et al. 2018)."""

from __future__ import annotations

from functools import partial
from typing import Final

from cem_core.models.family import Evidence, Plan, Shapes, shown
from cem_core.models.torchvision_nets import (
    Borrowed,
    borrowed_key,
    have,
    head_size,
    imagenet,
    import_torchvision,
    multiplier,
    rounded,
)

FAMILY: Final = "mobilenet_v2"
_OUTPUTS: Final = (32, 16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320)
_HEAD: Final = "classifier.1"
_KEYS: Final = ("features.0.0", "features.1.conv.1", *(f"features.{i}.conv.2" for i in range(2, 18)), "features.18.0")
"""The convolutions after which the number of channels is one of the outputs above, and the last one."""


def _build(multiple: float, classes: int, channels: int) -> Borrowed:
    maker = import_torchvision().models.MobileNetV2
    return Borrowed(maker(num_classes=classes or 1, width_mult=multiple), _HEAD, classes, channels)


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:  # noqa: ARG001 - shapes settle all
    """A plan if the keys are those of this family, else None."""
    if not have(shapes, 4, *(f"{key}.weight" for key in _KEYS)):
        return None
    *widths, features = (shapes[f"{key}.weight"][0] for key in _KEYS)
    multiple = multiplier(_OUTPUTS, widths)
    if multiple is None or features != rounded(1280 * max(1.0, multiple)):
        return None
    channels = shapes["features.0.0.weight"][1]
    classes = head_size(shapes, _HEAD, features)
    return Plan(
        family=FAMILY,
        title="MobileNetV2",
        channels=channels,
        classes=classes,
        features=features,
        size=224,
        facts=(shown("width multiplier", f"{multiple:g}"),),
        build=partial(_build, multiple, classes, channels),
        key_of=borrowed_key(_HEAD),
        normalisation=imagenet(classes),
        stem=("features.0.0.weight", "features.0.1"),
    )
