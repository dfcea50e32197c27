"""Classes and how probable they are, the most probable first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from PySide6.QtCore import QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from cem_gui import theme

_BAR: Final = 4


class Share(NamedTuple):
    name: str
    p: float
    is_target: bool


class Shares(QWidget):
    """A line and a bar each. It has the height of `rows` of them, however many there are."""

    def __init__(self, name: str, rows: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows = rows
        self._shares: Sequence[Share] = ()
        self._row = self.fontMetrics().height() + _BAR + 5
        self.setAccessibleName(name)
        self.setMinimumWidth(70)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    @property
    def shares(self) -> Sequence[Share]:
        return self._shares

    def sizeHint(self) -> QSize:
        return QSize(120, self._rows * self._row)

    def show_shares(self, shares: Sequence[Share]) -> None:
        if shares != self._shares:
            self._shares = shares
            self.setAccessibleDescription(", ".join(f"{share.name} {share.p:.2f}" for share in shares))
            self.setToolTip("\n".join(f"{share.name} {share.p:.3f}" for share in shares))
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        colours, painter = theme.now(), QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        plain, bold = QFont(self.font()), QFont(self.font())
        bold.setBold(True)
        top, width = 0, self.width()
        for share in self._shares[: self._rows]:
            painter.setFont(bold if share.is_target else plain)
            painter.setPen(QColor(colours.text))
            metrics, value = painter.fontMetrics(), f"{share.p:.2f}"
            row = QRect(0, top, width, metrics.height())
            painter.drawText(row, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, value)
            room = width - metrics.horizontalAdvance(value) - 6
            text = metrics.elidedText(share.name, Qt.TextElideMode.ElideRight, room)
            painter.drawText(row, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, text)
            bar = QRectF(0, row.bottom() + 2, width, _BAR)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colours.border))
            painter.drawRoundedRect(bar, 2, 2)
            bar.setWidth(width * min(max(share.p, 0.0), 1.0))
            painter.setBrush(QColor(colours.accent if share.is_target else colours.muted))
            painter.drawRoundedRect(bar, 2, 2)
            top += self._row
