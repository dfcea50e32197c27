"""The smallest ε of each model, and what it takes."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget


class SmallestPanel(QWidget):
    pass
