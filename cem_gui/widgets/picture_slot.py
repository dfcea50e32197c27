"""A place for one image: dropped, pasted, opened or taken from the samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import QAction, QColor, QEnterEvent, QIcon, QImage, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QFrame, QHBoxLayout, QLabel, QMenu, QSizePolicy, QToolButton, QVBoxLayout

from cem_gui import theme
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.image_grid import Bytes, to_image

_LEAST: Final = 96
_PAD: Final = 12
_HINT: Final = "Drop or paste an image\nor click to choose one"


class _Face(QAbstractButton):
    """The image, its pixels crisp, or where it may be dropped. A square that is as large as fits."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.image = QImage()
        self.awaits = False
        """Something is held above it that would fall here."""
        self.setAccessibleName(name)
        self.setToolTip("Click to choose another image; one can be dropped here too")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setMinimumSize(_LEAST, _LEAST)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def sizeHint(self) -> QSize:
        return QSize(_LEAST, _LEAST)

    def place(self) -> QRect:
        """Where the image is: in the middle, enlarged by a whole number where it is enlarged at all."""
        room, side = min(self.width(), self.height()), self.image.width()
        if side and room >= side:
            room = side * (room // side)
        return QRect((self.width() - room) // 2, (self.height() - room) // 2, room, room)

    def enterEvent(self, event: QEnterEvent) -> None:
        super().enterEvent(event)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, painter = theme.now(), QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        busy = self.awaits or self.hasFocus()
        if self.image.isNull():
            edge = colours.accent if busy else colours.muted if self.underMouse() else colours.faint
            painter.setPen(QPen(QColor(edge), 1.5, Qt.PenStyle.DashLine))
            painter.setBrush(QColor(colours.chip if self.awaits else colours.field))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 8, 8)
            painter.setPen(QColor(colours.muted))
            painter.drawText(self.rect().adjusted(8, 8, -8, -8), Qt.AlignmentFlag.AlignCenter, _HINT)
            return
        painter.drawImage(self.place(), self.image)
        if busy:
            painter.setPen(QPen(QColor(colours.accent), 2))
            painter.drawRoundedRect(QRectF(self.place()).adjusted(1, 1, -1, -1), 3, 3)


class PictureSlot(QFrame):
    """What is dropped on it, the panel around it takes."""

    open_wanted = Signal()
    paste_wanted = Signal()
    sample_wanted = Signal(str)
    """Path of a bundled image."""
    cleared = Signal()

    def __init__(self, letter: str, samples: Sequence[Path]) -> None:
        super().__init__()
        self.setObjectName("card")
        self._samples = samples
        self.letter = QLabel(letter)
        font = self.letter.font()
        font.setBold(True)
        self.letter.setFont(font)
        self.name = Elided(mode=Qt.TextElideMode.ElideMiddle)
        self.name.setObjectName("muted")
        self.clear = QToolButton()
        self.clear.setText("×")
        self.clear.setAccessibleName(f"Take image {letter} away")
        self.clear.setToolTip("Take it away")
        self.clear.clicked.connect(self.cleared)
        self.face = _Face(f"Image {letter}")
        self.face.clicked.connect(self._ask)
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self.letter)
        head.addWidget(self.name, 1)
        head.addWidget(self.clear)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(_PAD, 6, _PAD, _PAD)
        layout.setSpacing(6)
        layout.addLayout(head)
        layout.addWidget(self.face, 1)
        self.clear.setFixedHeight(self.clear.sizeHint().height())  # it keeps its room while it is hidden
        policy = self.clear.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.clear.setSizePolicy(policy)
        self.show_image(None, "", "")

    @property
    def is_empty(self) -> bool:
        return self.face.image.isNull()

    def show_image(self, pixels: Bytes | None, name: str, tip: str) -> None:
        """(H, W, 3) as the model takes it; None: nothing."""
        self.face.image = QImage() if pixels is None else to_image(pixels)
        self.name.setText(name)
        self.name.setToolTip(tip)
        self.face.setAccessibleDescription(name or "empty")
        self.clear.setVisible(pixels is not None)
        self.face.update()

    def set_room(self, height: int) -> None:
        """So high may the whole slot be: the image becomes as large as that allows."""
        around = self.sizeHint().height() - self.face.sizeHint().height()
        inside = self.contentsRect().width() - 2 * _PAD
        self.setMaximumHeight(around + max(_LEAST, min(inside, height - around)))

    def await_drop(self, awaits: bool) -> None:
        """Whether something is held above it."""
        if awaits != self.face.awaits:
            self.face.awaits = awaits
            self.face.update()

    @Slot()
    def _ask(self) -> None:
        self.menu().popup(self.face.mapToGlobal(QPoint(0, self.face.height())))

    def menu(self) -> QMenu:
        """The ways to an image."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addAction("Open a file…").triggered.connect(self.open_wanted)
        menu.addAction("Paste").triggered.connect(self.paste_wanted)
        samples = menu.addMenu("Samples")
        for path in self._samples:
            samples.addAction(QIcon(str(path)), path.stem).setData(str(path))
        samples.triggered.connect(self._sample_chosen)
        return menu

    @Slot(QAction)
    def _sample_chosen(self, choice: QAction) -> None:
        self.sample_wanted.emit(choice.data())
