"""Energies around an image or along a recorded run: landscape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.options import assuming, check_same, chosen, points
from cem_core.cli.progress import progress_bar
from cem_core.cli.runs import class_index

if TYPE_CHECKING:
    from cem_core.messages import Checkpoint, Floats
    from cem_core.probes.requests import Subject


@click.command()
@click.argument("source", metavar="IMAGE|SESSION")
@click.option("--chain", type=int, default=1, show_default=True, help="Of a session, from 1 on.")
@click.option("--checkpoint", "reference", metavar="NAME|FILE",
              help="Default: that of the session, or the bundled robust model.")  # fmt: skip
@assuming
@click.option("--energy", type=click.Choice(["x", "xy"]), default="x", show_default=True, help="E(x) or E(x,y).")
@click.option("--label", metavar="CLASS",
              help="y.  [default: the target of the session, or what the model sees in the image]")  # fmt: skip
@click.option("--size", type=int, default=65, show_default=True, help="Points on each side.")
@click.option("--extent", type=float, help="Half the side, as an L2 distance.  [default: 1, or what suits the session]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random direction.")
@click.option("--batch", type=int, default=256, show_default=True, help="Points at once.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR")
def landscape(source: str, energy: str, label: str | None, out: Path, **options: Any) -> None:
    """Map energies on a square in image space.

    Around an IMAGE: away from the class that the model sees, and in a random direction. Along a SESSION, a recorded
    run: in the plane of the first two principal components of one chain. Writes landscape.png, landscape.csv and
    landscape.json.

    \b
    cem-explorer landscape cat.png --out around
    cem-explorer landscape "2026-03-01 12.00.00 TA" --energy xy --out along
    """
    import msgspec

    from cem_core import writing
    from cem_core.images import SUFFIXES
    from cem_core.probes.landscape_report import MADE_BY, RECORD, write
    from cem_core.probes.measuring import measure
    from cem_core.probes.requests import Landscape
    from cem_core.probes.results import Note, Plane, Survey
    from cem_core.recording import HEADER

    path = Path(source).expanduser()
    is_image = path.is_file() or (path.suffix.lower() in SUFFIXES and not path.is_dir())  # one may be missing
    of_run = not is_image or path.name == HEADER
    subject, checkpoint, pixels, y = _of_session(source, options) if of_run else _of_image(path, options)
    if label is not None:
        y = class_index(checkpoint, label)
    request = Landscape(
        subject, pixels, y, energy == "x", options["size"], options["extent"], options["batch"], options["seed"]
    )
    out = out.expanduser()
    writing.claim(out, RECORD, MADE_BY)
    plane, survey = None, None
    with progress_bar("measuring", request.size**2) as advance:
        for answer in measure(request):
            if isinstance(answer, Note):
                click.echo(f"Note: {answer.says}", err=True)
            elif isinstance(answer, Plane):
                plane = answer
            elif isinstance(answer, Survey):
                advance(answer.done - (survey.done if survey else 0))
                survey = answer
    assert plane is not None
    assert survey is not None
    of = "E(x)" if request.marginal else f"E(x,{'y' if y is None else checkpoint.classes[y]})"
    about = {
        "source": source,
        "checkpoint": checkpoint.name,
        "sha256": checkpoint.sha256,
        "subject": msgspec.to_builtins(subject),
        "energy": of,
        "seed": request.seed,
    }
    write(out, plane, survey, f"{of} of {checkpoint.name}, {Path(source).name}", about)


def _of_image(path: Path, options: dict[str, Any]) -> tuple[Subject, Checkpoint, Floats, None]:
    """The model, what is known of it, and the image (1, C, H, W) as it takes it."""
    from cem_core import bundle, images

    subject, checkpoint = _opened(options["reference"] or bundle.DEFAULT_MODEL, options)
    return subject, checkpoint, images.prepare(path, checkpoint.size, checkpoint.channels).pixels[None], None


def _of_session(source: str, options: dict[str, Any]) -> tuple[Subject, Checkpoint, Floats, int | None]:
    """The same with the points of a chain (T, C, H, W), and its label where the classes are those of the run."""
    import numpy as np

    from cem_core import checkpoints, sessions
    from cem_core.messages import Refused
    from cem_core.probes.classes import check_classes
    from cem_core.probes.requests import Subject
    from cem_core.session import Session

    session = Session.open(sessions.resolve(source), budget=0)
    start, chain = session.start, options["chain"]
    steps = points(session, chain)
    if options["reference"] is None:
        if options["assumed"]:
            raise click.UsageError("--assume is of a --checkpoint: that of a session is read as it was in the run.")
        subject = Subject(start.spec.checkpoint, start.spec.choices, options["device"])
        checkpoint = checkpoints.load(subject.reference, subject.device, choices=subject.choices)[1]
        check_same(checkpoint, start.checkpoint)
        check_classes(checkpoint)
    else:
        subject, checkpoint = _opened(options["reference"], options)
    pixels = np.empty((len(steps), *session[steps[0]].pixels.shape[1:]), np.float32)
    try:
        for i, step in enumerate(steps):
            pixels[i] = session[step].pixels[chain - 1]
    except OSError as error:
        raise Refused(str(error)) from error
    same = checkpoint.classes == start.checkpoint.classes
    return subject, checkpoint, pixels, start.labels[chain - 1] if same else None


def _opened(reference: str, options: dict[str, Any]) -> tuple[Subject, Checkpoint]:
    from cem_core import checkpoints
    from cem_core.probes.classes import check_classes
    from cem_core.probes.requests import Subject

    subject = Subject(reference, chosen(reference, options["assumed"]), options["device"])
    checkpoint = checkpoints.load(reference, subject.device, choices=subject.choices)[1]
    check_classes(checkpoint)
    return subject, checkpoint
