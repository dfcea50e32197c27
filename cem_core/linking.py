"""What linked runs are made of and what they say, without torch: the window lays them out and reads them."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from cem_core.chains import settled
from cem_core.messages import Chain, Checkpoint, Floats, Message, Refused, RunSpec
from cem_core.probes.classes import alike, check_classes
from cem_core.probes.requests import Subject

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


def lay_out(
    spec: RunSpec, classes: Sequence[str], subjects: Sequence[tuple[Subject, Checkpoint]]
) -> tuple[RunSpec, ...]:
    """The chains of a run for each model: the same starts, seeds and sampler, and labels of the same name.

    A chain without a label has the class that each model sees in its start. Encoders among themselves compare with the
    reference batch of the spec, each at its own temperature unless that has one.

    Args:
        classes: what the labels of the spec are indices into.

    Raises:
        Refused: only some models have classes, or one does not know a target, or takes other images than the first.
    """
    models = [checkpoint for _, checkpoint in subjects]
    encoders = not any(model.classes for model in models)
    for model in models:
        if not encoders:
            check_classes(model)
        if (model.channels, model.size) != (models[0].channels, models[0].size):
            sizes = " and ".join(f"{one.channels}×{one.size}×{one.size} ({one.name})" for one in (models[0], model))
            raise Refused(f"Linked models take the same images, not {sizes}: choose models of one size.")
    targets = {chain.label for chain in spec.chains if chain.label is not None}
    labels = [{i: i for i in targets} if encoders else _labels(classes, model.classes) for model in models]
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
            reference=settled(spec.reference, checkpoint.temperature) if encoders else None,
        )
        for (subject, checkpoint), known in zip(subjects, labels, strict=True)
    )


def _labels(classes: Sequence[str], known: Sequence[str]) -> dict[int, int]:
    """Index of a class → that of its name in another list; a name that stands twice in either cannot be told apart."""
    ours, theirs = [[alike(name) for name in names] for names in (classes, known)]
    if ours == theirs:
        return {i: i for i in range(len(ours))}
    times, others = Counter(ours), Counter(theirs)
    place = {key: i for i, key in enumerate(theirs)}
    return {i: place[key] for i, key in enumerate(ours) if times[key] == others[key] == 1}


def _some_of(shared: Sequence[str]) -> str:
    if not shared:
        return "these models share no class."
    shown = ", ".join(shared[:_NAMED]) + (" …" if len(shared) > _NAMED else "")
    return f"choose one that all models know, {shown}."
