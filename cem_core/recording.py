"""A session's folder: what makes a run outlive the program.

    session.json   the first message of the run, its name, and where it was forked from; checked when it is read
    pixels/        Zarr v3, (step, chain, channel, y, x) float32; see `frames`
    references/    likewise, one step: of an encoder, the images that it compares with, as it takes them
    steps.sqlite   a row for each step and chain: energies, norms, logits; the sampler where it changed; the end
    lock           held by the program that writes

A step counts once its row is in the table, its row is written after its pixels, both are on the disk before the next
is taken: whatever happens, at most the step being written is missing.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cem_core import __version__
from cem_core.frames import Frames, put
from cem_core.messages import MAX_STEPS, Floats, Refused, RunEnd, RunStart, Sampler, SessionStart, Step

FORMAT: Final = 1
"""Of the folder; older ones are read through `_MIGRATIONS`."""
SCALARS: Final = ("energy", "joint", "gradient_norm", "distance")
HEADER: Final = "session.json"
_TABLE: Final = "steps.sqlite"
_PIXELS: Final = "pixels"
_REFERENCES: Final = "references"
_LARGEST_HEADER: Final = 64 * 2**20
_PATIENCE: Final = 0.25
"""Seconds to wait for the lock: who only looks whether it is held, holds it for an instant."""
_BATCH: Final = 2**16
"""Rows read at once; a long run has millions."""
_SCHEMA: Final = """
CREATE TABLE step (
    step INTEGER, chain INTEGER, energy REAL, joint REAL, gradient_norm REAL, distance REAL, log_p REAL,
    logits BLOB, -- float32, little-endian, one a class
    PRIMARY KEY (step, chain)
) WITHOUT ROWID;
CREATE TABLE frame (step INTEGER PRIMARY KEY, bytes INTEGER); -- the steps whose pixels are kept
CREATE TABLE sampler (step INTEGER PRIMARY KEY, row TEXT); -- JSON: what a step was made with, where that changed
CREATE TABLE ended (message TEXT); -- JSON
"""
_MIGRATIONS: Final[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""From a format to the next: what `session.json` held → what it would hold."""


class Origin(msgspec.Struct, frozen=True):
    """Where a run was forked from."""

    session: str
    step: int


