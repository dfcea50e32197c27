"""Jumping about in 1,000 recorded steps of 16 chains, within memory budgets that do and do not hold them all."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from cem_core import images
from cem_core.messages import Chain, Checkpoint, NoiseStart, RunSpec, RunStart, Step
from cem_core.presets import SAMPLERS
from cem_core.session import BUDGET, Session
from tests.bench import ROUNDS

STEPS, CHAINS, SIZE, CLASSES = 1000, 16, 32, 10
JUMPS = 300
"""In a round."""
GOAL = 0.016
MIB = 2**20


def record(budget: int) -> tuple[Session, float]:
    """A session of random numbers, and the median seconds it took to record a step."""
    random = np.random.default_rng(0)
    row = SAMPLERS["RCS"]
    checkpoint = Checkpoint("random", "", "", "", "", 0, tuple(map(str, range(CLASSES))), 3, SIZE, ())
    chains = tuple(Chain(NoiseStart(), seed, 0) for seed in range(CHAINS))
    spec = RunSpec("bench", "random", row, chains)
    session = Session(
        RunStart(spec, checkpoint, (0,) * CHAINS, ("",) * CHAINS, ("",) * CHAINS, "CPU", {}), budget=budget
    )
    seconds = []
    for index in range(STEPS):
        numbers = [random.random(CHAINS, np.float32) for _ in range(4)]
        logits = random.random((CHAINS, CLASSES), np.float32)
        pixels = random.random((CHAINS, 3, SIZE, SIZE), np.float32)
        step = Step("bench", index, row, pixels, numbers[0], numbers[1], logits, numbers[2], numbers[3])
        begun = time.perf_counter()
        session.append(step)
        seconds.append(time.perf_counter() - begun)
    return session, median(seconds)


def p95(session: Session, *, shown: bool, seed: int) -> float:
    """Seconds of a jump to anywhere, that 95 of 100 do not exceed; `shown`: pixels ready for a window as well."""
    seconds = []
    for index in np.random.default_rng(seed).integers(len(session), size=JUMPS).tolist():
        begun = time.perf_counter()
        step = session[index]
        if shown:
            np.ascontiguousarray(images.hwc(images.to_uint8(step.pixels)))
        seconds.append(time.perf_counter() - begun)
    return float(np.percentile(seconds, 95))


def main() -> None:
    print(f"  {STEPS:,} steps × {CHAINS} chains; p95 of {JUMPS} jumps, median of {ROUNDS} rounds in turns; "
          f"goal ≤ {1000 * GOAL:g} ms")  # fmt: skip
    sessions = {budget: record(budget) for budget in (BUDGET, 64 * MIB, MIB)}
    rounds: dict[tuple[int, bool], list[float]] = {
        (budget, shown): [] for budget in sessions for shown in (False, True)
    }
    for turn in range(ROUNDS):
        for (budget, shown), seconds in rounds.items():
            seconds.append(p95(sessions[budget][0], shown=shown, seed=turn))
    print(f"  {'budget':>9} {'in memory':>11} {'÷ budget':>9} {'record':>8} {'jump p95':>9} {'÷ goal':>7} "
          f"{'and picture':>12} {'÷ goal':>7}")  # fmt: skip
    for budget, (session, recorded) in sessions.items():
        jump, picture = median(rounds[budget, False]), median(rounds[budget, True])
        print(f"  {budget // MIB:5} MiB {session.in_memory / MIB:7.1f} MiB {session.in_memory / budget:9.2f} "
              f"{1e6 * recorded:5.0f} µs {1e6 * jump:6.0f} µs {jump / GOAL:7.4f} "
              f"{1e6 * picture:9.0f} µs {picture / GOAL:7.4f}")  # fmt: skip
