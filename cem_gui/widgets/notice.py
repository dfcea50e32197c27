"""A message that stays until it is dismissed, above what it is about."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

_LINES: Final = 6
"""Messages that are shown at once; the oldest make room."""


class Notice(QWidget):
    offer_taken = Signal()
    """The button that came with a message was pressed."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.text = QLabel()
        self.text.setObjectName("notice")
        self.text.setWordWrap(True)
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.offer = QPushButton()
        self.offer.clicked.connect(self.offer_taken)
        self.offer.hide()
        self.close_button = QPushButton("Dismiss")
        self.close_button.clicked.connect(self.hide)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.offer)
        row.addWidget(self.close_button)
        self.hide()

    @Slot(str)
    def say(self, text: str, offer: str = "") -> None:
        """Add a sentence to those that are shown; offer: what a button that leads on says."""
        shown = not self.isHidden()
        said = self.text.text().splitlines() if shown else []
        self.text.setText("\n".join([*(line for line in said if line != text), text][-_LINES:]))
        if offer or not shown:
            self.offer.setText(offer)
            self.offer.setVisible(bool(offer))
        self.show()
