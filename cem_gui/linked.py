"""Runs of several models in step: begun, paused and changed together, and looked at with one step cursor."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
from PySide6.QtCore import QObject, QSettings, Slot

from cem_core.linking import Crossing, Round, lay_out
from cem_core.messages import Floats, RunSpec, Sampler, Step
from cem_core.presets import FROM_IMAGES, SAMPLERS
from cem_core.probes.requests import Linked
from cem_gui.lockstep import Lockstep
from cem_gui.models import Models
from cem_gui.panels.linked import LinkedPanel
from cem_gui.panels.timeline import TimelinePanel
from cem_gui.prober import LinkedRuns, Prober
from cem_gui.setup import Setup
from cem_gui.subjects import Subjects
from cem_gui.widgets.image_grid import Bytes, to_bytes

_VISITED: Final = "linked visited"


class Crossings:
    """What each model says of each run's images, step by step: arrays that grow."""

    def __init__(self) -> None:
        self._count = 0
        self._energy: Floats = np.empty((0, 0, 0, 0), np.float32)
        self._log_p = self._energy

    def __len__(self) -> int:
        return self._count

    @property
    def energy(self) -> Floats:
        """(T, N, N, B), as in `Crossing`."""
        return self._energy[: self._count]

    @property
    def log_p(self) -> Floats:
        """(T, N, N, B), as in `Crossing`."""
        return self._log_p[: self._count]

    def append(self, crossing: Crossing) -> None:
        if self._count == len(self._energy):
            grown = np.empty((2, max(64, 2 * self._count), *crossing.energy.shape), np.float32)
            if self._count:
                grown[0, : self._count], grown[1, : self._count] = self._energy, self._log_p
            self._energy, self._log_p = grown
        self._energy[self._count], self._log_p[self._count] = crossing.energy, crossing.log_p
        self._count += 1


class LinkedStage(Lockstep):
    title = "Linked runs"
    tip = "The same images, noise and budget for each model, step by step"
    samples = True

    def __init__(
        self,
        prober: Prober,
        subjects: Subjects,
        setup: Setup,
        models: Models,
        settings: QSettings,
        parent: QObject,
    ) -> None:
        timeline = TimelinePanel()
        self.panel: LinkedPanel
        super().__init__(LinkedPanel(timeline), timeline, prober, subjects, settings, _VISITED, parent)
        self._setup, self._models = setup, models
        self._firsts: list[Floats | None] = []
        """(B, C, H, W) where each run began."""
        self._crossings = Crossings()
        setup.numbers_changed.connect(self._row_changed)
        setup.chains_changed.connect(self.renew)
        setup.renewed.connect(self.renew)
        self.panel.count_changed.connect(self.renew)
        self.panel.selected.connect(self._chain_selected)
        self.panel.gain_changed.connect(self._draw_step)
        self.panel.stepped.connect(self.go_to)

    @property
    def status(self) -> str:
        return "The open model has no classes" if self._runs is None and self._models.classless else super().status

    # ---- what is played ----------------------------------------------------------------------------------------------

    @property
    def _wanted(self) -> object:
        settings = self._setup.settings
        others = None if settings is None else replace(settings, sampler=SAMPLERS[FROM_IMAGES])
        return self._subjects.references, others, self.panel.count.value()

    @property
    def _wanted_row(self) -> Sampler | None:
        return None if self._setup.settings is None else self._setup.settings.sampler

    @property
    def _hindrance(self) -> str:
        if self._models.classless:
            return f"Targets are classes of the model in the Evolution view. {self._models.classless}"
        return "" if self._subjects.ready and self._setup.settings is not None else "Opening the models …"

    def _request(self) -> Linked:
        return Linked(self._specs())

    def _specs(self) -> tuple[RunSpec, ...]:
        spec, checkpoint = self._setup.spec(), self._models.checkpoint
        assert checkpoint is not None
        spec = msgspec.structs.replace(spec, chains=spec.chains[: self.panel.count.value()])
        subjects = list(zip(self._subjects.subjects, self._subjects.checkpoints, strict=True))
        return lay_out(spec, checkpoint.classes, subjects)

    @Slot()
    def renew(self) -> None:
        """Start, targets, number or seed changed: for the next runs."""
        if not self._under_way:
            self._settling.start()
        elif self._in_sight:
            self._said = "Start, targets, number and seed take hold with the next runs: Esc ends these."
            self.changed.emit()

    def _hear(self, answer: LinkedRuns | Round) -> None:
        if isinstance(answer, LinkedRuns):
            self._crossings = Crossings()
            begun = [session if session is not None and len(session) else None for session in answer.sessions]
            self._firsts = [None if session is None else session[0].pixels for session in begun]
        if answer.crossing is not None:
            self._crossings.append(answer.crossing)

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def _draw_runs(self) -> None:
        self.panel.show_models(self._checkpoints)
        begun = self._begun
        assert begun is not None
        self.panel.show_chains(begun.start, begun[0])
        self._show_about()

    def _show_about(self) -> None:
        session, chain = self._begun, self.panel.chosen
        assert session is not None
        seed = session.start.spec.chains[chain].seed
        parts = (session.start.names[chain], f"seed {seed}", "the same start, noise and budget for each model")
        self.panel.show_about(" · ".join(part for part in parts if part))

    @Slot()
    def _draw_step(self) -> None:
        """The images at the cursor, or where a run ended before."""
        if self._runs is None:
            return
        for model, (session, problem) in enumerate(zip(self._sessions, self._runs.problems, strict=True)):
            if problem:
                self.panel.columns[model].show_problem(problem)
            first = self._firsts[model]
            if session is not None and first is not None:
                if (step := self._at_cursor(session)) is None:
                    return
                self.panel.show_step(model, session.start, step, first[self.panel.chosen])
        self._show_transfer()

    def _show_transfer(self) -> None:
        """The matrix at the cursor; in the row of a run that ended before, its last step."""
        if not len(self._crossings):
            return
        chain, count = self.panel.chosen, len(self._sessions)
        rows = np.arange(count)
        lengths = [len(session) if session is not None else 1 for session in self._sessions]
        at = np.minimum(self._step, np.minimum(np.maximum(lengths, 1), len(self._crossings)) - 1)
        energy, log_p = self._crossings.energy, self._crossings.log_p
        change = energy[at, rows, :, chain] - energy[0, :, :, chain]
        self.panel.matrix.show_values(np.exp(log_p[at, rows, :, chain]), change)

    def _draw_curves(self, model: int) -> None:
        session, column = self._sessions[model], self.panel.columns[model]
        if session is None or not len(session):
            column.clear_curves()
            return
        chain, judged = self.panel.chosen, None
        if len(self._crossings):
            judged = np.exp(self._crossings.log_p[: len(session), model, :, chain])
        length = max(self._length, self.last_step)
        column.show_curves(session.numbers, judged, chain, length)
        column.set_cursor(self._step)

    def _frame(self, step: Step) -> Bytes:
        chain = self.panel.chosen
        return to_bytes(step.pixels[chain])

    @Slot(int)
    def _chain_selected(self, chain: int) -> None:
        if self._runs is not None:
            self._show_about()
            self._draw_step()
            self._show_every_curve()
            self.timeline.show_thumbs(self._thumbnail, anew=True)
