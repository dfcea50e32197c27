"""A folder of features: what an extractor sees in some images, a file for each shard of them. No torch until it works.

features.json        which images, and what saw them; nothing else is mixed with these
features-00012.npz   `features`, `logits` where there are classes, and a digest of what the record says

Samples have a file for each of their shards. Labelled images are taken with their classes in turns, so that the first
of them are of all classes alike.
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import msgspec
import numpy as np

from cem_core import __version__, writing
from cem_core.datasets import Arrays, Dataset, Labelled, gather, in_turns, open_labelled
from cem_core.evaluation.requests import INCEPTION
from cem_core.evaluation.results import Made, Progress
from cem_core.evaluation.shards import Samples, is_samples, open_samples
from cem_core.evaluation.statistics import Features
from cem_core.images import Bytes
from cem_core.messages import Precision, Refused
from cem_core.probes.requests import Data, Subject

if TYPE_CHECKING:
    from cem_core.evaluation.extractors import Extractor

RECORD: Final = "features.json"
MADE_BY: Final = "cem-explorer evaluate"
_LONGEST_RECORD: Final = 2**20
"""Bytes that are read of one."""


class Extracting(msgspec.Struct, frozen=True, kw_only=True):
    """Features of images, to be kept in a folder: a message that a worker begins with."""

    extractor: Subject
    images: Data
    """A folder of samples, or labelled images."""
    folder: str
    what: str
    """As answers call it: reference or features."""
    batch: int = 250
    """Labelled images of one file."""
    size: int = 0
    """Side at which labelled images are read, so that they lose what samples of that size cannot have; 0: as the
    extractor sees them."""

    def open(self) -> Extraction:
        """Raises Refused as `claim` and `extractors.open_extractor` do."""
        from cem_core.evaluation.extractors import open_extractor

        images = _opened(self)
        return Extraction(self.what, _claimed(self, images), images, open_extractor(self.extractor))


class Extraction:
    """Makes the files of features, one after the other: the work of an `Extracting`."""

    def __init__(self, what: str, kept: Kept, images: _Images, extractor: Extractor) -> None:
        self._what, self._kept, self._images, self._extractor = what, kept, images, extractor

    def do(self, item: int) -> Iterator[Progress | Made]:
        """Progress after each batch, then Made. Raises Refused where images or features cannot be used."""
        if self._kept.has(item):
            yield Made(self._what, item, len(self._kept.places(item)), found=True)
            return
        began, parts = time.perf_counter(), list[Features]()
        pixels = self._images.pixels(item, self._kept.record.size or self._extractor.size)
        for first in range(0, len(pixels), self._extractor.at_once):
            parts.append(self._extractor.features(pixels[first : first + self._extractor.at_once]))
            yield Progress(self._what, item, min(1.0, (first + self._extractor.at_once) / len(pixels)))
        logits = [part.logits for part in parts if part.logits is not None]
        found = Features(np.concatenate([p.features for p in parts]), np.concatenate(logits) if logits else None)
        self._kept.keep(item, found)
        yield Made(self._what, item, len(pixels), time.perf_counter() - began)


# The folder -------------------------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Which images, and what sees them."""

    made_by: str = MADE_BY
    images: str
    """SHA-256 of what tells these from others; of samples, however many there are."""
    extractor: str
    """SHA-256 of its file,"""
    choices: dict[str, str]
    """how that is read,"""
    precision: Precision
    size: int
    """and the side of the images that are given to it; 0: its own."""
    num: int
    batch: int
    """Images of one file."""
    version: str = __version__

    @property
    def of(self) -> str:
        """A digest of all but the number of images."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, num=0), order="sorted")).hexdigest()


class Kept:
    """A folder of features; its length is that in files."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder, self.record = folder, record
        self._of = record.of

    @property
    def num(self) -> int:
        """Images, once the features of all are there."""
        return self.record.num

    def __len__(self) -> int:
        return -(-self.record.num // self.record.batch)

    def places(self, item: int) -> range:
        """Which images are in a file."""
        return range(item * self.record.batch, min((item + 1) * self.record.batch, self.record.num))

    def path(self, item: int) -> Path:
        return self.folder / f"features-{item:05}.npz"

    def has(self, item: int) -> bool:
        """Whether a file is there, and whole."""
        try:
            self._load(item)
        except (OSError, ValueError):
            return False
        return True

    def done(self) -> set[int]:
        """The files that are there."""
        return {item for item in range(len(self)) if self.has(item)}

    def read(self, item: int) -> Features:
        """Raises Refused if it is not there, or is damaged."""
        path = self.path(item)
        try:
            return self._load(item)
        except FileNotFoundError as error:
            raise Refused(f"{self.folder} has no {path.name}: evaluate again, which makes it.") from error
        except (OSError, ValueError) as error:
            raise Refused(f"{path} is damaged ({error}): evaluate again, which makes it anew.") from error

    def keep(self, item: int, found: Features) -> None:
        """Raises Refused if it cannot be written."""
        file = io.BytesIO()
        logits = {} if found.logits is None else {"logits": found.logits}
        np.savez(file, allow_pickle=False, features=found.features, of=np.array(self._of), **logits)
        writing.replace(self.path(item), file.getvalue())

    def _load(self, item: int) -> Features:
        """Raises OSError or ValueError."""
        with self.path(item).open("rb") as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
                if packed:  # a few bytes may unpack to all there is
                    raise ValueError("it is compressed")
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    of, features = arrays["of"], arrays["features"]
                    logits = arrays.get("logits")
            except (OSError, ValueError):
                raise
            except Exception as error:  # a hostile file makes zipfile and numpy raise nearly anything
                raise ValueError("it is cut short, or no npz file") from error
        if of.shape or of.item() != self._of:
            raise ValueError("it is of other images, or another extractor")
        for found in (features, logits):
            if found is not None and not (
                found.dtype == np.float32 and found.ndim == 2 and len(found) == len(self.places(item))
                and found.shape[1] and np.isfinite(found).all()
            ):  # fmt: skip
                raise ValueError("it has another size or type")
        return Features(features, logits)


def claim(extracting: Extracting) -> Kept:
    """The folder that features are kept in: new, empty, or one with features of the same images by the same extractor.

    Whoever spreads the work claims it first, so that all workers find the record.

    Raises:
        Refused: it holds something else, or cannot be written; or the images or the extractor are not there.
    """
    return _claimed(extracting, _opened(extracting))


def _claimed(extracting: Extracting, images: _Images) -> Kept:
    from cem_core.checkpoints import sha256
    from cem_core.evaluation.extractors import WEIGHTS, file_of

    subject, folder = extracting.extractor, Path(extracting.folder)
    inception = subject.reference == INCEPTION
    record = Record(
        images=images.digest,
        extractor=sha256(file_of(subject)),
        choices={key: value for key, value in subject.choices.items() if not (inception and key == WEIGHTS)},
        precision="float32" if inception else subject.precision,
        size=images.size,
        num=images.num,
        batch=images.batch,
    )
    writing.claim(folder, RECORD, MADE_BY)
    kept = Kept(folder, record)
    there = (folder / RECORD).exists()
    before = _record(folder) if there else record
    if before.of != record.of:
        raise Refused(f"{folder} holds features of other images, by another extractor, or of another version of the "
                      "program: choose another folder.")  # fmt: skip
    if not there or before != record:
        writing.replace(folder / RECORD, msgspec.json.format(msgspec.json.encode(record)))
    return kept


def open_kept(folder: Path) -> Kept:
    """A folder of features, to be read. Raises Refused if it is none."""
    if not (folder / RECORD).is_file():
        raise Refused(f"{folder} holds no features: choose a folder that {MADE_BY} made.")
    return Kept(folder, _record(folder))


def kept(folder: Path) -> Iterator[Features]:
    """The features in a folder, in the order of the images. Raises Refused if any are missing or damaged."""
    found = open_kept(folder)
    for item in range(len(found)):
        yield found.read(item)


def _record(folder: Path) -> Record:
    path = folder / RECORD
    broken = f"{path} is damaged, or of another version of the program: choose another folder."
    try:
        if path.stat().st_size > _LONGEST_RECORD:
            raise Refused(broken)
        found = msgspec.json.decode(path.read_bytes(), type=Record)
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror or error}): choose another folder.") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(broken) from error
    if found.made_by != MADE_BY or found.num < 1 or found.batch < 1:
        raise Refused(broken)
    return found


