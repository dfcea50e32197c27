"""How likely a model finds images: energies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.options import attack, comparing, data, fraction, notes, subjects
from cem_core.cli.progress import progress_bar

if TYPE_CHECKING:
    from cem_core.probes.energy_report import EnergyReport
    from cem_core.probes.requests import Energies


_EPS = {"l2": "0.5", "linf": "8/255"}


@click.command()
@comparing
@click.option(
    "--eps",
    metavar="NUMBER",
    help="Radius of the attack, such as 8/255; 0: no adversarial images.  [default: 0.5; Linf: 8/255]",
)
@click.option(
    "--generated",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Images that each model generates: by RCS from class Gaussians, else by Langevin from noise.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write energies.csv, energies.json, energies.svg and energies.png.",
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def energies(references: tuple[str, ...], out: Path | None, as_json: bool, **options: Any) -> None:
    """Energies E(x) of clean, adversarial and generated images, and how well they tell these apart.

    AUROC is the probability that an image of a kind has a higher E(x), that is, is found less likely, than a clean one.

    \b
    cem-explorer energies --checkpoint A --checkpoint B --data DIR --eps 0.5 --generated 200 --out energies
    """
    from cem_core.probes.energy_report import EnergyReport
    from cem_core.probes.measuring import measure
    from cem_core.probes.results import Sample

    answers, report, stopped = measure(_request(references, options)), EnergyReport(), False
    report.add(next(answers))
    if out:
        report.files.claim(out)
    try:
        with progress_bar("measuring", report.expected) as advance:
            for answer in answers:
                report.add(answer)
                if isinstance(answer, Sample):
                    advance(len(answer.energy))
    except KeyboardInterrupt:
        stopped = True
    finally:  # what is known is written, whatever ends it
        if out and report.measured:
            report.write(out)
    if report.measured:
        _echo_json(report) if as_json else _echo(report)
    if stopped:
        click.echo(f"Interrupted at {report.measured:,} of {report.expected:,} energies.", err=True)
        click.get_current_context().exit(130)


def _request(references: tuple[str, ...], options: dict[str, Any]) -> Energies:
    norm = options["norm"].lower()
    eps = fraction("--eps", _EPS[norm] if options["eps"] is None else options["eps"])

    from cem_core.probes.requests import Energies

    return Energies(
        subjects(references, options), data(options), attack(options), eps, options["generated"], batch=options["batch"]
    )


def _echo_json(report: EnergyReport) -> None:
    import msgspec

    objects = [
        {
            "name": name,
            **row._asdict(),
            "lights": {light.name: light.state for light in report.lights.get(number, ()) if light.state != "fine"},
        }
        for number, name in enumerate(report.names)
        for row in report.rows(number)
    ]
    click.echo(msgspec.json.encode(objects).decode())


def _echo(report: EnergyReport) -> None:
    """A table on a terminal, plain lines elsewhere, and below it what to know of the numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cem_core.probes.energy_report import direction

    console = Console(highlight=False)
    on_screen = sys.stdout is not None and sys.stdout.isatty()
    table = Table("model", "images", "", "mean E(x)", "ΔE", "AUROC", "", box=None, pad_edge=False)
    for column in table.columns[2:6]:
        column.justify = "right"
    for number, name in enumerate(report.names):
        for place, row in enumerate(report.rows(number)):
            clean = row.kind == "clean"
            change, auroc = ("", "") if clean else (f"{row.change:+.3f}", f"{row.auroc:.3f}")
            if on_screen:
                model = Text("" if place else name)
                table.add_row(model, row.kind, f"{row.images:,}", f"{row.mean:.3f}", change, auroc, direction(row))
            else:
                said = "" if clean else f"  ΔE {change}  AUROC {auroc}  ({direction(row)})"
                click.echo(f"{name}  {row.kind}  {row.images}  mean E(x) {row.mean:.3f}{said}")
    if on_screen:
        console.print(table)
        console.print("E(x) of two models is not comparable.", style="dim")
    colours = {"doubt": "yellow", "alarm": "red"}
    for number, name in enumerate(report.names):
        for light in report.lights.get(number, ()):
            if light.state in colours:
                said = f"{name}: {light.says} {light.do}".rstrip()
                console.print(Text.assemble((f"{light.state}  ", colours[light.state]), said), soft_wrap=True)
    for note in notes(report):
        console.print(Text.assemble(("note  ", "dim"), note), soft_wrap=True)
