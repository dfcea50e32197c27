"""What a training leaves on the disk: whatever happens, what was there before is whole.

recipe.json        what is trained; nothing else is trained there
log.jsonl          a word a line
state.safetensors  what it takes to go on
epochs/            the checkpoint of each epoch
lock               held by the program that trains
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock, Timeout

from cem_core import writing
from cem_core.messages import Refused
from cem_core.training.progress import EPOCHS, LOCK, LOG, RECIPE, STATE, Began, Ended, Word
from cem_core.training.recipe import Recipe

_PATIENCE: Final = 0.5
"""Seconds to wait for the lock: who only looks whether it is held, holds it for an instant."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Folder:
    """The folder of a training that goes on here; made with the first word, so that bad input leaves no trace.

    Args:
        resume: go on with what it holds.

    Raises:
        Refused: another training lives there or goes on there, or it cannot be read.
    """

    def __init__(self, path: Path, recipe: Recipe, *, resume: bool) -> None:
        self.path = path
        self._recipe = recipe
        self._log: int | None = None
        self._at: tuple[int, float] | None = None
        self._lock = FileLock(path / LOCK, thread_local=False)
        try:
            if not resume and (path / STATE).exists():
                raise Refused(f"{path} holds a training already: resume that one, or choose another folder.")
            if path.exists() and not path.is_dir():
                raise Refused(f"{path} is a file: choose a folder.")
            if not (path / RECIPE).exists():
                others = [name for name in (LOG, STATE, EPOCHS, f"{recipe.name}.safetensors") if (path / name).exists()]
                if others:
                    raise Refused(f"{path} holds {others[0]}, but no recipe of a training: choose another folder.")
            elif _read(path / RECIPE) != recipe:
                raise Refused(f"{path} holds a training by another recipe: choose another folder.")
            if (path / LOG).exists() and not (path / LOG).is_file():  # a pipe might never end
                raise Refused(f"{path / LOG} is no ordinary file: choose another folder.")
            if (path / RECIPE).exists():
                self._hold()
        except OSError as error:
            raise Refused(f"{path} cannot be used ({error.strerror or error}): choose another folder.") from error

    def write(self, word: Word) -> None:
        """Add a word to the log. Raises Refused if there is no room, or another program trains there."""
        try:
            if self._log is None:
                self.path.mkdir(parents=True, exist_ok=True)
                self._hold()
                if not (self.path / RECIPE).exists():
                    self.put(RECIPE, msgspec.json.format(msgspec.json.encode(self._recipe)))
                (self.path / EPOCHS).mkdir(exist_ok=True)
                self._log = os.open(self.path / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                self._mend()
            self._add(msgspec.json.encode(word) + b"\n")
        except OSError as error:
            raise self._full(LOG, error) from error
        self._at = (word.first, 0.0) if isinstance(word, Began) else (word.step, word.seconds)

    def failed(self, why: str) -> None:
        """The last word, if there was a first one and there is room for it."""
        if self._at is not None:
            with suppress(Refused):
                self.write(Ended("failed", *self._at, why))

    def put(self, name: str, data: bytes) -> None:
        """A file in place of an earlier one, at once. Raises Refused if there is no room; the earlier one stays."""
        try:
            writing.replace(self.path / name, data)
        except Refused as refused:
            if not isinstance(refused.__cause__, OSError):
                raise
            raise self._full(name, refused.__cause__) from refused

    def close(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None
        self._lock.release()

    def _hold(self) -> None:
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire(timeout=_PATIENCE, poll_interval=_PATIENCE / 10)
        except Timeout as error:
            raise Refused(f"Another program trains in {self.path} just now: choose another folder.") from error
        except NotImplementedError as error:
            raise Refused(f"The disk of {self.path} knows no locks: choose a folder on another.") from error
        half = f"{writing.BESIDE}*/*.safetensors"  # written when the program was killed
        for file in (*self.path.glob(half), *self.path.glob(f"{EPOCHS}/{half}")):
            with suppress(OSError):
                file.unlink()
                file.parent.rmdir()

    def _add(self, line: bytes) -> None:
        assert self._log is not None
        if os.write(self._log, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _mend(self) -> None:
        """A last line that was torn when the disk was full or the program killed gets its end."""
        assert self._log is not None
        if (size := os.lseek(self._log, 0, os.SEEK_END)) and os.pread(self._log, 1, size - 1) != b"\n":
            self._add(b"\n")

    def _full(self, name: str, error: OSError) -> Refused:
        told = f"{self.path / name} cannot be written ({error.strerror or error})"
        if error.errno in _NO_ROOM:
            return Refused(f"{told}: make room. What was kept before is whole, and can be resumed.")
        return Refused(f"{told}: choose another folder, or mend this one; what it held before is whole.")


def _read(path: Path) -> Recipe | None:
    """As it was, or with what has become a choice since; None: it is no recipe."""
    if not path.is_file():
        return None
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        return msgspec.json.decode(path.read_bytes(), type=Recipe)
    return None
