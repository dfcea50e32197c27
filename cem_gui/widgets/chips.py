"""Classes to choose from, as buttons that wrap; with a search field when there are many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget
from superqt import QFlowLayout

from cem_gui.widgets.space import keep_space

_SHOWN: Final = 24
"""More buttons than this are a wall; the rest is found by typing."""


class Chip(QPushButton):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.setObjectName("chip")
        self.setCheckable(True)
        keep_space(self)


class Chips(QWidget):
    """`changed` bears the chosen indices, in order; it is silent when they are set by the program."""

    changed = Signal(list)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._names: tuple[str, ...] = ()
        self._chosen: set[int] = set()
        self._search = QLineEdit()
        self._search.setPlaceholderText("Find a class")
        self._search.setClearButtonEnabled(True)
        self._search.setAccessibleName("Find a class")
        self._search.setAcceptDrops(False)  # what is dropped belongs to the window, wherever it falls
        self._search.textChanged.connect(self._lay_out)
        self._field = QWidget()
        self._flow = QFlowLayout(self._field)
        self._flow.setContentsMargins(0, 0, 0, 0)
        self._flow.setSpacing(5)
        self._more = QLabel()
        self._more.setObjectName("muted")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for widget in (self._search, self._field, self._more):
            layout.addWidget(widget)
        self._lay_out()

    @property
    def chosen(self) -> list[int]:
        return sorted(self._chosen)

    def set_names(self, names: Sequence[str]) -> None:
        """The classes to choose from; what was chosen stays if they are the same."""
        if tuple(names) != self._names:
            self._names, self._chosen = tuple(names), set()
            self._search.clear()
            self._lay_out()

    def choose(self, indices: Iterable[int]) -> None:
        self._chosen = {index for index in indices if 0 <= index < len(self._names)}
        self._lay_out()

    def _lay_out(self) -> None:
        while item := self._flow.takeAt(0):
            item.widget().hide()
            item.widget().deleteLater()
        many = len(self._names) > _SHOWN
        self._search.setVisible(many)
        text = self._search.text().casefold().strip()
        found = [i for i, name in enumerate(self._names) if text in name.casefold()]
        shown = sorted({*found[:_SHOWN], *self._chosen}) if many else found
        for index in shown:
            chip = Chip(self._elided(self._names[index]))
            chip.setToolTip(f"{self._names[index]} (class {index})")
            chip.setChecked(index in self._chosen)
            chip.setProperty("index", index)
            chip.toggled.connect(self._toggled)
            self._flow.addWidget(chip)
        hidden = len(found) - len([i for i in shown if i in set(found)])
        self._more.setVisible(hidden > 0)
        self._more.setText(f"and {hidden:,} more: type to find them")

    def _elided(self, name: str) -> str:
        return self.fontMetrics().elidedText(name.replace("&", "&&"), Qt.TextElideMode.ElideRight, 150)

    def _toggled(self, on: bool) -> None:
        index = self.sender().property("index")
        (self._chosen.add if on else self._chosen.discard)(index)
        self.changed.emit(self.chosen)
