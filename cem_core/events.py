"""What happened in a run, and when: found in its numbers, for each chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from cem_core.messages import Floats, RunEnd
from cem_core.session import Numbers, Session

Kind = Literal[
    "misclassified", "new neighbour", "target reached", "energy minimum", "largest jump", "ball reached", "diverged"
]
KINDS: Final[dict[Kind, str]] = {
    "misclassified": "The model sees another class than in the start, for the first time",
    "new neighbour": "The encoder finds another image most alike than in the start, for the first time",
    "target reached": "The target is the most likely, for the first time",
    "energy minimum": "E(x) is at its lowest",
    "largest jump": "E(x) changed most in this one step",
    "ball reached": "The chain touches the surface of its ball, for the first time",
    "diverged": "The last step before a number was no longer finite",
}
_SURFACE: Final = 1 - 1e-4
"""Share of the radius from which on a chain counts as being on the ball; rounding keeps it off by less."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened in one chain."""

    kind: Kind
    step: int
    chain: int


def events(session: Session) -> list[Event]:
    """Of all chains, in the order of their steps."""
    numbers = session.numbers  # first: the run may go on meanwhile
    start, radii = session.start, _radii(session, len(numbers.energy))
    return find(numbers, start.labels, radii, session.end, encoder=not start.checkpoint.classes)


def find(
    numbers: Numbers, labels: Sequence[int], radii: Floats, end: RunEnd | None = None, *, encoder: bool = False
) -> list[Event]:
    """Events in the numbers of T steps of B chains.

    Args:
        labels: y of each chain.
        radii: (T,) of the ball at each step; infinite where there was none.
        end: how the run ended; None: it goes on.
        encoder: what is seen are images of a reference batch and not classes.
    """
    found = [Event(kind, int(step), chain) for kind, chain, step in _all(numbers, np.asarray(labels), radii, encoder)]
    if end is not None and len(numbers.energy):
        found += [Event("diverged", len(numbers.energy) - 1, chain) for chain in end.diverged]
    return sorted(found, key=lambda event: (event.step, event.chain, list(KINDS).index(event.kind)))


def _all(numbers: Numbers, labels: NDArray[np.int64], radii: Floats, encoder: bool) -> Iterator[tuple[Kind, int, int]]:
    if len(numbers.energy) < 2:
        return
    seen = numbers.logits.argmax(2)  # (T, B)
    conditions: dict[Kind, NDArray[np.bool_]] = {
        "new neighbour" if encoder else "misclassified": seen != seen[:1],
        "target reached": (seen == labels) & (seen[:1] != labels),
        "ball reached": numbers.distance >= _SURFACE * radii[:, None],
    }
    for kind, holds in conditions.items():
        for chain in np.flatnonzero(holds.any(0)):
            yield kind, int(chain), int(holds[:, chain].argmax())
    jumps = np.abs(np.diff(numbers.energy, axis=0)).argmax(0) + 1
    for number, jump in enumerate(jumps):
        yield "energy minimum", number, int(numbers.energy[:, number].argmin())
        yield "largest jump", number, int(jump)


def _radii(session: Session, steps: int) -> Floats:
    """(T,) of the ball in force at each of the first steps."""
    first = session.start.spec.sampler
    radii = np.full(steps, np.inf if first.radius is None else first.radius, np.float32)
    for step, row in session.changes:
        radii[step:] = np.inf if row.radius is None else row.radius
    return radii
