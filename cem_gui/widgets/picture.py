"""One image in a frame of its own, its pixels crisp."""

from __future__ import annotations

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from cem_gui import theme
from cem_gui.widgets.image_grid import Bytes, to_image


class Picture(QWidget):
    """As large as fits, at the top left; enlarged by a whole number where it is enlarged at all."""

    def __init__(self, name: str, least: int, parent: QWidget | None = None, *, fixed: bool = False) -> None:
        super().__init__(parent)
        self._least = least
        self._image = QImage()
        self.setAccessibleName(name)
        if fixed:
            self.setFixedSize(least, least)
        else:
            self.setMinimumSize(least, least)
            policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
            policy.setHeightForWidth(True)
            self.setSizePolicy(policy)

    @property
    def is_empty(self) -> bool:
        return self._image.isNull()

    def show_pixels(self, pixels: Bytes | None) -> None:
        """(H, W, 3); None: nothing yet."""
        self._image = QImage() if pixels is None else to_image(pixels)
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(self._least, self._least)

    def heightForWidth(self, width: int) -> int:
        return width

    def place(self) -> QRect:
        """Where the image is."""
        room = min(self.width(), self.height())
        side = self._image.width()
        if side and room >= side:
            room = side * (room // side)
        return QRect(0, 0, room, room)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        if self._image.isNull():
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(theme.now().field))
            painter.drawRoundedRect(self.place(), 6, 6)
        else:
            painter.drawImage(self.place(), self._image)
