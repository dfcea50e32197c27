"""A plot that shares a card with others: no frame, no title, and a legend of line samples in one line."""

from __future__ import annotations

import html
import math

from PySide6.QtWidgets import QSizePolicy, QWidget

from cem_gui import theme
from cem_gui.widgets.plot import Plot


class SmallPlot(Plot):
    """The first of two curves is the thicker one, and those beside them are dashed."""

    def __init__(self, title: str, quantity: str, about: str, parent: QWidget | None = None) -> None:
        """quantity: what all curves are of; empty: the legend has a name for each. about: a tip."""
        self._quantity = quantity
        super().__init__(title, parent)
        self.setObjectName("small plot")
        self.title.hide()
        self.body.setContentsMargins(0, 0, 0, 0)
        self.body.setSpacing(2)
        font = self.legend.font()
        font.setPointSizeF(font.pointSizeF() * 0.87)
        self.legend.setFont(font)
        self.legend.setWordWrap(False)
        self.legend.setToolTip(about)
        self.legend.setAccessibleName(title)
        self.view.setMinimumHeight(56)
        self.view.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)  # it takes what others leave

    def _write_legend(self) -> None:
        step = self._step if self._hover is None else self._hover
        lines = ("━", "─") if len(self._series) == 2 else ("─",)
        drawn = [(line, *one) for line, one in zip(lines, self._series.items(), strict=False)]
        many = len(self._other) > 1  # there is no room for more than their names
        drawn += [("" if many else "┄", *one) for one in self._other.items()]
        parts = []
        if drawn and self._quantity and not many:
            parts.append(f'<span style="color:{theme.now().muted}">{html.escape(self._quantity)}</span>')
        for line, name, (colour, values) in drawn:
            if len(values):
                value = short(float(values[min(step, len(values) - 1)]))
                told = f"<b>{value}</b>" if name in self._series else value
                parts.append(
                    f'<span style="color:{getattr(theme.now(), colour)}">{line}{html.escape(name)}</span>&nbsp;{told}'
                )
        self.legend.setText(" ".join(parts) if many else " &nbsp;".join(parts))


def short(value: float) -> str:
    """Two decimals, so that the widths do not jump."""
    return "…" if math.isnan(value) else f"{value:.2f}"
