"""The models that are compared: a row of choices, each with the colour that its curves have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from cem_core.probes.requests import MODELS
from cem_gui import theme
from cem_gui.widgets.elided import ElidedBox
from cem_gui.widgets.notice import Notice

_OPEN: Final = "\0open"
"""Not a path, whatever the system."""


class Dot(QWidget):
    """The colour of a model."""

    def __init__(self, index: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._index = index
        self.setFixedSize(10, 18)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(theme.of_model(self._index)))
        painter.drawEllipse(0, 4, 10, 10)


class _Choice(QWidget):
    """One model: its dot, its name, and a way to take it out."""

    def __init__(self, index: int, panel: SubjectsPanel) -> None:
        super().__init__()
        self.box = ElidedBox()
        self.box.setAccessibleName(f"Model {index + 1} of the comparison")
        self.box.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)  # names may be of any length
        self.box.setMinimumWidth(90)
        self.box.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.box.activated.connect(lambda at: panel._activated(index, at))
        self.remove = QToolButton()
        self.remove.setText("×")
        self.remove.setAccessibleName(f"Take model {index + 1} out of the comparison")
        self.remove.setToolTip("Take it out of the comparison")
        self.remove.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.remove.clicked.connect(lambda: panel.removed.emit(index))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        row.addWidget(Dot(index))
        row.addWidget(self.box, 1)
        row.addWidget(self.remove)


class SubjectsPanel(QWidget):
    chosen = Signal(int, str)
    """Which, and the name of a bundled model or the path of a file."""
    open_wanted = Signal(int)
    """Which should be another file."""
    removed = Signal(int)
    added = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.choices = [_Choice(index, self) for index in range(MODELS)]
        self.add = QPushButton("Add a model")
        self.add.setToolTip(f"Up to {MODELS} models can be compared")
        self.add.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.add.clicked.connect(self.added)
        self.notice = Notice()
        row = QHBoxLayout()
        row.setSpacing(12)
        for choice in self.choices:
            row.addWidget(choice, 1)
        row.addWidget(self.add)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 0)
        layout.setSpacing(8)
        layout.addLayout(row)
        layout.addWidget(self.notice)

    def show_subjects(self, known: Sequence[tuple[str, str]], chosen: Sequence[str], opening: Sequence[bool]) -> None:
        """The models that can be chosen, as (what is shown, reference); those that are; and which are on their way."""
        for index, choice in enumerate(self.choices):
            choice.setVisible(index < len(chosen))
            if index >= len(chosen):
                continue
            with QSignalBlocker(choice.box):
                choice.box.clear()
                for text, reference in known:
                    choice.box.addItem(text, reference)
                    choice.box.setItemData(choice.box.count() - 1, reference, Qt.ItemDataRole.ToolTipRole)
                choice.box.insertSeparator(choice.box.count())
                choice.box.addItem("Open a file…", _OPEN)
                choice.box.setCurrentIndex(choice.box.findData(chosen[index]))
                if opening[index]:
                    choice.box.setItemText(choice.box.currentIndex(), f"{choice.box.currentText()} …")
            choice.box.setToolTip(chosen[index])
            choice.remove.setVisible(len(chosen) > 1)
        self.add.setVisible(len(chosen) < MODELS)

    def _activated(self, index: int, at: int) -> None:
        reference = self.choices[index].box.itemData(at)
        if reference == _OPEN:
            self.open_wanted.emit(index)
        else:
            self.chosen.emit(index, reference)
