"""A share for each class, as bars: the lowest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, QRectF, Qt
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTreeView,
    QWidget,
)

from cem_core.probes.results import wilson
from cem_gui import theme

_Index = QModelIndex | QPersistentModelIndex
_BAR: Final = 8
"""Height of a bar,"""
_LENGTH: Final = 84
"""and the room for it."""


class ClassShare(NamedTuple):
    name: str
    correct: int
    total: int

    @property
    def share(self) -> float:
        return self.correct / self.total


class _Model(QAbstractTableModel):
    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.shares: list[ClassShare] = []

    def show(self, shares: list[ClassShare]) -> None:
        if shares != self.shares:
            self.layoutAboutToBeChanged.emit()
            self.shares = shares
            self.layoutChanged.emit()

    def rowCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.shares)

    def columnCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008
        return 3

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        one = self.shares[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return (one.name, one.share, f"{one.correct:,}/{one.total:,}")[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            low, high = wilson(one.correct, one.total)
            band = f"95 % band {100 * low:.0f}–{100 * high:.0f} %"
            return f"{one.name}: {100 * one.share:.1f} %, {one.correct:,} of {one.total:,} images ({band})"
        if role == Qt.ItemDataRole.AccessibleTextRole and index.column() == 1:
            return f"{100 * one.share:.0f} %"
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() == 2:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None


class _Bar(QStyledItemDelegate):
    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        room = QRectF(option.rect).adjusted(4, 0, -4, 0)
        bar = QRectF(room.left(), room.center().y() - _BAR / 2, room.width(), _BAR)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(theme.now().border))
        painter.drawRoundedRect(bar, 2, 2)
        bar.setWidth(bar.width() * float(index.data()))
        painter.setBrush(QColor(theme.now().accent))
        painter.drawRoundedRect(bar, 2, 2)
        painter.restore()


class ClassBars(QTreeView):
    """One line a class, however many: only those in sight are drawn."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName("Accuracy of each class, the worst first")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setStyleSheet("QTreeView { background: transparent; border: 0; } QTreeView::item { padding: 3px 2px; }")
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setHeaderHidden(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self._model = _Model(self)
        self.setModel(self._model)
        self._bar = _Bar(self)
        self.setItemDelegateForColumn(1, self._bar)
        header = self.header()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(20)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Fixed)
        header.resizeSection(1, _LENGTH)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.ResizeToContents)

    @property
    def shares(self) -> Sequence[ClassShare]:
        """As they are shown."""
        return self._model.shares

    def show_shares(self, names: Sequence[str], counts: Sequence[tuple[int, int]]) -> None:
        """(correct, total) for each class; classes without images are left out."""
        known = [ClassShare(name, *count) for name, count in zip(names, counts, strict=True) if count[1]]
        self._model.show(sorted(known, key=lambda one: (one.share, -one.total)))
