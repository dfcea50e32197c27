"""Runs: morph, demo."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.options import chosen, export_choices, exporting, fraction, keeping, sampling
from cem_core.cli.progress import progress_bar

if TYPE_CHECKING:
    from cem_core.export import Export, RunFile
    from cem_core.messages import Chain, Checkpoint, Message, Precision, RunSpec, RunStart, Sampler, Start
    from cem_core.session import Session


_DEMO_CHAINS = 10


@click.command()
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
@sampling
@keeping
@exporting
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
    sampler, starts = begun(images, start, options)
    chains = laid_out(sampler, starts, targets, count, _open(options), options["seed"])
    _run(_spec(options, sampler, chains), options)


def begun(images: tuple[Path, ...], start: str | None, options: dict[str, Any]) -> tuple[Sampler, list[Start]]:
    """The row that is asked for, and where its chains begin."""
    from cem_core import presets
    from cem_core.messages import GaussianStart, ImageStart, NoiseStart, ReplayStart

    start = start or ("image" if images else "gaussian")
    if images and start != "image":
        raise click.UsageError(f"IMAGES and --start {start} exclude each other.")
    if start == "image":
        return _row(options, presets.FROM_IMAGES), [ImageStart(str(path.absolute())) for path in images]
    kinds: dict[str, Callable[[], Start]] = {"gaussian": GaussianStart, "noise": NoiseStart, "replay": ReplayStart}
    return _row(options, presets.FROM_DRAWS), [kinds[start]()]


def laid_out(
    sampler: Sampler,
    starts: list[Start],
    targets: tuple[str, ...],
    count: int | None,
    checkpoint: Checkpoint,
    seed: int,
) -> tuple[Chain, ...]:
    """A chain for each pair of start and target, or so many."""
    from cem_core.chains import lay_out
    from cem_core.messages import MAX_CHAINS, Refused

    labels = [class_index(checkpoint, target) for target in targets]
    count = max(1, len(starts)) * max(1, len(labels)) if count is None else count
    if not 1 <= count <= MAX_CHAINS:
        raise Refused(f"Chains must be between 1 and {MAX_CHAINS:,}, not {count:,}.")
    return lay_out(sampler, starts, labels, count, seed)


@click.command()
@sampling
@keeping
@exporting
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
        changes["radius"] = None if radius.lower() == "none" else fraction("--radius", radius)
        if changes["radius"] is None and options["random_start"] is None:
            changes["random_start"] = False
    return msgspec.structs.replace(known[asked.lower()], **changes)


def class_index(checkpoint: Checkpoint, target: str) -> int:
    from cem_core.messages import Refused

    if not checkpoint.classes:
        raise Refused(f"{checkpoint.name} is an encoder, with features but no classes: choose a head for it.")
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


def _open(options: dict[str, Any]) -> Checkpoint:
    """The model that the options ask for."""
    from cem_core import checkpoints

    reference = _reference(options)
    options["choices"] = chosen(reference, options["assumed"])
    return checkpoints.load(reference, options["device"], options["precision"], options["choices"])[1]


def _spec(options: dict[str, Any], sampler: Sampler, chains: Any) -> RunSpec:
    from cem_core.messages import RunSpec

    precision: Precision = options["precision"]
    return RunSpec(
        uuid.uuid4().hex[:12], _reference(options), sampler, chains, options["device"], precision, options["choices"]
    )


def write_export(session: Session, out: Path, choices: Export) -> None:
    """What a lossy format keeps is measured and said before anything is written."""
    from cem_core import export

    writing = export.export(session, out, choices)
    for format in choices.formats:
        if export.KINDS[format].lossy and (found := export.measure(session, choices, format)) is not None:
            click.echo(f"{format} {found.sentence}", err=True)
    with progress_bar("exporting", None) as advance:
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
    choices = export_choices(options)
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
    session = played(runner.play(spec, None if before is None else rows(before)), begin, steps)
    if out:
        write_export(session, out, choices)
    if session.end and session.end.reason == "failed":
        raise Refused(session.end.detail)
    if sys.stdout is not None and sys.stdout.isatty():
        if out:
            click.echo(f"Exported to {out}: chains {len(spec.chains)}, steps {len(session) - 1}")
        if session.recording is not None:
            click.echo(f"Recorded in {session.recording.folder}")


def played(messages: Iterator[Message], session: Session | Callable[[RunStart], Session], steps: int) -> Session:
    """The session with all that a run said; what was recorded is safe whatever ends it: a full disk, or Ctrl-C."""
    from cem_core.frames import Lost
    from cem_core.messages import Refused, RunEnd, RunStart, Step

    kept = None if callable(session) else session
    with progress_bar("sampling", steps) as advance:
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
