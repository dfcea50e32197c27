"""Work for workers of any kind, without torch: what it does is seen from outside in a folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cem_core.messages import Refused


class Answer(msgspec.Struct, frozen=True):
    """That an item is done, and by whom; as often as that was begun, counted over all processes."""

    item: int
    process: int
    tries: int = 1
    threads: str = ""
    heavy: bool = False
    """torch was there before the work was."""


class Deeds(msgspec.Struct, frozen=True):
    """Squares of items. What is asked of an item happens once it has begun, in each of the first `times` tries."""

    folder: str
    refuses: tuple[int, ...] = ()
    breaks: tuple[int, ...] = ()
    dies: tuple[int, ...] = ()
    waits: tuple[int, ...] = ()
    """For ever."""
    times: int = 1_000_000
    opens: bool = True

    def open(self) -> Doing:
        if not self.opens:
            raise Refused("There is no such file: choose another.")
        return Doing(self)


class Doing:
    def __init__(self, deeds: Deeds) -> None:
        self._deeds = deeds
        self._threads, self._heavy = os.environ.get("OMP_NUM_THREADS", ""), "torch" in sys.modules

    def do(self, item: int) -> Iterator[Answer | str]:
        tries = begun(Path(self._deeds.folder), item)
        yield f"item {item} began"
        if tries <= self._deeds.times:
            self._happen(item)
        yield Answer(item, os.getpid(), tries, self._threads, self._heavy)

    def _happen(self, item: int) -> None:
        if item in self._deeds.refuses:
            raise Refused(f"Item {item} cannot be done: leave it out.")
        if item in self._deeds.breaks:
            raise ZeroDivisionError(f"item {item}\nis odd")
        if item in self._deeds.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if item in self._deeds.waits:
            threading.Event().wait()


def begun(folder: Path, item: int) -> int:
    """Note that an item begins. How often it has now."""
    with (folder / str(item)).open("ab", buffering=0) as file:
        file.write(f"{os.getpid():10}".encode())
        return file.tell() // 10
