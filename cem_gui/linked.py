"""Runs of several models in step: begun, paused and changed together, and looked at with one step cursor."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final, Literal

import msgspec
import numpy as np
from PySide6.QtCore import QObject, QSettings, QTimer, Signal, Slot

from cem_core.linking import Crossing, Round, lay_out
from cem_core.messages import Checkpoint, Floats, Refused, RunSpec, Sampler, Step
from cem_core.probes.requests import Linked
from cem_core.session import Session
from cem_gui.controls import Controls
from cem_gui.models import Models
from cem_gui.panels.linked import LinkedPanel, shown
from cem_gui.panels.timeline import TimelinePanel
from cem_gui.player import folder_of
from cem_gui.prober import Job, LinkedRuns, Prober
from cem_gui.setup import Settings, Setup
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects
from cem_gui.widgets.image_grid import Bytes

_SETTLE_MS: Final = 120
_CURVE_TICKS: Final = 4
"""The curves of each model are drawn anew at each so manieth tick, one model a tick; the images at each."""
_VISITED: Final = "linked visited"

Gait = Literal["running", "paused", "ended"]


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


class LinkedStage(Stage):
    title = "Linked runs"
    tip = "The same images, noise and budget for each model, step by step"
    compares = True
    samples = True
    has_steps = True

    export_wanted = Signal(tuple)
    """The sessions, one a model."""
    recorded = Signal()
    """Runs are over that have folders among the sessions."""

    def __init__(
        self,
        prober: Prober,
        subjects: Subjects,
        setup: Setup,
        models: Models,
        settings: QSettings,
        parent: QObject,
    ) -> None:
        self.panel: LinkedPanel
        self.timeline = TimelinePanel()
        super().__init__(LinkedPanel(self.timeline), parent)
        self._prober, self._subjects, self._setup = prober, subjects, setup
        self._models, self._settings = models, settings
        self._job: Job | None = None
        """What is being played; its answers are heard, and no other's."""
        self._runs: LinkedRuns | None = None
        """What is shown: of `_job`, once it has begun, or of the one before."""
        self._checkpoints: tuple[Checkpoint, ...] = ()
        """Of the runs that were begun last."""
        self._firsts: list[Floats | None] = []
        """(B, C, H, W) where each run began."""
        self._crossings = Crossings()
        self._row: Sampler | None = None
        """In force."""
        self._gait: Gait = "ended"
        self._made_of: tuple[Settings | None, tuple[str, ...], int] | None = None
        self._step, self._newest, self._follows, self._ticks = 0, 0, True, 0
        self._since = (0.0, 0)
        """When it was let go on, and at which step; for the rate."""
        self._rate = 0.0
        self._said = ""
        """What cannot be done now; until something else happens."""
        self._in_sight = False
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.setInterval(_SETTLE_MS)
        self._settling.timeout.connect(self._settle)
        prober.told.connect(self._told)
        prober.ended.connect(self._ended)
        subjects.changed.connect(self._subjects_changed)
        setup.numbers_changed.connect(self._numbers_changed)
        setup.chains_changed.connect(self.renew)
        setup.renewed.connect(self.renew)
        self.panel.count_changed.connect(self.renew)
        self.panel.selected.connect(self._chain_selected)
        self.panel.gain_changed.connect(self._show_step)
        self.panel.stepped.connect(self.go_to)
        self.timeline.stepped.connect(self.go_to)

    # ---- what the window asks ----------------------------------------------------------------------------------------

    @property
    def run_text(self) -> str:
        if self._gait == "running":
            return "Pa&use"
        return "&Continue" if self._under_way else "&Run"

    @property
    def can_run(self) -> bool:
        return self._subjects.ready and self._setup.settings is not None

    @property
    def busy(self) -> bool:
        return self._under_way

    @property
    def status(self) -> str:
        if self._said:
            return self._said
        done, length = self.last_step, self._length
        if not self._subjects.ready:
            return "Opening the models …"
        if self._runs is None or self._is_beginning:
            return "Beginning …" if self._job is not None else ""
        rate = f" · {self._rate:.1f} steps/s" if done and self._rate else ""
        kept = "every step recorded" if any(map(folder_of, self._sessions)) else "not recorded"
        if self._gait == "running":
            left = f" · {max(0, length - done) / self._rate:.0f} s left" if rate else ""
            return f"Running · step {done:,} of {length:,}{rate}{left} · {kept}"
        if self._gait == "paused":
            return f"Paused at step {done:,} · Space goes on" if done else "Ready · Space runs"
        ends = {session.end.reason for session in self._sessions if session is not None and session.end is not None}
        how = "Done" if "done" in ends else "Stopped" if "stopped" in ends else "Ended"
        return f"{how} after {done:,} step{'' if done == 1 else 's'}{rate} · {kept}"

    @property
    def step(self) -> int:
        return self._step

    @property
    def last_step(self) -> int:
        """The newest that was told of all runs: their sessions may be ahead of it, one after the other."""
        return self._newest

    def enter(self) -> None:
        self._in_sight = True
        self._show_all()
        if self._under_way:
            if self._setup.settings is not None:
                self._numbers_changed(self._setup.settings.sampler)
        elif self._is_stale:
            self._settle()

    def leave(self) -> None:
        self._in_sight = False
        self.timeline.loop.setChecked(False)

    def say(self, sentence: str) -> None:
        self.panel.notice.say(sentence)

    def restyle(self) -> None:
        self.panel.restyle()
        self.timeline.restyle()

    @Slot()
    def run_or_pause(self) -> None:
        self._follows, self._said = True, ""
        if self._gait == "running":
            self._go("paused")
        elif self._job is None or self._settling.isActive():
            self._begin("running")
        else:
            self._go("running")

    @Slot()
    def one_step(self) -> None:
        self._follows, self._said = True, ""
        if self._job is None or self._settling.isActive():
            self._begin("paused")
        if self._job is not None:
            self._job.one_step()
            self._set_gait("paused")

    @Slot()
    def loop(self) -> None:
        if self._runs is not None:
            self.timeline.loop.toggle()

    @Slot()
    def stop(self) -> None:
        """End the runs; with none under way, dismiss the notice."""
        self._said = ""
        if self._under_way and self._job is not None:
            self._job.cancel()
        else:
            self.panel.notice.hide()
        self.changed.emit()

    @property
    def can_export(self) -> bool:
        return self._runs is not None

    @Slot()
    def export(self) -> None:
        """Each model's run, so far."""
        self.export_wanted.emit(tuple(run for run in self._sessions if run is not None and len(run)))

    @Slot(int)
    def go_to(self, step: int) -> None:
        if self._runs is not None:
            self._step = min(max(step, 0), self.last_step)
            self._follows = self._step == self.last_step
            self._show_step()
            self._show_cursor()

    # ---- what is played ----------------------------------------------------------------------------------------------

    @property
    def _sessions(self) -> list[Session | None]:
        return self._runs.sessions if self._runs is not None else []

    @property
    def _is_beginning(self) -> bool:
        return self._job is not None and not self._job.begun

    @property
    def _under_way(self) -> bool:
        """Something would be lost if it ended."""
        waits = self._gait == "paused" and (self._is_beginning or self.last_step == 0)
        return self._job is not None and not waits

    @property
    def _length(self) -> int:
        """Steps that the runs are meant to take, or took."""
        return max(1, self.last_step) if self._job is None or self._row is None else self._row.steps

    @property
    def _wanted(self) -> tuple[Settings | None, tuple[str, ...], int]:
        """All that the next runs would be made of."""
        return self._setup.settings, self._subjects.references, self.panel.count.value()

    @property
    def _is_stale(self) -> bool:
        """Something else is wanted than what is shown; numbers changed after its end are for the next runs."""
        settings, *others = self._wanted
        made_of, *others_before = self._made_of or (None, (), 0)
        if settings is None or made_of is None or others != others_before:
            return True
        return settings != (made_of if self._job is not None else replace(made_of, sampler=settings.sampler))

    @Slot()
    def _settle(self) -> None:
        """Have the runs that are wanted stand at step 0; those of the first visit go on by themselves."""
        if not self._in_sight:
            return  # `enter` comes back to it
        visited = str(self._settings.value(_VISITED, "false")) == "true"
        self._begin("paused" if visited else "running")

    def _begin(self, gait: Literal["running", "paused"]) -> None:
        """New runs with what is set, once the models are open."""
        self._settling.stop()
        self._drop()
        if not self.can_run:
            self._show_opening()
            return
        self._made_of = self._wanted
        try:
            specs = self._specs()
        except Refused as refused:
            self._tell(str(refused))
        else:
            self._row, self._checkpoints = specs[0].sampler, self._subjects.checkpoints
            self._job = Job(Linked(specs), Controls(self._row, gait))
            self._prober.begin(self._job)
            self._go(gait)

    def _specs(self) -> tuple[RunSpec, ...]:
        if self._models.hindrance:
            raise Refused(f"Targets are classes of the model in the Evolution view. {self._models.hindrance}")
        spec, checkpoint = self._setup.spec(), self._models.checkpoint
        assert checkpoint is not None
        spec = msgspec.structs.replace(spec, chains=spec.chains[: self.panel.count.value()])
        subjects = list(zip(self._subjects.subjects, self._subjects.checkpoints, strict=True))
        return lay_out(spec, checkpoint.classes, subjects)

    def _drop(self) -> None:
        """End what is played and hear no more of it."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self._set_gait("ended")

    def _go(self, gait: Literal["running", "paused"]) -> None:
        if self._job is not None:
            self._job.go(gait)
            self._set_gait(gait)
        if gait == "running":
            self._settings.setValue(_VISITED, "true")

    def _set_gait(self, gait: Gait) -> None:
        self._gait = gait
        self._since = (time.monotonic(), self.last_step)
        self.changed.emit()

    # ---- what is set -------------------------------------------------------------------------------------------------

    @Slot(object)
    def _numbers_changed(self, sampler: Sampler) -> None:
        if not self._in_sight:
            return
        if self._under_way and self._job is not None:
            self._row = sampler
            self._job.change(sampler)
            self.timeline.set_length(sampler.steps)
        elif self._job is not None:
            self._settling.start()

    @Slot()
    def renew(self) -> None:
        """Start, targets, number or seed changed: for the next runs."""
        if not self._under_way:
            self._settling.start()
        elif self._in_sight:
            self._said = "Start, targets, number and seed take hold with the next runs: Esc ends these."
            self.changed.emit()

    @Slot()
    def _subjects_changed(self) -> None:
        if self._made_of is None or self._made_of[1] != self._subjects.references:
            self._drop()
            self._made_of = self._runs = None
            self._newest = 0
            self._settling.start()
            self._show_opening()

    def _tell(self, problem: str) -> None:
        """Above what is shown; instead of it where there is nothing, since a message may be dismissed."""
        if self._runs is None:
            self.panel.show_empty(problem)
        else:
            self.panel.say(problem)

    def _show_opening(self) -> None:
        if self._runs is None:
            self.panel.show_empty("Opening the models …")
        self.changed.emit()

    # ---- news from the runs ------------------------------------------------------------------------------------------

    @Slot(object, list)
    def _told(self, job: Job, answers: list[LinkedRuns | Round]) -> None:
        if job is not self._job:
            return
        for answer in answers:
            if isinstance(answer, LinkedRuns):
                self._runs, self._crossings = answer, Crossings()
                begun = [session if session is not None and len(session) else None for session in answer.sessions]
                self._firsts = [None if session is None else session[0].pixels for session in begun]
                self._step, self._newest, self._follows, self._ticks = 0, 0, True, 0
                self._since, self._rate = (time.monotonic(), 0), 0.0
                self._note(answer.crossing)
                self._show_all()
            else:
                self._note(answer.crossing)
                self._newest = max(self._newest, *(one.index for one in answer.messages if isinstance(one, Step)), 0)
        self._grow()

    def _note(self, crossing: Crossing | None) -> None:
        if crossing is not None:
            self._crossings.append(crossing)

    def _grow(self) -> None:
        self._ticks += 1
        since, before = self._since
        if self._gait == "running" and self.last_step > before:
            self._rate = (self.last_step - before) / max(1e-3, time.monotonic() - since)
        if self._follows:
            self._step = self.last_step
        if not self._in_sight:
            return
        if self._follows:
            self._show_step()
        self.timeline.show_recorded(self.last_step + 1, self._step)
        if self._gait == "running":
            self._show_curves(self._ticks % _CURVE_TICKS)
        else:
            self._show_every_curve()
        if self._gait != "running" or self._ticks % _CURVE_TICKS == 0:
            self.timeline.show_thumbs(self._thumbnail)
            self.changed.emit()

    @Slot(object, str)
    def _ended(self, job: Job, problem: str) -> None:
        if job is self._job:
            self._job = None
            self._set_gait("ended")
            if problem or self._runs is None:
                self._tell(problem or "Nothing was run: press Space.")
            if self._in_sight and self._runs is not None:
                self._show_step()
                self._show_every_curve()
                self.timeline.show_thumbs(self._thumbnail)
        if isinstance(job.request, Linked) and job.begun:
            self.recorded.emit()

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def _show_all(self) -> None:
        """Everything anew."""
        runs = self._runs
        if runs is None or not self._in_sight:
            return
        self.panel.show_models(self._checkpoints)
        begun = next(session for session in runs.sessions if session is not None and len(session))
        self.panel.show_chains(begun.start, begun[0])
        self._show_about()
        self.timeline.start(self._length)
        self._show_step()
        self._show_every_curve()
        self.timeline.show_recorded(self.last_step + 1, self._step)
        self.timeline.show_thumbs(self._thumbnail, anew=True)

    def _show_about(self) -> None:
        session = next(session for session in self._sessions if session is not None and len(session))
        chain = self.panel.chosen
        seed = session.start.spec.chains[chain].seed
        parts = (session.start.names[chain], f"seed {seed}", "the same start, noise and budget for each model")
        self.panel.show_about(" · ".join(part for part in parts if part))

    @Slot()
    def _show_step(self) -> None:
        """The images at the cursor, or where a run ended before."""
        if self._runs is None:
            return
        for model, (session, problem) in enumerate(zip(self._sessions, self._runs.problems, strict=True)):
            if problem:
                self.panel.columns[model].show_problem(problem)
            first = self._firsts[model]
            if session is not None and first is not None:
                try:
                    step = session[min(self._step, len(session) - 1)]
                except OSError as error:
                    self.panel.say(f"Step {self._step:,} could not be read back: {error.strerror or error}.")
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

    def _show_every_curve(self) -> None:
        for model in range(len(self._sessions)):
            self._show_curves(model)
        self._show_cursor()

    def _show_curves(self, model: int) -> None:
        if model >= len(self._sessions):
            return
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

    def _show_cursor(self) -> None:
        for column in self.panel.columns[: len(self._sessions)]:
            column.set_cursor(self._step)
        self.timeline.show_recorded(self.last_step + 1, self._step)

    def _thumbnail(self, step: int) -> Bytes | None:
        """The chosen chain of the first run that has come so far."""
        chain = self.panel.chosen
        session = next(one for one in self._sessions if one is not None and step < len(one))
        try:
            return np.asarray(shown(session[step].pixels[chain : chain + 1])[0])
        except OSError:
            return None

    @Slot(int)
    def _chain_selected(self, chain: int) -> None:
        if self._runs is not None:
            self._show_about()
            self._show_step()
            self._show_every_curve()
            self.timeline.show_thumbs(self._thumbnail, anew=True)
