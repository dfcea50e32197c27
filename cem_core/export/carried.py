"""The settings of a run: `run.json`, and the same text inside every PNG, APNG and WebP; and how it is read back."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from cem_core import __version__, png, webp
from cem_core.events import Event, Kind, events
from cem_core.export.choices import Export
from cem_core.messages import Checkpoint, Refused, RunEnd, RunSpec, Sampler
from cem_core.recording import HEADER, read_header
from cem_core.session import Session

PROGRAM: Final = "cem-explorer"
FORMAT: Final = 1
LONGEST: Final = 16 * 2**20
"""Bytes of settings that are read."""


class Change(msgspec.Struct, frozen=True):
    step: int
    """The first that was made with it."""
    sampler: Sampler


class Frame(msgspec.Struct, frozen=True):
    """Which step of which chain a picture shows."""

    chain: int
    """From 1 on."""
    start: str
    target: str
    step: int
    energy: float | None
    """None: it was no finite number, which JSON cannot hold."""
    joint: float | None
    log_p: float | None
    distance: float | None
    events: tuple[Kind, ...] = ()


class RunFile(msgspec.Struct, frozen=True):
    """The settings of a run."""

    program: str
    version: str
    format: int
    spec: RunSpec
    changes: tuple[Change, ...]
    labels: tuple[int, ...]
    starts: tuple[str, ...]
    notes: tuple[str, ...]
    checkpoint: Checkpoint
    device: str
    versions: dict[str, str]
    end: RunEnd | None
    """None: still running."""
    steps: int
    """How many were recorded."""
    exported: Export | None = None
    events: tuple[Event, ...] = ()
    frame: Frame | None = None
    """None: not a picture of one step."""
    references: tuple[str, ...] = ()
    """Names of the images of an encoder's reference batch."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """What labels count: classes, or the images of the reference batch."""
        return self.checkpoint.classes or self.references

    def target(self, chain: int) -> str:
        """What it is sent to, or flees; empty where an encoder leaves it free."""
        aims = self.spec.aims(chain, encoder=not self.checkpoint.classes)
        return self.candidates[self.labels[chain]] if aims else ""


def settings(session: Session, choices: Export | None = None) -> RunFile:
    """All that is known of a run besides its steps."""
    start = session.start
    return RunFile(
        program=PROGRAM,
        version=__version__,
        format=FORMAT,
        spec=start.spec,
        changes=tuple(Change(step, sampler) for step, sampler in session.changes),
        labels=start.labels,
        starts=start.names,
        notes=start.notes,
        checkpoint=start.checkpoint,
        device=start.device,
        versions={"python": platform.python_version(), "numpy": np.__version__} | start.versions,
        end=session.end,
        steps=len(session),
        exported=choices,
        events=tuple(events(session)),
        references=start.references,
    )


def dump(value: Any, indent: int | None = None) -> bytes:
    """UTF-8; bytes in a path that are no text, which no JSON can hold, become question marks."""
    text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "replace")


def read(path: str | Path) -> RunFile | None:
    """The run that a file carries: a `run.json`, or a PNG, APNG or WebP that was exported. None: it carries none.

    Nothing of a picture is decoded, and no more than `LONGEST` bytes of settings are looked at.

    Raises:
        Refused: it does, but the settings are damaged, or of a newer version.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            text = png.text(file, LONGEST)
            if text is None:
                text = webp.text(file, LONGEST)
            if text is None and path.suffix.lower() == ".json":
                file.seek(0)
                text = file.read(LONGEST + 1)
    except OSError as error:
        raise Refused(f"{path.name} cannot be read ({error.strerror or error}): choose another file.") from error
    except ValueError as error:
        raise Refused(f"{path.name} carries settings of a run that cannot be read: {error}.") from error
    return None if text is None else _understood(text, path.name)


def session_of(run: RunFile, root: Path) -> Path | None:
    """The folder below `root` in which a run was recorded, if it is still there."""
    try:
        folders = sorted(folder for folder in root.iterdir() if (folder / HEADER).is_file())
    except OSError:
        return None
    for folder in folders:
        try:
            if read_header(folder).start.spec.id == run.spec.id:
                return folder
        except Refused:
            continue
    return None


def _understood(text: bytes, name: str) -> RunFile:
    damaged = f"{name} carries settings of a run that cannot be read"
    if len(text) > LONGEST:
        raise Refused(f"{damaged}: they are longer than {LONGEST // 2**20} MiB.")
    try:
        told = msgspec.json.decode(text)
        if not isinstance(told, dict) or told.get("program") != PROGRAM:
            raise Refused(f"{damaged}: they are not those of CEM Explorer.")
        version = told.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise Refused(f"{name} was exported by a newer CEM Explorer: update to restore its run.")
        run = msgspec.convert(told, RunFile)
    except Refused:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:160].rstrip(".")
        raise Refused(f"{damaged} ({said}).") from error
    chains = len(run.spec.chains)
    if not len(run.labels) == len(run.starts) == len(run.notes) == chains:
        raise Refused(f"{damaged}: they are of {chains} chains, and not all of these are described.")
    if run.steps < 0 or any(not 0 < change.step < max(1, run.steps) for change in run.changes):
        raise Refused(f"{damaged}: a change of the sampler is at a step that was not recorded.")
    return run
