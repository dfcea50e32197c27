"""A folder of samples in shards, which are made by anybody in any order. No torch.

samples.json     how they are made; nothing else is made there
shard-00012.npz  a batch: `arr_0` pixels and `arr_1` labels, as OpenAI's evaluator of guided diffusion reads them, their
                 seeds, and a digest of all that decides their pixels
sheet.png        the first of each class, once all are there

A shard is a file that is whole, or it is not there. Files may come from anywhere, so nothing in them is believed: a
shard is of exactly the size that the record asks for, or it is damaged.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from cem_core import writing
from cem_core.evaluation.requests import Sampling
from cem_core.images import Bytes, enlarge, hwc
from cem_core.messages import Checkpoint, Refused
from cem_core.probes.journal import reading
from cem_core.sheet import draw, plain

Integers: TypeAlias = NDArray[np.int64]

RECORD: Final = "samples.json"
SHEET: Final = "sheet.png"
MADE_BY: Final = "cem-explorer sample"

_SHARD: Final = re.compile(r"shard-(\d{5,10})\.npz")
_LITTER: Final = frozenset({"Thumbs.db", "desktop.ini"})
"""What file browsers leave behind in any folder; beside what is hidden, as half-written shards are."""
_LONGEST_RECORD: Final = 16 * 2**20
"""Bytes that are read of one."""
_AROUND: Final = 4096
"""Bytes of a shard, or of an array in it, that are not its numbers: a few hundred."""
_ROWS, _COLUMNS, _SIDE, _LOOKED_AT = 20, 10, 64, 5000
"""Of the sheet: classes, samples of each, pixels that one has at least, and samples among which they are sought."""


class Shard(NamedTuple):
    """A batch of n samples."""

    pixels: Bytes
    """(n, H, W, C)."""
    labels: Integers
    """(n,) places in `Record.classes`; 0 where there are none."""
    seeds: Integers
    """(n,) of the chains."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """How the samples of a folder are made."""

    made_by: str = MADE_BY
    request: Sampling
    """With all that was left open settled: the device, and of an encoder the reference batch."""
    checkpoint: Checkpoint
    classes: tuple[str, ...]
    """What labels count; empty: nothing, as no class decided where a sample began or went."""
    device: str
    """Kind of it: cpu or cuda. They round differently."""
    versions: dict[str, str]
    """Of the program and its packages, and digests of files that decide pixels beside the checkpoint."""

    @property
    def decisive(self) -> dict[str, Any]:
        """All that decides the pixels of a shard, each thing under what it is called."""
        request, versions = self.request, self.versions
        found = {
            "checkpoint": self.checkpoint.sha256,
            "reading of the checkpoint": reading(self.checkpoint),
            "precision": request.subject.precision,
            "kind of device": self.device,
            "start": request.start,
            "classes in turns": request.per_class,
            "seed": request.seed,
            "batch": request.batch,
            "version of the program": versions.get("cem-explorer"),
        } | {what: versions[what] for what in ("head", "class Gaussians", "reference batch") if what in versions}
        if request.reference is not None:
            found |= {"cosine": request.reference.cosine, "temperature": request.reference.temperature}
        for field in msgspec.structs.fields(request.sampler):
            value = getattr(request.sampler, field.name)
            if field.name != "name" and value != field.default:  # what a sampler learns later changes no old folder
                found[field.name.replace("_", " ")] = value
        return found

    @property
    def of(self) -> str:
        """The digest of that."""
        return hashlib.sha256(msgspec.json.encode(self.decisive, order="sorted")).hexdigest()

    def check_same(self, other: Record, folder: Path) -> None:
        """Raises Refused unless the other asks for the same samples, however many."""
        ours, theirs = self.decisive, other.decisive
        if differs := [what for what in ours | theirs if ours.get(what) != theirs.get(what)]:
            raise Refused(
                f"{folder} holds other samples than these ({', '.join(differs)}): ask for the same, or choose another "
                "folder."
            )


class Samples:
    """A folder that was claimed or opened; its length is that in shards."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder, self.record = folder, record
        self._of = record.of

    @property
    def num(self) -> int:
        """Samples, once all are made."""
        return self.record.request.num

    @property
    def classes(self) -> tuple[str, ...]:
        return self.record.classes

    def __len__(self) -> int:
        return self.record.request.shards

    def path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05}.npz"

    def has(self, shard: int) -> bool:
        """Whether a shard is there, whole and of its size. One of other samples is not."""
        try:
            self._load(shard)
        except (OSError, ValueError):
            return False
        return True

    def done(self) -> set[int]:
        """The shards that are there. All are read, as a disk may have damaged any."""
        return {shard for shard in range(len(self)) if self.has(shard)}

    def read(self, shard: int) -> Shard:
        """Raises Refused if it is not there, or is damaged."""
        name = self.path(shard).name
        again = "go on with cem-explorer sample, which makes it"
        try:
            return self._load(shard)
        except FileNotFoundError as error:
            raise Refused(f"{self.folder} has no {name}: {again}.") from error
        except (OSError, ValueError) as error:
            raise Refused(f"{name} in {self.folder} is damaged ({error}): {again} anew.") from error

    def keep(self, shard: int, made: Shard) -> None:
        """Raises Refused if it cannot be written."""
        file = io.BytesIO()
        np.savez(file, made.pixels, made.labels, seeds=made.seeds, of=np.array(self._of))
        writing.replace(self.path(shard), file.getvalue())

    def _load(self, shard: int) -> Shard:
        """Raises OSError or ValueError."""
        path, request, known = self.path(shard), self.record.request, self.record.checkpoint
        places = request.places(shard)
        n, size, channels = len(places), known.size, known.channels
        wanted = {
            "arr_0": ("|u1", (n, size, size, channels)), "arr_1": ("<i8", (n,)), "seeds": ("<i8", (n,)),
            "of": ("<U64", ()),
        }  # fmt: skip
        most = _AROUND + sum(_AROUND + _bytes(*of) for of in wanted.values())
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device might never end
            raise ValueError("it is no ordinary file")
        if found.st_size > most:
            raise ValueError(f"it is larger than {n:,} samples are")
        try:
            with zipfile.ZipFile(path) as archive:
                pixels, labels, seeds, of = (_array(archive, name, *wanted[name]) for name in wanted)
        except (OSError, ValueError):
            raise
        except Exception as error:  # a hostile file makes zipfile raise nearly anything
            raise ValueError("it is cut short, or no npz file") from error
        if of.item() != self._of or seeds.tolist() != [request.seed_of(place) for place in places]:
            raise ValueError("it is of other samples")
        if n and not 0 <= labels.min() <= labels.max() < max(1, len(self.classes)):
            raise ValueError("it has labels of no class")
        return Shard(pixels, labels, seeds)

    def foreign(self) -> str | None:
        """The name of something in the folder that is none of its own."""
        with os.scandir(self.folder) as there:
            for entry in there:
                match = _SHARD.fullmatch(entry.name)
                shard = int(match[1]) if match else -1
                ours = 0 <= shard < len(self) and self.path(shard).name == entry.name
                known = ours or entry.name in (RECORD, SHEET)
                beside = entry.name.startswith(".") or entry.name in _LITTER
                if not (beside or (known and entry.is_file())):
                    return entry.name
        return None


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return np.dtype(dtype).itemsize * math.prod(shape)


