"""Labelled images: a folder with a subfolder for each class, or a tar archive of one."""

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
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from cem_core.images import SUFFIXES, Bytes, prepare, prepare_file, to_uint8
from cem_core.messages import Refused

MAX_MEMBER: Final = 64 * 2**20
"""Bytes of one image in an archive."""
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


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled images, sorted by path; nothing is decoded until they are read."""

    path: Path
    classes: tuple[str, ...]
    """In sorted order: a label is an index into them."""
    files: tuple[str, ...]
    """(N,) paths inside the folder or archive."""
    labels: NDArray[np.int64]
    """(N,)"""

    def __len__(self) -> int:
        return len(self.files)

    def take(self, first: int | None = None, every: int = 1) -> Dataset:
        """A part with the same classes: every k-th file of each class, then the first n, evenly across classes."""
        if every < 1 or (first is not None and first < 1):
            raise Refused("Take at least 1 image, and every 1st or more.")
        rank = np.empty(len(self), np.int64)  # of each file within its class
        for label in range(len(self.classes)):
            members = np.flatnonzero(self.labels == label)
            rank[members] = np.arange(len(members))
        kept = np.flatnonzero(rank % every == 0)
        kept = np.sort(kept[np.lexsort((self.labels[kept], rank[kept]))][:first])
        return replace(self, files=tuple(self.files[i] for i in kept), labels=self.labels[kept])

    def read(self, size: int) -> Iterator[tuple[int, Bytes]]:
        """(index, (size, size, 3)) for each image, in the order of storage: an archive is streamed once.

        Raises:
            Refused: an image or the archive is damaged.
        """
        if _is_folder(self.path):
            for index, file in enumerate(self.files):
                pixels = prepare(self.path / file, size).pixels
                yield index, to_uint8(pixels).transpose(1, 2, 0)
            return
        wanted = {file: index for index, file in enumerate(self.files)}
        with _streamed(self.path) as archive:
            for member in archive:
                index = wanted.pop(_inside(member.name), -1) if _is_image(self.path, member) else -1
                if index < 0:
                    continue
                data = archive.extractfile(member)
                assert data is not None, "links are passed over"
                pixels = prepare_file(io.BytesIO(data.read()), self.files[index], size).pixels
                yield index, to_uint8(pixels).transpose(1, 2, 0)
                if not wanted:
                    return
        raise Refused(f"{self.path} has changed since it was opened: open it again.")

    def arrays(self, size: int) -> tuple[Bytes, NDArray[np.int64]]:
        """(N, size, size, 3) and (N,), in the order of `files`. Raises Refused like `read`."""
        pixels = np.empty((len(self), size, size, 3), np.uint8)
        for index, image in self.read(size):
            pixels[index] = image
        return pixels, self.labels


def open_dataset(path: str | Path, split: str | None = None) -> Dataset:
    """Find the labelled images of a folder or archive (.tar, .tar.gz, .tar.bz2, .tar.xz).

    Args:
        path: holds `<class>/<image>`, or `<split>/<class>/<image>`; folders around these do not matter, and links to
            folders are not followed.
        split: "train", "test", …; must be named where there are several.

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
    images = [image for image in images if image.is_relative_to(top) and len(image.parts) > depth + 1]
    if not images:
        raise Refused(f"{path} has no images in class folders: it should hold <class>/<image>.")
    classes = sorted({image.parts[depth] for image in images})
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[image.parts[depth]] for image in images], np.int64)
    return Dataset(path, tuple(classes), tuple(map(str, images)), labels)


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
