"""Every model on the images of every run: a table of tinted cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QHelpEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from cem_core.messages import Floats
from cem_gui import theme
from cem_gui.widgets.band_plot import SYMBOLS
from cem_gui.widgets.figures import figure

_HEAD: Final = 22
_CELL: Final = 36
_TINT: Final = 0.55
"""Opacity of a cell whose probability is 1."""


class Matrix(QWidget):
    """Row i: the images of run i; column j: what model j says of them."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._names: Sequence[str] = ()
        self._p: Floats = np.empty((0, 0), np.float32)
        self._change: Floats = self._p
        self.setAccessibleName("Transfer: the target's probability and the change of E(x), each model on each run")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_names(self, names: Sequence[str]) -> None:
        """Of the models; the cells become empty."""
        self._names = names
        empty = np.full((len(names), len(names)), np.nan, np.float32)
        self.updateGeometry()
        self.show_values(empty, empty)

    def show_values(self, p: Floats, change: Floats) -> None:
        """(N, N) p(y|x) and E(x) since step 0; NaN: not known."""
        self._p, self._change = p, change
        self.setAccessibleDescription(". ".join(self.told(i, j) for i in range(len(p)) for j in range(len(p))))
        self.update()

    def told(self, i: int, j: int) -> str:
        """A cell in words."""
        of = "its own images" if i == j else f"the images of {self._names[i]}"
        if not np.isfinite(self._p[i, j]):
            return f"{self._names[j]} on {of}: nothing is known"
        p, change = float(self._p[i, j]), float(self._change[i, j])
        return f"{self._names[j]} on {of}: p(y|x) {p:.3f}, E(x) {figure(change, '+.2f')} since step 0"

    def sizeHint(self) -> QSize:
        return QSize(160, _HEAD + _CELL * len(self._names))

    def cell(self, i: int, j: int) -> QRect:
        count = max(1, len(self._names))
        left, right = ((self.width() - _HEAD) * edge // count for edge in (j, j + 1))
        return QRect(_HEAD + left, _HEAD + i * _CELL, right - left, _CELL)

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, painter = theme.now(), QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        bold, small = QFont(self.font()), QFont(self.font())
        bold.setBold(True)
        small.setPointSizeF(small.pointSizeF() * 0.85)
        centre = Qt.AlignmentFlag.AlignCenter
        for i in range(len(self._names)):
            painter.setPen(QColor(theme.of_model(i)))
            painter.drawText(QRect(0, self.cell(i, 0).top(), _HEAD, _CELL), centre, SYMBOLS[i])
            painter.drawText(QRect(self.cell(0, i).left(), 0, self.cell(0, i).width(), _HEAD), centre, SYMBOLS[i])
            for j in range(len(self._names)):
                cell, p, change = self.cell(i, j), float(self._p[i, j]), float(self._change[i, j])
                box = QRectF(cell).adjusted(1.5, 1.5, -1.5, -1.5)
                tint = QColor(colours.accent)
                tint.setAlphaF(_TINT * p if np.isfinite(p) else 0)
                painter.setPen(QPen(QColor(colours.muted if i == j else colours.border), 1))
                painter.setBrush(tint)
                painter.drawRoundedRect(box, 4, 4)
                upper, lower = cell.adjusted(0, 3, 0, -_CELL // 2), cell.adjusted(0, _CELL // 2 - 1, 0, -3)
                painter.setPen(QColor(colours.text))
                painter.setFont(bold)
                painter.drawText(upper, centre, f"{p:.2f}" if np.isfinite(p) else "–")
                painter.setFont(small)
                painter.drawText(lower, centre, figure(change, "+.1f") if np.isfinite(change) else "")
            painter.setFont(self.font())

    def at(self, point: QPoint) -> tuple[int, int] | None:
        count = range(len(self._names))
        return next(((i, j) for i in count for j in count if self.cell(i, j).contains(point)), None)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            there = self.at(event.pos())
            QToolTip.showText(event.globalPos(), self.told(*there) if there else self.toolTip(), self)
            return True
        return super().event(event)
