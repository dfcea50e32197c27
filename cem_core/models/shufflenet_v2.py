"""ShuffleNetV2 as torchvision has it (Ma et al. 2018)."""

from __future__ import annotations

from functools import partial
from typing import Final

from cem_core.models.family import Evidence, Plan, Shapes, count, shown
from cem_core.models.torchvision_nets import Borrowed, borrowed_key, have, head_size, imagenet, import_torchvision

FAMILY: Final = "shufflenet_v2"
_NAMES: Final = {48: "×0.5", 116: "×1.0", 176: "×1.5", 244: "×2.0"}
_STAGES: Final = ("stage2", "stage3", "stage4")
_HEAD: Final = "fc"


def _build(blocks: tuple[int, ...], widths: tuple[int, ...], classes: int, channels: int) -> Borrowed:
    maker = import_torchvision().models.ShuffleNetV2
    return Borrowed(maker(list(blocks), list(widths), num_classes=classes or 1), _HEAD, classes, channels)


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:  # noqa: ARG001 - shapes settle all
    """A plan if the keys are those of this family, else None."""
    firsts = [f"{stage}.0.branch2.0.weight" for stage in _STAGES]
    if not have(shapes, 4, "conv1.0.weight", *firsts, "conv5.0.weight"):
        return None
    blocks = tuple(count(shapes, stage) for stage in _STAGES)
    if 0 in blocks:
        return None
    stem, channels, _, _ = shapes["conv1.0.weight"]
    halves = (shapes[first][0] for first in firsts)  # the other branch has as many
    widths = (stem, *(2 * half for half in halves), shapes["conv5.0.weight"][0])
    classes = head_size(shapes, _HEAD, widths[-1])
    return Plan(
        family=FAMILY,
        title=f"ShuffleNetV2 {_NAMES.get(widths[1], '')}".strip(),
        channels=channels,
        classes=classes,
        features=widths[-1],
        size=224,
        facts=(shown("blocks", ", ".join(map(str, blocks))), shown("widths", ", ".join(map(str, widths)))),
        build=partial(_build, blocks, widths, classes, channels),
        key_of=borrowed_key(_HEAD),
        normalisation=imagenet(classes),
        stem=("conv1.0.weight", "conv1.1"),
    )
