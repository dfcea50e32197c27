"""Post-activation ResNets as their repositories write them: kuangliu's, torchvision's, He et al.'s, multi-BN ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from source import Source, Tensors
from torch import Tensor, nn

# kuangliu/pytorch-cifar and its descendants


class CifarBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.act(out)


class CifarBottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        outputs = 4 * planes
        self.act = act
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out = self.act(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        return self.act(out)


class CifarResNet(nn.Module):
    """`feat_scale` as in MadryLab/robustness; `classes` 0 as in RoCL."""

    def __init__(
        self,
        block: Any = CifarBlock,
        blocks: tuple[int, ...] = (1, 1, 1, 1),
        width: int = 4,
        classes: int = 10,
        feat_scale: int = 1,
        channels: int = 3,
        act: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        self.act = act
        self.inputs = width
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._layer(block, width, blocks[0], 1)
        self.layer2 = self._layer(block, 2 * width, blocks[1], 2)
        self.layer3 = self._layer(block, 4 * width, blocks[2], 2)
        self.layer4 = self._layer(block, 8 * width, blocks[3], 2)
        if classes:
            self.linear = nn.Linear(feat_scale * 8 * width * block.expansion, classes)

    def _layer(self, block: Any, planes: int, number: int, stride: int) -> nn.Sequential:
        layers = []
        for each in [stride] + [1] * (number - 1):
            layers.append(block(self.inputs, planes, each, self.act))
            self.inputs = planes * block.expansion
        return nn.Sequential(*layers)

    def maps(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(out))))

    def features(self, x: Tensor) -> Tensor:
        out = F.avg_pool2d(self.maps(x), 4)
        return out.view(out.size(0), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x))


class CifarGroupBottleneck(CifarBottleneck):
    """Of kuangliu's ResNeXt: twice as wide at its end as inside."""

    def __init__(self, inputs: int, inner: int, stride: int, groups: int) -> None:
        super().__init__(inputs, inner // 2, stride, F.relu)
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 2 * inner, 1, bias=False)


class CifarResNeXt(nn.Module):
    def __init__(self, groups: int = 2, per_group: int = 2, number: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage in range(3):
            inner = groups * per_group * 2**stage
            layers = []
            for i in range(number):
                layers.append(CifarGroupBottleneck(inputs, inner, 2 if stage and not i else 1, groups))
                inputs = 2 * inner
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(out, 8).flatten(1))


