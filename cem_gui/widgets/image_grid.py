"""Images in a grid, painted in one widget: a card a chain, with its start, target and a bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QContextMenuEvent,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QScrollArea, QSizePolicy, QToolTip, QWidget

from cem_core.images import hwc, to_uint8
from cem_core.messages import Floats
from cem_gui import theme

Bytes = NDArray[np.uint8]

_GAP: Final = 10
_PAD: Final = 7
_CAPTION: Final = 44
_THUMB: Final = 30
_SMALLEST: Final = 104
_SPACIOUS: Final = 110
"""Width from which on name and number of an image stand in one line."""


def to_bytes(pixels: Floats) -> Bytes:
    """(B, C, H, W) or (C, H, W) in [0,1] → (B, H, W, 3) or (H, W, 3)."""
    shown = np.asarray(hwc(to_uint8(pixels.reshape(-1, *pixels.shape[-3:]))), np.uint8)
    return shown.reshape(*pixels.shape[:-3], *shown.shape[1:])


def to_image(pixels: Bytes) -> QImage:
    """A QImage of its own from (H, W, 3)."""
    pixels = np.ascontiguousarray(pixels)
    height, width, _ = pixels.shape
    image = QImage(pixels.data, width, height, 3 * width, QImage.Format.Format_RGB888)
    return image.convertToFormat(QImage.Format.Format_RGB32)  # the format that is painted fastest


@dataclass(frozen=True)
class Caption:
    """What stands under an image."""

    title: str
    value: str
    share: float
    """Length of the bar, 0 to 1."""
    tip: str = ""
    strays: bool = False
    """The bar is in the colour of a warning; the title says why."""


class _Canvas(QWidget):
    def __init__(self, grid: ImageGrid) -> None:
        super().__init__()
        self.grid = grid
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Evolution: the chains")

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(font.pointSizeF() * 0.92)
        painter.setFont(font)
        for index in range(self.grid.count):
            if self.grid.card(index).intersects(event.rect()):
                self.grid.paint_card(painter, index)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        index = self.grid.at(event.position().toPoint())
        if index is not None:
            self.grid.choose(index)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        index = self.grid.at(event.position().toPoint())
        if index is not None:
            self.grid.opened.emit(index)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self.grid.probe(event.position().toPoint())

    def leaveEvent(self, event: QEvent) -> None:
        self.grid.probed.emit(-1, 0, 0)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        index = self.grid.at(event.pos())
        if index is not None:
            self.grid.choose(index)
        self.grid.menu_wanted.emit(-1 if index is None else index, event.globalPos())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        moves = {Qt.Key.Key_Up: -self.grid.columns, Qt.Key.Key_Down: self.grid.columns}
        if event.key() in moves:
            self.grid.choose(min(max(self.grid.chosen + moves[Qt.Key(event.key())], 0), self.grid.count - 1))
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.grid.opened.emit(self.grid.chosen)
        else:
            super().keyPressEvent(event)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            index = self.grid.at(event.pos())
            if index is not None:
                QToolTip.showText(event.globalPos(), self.grid.captions[index].tip, self)
            return True
        return super().event(event)


class ImageGrid(QScrollArea):
    """Shows B images as large as fit, in as many columns as make them largest; scrolls when there are many."""

    selected = Signal(int)
    opened = Signal(int)
    menu_wanted = Signal(int, QPoint)
    probed = Signal(int, int, int)
    """Chain, x, y under the mouse; chain -1 when it left."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.captions: Sequence[Caption] = ()
        self.measure = "p"
        """What the numbers under the images are."""
        self.chosen = 0
        self.columns = 1
        self._side = _SMALLEST
        self._images: list[QImage] = []
        self._thumbs: list[QImage] = []
        self._canvas = _Canvas(self)
        self.setWidget(self._canvas)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusProxy(self._canvas)
        self.setMinimumSize(QSize(2 * _SMALLEST, _SMALLEST + _CAPTION))

    @property
    def count(self) -> int:
        return len(self._images)

    def set_starts(self, starts: Bytes) -> None:
        """The images (B, H, W, 3) that the chains began with; a new set makes a new grid."""
        self._thumbs = [to_image(start) for start in starts]
        self._images = list(self._thumbs)
        self.captions = [Caption("", "", 0)] * len(starts)
        self.chosen = min(self.chosen, max(0, len(starts) - 1))
        self._arrange()

    def show_images(self, pixels: Bytes, captions: Sequence[Caption]) -> None:
        """(B, H, W, 3), for the B of `set_starts`."""
        self._images = [to_image(image) for image in pixels]
        self.captions = captions
        self._describe()
        self._canvas.update()

    def _describe(self) -> None:
        """Tell a screen reader what the chosen card shows."""
        caption = self.captions[self.chosen]
        self._canvas.setAccessibleDescription(
            f"Chain {self.chosen + 1}: {caption.title}, {self.measure} {caption.value}"
        )

    def choose(self, index: int) -> None:
        if self.count and index != self.chosen:
            self.chosen = index
            self._describe()
            self._canvas.update()
            card = self.card(index)
            self.ensureVisible(card.center().x(), card.center().y(), card.width() // 2, card.height() // 2)
            self.selected.emit(index)

    def at(self, point: QPoint) -> int | None:
        return next((i for i in range(self.count) if self.card(i).contains(point)), None)

    def probe(self, point: QPoint) -> None:
        index = self.at(point)
        picture = self._picture(index) if index is not None else QRect()
        if index is None or not picture.contains(point):
            self.probed.emit(-1, 0, 0)
            return
        image = self._images[index]
        offset = point - picture.topLeft()
        self.probed.emit(
            index, offset.x() * image.width() // picture.width(), offset.y() * image.height() // picture.height()
        )

    def card(self, index: int) -> QRect:
        row, column = divmod(index, self.columns)
        width, height = self._side + 2 * _PAD, self._side + _PAD + _CAPTION
        spare = self._canvas.width() - self.columns * width - (self.columns - 1) * _GAP
        left = max(0, spare) // 2
        rows = math.ceil(self.count / self.columns)
        top = max(0, self._canvas.height() - rows * height - (rows - 1) * _GAP) // 2
        return QRect(left + column * (width + _GAP), top + row * (height + _GAP), width, height)

    def _picture(self, index: int) -> QRect:
        card = self.card(index)
        return QRect(card.left() + _PAD, card.top() + _PAD, self._side, self._side)

    def paint_card(self, painter: QPainter, index: int) -> None:
        colours, card, picture = theme.now(), self.card(index), self._picture(index)
        chosen = index == self.chosen
        pen = QPen(QColor(colours.accent if chosen else colours.border), 2 if chosen else 1)
        painter.setPen(pen)
        painter.setBrush(QColor(colours.card))
        inset = pen.widthF() / 2
        painter.drawRoundedRect(QRectF(card).adjusted(inset, inset, -inset, -inset), 8, 8)
        painter.drawImage(picture, self._images[index])

        caption = self.captions[index]
        top = picture.bottom() + 8
        thumb = QRect(picture.left(), top, _THUMB, _THUMB)
        painter.drawImage(thumb, self._thumbs[index])
        text = QRect(thumb.right() + 8, top - 1, picture.right() - thumb.right() - 7, _THUMB - 8)
        bar = QRectF(text.left(), thumb.bottom() - 3, text.width(), 4)
        metrics, value = painter.fontMetrics(), QRect(text)
        room, width = text.width(), metrics.horizontalAdvance(caption.value) + 4
        if room < _SPACIOUS:  # the name has a line of its own
            text.setRect(text.left(), top - 3, room, _THUMB // 2 + 2)
            value = text.translated(0, text.height())
            bar.setRect(bar.left(), value.center().y() - 1, room - metrics.horizontalAdvance("−0.00") - 4, 4)
        else:
            room -= width
        painter.setPen(QColor(colours.text))
        painter.drawText(value, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, caption.value)
        title = metrics.elidedText(caption.title, Qt.TextElideMode.ElideRight, room)
        painter.drawText(text, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, title)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.border))
        painter.drawRoundedRect(bar, 2, 2)
        painter.setBrush(QColor(colours.orange if caption.strays else colours.accent))
        bar.setWidth(bar.width() * min(max(caption.share, 0.0), 1.0))
        painter.drawRoundedRect(bar, 2, 2)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """Take the number of columns that makes the images largest; scroll where they would be too small."""
        area, count = self.maximumViewportSize(), max(1, self.count)

        def side(columns: int) -> int:
            rows = math.ceil(count / columns)
            across = (area.width() - (columns - 1) * _GAP) // columns - 2 * _PAD
            down = (area.height() - (rows - 1) * _GAP) // rows - _PAD - _CAPTION
            return min(across, down)

        self.columns = max(range(1, count + 1), key=side)
        self._side = side(self.columns)
        if self._side < _SMALLEST:
            room = area.width() - self.verticalScrollBar().sizeHint().width()
            self.columns = max(1, (room + _GAP) // (_SMALLEST + 2 * _PAD + _GAP))
            self._side = (room - (self.columns - 1) * _GAP) // self.columns - 2 * _PAD
        rows = math.ceil(count / self.columns)
        needed = rows * (self._side + _PAD + _CAPTION) + (rows - 1) * _GAP
        self._canvas.setMinimumHeight(needed if needed > area.height() else 0)
        self._canvas.update()
