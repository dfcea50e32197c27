"""An interval that narrows, on a scale from 0."""

from __future__ import annotations

import math

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QBrush, QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from cem_gui import theme

_HEIGHT, _BAR = 16, 6


class Bracket(QWidget):
    """Solid up to `low`, hatched up to `high`, where it ends in a bar; with no end, it fades out."""

    def __init__(self, name: str, colour: int, parent: QWidget | None = None) -> None:
        """colour: of which model it has the colour."""
        super().__init__(parent)
        self._colour = colour
        self.low, self.high, self.scale = 0.0, math.inf, 1.0
        self._empty = True
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(160, _HEIGHT)

    def show_interval(self, low: float, high: float) -> None:
        self.low, self.high, self._empty = low, high, False
        self.setAccessibleDescription(f"{low:.4g} to {high:.4g}")
        self.update()

    def clear(self) -> None:
        self._empty = True
        self.setAccessibleDescription("")
        self.update()

    def set_scale(self, scale: float) -> None:
        """What the right end stands for."""
        if scale != self.scale:
            self.scale = scale
            self.update()

    def place(self, value: float) -> float:
        """Where a value is, in pixels from the left."""
        return (self.width() - 2) * min(max(value / self.scale, 0.0), 1.0)

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, painter = theme.now(), QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        top = (_HEIGHT - _BAR) / 2
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.border))
        painter.drawRoundedRect(QRectF(0, top, self.width(), _BAR), 3, 3)
        if self._empty:
            return
        own = QColor(theme.of_model(self._colour))
        low, high = self.place(self.low), self.place(self.high)
        painter.setBrush(own)
        painter.drawRoundedRect(QRectF(0, top, low, _BAR), min(3, low / 2), 3)
        painter.setBrush(QBrush(own, Qt.BrushStyle.BDiagPattern))
        painter.drawRect(QRectF(low, top, high - low, _BAR))
        if math.isfinite(self.high):
            painter.setPen(QPen(QColor(colours.text), 2))
            painter.drawLine(QPointF(high + 1, 1), QPointF(high + 1, _HEIGHT - 1))
