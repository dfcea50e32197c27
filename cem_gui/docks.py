"""The panels around the images: where they begin, and how they get back there."""

from __future__ import annotations

from collections.abc import Collection

from PySide6.QtCore import QByteArray, Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QDockWidget, QMainWindow, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from cem_gui.widgets.grip import Grip


class Docks:
    """Model and sampler left, curves and recorded runs right. The window that holds them saves and restores them."""

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
        self._own: QByteArray | None = None
        """The arrangement of the evolution, while another view is shown."""

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
        return self._window.saveState() if self._own is None else self._own

    def show_for(self, names: Collection[str] | None) -> None:
        """Leave the view beside which they stand only these; None: all as they were."""
        if names is None:
            if self._own is not None:
                self._window.restoreState(self._own)
                self._own = None
            return
        if self._own is None:
            self._own = self._window.saveState()
        for dock in self._docks:
            dock.setVisible(dock.objectName() in names)

    def reset(self) -> None:
        self._own = None
        self._window.restoreState(self._beginning)
        for dock in self._docks:
            dock.show()
        self.size()

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
