"""Something that takes its time: what, how far, and a way to end it."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QWidget


class ProgressRow(QWidget):
    """Fits into a status bar; hidden until `begin`."""

    cancelled = Signal()

    def __init__(self, name: str, cancel: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.what = QLabel()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedWidth(160)
        self.bar.setAccessibleName(name)
        self.cancel = QPushButton(cancel)
        self.cancel.clicked.connect(self.cancelled)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        for widget in (self.what, self.bar, self.cancel):
            row.addWidget(widget)
        self.hide()

    def show_progress(self, what: str, done: int, total: int) -> None:
        """`total` 0: it only moves."""
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.what.setText(what)
        self.show()
