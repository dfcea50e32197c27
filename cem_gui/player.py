"""The run in sight: begins, pauses and ends it, and tells what came of it. It alone knows the sampling thread."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from cem_core.messages import RunEnd, RunSpec, Sampler, Step
from cem_core.session import Session
from cem_gui.controls import Controls
from cem_gui.keeping import Keeping
from cem_gui.worker import Checked as Checked
from cem_gui.worker import WorkerThread

TICK_MS: Final = 33

Gait = Literal["running", "paused", "ended"]


class Player(QObject):
    """One run at a time, and the one before it. Its signals come at most once a tick, however fast the run is."""

    began = Signal()
    """`session` is another, and its step 0 is recorded."""
    grew = Signal(object)
    """The newest Step; others may have been recorded since the last."""
    ended = Signal(object)
    """RunEnd of the run that was begun last."""
    gait_changed = Signal()
    stuck = Signal(str)
    """Why the run cannot be written to the disk. It is paused; to go on is to try again."""
    released = Signal()
    """Some run is over, though perhaps not the one in sight: its folder is free."""
    checked = Signal(object)
    """Checked: how far a verification is; its `over` comes once for each that was begun."""
    _run_wanted = Signal(object, object)
    _resume_wanted = Signal(object, object)
    _verify_wanted = Signal(object, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.session: Session | None = None
        self.gait: Gait = "ended"
        self.previous: Session | None = None
        self._begun: Session | None = None
        """A run whose step 0 is still to come."""
        self._controls: Controls | None = None
        self._run_id = ""
        self._resumed: Path | None = None
        """A folder whose run is to go on, until the sampling thread has opened it."""
        self._recorded = 0
        self._thread = WorkerThread()
        self._run_wanted.connect(self._thread.worker.run)
        self._resume_wanted.connect(self._thread.worker.resume)
        self._verify_wanted.connect(self._thread.worker.verify)
        self._verifying: Controls | None = None
        self._opened: Session | None = None
        """The run that was opened last, rather than begun."""
        self._forgotten: Session | None = None
        self._stuck = False
        """Its newest step could not be written: it is more than a run that waits to begin."""
        self._clock = QTimer(self)
        self._clock.setInterval(TICK_MS)
        self._clock.timeout.connect(self._tick)

    @property
    def waits(self) -> bool:
        """The newest run stands at its start, or is on its way there: nothing has been sampled that could be lost."""
        begun = self._newest_in_sight and self.session is not None and len(self.session) > 1
        return self.gait == "paused" and not begun and not self._stuck

    @property
    def live(self) -> bool:
        """The session in sight is the run that was begun last, and it has not ended."""
        return self.gait != "ended" and self._newest_in_sight

    @property
    def resumable(self) -> bool:
        """The run in sight was opened, and had not come to its end: to run is to go on with it."""
        session = self.session
        open_end = session is not None and (session.end is None or session.end.reason == "stopped")
        return self.gait == "ended" and session is self._opened and open_end and len(session or ()) > 0

    @property
    def rate(self) -> float:
        """Steps a second of the run in sight, pauses left out; 0 if unknown."""
        worker = self._thread.worker
        busy = worker.busy_seconds
        return worker.busy_steps / busy if self.session and self._newest_in_sight and busy > 0 else 0.0

    @property
    def _newest_in_sight(self) -> bool:
        return self.session is not None and self.session.start.spec.id == self._run_id

    def describe(self, length: int) -> str:
        """One line on the run in sight, which is meant to take so many steps."""
        if self.session is None:
            return "Opening the model …"
        if not self._newest_in_sight and self.gait != "ended":
            return "Beginning …"
        done = len(self.session) - 1
        rate = f" · {self.rate:.1f} steps/s" if done and self.rate else ""
        kept = "every step recorded" if folder_of(self.session) or done == 0 else "not recorded"
        if self.gait == "running":
            left = f" · {max(0, length - done) / self.rate:.0f} s left" if rate else ""
            return f"Running · step {done:,} of {length:,}{rate}{left} · {kept}"
        if self.gait == "paused":
            return f"Paused at step {done:,} · Space goes on" if done else "Ready · Space runs"
        how = {"done": "Done", "stopped": "Stopped", "failed": "Failed"}
        ended = how[self.session.end.reason] if self.session.end else "Ended"
        return f"{ended} after {done:,} step{'' if done == 1 else 's'}{rate} · {kept}"

    def start(self) -> None:
        self._thread.start()
        self._clock.start()

    def finish(self) -> None:
        """Stop the run and the thread, and wait for both. Does nothing the second time."""
        self._clock.stop()
        self.stop()
        self._thread.finish()

    def begin(self, spec: RunSpec, gait: Literal["running", "paused"]) -> None:
        """End the run in progress and play another; paused, it waits at its start."""
        self.stop()
        self._begun, self._resumed, self._stuck = None, None, False
        self._run_id = spec.id
        self._controls = Controls(spec.sampler, gait)
        self._run_wanted.emit(spec, self._controls)
        self._set_gait(gait)

    def resume(self, folder: Path, sampler: Sampler) -> None:
        """End the run in progress and go on with a recorded one, with this row."""
        self.stop()
        # Its folder stands for it until it is open and its id is known.
        self._begun, self._run_id, self._resumed = None, str(folder), folder
        self._controls = Controls(sampler, "running")
        self._resume_wanted.emit(folder, self._controls)
        self._set_gait("running")

    def show(self, session: Session) -> None:
        """Look at a recorded run. One in progress ends; it is the one before."""
        self.abandon()
        if self.session is not None and folder_of(self.session) != folder_of(session):
            self._set_aside(self.session)
        self.session = self._opened = session
        self._recorded = len(session)
        self.began.emit()

    def verify(self, session: Session) -> None:
        """Run it again and compare, in place of whatever runs now."""
        if self.waits or self.gait == "ended":
            self.abandon()
        self._verifying = Controls(session.start.spec.sampler)
        self._verify_wanted.emit(session, self._verifying)

    def keep(self, record: bool, memory: int) -> None:
        """Whether the runs to come are recorded, and how many bytes of pixels each keeps in memory."""
        self._thread.worker.keeping = Keeping(record, memory)

    def forget(self, folder: str) -> None:
        """A recorded run is gone: nobody can go back to it."""
        if self.previous is not None and folder_of(self.previous) == folder:
            self.previous = None
            self.gait_changed.emit()
        if folder_of(self.session) == folder:
            self._forgotten = self.session

    @Slot()
    def stop_verifying(self) -> None:
        if self._verifying is not None:
            self._verifying.stop()

    def change(self, sampler: Sampler) -> None:
        """The row for every step from the next one on."""
        if self._controls is not None:
            self._controls.change(sampler)

    def go(self, gait: Literal["running", "paused"]) -> None:
        if self._controls is not None and self.gait != "ended":
            self._controls.go(gait)
            self._set_gait(gait)

    def one_step(self) -> None:
        """Pause after one more step."""
        if self._controls is not None and self.gait != "ended":
            self._controls.one_step()
            self._set_gait("paused")

    def stop(self) -> None:
        """End the run in progress, and the verification."""
        self.stop_verifying()
        if self._controls is not None:
            self._controls.stop()

    def abandon(self) -> None:
        """End the newest run and hear no more of it."""
        self.stop()
        self._run_id, self._begun, self._resumed = "", None, None
        self._set_gait("ended")

    def back(self) -> None:
        """Look at the run before this one again; a second time, at this one."""
        if self.previous is not None:
            self.abandon()
            current = self.session
            self.session, self.previous = self.previous, current if current and len(current) > 1 else None
            self._recorded = len(self.session)
            self.began.emit()

    def _set_aside(self, session: Session) -> None:
        if len(session) > 1 and session is not self._forgotten:
            self.previous = session

    def _set_gait(self, gait: Gait) -> None:
        self._stuck &= gait == "paused"
        self.gait = gait
        self.gait_changed.emit()

    @Slot()
    def _tick(self) -> None:
        news = self._thread.worker.mailbox.empty()
        if news.session is not None:
            self._note_begun(news.session)
        if self._begun is not None and len(self._begun):
            ours = self.session
            if ours is not None and ours.start.spec.id != self._begun.start.spec.id:
                self._set_aside(ours)
            self.session, self._begun = self._begun, None
            self._recorded = 1 if self._resumed is None else len(self.session)
            self._resumed = None
            self.began.emit()
        if news.step is not None and self._is_news(news.step):
            self._recorded = news.step.index + 1
            self.grew.emit(news.step)
        if news.stuck and self.gait != "ended":
            self._stuck = True
            self._set_gait("paused")
            self.stuck.emit(news.stuck)
        if news.checked is not None:
            self.checked.emit(news.checked)
        if news.end is not None:
            if news.end.run == self._run_id:
                self._end(news.end)
            self.released.emit()

    def _note_begun(self, session: Session) -> None:
        if self._resumed is not None and session.recording is not None and session.recording.folder == self._resumed:
            self._run_id = session.start.spec.id
        if session.start.spec.id == self._run_id:
            self._begun = session

    def _is_news(self, step: Step) -> bool:
        # A step is posted after it was recorded, so the last one is never missed, however the two threads meet.
        session = self.session
        return session is not None and step.run == session.start.spec.id and step.index >= self._recorded

    def _end(self, end: RunEnd) -> None:
        self._set_gait("ended")
        self.ended.emit(end)


def folder_of(session: Session | None) -> str:
    """Where a run is recorded; empty: nowhere."""
    return str(session.recording.folder) if session is not None and session.recording is not None else ""
