"""Accuracy against ε over a set of images."""

from __future__ import annotations

from PySide6.QtCore import QObject, QSettings

from cem_core.probes.report import Report
from cem_core.probes.requests import Accuracy, Subject
from cem_core.probes.results import Answer, Cell
from cem_gui import measurement
from cem_gui.files import Files
from cem_gui.measurement import Measurement, Pace
from cem_gui.panels.accuracy import AccuracyPanel
from cem_gui.prober import Prober
from cem_gui.subjects import Subjects


class AccuracyStage(Measurement):
    title = "Accuracy"
    tip = "Accuracy against ε over a set of images"

    def __init__(self, prober: Prober, subjects: Subjects, files: Files, settings: QSettings, parent: QObject) -> None:
        self.panel: AccuracyPanel
        super().__init__(AccuracyPanel(), "accuracy", prober, subjects, files, settings, parent)

    def _request(self, subjects: tuple[Subject, ...], batch: int) -> Accuracy:
        choice = self.panel.choice
        return Accuracy(subjects, choice.wanted_data(), choice.wanted_attack(), choice.wanted_eps(), batch)

    def _begin(self) -> Report:
        return Report()

    def _time(self, report: measurement.Report, answer: Answer, pace: Pace) -> None:
        assert isinstance(report, Report)
        if isinstance(answer, Cell):
            pace.add((answer.subject, answer.eps), len(answer.labels), answer.seconds)
        pace.images = report.begun.images - len(report.skipped)
        kinds = [(number, eps) for number in range(len(report.names)) for eps in report.eps]
        pace.expected = dict.fromkeys(kinds, pace.images)

    def _draw(self, report: measurement.Report, *, so_far: bool, stale: bool) -> None:
        assert isinstance(report, Report)
        self.panel.show_report(report, so_far=so_far, stale=stale)
