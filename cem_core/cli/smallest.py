"""The smallest change that flips models on an image: smallest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.options import assuming, chosen, classifiers
from cem_core.cli.progress import progress_bar

if TYPE_CHECKING:
    from cem_core.messages import Checkpoint
    from cem_core.probes.results import Flip


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--checkpoint", "references", multiple=True, metavar="NAME|FILE",
              help="Repeatable: up to four models.  [default: the bundled classifiers]")  # fmt: skip
@assuming
@click.option("--label", metavar="CLASS", help="What the image shows.  [default: what each model sees in it]")
@click.option("--norm", "norms", multiple=True, type=click.Choice(["L2", "Linf"], case_sensitive=False),
              help="Repeatable.  [default: both]")  # fmt: skip
@click.option("--steps", type=int, default=40, show_default=True, help="Of each attack.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random start.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
              help="Rounded gradients make a model look more robust than it is.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Write smallest.json, energies.csv, the adversarial images and their differences.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def smallest(image: Path, references: tuple[str, ...], out: Path | None, as_json: bool, **options: Any) -> None:
    """The smallest ε found that flips each model on an image: an upper bound, as a better attack may need less.

    \b
    cem-explorer smallest cat.png --checkpoint A --checkpoint B --label cat --out flips
    """
    import msgspec

    from cem_core import writing
    from cem_core.probes.measuring import measure
    from cem_core.probes.requests import Smallest, Subject
    from cem_core.probes.results import Flip
    from cem_core.probes.smallest_report import MADE_BY, RECORD, rows, write
    from cem_core.probes.subjects import open_subject

    request = Smallest(
        tuple(
            Subject(reference, chosen(reference, options["assumed"]), options["device"], options["precision"])
            for reference in references or classifiers()
        ),
        str(image.expanduser()),
        label=options["label"],
        norms=tuple(dict.fromkeys(norm.lower() for norm in options["norms"])) or ("l2", "linf"),
        steps=options["steps"],
        seed=options["seed"],
    )
    checkpoints = [open_subject(subject).checkpoint for subject in request.subjects]
    if out:
        out = out.expanduser()
        writing.claim(out, RECORD, MADE_BY)
    flips = []
    with progress_bar("attacking", len(request.subjects) * len(request.norms)) as advance:
        for answer in measure(request):
            if isinstance(answer, Flip):
                flips.append(answer)
                advance(1)
    if out:
        write(out, request, checkpoints, flips)
    if as_json:
        click.echo(msgspec.json.encode(rows(request, checkpoints, flips)).decode())
    else:
        _echo(checkpoints, flips)


def _echo(checkpoints: Sequence[Checkpoint], flips: Sequence[Flip]) -> None:
    """A line for each model and norm."""
    from cem_core.messages import NORMS

    lines = [
        (checkpoints[flip.subject].name, NORMS[flip.norm], *_told(checkpoints[flip.subject].classes, flip))
        for flip in flips
    ]
    name, eps = max(len(line[0]) for line in lines), max(len(line[2]) for line in lines)
    for line in lines:
        click.echo(f"{line[0]:<{name}}  {line[1]:<2}  {line[2]:<{eps}}  {line[3]}")


def _told(classes: Sequence[str], flip: Flip) -> tuple[str, str]:
    """The radius, in grey levels too where they mean something, and what became of the image."""
    label, seen = classes[flip.label], classes[flip.seen]
    if not math.isfinite(flip.eps):
        return "none", f"{label}; no attack succeeded within {flip.failed:.3g}"
    if flip.eps == 0:
        return "0", f"{label}, but seen as {seen} as it is"
    radius = f"{flip.eps:.3f}" if flip.norm == "l2" else f"{flip.eps:.4f} ({255 * flip.eps:.2f}/255)"
    return f"ε ≤ {radius}", f"{label} → {seen}"