class SupCon(nn.Module):
    """HobbitLong/SupContrast: an encoder that pools adaptively, and a head for the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = CifarResNet(CifarBottleneck, width=4, classes=0)
        self.head = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 16))


class AdvCLTuned(CifarResNet):
    """LijieFan/AdvCL after linear evaluation: its linear layer is not the classifier."""

    def __init__(self) -> None:
        super().__init__(width=4)
        self.head_proj = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head_pred = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))


# torchvision and its descendants


class TorchBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, groups: int, base: float, act: nn.Module) -> None:
        super().__init__()
        assert groups == base == 1
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = act
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsampling(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class TorchBottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, groups: int, base: float, act: nn.Module) -> None:
        super().__init__()
        width = int(planes * base) * groups
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.relu = act
        self.downsample = downsampling(inputs, 4 * planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def downsampling(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class TorchResNet(nn.Module):
    """`padding` 3: the ImageNet stem; 1 or 2: the CIFAR stem, 2 as in solo-learn. `base`: width per group / planes."""

    def __init__(
        self,
        block: Any = TorchBlock,
        blocks: tuple[int, ...] = (1, 1, 1, 1),
        width: int = 4,
        classes: int = 10,
        padding: int = 3,
        groups: int = 1,
        base: float = 1,
        act: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.inputs = width
        self.conv1 = nn.Conv2d(3, width, 7 if padding == 3 else 3, 2 if padding == 3 else 1, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = act()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if padding == 3 else nn.Identity()
        for number, (planes, count) in enumerate(zip((1, 2, 4, 8), blocks, strict=False), start=1):
            layers = []
            for i in range(count):
                stride = 2 if number > 1 and i == 0 else 1
                layers.append(block(self.inputs, planes * width, stride, groups, base, self.relu))
                self.inputs = planes * width * block.expansion
            setattr(self, f"layer{number}", nn.Sequential(*layers))
        self.layers = len(blocks)
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d((1, 1))
        self.fc: nn.Module = nn.Linear(self.inputs, classes) if classes else nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        out = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, self.layers + 1):
            out = getattr(self, f"layer{number}")(out)
        return torch.flatten(self.avgpool(out), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def moco(projection: Callable[[], nn.Module]) -> nn.Module:
    """facebookresearch/moco: the head is a projection."""
    net = TorchResNet(TorchBottleneck, classes=0)
    net.fc = projection()
    return net


# He et al. for CIFAR


class OptionABlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pads = stride != 1 or inputs != planes
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        quarter = self.planes // 4
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter), "constant", 0) if self.pads else x
        return F.relu(out)


class HeResNet(nn.Module):
    """akamaster/pytorch_resnet_cifar10; option B is kuangliu's block."""

    def __init__(self, number: int = 1, width: int = 4, classes: int = 10, option: str = "A") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, planes in enumerate((width, 2 * width, 4 * width), start=1):
            layers: list[nn.Module] = []
            for i in range(number):
                stride = 2 if stage > 1 and i == 0 else 1
                more = (F.relu,) if option == "B" else ()
                layers.append((CifarBlock if option == "B" else OptionABlock)(inputs, planes, stride, *more))
                inputs = planes
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        if classes:
            self.linear = nn.Linear(inputs, classes)

    def features(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return out.view(out.size(0), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x))


# A batch norm for each kind of image


class BnList(nn.Module):
    """ACL, DynACL and AdvCL; `routes` 0: one norm that is not in a list."""

    def __init__(self, width: int, routes: int, norm: Any = nn.BatchNorm2d) -> None:
        super().__init__()
        self.bn_list = nn.ModuleList([norm(width) for _ in range(routes)]) if routes else norm(width)

    def forward(self, x: Tensor, route: int | None) -> Tensor:
        return self.bn_list(x) if route is None else self.bn_list[route](x)


class BnListDownsample(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, routes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.bn = BnList(outputs, routes)


class BnListBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, routes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = BnList(planes, routes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = BnList(planes, routes)
        if stride != 1 or inputs != planes:
            self.downsample = BnListDownsample(inputs, planes, stride, routes)

    def forward(self, x: Tensor, route: int | None) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x), route))
        out = self.bn2(self.conv2(out), route)
        if hasattr(self, "downsample"):
            x = self.downsample.bn(self.downsample.conv(x), route)
        out += x
        return self.relu(out)


class Projection(nn.Module):
    def __init__(self, width: int, routes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.bn1 = BnList(width, routes, nn.BatchNorm1d)
        self.fc2 = nn.Linear(width, width, bias=False)
        self.bn2 = BnList(width, routes, nn.BatchNorm1d)
        self.fc3 = nn.Linear(width, width, bias=False)
        self.bn3 = BnList(width, routes, nn.BatchNorm1d)


class Normalize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]))


