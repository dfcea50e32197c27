"""A recorded run split into its two parts: lens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cem_core.cli.options import check_same, points
from cem_core.cli.progress import progress_bar

if TYPE_CHECKING:
    from cem_core.messages import Device


_PIECE = 32
"""Points that go through the model at once, and that are read of a session at once."""
_SHOWN = 5
"""Steps of which there are maps: the start, the end, and what is between."""


@click.command()
@click.argument("session")
@click.option("--chain", type=int, default=1, show_default=True, help="From 1 on.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR")
def lens(session: str, chain: int, device: Device, out: Path) -> None:
    """Split the steps of SESSION, a recorded run, into their class part ∇f(x,y) and their marginal part ∇LSE(x).

    Writes the norms and the cosine of the two, and of the drift that each preset would make of them, as lens.csv,
    lens.svg and lens.png; and both parts at five steps as maps, in which zero is mid-grey.

    \b
    cem-explorer lens "2026-03-01 12.00.00 TA" --out parts
    """
    import msgspec
    import numpy as np

    from cem_core import checkpoints, sessions, writing
    from cem_core.messages import Refused
    from cem_core.probes.classes import check_classes
    from cem_core.probes.lens_report import MADE_BY, RECORD, LensReport
    from cem_core.probes.measuring import measure
    from cem_core.probes.requests import Lens, Subject
    from cem_core.probes.results import Note, Split
    from cem_core.session import Session

    recorded = Session.open(sessions.resolve(session), budget=sessions.settings().memory)
    start = recorded.start
    steps = points(recorded, chain)
    check_classes(start.checkpoint)
    subject = Subject(start.spec.checkpoint, start.spec.choices, device)
    check_same(checkpoints.load(subject.reference, device, choices=subject.choices)[1], start.checkpoint)
    out = out.expanduser()
    writing.claim(out, RECORD, MADE_BY)
    label = start.labels[chain - 1]
    shown = np.unique(np.linspace(0, len(steps) - 1, _SHOWN).round().astype(int))
    report = LensReport(steps, [steps[i] for i in shown])
    with progress_bar("splitting", len(steps)) as advance:
        for first in range(0, len(steps), _PIECE):
            try:
                pixels = np.stack([recorded[i].pixels[chain - 1] for i in steps[first : first + _PIECE]])
            except OSError as error:
                raise Refused(str(error)) from error
            for answer in measure(Lens(subject, pixels, label, first, _PIECE)):
                if isinstance(answer, Note):
                    click.echo(f"Note: {answer.says}", err=True)
                elif isinstance(answer, Split):
                    report.add(answer)
                    advance(len(answer.cosine))
    target = start.checkpoint.classes[label]
    report.write(
        out,
        f"{start.checkpoint.name}, {start.spec.sampler.name}, {start.names[chain - 1]} → {target}",
        chain - 1,
        {
            "run": start.spec.id,
            "checkpoint": start.checkpoint.name,
            "sha256": start.checkpoint.sha256,
            "sampler": msgspec.to_builtins(start.spec.sampler),
            "chain": chain,
            "target": target,
            "steps": len(steps),
        },
    )
