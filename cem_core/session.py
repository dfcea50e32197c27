"""A run as it was recorded: every step, in memory within a budget, older ones on disk.

The disk is the session's folder where it has one, else a file that is gone with the session. The sampling thread
appends while the window reads: both may be done at once.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from cem_core.frames import Lost
from cem_core.messages import Floats, Norm, RunEnd, RunStart, Sampler, Step
from cem_core.recording import Recorded, Recording

BUDGET: Final = 512 * 2**20
"""Bytes of pixels that a session keeps in memory unless told otherwise."""


@dataclass(frozen=True)
class Numbers:
    """The scalars of T steps of B chains, K classes."""

    energy: Floats  # (T, B)
    joint: Floats  # (T, B)
    gradient_norm: Floats  # (T, B)
    distance: Floats  # (T, B)
    logits: Floats  # (T, B, K)

    @property
    def log_p(self) -> Floats:
        """(T, B) log p(y|x) = E(x) - E(x,y)."""
        return self.energy - self.joint


_first = itemgetter(0)
_SCALARS: Final = ("energy", "joint", "gradient_norm", "distance", "logits")


class Session:
    """The recorded steps of one run, indexed like a list.

    Args:
        start: the first message of the run.
        budget: bytes of pixels to keep in memory; older steps move to an unnamed temporary file, uncompressed,
            so that any step is one read away, and are gone with the session.
        recording: the folder that every step is written to; older steps are read back from there.
    """

    def __init__(self, start: RunStart, *, budget: int = BUDGET, recording: Recording | None = None) -> None:
        self.start = start
        self.end: RunEnd | None = None
        self.recording = recording
        self._budget = budget
        self._lock = threading.Lock()
        self._count = 0
        self._spilled = 0
        self._spill: IO[bytes] | None = None
        self._pixels: list[Floats | None] = []
        self._rows: list[tuple[int, Sampler]] = []
        chains, classes = len(start.spec.chains), len(start.candidates)
        self._scalars: dict[str, Floats] = {name: np.empty((0, chains), np.float32) for name in _SCALARS}
        self._scalars["logits"] = np.empty((0, chains, classes), np.float32)
        self._dropped: set[int] = set()

    @classmethod
    def record(cls, folder: Path, start: RunStart, *, budget: int = BUDGET) -> Session:
        """A new session whose every step is written to a new folder. Raises Refused if that cannot be made."""
        return cls(start, budget=budget, recording=Recording.create(folder, start))

    @classmethod
    def open(cls, folder: Path, *, write: bool = False, budget: int = BUDGET) -> Session:
        """What was recorded in a folder; `end` is None if the run was interrupted.

        Args:
            write: to go on with it; where another program writes there, it is read-only: `recording.writable` says.

        Raises:
            Refused: it is no session, of a newer version, or damaged.
        """
        recording, recorded = Recording.open(folder, write=write)
        self = cls(recording.header.start, budget=budget, recording=recording)
        self._take(recorded)
        return self

    def refresh(self) -> int:
        """Read what another program has recorded meanwhile: how many steps. Raises Refused if it cannot be read."""
        assert self.recording is not None
        assert not self.recording.writable
        before = self._count
        self._take(self.recording.follow(before))
        return self._count - before

    def _take(self, recorded: Recorded) -> None:
        with self._lock:
            before, count = self._count, self._count + recorded.count
            for name in _SCALARS if recorded.count or not before else ():
                values = recorded.scalars[name]
                self._scalars[name] = np.concatenate([self._scalars[name][:before], values]) if before else values
            self._note(recorded.changes)
            self._dropped.update((np.flatnonzero(~recorded.kept) + before).tolist())
            self._pixels += [None] * recorded.count
            self._count = self._spilled = count
            self.end = recorded.end

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Step]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Step:
        """The step, with pixels from memory or disk.

        Raises:
            IndexError: outside 0 … len-1.
            OSError: its pixels were thinned out, or the disk fails; in a sentence.
        """
        with self._lock:
            if not 0 <= index < self._count:
                raise IndexError(f"step {index} of {self._count}")
            pixels = self._pixels[index]
            if pixels is None and self.recording is None:
                pixels = self._read(index)
            scalars: dict[str, Any] = {name: self._scalars[name][index] for name in _SCALARS}
            row = self._rows[bisect_right(self._rows, index, key=_first) - 1][1]
        if pixels is None:  # outside the lock, for the run goes on meanwhile
            assert self.recording is not None
            if index in self._dropped:
                every = self.recording.header.thinned
                raise Lost(
                    f"The pixels of step {index:,} were thinned out: kept are those of one step in {every:,}, and all "
                    "numbers."
                )
            pixels = self.recording.pixels(index)
        return Step(self.start.spec.id, index, row, pixels, **scalars)

    def kept(self, index: int) -> bool:
        """Whether the pixels of a step are there, which was not thinned out."""
        return index not in self._dropped

    @property
    def numbers(self) -> Numbers:
        """The scalars so far: views, not copies; steps appended later do not change them."""
        with self._lock:
            return Numbers(**{name: self._scalars[name][: self._count] for name in _SCALARS})

    @property
    def in_memory(self) -> int:
        """Bytes of pixels held in memory."""
        with self._lock:
            newest = self._pixels[-1] if self._pixels else None
            return 0 if newest is None else newest.nbytes * (self._count - self._spilled)

    @property
    def norm(self) -> Norm | None:
        """In which the distances were measured; None if it changed."""
        norms = {self.start.spec.sampler.norm, *(row.norm for _, row in self.changes)}
        return self.start.spec.sampler.norm if len(norms) == 1 else None

    @property
    def changes(self) -> list[tuple[int, Sampler]]:
        """(first step made with it, row) wherever the sampler changed during the run; enough to replay it."""
        with self._lock:
            return self._rows[1:]

    def append(self, step: Step) -> None:
        """Record the next step; after an OSError the same step may be tried again, when there is room.

        Raises:
            ValueError: it is not the next.
            OSError: the disk is full, or the folder is gone; nothing that was recorded is lost.
        """
        if step.index != self._count:
            raise ValueError(f"step {step.index} follows {self._count - 1}")
        if self.recording is not None:
            self.recording.append(step)
        with self._lock:
            self._make_room(step.pixels.nbytes)
            for name in _SCALARS:
                self._store(name, getattr(step, name))
            self._pixels.append(step.pixels)
            self._note([(step.index, step.sampler)])
            self._count += 1
            self.end = None

    def finish(self, end: RunEnd) -> None:
        """The run is over. Raises OSError if what is left could not be written; it may be tried again."""
        self.end = end
        if self.recording is not None and self.recording.writable:
            self.recording.finish(end)

    def close(self) -> None:
        """Let others write to its folder. Raises OSError if what is left could not be written."""
        if self.recording is not None:
            self.recording.close()

    def _note(self, rows: list[tuple[int, Sampler]]) -> None:
        for index, row in rows:
            if not self._rows or row != self._rows[-1][1]:
                self._rows.append((index, row))

    def _store(self, name: str, row: Floats) -> None:
        table = self._scalars[name]
        if self._count == len(table):
            grown: Floats = np.empty((max(64, 2 * self._count), *row.shape), np.float32)
            if self._count:
                grown[: self._count] = table
            self._scalars[name] = table = grown
        table[self._count] = row

    def _make_room(self, nbytes: int) -> None:
        while self._spilled < self._count and (self._count - self._spilled + 1) * nbytes > self._budget:
            pixels = self._pixels[self._spilled]
            assert pixels is not None
            if self.recording is not None:
                if self._spilled >= self.recording.written:
                    return
                self._pixels[self._spilled] = None
                self._spilled += 1
                continue
            if self._spill is None:
                # Unbuffered: what was written is on the disk, or the step is still in memory.
                self._spill = tempfile.TemporaryFile(buffering=0, prefix="cem-explorer-")  # noqa: SIM115 - closed below
                weakref.finalize(self, self._spill.close)
            self._spill.seek(self._spilled * pixels.nbytes)
            left = memoryview(pixels.tobytes())
            while left:  # a nearly full disk takes a part, then refuses
                left = left[self._spill.write(left) :]
            self._pixels[self._spilled] = None
            self._spilled += 1

    def _read(self, index: int) -> Floats:
        assert self._spill is not None
        newest = self._pixels[-1]
        assert newest is not None
        self._spill.seek(index * newest.nbytes)
        return np.frombuffer(self._spill.read(newest.nbytes), np.float32).reshape(newest.shape)
