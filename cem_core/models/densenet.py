"""DenseNet as torchvision has it (Huang et al. 2017)."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from torch import nn

from cem_core.models.family import Evidence, Plan, Shapes, shown
from cem_core.models.model import fold_pair
from cem_core.models.torchvision_nets import (
    Borrowed,
    borrowed_key,
    have,
    head_size,
    how_many,
    imagenet,
    import_torchvision,
)

FAMILY: Final = "densenet"
_FIRST: Final = "features.denseblock1.denselayer1."
_HEAD: Final = "classifier"


class DenseNet(Borrowed):
    """Normalised (B, C, H, W) to logits (B, K); `classes` 0: no head."""

    def fold(self) -> None:
        super().fold()
        for layer in self.modules():
            if isinstance(getattr(layer, "norm2", None), nn.BatchNorm2d):
                fold_pair(layer, "conv1", "norm2")


def _build(growth: int, blocks: tuple[int, ...], stem: int, squeeze: int, classes: int, channels: int) -> DenseNet:
    maker = import_torchvision().models.DenseNet
    return DenseNet(maker(growth, blocks, stem, bn_size=squeeze, num_classes=classes or 1), _HEAD, classes, channels)


def _old_key(key: str) -> str:
    """Files from before torch 0.4.1 have dots in the names of parts: `norm.1` for `norm1`."""
    return re.sub(r"(\.denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", borrowed_key(_HEAD)(key))


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:  # noqa: ARG001 - shapes settle all
    """A plan if the keys are those of this family, else None."""
    old = _FIRST + "conv.1.weight" in shapes
    squeezed, grown = (_FIRST + f"conv{'.' if old else ''}{i}.weight" for i in (1, 2))
    if not have(shapes, 4, "features.conv0.weight", squeezed, grown):
        return None
    stem, channels, kernel, _ = shapes["features.conv0.weight"]
    growth = shapes[grown][0]
    squeeze = shapes[squeezed][0] // growth
    number = how_many(shapes, "features.denseblock", start=1)
    if kernel != 7 or not squeeze or number not in range(1, 9):
        return None
    blocks = tuple(how_many(shapes, f"features.denseblock{i}.denselayer", start=1) for i in range(1, number + 1))
    if 0 in blocks:
        return None
    features = stem
    for i, layers in enumerate(blocks):
        features = (features // 2 if i else features) + layers * growth
    classes = head_size(shapes, _HEAD, features)
    return Plan(
        family=FAMILY,
        title=f"DenseNet-{1 + 2 * sum(blocks) + len(blocks)}",  # the head counts as the transition after the last block
        channels=channels,
        classes=classes,
        features=features,
        size=224,
        facts=(shown("growth rate", growth), shown("blocks", ", ".join(map(str, blocks))), shown("width", stem)),
        build=partial(_build, growth, blocks, stem, squeeze, classes, channels),
        key_of=_old_key if old else borrowed_key(_HEAD),
        normalisation=imagenet(classes),
        stem=("features.conv0.weight", "features.norm0"),
    )
