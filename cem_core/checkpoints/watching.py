"""How those who wait for a file are told how far its reading is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

Watch: TypeAlias = Callable[[float], None]
"""Told the share of the work that is done; may raise to end it."""

_PIECE: Final = 4 * 2**20


class Cancelled(Exception):
    """What a `Watch` raises to end the reading."""


class Watched(io.RawIOBase):
    """A file that tells how far it has been read, and lets go of other threads between two pieces."""

    def __init__(self, path: Path, watch: Watch | None) -> None:
        self._file = path.open("rb", buffering=0)
        self._watch = watch
        self.size = path.stat().st_size

    def readinto(self, buffer: Any, /) -> int:
        whole = memoryview(buffer).cast("B")
        done = 0
        while done < len(whole):
            count = self._file.readinto(whole[done : done + _PIECE])
            if not count:
                break
            done += count
            if self._watch and len(whole) > 2**16:
                self._watch(self._file.tell() / max(1, self.size))
        return done

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
