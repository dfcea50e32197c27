"""One of several models side by side: which it is, its image, two plots over steps, and what else it has to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from cem_core.messages import Checkpoint
from cem_gui import theme
from cem_gui.widgets.band_plot import SYMBOLS
from cem_gui.widgets.card import small
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.picture import Picture
from cem_gui.widgets.small_plot import SmallPlot

LEAST: Final = 64
"""Side of an image."""
WIDE: Final = 350
"""Width from which on things stand side by side."""
NO_REST: Final = np.zeros((1, 1), np.float32)
"""No other chains beside the chosen one: of a single point nothing is drawn."""
_PAD: Final = 12


class ModelColumn(QFrame):
    """Who inherits makes its widgets and places them in `arrange`, which is asked again at every size."""

    stepped = Signal(int)

    def __init__(self, index: int, image: str, plots: Sequence[SmallPlot]) -> None:
        """image: what it is called."""
        super().__init__()
        self.setObjectName("card")
        self.index = index
        self.symbol = QLabel(SYMBOLS[index])
        self.name = Elided()
        font = self.name.font()
        font.setBold(True)
        self.name.setFont(font)
        self.symbol.setFixedHeight(self.name.sizeHint().height())  # some symbols are of another font
        self.about = Elided()
        self.about.setObjectName("muted")
        self.about.setFont(small().font())
        self._title = ""
        self.image = Picture(image, LEAST)
        self.image.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._plots = plots
        for plot in plots:
            plot.stepped.connect(self.stepped)
        head = QHBoxLayout()
        head.setSpacing(6)
        head.addWidget(self.symbol)
        head.addWidget(self.name, 1)
        self.grid = QGridLayout()
        self.grid.setContentsMargins(0, 0, 0, 0)
        self.grid.setVerticalSpacing(8)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(_PAD, 10, _PAD, _PAD)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addWidget(self.about)
        layout.addSpacing(4)
        layout.addLayout(self.grid, 1)

    def restyle(self) -> None:
        self.symbol.setStyleSheet(f"color: {theme.of_model(self.index)}")
        for plot in self._plots:
            plot.restyle()

    def show_name(self, checkpoint: Checkpoint, title: str) -> None:
        """Which model it is, without an image yet; title: what stands below its name while all is well."""
        self.name.setText(checkpoint.name)
        self.name.setToolTip(f"{checkpoint.name}\n{checkpoint.path}")
        self._title = title
        self.show_problem("")
        self.image.show_pixels(None)

    def show_problem(self, sentence: str) -> None:
        """Why it went no further; empty: it did."""
        self.about.setText(f"⚠ {sentence}" if sentence else self._title)
        self.about.setToolTip(sentence or self._title)
        self.about.setStyleSheet(f"color: {theme.now().red}" if sentence else "")

    def clear_curves(self) -> None:
        """There is no run to draw."""
        for plot in self._plots:
            plot.show_series({}, NO_REST, 1)

    def set_cursor(self, step: int) -> None:
        for plot in self._plots:
            plot.set_cursor(step)

    @property
    def inside(self) -> int:
        """Width of what is placed."""
        return self.contentsRect().width() - 2 * _PAD

    def place(self, places: Iterable[tuple[QWidget, int, int, int]], stretches: Sequence[int]) -> None:
        """Widgets by row, column and how many columns they take; and how rows share what height is left."""
        for widget, row, column, span in places:
            self.grid.removeWidget(widget)
            self.grid.addWidget(widget, row, column, 1, span)
        for row, stretch in enumerate(stretches):
            self.grid.setRowStretch(row, stretch)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.arrange()

    def arrange(self) -> None:
        raise NotImplementedError
