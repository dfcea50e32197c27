"""A table in words: how far it is and how fast, its columns and rows, and what it is of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from cem_core.evaluation.report import NUMBERS, Mean, Number, Report, source
from cem_core.evaluation.requests import INCEPTION, StartName, Table
from cem_core.evaluation.results import Answer, Made, Plan, Progress, Scores
from cem_core.evaluation.rows import is_start
from cem_core.messages import Sampler
from cem_gui.panels import evaluate
from cem_gui.panels.evaluate import Line
from cem_gui.panels.training import lasting
from cem_gui.widgets.figures import figure

STARTS: Final[dict[StartName, str]] = {
    "gaussian": "class Gaussians", "overall": "overall Gaussian", "noise": "noise",
}  # fmt: skip
_FEATURES: Final = 2.0
"""So many steps of a sampler take about as long as what comes after them: features, and numbers."""
_NUMBERS: Final[dict[Number, str]] = {
    "frechet": "How far the samples are from the real images as a whole: lower is nearer",
    "kernel": "The same by kernels, whose mean does not depend on how many samples there are: lower is nearer",
    "score": "How surely each sample is of a class, and how evenly all classes come: higher is better",
    "precision": "The share of the samples that lie among the real images: higher is better",
    "recall": "The share of the real images that lie among the samples: higher is better",
}
_LOWER: Final = frozenset({"frechet", "kernel"})


class Course:
    """How far a table is, and how fast: what was found on the disk is done and says nothing of the pace."""

    def __init__(self, request: Table) -> None:
        self._shards = -(-request.num // request.batch)
        self._steps = [row.sampler.steps for row in request.rows]
        self._whole = len(request.seeds) * sum(steps + _FEATURES for steps in self._steps)
        self._done: dict[tuple[int, int, str], dict[int, float]] = {}
        """By cell and kind of work: how far each shard is."""
        self._scored: set[tuple[int, int]] = set()
        self._begun = time.monotonic()
        self._gained = 0.0
        self.at: tuple[int, int] = (0, request.seeds[0])
        """The row and the seed that are worked on,"""
        self.what = ""
        """and what is done with them."""

    def add(self, row: int, seed: int, answer: Answer) -> None:
        cell = row, seed
        before = self._of(cell)
        found = False
        match answer:
            case Plan():
                return
            case Progress():
                self._done.setdefault((*cell, answer.what), {})[answer.shard] = min(answer.share, 0.999)
                self.at, self.what = cell, answer.what
            case Made():
                self._done.setdefault((*cell, answer.what), {})[answer.shard] = 1.0
                found = answer.found
                self.at, self.what = cell, answer.what
            case Scores():
                self._scored.add(cell)
        if not found:
            self._gained += (self._of(cell) - before) * self._weight(row)

    def found(self, row: int, seed: int) -> None:
        """It was measured before."""
        self._scored.add((row, seed))

    def _of(self, cell: tuple[int, int]) -> float:
        if cell in self._scored:
            return 1.0
        samples, features = (sum(self._done.get((*cell, what), {}).values()) / self._shards
                             for what in ("samples", "features"))  # fmt: skip
        steps = self._steps[cell[0]]
        return (steps * min(1.0, samples) + 0.9 * _FEATURES * min(1.0, features)) / self._weight(cell[0])

    def _weight(self, row: int) -> float:
        """How much work a cell is."""
        return self._steps[row] + _FEATURES

    def of(self, row: int, seed: int) -> float:
        """How far a cell is."""
        return self._of((row, seed))

    @property
    def share(self) -> float:
        """How far all is."""
        cells = {key[:2] for key in self._done} | self._scored
        return sum(self._of(cell) * self._weight(cell[0]) for cell in cells) / self._whole

    @property
    def left(self) -> float | None:
        """Seconds; None: too little was done to say."""
        spent, gained = time.monotonic() - self._begun, self._gained / self._whole
        return None if gained < 0.002 or spent < 2 else spent * (1 - self.share) / gained


def _shown_numbers(report: Report) -> list[Number]:
    """Without the class score of an encoder, which has none."""
    one = report.any
    return [number for number in NUMBERS if number != "score" or one is None or one.score is not None]


def heads(report: Report) -> list[evaluate.Number]:
    """Of the columns: "Fréchet distance (model_test)" in two lines, as all numbers depend on the extractor."""
    found, of = [], report.any.extractor if report.any is not None else ""
    for number in _shown_numbers(report):
        name = report.names[number].removesuffix(f" ({of})")
        arrow = "↓" if number in _LOWER else "↑"
        found.append(evaluate.Number(f"{name} {arrow}", of, f"{report.names[number]}. {_NUMBERS[number]}."))
        if number == "frechet":
            tip = "The distance of one half of the real images to the other: no sampler can be expected to pass it"
            found.append(evaluate.Number("floor", of, tip))
    return found


def lines(report: Report, course: Course | None) -> list[Line]:
    """The rows. course: of what is under way; None: nothing is."""
    numbers, seeds = _shown_numbers(report), report.request.seeds
    best = {number: _best(report, number) for number in numbers}
    found = []
    for place, row in enumerate(report.request.rows):
        cells, marked = list[tuple[str, str]](), list[bool]()
        for number in numbers:
            known = report.mean(place, number)
            cells.append(("–", "") if known is None else (_figure(known), _tip(report, place, number, known)))
            marked.append(best[number] == place)
            if number == "frechet":
                one = next((report.cells[place, seed] for seed in seeds if (place, seed) in report.cells), None)
                cells.append(("–" if one is None else f"{one.floor:.3g}", ""))
                marked.append(False)
        how = "not moved" if is_start(row) else _numbers_of(row.sampler)
        tip = f"{row.name} · {report.model(place)} · {STARTS[row.start]} · {how}"
        found.append(Line(row.name, tip, cells, marked, _state(report, course, place)))
    return found


def _figure(known: Mean) -> str:
    return str(known).replace("-", "−")


def _tip(report: Report, row: int, number: Number, known: Mean) -> str:
    over = f"95 % interval over {known.seeds} seeds" if known.seeds > 1 else "one seed"
    said = f"{report.names[number]}: {_figure(known)}, {over}"
    papers = report.paper(row) if number in ("frechet", "score") else ()
    for paper in papers:
        of = f"FID of {paper.frechet:.2f}" if number == "frechet" else f"Inception score of {paper.score:.2f}"
        said += f"\nThe paper has an {of} for its own {paper.network}"
    return said


def _numbers_of(sampler: Sampler) -> str:
    a, b = (figure(weight, "+g") for weight in (sampler.a, sampler.b))
    return f"a {a}, b {b}, step {sampler.step_size:g}, noise {sampler.noise:g}, {sampler.steps:,} steps"


def _best(report: Report, number: Number) -> int | None:
    """The row that has the best mean, where there is more than one."""
    known = {place: mean.value for place in range(len(report.request.rows))
             if (mean := report.mean(place, number)) is not None and not np.isnan(mean.value)}  # fmt: skip
    if len(known) < 2:
        return None
    return (min if number in _LOWER else max)(known, key=known.__getitem__)


def _state(report: Report, course: Course | None, row: int) -> str:
    """How far a row is."""
    seeds = report.request.seeds
    done = sum((row, seed) in report.cells for seed in seeds)
    if done == len(seeds):
        return "done" if done == 1 else f"{done} seeds"
    many = f"{done} of {len(seeds)} seeds" if len(seeds) > 1 else ""
    if course is not None and course.at[0] == row and course.what:
        now = "reference" if course.what == "reference" else f"{100 * course.of(*course.at):.0f} %"
        return f"{many} · {now}" if many else now
    return many or "waits"


def so_far(report: Report, course: Course) -> str:
    """Such as: 12 % · RCS, seed 0: samples · 4 minutes left."""
    row, seed = course.at
    cell = report.request.rows[row].name + (f", seed {seed}" if len(report.request.seeds) > 1 else "")
    now = "features of the reference images" if course.what == "reference" else f"{cell}: {course.what}"
    left = f" · {lasting(course.left)} left" if course.left is not None else ""
    return f"{100 * course.share:.0f} % · {now}{left}"


def of_table(report: Report) -> str:
    """One line above the table."""
    request, one = report.request, report.any
    seeds = f"{len(request.seeds)} seeds" if len(request.seeds) > 1 else "one seed"
    of = f"{one.reference:,} real images of {source(request)}" if one is not None else source(request)
    interval = " · mean ± 95 % interval over the seeds" if len(request.seeds) > 1 else ""
    return f"{request.num:,} samples a row, {seeds} · against {of}{interval}"


def about(report: Report, folder: Path) -> Iterator[str]:
    request = report.request
    seeds = f"seed{'s' if len(request.seeds) > 1 else ''} {', '.join(map(str, request.seeds))}"
    yield f"{len(request.rows)} row{'s' if len(request.rows) > 1 else ''} of {request.num:,} samples, {seeds}."
    data = request.reference
    which = [data.path, *([data.split] if data.split else []), *([f"{data.num:,} images"] if data.num else [])]
    yield f"Reference: {', '.join(which)}."
    inception = request.extractor.reference == INCEPTION
    yield f"Features of {'Inception' if inception else Path(request.extractor.reference).name}."
    yield f"In {folder}."
    yield from report.verdicts() if report.complete else ()
    yield from report.notes
