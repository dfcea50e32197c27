"""The measuring thread: answers requests, several in turn, so that a long evaluation never keeps a picture waiting."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs
from PySide6.QtCore import QObject, QThread, QTimer, Signal, Slot

from cem_core.cluster import Where
from cem_core.evaluation.requests import Table
from cem_core.linking import Crossing, Round
from cem_core.messages import Refused, RunStart, Sampler, Step
from cem_core.probes.requests import Linked, Request
from cem_core.session import Session
from cem_gui.controls import Controls, Gait
from cem_gui.keeping import Keeping, keep

log = logging.getLogger(__name__)

TICK_MS: Final = 33
_PATIENCE: Final = 20.0
"""Seconds for a cluster to hear that the program ends; its workers end with the connection in any case."""


@dataclass(frozen=True)
class Tabling:
    """A table that is made in a folder, on top of what is there. Its answers are (row, seed, what `tables` answers)."""

    table: Table
    folder: Path
    where: Where


class Job:
    """One request that is being answered. Every method may be called from any thread."""

    def __init__(
        self, request: Request | Linked | Tabling, controls: Controls | None = None, *, recorded: bool = True
    ) -> None:
        self.request = request
        self.controls = controls
        """Of linked runs: they can be paused and changed."""
        self.recorded = recorded
        """Linked runs are kept as the person said; else they are gone with their answers."""
        self.begun = False
        """Its first answer has come; linked runs stand at step 0 until their controls let them go on."""
        self._cancelled = threading.Event()
        self._thread: _Thread | None = None
        self._followed: _Followed | None = None
        """Where the answers come from, if that is elsewhere."""

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def ready(self) -> bool:
        """To go on would not wait for somebody."""
        if self._followed is not None:
            return self._followed.ready
        return not self.begun or self.controls is None or self.controls.ready

    def cancel(self) -> None:
        """End it; what was answered stays."""
        self._cancelled.set()
        if self.controls is not None:
            self.controls.stop()
        self._wake()

    def go(self, gait: Gait) -> None:
        """Let linked runs go on, or pause them."""
        assert self.controls is not None
        self.controls.go(gait)
        self._wake()

    def one_step(self) -> None:
        """Pause linked runs after one more step."""
        assert self.controls is not None
        self.controls.one_step()
        self._wake()

    def change(self, sampler: Sampler) -> None:
        """The row of linked runs from the next step on."""
        assert self.controls is not None
        self.controls.change(sampler)

    def _wake(self) -> None:
        if self._thread is not None:
            self._thread.wake()


@dataclass
class LinkedRuns:
    """The first answer of linked runs; `Round`s follow, from step 1 on."""

    sessions: list[Session | None]
    """They grow. None: that model could not begin."""
    problems: list[str]
    """Why each failed, in a sentence; empty: it did not, so far."""
    crossing: Crossing | None = None
    """Of step 0."""


class _Followed:
    """Answers that are made elsewhere, on a cluster: a thread of their own waits for them, and others have their turns
    meanwhile."""

    def __init__(self, answers: Iterator[Any], wake: Callable[[], None]) -> None:
        self._answers, self._wake = answers, wake
        self._came: deque[tuple[Any, Exception | None]] = deque()
        self._thread = threading.Thread(target=self._follow, name="following", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Something has come, if only the end."""
        return bool(self._came)

    def __iter__(self) -> Iterator[Any]:
        while True:
            answer, ended = self._came.popleft()
            if isinstance(ended, StopIteration):
                return
            if ended is not None:
                raise ended
            yield answer

    def wait(self) -> None:
        """Until it has ended, as it does soon after it was cancelled."""
        self._thread.join(_PATIENCE)

    def _follow(self) -> None:
        try:
            for answer in self._answers:
                self._came.append((answer, None))
                self._wake()
        except Exception as error:
            self._came.append((None, error))
        else:
            self._came.append((None, StopIteration()))
        self._wake()


