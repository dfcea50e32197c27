"""Many small images, a row a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFont,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QFrame, QScrollArea, QSizePolicy, QToolTip, QWidget

from cem_gui import theme
from cem_gui.widgets.image_grid import Bytes, to_image

_NAME: Final = 84
"""Room for the name of a class."""
_GAP: Final = 2
_LEAST: Final = 34
_LARGEST: Final = 64
"""Sides of an image: as large as lets all rows fit, and else the grid scrolls."""


class ClassRow(NamedTuple):
    name: str
    pixels: Bytes
    """(N, H, W, 3)"""
    numbers: Sequence[int]
    """(N,) which samples these are."""


class _Canvas(QWidget):
    def __init__(self, grid: ClassGrid) -> None:
        super().__init__()
        self.grid = grid
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Samples, a row a class")

    def paintEvent(self, event: QPaintEvent) -> None:
        self.grid.paint(QPainter(self), event.rect())

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if (there := self.grid.at(event.position().toPoint())) is not None:
            self.grid.choose(*there)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        if self.grid.at(event.position().toPoint()) is not None:
            self.grid.opened.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if not self.grid.walk(Qt.Key(event.key())):
            super().keyPressEvent(event)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            there = self.grid.at(event.pos())
            QToolTip.showText(event.globalPos(), "" if there is None else self.grid.told(*there), self)
            return True
        return super().event(event)


class ClassGrid(QScrollArea):
    """Of each class as many as fit across. The arrow keys and the mouse choose, Enter and a double click open."""

    selected = Signal(int)
    """Number of a sample."""
    opened = Signal()
    """The chosen one."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows: Sequence[ClassRow] = ()
        self._images: list[list[QImage]] = []
        self._chosen: tuple[int, int] | None = None
        """Row and column."""
        self._side = _LEAST
        self._canvas = _Canvas(self)
        self.setWidget(self._canvas)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Expanding)
        self.setFocusProxy(self._canvas)
        self.setMinimumSize(QSize(_NAME + 2 * _LEAST, 2 * _LEAST))

    @property
    def chosen(self) -> int | None:
        """Number of the sample."""
        return None if self._chosen is None else self._rows[self._chosen[0]].numbers[self._chosen[1]]

    @property
    def chosen_image(self) -> Bytes | None:
        """(H, W, 3)"""
        return None if self._chosen is None else self._rows[self._chosen[0]].pixels[self._chosen[1]]

    @property
    def chosen_told(self) -> str:
        """Its name; empty: none is chosen."""
        return "" if self._chosen is None else self.told(*self._chosen)

    @property
    def columns(self) -> int:
        """How many are shown of each class, at most."""
        return max(1, (self._canvas.width() - self._name_room + _GAP) // (self._side + _GAP))

    @property
    def _name_room(self) -> int:
        return _NAME if any(row.name for row in self._rows) else 0

    def show_rows(self, rows: Sequence[ClassRow]) -> None:
        """What is chosen stays chosen while it is there."""
        chosen = self.chosen
        self._rows = rows
        self._images = [[to_image(image) for image in row.pixels] for row in rows]
        places = {number: (i, j) for i, row in enumerate(rows) for j, number in enumerate(row.numbers)}
        self._chosen = None if chosen is None else places.get(chosen)
        self._arrange()
        self._describe()

    def let_go(self) -> None:
        """Nothing is chosen."""
        self._chosen = None
        self._describe()
        self._canvas.update()

    def choose(self, row: int, column: int) -> None:
        if self._chosen != (row, column):
            self._chosen = row, column
            self._describe()
            self._canvas.update()
            card = self.card(row, column)
            self.ensureVisible(card.center().x(), card.center().y(), card.width() // 2, card.height() // 2 + _GAP)
            self.selected.emit(self._rows[row].numbers[column])

    def walk(self, key: Qt.Key) -> bool:
        """What a key does; whether it does something."""
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            if self._chosen is not None:
                self.opened.emit()
            return True
        ways = {Qt.Key.Key_Left: (0, -1), Qt.Key.Key_Right: (0, 1), Qt.Key.Key_Up: (-1, 0), Qt.Key.Key_Down: (1, 0),
                Qt.Key.Key_Home: (0, -self.columns), Qt.Key.Key_End: (0, self.columns)}  # fmt: skip
        if key not in ways or not self._rows:
            return False
        if self._chosen is None:
            self.choose(0, 0)
            return True
        down, across = ways[key]
        row = min(max(self._chosen[0] + down, 0), len(self._rows) - 1)
        last = min(self.columns, len(self._rows[row].numbers)) - 1
        self.choose(row, min(max(self._chosen[1] + across, 0), last))
        return True

    def told(self, row: int, column: int) -> str:
        name, number = self._rows[row].name, self._rows[row].numbers[column]
        return f"{name}, sample {number:,}" if name else f"Sample {number:,}"

    def _describe(self) -> None:
        """Tell a screen reader what is chosen."""
        count = sum(len(row.numbers) for row in self._rows)
        told = f"{count:,} samples" if self._chosen is None else self.told(*self._chosen)
        self._canvas.setAccessibleDescription(told)

    def card(self, row: int, column: int) -> QRect:
        left, top = (at * (self._side + _GAP) for at in (column, row))
        return QRect(self._name_room + left, top, self._side, self._side)

    def at(self, point: QPoint) -> tuple[int, int] | None:
        """Row and column under a point."""
        row, column = point.y() // (self._side + _GAP), (point.x() - self._name_room) // (self._side + _GAP)
        inside = 0 <= row < len(self._rows) and 0 <= column < min(self.columns, len(self._rows[row].numbers))
        return (row, column) if inside else None

    def paint(self, painter: QPainter, region: QRect) -> None:
        colours, small = theme.now(), QFont(self.font())
        small.setPointSizeF(small.pointSizeF() * 0.87)
        painter.setFont(small)
        columns = self.columns
        for i, (row, images) in enumerate(zip(self._rows, self._images, strict=True)):
            first = self.card(i, 0)
            if first.bottom() < region.top() or first.top() > region.bottom():
                continue
            painter.setPen(QColor(colours.muted))
            name = painter.fontMetrics().elidedText(row.name, Qt.TextElideMode.ElideRight, self._name_room - 8)
            place = QRect(0, first.top(), self._name_room - 8, first.height())
            painter.drawText(place, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, name)
            for j, image in enumerate(images[:columns]):
                painter.drawImage(self.card(i, j), image)
        if self._chosen is not None and self._chosen[1] < columns:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(QPen(QColor(colours.accent), 2.5))
            painter.drawRoundedRect(QRectF(self.card(*self._chosen)), 3, 3)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """As large as lets all classes be seen, if that is large enough."""
        area, count = self.maximumViewportSize(), max(1, len(self._rows))
        self._side = min(max(area.height() // count - _GAP, _LEAST), _LARGEST)
        needed = count * (self._side + _GAP)
        self._canvas.setMinimumHeight(needed if needed > area.height() else 0)
        self._canvas.update()
