"""Models: models, inspect, convert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cem_core.cli.options import assuming, chosen

if TYPE_CHECKING:
    from cem_core.messages import Checkpoint


_LONG = 400
"""Characters of a fact that are shown, such as the names of a thousand classes."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def models(as_json: bool) -> None:
    """List the bundled models."""
    import msgspec

    from cem_core import bundle, checkpoints

    found = [checkpoints.load(name, "cpu")[1] for name in bundle.models()]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "architecture", "parameters", "classes", "input", "clean", box=None, pad_edge=False)
    for model in found:
        clean = next((fact.value.split(" clean")[0] for fact in model.facts if fact.what == "accuracy"), "")
        table.add_row(model.name, model.title, f"{model.parameters / 1e6:.1f} M", str(len(model.classes) or "none"),
                      f"{model.channels}×{model.size}×{model.size}", clean)  # fmt: skip
    Console().print(table)


@click.command()
@click.argument("file", metavar="NAME|FILE")
@assuming
@click.option(
    "--remember", is_flag=True, help="Apply what --assume says whenever this file is opened; alone: forget it."
)
@click.option("--check", is_flag=True, help="Classify the bundled images, which shows wrong preprocessing.")
@click.option("--json", "as_json", is_flag=True, help="One object, for programs.")
def inspect(file: str, assumed: tuple[str, ...], remember: bool, check: bool, as_json: bool) -> None:
    """Say what a checkpoint is, what was assumed of it, and what could be assumed instead."""
    import msgspec

    from cem_core import checkpoints
    from cem_core.messages import Fact

    choices = {} if remember and not assumed else chosen(file, assumed)
    found = checkpoints.inspect(file, choices)
    if remember:
        checkpoints.remember(found.sha256, choices)
    if check:
        checked = checkpoints.check(file, choices)
        why = "its classes are other ones" if found.classes else "it is an encoder"
        nothing = Fact("check", "the bundled images say nothing", "file", why=why)
        said = (checked.sentence.replace("under Details", "with --assume"),) if checked and checked.sentence else ()
        found = msgspec.structs.replace(
            found, facts=(*found.facts, checked.fact if checked else nothing), warnings=(*found.warnings, *said)
        )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _tell(found)


def _tell(found: Checkpoint) -> None:
    """A checkpoint on the terminal: facts and values, and muted beside them what is not simply so, and what else is."""
    from itertools import chain, repeat, zip_longest

    from rich.console import Console
    from rich.text import Text

    where = {"file": "", "name": "from the file name", "guess": "assumed", "choice": "chosen"}
    rows: list[tuple[str, str, str, str]] = []
    for fact in found.facts:
        sure = f"{100 * fact.confidence:.0f} % sure" if fact.confidence < 1 else ""
        note = ": ".join(part for part in (", ".join(filter(None, (where[fact.source], sure))), fact.why) if part)
        others = [option.replace(" ", "\N{NO-BREAK SPACE}") for option in fact.options if option != fact.value]
        rows.append((fact.what, fact.value, note, ", ".join(others) if fact.source != "file" else ""))
    if found.replay:
        rows.append(("replay buffer", f"{found.replay:,} images", "starts of chains: --start replay", ""))
    if found.heads:
        rows.append(("heads beside it", ", ".join(Path(head).name for head in found.heads), "--assume head=…", ""))
    if found.ignored:
        more = f" and {len(found.ignored) - 6:,} more" if len(found.ignored) > 6 else ""
        rows.append(("ignored", ", ".join(found.ignored[:6]) + more, "", ""))

    console = Console(highlight=False)
    console.print(Text(found.name, "bold"), overflow="fold")
    gives = f"{len(found.classes):,} classes" if found.classes else f"{found.features:,} features"
    sizes = f"{found.parameters / 1e6:.2f} M parameters, {found.channels}×{found.size}×{found.size} to {gives}"
    console.print(f"{found.title}, {sizes}", markup=False)
    console.print()
    width = max(len(what) for what, *_ in rows) + 3
    beside = min(20, max((len(value) for _, value, note, _ in rows if note), default=0)) + 2
    wide = max(20, console.width - width)
    for what, value, why, other in rows:
        values = _wrapped(value if len(value) <= _LONG else value[:_LONG] + " …", wide) or [""]
        notes = [(line, "dim") for line in _wrapped(why, max(20, wide - beside))]
        notes += [(line, "dim italic") for line in _wrapped(f"or {other}" if other else "", max(20, wide - beside))]
        if len(value) > beside - 2 and notes:
            notes = [("", "")] * len(values) + notes  # below it
        for first, (left, right) in zip(chain([what], repeat("")), zip_longest(values, notes), strict=False):
            line = Text(f"{first:<{width}}{left or '':<{beside}}").append(*(right or ("", "")))
            line.rstrip()
            console.print(line, soft_wrap=True)
    console.print(f"SHA-256  {found.sha256}", soft_wrap=True)
    if any(other for *_, other in rows):
        console.print()
        console.print("What is assumed can be said: --assume FACT=VALUE, and --remember keeps it.", style="dim")
    for warning in found.warnings:
        console.print()
        console.print(Text.assemble(("Note: ", "yellow"), warning))


def _wrapped(text: str, width: int) -> list[str]:
    """Lines that break at spaces; names with hyphens, and those with no-break spaces, stay whole where they fit."""
    import textwrap

    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in textwrap.wrap(text, width, break_on_hyphens=False)]


@click.command()
@click.argument("file", metavar="NAME|FILE")
@click.argument("out", type=click.Path(path_type=Path))
@assuming
def convert(file: str, out: Path, assumed: tuple[str, ...]) -> None:
    """Write a checkpoint as safetensors, with all that is known and assumed of it inside."""
    from cem_core import checkpoints

    found = checkpoints.convert(file, out, chosen(file, assumed))
    if sys.stdout is not None and sys.stdout.isatty():
        click.echo(f"{out}: {found.title}, {found.parameters / 1e6:.2f} M parameters")
