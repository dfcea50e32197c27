"""Checkpoints of random PreAct ResNets that are small enough to run in a millisecond."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

CLASSES = ("cat", "dog", "horse")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
WIDTH = 4


def weights(seed: int = 0, *, channels: int = 3, blocks: int = 1, final_bn: bool = True) -> dict[str, Tensor]:
    """A state dict with the keys of kuangliu/pytorch-cifar; every batch norm has statistics worth folding."""
    random = torch.Generator().manual_seed(seed)
    t: dict[str, Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, side: int) -> None:
        t[name + ".weight"] = torch.randn(outputs, inputs, side, side, generator=random) / (inputs * side**2) ** 0.5

    def norm(name: str, width: int) -> None:
        t[name + ".weight"] = 0.5 + torch.rand(width, generator=random)
        t[name + ".bias"] = torch.randn(width, generator=random) / 4
        t[name + ".running_mean"] = torch.randn(width, generator=random) / 4
        t[name + ".running_var"] = 0.5 + torch.rand(width, generator=random)
        t[name + ".num_batches_tracked"] = torch.tensor(1)

    conv("conv1", WIDTH, channels, 3)
    inputs = WIDTH
    for stage in range(1, 5):
        outputs = WIDTH * 2 ** (stage - 1)
        for number in range(blocks):
            name = f"layer{stage}.{number}"
            norm(name + ".bn1", inputs)
            conv(name + ".conv1", outputs, inputs, 3)
            norm(name + ".bn2", outputs)
            conv(name + ".conv2", outputs, outputs, 3)
            if number == 0 and stage > 1:
                conv(name + ".shortcut.0", outputs, inputs, 1)
            inputs = outputs
    if final_bn:
        norm("bn", inputs)
    t["linear.weight"] = torch.randn(len(CLASSES), inputs, generator=random)
    t["linear.bias"] = torch.randn(len(CLASSES), generator=random) / 4
    return t


def about(**other: str) -> dict[str, str]:
    """The metadata of our own checkpoints."""
    return {
        "activation": "silu",
        "shortcut_input": "activated",
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "classes": json.dumps(CLASSES),
        "image_size": "16",
        "training": "none",
    } | other


def saved(path: Path, tensors: dict[str, Tensor] | None = None, **other: str) -> Path:
    """A checkpoint as the program's own are, in safetensors."""
    save_file(weights() if tensors is None else tensors, path, about(**other))
    return path
