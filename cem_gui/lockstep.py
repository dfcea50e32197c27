"""What the views that run several models in step have in common: one job, one pace, one step cursor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Literal, Protocol

from PySide6.QtCore import QObject, QSettings, QTimer, Signal, Slot

from cem_core.linking import Round
from cem_core.messages import Checkpoint, Refused, Sampler, Step
from cem_core.probes.requests import Linked, Subject
from cem_core.session import Session
from cem_gui.controls import Controls
from cem_gui.panels.timeline import TimelinePanel
from cem_gui.player import folder_of
from cem_gui.prober import Job, LinkedRuns, Prober
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects
from cem_gui.widgets.image_grid import Bytes
from cem_gui.widgets.notice import Notice

_SETTLE_MS: Final = 120
_CURVE_TICKS: Final = 4
"""The curves of each model are drawn anew at each so manieth tick, one model a tick; the images at each."""

Gait = Literal["running", "paused", "ended"]


class _Column(Protocol):
    def set_cursor(self, step: int) -> None: ...


class _Panel(Protocol):
    notice: Notice

    @property
    def columns(self) -> Sequence[_Column]:
        """One a model; perhaps more, which are not in use."""

    def restyle(self) -> None: ...

    def show_empty(self, text: str) -> None: ...


class Lockstep(Stage):
    """Runs are begun, paused and changed together. What they are made of and how they are drawn, those say who inherit.

    Something new stands ready at step 0 as soon as it is known; at the first visit ever it goes on by itself.
    """

    compares = True
    has_steps = True

    export_wanted = Signal(tuple)
    """The sessions, one a model."""
    recorded = Signal()
    """Runs are over that have folders among the sessions."""

    def __init__(
        self,
        panel: _Panel,
        timeline: TimelinePanel,
        prober: Prober,
        subjects: Subjects,
        settings: QSettings,
        visited: str,
        parent: QObject,
    ) -> None:
        """visited: the setting that says so."""
        super().__init__(panel, parent)  # type: ignore[arg-type]
        self.timeline = timeline
        self._plain, self._prober, self._subjects, self._settings = panel, prober, subjects, settings
        self._visited = visited
        self._job: Job | None = None
        """What is being played; its answers are heard, and no other's."""
        self._runs: LinkedRuns | None = None
        """What is shown: of `_job`, once it has begun, or of the one before."""
        self._checkpoints: tuple[Checkpoint, ...] = ()
        """Of the runs that were begun last."""
        self._row: Sampler | None = None
        """In force."""
        self._gait: Gait = "ended"
        self._made_of: tuple[object, Sampler | None] | None = None
        self._made_with: tuple[Subject, ...] | None = None
        """What the runs were last begun of: all but the row, and the row; and the models, as they were read."""
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
        timeline.stepped.connect(self.go_to)

    # ---- for those who inherit ---------------------------------------------------------------------------------------

    @property
    def _wanted(self) -> object:
        """All that the next runs would be made of, but for the row."""
        raise NotImplementedError

    @property
    def _wanted_row(self) -> Sampler | None:
        raise NotImplementedError

    @property
    def _hindrance(self) -> str:
        """Why nothing can be run now; empty if it can."""
        raise NotImplementedError

    def _request(self) -> Linked:
        """What is wanted, all models being open. Raises Refused if it cannot be run."""
        raise NotImplementedError

    def _hear(self, answer: LinkedRuns | Round) -> None:
        """What comes of the runs that are shown, before it is drawn."""

    def _draw_runs(self) -> None:
        """All that stays the same from step to step."""
        raise NotImplementedError

    def _draw_step(self) -> None:
        """What is to be seen at the cursor."""
        raise NotImplementedError

    def _draw_curves(self, model: int) -> None:
        raise NotImplementedError

    def _frame(self, step: Step) -> Bytes:
        """The picture of a step in the time line."""
        raise NotImplementedError

    # ---- what the window asks ----------------------------------------------------------------------------------------

    @property
    def run_text(self) -> str:
        if self._gait == "running":
            return "Pa&use"
        return "&Continue" if self._under_way else "&Run"

    @property
    def can_run(self) -> bool:
        return self._under_way or not self._hindrance

    @property
    def busy(self) -> bool:
        return self._under_way

    @property
    def status(self) -> str:
        if self._said:
            return self._said
        done, length = self.last_step, self._length
        if self._hindrance and self._job is None and self._runs is None:
            return self._hindrance
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
            self._row_changed()
        elif self._is_stale:
            self._settle()

    def leave(self) -> None:
        self._in_sight = False
        self.timeline.loop.setChecked(False)

    def say(self, sentence: str) -> None:
        self._plain.notice.say(sentence)

    def restyle(self) -> None:
        self._plain.restyle()
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
            self._plain.notice.hide()
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
            self._draw_step()
            self._show_cursor()

    # ---- what is played ----------------------------------------------------------------------------------------------

    @property
    def _sessions(self) -> list[Session | None]:
        return self._runs.sessions if self._runs is not None else []

    @property
    def _begun(self) -> Session | None:
        """The first run that has come to its step 0."""
        return next((session for session in self._sessions if session is not None and len(session)), None)

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
    def _is_stale(self) -> bool:
        """Something else is wanted than what is shown; a row that was changed after its end is for the next runs."""
        made_of, row = self._made_of or (None, None)
        return made_of is None or made_of != self._wanted or (self._job is not None and row != self._wanted_row)

    @Slot()
    def _settle(self) -> None:
        """Have the runs that are wanted stand at step 0; those of the first visit go on by themselves."""
        if not self._in_sight:
            return  # `enter` comes back to it
        visited = str(self._settings.value(self._visited, "false")) == "true"
        self._begin("paused" if visited else "running")

    def _begin(self, gait: Literal["running", "paused"]) -> None:
        """New runs with what is set, once the models are open."""
        self._settling.stop()
        self._drop()
        if hindrance := self._hindrance:
            self._tell(hindrance)
            self.changed.emit()
            return
        self._made_of, self._made_with = (self._wanted, self._wanted_row), self._subjects.subjects
        try:
            request = self._request()
        except Refused as refused:
            self._tell(str(refused))
        else:
            self._row, self._checkpoints = request.specs[0].sampler, self._subjects.checkpoints
            self._job = Job(request, Controls(self._row, gait))
            self._prober.begin(self._job)
            self._go(gait)
            self._show_hindrance()

    def _drop(self) -> None:
        """End what is played and hear no more of it."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self._set_gait("ended")

    def _forget(self) -> None:
        """What is shown is of something else: show nothing until there is more."""
        self._drop()
        self._made_of = self._made_with = self._runs = None
        self._newest = 0
        self._show_hindrance()

    def _go(self, gait: Literal["running", "paused"]) -> None:
        if self._job is not None:
            self._job.go(gait)
            self._set_gait(gait)
        if gait == "running":
            self._settings.setValue(self._visited, "true")

    def _set_gait(self, gait: Gait) -> None:
        self._gait = gait
        self._since = (time.monotonic(), self.last_step)
        self.changed.emit()

    @Slot()
    def _row_changed(self) -> None:
        row = self._wanted_row
        if not self._in_sight or row is None:
            return
        if self._under_way and self._job is not None:
            self._row = row
            self._job.change(row)
            self.timeline.set_length(row.steps)
        elif self._job is not None:
            self._settling.start()

    @Slot()
    def _subjects_changed(self) -> None:
        if self._made_with != self._subjects.subjects:
            self._forget()
            self._settling.start()

    def _tell(self, problem: str) -> None:
        """Above what is shown; instead of it where there is nothing, since a message may be dismissed."""
        if self._runs is None:
            self._plain.show_empty(problem)
        else:
            self._plain.notice.say(problem)

    def _show_hindrance(self) -> None:
        if self._runs is None:
            self._plain.show_empty(self._hindrance or "Beginning …")
            self.timeline.clear()
        self.changed.emit()

    # ---- news from the runs ------------------------------------------------------------------------------------------

    @Slot(object, list)
    def _told(self, job: Job, answers: list[LinkedRuns | Round]) -> None:
        if job is not self._job:
            return
        for answer in answers:
            if isinstance(answer, LinkedRuns):
                self._runs = answer
                self._step, self._newest, self._follows, self._ticks = 0, 0, True, 0
                self._since, self._rate = (time.monotonic(), 0), 0.0
                self._hear(answer)
                self._show_all()
            else:
                self._hear(answer)
                self._newest = max(self._newest, *(one.index for one in answer.messages if isinstance(one, Step)), 0)
        self._grow()

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
            self._draw_step()
        self.timeline.show_recorded(self.last_step + 1, self._step)
        if self._gait == "running":
            if (model := self._ticks % _CURVE_TICKS) < len(self._sessions):
                self._draw_curves(model)
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
                self._draw_step()
                self._show_every_curve()
                self.timeline.show_thumbs(self._thumbnail)
        if isinstance(job.request, Linked) and job.begun:
            self.recorded.emit()

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def _show_all(self) -> None:
        """Everything anew."""
        if self._runs is None or not self._in_sight:
            return
        self._draw_runs()
        self.timeline.start(self._length)
        self._draw_step()
        self._show_every_curve()
        self.timeline.show_thumbs(self._thumbnail, anew=True)

    def _show_every_curve(self) -> None:
        for model in range(len(self._sessions)):
            self._draw_curves(model)
        self._show_cursor()

    def _show_cursor(self) -> None:
        for column in self._plain.columns[: len(self._sessions)]:
            column.set_cursor(self._step)
        self.timeline.show_recorded(self.last_step + 1, self._step)

    def _at_cursor(self, session: Session) -> Step | None:
        """What is to be seen of a run, or where it ended before; None, and a message: it cannot be read back."""
        try:
            return session[min(self._step, len(session) - 1)]
        except OSError as error:
            self.say(f"Step {self._step:,} could not be read back: {error.strerror or error}.")
            return None

    def _thumbnail(self, step: int) -> Bytes | None:
        """Of the first run that has come so far."""
        session = next(one for one in self._sessions if one is not None and step < len(one))
        try:
            return self._frame(session[step])
        except OSError:
            return None
