"""The measuring thread: several jobs in turn, and how each of them ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from msgspec.structs import replace
from windows import Wait, discard

from cem_core import bundle, sessions
from cem_core.cluster import Where
from cem_core.evaluation.requests import Row, Table
from cem_core.linking import Round
from cem_core.messages import Chain, ImageStart, Refused, RunSpec
from cem_core.presets import SAMPLERS
from cem_core.probes import measuring
from cem_core.probes.requests import Data, Lens, Linked, Subject
from cem_core.session import BUDGET, Session
from cem_gui import prober as module
from cem_gui.controls import Controls
from cem_gui.prober import Job, LinkedRuns, Prober, Tabling

Answers = Callable[[Callable[[], bool]], Iterator[Any]]


class Witness:
    """Remembers what a prober said of each job."""

    def __init__(self, prober: Prober) -> None:
        self.answers: dict[Job, list[Any]] = {}
        self.ends: dict[Job, list[str]] = {}
        prober.told.connect(lambda job, found: self.answers.setdefault(job, []).extend(found))
        prober.ended.connect(lambda job, problem: self.ends.setdefault(job, []).append(problem))

    def runs(self, job: Job) -> LinkedRuns:
        return self.answers[job][0]

    def steps(self, job: Job) -> list[int]:
        """How many steps each of its sessions has."""
        return [len(session) for session in self.runs(job).sessions if session is not None]


@pytest.fixture
def prober(qapp, home: Path) -> Iterator[Prober]:
    prober = Prober()
    prober.start()
    yield prober
    prober.finish()
    discard(prober)


@pytest.fixture
def witness(prober: Prober) -> Witness:
    return Witness(prober)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], Job]:
    """A job that is answered by a generator instead of a probe; it is given `go_on`."""
    known: dict[int, Answers] = {}

    def measure(request: Lens, go_on: Callable[[], bool], _journal: Path) -> Iterator[Any]:
        return known[request.label](go_on)

    def job(answers: Answers) -> Job:
        known[len(known)] = answers
        return Job(Lens(Subject("net"), np.zeros((1, 3, 4, 4), np.float32), len(known) - 1))

    monkeypatch.setattr(measuring, "measure", measure)
    return job


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("nets")
    return [str(tiny.saved(folder / f"{i}.safetensors", tiny.weights(i))) for i in range(2)]


def linked(nets: list[str], *, steps: int = 3, gait: str = "paused", chains: int = 2) -> Job:
    sampler = replace(SAMPLERS["TA"], steps=steps)
    starts = tuple(Chain(ImageStart(str(bundle.samples()[i])), i, i) for i in range(chains))
    specs = tuple(RunSpec(f"run {i}", net, sampler, starts, "cpu") for i, net in enumerate(nets))
    return Job(Linked(specs), Controls(sampler, gait))


# Measurements --------------------------------------------------------------------------------------------------------


def test_jobs_are_advanced_in_turn(prober: Prober, witness: Witness, wait: Wait, asked) -> None:
    order: list[str] = []
    both_there = threading.Event()

    def answers(name: str, count: int) -> Answers:
        def of(_go_on: Callable[[], bool]) -> Iterator[str]:
            both_there.wait()
            for i in range(count):
                order.append(name)
                yield f"{name}{i}"

        return of

    long, short = asked(answers("long", 6)), asked(answers("short", 2))
    prober.begin(long)
    prober.begin(short)
    both_there.set()
    wait(lambda: len(witness.ends) == 2)
    assert sorted(order[:4]) == ["long", "long", "short", "short"]
    assert order[4:] == ["long"] * 4
    assert witness.answers == {long: [f"long{i}" for i in range(6)], short: ["short0", "short1"]}
    assert witness.ends == {long: [""], short: [""]}


def test_one_that_is_cancelled_ends_without_a_word(prober: Prober, witness: Witness, wait: Wait, asked) -> None:
    def answers(go_on: Callable[[], bool]) -> Iterator[int]:
        yield 0
        while go_on():
            pass
        raise measuring.Cancelled

    job = asked(answers)
    prober.begin(job)
    wait(lambda: witness.answers)
    job.cancel()
    wait(lambda: witness.ends)
    assert (witness.answers[job], witness.ends[job]) == ([0], [""])


def test_one_that_is_cancelled_before_its_turn_is_never_begun(
    prober: Prober, witness: Witness, wait: Wait, asked
) -> None:
    began, go = threading.Event(), threading.Event()
    touched: list[str] = []

    def first(_go_on: Callable[[], bool]) -> Iterator[int]:
        began.set()
        go.wait()
        yield 1

    def second(_go_on: Callable[[], bool]) -> Iterator[int]:
        touched.append("second")
        yield 2

    busy, waiting = asked(first), asked(second)
    prober.begin(busy)
    assert began.wait(60)
    prober.begin(waiting)
    waiting.cancel()
    go.set()
    wait(lambda: len(witness.ends) == 2)
    assert not touched
    assert witness.ends[waiting] == [""]
    assert waiting not in witness.answers


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            Refused("There is nothing in this folder: choose another."),
            "There is nothing in this folder: choose another.",
        ),
        (RuntimeError("no luck\nat all"), "The measurement failed (no luck): the log file has the details."),
        (KeyError(), "The measurement failed (KeyError): the log file has the details."),
    ],
)
def test_a_failure_is_one_sentence_and_the_others_go_on(
    prober: Prober, witness: Witness, wait: Wait, asked, error: Exception, said: str
) -> None:
    def broken(_go_on: Callable[[], bool]) -> Iterator[int]:
        yield 1
        raise error

    def whole(_go_on: Callable[[], bool]) -> Iterator[int]:
        yield from range(5)

    jobs = [asked(broken), asked(whole)]
    for job in jobs:
        prober.begin(job)
    wait(lambda: len(witness.ends) == 2)
    assert [witness.ends[job] for job in jobs] == [[said], [""]]
    assert witness.answers[jobs[1]] == [0, 1, 2, 3, 4]


def test_the_thread_ends_with_jobs_under_way(qapp, home: Path, wait: Wait, asked, nets: list[str]) -> None:
    """One measures, one waits at its start, one has not begun."""
    prober = Prober()
    witness = Witness(prober)
    prober.start()
    begun: list[int] = []

    def measured(go_on: Callable[[], bool]) -> Iterator[int]:
        begun.append(1)
        yield 1
        while go_on():
            pass
        raise measuring.Cancelled

    def late(_go_on: Callable[[], bool]) -> Iterator[int]:
        begun.append(2)
        yield 1

    waiting, busy = linked(nets), asked(measured)
    prober.begin(waiting)
    prober.begin(busy)
    wait(lambda: waiting in witness.answers and busy in witness.answers)
    prober.begin(asked(late))
    prober.finish()
    prober.finish()
    assert begun == [1]
    assert [session.end.reason for session in witness.runs(waiting).sessions] == ["stopped", "stopped"]
    discard(prober)


def test_what_is_measured_is_kept_in_the_home_of_the_program(home: Path) -> None:
    assert module.journal().is_relative_to(home)


# Linked runs ---------------------------------------------------------------------------------------------------------


def test_linked_runs_wait_at_their_start_and_keep_nobody_waiting(
    prober: Prober, witness: Witness, wait: Wait, asked, nets: list[str]
) -> None:
    job = linked(nets)
    prober.begin(job)
    wait(lambda: job in witness.answers)
    other = asked(lambda _go_on: iter(range(20)))
    prober.begin(other)
    wait(lambda: other in witness.ends)
    assert witness.steps(job) == [1, 1]
    assert job not in witness.ends
    runs = witness.runs(job)
    assert np.array_equal(runs.sessions[0][0].pixels, runs.sessions[1][0].pixels)
    assert runs.crossing.index == 0, "what each makes of the start is known before the first step"
    assert np.isfinite(runs.crossing.log_p).all()


def test_they_go_on_step_by_step_and_to_the_end(prober: Prober, witness: Witness, wait: Wait, nets: list[str]) -> None:
    job = linked(nets, steps=5)
    prober.begin(job)
    wait(lambda: job in witness.answers)
    for done in (2, 3):
        job.one_step()
        wait(lambda done=done: witness.steps(job) == [done, done])
    job.go("running")
    wait(lambda: job in witness.ends)
    assert witness.steps(job) == [6, 6]
    rounds = [answer for answer in witness.answers[job] if isinstance(answer, Round)]
    assert [round.crossing.index for round in rounds if round.crossing] == [1, 2, 3, 4, 5]
    assert [session.end.reason for session in witness.runs(job).sessions] == ["done", "done"]
    assert witness.ends[job] == [""]


def test_a_pause_that_meets_a_step_does_not_hold_up_the_thread(
    prober: Prober, witness: Witness, wait: Wait, asked, nets: list[str]
) -> None:
    """It was found ready, and is paused before it asks whether it may go on."""
    job = linked(nets, steps=10_000)

    class Pausing(Controls):
        def following(self, **how: bool):
            self.go("paused")
            return super().following(**how)

    job.controls = Pausing(job.request.specs[0].sampler, "running")
    prober.begin(job)
    wait(lambda: job in witness.answers and len(witness.answers[job]) == 2)
    other = asked(lambda _go_on: iter("ab"))
    prober.begin(other)
    wait(lambda: other in witness.ends)
    assert witness.steps(job) == [2, 2]


def test_a_change_reaches_all_of_them_in_the_next_step(
    prober: Prober, witness: Witness, wait: Wait, nets: list[str]
) -> None:
    job = linked(nets)
    prober.begin(job)
    wait(lambda: job in witness.answers)
    row = replace(job.request.specs[0].sampler, step_size=0.01)
    job.change(row)
    job.one_step()
    wait(lambda: witness.steps(job) == [2, 2])
    assert [session[1].sampler for session in witness.runs(job).sessions] == [row, row]
    for session in witness.runs(job).sessions:
        assert np.linalg.norm((session[1].pixels - session[0].pixels)[0]) <= 0.0101


def test_when_they_are_cancelled_they_say_so(prober: Prober, witness: Witness, wait: Wait, nets: list[str]) -> None:
    job = linked(nets, steps=10_000, gait="running")
    prober.begin(job)
    wait(lambda: job in witness.answers and witness.steps(job)[0] > 3)
    job.cancel()
    wait(lambda: job in witness.ends)
    assert witness.ends[job] == [""]
    first, second = witness.runs(job).sessions
    assert len(first) == len(second)
    assert first.end.reason == second.end.reason == "stopped"


def test_one_that_cannot_begin_says_why_and_the_other_runs(
    prober: Prober, witness: Witness, wait: Wait, nets: list[str]
) -> None:
    job = linked([nets[0], "no-such-model"], gait="running")
    prober.begin(job)
    wait(lambda: job in witness.ends)
    runs = witness.runs(job)
    assert runs.sessions[1] is None
    assert len(runs.sessions[0]) == 4
    assert runs.problems[0] == ""
    assert "no model or file called no-such-model" in runs.problems[1]
    assert witness.ends[job] == [""]


def test_when_none_can_begin_that_is_the_end(prober: Prober, witness: Witness, wait: Wait) -> None:
    job = linked(["no-such-model", "no-such-model"])
    prober.begin(job)
    wait(lambda: job in witness.ends)
    assert job not in witness.answers
    [problem] = witness.ends[job]
    assert problem.count("no model or file called no-such-model") == 1


def test_they_are_recorded_from_their_first_step_on(
    prober: Prober, witness: Witness, wait: Wait, nets: list[str]
) -> None:
    prober.keep(True, BUDGET)
    job = linked(nets)
    prober.begin(job)
    wait(lambda: job in witness.answers)
    assert not sessions.found(), "what was only looked at leaves nothing behind"
    job.go("running")
    wait(lambda: job in witness.ends)
    found = sessions.found()
    assert [run.steps for run in found] == [3, 3]
    assert not any(run.interrupted or run.running for run in found)
    again = [Session.open(Path(run.folder)) for run in found]
    shown = {session.start.spec.id: session for session in witness.runs(job).sessions}
    for session in again:
        assert np.array_equal(session[3].pixels, shown[session.start.spec.id][3].pixels)


def test_a_disk_that_takes_no_more_ends_them_and_lets_go_of_their_folders(
    prober: Prober, witness: Witness, wait: Wait, nets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.keep

    def keep(session, step, keeping) -> None:
        if step.index == 3:
            raise OSError(28, "No space left on device")
        real(session, step, keeping)

    monkeypatch.setattr(module, "keep", keep)
    prober.keep(True, BUDGET)
    job = linked(nets, steps=10, gait="running")
    prober.begin(job)
    wait(lambda: job in witness.ends)
    assert witness.ends[job] == [
        "The runs could not be recorded any longer (No space left on device): the steps so far are there."
    ]
    assert [len(session) for session in witness.runs(job).sessions] == [3, 3]
    assert [run.running for run in sessions.found()] == [False, False]


def test_they_share_the_memory_that_a_run_may_take(
    prober: Prober, witness: Witness, wait: Wait, nets: list[str]
) -> None:
    step = 2 * 3 * 16 * 16 * 4
    prober.keep(False, 2 * 3 * step)
    job = linked(nets, steps=8, gait="running")
    prober.begin(job)
    wait(lambda: job in witness.ends)
    assert [session.in_memory for session in witness.runs(job).sessions] == [3 * step, 3 * step]


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tabled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Job]:
    """A table that is answered by a generator; it is given `go_on`."""
    from cem_core.evaluation import tables

    def job(answers: Answers, address: str = "") -> Job:
        monkeypatch.setattr(tables, "table", lambda _request, _folder, go_on, _where: answers(go_on))
        row = Row(name="TA", subject=Subject("net"), sampler=SAMPLERS["TA"])
        request = Table(rows=(row,), reference=Data("/data"), extractor=Subject("judge"))
        return Job(Tabling(request, tmp_path, Where(address)))

    return job


def test_a_table_is_advanced_in_turn_with_others(prober: Prober, witness: Witness, wait: Wait, tabled, asked) -> None:
    order: list[str] = []
    both_there = threading.Event()

    def told(name: str, count: int) -> Answers:
        def answers(_go_on: Callable[[], bool]) -> Iterator[str]:
            both_there.wait()
            for _ in range(count):
                order.append(name)
                yield name

        return answers

    table, other = tabled(told("table", 6)), asked(told("other", 3))
    prober.begin(table)
    prober.begin(other)
    both_there.set()
    wait(lambda: len(witness.ends) == 2)
    assert all({"table", "other"} == set(order[i : i + 2]) for i in (0, 2, 4))
    assert witness.answers[table] == ["table"] * 6


def test_a_table_on_a_cluster_keeps_nobody_waiting(prober: Prober, witness: Witness, wait: Wait, tabled, asked) -> None:
    """Its answers are waited for elsewhere, and told as they come."""
    more = threading.Event()

    def answers(_go_on: Callable[[], bool]) -> Iterator[int]:
        yield 1
        assert more.wait(60)
        yield 2
        raise Refused("The cluster has gone: try again.")

    table, other = tabled(answers, "head:6379"), asked(lambda _go_on: iter(range(20)))
    prober.begin(table)
    wait(lambda: witness.answers.get(table) == [1])
    prober.begin(other)
    wait(lambda: other in witness.ends)
    assert table not in witness.ends
    more.set()
    wait(lambda: table in witness.ends)
    assert witness.answers[table] == [1, 2]
    assert witness.ends[table] == ["The cluster has gone: try again."]


def test_a_table_on_a_cluster_is_cancelled_and_the_thread_ends_with_it(qapp, home: Path, wait: Wait, tabled) -> None:
    prober = Prober()
    witness = Witness(prober)
    prober.start()
    ended: list[str] = []

    def answers(go_on: Callable[[], bool]) -> Iterator[int]:
        yield 1
        try:
            while go_on():
                threading.Event().wait(0.01)
            raise measuring.Cancelled
        finally:
            ended.append("ended")

    cancelled, left = tabled(answers, "local"), tabled(answers, "local")
    prober.begin(cancelled)
    prober.begin(left)
    wait(lambda: witness.answers == {cancelled: [1], left: [1]})
    cancelled.cancel()
    wait(lambda: witness.ends == {cancelled: [""]})
    assert ended == ["ended"]
    prober.finish()
    assert ended == ["ended", "ended"]
    discard(prober)
