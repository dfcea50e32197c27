"""The paper's table: table."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.evaluate import Course, judge, judging, real
from cem_core.cli.options import assuming, chosen, spreading, where
from cem_core.cli.progress import progress_bar

if TYPE_CHECKING:
    from cem_core.evaluation.report import Report
    from cem_core.evaluation.requests import Table
    from cem_core.evaluation.rows import Model


@click.command()
@click.option("--checkpoint", "references", multiple=True, metavar="NAME|FILE",
              help="Repeatable.  [default: the bundled robust model and the bundled encoder]")  # fmt: skip
@assuming
@click.option("--rows", metavar="LIST",
              help="Of TA, Langevin, CS, RCS for models with classes, PGD-unsup, MaxEnt for encoders, any other "
              "sampler, and starts, which are not moved.  [default: these, as far as there are models]")  # fmt: skip
@click.option("--sweep", is_flag=True, help="Add b = −1, −0.5, 0, 0.5, 1 at a = 1 without noise, of each classifier.")
@click.option("--start", type=click.Choice(["gaussian", "overall", "noise"]),
              help="Of all rows.  [default: gaussian, and of encoders overall too]")  # fmt: skip
@click.option("--steps", type=int, help="Of all rows.  [default: of each sampler's own]")
@judging
@click.option("--num", type=int, default=2000, show_default=True, help="Samples of each row and seed.")
@click.option("--seeds", default="0,1,2", show_default=True, metavar="LIST")
@click.option("--batch", type=int, default=100, show_default=True, help="Samples that are made at once.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
              help="Of the sampled models.")  # fmt: skip
@spreading
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Gets table.md, .csv, .json, .svg and .png after each row and seed, and what they are of; the same "
              "command again goes on with what is there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="An object, for programs.")
def table(out: Path, as_json: bool, **options: Any) -> None:
    """The table of the paper: how near the samples of each sampler come to real images, over several seeds.

    \b
    cem-explorer table --reference DATA --split test --extractor FILE --out table
    cem-explorer table --reference DATA --split test --extractor FILE --rows starts --sweep --checkpoint A --out sweep
    """
    from cem_core.evaluation.report import MARKDOWN, Report
    from cem_core.evaluation.results import Plan, Scores
    from cem_core.evaluation.tables import table as answers

    request, workers, out = _request(options), where(options), out.expanduser()
    report, course = Report(request), Course()
    try:
        with progress_bar("evaluating", None) as advance, closing(answers(request, out, where=workers)) as told:  # type: ignore[type-var]
            for row, seed, answer in told:
                report.add(row, seed, answer)
                if isinstance(answer, Plan):
                    course.cell = f"{report.measured + 1} of {report.expected}: {request.rows[row].name}, seed {seed}"
                if course.took(answer) and not isinstance(answer, Scores):
                    advance(course)
    except KeyboardInterrupt:
        click.echo(f"Interrupted after {report.measured:,} of {report.expected:,} cells, which are in "
                   f"{out / MARKDOWN}: the same command goes on from there.", err=True)  # fmt: skip
        click.get_current_context().exit(130)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(report.record()).decode())
    else:
        _echo(report)


def _request(options: dict[str, Any]) -> Table:
    from cem_core.evaluation.requests import Table
    from cem_core.evaluation.rows import rows

    names = [] if options["rows"] is None else [name.strip() for name in options["rows"].split(",")]
    lines = rows(_models(options), names, start=options["start"], sweep=options["sweep"], steps=options["steps"])
    settings = {name: options[name] for name in ("num", "batch", "compared")}
    return Table(rows=lines, reference=real(options), extractor=judge(options), seeds=_seeds(options), **settings)


def _seeds(options: dict[str, Any]) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in options["seeds"].split(","))
    except ValueError:
        raise click.BadParameter(f"{options['seeds']!r} is not a list of numbers.", param_hint="--seeds") from None


def _models(options: dict[str, Any]) -> list[Model]:
    from cem_core import bundle, checkpoints
    from cem_core.evaluation.rows import Model
    from cem_core.probes.requests import Subject

    def opened(reference: str) -> Model:
        subject = Subject(reference, chosen(reference, options["assumed"]), options["device"], options["precision"])
        known = checkpoints.inspect(reference, subject.choices)
        return Model(known.name, subject, not known.classes)

    if not options["references"]:
        others = [opened(name) for name in bundle.models() if name != bundle.DEFAULT_MODEL]
        return [opened(bundle.DEFAULT_MODEL), *[model for model in others if model.encoder][:1]]
    models = [opened(reference) for reference in dict.fromkeys(options["references"])]
    names = [model.name for model in models]
    return [model if names.count(model.name) == 1 else model._replace(name=f"{model.name} ({number + 1})")
            for number, model in enumerate(models)]  # fmt: skip


def _echo(report: Report) -> None:
    """A table on a terminal, plain lines elsewhere, and below it what came nearest and what to know of the numbers."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(highlight=False)
    one = report.any
    assert one is not None
    of = f"{one.num:,} samples of each row and seed against {one.reference:,} real images"
    heads, *lines = report.lines()
    if sys.stdout is not None and sys.stdout.isatty():
        table = Table(*(Column(Text(head)) for head in heads), box=None, pad_edge=False, title=of, title_justify="left")
        for column in table.columns[2:]:
            column.justify = "right"
        for line in lines:
            table.add_row(*map(Text, line))
        console.print(table)
    else:
        for name, model, frechet, *_ in lines:
            click.echo(f"{name}  {model}  {report.names['frechet']} {frechet}  ({of})")
    for verdict in report.verdicts():
        console.print(verdict, markup=False, soft_wrap=True)
    for note in report.notes:
        console.print(Text.assemble(("note  ", "dim"), note), soft_wrap=True)
