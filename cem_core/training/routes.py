"""A batch norm for each kind of image: attacked ones, and images as they are (Xie et al. 2020)."""

from __future__ import annotations

from copy import deepcopy
from typing import Final

from torch import Tensor, nn

ATTACKED: Final = 0
CLEAN: Final = 1


class Routes(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm, deepcopy(norm)])
        self.taken = ATTACKED

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[self.taken](x)  # type: ignore[no-any-return]


def split(net: nn.Module) -> None:
    """Give every batch norm in the network a second one."""
    for module in list(net.modules()):
        if not isinstance(module, Routes):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                    setattr(module, name, Routes(child))


def take(net: nn.Module, route: int) -> None:
    for module in net.modules():
        if isinstance(module, Routes):
            module.taken = route


def one(tensors: dict[str, Tensor], route: int = ATTACKED) -> dict[str, Tensor]:
    """A state dict as of the network before it was split, with the batch norms of one route."""
    return {
        key.replace(f".norms.{route}.", "."): value
        for key, value in tensors.items()
        if ".norms." not in key or f".norms.{route}." in key
    }
