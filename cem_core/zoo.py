"""RobustBench's list of published models, and their files.

The list is read from the package's own sources without importing them: they bring a dozen packages along, of versions
that rarely fit, only to build networks that are built here anyway. Nothing is downloaded before it is asked for.
"""

from __future__ import annotations

import ast
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from platformdirs import user_data_path

from cem_core.messages import Refused

HOW_TO_INSTALL: Final = (
    "RobustBench is not installed: pip install 'cem-explorer[robustbench]' adds its list of published models."
)
_FILES: Final = {"cifar10": "cifar10.py", "cifar100": "cifar100.py", "imagenet": "imagenet.py"}
_THREATS: Final = {"linf": "Linf", "l2": "L2", "common_corruptions": "corruptions"}
"""Names of the lists in those files → names of the threat models."""


@dataclass(frozen=True)
class Entry:
    """A published model."""

    dataset: str
    threat: str
    name: str
    drive: str
    """What Google Drive calls its file."""

    @property
    def path(self) -> Path:
        """Where its file is, or would be."""
        return user_data_path("cem-explorer") / "robustbench" / self.dataset / self.threat / f"{self.name}.pt"

    @property
    def downloaded(self) -> bool:
        return self.path.exists()


def installed() -> bool:
    """Whether the list is there, and what downloads its files."""
    return _folder() is not None and find_spec("gdown") is not None


def entries() -> list[Entry]:
    """All models that are one file, as the installed package lists them.

    Raises:
        Refused: the package is not installed, or its list cannot be read.
    """
    folder = _folder()
    if folder is None:
        raise Refused(HOW_TO_INSTALL)
    try:
        return [
            Entry(dataset, threat, name, drive)
            for dataset, file in _FILES.items()
            for threat, name, drive in _listed(ast.parse((folder / file).read_text(encoding="utf-8")))
        ]
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused(f"RobustBench's list cannot be read ({error}): install another version of it.") from error


def fetch(entry: Entry, watch: Callable[[float], None] | None = None) -> Path:
    """The file of a model; it is downloaded unless it is there.

    Args:
        watch: called while it comes, with 0 as its size is not told; may raise to end the download.

    Raises:
        Refused: it cannot be downloaded or written.
    """
    if entry.downloaded:
        return entry.path
    if find_spec("gdown") is None:
        raise Refused(HOW_TO_INSTALL)
    import gdown

    path = entry.path
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            gdown.download(id=entry.drive, output=_Watched(file, watch), quiet=True)
        with beside.open("rb") as file:
            begins = file.read(16).lstrip()
        if not begins or begins.startswith(b"<"):  # nothing, or a page that says why
            raise Refused(f"{entry.name} did not come: Google Drive may ask to wait when a file is much in demand.")
        beside.replace(path)
    except OSError as error:  # among them what requests raises
        if error.filename is not None or error.errno == errno.ENOSPC:
            raise Refused(f"{path} cannot be written ({error.strerror}): make room for it.") from error
        said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise Refused(f"{entry.name} could not be downloaded ({said}): look after the connection.") from error
    except (gdown.exceptions.FileURLRetrievalError, gdown.exceptions.FolderContentsMaximumLimitError) as error:
        raise Refused(f"{entry.name} could not be downloaded: Google Drive does not hand it out now.") from error
    finally:
        with suppress(OSError):
            beside.unlink()
    return path


class _Watched:
    """A file that is written, and asks now and then whether it should go on."""

    def __init__(self, file: Any, watch: Callable[[float], None] | None) -> None:
        self._file, self._watch = file, watch

    def write(self, data: bytes) -> int:
        if self._watch:
            self._watch(0.0)
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _folder() -> Path | None:
    """Where the package keeps its list; finding it imports nothing."""
    found = find_spec("robustbench")
    places = list(found.submodule_search_locations or ()) if found else []
    folder = Path(places[0]) / "model_zoo" if places else None
    return folder if folder is not None and folder.is_dir() else None


def _listed(source: ast.Module) -> Iterator[tuple[str, str, str]]:
    """(threat, name, id) of `linf = OrderedDict([(name, {'gdrive_id': id, …}), …])` and its like."""
    for statement in source.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            threat = _THREATS.get(statement.targets[0].id)
            for pair in ast.walk(statement.value) if threat else ():
                if isinstance(pair, ast.Tuple) and len(pair.elts) == 2:
                    name, about = pair.elts
                    drive = _drive(about) if isinstance(about, ast.Dict) else None
                    if threat and drive and isinstance(name, ast.Constant) and isinstance(name.value, str):
                        yield threat, name.value, drive


def _drive(about: ast.Dict) -> str | None:
    """The one file of a model; None for an ensemble, and for what is no file."""
    for key, value in zip(about.keys, about.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "gdrive_id" and isinstance(value, ast.Constant):
            return value.value if isinstance(value.value, str) else None
    return None
