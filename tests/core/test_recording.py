from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scenarios_session import session as made

from cem_core import frames, recording
from cem_core.messages import Chain, ImageStart, NoiseStart, Refused, RunEnd, RunStart, SessionStart
from cem_core.recording import Recording
from cem_core.session import Session

ARRAYS = ("pixels", "energy", "joint", "logits", "gradient_norm", "distance")
STEPS = list(made(steps=9))
DONE = RunEnd("a-run", "done")
OLD = Path(__file__).parents[1] / "sessions"


def start() -> RunStart:
    return made(steps=0).start


def recorded(folder: Path, steps: int = 5, **options: Any) -> Session:
    session = Session.record(folder, start(), **options)
    for step in STEPS[:steps]:
        session.append(step)
    return session


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A session of five steps that ended."""
    session = recorded(tmp_path / "run")
    session.finish(DONE)
    session.close()
    return tmp_path / "run"


def same(session: Session, steps: int) -> None:
    assert len(session) == steps
    for step, again in zip(STEPS[:steps], session, strict=True):
        assert (again.index, again.run, again.sampler) == (step.index, step.run, step.sampler)
        for name in ARRAYS:
            assert getattr(again, name).tobytes() == getattr(step, name).tobytes(), (step.index, name)


class Disk:
    """Says how many more files may be written."""

    def __init__(self) -> None:
        self.room = 10**6

    def put(self, path: Path, data: bytes) -> None:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= 1
        real_put(path, data)


real_put = frames.put


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    for module in (frames, recording):
        monkeypatch.setattr(module, "put", disk.put)
    return disk


# What is kept ------------------------------------------------------------------------------------------------------


def test_a_session_comes_back_as_it_was(folder: Path) -> None:
    session = Session.open(folder)
    same(session, 5)
    assert session.start == start()
    assert session.end == DONE
    assert session.changes == [(3, STEPS[3].sampler)]
    np.testing.assert_array_equal(session.numbers.logits, [step.logits for step in STEPS[:5]])
    assert session.recording is not None
    assert not session.recording.writable
    header = session.recording.header
    assert (header.format, header.name, header.origin, header.thinned) == (recording.FORMAT, "", None, 1)


def test_nothing_else_is_in_the_folder(folder: Path) -> None:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    chunks = {f"pixels/c.{step}.0.0.0.0" for step in range(5)}
    assert found == {"session.json", "steps.sqlite", "lock", "pixels/zarr.json", *chunks}


def test_looking_leaves_no_trace(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    same(Session.open(folder), 5)
    recording.overview(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_zarr_reads_the_pixels(folder: Path) -> None:
    zarr = pytest.importorskip("zarr")
    array = zarr.open_array(folder / "pixels", mode="r")
    np.testing.assert_array_equal(array[:], [step.pixels for step in STEPS[:5]])
    assert array.metadata.dimension_names == ("step", "chain", "channel", "y", "x")


def test_steps_that_are_not_there_yet_are_nan_to_zarr(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    session = recorded(tmp_path / "run", 2)
    assert session.recording is not None
    session.recording.flush()
    array = zarr.open_array(tmp_path / "run" / "pixels", mode="r")
    assert array.shape[0] >= 2
    np.testing.assert_array_equal(array[1], STEPS[1].pixels)
    assert np.isnan(array[2]).all()
    session.close()


def test_what_zarr_writes_can_be_read(folder: Path) -> None:
    zarr = pytest.importorskip("zarr")
    zarr.open_array(folder / "pixels", mode="r+")[2] = STEPS[7].pixels
    assert Session.open(folder)[2].pixels.tobytes() == STEPS[7].pixels.tobytes()


def test_sqlite_reads_the_numbers(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "steps.sqlite")) as table:
        rows = table.execute("SELECT energy, log_p FROM step WHERE chain = 1 ORDER BY step").fetchall()
    np.testing.assert_array_equal(np.float32(rows), [(step.energy[1], step.log_p[1]) for step in STEPS[:5]])


def test_pixels_in_any_memory_layout_are_kept(tmp_path: Path) -> None:
    session = Session.record(tmp_path / "run", start())
    session.append(msgspec.structs.replace(STEPS[0], pixels=np.asfortranarray(STEPS[0].pixels)))
    session.close()
    same(Session.open(tmp_path / "run"), 1)


def test_numbers_without_a_value_are_kept(tmp_path: Path) -> None:
    session = Session.record(tmp_path / "run", start())
    odd = np.array([np.nan, np.inf, -np.inf], np.float32)
    session.append(msgspec.structs.replace(STEPS[0], energy=odd, distance=odd))
    session.close()
    np.testing.assert_array_equal(Session.open(tmp_path / "run").numbers.energy, [odd])


def test_no_more_than_the_budget_is_in_memory(tmp_path: Path) -> None:
    nbytes = STEPS[0].pixels.nbytes
    session = recorded(tmp_path / "run", 9, budget=2 * nbytes)
    assert session.in_memory <= 3 * nbytes, "the one that is being written is needed still"
    same(session, 9)


def test_a_fork_says_where_it_is_from(tmp_path: Path) -> None:
    plain = start()
    chains = (Chain(NoiseStart()), Chain(SessionStart("/a/run", 4, 1)), Chain(SessionStart("/b", 5, 0)))
    forked = msgspec.structs.replace(plain, spec=msgspec.structs.replace(plain.spec, chains=chains))
    Recording.create(tmp_path / "run", forked).close()
    header = recording.read_header(tmp_path / "run")
    assert header.origin == recording.Origin("/a/run", 4)
    assert header.start == forked


@pytest.mark.parametrize("name", ["a run ?#%25&'\"; päth 猫", "-", "..." + "x" * 200, os.fsdecode(b"\xff\xfe")])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    session = recorded(tmp_path / name)
    session.finish(DONE)
    session.close()
    same(Session.open(tmp_path / name, write=True), 5)


def test_an_image_may_have_any_name(tmp_path: Path) -> None:
    chains = tuple(Chain(ImageStart(os.fsdecode(b"/c\xe4t.png"))) for _ in range(3))
    odd = msgspec.structs.replace(start(), spec=msgspec.structs.replace(start().spec, chains=chains))
    Session.record(tmp_path / "run", odd).close()
    assert Session.open(tmp_path / "run").start.spec.chains[0].start == ImageStart("/c?t.png")


def test_a_place_that_is_taken_is_refused(folder: Path) -> None:
    with pytest.raises(Refused, match="is there already"):
        Recording.create(folder, start())
    same(Session.open(folder), 5)


def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="cannot be written"):
        Recording.create(tmp_path / "file" / "run", start())


@pytest.mark.parametrize("room", [0, 1])
def test_a_disk_without_room_for_a_session_is_refused_and_left_as_it_was(tmp_path: Path, disk: Disk, room: int) -> None:
    disk.room = room
    with pytest.raises(Refused, match="No space left on device"):
        Recording.create(tmp_path / "run", start())
    assert list(tmp_path.iterdir()) == []
    disk.room = 10**6
    recorded(tmp_path / "run").close()
    same(Session.open(tmp_path / "run"), 5)


def test_a_name_is_given(folder: Path) -> None:
    session = Session.open(folder, write=True)
    assert session.recording is not None
    session.recording.rename("  cats\n to   dogs ∇" + "x" * 300)
    assert recording.read_header(folder).name.startswith("cats to dogs ∇xx")
    assert len(recording.read_header(folder).name) == 200
    Recording(folder, recording.read_header(folder)).rename("by another")
    session.recording.resumed(5, ("torch",))
    header = recording.read_header(folder)
    assert (header.name, header.resumed) == ("by another", (recording.Resumed(5, ("torch",)),))
    session.close()


# Going on ----------------------------------------------------------------------------------------------------------


def test_an_interrupted_session_goes_on(tmp_path: Path) -> None:
    recorded(tmp_path / "run", 4).close()
    session = Session.open(tmp_path / "run", write=True)
    assert session.end is None
    for step in STEPS[4:]:
        session.append(step)
    session.finish(DONE)
    session.close()
    again = Session.open(tmp_path / "run")
    same(again, 9)
    assert again.end == DONE
    assert again.changes == [(3, STEPS[3].sampler)]


def test_a_session_that_ended_goes_on_with_its_next_step_and_not_before(folder: Path) -> None:
    session = Session.open(folder, write=True)
    assert Session.open(folder).end == DONE
    session.append(STEPS[5])
    assert session.end is None
    session.close()
    again = Session.open(folder)
    assert again.end is None
    same(again, 6)


def test_steps_lost_at_the_end_are_written_anew(folder: Path) -> None:
    """After a power cut, on a disk that says it has written what it has not; two steps, of which one comes again."""
    for step in (3, 4):
        (folder / "pixels" / f"c.{step}.0.0.0.0").write_bytes(b"")
    session = Session.open(folder, write=True)
    same(session, 3)
    assert session.end is None
    assert session.changes == []
    session.append(msgspec.structs.replace(STEPS[3], sampler=STEPS[2].sampler))
    session.close()
    again = Session.open(folder)
    assert len(again) == 4
    assert again.changes == []


def test_what_follows_a_lost_step_does_not_come_back(folder: Path) -> None:
    (folder / "pixels" / "c.4.0.0.0.0").unlink()
    session = Session.open(folder, write=True)
    same(session, 4)
    session.finish(RunEnd("a-run", "stopped"))
    session.close()
    same(Session.open(folder), 4)


# Two at once -------------------------------------------------------------------------------------------------------


def test_the_second_reads_while_the_first_writes(tmp_path: Path) -> None:
    first = recorded(tmp_path / "run", 3)
    second = Session.open(tmp_path / "run", write=True)
    assert second.recording is not None
    assert not second.recording.writable
    same(second, len(second))
    assert len(second) >= 2
    for step in STEPS[3:]:
        first.append(step)
    first.finish(DONE)
    second.refresh()
    same(second, 9)
    assert second.end == DONE
    assert second.refresh() == 0
    first.close()
    third = Session.open(tmp_path / "run", write=True)
    assert third.recording is not None
    assert third.recording.writable
    third.close()


def test_another_process_holds_the_folder(tmp_path: Path) -> None:
    recorded(tmp_path / "run").close()
    code = f"""
