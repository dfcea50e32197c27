"""Energies, probabilities and distances over steps, with the step cursor that all views share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QSizePolicy, QVBoxLayout, QWidget

from cem_core.events import Kind
from cem_core.messages import Floats, Norm, RunStart
from cem_core.session import Numbers
from cem_gui.widgets.card import small
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.marks import Mark
from cem_gui.widgets.plot import Plot

_PROBABILITY: Final = ("Target", "Most likely classes", "log p(y|x)")
_SIMILARITY: Final = ("Target", "Most similar images", "log p(x′|x)")
"""The same of an encoder."""
_DISTANCE: Final = ("From the start", "Gradient norm", "‖∇f‖ and ‖∇LSE‖", "cos(∇f, ∇LSE)")
_NORMS, _COSINE = 2, 3
"""Rows of the same that the lens has to tell."""
_SHOWN_ON: Final[tuple[tuple[Kind, ...], ...]] = (
    ("energy minimum", "largest jump", "diverged"),
    ("misclassified", "new neighbour", "target reached"),
    ("ball reached",),
)
"""Which plot shows what happened."""
_NOTHING: Final = np.full((1, 1), np.nan, np.float32)
_Series: TypeAlias = dict[str, tuple[str, Floats]]
_NAME: Final = 12
"""Letters of a name, where there are many."""
_COLOURS: Final = ("accent", "blue", "orange", "red", "muted")


class Parts(NamedTuple):
    """Lengths of the two parts of the step and the angle between, of the chosen chain; NaN where not known yet, and
    the steps after the last are not known either."""

    class_norm: Floats
    """(T,) ‖∇f(x,y)‖₂."""
    marginal_norm: Floats
    """(T,) ‖∇LSE(x)‖₂."""
    cosine: Floats
    """(T,)."""


class CurvesPanel(QWidget):
    stepped = Signal(int)
    lens_wanted = Signal(bool)

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
        self.beside = Elided()
        self.beside.setObjectName("muted")
        self.beside.setToolTip("The run whose curves are dashed")
        self.beside.hide()
        layout.addWidget(self.beside)
        for plot in self._plots:
            layout.addWidget(plot, 1)
            plot.stepped.connect(self.stepped)
        self.told = small()
        self.told.setWordWrap(True)
        self.told.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.told.hide()
        self.distance.body.addWidget(self.told)
        self.which_probability.activated.connect(self._draw)
        self.which_distance.activated.connect(self._distance_chosen)
        self._parts: Parts | None = None
        """None: the lens is off."""
        self._beside: tuple[RunStart, Numbers, str] | None = None
        self._shown: tuple[RunStart, Numbers, int, int, Norm | None] | None = None

    @property
    def _plots(self) -> tuple[Plot, Plot, Plot]:
        return self.energy, self.probability, self.distance

    def restyle(self) -> None:
        for plot in self._plots:
            plot.restyle()

    def show_numbers(
        self,
        start: RunStart,
        numbers: Numbers,
        chain: int,
        length: int,
        norm: Norm | None,
        beside: tuple[RunStart, Numbers, str] | None = None,
    ) -> None:
        """Draw a chain boldly and the others faintly, over an axis of so many steps.

        norm: of the distances; None if it changed during the run.
        beside: another run and its name, of which the same chain is dashed.
        """
        self._shown = (start, numbers, chain, length, norm)
        self._beside = beside
        self.beside.setVisible(beside is not None)
        self.beside.setText(f"– –  {beside[2]}" if beside is not None else "")
        self._draw()

    def show_parts(self, parts: Parts | None) -> None:
        """What the lens knows of the chosen chain; None: it is off."""
        self._parts = parts
        if self._of_lens:
            if parts is None:
                self.which_distance.setCurrentIndex(0)
            self._draw()

    def tell(self, text: str) -> None:
        """What the two parts mean at the cursor, under their curves."""
        self.told.setText(text)

    def show_marks(self, marks: Sequence[Mark]) -> None:
        """What happened in the chosen chain, each on the curve that shows it."""
        chosen = [mark for mark in marks if not mark.faint]
        for plot, kinds in zip(self._plots, _SHOWN_ON, strict=True):
            plot.show_marks([mark for mark in chosen if mark.kind in kinds])

    def set_cursor(self, step: int) -> None:
        for plot in self._plots:
            plot.set_cursor(step)

    @property
    def _of_lens(self) -> bool:
        return self.which_distance.currentIndex() in (_NORMS, _COSINE)

    def _distance_chosen(self) -> None:
        self._draw()
        if self._of_lens and self._parts is None:
            self.lens_wanted.emit(True)

    def _draw(self) -> None:
        self.told.setVisible(self._of_lens)
        if self._shown is None:
            return
        start, numbers, chain, length, norm = self._shown
        which = self.which_distance.currentIndex()
        encoder = not start.checkpoint.classes
        self._name_second(start if encoder else None)
        self.which_probability.setVisible(start.aims(chain))  # else what is seen is all there is
        p_span = None if encoder or self.which_probability.currentIndex() == 2 else (0.0, 1.0)
        spans = (None, p_span, (-1.0, 1.0) if which == _COSINE else None)
        self.distance.view.getPlotItem().getViewBox().setLimits(yMin=-1.2 if which == _COSINE else -0.02)
        other: list[_Series] = [{}, {}, {}]
        if self._beside is not None and (theirs := min(chain, len(self._beside[0].labels) - 1)) >= 0:
            other = self._series(*self._beside[:2], theirs, norm)
            length = max(length, len(self._beside[1].energy) - 1)
        if self._of_lens:  # of that run, nothing is known
            other[2] = {}
        rest = (numbers.distance, numbers.gradient_norm, _NOTHING, _NOTHING)[which]
        ours = self._series(start, numbers, chain, norm)
        faint = (numbers.energy, self._faint(start, numbers, chain), rest)
        for plot, series, others, all_chains, span in zip(self._plots, ours, other, faint, spans, strict=True):
            plot.show_series(series, all_chains, length, span, others)

    def _series(self, start: RunStart, numbers: Numbers, chain: int, norm: Norm | None) -> list[_Series]:
        """What each plot shows of a chain: legend → (colour, values)."""
        energy: _Series = {"E(x)": ("blue", numbers.energy[:, chain])}
        if start.aims(chain):
            energy[f"E(x,{_short(start.candidates[start.labels[chain]])})"] = ("orange", numbers.joint[:, chain])
        return [energy, self._probabilities(start, numbers, chain), self._distances(numbers, chain, norm)]

    def _distances(self, numbers: Numbers, chain: int, norm: Norm | None) -> _Series:
        which = self.which_distance.currentIndex()
        if which == 0:
            measure = {"l2": "‖x−x₀‖₂", "linf": "‖x−x₀‖∞"}[norm] if norm else "‖x−x₀‖, norm changed"
            return {measure: ("red", numbers.distance[:, chain])}
        drift: _Series = {"‖a∇f+b∇LSE‖₂": ("red", numbers.gradient_norm[:, chain])}
        if which == 1:
            return drift
        known = self._parts or Parts(*np.empty((3, 0), np.float32))
        parts = Parts(*(_padded(values, len(numbers.energy)) for values in known))
        if which == _COSINE:
            return {"cos(∇f,∇LSE)": ("accent", parts.cosine)}
        return {"‖∇f‖₂": ("orange", parts.class_norm), "‖∇LSE‖₂": ("blue", parts.marginal_norm), **drift}

    def _name_second(self, encoder: RunStart | None) -> None:
        """The second plot is of probabilities, or of an encoder's similarities."""
        title = f"Similarity: {encoder.measure}" if encoder is not None else "Probability"
        self.probability.title.setText(title.upper())
        for index, text in enumerate(_PROBABILITY if encoder is None else _SIMILARITY):
            self.which_probability.setItemText(index, text)

    def _which_of(self, start: RunStart, chain: int) -> int:
        """What is shown of the probabilities: where there is no target, what is seen instead."""
        return self.which_probability.currentIndex() if start.aims(chain) else 1

    def _faint(self, start: RunStart, numbers: Numbers, chain: int) -> Floats:
        """(T, B) probabilities of all chains, or (T, K) of all classes; of an encoder similarities."""
        which, encoder = self._which_of(start, chain), not start.checkpoint.classes
        if which == 1:
            return start.likeness(numbers.logits[:, chain]) if encoder else _of_classes(numbers, chain)
        if which == 0:
            return start.likeness(-numbers.joint) if encoder else np.exp(numbers.log_p)
        return numbers.log_p

    def _probabilities(self, start: RunStart, numbers: Numbers, chain: int) -> _Series:
        names = start.candidates
        name = _short(names[start.labels[chain]])
        which = self._which_of(start, chain)
        if not start.checkpoint.classes and which == 0:
            return {f"to {name}": ("accent", start.likeness(-numbers.joint[:, chain]))}
        if which == 0:
            return {f"p({name}|x)": ("accent", np.exp(numbers.log_p[:, chain]))}
        if which == 2:
            return {f"log p({name}|x)": ("accent", numbers.log_p[:, chain])}
        p = _of_classes(numbers, chain) if start.checkpoint.classes else start.likeness(numbers.logits[:, chain])
        likely = np.argsort(-p[-1])[: len(_COLOURS)]
        shown = [_short(names[k], _NAME) for k in likely]
        series: _Series = {}
        for i, (k, name) in enumerate(zip(likely, shown, strict=True)):
            series[name if shown.count(name) == 1 else f"{name} ({k + 1})"] = _COLOURS[i], p[:, k]
        return series


def _of_classes(numbers: Numbers, chain: int) -> Floats:
    p: Floats = np.exp(numbers.logits[:, chain] + numbers.energy[:, chain, None])
    return p


def _padded(values: Floats, steps: int) -> Floats:
    """(T,) for so many steps, NaN at the end."""
    padded: Floats = np.full(steps, np.nan, np.float32)
    padded[: len(values)] = values[:steps]
    return padded


def _short(name: str, most: int = 18) -> str:
    """A name that fits beside others in a legend: both of its ends, as those of images are often numbered."""
    return name if len(name) <= most else f"{name[: most - most // 3 - 1].rstrip()}…{name[-(most // 3) :].lstrip()}"


def _choice(name: str, texts: tuple[str, ...]) -> QComboBox:
    choice = QComboBox()
    choice.setAccessibleName(name)
    choice.addItems(texts)
    return choice
