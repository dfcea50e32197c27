"""What the loader asks of an architecture family: shapes in, a plan out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

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


def count(shapes: Shapes, prefix: str) -> int:
    """1 + the largest i in `prefix.i.`; 0 if there is none."""
    found = {key.removeprefix(prefix + ".").split(".")[0] for key in shapes if key.startswith(prefix + ".")}
    return max((int(i) + 1 for i in found if i.isdigit()), default=0)