class Resumed(msgspec.Struct, frozen=True):
    """A run that went on where not all was as before."""

    step: int
    differs: tuple[str, ...]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """`session.json`."""

    program: str = "cem-explorer"
    version: str = __version__
    format: int = FORMAT
    name: str = ""
    """Given by the person; empty: named after the run."""
    created: str
    """ISO 8601, with its time zone."""
    start: RunStart
    origin: Origin | None = None
    """Of the first chain that was forked; `start` has them all."""
    thinned: int = 1
    """The pixels of each so-many-th step were kept when it was thinned out; 1: it never was."""
    resumed: tuple[Resumed, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, H, W) of a step."""
        checkpoint = self.start.checkpoint
        return (len(self.start.spec.chains), checkpoint.channels, checkpoint.size, checkpoint.size)


class Recording:
    """One folder, being written or read.

    A step is written by a thread of its own while the next is computed. One that cannot be written is kept, and
    tried again with whatever is asked next.
    """

    def __init__(self, folder: Path, header: Header, written: int = 0, lock: FileLock | None = None) -> None:
        self.folder = folder
        self.header = header
        self._frames = frames(folder, header)
        self._written = written
        self._waiting: Step | None = None
        self._work: Future[None] | None = None
        self._writer: _Writer | None = None
        if lock is not None:
            self._writer = _Writer(folder, self._frames, written)
            self._thread = ThreadPoolExecutor(1, "recording")
            # It must not hold this object, or the last to let go of it might be the thread that it waits for.
            self._let_go = weakref.finalize(self, _let_go, self._thread, self._writer, lock)

    # ---- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, start: RunStart) -> Recording:
        """A new folder. Raises Refused if there is something already, or it cannot be written."""
        forks = (chain.start for chain in start.spec.chains if isinstance(chain.start, SessionStart))
        header = Header(
            created=datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
            start=start,
            origin=next((Origin(fork.session, fork.step) for fork in forks), None),
        )
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise Refused(f"{folder} is there already: choose another name.") from error
        except OSError as error:
            raise Refused(f"{folder} cannot be written ({_said(error)}): record elsewhere.") from error
        lock = _lock(folder)
        try:
            if lock is None:
                raise OSError("it cannot be locked")
            frames(folder, header).declare(0)
            _keep_references(folder, start)
            with closing(sqlite3.connect(folder / _TABLE)) as table:
                table.executescript("PRAGMA journal_mode=WAL;" + _SCHEMA)
            self = cls(folder, header, 0, lock)
            self._write_header(header)  # the last: without it the folder is no session
        except (OSError, sqlite3.Error) as error:
            if lock is not None:
                lock.release()
            shutil.rmtree(folder, ignore_errors=True)
            raise Refused(f"{folder} cannot be written ({_said(error)}): record elsewhere.") from error
        return self

    @classmethod
    def open(cls, folder: Path, *, write: bool = False) -> tuple[Recording, Recorded]:
        """A folder that is there, and what is in it but the pixels; read-only where another program writes.

        Raises:
            Refused: it is no session, of a newer version, or damaged.
        """
        header = read_header(folder)
        lock = _lock(folder) if write else None
        try:
            recorded = _read_table(folder, header)
            intact, pixels = recorded.count, frames(folder, header)
            while intact and recorded.kept[intact - 1] and not pixels.is_whole(intact - 1):
                intact -= 1  # what was written last before a power cut, on a disk that lied
            if recorded.count and not intact:
                raise Refused(f"{folder.name} has lost its pixels: it cannot be opened.")
            return cls(folder, header, intact, lock), recorded.first(intact)
        except (Refused, sqlite3.Error) as error:
            if lock is not None:
                lock.release()
            raise error if isinstance(error, Refused) else _damaged(folder, _TABLE, error) from error

    @property
    def writable(self) -> bool:
        """False: another program writes here, or it was opened to be read."""
        return self._writer is not None

    def rename(self, name: str) -> None:
        """Give it a name, whoever records it. Raises OSError."""
        self._change(name=" ".join(name.split())[:200])

    def resumed(self, step: int, differs: tuple[str, ...]) -> None:
        """Put down that it goes on from a step where not all is as before. Raises OSError."""
        self._change(resumed=(*self.header.resumed, Resumed(step, differs)))

    def close(self) -> None:
        """Write what waits, and let others write. Raises OSError if it could not be written."""
        if self._writer is None:
            return
        try:
            self.flush()
        finally:
            self._written = self._writer.written
            self._writer = None
            self._let_go()

    def _change(self, **changes: Any) -> None:
        with suppress(Refused):  # then it is put right
            self.header = read_header(self.folder)  # which may have been renamed meanwhile
        self._write_header(msgspec.structs.replace(self.header, **changes))

    def _write_header(self, header: Header) -> None:
        try:
            told = msgspec.json.encode(header)
        except UnicodeEncodeError:  # the name of a file that is no text
            told = json.dumps(msgspec.to_builtins(header), ensure_ascii=False).encode("utf-8", "replace")
        put(self.folder / HEADER, msgspec.json.format(told))
        self.header = header

    # ---- steps -------------------------------------------------------------------------------------------------------

    @property
    def written(self) -> int:
        """Steps that are safe."""
        return self._written if self._writer is None else self._writer.written

    def append(self, step: Step) -> None:
        """Have the next step written. Raises OSError if the one before it could not be: then this was not taken."""
        assert self._writer is not None
        self.flush()
        self._waiting = step
        self._work = self._thread.submit(self._writer.write, step)

    def flush(self) -> None:
        """Wait until all that was taken is written; what failed is tried again. Raises OSError if it still fails."""
        if self._waiting is None:
            return
        assert self._writer is not None
        if self._work is None:
            self._work = self._thread.submit(self._writer.write, self._waiting)
        work, self._work = self._work, None
        work.result()
        self._waiting = None

    def finish(self, end: RunEnd) -> None:
        """Write how the run ended. Raises OSError."""
        assert self._writer is not None
        self.flush()
        self._thread.submit(self._writer.end, end).result()

    def follow(self, count: int) -> Recorded:
        """What another program has written from step `count` on. Raises Refused if it cannot be read."""
        recorded = _read_table(self.folder, self.header, count)
        self._written = count + recorded.count
        return recorded

    def pixels(self, index: int) -> Floats:
        """(B, C, H, W) of a step that is written. Raises OSError, in a sentence, if they are missing or damaged."""
        return self._frames.read(index)

    def references(self) -> Floats | None:
        """(K, C, H, W) what an encoder compares with; None: older records have only the paths."""
        with suppress(OSError):
            return _references(self.folder, self.header.start).read(0)
        return None

    def thin(self, every: int, drop: list[int]) -> None:
        """Forget the pixels of the steps in `drop`, all but each so-many-th, and say so. Raises OSError."""
        assert self._writer is not None
        self._change(thinned=every)
        self._thread.submit(self._writer.thin, drop).result()


class _Writer:
    """What the writing thread does; nobody else calls it but to read `written`."""

    def __init__(self, folder: Path, frames: Frames, written: int) -> None:
        self.written = written
        self._frames = frames
        self._row: Sampler | None = None
        self._begun = False
        self._table = sqlite3.connect(folder / _TABLE, check_same_thread=False)
        self._table.execute("PRAGMA synchronous=FULL")
        self._table.execute("PRAGMA journal_mode=WAL")  # readers go on, and a crash undoes the step in flight

    def write(self, step: Step) -> None:
        size = self._frames.write(step.index, step.pixels)
        scalars = (getattr(step, name).tolist() for name in (*SCALARS, "log_p"))
        logits = (row.tobytes() for row in step.logits.astype("<f4"))
        rows = [(step.index, chain, *values) for chain, values in enumerate(zip(*scalars, logits, strict=True))]
        with _told(), self._table:
            if not self._begun:  # it goes on after an end, or after steps that were lost
                for table in ("step", "frame", "sampler"):
                    self._table.execute(f"DELETE FROM {table} WHERE step >= ?", (step.index,))
                self._table.execute("DELETE FROM ended")
            if step.sampler != self._row:
                row = msgspec.json.encode(step.sampler).decode()
                self._table.execute("INSERT OR REPLACE INTO sampler VALUES (?, ?)", (step.index, row))
            self._table.execute("INSERT OR REPLACE INTO frame VALUES (?, ?)", (step.index, size))
            self._table.executemany("INSERT OR REPLACE INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._row, self._begun, self.written = step.sampler, True, step.index + 1

    def end(self, end: RunEnd) -> None:
        with _told(), self._table:
            self._table.execute("DELETE FROM ended")
            self._table.execute("INSERT INTO ended VALUES (?)", (msgspec.json.encode(end).decode(),))
        self._frames.declare(self.written)

    def thin(self, drop: list[int]) -> None:
        with _told(), self._table:
            self._table.executemany("DELETE FROM frame WHERE step = ?", [(index,) for index in drop])
        for index in drop:
            self._frames.path(index).unlink(missing_ok=True)

    def close(self) -> None:
        with suppress(OSError):
            self._frames.declare(self.written)
        self._table.close()


def _let_go(thread: ThreadPoolExecutor, writer: _Writer, lock: FileLock) -> None:
    thread.shutdown()
    try:
        writer.close()
    finally:
        lock.release()


@dataclass(frozen=True)
class Recorded:
    """What is in a session's table: T steps of B chains, K classes."""

    count: int
    scalars: dict[str, Floats]
    """Each (T, B); `logits` (T, B, K)."""
    changes: list[tuple[int, Sampler]]
    """(step, row), wherever it is another."""
    kept: NDArray[np.bool_]
    """(T,) whether the pixels of a step are kept."""
    end: RunEnd | None

    def first(self, count: int) -> Recorded:
        """The first so many steps."""
        if count == self.count:
            return self
        scalars = {name: values[:count] for name, values in self.scalars.items()}
        changes = [change for change in self.changes if change[0] < count]
        return Recorded(count, scalars, changes, self.kept[:count], None)


