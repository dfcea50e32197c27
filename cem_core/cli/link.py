"""Runs of several models in step: link."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.options import (
    assuming,
    beginning,
    chosen,
    classifiers,
    export_choices,
    exporting,
    referring,
    stepping,
)
from cem_core.cli.progress import progress_bar
from cem_core.cli.runs import begins, begun, laid_out, write_export

if TYPE_CHECKING:
    from cem_core.images import Bytes
    from cem_core.linking import Crossing
    from cem_core.probes.requests import Linked
    from cem_core.session import Session


_RECORD, _TABLE, _SHEET = "link.json", "transfer.csv", "sheet.png"
_MADE_BY = "cem-explorer link"
_SHOWN = 5
"""Rows of the sheet: the start, the end, and what is between."""
_SIDE = 128
"""Pixels that an image on the sheet has at least."""


@click.command()
@beginning
@referring
@click.option("--checkpoint", "references", multiple=True, metavar="NAME|FILE",
              help="Repeatable, up to four; the first tells the targets.  [default: bundled classifiers]")  # fmt: skip
@assuming
@stepping
@exporting
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR")
def link(
    images: tuple[Path, ...],
    targets: tuple[str, ...],
    start: str | None,
    gaussians: tuple[str, ...],
    count: int | None,
    references: tuple[str, ...],
    out: Path,
    **options: Any,
) -> None:
    """Move IMAGES with several models in step: the same starts, noise and budget.

    Each run is exported into a folder of its own in DIR, as morph does. transfer.csv says what every model sees in the
    images of every run; sheet.png shows the first chain of each.

    \b
    cem-explorer link cat.png --target dog --checkpoint A --checkpoint B --out both
    """
    import msgspec

    from cem_core import checkpoints, linking, writing
    from cem_core.images import png
    from cem_core.messages import Refused, RunSpec
    from cem_core.probes.classes import check_classes
    from cem_core.probes.requests import Linked, Subject

    subjects = []
    for reference in references or classifiers():
        choices = chosen(reference, options["assumed"])
        subject = Subject(reference, choices, options["device"], options["precision"])
        subjects.append((subject, checkpoints.load(reference, subject.device, subject.precision, choices)[1]))
    if any(checkpoint.classes for _, checkpoint in subjects):
        for _, checkpoint in subjects:
            check_classes(checkpoint)
    exported = export_choices(options)
    first = subjects[0][1]
    starts = begun(begins(images, start, gaussians), images, gaussians, first)
    sampler, chains, batch = laid_out(starts, targets, count, first, options)
    spec = RunSpec("", "", sampler, chains, reference=batch)
    request = Linked(linking.lay_out(spec, first.classes, subjects))
    out = out.expanduser()
    writing.claim(out, _RECORD, _MADE_BY)
    try:
        sessions, crossings, problems = _played(request)
    except Refused:
        with suppress(OSError):  # something lies in it
            out.rmdir()
        raise
    names = _apart([Path(checkpoint.path).stem for _, checkpoint in subjects])
    record = msgspec.to_builtins({"made_by": _MADE_BY, "runs": dict(zip(names, request.specs, strict=True))})
    writing.replace(out / _RECORD, msgspec.json.format(msgspec.json.encode(record)))
    writing.replace(out / _TABLE, _table(names, crossings).encode("utf-8", "replace"))
    writing.replace(out / _SHEET, png(_sheet(names, sessions)))
    for name, session in zip(names, sessions, strict=True):
        if session is not None:
            write_export(session, out / name, exported)
    if problems:
        raise Refused(" ".join(dict.fromkeys(problems)))


def _played(request: Linked) -> tuple[list[Session | None], list[Crossing], list[str]]:
    """The run of each model, None where it could not begin; what was crossed; and why runs failed."""
    from cem_core import linked
    from cem_core import sessions as recorded
    from cem_core.messages import Refused, RunEnd, RunStart, Step
    from cem_core.session import Session

    sessions: list[Session | None] = [None] * len(request.specs)
    crossings, problems = [], []
    with progress_bar("sampling", request.specs[0].sampler.steps) as advance:
        for round in linked.play(request):
            for i, message in enumerate(round.messages):
                session = sessions[i]
                if isinstance(message, RunStart):
                    sessions[i] = Session(message, budget=recorded.settings().memory // len(request.specs))
                elif isinstance(message, Step) and session is not None:
                    session.append(message)
                elif isinstance(message, RunEnd):
                    if session is not None:
                        session.finish(message)
                    if message.reason == "failed":
                        problems.append(message.detail)
            if any(isinstance(message, Step) and message.index for message in round.messages):
                advance(1)
            if round.crossing is not None:
                crossings.append(round.crossing)
    if not any(session is not None and len(session) for session in sessions):
        raise Refused(" ".join(dict.fromkeys(problems)))
    return [session if session is not None and len(session) else None for session in sessions], crossings, problems


def _apart(names: Sequence[str]) -> list[str]:
    """The same names, numbered where one stands twice."""
    return [
        name if names.count(name) == 1 else f"{name}-{1 + list(names[:i]).count(name)}" for i, name in enumerate(names)
    ]


def _table(names: Sequence[str], crossings: Sequence[Crossing]) -> str:
    """A row for each chain at each step, as each model sees it; numbers have the digits of their float32."""
    import csv
    import io

    import numpy as np

    file = io.StringIO(newline="")
    sheet = csv.writer(file)
    sheet.writerow(("step", "chain", "run_of", "judged_by", "energy", "log_p", "p"))
    for crossing in crossings:
        for chain in range(crossing.energy.shape[2]):
            for i, run in enumerate(names):
                for j, judge in enumerate(names):
                    energy, log_p = crossing.energy[i, j, chain], crossing.log_p[i, j, chain]
                    if np.isfinite(energy):
                        sheet.writerow((crossing.index, chain + 1, run, judge, energy, log_p, np.exp(log_p)))
    return file.getvalue()


def _sheet(names: Sequence[str], sessions: Sequence[Session | None]) -> Bytes:
    """The first chain of each run, a column each; white where it had ended."""
    import numpy as np

    from cem_core.images import enlarge, hwc, to_uint8
    from cem_core.sheet import draw, plain

    begun = [session for session in sessions if session is not None]
    start, last = begun[0].start, max(map(len, begun)) - 1
    shown = np.unique(np.linspace(0, last, _SHOWN).round().astype(int)).tolist()
    scale = -(-_SIDE // start.checkpoint.size)
    aims = start.aims(0)
    target = (plain(start.candidates[start.labels[0]]) or f"{start.labels[0]}") if aims else ""
    rows, columns = [], []
    for index in shown:
        steps = [s[index] if s and index < len(s) else None for s in sessions]
        known = [f"{np.exp(s.log_p[0]) if aims else s.energy[0]:.2f}" if s else "-" for s in steps]
        rows.append((f"step {index}", target, f"{'p' if aims else 'E(x)'} {', '.join(known)}"))
    for name, session in zip(names, sessions, strict=True):
        blank = np.ones_like(begun[0][0].pixels[0])
        pixels = [session[index].pixels[0] if session and index < len(session) else blank for index in shown]
        columns.append((plain(name)[:40], enlarge(hwc(to_uint8(np.stack(pixels))), scale)))
    return draw(f"{plain(start.names[0])}, {plain(start.spec.sampler.name)}", rows, columns)
