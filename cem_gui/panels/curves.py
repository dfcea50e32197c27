"""Energies, probabilities and distances over steps, with the step cursor that all views share."""

from __future__ import annotations

from typing import Final

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QVBoxLayout, QWidget

from cem_core.messages import Floats, Norm, RunStart
from cem_core.session import Numbers
from cem_gui.widgets.plot import Plot

_PROBABILITY: Final = ("Target", "Most likely classes", "log p(y|x)")
_DISTANCE: Final = ("From the start", "Gradient norm")
_COLOURS: Final = ("accent", "blue", "orange", "red", "muted")


class CurvesPanel(QWidget):
    stepped = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.energy = Plot("Energy")
        self.probability = Plot("Probability")
        self.distance = Plot("Distance")
        self.distance.view.getPlotItem().getViewBox().setLimits(yMin=-0.02)
        self.which_probability = _choice("What to show of the probabilities", _PROBABILITY)
        self.which_distance = _choice("What to show of the distance", _DISTANCE)
        self.probability.head.addWidget(self.which_probability)
        self.distance.head.addWidget(self.which_distance)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        for plot in self._plots:
            layout.addWidget(plot, 1)
            plot.stepped.connect(self.stepped)
        for choice in (self.which_probability, self.which_distance):
            choice.activated.connect(self._draw)
        self._shown: tuple[RunStart, Numbers, int, int, Norm | None] | None = None

    @property
    def _plots(self) -> tuple[Plot, Plot, Plot]:
        return self.energy, self.probability, self.distance

    def restyle(self) -> None:
        for plot in self._plots:
            plot.restyle()

    def show_numbers(self, start: RunStart, numbers: Numbers, chain: int, length: int, norm: Norm | None) -> None:
        """Draw a chain boldly and the others faintly, over an axis of so many steps.

        norm: of the distances; None if it changed during the run.
        """
        self._shown = (start, numbers, chain, length, norm)
        self._draw()

    def set_cursor(self, step: int) -> None:
        for plot in self._plots:
            plot.set_cursor(step)

    def _draw(self) -> None:
        if self._shown is None:
            return
        start, numbers, chain, length, norm = self._shown
        name = _short(start.checkpoint.classes[start.labels[chain]])
        self.energy.show_series(
            {"E(x)": ("blue", numbers.energy[:, chain]), f"E(x,{name})": ("orange", numbers.joint[:, chain])},
            numbers.energy,
            length,
        )
        span = None if self.which_probability.currentIndex() == 2 else (0.0, 1.0)
        self.probability.show_series(*self._probabilities(start, numbers, chain), length, span)
        if self.which_distance.currentIndex() == 0:
            measure = {"l2": "‖x−x₀‖₂", "linf": "‖x−x₀‖∞"}[norm] if norm else "‖x−x₀‖, norm changed"
            self.distance.show_series({measure: ("red", numbers.distance[:, chain])}, numbers.distance, length)
        else:
            series = {"‖a∇f+b∇LSE‖₂": ("red", numbers.gradient_norm[:, chain])}
            self.distance.show_series(series, numbers.gradient_norm, length)

    def _probabilities(
        self, start: RunStart, numbers: Numbers, chain: int
    ) -> tuple[dict[str, tuple[str, Floats]], Floats]:
        name = _short(start.checkpoint.classes[start.labels[chain]])
        which = self.which_probability.currentIndex()
        if which == 0:
            p = np.exp(numbers.log_p)
            return {f"p({name}|x)": ("accent", p[:, chain])}, p
        if which == 2:
            return {f"log p({name}|x)": ("accent", numbers.log_p[:, chain])}, numbers.log_p
        p = np.exp(numbers.logits[:, chain] + numbers.energy[:, chain, None])
        likely = np.argsort(-p[-1])[: len(_COLOURS)]
        series = {_short(start.checkpoint.classes[k], 10): (_COLOURS[i], p[:, k]) for i, k in enumerate(likely)}
        return series, p


def _short(name: str, most: int = 18) -> str:
    """A class name that fits beside others in a legend."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _choice(name: str, texts: tuple[str, ...]) -> QComboBox:
    choice = QComboBox()
    choice.setAccessibleName(name)
    choice.addItems(texts)
    return choice
