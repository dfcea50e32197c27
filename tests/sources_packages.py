"""Small networks of torchvision and timm, built by their own classes; none where the package is missing."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from source import Source, Tensors
from torch import Tensor, nn

from cem_core.models.torchvision_nets import import_torchvision

HAS_TORCHVISION = find_spec("torchvision") is not None
HAS_TIMM = HAS_TORCHVISION and find_spec("timm") is not None


def stirred(net: nn.Module) -> nn.Module:
    """With weights that let images through; those that start as zeros or next to nothing would hide differences."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() in (2, 4):
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
            elif parameter.max() == parameter.min():
                parameter.uniform_(-0.5, 0.5)
    return net


# How their repositories write them ------------------------------------------------------------------------------------


def bare(tensors: Tensors) -> Tensors:
    return tensors


def trained_by_torchvision(tensors: Tensors) -> dict[str, Any]:
    return {"model": tensors, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "args": Namespace(lr=0.1)}


def trained_by_timm(tensors: Tensors) -> dict[str, Any]:
    return {"epoch": 3, "arch": "net", "state_dict": tensors, "version": 2, "args": Namespace(lr=0.1), "metric": 70.5}


def salman(tensors: Tensors) -> dict[str, Any]:
    """microsoft/robust-models-transfer: each tensor twice, and the numbers of ImageNet."""
    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    return {
        "model": {
            "module.normalizer.new_mean": mean,
            "module.normalizer.new_std": std,
            **{f"module.model.model.{key}": tensor for key, tensor in tensors.items()},
            "module.attacker.normalize.new_mean": mean,
            "module.attacker.normalize.new_std": std,
            **{f"module.attacker.model.model.{key}": tensor for key, tensor in tensors.items()},
        },
        "epoch": 89,
    }


def kuangliu(tensors: Tensors) -> dict[str, Any]:
    return {"net": {f"module.{key}": tensor for key, tensor in tensors.items()}, "acc": 93.5, "epoch": 199}


def dino(tensors: Tensors) -> dict[str, Any]:
    head = {"head.mlp.0.weight": torch.zeros(8, 64), "head.last_layer.weight_g": torch.ones(32, 1)}
    student = {f"module.backbone.{key}": torch.zeros_like(tensor) for key, tensor in tensors.items()}
    teacher = {f"backbone.{key}": tensor for key, tensor in tensors.items()}
    return {
        "student": student | {f"module.{key}": tensor for key, tensor in head.items()},
        "teacher": teacher | head,
        "epoch": 100,
        "args": Namespace(arch="vit_small"),
    }


def before_torch_0_4_1(tensors: Tensors) -> Tensors:
    """The DenseNets that torchvision has published since 2017."""
    for part in ("norm", "conv"):
        for i in (1, 2):
            tensors = {
                key.replace(f".{part}{i}.", f".{part}.{i}.") if ".denselayer" in key else key: tensor
                for key, tensor in tensors.items()
                if not key.endswith("num_batches_tracked")
            }
    return tensors


def before_torchvision_0_13(tensors: Tensors) -> Tensors:
    """The ViTs that torchvision has published since 2022."""
    return {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): tensor
        for key, tensor in tensors.items()
    }


# torchvision ----------------------------------------------------------------------------------------------------------


def densenet(classes: int = 10, **sizes: Any) -> nn.Module:
    default = {"growth_rate": 4, "block_config": (1, 1, 1, 1), "num_init_features": 8}
    net = import_torchvision().models.DenseNet(num_classes=classes or 1, **default | sizes)
    if not classes:
        net.classifier = nn.Identity()
    return stirred(net)


def vgg(cfg: list[Any], *, norm: bool, classes: int = 10, hidden: tuple[int, int] = (12, 9)) -> nn.Module:
    module = import_torchvision().models.vgg
    with torch.device("meta"):  # its own first linear layer has a hundred million weights
        net = module.VGG(nn.Identity(), init_weights=False)
    net.features = module.make_layers(cfg, batch_norm=norm)
    width = [value for value in cfg if value != "M"][-1]
    net.classifier = nn.Sequential(
        nn.Linear(width * 49, hidden[0]), nn.ReLU(True), nn.Dropout(),
        nn.Linear(hidden[0], hidden[1]), nn.ReLU(True), nn.Dropout(),
        *([nn.Linear(hidden[1], classes)] if classes else []),
    )  # fmt: skip
    return stirred(net)


VGG11 = [8, "M", 10, "M", 12, 12, "M", 12, 12, "M", 12, 12, "M"]


