"""Values on a square, as colours with contours, and a path on it."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSignalBlocker, QSize, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent, QResizeEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from cem_gui import theme
from cem_gui.widgets import contours
from cem_gui.widgets.figures import figure

Floats = NDArray[np.float32]

COLOURS: Final = "viridis"
"""From low to high; told apart by everybody, and in print."""
_LEFT, _BOTTOM, _BAR = 64, 46, 66
"""Room for axes and for the colour bar, in pixels."""
_ACROSS, _DOWN = _LEFT + _BAR + 8, _BOTTOM + 5
"""All that is not the square."""
_TICKS: Final = 6
"""Of each axis, about: both are distances, and have the same."""
_REACH: Final = 10
"""Pixels around a point that count as on it."""
_KEYS: Final = {
    Qt.Key.Key_Left: (-1, 0), Qt.Key.Key_Right: (1, 0), Qt.Key.Key_Up: (0, 1), Qt.Key.Key_Down: (0, -1),
}  # fmt: skip


class _View(pg.GraphicsLayoutWidget):
    left = Signal()
    """The mouse went."""

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self.left.emit()

    def event(self, event: QEvent) -> bool:
        """The arrow keys move the point here, and are no shortcuts."""
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent) and event.key() in _KEYS:
            event.accept()
            return True
        return bool(super().event(event))


class HeatMap(QWidget):
    """A square as large as fits. Points of it are (s, t), both within ±extent."""

    hovered = Signal(object)
    """(s, t) under the mouse; None when it left."""
    pinned = Signal(object)
    """(s, t) that was clicked or gone to by the arrow keys; None: the point that was is let go."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._extent, self._size = 1.0, 0
        self._path: Floats = np.zeros((1, 2), np.float32)
        self._pin: tuple[float, float] | None = None
        self.hover: tuple[float, float] | None = None
        """(s, t) under the mouse."""
        self.levels: tuple[float, float] = (math.nan, math.nan)
        """The values at both ends of the colour bar."""
        self.view = _View(self)
        self.view.setAccessibleName(name)
        self.view.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.view.setFrameShape(self.view.Shape.NoFrame)
        self.view.ci.layout.setContentsMargins(0, 4, 0, 0)
        self.view.ci.layout.setHorizontalSpacing(8)
        self._plot = self.view.addPlot()
        self._plot.hideButtons()
        self._plot.setMenuEnabled(False)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.getAxis("left").setWidth(_LEFT)
        self._plot.getAxis("bottom").setHeight(_BOTTOM)
        for side in ("left", "bottom"):
            self._plot.getAxis(side).enableAutoSIPrefix(False)
        self.image = pg.ImageItem(axisOrder="row-major", autoDownsample=True)
        self.image.setColorMap(pg.colormap.get(COLOURS))
        self._contours = pg.PlotCurveItem(antialias=True, connect="pairs", skipFiniteCheck=True)
        self._trail_under = pg.PlotCurveItem(antialias=True)
        self._trail = pg.PlotCurveItem(antialias=True)
        self._dots = pg.ScatterPlotItem(pxMode=True)
        self._cross = pg.ScatterPlotItem(pxMode=True)
        self._names: list[Any] = []
        for item in (self.image, self._contours, self._trail_under, self._trail, self._dots, self._cross):
            self._plot.addItem(item)
        self.bar = pg.ColorBarItem(interactive=False, width=14, colorMap=pg.colormap.get(COLOURS))
        self.bar.setImageItem(self.image, insert_in=self._plot)
        self.bar.axis.setWidth(_BAR - 14)
        self.view.scene().sigMouseMoved.connect(self._moved)
        self.view.scene().sigMouseClicked.connect(self._clicked)
        self.view.left.connect(self._left)
        self.view.installEventFilter(self)
        self.setMinimumSize(300, 280)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.restyle()

    def sizeHint(self) -> QSize:
        return QSize(640, 620)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Both directions are distances: the square is one on the screen."""
        side = max(120, min(self.width() - _ACROSS, self.height() - _DOWN))
        self.view.setGeometry((self.width() - side - _ACROSS) // 2, 0, side + _ACROSS, side + _DOWN)

    def restyle(self) -> None:
        """Take the colours in force. What lies on the map keeps its own, as the map does."""
        colours = theme.now()
        self.view.setBackground(colours.card)
        for axis in (self._plot.getAxis("left"), self._plot.getAxis("bottom"), self.bar.axis):
            axis.setPen(pg.mkPen(colours.border))
            axis.setTextPen(pg.mkPen(colours.muted))
            axis.setStyle(tickLength=-4)
        self._contours.setPen(pg.mkPen("#ffffff90", width=1.2))
        self._trail_under.setPen(pg.mkPen("#14161bc0", width=4))
        self._trail.setPen(pg.mkPen("#ffffff", width=1.6))

    def show_square(self, extent: float, names: tuple[str, str], value: str) -> None:
        """An empty square, the names of its directions, and what its colours stand for."""
        self._extent, self._size = extent, 0
        self.hover = None
        for side, name in zip(("bottom", "left"), names, strict=True):
            self._plot.setLabel(side, f"{name}, L2 distance")
            self._plot.getAxis(side).setTicks([_named(contours.round_levels(-extent, extent, _TICKS)), []])
        self._plot.setRange(xRange=(-extent, extent), yRange=(-extent, extent), padding=0)
        self.bar.setLabel("right", value)
        self.image.clear()
        self._contours.clear()
        self.show_path(np.zeros((1, 2), np.float32), "", "")
        self.show_pin(None)

    def show_values(self, values: Floats, filled: Floats, whole: bool) -> None:
        """Colours and contours.

        Args:
            values: (N, N): row i is t = linspace(-extent, extent)[i]; NaN where nothing is known.
            filled: the same without gaps, as far as possible.
            whole: no more will be known: gaps that are left are no numbers.
        """
        known = filled[np.isfinite(filled)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        high = high if high > low else low + 1e-6 * max(1.0, abs(low))
        self._size, self.levels = len(values), (low, high)
        half = self._extent / (len(values) - 1)
        side = 2 * (self._extent + half)
        self.image.setImage(filled, levels=self.levels)
        self.image.setRect(QRectF(-side / 2, -side / 2, side, side))
        self._plot.setRange(xRange=(-side / 2, side / 2), yRange=(-side / 2, side / 2), padding=0)
        with QSignalBlocker(self.bar):
            self.bar.setLevels(self.levels)
        levels = contours.round_levels(low, high)
        self.bar.axis.setTicks([_named(levels), []])
        self._draw_contours(values, levels, whole)

    def _draw_contours(self, values: Floats, levels: list[float], whole: bool) -> None:
        """On the finest grid that has no gap: what was filled has steps, and so would they."""
        lattice = (values, 1) if whole else contours.known_lattice(values)
        if lattice is None or not levels:
            self._contours.clear()
            return
        grid, stride = lattice
        lines = np.concatenate([contours.segments(grid, level) for level in levels]).reshape(-1, 2)
        at = lines * stride * (2 * self._extent / (len(values) - 1)) - self._extent
        self._contours.setData(at[:, 0], at[:, 1])

    def show_path(self, path: Floats, start: str, end: str) -> None:
        """A line through (T, 2) points, with a name at both ends; a single point is a mark."""
        self._path = path
        for name in self._names:
            self._plot.removeItem(name)
        self._names = []
        line = path if len(path) > 1 else np.empty((0, 2), np.float32)
        for curve in (self._trail_under, self._trail):
            curve.setData(line[:, 0], line[:, 1])
        for text, point, above in ((start, path[0], True), (end, path[-1], False)):
            if text:
                name = pg.TextItem(text, color="#ffffff", anchor=(0.5, 1.25 if above else -0.25), fill="#14161ba0")
                name.setPos(float(point[0]), float(point[1]))
                self._plot.addItem(name, ignoreBounds=True)
                self._names.append(name)
        self.show_here(None)

    def show_here(self, index: int | None) -> None:
        """Which point of the path the step in sight is."""
        pen = pg.mkPen("#14161b", width=1.5)
        white, accent = pg.mkBrush("#ffffff"), pg.mkBrush(theme.DARK.accent)
        ends = [(0, "o", 10, white), (len(self._path) - 1, "s", 10, white)] if len(self._path) > 1 else [
            (0, "o", 10, white)
        ]  # fmt: skip
        if index is not None:
            ends.append((index, "d", 15, accent))
        self._dots.setData([
            {"pos": tuple(map(float, self._path[at])), "symbol": symbol, "size": size, "brush": brush, "pen": pen}
            for at, symbol, size, brush in ends
        ])  # fmt: skip

    def show_pin(self, point: tuple[float, float] | None) -> None:
        """A cross on a point that stays in view."""
        self._pin = point
        self._cross.setData([] if point is None else [
            {"pos": point, "symbol": "+", "size": 19, "pen": pg.mkPen("#14161b", width=5), "brush": None},
            {"pos": point, "symbol": "+", "size": 17, "pen": pg.mkPen("#ffffff", width=2), "brush": None},
        ])  # fmt: skip

    def near(self, point: tuple[float, float]) -> int | None:
        """The point of the path that is there, within a few pixels."""
        if len(self._path) < 2:
            return None
        away = np.linalg.norm(self._path - np.array(point, np.float32), axis=1)
        nearest = int(away.argmin())
        width = max(1.0, self._plot.vb.sceneBoundingRect().width())
        return nearest if away[nearest] <= _REACH * 2 * self._extent / width else None

    def at(self, point: tuple[float, float]) -> QPointF:
        """Where a point of the square is on `view`."""
        there = self._plot.vb.mapViewToScene(QPointF(*point))
        return QPointF(self.view.mapFromScene(there))

    # ---- the mouse and the keys --------------------------------------------------------------------------------------

    def _inside(self, scene: QPointF) -> tuple[float, float] | None:
        at = self._plot.vb.mapSceneToView(scene)
        s, t = float(at.x()), float(at.y())
        reach = self._extent * (1 + 1 / (self._size - 1)) if self._size > 1 else 0.0
        if not self._size or max(abs(s), abs(t)) > reach:
            return None
        return self._within(s, t)

    def _within(self, s: float, t: float) -> tuple[float, float]:
        return (min(max(s, -self._extent), self._extent), min(max(t, -self._extent), self._extent))

    @Slot(object)
    def _moved(self, scene: QPointF) -> None:
        there = self._inside(scene)
        if there != self.hover:
            self.hover = there
            self.hovered.emit(there)

    @Slot()
    def _left(self) -> None:
        if self.hover is not None:
            self.hover = None
            self.hovered.emit(None)

    @Slot(object)
    def _clicked(self, event: Any) -> None:
        there = self._inside(event.scenePos())
        if there is None:
            return
        width = max(1.0, self._plot.vb.sceneBoundingRect().width())
        again = self._pin is not None and math.dist(there, self._pin) <= _REACH * 2 * self._extent / width
        self.pinned.emit(None if again else there)

    def eventFilter(self, watched: Any, event: QEvent) -> bool:
        if event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent) and self._size > 1:
            way = _KEYS.get(Qt.Key(event.key()))
            if way is not None:
                s, t = self._pin or (0.0, 0.0)
                step = 2 * self._extent / (self._size - 1)
                self.pinned.emit(self._within(s + way[0] * step, t + way[1] * step))
                return True
        return bool(super().eventFilter(watched, event))


def _named(values: list[float]) -> list[tuple[float, str]]:
    """Ticks."""
    return [(value, figure(value, "g")) for value in values]