def read_header(folder: Path) -> Header:
    """What a session is. Raises Refused if the folder is none, or of a newer version, or its header is damaged."""
    path = folder / HEADER
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_HEADER + 1)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # what is no path at all is a ValueError
        raise Refused(f"{folder.name} is no session: it has no {HEADER}.") from error
    except OSError as error:
        raise Refused(f"{folder.name} cannot be read: {_said(error)}.") from error
    if len(data) > _LARGEST_HEADER:
        raise Refused(f"{folder.name} has a {HEADER} that is too long: it is no session of this program.")
    try:
        told = msgspec.json.decode(data, type=dict[str, Any])
        version = msgspec.convert(told.get("format"), int)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _damaged(folder, HEADER, error) from error
    if version > FORMAT:
        by = str(told.get("version"))[:20]
        raise Refused(f"{folder.name} was recorded by a newer CEM Explorer ({by}): update to open it.")
    try:
        while version < FORMAT:
            told = _MIGRATIONS[version](told)
            version += 1
        return _checked(msgspec.convert(told, Header))
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(folder, HEADER, error) from error


def _checked(header: Header) -> Header:
    start, chains = header.start, len(header.start.spec.chains)
    if not len(start.labels) == len(start.names) == len(start.notes) == chains:
        raise ValueError("not all is told of each chain")
    if not all(0 <= label < len(start.candidates) for label in start.labels):
        raise ValueError("a target is none of its classes or reference images")
    if not (1 <= start.checkpoint.channels <= 2**10 and 1 <= start.checkpoint.size <= 2**16) or header.thinned < 1:
        raise ValueError("a size is none")
    return header


