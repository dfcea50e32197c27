"""The images that are most similar to another, with how similar they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtGui import QColor, QFont, QImage, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from cem_gui import theme

_SIDES: Final = (96, 64, 44)
"""Of each image: the largest at which all can be seen, or else the last."""
_GAP: Final = 10
MOST: Final = 12


class Near(NamedTuple):
    image: QImage
    name: str
    said: str
    """How similar."""


class Nearest(QWidget):
    """As many as fit, in rows, at most `MOST`."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.items: Sequence[Near] = ()
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)

    def sizeHint(self) -> QSize:
        return QSize(3 * (_SIDES[-1] + _GAP), self._row(_SIDES[-1]))

    def _row(self, side: int) -> int:
        return side + 4 + 2 * self.fontMetrics().height()

    def _fitting(self, side: int) -> tuple[int, int]:
        """So many columns and rows of images."""
        return max(1, (self.width() + _GAP) // (side + _GAP)), max(1, self.height() // self._row(side))

    def show_items(self, items: Sequence[Near]) -> None:
        """The most similar first."""
        self.items = items
        self.setAccessibleDescription(", ".join(f"{item.name} {item.said}" for item in items))
        self.setToolTip("\n".join(f"{item.name} {item.said}" for item in items))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, colours = QPainter(self), theme.now()
        plain = QFont(self.font())
        plain.setPointSizeF(plain.pointSizeF() * 0.87)
        bold = QFont(plain)
        bold.setBold(True)
        line = painter.fontMetrics().height()
        side = next((side for side in _SIDES if math.prod(self._fitting(side)) >= len(self.items)), _SIDES[-1])
        columns, rows = self._fitting(side)
        for i, item in enumerate(self.items[: columns * rows]):
            at, column = divmod(i, columns)
            place = QRect(column * (side + _GAP), at * self._row(side), side, side)
            painter.drawImage(place, item.image)
            text = QRect(place.left() - _GAP // 2, place.bottom() + 3, side + _GAP, line)
            text.setLeft(max(0, text.left()))
            text.setRight(min(self.width() - 1, text.right()))
            painter.setFont(bold)
            painter.setPen(QColor(colours.text))
            painter.drawText(text, Qt.AlignmentFlag.AlignCenter, item.said)
            painter.setFont(plain)
            painter.setPen(QColor(colours.muted))
            name = painter.fontMetrics().elidedText(item.name, Qt.TextElideMode.ElideMiddle, text.width() - 2)
            painter.drawText(text.translated(0, line - 1), Qt.AlignmentFlag.AlignCenter, name)
