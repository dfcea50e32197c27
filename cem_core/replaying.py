"""Recorded runs, run again: on from where they stopped, or from the beginning to see whether they come out the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np

from cem_core import runner
from cem_core.messages import Message, Refused, RunEnd, RunStart, Sampler, Step
from cem_core.session import Session

_COMPARED: Final = ("pixels", "energy", "joint", "logits", "gradient_norm", "distance")


class Verdict(msgspec.Struct, frozen=True):
    """How a run that was run again differs from its record."""

    steps: int
    """How many were compared."""
    bit_equal: bool
    """Every pixel and every number of every step."""
    pixels: float
    """Largest absolute difference, in units of [0,1]."""
    energy: float
    """Largest absolute difference of E(x)."""
    first: int | None
    """The first step that differs at all."""
    differs: tuple[str, ...]
    """What else is not as it was when it was recorded: device, versions."""

    @property
    def sentence(self) -> str:
        where = f" (now another {', '.join(self.differs)})" if self.differs else ""
        if self.bit_equal:
            return f"All {self.steps:,} steps are bit-equal{where}."
        return (
            f"From step {self.first} on it differs: by at most {self.pixels:.3g} in a pixel and {self.energy:.3g} in "
            f"E(x), over {self.steps:,} steps{where}."
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
    """The messages of a recorded run, computed again with its settings and every change that was made on the way."""
    row = keyframes(session)
    index = -1

    def live() -> Sampler | None:
        nonlocal index
        index += 1
        following = row(index)
        # The recorded length decides, not the row's number of steps.
        return None if following is None else msgspec.structs.replace(following, steps=max(following.steps, index + 2))

    yield from runner.play(session.start.spec, live)


def resume(session: Session, live: Callable[[], Sampler | None] | None = None) -> Iterator[Message]:
    """The messages of a run from the step after the last recorded one on; its RunStart is left out.

    Args:
        live: as for `runner.play`; by default the row that made the last step.
    """
    last = session[len(session) - 1]
    since = runner.Since(session[0], last, session.start.labels)
    for message in runner.play(session.start.spec, live or (lambda: last.sampler), since):
        if not isinstance(message, RunStart):
            yield message


def verify(session: Session) -> Iterator[tuple[int, Verdict]]:
    """Run it again and compare: (steps compared, what was found so far), after every step.

    Raises:
        Refused: it cannot be run again.
        OSError: a step cannot be read back.
    """
    verdict = Verdict(0, True, 0.0, 0.0, None, ())
    for message in replay(session):
        if isinstance(message, RunStart):
            verdict = msgspec.structs.replace(verdict, differs=tuple(_differences(session.start, message)))
        elif isinstance(message, Step):
            verdict = _compared(verdict, session[message.index], message)
            yield message.index + 1, verdict
        elif isinstance(message, RunEnd) and message.reason == "failed" and verdict.steps < len(session):
            raise Refused(message.detail)


def _compared(verdict: Verdict, recorded: Step, again: Step) -> Verdict:
    equal = all(np.array_equal(getattr(recorded, name), getattr(again, name)) for name in _COMPARED)
    return Verdict(
        verdict.steps + 1,
        verdict.bit_equal and equal,
        max(verdict.pixels, float(np.abs(recorded.pixels - again.pixels).max())),
        max(verdict.energy, float(np.abs(recorded.energy - again.energy).max())),
        verdict.first if verdict.first is not None or equal else again.index,
        verdict.differs,
    )


def _differences(recorded: RunStart, now: RunStart) -> Iterator[str]:
    if recorded.checkpoint.sha256 != now.checkpoint.sha256:
        yield "checkpoint"
    if recorded.device != now.device:
        yield f"device ({recorded.device}, now {now.device})"
    for name, version in recorded.versions.items():
        if (present := now.versions.get(name)) != version:
            yield f"{name} ({version}, now {present or 'none'})"
