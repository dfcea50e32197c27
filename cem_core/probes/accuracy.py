"""Accuracy against ε: several models, the same images, the same attack."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cem_core import datasets
from cem_core.datasets import Labelled
from cem_core.images import Bytes
from cem_core.messages import Refused
from cem_core.probes import journal as journals
from cem_core.probes import lights, subjects
from cem_core.probes.attacks import perturb
from cem_core.probes.measuring import Cancelled, GoOn
from cem_core.probes.requests import Accuracy, Attack
from cem_core.probes.results import Cell, Lights, Note, Opening
from cem_core.probes.subjects import Opened, Shared, alike, halving
from cem_core.runner import versions
from cem_core.samplers import Logits


class Images(NamedTuple):
    """Some images as one model takes them."""

    pixels: Bytes  # (N, H, W, 3)
    labels: NDArray[np.int64]  # (N,) indices into the shared classes
    seeds: tuple[int, ...]  # of the noise of each


def accuracy(
    request: Accuracy, go_on: GoOn = lambda: True, journal: Path | None = None
) -> Iterator[Opening | Lights | Cell | Note]:
    """What is measured, then a cell for each range of images, model and ε: the first range of all models comes first.

    An image counts if it is classified rightly as it is and wherever the attack ended, as AutoAttack counts; only what
    is right as it is gets attacked. ε 0 is clean accuracy. The classes are taken in turns, so that what is known half-way
    is about the same for all of them; the noise of an image is keyed by its place in that order.

    Raises:
        Refused: a model or the data cannot be used, they share no classes, no image can be read, or logits are no
            numbers.
        Cancelled: `go_on` said so.
    """
    data = datasets.open_labelled(request.data)
    opened = [subjects.open_subject(subject) for subject in request.subjects]
    checkpoints = [checkpoint for _, checkpoint in opened]
    shared = subjects.shared(checkpoints, [(data.name, data.classes)])
    logits_of = [
        subjects.restricted(model, columns) for (model, _), columns in zip(opened, shared.columns, strict=True)
    ]
    order, labels = _judged(data, shared)
    notes = (*shared.notes, *_incomparable(opened, request.attack))
    yield Opening(request, tuple(checkpoints), shared.classes, len(order), notes, versions())

    kept = journals.Journal(journal)
    batches = [request.batch] * len(opened)
    said: list[Note] = []
    unreadable: set[str] = set()
    lit = False

    def skipped(path: str, why: str) -> None:
        if path not in unreadable:
            unreadable.add(path)
            said.append(Note(why, path))

    for first in range(0, len(order), request.batch):
        whole = slice(first, first + request.batch)
        by_size: dict[int, Images] = {}
        for number, (subject, one) in enumerate(zip(request.subjects, opened, strict=True)):
            size = one.checkpoint.size
            if size not in by_size:
                by_size[size] = _read(data, order[whole], labels[whole], first + request.attack.seed, size, skipped)
                yield from _all(said)
            found = by_size[size]
            if not len(found.labels):
                continue
            part = _Part(logits_of[number], one, found, batches[number], go_on, said)
            images = journals.images(*found, shared.classes)
            for eps in request.eps:
                attack = request.attack
                key = journals.Key(
                    one.checkpoint.sha256, journals.reading(one.checkpoint), subject.precision, attack, eps, images
                )
                cell = kept.find(key)
                if cell is None:
                    cell = part.measure(attack, eps)
                    yield from _all(said)
                    kept.keep(key, cell)
                yield msgspec.structs.replace(cell, subject=number, first=first)
            if not lit:
                yield Lights(number, part.lights(request.attack))
                yield from _all(said)
            batches[number] = part.batch
        lit = lit or any(len(found.labels) for found in by_size.values())
    if not lit:
        raise Refused(f"None of the {len(order):,} images of {data.name} can be read: choose other data.")


def _judged(data: Labelled, shared: Shared) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which images show a shared class, class by class in turns, and the index of the class that each shows."""
    names = [alike(name) for name in shared.classes]
    known = {alike(name): label for label, name in enumerate(data.classes)}
    if len(data.classes) == len(names) and [alike(name) for name in data.classes] == names:
        number = np.arange(len(names))
    else:
        number = np.full(len(data.classes), -1)
        number[[known[name] for name in names]] = np.arange(len(names))
    labels = number[data.labels]
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    order = np.lexsort((labels, rank))
    order = order[labels[order] >= 0]
    if not len(order):
        raise Refused(f"{data.name} has no image of a class that all models know: choose other data.")
    return order, labels[order]