class _Thread(QThread):
    """Advances the jobs in turn, one answer each."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("measuring")
        self.setStackSize(8 * 2**20)  # as for the file thread: it opens models too
        self.keeping = Keeping()
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Job, Iterator[Any]]] = deque()
        self._answers: list[tuple[Job, Any]] = []
        self._ends: list[tuple[Job, str]] = []
        self._ending = False

    # ---- on the window's thread --------------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        with self._changed:
            job._thread = self
            answers = self._answered(job)
            if isinstance(job.request, Tabling) and job.request.where.address:
                job._followed = _Followed(answers, self.wake)
                answers = iter(job._followed)
            self._jobs.append((job, answers))
            self._changed.notify()

    def wake(self) -> None:
        """Look again at which jobs are ready."""
        with self._changed:
            self._changed.notify()

    def news(self) -> tuple[list[tuple[Job, Any]], list[tuple[Job, str]]]:
        """All answers and ends since the last call."""
        with self._changed:
            news = self._answers, self._ends
            self._answers, self._ends = [], []
            return news

    def end(self) -> None:
        """Cancel everything and wait for the thread."""
        with self._changed:
            self._ending = True
            for job, _ in self._jobs:
                job._cancelled.set()
                if job.controls is not None:
                    job.controls.stop()
            self._changed.notify()
        self.wait()

    # ---- on the measuring thread -------------------------------------------------------------------------------------

    def run(self) -> None:
        while (turn := self._next()) is not None:
            self._advance(*turn)
        for job, answers in self._jobs:
            if job.begun and job.controls is not None:  # it says stop: recorded runs get their end
                with contextlib.suppress(Exception):
                    deque(answers, maxlen=0)
            _close(answers)
            if job._followed is not None:
                job._followed.wait()

    def _next(self) -> tuple[Job, Iterator[Any]] | None:
        """The next job that is ready, which then goes to the end of the queue."""
        with self._changed:
            while True:
                if self._ending:
                    return None
                for _ in range(len(self._jobs)):
                    self._jobs.rotate(-1)
                    if self._jobs[-1][0].ready:
                        return self._jobs[-1]
                self._changed.wait()

    def _advance(self, job: Job, answers: Iterator[Any]) -> None:
        problem = ""
        try:
            if job.cancelled and not job.begun and job._followed is None:
                raise StopIteration
            answer = next(answers)
        except StopIteration:
            pass
        except Refused as refused:
            problem = str(refused)
        except Exception as error:
            from cem_core.probes.measuring import Cancelled

            if not isinstance(error, Cancelled):
                log.exception("a measurement failed")
                said = next(iter(str(error).splitlines()), "") or type(error).__name__
                problem = f"The measurement failed ({said}): the log file has the details."
        else:
            job.begun = True
            with self._changed:
                self._answers.append((job, answer))
            return
        _close(answers)
        with self._changed:
            self._jobs.remove((job, answers))
            self._ends.append((job, problem))

    def _answered(self, job: Job) -> Iterator[Any]:
        """Imports torch with the first answer, on this thread."""
        if isinstance(job.request, Linked):
            yield from self._linked(job, job.request)
            return

        def go_on() -> bool:
            return not (job.cancelled or self._ending)

        if isinstance(job.request, Tabling):
            from cem_core.evaluation import tables

            yield from tables.table(job.request.table, job.request.folder, go_on, job.request.where)
            return
        from cem_core.probes import measuring

        yield from measuring.measure(job.request, go_on, journal())

    def _linked(self, job: Job, request: Linked) -> Iterator[LinkedRuns | Round]:
        """Every step is in its session before it is told of."""
        from cem_core import linked

        controls, count = job.controls, len(request.specs)
        assert controls is not None
        runs = LinkedRuns([None] * count, [""] * count)
        begun = False
        try:
            # A job is advanced when its controls let it go on: it must not wait for them and keep the others waiting.
            with contextlib.closing(linked.play(request, lambda: controls.following(wait=False))) as rounds:  # type: ignore[type-var]
                for round in rounds:
                    self._record(runs, round, self.keeping if job.recorded else Keeping(memory=self.keeping.memory))
                    if begun:
                        yield round
                    elif any(session is not None and len(session) for session in runs.sessions):
                        begun, runs.crossing = True, round.crossing
                        yield runs
        finally:
            for session in runs.sessions:
                if session is not None:
                    with contextlib.suppress(OSError):
                        session.close()
        if not begun and not job.cancelled:
            raise Refused(" ".join(dict.fromkeys(filter(None, runs.problems))) or "Nothing could be run.")

    def _record(self, runs: LinkedRuns, round: Round, keeping: Keeping) -> None:
        try:
            for i, message in enumerate(round.messages):
                session = runs.sessions[i]
                if isinstance(message, RunStart):
                    runs.sessions[i] = Session(message, budget=keeping.memory // len(runs.sessions))
                elif isinstance(message, Step):
                    assert session is not None
                    keep(session, message, keeping)
                elif message is not None:
                    runs.problems[i] = message.detail if message.reason == "failed" else ""
                    if session is not None:
                        session.finish(message)
                        session.close()
        except (OSError, Refused) as error:
            why = (isinstance(error, OSError) and error.strerror) or str(error).rstrip(".")
            raise Refused(f"The runs could not be recorded any longer ({why}): the steps so far are there.") from error


def _close(answers: Iterator[Any]) -> None:
    try:
        answers.close()  # type: ignore[attr-defined]
    except Exception:
        log.exception("a measurement did not end well")


def journal() -> Path:
    """Where cells are kept between two starts of the program."""
    return platformdirs.user_data_path("cem-explorer") / "probes" / "cells.jsonl"


class Prober(QObject):
    """The thread, for the window. Signals come at most once a tick, however fast the answers are."""

    told = Signal(object, list)
    """Job, and its answers since the last tick."""
    ended = Signal(object, str)
    """Job, once; and a sentence if it failed."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread = _Thread()
        self._clock = QTimer(self)
        self._clock.setInterval(TICK_MS)
        self._clock.timeout.connect(self._tick)

    def start(self) -> None:
        self._thread.start()
        self._clock.start()

    def finish(self) -> None:
        """Cancel everything and wait. Does nothing the second time."""
        self._clock.stop()
        self._thread.end()

    def begin(self, job: Job) -> None:
        """Answer a request beside whatever else is being answered."""
        self._thread.add(job)

    def keep(self, record: bool, memory: int) -> None:
        """Whether linked runs are recorded, and how many bytes of pixels they keep in memory together."""
        self._thread.keeping = Keeping(record, memory)

    @Slot()
    def _tick(self) -> None:
        answers, ends = self._thread.news()
        by_job: dict[int, tuple[Job, list[Any]]] = {}
        for job, answer in answers:
            by_job.setdefault(id(job), (job, []))[1].append(answer)
        for job, found in by_job.values():
            self.told.emit(job, found)
        for job, problem in ends:
            self.ended.emit(job, problem)
