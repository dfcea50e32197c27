"""Vision transformer as torchvision has it (Dosovitskiy et al. 2021)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Final

from cem_core.messages import Fact
from cem_core.models.family import Evidence, Plan, Shapes, shown
from cem_core.models.torchvision_nets import (
    Borrowed,
    borrowed_key,
    have,
    head_size,
    how_many,
    imagenet,
    import_torchvision,
    square_root,
)

FAMILY: Final = "vit"
SIZES: Final[Mapping[tuple[int, int], str]] = {
    (192, 12): "Ti",
    (384, 12): "S",
    (768, 12): "B",
    (1024, 24): "L",
    (1280, 32): "H",
}
_WIDER_HEADS: Final = (1152, 1280, 1408, 1664, 2048)
"""Widths whose published networks have 16 heads, not one every 64 channels."""
_LAYER: Final = "encoder.layers.encoder_layer_"
_HEAD: Final = "heads.head"


def attention_heads(width: int, evidence: Evidence) -> Fact:
    """How many; the projections have the same shapes whatever it is."""
    options = [heads for heads in range(1, 65) if width % heads == 0]
    guess = 16 if width in _WIDER_HEADS else max(heads for heads in options if heads <= max(1, width // 64))
    sure = width in _WIDER_HEADS or guess * 64 == width
    why = "as in the published networks of this width" if sure else "about 64 channels for each"
    return evidence.settle("attention heads", tuple(map(str, options)), str(guess), 0.9 if sure else 0.5, why)


def _build(
    size: int,
    patch: int,
    layers: int,
    heads: int,
    width: int,
    mlp: int,
    classes: int,
    representation: int,
    channels: int,
) -> Borrowed:
    maker = import_torchvision().models.VisionTransformer
    net = maker(
        size, patch, layers, heads, width, mlp, num_classes=classes or 1, representation_size=representation or None
    )
    return Borrowed(net, _HEAD, classes, channels)


def _old_key(key: str) -> str:
    """Files from before torchvision 0.13 name the two linear layers of a block."""
    named = re.sub(r"\.mlp\.([03])\.", lambda match: f".mlp.linear_{1 + int(match[1]) // 3}.", key)
    return borrowed_key(_HEAD)(named)


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    old = f"{_LAYER}0.mlp.linear_1.weight" in shapes
    mlp = f"{_LAYER}0.mlp.{'linear_1' if old else '0'}.weight"
    if not (
        have(shapes, 4, "conv_proj.weight")
        and have(shapes, 3, "class_token", "encoder.pos_embedding")
        and have(shapes, 2, mlp, f"{_LAYER}0.self_attention.in_proj_weight")
    ):
        return None
    width, channels, patch, other = shapes["conv_proj.weight"]
    size = patch * square_root(shapes["encoder.pos_embedding"][1] - 1)
    layers = how_many(shapes, _LAYER)
    if not size or patch != other or not layers:
        return None
    heads = attention_heads(width, evidence)
    squeezed = "heads.pre_logits.weight"
    representation = shapes[squeezed][0] if have(shapes, 2, squeezed) else 0
    classes = head_size(shapes, _HEAD, representation or width)
    return Plan(
        family=FAMILY,
        title=f"ViT-{SIZES.get((width, layers), layers)}/{patch}",
        channels=channels,
        classes=classes,
        features=representation or width,
        size=size,
        facts=(shown("layers", layers), shown("width", width), shown("patch", patch), heads),
        build=partial(
            _build,
            size,
            patch,
            layers,
            int(heads.value),
            width,
            shapes[mlp][0],
            classes,
            representation,
            channels,
        ),
        key_of=_old_key if old else borrowed_key(_HEAD),
        normalisation=imagenet(classes),
    )
