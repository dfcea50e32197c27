"""Events on an axis of steps: a shape and a colour for each kind, so that neither alone has to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PySide6.QtCore import QPointF
from PySide6.QtGui import QColor, QPainterPath, QPolygonF

from cem_core.events import Kind
from cem_gui import theme

_COLOURS: Final[dict[Kind, str]] = {
    "misclassified": "red",
    "new neighbour": "red",
    "target reached": "accent",
    "energy minimum": "blue",
    "largest jump": "orange",
    "ball reached": "muted",
    "diverged": "red",
}
_MOST_TOLD: Final = 6


@dataclass(frozen=True)
class Mark:
    step: int
    kind: Kind
    tip: str
    """Such as: target reached at step 17 (chain 3, dog)."""
    faint: bool = False
    """Of a chain that is not the chosen one."""


def colour(kind: Kind) -> QColor:
    return QColor(getattr(theme.now(), _COLOURS[kind]))


def shape(kind: Kind) -> QPainterPath:
    """Around the origin, one unit wide."""
    path = QPainterPath()
    if kind == "target reached":
        path.addPolygon(_polygon((-0.5, 0.45), (0.5, 0.45), (0, -0.5)))
    elif kind == "energy minimum":
        path.addPolygon(_polygon((-0.5, -0.45), (0.5, -0.45), (0, 0.5)))
    elif kind == "largest jump":
        path.addPolygon(_polygon((0, -0.55), (0.5, 0), (0, 0.55), (-0.5, 0)))
    elif kind == "ball reached":
        path.addEllipse(QPointF(0, 0), 0.45, 0.45)
    elif kind == "diverged":
        path.addRect(-0.4, -0.4, 0.8, 0.8)
    else:
        path.addPolygon(_cross())
    path.closeSubpath()
    return path


def near(marks: Sequence[Mark], step: float, reach: float) -> list[Mark]:
    """The marks of the step that lies nearest, if that is within reach; those of the chosen chain first."""
    nearest = min(marks, key=lambda mark: (abs(mark.step - step), mark.faint), default=None)
    if nearest is None or abs(nearest.step - step) > reach:
        return []
    return sorted((mark for mark in marks if mark.step == nearest.step), key=lambda mark: mark.faint)


def told(marks: Sequence[Mark]) -> str:
    """What is said of marks that lie at one step."""
    more = f"\nand {len(marks) - _MOST_TOLD} more" if len(marks) > _MOST_TOLD else ""
    return "\n".join(mark.tip for mark in marks[:_MOST_TOLD]) + more


def _polygon(*points: tuple[float, float]) -> QPolygonF:
    return QPolygonF([QPointF(x, y) for x, y in points])


def _cross() -> QPolygonF:
    a, b = 0.22, 0.55
    corners = [(-b, -b + a), (-b + a, -b), (0, -a), (b - a, -b), (b, -b + a), (a, 0)]
    return _polygon(*corners, *((-x, -y) for x, y in corners))