class BnListResNet(nn.Module):
    """`head`: "projection" before, "linear" after fine-tuning; AdvCL has many, and no normaliser."""

    def __init__(self, routes: int = 2, head: str = "projection", width: int = 4, *, stl: bool = False) -> None:
        super().__init__()
        if head != "advcl":
            self.normalize = Normalize()
        self.conv1 = nn.Conv2d(3, width, 7 if stl else 3, 2 if stl else 1, 3 if stl else 1, bias=False)
        self.bn1 = BnList(width, routes)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stl else nn.Identity()
        inputs = width
        for number, planes in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
            block = BnListBlock(inputs, planes, 2 if number > 1 else 1, routes)
            setattr(self, f"layer{number}", nn.Sequential(block, BnListBlock(planes, planes, 1, routes)))
            inputs = planes
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        if head == "projection":
            self.fc: nn.Module = Projection(inputs, routes)
        elif head == "linear":
            self.fc = nn.Linear(inputs, 10)
        elif head == "advcl":
            for classes in (2, 10, 50):
                setattr(self, f"fc_{classes:03}", nn.Linear(inputs, classes))
            for name in ("head_ce", "head_proj", "head_pred"):
                mlp = nn.Sequential(nn.Linear(inputs, inputs), nn.BatchNorm1d(inputs), nn.ReLU(), nn.Linear(inputs, 10))
                setattr(self, name, mlp)

    def features(self, x: Tensor, route: int | None) -> Tensor:
        out = self.maxpool(F.relu(self.bn1(self.conv1(x), route)))
        for number in range(1, 5):
            for block in getattr(self, f"layer{number}"):
                out = block(out, route)
        return torch.flatten(self.avgpool(out), 1)


class TriggerBN(nn.Module):
    """MTandHJ/amoc."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn_clean = nn.BatchNorm2d(width)
        self.bn_adv = nn.BatchNorm2d(width)
        self.adv_training = True

    def forward(self, x: Tensor) -> Tensor:
        return self.bn_adv(x) if self.adv_training else self.bn_clean(x)


def amoc(block: Any = TorchBlock) -> nn.Module:
    """A ResNet with torchvision's names and a pair of norms in the place of each."""
    net = TorchResNet(block, (2, 1, 1, 1), classes=0, padding=1)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, TriggerBN(child.num_features))
    return net


def clean_route(net: Any, x: Tensor) -> Tensor:
    for module in net.modules():
        if isinstance(module, TriggerBN):
            module.adv_training = False
    out: Tensor = net.features(x)
    for module in net.modules():
        if isinstance(module, TriggerBN):
            module.adv_training = True
    return out


def features(net: Any, x: Tensor) -> Tensor:
    return net.features(x)  # type: ignore[no-any-return]


def route(number: int | None) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, x: net.features(x, number)


def tuned(net: Any, x: Tensor) -> Tensor:
    return net.fc(net.features(x, 1))  # type: ignore[no-any-return]


# How they are saved


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def robustness(tensors: Tensors) -> dict[str, Any]:
    """MadryLab/robustness: everything twice, and the normaliser."""
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    model = {"module.normalizer.new_mean": mean[:, None, None], "module.normalizer.new_std": std[:, None, None]}
    model |= prefixed(tensors, "module.model.")
    model |= {key.replace("normalizer", "attacker.normalize"): model[key] for key in list(model)[:2]}
    model |= prefixed(tensors, "module.attacker.model.")
    return {"model": model, "optimizer": {"state": {}, "param_groups": []}, "schedule": None, "epoch": 150, "amp": None}


