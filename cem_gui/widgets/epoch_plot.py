"""A curve over the epochs of a training: one value an epoch, what lies between them faint, and one epoch cursor."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from cem_gui import theme
from cem_gui.widgets.plot import CACHED, Floats, entry
from cem_gui.widgets.small_plot import SmallPlot

AXIS: Final = 72
"""Width of the vertical axis in pixels: below it there is room for a picture."""
_DOTTED: Final = 60
"""Epochs up to which each has its dot."""


class EpochPlot(SmallPlot):
    """Index 0 of its series is before the first epoch, where nothing is known; `stepped` bears an epoch."""

    moved = Signal()
    """What is drawn where is another."""

    def __init__(
        self, title: str, about: str, told: Callable[[float], str], parent: QWidget | None = None, *, last: bool = False
    ) -> None:
        """told: a value in words. about: a tip. last: the lowest of several, which numbers the epochs for all."""
        self._told = told
        self._now: float | None = None
        self._says = ""
        super().__init__(title, "", about, parent)
        self.view.setAccessibleName(f"{title}, over epochs")
        item = self.view.getPlotItem()
        item.getAxis("left").setWidth(AXIS)
        if not last:
            item.getAxis("bottom").setStyle(showValues=False)
            item.getAxis("bottom").setHeight(6)
        self._between = pg.PlotDataItem(connect="finite")
        self._between.setDownsampling(auto=True, method="peak")
        self._between.setClipToView(True)
        self._between.setZValue(-1)
        self._between.curve.setCacheMode(CACHED)
        self.view.addItem(self._between)
        item.vb.sigResized.connect(self.moved)
        self.restyle()

    def restyle(self) -> None:
        super().restyle()
        if hasattr(self, "_between"):
            self._between.setPen(pg.mkPen(theme.now().faint, width=1))
            self._dot()

    def show_epochs(
        self,
        series: Mapping[str, tuple[str, Floats]],
        span: tuple[float, float],
        between: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
        says: str = "",
    ) -> None:
        """Draw anew.

        Args:
            series: legend → (name of a theme colour, (1 + epochs,) values; NaN: not known).
            span: what the horizontal axis covers.
            between: epochs, in fractions too, and the value at each.
            says: why there is no series.
        """
        self._says = says
        at, values = between or (np.empty(0), np.empty(0))
        self._now = float(values[-1]) if len(values) else None
        self.show_series(series, np.full((1, 1), np.nan, np.float32), 1)
        self._between.setData(at, values)
        self._dot()
        self.view.setXRange(*span, padding=0)
        self.moved.emit()

    def across(self, epoch: float) -> float:
        """Where an epoch is, in pixels from the left edge of `view`."""
        place = self.view.getPlotItem().vb.mapViewToScene(pg.Point(epoch, 0))
        return float(self.view.mapFromScene(place).x())

    def _paint(self, curve: Any, name: str) -> None:
        curve.setPen(pg.mkPen(getattr(theme.now(), self._series[name][0]), width=2))

    def _dot(self) -> None:
        """A single epoch would make no line."""
        for name, curve in self._curves.items():
            colour, values = self._series[name]
            dotted = len(values) <= _DOTTED + 1 and np.isfinite(values).any()  # Qt crashes over dots that are nowhere
            curve.setSymbol("o" if dotted else None)
            curve.setSymbolSize(5)
            curve.setSymbolPen(None)
            curve.setSymbolBrush(pg.mkBrush(getattr(theme.now(), colour)))

    def _write_legend(self) -> None:
        epoch = self._step if self._hover is None else self._hover
        parts = []
        for name, (colour, values) in self._series.items():
            value = float(values[min(epoch, len(values) - 1)]) if len(values) else math.nan
            parts.append(entry(colour, name, "–" if math.isnan(value) else self._told(value)))
        muted = theme.now().muted
        if not parts and self._says:
            parts.append(f'<span style="color:{muted}">{html.escape(self._says)}</span>')
        if self._now is not None:
            parts.append(f'<span style="color:{muted}">now&nbsp;{html.escape(self._told(self._now))}</span>')
        if self._hover is not None:
            parts.append(f'<span style="color:{muted}">epoch&nbsp;{epoch}</span>')
        self.legend.setText("&nbsp;&nbsp; ".join(parts))

    def _clamped(self, x: float) -> int:
        return max(1, super()._clamped(x))
