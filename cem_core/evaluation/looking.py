"""What there is to see in the folder of a table: what was measured, samples, and the real images nearest to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from cem_core.datasets import Dataset, Indices, Labelled, gather, in_turns, open_labelled
from cem_core.evaluation import shards
from cem_core.evaluation.features import Kept, open_kept
from cem_core.evaluation.report import FEATURES, MADE_BY, RECORD, REFERENCE, SAMPLES, Report, cell
from cem_core.evaluation.requests import Table
from cem_core.evaluation.results import Scores
from cem_core.evaluation.statistics import nearest
from cem_core.images import Bytes
from cem_core.messages import Checkpoint, Floats, Refused
from cem_core.probes.requests import Data

_LONGEST_RECORD: Final = 64 * 2**20
"""Bytes of a record that are read."""
_ACROSS: Final = 16
"""Samples in a row where there are no classes, and"""
_ROWS: Final = 20
"""so many of these rows."""
_EACH: Final = 48
"""Samples of a class that are shown, at most,"""
_LOOKED_AT: Final = 5000
"""among the first so many,"""
_ROOM: Final = 128 * 2**20
"""and so many bytes of pixels in all."""


class Group(NamedTuple):
    """Samples of a class."""

    name: str
    """Empty: there are no classes."""
    pixels: Bytes
    """(N, H, W, 3)"""
    numbers: tuple[int, ...]
    """(N,) which samples these are."""


class Shown(NamedTuple):
    rows: tuple[Group, ...]
    total: int
    """Samples that are there by now,"""
    whole: bool
    """which are all."""


class Neighbour(NamedTuple):
    """A real image that is near to a sample."""

    pixels: Bytes
    """(H, W, 3)"""
    name: str
    """Its class."""
    distance: float
    """In feature space."""


# What was measured ------------------------------------------------------------------------------------------------


class _Row(msgspec.Struct):
    checkpoint: Checkpoint | None = None
    seeds: dict[str, Scores] = {}


class _Record(msgspec.Struct):
    made_by: str
    request: Table
    rows: list[_Row]
    notes: list[str] = []
    devices: list[str] = []
    versions: dict[str, str] = {}


def is_table(folder: Path) -> bool:
    """Whether a folder is one of a table, for all that its name tells."""
    return (folder / RECORD).is_file()


def open_table(folder: Path) -> Report:
    """What was measured so far.

    Raises:
        Refused: there is no table, or its record is damaged.
    """
    path = folder / RECORD
    broken = Refused(f"{path} is damaged, or of another version of the program: choose another folder.")
    try:
        if path.stat().st_size > _LONGEST_RECORD:
            raise broken
        found = msgspec.json.decode(path.read_bytes(), type=_Record)
    except OSError as error:
        raise Refused(f"{folder} holds no table ({error.strerror or error}): choose another folder.") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise broken from error
    if found.made_by != MADE_BY or len(found.rows) != len(found.request.rows):
        raise broken
    report = Report(found.request)
    report.notes, report.versions = found.notes, found.versions
    report.devices = dict.fromkeys(found.devices)
    for number, row in enumerate(found.rows):
        if row.checkpoint is not None:
            report.checkpoints[number] = row.checkpoint
        known = {str(seed): seed for seed in found.request.seeds}
        for seed, scores in row.seeds.items():
            if seed in known:
                report.cells[number, known[seed]] = scores
    return report


# The samples ------------------------------------------------------------------------------------------------------


def samples(folder: Path, request: Table, row: int, seed: int) -> Shown:
    """The first samples of a cell, by class; those that are there.

    Raises:
        Refused: its folder holds something else.
    """
    place = folder / cell(request.rows[row], seed) / SAMPLES
    if not shards.is_samples(place):
        return Shown((), 0, False)
    found = shards.open_samples(place)
    made = sum(found.path(shard).is_file() for shard in range(len(found)))
    total = min(made * found.record.request.batch, found.num)
    groups: list[list[tuple[int, Bytes]]] = [[] for _ in found.classes or range(1)]
    for number, label, pixels in _first(found):
        wanted = groups[label] if found.classes else groups[0]
        if not found.classes or len(wanted) < _EACH:
            wanted.append((number, pixels))
    if not found.classes:  # as they come
        groups = [groups[0][first : first + _ACROSS] for first in range(0, len(groups[0]), _ACROSS)]
    names = found.classes or [""] * len(groups)
    rows = tuple(
        Group(name, np.stack([pixels for _, pixels in group]), tuple(number for number, _ in group))
        for name, group in zip(names, groups, strict=True)
        if group
    )
    return Shown(rows, total, made == len(found))


def _first(found: shards.Samples) -> Iterator[tuple[int, int, Bytes]]:
    """(number, label, (H, W, 3)) of the first samples that are there."""
    request, checkpoint = found.record.request, found.record.checkpoint
    most = min(_LOOKED_AT, _ROOM // (3 * checkpoint.size**2))
    enough = _EACH * len(found.classes) or _ACROSS * _ROWS
    count = 0
    for shard in range(len(found)):
        if count >= min(enough, most):
            return
        if not found.path(shard).is_file():
            continue
        made = found.read(shard)
        count += len(made.labels)
        coloured = np.broadcast_to(made.pixels, (*made.pixels.shape[:3], 3))
        yield from zip(request.places(shard), made.labels.tolist(), coloured, strict=True)


# Real images beside them ------------------------------------------------------------------------------------------


def neighbours(folder: Path, request: Table, row: int, seed: int, sample: int, most: int) -> list[Neighbour]:
    """The real images that are nearest to a sample in the features of the table's extractor, the nearest first.

    A sample that is as near to one as a copy of it would be was remembered by the model.

    Raises:
        Refused: features are not there yet, or the real images are others by now.
    """
    feature = _feature(folder / cell(request.rows[row], seed) / FEATURES, sample)
    reference = open_kept(folder / REFERENCE)
    near = sorted(chain.from_iterable(_near(reference, feature, most)))[:most]
    places = [place for _, place in near]
    size = shards.open_samples(folder / cell(request.rows[row], seed) / SAMPLES).record.checkpoint.size
    return [
        Neighbour(pixels, name, distance)
        for (distance, _), (name, pixels) in zip(near, _real(request.reference, places, size), strict=True)
    ]


def _feature(place: Path, sample: int) -> Floats:
    """(1, F) of a sample."""
    try:
        kept = open_kept(place)
        item = sample // kept.record.batch
        found: Floats = kept.read(item).features[sample - kept.places(item).start][None]
        return found
    except (Refused, IndexError) as error:
        raise Refused("The features of this sample are not there yet: they come once all samples of its row are "
                      "made.") from error  # fmt: skip


def _near(reference: Kept, feature: Floats, most: int) -> Iterator[list[tuple[float, int]]]:
    """(distance, place) of the nearest in each file."""
    for item in range(len(reference)):
        places = reference.places(item)
        indices, distances = nearest(feature, reference.read(item).features, most)
        yield [(float(far), places[index]) for index, far in zip(indices[0], distances[0], strict=True)]


def _real(data: Data, places: Sequence[int], size: int) -> list[tuple[str, Bytes]]:
    """The class and (size, size, 3) of the reference images at these places, as `features` counts them."""
    path = Path(data.path).expanduser()
    if data.path and shards.is_samples(path):
        return [_sampled(shards.open_samples(path), place) for place in places]
    labelled, order = _labelled(data, _changed(path))
    indices = order[list(places)]
    if isinstance(labelled, Dataset):  # what is not wanted of an archive is passed over
        part = replace(labelled, files=tuple(labelled.files[i] for i in indices), labels=labelled.labels[indices])
        found = dict(part.read(size))
        pixels = [found[i] for i in range(len(indices))]
    else:
        pixels = list(gather(labelled, indices, size, lambda *_: None)[0])
    return [(labelled.classes[labelled.labels[i]], one) for i, one in zip(indices, pixels, strict=True)]


@lru_cache(maxsize=1)
def _labelled(data: Data, changed: float) -> tuple[Labelled, Indices]:  # noqa: ARG001 - another file is another answer
    """The images, and the order in which they are counted. A large archive takes seconds to be looked through."""
    labelled = open_labelled(data)
    return labelled, in_turns(labelled.labels)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _sampled(samples: shards.Samples, place: int) -> tuple[str, Bytes]:
    batch = samples.record.request.batch
    made = samples.read(place // batch)
    pixels = np.broadcast_to(made.pixels[place % batch], (*made.pixels.shape[1:3], 3))
    return samples.classes[made.labels[place % batch]] if samples.classes else "", pixels
