"""Runs of several models in step."""

from __future__ import annotations

from PySide6.QtCore import QObject

from cem_gui.panels.linked import LinkedPanel
from cem_gui.prober import Prober
from cem_gui.setup import Setup
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects


class LinkedStage(Stage):
    title = "Linked runs"
    tip = "The same images, noise and budget for each model, step by step"
    compares = True
    samples = True
    has_steps = True

    def __init__(self, prober: Prober, subjects: Subjects, setup: Setup, parent: QObject) -> None:
        self.panel: LinkedPanel
        super().__init__(LinkedPanel(), parent)
        self._prober = prober
        self._subjects, self._setup = subjects, setup
