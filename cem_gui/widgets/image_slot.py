"""One chosen image in a row: dropped, opened from a file, or taken from what is offered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PySide6.QtCore import QPoint, QSize, Qt, Signal, Slot
from PySide6.QtGui import QAction, QDragEnterEvent, QDropEvent, QIcon, QImage, QPixmap
from PySide6.QtWidgets import QHBoxLayout, QMenu, QPushButton, QToolButton, QWidget

from cem_gui.widgets.elided import Elided

_SIDE: Final = 40
_SMALL: Final = 2**16
"""Bytes of a file whose picture stands beside its name in the menu; larger ones would keep it waiting."""


class ImageSlot(QWidget):
    chosen = Signal(str)
    """Path of an image that was offered."""
    dropped = Signal(object)
    """QMimeData with files or an image."""
    file_wanted = Signal()

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAcceptDrops(True)
        self.offers: Sequence[tuple[str, Sequence[str]]] = ()
        """Titles, and the paths below each."""
        self._first: list[str] = []
        self.face = QToolButton()
        self.face.setAccessibleName(name)
        self.face.setIconSize(QSize(_SIDE, _SIDE))
        self.face.setFixedSize(_SIDE + 10, _SIDE + 10)
        self.face.clicked.connect(self._ask)
        self.name = Elided(mode=Qt.TextElideMode.ElideMiddle)
        self.change = QPushButton("Choose…")
        self.change.setToolTip("An image can be dropped here too")
        self.change.clicked.connect(self._ask)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.face)
        row.addWidget(self.name, 1)
        row.addWidget(self.change)

    def show_paths(self, paths: Sequence[str]) -> None:
        """What is chosen; its picture may follow."""
        if list(paths[:1]) != self._first:
            self._first = list(paths[:1])
            self.face.setIcon(QIcon())
        first = Path(paths[0]).stem if paths else "No image"
        self.name.setText(f"{first} and {len(paths) - 1} more" if len(paths) > 1 else first)
        self.name.setToolTip("\n".join(paths))

    def show_picture(self, picture: QImage) -> None:
        self.face.setIcon(QIcon(QPixmap.fromImage(picture.scaled(_SIDE, _SIDE))))

    @Slot()
    def _ask(self) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for title, paths in self.offers:
            below = menu.addMenu(title)
            below.setEnabled(bool(paths))
            for path in paths:
                icon = QIcon(path) if _size(path) <= _SMALL else QIcon()
                below.addAction(icon, Path(path).stem.replace("&", "&&")).setData(path)
        menu.addAction("Open a file…").setData("")
        menu.triggered.connect(self._choose)
        menu.popup(self.face.mapToGlobal(QPoint(0, self.face.height())))

    @Slot(QAction)
    def _choose(self, choice: QAction) -> None:
        if choice.data():
            self.chosen.emit(choice.data())
        else:
            self.file_wanted.emit()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        self.dropped.emit(event.mimeData())


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return _SMALL + 1
