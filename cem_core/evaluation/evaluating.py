"""An evaluation in its folder: samples, features and numbers. What is there already is not made again.

samples/         the samples, unless they were there before
features/        what the extractor sees in them
reference/       and in the real images
evaluation.json  the request and the numbers
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from cem_core import bundle, checkpoints, cluster, writing
from cem_core.cluster import Where
from cem_core.datasets import open_labelled
from cem_core.evaluation import features, shards
from cem_core.evaluation.extractors import WEIGHTS, file_of, module, open_extractor
from cem_core.evaluation.features import Extracting, Kept
from cem_core.evaluation.metrics import scores
from cem_core.evaluation.report import FEATURES, REFERENCE, SAMPLES
from cem_core.evaluation.requests import INCEPTION, Evaluation, Sampling
from cem_core.evaluation.results import Answer, Made, Plan, Progress, Scores, named
from cem_core.evaluation.sampling import sample
from cem_core.evaluation.statistics import remark
from cem_core.messages import Checkpoint, Refused
from cem_core.probes.classes import alike
from cem_core.probes.measuring import Cancelled, GoOn
from cem_core.probes.report import printable
from cem_core.probes.requests import Data, Subject
from cem_core.runner import device_name, out_of_memory, versions

RECORD: Final = "evaluation.json"
MADE_BY: Final = "cem-explorer evaluate"
LEAST: Final = 100
"""Images of either side: of fewer no number means anything."""
_LISTED: Final = 5
"""Classes that are named."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of an evaluation."""

    made_by: str = MADE_BY
    request: dict[str, Any]
    """An `Evaluation` with all paths in full."""
    checkpoint: Checkpoint | None = None
    """Of the sampled model; None: the samples were there."""
    samples: features.Record | None = None
    """Which images the scores are of, and what saw them,"""
    reference: features.Record | None = None
    """and the same of the real images."""
    scores: Scores | None = None
    """None: not yet."""
    names: dict[str, str] = {}
    """What they may be called."""
    notes: tuple[str, ...] = ()
    device: str = ""
    versions: dict[str, str] = {}
    seconds: float = 0.0
    """Of the work that was left in the end, on one worker."""


class Yardstick:
    """Real images and what sees them: opened once, for however many evaluations."""

    def __init__(self, images: Data, extractor: Subject, folder: Path) -> None:
        """folder: gets the features of the images. Raises Refused where either cannot be used."""
        module("torchmetrics.image.fid")  # or it would be missed when all samples are made
        self.extractor = open_extractor(extractor)
        self.subject = _everywhere(extractor)
        self.images = _images(images)
        self.images.check("real images")
        self.floor: float | None = None
        """The Fréchet distance of its halves, once it is known."""
        self._folder = folder
        self._claimed: dict[int, tuple[Extracting, Kept]] = {}

    def claim(self, side: int) -> tuple[Extracting, Kept]:
        """The features of the real images, read at the side of the samples. Raises Refused as `features.claim`."""
        if side not in self._claimed:
            self._claimed[side] = self.extracting(REFERENCE, self.images, self._folder, side)
        return self._claimed[side]

    def extracting(self, what: str, images: _Images, folder: Path, side: int) -> tuple[Extracting, Kept]:
        """What is to be seen in some images, and the folder for it. Raises Refused as `features.claim`."""
        asked = Extracting(
            extractor=self.subject, images=images.data, folder=str(folder.absolute()), what=what, size=side
        )
        return asked, features.claim(asked)

    def remarks(self, ours: _Images) -> Iterator[str]:
        """What to know of a comparison, a sentence each. Raises Refused where one side cannot be seen."""
        real, extractor = self.images, self.extractor
        if real.side != ours.side and not real.sampled:
            yield (
                f"The images of {real.name} are {real.side} pixels wide and are scaled to the {ours.side} of "
                f"{ours.name} before they are compared."
            )
        elif real.side != ours.side:
            yield f"The samples in {real.name} are {real.side} pixels wide, and those of {ours.name} {ours.side}."
        yield from extractor.remarks(ours.side, ours.channels)
        extractor.remarks(real.side, real.channels)
        for images in (ours, real):
            if said := remark(images.num, extractor.length):
                yield f"{images.name}: {said}"
        yield from _of_classes(ours, real)

    @cached_property
    def device(self) -> str:
        return device_name(checkpoints.where(self.subject.device))


