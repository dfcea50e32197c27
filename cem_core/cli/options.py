"""Options that several commands share, and what is made of their text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cem_core.cluster import Where
    from cem_core.export import Export
    from cem_core.messages import Checkpoint
    from cem_core.probes.report import Gathered
    from cem_core.probes.requests import Attack, Data, Subject
    from cem_core.session import Session

_LISTED = 10
"""Unreadable images that are named."""

assuming = click.option(
    "--assume", "assumed", multiple=True, metavar="FACT=VALUE",
    help="Say what a checkpoint leaves open, such as normalisation=none; `inspect` lists what can be said. Repeatable.",
)  # fmt: skip


def sampling(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a run, in the order in which they are shown."""
    checkpoint = click.option(
        "--checkpoint", default=None, metavar="NAME|FILE", help="Default: the bundled robust model."
    )
    return checkpoint(assuming(stepping(command)))


def stepping(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a run that are not about its model."""
    for option in reversed(
        (
            click.option("--sampler", "name", metavar="NAME",
                         help="TA, CS, RCS, Langevin, PGD, PGD-targeted, PGD-Linf, PGD-Linf-targeted; of encoders "
                         "MaxEnt, PGD-unsup. Default: TA from images, RCS otherwise; with an encoder CS towards a "
                         "target, else Langevin from images, MaxEnt otherwise."),
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


def beginning(command: Callable[..., None]) -> Callable[..., None]:
    """Where chains begin and where they are sent."""
    for option in reversed(
        (
            click.argument("images", nargs=-1, type=click.Path(path_type=Path, readable=False)),
            click.option("--target", "targets", multiple=True, metavar="CLASS|IMAGE",
                         help="Name or index of a class; with an encoder, of a reference image, or any image's path. "
                         "Repeat for several."),
            click.option("--start", type=click.Choice(["image", "gaussian", "overall", "noise", "replay"]),
                         help="gaussian: of the target, or with an encoder of each class in turn; overall: the one "
                         "Gaussian of all classes; replay: the replay buffer of a JEM checkpoint. Default: image if "
                         "one is given."),
            click.option("--gaussian", "gaussians", multiple=True, metavar="CLASS",
                         help="Start from the Gaussian of this class, whatever the target. Repeatable."),
            click.option("--chains", "count", type=int,
                         help="Default: one for each pair of start and target; 16 or more where MaxEnt or PGD-unsup "
                         "begin with draws."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def referring(command: Callable[..., None]) -> Callable[..., None]:
    """What an encoder compares images with, and how."""
    for option in reversed(
        (
            click.option("--reference", "batch", multiple=True, metavar="IMAGE|DIR",
                         type=click.Path(path_type=Path, readable=False),
                         help="Of an encoder: images that it compares with, beside those of the run. Repeatable. "
                         "Default: the bundled samples."),
            click.option("--cosine/--dot", default=None,
                         help="Of an encoder: compare unit features, or features as they are. Default: cosine."),
            click.option("--temperature", type=float,
                         help="Of an encoder: what similarities are divided by. Default: what it was trained with, "
                         "if its file says so, or 0.5."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def comparing(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a measurement over a set of images, which `subjects`, `data` and `attack` read."""
    for option in reversed(
        (
            click.option("--checkpoint", "references", multiple=True, required=True, metavar="NAME|FILE",
                         help="Repeatable: up to four models are compared."),
            assuming,
            click.option("--data", type=click.Path(path_type=Path), metavar="DIR|ARCHIVE",
                         help="Class folders, or a dataset of torchvision. Default: the bundled samples, which are "
                         "few."),
            click.option("--split", help="Such as test, where the data has splits."),
            click.option("--num", type=int, help="Images, evenly over the classes. Default: all."),
            click.option("--norm", type=click.Choice(["L2", "Linf"], case_sensitive=False), default="L2",
                         show_default=True),
            click.option("--attack", type=click.Choice(["pgd", "apgd-ce", "apgd-t", "autoattack"],
                                                       case_sensitive=False), default="pgd", show_default=True,
                         help="All but pgd need the package pyautoattack."),
            click.option("--steps", type=int, help="Of pgd.  [default: 20]"),
            click.option("--restarts", type=int, help="Of pgd: random starts for each image.  [default: 1]"),
            click.option("--seed", type=int, default=0, show_default=True, help="Of the first image."),
            click.option("--batch", type=int, default=128, show_default=True,
                         help="Images at once; results come after each batch. Halved where memory does not suffice; "
                         "0: what suits the device."),
            click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
            click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32",
                         show_default=True, help="Rounded gradients make a model look more robust than it is."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def spreading(command: Callable[..., None]) -> Callable[..., None]:
    """Who works, which `where` reads."""
    for option in reversed(
        (
            click.option("--ray", "address", metavar="ADDRESS|local",
                         help="Spread the work by Ray: local, over processes of this machine; auto, over the cluster "
                         "that it belongs to; or host:port of that. Default: all in this process."),
            click.option("--workers", type=int, metavar="N",
                         help="Of --ray. Default: one for each GPU; where there is none, one for two cores."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def keeping(command: Callable[..., None]) -> Callable[..., None]:
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


def exporting(command: Callable[..., None]) -> Callable[..., None]:
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


def fraction(option: str, text: str) -> float:
    """A number that may be written as a fraction, such as 8/255."""
    above, _, below = text.strip().partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"{text!r} is not a number.", param_hint=option) from None


def chosen(reference: str, assumed: tuple[str, ...]) -> dict[str, str]:
    """What was chosen for a file before, and on top what --assume says now: fact → value."""
    from cem_core import checkpoints

    said = {}
    for part in assumed:
        fact, equals, value = part.partition("=")
        if not equals or not fact.strip() or not value.strip():
            raise click.BadParameter(f"{part!r} is not FACT=VALUE.", param_hint="--assume")
        said[fact.strip().replace(" ", "_").replace("-", "_")] = value.strip()
    return checkpoints.recall(reference) | said


def where(options: dict[str, Any]) -> Where:
    """Who works. Raises Refused as `Where`."""
    from cem_core.cluster import Where

    return Where((options["address"] or "").strip(), options["workers"])


def classifiers() -> tuple[str, ...]:
    """The bundled models that have classes."""
    from cem_core import bundle, checkpoints

    return tuple(name for name in bundle.models() if checkpoints.inspect(name).classes)


def subjects(references: tuple[str, ...], options: dict[str, Any]) -> tuple[Subject, ...]:
    """The models of a command, each with what was chosen for it."""
    from cem_core.probes.requests import Subject

    return tuple(
        Subject(reference, chosen(reference, options["assumed"]), options["device"], options["precision"])
        for reference in references
    )


def data(options: dict[str, Any]) -> Data:
    from cem_core.probes.requests import Data

    return Data(str(options["data"] or ""), options["split"], options["num"])


def attack(options: dict[str, Any]) -> Attack:
    said = {name: options[name] for name in ("steps", "restarts") if options[name] is not None}
    if said and options["attack"] != "pgd":
        raise click.UsageError(f"--{next(iter(said))} is of pgd: {options['attack']} knows its own.")

    from cem_core.probes.requests import Attack

    return Attack(name=options["attack"], norm=options["norm"].lower(), seed=options["seed"], **said)


def notes(report: Gathered) -> list[str]:
    """What to know of a measurement, a sentence each."""
    found = list(dict.fromkeys(report.notes))
    if report.skipped:
        more = f" and {len(report.skipped) - _LISTED:,} more" if len(report.skipped) > _LISTED else ""
        listed = ", ".join(list(report.skipped)[:_LISTED])
        found.append(f"{len(report.skipped):,} images could not be read and are left out: {listed}{more}.")
    return found


def export_choices(options: dict[str, Any]) -> Export:
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


def points(session: Session, chain: int) -> list[int]:
    """The steps of a recorded run of which the pixels are there. Raises Refused if there are none, or no such chain."""
    from cem_core.messages import Refused

    if not 1 <= chain <= len(session.start.labels):
        raise Refused(f"There is no chain {chain:,}: the run has 1 to {len(session.start.labels):,}.")
    kept = [index for index in range(len(session)) if session.kept(index)]
    if not kept:
        raise Refused("There is nothing of this run to look at: no step of it was kept.")
    return kept


def check_same(found: Checkpoint, recorded: Checkpoint) -> None:
    """Raises Refused unless a checkpoint is the file that a run was made with."""
    from cem_core.messages import Refused

    if found.sha256 != recorded.sha256:
        raise Refused(
            f"{recorded.name} is not the file that the run was made with any more: its SHA-256 is "
            f"{found.sha256[:12]}…, not {recorded.sha256[:12]}…; put that file back."
        )
