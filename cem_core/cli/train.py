"""Training: train."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.progress import progress_bar

if TYPE_CHECKING:
    from cem_core.training.progress import Began, Epoch, Progress


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Gets the checkpoints, a log, and what it takes to go on.")  # fmt: skip
@click.option("--data", metavar="PATH", help="Instead of the path that the recipe names.")
@click.option("--resume", is_flag=True, help="Go on with what is in DIR, to the weights it would have had.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def train(recipe: Path, out: Path, data: str | None, resume: bool, device: Any) -> None:
    """Train a classifier or an encoder by RECIPE, a TOML file; Ctrl-C or SIGTERM saves, and --resume goes on.

    \b
    cem-explorer train assets/recipes/cifar10-robust-l2.toml --data DATA --out training
    torchrun --nproc-per-node 4 -m cem_core.cli train RECIPE --out training     on several GPUs
    """
    import msgspec

    from cem_core.training import recipe as recipes
    from cem_core.training.loop import train
    from cem_core.training.progress import Began, Ended, Epoch, Progress
    from cem_core.training.ranks import speaks

    wanted = recipes.read(recipe.expanduser())
    if data is not None:
        wanted = msgspec.structs.replace(wanted, data=msgspec.structs.replace(wanted.data, path=data))
    told: _Told | None = None
    bar = progress_bar(wanted.name, None) if speaks() else nullcontext(lambda _: None)
    with _interrupts() as asked, bar as advance:
        for word in train(wanted, out.expanduser(), lambda: not asked, device, resume=resume):
            match word:
                case Began():
                    told = _Told(word, wanted.optimiser.batch, time.monotonic())
                    click.echo(told.begun())
                    if not word.classes:
                        click.echo("the images have no classes: no accuracy is measured, and none are held out")
                    elif word.held and isinstance(wanted.objective, recipes.Contrastive):
                        click.echo("clean and robust are those of a linear head on its features, fitted for that alone")
                    advance(told)
                case Progress():
                    assert told is not None
                    told = told.at(word)
                    advance(told)
                case Epoch():
                    assert told is not None
                    told = told.after(word)
                    click.echo(told.epoch(word))
                case Ended(reason="stopped"):
                    click.echo(f"Saved after {word.step:,} steps; the same command with --resume goes on.", err=True)
                    raise click.exceptions.Exit(128 + (asked or [signal.SIGINT])[0])
                case Ended(reason="done"):
                    already = "done before: " if told is not None and told.word.first == told.word.steps else ""
                    click.echo(f"{already}{out / wanted.name}.safetensors")


@dataclass(frozen=True)
class _Told:
    """What is said of it; as an export's progress, too."""

    word: Began
    batch: int
    since: float
    done: int = 0
    loss: str = ""
    shares: str = ""

    @property
    def total(self) -> int:
        return self.word.steps

    @property
    def said(self) -> str:
        """Beside the bar, which has rate and time left."""
        return ", ".join(part for part in (self.word.name, self.loss, self.shares) if part)

    def begun(self) -> str:
        word = self.word
        at = f", from step {word.first:,}" if word.first else ""
        return (
            f"{word.name}: {word.images:,} images, {word.held:,} held out, {word.parameters / 1e6:.2f} M parameters, "
            f"{word.steps:,} steps{at}, on {word.device}"
        )

    def at(self, word: Progress) -> _Told:
        return replace(self, done=word.step, loss=f"loss {word.loss:.3f}")

    def after(self, word: Epoch) -> _Told:
        if word.clean is None or word.robust is None:
            return self
        from cem_core.messages import NORMS

        told = f"{NORMS[word.norm]} {word.eps:.3g}"
        shares = f"clean {100 * word.clean:.1f} %, robust {100 * word.robust:.1f} % at {told}"
        return replace(self, shares=shares)

    def epoch(self, word: Epoch) -> str:
        """With the rate since it began or was gone on with, and the time left at that."""
        a_step = (time.monotonic() - self.since) / max(1, word.step - self.word.first)
        rate = f"{self.batch / a_step:,.0f} images/s"
        left = f"{_lasting(a_step * (self.total - word.step))} left" if word.step < self.total else ""
        spent = _lasting(word.seconds)
        said = f"epoch {word.epoch}: loss {word.loss:.3f}"
        return ", ".join(part for part in (said, self.shares, rate, spent, left) if part)


def _lasting(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:,.0f} min"


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that gets the signals by which somebody wants it to end: Ctrl-C, or the one that schedulers send, perhaps
    several times. A second Ctrl-C ends the program as usual."""
    asked: list[int] = []

    def note(number: int, _: Any) -> None:
        asked.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
