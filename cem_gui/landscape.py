"""Energies on a plane through an image or a run."""

from __future__ import annotations

from PySide6.QtCore import QObject

from cem_gui.models import Models
from cem_gui.panels.landscape import LandscapePanel
from cem_gui.prober import Prober
from cem_gui.sight import Sight
from cem_gui.stages import Stage


class LandscapeStage(Stage):
    title = "Landscape"
    tip = "Energies on a plane through the image or along the run in sight"
    compares = False
    samples = False
    has_steps = False

    def __init__(self, prober: Prober, models: Models, sight: Sight, parent: QObject) -> None:
        self.panel: LandscapePanel
        super().__init__(LandscapePanel(), parent)
        self._prober = prober
        self._models, self._sight = models, sight
