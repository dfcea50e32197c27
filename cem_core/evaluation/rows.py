"""The rows of the paper's table, and what the paper measured (Wang et al. 2022). No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final, NamedTuple

from msgspec.structs import replace

from cem_core.evaluation.requests import Row, StartName
from cem_core.messages import Refused, Sampler
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import Subject

STARTS: Final = "starts"
"""The row of no sampler: what the starts themselves score."""
SUPERVISED: Final = ("TA", "Langevin", "CS", "RCS")
UNSUPERVISED: Final = ("PGD-unsup", "MaxEnt")
SWEPT: Final = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""b at a = 1, without noise."""
_SWEPT: Final = "b = "


class Paper(NamedTuple):
    """A number of the paper: of its own networks, in Inception features, of 50,000 samples."""

    network: str
    score: float
    frechet: float


PAPER: Final[dict[tuple[str, StartName], tuple[Paper, ...]]] = {
    ("TA", "gaussian"): (Paper("ResNet50", 9.26, 56.72),),
    ("Langevin", "gaussian"): (Paper("ResNet50", 9.65, 63.34),),
    ("CS", "gaussian"): (Paper("ResNet50", 9.77, 56.26),),
    ("RCS", "gaussian"): (Paper("ResNet50", 9.80, 55.91),),
    ("PGD-unsup", "gaussian"): (Paper("ResNet18", 5.85, 68.54), Paper("ResNet50", 5.37, 137.68)),
    ("MaxEnt", "gaussian"): (Paper("ResNet18", 8.68, 36.44), Paper("ResNet50", 9.61, 40.25)),
    ("PGD-unsup", "overall"): (Paper("ResNet18", 5.35, 74.27), Paper("ResNet50", 5.24, 141.54)),
    ("MaxEnt", "overall"): (Paper("ResNet18", 8.24, 41.80), Paper("ResNet50", 9.57, 44.86)),
}
"""By sampler and start."""


class Model(NamedTuple):
    """A model that rows are made for."""

    name: str
    subject: Subject
    encoder: bool


def is_start(row: Row) -> bool:
    """Whether nothing is moved."""
    return row.sampler.a == 0 == row.sampler.b and not row.sampler.noise


def is_swept(row: Row) -> bool:
    """Whether it is of a sweep of b."""
    return row.sampler.name.startswith(_SWEPT)


def rows(
    models: Sequence[Model],
    names: Iterable[str] = (),
    *,
    start: StartName | None = None,
    sweep: bool = False,
    steps: int | None = None,
) -> tuple[Row, ...]:
    """The lines of a table for these models: first the starts, then each model's samplers.

    Args:
        names: of samplers, and `STARTS`; empty: those of the paper, as far as there are models for them.
        start: None: class Gaussians, and of encoders the overall one too.
        sweep: add b from −1 to 1 at a = 1 without noise, of each classifier.
        steps: instead of those of each sampler.

    Raises:
        Refused: there is no such sampler, or no model for it.
    """  # fmt: skip
    wanted = [*dict.fromkeys(map(_known, names))]
    asked = wanted or [STARTS, *(name for name in (*SUPERVISED, *UNSUPERVISED) if _models(models, name))]
    for name in asked:
        if name != STARTS and not _models(models, name):
            kind = "an encoder" if SAMPLERS[name].coupled else "a classifier"
            raise Refused(f"{name} needs {kind}, and no model given is one: add one, or leave that row out.")
    if sweep and all(model.encoder for model in models):
        raise Refused("A sweep of b needs a classifier, and no model given is one: add one, or leave the sweep out.")
    found: list[Row] = []
    for model in models:
        samplers = [SAMPLERS[name] for name in asked if name != STARTS and model in _models(models, name)]
        if sweep and not model.encoder:
            samplers += [Sampler(name=f"{_SWEPT}{b:g}", a=1, b=b) for b in SWEPT]
        alone = sum(other.encoder == model.encoder for other in models) == 1
        usual: tuple[StartName, ...] = ("gaussian", "overall") if model.encoder else ("gaussian",)
        for at, sampler in product((start,) if start else usual, samplers):
            called = ", ".join([sampler.name, *_start(at), *([] if alone else [model.name])])
            row = sampler if steps is None else replace(sampler, steps=steps)
            found.append(Row(name=called, subject=model.subject, sampler=row, start=at))
    return (*(_starts(models, found, start) if STARTS in asked else ()), *found)


def _known(name: str) -> str:
    spelt = {known.casefold(): known for known in (STARTS, *SAMPLERS)}
    if name.casefold() not in spelt:
        raise Refused(f"There is no row {name[:40]!r}: choose among {', '.join((STARTS, *SAMPLERS))}.")
    return spelt[name.casefold()]


def _models(models: Sequence[Model], sampler: str) -> list[Model]:
    return [model for model in models if model.encoder == SAMPLERS[sampler].coupled]


def _start(at: StartName) -> list[str]:
    """What a name says of it: nothing of the usual one."""
    return [] if at == "gaussian" else [at]


def _starts(models: Sequence[Model], found: Sequence[Row], start: StartName | None) -> list[Row]:
    """Each start that a row begins with, by the first model that does: weights of zero move nothing."""
    first: dict[StartName, Subject] = {}
    for row in found:
        first.setdefault(row.start, row.subject)
    if not found:
        first[start or "gaussian"] = models[0].subject
    still = Sampler(name=STARTS, a=0, b=0, steps=1)
    return [
        Row(name=", ".join([STARTS, *_start(at)]), subject=subject, sampler=still, start=at)
        for at, subject in first.items()
    ]
