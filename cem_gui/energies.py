"""Energies of clean, adversarial and generated images."""

from __future__ import annotations

from PySide6.QtCore import QObject, QSettings

from cem_core.probes.energy_report import EnergyReport
from cem_core.probes.requests import Energies, Subject
from cem_core.probes.results import Answer, Sample
from cem_gui import measurement
from cem_gui.files import Files
from cem_gui.measurement import Measurement, Pace
from cem_gui.panels.energies import EnergiesPanel
from cem_gui.prober import Prober
from cem_gui.subjects import Subjects


class EnergiesStage(Measurement):
    title = "Energies"
    tip = "How well E(x) tells clean images from adversarial and generated ones"

    def __init__(self, prober: Prober, subjects: Subjects, files: Files, settings: QSettings, parent: QObject) -> None:
        self.panel: EnergiesPanel
        super().__init__(EnergiesPanel(), "energies", prober, subjects, files, settings, parent)

    def _request(self, subjects: tuple[Subject, ...], batch: int) -> Energies:
        choice = self.panel.choice
        (eps,) = choice.wanted_eps()
        generated = choice.generated.value()
        return Energies(subjects, choice.wanted_data(), choice.wanted_attack(), eps, generated, batch=batch)

    def _begin(self) -> EnergyReport:
        return EnergyReport()

    def _time(self, report: measurement.Report, answer: Answer, pace: Pace) -> None:
        assert isinstance(report, EnergyReport)
        if isinstance(answer, Sample):
            pace.add((answer.subject, answer.kind), len(answer.energy), answer.seconds)
        pace.images = report.begun.images - len(report.skipped)
        request = report.request
        each = {"clean": pace.images, "adversarial": pace.images * (request.eps > 0), "generated": request.generated}
        models = range(len(report.names))
        pace.expected = {(number, kind): images for number in models for kind, images in each.items() if images}

    def _draw(self, report: measurement.Report, *, so_far: bool, stale: bool) -> None:
        assert isinstance(report, EnergyReport)
        self.panel.show_report(report, so_far=so_far, stale=stale)
