"""A plot that shares a card with others: no frame, no title, and a legend of line samples in one line."""

from __future__ import annotations

import html
import math
from typing import Any, Final

from PySide6.QtWidgets import QSizePolicy, QWidget

from cem_gui import theme
from cem_gui.widgets.figures import figure
from cem_gui.widgets.plot import Plot, Values

_THIN: Final = "&#8201;"
"""Or the sample of a line is taken for a minus."""
_APART: Final = 14
"""Pixels between two values on the vertical axis, at least."""
_MOST: Final = 7
"""So many of them, where there is room for more."""


class _Values(Values):
    """As many round values as there is room for, however low the plot is."""

    def tickSpacing(self, low: float, high: float, size: float) -> list[tuple[float, float]]:
        least = (high - low) * max(_APART / max(size, 1.0), 1 / _MOST)
        if not least > 0:
            return [(1.0, 0.0)]
        power = 10.0 ** math.floor(math.log10(least))
        return [(next(power * times for times in (1, 2, 5, 10) if power * times >= least), 0.0)]


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

    def _axes(self) -> dict[str, Any]:
        return {**super()._axes(), "left": _Values("left")}

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
                sample = f"{line}{_THIN}" if line else ""
                parts.append(
                    f'<span style="color:{getattr(theme.now(), colour)}">{sample}{html.escape(name)}</span>&nbsp;{told}'
                )
        self.legend.setText(" ".join(parts) if many else " &nbsp;".join(parts))


def short(value: float) -> str:
    """Two decimals, so that the widths do not jump."""
    return "…" if math.isnan(value) else figure(value)
