"""A heat map of energies with contours."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget


class LandscapePanel(QWidget):
    pass
