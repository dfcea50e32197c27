"""The panels around the images: where they begin, and how they get back there."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from PySide6.QtCore import QByteArray, Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QDockWidget, QMainWindow, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from cem_gui.widgets.grip import Grip

_EVOLUTION: Final = "Evolution"


class Docks:
    """Model and sampler left, curves and recorded runs right. Each view of the centre has an arrangement of its own;
    that of the evolution is kept between two starts of the program."""

    def __init__(
        self, window: QMainWindow, model: QWidget, sampler: QWidget, run: QWidget, curves: QWidget, runs: QWidget
    ) -> None:
        self._window = window
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        column.addWidget(_scrolling(sampler), 1)
        column.addWidget(run)
        areas = Qt.DockWidgetArea
        self._docks = [
            self._dock("Model", model, areas.LeftDockWidgetArea),
            self._dock("Sampler", left, areas.LeftDockWidgetArea),
            self._dock("Curves", curves, areas.RightDockWidgetArea),
            self._dock("Runs", runs, areas.RightDockWidgetArea),
        ]
        window.setTabPosition(areas.RightDockWidgetArea, QTabWidget.TabPosition.North)
        window.tabifyDockWidget(*self._docks[2:])
        self._docks[2].raise_()
        window.setCorner(Qt.Corner.BottomLeftCorner, areas.LeftDockWidgetArea)
        window.setCorner(Qt.Corner.BottomRightCorner, areas.RightDockWidgetArea)
        self._beginning = window.saveState()
        self._view = _EVOLUTION
        self._names: Collection[str] | None = None
        """Those that stand beside the view unless the person shows others; None: all."""
        self._left: dict[str, QByteArray] = {}
        """How the views that are not shown were left."""

    @property
    def toggles(self) -> list[QAction]:
        """An action a panel that hides and shows it."""
        return [dock.toggleViewAction() for dock in self._docks]

    def restore(self, state: object) -> None:
        """Arrange as saved; as in the beginning where nothing usable was saved."""
        if not isinstance(state, QByteArray) or not self._window.restoreState(state):
            self.size()

    @property
    def state(self) -> QByteArray:
        """What is to be saved: the arrangement of the evolution."""
        return self._window.saveState() if self._view == _EVOLUTION else self._left[_EVOLUTION]

    def show_for(self, view: str, names: Collection[str] | None) -> None:
        """Another view is shown: arrange as the person left it, the first time only these; None: all, the evolution."""
        self._left[self._view] = self._window.saveState()
        self._view, self._names = view, names
        if (left := self._left.get(view)) is not None:
            self._window.restoreState(left)
        else:
            self._leave_only(names)

    def reset(self) -> None:
        """Every view as in the beginning."""
        self._left.clear()
        self._window.restoreState(self._beginning)
        self._leave_only(None)
        self.size()
        if self._view != _EVOLUTION:
            self._left[_EVOLUTION] = self._window.saveState()
            self._leave_only(self._names)

    def _leave_only(self, names: Collection[str] | None) -> None:
        for dock in self._docks:
            dock.setVisible(names is None or dock.objectName() in names)

    def size(self) -> None:
        side = max(280, min(420, self._window.width() * 23 // 100))
        model, sampler, curves, _ = self._docks
        self._window.resizeDocks([model, curves], [side, side], Qt.Orientation.Horizontal)
        self._window.resizeDocks([model, sampler], [230, 2000], Qt.Orientation.Vertical)

    def _dock(self, name: str, widget: QWidget, area: Qt.DockWidgetArea) -> QDockWidget:
        dock = QDockWidget(name)
        dock.setObjectName(name.lower())
        dock.setTitleBarWidget(Grip())
        holder = QWidget()
        layout = QVBoxLayout(holder)
        layout.setContentsMargins(8, 0, 8, 6)
        layout.addWidget(widget)
        dock.setWidget(holder)
        self._window.addDockWidget(area, dock)
        return dock


def _scrolling(widget: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidget(widget)
    area.setWidgetResizable(True)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setMinimumWidth(widget.minimumSizeHint().width() + area.verticalScrollBar().sizeHint().width())
    return area
