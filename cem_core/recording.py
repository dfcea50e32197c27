"""A session's folder: what makes a run outlive the program.

    session.json   the first message of the run, its name, and where it was forked from; checked when it is read
    pixels/        Zarr v3, (step, chain, channel, y, x) float32, a chunk a step, Zstandard and CRC-32C
    steps.sqlite   a row for each step and chain: energies, norms, logits; the sampler where it changed; the end
    lock           held by the program that writes

A step counts once its row is in the table, and its row is written after its pixels: whatever happens, at most the step
being written is missing.
"""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from filelock import FileLock, Timeout

from cem_core import __version__, writing
from cem_core.messages import Floats, Refused, RunEnd, RunStart, Sampler, Step

FORMAT: Final = 1
"""Of the folder; older ones are read through `_MIGRATIONS`."""
SCALARS: Final = ("energy", "joint", "gradient_norm", "distance")
_HEADER: Final = "session.json"
_TABLE: Final = "steps.sqlite"
_PIXELS: Final = "pixels"
_LARGEST_HEADER: Final = 64 * 2**20
_AHEAD: Final = 8
"""Steps that may wait for the disk."""
_GROWTH: Final = 1024
"""Steps by which the array's declared length grows."""
_SCHEMA: Final = """
CREATE TABLE step (
    step INTEGER, chain INTEGER, energy REAL, joint REAL, gradient_norm REAL, distance REAL, log_p REAL,
    logits BLOB, -- float32, little-endian, one a class
    PRIMARY KEY (step, chain)
) WITHOUT ROWID;
CREATE TABLE sampler (step INTEGER PRIMARY KEY, row TEXT); -- JSON: what a step was made with, where that changed
CREATE TABLE ended (message TEXT); -- JSON
"""
_MIGRATIONS: Final[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""From a format to the next: what `session.json` held → what it would hold."""


class Origin(msgspec.Struct, frozen=True):
    """Where a run was forked from."""

    session: str
    step: int


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


class Recording:
    """One folder, being written or read.

    Steps are written by a thread of its own, a few behind; one that cannot be written stops it until `resume`.
    """

    def __init__(self, folder: Path, header: Header, lock: FileLock | None, written: int = 0) -> None:
        self.folder = folder
        self.header = header
        self.writable = lock is not None
        """False: another program writes here, or it was opened to be read."""
        self._written = written
        self._submitted = written
        self._failure: OSError | None = None
        self._row: Sampler | None = None
        self._pixels: Any = _open_array(folder)
        self._table: sqlite3.Connection | None = None
        self._room = threading.BoundedSemaphore(_AHEAD)
        self._writer = ThreadPoolExecutor(1, "recording") if lock is not None else None
        self._close = weakref.finalize(self, _let_go, self._writer, lock)

    # ---- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, root: Path, start: RunStart, origin: Origin | None = None) -> Recording:
        """A new folder below `root`, named after the time and the run. Raises OSError."""
        now = datetime.now(UTC).astimezone()
        folder = root / f"{now:%Y-%m-%d %H.%M.%S} {start.spec.sampler.name} {start.spec.id[:6]}"
        folder.mkdir(parents=True)
        self = cls(folder, Header(created=now.isoformat(timespec="seconds"), start=start, origin=origin), _lock(folder))
        self._write_header()
        return self

    @classmethod
    def open(cls, folder: Path, *, write: bool = False) -> tuple[Recording, Recorded]:
        """A folder that is there, and what is in it but the pixels; read-only where another program writes.

        Raises:
            Refused: it is no session, of a newer version, or damaged.
        """
        header = read_header(folder)
        recorded = _read_table(folder)
        self = cls(folder, header, _lock(folder) if write else None)
        intact = recorded.count
        while intact and not self._is_intact(intact - 1):  # a power cut may lose what was written last
            intact -= 1
        self._written = self._submitted = intact
        return self, recorded.first(intact)

    def rename(self, name: str) -> None:
        """Give it a name. Raises Refused."""
        self.header = msgspec.structs.replace(self.header, name=" ".join(name.split())[:200])
        self._write_header()

    def close(self) -> None:
        """Write what waits, and let others write."""
        self._close()
        if self._table is not None:
            self._table.close()
            self._table = None
        self.writable = False

    def _write_header(self) -> None:
        writing.replace(self.folder / _HEADER, msgspec.json.format(msgspec.json.encode(self.header)))

    # ---- steps -------------------------------------------------------------------------------------------------------

    @property
    def written(self) -> int:
        """Steps that are safe."""
        return self._written

    @property
    def failure(self) -> OSError | None:
        """Why the writing stopped; None: it has not."""
        return self._failure

    def append(self, step: Step) -> None:
        """Have the next step written. Raises OSError if one before it could not be; then it was not taken."""
        assert self._writer is not None
        self._room.acquire()
        if self._failure is not None:
            self._room.release()
            raise self._failure
        self._submitted += 1
        self._writer.submit(self._write_one, step)

    def resume(self, steps: Iterator[Step]) -> None:
        """Go on after a failure with all steps from `written` on. Raises OSError if they still cannot be written."""
        assert self._writer is not None
        self._writer.submit(lambda: None).result()  # what waited has been passed over
        self._failure, self._submitted = None, self._written
        for step in steps:
            self.append(step)
        self.flush()

    def flush(self) -> None:
        """Wait until all that was taken is written. Raises OSError if it could not be."""
        assert self._writer is not None
        self._writer.submit(lambda: None).result()
        if self._failure is not None:
            raise self._failure

    def finish(self, end: RunEnd | None) -> None:
        """Write how the run ended; None: it goes on after all. Raises OSError."""
        assert self._writer is not None
        self.flush()
        self._writer.submit(self._write_end, end).result()

    def pixels(self, index: int) -> Floats:
        """(B, C, H, W) of a step that is written. Raises OSError if it is missing or damaged."""
        try:
            found = np.asarray(self._pixels[index], np.float32)
        except Exception as error:  # a codec raises nearly anything for a damaged chunk
            raise OSError(f"its pixels are damaged ({_first_line(error)})") from error
        if np.isnan(found).any():
            raise OSError("its pixels are missing")
        return found

    def _is_intact(self, index: int) -> bool:
        try:
            self.pixels(index)
        except OSError:
            return False
        return True

    def _write_one(self, step: Step) -> None:
        try:
            if self._failure is None:
                self._write(step)
                self._written = step.index + 1
        except OSError as error:
            self._failure = error
        except Exception as error:  # sqlite3.Error among them, for the same reasons
            self._failure = OSError(_first_line(error))
        finally:
            self._room.release()

    def _write(self, step: Step) -> None:
        if not (self.folder / _HEADER).exists():  # or the folders would be made anew, without it
            raise OSError("its folder is gone")
        if self._pixels is None:
            self._pixels = _make_array(self.folder, step.pixels.shape)
        if self._table is None:
            self._table = _make_table(self.folder)
        if step.index >= self._pixels.shape[0]:
            self._pixels.resize((step.index + _GROWTH, *self._pixels.shape[1:]))
        self._pixels[step.index] = step.pixels
        scalars = (getattr(step, name).tolist() for name in (*SCALARS, "log_p"))
        logits = (row.astype("<f4").tobytes() for row in step.logits)
        rows = [(step.index, chain, *values) for chain, values in enumerate(zip(*scalars, logits, strict=True))]
        with self._table:
            if step.sampler != self._row:
                row = msgspec.json.encode(step.sampler).decode()
                self._table.execute("INSERT OR REPLACE INTO sampler VALUES (?, ?)", (step.index, row))
            self._table.executemany("INSERT OR REPLACE INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._row = step.sampler

    def _write_end(self, end: RunEnd | None) -> None:
        try:
            if self._table is None:
                self._table = _make_table(self.folder)
            with self._table:
                self._table.execute("DELETE FROM ended")
                if end is not None:
                    self._table.execute("INSERT INTO ended VALUES (?)", (msgspec.json.encode(end).decode(),))
        except sqlite3.Error as error:
            raise OSError(_first_line(error)) from error


@dataclass(frozen=True)
class Recorded:
    """What is in a session's table: T steps of B chains, K classes."""

    count: int
    scalars: dict[str, Floats]
    """Each (T, B); `logits` (T, B, K)."""
    samplers: list[Sampler]
    end: RunEnd | None

    def first(self, count: int) -> Recorded:
        """The first so many steps."""
        if count == self.count:
            return self
        scalars = {name: values[:count] for name, values in self.scalars.items()}
        return Recorded(count, scalars, self.samplers[:count], None)


def read_header(folder: Path) -> Header:
    """What a session is. Raises Refused if the folder is none, or of a newer version, or its header is damaged."""
    path = folder / _HEADER
    try:
        if path.stat().st_size > _LARGEST_HEADER:
            raise Refused(f"{folder.name} has a {_HEADER} that is too long: it is no session of this program.")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise Refused(f"{folder.name} is no session: it has no {_HEADER}.") from error
    except OSError as error:
        raise Refused(f"{folder.name} cannot be read: {error.strerror or error}.") from error
    try:
        told = msgspec.json.decode(data, type=dict[str, Any])
        version = told.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise Refused(
                f"{folder.name} was recorded by a newer CEM Explorer ({told.get('version')}): update to open it."
            )
        for old in range(version if isinstance(version, int) else FORMAT, FORMAT):
            told = _MIGRATIONS[old](told)
        return msgspec.convert(told, Header)
    except (msgspec.MsgspecError, KeyError, RecursionError, Refused) as error:
        if isinstance(error, Refused) and "newer" in str(error):
            raise
        raise Refused(f"{folder.name} has a damaged {_HEADER} ({_first_line(error)}): it cannot be opened.") from error


def _read_table(folder: Path) -> Recorded:
    path = folder / _TABLE
    if not path.exists():
        return Recorded(0, {}, [], None)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as table:
            chains = table.execute("SELECT count(*) FROM step WHERE step = 0").fetchone()[0]
            found = table.execute("SELECT * FROM step ORDER BY step, chain").fetchall()
            rows = table.execute("SELECT step, row FROM sampler ORDER BY step").fetchall()
            ended = table.execute("SELECT message FROM ended").fetchone()
        count = len(found) // chains if chains else 0
        places = [(row[0], row[1]) for row in found[: count * chains]]
        if places != [(step, chain) for step in range(count) for chain in range(chains)]:
            raise ValueError("steps are missing")
        columns = np.array([row[2:6] for row in found[: count * chains]], np.float32).reshape(count, chains, -1)
        logits = np.frombuffer(b"".join(row[7] for row in found[: count * chains]), "<f4")
        scalars: dict[str, Floats] = {
            name: np.ascontiguousarray(columns[:, :, place]) for place, name in enumerate(SCALARS)
        }
        scalars["logits"] = logits.reshape(count, chains, -1).astype(np.float32)
        changes = {step: msgspec.json.decode(row, type=Sampler) for step, row in rows}
        samplers: list[Sampler] = []
        for step in range(count):
            samplers.append(changes[step] if step in changes else samplers[-1])
        end = msgspec.json.decode(ended[0], type=RunEnd) if ended else None
        return Recorded(count, scalars, samplers, end)
    except (sqlite3.Error, msgspec.MsgspecError, ValueError, TypeError, IndexError) as error:
        raise Refused(f"{folder.name} has a damaged {_TABLE} ({_first_line(error)}): it cannot be opened.") from error


def _make_table(folder: Path) -> sqlite3.Connection:
    path = folder / _TABLE
    fresh = not path.exists()
    table = sqlite3.connect(path, check_same_thread=False)
    table.execute("PRAGMA journal_mode=WAL")  # readers go on, and a crash undoes the step in flight
    table.execute("PRAGMA synchronous=NORMAL")
    if fresh:
        with table:
            table.executescript(_SCHEMA)
    return table


def _make_array(folder: Path, shape: tuple[int, ...]) -> Any:
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    found = _open_array(folder)
    if found is not None:
        return found
    return zarr.create_array(
        folder / _PIXELS,
        shape=(_GROWTH, *shape),
        chunks=(1, *shape),
        dtype="float32",
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=float("nan"),
        zarr_format=3,
        dimension_names=("step", "chain", "channel", "y", "x"),
        config={"write_empty_chunks": True},
    )


def _open_array(folder: Path) -> Any:
    if not (folder / _PIXELS / "zarr.json").exists():
        return None
    import zarr

    try:
        return zarr.open_array(folder / _PIXELS, mode="r+")
    except Exception as error:
        raise Refused(f"{folder.name} has a damaged {_PIXELS} folder ({_first_line(error)}).") from error


def _lock(folder: Path) -> FileLock | None:
    """Held as long as it lives; None if another program holds it."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return None
    return lock


def _let_go(writer: ThreadPoolExecutor | None, lock: FileLock | None) -> None:
    if writer is not None:
        writer.shutdown()
    if lock is not None:
        lock.release()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
