"""Heads for encoders: fit-head."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from cem_core.cli.options import assuming, chosen
from cem_core.cli.progress import progress_bar


@click.command("fit-head")
@click.option("--checkpoint", "reference", required=True, metavar="NAME|FILE", help="An encoder.")
@assuming
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="DIR|ARCHIVE",
              help="Class folders, or a dataset of torchvision.")  # fmt: skip
@click.option("--split", help="Such as train, where the data has splits.")
@click.option("--num", type=int, help="Images, evenly over the classes. Default: all.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE",
              help="Default: beside the encoder, where it is found.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One object, for programs.")
def fit_head(
    reference: str, assumed: tuple[str, ...], data: Path, split: str | None, num: int | None, out: Path | None,
    device: Any, as_json: bool,
) -> None:  # fmt: skip
    """Fit a linear head on the frozen features of an encoder, which makes a classifier of it.

    \b
    cem-explorer fit-head --checkpoint encoder.safetensors --data cifar10.tar.xz --split train
    cem-explorer probe --checkpoint encoder.safetensors --assume head=encoder.linear.safetensors --data …
    """
    import msgspec

    from cem_core.fitting import Fitted, Seen, fit_head
    from cem_core.probes.requests import Data, Subject
    from cem_core.probes.results import Note

    subject = Subject(reference, chosen(reference, assumed), device)
    fitted = None
    with progress_bar("looking", None) as advance:
        for word in fit_head(subject, Data(str(data), split, num), out):
            if isinstance(word, Seen):
                advance(word)
            elif isinstance(word, Note):
                click.echo(f"Note: {word.says}", err=True)
            else:
                fitted = word
    assert isinstance(fitted, Fitted)
    if as_json:
        click.echo(msgspec.json.encode(fitted).decode())
        return
    right = f"{100 * fitted.accuracy:.1f} % of the {fitted.images:,} images that it was fitted to"
    click.echo(f"{fitted.path}: {len(fitted.classes):,} classes, {right}")
    if fitted.name:
        click.echo(f"To use it: --checkpoint {shlex.quote(reference)} --assume {shlex.quote(f'head={fitted.name}')}")
    else:
        click.echo("It is offered once it lies beside the encoder, under the encoder's name and .linear.safetensors.")