# The images -------------------------------------------------------------------------------------------------------


class _Images(Protocol):
    """Those that are seen."""

    @property
    def num(self) -> int: ...

    @property
    def batch(self) -> int:
        """Images of one file."""

    @property
    def size(self) -> int:
        """For `Record.size`."""

    @property
    def digest(self) -> str:
        """For `Record.images`."""

    def pixels(self, item: int, size: int) -> Bytes:
        """(n, H, W, C); of labelled images, of that size. Raises Refused where one cannot be read."""


def _opened(extracting: Extracting) -> _Images:
    path = Path(extracting.images.path).expanduser()
    if extracting.images.path and is_samples(path):
        return _Sampled(open_samples(path))
    return _InTurns(open_labelled(extracting.images, classless=True), extracting.batch, extracting.size)


class _Sampled:
    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.num, self.batch, self.size = samples.num, samples.record.request.batch, 0
        self.digest = samples.record.of

    def pixels(self, item: int, size: int) -> Bytes:  # noqa: ARG002 - they have one
        return self._samples.read(item).pixels


class _InTurns:
    def __init__(self, data: Labelled, batch: int, size: int) -> None:
        self._data, self._order = data, in_turns(data.labels)
        self.num, self.batch, self.size = len(data), batch, size
        self.digest = _digest(data)

    def pixels(self, item: int, size: int) -> Bytes:
        chosen = self._order[item * self.batch : (item + 1) * self.batch]
        return gather(self._data, chosen, size, self._refuse)[0]

    def _refuse(self, path: str, why: str) -> NoReturn:
        """All images count: a number would be of others than it says."""
        raise Refused(f"{path} of {self._data.name} cannot be used: {why}")


def _digest(data: Labelled) -> str:
    """What tells these images from others, wherever they lie: names, sizes and labels; the pixels of what is in memory.

    Not the time of a file, as that of a copy is another.
    """
    found = hashlib.sha256(msgspec.json.encode((data.classes, data.labels.tolist())))
    match data:
        case Arrays():
            found.update(np.ascontiguousarray(data.pixels).data)
        case Dataset():
            whole = data.path.is_file()
            sizes = [data.path.stat().st_size] if whole else [(data.path / name).stat().st_size for name in data.files]
            found.update(msgspec.json.encode((data.files, sizes)))
    return found.hexdigest()
