"""A time line: pictures of some steps above a track with a cursor. It is a slider, also to screen readers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractSlider, QSizePolicy, QWidget

from cem_gui import theme

_MARGIN: Final = 18
_THUMB: Final = 36
THUMBS: Final = 24
"""At most so many pictures."""


class Filmstrip(QAbstractSlider):
    """Values are steps; `set_length` says how far the run is meant to go, the maximum how far it has come."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._length = 1
        self._thumbs: dict[int, QImage] = {}
        self.setOrientation(Qt.Orientation.Horizontal)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setRange(0, 0)
        self.setPageStep(10)
        self.setAccessibleName("Step")
        self.setToolTip("Drag, or use ← and →, Home and End")

    def sizeHint(self) -> QSize:
        return QSize(400, _THUMB + 26)

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

    def has_thumb(self, step: int) -> bool:
        return step in self._thumbs

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, painter = theme.now(), QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for step, image in self._thumbs.items():
            painter.drawImage(QRectF(self._x(step) - _THUMB / 2, 2, _THUMB, _THUMB), image)
        y = _THUMB + 14.0
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.border))
        painter.drawRoundedRect(QRectF(_MARGIN, y - 2, self.width() - 2 * _MARGIN, 4), 2, 2)
        painter.setBrush(QColor(colours.accent))
        painter.drawRoundedRect(QRectF(_MARGIN, y - 2, self._x(self.maximum()) - _MARGIN, 4), 2, 2)
        x = self._x(self.value())
        painter.setPen(QPen(QColor(colours.accent if self.hasFocus() else colours.window), 2))
        painter.setBrush(QColor(colours.text))
        painter.drawRoundedRect(QRectF(x - 4, y - 8, 8, 16), 4, 4)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self.setSliderDown(True)
            self._jump(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self.isSliderDown():
            self._jump(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self.setSliderDown(False)

    def _jump(self, event: QMouseEvent) -> None:
        share = (event.position().x() - _MARGIN) / max(1, self.width() - 2 * _MARGIN)
        self.setValue(round(share * self._length))

    def _x(self, step: int) -> float:
        return _MARGIN + (self.width() - 2 * _MARGIN) * step / self._length
