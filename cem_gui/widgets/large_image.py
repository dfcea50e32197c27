"""One image as large as fits, its pixels crisp, with what the model sees in it beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QFont, QImage, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from cem_gui import theme
from cem_gui.widgets.figures import figure

_BARS: Final = 240
_ROW: Final = 30
_GAP: Final = 18


class LargeImage(QWidget):
    probed = Signal(int, int)
    """x, y under the mouse; -1, -1 when it left."""
    closed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._image = QImage()
        self._start = QImage()
        self._bars: Sequence[tuple[str, float, bool]] = ()
        self._what = ""
        self.setMouseTracking(True)
        self.setAccessibleName("Large view of the chosen chain")

    def show_image(
        self, image: QImage, start: QImage, bars: Sequence[tuple[str, float, bool]], what: str = "What the model sees"
    ) -> None:
        """bars: name, probability or similarity, whether it is the target; the largest first. what: their title."""
        self._image, self._start, self._bars, self._what = image, start, bars, what
        self.update()

    def picture(self) -> QRect:
        """Where the image is: scaled by a whole number where it is enlarged at all."""
        room = min(self.width() - _BARS - _GAP, self.height())
        if self._image.isNull() or room <= 0:
            return QRect()
        side = self._image.width()
        side = side * (room // side) if room >= side else room
        return QRect((self.width() - _BARS - _GAP - side) // 2, (self.height() - side) // 2, side, side)

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, painter, picture = theme.now(), QPainter(self), self.picture()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self._image.isNull():
            return
        painter.drawImage(picture, self._image)
        left, top = picture.right() + _GAP, picture.top()
        painter.setPen(QColor(colours.muted))
        painter.drawText(QRect(left, top, _BARS, 18), Qt.AlignmentFlag.AlignVCenter, "Start")
        painter.drawImage(QRect(left, top + 22, 96, 96), self._start)
        top += 22 + 96 + _GAP
        painter.drawText(QRect(left, top, _BARS, 18), Qt.AlignmentFlag.AlignVCenter, self._what)
        top += 24
        plain, bold = QFont(self.font()), QFont(self.font())
        bold.setBold(True)
        fitting = max(0, (self.height() - top) // _ROW)
        for name, p, is_target in self._bars[:fitting]:
            painter.setFont(bold if is_target else plain)
            painter.setPen(QColor(colours.text))
            row = QRect(left, top, _BARS, 18)
            painter.drawText(row, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, figure(p, ".3f"))
            text = ("→ " if is_target else "") + name
            text = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, _BARS - 52)
            painter.drawText(row, Qt.AlignmentFlag.AlignVCenter, text)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colours.border))
            painter.drawRoundedRect(QRectF(left, top + 20, _BARS, 4), 2, 2)
            painter.setBrush(QColor(colours.accent if is_target else colours.muted))
            painter.drawRoundedRect(QRectF(left, top + 20, _BARS * min(max(p, 0.0), 1.0), 4), 2, 2)
            top += _ROW

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._probe(event.position().toPoint())

    def leaveEvent(self, event: QEvent) -> None:
        self.probed.emit(-1, -1)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.closed.emit()

    def _probe(self, point: QPoint) -> None:
        picture = self.picture()
        if not picture.contains(point):
            self.probed.emit(-1, -1)
            return
        offset = point - picture.topLeft()
        self.probed.emit(
            offset.x() * self._image.width() // picture.width(), offset.y() * self._image.height() // picture.height()
        )
