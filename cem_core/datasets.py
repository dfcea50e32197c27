"""Labelled images: class folders, in a folder or a tar archive; torchvision's datasets on disk; the bundled samples."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cem_core import bundle
from cem_core.images import SUFFIXES, Bytes, Picture, prepare, prepare_file, side, to_uint8
from cem_core.messages import Refused
from cem_core.probes.requests import Data

Skipped: TypeAlias = Callable[[str, str], None]
"""Told of an image that cannot be read: its path, and why."""
Indices: TypeAlias = NDArray[np.int64]

MAX_MEMBER: Final = 64 * 2**20
"""Bytes of one image in an archive."""
MAX_UNPACKED: Final = 4 * 10**9
"""Bytes of the images of an archive, which are kept in memory: it can only be read from front to back."""
_SPLITS: Final = frozenset({"train", "test", "val", "valid", "validation"})
_DEPTH: Final = 6
"""Folders below the top that are looked into."""
_MAX_HEADER: Final = 2**20
"""Bytes of a long name or of other settings of a member."""
_UNPACK: Final[dict[bytes, Callable[[Path], Any]]] = {
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
}
_DAMAGE: Final = (
    *(tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError),
    *(ValueError, OverflowError, RecursionError),  # what tarfile makes of numbers and nesting that cannot be
)


class _Member(tarfile.TarInfo):
    """Its headers are small: tarfile reads each into memory as a whole, and a megabyte can unpack to gigabytes."""

    def _proc_pax(self, archive: tarfile.TarFile) -> Any:
        return self._small()._proc_pax(archive)

    def _proc_gnulong(self, archive: tarfile.TarFile) -> Any:
        return self._small()._proc_gnulong(archive)

    def _small(self) -> Any:
        if self.size > _MAX_HEADER:
            raise tarfile.HeaderError("the header is too large")
        return super()


class Labelled(Protocol):
    """N labelled images, of which parts are read as they are wanted."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """A label is an index into them."""

    @property
    def labels(self) -> Indices:
        """(N,)"""

    def __len__(self) -> int: ...

    def side(self) -> int:
        """The shorter side of the first image, in pixels. Raises Refused if it cannot be read."""

    def take(self, first: int | None = None) -> Self:
        """The first n, evenly across classes; None: all."""

    def part(self, first: int, last: int, size: int, skipped: Skipped) -> tuple[Bytes, Indices]:
        """Images first … last - 1, without those that cannot be read: `skipped` is told of these.

        Returns:
            (M, size, size, 3), and (M,) which images these are.

        Raises:
            Refused: an archive is damaged, or too large to be kept in memory.
        """


def open_labelled(data: Data, *, classless: bool = False) -> Labelled:
    """Find the labelled images that a request means.

    Of a dataset of torchvision, its `root` is given or the folder in that which holds the files; the split is "test"
    unless said otherwise.

    Args:
        classless: as for `open_dataset`.

    Raises:
        Refused: as `open_dataset`; or the files are not those that torchvision fetches.
    """
    if not data.path:
        if data.split is not None:
            raise Refused(f"The bundled samples have no split {data.split}: leave the split out.")
        return _samples().take(data.num)
    path = Path(data.path).expanduser()
    if (found := _of_torchvision(path)) is not None:
        return _read_torchvision(*found, data.split).take(data.num)
    return open_dataset(path, data.split, classless=classless).take(data.num)


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled images, sorted by path; nothing is decoded until they are read."""

    path: Path
    classes: tuple[str, ...]
    """In sorted order: a label is an index into them."""
    files: tuple[str, ...]
    """(N,) paths inside the folder or archive."""
    labels: Indices
    """(N,)"""
    name: str = ""
    top: str = ""
    """What holds the class folders, inside the folder or archive."""
    _unpacked: dict[int, list[Bytes | str]] = field(default_factory=dict, init=False, repr=False)
    """What was read of an archive, by size; a text says why an image could not be."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def root(self) -> Path:
        """The folder of the class folders; of an archive, no path that exists."""
        return self.path / self.top

    def side(self) -> int:
        """As `Labelled` has it."""
        if _is_folder(self.path):
            path = self.path / self.files[0]
            try:
                with path.open("rb") as file:
                    return side(file, path.name)
            except OSError as error:
                raise Refused(f"{path} cannot be read ({error.strerror or error}): check the file.") from error
        wanted = set(self.files)
        with _streamed(self.path) as archive:
            for member in archive:
                if _inside(member.name) in wanted and (data := archive.extractfile(member)) is not None:
                    return side(io.BytesIO(data.read()), member.name)
        raise Refused(f"{self.path} has changed since it was opened: open it again.")

    def empty(self) -> list[str]:
        """Folders beside those of the classes, without images; none in archives, of which only images are known."""
        if not _is_folder(self.path):
            return []
        folders = {entry.name for entry in self.root.iterdir() if entry.is_dir()} - set(self.classes)
        return sorted(name for name in folders if not name.startswith((".", "__")))

    def take(self, first: int | None = None, every: int = 1) -> Dataset:
        """A part with the same classes: every k-th file of each class, then the first n, evenly across classes."""
        kept = _evenly(self.labels, first, every)
        return replace(self, files=tuple(self.files[i] for i in kept), labels=self.labels[kept])

    def read(self, size: int) -> Iterator[tuple[int, Bytes]]:
        """(index, (size, size, 3)) for each image, in the order of storage: an archive is streamed once.

        Raises:
            Refused: an image or the archive is damaged.
        """
        for index, image in self._decoded(size, range(len(self))):
            if isinstance(image, str):
                raise Refused(image)
            yield index, image

    def part(self, first: int, last: int, size: int, skipped: Skipped) -> tuple[Bytes, Indices]:
        """As `Labelled` has it. A folder is read as far as asked; an archive as a whole when it is first asked."""
        wanted = range(len(self))[first:last]
        if _is_folder(self.path):
            found = [image for _, image in self._decoded(size, wanted)]
        else:
            if size not in self._unpacked:
                self._unpacked[size] = self._unpack(size)
            found = self._unpacked[size][first:last]
        pixels, kept = np.empty((len(wanted), size, size, 3), np.uint8), list[int]()
        for index, image in zip(wanted, found, strict=True):
            if isinstance(image, str):
                skipped(self.files[index], image)
            else:
                pixels[len(kept)] = image
                kept.append(index)
        return pixels[: len(kept)], np.array(kept, np.int64)

    def _unpack(self, size: int) -> list[Bytes | str]:
        if len(self) * size * size * 3 > MAX_UNPACKED:
            room = f"{len(self) * size * size * 3 / 1e9:,.1f} GB"
            raise Refused(f"The {len(self):,} images of {self.name} take {room} of memory: take fewer, or unpack it.")
        return [image for _, image in sorted(self._decoded(size, range(len(self))), key=lambda pair: pair[0])]

    def _decoded(self, size: int, wanted: range) -> Iterator[tuple[int, Bytes | str]]:
        """(index, (size, size, 3)) or (index, why it cannot be read), in the order of storage."""

        def decoded(prepared: Callable[[], Picture]) -> Bytes | str:
            try:
                return to_uint8(prepared().pixels).transpose(1, 2, 0)
            except Refused as refused:
                return str(refused)

        if _is_folder(self.path):
            for index in wanted:
                yield index, decoded(partial(prepare, self.path / self.files[index], size))
            return
        waiting = {self.files[index]: index for index in wanted}
        with _streamed(self.path) as archive:
            for member in archive:
                index = waiting.pop(_inside(member.name), -1) if _is_image(self.path, member) else -1
                if index < 0:
                    continue
                data = archive.extractfile(member)
                assert data is not None, "links are passed over"
                yield index, decoded(partial(prepare_file, io.BytesIO(data.read()), self.files[index], size))
                if not waiting:
                    return
        raise Refused(f"{self.path} has changed since it was opened: open it again.")

    def arrays(self, size: int) -> tuple[Bytes, Indices]:
        """(N, size, size, 3) and (N,), in the order of `files`. Raises Refused like `read`."""
        pixels = np.empty((len(self), size, size, 3), np.uint8)
        for index, image in self.read(size):
            pixels[index] = image
        return pixels, self.labels


def open_dataset(path: str | Path, split: str | None = None, *, classless: bool = False) -> Dataset:
    """Find the labelled images of a folder or archive (.tar, .tar.gz, .tar.bz2, .tar.xz).

    Args:
        path: holds `<class>/<image>`, or `<split>/<class>/<image>`; folders around these do not matter, and links to
            folders are not followed.
        split: "train", "test", …; must be named where there are several.
        classless: labels are not needed: where some image lies in no class folder, or there is but one of those, all
            images are of one class.

    Raises:
        Refused: nothing there, no class folders, no such split, or a damaged archive.
    """
    path = Path(path)
    if _is_folder(path):
        found = list(_walk(path, 0))
    else:
        with _streamed(path, checked=True) as archive:
            found = [_inside(member.name) for member in archive if _is_image(path, member)]
    images = [PurePosixPath(file) for file in sorted(set(found)) if _is_name_of_image(file)]
    top = _top(path, images, split)
    depth = len(top.parts)
    name = path.name or str(path)
    everything = [image for image in images if image.is_relative_to(top)]
    images = [image for image in everything if len(image.parts) > depth + 1]
    classes = sorted({image.parts[depth] for image in images})
    if classless and everything and (len(classes) < 2 or len(images) < len(everything)):
        images, classes = everything, [name]
    elif not images:
        where = "" if classless else " in class folders: it should hold <class>/<image>"
        raise Refused(f"{path} has no images{where}.")
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number.get(image.parts[depth], 0) for image in images], np.int64)
    return Dataset(path, tuple(classes), tuple(map(str, images)), labels, name, str(top))


def _samples() -> Dataset:
    """The bundled images."""
    paths = bundle.samples()
    classes = sorted({bundle.sample_class(path) for path in paths})
    labels = np.array([classes.index(bundle.sample_class(path)) for path in paths], np.int64)
    return Dataset(paths[0].parent, tuple(classes), tuple(path.name for path in paths), labels, "bundled samples")


def in_turns(labels: Indices) -> Indices:
    """The indices of (N,) labels in an order in which each class comes once before any comes twice."""
    return np.lexsort((labels, _ranks(labels)))


def _evenly(labels: Indices, first: int | None, every: int = 1) -> Indices:
    """Which of these labels are taken: every k-th of each class, then the first n, evenly across classes."""
    if every < 1 or (first is not None and first < 1):
        raise Refused("Take at least 1 image, and every 1st or more.")
    order = in_turns(labels)
    return np.sort(order[_ranks(labels)[order] % every == 0][:first])


def _ranks(labels: Indices) -> Indices:
    """(N,) how many of the same come before each."""
    ranks = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    return ranks


def gather(data: Labelled, indices: Indices, size: int, skipped: Skipped) -> tuple[Bytes, Indices]:
    """As `Labelled.part`, of any images in any order."""
    parts = [data.part(index, index + 1, size, skipped) for index in indices.tolist()]
    pixels, kept = zip(*parts, strict=True) if parts else ((np.empty((0, size, size, 3), np.uint8),), (indices,))
    return np.concatenate(pixels), np.concatenate(kept)


# Datasets of torchvision ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Arrays:
    """N labelled images that are in memory."""

    name: str
    classes: tuple[str, ...]
    pixels: Bytes
    """(N, H, W, C), C 1 or 3."""
    labels: Indices
    """(N,)"""

    def __len__(self) -> int:
        return len(self.labels)

    def side(self) -> int:
        """As `Labelled` has it."""
        return int(min(self.pixels.shape[1:3]))

    def take(self, first: int | None = None) -> Arrays:
        """As `Labelled` has it."""
        kept = _evenly(self.labels, first)
        return replace(self, pixels=self.pixels[kept], labels=self.labels[kept])

    def part(self, first: int, last: int, size: int, skipped: Skipped) -> tuple[Bytes, Indices]:  # noqa: ARG002
        """As `Labelled` has it; there is nothing here that cannot be read."""
        pixels = np.broadcast_to(self.pixels[first:last], (*self.pixels[first:last].shape[:3], 3))
        if pixels.shape[1:3] != (size, size):
            scaled = [Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS) for image in pixels]
            pixels = np.stack([np.asarray(image) for image in scaled]) if scaled else pixels[:, :size, :size]
        return np.ascontiguousarray(pixels), np.arange(len(self))[first:last]


_MARKS: Final = {
    "cifar-10-batches-py": "CIFAR10",
    "cifar-100-python": "CIFAR100",
    "MNIST/raw": "MNIST",
    "FashionMNIST/raw": "FashionMNIST",
    "KMNIST/raw": "KMNIST",
    "stl10_binary": "STL10",
    "train_32x32.mat": "SVHN",
    "test_32x32.mat": "SVHN",
    "extra_32x32.mat": "SVHN",
}
"""What torchvision leaves in its root, and its class for that."""


def _of_torchvision(path: Path) -> tuple[Path, str] | None:
    """Root and class of the dataset that lies in a folder, or in which the folder lies; None if there is none.

    Raises:
        Refused: there are several.
    """
    path = path.absolute()
    found = set()
    for mark, kind in _MARKS.items():
        parts = PurePosixPath(mark).parts
        for depth in range(len(parts) + 1):  # how deep in the root it is
            inside = path.parts[len(path.parts) - depth :] == parts[:depth]
            if inside and os.path.exists(path.joinpath(*parts[depth:])):  # noqa: PTH110 - False for a name that cannot be
                found.add((path.parents[depth - 1] if depth else path, kind))
    if len(found) > 1:
        kinds = ", ".join(sorted(kind for _, kind in found))
        raise Refused(f"{path} holds several datasets ({kinds}): give the folder in it that has the files of one.")
    return found.pop() if found else None


def _read_torchvision(root: Path, kind: str, split: str | None) -> Arrays:
    """What torchvision has fetched, read by it: nothing is fetched here.

    The files of CIFAR are pickles: torchvision takes none but the published ones, of which it checks the digests before
    it opens any. Its class for MNIST would rather unpickle what its old versions left; it is kept from that.
    """
    from cem_core.models.torchvision_nets import import_torchvision

    splits = ["test", "train"]
    if kind == "SVHN":  # each has a file of its own
        splits = [name for name in ("test", "train", "extra") if (root / f"{name}_32x32.mat").exists()]
    if split is not None and split not in splits:
        raise Refused(f"{root} has the splits {', '.join(splits)}, not {split}: choose one of them.")
    split = split or splits[0]
    try:
        base = getattr(import_torchvision().datasets, kind)
    except Refused as error:
        raise Refused(f"{kind} is read by torchvision, which is missing or does not fit torch: install it.") from error
    own: dict[str, Any] = {}
    if kind.endswith("MNIST"):
        own["_check_legacy_exist"] = lambda _: False
    elif kind == "STL10":
        own["train_list"] = base.train_list[:2]  # without the gigabytes that have no labels
    which = {"split": split} if kind in ("STL10", "SVHN") else {"train": split == "train"}
    try:
        read = type(kind, (base,), own)(str(root), **which)
        pixels = np.asarray(read.data)
        labels = np.asarray(read.labels if "split" in which else read.targets, np.int64)
        names = map(str, range(10)) if kind == "SVHN" else read.classes
    except ImportError as error:
        raise Refused(f"{kind} cannot be read without scipy: pip install scipy.") from error
    except Exception as error:  # what numpy, scipy and torchvision make of a damaged file is nearly anything
        fetched = f"{root} does not hold {kind} as torchvision fetches it"
        raise Refused(f"{fetched}: a file is missing or changed; fetch it again.") from error
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    elif "split" in which:
        pixels = pixels.transpose(0, 2, 3, 1)
    classes = tuple(name.partition(" - ")[0] for name in names)  # 0 - zero
    whole = len(pixels) == len(labels) > 0 and pixels.dtype == np.uint8 and pixels.size > 0
    if not whole or labels.min() < 0 or labels.max() >= len(classes):
        raise Refused(f"{root} holds files of {kind} that do not fit together: fetch it again.")
    return Arrays(f"{kind} {split}", classes, pixels, labels)


def _is_folder(path: Path) -> bool:
    """Or else an ordinary file. Raises Refused if it is neither."""
    try:
        if path.is_dir():
            return True
        if path.is_file():
            return False
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}): check the path.") from error
    raise Refused(f"There is no folder or archive {path}: check the path.")


def _top(path: Path, images: list[PurePosixPath], split: str | None) -> PurePosixPath:
    """The folder that holds the class folders: below what all images share, and below the split."""
    top = PurePosixPath()
    while True:
        below = {image.parts[len(top.parts)] for image in images if image.is_relative_to(top)}
        splits = sorted(below & _SPLITS)
        if split in below:
            return top / str(split)
        if len(splits) > 1:
            has = f"{path} has the splits {', '.join(splits)}"
            raise Refused(f"{has}: choose one." if split is None else f"{has}, not {split}: choose one of them.")
        deeper = len(below) == 1 and all(len(image.parts) > len(top.parts) + 2 for image in images)
        if not deeper:
            break
        top /= below.pop()
    if split is not None:
        raise Refused(f"{path} has no split {split}: leave the split out, or give a folder that has it.")
    return top


def _walk(folder: Path, depth: int) -> Iterator[str]:
    """Paths of all files, as in an archive: relative, with slashes."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = folder / entry.name
                if entry.is_dir(follow_symlinks=False):
                    if depth < _DEPTH:
                        for below in _walk(path, depth + 1):
                            yield f"{entry.name}/{below}"
                elif entry.is_file(follow_symlinks=False) or path.is_file():  # False for a link that leads nowhere
                    yield entry.name
    except OSError as error:
        raise Refused(f"{folder} cannot be read ({error.strerror}): change its permissions.") from error


