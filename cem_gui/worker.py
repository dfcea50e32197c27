"""The sampling thread: one run at a time, steered through `Controls`, read through a `Mailbox`.

Images conflate, numbers accumulate: the mailbox holds only the newest step, the session holds all of them. The window
empties the mailbox on a timer, so a fast run never floods it with signals.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PySide6.QtCore import QObject, QThread, Slot

from cem_core.messages import Message, Refused, RunEnd, RunSpec, RunStart, Sampler, Step
from cem_core.session import Session
from cem_gui.controls import Controls
from cem_gui.keeping import Keeping, keep

if TYPE_CHECKING:
    from cem_core.replaying import Verdict

log = logging.getLogger(__name__)


class News(NamedTuple):
    """What happened since the mailbox was last emptied."""

    session: Session | None
    """Set if a run began."""
    step: Step | None
    """The newest."""
    end: RunEnd | None
    stuck: str = ""
    """Why a step could not be kept: the run is paused until somebody lets it go on."""
    checked: Checked | None = None
    """How far a verification is."""


class Checked(NamedTuple):
    """A run that is run again and compared with its record."""

    session: Session
    steps: int
    """How many were compared."""
    verdict: Verdict | None = None
    """Set at the end; None there too if it was cancelled or failed."""
    over: bool = False
    problem: str = ""


class Mailbox:
    """One slot each; a newer letter replaces an older one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news = News(None, None, None)

    def began(self, session: Session) -> None:
        with self._lock:
            self._news = News(session, None, None, checked=self._news.checked)

    def moved(self, step: Step) -> None:
        with self._lock:
            self._news = self._news._replace(step=step)

    def ended(self, end: RunEnd) -> None:
        with self._lock:
            self._news = self._news._replace(end=end)

    def stuck(self, sentence: str) -> None:
        with self._lock:
            self._news = self._news._replace(stuck=sentence)

    def checked(self, checked: Checked) -> None:
        with self._lock:
            self._news = self._news._replace(checked=checked)

    def empty(self) -> News:
        """Everything since the last call, which is then gone from the box."""
        with self._lock:
            news, self._news = self._news, News(None, None, None)
            return news


class Worker(QObject):
    """Lives on its own thread; the window talks to it through queued signals and hears through `mailbox`."""

    def __init__(self) -> None:
        super().__init__()
        self.mailbox = Mailbox()
        self.keeping = Keeping()
        """For the runs to come. The window sets it."""
        self.busy_seconds = 0.0
        """Time spent on the steps of the current run, pauses left out; for the rate that is shown."""
        self.busy_steps = 0

    @Slot(object, object)
    def run(self, spec: RunSpec, controls: Controls) -> None:
        """Play a run to its end, as its controls say; one that was stopped before its turn came is left out."""
        from cem_core import runner

        if controls.stopped:
            self.mailbox.ended(RunEnd(spec.id, "stopped"))
        else:
            self._play(lambda following: runner.play(spec, following), spec.id, controls)

    @Slot(object, object)
    def resume(self, folder: Path, controls: Controls) -> None:
        """Go on with a recorded run, to the same pixels as if it had never been interrupted."""
        from cem_core import replaying

        if controls.stopped:
            self.mailbox.ended(RunEnd(str(folder), "stopped"))
            return
        try:
            session = Session.open(folder, write=True, budget=self.keeping.memory)
        except (Refused, OSError) as error:
            self.mailbox.ended(RunEnd(str(folder), "failed", str(error)))
            return
        self.mailbox.began(session)
        run = session.start.spec.id
        self._play(lambda following: replaying.resume(session, following), run, controls, session)

    @Slot(object, object)
    def verify(self, session: Session, controls: Controls) -> None:
        """Run it again and compare every step with the record, until its controls say stop."""
        from cem_core import replaying

        found, problem = None, ""
        try:
            with contextlib.closing(replaying.verify(session)) as verdicts:  # type: ignore[type-var]
                for found in verdicts:
                    if controls.stopped:
                        break
                    self.mailbox.checked(Checked(session, found.steps))
        except (Refused, OSError) as error:
            problem = str(error)
        except Exception as error:
            log.exception("verifying run %s failed", session.start.spec.id)
            problem = f"The run could not be verified ({error}): the log file has the details."
        whole = found is not None and not controls.stopped and not problem
        steps = found.steps if found is not None else 0
        self.mailbox.checked(Checked(session, steps, found if whole else None, over=True, problem=problem))

    def _play(
        self,
        messages: Callable[[Callable[[], Sampler | None]], Iterator[Message]],
        run: str,
        controls: Controls,
        session: Session | None = None,
    ) -> None:
        self.busy_seconds, self.busy_steps = 0.0, 0
        since: float | None = None
        end = RunEnd(run, "stopped")
        resumed, before = session is not None, session.end if session is not None else None

        def following() -> Sampler | None:
            nonlocal since
            if since is not None:  # the first step 0 waits for the model and the images
                self.busy_seconds += time.perf_counter() - since
            sampler = controls.following()
            since = time.perf_counter()
            return sampler

        try:
            with contextlib.closing(messages(following)) as stream:  # type: ignore[type-var]
                for message in stream:
                    if isinstance(message, RunStart):
                        session = Session(message, budget=self.keeping.memory)
                        self.mailbox.began(session)
                    elif isinstance(message, Step):
                        assert session is not None
                        if not self._persist(partial(keep, session, message, self.keeping), controls):
                            break
                        self.busy_steps += message.index > 0
                        self.mailbox.moved(message)
                    else:
                        end = message
        except Refused as refused:
            end = RunEnd(run, "failed", str(refused))
        except Exception as error:  # whatever happens to the record, the window hears that the run is over
            log.exception("recording run %s failed", run)
            end = RunEnd(run, "failed", _lost(error))
        if session is not None:
            # A run that could not be resumed is as it was; one that lacked nothing but its end has it now.
            lacked_its_end = before is None and end.reason == "done"
            as_it_was = resumed and not self.busy_steps and not lacked_its_end
            self._finish(session, before if as_it_was else end, controls)
        self.mailbox.ended(end)

    def _finish(self, session: Session, end: RunEnd | None, controls: Controls) -> None:
        session.end = end
        if end is not None:
            self._persist(partial(session.finish, end), controls)
        try:
            session.close()
        except OSError as error:  # somebody stopped it all the same
            log.warning("a run was not written to its end: %s", error)

    def _persist(self, write: Callable[[], None], controls: Controls) -> bool:
        """Try until it is written; False: somebody stopped the run instead. It stays in memory then."""
        while True:
            try:
                write()
            except (OSError, Refused) as error:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                log.warning("a run cannot be written: %s", why)
                if not controls.stopped:
                    self.mailbox.stuck(
                        f"The run cannot be written to the disk ({why.rstrip('.')}). It is paused and nothing is lost: "
                        "make room, then Continue."
                    )
                if not controls.hold():
                    return False
            else:
                return True


def _lost(error: Exception) -> str:
    """Why the steps of a run could not be kept any longer."""
    if isinstance(error, MemoryError):
        return "There is no memory left for more steps: the steps before are safe. Use fewer chains."
    return f"The run could not be recorded any longer ({error}): the log file has the details."


class WorkerThread(QThread):
    """The thread and its worker."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("sampling")
        self.setStackSize(8 * 2**20)  # as for the file thread: a run may open a model too
        self.worker = Worker()
        self.worker.moveToThread(self)

    def finish(self) -> None:
        """Wait for the end of what it does: its run must have been stopped before."""
        self.quit()
        self.wait()
