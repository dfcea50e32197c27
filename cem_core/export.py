"""A recorded run → files: PNG sequence, animation, contact sheet, curves and settings.

Everything is made in a hidden folder beside the wanted one and renamed at the end: an export is there or it is not.
"""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
import numpy as np

from cem_core import __version__, png
from cem_core.images import MAX_PIXELS, enlarge, hwc, tile, to_uint8
from cem_core.messages import Checkpoint, Refused, RunEnd, RunSpec, Sampler, Step
from cem_core.session import Session
from cem_core.sheet import draw, plain

Format = Literal["png", "apng", "sheet", "csv"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
PROGRAM: Final = "cem-explorer"

_FOLDERS: Final = re.compile(r"frames(/chain-\d+[^/]*)?")
_FILES: Final = re.compile(r"run\.json|morph\.png|sheet\.png|curves\.csv|frames/chain-\d+[^/]*/step-\d+\.png")
_LITTER: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""What file browsers leave behind in any folder."""
_LONGEST_RECORD: Final = 64 * 2**20
"""Bytes of a `run.json` that are read."""

_INSIDE: Final = "choose a new folder inside it."
_WIDE_ENOUGH: Final = 256
_ROOMY: Final = 16_000_000
"""Pixels that an automatic scale does not exceed."""
_SHEET_ROWS: Final = 64
_SHEET_COLUMNS: Final = 10


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to write. `run.json` is always written: it is how a folder is known to be ours.

    Raises:
        Refused: a choice is out of range.
    """

    formats: tuple[Format, ...] = FORMATS
    first: int = 0
    last: int | None = None
    """Inclusive; None: the last step recorded."""
    every: int = 1
    """Every how manieth step; the last is always included."""
    scale: int | None = None
    """Enlargement of animation and sheet, in whole pixels; None: a chain is 256 pixels wide where there is room."""
    fps: float = 20
    loop: bool = True

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise Refused(f"There is no format {unknown[0]}: choose from {', '.join(FORMATS)}.")
        if self.first < 0 or (self.last is not None and self.last < self.first):
            raise Refused(f"Steps {self.first} to {self.last} are no range: give a first step and a later last one.")
        if self.every < 1:
            raise Refused(f"Every how manieth step must be 1 or more, not {self.every}.")
        if self.scale is not None and not 1 <= self.scale <= 64:
            raise Refused(f"The scale must be between 1 and 64, not {self.scale}.")
        if not 0.1 <= self.fps <= 120:  # NaN is refused as well
            raise Refused(f"Frames per second must be a number between 0.1 and 120, not {self.fps:g}.")

    def steps(self, recorded: int) -> list[int]:
        """Indices of the steps to write. Raises Refused if the range is not among the recorded ones."""
        last = recorded - 1 if self.last is None else self.last
        if not recorded:
            raise Refused("There is nothing to export yet: run some steps first.")
        if self.first > last or last >= recorded:
            raise Refused(f"Steps {self.first} to {last} cannot be exported: steps 0 to {recorded - 1} are recorded.")
        chosen = list(range(self.first, last + 1, self.every))
        return chosen if chosen[-1] == last else [*chosen, last]


class Change(msgspec.Struct, frozen=True):
    step: int
    """The first that was made with it."""
    sampler: Sampler


class RunFile(msgspec.Struct, frozen=True):
    """The settings of a run: `run.json`, and the text inside each exported PNG."""

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


class Progress(msgspec.Struct, frozen=True):
    done: int
    total: int
    what: str


Writer: TypeAlias = Callable[[Step], None]


def settings(session: Session, choices: Export | None = None) -> RunFile:
    """All that is known of a run besides its steps."""
    start = session.start
    return RunFile(
        program=PROGRAM,
        version=__version__,
        format=1,
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
    )


def export(session: Session, out: str | Path, choices: Export | None = None) -> Generator[Progress, None, None]:
    """Write what was recorded so far into the folder `out`, a step at a time.

    Checks at once and writes as it is iterated. Closing it before the last `Progress` (done == total) is a cancel:
    that, an error or Ctrl-C leaves nothing behind, and an earlier export as it was.

    Raises:
        Refused: the choices do not fit the run, `out` cannot be written or is not ours, or the disk is full.
    """
    choices = choices or Export()
    steps = choices.steps(len(session))
    cell = session.start.checkpoint.size
    chains = len(session.start.labels)
    if "apng" in choices.formats:
        _scale(choices, cell, _square(chains), -(-chains // _square(chains)))
    if "sheet" in choices.formats:
        _scale(choices, cell, min(_SHEET_COLUMNS, len(steps)), min(_SHEET_ROWS, chains))
    return _export(session, destination(out), choices, steps)


def destination(out: str | Path) -> Path:
    """The real path of a folder that may be written: new, empty, or an earlier export. Nothing is left there.

    Raises:
        Refused: it holds something else, or cannot be written or replaced.
    """
    if not str(out) or "\0" in str(out):
        raise Refused("The export needs a folder: give its path.")
    with suppress(RuntimeError):  # nobody of that name: then it is a folder that begins with ~
        out = Path(out).expanduser()
    with _plainly(Path(out)):
        folder = Path(os.path.realpath(out))
    with _plainly(folder):
        if _exists(folder):
            _check_replaceable(folder)
            _check_ours(folder)
        parent = next(parent for parent in folder.parents if _exists(parent))
        if not parent.is_dir():
            raise Refused(f"{parent} is a file, not a folder: choose another place for the export.")
        with tempfile.TemporaryDirectory(prefix=".cem-explorer-", dir=parent):
            pass  # asking for permissions says little: a disk may be read-only, and root may do anything
    return folder


def _export(session: Session, out: Path, choices: Export, steps: list[int]) -> Generator[Progress, None, None]:
    record = settings(session, choices)
    total = len(steps) + 2
    with _plainly(out):
        with _made_beside(out) as folder:
            with ExitStack() as files:
                writers: list[Writer] = []
                if "png" in choices.formats:
                    writers.append(_frames(folder / "frames", record))
                if "apng" in choices.formats:
                    writers.append(files.enter_context(_animation(folder / "morph.png", record, len(steps))))
                if "csv" in choices.formats:
                    writers.append(files.enter_context(_curves(folder / "curves.csv", record)))
                for done, index in enumerate(steps):
                    yield Progress(done, total, f"Step {index}")
                    step = session[index]
                    for write in writers:
                        write(step)
            yield Progress(total - 2, total, "Contact sheet")
            if "sheet" in choices.formats:
                (folder / "sheet.png").write_bytes(_sheet(record, session, steps))
            yield Progress(total - 1, total, "Settings")
            (folder / "run.json").write_bytes(_json(record, indent=2))
        yield Progress(total, total, "Done")


# The folder ------------------------------------------------------------------------------------------------------


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
    if names and not _made_by_us(folder / "run.json"):
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
def _made_beside(out: Path) -> Iterator[Path]:
    """A new hidden folder, which takes the place of `out` if all goes well and is removed if not."""
    missing = [parent for parent in out.parents if not _exists(parent)]
    hidden = f".{out.name[:40]}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{hidden}.partial-", dir=out.parent) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()  # with the usual permissions; the temporary one is for its owner alone
            yield made
            _replace(out, made, out.with_name(f"{hidden}.earlier-{Path(temporary).name[-8:]}"))
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


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
def _plainly(out: Path) -> Iterator[None]:
    """An OSError, said in a sentence."""
    try:
        yield
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


# The files -------------------------------------------------------------------------------------------------------


def _json(value: Any, indent: int | None = None) -> bytes:
    """UTF-8; bytes in a path that are no text, which no JSON can hold, become question marks."""
    text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "replace")


def _target(record: RunFile, chain: int) -> str:
    return record.checkpoint.classes[record.labels[chain]]


def _folder_name(record: RunFile, chain: int) -> str:
    """chain-01-horse, whatever the class is called."""
    digits = max(2, len(str(len(record.labels))))
    slug = re.sub(r"[^a-z0-9]+", "-", plain(_target(record, chain)).lower())[:40].strip("-")
    return f"chain-{chain + 1:0{digits}}-{slug or f'class-{record.labels[chain]}'}"


def _finite(value: np.float32) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def _frames(folder: Path, record: RunFile) -> Writer:
    """A PNG for each step of each chain, at the model's own resolution."""
    shared = _json(record)[:-1]
    folders = [folder / _folder_name(record, chain) for chain in range(len(record.labels))]
    for path in folders:
        path.mkdir(parents=True)
    digits = max(4, len(str(record.steps - 1)))

    def write(step: Step) -> None:
        pixels = to_uint8(step.pixels).transpose(0, 2, 3, 1)
        for chain, path in enumerate(folders):
            frame = {
                "chain": chain + 1,
                "start": record.starts[chain],
                "target": _target(record, chain),
                "step": step.index,
                "energy": _finite(step.energy[chain]),
                "joint": _finite(step.joint[chain]),
                "log_p": _finite(step.log_p[chain]),
                "distance": _finite(step.distance[chain]),
            }
            text = shared + b', "frame": ' + _json(frame) + b"}"
            data = png.head(pixels[chain].shape, text) + png.still(pixels[chain]) + png.END
            (path / f"step-{step.index:0{digits}}.png").write_bytes(data)

    return write


def _square(chains: int) -> int:
    """Columns of a grid that is about square."""
    return math.ceil(math.sqrt(chains))


def _scale(choices: Export, cell: int, columns: int, rows: int) -> int:
    """How many pixels wide a pixel becomes. Raises Refused if the picture would be too large to be opened again."""
    scale = choices.scale
    if scale is None:
        scale = math.ceil(_WIDE_ENOUGH / cell)
        while scale > 1 and columns * rows * (cell * scale) ** 2 > _ROOMY:
            scale -= 1
    if columns * rows * (cell * scale) ** 2 > MAX_PIXELS:
        size = f"{columns * cell * scale:,}×{rows * cell * scale:,}"
        raise Refused(f"A picture of {size} pixels is too large: choose a smaller scale, or only PNGs and curves.")
    return scale


@contextmanager
def _animation(path: Path, record: RunFile, frames: int) -> Iterator[Writer]:
    """All chains in one grid, a frame for each step."""
    choices = record.exported or Export()
    chains, cell = len(record.labels), record.checkpoint.size
    columns = _square(chains)
    scale = _scale(choices, cell, columns, -(-chains // columns))
    written = 0

    def write(step: Step) -> None:
        nonlocal written
        grid = tile(hwc(to_uint8(step.pixels)), columns, gap=max(1, cell // 32))
        grid = enlarge(grid, scale)
        if not written:
            file.write(png.head(grid.shape, _json(record)) + png.animation(frames, loop=choices.loop))
        file.write(png.moving(grid, written, choices.fps))
        written += 1

    with path.open("wb") as file:
        yield write
        file.write(png.END)


@contextmanager
def _curves(path: Path, record: RunFile) -> Iterator[Writer]:
    """A row for each chain at each step; numbers have the digits that bring the same float32 back."""
    classes = record.checkpoint.classes
    columns = ["step", "chain", "start", "target", "energy", "joint_energy", "log_p", "p", "gradient_norm", "distance"]
    columns += ["top1", "a", "b", "step_size", "noise", "norm", "radius", *(f"logit_{name}" for name in classes)]

    def write(step: Step) -> None:
        sampler = step.sampler
        numbers = zip(
            step.energy, step.joint, step.log_p, np.exp(step.log_p), step.gradient_norm, step.distance, strict=True
        )
        for chain, row in enumerate(numbers):
            logits = step.logits[chain]
            named = [step.index, chain + 1, record.starts[chain], _target(record, chain)]
            row_of_sampler = [sampler.a, sampler.b, sampler.step_size, sampler.noise, sampler.norm, sampler.radius]
            table.writerow([*named, *map(str, row), classes[logits.argmax()], *row_of_sampler, *map(str, logits)])

    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        yield write


def _sheet(record: RunFile, session: Session, steps: list[int]) -> bytes:
    """A row for each chain, up to ten evenly spaced steps as columns."""
    shown = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, _SHEET_COLUMNS).round().astype(int))]
    chains = range(min(_SHEET_ROWS, len(record.labels)))
    scale = _scale(record.exported or Export(), record.checkpoint.size, len(shown), len(chains))
    last = session[shown[-1]]
    rows = [
        (
            plain(record.starts[i]) if plain(Path(record.starts[i]).stem) else f"chain {i + 1}",
            plain(_target(record, i)) or f"class {record.labels[i]}",
            f"p {np.exp(last.log_p[i]):.2f}",
        )
        for i in chains
    ]
    columns = [
        (f"step {index}", enlarge(hwc(to_uint8(session[index].pixels[: len(chains)])), scale)) for index in shown
    ]
    title = f"{plain(record.checkpoint.name)}, {plain(record.spec.sampler.name)}"
    if len(chains) < len(record.labels):
        title += f", {len(chains)} of {len(record.labels)} chains"
    whole = draw(title, rows, columns)
    return png.head(whole.shape, _json(record)) + png.still(whole) + png.END
