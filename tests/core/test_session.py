from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenarios_session import SAMPLER
from scenarios_session import session as recorded

from cem_core import session as session_module
from cem_core.messages import RunStart, Sampler, Step
from cem_core.session import Session

STEP_BYTES = 3 * 3 * 8 * 8 * 4
"""Of the pixels of one step below."""


def start() -> RunStart:
    return recorded(steps=0).start


def step(index: int, *, chains: int = 3, size: int = 8, sampler: Sampler = SAMPLER) -> Step:
    """Numbers that tell which step they are of."""
    random = np.random.default_rng(index)

    def numbers(*shape: int) -> np.ndarray:
        return random.random(shape, np.float32) + np.float32(index)

    return Step("a-run", index, sampler, numbers(chains, 3, size, size), numbers(chains), numbers(chains),
                numbers(chains, 10), numbers(chains), numbers(chains))  # fmt: skip


def filled(steps: int, *, budget: int = 2**30) -> Session:
    session = Session(start(), budget=budget)
    for index in range(steps):
        session.append(step(index))
    return session


def same(left: Step, right: Step) -> None:
    assert (left.run, left.index, left.sampler) == (right.run, right.index, right.sampler)
    for name in ("pixels", "energy", "joint", "logits", "gradient_norm", "distance", "log_p"):
        one, other = getattr(left, name), getattr(right, name)
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_array_equal(one, other, err_msg=name)


# Like a list ------------------------------------------------------------------------------------------------------


def test_a_session_is_read_like_a_list() -> None:
    session = filled(130)
    assert len(session) == 130
    for index in (0, 1, 63, 64, 65, 129):
        same(session[index], step(index))
    assert [s.index for s in session] == list(range(130))


def test_a_new_session_is_empty() -> None:
    session = Session(start())
    assert len(session) == 0
    assert list(session) == []
    assert session.changes == []
    assert session.in_memory == 0
    assert session.end is None


@pytest.mark.parametrize("index", [3, 100, -1])
def test_a_step_that_is_not_there_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        filled(3)[index]


@pytest.mark.parametrize("index", [0, 2, 4])
def test_only_the_next_step_may_be_recorded(index: int) -> None:
    session = filled(3)
    with pytest.raises(ValueError, match=f"step {index} follows 2"):
        session.append(step(index))
    assert len(session) == 3
    session.append(step(3))
    same(session[3], step(3))


def test_numbers_are_those_of_the_steps() -> None:
    numbers = filled(70).numbers
    for name in ("energy", "joint", "gradient_norm", "distance", "logits", "log_p"):
        np.testing.assert_array_equal(getattr(numbers, name), [getattr(step(i), name) for i in range(70)])


def test_numbers_that_were_read_do_not_change_while_more_are_recorded() -> None:
    session = filled(3)
    before = session.numbers
    for index in range(3, 200):
        session.append(step(index))
    assert before.energy.shape == (3, 3)
    np.testing.assert_array_equal(before.logits, [step(i).logits for i in range(3)])
    assert session.numbers.energy.shape == (200, 3)


def test_changes_are_the_first_steps_made_with_another_row() -> None:
    session = Session(start())
    other, third = (msgspec.structs.replace(SAMPLER, step_size=size) for size in (0.5, 1.0))
    for index, row in enumerate([SAMPLER, SAMPLER, other, other, SAMPLER, third]):
        session.append(step(index, sampler=row))
    assert session.changes == [(2, other), (4, SAMPLER), (5, third)]
    assert [s.sampler for s in session] == [SAMPLER, SAMPLER, other, other, SAMPLER, third]


def test_distances_have_a_norm_unless_it_changed() -> None:
    session = Session(start())
    assert session.norm == "l2"
    for index, norm in enumerate(["l2", "l2", "linf"]):
        assert session.norm == "l2"
        session.append(step(index, sampler=msgspec.structs.replace(SAMPLER, norm=norm)))
    assert session.norm is None


def test_an_equal_row_is_no_change() -> None:
    session = Session(start())
    for index in range(4):
        session.append(step(index, sampler=msgspec.structs.replace(SAMPLER)))
    assert session.changes == []


# The budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 2, 7, 39, 40, 41])
def test_steps_beyond_the_budget_come_back_bit_equal(kept: int) -> None:
    budget = kept * STEP_BYTES
    session = Session(start(), budget=budget)
    for index in range(40):
        session.append(step(index))
        assert session.in_memory <= budget
        same(session[index], step(index))
    assert session.in_memory == min(kept, 40) * STEP_BYTES, "the budget is there to be used"
    for index in (*range(40), *range(39, -1, -1)):
        same(session[index], step(index))


def test_a_budget_below_one_step_keeps_the_newest() -> None:
    session = filled(5, budget=10)
    assert session.in_memory == STEP_BYTES
    for index in range(5):
        same(session[index], step(index))


def test_pixels_in_any_memory_layout_are_kept() -> None:
    session = Session(start(), budget=STEP_BYTES)
    for index in range(4):
        flipped = np.asfortranarray(step(index).pixels)
        session.append(msgspec.structs.replace(step(index), pixels=flipped))
    for index in range(4):
        same(session[index], step(index))


