"""Recorded runs, run again: on from where they stopped, or from the beginning to see whether they come out the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np

from cem_core import runner
from cem_core.messages import Message, Refused, RunEnd, RunStart, Sampler, Step
from cem_core.session import Session

_COMPARED: Final = ("energy", "joint", "logits", "gradient_norm", "distance")


class Verdict(msgspec.Struct, frozen=True):
    """How a run that was run again differs from its record."""

    steps: int = 0
    """How many were compared."""
    bit_equal: bool = True
    """Every pixel and every number of every step."""
    pixels: float = 0.0
    """Largest absolute difference, in units of [0,1]."""
    energy: float = 0.0
    """Largest absolute difference of E(x)."""
    first: int | None = None
    """The first step that differs at all."""
    differs: tuple[str, ...] = ()
    """What else is not as it was when it was recorded: checkpoint, device, versions."""
    thinned: int = 0
    """Steps of which only the numbers could be compared."""

    @property
    def sentence(self) -> str:
        told = f" This is another {', '.join(self.differs)}." if self.differs else ""
        if self.thinned:
            told = f" Of {self.thinned:,} of them the pixels were thinned out.{told}"
        if self.bit_equal:
            return f"All {self.steps:,} steps are bit-equal.{told}"
        promise = " Equal pixels are promised only where nothing has changed." if self.differs else ""
        return (
            f"From step {self.first:,} on it differs: by at most {self.pixels:.3g} in a pixel and {self.energy:.3g} in "
            f"E(x), over {self.steps:,} steps.{told}{promise}"
        )


def keyframes(session: Session) -> Callable[[int], Sampler | None]:
    """For a run that is run again: the row of each step as it was recorded, and None after the last."""
    changes = dict(session.changes)
    first, count = session.start.spec.sampler, len(session)
    row = first

    def following(index: int) -> Sampler | None:
        nonlocal row
        row = changes.get(index + 1, row)
        return row if index + 1 < count else None

    return following


def replay(session: Session) -> Iterator[Message]:
    """The messages of a recorded run, computed again with its settings and every change that was made on the way.

    It begins with the recorded start, for an image may be gone.

    Raises:
        Refused: it has no steps.
        OSError: its start cannot be read back.
    """
    row = keyframes(session)
    index = -1

    def live() -> Sampler | None:
        nonlocal index
        index += 1
        following = row(index)
        # The recorded length decides, not the row's number of steps.
        return None if following is None else msgspec.structs.replace(following, steps=max(following.steps, index + 2))

    yield from runner.play(session.start.spec, live, _since(session, None))


def resume(session: Session, live: Callable[[], Sampler | None] | None = None) -> Iterator[Message]:
    """The messages of a run from the step after the last recorded one on; its RunStart is left out.

    What differs from when it was recorded (device, versions) is put down in the session first.

    Args:
        live: as for `runner.play`; by default the row that made the last step.

    Raises:
        Refused: it has no steps, another program records it, its checkpoint is another file now, or it cannot go on
            for another reason: then the session is as it was.
        OSError: its steps cannot be read back, or the folder cannot be written.
    """
    recording = session.recording
    if recording is not None and not recording.writable:
        raise Refused(
            f"{recording.folder.name} is read-only, as another program records it: it can be resumed once that is done."
        )
    last = _step(session, len(session) - 1)
    spec, begun = session.start.spec, False
    for message in runner.play(spec, live or (lambda: last.sampler), _since(session, last)):
        if isinstance(message, RunEnd) and message.reason == "failed" and not begun and not message.diverged:
            raise Refused(message.detail)
        if not isinstance(message, RunStart):
            begun = True
            yield message
            continue
        if message.checkpoint.sha256 != session.start.checkpoint.sha256:
            raise Refused(
                f"{session.start.checkpoint.name} is another file than the one that was recorded: the run cannot go on "
                "to the same pixels. Fork it instead."
            )
        if message.versions.get(runner.BATCH) != session.start.versions.get(runner.BATCH):
            raise Refused(
                "An image of its reference batch is another than when the run was recorded: it cannot go on to the "
                "same pixels. Put that image back, or fork the run instead."
            )
        if recording is not None and (differs := differences(session.start, message)):
            recording.resumed(len(session), differs)


def verify(session: Session) -> Iterator[Verdict]:
    """Run it again and compare: what was found so far, after every step.

    Raises:
        Refused: it cannot be run again.
        OSError: a step cannot be read back.
    """
    verdict = Verdict()
    for message in replay(session):
        if isinstance(message, RunStart):
            verdict = msgspec.structs.replace(
                verdict, differs=(*differences(session.start, message), *_on_the_way(session))
            )
        elif isinstance(message, Step):
            verdict = _compared(verdict, session, message)
            yield verdict
        elif isinstance(message, RunEnd) and verdict.steps < len(session):
            raise Refused(message.detail or "The run ended before its record does.")


def _since(session: Session, last: Step | None) -> runner.Since:
    start, digest = session.start, session.start.versions.get(runner.BATCH)
    kept = session.recording.references() if session.recording is not None and digest is not None else None
    return runner.Since(_step(session, 0), last, start.labels, None if kept is None or not digest else (kept, digest))


def _step(session: Session, index: int) -> Step:
    if not len(session):
        raise Refused("There is no step to begin with in this session: it was interrupted before the first.")
    return session[index]


def _compared(verdict: Verdict, session: Session, again: Step) -> Verdict:
    numbers, index = session.numbers, again.index
    equal = all(np.array_equal(getattr(numbers, name)[index], getattr(again, name)) for name in _COMPARED)
    energy = float(np.abs(numbers.energy[index] - again.energy).max())
    pixels = 0.0
    if session.kept(index):
        recorded = session[index].pixels
        equal = equal and np.array_equal(recorded, again.pixels)
        pixels = float(np.abs(recorded - again.pixels).max())
    return msgspec.structs.replace(
        verdict,
        steps=verdict.steps + 1,
        bit_equal=verdict.bit_equal and equal,
        pixels=max(verdict.pixels, pixels),
        energy=max(verdict.energy, energy),
        first=verdict.first if verdict.first is not None or equal else index,
        thinned=verdict.thinned + (not session.kept(index)),
    )


def differences(recorded: RunStart, now: RunStart) -> tuple[str, ...]:
    """What decides pixels and is not as it was: checkpoint, device, versions; empty: nothing."""
    return tuple(_differences(recorded, now))


def _on_the_way(session: Session) -> Iterator[str]:
    """What was another when the run was resumed."""
    for resumed in session.recording.header.resumed if session.recording is not None else ():
        yield from (f"{what} from step {resumed.step:,} on" for what in resumed.differs)


def _differences(recorded: RunStart, now: RunStart) -> Iterator[str]:
    if recorded.checkpoint.sha256 != now.checkpoint.sha256:
        yield "checkpoint"
    if recorded.device != now.device:
        yield f"device ({recorded.device}, now {now.device})"
    for name, version in recorded.versions.items():
        if (present := now.versions.get(name)) != version:
            yield f"{name} ({version}, now {present or 'none'})"
