"""The sampling thread: one run at a time, steered through `Controls`, read through a `Mailbox`.

Images conflate, numbers accumulate: the mailbox holds only the newest step, the session holds all of them. The window
empties the mailbox on a timer, so a fast run never floods it with signals.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Literal, NamedTuple

from PySide6.QtCore import QObject, QThread, Slot

from cem_core.messages import RunEnd, RunSpec, RunStart, Sampler, Step
from cem_core.session import Session

log = logging.getLogger(__name__)

Gait = Literal["paused", "running"]


class News(NamedTuple):
    """What happened since the mailbox was last emptied."""

    session: Session | None
    """Set if a run began."""
    step: Step | None
    """The newest."""
    end: RunEnd | None


class Mailbox:
    """One slot each; a newer letter replaces an older one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news = News(None, None, None)

    def began(self, session: Session) -> None:
        with self._lock:
            self._news = News(session, None, None)

    def moved(self, step: Step) -> None:
        with self._lock:
            self._news = self._news._replace(step=step)

    def ended(self, end: RunEnd) -> None:
        with self._lock:
            self._news = self._news._replace(end=end)

    def empty(self) -> News:
        """Everything since the last call, which is then gone from the box."""
        with self._lock:
            news, self._news = self._news, News(None, None, None)
            return news


class Controls:
    """What the window asks of one run, before and while it is played. Every method may be called from any thread."""

    def __init__(self, sampler: Sampler, gait: Gait = "paused") -> None:
        self._changed = threading.Condition()
        self._sampler = sampler
        self._gait: Gait = gait
        self._steps_wanted = 0
        self._stopped = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    def change(self, sampler: Sampler) -> None:
        """The row for every step from the next one on."""
        with self._changed:
            self._sampler = sampler

    def go(self, gait: Gait) -> None:
        with self._changed:
            self._gait = gait
            self._changed.notify_all()

    def one_step(self) -> None:
        """Pause, after one more step."""
        with self._changed:
            self._gait = "paused"
            self._steps_wanted += 1
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def following(self) -> Sampler | None:
        """For the run: the row of the next step, once there may be one; None: stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._gait == "running" or self._steps_wanted > 0)
            self._steps_wanted = max(0, self._steps_wanted - 1)
            return None if self._stopped else self._sampler


class Worker(QObject):
    """Lives on its own thread; the window talks to it through queued signals and hears through `mailbox`."""

    def __init__(self) -> None:
        super().__init__()
        self.mailbox = Mailbox()
        self.busy_seconds = 0.0
        """Time spent on the steps of the current run, pauses left out; for the rate that is shown."""

    @Slot(object, object)
    def run(self, spec: RunSpec, controls: Controls) -> None:
        """Play a run to its end, as its controls say; one that was stopped before its turn came is left out."""
        from cem_core import runner

        if controls.stopped:
            self._end(None, RunEnd(spec.id, "stopped"))
            return
        self.busy_seconds = 0.0
        session: Session | None = None
        since: float | None = None

        def following() -> Sampler | None:
            nonlocal since
            if since is not None:  # the first step 0 waits for the model and the images
                self.busy_seconds += time.perf_counter() - since
            sampler = controls.following()
            since = time.perf_counter()
            return sampler

        try:
            with contextlib.closing(runner.play(spec, following)) as messages:  # type: ignore[type-var]
                for message in messages:
                    if isinstance(message, RunStart):
                        session = Session(message)
                        self.mailbox.began(session)
                    elif isinstance(message, Step):
                        assert session is not None
                        session.append(message)
                        self.mailbox.moved(message)
                    else:
                        self._end(session, message)
        except Exception as error:  # whatever happens to the record, the window hears that the run is over
            log.exception("recording run %s failed", spec.id)
            self._end(session, RunEnd(spec.id, "failed", _lost(error)))

    def _end(self, session: Session | None, end: RunEnd) -> None:
        if session is not None:
            session.end = end
        self.mailbox.ended(end)


def _lost(error: Exception) -> str:
    """Why the steps of a run could not be kept any longer."""
    if isinstance(error, OSError):
        return (
            f"Older steps could not be kept on disk ({error.strerror or error}): the steps before are safe. Make room."
        )
    if isinstance(error, MemoryError):
        return "There is no memory left for more steps: the steps before are safe. Use fewer chains."
    return f"The run could not be recorded any longer ({error}): the log file has the details."


class WorkerThread(QThread):
    """The thread and its worker."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("sampling")
        self.worker = Worker()
        self.worker.moveToThread(self)

    def finish(self) -> None:
        """Wait for the end of what it does: its run must have been stopped before."""
        self.quit()
        self.wait()
