"""WideResNets, DeepMind's networks, JEM and MNIST networks, each written as its own repository has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from source import Source, Tensors
from torch import Tensor, nn

# TRADES, AugMix, Bag of Tricks, Boosting AT


class TradesBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = activation()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = activation()
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, stride=1, padding=1, bias=False)
        self.same = inputs == outputs
        self.convShortcut = None if self.same else nn.Conv2d(inputs, outputs, 1, stride=stride, padding=0, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return torch.add(x if self.convShortcut is None else self.convShortcut(activated), out)


class TradesGroup(nn.Module):
    def __init__(self, number: int, inputs: int, outputs: int, stride: int, activation: Any) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(
                TradesBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1, activation)
                for i in range(number)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class TradesWRN(nn.Module):
    def __init__(
        self,
        depth: int = 10,
        widen: int = 2,
        classes: int = 10,
        *,
        sub_block1: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        head: bool = True,
        normalised: bool = False,
        channels: int = 3,
    ) -> None:
        super().__init__()
        n = (depth - 4) // 6
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(channels, 16, kernel_size=3, stride=1, padding=1, bias=False)
        self.block1 = TradesGroup(n, widths[0], widths[1], 1, activation)
        if sub_block1:
            self.sub_block1 = TradesGroup(n, widths[0], widths[1], 1, activation)
        self.block2 = TradesGroup(n, widths[1], widths[2], 2, activation)
        self.block3 = TradesGroup(n, widths[2], widths[3], 2, activation)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.relu = activation()
        self.normalised = normalised
        self.width = widths[3]
        if head:
            self.fc = nn.Linear(widths[3], classes, bias=not normalised)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        out = self.relu(self.bn1(out))
        out = F.avg_pool2d(out, 8)
        out = out.view(-1, self.width)
        if not hasattr(self, "fc"):
            return out
        if self.normalised:
            out = F.normalize(out, p=2, dim=1)
            return F.linear(out, F.normalize(self.fc.weight, p=2, dim=1))
        return self.fc(out)


# DeepMind: adversarial_robustness/pytorch/model_zoo.py


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def same(x: Tensor, stride: int) -> Tensor:
    return F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class DMBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.relu_0 = activation()
        self.conv_0 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=0, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.relu_1 = activation()
        self.conv_1 = nn.Conv2d(outputs, outputs, kernel_size=3, stride=1, padding=1, bias=False)
        self.has_shortcut = inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if self.has_shortcut else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            x = self.relu_0(self.batchnorm_0(x))
            v = x
        else:
            v = self.relu_0(self.batchnorm_0(x))
        out = self.conv_0(same(v, self.stride))
        out = self.conv_1(self.relu_1(self.batchnorm_1(out)))
        return torch.add(x if self.shortcut is None else self.shortcut(x), out)


class DMGroup(nn.Module):
    def __init__(self, number: int, inputs: int, outputs: int, stride: int, activation: Any) -> None:
        super().__init__()
        blocks = [DMBlock(inputs, outputs, stride, activation)]
        blocks += [DMBlock(outputs, outputs, 1, activation) for _ in range(number - 1)]
        self.block = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DMWRN(nn.Module):
    """Without the normalisation, which it does first and by constants."""

    def __init__(
        self,
        depth: int = 10,
        width: int = 2,
        classes: int = 10,
        activation: Callable[[], nn.Module] = nn.SiLU,
        *,
        padding: int = 0,
        channels: int = 3,
    ) -> None:
        super().__init__()
        n, widths = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.padding = padding
        self.init_conv = nn.Conv2d(channels, 16, kernel_size=3, stride=1, padding=1, bias=False)
        self.layer = nn.Sequential(
            DMGroup(n, widths[0], widths[1], 1, activation),
            DMGroup(n, widths[1], widths[2], 2, activation),
            DMGroup(n, widths[2], widths[3], 2, activation),
        )
        self.batchnorm = nn.BatchNorm2d(widths[3])
        self.relu = activation()
        self.logits = nn.Linear(widths[3], classes)
        self.num_channels = widths[3]

    def forward(self, x: Tensor) -> Tensor:
        if self.padding > 0:  # with zeros, before mean 0.5 and deviation 0.5 are applied
            p, side = self.padding, x.shape[-1] + 2 * self.padding
            padded = x.new_full((x.shape[0], x.shape[1], side, side), (0 - 0.5) / 0.5)
            padded[..., p:-p, p:-p] = x
            x = padded
        out = self.relu(self.batchnorm(self.layer(self.init_conv(x))))
        out = F.avg_pool2d(out, 8) if out.shape[-1] == 8 else F.adaptive_avg_pool2d(out, 1)
        return self.logits(out.view(-1, self.num_channels))


class DMPreActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stride = stride
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.relu_0 = activation()
        self.conv_2d_1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=0, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.relu_1 = activation()
        self.conv_2d_2 = nn.Conv2d(outputs, outputs, kernel_size=3, stride=1, padding=1, bias=False)
        self.has_shortcut = stride != 1 or inputs != outputs
        if self.has_shortcut:
            self.shortcut = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=0, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu_0(self.batchnorm_0(x))
        shortcut = self.shortcut(same(x, self.stride)) if self.has_shortcut else x
        out = self.conv_2d_1(same(out, self.stride))
        out = self.conv_2d_2(self.relu_1(self.batchnorm_1(out)))
        return out + shortcut


class DMPreAct(nn.Module):
    """Narrower than theirs, which has 64 channels."""

    def __init__(
        self,
        blocks: tuple[int, int, int, int] = (2, 2, 2, 2),
        classes: int = 10,
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.conv_2d = nn.Conv2d(3, 4, kernel_size=3, stride=1, padding=1, bias=False)
        inputs = 4
        for i, number in enumerate(blocks):
            outputs = 4 * 2**i
            layers = [DMPreActBlock(inputs, outputs, 1 if i == 0 else 2, activation)]
            layers += [DMPreActBlock(outputs, outputs, 1, activation) for _ in range(number - 1)]
            setattr(self, f"layer_{i}", nn.Sequential(*layers))
            inputs = outputs
        self.batchnorm = nn.BatchNorm2d(inputs)
        self.relu = activation()
        self.logits = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(x)))))
        out = F.avg_pool2d(self.relu(self.batchnorm(out)), 4)
        return self.logits(out.view(out.size(0), -1))


# JEM and JEM++


class ActNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.randn(1, width, 1, 1) * 0.2)
        self.scale = nn.Parameter(torch.rand(1, width, 1, 1) + 0.5)
        self.register_buffer("initialized", torch.tensor(1, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if self.initialized.item() == 0:
            raise AssertionError("the first batch would set it")
        return self.scale * (x + self.loc)


def jem_norm(width: int, norm: str | None) -> nn.Module:
    if norm is None:
        return nn.Identity()
    made: nn.Module = {
        "batch": partial(nn.BatchNorm2d, momentum=0.9),
        "instance": partial(nn.InstanceNorm2d, affine=True),
        "layer": partial(nn.GroupNorm, 1),
        "act": ActNorm,
    }[norm](width)
    if norm in ("instance", "layer"):
        nn.init.uniform_(made.weight, 0.5, 1.5)
        nn.init.uniform_(made.bias, -0.2, 0.2)
    return made


class WideBasic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, norm: str | None) -> None:
        super().__init__()
        self.lrelu = nn.LeakyReLU(0.2)
        self.bn1 = jem_norm(inputs, norm)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=True)
        self.dropout = nn.Identity()
        self.bn2 = jem_norm(outputs, norm)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, stride=stride, padding=1, bias=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout(self.conv1(self.lrelu(self.bn1(x))))
        out = self.conv2(self.lrelu(self.bn2(out)))
        out += self.shortcut(x)
        return out


class JEMWRN(nn.Module):
    def __init__(self, depth: int, width: int, norm: str | None, *, yopo: bool) -> None:
        super().__init__()
        n, widths = (depth - 4) // 6, [16 * width, 32 * width, 64 * width]
        self.lrelu = nn.LeakyReLU(0.2)
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=True)
        if yopo:
            self.layer_one = self.conv1
            self.other_layers = nn.ModuleList()
        inputs = 16
        for i, outputs in enumerate(widths):
            blocks = [WideBasic(inputs, outputs, 1 if i == 0 else 2, norm)]
            blocks += [WideBasic(outputs, outputs, 1, norm) for _ in range(n - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.bn1 = jem_norm(inputs, norm)
        self.last_dim = inputs
        if yopo:
            self.other_layers.extend([self.layer1, self.layer2, self.layer3, self.bn1])
        else:
            self.linear = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        out = F.avg_pool2d(self.lrelu(self.bn1(out)), 8)
        return out.view(out.size(0), -1)


class JEMF(nn.Module):
    def __init__(
        self, depth: int = 10, width: int = 2, norm: str | None = None, classes: int = 10, *, yopo: bool = False
    ) -> None:
        super().__init__()
        self.f = JEMWRN(depth, width, norm, yopo=yopo)
        self.energy_output = nn.Linear(self.f.last_dim, 1)
        self.class_output = nn.Linear(self.f.last_dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.energy_output(self.f(x)).squeeze()

    def classify(self, x: Tensor) -> Tensor:
        return self.class_output(self.f(x)).squeeze()


def with_replay_buffer(tensors: Tensors) -> Any:
    return {"model_state_dict": tensors, "replay_buffer": torch.rand(20, 3, 32, 32) * 2 - 1}


# MNIST


class Flatten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


def fast_adversarial(channels: int = 1, size: int = 28) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        Flatten(),
        nn.Linear(8 * (size // 4) ** 2, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
    )


class SmallCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.feature_extractor = nn.Sequential()
        for name, part in {
            "conv1": nn.Conv2d(1, 4, 3),
            "relu1": relu,
            "conv2": nn.Conv2d(4, 4, 3),
            "relu2": relu,
            "maxpool1": nn.MaxPool2d(2, 2),
            "conv3": nn.Conv2d(4, 8, 3),
            "relu3": relu,
            "conv4": nn.Conv2d(8, 8, 3),
            "relu4": relu,
            "maxpool2": nn.MaxPool2d(2, 2),
        }.items():
            self.feature_extractor.add_module(name, part)
        self.classifier = nn.Sequential()
        for name, part in {
            "fc1": nn.Linear(8 * 4 * 4, 20),
            "relu1": relu,
            "drop": nn.Dropout(0.5),
            "fc2": nn.Linear(20, 20),
            "relu2": relu,
            "fc3": nn.Linear(20, 10),
        }.items():
            self.classifier.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.feature_extractor(x).view(-1, 8 * 4 * 4))


class TradesNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = F.relu(self.fc1(x.view(-1, 320)))
        return self.fc2(F.dropout(x, training=self.training))


def bare(tensors: Tensors) -> Any:
    return tensors


def trained(tensors: Tensors) -> Any:
    """As DM-Improves-AT's trainer: in a Sequential and in DataParallel, averaged weights first."""
    renamed = {f"module.0.{key}": value for key, value in tensors.items()}
    return {"model_state_dict": renamed, "unaveraged_model_state_dict": {k: v + 1 for k, v in renamed.items()}}


