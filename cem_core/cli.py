"""The command line. Nothing heavy is imported before a command needs it, so that --help is instant."""

from __future__ import annotations

import io
import logging
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core import __version__

if TYPE_CHECKING:
    from cem_core.messages import Checkpoint, Precision, RunSpec, Sampler

_DEMO_CHAINS = 10
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Group(click.Group):
    """Turns bad input into one line and exit code 1."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that knows no ∇ shows a question mark
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        logging.lastResort = None  # what libraries say of bad input is said in our own sentence
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return super().invoke(ctx)
        except ValueError as error:
            from cem_core.messages import Refused

            if isinstance(error, Refused):
                raise click.ClickException(" ".join(str(error).split())) from error
            raise


@click.group(cls=_Group, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="cem-explorer")
def main() -> None:
    """Read classifiers as energy-based models and watch images move through them.

    The window is opened by cem-explorer-gui; everything here does the same work without it.
    """


_assuming = click.option(
    "--assume", "assumed", multiple=True, metavar="FACT=VALUE",
    help="Say what a checkpoint leaves open, such as normalisation=none; `inspect` lists what can be said. Repeatable.",
)  # fmt: skip


def _sampling(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a run, in the order in which they are shown."""
    for option in reversed(
        (
            click.option("--checkpoint", default=None, metavar="NAME|FILE", help="Default: the bundled robust model."),
            _assuming,
            click.option("--sampler", "name", metavar="NAME",
                         help="TA, CS, RCS, Langevin, PGD, PGD-targeted, PGD-Linf, PGD-Linf-targeted. "
                         "Default: TA from images, RCS otherwise."),
            click.option("--a", type=float, help="Weight of the class part ∇f(x,y)."),
            click.option("--b", type=float, help="Weight of the marginal part ∇LSE(x)."),
            click.option("--step-size", type=float, help="Length of a step, in pixel units of [0,1]."),
            click.option("--noise", type=float, help="Deviation of the noise added at each step."),
            click.option("--norm", type=click.Choice(["l2", "linf"], case_sensitive=False)),
            click.option("--radius", type=str, metavar="NUMBER|none", help="Radius of the ball, such as 1.0 or 8/255."),
            click.option("--steps", type=int),
            click.option("--random-start/--no-random-start", default=None, help="Begin at a random point of the ball."),
            click.option("--normalised/--plain", default=None, help="Steps of fixed length, or plain gradient steps."),
            click.option("--seed", type=int, default=0, show_default=True, help="Of the first chain."),
            click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
            click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32",
                         show_default=True),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def _exporting(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR"),
            click.option("--formats", default="png,apng,sheet,csv", show_default=True, metavar="LIST"),
            click.option("--every", type=int, default=1, show_default=True, help="Export each k-th step."),
            click.option("--scale", type=int, default=None, help="Enlarge APNG and sheet. Default: to 256 px or more."),
            click.option("--fps", type=float, default=20, show_default=True),
        )
    ):
        command = option(command)
    return command


@main.command()
@click.argument("images", nargs=-1, type=click.Path(path_type=Path, readable=False))
@click.option("--target", "targets", multiple=True, metavar="CLASS", help="Name or index; repeat for several.")
@click.option(
    "--start",
    type=click.Choice(["image", "gaussian", "noise", "replay"]),
    help="Default: image if one is given. replay: the replay buffer of a JEM checkpoint.",
)
@click.option("--chains", "count", type=int, help="Default: one for each pair of start and target.")
@_sampling
@_exporting
def morph(
    images: tuple[Path, ...], targets: tuple[str, ...], start: str | None, count: int | None, **options: Any
) -> None:
    """Move IMAGES (or class Gaussians, or noise) and export every step.

    \b
    cem-explorer morph cat.png --target dog --out cat-to-dog
    cem-explorer morph --start gaussian --target horse --chains 16 --sampler RCS --out horses
    """
    from cem_core import presets
    from cem_core.chains import lay_out
    from cem_core.messages import MAX_CHAINS, GaussianStart, ImageStart, NoiseStart, Refused, ReplayStart, Start

    start = start or ("image" if images else "gaussian")
    if images and start != "image":
        raise click.UsageError(f"IMAGES and --start {start} exclude each other.")
    starts: list[Start]
    if start == "image":
        starts = [ImageStart(str(path.absolute())) for path in images]
    else:
        kinds: dict[str, Callable[[], Start]] = {"gaussian": GaussianStart, "noise": NoiseStart, "replay": ReplayStart}
        starts = [kinds[start]()]
    sampler = _row(options, presets.FROM_IMAGES if start == "image" else presets.FROM_DRAWS)
    checkpoint = _open(options)
    labels = [_class(checkpoint, target) for target in targets]
    count = max(1, len(starts)) * max(1, len(labels)) if count is None else count
    if not 1 <= count <= MAX_CHAINS:
        raise Refused(f"Chains must be between 1 and {MAX_CHAINS:,}, not {count:,}.")
    _run(_spec(options, sampler, lay_out(sampler, starts, labels, count, options["seed"])), options)


