"""The same morph by the weights of one epoch after another, side by side below the curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QHelpEvent, QImage, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from cem_gui import theme
from cem_gui.widgets.image_grid import Bytes, to_image

_GAP: Final = 8
_LEAST: Final = 32
_LARGEST: Final = 512
_EDGE: Final = 4


@dataclass
class _Column:
    """An epoch. Without images, `says` why."""

    images: list[QImage] = field(default_factory=list)
    captions: Sequence[str] = ()
    tips: Sequence[str] = ()
    says: str = ""


class EpochStrip(QWidget):
    """A column an epoch, below its place on the axis; a row an image. What it began with stands on the left."""

    chosen = Signal(int)
    """Epoch."""
    opened = Signal(int)
    """Epoch; by a double click."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._columns: dict[int, _Column] = {}
        self._starts: list[QImage] = []
        self._names: Sequence[str] = ()
        self._epoch = 0
        self.across: Callable[[float], float] = float
        """Where an epoch is, in pixels."""
        font = self.font()
        font.setPointSizeF(font.pointSizeF() * 0.87)
        self.setFont(font)
        self._line = self.fontMetrics().height()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setAccessibleName("Images by the weights of each epoch")

    def sizeHint(self) -> QSize:
        return QSize(400, self._height(64))

    def minimumSizeHint(self) -> QSize:
        return QSize(200, self._height(_LEAST))

    # ---- what there is -----------------------------------------------------------------------------------------------

    def show_columns(self, epochs: Sequence[int]) -> None:
        """These and no others; what is known of them stays."""
        self._columns = {epoch: self._columns.get(epoch, _Column()) for epoch in epochs}
        self._change()

    def show_starts(self, pixels: Bytes | None, names: Sequence[str]) -> None:
        """(B, H, W, 3) what the rows began with, and their names; None: not known yet."""
        self._starts, self._names = [] if pixels is None else [to_image(image) for image in pixels], names
        self._change()

    def show_images(self, epoch: int, pixels: Bytes, captions: Sequence[str], tips: Sequence[str]) -> None:
        """(B, H, W, 3), and what is said of each."""
        if epoch in self._columns:
            self._columns[epoch] = _Column([to_image(image) for image in pixels], captions, tips)
            self._change()

    def say(self, epoch: int, text: str) -> None:
        """Why there is no image, in a word or two."""
        if epoch in self._columns:
            self._columns[epoch] = _Column(says=text)
            self._change()

    def choose(self, epoch: int) -> None:
        self._epoch = epoch
        self.update()

    def _change(self) -> None:
        self.updateGeometry()
        self.update()
        known = [f"epoch {epoch}: {', '.join(column.captions)}" for epoch, column in self._columns.items()
                 if column.captions]  # fmt: skip
        self.setAccessibleDescription("; ".join(known))

    # ---- where it is -------------------------------------------------------------------------------------------------

    @property
    def _rows(self) -> int:
        return max(1, len(self._names))

    def _height(self, side: int) -> int:
        return self._rows * (side + self._line + _EDGE) + self._line + _EDGE

    @property
    def side(self) -> int:
        """Of each image: a whole multiple of its pixels where it is enlarged."""
        places = [self.across(epoch) for epoch in self._columns]
        wide = min((b - a for a, b in pairwise(places)), default=float(_LARGEST)) - _GAP
        tall = (self.height() - self._line - _EDGE) / self._rows - self._line - _EDGE
        room = max(_LEAST // 2, int(min(wide, tall, _LARGEST)))
        made = [image for column in self._columns.values() for image in column.images]
        size = next((image.width() for image in (*made, *self._starts)), 0)
        return size * (room // size) if size and room >= size else room

    def picture(self, epoch: int, row: int) -> QRect:
        """Where an image is."""
        side = self.side
        top = self._line + _EDGE + row * (side + self._line + _EDGE)
        return QRect(round(self.across(epoch) - side / 2), top, side, side)

    def at(self, point: QPoint) -> tuple[int, int] | None:
        """Epoch and row of the image there."""
        for epoch in self._columns:
            for row in range(self._rows):
                if self.picture(epoch, row).adjusted(-_GAP // 2, -_EDGE, _GAP // 2, self._line).contains(point):
                    return epoch, row
        return None

    # ---- drawing -----------------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if not self._columns:
            painter.setPen(QColor(theme.now().muted))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "Images come with the first epoch")
            return
        self._paint_starts(painter)
        for epoch, column in self._columns.items():
            self._paint(painter, epoch, column)

    def _paint_starts(self, painter: QPainter) -> None:
        side = min(self.side, 64)
        if not self._names:
            return
        painter.setPen(QColor(theme.now().muted))
        painter.drawText(QRect(0, 0, 64, self._line), Qt.AlignmentFlag.AlignCenter, "from")
        for row, name in enumerate(self._names):
            beside = self.picture(next(iter(self._columns), 0), row)
            place = QRect((64 - side) // 2, beside.center().y() - side // 2 + 1, side, side)
            if row < len(self._starts):
                painter.drawImage(place, self._starts[row])
            painter.setPen(QColor(theme.now().muted))
            said = painter.fontMetrics().elidedText(name, Qt.TextElideMode.ElideRight, 64)
            painter.drawText(QRect(0, place.bottom() + 2, 64, self._line), Qt.AlignmentFlag.AlignCenter, said)

    def _paint(self, painter: QPainter, epoch: int, column: _Column) -> None:
        colours = theme.now()
        chosen = epoch == self._epoch
        for row in range(self._rows):
            place = self.picture(epoch, row)
            if row == 0:
                painter.setPen(QColor(colours.text if chosen else colours.muted))
                painter.drawText(
                    QRect(place.left() - _GAP, 0, place.width() + 2 * _GAP, self._line),
                    Qt.AlignmentFlag.AlignCenter, f"epoch {epoch}" if place.width() > 48 else str(epoch),
                )  # fmt: skip
            if row < len(column.images):
                painter.drawImage(place, column.images[row])
                painter.setPen(QColor(colours.text if chosen else colours.muted))
                below = QRect(place.left() - _GAP // 2, place.bottom() + 2, place.width() + _GAP, self._line)
                painter.drawText(below, Qt.AlignmentFlag.AlignCenter, column.captions[row])
            else:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(colours.field))
                painter.drawRoundedRect(QRectF(place), 6, 6)
                painter.setPen(QColor(colours.muted))
                if row == 0:
                    flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
                    painter.drawText(place.adjusted(2, 2, -2, -2), flags, column.says)
            if chosen:
                painter.setPen(QPen(QColor(colours.accent), 2))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawRoundedRect(QRectF(place).adjusted(-1, -1, 1, 1), 3, 3)

    # ---- hands -------------------------------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if (there := self.at(event.position().toPoint())) is not None:
            self.chosen.emit(there[0])

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        if (there := self.at(event.position().toPoint())) is not None:
            self.opened.emit(there[0])

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            there = self.at(event.pos())
            said = ""
            if there is not None:
                column = self._columns[there[0]]
                said = column.tips[there[1]] if there[1] < len(column.tips) else column.says
            QToolTip.showText(event.globalPos(), said, self)
            return True
        return super().event(event)