def carmon(tensors: Tensors) -> Any:
    named = {f"module.{key}": value for key, value in tensors.items()}
    return {"num_classes": 10, "state_dict": named, "normalize_input": False}


_WRN, _DM, _PREACT, _JEM, _MNIST = "wide_resnet", "dm_wide_resnet", "dm_preact_resnet", "jem", "mnist_nets"
_LOGITS = {"logits": lambda net, x: net.classify(x)}

SOURCES: tuple[Source, ...] = (
    Source(
        "TRADES WRN-10-2",
        partial(TradesWRN, sub_block1=True),
        _WRN,
        wrap=bare,
        facts={"depth": "10", "width": "2", "activation": "relu"},
    ),
    Source("Carmon WRN-16-1", partial(TradesWRN, 16, 2, sub_block1=True), _WRN, wrap=carmon, facts={"depth": "16"}),
    Source("AugMix WRN-10-2", TradesWRN, _WRN, facts={"depth": "10", "width": "2"}),
    Source(
        "Bag of Tricks WRN, GELU",
        partial(TradesWRN, activation=nn.GELU),
        _WRN,
        wrap=lambda tensors: {"state_dict": {f"module.{k}": v for k, v in tensors.items()}, "test_robust_acc": 0.5},
        choices={"activation": "gelu"},
        facts={"activation": "gelu"},
    ),
    Source(
        "Boosting AT WRN",
        partial(TradesWRN, normalised=True, sub_block1=True),
        _WRN,
        wrap=bare,
        facts={"last layer": "cosine"},
    ),
    Source("WRN encoder", partial(TradesWRN, head=False), _WRN, encoder=True),
    Source("WRN CIFAR-100", partial(TradesWRN, classes=100), _WRN, wrap=bare),
    Source(
        "DM-Improves-AT WRN-10-2",
        DMWRN,
        _DM,
        wrap=trained,
        facts={"depth": "10", "width": "2", "activation": "silu"},
    ),
    Source("DeepMind WRN-16-2", partial(DMWRN, 16), _DM, wrap=bare, facts={"depth": "16", "activation": "silu"}),
    Source(
        "DM WRN, ReLU",
        partial(DMWRN, classes=100, activation=nn.ReLU),
        _DM,
        choices={"activation": "relu"},
        facts={"activation": "relu"},
    ),
    Source("DM WRN, TinyImageNet", partial(DMWRN, classes=200), _DM, size=64),
    Source("DeepMind WRN, MNIST", partial(DMWRN, padding=2, channels=1), _DM, wrap=bare, channels=1, size=28),
    Source("Rebuffi R18", DMPreAct, _PREACT, wrap=bare, facts={"depth": "18", "activation": "silu"}),
    Source("DM R34", partial(DMPreAct, (3, 4, 6, 3), 100), _PREACT, wrap=trained, facts={"depth": "34"}),
    Source(
        "JEM WRN-10-2",
        JEMF,
        _JEM,
        wrap=with_replay_buffer,
        facts={"depth": "10", "width": "2", "norm": "none", "energy": "class logits"},
        **_LOGITS,
    ),
    Source("JEM WRN-16-1", partial(JEMF, 16, 1), _JEM, wrap=with_replay_buffer, facts={"depth": "16"}, **_LOGITS),
    Source(
        "JEM, unconditional",
        JEMF,
        _JEM,
        wrap=with_replay_buffer,
        choices={"energy": "energy output"},
        facts={"energy": "energy output"},
        logits=lambda net, x: net.energy_output(net.f(x)),
    ),
    Source(
        "JEM++ yopo",
        partial(JEMF, norm="batch", yopo=True),
        _JEM,
        wrap=with_replay_buffer,
        facts={"norm": "batch"},
        **_LOGITS,
    ),
    Source("JEM ActNorm", partial(JEMF, norm="act"), _JEM, wrap=with_replay_buffer, facts={"norm": "act"}, **_LOGITS),
    Source(
        "JEM GroupNorm",
        partial(JEMF, norm="layer"),
        _JEM,
        wrap=with_replay_buffer,
        facts={"norm": "layer"},
        **_LOGITS,
    ),
    Source(
        "JEM InstanceNorm",
        partial(JEMF, norm="instance"),
        _JEM,
        wrap=with_replay_buffer,
        choices={"norm": "instance"},
        facts={"norm": "instance"},
        **_LOGITS,
    ),
    Source("fast_adversarial MNIST", fast_adversarial, _MNIST, wrap=bare, channels=1, size=28),
    Source("convex_adversarial CIFAR", partial(fast_adversarial, 3, 32), _MNIST, wrap=bare),
    Source("TRADES SmallCNN", SmallCNN, _MNIST, wrap=bare, channels=1, size=28),
    Source("TRADES Net", TradesNet, _MNIST, wrap=bare, channels=1, size=28),
    Source("TRADES Net, binary", partial(TradesNet, 1), _MNIST, wrap=bare, channels=1, size=28),
)
