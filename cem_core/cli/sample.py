"""Many samples of one model: sample."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.options import referring, sampling, spreading, subjects, where
from cem_core.cli.progress import progress_bar
from cem_core.cli.runs import row, sought

if TYPE_CHECKING:
    from cem_core.evaluation.requests import Sampling
    from cem_core.evaluation.results import Answer, Plan


def many(command: Callable[..., None]) -> Callable[..., None]:
    """The options of many samples, which `asked` reads beside those of a run and of an encoder."""
    for option in reversed(
        (
            click.option("--num", type=int, default=50_000, show_default=True,
                         help="Samples. A folder that holds fewer of the same gets the others."),
            click.option("--per-class/--any-class", default=True, show_default=True,
                         help="Each class as often as any other, in turns; or each sample draws its class."),
            click.option("--start", type=click.Choice(["gaussian", "overall", "noise"]), default="gaussian",
                         show_default=True,
                         help="gaussian: of the class of each sample; overall: the one Gaussian of all classes."),
            click.option("--batch", "together", type=int, default=100, show_default=True,
                         help="Samples that are made at once: the size of a shard. Another is rounded otherwise, and "
                         "MaxEnt and PGD-unsup spread the samples of a batch from each other."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def asked(options: dict[str, Any]) -> Sampling:
    """What is to be sampled. Raises Refused if the options do not suit the checkpoint."""
    from cem_core import bundle, checkpoints, presets
    from cem_core.evaluation.requests import Sampling

    (subject,) = subjects((options["checkpoint"] or bundle.DEFAULT_MODEL,), options)
    checkpoint = checkpoints.inspect(subject.reference, subject.choices)
    _, reference = sought(checkpoint, [], (), options)
    usual = presets.default(encoder=not checkpoint.classes, images=False, target=False)
    return Sampling(
        subject=subject,
        sampler=row(options, usual),
        reference=reference,
        batch=options["together"],
        **{name: options[name] for name in ("num", "start", "per_class", "seed")},
    )


@click.command()
@sampling
@referring
@many
@spreading
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Gets the samples; the same command again goes on with what is there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="An object, for programs.")
def sample(out: Path, as_json: bool, **options: Any) -> None:
    """Sample N images of a model, in shards that are NumPy files.

    The same request gives the same pixels, however often it is interrupted.

    \b
    cem-explorer sample --sampler RCS --num 50000 --out samples
    cem-explorer sample --checkpoint ENCODER --start overall --num 10000 --out spread
    cem-explorer sample --ray local --workers 4 --out samples
    """
    from cem_core.evaluation.sampling import sample as samples

    request, workers, out = asked(options), where(options), out.expanduser()
    told = _Told(request)
    try:
        with progress_bar("sampling", request.num) as advance:
            for answer in samples(request, out, where=workers):
                if told.took(answer):
                    advance(told)
    except KeyboardInterrupt:
        at = f" at {told.whole:,} of {request.num:,} samples" if told.plan else ""
        click.echo(f"Interrupted{at}: the same command goes on from there.", err=True)
        click.get_current_context().exit(130)
    assert told.plan is not None
    if as_json:
        _echo_json(told, out)
        return
    for note in told.plan.notes:
        click.echo(f"Note: {note}", err=True)
    rate = f", {told.made:,} of them made in {told.seconds:,.1f} s ({told.rate:,.1f} samples/s)"
    click.echo(f"{request.num:,} samples in {out}{rate if told.made else ', all there before'}")


@dataclass
class _Told:
    """How far it is; as an export's progress, too."""

    request: Sampling
    plan: Plan | None = None
    whole: int = 0
    """Samples of the shards that are there."""
    made: int = 0
    """Those among them that were not there before."""
    begun: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    shares: dict[int, float] = field(default_factory=dict)
    """Samples of shards that are being made."""

    @property
    def total(self) -> int:
        return self.request.num

    @property
    def done(self) -> float:
        return self.whole + sum(self.shares.values())

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.made / max(self.seconds, 1e-9)

    def took(self, answer: Answer) -> bool:
        """Whether that is worth showing: what was found says nothing of the rate."""
        from cem_core.evaluation.results import Made, Plan, Progress

        match answer:
            case Plan():
                self.plan, self.begun = answer, time.perf_counter()
                return False
            case Progress():
                self.shares[answer.shard] = answer.share * len(self.request.places(answer.shard))
            case Made():
                self.shares.pop(answer.shard, None)
                self.whole += answer.count
                self.made += 0 if answer.found else answer.count
                self.seconds = time.perf_counter() - self.begun
                return not answer.found
        return True


def _echo_json(told: _Told, out: Path) -> None:
    import msgspec

    assert told.plan is not None
    found = {
        "folder": str(out),
        "num": told.plan.num,
        "made": told.made,
        "seconds": told.seconds,
        "samples_per_second": told.rate,
        "checkpoint": told.plan.checkpoint.name if told.plan.checkpoint else "",
        "classes": told.plan.classes,
        "device": told.plan.device,
        "notes": told.plan.notes,
    }
    click.echo(msgspec.json.encode(found).decode())
