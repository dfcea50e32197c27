"""A number for each of some names, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from PySide6.QtCore import QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from cem_gui import theme
from cem_gui.widgets.figures import figure

_ROW: Final = 18
_BAR: Final = 5
_HEAD: Final = 20


class Pair(NamedTuple):
    name: str
    before: float
    after: float
    stressed: bool = False
    """In bold."""


class PairedBars(QWidget):
    """A row for each pair: its name, two bars from a common zero, and both numbers. The first bar is an outline."""

    def __init__(self, title: str, colour: int, parent: QWidget | None = None) -> None:
        """colour: of which model the second bars have the colour."""
        super().__init__(parent)
        self._title, self._colour = title, colour
        self.pairs: Sequence[Pair] = ()
        self._rows = 1
        self.setAccessibleName(f"{title}, before and after")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_rows(self, rows: int) -> None:
        """Leave room for so many, so that nothing moves when they come."""
        self._rows = rows
        self.updateGeometry()

    def show_pairs(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        said = [f"{pair.name} {figure(pair.before)}, then {figure(pair.after)}" for pair in pairs]
        self.setAccessibleDescription("; ".join(said))
        exact = [f"{pair.name}: {figure(pair.before, '.3f')} → {figure(pair.after, '.3f')}" for pair in pairs]
        self.setToolTip("\n".join(exact))
        self.set_rows(max(self._rows, len(pairs)))
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(240, _HEAD + self._rows * _ROW)

    def minimumSizeHint(self) -> QSize:
        return QSize(200, _HEAD + self._rows * _ROW)

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, painter = theme.now(), QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        own = QColor(theme.of_model(self._colour))
        plain = QFont(self.font())
        plain.setPointSizeF(plain.pointSizeF() * 0.87)
        bold = QFont(plain)
        bold.setBold(True)
        painter.setFont(plain)
        painter.setPen(QColor(colours.muted))
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(QRect(0, 0, self.width(), _HEAD - 4), middle, self._title)
        numbers = painter.fontMetrics().horizontalAdvance("−88.8 → −88.8") + 6
        self._paint_legend(painter, own)
        if not self.pairs:
            return
        values = [value for pair in self.pairs for value in (pair.before, pair.after)]
        low, high = min(0.0, *values), max(0.0, *values)
        names = min(110, self.width() // 4)
        room = max(20, self.width() - names - numbers - 16)
        scale = room / ((high - low) or 1.0)
        zero = names + 8 - low * scale
        for i, pair in enumerate(self.pairs):
            top = _HEAD + i * _ROW
            painter.setFont(bold if pair.stressed else plain)
            painter.setPen(QColor(colours.text if pair.stressed else colours.muted))
            name = painter.fontMetrics().elidedText(pair.name, Qt.TextElideMode.ElideRight, names)
            painter.drawText(QRect(0, top, names, _ROW), middle, name)
            told = f"{figure(pair.before, '.1f')} → {figure(pair.after, '.1f')}"
            where = QRect(self.width() - numbers, top, numbers, _ROW)
            painter.drawText(where, middle | Qt.AlignmentFlag.AlignRight, told)
            painter.setPen(QPen(QColor(colours.muted), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(_bar(zero, pair.before * scale, top + 3))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(own)
            painter.drawRect(_bar(zero, pair.after * scale, top + 4 + _BAR))
        painter.setPen(QPen(QColor(colours.faint), 1))
        painter.drawLine(round(zero), _HEAD, round(zero), _HEAD + len(self.pairs) * _ROW)

    def _paint_legend(self, painter: QPainter, own: QColor) -> None:
        colours, metrics = theme.now(), painter.fontMetrics()
        right = self.width()
        for text, outline in (("after", False), ("before", True)):
            width = metrics.horizontalAdvance(text)
            painter.setPen(QColor(colours.muted))
            where = QRect(right - width, 0, width + 1, _HEAD - 4)
            painter.drawText(where, Qt.AlignmentFlag.AlignVCenter, text)
            painter.setPen(QPen(QColor(colours.muted), 1) if outline else QPen(Qt.PenStyle.NoPen))
            painter.setBrush(Qt.BrushStyle.NoBrush if outline else own)
            painter.drawRect(QRectF(right - width - 20, (_HEAD - 4 - _BAR) / 2, 14, _BAR))
            right -= width + 34


def _bar(zero: float, length: float, top: float) -> QRectF:
    return QRectF(min(zero, zero + length), top, abs(length), _BAR)