def moco_file(tensors: Tensors) -> dict[str, Any]:
    both = prefixed(tensors, "module.encoder_q.") | prefixed(
        {key: value + 1 for key, value in tensors.items()}, "module.encoder_k."
    )
    both |= {"module.queue": torch.randn(16, 32), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": both, "optimizer": {"state": {}, "param_groups": []}}


def dino_file(tensors: Tensors) -> dict[str, Any]:
    head = {"head.mlp.0.weight": torch.randn(16, 128), "head.last_layer.weight_v": torch.randn(32, 16)}
    teacher = prefixed(tensors, "backbone.") | head
    student = {f"module.{key}": value + 1 for key, value in teacher.items()}
    return {"student": student, "teacher": teacher, "epoch": 100, "dino_loss": {"center": torch.zeros(1, 32)}}


def solo_learn_file(tensors: Tensors) -> dict[str, Any]:
    more = {"classifier.weight": torch.randn(10, 32), "classifier.bias": torch.randn(10)}
    more |= {"projector.0.weight": torch.randn(64, 32), "projector.0.bias": torch.randn(64)}
    return {"epoch": 1000, "state_dict": prefixed(tensors, "backbone.") | more, "pytorch-lightning_version": "1.5.3"}


def dynacl_file(tensors: Tensors) -> dict[str, Any]:
    other = {key: value + 1 for key, value in tensors.items()}
    return {"epoch": 5, "state_dict": prefixed(other, "encoder_q.") | prefixed(tensors, "encoder_k."), "optim": {}}


def rocl_file(tensors: Tensors) -> dict[str, Any]:
    state = {"acc": 0.8, "epoch": 900, "rng_state": torch.get_rng_state(), "optimizer_state": {"state": {}}}
    return {"model": prefixed(tensors, "module.")} | state


def advcl_file(tensors: Tensors) -> dict[str, Any]:
    return {"model": prefixed(tensors, "module."), "epoch": 5, "rng_state": torch.get_rng_state()}


def acl_file(tensors: Tensors) -> dict[str, Any]:
    return {"epoch": 5, "state_dict": tensors, "optim": {"state": {}, "param_groups": []}}


def bare(tensors: Tensors) -> Tensors:
    return tensors


RESNET = (
    Source(
        "kuangliu",
        partial(CifarResNet, blocks=(2, 2, 2, 2)),
        "resnet",
        wrap=lambda tensors: {"net": prefixed(tensors, "module."), "acc": 94.2, "epoch": 7},
        facts={"layout": "CIFAR", "depth": "18", "width": "4", "activation": "relu"},
    ),
    Source("kuangliu-grey", partial(CifarResNet, channels=1), "resnet", channels=1, size=28),
    Source(
        "robustness-cifar",
        partial(CifarResNet, CifarBottleneck, (1, 2, 1, 1)),
        "resnet",
        wrap=robustness,
        facts={"layout": "CIFAR", "depth": "17"},
    ),
    Source("robustness-64px", partial(CifarResNet, feat_scale=4), "resnet", wrap=robustness, size=64),
    Source("robustness-64px-thin", partial(CifarResNet, width=1, feat_scale=4), "resnet", wrap=robustness, size=64),
    Source("kuangliu-tiny-imagenet", partial(CifarResNet, width=1, classes=200, feat_scale=4), "resnet", size=64),
    Source("rocl", partial(CifarResNet, classes=0), "resnet", wrap=rocl_file, logits=features, encoder=True),
    Source(
        "supcontrast",
        SupCon,
        "resnet",
        wrap=lambda tensors: {"model": tensors, "optimizer": {}, "epoch": 1000},
        # Its own pool is adaptive, which differs in the last bit; nothing in its files tells it from RoCL.
        logits=lambda net, x: net.encoder.features(x),
        encoder=True,
    ),
    Source("advcl-tuned", AdvCLTuned, "resnet", wrap=advcl_file, logits=features, encoder=True),
    Source(
        "torchvision",
        partial(TorchResNet, TorchBottleneck, (1, 2, 1, 1), classes=1000),
        "resnet",
        wrap=bare,
        facts={"layout": "ImageNet", "depth": "17"},
        size=224,
    ),
    Source("salman", partial(TorchResNet, blocks=(2, 2, 2, 2)), "resnet", wrap=robustness, size=224),
    Source("wide", partial(TorchResNet, TorchBottleneck, base=4), "resnet", wrap=robustness, size=224),
    Source("resnext", partial(TorchResNet, TorchBottleneck, width=8, groups=4, base=0.25), "resnet", bare, size=224),
    Source(
        "leaky",
        partial(TorchResNet, act=partial(nn.LeakyReLU, 0.01)),
        "resnet",
        wrap=robustness,
        facts={"activation": "leaky relu 0.01"},
        choices={"activation": "leaky relu 0.01"},
        size=224,
    ),
    Source(
        "acl-tuned",
        partial(TorchResNet, padding=1),
        "resnet",
        wrap=lambda tensors: acl_file(
            tensors | {"normalize.mean": torch.full((3,), 0.4), "normalize.std": torch.full((3,), 0.2)}
        ),
        facts={"layout": "CIFAR", "stem padding": "1"},
    ),
    Source("moco-v2", lambda: moco(lambda: nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32))), "resnet",
           wrap=moco_file, size=224, logits=features, encoder=True),
    Source("moco-v1", lambda: moco(lambda: nn.Linear(128, 32)), "resnet", wrap=moco_file, size=224, logits=features,
           encoder=True),
    Source("dino", partial(TorchResNet, TorchBottleneck, classes=0), "resnet", wrap=dino_file, size=224, encoder=True),
    Source(
        "solo-learn",
        partial(TorchResNet, classes=0, padding=2),
        "resnet",
        wrap=solo_learn_file,
        facts={"layout": "CIFAR", "stem padding": "2"},
        choices={"stem_padding": "2"},
        encoder=True,
    ),
)  # fmt: skip
"""kuangliu's and torchvision's namings. `moco-v1` is only known to be an encoder where its queue is seen."""

