"""The run in sight: begins, pauses and ends it, and tells what came of it. It alone knows the sampling thread."""

from __future__ import annotations

from typing import Final, Literal

from PySide6.QtCore import QObject, QTimer, Signal, Slot

from cem_core.messages import RunEnd, RunSpec, Sampler, Step
from cem_core.session import Session
from cem_gui.worker import Controls, WorkerThread

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
    _run_wanted = Signal(object, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.session: Session | None = None
        self.gait: Gait = "ended"
        self.previous: Session | None = None
        self._begun: Session | None = None
        """A run whose step 0 is still to come."""
        self._controls: Controls | None = None
        self._run_id = ""
        self._recorded = 0
        self._thread = WorkerThread()
        self._run_wanted.connect(self._thread.worker.run)
        self._clock = QTimer(self)
        self._clock.setInterval(TICK_MS)
        self._clock.timeout.connect(self._tick)

    @property
    def waits(self) -> bool:
        """The newest run stands at its start, or is on its way there: nothing has been sampled that could be lost."""
        return self.gait == "paused" and not (self._newest_in_sight and self.session and len(self.session) > 1)

    @property
    def live(self) -> bool:
        """The session in sight is the run that was begun last, and it has not ended."""
        return self.gait != "ended" and self._newest_in_sight

    @property
    def rate(self) -> float:
        """Steps a second of the run in sight, pauses left out; 0 if unknown."""
        busy = self._thread.worker.busy_seconds
        return (len(self.session) - 1) / busy if self.session and self._newest_in_sight and busy > 0 else 0.0

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
        if self.gait == "running":
            left = f" · {max(0, length - done) / self.rate:.0f} s left" if rate else ""
            return f"Running · step {done:,} of {length:,}{rate}{left} · every step recorded"
        if self.gait == "paused":
            return f"Paused at step {done:,} · Space goes on" if done else "Ready · Space runs"
        how = {"done": "Done", "stopped": "Stopped", "failed": "Failed"}
        ended = how[self.session.end.reason] if self.session.end else "Ended"
        return f"{ended} after {done:,} step{'' if done == 1 else 's'}{rate} · every step recorded"

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
        self._begun = None
        self._run_id = spec.id
        self._controls = Controls(spec.sampler, gait)
        self._run_wanted.emit(spec, self._controls)
        self._set_gait(gait)

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
        if self._controls is not None:
            self._controls.stop()

    def abandon(self) -> None:
        """End the newest run and hear no more of it."""
        self.stop()
        self._run_id, self._begun = "", None
        self._set_gait("ended")

    def back(self) -> None:
        """Look at the run before this one again; a second time, at this one."""
        if self.previous is not None:
            self.abandon()
            current = self.session
            self.session, self.previous = self.previous, current if current and len(current) > 1 else None
            self._recorded = len(self.session)
            self.began.emit()

    def _set_gait(self, gait: Gait) -> None:
        self.gait = gait
        self.gait_changed.emit()

    @Slot()
    def _tick(self) -> None:
        news = self._thread.worker.mailbox.empty()
        if news.session is not None and news.session.start.spec.id == self._run_id:
            self._begun = news.session
        if self._begun is not None and len(self._begun):
            if self.session is not None and len(self.session) > 1:
                self.previous = self.session
            self.session, self._begun = self._begun, None
            self._recorded = 1
            self.began.emit()
        if news.step is not None and self._is_news(news.step):
            self._recorded = news.step.index + 1
            self.grew.emit(news.step)
        if news.end is not None and news.end.run == self._run_id:
            self._end(news.end)

    def _is_news(self, step: Step) -> bool:
        # A step is posted after it was recorded, so the last one is never missed, however the two threads meet.
        session = self.session
        return session is not None and step.run == session.start.spec.id and step.index >= self._recorded

    def _end(self, end: RunEnd) -> None:
        self._set_gait("ended")
        self.ended.emit(end)
