"""Shares of images over E(x), for each kind of them: told apart by colour, filling and outline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QSize, Qt, Signal, Slot
from PySide6.QtGui import QBrush, QColor
from PySide6.QtWidgets import QWidget

from cem_core.probes.energy_report import Histogram
from cem_core.probes.results import Kind
from cem_gui import theme
from cem_gui.widgets.figures import figure
from cem_gui.widgets.plot import Values

pg.setConfigOptions(imageAxisOrder="row-major", antialias=True, mouseRateLimit=0)


class _Style(NamedTuple):
    symbol: str
    """In text."""
    colour: str
    filling: Qt.BrushStyle
    alpha: int
    outline: Qt.PenStyle


_STYLES: Final[dict[Kind, _Style]] = {
    "clean": _Style("■", "accent", Qt.BrushStyle.SolidPattern, 90, Qt.PenStyle.SolidLine),
    "adversarial": _Style("▨", "red", Qt.BrushStyle.BDiagPattern, 255, Qt.PenStyle.SolidLine),
    "generated": _Style("□", "blue", Qt.BrushStyle.NoBrush, 0, Qt.PenStyle.DashLine),
}


def marked(kind: Kind) -> str:
    """Its name in rich text, after the symbol that stands for how it is drawn."""
    style = _STYLES[kind]
    return f"<span style='color: {getattr(theme.now(), style.colour)}'>{style.symbol}</span> {kind}"


class _Percent(pg.AxisItem):
    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        return [f"{value:g} %" for value in values]


class HistogramPlot(pg.PlotWidget):
    read = Signal(str)
    """What the mouse is on, in a line; empty: nothing."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent, axisItems={"left": _Percent("left"), "bottom": Values("bottom")})
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setFrameShape(self.Shape.NoFrame)
        self.setMinimumHeight(110)
        self.hideButtons()
        self.setMenuEnabled(False)
        self.setMouseEnabled(x=False, y=False)
        item = self.getPlotItem()
        item.getAxis("left").setWidth(48)
        item.getAxis("bottom").setHeight(40)
        item.getAxis("bottom").enableAutoSIPrefix(False)
        item.getViewBox().setLimits(yMin=0)
        self._histogram: Histogram | None = None
        self._drawn: dict[Kind, Any] = {}
        self._said = ""
        self.scene().sigMouseMoved.connect(self._moved)
        self.restyle()

    def sizeHint(self) -> QSize:
        """No more than it needs: layouts give it what room there is."""
        return QSize(320, 140)

    def restyle(self) -> None:
        """Take the colours in force."""
        colours = theme.now()
        self.setBackground(colours.card)
        item = self.getPlotItem()
        for side in ("left", "bottom"):
            axis = item.getAxis(side)
            axis.setPen(pg.mkPen(colours.border))
            axis.setTextPen(pg.mkPen(colours.muted))
            axis.setStyle(tickLength=-4)
        item.getAxis("bottom").setLabel("E(x)", color=colours.muted)
        item.showGrid(x=False, y=True, alpha=0.12)
        for kind, drawn in self._drawn.items():
            _paint(drawn, kind)

    def show_histogram(self, histogram: Histogram) -> None:
        self._histogram = histogram
        for kind in self._drawn.keys() - histogram.shares.keys():
            self.removeItem(self._drawn.pop(kind))
        for kind, shares in histogram.shares.items():
            if kind not in self._drawn:
                self._drawn[kind] = drawn = pg.PlotDataItem(np.array([0.0, 1.0]), np.zeros(1), stepMode="center")
                drawn.setFillLevel(0)
                _paint(drawn, kind)
                self.addItem(drawn)
            self._drawn[kind].setData(histogram.edges, 100 * shares, stepMode="center")
        self.setXRange(float(histogram.edges[0]), float(histogram.edges[-1]), padding=0.02)
        for side in ("left", "bottom"):
            self.getPlotItem().getAxis(side).setVisible(bool(histogram.shares))
        most = max((float(shares.max()) for shares in histogram.shares.values()), default=1.0)
        self.setYRange(0, 100 * most, padding=0.05)

    @Slot(object)
    def _moved(self, point: QPointF) -> None:
        box = self.getPlotItem().vb
        inside = self._histogram is not None and bool(box.sceneBoundingRect().contains(point))
        self._say(self._at(float(box.mapSceneToView(point).x())) if inside else "")

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._say("")

    def _at(self, energy: float) -> str:
        assert self._histogram is not None
        edges, shares = self._histogram
        bin_ = int(np.clip(np.searchsorted(edges, energy, "right") - 1, 0, len(edges) - 2))
        said = ", ".join(f"{marked(kind)} {100 * share[bin_]:.1f} %" for kind, share in shares.items())
        return f"E(x) from {figure(edges[bin_])} to {figure(edges[bin_ + 1])}: {said}"

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self.read.emit(text)


def _paint(drawn: Any, kind: Kind) -> None:
    style = _STYLES[kind]
    colour = QColor(getattr(theme.now(), style.colour))
    drawn.setPen(pg.mkPen(colour, width=2, style=style.outline))
    inside = QColor(colour)
    inside.setAlpha(style.alpha)
    drawn.setFillBrush(QBrush(inside, style.filling))
