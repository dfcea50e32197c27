"""The command line. Nothing heavy is imported before a command needs it, so that --help is instant."""

from __future__ import annotations

import io
import logging
import shlex
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core import __version__

if TYPE_CHECKING:
    from cem_core.export import Export, RunFile
    from cem_core.messages import Checkpoint, Message, Precision, RunSpec, RunStart, Sampler
    from cem_core.session import Session
    from cem_core.sessions import Summary

_DEMO_CHAINS = 10
_LONG = 400
"""Characters of a fact that are shown, such as the names of a thousand classes."""
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


def _keeping(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what is left of a run."""
    for option in reversed(
        (
            click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
                         help="Where to export to; needed unless the run is recorded."),
            click.option("--record", is_flag=True, help="Keep the run as a session, to look at, resume and verify."),
            click.option("--session", "folder", type=click.Path(path_type=Path), metavar="DIR",
                         help="Record into this new folder."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def _exporting(command: Callable[..., None]) -> Callable[..., None]:
    """The options of an export."""
    for option in reversed(
        (
            click.option("--formats", "--format", "formats", multiple=True, default=("png,apng,sheet,csv",),
                         show_default=True, metavar="LIST",
                         help="Of png, sheet, apng, webp, webp-lossy, gif, mp4, ffv1, vp9, csv, svg, plot. "
                         "Repeatable."),
            click.option("--range", "range_", default=":", metavar="FIRST:LAST", help="Steps. Default: all."),
            click.option("--every", type=int, default=1, show_default=True, help="Export each k-th step."),
            click.option("--layout", type=click.Choice(["image", "difference", "original", "curves"]), default="image",
                         show_default=True, help="What stands beside each image of an animation or video."),
            click.option("--gain", type=int, default=8, show_default=True, help="Of the difference: 1, 2, 4 … 32."),
            click.option("--captions", is_flag=True, help="Step, probability and energy below each image."),
            click.option("--scale", type=int, default=None,
                         help="Enlarge animations and sheet. Default: to 256 px or more."),
            click.option("--fps", type=float, default=20, show_default=True),
            click.option("--hold", type=float, default=0, show_default=True, help="Seconds more for first and last."),
            click.option("--ease", is_flag=True, help="Begin and end slowly."),
            click.option("--loop/--once", default=True, help="Play again and again, where the format can say so."),
        )
    ):  # fmt: skip
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
@click.option(
    "--run", "again", metavar="FILE|SESSION", help="Repeat the run of a run.json, an exported picture or a session."
)
@_sampling
@_keeping
@_exporting
def morph(
    images: tuple[Path, ...],
    targets: tuple[str, ...],
    start: str | None,
    count: int | None,
    again: str | None,
    **options: Any,
) -> None:
    """Move IMAGES (or class Gaussians, or noise) and export every step.

    \b
    cem-explorer morph cat.png --target dog --out cat-to-dog
    cem-explorer morph --start gaussian --target horse --chains 16 --sampler RCS --out horses
    cem-explorer morph --run horses/run.json --out again
    """
    if again is not None:
        _repeat(again, options)
        return
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
@_keeping
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


@main.command("export")
@click.argument("session")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR")
@_exporting
def export_(session: str, out: Path, **options: Any) -> None:
    """Export SESSION, a recorded run: its folder, its name, or the beginning of one.

    \b
    cem-explorer export "2026-03-01 12.00.00 TA" --format mp4 --layout difference --out clip
    """
    from cem_core import export, sessions
    from cem_core.session import Session

    choices, out = _export_choices(options), export.destination(out)
    recorded = Session.open(sessions.resolve(session), budget=sessions.settings().memory)
    _export(recorded, out, choices)
    if sys.stdout is not None and sys.stdout.isatty():
        click.echo(f"Exported to {out}: chains {len(recorded.start.labels)}, steps {len(recorded) - 1}")


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
    from cem_core.messages import Fact

    choices = {} if remember and not assumed else _choices(file, assumed)
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
@_assuming
@click.option("--json", "as_json", is_flag=True)
def probe(
    checkpoints_: tuple[str, ...],
    data: Path,
    split: str | None,
    norm: Any,
    eps: str,
    num: int | None,
    assumed: tuple[str, ...],
    as_json: bool,
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
        model, checkpoint = checkpoints.load(reference, choices=_choices(reference, assumed))
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


@main.command()
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
@click.option("--delete", metavar="SESSION", help="Move one into the trash.")
@click.option("--restore", metavar="NAME", help="Take one back out of the trash.")
@click.option("--empty-trash", is_flag=True, help="Delete for good what was deleted.")
@click.option(
    "--thin",
    nargs=2,
    type=(str, int),
    metavar="SESSION K",
    help="Keep the pixels of one step in K, and all numbers; for good.",
)
@click.option("--disk", type=click.FloatRange(0, 10**6), metavar="GB", help="Room that all may take; remembered.")
@click.option("--memory", type=click.FloatRange(0, 10**6), metavar="MB",
              help="Memory for the pixels of one; remembered.")  # fmt: skip
def sessions(
    as_json: bool, delete: str | None, restore: str | None, empty_trash: bool, thin: tuple[str, int] | None,
    disk: float | None, memory: float | None,
) -> None:  # fmt: skip
    """List the recorded runs. A SESSION is a folder, a name, or the beginning of one."""
    import msgspec

    from cem_core import sessions

    if disk is not None or memory is not None:
        known = sessions.settings()
        sessions.save_settings(
            msgspec.structs.replace(
                known,
                disk=known.disk if disk is None else round(disk * 10**9),
                memory=known.memory if memory is None else round(memory * 10**6),
            )
        )
    if restore is not None:
        sessions.restore(restore)
    if delete is not None:
        name = sessions.delete(sessions.resolve(delete))
        click.echo(f"In the trash; to undo: cem-explorer sessions --restore {shlex.quote(name)}", err=True)
    if thin is not None:
        gone = sessions.thin(sessions.resolve(thin[0]), thin[1])
        click.echo(f"The pixels of {gone:,} steps are gone.", err=True)
    if empty_trash:
        sessions.empty_trash()
    found = sessions.found()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([_plain(summary) for summary in found])).decode())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("name", "state", "steps", "chains", "sampler", "model", "size"):
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for summary in found:
        state = summary.state + (f", thinned {summary.thinned}" if summary.thinned > 1 else "")
        table.add_row(*map(Text, (summary.name, state, f"{summary.steps:,}", str(summary.chains), summary.sampler,
                                  summary.model, sessions.told_size(summary.size))))  # fmt: skip
    if found:
        console.print(table)
    for summary in found:
        if summary.damaged:
            console.print(Text(summary.detail))
    total = sum(summary.size for summary in found)
    may = sessions.told_size(sessions.settings().disk)
    click.echo(f"{len(found)} in {sessions.root()}, {sessions.told_size(total)} of {may}", err=True)
    if said := sessions.over_budget(found):
        click.echo(f"Note: {said}", err=True)


@main.command()
@click.argument("session")
@click.option("--verify", is_flag=True, help="Run it again and compare every pixel and number.")
@click.option("--json", "as_json", is_flag=True, help="One object, for programs.")
def replay(session: str, verify: bool, as_json: bool) -> None:
    """Tell what a recorded run did; with --verify, run it again and say whether it comes out the same.

    The exit code of --verify is 1 if it does not.
    """
    import msgspec

    from cem_core import events, sessions
    from cem_core.messages import Refused
    from cem_core.session import Session

    folder = sessions.resolve(session)
    recorded = Session.open(folder, budget=sessions.settings().memory)
    summary, found = sessions.summarise(folder), events.events(recorded)
    lost = summary.steps + 1 - len(recorded) if not summary.running else 0
    verdict = None
    if verify:
        from cem_core import replaying

        with _progress("verifying", len(recorded)) as advance:
            try:
                for so_far in replaying.verify(recorded):
                    verdict = so_far
                    advance(1)
            except OSError as error:
                raise Refused(str(error)) from error
    if as_json:
        told: dict[str, Any] = {"session": _plain(summary), "events": msgspec.to_builtins(found)}
        if verdict is not None:
            told["verdict"] = {**msgspec.to_builtins(verdict), "sentence": verdict.sentence}
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
    else:
        click.echo(f"{summary.name}: {summary.model}, {summary.sampler}, chains {summary.chains}, steps "
                   f"{summary.steps:,}, {summary.state}")  # fmt: skip
        for event in found:
            click.echo(f"  step {event.step:6,}  chain {event.chain + 1:4}  {event.kind}")
        if verdict is not None:
            click.echo(verdict.sentence)
    if lost > 0:
        said = f"the last {lost:,} steps" if lost > 1 else "the last step"
        click.echo(f"Note: the pixels of {said} are missing or damaged: resume makes them again.", err=True)
    if verdict is not None and (lost > 0 or not verdict.bit_equal):
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("session")
@click.option("--steps", type=int, help="In all. Default: as many as were asked for when it was recorded.")
def resume(session: str, steps: int | None) -> None:
    """Go on with a recorded run that was interrupted or stopped, to the pixels it would have had."""
    import msgspec

    from cem_core import replaying, sessions
    from cem_core.messages import Refused, RunEnd
    from cem_core.session import Session

    recorded = Session.open(sessions.resolve(session), write=True, budget=sessions.settings().memory)
    row = recorded[len(recorded) - 1].sampler if len(recorded) else recorded.start.spec.sampler
    if steps is not None:
        row = msgspec.structs.replace(row, steps=steps)
    done = len(recorded) - 1
    if done >= row.steps:
        if recorded.end is None:  # killed between its last step and the word that it was the last
            recorded.finish(RunEnd(recorded.start.spec.id, "done"))
            recorded.close()
            return
        recorded.close()
        raise Refused(f"It has its {done:,} steps: ask for more with --steps.")
    _played(replaying.resume(recorded, lambda: row), recorded, row.steps - done)
    if recorded.end and recorded.end.reason == "failed":
        raise Refused(recorded.end.detail)


def _plain(summary: Summary) -> dict[str, Any]:
    """For programs: all that is told, and what follows from it."""
    import msgspec

    return {**msgspec.to_builtins(summary), "state": summary.state}


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


def _export_choices(options: dict[str, Any]) -> Export:
    from cem_core.export import Export

    first, colon, last = options["range_"].partition(":")
    try:
        begin, end = (int(text) if text.strip() else None for text in (first, last))
        if not colon:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{options['range_']!r} is not FIRST:LAST.", param_hint="--range") from None
    as_said = ("every", "layout", "gain", "captions", "scale", "fps", "hold", "ease", "loop")
    formats: Any = tuple(dict.fromkeys(part.strip() for text in options["formats"] for part in text.split(",")))
    return Export(formats=formats, first=begin or 0, last=end, **{name: options[name] for name in as_said})


def _export(session: Session, out: Path, choices: Export) -> None:
    """What a lossy format keeps is measured and said before anything is written."""
    from cem_core import export

    writing = export.export(session, out, choices)
    for format in choices.formats:
        if export.KINDS[format].lossy and (found := export.measure(session, choices, format)) is not None:
            click.echo(f"{format} {found.sentence}", err=True)
    with _progress("exporting", None) as advance:
        for progress in writing:
            advance(progress)


def _repeat(reference: str, options: dict[str, Any]) -> None:
    """`morph --run`: nothing can be chosen of the run, only what is to be left of it."""
    import msgspec

    from cem_core import export, sessions
    from cem_core.messages import Refused
    from cem_core.recording import HEADER
    from cem_core.session import Session

    free = {"again", "out", "record", "folder", "range_", *export.Export.__struct_fields__}
    context = click.get_current_context()
    for parameter in context.command.params:
        chosen = context.get_parameter_source(parameter.name or "") is not click.core.ParameterSource.DEFAULT
        if chosen and parameter.name not in free:
            raise click.UsageError(f"--run says all of a run: leave {parameter.human_readable_name} out.")
    path = Path(reference).expanduser()
    if path.is_file() and path.name != HEADER:
        run = export.read(path)
        if run is None:
            raise Refused(f"{path.name} carries no run: give a run.json, an exported PNG or WebP, or a session.")
    else:
        run = export.settings(Session.open(sessions.resolve(reference)))
    _run(msgspec.structs.replace(run.spec, id=uuid.uuid4().hex[:12]), options, run)


def _run(spec: RunSpec, options: dict[str, Any], before: RunFile | None = None) -> None:
    """Play a run and export it; a run that fails is exported as far as it went, and then said to have failed.

    Args:
        before: the run that is repeated, with whatever was changed on its way.
    """
    from cem_core import export, runner, sessions
    from cem_core.export.command import rows
    from cem_core.messages import Refused
    from cem_core.session import Session

    folder: Path | None = options["folder"]
    recorded = options["record"] or folder is not None
    if options["out"] is None and not recorded:
        raise click.UsageError("Missing option '--out', or --record.")
    choices = _export_choices(options)
    out = options["out"] and export.destination(options["out"])
    if recorded and (said := sessions.over_budget()):
        click.echo(f"Note: {said}", err=True)

    def begin(start: RunStart) -> Session:
        if before is not None and start.checkpoint.sha256 != before.checkpoint.sha256:
            click.echo(f"Note: {start.checkpoint.name} is another file than that of the run.", err=True)
        if not recorded:
            return Session(start)
        return Session.record(folder or sessions.new_folder(start), start, budget=sessions.settings().memory)

    steps = spec.sampler.steps if before is None else max(1, before.steps - 1)
    session = _played(runner.play(spec, None if before is None else rows(before)), begin, steps)
    if out:
        _export(session, out, choices)
    if session.end and session.end.reason == "failed":
        raise Refused(session.end.detail)
    if sys.stdout is not None and sys.stdout.isatty():
        if out:
            click.echo(f"Exported to {out}: chains {len(spec.chains)}, steps {len(session) - 1}")
        if session.recording is not None:
            click.echo(f"Recorded in {session.recording.folder}")


def _played(messages: Iterator[Message], session: Session | Callable[[RunStart], Session], steps: int) -> Session:
    """The session with all that a run said; what was recorded is safe whatever ends it: a full disk, or Ctrl-C."""
    from cem_core.frames import Lost
    from cem_core.messages import Refused, RunEnd, RunStart, Step

    kept = None if callable(session) else session
    with _progress("sampling", steps) as advance:
        try:
            for message in messages:
                if isinstance(message, RunStart):
                    assert callable(session)
                    kept = session(message)
                elif kept is None:
                    raise Refused(message.detail if isinstance(message, RunEnd) else "")
                elif isinstance(message, Step):
                    kept.append(message)
                    advance(min(1, message.index))
                else:
                    kept.finish(message)
                    if message.reason == "failed" and not len(kept):
                        raise Refused(message.detail)
        except KeyboardInterrupt:
            if kept is not None:
                with suppress(OSError):  # then it was interrupted
                    kept.finish(RunEnd(kept.start.spec.id, "stopped"))
            raise
        except Lost as error:
            raise Refused(str(error)) from error
        except OSError as error:
            if kept is None:
                raise
            why = error.strerror or error
            detail = f"Older steps could not be kept on disk ({why}): make room."
            if kept.recording is not None:
                detail = f"The run could not be recorded any longer ({why}): make room, and resume the session."
            kept.end = RunEnd(kept.start.spec.id, "failed", detail)
        finally:
            if kept is not None:
                with suppress(OSError):  # has been said
                    kept.close()
    assert kept is not None
    return kept


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
