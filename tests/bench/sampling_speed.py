"""`sample` with the bundled model, files and all, against the bare sampler loop over the same batches.

The bare loop has its starts already: it reads and steps, and checks, rounds and writes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median

import torch

from cem_core import bundle, checkpoints, samplers, starts
from cem_core.evaluation.requests import Sampling
from cem_core.evaluation.sampling import sample
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import Subject
from tests.bench import in_turns, ratio

ROUNDS = 5
NUM = 100
BATCH = 50
BARE, OURS = "bare sampler loop", "sample"


def asked() -> Sampling:
    return Sampling(subject=Subject(bundle.DEFAULT_MODEL), sampler=SAMPLERS["RCS"], num=NUM, batch=BATCH)


def bare(request: Sampling) -> Callable[[], int]:
    """Samples made by the loop alone, in the same batches."""
    subject = request.subject
    model, checkpoint = checkpoints.load(subject.reference, subject.device)
    batches = []
    for shard in range(request.shards):
        chains = [request.chain(place, place % len(checkpoint.classes)) for place in request.places(shard)]
        x0 = torch.from_numpy(starts.make(checkpoint, chains)[0]).to(model.device)
        y = torch.tensor([chain.label for chain in chains], device=x0.device)
        batches.append((x0, y, tuple(chain.seed for chain in chains)))

    def made() -> int:
        for x0, y, seeds in batches:
            state = samplers.begin(request.sampler, x0, y, seeds)
            for _ in range(request.sampler.steps):
                state = samplers.step(request.sampler, state, samplers.read(model, request.sampler, state).drift)
            state.x.cpu()
        return request.num

    return made


def ours(request: Sampling, place: Path) -> Callable[[], int]:
    """The same into a new folder each time."""
    folders = count()

    def made() -> int:
        for _ in sample(request, place / str(next(folders))):
            pass
        return request.num

    return made


def main() -> None:
    request = asked()
    with tempfile.TemporaryDirectory() as place:
        seconds = in_turns({BARE: bare(request), OURS: ours(request, Path(place))}, ROUNDS)
    print(
        f"  {torch.get_num_threads()} threads, median of {ROUNDS} rounds in turns: {NUM} samples, {BATCH} a batch, RCS"
    )
    for name, times in seconds.items():
        print(f"  {name:20} {1 / median(times):8.2f} samples/s")
    print(f"  throughput of sample ÷ bare {ratio(seconds[BARE], seconds[OURS]):.3f}; goal ≥ 0.97")