from pathlib import Path
from cem_core.session import Session
session = Session.open(Path({str(tmp_path / "run")!r}), write=True)
assert session.recording.writable
print("held", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert recording.is_held(tmp_path / "run")
        session = Session.open(tmp_path / "run", write=True)
        assert session.recording is not None
        assert not session.recording.writable
        other.communicate("\n", timeout=60)
    assert other.returncode == 0
    assert not recording.is_held(tmp_path / "run")


def test_one_thread_reads_while_another_records(tmp_path: Path) -> None:
    session = Session.record(tmp_path / "run", start(), budget=0)
    wrong: list[BaseException] = []
    steps = 60

    def watch() -> None:
        try:
            while len(session) < steps:
                if len(session):
                    index = len(session) - 1
                    assert session[index].pixels.tobytes() == STEPS[index % 9].pixels.tobytes()
        except BaseException as error:
            wrong.append(error)

    reader = threading.Thread(target=watch)
    reader.start()
    try:
        for index in range(steps):
            session.append(msgspec.structs.replace(STEPS[index % 9], index=index))
    finally:
        reader.join(60)
    assert not wrong, wrong
    session.close()


def test_whoever_lets_go_last_the_folder_is_free(tmp_path: Path) -> None:
    for _ in range(5):
        session = recorded(tmp_path / "run", 2)
        del session
        gc.collect()
        assert not recording.is_held(tmp_path / "run")
        same(Session.open(tmp_path / "run"), 2)
        shutil.rmtree(tmp_path / "run")


def test_a_program_that_ends_without_a_word_loses_nothing(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
import test_recording_source as source
kept = source.recorded(Path({str(tmp_path / "run")!r}))
"""
    (tmp_path / "test_recording_source.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    same(Session.open(tmp_path / "run"), 5)
    assert not (tmp_path / "run" / "steps.sqlite-wal").exists()


# A disk that fails -------------------------------------------------------------------------------------------------


def test_a_full_disk_loses_and_doubles_nothing(tmp_path: Path, disk: Disk) -> None:
    session = recorded(tmp_path / "run", 3, budget=0)
    assert session.recording is not None
    session.recording.flush()
    disk.room = 1
    session.append(STEPS[3])
    session.append(STEPS[4])  # taken, and not yet known to have failed
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            session.append(STEPS[5])
        same(session, 5)
    same(Session.open(tmp_path / "run"), 4)
    with pytest.raises(OSError, match="No space left"):
        session.finish(DONE)
    disk.room = 10**6
    for step in STEPS[5:]:
        session.append(step)
    session.finish(DONE)
    same(session, 9)
    session.close()
    same(Session.open(tmp_path / "run"), 9)


def test_the_first_step_on_a_full_disk(tmp_path: Path, disk: Disk) -> None:
    session = Session.record(tmp_path / "run", start())
    disk.room = 0
    session.append(STEPS[0])
    with pytest.raises(OSError, match="No space left"):
        session.append(STEPS[1])
    with pytest.raises(OSError, match="No space left"):
        session.close()
    assert len(Session.open(tmp_path / "run")) == 0
    assert not recording.is_held(tmp_path / "run")


@contextmanager
def files_up_to(nbytes: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 100, 1500, 60_000, 75_000])
def test_files_that_may_not_grow(tmp_path: Path, room: int) -> None:
    """The pixels at first, later the table: the kernel takes a part of them and refuses the rest."""
    session = Session.record(tmp_path / "run", start(), budget=0)
    index = 0
    with files_up_to(room):
        with suppress(OSError):
            while index < 1000:
                session.append(msgspec.structs.replace(STEPS[index % 9], index=index))
                index += 1
        assert index < 1000
        with pytest.raises(OSError):
            session.append(msgspec.structs.replace(STEPS[index % 9], index=index))
    assert not (tmp_path / "run" / "pixels" / ".part").exists()
    count = len(session)
    assert count == index
    for index in range(count, count + 4):
        session.append(msgspec.structs.replace(STEPS[index % 9], index=index))
    session.finish(DONE)
    session.close()
    again = Session.open(tmp_path / "run")
    assert len(again) == count + 4
    assert all(step.pixels.tobytes() == STEPS[step.index % 9].pixels.tobytes() for step in again)


def test_a_folder_removed_under_a_run(tmp_path: Path) -> None:
    session = recorded(tmp_path / "run", 3)
    assert session.recording is not None
    session.recording.flush()
    (tmp_path / "run").rename(tmp_path / "away")
    session.append(STEPS[3])
    with pytest.raises(OSError, match="No such file"):
        session.append(STEPS[4])
    assert not (tmp_path / "run").exists(), "it is not made anew"
    same(session, 4)
    (tmp_path / "away").rename(tmp_path / "run")
    session.append(STEPS[4])
    session.finish(DONE)
    session.close()
    same(Session.open(tmp_path / "run"), 5)


def test_a_table_that_cannot_be_read_where_it_is_is_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only disk, where SQLite has nowhere to say that it reads."""
    real = sqlite3.connect
    copied = []

    def fails(place: Any, **options: Any) -> Any:
        if not str(place).startswith("file:"):
            copied.append(place)
            return real(place, **options)

        class Closed:
            def execute(self, *_: Any) -> None:
                raise sqlite3.OperationalError("unable to open database file")

            def close(self) -> None:
                pass

        return Closed()

    monkeypatch.setattr(recording.sqlite3, "connect", fails)
    same(Session.open(folder), 5)
    assert len(copied) == 1
    assert not copied[0].exists()


# Damage ------------------------------------------------------------------------------------------------------------


def chunk(folder: Path, step: int) -> Path:
    return folder / "pixels" / f"c.{step}.0.0.0.0"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "missing"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "tiny": (lambda path: path.write_bytes(b"\x02"), "damaged"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "damaged"),
    "header changed": (lambda path: flip(path, 5), "damaged"),
    "changed": (lambda path: flip(path, 100), "damaged"),
    "checksum changed": (lambda path: flip(path, -1), "damaged"),
    "huge": (lambda path: path.write_bytes(bytes(10**6)), "damaged"),
    **({"a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "it is a pipe")} if hasattr(os, "mkfifo") else {}),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_costs_its_step_alone(folder: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(chunk(folder, 2))
    session = Session.open(folder)
    assert len(session) == 5
    with pytest.raises(OSError, match=f"The pixels of step 2 (are|cannot be).*{says.split()[-1]}") as refused:
        session[2]
    assert str(refused.value).endswith(".")
    for index in (0, 1, 3, 4):
        assert session[index].pixels.tobytes() == STEPS[index].pixels.tobytes()
    assert session.numbers.energy.shape == (5, 3)


@pytest.mark.parametrize("place", ["nbytes", "all"])
def test_a_file_that_was_made_to_harm_is_damaged(folder: Path, place: str) -> None:
    """Its checksum is right, its lengths are not, or its contents make no sense."""
    packed = bytearray(chunk(folder, 2).read_bytes()[:-4])
    if place == "nbytes":
        packed[4:8] = (2**31 - 1).to_bytes(4, "little")
    else:
        packed[16:] = b"\xff" * (len(packed) - 16)
    chunk(folder, 2).write_bytes(bytes(packed) + frames._checksum(bytes(packed)))
    with pytest.raises(OSError, match="damaged"):
        Session.open(folder)[2]


def test_without_any_pixels_it_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "pixels")
    with pytest.raises(Refused, match="lost its pixels"):
        Session.open(folder)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edited(folder: Path) -> None:
        told = json.loads((folder / "session.json").read_text(encoding="utf-8"))
        change(told)
        (folder / "session.json").write_text(json.dumps(told), encoding="utf-8")

    return edited


def write(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "session.json").write_bytes(data) and None


def statement(sql: str) -> Callable[[Path], None]:
    def done(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "steps.sqlite")) as table, table:
            table.executescript(sql)

    return done


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no header": (lambda folder: (folder / "session.json").unlink(), "is no session"),
    "a folder for a header": (
        lambda folder: ((folder / "session.json").unlink(), (folder / "session.json").mkdir()),
        "cannot be read",
    ),
    "newer": (edit(lambda told: told.update(format=99, version="9.9")), r"newer CEM Explorer \(9\.9\): update"),
    "an older that never was": (edit(lambda told: told.update(format=-3)), "damaged session.json"),
    "no format": (edit(lambda told: told.pop("format")), "damaged session.json"),
    "format is text": (edit(lambda told: told.update(format="1")), "damaged session.json"),
    "empty": (write(b""), "damaged session.json"),
    "no JSON": (write(b"\x89PNG"), "damaged session.json"),
    "a list": (write(b"[]"), "damaged session.json"),
    "deep": (write(b"[" * 10**6), "damaged session.json"),
    "deep inside": (write(b'{"format":1,"start":' + b'{"a":' * 10**5), "damaged session.json"),
    "not UTF-8": (write(b'{"format": 1, "name": "\xff\xfe"}'), "damaged session.json"),
    "too long": (write(b" " * (64 * 2**20 + 1)), "too long"),
    "a number too large": (write(b'{"format": ' + b"9" * 5000 + b"}"), "damaged session.json"),
    "no start": (edit(lambda told: told.pop("start")), "damaged session.json"),
    "no chains": (edit(lambda told: told["start"]["spec"].update(chains=[])), "damaged session.json"),
    "fewer labels": (edit(lambda told: told["start"]["labels"].pop()), "damaged session.json"),
    "no such class": (edit(lambda told: told["start"].update(labels=[0, 1, 10])), "damaged session.json"),
    "a sampler of nonsense": (
        edit(lambda told: told["start"]["spec"]["sampler"].update(steps=0)), "damaged session.json"
    ),
    "no size": (edit(lambda told: told["start"]["checkpoint"].update(size=0)), "damaged session.json"),
    "a size beyond all": (edit(lambda told: told["start"]["checkpoint"].update(size=2**40)), "damaged session.json"),
    "another size": (edit(lambda told: told["start"]["checkpoint"].update(size=2**16)), "lost its pixels"),
    "another number of chains": (
        edit(lambda told: [told["start"][key].append(0 if key == "labels" else "") for key in
                           ("labels", "names", "notes")] and told["start"]["spec"]["chains"].append(
                               told["start"]["spec"]["chains"][0])), "damaged steps.sqlite"),
    "no table": (lambda folder: (folder / "steps.sqlite").unlink(), "lost its steps.sqlite"),
    "no database": (lambda folder: (folder / "steps.sqlite").write_bytes(b"hello" * 1000), "damaged steps.sqlite"),
    "a cut database": (
        lambda folder: (folder / "steps.sqlite").write_bytes((folder / "steps.sqlite").read_bytes()[:5000]),
        "damaged steps.sqlite",
    ),
    "an empty database": (lambda folder: (folder / "steps.sqlite").write_bytes(b""), "damaged steps.sqlite"),
    "a table less": (statement("DROP TABLE ended"), "damaged steps.sqlite"),
    "a view": (statement("DROP TABLE ended; CREATE VIEW ended AS SELECT 1 AS message"), "damaged steps.sqlite"),
    "a step less": (statement("DELETE FROM step WHERE step = 2"), "damaged steps.sqlite"),
    "a row less": (statement("DELETE FROM step WHERE step = 2 AND chain = 1"), "damaged steps.sqlite"),
    "a row moved": (statement("UPDATE step SET chain = 7 WHERE step = 2 AND chain = 2"), "damaged steps.sqlite"),
    "a step far out": (statement("UPDATE step SET step = 1 << 62 WHERE step = 4"), "damaged steps.sqlite"),
    "text for numbers": (statement("UPDATE step SET energy = 'low'"), "damaged steps.sqlite"),
    "long logits": (statement("UPDATE step SET logits = zeroblob(80) WHERE chain = 1"), "damaged steps.sqlite"),
    "odd logits": (statement("UPDATE step SET logits = zeroblob(7)"), "damaged steps.sqlite"),
    "no logits": (statement("UPDATE step SET logits = NULL"), "damaged steps.sqlite"),
    "logits of other classes": (statement("UPDATE step SET logits = zeroblob(12)"), "damaged steps.sqlite"),
    "no sampler at all": (statement("DELETE FROM sampler"), "damaged steps.sqlite"),
    "a sampler that is none": (statement("UPDATE sampler SET row = '{}'"), "damaged steps.sqlite"),
    "an end that is none": (statement("UPDATE ended SET message = x'00'"), "damaged steps.sqlite"),
}  # fmt: skip


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize(("harm", "says"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_session_is_refused_in_a_sentence(
    folder: Path, harm: Callable[[Path], object], says: str, write: bool
) -> None:
    harm(folder)
    with pytest.raises(Refused, match=says) as refused:
        Session.open(folder, write=write)
    assert str(refused.value).endswith(".")
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)
    assert not recording.is_held(folder)


# Versions ----------------------------------------------------------------------------------------------------------


def test_an_older_format_is_read_through_every_one_between(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(told: dict[str, Any]) -> dict[str, Any]:
        return {**told, "name": told["title"].upper(), "title": None}

    def begun(told: dict[str, Any]) -> dict[str, Any]:
        return {**told, "start": told.pop("begun")}

    edit(lambda told: told.update(format=-1, title="a title", begun=told.pop("start")))(folder)
    monkeypatch.setattr(recording, "_MIGRATIONS", {-1: named, 0: begun})
    session = Session.open(folder)
    same(session, 5)
    assert session.recording is not None
    assert session.recording.header.name == "A TITLE"


@pytest.mark.parametrize("archive", sorted(OLD.glob("*.zip")), ids=lambda path: path.stem)
def test_sessions_of_every_version_open(archive: Path, tmp_path: Path) -> None:
    """One was put aside for each format that there was: `PYTHONPATH=tests:. python tests/core/test_recording.py`."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    session = Session.open(tmp_path / archive.stem)
    same(session, 5)
    assert session.start == start()
    assert session.end == DONE


def test_this_version_was_put_aside() -> None:
    assert (OLD / f"{recording.FORMAT}.zip").exists()


def test_fields_that_a_later_version_may_add_are_passed_over(folder: Path) -> None:
    edit(lambda told: told.update(colour="blue"))(folder)
    same(Session.open(folder), 5)


def put_aside() -> None:
    folder = OLD / str(recording.FORMAT)
    session = recorded(folder)
    session.finish(DONE)
    session.close()
    (folder / "lock").unlink()
    shutil.make_archive(str(folder), "zip", OLD, folder.name)
    shutil.rmtree(folder)


if __name__ == "__main__":
    put_aside()
