"""Shares against ε with their bands, one curve a model, told apart by colour, dashes and symbol."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QSize, Qt, Signal, Slot
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QLabel, QSizePolicy, QWidget

from cem_core.messages import Norm
from cem_core.probes.report import told
from cem_core.probes.results import Point
from cem_gui import theme
from cem_gui.widgets.card import Card, small

pg.setConfigOptions(imageAxisOrder="row-major", antialias=True, mouseRateLimit=0)

SYMBOLS: Final = ("●", "■", "◆", "★")
"""Of the models, in text,"""
_DRAWN: Final = ("o", "s", "d", "star")
"""and as they are drawn."""
_DASHES: Final = (Qt.PenStyle.SolidLine, Qt.PenStyle.DashLine, Qt.PenStyle.DotLine, Qt.PenStyle.DashDotLine)


class BandCurve(NamedTuple):
    name: str
    points: Sequence[Point]
    """From small ε to large."""


class _View(pg.PlotWidget):
    left = Signal()
    """The mouse went."""

    def sizeHint(self) -> QSize:
        """No more than it needs: layouts give it what room there is."""
        return QSize(320, 160)

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self.left.emit()


class _Percent(pg.AxisItem):
    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        return [f"{value:.0f} %" for value in values]


class _Drawn(NamedTuple):
    """The parts of a curve."""

    band: Any
    low: Any
    high: Any
    line: Any


class BandPlot(Card):
    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(title, parent)
        self.about = small()
        self.about.setTextFormat(Qt.TextFormat.PlainText)
        self.legend = QLabel()
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        for label in (self.about, self.legend):
            label.setWordWrap(True)
            label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.view = _View(axisItems={"left": _Percent("left")})
        self.view.setAccessibleName(f"{title}: curves with 95 % bands")
        self.view.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.view.setFrameShape(self.view.Shape.NoFrame)
        self.view.setMinimumHeight(140)
        self.view.hideButtons()
        self.view.setMenuEnabled(False)
        self.view.setMouseEnabled(x=False, y=False)
        self.view.setYRange(0, 100, padding=0.03)
        item = self.view.getPlotItem()
        item.getAxis("left").setWidth(48)
        item.getAxis("bottom").setHeight(44)
        item.getAxis("bottom").enableAutoSIPrefix(False)
        self._cursor = pg.InfiniteLine(0)
        self._cursor.hide()
        self.view.addItem(self._cursor, ignoreBounds=True)
        self.view.scene().sigMouseMoved.connect(self._moved)
        self.view.left.connect(self._left)
        self._curves: Sequence[BandCurve] = ()
        self._drawn: list[_Drawn] = []
        self._norm: Norm = "l2"
        self._eps: tuple[float, ...] = ()
        self._hover: float | None = None
        self.body.addWidget(self.about)
        self.body.addWidget(self.legend)
        self.body.addWidget(self.view, 1)
        self.restyle()

    def restyle(self) -> None:
        """Take the colours in force."""
        colours = theme.now()
        self.view.setBackground(colours.card)
        item = self.view.getPlotItem()
        for side in ("left", "bottom"):
            axis = item.getAxis(side)
            axis.setPen(pg.mkPen(colours.border))
            axis.setTextPen(pg.mkPen(colours.muted))
            axis.setStyle(tickLength=-4)
        item.showGrid(x=False, y=True, alpha=0.12)
        self._cursor.setPen(pg.mkPen(colours.faint, width=1, style=Qt.PenStyle.DashLine))
        self._label_axis()
        for number, drawn in enumerate(self._drawn):
            _paint(drawn, number)
        self._write_legend()

    def show_curves(self, curves: Sequence[BandCurve], eps: Sequence[float], norm: Norm, about: str) -> None:
        """Draw anew.

        Args:
            curves: up to four; their place decides how they look.
            eps: which radii there will be, from small to large, in the norm.
            about: a line on what is shown.
        """
        self._curves, self._norm, self._eps = curves, norm, tuple(eps)
        self.about.setText(about)
        while len(self._drawn) > len(curves):
            for part in self._drawn.pop():
                self.view.removeItem(part)
        while len(self._drawn) < len(curves):
            self._drawn.append(self._make(len(self._drawn)))
        for curve, drawn in zip(curves, self._drawn, strict=True):
            x = np.array([point.eps for point in curve.points], float)
            for part, values in (
                (drawn.low, [point.band[0] for point in curve.points]),
                (drawn.high, [point.band[1] for point in curve.points]),
                (drawn.line, [point.accuracy for point in curve.points]),
            ):
                part.setData(x, 100 * np.array(values, float))
        self._label_axis()
        most = max(self._eps, default=0.0) or 1.0
        self.view.setXRange(0, most, padding=0.03)
        if self._hover not in self._eps:
            self._hover = None
        self._write_legend()

    def _make(self, number: int) -> _Drawn:
        low, high, line = pg.PlotCurveItem(), pg.PlotCurveItem(), pg.PlotDataItem()
        drawn = _Drawn(pg.FillBetweenItem(low, high), low, high, line)
        drawn.band.setZValue(-10)
        for part in drawn:
            self.view.addItem(part)
        _paint(drawn, number)
        return drawn

    def _label_axis(self) -> None:
        """Ticks where there are values, written as people write them."""
        axis = self.view.getPlotItem().getAxis("bottom")
        name = {"l2": "ε, L2 distance in pixel units of [0,1]", "linf": "ε, L∞: the most that a pixel may change"}
        axis.setLabel(name[self._norm], color=theme.now().muted)
        axis.setTicks([[(eps, told(eps, self._norm)) for eps in _apart(self._eps)]] if self._eps else None)

    # ---- reading values ----------------------------------------------------------------------------------------------

    @Slot(object)
    def _moved(self, point: QPointF) -> None:
        box = self.view.getPlotItem().vb
        if not self._eps or not box.sceneBoundingRect().contains(point):
            self._left()
            return
        x = box.mapSceneToView(point).x()
        self._set_hover(min(self._eps, key=lambda eps: abs(eps - x)))

    @Slot()
    def _left(self) -> None:
        self._set_hover(None)

    def _set_hover(self, eps: float | None) -> None:
        if eps != self._hover:
            self._hover = eps
            self._write_legend()

    def _write_legend(self) -> None:
        self._cursor.setVisible(self._hover is not None)
        if self._hover is not None:
            self._cursor.setValue(self._hover)
        muted = theme.now().muted
        parts = []
        if self._hover is not None:
            parts.append(f"<span style='color: {muted}'>at ε = {told(self._hover, self._norm)}</span>")
        for number, curve in enumerate(self._curves):
            read = next((point for point in curve.points if point.eps == self._hover), None)
            symbol = f"<span style='color: {theme.of_model(number)}'>{SYMBOLS[number]}</span>"
            said = f"{symbol}&nbsp;{html.escape(_short(curve.name))}"
            if read is not None:
                low, high = read.band
                said += (
                    f" <b>{100 * read.accuracy:.1f} %</b> <span style='color: {muted}'>"
                    f"({100 * low:.1f}–{100 * high:.1f} %, n = {read.total:,})</span>"
                )
            parts.append(said)
        self.legend.setText(" &nbsp; ".join(parts))


def _short(name: str, most: int = 48) -> str:
    """Both of its ends, as many names differ by the last letters alone; in one piece where lines are broken."""
    kept = name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"
    return kept.replace(" ", "\xa0").replace("-", "\u2011")


def _paint(drawn: _Drawn, number: int) -> None:
    colour = QColor(theme.of_model(number))
    faint = QColor(colour)
    faint.setAlpha(46)
    drawn.band.setBrush(faint)
    faint.setAlpha(110)
    for edge in (drawn.low, drawn.high):
        edge.setPen(pg.mkPen(faint, width=1))
    drawn.line.setPen(pg.mkPen(colour, width=2, style=_DASHES[number]))
    drawn.line.setSymbol(_DRAWN[number])
    drawn.line.setSymbolSize(9)
    drawn.line.setSymbolBrush(colour)
    drawn.line.setSymbolPen(pg.mkPen(theme.now().card, width=1))


def _apart(eps: Sequence[float], least: float = 0.055) -> list[float]:
    """Which of the radii, from small to large, have room for a label each; the last always has."""
    kept: list[float] = []
    room = least * (eps[-1] or 1.0)
    for value in reversed(eps):
        if not kept or kept[-1] - value >= room:
            kept.append(value)
    return kept[::-1]
