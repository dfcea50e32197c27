"""The activations that files do not name: those with which published robust models were trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from torch import nn

ACTIVATIONS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "leaky relu 0.01": partial(nn.LeakyReLU, 0.01),
    "leaky relu 0.1": partial(nn.LeakyReLU, 0.1),
    "leaky relu 0.2": partial(nn.LeakyReLU, 0.2),
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}