HE_RESNET = (
    Source(
        "akamaster",
        partial(HeResNet, 3),
        "he_resnet",
        wrap=lambda tensors: {"state_dict": prefixed(tensors, "module."), "best_prec1": 92.6},
        facts={"depth": "20", "shortcut": "A (zeros)"},
    ),
    Source("kuangliu-resnext", CifarResNeXt, "he_resnet", facts={"depth": "29"}),
    Source("akamaster-b", partial(HeResNet, option="B"), "he_resnet", facts={"shortcut": "B (convolutions)"}),
    Source("akamaster-encoder", partial(HeResNet, classes=0), "he_resnet", logits=features, encoder=True),
    Source(
        "chenyaofo",
        partial(TorchResNet, blocks=(2, 2, 2), padding=1, classes=100),
        "he_resnet",
        wrap=bare,
        facts={"depth": "14", "shortcut": "B (convolutions)"},
    ),
)

MULTI_BN_RESNET = (
    Source(
        "acl", BnListResNet, "multi_bn_resnet", wrap=acl_file, facts={"route": "pgd"}, logits=route(1), encoder=True
    ),
    Source(
        "acl-clean-route",
        BnListResNet,
        "multi_bn_resnet",
        wrap=acl_file,
        facts={"route": "normal"},
        choices={"route": "normal"},
        logits=route(0),
        encoder=True,
    ),
    Source("acl-single", partial(BnListResNet, 1), "multi_bn_resnet", wrap=acl_file, logits=route(0), encoder=True),
    Source(
        "acl-unlisted", partial(BnListResNet, 0), "multi_bn_resnet", wrap=acl_file, logits=route(None), encoder=True
    ),
    Source("acl-linear", partial(BnListResNet, head="linear"), "multi_bn_resnet", wrap=acl_file, logits=tuned),
    Source("dynacl", BnListResNet, "multi_bn_resnet", wrap=dynacl_file, logits=route(1), encoder=True),
    Source(
        "dynacl-stl",
        partial(BnListResNet, stl=True),
        "multi_bn_resnet",
        wrap=dynacl_file,
        size=96,
        logits=route(1),
        encoder=True,
    ),
    Source(
        "advcl",
        partial(BnListResNet, 3, "advcl"),
        "multi_bn_resnet",
        wrap=advcl_file,
        facts={"route": "pgd"},
        logits=route(1),
        encoder=True,
    ),
    Source("amoc", amoc, "multi_bn_resnet", wrap=bare, facts={"route": "adv"}, logits=features, encoder=True),
    Source(
        "amoc-bottleneck", partial(amoc, TorchBottleneck), "multi_bn_resnet", wrap=bare, logits=features, encoder=True
    ),
    Source(
        "amoc-clean-route",
        amoc,
        "multi_bn_resnet",
        wrap=bare,
        choices={"route": "clean"},
        logits=clean_route,
        encoder=True,
    ),
)

SOURCES = RESNET + HE_RESNET + MULTI_BN_RESNET
