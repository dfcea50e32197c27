"""Samples of a model, a shard at a time: the sampler alone, without the numbers that a run tells of each step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from cem_core import bundle, checkpoints, cluster, samplers, starts, writing
from cem_core.chains import settled
from cem_core.cluster import Where
from cem_core.evaluation import shards
from cem_core.evaluation.requests import Sampling
from cem_core.evaluation.results import Made, Plan, Progress
from cem_core.evaluation.shards import Record, Samples, Shard
from cem_core.images import png, to_uint8
from cem_core.messages import Checkpoint, Refused
from cem_core.models import Model
from cem_core.probes.measuring import Cancelled, GoOn
from cem_core.runner import BATCH, check_row, device_name, digest, out_of_memory, similar, versions
from cem_core.samplers import Reading
from cem_core.similarity import Similarity

_LABEL_KEY: Final = np.uint64(2**63 + 3)
"""Where the keys of drawn labels lie: beyond those of steps and starts."""
_WHAT: Final = "samples"


def sample(
    request: Sampling, folder: Path, go_on: GoOn = lambda: True, where: Where | None = None
) -> Iterator[Plan | Progress | Made]:
    """Make the samples of a request in a folder, on top of those that are there: its plan, and a `Made` for each shard,
    those that were found first.

    Args:
        go_on: asked after each answer, and so before each step that is made here; twice a second while others make
            them. False ends it.

    Raises:
        Refused: the model, the row and the starts do not go together, the folder holds something else, a number is
            not finite, or memory does not suffice.
        Cancelled: `go_on` said so. What was finished is kept.
    """
    record, device = _planned(request, where or Where())
    samples = shards.claim(folder, record)
    done = samples.done()
    left = [shard for shard in range(len(samples)) if shard not in done]
    for answer in _answers(samples, done, left, device, where, go_on):
        yield answer
        if not go_on():
            raise Cancelled
    if left or not (folder / shards.SHEET).is_file():
        writing.replace(folder / shards.SHEET, png(shards.sheet(samples)))


def _answers(
    samples: Samples, done: set[int], left: list[int], device: str, where: Where | None, go_on: GoOn
) -> Iterator[Plan | Progress | Made]:
    record, request = samples.record, samples.record.request
    notes = _notes(record) if done and left else ()
    yield Plan(
        request, record.checkpoint, record.classes, request.num, len(samples), len(done), device, notes, record.versions
    )
    for shard in sorted(done):
        yield Made(_WHAT, shard, len(request.places(shard)), found=True)
    if left:
        answers = cluster.spread(Making(request, str(samples.folder.absolute())), left, where, go_on=go_on)
        with closing(answers):  # type: ignore[type-var]
            yield from answers


def _notes(record: Record) -> tuple[str, ...]:
    """Where packages are others than they were: what decides more than rounding is refused."""
    now = versions()
    others = [f"{what} {was}, not {now[what]}" for what, was in record.versions.items() if now.get(what, was) != was]
    if not others:
        return ()
    return (f"The samples that were there were made with {', '.join(others)}: the others may be rounded otherwise.",)


def _planned(request: Sampling, where: Where) -> tuple[Record, str]:
    """How the samples of a request will be made, and who makes them, as it is told to people."""
    subject = request.subject
    if not where.address:
        model, checkpoint = checkpoints.load(subject.reference, subject.device, subject.precision, subject.choices)
        return _record(request, checkpoint, model.device.type), device_name(model.device)
    # Whoever only plans need not have a device of this kind.
    checkpoint = checkpoints.inspect(subject.reference, subject.choices)
    kind = checkpoints.where("auto").type if subject.device == "auto" else subject.device
    workers = {None: "Ray", 1: "1 worker"}.get(where.workers, f"{where.workers} workers")
    return _record(request, checkpoint, kind), f"{kind.upper()}, {workers}"


def _record(request: Sampling, checkpoint: Checkpoint, kind: str) -> Record:
    """All that decides the samples of a request, or it is refused."""
    sampler, known, reference = request.sampler, versions(), None
    check_row(sampler, checkpoint, request.batch)
    aimed = sampler.a != 0 and not sampler.coupled
    if not checkpoint.classes:
        if aimed:
            raise Refused(
                f"{sampler.name} needs a target for each sample, and an encoder has no classes: choose MaxEnt, "
                "PGD-unsup or Langevin."
            )
        reference = settled(request.reference, checkpoint.temperature)
        known[BATCH] = digest(reference.images)
    classes = checkpoint.classes
    if request.start != "noise":
        classes = starts.gaussian_classes(checkpoint)
        known["class Gaussians"] = digest(bundle.start_statistics())
    beside = Path(checkpoint.path).parent / request.subject.choices.get("head", "")
    if beside.is_file():
        known["head"] = digest([beside])
    subject = msgspec.structs.replace(
        request.subject,
        device=kind,
        reference=request.subject.reference if request.subject.reference in bundle.models() else checkpoint.path,
    )
    return Record(
        request=msgspec.structs.replace(request, subject=subject, reference=reference),
        checkpoint=checkpoint,
        classes=classes if request.start == "gaussian" or aimed else (),
        device=kind,
        versions=known,
    )


# Work -------------------------------------------------------------------------------------------------------------


class Making(msgspec.Struct, frozen=True):
    """Shards of samples, as work that can be sent to workers."""

    request: Sampling
    folder: str
    """That was claimed for the request."""

    def open(self) -> Shards:
        """Raises Refused if the model or the folder cannot be opened, or is another than was planned with."""
        subject = self.request.subject
        model, checkpoint = checkpoints.load(subject.reference, subject.device, subject.precision, subject.choices)
        record = _record(self.request, checkpoint, model.device.type)
        samples = shards.open_samples(Path(self.folder))
        samples.record.check_same(record, samples.folder)
        if checkpoint.classes:
            return Shards(samples, record.request, model)
        return Shards(samples, record.request, similar(model, checkpoint, record.request.reference)[0])


class Shards:
    """The work."""

    def __init__(self, samples: Samples, request: Sampling, model: Model | Similarity) -> None:
        self._samples, self._request, self._model = samples, request, model

    def do(self, item: int) -> Iterator[Progress | Made]:
        """Make a shard, unless it is there: it may have been finished by a worker that died before it could tell.

        Raises:
            Refused: a number is not finite, memory does not suffice, or the shard cannot be written.
        """
        count = len(self._request.places(item))
        if self._samples.has(item):
            yield Made(_WHAT, item, count, found=True)
            return
        begun = time.perf_counter()
        try:
            yield from self._make(item)
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise Refused(
                f"{count:,} samples at once do not fit into memory: choose a smaller batch (--batch); its samples are "
                "others."
            ) from error
        yield Made(_WHAT, item, count, time.perf_counter() - begun)

    def _make(self, item: int) -> Iterator[Progress]:
        request, sampler, places = self._request, self._request.sampler, self._request.places(item)
        checkpoint, classes = self._samples.record.checkpoint, self._samples.classes
        labels = [label(request, place, len(classes)) for place in places]
        if checkpoint.classes:
            chains = [request.chain(place, y) for place, y in zip(places, labels, strict=True)]
        else:  # y would be an image of the reference batch, which no row that is allowed here looks at
            chains = [request.chain(place, 0, classes[y] if classes else "")
                      for place, y in zip(places, labels, strict=True)]  # fmt: skip
        x0 = torch.from_numpy(starts.make(checkpoint, chains)[0]).to(self._model.device)
        y = torch.tensor([chain.label for chain in chains], device=x0.device)
        state = samplers.begin(sampler, x0, y, tuple(chain.seed for chain in chains))
        for index in range(sampler.steps):
            reading = samplers.read(self._model, sampler, state)
            self._check(_numbers(reading), places, index)
            state = samplers.step(sampler, state, reading.drift)
            yield Progress(_WHAT, item, (index + 1) / sampler.steps)
        self._check(state.x.flatten(1), places, sampler.steps)
        pixels = to_uint8(state.x.float().cpu().numpy()).transpose(0, 2, 3, 1)
        seeds = np.array(state.seeds, np.int64)
        self._samples.keep(item, Shard(np.ascontiguousarray(pixels), np.array(labels, np.int64), seeds))

    def _check(self, numbers: Tensor, places: range, step: int) -> None:
        """Raises Refused unless all numbers (B, N) of the samples after some steps are finite."""
        fine = numbers.isfinite().all(1)
        if fine.all():
            return
        place = places[int(fine.logical_not().nonzero()[0])]
        who = f"Sample {place + 1:,} (seed {self._request.seed_of(place)})"
        if step == 0:
            raise Refused(f"{who} has energies that are no numbers at its start: the weights of this model are broken.")
        at = "at its end" if step == self._request.sampler.steps else f"at step {step:,}"
        raise Refused(f"{who} is no number any more {at}: try a smaller step size, less noise, or float32.")


def label(request: Sampling, sample: int, classes: int) -> int:
    """Of a sample: the classes in turns, or drawn by its seed; 0 where there are none."""
    if request.per_class or not classes:
        return sample % max(1, classes)
    key = np.array([request.seed_of(sample), _LABEL_KEY], np.uint64)
    return int(np.random.Generator(np.random.Philox(key=key)).integers(classes))


def _numbers(reading: Reading) -> Tensor:
    """(B, 3) what no later step could mend."""
    return torch.stack([reading.energy, reading.joint, reading.gradient_norm], 1)
