"""What the loader asks of an architecture family: shapes in, a plan out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from cem_core.messages import Fact
from cem_core.models.model import Network

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Plan:
    """A recognised network, not yet built."""

    family: str
    title: str
    channels: int
    classes: int
    size: int
    """Side of the input in pixels that the architecture suggests."""
    facts: tuple[Fact, ...]
    build: Callable[[], Network]

    def keys(self) -> set[str]:
        """Of the state dict that the network takes."""
        with torch.device("meta"):
            return set(self.build().state_dict())


def count(shapes: Shapes, prefix: str) -> int:
    """n if `prefix.0.` … `prefix.n-1.` are there and no others; else 0."""
    found = {key.removeprefix(prefix + ".").split(".")[0] for key in shapes if key.startswith(prefix + ".")}
    return len(found) if found == {str(i) for i in range(len(found))} else 0