def evaluate(
    request: Evaluation,
    folder: Path,
    go_on: GoOn = lambda: True,
    where: Where | None = None,
    *,
    yardstick: Yardstick | None = None,
) -> Iterator[Answer]:
    """The plan; what is made of the reference, of the samples and of their features, as it comes; then the scores.

    Args:
        folder: new, or one of an evaluation, which goes on. Of the same samples there may be more from now on.
        go_on: asked after each answer; False ends it.
        yardstick: of this reference and extractor, where several evaluations share it.

    Raises:
        Refused: samples, reference or extractor cannot be used or do not go together, the folder holds something else,
            or memory does not suffice.
        Cancelled: `go_on` said so. What was finished is kept.
    """
    with enough_memory():
        check_apart(folder, request.samples, request.reference)
        against = yardstick or Yardstick(request.reference, request.extractor, folder / REFERENCE)
        with cluster.running(where), closing(_Evaluating(request, folder, against, where, go_on).answers()) as answers:  # type: ignore[type-var]
            for answer in answers:
                yield answer
                if not go_on():
                    raise Cancelled


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises Refused where there is not."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise Refused("There is not enough memory for this: close other programs, or compare fewer images.") from error


def check_apart(folder: Path, *images: Sampling | Data) -> None:
    """Raises Refused if a folder that will be written lies among images that are read."""
    for data in images:
        path = Path(data.path).expanduser().resolve() if isinstance(data, Data) and data.path else None
        if path is not None and folder.absolute().resolve().is_relative_to(path):
            raise Refused(f"{folder} is inside {path}, whose images are compared: choose another folder.")


# The images -------------------------------------------------------------------------------------------------------


class _Images(NamedTuple):
    """Some images, and what is known of them before they are read."""

    data: Data
    name: str
    classes: tuple[str, ...]
    num: int
    side: int
    """In pixels."""
    channels: int = 3
    sampled: bool = False
    """They are a folder of samples, or will be."""

    def check(self, what: str) -> None:
        """Raises Refused if there are too few."""
        if self.num < LEAST:
            raise Refused(f"{self.name} has {self.num:,} {what}, and fewer than {LEAST} tell nothing: give more.")


def _images(data: Data) -> _Images:
    """Raises Refused if there are none."""
    path = Path(data.path).expanduser().absolute()
    if data.path and shards.is_samples(path):
        if data.split is not None or data.num is not None:
            raise Refused(f"{path} is a folder of samples, which are taken as they are: leave split and number out.")
        samples = shards.open_samples(path)
        known = samples.record.checkpoint
        return _Images(Data(str(path)), path.name, samples.classes, samples.num, known.size, known.channels, True)
    found = open_labelled(data)
    settled = replace(data, path=str(path)) if data.path else data
    return _Images(settled, found.name, found.classes, len(found), found.side())


def _everywhere(subject: Subject) -> Subject:
    """The same, so that any working folder and any worker finds it."""
    path = str(file_of(subject))
    if subject.reference == INCEPTION:
        return replace(subject, choices={WEIGHTS: path})
    return subject if subject.reference in bundle.models() else replace(subject, reference=path)


def _of_classes(ours: _Images, real: _Images) -> Iterator[str]:
    """What classes one side has and the other has not: the distance is made of that, too."""
    if not ours.classes or not real.classes:
        return
    if not {alike(name) for name in ours.classes} & {alike(name) for name in real.classes}:
        yield (
            f"{ours.name} has no class of {real.name} ({_listed(ours.classes)} against {_listed(real.classes)}): check "
            "that it is the right reference."
        )
        return
    for one, other in ((ours, real), (real, ours)):
        known = {alike(name) for name in other.classes}
        if missing := [name for name in one.classes if alike(name) not in known]:
            yield f"{_listed(missing)} of {one.name} are no classes of {other.name}, which counts as a difference."


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


# The work ---------------------------------------------------------------------------------------------------------