def _array(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of exactly this type and shape, or something is raised. Nothing is unpacked and nothing unpickled."""
    entry = archive.getinfo(f"{name}.npy")
    size = _bytes(dtype, shape)
    if entry.compress_type != zipfile.ZIP_STORED or not size < entry.file_size <= size + _AROUND:
        raise ValueError(f"its {name} has another size")
    file = io.BytesIO(archive.read(entry))  # which checks its sum
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"its {name} is no array that is known here")
    found, fortran, kind = np.lib.format.read_array_header_1_0(file, max_header_size=_AROUND)
    if (found, fortran, kind) != (shape, False, np.dtype(dtype)):
        raise ValueError(f"its {name} has another shape or type")
    return np.frombuffer(file.read(size), dtype).reshape(shape).copy()


# Folders ----------------------------------------------------------------------------------------------------------


def claim(folder: Path, record: Record) -> Samples:
    """The folder of a record: new, empty, or one that holds the same samples, of which there may be more from now on.

    Raises:
        Refused: it holds something else, other samples or more of them, or cannot be written.
    """
    writing.claim(folder, RECORD, MADE_BY)
    with _told(folder):
        there = (folder / RECORD).exists()
        before = _record(folder) if there else record
        before.check_same(record, folder)
        if before.request.num > record.request.num:
            raise Refused(
                f"{folder} holds {before.request.num:,} samples, which is more than {record.request.num:,}: ask for as "
                "many, or choose another folder."
            )
        written = msgspec.json.encode(msgspec.structs.replace(record, versions=before.versions))
        samples = Samples(folder, msgspec.json.decode(written, type=Record))  # as all others read it: 1 becomes 1.0
        _refuse_foreign(samples)
        if not there or before != samples.record:
            writing.replace(folder / RECORD, msgspec.json.format(written))
    return samples


def is_samples(path: Path) -> bool:
    """Whether a folder is one of samples, for all that its name tells."""
    return (path / RECORD).is_file()


def open_samples(folder: Path) -> Samples:
    """The samples in a folder, to be read.

    Raises:
        Refused: it holds none, or something else beside them.
    """
    with _told(folder):
        samples = Samples(folder, _record(folder))
        _refuse_foreign(samples)
    return samples


def _record(folder: Path) -> Record:
    path = folder / RECORD
    if not path.is_file():
        raise Refused(f"{folder} holds no samples: choose a folder that {MADE_BY} made.")
    broken = Refused(f"{path} is damaged, or of another version of the program: choose another folder.")
    if path.stat().st_size > _LONGEST_RECORD:
        raise broken
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise broken from error
    if found.made_by != MADE_BY or found.checkpoint.size < 1 or found.checkpoint.channels not in (1, 3):
        raise broken
    return found


def _refuse_foreign(samples: Samples) -> None:
    if (name := samples.foreign()) is not None:
        raise Refused(
            f"{samples.folder} also holds {name}, which is none of its samples: move it away, or choose another folder."
        )


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"{folder} cannot be used ({error.strerror or error}): choose another folder.") from error


# To look at -------------------------------------------------------------------------------------------------------


def sheet(samples: Samples) -> Bytes:
    """(H, W, 3): the first samples of each class in a row; where there are no classes, the first of all.

    Raises:
        Refused: one of the first shards is not there, or is damaged.
    """
    classes = samples.classes[:_ROWS]
    cells: list[list[Bytes]] = [[] for _ in classes or range(_COLUMNS)]
    order = count()
    for shard in range(len(samples)):
        if all(len(row) == _COLUMNS for row in cells) or shard * samples.record.request.batch >= _LOOKED_AT:
            break
        made = samples.read(shard)
        for pixels, label in zip(hwc(made.pixels.transpose(0, 3, 1, 2)), made.labels.tolist(), strict=True):
            row = label if classes else next(order) // _COLUMNS
            if row < len(cells) and len(cells[row]) < _COLUMNS:
                cells[row].append(pixels)
    size = samples.record.checkpoint.size
    blank = np.full((size, size, 3), 255, np.uint8)
    rows = [number for number, row in enumerate(cells) if row]
    columns = [
        ("", enlarge(np.stack([(cells[row] + [blank] * _COLUMNS)[column] for row in rows]), max(1, _SIDE // size)))
        for column in range(max(map(len, cells)))
    ]
    names = [plain(classes[row])[:40] or f"class {row}" if classes else "" for row in rows]
    title = f"{plain(samples.record.checkpoint.name)}, {plain(samples.record.request.sampler.name)}"
    return draw(f"{title}, the first of {samples.num:,} samples", [(name, "", "") for name in names], columns)
