"""A time line: pictures of some steps above a track with a cursor. It is a slider, also to screen readers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QHelpEvent, QImage, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractSlider, QSizePolicy, QToolTip, QWidget

from cem_gui import theme
from cem_gui.widgets import marks
from cem_gui.widgets.marks import Mark

_MARGIN: Final = 18
_THUMB: Final = 36
_TRACK: Final = _THUMB + 14
_MARKS: Final = _TRACK + 14
"""Where the middle of what happened is; what is below the track belongs to it."""
_MARK: Final = 8
_REACH: Final = 7
"""Pixels around a mark that count as on it."""
THUMBS: Final = 24
"""At most so many pictures."""


class Filmstrip(QAbstractSlider):
    """Values are steps; `set_length` says how far the run is meant to go, the maximum how far it has come."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._length = 1
        self._thumbs: dict[int, QImage] = {}
        self._marks: Sequence[Mark] = ()
        self.setOrientation(Qt.Orientation.Horizontal)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setRange(0, 0)
        self.setPageStep(10)
        self.setAccessibleName("Step")

    def sizeHint(self) -> QSize:
        return QSize(400, _MARKS + _MARK)

    def set_length(self, steps: int) -> None:
        self._length = max(1, steps)
        self.update()

    def thumb_steps(self) -> Sequence[int]:
        """The steps whose pictures fit side by side, as far as they are recorded."""
        room = self.width() - 2 * _MARGIN
        stride = math.ceil(self._length / max(1, min(THUMBS, room // (_THUMB + 8))))
        return range(0, self.maximum() + 1, stride)

    def set_thumbs(self, thumbs: dict[int, QImage]) -> None:
        self._thumbs = thumbs
        self.update()

    def set_marks(self, shown: Sequence[Mark]) -> None:
        """What happened at which step; those that come last lie on top."""
        self._marks = shown
        self.update()

    def marks_at(self, point: QPointF) -> list[Mark]:
        """What lies there, below the track."""
        if point.y() < _TRACK + 6:
            return []
        return marks.near(self._marks, self._step(point.x()), _REACH * self._length / self._room())

    def has_thumb(self, step: int) -> bool:
        return step in self._thumbs

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, painter = theme.now(), QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for step, image in self._thumbs.items():
            painter.drawImage(QRectF(self._x(step) - _THUMB / 2, 2, _THUMB, _THUMB), image)
        y = float(_TRACK)
        self._paint_marks(painter)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.border))
        painter.drawRoundedRect(QRectF(_MARGIN, y - 2, self.width() - 2 * _MARGIN, 4), 2, 2)
        painter.setBrush(QColor(colours.accent))
        painter.drawRoundedRect(QRectF(_MARGIN, y - 2, self._x(self.maximum()) - _MARGIN, 4), 2, 2)
        x = self._x(self.value())
        painter.setPen(QPen(QColor(colours.accent if self.hasFocus() else colours.window), 2))
        painter.setBrush(QColor(colours.text))
        painter.drawRoundedRect(QRectF(x - 4, y - 8, 8, 16), 4, 4)

    def _paint_marks(self, painter: QPainter) -> None:
        for mark in self._marks:
            x = self._x(mark.step)
            if mark.faint:
                painter.setPen(QPen(QColor(theme.now().faint), 1))
                painter.drawLine(QPointF(x, _MARKS - 3), QPointF(x, _MARKS + 3))
                continue
            painter.save()
            painter.translate(x, _MARKS)
            painter.scale(_MARK, _MARK)
            painter.setPen(QPen(QColor(theme.now().window), 0.15))
            painter.setBrush(marks.colour(mark.kind))
            painter.drawPath(marks.shape(mark.kind))
            painter.restore()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            there = self.marks_at(QPointF(event.pos()))
            said = marks.told(there) if there else "Drag, or use ← and →, Home and End; [ and ] go to what happened"
            QToolTip.showText(event.globalPos(), said, self)
            return True
        return super().event(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            there = self.marks_at(event.position())
            if there:
                self.setValue(there[0].step)
                return
            self.setSliderDown(True)
            self._jump(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self.isSliderDown():
            self._jump(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self.setSliderDown(False)

    def _jump(self, event: QMouseEvent) -> None:
        self.setValue(round(self._step(event.position().x())))

    def _room(self) -> int:
        return max(1, self.width() - 2 * _MARGIN)

    def _step(self, x: float) -> float:
        return (x - _MARGIN) / self._room() * self._length

    def _x(self, step: int) -> float:
        return _MARGIN + self._room() * step / self._length
