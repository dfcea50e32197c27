"""What it costs to have a run of 16 chains of 32 px recorded, and to open and scrub a long session again."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
from msgspec.structs import replace

from cem_core import bundle, images, runner
from cem_core.messages import Message, Precision, RunSpec, RunStart, Step
from cem_core.presets import SAMPLERS
from cem_core.session import Session
from tests.bench import in_turns, ratio
from tests.bench.sampler_speed import chains

STEPS, TURNS = 3, 40
"""Of each contender in a round."""
LONG = 3000
JUMPS = 300
MIB = 2**20
BUDGET = 64 * MIB
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def played(precision: Precision, folder: Path | None) -> Callable[[], int]:
    """Steps of one long run, the keeping of them included."""
    row = replace(SAMPLERS["RCS"], steps=100_000)
    spec = RunSpec("bench", bundle.DEFAULT_MODEL, row, chains(), "cpu", precision)
    messages: Iterator[Message] = runner.play(spec)
    start = next(messages)
    assert isinstance(start, RunStart)
    session = Session(start) if folder is None else Session.record(folder, start)

    def steps() -> int:
        for _ in range(STEPS):
            message = next(messages)
            assert isinstance(message, Step)
            session.append(message)
        return STEPS

    return steps


def writing(folder: Path) -> tuple[float, float]:
    """Seconds and seconds of processor that the writing of a step takes, with nothing else to do."""
    _, session = long_run(folder, 100)
    step = session[0]
    assert session.recording is not None
    wall, processor = time.perf_counter(), time.process_time()
    for index in range(100, 200):
        session.append(replace(step, index=index))
    session.recording.flush()
    took = (time.perf_counter() - wall) / 100, (time.process_time() - processor) / 100
    session.close()
    return took


def long_run(folder: Path, steps: int) -> tuple[Path, Session]:
    """A session of noise in images, which is as hard to pack as a run's."""
    spec = RunSpec("bench", bundle.DEFAULT_MODEL, replace(SAMPLERS["RCS"], steps=steps), chains(), "cpu")
    messages = runner.play(spec)
    start, first = next(messages), next(messages)
    messages.close()  # type: ignore[attr-defined]
    assert isinstance(start, RunStart)
    assert isinstance(first, Step)
    session = Session.record(folder, start, budget=BUDGET)
    random = np.random.default_rng(0)
    for index in range(steps):
        pixels = first.pixels + random.normal(0, 0.05, first.pixels.shape).astype(np.float32)
        session.append(replace(first, index=index, pixels=pixels.clip(0, 1)))
    return folder, session


def opened(folder: Path) -> None:
    """In a process of its own: milliseconds to the first picture, p95 of jumps, and MiB taken for it."""
    start = resident()
    begun = time.perf_counter()
    session = Session.open(folder, budget=BUDGET)
    images.hwc(images.to_uint8(session[0].pixels))
    first = time.perf_counter() - begun
    seconds = []
    for index in np.random.default_rng(0).integers(len(session), size=JUMPS).tolist():
        begun = time.perf_counter()
        images.hwc(images.to_uint8(session[index].pixels))
        seconds.append(time.perf_counter() - begun)
    print(1000 * first, 1000 * np.percentile(seconds, 95), (resident() - start) / MIB)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        root = Path(place)
        runs = {
            f"{precision}{', recorded' if kept else ''}": played(precision, root / precision if kept else None)
            for precision in PRECISIONS
            for kept in (False, True)
        }
        seconds = in_turns(runs, TURNS)
        print(f"  steps/s of recorded ÷ not recorded, medians of {TURNS} rounds of {STEPS} steps in turns; goal ≥ 0.97")
        for precision in PRECISIONS:
            without, kept = seconds[precision], seconds[f"{precision}, recorded"]
            quickest = np.percentile(without, 10) / np.percentile(kept, 10)
            print(f"  {precision:9} {1000 * median(without):6.1f} → {1000 * median(kept):6.1f} ms a step, ratio "
                  f"{ratio(without, kept):.3f}, of the quickest tenth of rounds {quickest:.3f}")  # fmt: skip
        wall, processor = writing(root / "writing")
        print(f"  writing a step alone: {1000 * wall:.2f} ms, of the processor {1000 * processor:.2f} ms")
        folder, session = long_run(root / "long", LONG)
        session.close()
        told = subprocess.run(
            [sys.executable, "-c", f"from tests.bench.recording import *; opened(Path({str(folder)!r}))"],
            check=True, capture_output=True, text=True,
        ).stdout.split()  # fmt: skip
        first, p95, mib = map(float, told)
        print(f"  {LONG:,} steps × 16 chains again: first picture {first:.0f} ms (goal ≤ 500), jump p95 {p95:.2f} ms "
              f"(goal ≤ 16), {mib:.0f} MiB beyond the program (goal ≤ 300)")  # fmt: skip
