"""Accuracy against ε: several models, the same images, the same attack."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor

from cem_core import __version__, bundle
from cem_core.cluster import Where, spread
from cem_core.datasets import Indices, Skipped, gather
from cem_core.images import Bytes
from cem_core.messages import Checkpoint, Refused
from cem_core.probes import journal as journals
from cem_core.probes import lights, subjects
from cem_core.probes.attacks import packages, perturb
from cem_core.probes.journal import Entry, Journal, Key
from cem_core.probes.measuring import Cancelled, GoOn
from cem_core.probes.requests import Accuracy, Attack, Subject
from cem_core.probes.results import Cell, Light, Lights, Note, Opening
from cem_core.probes.subjects import Comparison, Opened, halving
from cem_core.samplers import Logits


class Images(NamedTuple):
    """Some images as one model takes them."""

    pixels: Bytes  # (N, H, W, 3)
    labels: Indices  # (N,) indices into the shared classes
    seeds: tuple[int, ...]  # of the noise of each


def accuracy(
    request: Accuracy, go_on: GoOn = lambda: True, journal: Path | None = None, where: Where | None = None
) -> Iterator[Opening | Lights | Cell | Note]:
    """What is measured, then a cell for each range of images, model and ε: the first range of all models comes first.

    An image counts if it is classified rightly as it is and wherever the attack ended, as AutoAttack counts; only what
    is right as it is gets attacked. ε 0 is clean accuracy. Classes are taken in turns, so that what is known half-way
    is about them all; the noise of an image is keyed by its place in that order, so that it does not matter who
    measures a range, and when. On a cluster, ranges come as they are done.

    Raises:
        Refused: a model or the data cannot be used, they share no classes, no image can be read, or logits are no
            numbers; or the cluster cannot be used.
        Cancelled: `go_on` said so.
    """
    comparison = subjects.comparison(request)
    images = len(comparison.order)
    few = f"These are the {images} bundled samples, too few to compare models by: give a folder of labelled images."
    yield comparison.opening(
        request,
        *(() if request.data.path else (few,)),
        *comparison.shared.notes,
        *_incomparable(comparison.checkpoints, request.attack),
    )
    known = Journal(journal)
    ranges = Ranges(replace(request, batch=comparison.batch), known, comparison, go_on)
    for answer in spread(ranges, range(0, images, comparison.batch), where, every=True, go_on=go_on):
        if isinstance(answer, Entry):
            known.keep(answer.key, answer.cell)
            answer = answer.cell
        yield answer


def _incomparable(checkpoints: Sequence[Checkpoint], attack: Attack) -> Iterator[str]:
    inputs = {(checkpoint.channels, checkpoint.size) for checkpoint in checkpoints}
    if len(inputs) > 1:
        each = ", ".join(f"{one.name} {one.channels}×{one.size}×{one.size}" for one in checkpoints)
        said = f"The models take images of different sizes ({each})"
        if attack.norm == "l2":
            yield f"{said}: the same L2 radius is a smaller change of a larger image, so do not compare their curves."
        else:
            yield f"{said}: each is shown the images at its own."


@dataclass(frozen=True)
class Ranges:
    """The work of measuring ranges of images, each known by its first place."""

    request: Accuracy
    known: Journal
    """What it holds is not measured again."""
    comparison: Comparison
    go_on: GoOn = lambda: True

    def __reduce__(self) -> tuple[type[Elsewhere], tuple[Accuracy, Journal, tuple[object, ...]]]:
        return Elsewhere, (_everywhere(self.request, self.comparison), self.known, _identity(self.comparison))

    def open(self) -> Judging:
        return Judging(self.request, self.known, self.comparison, self.go_on)


class Elsewhere(NamedTuple):
    """`Ranges` that have travelled: models and data are opened once more."""

    request: Accuracy
    known: Journal
    identity: tuple[object, ...]

    def open(self) -> Judging:
        """Raises Refused unless the same is found here."""
        comparison = subjects.comparison(self.request)
        if _identity(comparison) != self.identity:
            raise Refused("A worker found other models or images under the same paths: put them where all machines see "
                          "the same.")  # fmt: skip
        return Judging(self.request, self.known, comparison, lambda: True)


def _everywhere(request: Accuracy, comparison: Comparison) -> Accuracy:
    """The same, so that any working folder and any worker finds it."""
    data, found = request.data, zip(request.subjects, comparison.checkpoints, strict=True)
    return replace(
        request,
        subjects=tuple(
            one if one.reference in bundle.models() else replace(one, reference=str(Path(known.path).absolute()))
            for one, known in found
        ),
        data=replace(data, path=str(Path(data.path).expanduser().absolute())) if data.path else data,
    )


def _identity(comparison: Comparison) -> tuple[object, ...]:
    """By which the models and the images are told from others under the same names."""
    checkpoints = tuple(checkpoint.sha256 for checkpoint in comparison.checkpoints)
    return (*checkpoints, comparison.shared.classes, comparison.labels.tobytes())


class Judging:
    """Models and images that are open. Raises Refused if none of the images can be read."""

    def __init__(self, request: Accuracy, known: Journal, comparison: Comparison, go_on: GoOn) -> None:
        self._request, self._known, self._comparison = request, known, comparison
        self._radii = tuple(dict.fromkeys(eps + 0.0 for eps in request.eps))  # each once, and no -0
        self._said: list[Note] = []
        self._skipped = subjects.noting(self._said)
        self._models = [
            _Measured(subject, one, columns, request.batch, go_on, self._said.append)
            for subject, one, columns in zip(
                request.subjects, comparison.opened, comparison.shared.columns, strict=True
            )
        ]
        self._lit = self._readable() // request.batch * request.batch
        """The range at which models as such are looked at: the first with an image."""

    def do(self, first: int) -> Iterator[Entry | Cell | Lights | Note]:
        """The cells of one range: as they were known, or with their keys; once, what is seen of each model."""
        by_size: dict[int, Images] = {}
        for number, model in enumerate(self._models):
            size = model.opened.checkpoint.size
            if size not in by_size:
                by_size[size] = self._read(first, self._request.batch, size, self._skipped)
            images = by_size[size]
            if not len(images.labels):
                continue
            part = _Part(model, images)
            digest = journals.images(*images, self._comparison.shared.classes)
            for eps in self._radii:
                key = model.key(self._request.attack, eps, digest)
                answer: Entry | Cell
                cell = self._known.find(key)
                if cell is not None and cell.labels == tuple(images.labels.tolist()):  # anything may stand in a file
                    answer = replace(cell, subject=number, first=first)
                else:
                    cell = part.attacked(self._request.attack, eps)
                    answer = Entry(key, replace(cell, subject=number, first=first))
                yield from self._notes()
                yield answer
            if first == self._lit:
                seen = _Part(model, self._read(first, lights.LOOKED_AT, size))
                yield Lights(number, seen.lights(self._request.attack))
        yield from self._notes()

    def _read(self, first: int, count: int, size: int, skipped: Skipped = lambda *_: None) -> Images:
        """Those that can be read; of the others, whoever has their range tells."""
        which = self._comparison.order[first : first + count]
        pixels, found = gather(self._comparison.data, which, size, skipped)
        shown = first + np.flatnonzero(np.isin(which, found))
        seeds = tuple((self._request.attack.seed + shown).tolist())
        return Images(pixels, self._comparison.labels[shown], seeds)

    def _readable(self) -> int:
        """The place of the first image that can be read."""
        size = self._models[0].opened.checkpoint.size
        for place in range(len(self._comparison.order)):
            if len(self._read(place, 1, size).labels):
                return place
        raise self._comparison.unread()

    def _notes(self) -> Iterator[Note]:
        while self._said:
            yield self._said.pop(0)


@dataclass
class _Measured:
    """A model, and how many images go through it at once."""

    subject: Subject
    opened: Opened
    columns: tuple[int, ...] | None
    batch: int
    go_on: GoOn
    say: Callable[[Note], None]

    @cached_property
    def logits_of(self) -> Logits:
        return subjects.restricted(self.opened.model, self.columns)

    def in_batches(self, images: int, work: Callable[[int, int], None]) -> None:
        self.batch = halving(0, images, self.batch, work, self.say)

    def key(self, attack: Attack, eps: float, images: str) -> Key:
        checkpoint = self.opened.checkpoint
        reading, made_with = journals.reading(checkpoint), " ".join((__version__, *packages(attack).values()))
        return Key(checkpoint.sha256, reading, self.subject.precision, attack, eps, images, made_with)


class _Part:
    """One model and some images."""

    def __init__(self, model: _Measured, images: Images) -> None:
        self._model = model
        self._images = images
        self._y = torch.from_numpy(images.labels).to(model.opened.model.device)

    def _x(self, which: slice | Indices) -> Tensor:
        return subjects.tensor(self._images.pixels[which], self._model.opened)

    @cached_property
    def _right(self) -> NDArray[np.bool_]:
        """(N,) classified rightly as they are."""
        right = np.zeros(len(self._y), bool)

        def work(first: int, last: int) -> None:
            if not self._model.go_on():
                raise Cancelled
            with torch.no_grad():
                logits = self._model.logits_of(self._x(slice(first, last)))
            if not logits.isfinite().all():
                name = self._model.opened.checkpoint.name
                raise Refused(f"{name} gives logits that are no numbers: its weights are broken.")
            right[first:last] = (logits.argmax(1) == self._y[first:last]).cpu().numpy()

        self._model.in_batches(len(right), work)
        return right

    def attacked(self, attack: Attack, eps: float) -> Cell:
        """The cell of one ε."""
        begun = time.perf_counter()
        targets = np.flatnonzero(self._right)
        correct = self._right.copy()
        outcomes: list[tuple[int, int, tuple[int, ...]]] = []

        def work(first: int, last: int) -> None:
            which = targets[first:last]
            seeds = [self._images.seeds[i] for i in which]
            y = self._y[torch.from_numpy(which).to(self._y.device)]
            outcome = perturb(self._model.logits_of, self._x(which), y, attack, eps, seeds, self._model.go_on)
            correct[which] = ~outcome.flipped.cpu().numpy()
            outcomes.append((int(outcome.vanished.sum()), int(outcome.stuck.sum()), outcome.broken))

        if eps > 0:
            self._model.in_batches(len(targets), work)
        broken = zip_longest(*(each for _, _, each in outcomes), fillvalue=0)
        return Cell(
            subject=0,
            eps=eps,
            first=0,
            labels=tuple(self._images.labels.tolist()),
            correct=tuple(correct.tolist()),
            attacked=len(targets) if eps > 0 else 0,
            vanished=sum(each for each, _, _ in outcomes),
            stuck=sum(each for _, each, _ in outcomes),
            broken=tuple(map(sum, broken)),
            seconds=time.perf_counter() - begun,
        )

    def lights(self, attack: Attack) -> tuple[Light, ...]:
        """What is seen of the model as such, on as many of the images as fit."""
        found: list[tuple[Light, ...]] = []
        of = self._model
        model, checkpoint = of.opened

        def work(first: int, last: int) -> None:
            if not found:
                x, y = self._x(slice(first, last)), self._y[first:last]
                seen = lights.of_model(of.logits_of, model, checkpoint, x, y, attack, of.go_on, of.columns)
                found.append(seen)

        halving(0, len(self._y), len(self._y), work, of.say)
        return found[0]
