"""ViT and ConvNeXt as timm names their keys; DeiT, DINO, MAE and many robust networks do likewise."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any, Final

from torch import nn

from cem_core.messages import Refused
from cem_core.models import convnext, vit
from cem_core.models.family import Evidence, Plan, Shapes, count, shown
from cem_core.models.torchvision_nets import (
    Borrowed,
    borrowed_key,
    have,
    head_size,
    imagenet,
    import_torchvision,
    replace,
    square_root,
)

VIT: Final = "timm_vit"
CONVNEXT: Final = "timm_convnext"
_BLOCK: Final = {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"} | {
    f"{layer}.{part}" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2") for part in ("weight", "bias")
}
"""What a block may hold. Relatives of the ViT have more, and would be wrong without it."""
_MORE_TOKENS: Final = {"dist_token", "register_tokens", "reg_token", "norm_pre.weight", "attn_pool.latent"}
"""Of relatives too: other tokens, another norm, another pooling."""


def _import_timm(module: str) -> Any:
    """
    Raises:
        Refused: it is not installed, or torchvision is not.
    """
    import_torchvision()  # which timm imports as well, without its care
    try:
        return importlib.import_module(f"timm.models.{module}")
    except ImportError as error:
        raise Refused(
            'This network is built by timm, which is not installed: pip install "cem-explorer[timm]"'
        ) from error


def _build_vit(classes: int, **sizes: Any) -> Borrowed:
    maker = _import_timm("vision_transformer").VisionTransformer
    return Borrowed(maker(num_classes=classes or 1, **sizes), "head", classes, sizes["in_chans"])


def recognise_vit(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of a plain ViT, else None."""
    first = "blocks.0."
    inside = {key.removeprefix(first) for key in shapes if key.startswith(first)}
    stem, mlp = "patch_embed.proj.weight", first + "mlp.fc1.weight"
    if (
        not (have(shapes, 4, stem) and have(shapes, 3, "cls_token", "pos_embed"))
        or not have(shapes, 2, mlp, first + "attn.qkv.weight")
        or not inside <= _BLOCK
        or _MORE_TOKENS & shapes.keys()
    ):
        return None
    width, channels, patch, other = shapes[stem]
    tokens = shapes["pos_embed"][1]
    without_class = square_root(tokens) > 1  # DeiT III: the class token has no position
    size = patch * square_root(tokens if without_class else tokens - 1)
    hidden = shapes[mlp][0]
    layers = count(shapes, "blocks")
    if not size or patch != other or not layers:
        return None
    heads = vit.attention_heads(width, evidence)
    classes = head_size(shapes, "head", width)
    averaged = "fc_norm.weight" in shapes
    sizes = {
        "img_size": size,
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": layers,
        "num_heads": int(heads.value),
        "mlp_ratio": (hidden + 0.5) / width,  # timm rounds down
        "qkv_bias": first + "attn.qkv.bias" in shapes,
        "init_values": 1.0 if first + "ls1.gamma" in shapes else None,
        "no_embed_class": without_class,
        "global_pool": "avg" if averaged else "token",
    }
    return Plan(
        family=VIT,
        title=f"ViT-{vit.SIZES.get((width, layers), layers)}/{patch} (timm)",
        channels=channels,
        classes=classes,
        features=width,
        size=size,
        facts=(
            shown("layers", layers),
            shown("width", width),
            shown("patch", patch),
            shown("pooling", "average" if averaged else "class token"),
            heads,
        ),
        build=partial(_build_vit, classes, **sizes),
        key_of=borrowed_key("head"),
        normalisation=("ImageNet", 0.6, "as DeiT; Google's AugReg wants [-1,1]") if classes == 1000 else None,
    )


def _build_convnext(classes: int, *, final_norm: bool, **sizes: Any) -> Borrowed:
    net = _import_timm("convnext").ConvNeXt(num_classes=classes or 1, **sizes)
    if not final_norm:
        replace(net, "head.norm", nn.Identity())
    return Borrowed(net, "head.fc", classes, sizes["in_chans"])


def recognise_convnext(shapes: Shapes, evidence: Evidence) -> Plan | None:  # noqa: ARG001 - shapes settle all
    """A plan if the keys are those of this family, else None."""
    stages = [f"stages.{i}.blocks" for i in range(4)]
    convs = [f"{stage}.0.conv_dw.weight" for stage in stages]
    mlp = f"{stages[0]}.0.mlp.fc1.weight"
    if not have(shapes, 4, "stem.0.weight", *convs) or not have(shapes, 1, "stem.1.weight"):
        return None
    blocks = tuple(count(shapes, stage) for stage in stages)
    if 0 in blocks or len(shapes.get(mlp, ())) not in (2, 4) or "head.pre_logits.fc.weight" in shapes:
        return None
    _, channels, patch, _ = shapes["stem.0.weight"]
    widths = tuple(shapes[conv][0] for conv in convs)
    classes = head_size(shapes, "head.fc", widths[-1])
    early_norm = "norm_pre.weight" in shapes
    sizes = {
        "in_chans": channels,
        "depths": blocks,
        "dims": widths,
        "kernel_sizes": tuple(shapes[conv][2] for conv in convs),
        "patch_size": patch,
        "ls_init_value": 1.0 if f"{stages[0]}.0.gamma" in shapes else None,
        "use_grn": f"{stages[0]}.0.mlp.grn.weight" in shapes,
        "conv_mlp": len(shapes[mlp]) == 4,
        "head_norm_first": early_norm,
    }
    name = convnext.SIZES.get((widths[0], blocks), "")
    return Plan(
        family=CONVNEXT,
        title=f"ConvNeXt{'V2' if sizes['use_grn'] else ''} {name}".strip() + " (timm)",
        channels=channels,
        classes=classes,
        features=widths[-1],
        size=224,
        facts=(shown("blocks", ", ".join(map(str, blocks))), shown("widths", ", ".join(map(str, widths)))),
        build=partial(_build_convnext, classes, final_norm="head.norm.weight" in shapes or early_norm, **sizes),
        key_of=borrowed_key("head.fc"),
        normalisation=imagenet(classes),
    )