@main.command()
@_sampling
@_exporting
def demo(**options: Any) -> None:
    """Morph ten bundled images, one a class, and export the result."""
    from cem_core import bundle, presets
    from cem_core.chains import lay_out
    from cem_core.messages import ImageStart

    sampler = _row(options, presets.FROM_IMAGES)
    classes = _open(options).classes
    paths = bundle.first_samples(_DEMO_CHAINS)
    seen = [bundle.class_shown(path, classes) for path in paths]
    starts = [ImageStart(str(path)) for path in paths]
    _run(
        _spec(options, sampler, lay_out(sampler, starts, range(len(classes)), len(starts), options["seed"], seen)),
        options,
    )


@main.command()
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
        table.add_row(model.name, model.title, f"{model.parameters / 1e6:.1f} M", str(len(model.classes)),
                      f"{model.channels}×{model.size}×{model.size}", clean)  # fmt: skip
    Console().print(table)


@main.command()
@click.argument("file", metavar="NAME|FILE")
@_assuming
@click.option(
    "--remember", is_flag=True, help="Apply what --assume says whenever this file is opened; alone: forget it."
)
@click.option("--check", is_flag=True, help="Classify the bundled images, which shows wrong preprocessing.")
@click.option("--json", "as_json", is_flag=True, help="One object, for programs.")
def inspect(file: str, assumed: tuple[str, ...], remember: bool, check: bool, as_json: bool) -> None:
    """Say what a checkpoint is, what was assumed of it, and what could be assumed instead."""
    import msgspec

    from cem_core import checkpoints

    choices = {} if remember and not assumed else _choices(file, assumed)
    found = checkpoints.inspect(file, choices)
    if remember:
        checkpoints.remember(found.sha256, choices)
    if check and (checked := checkpoints.check(file, choices)) is not None:
        said = checked.sentence.replace("under Details", "with --assume")
        found = msgspec.structs.replace(
            found,
            facts=(*found.facts, checked.fact),
            warnings=(*found.warnings, said) if said else found.warnings,
        )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _tell(found)


