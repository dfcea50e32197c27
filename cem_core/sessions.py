"""The folder of all recorded runs: what is there, how much room it takes, and what is done with it.

Nothing is deleted or thinned out unless it is asked for, and what was deleted waits in a trash folder beside the rest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from platformdirs import user_config_path, user_data_path

from cem_core import recording, writing
from cem_core.messages import Reason, Refused, RunStart
from cem_core.recording import HEADER, Origin
from cem_core.session import BUDGET, Session

ELSEWHERE: Final = "CEM_EXPLORER_SESSIONS"
"""The environment variable that says where sessions are, whatever the settings say."""
_TRASH: Final = ".trash"
_LONGEST: Final = 60
"""Characters of a sampler's name in the name of a folder."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the person set. Raises Refused for a budget that is none."""

    folder: str = ""
    """Of all sessions; empty: the usual place."""
    disk: int = 20 * 10**9
    """Bytes that all sessions may take together before that is pointed out."""
    memory: int = BUDGET
    """Bytes of pixels of one session that are kept in memory."""

    def __post_init__(self) -> None:
        if self.disk < 0 or self.memory < 0:
            raise Refused("A budget must be 0 or more bytes.")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A session in a list."""

    folder: str
    """Its path."""
    name: str
    """Given by the person, else that of the folder."""
    size: int
    """Bytes on the disk."""
    created: str = ""
    steps: int = 0
    """After the start."""
    chains: int = 0
    model: str = ""
    sampler: str = ""
    end: Reason | None = None
    """None: it was interrupted, or is running elsewhere."""
    running: bool = False
    """Another program records it."""
    detail: str = ""
    """A sentence on its end, or why it cannot be opened."""
    damaged: bool = False
    origin: Origin | None = None
    thinned: int = 1

    @property
    def interrupted(self) -> bool:
        """It may be resumed: the program was killed, or the machine went out."""
        return self.end is None and not self.running and not self.damaged

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.damaged:
            return "damaged"
        return self.end or ("running elsewhere" if self.running else "interrupted")


# ---- where -----------------------------------------------------------------------------------------------------------


def settings() -> Settings:
    """What the person set, else the usual. A file that cannot be read counts as none."""
    try:
        return msgspec.json.decode(_settings_file().read_bytes(), type=Settings)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return Settings()


def save_settings(new: Settings) -> None:
    """Remember them. Raises Refused if they cannot be written."""
    file = _settings_file()
    with suppress(OSError):  # then the file says it better
        file.parent.mkdir(parents=True, exist_ok=True)
    writing.replace(file, msgspec.json.format(msgspec.json.encode(new)))


def root() -> Path:
    """The folder of all sessions, which may not be there yet."""
    set_elsewhere = os.environ.get(ELSEWHERE) or settings().folder
    return Path(set_elsewhere).expanduser() if set_elsewhere else user_data_path("cem-explorer") / "sessions"


def new_folder(start: RunStart) -> Path:
    """A place for a run that begins now: named after the time and the sampler, and not taken."""
    name = "".join(c if c.isalnum() or c in "-_+" else " " for c in start.spec.sampler.name)
    name = f"{datetime.now():%Y-%m-%d %H.%M.%S} {' '.join(name.split())[:_LONGEST]}".strip()
    return _free(root() / name)


def record(start: RunStart) -> Session:
    """A new session below the root. Raises Refused if it cannot be written."""
    return Session.record(new_folder(start), start, budget=settings().memory)


def resolve(reference: str) -> Path:
    """The folder of a session: a path, a name, or the unique beginning of one.

    Raises:
        Refused: there is none, or more than one.
    """
    path = Path(reference).expanduser()
    if (path / HEADER).is_file():
        return path
    if path.name == HEADER and path.is_file():
        return path.parent
    known = {Path(summary.folder): {Path(summary.folder).name, summary.name} for summary in found()}
    for fits in (str.__eq__, str.startswith):
        matching = [folder for folder, names in known.items() if any(fits(name, reference) for name in names)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            shown = ", ".join(folder.name for folder in matching[:4]) + (" …" if len(matching) > 4 else "")
            raise Refused(f"{reference} may be any of {shown}: say which.")
    raise Refused(f"There is no session called {reference} in {root()}.")


# ---- what is there ---------------------------------------------------------------------------------------------------


def found() -> list[Summary]:
    """All sessions, the newest first; a damaged one says what is wrong. Raises Refused if the root cannot be read."""
    summaries = [summarise(folder) for folder in _folders(root())]
    return sorted(summaries, key=lambda summary: (_moment(summary.created), summary.folder), reverse=True)


def summarise(folder: Path) -> Summary:
    """Of one session, whatever state it is in; its steps are not read."""
    told: dict[str, object] = {"folder": str(folder), "name": folder.name, "size": 0}
    try:
        header = recording.read_header(folder)
        start = header.start
        told |= {
            "name": header.name or folder.name, "created": header.created, "chains": len(start.spec.chains),
            "model": start.checkpoint.title or start.checkpoint.name, "sampler": start.spec.sampler.name,
            "origin": header.origin, "thinned": header.thinned,
        }  # fmt: skip
        steps, size, end = recording.overview(folder)
        told |= {"steps": max(0, steps - 1), "size": size + _size(folder, deep=False)}
        if end is not None:
            told |= {"end": end.reason, "detail": end.detail}
        else:
            told["running"] = recording.is_held(folder)
    except Refused as refused:
        told |= {"size": _size(folder, deep=True), "damaged": True, "detail": str(refused)}
    return msgspec.convert(told, Summary)


def over_budget(summaries: Iterable[Summary] | None = None) -> str:
    """A sentence if all sessions take more room than they may, with what could be deleted; empty: they do not."""
    summaries = list(found() if summaries is None else summaries)
    taken, may = sum(summary.size for summary in summaries), settings().disk
    if taken <= may:
        return ""
    names: list[str] = []
    for summary in reversed(summaries):  # the oldest first
        if taken > may and not summary.running:
            names.append(f"{summary.name} ({told_size(summary.size)})")
            taken -= summary.size
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    total = told_size(sum(summary.size for summary in summaries))
    could = f": {shown} could be deleted" if shown else ""
    return f"Sessions take {total} of the {told_size(may)} that they may{could}."


def told_size(nbytes: int) -> str:
    """Bytes as a person says them."""
    value = float(nbytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


# ---- what is done ----------------------------------------------------------------------------------------------------


def delete(folder: Path) -> str:
    """Move a session into the trash folder beside it: the name to `restore` it by.

    Raises:
        Refused: it is no session, a program records it, or it cannot be moved.
    """
    if not (folder / HEADER).is_file():
        raise Refused(f"{folder.name} is no session: it has no {HEADER}.")
    if recording.is_held(folder):
        raise Refused(f"{folder.name} is being recorded: stop that first.")
    return _move(folder, folder.parent / _TRASH).name


def deleted() -> list[str]:
    """Names of the sessions in the trash."""
    return sorted(folder.name for folder in _folders(root() / _TRASH))


def restore(name: str) -> Path:
    """Take a session back out of the trash: its folder. Raises Refused if it is not there, or cannot be moved."""
    if name not in deleted():
        raise Refused(f"There is no {name} in the trash.")
    return _move(root() / _TRASH / name, root())


def empty_trash() -> None:
    """Delete for good what was deleted. Raises Refused if a part cannot be."""
    try:
        if (root() / _TRASH).exists():
            shutil.rmtree(root() / _TRASH)
    except OSError as error:
        raise Refused(f"The trash cannot be emptied: {error.strerror or error}.") from error


def thin(folder: Path, every: int) -> int:
    """Keep the pixels of each so-many-th step and of the last, and all numbers; for good: how many are gone.

    Raises:
        Refused: it is no session, a program records it, or it was thinned out in a way that this does not continue.
    """
    session = Session.open(folder, write=True)
    assert session.recording is not None
    with closing(session):
        if not session.recording.writable:
            raise Refused(f"{folder.name} is read-only, or being recorded: it cannot be thinned out now.")
        before = session.recording.header.thinned
        if every < 2 or every % before:
            wanted = f"a multiple of {before}, as it was thinned out before" if before > 1 else "2 or more"
            raise Refused(f"One step in {every:,} cannot be kept: choose {wanted}.")
        drop = [step for step in range(len(session) - 1) if step % every and session.kept(step)]
        try:
            session.recording.thin(every, drop)
        except OSError as error:
            raise Refused(f"{folder.name} cannot be thinned out: {error.strerror or error}.") from error
        return len(drop)


def _settings_file() -> Path:
    return user_config_path("cem-explorer") / "sessions.json"


def _folders(place: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(place) if (Path(entry.path) / HEADER).is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Refused(f"{place} cannot be read: {error.strerror or error}.") from error


def _size(folder: Path, *, deep: bool) -> int:
    """Bytes of its files, those in folders of it only if told so: there is one for each step."""
    total = 0
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
                elif deep and entry.is_dir(follow_symlinks=False):
                    total += _size(Path(entry.path), deep=True)
    return total


def _moment(created: str) -> float:
    try:
        return datetime.fromisoformat(created).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _move(folder: Path, into: Path) -> Path:
    try:
        into.mkdir(parents=True, exist_ok=True)
        return folder.rename(_free(into / folder.name))
    except OSError as error:
        raise Refused(f"{folder.name} cannot be moved: {error.strerror or error}.") from error


def _free(place: Path) -> Path:
    """The place, or one beside it that is not taken."""
    free, number = place, 2
    while free.exists():
        free, number = place.with_name(f"{place.name} ({number})"), number + 1
    return free
