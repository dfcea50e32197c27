"""The smallest ε that flips each model on one image."""

from __future__ import annotations

from PySide6.QtCore import QObject

from cem_gui.panels.smallest import SmallestPanel
from cem_gui.prober import Prober
from cem_gui.sight import Sight
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects


class SmallestStage(Stage):
    title = "Smallest ε"
    tip = "How little it takes to flip each model on one image"
    compares = True
    samples = False
    has_steps = False

    def __init__(self, prober: Prober, subjects: Subjects, sight: Sight, parent: QObject) -> None:
        self.panel: SmallestPanel
        super().__init__(SmallestPanel(), parent)
        self._prober = prober
        self._subjects, self._sight = subjects, sight
