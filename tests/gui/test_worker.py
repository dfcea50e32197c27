"""The sampling thread. Nothing here waits for time to pass, only for something to have happened."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PySide6.QtCore import QObject, Signal
from scenarios_session import session as scenario
from windows import Wait, spec

from cem_core import runner
from cem_core.messages import RunEnd, RunSpec, Sampler
from cem_core.session import Session
from cem_gui.controls import Controls
from cem_gui.keeping import Keeping
from cem_gui.worker import Mailbox, News, Worker, WorkerThread


class Boss(QObject):
    """Talks to the worker as the window does: through queued signals."""

    run_wanted = Signal(object, object)


class Ledger(Mailbox):
    """A mailbox that also remembers all that was ever put in."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[Session] = []
        self.moves: list[int] = []
        self.ends: list[RunEnd] = []
        self.problems: list[str] = []

    def stuck(self, sentence: str) -> None:
        super().stuck(sentence)
        self.problems.append(sentence)

    def began(self, session: Session) -> None:
        self.sessions.append(session)
        super().began(session)

    def moved(self, step) -> None:
        self.moves.append(step.index)
        super().moved(step)

    def ended(self, end: RunEnd) -> None:
        super().ended(end)
        self.ends.append(end)


class Staff:
    """A worker on its thread, with its boss and its ledger."""

    def __init__(self) -> None:
        self.thread, self.boss, self.ledger = WorkerThread(), Boss(), Ledger()
        self.worker: Worker = self.thread.worker
        self.worker.mailbox = self.ledger
        self.controls: list[Controls] = []
        self.boss.run_wanted.connect(self.worker.run)
        self.thread.start()

    def run(self, wanted: RunSpec, gait="running") -> Controls:
        controls = Controls(wanted.sampler, gait)
        self.controls.append(controls)
        self.boss.run_wanted.emit(wanted, controls)
        return controls

    @property
    def session(self) -> Session:
        return self.ledger.sessions[-1]

    @property
    def taken(self) -> int:
        """Steps of the newest run, its start left out; -1 before that."""
        return len(self.session) - 1 if self.ledger.sessions else -1

    def finish(self) -> None:
        for controls in self.controls:
            controls.stop()
        self.thread.finish()


@pytest.fixture
def staff() -> Iterator[Staff]:
    staff = Staff()
    yield staff
    staff.finish()


def test_images_conflate_and_the_session_drops_nothing(staff: Staff, wait: Wait) -> None:
    staff.run(spec(steps=30))
    wait(lambda: staff.ledger.ends)
    news = staff.ledger.empty()
    assert news.session is staff.session
    assert news.step.index == 30
    assert news.end == RunEnd("a run", "done")
    assert staff.ledger.moves == list(range(31))
    assert [step.index for step in staff.session] == list(range(31))
    assert staff.ledger.empty() == News(None, None, None)


def test_a_session_that_begins_replaces_what_was_in_the_mailbox() -> None:
    box, run = Mailbox(), scenario(steps=3)
    box.moved(run[0])
    box.ended(run.end)
    box.began(run)
    assert box.empty() == News(run, None, None)


def test_paused_it_waits_at_the_start_and_takes_one_step_at_a_time(staff: Staff, wait: Wait) -> None:
    controls = staff.run(spec(), "paused")
    wait(lambda: staff.taken == 0)
    for number in (1, 2, 3):
        controls.one_step()
        wait(lambda number=number: staff.taken == number)
    controls.stop()
    wait(lambda: staff.ledger.ends)
    assert staff.taken == 3
    assert staff.session.end == RunEnd("a run", "stopped")


def test_steps_wanted_in_a_row_are_all_taken(staff: Staff, wait: Wait) -> None:
    controls = staff.run(spec(), "paused")
    for _ in range(4):
        controls.one_step()
    wait(lambda: staff.taken == 4 and waits(controls))
    controls.stop()
    wait(lambda: staff.ledger.ends)
    assert staff.taken == 4


def waits(controls: Controls) -> bool:
    """Whether the run is held at a step boundary."""
    return bool(controls._changed._waiters)


def test_pause_holds_and_go_goes_on(staff: Staff, wait: Wait) -> None:
    controls = staff.run(spec(steps=2000))
    wait(lambda: staff.taken >= 2)
    controls.go("paused")
    wait(lambda: waits(controls))
    held = staff.taken
    assert not staff.ledger.ends
    controls.one_step()
    wait(lambda: staff.taken == held + 1 and waits(controls))
    controls.go("running")
    wait(lambda: staff.taken >= held + 3)
    controls.stop()
    wait(lambda: staff.ledger.ends)
    assert [step.index for step in staff.session] == list(range(staff.taken + 1))
    assert staff.ledger.ends == [RunEnd("a run", "stopped")]


def test_a_stop_while_it_is_paused_is_heard(staff: Staff, wait: Wait) -> None:
    controls = staff.run(spec(), "paused")
    wait(lambda: staff.taken == 0)
    controls.stop()
    wait(lambda: staff.ledger.ends)
    assert staff.session.end.reason == "stopped"


