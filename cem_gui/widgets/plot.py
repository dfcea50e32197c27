"""Curves over steps: a few named ones, the rest faint, and the shared step cursor."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QSignalBlocker, Qt, Signal, Slot
from PySide6.QtWidgets import QGraphicsItem, QLabel, QSizePolicy, QWidget

from cem_gui import theme
from cem_gui.widgets import marks
from cem_gui.widgets.card import Card
from cem_gui.widgets.figures import figure
from cem_gui.widgets.marks import Mark

# No limit on the mouse: with one, the legend tells where the mouse was a moment before it stopped.
pg.setConfigOptions(imageAxisOrder="row-major", antialias=True, mouseRateLimit=0)

Floats = NDArray[np.float32]

CACHED: Final = QGraphicsItem.CacheMode.DeviceCoordinateCache
"""Curves are painted when they change; a cursor that moves over them copies pixels."""
_FAINT_STEPS: Final = 400
_FAINT_CURVES: Final = 40
_MARGIN: Final = 8
"""Right of the curves."""
_REACH: Final = 5
"""Pixels around a mark that count as on it."""


class _Steps(pg.AxisItem):
    """An axis that knows no half steps."""

    def tickSpacing(self, *span: Any) -> list[tuple[float, float]]:
        return [(spacing, offset) for spacing, offset in super().tickSpacing(*span) if spacing >= 1] or [(1.0, 0.0)]


class Values(pg.AxisItem):
    """Numbers as they are printed everywhere."""

    def tickStrings(self, *ticks: Any) -> list[str]:
        return [text.replace("-", "−") for text in super().tickStrings(*ticks)]


class _View(pg.PlotWidget):
    left = Signal()
    """The mouse went."""

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self.left.emit()


class Plot(Card):
    """`stepped` bears the step to which the cursor was dragged or clicked."""

    stepped = Signal(int)

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(title, parent)
        self.legend = QLabel()
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.legend.setWordWrap(True)
        self.legend.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.view = _View(axisItems=self._axes())
        self.view.setAccessibleName(f"{title}, over steps")
        self.view.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # a click leaves the step keys with the images
        self.view.setFrameShape(self.view.Shape.NoFrame)
        self.view.setMinimumHeight(90)
        self.view.hideButtons()
        self.view.setMenuEnabled(False)
        self.view.setMouseEnabled(x=False, y=False)
        item = self.view.getPlotItem()
        item.getAxis("left").setWidth(38)
        item.getAxis("bottom").setStyle(hideOverlappingLabels=False)  # the first and the last step have theirs,
        item.setContentsMargins(0, 0, _MARGIN, 0)  # and room for it
        for side in ("left", "bottom"):
            item.getAxis(side).setCacheMode(CACHED)
        self._rest = pg.PlotCurveItem(connect="finite")
        self._rest.setCacheMode(CACHED)
        self.view.addItem(self._rest)
        self._curves: dict[str, Any] = {}
        self._beside: dict[str, Any] = {}
        """The same of another run, dashed."""
        self._marks: Sequence[Mark] = ()
        self._glyphs = pg.ScatterPlotItem(pxMode=True)
        self._glyphs.setZValue(10)
        self.view.addItem(self._glyphs, ignoreBounds=True)
        self._series: Mapping[str, tuple[str, Floats]] = {}
        self._other: Mapping[str, tuple[str, Floats]] = {}
        self._step = 0
        self._hover: int | None = None
        self._cursor = pg.InfiniteLine(0, movable=True)
        self.view.addItem(self._cursor, ignoreBounds=True)
        self._cursor.sigPositionChanged.connect(self._dragged)
        self.view.scene().sigMouseClicked.connect(self._clicked)
        self.view.scene().sigMouseMoved.connect(self._moved)
        self.view.left.connect(self._left)
        self.body.addWidget(self.legend)
        self.body.addWidget(self.view, 1)
        self.restyle()

    def _axes(self) -> dict[str, Any]:
        """Those that are not as usual."""
        return {"left": Values("left"), "bottom": _Steps("bottom")}

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
        self._cursor.setPen(pg.mkPen(colours.text, width=1, style=Qt.PenStyle.DashLine))
        self._cursor.setHoverPen(pg.mkPen(colours.accent, width=2))
        self._rest.setPen(pg.mkPen(colours.faint + "90", width=1))
        for name, curve in self._curves.items():
            self._paint(curve, name)
        for curve, (colour, _) in zip(self._beside.values(), self._other.values(), strict=False):
            curve.setPen(_dashed(colour))
        self._paint_marks()
        self._write_legend()

    def show_series(
        self,
        series: Mapping[str, tuple[str, Floats]],
        rest: Floats,
        length: int,
        span: tuple[float, float] | None = None,
        beside: Mapping[str, tuple[str, Floats]] | None = None,
    ) -> None:
        """Draw anew.

        Args:
            series: legend → (name of a theme colour, (T,) values).
            rest: (T, B) faint ones.
            length: steps that the axis covers.
            span: what the vertical axis covers; None: what there is.
            beside: the same of another run, dashed.
        """
        before, self._series = self._series, series
        for name in self._curves.keys() - series.keys():
            self.view.removeItem(self._curves.pop(name))
        for name, (colour, values) in series.items():
            if name not in self._curves:
                self._curves[name] = curve = pg.PlotDataItem(connect="finite")
                self.view.addItem(curve)
                curve.setDownsampling(auto=True, method="peak")
                curve.setClipToView(True)
                curve.curve.setCacheMode(CACHED)
            if name not in before or before[name][0] != colour:
                self._paint(self._curves[name], name)
            self._curves[name].setData(np.arange(len(values)), values)
        self._rest.setData(*_thinned(rest))
        self._show_beside(beside or {})
        self._paint_marks()
        self.view.setXRange(0, max(1, length), padding=0.02)
        if span is None:
            self.view.enableAutoRange("y")
        else:
            self.view.setYRange(*span, padding=0.08)
        self._write_legend()

    def show_marks(self, shown: Sequence[Mark]) -> None:
        """What happened in the chosen chain, on its first curve."""
        self._marks = shown
        self._paint_marks()

    def _show_beside(self, series: Mapping[str, tuple[str, Floats]]) -> None:
        self._other = series
        for name in self._beside.keys() - series.keys():
            self.view.removeItem(self._beside.pop(name))
        for name, (colour, values) in series.items():
            if name not in self._beside:
                self._beside[name] = curve = pg.PlotDataItem(connect="finite")
                self.view.addItem(curve)
                curve.setDownsampling(auto=True, method="peak")
                curve.setClipToView(True)
                curve.curve.setCacheMode(CACHED)
            self._beside[name].setPen(_dashed(colour))
            self._beside[name].setData(np.arange(len(values)), values)

    def _paint_marks(self) -> None:
        values = next(iter(self._series.values()))[1] if self._series else np.empty(0, np.float32)
        ground = pg.mkPen(theme.now().card, width=1)
        self._glyphs.setData([
            {"pos": (mark.step, float(values[mark.step])), "symbol": marks.shape(mark.kind), "size": 9,
             "brush": marks.colour(mark.kind), "pen": ground}
            for mark in self._marks
            if mark.step < len(values) and math.isfinite(values[mark.step])
        ])  # fmt: skip

    def set_cursor(self, step: int) -> None:
        self._step = step
        with QSignalBlocker(self._cursor):
            self._cursor.setValue(step)
        self._write_legend()

    def _paint(self, curve: Any, name: str) -> None:
        # The first lies under the second where they meet, and shows on both sides of it.
        width = 3.5 if len(self._series) == 2 and name == next(iter(self._series)) else 2
        curve.setPen(pg.mkPen(getattr(theme.now(), self._series[name][0]), width=width))

    def _write_legend(self) -> None:
        step = self._step if self._hover is None else self._hover
        parts = [
            entry(colour, name, _short(float(values[min(step, len(values) - 1)])))
            for name, (colour, values) in self._series.items()
            if len(values)
        ]
        at = f' <span style="color:{theme.now().muted}">at step {step}</span>' if self._hover is not None else ""
        self.legend.setText("&nbsp;&nbsp; ".join(parts) + at)

    def _clamped(self, x: float) -> int:
        steps = max((len(values) for _, values in self._series.values()), default=1)
        return min(max(round(x), 0), steps - 1)

    @Slot(object)
    def _dragged(self, line: Any) -> None:
        self.stepped.emit(self._clamped(line.value()))

    @Slot(object)
    def _clicked(self, event: Any) -> None:
        there = self._marks_at(event.scenePos())
        self.stepped.emit(there[0].step if there else self._clamped(self._to_step(event.scenePos())))

    @Slot(object)
    def _moved(self, point: QPointF) -> None:
        inside = bool(self.view.getPlotItem().vb.sceneBoundingRect().contains(point))
        hover = self._clamped(self._to_step(point)) if inside and self._series else None
        if hover != self._hover:
            self._hover = hover
            self.view.setToolTip(marks.told(self._marks_at(point)))
            self._write_legend()

    @Slot()
    def _left(self) -> None:
        self._hover = None
        self._write_legend()

    def _marks_at(self, point: QPointF) -> list[Mark]:
        """What lies above or below that point, within a few pixels."""
        reach = abs(self._to_step(point + QPointF(_REACH, 0)) - self._to_step(point))
        return marks.near(self._marks, self._to_step(point), reach)

    def _to_step(self, point: QPointF) -> float:
        return float(self.view.getPlotItem().vb.mapSceneToView(point).x())


def entry(colour: str, name: str, value: str) -> str:
    """A curve in a legend, in one piece where lines are broken."""
    dot = f'<span style="color:{getattr(theme.now(), colour)}">●</span>'
    return f"{dot}&nbsp;{html.escape(name).replace(' ', '&nbsp;')}&nbsp;<b>{html.escape(value)}</b>"


def _dashed(colour: str) -> Any:
    return pg.mkPen(getattr(theme.now(), colour), width=1.5, style=Qt.PenStyle.DashLine)


def _short(value: float) -> str:
    """Enough digits to read, in a width that does not jump: 0.98, −14.82, 1.2e−05; … where nothing is known."""
    if math.isnan(value):
        return "…"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e4:
        return figure(value, ".1e")
    return figure(value, ".4f" if abs(value) < 0.01 else ".2f")


def _thinned(rest: Floats) -> tuple[Floats, Floats]:
    """x and y of all faint curves in one line, where a NaN lifts the pen; no more than the eye can tell apart."""
    every = math.ceil(len(rest) / _FAINT_STEPS)
    shown = rest[::every, :: math.ceil(rest.shape[1] / _FAINT_CURVES)]
    padded = np.full((shown.shape[1], len(shown) + 1), np.nan, np.float32)
    padded[:, :-1] = shown.T
    steps = np.arange(len(shown) + 1, dtype=np.float32) * every
    return np.tile(steps, shown.shape[1]), padded.ravel()
