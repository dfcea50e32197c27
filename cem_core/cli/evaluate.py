"""How near samples are to real images: evaluate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from cem_core.cli.options import chosen, sampling, spreading, where
from cem_core.cli.progress import progress_bar
from cem_core.cli.sample import asked, many

if TYPE_CHECKING:
    from cem_core.evaluation.requests import Evaluation, Sampling
    from cem_core.evaluation.results import Answer, Plan, Scores
    from cem_core.probes.requests import Data, Subject

_OF_SAMPLES = frozenset({
    "checkpoint", "assumed", "name", "a", "b", "step_size", "noise", "norm", "radius", "steps", "random_start",
    "normalised", "seed", "precision", "num", "per_class", "start", "together",
})  # fmt: skip
"""Options that say how samples are made."""


def judging(command: Callable[..., None]) -> Callable[..., None]:
    """What samples are compared with, and by what, which `real` and `judge` read."""
    for option in reversed(
        (
            click.option("--reference", type=click.Path(path_type=Path), required=True, metavar="DIR|ARCHIVE",
                         help="Real images: class folders, or a dataset of torchvision; or a folder of samples."),
            click.option("--split", help="Such as test, where the reference has splits."),
            click.option("--num-reference", type=int, help="Real images, evenly over the classes. Default: all."),
            click.option("--extractor", metavar="NAME|FILE|inception",
                         help="What sees features: inception, by which FID is defined; or a checkpoint that knows "
                         "nothing of the sampled model. Default: inception, if its weights are there."),
            click.option("--weights", type=click.Path(path_type=Path), metavar="FILE",
                         help="Of inception, as torch-fidelity publishes them. Default: those in torch's cache."),
            click.option("--extractor-assume", "judged", multiple=True, metavar="FACT=VALUE",
                         help="As --assume, of the extractor. Repeatable."),
            click.option("--compared", type=int, default=10_000, show_default=True,
                         help="At most so many images of either side make up precision, recall and the kernel "
                         "distance."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def real(options: dict[str, Any]) -> Data:
    from cem_core.probes.requests import Data

    return Data(str(options["reference"]), options["split"], options["num_reference"])


def judge(options: dict[str, Any]) -> Subject:
    """Raises Refused where none is said, and the weights of Inception are not there."""
    from cem_core.evaluation.extractors import WEIGHTS, file_of
    from cem_core.evaluation.requests import INCEPTION
    from cem_core.messages import Refused
    from cem_core.probes.requests import Subject

    said, weights = options["extractor"], options["weights"]
    if weights is not None and said not in (None, INCEPTION):
        raise click.UsageError("--weights is of inception: leave it out, or the other extractor.")
    if said not in (None, INCEPTION):
        return Subject(said, chosen(said, options["judged"]), options["device"])
    if options["judged"]:
        raise click.UsageError("--extractor-assume is of checkpoints: inception has --weights.")
    found = Subject(INCEPTION, {} if weights is None else {WEIGHTS: str(weights)}, options["device"])
    try:
        file_of(found)
    except Refused as refused:
        if said is not None or weights is not None:
            raise
        raise Refused(
            "Say what sees features: --extractor FILE, a checkpoint that knows nothing of the sampled model; or "
            "--weights FILE, as Inception's weights are not here and are not fetched."
        ) from refused
    return found


@click.command()
@click.argument("images", required=False, type=click.Path(path_type=Path), metavar="[DIR]")
@judging
@click.option("--neighbours", type=int, default=3, show_default=True, help="k of precision and recall.")
@sampling
@many
@spreading
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="Gets samples, features and numbers; the same command again goes on from there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="An object, for programs.")
def evaluate(images: Path | None, out: Path, as_json: bool, **options: Any) -> None:
    """How near samples are to real images: of DIR, or of a model that makes them first.

    DIR holds samples, as `sample` makes them, or class folders of any images.

    \b
    cem-explorer evaluate samples --reference cifar --split test --extractor judge.pt --out numbers
    cem-explorer evaluate --sampler RCS --num 10000 --reference cifar --extractor judge.pt --out rcs
    """
    from cem_core.evaluation.evaluating import evaluate as answers
    from cem_core.evaluation.results import Plan, Scores

    request, out = _request(images, options), out.expanduser()
    plan: Plan | None = None
    scores: Scores | None = None
    course = Course()
    told = answers(request, out, where=where(options))
    try:
        with progress_bar("evaluating", None) as advance, closing(told):  # type: ignore[type-var]
            for answer in told:
                if isinstance(answer, Plan):
                    plan = answer
                if isinstance(answer, Scores):
                    scores = answer
                elif course.took(answer):
                    advance(course)
    except KeyboardInterrupt:
        at = f" ({course.said})" if course.said else ""
        click.echo(f"Interrupted{at}: the same command goes on from there.", err=True)
        click.get_current_context().exit(130)
    assert plan is not None
    assert scores is not None
    if as_json:
        _echo_json(plan, scores, out)
    else:
        _echo(plan, scores)


def _request(images: Path | None, options: dict[str, Any]) -> Evaluation:
    context = click.get_current_context()
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name in _OF_SAMPLES
        and context.get_parameter_source(option.name) is click.core.ParameterSource.COMMANDLINE
    ]
    if images is not None and given:
        raise click.UsageError(f"{given[0]} is of samples that are made: leave it out, or DIR.")
    if images is None and not {"--sampler", "--checkpoint"} & set(given):
        raise click.UsageError("Give DIR; or --sampler or --checkpoint, by which samples are made.")

    from cem_core.evaluation.requests import Evaluation
    from cem_core.probes.requests import Data

    samples: Sampling | Data
    if images is None:  # an encoder compares with the bundled samples; with others, `sample` makes them
        samples = asked(options | {"batch": (), "cosine": None, "temperature": None})
    else:
        samples = Data(str(images))
    return Evaluation(
        samples=samples,
        reference=real(options),
        extractor=judge(options),
        compared=options["compared"],
        neighbours=options["neighbours"],
    )


# How far it is ----------------------------------------------------------------------------------------------------


@dataclass
class Course:
    """How far an evaluation is, in images that go through something; as an export's progress, too."""

    cell: str = ""
    """Of a table: which one."""
    total: int | None = None
    done: float = 0.0
    what: str = ""
    _whole: int = 0
    _shares: dict[tuple[str, int], float] = field(default_factory=dict)
    """Of shards that are worked on, in images."""
    _shard: float = 0.0

    @property
    def said(self) -> str:
        return ", ".join(part for part in (self.cell, self.what) if part)

    def took(self, answer: Answer) -> bool:
        """Whether that is worth showing: what was found says nothing of the rate."""
        from cem_core.evaluation.results import Made, Plan, Progress

        found = False
        match answer:
            case Plan():  # samples that are made count twice, as they are seen, too
                self.total = answer.num * (1 if answer.checkpoint is None else 2)
                self._whole, self._shard = 0, answer.num / max(1, answer.shards)
                self._shares.clear()
            case Made() | Progress() if answer.what == "reference":
                self.what, found = answer.what, isinstance(answer, Made) and answer.found
            case Progress():
                self.what = answer.what
                self._shares[answer.what, answer.shard] = answer.share * self._shard
            case Made():
                self.what, found = answer.what, answer.found
                self._shares.pop((answer.what, answer.shard), None)
                self._whole += answer.count
        self.done = self._whole + sum(self._shares.values())
        return not found


