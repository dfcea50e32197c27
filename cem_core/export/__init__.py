"""A recorded run → files: pictures, animations, videos, curves and settings.

Everything is made in a hidden folder beside the wanted one and renamed at the end: an export is there or it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from cem_core.export import animations, curves, stills, video
from cem_core.export.carried import RunFile, dump, read, session_of, settings
from cem_core.export.choices import (
    DEFAULT,
    FORMATS,
    GAINS,
    KINDS,
    LAYOUTS,
    LONGEST_HOLD,
    Export,
    Format,
    Group,
    Kind,
    Progress,
)
from cem_core.export.choices import Layout as LayoutName
from cem_core.export.fidelity import Fidelity, measure
from cem_core.export.folder import RECORD, destination, made_beside, plainly
from cem_core.export.layout import Layout
from cem_core.messages import Refused, Step
from cem_core.session import Session

__all__ = [
    "DEFAULT", "FORMATS", "GAINS", "KINDS", "LAYOUTS", "LONGEST_HOLD", "Export", "Fidelity", "Format", "Group", "Kind",
    "Layout", "LayoutName", "Progress", "RunFile", "destination", "export", "measure", "missing", "read",
    "session_of", "settings",
]  # fmt: skip

_OF_NUMBERS: Final[tuple[Format, ...]] = ("csv", "svg", "plot")


def missing(format: Format) -> str:
    """A sentence if a format cannot be written here; else empty."""
    return video.HOW_TO_INSTALL if KINDS[format].group == "video" and not video.installed() else ""


def export(session: Session, out: str | Path, choices: Export | None = None) -> Generator[Progress, None, None]:
    """Write what was recorded so far into the folder `out`, a step at a time.

    Checks at once and writes as it is iterated. Closing it before the last `Progress` (done == total) is a cancel:
    that, an error or Ctrl-C leaves nothing behind, and an earlier export as it was.

    Raises:
        Refused: the choices do not fit the run, `out` cannot be written or is not ours, or the disk is full.
    """
    choices = choices or Export()
    steps = choices.steps(len(session))
    for format in choices.formats:
        if sentence := missing(format):
            raise Refused(sentence)
    shown = _shown(session, steps)
    if not shown and set(choices.formats) - set(_OF_NUMBERS):
        raise Refused("The pixels of these steps were thinned out: choose others, or their numbers and curves alone.")
    if choices.choosing("animation") + choices.choosing("video"):
        _check_size(Layout(session, choices, shown[:1]), choices)
    if "sheet" in choices.formats:
        stills.sheet_scale(session, choices, shown)
    return _export(session, destination(out), choices, steps)


def _shown(session: Session, steps: list[int]) -> list[int]:
    """Those of which the pixels were not thinned out."""
    return [index for index in steps if session.kept(index)]


def _check_size(layout: Layout, choices: Export) -> None:
    """Raises Refused if a format has no room for such frames."""
    width, height = layout.size
    for format in choices.choosing("animation") + choices.choosing("video"):
        most = animations.LARGEST_SIDES.get(format, video.LARGEST_SIDE if KINDS[format].group == "video" else 2**31)
        if max(width, height) > most:
            raise Refused(
                f"{KINDS[format].title} cannot have {width:,}×{height:,} pixels, but {most:,} a side: "
                "choose a smaller scale, or another format."
            )


def _export(session: Session, out: Path, choices: Export, steps: list[int]) -> Generator[Progress, None, None]:
    record = settings(session, choices)
    text = dump(record)
    total = len(steps) + 2
    shown = _shown(session, steps)
    with plainly(out):
        with made_beside(out) as folder:
            with ExitStack() as files:
                pictures: list[Callable[[Step], None]] = []
                numbers: list[Callable[[int], None]] = []
                if "png" in choices.formats:
                    pictures.append(stills.frames(folder / KINDS["png"].file, record))
                if moving := choices.choosing("animation") + choices.choosing("video"):
                    pictures.append(_moving(files, folder, moving, session, choices, shown, text))
                if "csv" in choices.formats:
                    table = curves.table(folder / KINDS["csv"].file, record, session.numbers)
                    numbers.append(files.enter_context(table))
                for done, index in enumerate(steps):
                    yield Progress(done, total, f"Step {index}")
                    for put_down in numbers:
                        put_down(index)
                    if pictures and session.kept(index):
                        step = session[index]
                        for write in pictures:
                            write(step)
            yield Progress(total - 2, total, "Drawings")
            if "sheet" in choices.formats:
                (folder / KINDS["sheet"].file).write_bytes(stills.sheet(record, session, shown))
            if "svg" in choices.formats:
                (folder / KINDS["svg"].file).write_bytes(curves.svg(session, record, steps, text))
            if "plot" in choices.formats:
                drawn = curves.picture(session, record, steps)
                (folder / KINDS["plot"].file).write_bytes(stills.encoded(drawn, text))
            yield Progress(total - 1, total, "Settings")
            (folder / RECORD).write_bytes(dump(record, indent=2))
        yield Progress(total, total, "Done")


def _moving(
    files: ExitStack,
    folder: Path,
    formats: tuple[Format, ...],
    session: Session,
    choices: Export,
    steps: list[int],
    text: bytes,
) -> Callable[[Step], None]:
    """Animations and videos, which show the same frames."""
    layout = Layout(session, choices, steps)
    seconds = choices.seconds(len(steps))
    shows = [
        files.enter_context(
            (animations.WRITERS | video.WRITERS)[format](
                folder / KINDS[format].file, layout.size, seconds, choices.loop, text
            )
        )
        for format in formats
    ]

    def write(step: Step) -> None:
        frame = layout.frame(step)
        for show in shows:
            show(frame)

    return write
