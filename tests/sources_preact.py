"""PreAct ResNets, written as pytorch-cifar, locuslab and RobustBench have them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F  # noqa: N812
from source import Source, Tensors
from torch import Tensor, nn


class PreActBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, *, raw: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.raw = raw
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, planes, kernel_size=1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(x if self.raw else out) if hasattr(self, "shortcut") else x
        out = self.conv2(F.relu(self.bn2(self.conv1(out))))
        return out + shortcut


class PreActBottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, *, raw: bool) -> None:
        super().__init__()
        assert not raw, "no repository has it so"
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, planes, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, kernel_size=1, bias=False)
        if stride != 1 or inputs != 4 * planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, 4 * planes, kernel_size=1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        return out + shortcut


class PreActResNet(nn.Module):
    def __init__(self, block: Any, blocks: tuple[int, ...] = (1, 1, 1, 1), *, raw: bool = False, bn: bool = True,
                 classes: int = 10, width: int = 4) -> None:  # fmt: skip
        super().__init__()
        self.inputs = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
        for i, number in enumerate(blocks):
            layers = []
            for stride in [1 if i == 0 else 2] + [1] * (number - 1):
                layers.append(block(self.inputs, width * 2**i, stride, raw=raw))
                self.inputs = width * 2**i * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*layers))
        if bn:
            self.bn = nn.BatchNorm2d(self.inputs)
        self.linear = nn.Linear(self.inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        if hasattr(self, "bn"):
            out = F.relu(self.bn(out))
        out = F.avg_pool2d(out, 4)
        return self.linear(out.view(out.size(0), -1))


def bag_of_tricks(tensors: Tensors) -> Any:
    return {"state_dict": {f"module.{key}": value for key, value in tensors.items()}, "test_robust_acc": 0.52}


def kireev(tensors: Tensors) -> Any:
    return {"last": tensors, "best": {key: value * 0 for key, value in tensors.items()}}


_FAMILY = "preact_resnet"
SOURCES: tuple[Source, ...] = (
    Source("robust_overfitting PreAct-18", partial(PreActResNet, PreActBlock, (2, 2, 2, 2)), _FAMILY,
           bag_of_tricks, {"depth": "18", "width": "4", "shortcut input": "activated"}),
    Source("Wong2020Fast PreAct", partial(PreActResNet, PreActBlock, raw=True, bn=False), _FAMILY,
           facts={"shortcut input": "raw"}),
    Source("Andriushchenko2020 PreAct", partial(PreActResNet, PreActBlock, raw=True, bn=False), _FAMILY, kireev),
    Source("fast_adversarial PreAct", partial(PreActResNet, PreActBlock, raw=True), _FAMILY,
           choices={"shortcut_input": "raw"}, facts={"shortcut input": "raw"}),
    Source("PreAct-50", partial(PreActResNet, PreActBottleneck, (3, 4, 6, 3), width=2), _FAMILY,
           facts={"depth": "50"}),
)  # fmt: skip
