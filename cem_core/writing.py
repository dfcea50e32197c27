"""Files are written beside their place and renamed: whoever looks finds the old one or the whole new one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cem_core.messages import Refused

BESIDE: Final = ".cem-explorer-"
"""What the folder begins with in which a file is written."""
_LONGEST_RECORD: Final = 64 * 2**20
"""Bytes of a record that are read."""


def replace(path: Path, data: bytes) -> None:
    """Put a file in place at once.

    Raises:
        Refused: it cannot be written, or the path leads to something else than a file.
    """
    with _beside(path) as made:
        made.write_bytes(data)  # with the usual permissions, which a temporary file has not
        made.replace(path)


def check(path: Path) -> None:
    """Raises Refused as `replace` would, before there is anything to write."""
    with _beside(path):
        pass  # asking for permissions says little: a disk may be read-only, and root may do anything


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Where a file is made that shall take the place of another."""
    try:
        if not path.name or (path.exists() and not path.is_file()):
            raise Refused(f"{path} cannot be written, being no ordinary file: choose another name.")
        with tempfile.TemporaryDirectory(prefix=BESIDE, dir=path.parent) as beside:
            yield Path(beside) / path.name
    except OSError as error:
        raise Refused(f"{path} cannot be written ({error.strerror or error}): choose another file.") from error


def claim(folder: Path, record: str, made_by: str, files: Collection[str] = ()) -> None:
    """Make a folder that is new, empty, or holds a record that was made by the same command.

    Args:
        files: all that will be written; then anything else may lie beside it.

    Raises:
        Refused: it holds something else, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = [path.name for path in folder.iterdir() if not files or path.name in files]
        if there and not _made_by(folder / record, made_by):
            what = f"holds a {there[0]} that" if files else "is not empty and"
            raise Refused(f"{folder} {what} was not made by {made_by}: choose another folder.")
    except OSError as error:
        raise Refused(f"{folder} cannot be used ({error.strerror or error}): choose another folder.") from error


def _made_by(record: Path, made_by: str) -> bool:
    if not record.is_file() or record.stat().st_size > _LONGEST_RECORD:
        return False
    try:
        found = json.loads(record.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("made_by") == made_by
