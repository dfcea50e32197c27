"""Published models to choose from. Nothing is downloaded before the button that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from cem_gui.widgets.card import muted

if TYPE_CHECKING:
    from cem_core.zoo import Entry


class ZooDialog(QDialog):
    """Asks; `entry` holds the answer."""

    def __init__(self, entries: Iterable[Entry], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Open from RobustBench")
        self._entries = list(entries)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Find a model")
        self.search.setAccessibleName("Find a model")
        self.search.setClearButtonEnabled(True)
        self.search.setAcceptDrops(False)
        self.dataset = self._combo("Data set", "All data sets", lambda entry: entry.dataset)
        self.threat = self._combo("Threat model", "All threat models", lambda entry: entry.threat)
        self.list = QTreeWidget()
        self.list.setAccessibleName("Models")
        self.list.setHeaderLabels(["Model", "Data set", "Threat model", ""])
        self.list.setRootIsDecorated(False)
        self.list.setUniformRowHeights(True)
        self.list.setAllColumnsShowFocus(True)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        header = self.list.header()
        header.setStretchLastSection(False)
        header.setSectionsMovable(False)
        for column in range(4):
            mode = QHeaderView.ResizeMode.Stretch if column == 0 else QHeaderView.ResizeMode.ResizeToContents
            header.setSectionResizeMode(column, mode)
        self._items: list[QTreeWidgetItem] = []
        for entry in self._entries:
            here = "downloaded" if entry.downloaded else ""
            item = QTreeWidgetItem([entry.name, entry.dataset, entry.threat, here])
            item.setData(0, Qt.ItemDataRole.UserRole, entry)
            item.setToolTip(0, entry.name)
            self._items.append(item)
        self.list.addTopLevelItems(self._items)
        self.count = muted("")
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.accept_button = self.buttons.addButton("Open", QDialogButtonBox.ButtonRole.AcceptRole)
        self.accept_button.setObjectName("primary")
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)

        fields = QHBoxLayout()
        fields.setSpacing(8)
        fields.addWidget(self.search, 1)
        fields.addWidget(self.dataset)
        fields.addWidget(self.threat)
        foot = QHBoxLayout()
        foot.addWidget(self.count, 1)
        foot.addWidget(self.buttons)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 18, 20, 16)
        layout.setSpacing(12)
        layout.addLayout(fields)
        layout.addWidget(self.list, 1)
        layout.addLayout(foot)
        self.search.textChanged.connect(self._sift)
        self.dataset.currentIndexChanged.connect(self._sift)
        self.threat.currentIndexChanged.connect(self._sift)
        self.list.currentItemChanged.connect(self._follow)
        self.resize(720, 520)
        self._sift()

    @property
    def entry(self) -> Entry | None:
        """What is chosen."""
        item = self.list.currentItem()
        return item.data(0, Qt.ItemDataRole.UserRole) if item is not None and not item.isHidden() else None

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Up and Down go through the list while the search is typed."""
        if event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down) and self.search.hasFocus():
            self.list.setFocus()
        else:
            super().keyPressEvent(event)

    def _combo(self, name: str, every: str, value: Callable[[Entry], str]) -> QComboBox:
        combo = QComboBox()
        combo.setAccessibleName(name)
        combo.addItem(every, "")
        for text in sorted({value(entry) for entry in self._entries}):
            combo.addItem(text, text)
        return combo

    def _sift(self) -> None:
        words = self.search.text().casefold().split()
        dataset, threat = self.dataset.currentData(), self.threat.currentData()
        shown: list[QTreeWidgetItem] = []
        for item, entry in zip(self._items, self._entries, strict=True):
            fits = dataset in ("", entry.dataset) and threat in ("", entry.threat)
            fits = fits and all(word in entry.name.casefold() for word in words)
            item.setHidden(not fits)
            if fits:
                shown.append(item)
        if self.entry is None:
            self.list.setCurrentItem(shown[0] if shown else None)  # type: ignore[arg-type]
        self.count.setText(f"{len(shown):,} of {len(self._entries):,} models")
        self._follow()

    def _follow(self) -> None:
        entry = self.entry
        self.accept_button.setEnabled(entry is not None)
        self.accept_button.setText("Open" if entry is None or entry.downloaded else "Download and open")