# What is said of it -----------------------------------------------------------------------------------------------


class _Figure(NamedTuple):
    """A number, and of how much it is."""

    name: str
    value: str
    floor: str
    samples: int
    real: int


def _figures(scores: Scores) -> Iterator[_Figure]:
    from cem_core.evaluation.results import named

    names, all_, some = (
        named(scores.extractor, scores.inception),
        (scores.num, scores.reference),
        (scores.compared,) * 2,
    )
    yield _Figure(names.frechet, f"{scores.frechet:.5g}", f"{scores.floor:.4g}", *all_)
    most = min(scores.num, scores.compared), min(scores.reference, scores.compared)
    yield _Figure(names.kernel, f"{scores.kernel:.4g} ± {scores.kernel_deviation:.2g}", "", *most)
    if scores.score is not None and scores.score_deviation is not None:
        yield _Figure(names.score, f"{scores.score:.4g} ± {scores.score_deviation:.2g}", "", scores.num, 0)
    yield _Figure("precision", f"{scores.precision:.3f}", "", *some)
    yield _Figure("recall", f"{scores.recall:.3f}", "", *some)


def _echo(plan: Plan, scores: Scores) -> None:
    """A table on a terminal, plain lines elsewhere, and below it what to know of the numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    figures = list(_figures(scores))
    if sys.stdout is not None and sys.stdout.isatty():
        table = Table("number", "value", "floor", "samples", "real images", box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for one in figures:
            table.add_row(Text(one.name), one.value, one.floor, f"{one.samples:,}", f"{one.real:,}" if one.real else "")
        console.print(table)
    else:
        for one in figures:
            floor = f"floor {one.floor}, " if one.floor else ""
            against = f" against {one.real:,} real images" if one.real else ""
            click.echo(f"{one.name}  {one.value}  ({floor}{one.samples:,} samples{against})")
    for note in plan.notes:
        console.print(Text.assemble(("note  ", "dim"), note), soft_wrap=True)


def _echo_json(plan: Plan, scores: Scores, out: Path) -> None:
    import msgspec

    from cem_core.evaluation.results import named
    from cem_core.probes.report import printable

    found = msgspec.to_builtins(scores) | {
        "names": named(scores.extractor, scores.inception)._asdict(),
        "checkpoint": plan.checkpoint.name if plan.checkpoint else None,
        "folder": str(out),
        "device": plan.device,
        "notes": plan.notes,
    }
    click.echo(msgspec.json.encode(printable(found)).decode())
