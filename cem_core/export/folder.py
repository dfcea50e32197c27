"""The folder of an export: made beside its place and renamed, so that it is there or it is not."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from cem_core.export.carried import PROGRAM
from cem_core.export.choices import KINDS
from cem_core.frames import Lost
from cem_core.messages import Refused

RECORD: Final = "run.json"

_FOLDERS: Final = re.compile(r"frames(/chain-\d+[^/]*)?")
_FILES: Final = re.compile(
    "|".join((r"frames/chain-\d+[^/]*/step-\d+\.png", *map(re.escape, (RECORD, *(k.file for k in KINDS.values())))))
)
_LITTER: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""What file browsers leave behind in any folder."""
_LONGEST_RECORD: Final = 64 * 2**20
"""Bytes of a `run.json` that are read."""
_LOCK: Final = "lock"

_INSIDE: Final = "choose a new folder inside it."


def destination(out: str | Path) -> Path:
    """The real path of a folder that may be written: new, empty, or an earlier export. Nothing is left there.

    Raises:
        Refused: it holds something else, or cannot be written or replaced.
    """
    if not str(out) or "\0" in str(out):
        raise Refused("The export needs a folder: give its path.")
    with suppress(RuntimeError):  # nobody of that name: then it is a folder that begins with ~
        out = Path(out).expanduser()
    with plainly(Path(out)):
        folder = Path(os.path.realpath(out))
    with plainly(folder):
        if _exists(folder):
            _check_replaceable(folder)
            _check_ours(folder)
        parent = next(parent for parent in folder.parents if _exists(parent))
        if not parent.is_dir():
            raise Refused(f"{parent} is a file, not a folder: choose another place for the export.")
        with tempfile.TemporaryDirectory(prefix=".cem-explorer-", dir=parent):
            pass  # asking for permissions says little: a disk may be read-only, and root may do anything
    return folder


def _exists(path: Path) -> bool:
    """Unlike Path.exists, a name that is too long or a parent that may not be entered is an error."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _check_replaceable(folder: Path) -> None:
    """Raises Refused if the folder cannot be renamed, or a shell would be left standing in what was deleted."""
    if os.path.ismount(folder):
        raise Refused(f"{folder} is a disk of its own and cannot be replaced by an export: {_INSIDE}")
    with suppress(FileNotFoundError):  # the current directory is gone already
        if Path(os.path.realpath(os.curdir)).is_relative_to(folder):
            raise Refused(f"{folder} is or holds the current directory and cannot be replaced: {_INSIDE}")


def _check_ours(folder: Path) -> None:
    """Raises Refused unless the folder is empty or holds an export and nothing else."""
    if not folder.is_dir():
        raise Refused(f"{folder} is a file, not a folder: choose another name.")
    names = {entry.name for entry in folder.iterdir()} - _LITTER
    if names and not _made_by_us(folder / RECORD):
        raise Refused(f"{folder} is not empty and was not made by CEM Explorer: choose another folder.")
    if other := next(_others(folder, folder), None):
        raise Refused(f"{folder} also holds {other}, which is not part of an export: choose another folder.")


def _others(folder: Path, top: Path) -> Iterator[str]:
    """What lies below that no export writes; a link, or a folder with the name of a file, is none of ours."""
    for path in folder.iterdir():
        name = path.relative_to(top).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) and _FOLDERS.fullmatch(name):
            yield from _others(path, top)
        elif not (stat.S_ISREG(mode) and (_FILES.fullmatch(name) or path.name in _LITTER)):
            yield name


def _made_by_us(file: Path) -> bool:
    try:
        if not stat.S_ISREG(file.lstat().st_mode):  # a pipe or a device might never end
            return False
        with file.open("rb") as opened:
            found = json.loads(opened.read(_LONGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("program") == PROGRAM


@contextmanager
def made_beside(out: Path) -> Iterator[Path]:
    """A new hidden folder, which takes the place of `out` if all goes well and is removed if not."""
    missing = [parent for parent in out.parents if not _exists(parent)]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _tidy(out)
        with (
            tempfile.TemporaryDirectory(prefix=_partial(out), dir=out.parent) as temporary,
            FileLock(Path(temporary) / _LOCK),  # held as long as somebody writes here
        ):
            made = Path(temporary) / "made"
            made.mkdir()  # with the usual permissions; the temporary one is for its owner alone
            yield made
            _replace(out, made, _earlier(out, Path(temporary)))
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


def _partial(out: Path) -> str:
    """What the names of the hidden folders begin with in which an export to `out` is made."""
    return f".{out.name[:40]}.partial-"


def _earlier(out: Path, partial: Path) -> Path:
    """Where the export before waits while one that was made in `partial` takes its place."""
    return out.with_name(f".{out.name[:40]}.earlier-{partial.name[-8:]}")


def _tidy(out: Path) -> None:
    """Put away what an export to the same place left behind when the program was killed."""
    for partial in [path for path in out.parent.iterdir() if path.name.startswith(_partial(out))]:
        if not (partial / _LOCK).is_file():
            continue
        try:
            lock = FileLock(partial / _LOCK)
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue  # it is being written
        earlier = _earlier(out, partial)
        if _exists(earlier) and not _exists(out):  # killed between the two renames
            earlier.rename(out)
        shutil.rmtree(earlier, ignore_errors=True)
        lock.release()
        shutil.rmtree(partial, ignore_errors=True)


def _replace(out: Path, made: Path, earlier: Path) -> None:
    """Move `made` to `out`. What is there waits as `earlier` until that is done, and comes back if it fails."""
    if not _exists(out):
        made.rename(out)
        return
    _check_ours(out)  # again: it may have been filled meanwhile
    _take_after(made, out)
    try:
        out.rename(earlier)
        made.rename(out)
    except BaseException:
        if _exists(earlier) and not _exists(out):
            earlier.rename(out)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _take_after(made: Path, earlier: Path) -> None:
    """Give one folder the owner and mode of another, as far as that is permitted; its owner can always write."""
    found = earlier.stat()
    with suppress(OSError):
        os.chown(made, found.st_uid, found.st_gid)
    with suppress(OSError):
        made.chmod(stat.S_IMODE(found.st_mode) | stat.S_IRWXU)


@contextmanager
def plainly(out: Path) -> Iterator[None]:
    """An OSError, said in a sentence."""
    try:
        yield
    except Lost as error:
        raise Refused(f"{error} Nothing was exported: choose a range without it.") from error
    except OSError as error:
        sentence = {
            errno.ENOSPC: "The disk is full",
            errno.EDQUOT: "Your share of the disk is full",
            errno.EACCES: f"{out.parent} cannot be written to",
            errno.EPERM: f"{out.parent} cannot be written to",
            errno.EROFS: f"{out.parent} is on a read-only disk",
            errno.ENOTDIR: f"A part of {out.parent} is a file, not a folder",
            errno.ENAMETOOLONG: f"The name {out.name[:40]}… is too long",
        }.get(error.errno or 0, f"{out} cannot be written ({error.strerror or error})")
        raise Refused(f"{sentence}: nothing was exported; choose another folder or make room.") from error