class CifarVGG(nn.Module):
    """kuangliu/pytorch-cifar, models/vgg.py."""

    def __init__(self, cfg: list[Any]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for entry in cfg:
            if entry == "M":
                layers += [nn.MaxPool2d(kernel_size=2, stride=2)]
            else:
                layers += [
                    nn.Conv2d(channels, entry, kernel_size=3, padding=1),
                    nn.BatchNorm2d(entry),
                    nn.ReLU(inplace=True),
                ]
                channels = entry
        self.features = nn.Sequential(*layers, nn.AvgPool2d(kernel_size=1, stride=1))
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.features(x)
        out = out.view(out.size(0), -1)
        return self.classifier(out)  # type: ignore[no-any-return]


def mobilenet_v2(width: float, classes: int = 10) -> nn.Module:
    net = import_torchvision().models.MobileNetV2(width_mult=width, num_classes=classes or 1)
    if not classes:
        net.classifier = nn.Identity()
    return stirred(net)


def mnasnet(alpha: float, classes: int = 10) -> nn.Module:
    net = import_torchvision().models.MNASNet(alpha, num_classes=classes or 1)
    if not classes:
        net.classifier = nn.Identity()
    return stirred(net)


def shufflenet_v2(classes: int = 10) -> nn.Module:
    net = import_torchvision().models.ShuffleNetV2([1, 3, 2], [4, 6, 8, 12, 16], num_classes=classes or 1)
    if not classes:
        net.fc = nn.Identity()
    return stirred(net)


def convnext(stages: list[tuple[int, int | None, int]], classes: int = 10, *, norm: bool = True) -> nn.Module:
    module = import_torchvision().models.convnext
    net = module.ConvNeXt([module.CNBlockConfig(*stage) for stage in stages], layer_scale=0.5, num_classes=classes or 1)
    if not classes:
        net.classifier = nn.Sequential(net.classifier[0] if norm else nn.Identity(), nn.Flatten(1))
    return stirred(net)


def vit(classes: int = 10, **sizes: Any) -> nn.Module:
    default = {
        "image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 1, "hidden_dim": 64, "mlp_dim": 24,
    }  # fmt: skip
    net = import_torchvision().models.VisionTransformer(num_classes=classes or 1, **default | sizes)
    if not classes:
        net.heads.head = nn.Identity()
    return stirred(net)


_STAGES: list[tuple[int, int | None, int]] = [(4, 6, 1), (6, 8, 2), (8, 10, 1), (10, None, 1)]


def _torchvision(
    id: str,
    build: Callable[[], nn.Module],
    family: str,
    wrap: Callable[[Tensors], Any] = bare,
    facts: Mapping[str, str] | None = None,
    **more: Any,
) -> Source:
    return Source(id, build, family, wrap, facts or {}, size=224, **more)


TORCHVISION: list[Source] = [
    _torchvision(
        "densenet", densenet, "densenet", salman, {"growth rate": "4", "blocks": "1, 1, 1, 1", "width": "8"}
    ),
    _torchvision(
        "densenet-three-blocks",
        partial(densenet, 7, growth_rate=3, block_config=(2, 1, 3), num_init_features=5, bn_size=2),
        "densenet",
        facts={"growth rate": "3", "blocks": "2, 1, 3", "width": "5"},
    ),
    _torchvision("densenet-old-keys", densenet, "densenet", before_torch_0_4_1),
    _torchvision("densenet-encoder", partial(densenet, 0), "densenet", encoder=True),
    _torchvision(
        "vgg", partial(vgg, VGG11, norm=False), "vgg", salman, {"convolutions": "1, 1, 2, 2, 2", "width": "8"}
    ),
    _torchvision("vgg-bn", partial(vgg, VGG11, norm=True), "vgg", salman),
    _torchvision(
        "vgg-own",
        partial(vgg, [3, 4, "M", 5, "M"], norm=True),
        "vgg",
        facts={"convolutions": "2, 1", "last pool": "yes"},
    ),
    _torchvision(
        "vgg-open-end",
        partial(vgg, [3, "M", 4, 5], norm=False),
        "vgg",
        facts={"last pool": "no"},
        choices={"last_pool": "no"},
    ),
    _torchvision("vgg-encoder", partial(vgg, VGG11, norm=True, classes=0), "vgg", encoder=True),
    _torchvision(
        "mobilenet_v2", partial(mobilenet_v2, 0.1), "mobilenet_v2", salman, {"width multiplier": "0.1"}
    ),
    _torchvision("mobilenet_v2-encoder", partial(mobilenet_v2, 0.25, 0), "mobilenet_v2", encoder=True),
    _torchvision("mnasnet", partial(mnasnet, 0.1), "mnasnet", salman, {"width multiplier": "0.1"}),
    _torchvision("mnasnet-encoder", partial(mnasnet, 0.5, 0), "mnasnet", encoder=True),
    _torchvision(
        "shufflenet_v2", shufflenet_v2, "shufflenet_v2", salman, {"blocks": "1, 3, 2", "widths": "4, 6, 8, 12, 16"}
    ),
    _torchvision("shufflenet_v2-encoder", partial(shufflenet_v2, 0), "shufflenet_v2", encoder=True),
    _torchvision(
        "convnext",
        partial(convnext, _STAGES),
        "convnext",
        trained_by_torchvision,
        {"blocks": "1, 2, 1, 1", "widths": "4, 6, 8, 10"},
    ),
    _torchvision("convnext-one-stage", partial(convnext, [(5, None, 2)], 3), "convnext"),
    _torchvision("convnext-encoder", partial(convnext, _STAGES, 0), "convnext", encoder=True),
    _torchvision("convnext-encoder-bare", partial(convnext, _STAGES, 0, norm=False), "convnext", encoder=True),
    Source(
        "vit", vit, "vit", trained_by_torchvision,
        {"layers": "2", "width": "64", "patch": "8", "attention heads": "1"},
    ),
    Source(
        "vit-three-heads",
        partial(vit, 7, image_size=24, patch_size=6, num_heads=3, hidden_dim=12, representation_size=5),
        "vit",
        bare,
        {"attention heads": "3"},
        {"attention_heads": "3"},
        size=24,
    ),
    Source("vit-old-keys", vit, "vit", before_torchvision_0_13),
    Source("vit-encoder", partial(vit, 0), "vit", bare, encoder=True),
] if HAS_TORCHVISION else []  # fmt: skip


# timm -----------------------------------------------------------------------------------------------------------------


def _timm(module: str) -> Any:
    import_torchvision()
    return importlib.import_module(f"timm.models.{module}")


def timm_vit(classes: int = 10, **sizes: Any) -> nn.Module:
    default = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "mlp_ratio": 0.35}
    return stirred(_timm("vision_transformer").VisionTransformer(num_classes=classes, **default | sizes))


