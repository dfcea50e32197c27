"""Small pictures to choose one of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QHelpEvent, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QToolTip, QWidget

from cem_gui import theme
from cem_gui.widgets.image_grid import Bytes, to_image

_SIDE: Final = 52
_GAP: Final = 6


class Thumbs(QWidget):
    """In as many columns as fit. ↑ and ↓ choose, and so does the mouse: ← and → are the step keys."""

    selected = Signal(int)

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.chosen = 0
        self._images: list[QImage] = []
        self._captions: Sequence[str] = ()
        self._tips: Sequence[str] = ()
        self._caption = self.fontMetrics().height()
        self.setAccessibleName(name)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    @property
    def count(self) -> int:
        return len(self._images)

    def set_pictures(self, pixels: Bytes, captions: Sequence[str], tips: Sequence[str]) -> None:
        """(B, H, W, 3), and what is said of each."""
        self._images, self._captions, self._tips = [to_image(image) for image in pixels], captions, tips
        self.chosen = min(self.chosen, max(0, self.count - 1))
        self._arrange()

    def choose(self, index: int) -> None:
        index = min(max(index, 0), self.count - 1)
        if self.count and index != self.chosen:
            self.chosen = index
            self._describe()
            self.update()
            self.selected.emit(index)

    def card(self, index: int) -> QRect:
        row, column = divmod(index, self._columns)
        width = self.width() // self._columns
        return QRect(column * width, row * (_SIDE + self._caption + _GAP), width, _SIDE + self._caption + 2)

    def at(self, point: QPoint) -> int | None:
        return next((i for i in range(self.count) if self.card(i).contains(point)), None)

    @property
    def _columns(self) -> int:
        return max(1, self.width() // (_SIDE + _GAP))

    def _arrange(self) -> None:
        self.setMinimumHeight(math.ceil(self.count / self._columns) * (_SIDE + self._caption + _GAP))
        self._describe()
        self.update()

    def _describe(self) -> None:
        if self.count:
            self.setAccessibleDescription(f"{self.chosen + 1} of {self.count}: {self._tips[self.chosen]}")

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, painter = theme.now(), QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(font.pointSizeF() * 0.87)
        painter.setFont(font)
        for i, image in enumerate(self._images):
            card = self.card(i)
            place = QRect(card.center().x() - _SIDE // 2, card.top() + 2, _SIDE - 2, _SIDE - 2)
            painter.drawImage(place, image)
            if i == self.chosen:
                painter.setPen(QPen(QColor(colours.accent), 2))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawRoundedRect(QRectF(place).adjusted(-1, -1, 1, 1), 4, 4)
            painter.setPen(QColor(colours.text if i == self.chosen else colours.muted))
            text = QRect(card.left() + 1, place.bottom() + 3, card.width() - 2, self._caption)
            said = painter.fontMetrics().elidedText(self._captions[i], Qt.TextElideMode.ElideRight, text.width())
            painter.drawText(text, Qt.AlignmentFlag.AlignCenter, said)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        index = self.at(event.position().toPoint())
        if index is not None:
            self.choose(index)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        ways = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}
        if event.key() in ways:
            self.choose(self.chosen + ways[Qt.Key(event.key())])
        else:
            super().keyPressEvent(event)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            index = self.at(event.pos())
            QToolTip.showText(event.globalPos(), "" if index is None else self._tips[index], self)
            return True
        return super().event(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()
