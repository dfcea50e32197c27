"""Two views of an image, which contrastive training takes for the same thing (Chen et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cem_core.training.recipe import Views

_COLOURED = 0.8
"""Share of views whose colours vary."""
_RATIO = math.log(4 / 3)
"""Sides differ by this factor at most."""
_GREY = 0.299, 0.587, 0.114


def views(images: Tensor, recipe: Views, size: int, random: np.random.Generator, *, flip: bool = True) -> Tensor:
    """A view of each image: (B, 3, H, W) uint8 to (B, 3, size, size) in [0,1], on the same device."""
    count, place = len(images), images.device

    def drawn(low: float, high: float) -> Tensor:
        return torch.from_numpy(random.uniform(low, high, (count, 1, 1, 1)).astype(np.float32)).to(place)

    x = _cut(images.float() / 255, recipe, size, drawn, flip=flip)
    grey = torch.tensor(_GREY, device=place).view(1, 3, 1, 1)
    coloured = (drawn(0, 1) < _COLOURED).float() * recipe.jitter
    x = (x * (1 + coloured * drawn(-1, 1))).clamp(0, 1)
    mean = (x * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * (1 + coloured * drawn(-1, 1))).clamp(0, 1)
    light = (x * grey).sum(1, keepdim=True)
    x = (light + (x - light) * (1 + coloured * drawn(-1, 1))).clamp(0, 1)
    x = _turned(x, 2 * math.pi * coloured * drawn(-0.25, 0.25)).clamp(0, 1)
    return torch.where(drawn(0, 1) < recipe.grey, (x * grey).sum(1, keepdim=True).expand_as(x), x)


def _cut(x: Tensor, recipe: Views, size: int, drawn: Callable[[float, float], Tensor], *, flip: bool) -> Tensor:
    """A part of each image, anywhere in it, scaled to the size."""
    area, ratio = drawn(recipe.smallest, 1), drawn(-_RATIO, _RATIO).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    across, down = drawn(-1, 1) * (1 - width), drawn(-1, 1) * (1 - height)
    if flip:
        width = width * (drawn(0, 1) < 0.5).float().mul(-2).add(1)
    nothing = torch.zeros_like(width)
    affine = torch.cat([width, nothing, across, nothing, height, down], 1).view(len(x), 2, 3)
    grid = functional.affine_grid(affine, [len(x), x.shape[1], size, size], align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Hues turned by an angle (B, 1, 1, 1) in radians, lightness kept: a rotation in the plane of I and Q."""
    to = torch.tensor([_GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], device=x.device)
    light, i, q = torch.einsum("kc,bchw->kbhw", to, x)
    cos, sin = (part.squeeze(1) for part in (angle.cos(), angle.sin()))
    turned = torch.stack([light, cos * i - sin * q, sin * i + cos * q])
    return torch.einsum("ck,kbhw->bchw", torch.linalg.inv(to), turned)
