"""Energies of clean, adversarial and generated images."""

from __future__ import annotations

from PySide6.QtCore import QObject, QSettings

from cem_gui.panels.energies import EnergiesPanel
from cem_gui.prober import Prober
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects


class EnergiesStage(Stage):
    title = "Energies"
    tip = "How well E(x) tells clean images from adversarial and generated ones"
    compares = True
    samples = False
    has_steps = False

    def __init__(self, prober: Prober, subjects: Subjects, settings: QSettings, parent: QObject) -> None:
        self.panel: EnergiesPanel
        super().__init__(EnergiesPanel(), parent)
        self._prober = prober
        self._subjects, self._settings = subjects, settings
