"""Training: train."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.progress import progress_bar

if TYPE_CHECKING:
    from cem_core.training.progress import Epoch


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Gets the checkpoints, a log, and what it takes to go on.")  # fmt: skip
@click.option("--data", metavar="PATH", help="Instead of the path that the recipe names.")
@click.option("--resume", is_flag=True, help="Go on with what is in DIR, to the weights it would have had.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def train(recipe: Path, out: Path, data: str | None, resume: bool, device: Any) -> None:
    """Train a classifier by RECIPE, a TOML file; Ctrl-C saves, and --resume goes on.

    \b
    cem-explorer train assets/recipes/cifar10-robust-l2.toml --data DATA --out training
    """
    import msgspec

    from cem_core.training import recipe as recipes
    from cem_core.training.loop import train
    from cem_core.training.progress import Began, Ended, Epoch, Progress

    wanted = recipes.read(recipe)
    if data is not None:
        wanted = msgspec.structs.replace(wanted, data=msgspec.structs.replace(wanted.data, path=data))
    with _interrupts() as asked, progress_bar(wanted.name, None) as advance:
        for word in train(wanted, out, lambda: not asked, device, resume=resume):
            if isinstance(word, Began):
                at = f", from step {word.first:,}" if word.first else ""
                size = f"{word.parameters / 1e6:.2f} M parameters"
                click.echo(f"{word.name}: {word.images:,} images, {word.held:,} held out, {size}, {word.steps:,} steps"
                           f"{at}, on {word.device}")  # fmt: skip
                total = word.steps
            elif isinstance(word, Progress):
                advance(_Done(word.step, total))
            elif isinstance(word, Epoch):
                click.echo(_told(word))
            elif isinstance(word, Ended) and word.reason == "stopped":
                click.echo(f"Saved after {word.step:,} steps; the same command with --resume goes on.", err=True)
                raise click.exceptions.Exit(130)


class _Done:
    """As an export's progress."""

    def __init__(self, done: int, total: int) -> None:
        self.done, self.total = done, total


def _told(word: Epoch) -> str:
    said = f"epoch {word.epoch}: loss {word.loss:.3f}"
    if word.clean is not None and word.robust is not None:
        norm = {"l2": "L2", "linf": "L∞"}[word.norm]
        said += f", clean {100 * word.clean:.1f} %, robust {100 * word.robust:.1f} % at {norm} {word.eps:.3g}"
    return f"{said}, {word.seconds / 60:.0f} min"


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that is no longer empty once somebody pressed Ctrl-C; a second time ends the program as usual."""
    asked: list[int] = []

    def note(number: int, _: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