def _inside(name: str) -> str:
    """The path of a member, from the top of its archive."""
    return str(PurePosixPath(name.lstrip("/")))


def _is_name_of_image(file: str) -> bool:
    parts = PurePosixPath(file).parts
    return PurePosixPath(file).suffix.lower() in SUFFIXES and not any(part.startswith((".", "__")) for part in parts)


def _is_image(path: Path, member: tarfile.TarInfo) -> bool:
    """Links and devices are passed over: nothing is ever extracted, and nothing outside is ever read."""
    if not (member.isreg() and _is_name_of_image(member.name)):
        return False
    if member.size > MAX_MEMBER:
        raise Refused(f"{member.name} in {path} is larger than {MAX_MEMBER // 2**20} MB: take it out of the archive.")
    return True


@contextmanager
def _streamed(path: Path, *, checked: bool = False) -> Iterator[tarfile.TarFile]:
    """The archive, to be read from front to back. Raises Refused if it is none, or damaged; if checked, anywhere."""
    try:
        with _unpacked(path) as file, tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as archive:
            yield archive
            while checked and file.read(2**20):  # the checksum stands behind what tarfile reads
                pass
    except Refused:
        raise
    except _DAMAGE as error:
        raise Refused(f"{path} is not a tar archive, or damaged: fetch it again.") from error
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror or error}): check the file.") from error


def _unpacked(path: Path) -> IO[bytes]:
    """The bytes of the archive. tarfile takes a cut file for a whole one; a cut stream raises EOFError here."""
    with path.open("rb") as file:
        head = file.read(6)
        for magic, unpack in _UNPACK.items():
            if head.startswith(magic):
                unpacked: IO[bytes] = unpack(path)
                return unpacked
        file.seek(max(0, file.seek(0, os.SEEK_END) - tarfile.BLOCKSIZE))
        if file.read() != bytes(tarfile.BLOCKSIZE):  # what every whole archive ends with
            raise tarfile.ReadError("cut short")
    return path.open("rb")
