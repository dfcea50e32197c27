"""Histograms of E(x), one a model."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget


class EnergiesPanel(QWidget):
    pass
