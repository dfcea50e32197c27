"""Runs: morph, demo."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.options import (
    beginning,
    chosen,
    export_choices,
    exporting,
    fraction,
    keeping,
    referring,
    sampling,
)  # fmt: skip
from cem_core.cli.progress import progress_bar

if TYPE_CHECKING:
    from cem_core.export import Export, RunFile
    from cem_core.messages import Chain, Checkpoint, Message, Precision, Reference, RunSpec, RunStart, Sampler, Start
    from cem_core.session import Session


_DEMO_CHAINS = 10
_COUPLED = 16
"""Chains of a coupled row, where starts are drawn: so many spread over features."""


@click.command()
@beginning
@referring
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
    gaussians: tuple[str, ...],
    count: int | None,
    again: str | None,
    **options: Any,
) -> None:
    """Move IMAGES (or class Gaussians, or noise) and export every step.

    With an encoder a target is an image: features move towards its features.

    \b
    cem-explorer morph cat.png --target dog --out cat-to-dog
    cem-explorer morph --start gaussian --target horse --chains 16 --sampler RCS --out horses
    cem-explorer morph cat.png --checkpoint ENCODER --target dog.png --out cat-to-dog
    cem-explorer morph --start overall --checkpoint ENCODER --chains 32 --out spread
    cem-explorer morph --run horses/run.json --out again
    """
    if again is not None:
        _repeat(again, options)
        return
    kind = begins(images, start, gaussians)
    checkpoint = _open(options)
    starts = begun(kind, images, gaussians, checkpoint)
    sampler, chains, reference = laid_out(starts, targets, count, checkpoint, options)
    _run(_spec(options, sampler, chains, reference), options)


def begins(images: tuple[Path, ...], start: str | None, gaussians: tuple[str, ...]) -> str:
    """Which kind of start is meant. Raises a usage error where two are."""
    kind = start or ("image" if images and not gaussians else "gaussian")
    if images and kind != "image":
        raise click.UsageError(f"IMAGES and {f'--start {start}' if start else '--gaussian'} exclude each other.")
    if gaussians and kind != "gaussian":
        raise click.UsageError(f"--gaussian and --start {kind} exclude each other.")
    return kind


def begun(kind: str, images: tuple[Path, ...], gaussians: tuple[str, ...], checkpoint: Checkpoint) -> list[Start]:
    """Where chains begin."""
    from cem_core import starts
    from cem_core.messages import GaussianStart, ImageStart, NoiseStart, OverallStart, ReplayStart

    if kind == "image":
        return [ImageStart(str(path.absolute())) for path in images]
    if kind == "gaussian":
        if not gaussians and checkpoint.classes:
            return [GaussianStart()]
        return [GaussianStart(name) for name in gaussians or starts.gaussian_classes(checkpoint)]
    kinds: dict[str, Callable[[], Start]] = {"overall": OverallStart, "noise": NoiseStart, "replay": ReplayStart}
    return [kinds[kind]()]


def laid_out(
    starts: list[Start], targets: tuple[str, ...], count: int | None, checkpoint: Checkpoint, options: dict[str, Any]
) -> tuple[Sampler, tuple[Chain, ...], Reference | None]:
    """The row that is asked for, a chain for each pair of start and target, or so many; and what an encoder compares
    with."""
    from cem_core import presets
    from cem_core.chains import lay_out
    from cem_core.messages import MAX_CHAINS, ImageStart, Refused

    labels, reference = sought(checkpoint, starts, targets, options)
    images = not starts or isinstance(starts[0], ImageStart)
    usual = presets.default(encoder=reference is not None, images=images, target=bool(targets))
    sampler = row(options, usual)
    if sampler.coupled and reference is None:
        raise Refused(f"{sampler.name} compares features, not classes: choose an encoder, or --assume head=none.")
    if count is None:
        count = max(1, len(starts)) * max(1, len(labels))
        if sampler.coupled and not images:
            count *= -(-_COUPLED // count)
    if not 1 <= count <= MAX_CHAINS:
        raise Refused(f"Chains must be between 1 and {MAX_CHAINS:,}, not {count:,}.")
    return sampler, lay_out(sampler, starts, labels, count, options["seed"]), reference


def sought(
    checkpoint: Checkpoint, starts: list[Start], targets: tuple[str, ...], options: dict[str, Any]
) -> tuple[list[int], Reference | None]:
    """Targets as indices into classes; or with an encoder, into the reference batch, which comes with them."""
    from cem_core.chains import compared
    from cem_core.messages import Refused

    if checkpoint.classes:
        given = {"batch": "--reference", "cosine": "--cosine or --dot", "temperature": "--temperature"}
        for name, option in given.items():
            if options[name] not in (None, ()):
                raise Refused(
                    f"{option} is of encoders, and {checkpoint.name} has classes: leave it out, or take its head away "
                    "with --assume head=none."
                )
        return [class_index(checkpoint, target) for target in targets], None
    batch = compared(_images(options["batch"]), starts)
    paths = [_image_meant(target, batch) for target in targets]
    images = compared(batch, (), paths)
    return [images.index(path) for path in paths], _reference(images, options)


def _images(given: tuple[Path, ...]) -> list[str]:
    """Paths of a reference batch: files, and what lies in folders; by default the bundled samples."""
    from cem_core import bundle
    from cem_core.images import SUFFIXES
    from cem_core.messages import Refused

    found = [] if given else bundle.samples()
    for path in given:
        try:
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES) if path.is_dir() else []
        except OSError as error:
            raise Refused(f"{path} cannot be read ({error.strerror or error}): choose another folder.") from error
        if path.is_dir() and not inside:
            raise Refused(f"{path} holds no image: choose another folder, or an image.")
        found += inside or [path]
    return [str(path.absolute()) for path in found]


def _image_meant(target: str, batch: tuple[str, ...]) -> str:
    """The path behind a target: that itself, or a name or an index in the reference batch."""
    from cem_core.messages import Refused

    path = Path(target).expanduser().absolute()
    with suppress(OSError):  # a name that is too long, a folder that may not be entered
        if str(path) in batch or path.is_file():
            return str(path)
    named = [image for image in batch if target in (Path(image).stem, Path(image).name)]
    if len(named) == 1:
        return named[0]
    if named:
        raise Refused(f"{len(named)} reference images are called {target}: give the path of one.")
    if target.isascii() and target.isdigit() and len(target) < 10 and int(target) < len(batch):
        return batch[int(target)]
    shown = ", ".join(Path(image).stem for image in batch[:12]) + (" …" if len(batch) > 12 else "")
    raise Refused(f"There is no image called {target}: give the path of one, or a reference image ({shown}).")


def _reference(images: tuple[str, ...], options: dict[str, Any]) -> Reference:
    from cem_core.messages import Reference

    said = {name: options[name] for name in ("cosine", "temperature") if options[name] is not None}
    return Reference(images, **said)


@click.command()
@referring
@sampling
@keeping
@exporting
def demo(**options: Any) -> None:
    """Morph ten bundled images, one a class, and export the result; with an encoder, each towards the next."""
    from cem_core import bundle, presets
    from cem_core.chains import lay_out
    from cem_core.messages import ImageStart

    checkpoint = _open(options)
    classes, paths = checkpoint.classes, bundle.first_samples(_DEMO_CHAINS)
    starts: list[Start] = [ImageStart(str(path)) for path in paths]
    towards = () if classes else tuple(map(str, (*paths[1:], paths[0])))
    labels, reference = sought(checkpoint, starts, towards, options)
    sampler = row(options, presets.default(encoder=not classes, images=True, target=True))
    seen = [bundle.class_shown(path, classes) for path in paths]
    chains = lay_out(sampler, starts, labels or range(len(classes)), len(starts), options["seed"], seen)
    _run(_spec(options, sampler, chains, reference), options)


def row(options: dict[str, Any], default: str) -> Sampler:
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
    from cem_core.probes.classes import check_classes

    check_classes(checkpoint)
    if target in checkpoint.classes:
        return checkpoint.classes.index(target)
    if target.isascii() and target.isdigit() and len(target) < 10 and int(target) < len(checkpoint.classes):
        return int(target)
    shown = ", ".join(checkpoint.classes[:12]) + (" …" if len(checkpoint.classes) > 12 else "")
    raise Refused(f"{checkpoint.name} has no class called {target}: it knows {shown}.")


def _model(options: dict[str, Any]) -> str:
    from cem_core import bundle

    asked: str | None = options["checkpoint"]
    return bundle.DEFAULT_MODEL if asked is None else asked


def _open(options: dict[str, Any]) -> Checkpoint:
    """The model that the options ask for."""
    from cem_core import checkpoints

    model = _model(options)
    options["choices"] = chosen(model, options["assumed"])
    return checkpoints.load(model, options["device"], options["precision"], options["choices"])[1]


def _spec(options: dict[str, Any], sampler: Sampler, chains: tuple[Chain, ...], reference: Reference | None) -> RunSpec:
    from cem_core.messages import RunSpec

    precision: Precision = options["precision"]
    return RunSpec(
        uuid.uuid4().hex[:12], _model(options), sampler, chains, options["device"], precision, options["choices"],
        reference,
    )  # fmt: skip


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
    from cem_core.chains import settled
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
    batch = None if run.checkpoint.classes else settled(run.spec.reference, run.spec.temperature)
    _run(msgspec.structs.replace(run.spec, id=uuid.uuid4().hex[:12], reference=batch), options, run)


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
        if before is not None and start.versions.get(runner.BATCH) != before.versions.get(runner.BATCH):
            click.echo("Note: an image of the reference batch is another than that of the run.", err=True)
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