def test_a_change_takes_hold_from_the_next_step_on(staff: Staff, wait: Wait) -> None:
    wanted = spec(steps=10)
    controls = staff.run(wanted, "paused")
    other = msgspec.structs.replace(wanted.sampler, b=-0.5, steps=6)
    for number in (1, 2):
        controls.one_step()
        wait(lambda number=number: staff.taken == number)
    controls.change(other)
    controls.go("running")
    wait(lambda: staff.ledger.ends)
    assert [step.sampler for step in staff.session] == [wanted.sampler] * 3 + [other] * 4
    assert staff.session.changes == [(3, other)]
    assert staff.ledger.ends == [RunEnd("a run", "done")]

    rows = iter([wanted.sampler, wanted.sampler, *[other] * 5])
    again = [message.pixels for message in runner.play(wanted, lambda: next(rows)) if hasattr(message, "pixels")]
    assert np.array_equal(np.stack(again), np.stack([step.pixels for step in staff.session]))


def test_a_run_that_is_stopped_before_its_turn_is_left_out(staff: Staff, wait: Wait) -> None:
    first = staff.run(spec(name="first"), "paused")
    wait(lambda: staff.ledger.sessions)
    left_out = staff.run(spec(name="second"))
    staff.run(spec(name="third", steps=2))
    left_out.stop()
    first.stop()
    wait(lambda: len(staff.ledger.ends) == 3)
    assert [session.start.spec.id for session in staff.ledger.sessions] == ["first", "third"]
    assert [(end.run, end.reason) for end in staff.ledger.ends] == [
        ("first", "stopped"),
        ("second", "stopped"),
        ("third", "done"),
    ]


def test_a_run_that_cannot_begin_ends_with_the_reason(staff: Staff, wait: Wait, tmp_path: Path) -> None:
    staff.run(msgspec.structs.replace(spec(), checkpoint=str(tmp_path / "gone.pt")))
    wait(lambda: staff.ledger.ends)
    assert not staff.ledger.sessions
    assert staff.ledger.ends[0].reason == "failed"
    assert "gone.pt" in staff.ledger.ends[0].detail


def test_what_becomes_infinite_ends_the_run_and_keeps_the_steps(staff: Staff, wait: Wait, monkeypatch) -> None:
    def broken(wanted: RunSpec, live):
        for message in play(wanted, live):
            if getattr(message, "index", 0) == 3:
                yield RunEnd(wanted.id, "failed", "E(x) became nan")
                return
            yield message

    play = runner.play
    monkeypatch.setattr(runner, "play", broken)
    staff.run(spec())
    wait(lambda: staff.ledger.ends)
    assert staff.taken == 2
    assert staff.session.end == RunEnd("a run", "failed", "E(x) became nan")


def test_a_full_disk_pauses_the_run_and_nothing_is_lost(staff: Staff, wait: Wait, monkeypatch) -> None:
    staff.worker.keeping = Keeping(memory=2 * 3 * 32 * 32 * 4)
    spill = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FileIO("/dev/full", "r+"))
    controls = staff.run(spec())
    wait(lambda: staff.ledger.problems and waits(controls))
    assert "No space left" in staff.ledger.problems[0]
    assert [step.index for step in staff.session] == [0, 1]
    controls.go("running")  # it is still full
    wait(lambda: len(staff.ledger.problems) == 2 and waits(controls))
    monkeypatch.setattr(tempfile, "TemporaryFile", spill)
    staff.session._spill = None
    controls.go("running")
    wait(lambda: staff.ledger.ends)
    assert staff.ledger.ends == [RunEnd("a run", "done")]
    assert staff.ledger.moves == list(range(6))
    assert [step.index for step in staff.session] == list(range(6))


def test_a_run_that_cannot_be_written_may_be_stopped(staff: Staff, wait: Wait, monkeypatch) -> None:
    staff.worker.keeping = Keeping(memory=2 * 3 * 32 * 32 * 4)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FileIO("/dev/full", "r+"))
    controls = staff.run(spec())
    wait(lambda: staff.ledger.problems and waits(controls))
    controls.stop()
    wait(lambda: staff.ledger.ends)
    assert staff.session.end == RunEnd("a run", "stopped")
    assert [step.index for step in staff.session] == [0, 1]
    monkeypatch.undo()
    staff.run(spec(name="next", steps=1))  # the thread is still good
    wait(lambda: len(staff.ledger.ends) == 2)
    assert staff.ledger.ends[1] == RunEnd("next", "done")


def test_controls_may_be_used_from_any_thread() -> None:
    """`following` blocks until somebody else lets it go."""
    row = Sampler(name="a row", a=1, b=0)
    controls, answers = Controls(row), []
    asking = threading.Thread(target=lambda: answers.extend([controls.following(), controls.following()]))
    asking.start()
    controls.one_step()
    controls.stop()
    asking.join()
    assert answers[-1] is None


def test_a_resumption_that_was_stopped_before_its_turn_ends_all_the_same(tmp_path: Path) -> None:
    worker, controls = Worker(), Controls(spec().sampler)
    worker.mailbox = ledger = Ledger()
    controls.stop()
    worker.resume(tmp_path, controls)
    assert ledger.ends == [RunEnd(str(tmp_path), "stopped")]


def test_a_run_that_lacked_nothing_but_its_end_gets_it(tmp_path: Path) -> None:
    wanted = spec(steps=3)
    messages = list(runner.play(wanted))
    session = Session.record(tmp_path / "run", messages[0])
    for step in messages[1:-1]:
        session.append(step)
    session.close()
    worker = Worker()
    worker.mailbox = ledger = Ledger()
    worker.resume(tmp_path / "run", Controls(wanted.sampler, "running"))
    assert ledger.ends == [RunEnd("a run", "done")]
    again = Session.open(tmp_path / "run")
    assert (len(again), again.end) == (4, RunEnd("a run", "done"))
