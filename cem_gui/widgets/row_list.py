"""Rows of a table to be: by model, each with a box to tick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from PySide6.QtCore import QEvent, QSignalBlocker, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

_NAME: Final = Qt.ItemDataRole.UserRole


class Offer(NamedTuple):
    """A row that can be chosen."""

    name: str
    """Of the row: unique."""
    sampler: str
    start: str
    tip: str
    usual: bool
    """Ticked unless somebody said otherwise."""


class RowList(QTreeWidget):
    """What is ticked by hand stays so, whatever is offered meanwhile. Space ticks the row that was gone to by Tab and
    the arrow keys."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._said: dict[str, bool] = {}
        self._offers: Sequence[tuple[str, Sequence[Offer]]] = ()
        self.setAccessibleName("Rows of the table")
        self.setHeaderHidden(True)
        self.setColumnCount(2)
        self.setIndentation(16)
        self.setUniformRowHeights(True)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.header().setStretchLastSection(False)
        self.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.itemChanged.connect(self._ticked)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of the rows that are ticked, from the top."""
        return tuple(offer.name for _, offers in self._offers for offer in offers if self._is_ticked(offer))

    def _is_ticked(self, offer: Offer) -> bool:
        return self._said.get(offer.name, offer.usual)

    def show_offers(self, offers: Sequence[tuple[str, Sequence[Offer]]]) -> None:
        """By model: its name, and the rows that it offers."""
        if offers == self._offers:
            return
        folded = {self._at(i).text(0) for i in range(self.topLevelItemCount()) if not self._at(i).isExpanded()}
        known = {self._at(i).text(0) for i in range(self.topLevelItemCount())}
        self._offers = offers
        with QSignalBlocker(self):
            self.clear()
            for place, (model, rows) in enumerate(offers):
                head = QTreeWidgetItem(self, [model])
                head.setToolTip(0, model)
                head.setFirstColumnSpanned(True)
                head.setFlags(head.flags() | Qt.ItemFlag.ItemIsAutoTristate | Qt.ItemFlag.ItemIsUserCheckable)
                for offer in rows:
                    item = QTreeWidgetItem(head, [offer.sampler, offer.start])
                    item.setData(0, _NAME, offer.name)
                    item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                    item.setCheckState(0, _state(self._is_ticked(offer)))
                    item.setToolTip(0, f"{offer.sampler}: {offer.tip}" if offer.tip else offer.sampler)
                    item.setToolTip(1, f"Starts: {offer.start}")
                head.setExpanded(model not in folded if model in known else place == 0)

    def _at(self, index: int) -> QTreeWidgetItem:
        item = self.topLevelItem(index)
        assert item is not None
        return item

    @Slot(QTreeWidgetItem, int)
    def _ticked(self, item: QTreeWidgetItem, column: int) -> None:
        name = item.data(0, _NAME)
        if name is not None:  # the heads follow
            self._said[name] = item.checkState(0) == Qt.CheckState.Checked
            self.changed.emit()

    def event(self, event: QEvent) -> bool:
        """Space ticks here, and begins nothing."""
        if (
            event.type() == QEvent.Type.ShortcutOverride
            and isinstance(event, QKeyEvent)
            and event.key() == Qt.Key.Key_Space
        ):
            event.accept()
            return True
        return super().event(event)


def _state(on: bool) -> Qt.CheckState:
    return Qt.CheckState.Checked if on else Qt.CheckState.Unchecked
