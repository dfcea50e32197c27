"""Runs of several models in lockstep, and what each model says of the images on every other's way."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch

from cem_core import checkpoints, energies, runner
from cem_core.messages import Chain, Checkpoint, Floats, Message, Refused, RunEnd, RunSpec, RunStart, Sampler, Step
from cem_core.models import Model
from cem_core.probes.requests import Linked, Subject
from cem_core.probes.subjects import alike

log = logging.getLogger(__name__)

_NAMED: Final = 12
"""Classes that a sentence lists."""


class Crossing(msgspec.Struct, frozen=True, eq=False):
    """Every model on the images of every run after the same step. N models, B chains.

    Energies are unnormalised: compare those of one model, along a column. NaN: run i has no image at this step, as it
    has ended, or model j is not there to judge.
    """

    index: int
    """Of the step."""
    energy: Floats
    """(N, N, B) [i, j]: E(x) of model j on the images of run i."""
    log_p: Floats
    """(N, N, B) [i, j]: log p(y|x) of model j on them, y being the label of the chain in run j."""


class Round(NamedTuple):
    """What all runs say at once: their RunStarts, then their Steps of one index, in the end their RunEnds."""

    messages: tuple[Message | None, ...]
    """One for each run; None: it ended before."""
    crossing: Crossing | None
    """With steps, if it is asked for and there are two models or more."""


class _Judge(NamedTuple):
    """A model with the labels of its own run."""

    model: Model
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
    judges: list[_Judge | None] = [None] * len(runs)
    crossed = request.crossed and len(runs) > 1
    messages: tuple[Message | None, ...] = ()
    while not messages or any(isinstance(message, RunStart | Step) for message in messages):
        if live is not None and any(isinstance(message, Step) for message in messages):
            row = live()
        messages = tuple(
            None if messages and isinstance(messages[i], RunEnd | None) else next(run) for i, run in enumerate(runs)
        )
        if crossed:
            for i, message in enumerate(messages):
                if isinstance(message, RunStart):
                    judges[i] = _judge(message)
        steps = [message if isinstance(message, Step) else None for message in messages]
        yield Round(messages, _cross(steps, judges) if crossed and any(steps) else None)


def _judge(start: RunStart) -> _Judge:
    spec = start.spec
    model, checkpoint = checkpoints.load(spec.checkpoint, spec.device, spec.precision, spec.choices)
    return _Judge(model, checkpoint, start.labels)


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


def lay_out(
    spec: RunSpec, classes: Sequence[str], subjects: Sequence[tuple[Subject, Checkpoint]]
) -> tuple[RunSpec, ...]:
    """The chains of a run for each model: the same starts, seeds and sampler, and labels of the same name.

    A chain without a label has the class that each model sees in its start.

    Args:
        classes: what the labels of the spec are indices into.

    Raises:
        Refused: a model has no classes, does not know a target, or takes other images than the first.
    """
    models = [checkpoint for _, checkpoint in subjects]
    for model in models:
        if not model.classes:
            raise Refused(f"{model.name} is an encoder, with features but no classes: choose a head for it.")
        if (model.channels, model.size) != (models[0].channels, models[0].size):
            sizes = " and ".join(f"{one.channels}×{one.size}×{one.size} ({one.name})" for one in (models[0], model))
            raise Refused(f"Linked models take the same images, not {sizes}: choose models of one size.")
    labels = [_labels(classes, model.classes) for model in models]
    targets = {chain.label for chain in spec.chains if chain.label is not None}
    for model, known in zip(models, labels, strict=True):
        if strange := sorted(targets - known.keys()):
            shared = [name for i, name in enumerate(classes) if all(i in other for other in labels)]
            raise Refused(f"{model.name} has no class like {classes[strange[0]]}: {_some_of(shared)}")

    def chain(of: Chain, known: dict[int, int]) -> Chain:
        return msgspec.structs.replace(of, label=None if of.label is None else known[of.label])

    return tuple(
        RunSpec(
            id=uuid.uuid4().hex[:12],
            checkpoint=subject.reference,
            sampler=spec.sampler,
            chains=tuple(chain(one, known) for one in spec.chains),
            device=subject.device,
            precision=subject.precision,
            choices=subject.choices,
        )
        for (subject, _), known in zip(subjects, labels, strict=True)
    )


def _labels(classes: Sequence[str], known: Sequence[str]) -> dict[int, int]:
    """Index of a class → that of its name in another list; a name that stands twice in either cannot be told apart."""
    ours, theirs = [[alike(name) for name in names] for names in (classes, known)]
    if ours == theirs:
        return {i: i for i in range(len(ours))}
    return {i: theirs.index(key) for i, key in enumerate(ours) if ours.count(key) == theirs.count(key) == 1}


def _some_of(shared: Sequence[str]) -> str:
    if not shared:
        return "these models share no class."
    shown = ", ".join(shared[:_NAMED]) + (" …" if len(shared) > _NAMED else "")
    return f"choose one that all models know, {shown}."
