"""Networks that torchvision or timm builds: how these packages are imported, and what their families share."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn

from cem_core.messages import Refused
from cem_core.models.family import Shapes
from cem_core.models.model import Network

_MISSING: Final = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def import_torchvision() -> Any:
    """The package, imported when a network is first built of it: that takes a second.

    Raises:
        Refused: it is not installed, or does not fit torch.
    """
    try:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError:  # beside a torch without CUDA, the package from PyPI finds its own operators missing
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            _declare_operators()
            return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        needed = f'"torchvision==0.{int(torch.__version__.split(".")[1]) + 15}.*"'  # each torch has its own
        trouble = "is not installed" if isinstance(error, ModuleNotFoundError) else "does not work with this torch"
        raise Refused(f"This network is built by torchvision, which {trouble}: pip install {needed}") from error


@cache
def _declare_operators() -> torch.library.Library:
    """Name the operators for boxes that torchvision describes on import. No classifier calls them; kept for good."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _MISSING:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


class Borrowed(Network):
    """A package's network, whose last linear layer has become the head.

    Args:
        net: gives logits.
        last: dotted name of its last linear layer.
        classes: 0: that layer is dropped.
        channels: of the image; packages that build for three get another first convolution.
    """

    def __init__(self, net: nn.Module, last: str, classes: int, channels: int = 3) -> None:
        super().__init__()
        head = replace(net, last, nn.Identity())
        self.net = net
        self.head = head if classes else None
        stem, conv = next((name, part) for name, part in net.named_modules() if isinstance(part, nn.Conv2d))
        if conv.in_channels != channels:
            bias = conv.bias is not None
            wanted = (channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
            replace(net, stem, nn.Conv2d(*wanted, bias=bias))  # type: ignore[arg-type]

    def features(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def borrowed_key(last: str) -> Callable[[str], str]:
    """A `key_of` for `Borrowed`."""
    return lambda key: f"{last}.{key.removeprefix('head.')}" if key.startswith("head.") else key.removeprefix("net.")


def replace(net: nn.Module, name: str, part: nn.Module) -> nn.Module:
    """Put a part in the place of the one with this dotted name, which is returned."""
    parent, _, own = name.rpartition(".")
    before = net.get_submodule(name)
    setattr(net.get_submodule(parent), own, part)
    return before


def have(shapes: Shapes, rank: int, *keys: str) -> bool:
    """Whether all of these tensors are there, of that rank and with something in them."""
    return all(len(shapes.get(key, ())) == rank and 0 not in shapes[key] for key in keys)


def how_many(shapes: Shapes, prefix: str, start: int = 0) -> int:
    """Into how many numbered parts the keys behind a prefix fall; 0 if one in between is missing."""
    found = {key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)}
    return len(found) if found == {str(start + i) for i in range(len(found))} else 0


def head_size(shapes: Shapes, name: str, features: int) -> int:
    """The classes of a linear layer that takes so many features; 0 if it is not there."""
    classes, inputs = shapes[f"{name}.weight"] if have(shapes, 2, f"{name}.weight") else (0, 0)
    return classes if inputs == features else 0


def imagenet(classes: int) -> tuple[str, float, str] | None:
    """The normalisation of networks that are built for ImageNet."""
    return ("ImageNet", 0.85, "1000 classes, in the layout of torchvision") if classes == 1000 else None


def rounded(width: float) -> int:
    """Channels as the mobile networks round them: to multiples of 8, never losing more than a tenth."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * width else nearest + 8


def multiplier(plain: Sequence[int], seen: Sequence[int]) -> float | None:
    """By what, up to 4, the plain widths are multiplied to those seen: the roundest, where several give the same."""
    for value in (i / parts for parts in (4, 20, 100) for i in range(1, 4 * parts + 1)):
        if all(rounded(width * value) == found for width, found in zip(plain, seen, strict=True)):
            return value
    return None


def square_root(number: int) -> int:
    """Of a square number; 0 of any other."""
    root = math.isqrt(max(number, 0))
    return root if root * root == number else 0