def timm_convnext(classes: int = 10, **sizes: Any) -> nn.Module:
    default = {"depths": (1, 2, 1, 1), "dims": (4, 6, 8, 10), "ls_init_value": 0.5}
    return stirred(_timm("convnext").ConvNeXt(num_classes=classes, **default | sizes))


_vit = partial(Source, family="timm_vit", wrap=trained_by_timm)
_convnext = partial(Source, family="timm_convnext", size=224, wrap=trained_by_timm)

TIMM: list[Source] = [
    _vit(
        "timm-vit", timm_vit, facts={"layers": "2", "width": "64", "patch": "8", "pooling": "class token"}
    ),
    _vit(
        "timm-vit-three-heads",
        partial(timm_vit, 7, embed_dim=12, num_heads=3, in_chans=1, qkv_bias=False),
        facts={"attention heads": "3"},
        choices={"attention_heads": "3"},
        channels=1,
    ),
    _vit("timm-vit-deit3", partial(timm_vit, init_values=0.5, no_embed_class=True)),
    _vit("timm-vit-averaged", partial(timm_vit, global_pool="avg"), facts={"pooling": "average"}),
    _vit("dino", partial(timm_vit, 0), wrap=dino, encoder=True),
    _convnext("timm-convnext", timm_convnext, facts={"blocks": "1, 2, 1, 1", "widths": "4, 6, 8, 10"}),
    _convnext("timm-convnext-v2", partial(timm_convnext, ls_init_value=None, use_grn=True, patch_size=2)),
    _convnext("timm-convnext-convolutions", partial(timm_convnext, conv_mlp=True, kernel_sizes=(7, 5, 3, 3))),
    _convnext("timm-convnext-norm-first", partial(timm_convnext, head_norm_first=True)),
    _convnext("timm-convnext-encoder", partial(timm_convnext, 0), encoder=True),
] if HAS_TIMM else []  # fmt: skip

CIFAR = [Source("vgg-cifar", lambda: stirred(CifarVGG(VGG11)), "vgg", kuangliu, {"convolutions": "1, 1, 2, 2, 2"})]
"""Needs no package."""

SOURCES: list[Source] = [*CIFAR, *TORCHVISION, *TIMM]
