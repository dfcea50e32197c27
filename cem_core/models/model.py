"""A network with its normalisation inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Network(nn.Module):
    """What a family builds: normalised images to features g(x), and on to logits where there is a head."""

    def __init__(self) -> None:
        super().__init__()
        self.head: nn.Module | None = None
        """Features to logits; None: an encoder."""

    def features(self, x: Tensor) -> Tensor:
        """g(x): (B, C, H, W) to (B, F)."""
        raise NotImplementedError

    def embedding(self, x: Tensor) -> Tensor:
        """What f(x,x') compares, (B, C, H, W) to (B, D): g(x), or its projection where it was trained with one."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, K), or to features (B, F) where there is no head."""
        features = self.features(x)
        return features if self.head is None else self.head(features)

    def fold(self) -> None:
        """Merge each batch norm that follows a convolution into it: the same function, faster, no longer trainable."""
        fold_sequences(self)


def pooled(x: Tensor, side: int) -> Tensor:
    """As the original's fixed window at its own size, to the last bit; the mean of the whole map at any other."""
    return functional.avg_pool2d(x, side).flatten(1) if x.shape[2:] == (side, side) else x.mean((2, 3))


def fold_sequences(net: nn.Module) -> None:
    """Fold each batch norm that directly follows a convolution in an `nn.Sequential`."""
    for part in net.modules():
        if isinstance(part, nn.Sequential):
            for i in range(len(part) - 1):
                conv, norm = part[i], part[i + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    part[i], part[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def fold_pair(module: nn.Module, conv: str, norm: str) -> None:
    """Fold the batch norm that follows a convolution, both attributes of a module."""
    before, after = getattr(module, conv), getattr(module, norm)
    if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
        setattr(module, conv, fuse_conv_bn_eval(before, after))
        setattr(module, norm, nn.Identity())


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std, per channel in [0,1] units; or with the mean and deviation of each image itself."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    per_image: bool = False


class Model(nn.Module):
    """Logits f(x,·), or features g(x) of an encoder, of images in [0,1].

    Args:
        net: takes normalised images (B, C, H, W).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: Network, normalisation: Normalisation) -> None:
        super().__init__()
        self.net = net
        self.per_image = normalisation.per_image
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0,1] to (B, K) float32 logits, or (B, F) float32 features of an encoder."""
        out: Tensor = self.net(self._normalised(x))
        return out.float()

    def features(self, x: Tensor) -> Tensor:
        """g(x): (B, C, H, W) in [0,1] to (B, F) float32."""
        return self.net.features(self._normalised(x)).float()

    def embedding(self, x: Tensor) -> Tensor:
        """What f(x,x') compares: (B, C, H, W) in [0,1] to (B, D) float32."""
        return self.net.embedding(self._normalised(x)).float()

    def _normalised(self, x: Tensor) -> Tensor:
        if self.per_image:
            mean = x.mean((1, 2, 3), keepdim=True)
            least = x[0].numel() ** -0.5  # as TensorFlow's per_image_standardization, whose models these are
            std = x.std((1, 2, 3), correction=0, keepdim=True).clamp(min=least)
        else:
            mean, std = self.mean, self.std
        dtype = next((p.dtype for p in self.net.parameters()), torch.float32)
        return ((x - mean) / std).to(dtype).contiguous(memory_format=torch.channels_last)

    def frozen(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Ready to be differentiated by its input and by nothing else, as fast as it goes. Changes and returns self."""
        self.eval().requires_grad_(False)
        self.net.fold()
        self.net.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.to(device)
