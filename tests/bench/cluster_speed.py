"""Samples of the bundled model by two Ray workers of one core each, against one: shards a second, and the same pixels.

Counted from when all workers have finished their first shard, as they take seconds to start and then work for hours.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from msgspec.structs import replace

from cem_core import bundle
from cem_core.cluster import LOCAL, Where, Work, running, spread
from cem_core.evaluation import shards
from cem_core.evaluation.requests import Sampling
from cem_core.evaluation.results import Plan
from cem_core.evaluation.sampling import Making, sample
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import Subject
from tests.bench import ratio

ROUNDS = 3
BATCH = 20
SHARDS = 20
STEPS = 10


class OnOneCore(msgspec.Struct, frozen=True):
    """The same work by one thread, however many cores a worker may have."""

    making: Making

    def open(self) -> Timed:
        import torch

        torch.set_num_threads(1)
        return Timed(self.making.open())


class Timed:
    """Work that answers who did it."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def do(self, item: int) -> Iterator[int]:
        for _ in self._work.do(item):
            pass
        yield os.getpid()


def asked() -> Sampling:
    row = replace(SAMPLERS["RCS"], steps=STEPS)
    return Sampling(subject=Subject(bundle.DEFAULT_MODEL, device="cpu"), sampler=row, num=BATCH * SHARDS, batch=BATCH)


def seconds_a_shard(workers: int, folder: Path) -> float:
    plan = next(sample(asked(), folder))  # the folder is claimed, and nothing made
    assert isinstance(plan, Plan)
    assert isinstance(plan.request, Sampling)
    work = OnOneCore(Making(plan.request, str(folder)))
    seen: set[int] = set()
    begun, counted = 0.0, 0
    for process in spread(work, range(SHARDS), Where(LOCAL, workers)):
        counted += len(seen) == workers
        seen.add(process)
        if not begun and len(seen) == workers:
            begun = time.perf_counter()
    return (time.perf_counter() - begun) / counted


def same(one: Path, other: Path) -> bool:
    left, right = shards.open_samples(one), shards.open_samples(other)
    return all(
        np.array_equal(a, b)
        for shard in range(SHARDS)
        for a, b in zip(left.read(shard), right.read(shard), strict=True)
    )


def main() -> None:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    alike = True
    with running(Where(LOCAL, 2)), tempfile.TemporaryDirectory() as place:
        for turn in range(ROUNDS):
            for workers in (1, 2) if turn % 2 else (2, 1):
                seconds[workers].append(seconds_a_shard(workers, Path(place, f"{turn}-{workers}")))
            alike &= same(Path(place, f"{turn}-1"), Path(place, f"{turn}-2"))
    print(f"  {SHARDS} shards of {BATCH} samples, median of {ROUNDS} rounds in turns; goal ≥ 1.7, on two cores")
    print(f"  the same pixels: {'yes' if alike else 'NO'}")
    for workers, times in seconds.items():
        print(f"  {workers} at work  {1 / median(times):6.2f} shards/s")
    print(f"  two ÷ one  {ratio(seconds[1], seconds[2]):5.2f}")


if __name__ == "__main__":
    main()
