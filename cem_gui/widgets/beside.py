"""Columns side by side, equally wide to the pixel: their rows are aligned only then."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QWidget


class Beside(QWidget):
    def __init__(self, columns: Sequence[QWidget]) -> None:
        super().__init__()
        self._columns, self._count = columns, 1
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(8)
        for column in columns:
            self._row.addWidget(column, 1)
            column.hide()

    def show_columns(self, count: int) -> None:
        """The first so many."""
        self._count = max(1, count)
        for index, column in enumerate(self._columns):
            column.setVisible(index < count)
        self._share()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._share()

    def _share(self) -> None:
        left_over = (self.width() - (self._count - 1) * self._row.spacing()) % self._count
        self._row.setContentsMargins(0, 0, left_over, 0)
