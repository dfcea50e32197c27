"""Runs of several models side by side."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget


class LinkedPanel(QWidget):
    pass