def _tell(found: Checkpoint) -> None:
    """A checkpoint as a table on the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=False, highlight=False)
    console.print(f"[bold]{escape(found.name)}[/bold]  {found.title}, {found.parameters / 1e6:.2f} M parameters")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(style="dim", overflow="fold")
    where = {"file": "from the file", "name": "from the file name", "guess": "assumed", "choice": "chosen"}
    for fact in found.facts:
        sure = f", {100 * fact.confidence:.0f} % sure" if fact.confidence < 1 else ""
        others = [option for option in fact.options if option != fact.value]
        more = f"; or {', '.join(others)}" if others and fact.source != "file" else ""
        why = f": {fact.why}" if fact.why else ""
        table.add_row(escape(fact.what), escape(fact.value), escape(where[fact.source] + sure + why + more))
    table.add_row("SHA-256", found.sha256, "")
    if found.replay:
        table.add_row("replay buffer", f"{found.replay:,} images", "start chains from it with --start replay")
    if found.heads:
        table.add_row("heads beside it", escape(", ".join(Path(head).name for head in found.heads)), "--assume head=…")
    if found.ignored:
        shown = ", ".join(found.ignored[:6]) + (f" and {len(found.ignored) - 6} more" if len(found.ignored) > 6 else "")
        table.add_row("ignored", escape(shown), "")
    console.print(table)
    for warning in found.warnings:
        console.print(f"[yellow]Note:[/yellow] {escape(warning)}")


@main.command()
@click.argument("file", metavar="NAME|FILE")
@click.argument("out", type=click.Path(path_type=Path))
@_assuming
def convert(file: str, out: Path, assumed: tuple[str, ...]) -> None:
    """Write a checkpoint as safetensors, with all that is known and assumed of it inside."""
    from cem_core import checkpoints

    found = checkpoints.convert(file, out, _choices(file, assumed))
    if sys.stdout is not None and sys.stdout.isatty():
        click.echo(f"{out}: {found.title}, {found.parameters / 1e6:.2f} M parameters")


@main.command()
@click.option("--checkpoint", "checkpoints_", multiple=True, required=True, metavar="NAME|FILE", help="Repeatable.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder or archive of class folders.")
@click.option("--split", default=None, help="Such as test, where the data has splits.")
@click.option("--norm", type=click.Choice(["l2", "linf"], case_sensitive=False), default="l2", show_default=True)
@click.option("--eps", default="0,0.25,0.5,1", show_default=True, help="Radii, such as 0,1/255,8/255; 0 is clean.")
@click.option("--num", type=int, default=None, help="Images, evenly over the classes. Default: all.")
@click.option("--json", "as_json", is_flag=True)
def probe(
    checkpoints_: tuple[str, ...], data: Path, split: str | None, norm: Any, eps: str, num: int | None, as_json: bool
) -> None:
    """Accuracy against ε under PGD-20 (random start, step 2.5·ε/20)."""
    import msgspec

    from cem_core import checkpoints, probes
    from cem_core.datasets import open_dataset
    from cem_core.messages import Refused

    strengths = [_fraction("--eps", part) for part in eps.split(",")]
    dataset = open_dataset(data, split).take(num)
    rows = []
    for reference in checkpoints_:
        model, checkpoint = checkpoints.load(reference, choices=_choices(reference, ()))
        if dataset.classes != checkpoint.classes:
            raise Refused(f"The classes of {data.name} are not those of {checkpoint.name}.")
        pixels, labels = dataset.arrays(checkpoint.size)
        with _progress(checkpoint.name, len(strengths) * len(labels)) as advance:
            last: dict[float, probes.Point] = {}
            for point in probes.accuracy(model, pixels, labels, norm, strengths):
                advance(point.total - (last[point.eps].total if point.eps in last else 0))
                last[point.eps] = point
        rows += [(checkpoint.name, point) for point in last.values()]
    if as_json:
        objects = [{"name": name, "norm": norm, **msgspec.to_builtins(p), "accuracy": p.accuracy} for name, p in rows]
        click.echo(msgspec.json.encode(objects).decode())
    else:
        for name, p in rows:
            click.echo(f"{name}  {norm} {p.eps:.4g}  {100 * p.accuracy:5.1f} %  ({p.correct} of {p.total})")


@main.command("fit-starts")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--split", default=None, help="Such as train, where the data has splits.")
@click.option("--size", type=int, default=32, show_default=True, help="Side of the images in pixels.")
@click.option("--rank", type=int, default=48, show_default=True, help="Directions of the covariance that are kept.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE")
def fit_starts(data: Path, split: str | None, size: int, rank: int, out: Path) -> None:
    """Fit the Gaussian of each class of DATA, to start chains from."""
    from cem_core import starts
    from cem_core.datasets import open_dataset
    from cem_core.messages import Refused

    if not 1 <= size <= 64:  # a covariance has (3·size²)² entries
        raise Refused(f"Size must be between 1 and 64, not {size:,}.")
    dataset = open_dataset(data, split)
    pixels, labels = dataset.arrays(size)
    gaussians = starts.fit(pixels, labels, len(dataset.classes), rank=rank)
    starts.save(gaussians, dataset.classes, out, source=f"{data.name}, {len(labels):,} images, rank {rank}")


def _row(options: dict[str, Any], default: str) -> Sampler:
    """The named preset with what the options change."""
    import msgspec

    from cem_core.messages import Refused
    from cem_core.presets import SAMPLERS

    asked = default if options["name"] is None else options["name"]
    known = {name.lower(): row for name, row in SAMPLERS.items()}
    if asked.lower() not in known:
        raise Refused(f"There is no sampler called {asked}: choose {', '.join(SAMPLERS)}.")
    given = ("a", "b", "step_size", "noise", "norm", "steps", "random_start", "normalised")
    changes = {key: options[key] for key in given if options[key] is not None}
    if (radius := options["radius"]) is not None:
        changes["radius"] = None if radius.lower() == "none" else _fraction("--radius", radius)
        if changes["radius"] is None and options["random_start"] is None:
            changes["random_start"] = False
    return msgspec.structs.replace(known[asked.lower()], **changes)


def _fraction(option: str, text: str) -> float:
    """A number that may be written as a fraction, such as 8/255."""
    above, _, below = text.strip().partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"{text!r} is not a number.", param_hint=option) from None


def _class(checkpoint: Checkpoint, target: str) -> int:
    from cem_core.messages import Refused

    if target in checkpoint.classes:
        return checkpoint.classes.index(target)
    if target.isascii() and target.isdigit() and len(target) < 10 and int(target) < len(checkpoint.classes):
        return int(target)
    shown = ", ".join(checkpoint.classes[:12]) + (" …" if len(checkpoint.classes) > 12 else "")
    raise Refused(f"{checkpoint.name} has no class called {target}: it knows {shown}.")


def _reference(options: dict[str, Any]) -> str:
    from cem_core import bundle

    asked: str | None = options["checkpoint"]
    return bundle.DEFAULT_MODEL if asked is None else asked


def _choices(reference: str, assumed: tuple[str, ...]) -> dict[str, str]:
    """What was chosen for a file before, and on top what --assume says now: fact → value."""
    from cem_core import checkpoints

    said = {}
    for part in assumed:
        fact, equals, value = part.partition("=")
        if not equals or not fact.strip() or not value.strip():
            raise click.BadParameter(f"{part!r} is not FACT=VALUE.", param_hint="--assume")
        said[fact.strip().replace(" ", "_").replace("-", "_")] = value.strip()
    return checkpoints.recall(reference) | said


def _open(options: dict[str, Any]) -> Checkpoint:
    """The model that the options ask for."""
    from cem_core import checkpoints

    reference = _reference(options)
    options["choices"] = _choices(reference, options["assumed"])
    return checkpoints.load(reference, options["device"], options["precision"], options["choices"])[1]


def _spec(options: dict[str, Any], sampler: Sampler, chains: Any) -> RunSpec:
    from cem_core.messages import RunSpec

    precision: Precision = options["precision"]
    return RunSpec(
        uuid.uuid4().hex[:12], _reference(options), sampler, chains, options["device"], precision, options["choices"]
    )


def _run(spec: RunSpec, options: dict[str, Any]) -> None:
    """Play a run and export it; a run that fails is exported as far as it went, and then said to have failed."""
    from cem_core import export, runner
    from cem_core.messages import Refused, RunEnd, RunStart, Step
    from cem_core.session import Session

    choices = export.Export(
        formats=tuple(part.strip() for part in options["formats"].split(",")),
        every=options["every"],
        scale=options["scale"],
        fps=options["fps"],
    )
    out = export.destination(options["out"])
    session: Session | None = None
    with _progress("sampling", spec.sampler.steps) as advance:
        for message in runner.play(spec):
            if isinstance(message, RunStart):
                session = Session(message)
            elif isinstance(message, Step):
                assert session is not None
                try:
                    session.append(message)
                except OSError as error:
                    detail = f"Older steps could not be kept on disk ({error.strerror or error}): make room."
                    session.end = RunEnd(spec.id, "failed", detail)
                    break
                advance(min(1, message.index))
            elif session is not None:
                session.end = message
            if isinstance(message, RunEnd) and message.reason == "failed" and not session:
                raise Refused(message.detail)
    assert session is not None
    with _progress("exporting", None) as advance:
        for progress in export.export(session, out, choices):
            advance(progress)
    if session.end and session.end.reason == "failed":
        raise Refused(session.end.detail)
    if sys.stdout is not None and sys.stdout.isatty():
        click.echo(f"Exported to {out}: chains {len(spec.chains)}, steps {len(session) - 1}")


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[Any], None]]:
    """A bar with rate and time left on a terminal; nothing when piped. Advanced by a number or an export's progress."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(by: Any) -> None:
            if isinstance(by, int):
                bar.advance(task, by)
            else:
                bar.update(task, completed=by.done, total=by.total)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


if __name__ == "__main__":
    main()
