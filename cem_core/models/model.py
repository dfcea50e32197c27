"""A network with its normalisation inside."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """What a family builds: normalised images in, logits out."""

    def fold(self) -> None:
        """Merge each batch norm that follows a convolution into it: the same function, faster, no longer trainable."""


class Model(nn.Module):
    """Logits f(x,·) of images in [0,1].

    Args:
        net: takes normalised images (B, C, H, W).
        mean, std: per channel, in [0,1] units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: Network, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0,1] to (B, K) float32 logits."""
        x = ((x - self.mean) / self.std).to(next(self.net.parameters()).dtype)
        logits: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def frozen(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Ready to be differentiated by its input and by nothing else, as fast as it goes. Changes and returns self."""
        self.eval().requires_grad_(False)
        self.net.fold()
        self.net.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.to(device)
