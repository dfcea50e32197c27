"""Measurements of models: probe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.options import attack, comparing, data, fraction, notes, spreading, subjects, where
from cem_core.cli.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from cem_core.cluster import Where
    from cem_core.probes.report import Report
    from cem_core.probes.requests import Accuracy
    from cem_core.probes.results import Light


_EPS = {"l2": "0,0.25,0.5,1", "linf": "0,1/255,2/255,4/255,8/255"}
_COLOURS = {"unknown": "dim", "doubt": "yellow", "alarm": "red"}


@click.command()
@comparing
@click.option(
    "--eps",
    metavar="LIST",
    help="Radii, such as 0,1/255,8/255; 0 is clean.  [default: 0,0.25,0.5,1; Linf: 0,1/255,2/255,4/255,8/255]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write results.csv, results.json, curve.svg and curve.png; the same command again goes on with what is there.",
)
@spreading
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def probe(references: tuple[str, ...], out: Path | None, as_json: bool, **options: Any) -> None:
    """Accuracy against ε of one to four models under an attack.

    An image counts if it is classified rightly as it is and wherever the attack ended.

    \b
    cem-explorer probe --checkpoint A --checkpoint B --data DIR --norm Linf --attack apgd-ce --out results
    """
    from cem_core.probes.report import Report

    request, workers = _request(references, options), where(options)
    report, stopped = Report(), False
    try:
        _measure(request, report, out, workers)
    except KeyboardInterrupt:
        stopped = True
    finally:  # what is known is written, whatever ends it
        if out and report.measured:
            report.write(out)
    if report.measured:
        if as_json:
            _echo_json(report)
        else:
            _echo(report)
    if stopped:
        how = "the same command goes on from there" if out else "with --out DIR the same command would go on from there"
        click.echo(f"Interrupted at {report.measured:,} of {report.expected:,} judgements: {how}.", err=True)
        click.get_current_context().exit(130)


def _request(references: tuple[str, ...], options: dict[str, Any]) -> Accuracy:
    norm = options["norm"].lower()
    eps = tuple(
        fraction("--eps", part) for part in (_EPS[norm] if options["eps"] is None else options["eps"]).split(",")
    )

    from cem_core.probes.requests import Accuracy

    return Accuracy(subjects(references, options), data(options), attack(options), eps, options["batch"])


def _measure(request: Accuracy, report: Report, out: Path | None, where: Where) -> None:
    """The report gets all answers; what is in the folder already is not measured again."""
    from cem_core.probes.measuring import measure
    from cem_core.probes.report import JOURNAL, RESULTS
    from cem_core.probes.results import Cell

    answers = measure(request, journal=out / JOURNAL if out else None, where=where)
    report.add(next(answers))
    if out:
        report.files.claim(out)
        if not (out / RESULTS).exists():  # by which the folder is known as ours
            report.write(out)
    with progress_bar("attacking", report.expected) as advance:
        for answer in answers:
            report.add(answer)
            if isinstance(answer, Cell):
                advance(len(answer.labels))


# What is said of it -----------------------------------------------------------------------------------------------


def _echo_json(report: Report) -> None:
    import msgspec

    from cem_core.probes.report import attack_told

    attack, objects = report.request.attack, []
    for number, name in enumerate(report.names):
        for point in report.points(number):
            seen = (*report.lights.get(number, ()), *point.lights)
            objects.append(
                {
                    "name": name,
                    "norm": attack.norm,
                    "eps": point.eps,
                    "correct": point.correct,
                    "total": point.total,
                    "accuracy": point.accuracy,
                    "low": point.band.low,
                    "high": point.band.high,
                    "attack": attack_told(attack),
                    "lights": {light.name: light.state for light in seen if light.state != "fine"},
                }
            )
    click.echo(msgspec.json.encode(objects).decode())


def _echo(report: Report) -> None:
    """A table on a terminal, plain lines elsewhere, and below it what to know of the numbers."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    norm = report.request.attack.norm
    on_screen = sys.stdout is not None and sys.stdout.isatty()
    if on_screen:
        console.print(_table(report))
    else:
        for number, name in enumerate(report.names):
            for p in report.points(number):
                click.echo(f"{name}  {norm} {p.eps:.4g}  {100 * p.accuracy:5.1f} %  ({p.correct} of {p.total})")
    for what, light in _lit(report, worst_only=not on_screen):
        said = f"{what}: {light.says} {light.do}".rstrip()
        console.print(Text.assemble((f"{light.state}  ", _COLOURS[light.state]), said), soft_wrap=True)
    for note in notes(report):
        console.print(Text.assemble(("note  ", "dim"), note), soft_wrap=True)


def _table(report: Report) -> Table:
    from rich.table import Table
    from rich.text import Text

    from cem_core.probes.report import attack_told, told
    from cem_core.probes.results import worst

    attack = report.request.attack
    table = Table(
        "model", "ε", "accuracy", "95 % band", "images", box=None, pad_edge=False,
        title=f"{attack_told(attack)}, {attack.norm}", title_justify="left",
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for number, name in enumerate(report.names):
        for row, point in enumerate(report.points(number)):
            band = f"{100 * point.band.low:.1f} … {100 * point.band.high:.1f} %"
            lights = (*report.lights.get(number, ()), *point.lights)
            colour = _COLOURS.get(worst(lights), "")
            table.add_row(Text("" if row else name), told(point.eps, attack.norm),
                          Text(f"{100 * point.accuracy:.1f} %", colour), band, f"{point.total:,}")  # fmt: skip
    return table


def _lit(report: Report, *, worst_only: bool) -> Iterator[tuple[str, Light]]:
    """What each light that is not fine is about, and the light; what is merely unknown may be left out."""
    from cem_core.probes.report import told

    for number, name in enumerate(report.names):
        where: dict[Light, list[str]] = {light: [] for light in report.lights.get(number, ())}
        for point in report.points(number):
            for light in point.lights:
                where.setdefault(light, []).append(told(point.eps, report.request.attack.norm))
        for light, radii in where.items():
            if light.state != "fine" and not (worst_only and light.state == "unknown"):
                yield f"{name}, ε {', '.join(radii)}" if radii else name, light