class _Evaluating:
    """One evaluation, checked before anything is made."""

    def __init__(self, request: Evaluation, folder: Path, against: Yardstick, where: Where | None, go_on: GoOn) -> None:
        self._folder, self._against, self._where, self._go_on = folder, against, where, go_on
        self._ours = (
            self._sampled(request.samples) if isinstance(request.samples, Sampling) else _images(request.samples)
        )
        self._ours.check("samples")
        self._notes = tuple(dict.fromkeys(against.remarks(self._ours)))
        samples = request.samples if isinstance(request.samples, Sampling) else self._ours.data
        self._request = replace(request, samples=samples, reference=against.images.data, extractor=against.subject)
        writing.claim(folder, RECORD, MADE_BY)
        found = _record(folder)
        self._told: dict[str, Any] = msgspec.to_builtins(self._request)
        self._before = found or Record(request=self._told)
        if found is None:  # by which the folder is known as ours
            self._write(self._before)

    def _sampled(self, request: Sampling) -> _Images:
        known = checkpoints.inspect(request.subject.reference, request.subject.choices)
        place = Data(str((self._folder / SAMPLES).absolute()))
        return _Images(place, known.name, known.classes, request.num, known.size, known.channels, True)

    def answers(self) -> Iterator[Answer]:
        request, ours = self._request, self._ours
        plan = Plan(request, None, ours.classes, ours.num, 0, 0, self._against.device)
        if isinstance(request.samples, Sampling):
            with closing(sample(request.samples, self._folder / SAMPLES, self._go_on, self._where)) as making:  # type: ignore[type-var]
                planned = next(making)
                assert isinstance(planned, Plan)
                yield from self._made(replace(planned, request=request), making)
        else:
            yield from self._made(plan, iter(()))

    def _made(self, plan: Plan, making: Iterator[Answer]) -> Iterator[Answer]:
        """All answers, those of the samples among them."""
        reference = self._against.claim(self._ours.side)
        sampled = self._against.extracting("features", self._ours, self._folder / FEATURES, self._ours.side)
        of, real = sampled[1].record, reference[1].record
        notes, known = tuple(dict.fromkeys((*plan.notes, *self._notes))), plan.versions | _versions()
        plan = replace(plan, shards=len(sampled[1]), notes=notes, versions=known)
        yield plan
        before = self._before
        same = (before.samples, before.reference) == (of, real) and all(
            before.request.get(name) == self._told[name] for name in ("compared", "neighbours", "seed")
        )
        if same and before.scores is not None and self._whole(plan):
            self._against.floor = before.scores.floor
            yield before.scores
            return
        seconds = 0.0
        for part in (self._spread(*reference), making, self._spread(*sampled)):
            for answer in part:
                yield answer
                if isinstance(answer, Made):
                    seconds += answer.seconds
        begun = time.perf_counter()
        found = self._scores(Path(sampled[0].folder), Path(reference[0].folder))
        self._against.floor = found.floor
        self._write(
            Record(
                request=self._told, checkpoint=plan.checkpoint, samples=of, reference=real, scores=found,
                names=named(found.extractor, found.inception)._asdict(), notes=notes, device=plan.device,
                versions=known, seconds=seconds + time.perf_counter() - begun,
            )
        )  # fmt: skip
        yield found

    def _whole(self, plan: Plan) -> bool:
        """Whether all samples are there that the scores are of."""
        return plan.checkpoint is None or plan.done == plan.shards

    def _spread(self, asked: Extracting, kept: Kept) -> Iterator[Progress | Made]:
        """The features of some images, those that are there first."""
        done = kept.done()
        for item in sorted(done):
            yield Made(asked.what, item, len(kept.places(item)), found=True)
        left = [item for item in range(len(kept)) if item not in done]
        if left:
            with closing(cluster.spread(asked, left, self._where, go_on=self._go_on)) as answers:  # type: ignore[type-var]
                yield from answers

    def _scores(self, ours: Path, real: Path) -> Scores:
        extractor, request = self._against.extractor, self._request
        return scores(
            extractor.name, extractor.inception, features.kept(ours), features.kept(real), compared=request.compared,
            neighbours=request.neighbours, seed=request.seed, floor=self._against.floor,
        )  # fmt: skip

    def _write(self, record: Record) -> None:
        written = msgspec.json.encode(printable(msgspec.to_builtins(record)))
        writing.replace(self._folder / RECORD, msgspec.json.format(written))


def _record(folder: Path) -> Record | None:
    """What is left of an earlier time; None: nothing that can be read, and all is looked at anew."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torchmetrics", "torch-fidelity")}
    return versions() | packages
