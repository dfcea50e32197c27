"""Accuracy against ε: curves, numbers and how far to trust them."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget


class AccuracyPanel(QWidget):
    pass
