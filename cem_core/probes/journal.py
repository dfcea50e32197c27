"""Cells that are kept as they are measured, so that a measurement goes on where it ended: JSON, a line each.

A cell is known by all that decides it, and by nothing else: not by the place of its model in a request, nor by the
folder of its images.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from cem_core import __version__
from cem_core.images import Bytes
from cem_core.messages import Checkpoint, Precision, Refused
from cem_core.probes.requests import Attack
from cem_core.probes.results import Cell

_LONGEST: Final = 16 * 2**20
"""Bytes of a line that are read at once; one of the largest batch has a tenth of that."""


class Key(msgspec.Struct, frozen=True):
    """All that decides a cell."""

    checkpoint: str
    """SHA-256 of the file."""
    reading: str
    """SHA-256 of what is known of it, as choices change what a file is taken for."""
    precision: Precision
    attack: Attack
    eps: float
    images: str
    """SHA-256 of the pixels, labels and seeds of the range, and of the classes that are judged."""
    version: str = __version__
    """Attacks may change with the program, and with the package that they are of."""


class Entry(msgspec.Struct, frozen=True):
    """A line."""

    key: Key
    cell: Cell


def reading(checkpoint: Checkpoint) -> str:
    """For `Key.reading`. What was measured of it is no part of it."""
    known = [(fact.what, fact.value) for fact in checkpoint.facts if fact.what != "accuracy"]
    return _digest(msgspec.json.encode((known, checkpoint.classes, checkpoint.channels, checkpoint.size)))


def images(pixels: Bytes, labels: NDArray[np.int64], seeds: Sequence[int], classes: Sequence[str]) -> str:
    """For `Key.images`."""
    about = msgspec.json.encode((pixels.shape, labels.tolist(), list(seeds), list(classes)))
    return _digest(about, np.ascontiguousarray(pixels).data)


def _digest(*parts: bytes | memoryview) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


class Journal:
    """What was measured before, and where what is measured now is added.

    Lines that are no entries are passed over: the last one may be torn. Two processes may add to the same file.

    Args:
        path: of the file, made with the first cell; None: nothing is kept.

    Raises:
        Refused: the file cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._cells: dict[bytes, Cell] = {}
        self._torn = False
        if path is None:
            return
        line = b"\n"
        with _told(path):
            if not path.exists():
                return
            if not (path.is_file() or path.is_dir()):  # a pipe or a device might never end
                raise Refused(f"{path} is not an ordinary file: choose another place for it.")
            with path.open("rb") as file:
                while piece := file.readline(_LONGEST):
                    line = piece
                    if (entry := _entry(line)) is not None:
                        self._cells[_bytes(entry.key)] = entry.cell
        self._torn = not line.endswith(b"\n")

    def find(self, key: Key) -> Cell | None:
        """What was measured; `subject` and `first` are those of the request of that time."""
        return self._cells.get(_bytes(key))

    def keep(self, key: Key, cell: Cell) -> None:
        """Add a cell. Raises Refused if it cannot be written."""
        self._cells[_bytes(key)] = cell
        if self._path is None:
            return
        line = b"\n" * self._torn + msgspec.json.encode(Entry(key, cell)) + b"\n"
        with _told(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:  # one write, so that lines never mingle
                self._torn = file.write(line) < len(line)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _bytes(key: Key) -> bytes:
    return msgspec.json.encode(key)


def _entry(line: bytes) -> Entry | None:
    try:
        entry = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    cell = entry.cell
    counts = (cell.attacked, cell.vanished, cell.stuck, *cell.broken)
    fits = len(cell.correct) == len(cell.labels) and all(0 <= count <= len(cell.labels) for count in counts)
    return entry if fits and cell.eps == entry.key.eps else None


_decoder = msgspec.json.Decoder(Entry)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"{path} cannot be used ({error.strerror or error}): choose another place for it.") from error
