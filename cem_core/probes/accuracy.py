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

from cem_core import __version__
from cem_core.datasets import Indices, gather
from cem_core.images import Bytes
from cem_core.messages import Checkpoint, Refused
from cem_core.probes import journal as journals
from cem_core.probes import lights, subjects
from cem_core.probes.attacks import packages, perturb
from cem_core.probes.journal import Journal, Key
from cem_core.probes.measuring import Cancelled, GoOn
from cem_core.probes.requests import Accuracy, Attack, Subject
from cem_core.probes.results import Cell, Light, Lights, Note, Opening
from cem_core.probes.subjects import Opened, halving
from cem_core.samplers import Logits


class Images(NamedTuple):
    """Some images as one model takes them."""

    pixels: Bytes  # (N, H, W, 3)
    labels: Indices  # (N,) indices into the shared classes
    seeds: tuple[int, ...]  # of the noise of each


def accuracy(
    request: Accuracy, go_on: GoOn = lambda: True, journal: Path | None = None
) -> Iterator[Opening | Lights | Cell | Note]:
    """What is measured, then a cell for each range of images, model and ε: the first range of all models comes first.

    An image counts if it is classified rightly as it is and wherever the attack ended, as AutoAttack counts; only what
    is right as it is gets attacked. ε 0 is clean accuracy. Classes are taken in turns, so that what is known half-way
    is about them all; the noise of an image is keyed by its place in that order.

    Raises:
        Refused: a model or the data cannot be used, they share no classes, no image can be read, or logits are no
            numbers.
        Cancelled: `go_on` said so.
    """
    comparison = subjects.comparison(request)
    data, opened, shared, order, labels, batch = comparison
    few = f"These are the {len(order)} bundled samples, too few to compare models by: give a folder of labelled images."
    notes = (
        *(() if request.data.path else (few,)),
        *shared.notes,
        *_incomparable(comparison.checkpoints, request.attack),
    )
    yield comparison.opening(request, *notes)

    kept = Journal(journal)
    radii = tuple(dict.fromkeys(eps + 0.0 for eps in request.eps))  # each once, and no -0
    said: list[Note] = []
    skipped = subjects.noting(said)
    measured = [
        _Measured(subject, one, columns, batch, go_on, said.append)
        for subject, one, columns in zip(request.subjects, opened, shared.columns, strict=True)
    ]

    def read(places: range, size: int) -> Images:
        pixels, found = gather(data, order[places.start : places.stop], size, skipped)
        shown = places.start + np.flatnonzero(np.isin(order[places.start : places.stop], found))
        return Images(pixels, labels[shown], tuple((request.attack.seed + shown).tolist()))

    lit = False
    for first in range(0, len(order), batch):
        by_size: dict[int, Images] = {}
        for number, model in enumerate(measured):
            size = model.opened.checkpoint.size
            if size not in by_size:
                places = range(first, min(first + batch, len(order)))
                by_size[size] = read(places, size)
            images = by_size[size]
            if not len(images.labels):
                continue
            part = _Part(model, images)
            digest = journals.images(*images, shared.classes)
            for eps in radii:
                key = model.key(request.attack, eps, digest)
                cell = kept.find(key)
                if cell is None or cell.labels != tuple(images.labels.tolist()):  # anything may stand in a file
                    cell = part.attacked(request.attack, eps)
                    kept.keep(key, cell)
                yield from _said(said)
                yield replace(cell, subject=number, first=first)
            if not lit:
                places = range(first, min(first + lights.LOOKED_AT, len(order)))
                yield Lights(number, _Part(model, read(places, size)).lights(request.attack))
        lit = lit or any(len(images.labels) for images in by_size.values())
        yield from _said(said)
    if not lit:
        raise comparison.unread()


def _incomparable(checkpoints: Sequence[Checkpoint], attack: Attack) -> Iterator[str]:
    inputs = {(checkpoint.channels, checkpoint.size) for checkpoint in checkpoints}
    if len(inputs) > 1:
        each = ", ".join(f"{one.name} {one.channels}×{one.size}×{one.size}" for one in checkpoints)
        said = f"The models take images of different sizes ({each})"
        if attack.norm == "l2":
            yield f"{said}: the same L2 radius is a smaller change of a larger image, so do not compare their curves."
        else:
            yield f"{said}: each is shown the images at its own."


def _said(notes: list[Note]) -> Iterator[Note]:
    while notes:
        yield notes.pop(0)


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
