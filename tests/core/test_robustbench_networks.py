"""RobustBench's own classes with random weights open to the same logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peers
import pytest
import torch
from source import Source
from torch import nn

from cem_core.checkpoints import opening


def wide(**sizes: int | bool) -> nn.Module:
    return peers.architecture("wide_resnet").WideResNet(depth=10, widen_factor=1, **sizes)


def boosting() -> nn.Module:
    return peers.architecture("boosting_wide_resnet").BoostingWideResNet(depth=10, widen_factor=1)


def residual(block: str, numbers: tuple[int, ...] = (1, 1, 1, 1)) -> nn.Module:
    nets = peers.architecture("resnet")
    return nets.ResNet(getattr(nets, block), list(numbers))


def preact(block: str, **sizes: bool) -> nn.Module:
    nets = peers.architecture("resnet")
    return nets.PreActResNet(getattr(nets, block), [1, 1, 1, 1], **sizes)


def deepmind(kind: str, **sizes: int) -> nn.Module:
    return getattr(peers.architecture("dm_wide_resnet"), kind)(activation_fn=nn.SiLU, **sizes)


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "WideResNet": ("wide_resnet", wide),
    "WideResNet with sub_block1": ("wide_resnet", lambda: wide(sub_block1=True)),
    "WideResNet, 100 classes": ("wide_resnet", lambda: wide(num_classes=100)),
    "ResNet": ("resnet", lambda: residual("BasicBlock")),
    "ResNet-18": ("resnet", lambda: residual("BasicBlock", (2, 2, 2, 2))),
    "ResNet of bottlenecks": ("resnet", lambda: residual("Bottleneck")),
    "PreActResNet of Andriushchenko2020": ("preact_resnet", lambda: preact("PreActBlock")),
    "PreActResNet of Rice2020": ("preact_resnet", lambda: preact("PreActBlockV2", bn_before_fc=True)),
    "PreActResNet of Rice2020, CIFAR-100": (
        "preact_resnet", lambda: preact("PreActBlock", bn_before_fc=True, out_shortcut=True),
    ),
    "DMWideResNet": ("dm_wide_resnet", lambda: deepmind("DMWideResNet", depth=10, width=1)),
    "DMPreActResNet": ("dm_preact_resnet", lambda: deepmind("DMPreActResNet", depth=18)),
    "BoostingWideResNet": ("wide_resnet", boosting),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_robustbench_opens_to_the_same_logits(name: str, tmp_path: Path) -> None:
    family, build = NETWORKS[name]
    net = Source(name, build, family).network()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    found = opening.opened(str(tmp_path / "net.pt"))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (found.normalisation.mean, found.normalisation.std))
    inside = hasattr(net, "mean") or hasattr(net, "mu")
    with torch.no_grad():
        ours = opening.build(found)((x - mean) / std if inside else x)
        theirs = net(x)
    assert found.plan.family == family
    assert torch.equal(ours, theirs)