def frames(folder: Path, header: Header) -> Frames:
    """The pixels of a session, whether or not their steps are in the table."""
    return Frames(folder / _PIXELS, header.shape)


def _references(folder: Path, start: RunStart) -> Frames:
    known = start.checkpoint
    return Frames(folder / _REFERENCES, (len(start.references), known.channels, known.size, known.size))


def _keep_references(folder: Path, start: RunStart) -> None:
    """So that a run can go on though their files are gone. Raises OSError."""
    from cem_core import starts  # which reads sessions

    if start.references and start.spec.reference is not None:
        with suppress(Refused):  # they are gone already
            pixels = starts.pictures(start.checkpoint, start.spec.reference.images)
            kept = _references(folder, start)
            kept.declare(1)
            kept.write(0, pixels)


def is_held(folder: Path) -> bool:
    """Whether a program writes there."""
    if not (folder / "lock").exists():
        return False
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a read-only disk
        return False
    lock.release()
    return False


def overview(folder: Path) -> tuple[int, int, RunEnd | None]:
    """Steps, bytes of their pixels, and the end, without reading any step. Raises Refused if the table is damaged."""
    with _reading(folder) as table:
        last = table.execute("SELECT max(step) FROM step").fetchone()[0]
        size = table.execute("SELECT sum(bytes) FROM frame").fetchone()[0]
        return (0 if last is None else int(last) + 1), int(size or 0), _ended(table)


