"""Accuracy against ε over a set of images."""

from __future__ import annotations

from PySide6.QtCore import QObject, QSettings

from cem_gui.panels.accuracy import AccuracyPanel
from cem_gui.prober import Prober
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects


class AccuracyStage(Stage):
    title = "Accuracy"
    tip = "Accuracy against ε over a set of images"
    compares = True
    samples = False
    has_steps = False

    def __init__(self, prober: Prober, subjects: Subjects, settings: QSettings, parent: QObject) -> None:
        self.panel: AccuracyPanel
        super().__init__(AccuracyPanel(), parent)
        self._prober = prober
        self._subjects, self._settings = subjects, settings
