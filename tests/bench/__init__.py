"""Measured figures, printed and never asserted: `python -m tests.bench [part of a name …]`.

Each module with a `main()` is one page of figures. What is compared is measured in turns, round by round, and told as
the median of the ratios within a round: a machine that is busy for a while slows both sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

ROUNDS = 9


def in_turns(contenders: Mapping[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds a unit of work took, for each contender and round; each first does one round that is not counted.

    Args:
        contenders: do some work and say how many units it was.
    """
    for work in contenders.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begun = time.perf_counter()
            units = contenders[name]()
            seconds[name].append((time.perf_counter() - begun) / units)
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios within each round."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))