def test_what_is_not_counted_is_not_held() -> None:
    """`in_memory` is what the session says of itself; this is what the allocator says."""
    filled(3)
    tracemalloc.start()
    try:
        session = filled(400, budget=20 * STEP_BYTES)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    numbers = sum(getattr(session.numbers, name).base.nbytes for name in session_module._SCALARS)
    assert session.in_memory == 20 * STEP_BYTES
    assert held < session.in_memory + numbers + 400 * 300  # and a little for each step


@given(st.lists(st.integers(0, 29), max_size=40), st.integers(1, 12))
def test_any_order_of_jumps_gives_the_steps(jumps: list[int], kept: int) -> None:
    session = filled(30, budget=kept * STEP_BYTES)
    for index in jumps:
        same(session[index], step(index))
    session.append(step(30))
    same(session[30], step(30))


def test_the_default_budget_is_half_a_gigabyte() -> None:
    assert session_module.BUDGET == 512 * 2**20
    assert Session(start())._budget == session_module.BUDGET


def test_the_file_of_older_steps_is_gone_with_the_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = []
    real = session_module.tempfile.TemporaryFile

    def remembered(*args: Any, **options: Any) -> Any:
        opened.append(real(*args, dir=tmp_path, **options))
        return opened[-1]

    monkeypatch.setattr(session_module.tempfile, "TemporaryFile", remembered)
    session = filled(5, budget=STEP_BYTES)
    assert len(opened) == 1
    assert not opened[0].closed
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    assert opened[0].closed
    assert list(tmp_path.iterdir()) == []


# Two threads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [3 * STEP_BYTES, 2**30], ids=["spilling", "in memory"])
def test_one_thread_reads_while_another_records(budget: int) -> None:
    session = Session(start(), budget=budget)
    steps, readers = 300, 3
    grown = threading.Condition()
    wrong: list[BaseException] = []
    read = [0] * readers

    def watch(reader: int) -> None:
        random = np.random.default_rng(reader)
        try:
            while read[reader] < steps:
                with grown:
                    assert grown.wait_for(lambda: len(session) > read[reader], timeout=60)
                newest = len(session)
                for index in (newest - 1, *random.integers(newest, size=10).tolist()):
                    same(session[index], step(index))
                numbers = session.numbers
                assert len(numbers.energy) >= newest
                np.testing.assert_array_equal(numbers.energy[newest - 1], step(newest - 1).energy)
                assert session.changes == []
                assert session.in_memory <= budget
                read[reader] = newest
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=watch, args=(reader,)) for reader in range(readers)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns at every chance
    try:
        for thread in threads:
            thread.start()
        for index in range(steps):
            with grown:
                session.append(step(index))
                grown.notify_all()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong, wrong
    assert read == [steps] * readers


def test_the_file_is_never_touched_by_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is shared: a step is found with a seek and a read, and nobody may come in between."""
    real = session_module.tempfile.TemporaryFile
    touched = []

    class Watched:
        def __init__(self, **options: Any) -> None:
            self.file = real(**options)

        def __getattr__(self, name: str) -> Any:
            if name in ("seek", "read", "readinto", "write"):
                assert session._lock.locked(), name
                touched.append(name)
            return getattr(self.file, name)

    monkeypatch.setattr(session_module.tempfile, "TemporaryFile", Watched)
    session = Session(start(), budget=2 * STEP_BYTES)
    for index in range(5):
        session.append(step(index))
    for index in range(5):
        same(session[index], step(index))
    assert {"seek", "read", "write"} <= set(touched)


# The disk ---------------------------------------------------------------------------------------------------------


@contextmanager
def disk_for(nbytes: int) -> Iterator[None]:
    """No file of this process may grow beyond nbytes: the last write takes a part, and the next is refused."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def record_for_ever(session: Session) -> None:
    for index in count(len(session)):
        session.append(step(index))


@pytest.mark.parametrize("room", [0, 3 * STEP_BYTES, 3 * STEP_BYTES + 100, 40 * STEP_BYTES - 1])
def test_a_full_disk_is_an_os_error_and_nothing_recorded_is_lost(room: int) -> None:
    session = Session(start(), budget=4 * STEP_BYTES)
    with disk_for(room):
        with pytest.raises(OSError, match="File too large"):
            record_for_ever(session)
        recorded_steps = len(session)
        assert recorded_steps == 4 + room // STEP_BYTES
        for index in range(recorded_steps):
            same(session[index], step(index))
        with pytest.raises(OSError, match="File too large"):
            session.append(step(recorded_steps))
    assert len(session) == recorded_steps
    assert len(session.numbers.energy) == recorded_steps
    for index in range(recorded_steps, recorded_steps + 20):  # there is room again
        session.append(step(index))
    for index in range(recorded_steps + 20):
        same(session[index], step(index))


def test_a_disk_without_room_for_a_file_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    session = filled(3, budget=3 * STEP_BYTES)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(session_module.tempfile, "TemporaryFile", full)
        with pytest.raises(OSError, match="No space left"):
            session.append(step(3))
        assert len(session) == 3
        for index in range(3):
            same(session[index], step(index))
    session.append(step(3))
    same(session[0], step(0))
    same(session[3], step(3))
