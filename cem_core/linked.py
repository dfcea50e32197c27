"""Runs of several models in lockstep, and what each model says of the images on every other's way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from cem_core import checkpoints, energies, runner
from cem_core.linking import Crossing as Crossing
from cem_core.linking import Round as Round
from cem_core.linking import lay_out as lay_out
from cem_core.messages import Checkpoint, Floats, Message, Refused, RunEnd, RunStart, Sampler, Step
from cem_core.models import Model
from cem_core.probes.requests import Linked
from cem_core.similarity import Similarity

log = logging.getLogger(__name__)


class _Judge(NamedTuple):
    """A model with the labels of its own run."""

    model: Model | Similarity
    checkpoint: Checkpoint
    y: tuple[int, ...]

    def __call__(self, step: Step) -> tuple[Floats, Floats]:
        """(B,) E(x) and (B,) log p(y|x) of the images of a step; NaN where it cannot tell."""
        nothing = np.full(len(self.y), np.nan, np.float32)
        if step.pixels.shape[1:] != (self.checkpoint.channels, self.checkpoint.size, self.checkpoint.size):
            return nothing, nothing
        try:
            with torch.no_grad():
                logits = self.model(torch.from_numpy(step.pixels).to(self.model.device))
                y = torch.tensor(self.y, device=logits.device)
                marginal, joint = energies.marginal(logits), energies.joint(logits, y)
            return marginal.cpu().numpy(), (marginal - joint).cpu().numpy()
        except Exception:  # the runs themselves are none the worse for it
            log.exception("%s cannot judge step %d of run %s", self.checkpoint.name, step.index, step.run)
            return nothing, nothing


def play(request: Linked, live: Callable[[], Sampler | None] | None = None) -> Iterator[Round]:
    """All RunStarts, all Steps 0, all Steps 1, … Nothing is raised: a run that fails ends, and the others go on.

    The messages of each run are those that `runner.play` gives of its spec alone, in the same order.

    Args:
        live: asked once before every round of steps but the first, for the row that all runs make it with; it may block
            to pause, and None stops them all. By default each uses the row of its spec.
    """
    row: Sampler | None = None
    runs = [runner.play(spec, None if live is None else lambda: row) for spec in request.specs]
    messages: tuple[Message | None, ...] = tuple(next(run) for run in runs)
    crossed = request.crossed and len(runs) > 1
    judges = [_judge(start) if crossed and isinstance(start, RunStart) else None for start in messages]
    yield Round(messages, None)
    while any(isinstance(message, RunStart | Step) for message in messages):
        if live is not None and any(isinstance(message, Step) for message in messages):
            row = live()
        messages = tuple(
            None if before is None or isinstance(before, RunEnd) else next(run)
            for before, run in zip(messages, runs, strict=True)
        )
        steps = [message if isinstance(message, Step) else None for message in messages]
        yield Round(messages, _cross(steps, judges) if crossed and any(steps) else None)


def _judge(start: RunStart) -> _Judge | None:
    spec = start.spec
    try:
        model, checkpoint = checkpoints.load(spec.checkpoint, spec.device, spec.precision, spec.choices)
        judging = model if checkpoint.classes else runner.similar(model, checkpoint, spec.reference)[0]
    except Refused:  # a file is gone since
        return None
    return _Judge(judging, checkpoint, start.labels)


def _cross(steps: Sequence[Step | None], judges: Sequence[_Judge | None]) -> Crossing:
    first = next(step for step in steps if step is not None)
    count = len(steps)
    energy, log_p = np.full((2, count, count, len(first.energy)), np.nan, np.float32)
    for i, step in enumerate(steps):
        for j, judge in enumerate(judges):
            if step is None or judge is None:
                continue
            energy[i, j], log_p[i, j] = (step.energy, step.log_p) if i == j else judge(step)
    return Crossing(first.index, energy, log_p)
