"""ConvNeXt as torchvision has it (Liu et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from torch import nn

from cem_core.models.family import Evidence, Plan, Shapes, count, shown
from cem_core.models.torchvision_nets import (
    Borrowed,
    borrowed_key,
    have,
    head_size,
    imagenet,
    import_torchvision,
    replace,
)

FAMILY: Final = "convnext"
SIZES: Final[Mapping[tuple[int, tuple[int, ...]], str]] = {
    (96, (3, 3, 9, 3)): "Tiny",
    (96, (3, 3, 27, 3)): "Small",
    (128, (3, 3, 27, 3)): "Base",
    (192, (3, 3, 27, 3)): "Large",
}
_HEAD: Final = "classifier.2"
_FINAL_NORM: Final = "classifier.0"


def _build(
    blocks: tuple[int, ...], widths: tuple[int, ...], classes: int, channels: int, *, final_norm: bool
) -> Borrowed:
    convnext = import_torchvision().models.convnext
    stages = [
        convnext.CNBlockConfig(width, following, number)
        for number, width, following in zip(blocks, widths, (*widths[1:], None), strict=True)
    ]
    net = convnext.ConvNeXt(stages, num_classes=classes or 1)
    if not final_norm:
        replace(net, _FINAL_NORM, nn.Identity())
    return Borrowed(net, _HEAD, classes, channels)


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:  # noqa: ARG001 - shapes settle all
    """A plan if the keys are those of this family, else None."""
    blocks: list[int] = []
    widths: list[int] = []
    stage = 1
    while stage < 16 and have(shapes, 4, first := f"features.{stage}.0.block.0.weight"):
        blocks.append(count(shapes, f"features.{stage}"))
        widths.append(shapes[first][0])
        stage += 2  # between two stages images are halved
    stem = "features.0.0.weight"
    if not have(shapes, 4, stem) or shapes[stem][2:] != (4, 4) or sum(blocks) < 2:
        return None
    if 0 in blocks or count(shapes, "features") != 2 * len(blocks):  # the stem, and what halves images in between
        return None
    channels, features = shapes[stem][1], widths[-1]
    classes = head_size(shapes, _HEAD, features)
    name = SIZES.get((widths[0], tuple(blocks)), "")
    return Plan(
        family=FAMILY,
        title=f"ConvNeXt {name}".strip(),
        channels=channels,
        classes=classes,
        features=features,
        size=224,
        facts=(shown("blocks", ", ".join(map(str, blocks))), shown("widths", ", ".join(map(str, widths)))),
        build=partial(
            _build, tuple(blocks), tuple(widths), classes, channels, final_norm=f"{_FINAL_NORM}.weight" in shapes
        ),
        key_of=borrowed_key(_HEAD),
        normalisation=imagenet(classes),
    )