def _read_table(folder: Path, header: Header, since: int = 0) -> Recorded:
    """Steps from `since` on."""
    chains = header.shape[0]
    with _reading(folder) as table:
        last, length = table.execute(
            "SELECT max(step), max(length(logits)) FROM step WHERE step >= ?", (since,)
        ).fetchone()
        count = 0 if last is None else int(last) + 1 - since
        classes = int(length or 0) // 4
        if not 0 <= count <= MAX_STEPS + 1 or not 0 <= classes <= 2**20:
            raise ValueError("there are too many steps or classes")
        if count and classes != len(header.start.candidates):
            raise ValueError(f"it has {classes:,} logits a step for {len(header.start.candidates):,} candidates")
        if (rows := table.execute("SELECT count(*) FROM step WHERE step >= ?", (since,)).fetchone()[0]) != (
            count * chains
        ):
            raise ValueError(f"it has {rows:,} rows for {count:,} steps of {chains:,} chains")
        scalars: dict[str, Floats] = {name: np.empty((count * chains,), np.float32) for name in SCALARS}
        logits = np.empty((count * chains, classes), np.float32)
        found = table.execute(
            f"SELECT step, chain, {', '.join(SCALARS)}, logits FROM step WHERE step >= ? ORDER BY step, chain", (since,)
        )
        done = 0
        while batch := found.fetchmany(_BATCH):
            steps, numbers, *columns, packed = zip(*batch, strict=True)
            places = np.arange(done, done + len(batch))
            if not np.array_equal(steps, places // chains + since) or not np.array_equal(numbers, places % chains):
                raise ValueError("steps are missing")
            if {len(row) for row in packed} != {4 * classes}:
                raise ValueError("not all logits have the same length")
            part = slice(done, done + len(batch))
            for name, column in zip(SCALARS, columns, strict=True):
                scalars[name][part] = column
            logits[part] = np.frombuffer(b"".join(packed), "<f4").reshape(-1, classes)
            done += len(batch)
        kept = np.zeros(count, np.bool_)
        frames = table.execute("SELECT step FROM frame WHERE step BETWEEN ? AND ?", (since, since + count - 1))
        kept[[int(step) - since for (step,) in frames]] = True
        changes = table.execute("SELECT step, row FROM sampler WHERE step >= ? ORDER BY step", (since,)).fetchall()
        if count and not since and (not changes or changes[0][0] != 0):
            raise ValueError("it does not say what the first step was made with")
        return Recorded(
            count,
            {name: values.reshape(count, chains) for name, values in scalars.items()}
            | {"logits": logits.reshape(count, chains, classes)},
            [(int(step), msgspec.json.decode(row, type=Sampler)) for step, row in changes],
            kept,
            _ended(table),
        )


def _ended(table: sqlite3.Connection) -> RunEnd | None:
    ended = table.execute("SELECT message FROM ended").fetchone()
    return msgspec.json.decode(ended[0], type=RunEnd) if ended else None


@contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """The table at one moment; whatever is wrong with it is Refused."""
    path = folder / _TABLE
    if not path.exists():
        raise Refused(f"{folder.name} has lost its {_TABLE}: it cannot be opened.")
    try:
        with ExitStack() as closing_last, closing(_connect(path, closing_last)) as table:
            table.execute("PRAGMA trusted_schema=OFF")
            table.execute("BEGIN")
            kinds = dict(table.execute("SELECT name, type FROM sqlite_master").fetchall())
            if any(kinds.get(name) != "table" for name in ("step", "frame", "sampler", "ended")):
                raise ValueError("a table is missing")
            yield table
    except (sqlite3.Error, msgspec.MsgspecError, ValueError, TypeError, LookupError, OverflowError, OSError) as error:
        if isinstance(error, Refused):
            raise
        raise _damaged(folder, _TABLE, error) from error


def _connect(path: Path, closing_last: ExitStack) -> sqlite3.Connection:
    log = path.with_name(path.name + "-wal")
    # Where nobody writes, nothing need be locked, and looking leaves no trace.
    how = "mode=ro" if log.exists() else "immutable=1"
    table = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)
    try:
        table.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:  # on a read-only disk its readers cannot tell each other where they are
        table.close()
        beside = Path(closing_last.enter_context(tempfile.TemporaryDirectory(prefix="cem-explorer-")))
        for source in (path, log):
            with suppress(FileNotFoundError):
                shutil.copyfile(source, beside / source.name)
        table = sqlite3.connect(beside / path.name)
    return table


def _lock(folder: Path) -> FileLock | None:
    """Held as long as it lives, by whichever thread; None if another program holds it, or the disk is read-only."""
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=_PATIENCE / 10)
    except (Timeout, OSError, NotImplementedError):
        return None
    return lock


@contextmanager
def _told() -> Iterator[None]:
    """What the table says of the disk, as everybody else says it."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise OSError(_said(error)) from error


def _damaged(folder: Path, name: str, error: BaseException) -> Refused:
    return Refused(f"{folder.name} has a damaged {name} ({_said(error)}): it cannot be opened.")


def _said(error: BaseException) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (said.splitlines() or [type(error).__name__])[0][:200].rstrip(".")
