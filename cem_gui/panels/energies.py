"""Histograms of E(x), one plot a model: how well it tells clean images from adversarial and generated ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QButtonGroup,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from cem_core import bundle
from cem_core.messages import NORMS, Norm
from cem_core.probes.energy_report import EnergyReport, Row
from cem_core.probes.report import attack_told, told
from cem_core.probes.requests import MODELS
from cem_core.probes.results import Light
from cem_gui import theme
from cem_gui.widgets import lights
from cem_gui.widgets.card import Card, muted, small
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.figures import figure
from cem_gui.widgets.histogram import HistogramPlot, marked
from cem_gui.widgets.lights import LightsView
from cem_gui.widgets.measure_view import MeasureView
from cem_gui.widgets.set_choice import SetChoice
from cem_gui.widgets.space import keep_space

_EMPTY: Final = (
    "How E(x) of clean images differs from that of adversarial ones, and of those that each model generates: a "
    "histogram a model, and how well E(x) tells them apart.\nPress Measure, or Space."
)
_ALONE: Final = (
    "E(x) of each model has a constant of its own: compare shapes, ΔE and AUROC between models, never energies."
)
_GENERATED: Final = 20
_NOTHING: Final = 0.05
"""An AUROC so near to 0.5 tells nothing that some hundred images could show."""


def meaning(row: Row) -> str:
    """What the AUROC of a kind of images says, in a sentence."""
    shown = _rounded(row)
    share = f"{shown:.2f}: in {100 * shown:.0f} % of pairs, E(x) of the {row.kind} image is the higher"
    if abs(row.auroc - 0.5) < _NOTHING:
        return f"{share}, so that it hardly tells them from clean ones (0.5: not at all)."
    return f"{share}: the model finds {row.kind} images {'less' if row.auroc > 0.5 else 'more'} likely than clean ones."


def _rounded(row: Row) -> float:
    """The AUROC, so that its percentage is the same number."""
    return row.auroc if math.isnan(row.auroc) else round(100 * row.auroc) / 100


class _OfModel(Card):
    """One model: its histogram, numbers and lights."""

    def __init__(self, number: int) -> None:
        super().__init__("")
        self.number = number
        self.title.hide()
        self.name = Elided(mode=Qt.TextElideMode.ElideMiddle)
        self.why = QPushButton("–")
        self.why.setCheckable(True)
        self.why.setObjectName("chip")
        self.head.insertWidget(0, self.name, 1)
        self.head.addWidget(self.why)
        self.legend, self.numbers, self.meanings = QLabel(), QLabel(), muted("")
        for label in (self.legend, self.meanings):
            label.setWordWrap(True)
            label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        for label in (self.legend, self.numbers):
            label.setTextFormat(Qt.TextFormat.RichText)
        for label in (self.numbers, self.meanings):
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.plot = HistogramPlot()
        self.plot.read.connect(self._show_legend)
        self._rows: Sequence[Row] = ()
        self.lights: tuple[Light, ...] = ()
        self.body.addWidget(self.legend)
        self.body.addWidget(self.plot, 1)
        self.body.addWidget(self.numbers)
        self.body.addWidget(self.meanings)

    def show_model(self, report: EnergyReport) -> None:
        name = report.names[self.number]
        self.name.setText(name)
        self.name.setToolTip(name)
        self.plot.setAccessibleName(f"Histogram of E(x) of {name}")
        self.plot.show_histogram(report.histogram(self.number))
        self._rows = report.rows(self.number)
        self.lights = report.lights.get(self.number, ())
        self.restyle()

    def restyle(self) -> None:
        """Take the colours in force."""
        self.plot.restyle()
        self._show_legend("")
        self.numbers.setText(_table(self._rows))
        self.meanings.setText("\n".join(meaning(row) for row in self._rows if row.kind != "clean"))
        self.why.setText(lights.in_short(self.lights))
        self.why.setAccessibleName(f"Why trust this? {lights.in_short(self.lights)}")
        self.why.setToolTip(lights.in_full(self.lights) or "Nothing has been looked at yet.")

    @Slot(str)
    def _show_legend(self, read: str) -> None:
        self.legend.setText(read or " &nbsp; ".join(marked(row.kind) for row in self._rows))


class EnergiesPanel(MeasureView):
    def __init__(self, parent: QWidget | None = None) -> None:
        radii: dict[Norm, str] = {"l2": "0.5", "linf": "8/255"}
        super().__init__(SetChoice(radii, len(bundle.samples()), _GENERATED), _EMPTY, parent)
        self.about = small()
        self.about.setWordWrap(True)
        self.models = [_OfModel(number) for number in range(MODELS)]
        self.alone = small(_ALONE)
        self.alone.setWordWrap(True)
        self.chosen = Elided(mode=Qt.TextElideMode.ElideMiddle)
        self.lights = LightsView()
        self._which = QButtonGroup(self)
        self._which.setExclusive(False)  # none may be pressed either
        for model in self.models:
            self._which.addButton(model.why, model.number)
        self._which.idToggled.connect(self._toggled)
        keep_space(*(model.why for model in self.models))
        self._lay_out_results()

    def _lay_out_results(self) -> None:
        self.trust = Card("Why trust this?")
        self.trust.setFixedWidth(264)
        self.trust.body.addWidget(self.chosen)
        self.trust.body.addWidget(self.lights, 1)
        self.trust.hide()
        field = QWidget()
        self._grid = QGridLayout(field)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(8)
        for model in self.models:
            self._grid.addWidget(model, model.number // 2, model.number % 2)
        scrolling = QScrollArea()
        scrolling.setWidget(field)
        scrolling.setWidgetResizable(True)
        scrolling.setFrameShape(QFrame.Shape.NoFrame)
        scrolling.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        left = QVBoxLayout()
        left.setSpacing(8)
        left.addWidget(self.about)
        left.addWidget(scrolling, 1)
        left.addWidget(self.alone)
        both = QHBoxLayout(self.results)
        both.setContentsMargins(0, 0, 0, 0)
        both.setSpacing(8)
        both.addLayout(left, 1)
        both.addWidget(self.trust)

    def restyle(self) -> None:
        """Take the colours in force."""
        for model in self.models:
            model.restyle()
        self.lights.restyle()

    def show_report(self, report: EnergyReport, *, so_far: bool, stale: bool) -> None:
        """All that is known.

        Args:
            so_far: it is still being measured, or was cancelled.
            stale: what is chosen is not what was measured.
        """
        for model in self.models:
            there = model.number < len(report.names)
            model.setVisible(there)
            if there:
                model.show_model(report)
            elif model.why.isChecked():
                model.why.setChecked(False)
        self.about.setText(_about(report, so_far, stale))
        self._show_chosen()
        self.show_notes(report.notes, report.skipped)
        self.show_results(True)

    @Slot(int, bool)
    def _toggled(self, number: int, on: bool) -> None:
        """One at most."""
        for model in self.models:
            if on and model.number != number:
                model.why.setChecked(False)
        self._show_chosen()

    def _show_chosen(self) -> None:
        """The lights of the model whose button is pressed."""
        chosen = next((model for model in self.models if model.why.isChecked()), None)
        self.trust.setVisible(chosen is not None)
        if chosen is not None:
            self.chosen.setText(chosen.name.text())
            self.chosen.setToolTip(chosen.name.text())
            self.lights.show_lights(chosen.lights)


_HEAD: Final = ("", "Images", "Mean E(x)", "ΔE", "AUROC")


def _table(rows: Sequence[Row]) -> str:
    """Numbers in columns."""
    faint = theme.now().muted
    if not rows:
        return f"<span style='color: {faint}'>Nothing has been measured yet.</span>"
    lines = [_line([f"<span style='color: {faint}'>{text}</span>" for text in _HEAD])]
    for row in rows:
        spread = f"{figure(row.mean)} ± {row.deviation:.2f}"
        told_apart = f"<b>{_rounded(row):.2f}</b>"
        compared = ("–", "–") if row.kind == "clean" else (figure(row.change, "+.2f"), told_apart)
        lines.append(_line([marked(row.kind), f"{row.images:,}", spread, *compared]))
    return f"<table cellspacing='0'>{''.join(lines)}</table>"


def _line(cells: Sequence[str]) -> str:
    """The first to the left, numbers to the right."""
    aligned = ("left", *["right"] * (len(cells) - 1))
    style = "padding-right: 10px; white-space: nowrap"
    parts = (f"<td align='{to}' style='{style}'>{cell}</td>" for to, cell in zip(aligned, cells, strict=True))
    return f"<tr>{''.join(parts)}</tr>"


def _about(report: EnergyReport, so_far: bool, stale: bool) -> str:
    attack, eps, images = report.request.attack, report.request.eps, report.begun.images - len(report.skipped)
    least = min(len(report.energy(number, "clean")) for number in range(len(report.names)))
    parts = [
        f"{attack_told(attack)} at {NORMS[attack.norm]} ε = {told(eps, attack.norm)}",
        f"{least:,} of {images:,} images so far" if so_far else f"{images:,} images",
    ]
    if stale:
        parts.append("not yet measured with what is chosen now")
    return " · ".join(parts)
