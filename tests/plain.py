"""The bundled architecture a second time, written from its description alone: an oracle, and a baseline for timing."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


class PlainNet:
    """PreAct ResNet with basic blocks and a final batch norm, nothing folded or rearranged.

    Args:
        path: safetensors as in assets/models, with activation, shortcut_input, mean and std in its metadata.
    """

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            self.t = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            about = file.metadata()
        self.shortcut_activated = about["shortcut_input"] == "activated"
        self.act = {"silu": F.silu, "relu": F.relu}[about["activation"]]
        self.mean, self.std = (torch.tensor(json.loads(about[key])).view(-1, 1, 1) for key in ("mean", "std"))

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0,1] to logits (B, K)."""
        h = F.conv2d((x - self.mean) / self.std, self.t["conv1.weight"], padding=1)
        for stage in range(1, 5):
            number = 0
            while f"layer{stage}.{number}.conv1.weight" in self.t:
                h = self._block(h, f"layer{stage}.{number}.", 2 if stage > 1 and number == 0 else 1)
                number += 1
        h = self.act(self._norm(h, "bn"))
        return F.linear(F.adaptive_avg_pool2d(h, 1).flatten(1), self.t["linear.weight"], self.t["linear.bias"])

    def _block(self, x: Tensor, name: str, stride: int) -> Tensor:
        h = self.act(self._norm(x, name + "bn1"))
        if name + "shortcut.0.weight" in self.t:
            x = F.conv2d(h if self.shortcut_activated else x, self.t[name + "shortcut.0.weight"], stride=stride)
        h = F.conv2d(h, self.t[name + "conv1.weight"], stride=stride, padding=1)
        h = self.act(self._norm(h, name + "bn2"))
        return x + F.conv2d(h, self.t[name + "conv2.weight"], padding=1)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        t = self.t
        return F.batch_norm(x, t[name + ".running_mean"], t[name + ".running_var"], t[name + ".weight"],
                            t[name + ".bias"])  # fmt: skip
