"""What has come of a table so far: means over seeds, and files of them. No torch."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from cem_core import writing
from cem_core.drawing import GRID, INK, MUTED, Box, Pen, Pixels, Svg, colour_of, ticks
from cem_core.evaluation.requests import Row, Table
from cem_core.evaluation.results import Answer, Plan, Scores, named
from cem_core.evaluation.rows import PAPER, Paper, is_start, is_swept
from cem_core.images import png
from cem_core.messages import NORMS, Checkpoint
from cem_core.probes.report import printable

RECORD: Final = "table.json"
MARKDOWN: Final = "table.md"
SHEET: Final = "table.csv"
SVG: Final = "table.svg"
PNG: Final = "table.png"
MADE_BY: Final = "cem-explorer table"
FILES: Final = (RECORD, MARKDOWN, SHEET, SVG, PNG)
SAMPLES, FEATURES, REFERENCE = "samples", "features", "reference"
"""Folders in that of an evaluation. A table has one reference for all."""

Number = Literal["frechet", "kernel", "score", "precision", "recall"]
NUMBERS: Final[tuple[Number, ...]] = ("frechet", "kernel", "score", "precision", "recall")
_BEST: Final = {"frechet": "↓", "kernel": "↓", "score": "↑", "precision": "↑", "recall": "↑"}
_NAN: Final = float("nan")


class Mean(NamedTuple):
    """Of a number over seeds, with its 95 % interval (Student's t)."""

    value: float
    half: float
    """Half the width of the interval; NaN of a single seed, which tells nothing of others."""
    seeds: int

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half

    def __str__(self) -> str:
        """Two digits of the uncertainty, or four of a number without."""
        if not self.half > 0:
            return f"{self.value:.4g}"
        digits = min(6, max(0, 1 - math.floor(math.log10(self.half))))
        return f"{self.value:.{digits}f} ± {self.half:.{digits}f}"


def mean(values: Sequence[float]) -> Mean:
    """Of one value or more."""
    count = len(values)
    half = student(count - 1) * statistics.stdev(values) / math.sqrt(count) if count > 1 else _NAN
    return Mean(statistics.fmean(values), half, count)


_STUDENT: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 3e-4: as tabled, from 11 on by its expansion around the normal one
    (Abramowitz and Stegun 26.7.5)."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def cell(row: Row, seed: int) -> Path:
    """Where in the folder of a table the evaluation of a row and seed is."""
    return Path(quote(row.name, safe=" ,+=()").rstrip(".")) / f"seed-{seed}"


class Report:
    """Answers to a `Table`, added up as they come."""

    def __init__(self, request: Table) -> None:
        self.request = request
        self.cells: dict[tuple[int, int], Scores] = {}
        """By row and seed."""
        self.checkpoints: dict[int, Checkpoint] = {}
        """By row."""
        self.notes: list[str] = []
        self.versions: dict[str, str] = {}
        self.devices: dict[str, None] = {}

    def add(self, row: int, seed: int, answer: Answer) -> None:
        match answer:
            case Plan():
                if answer.checkpoint is not None:
                    self.checkpoints[row] = answer.checkpoint
                self.notes += [note for note in answer.notes if note not in self.notes]
                self.versions |= answer.versions
                self.devices[answer.device] = None
            case Scores():
                self.cells[row, seed] = answer

    @property
    def measured(self) -> int:
        """Cells that are known."""
        return len(self.cells)

    @property
    def expected(self) -> int:
        return len(self.request.rows) * len(self.request.seeds)

    @property
    def complete(self) -> bool:
        return self.measured == self.expected

    def mean(self, row: int, number: Number) -> Mean | None:
        """Over the seeds that are known; None: none is, or the extractor has no such number."""
        found = [getattr(self.cells[row, seed], number) for seed in self.request.seeds if (row, seed) in self.cells]
        known = [float(value) for value in found if value is not None]
        return mean(known) if known else None

    def paper(self, row: int) -> tuple[Paper, ...]:
        """What the paper measured with this sampler and start, on a model of this kind."""
        asked = self.request.rows[row]
        checkpoint = self.checkpoints.get(row)
        if checkpoint is None or bool(checkpoint.classes) == asked.sampler.coupled:
            return ()
        return PAPER.get((asked.sampler.name, asked.start), ())

    def model(self, row: int) -> str:
        """Its name; of a row that moves nothing, none."""
        if is_start(self.request.rows[row]):
            return "not moved"
        checkpoint = self.checkpoints.get(row)
        return checkpoint.name if checkpoint else Path(self.request.rows[row].subject.reference).stem

    @property
    def any(self) -> Scores | None:
        """A cell, for what all have in common: the extractor, the reference and the floor."""
        return next(iter(self.cells.values()), None)

    @property
    def names(self) -> dict[Number, str]:
        """What the numbers may be called, the name of the extractor with each that depends on it."""
        one = self.any
        if one is None:
            return dict(zip(NUMBERS, ("Fréchet distance", "kernel distance", "class score", *NUMBERS[3:]), strict=True))
        known = named(one.extractor, one.inception)
        return {"frechet": known.frechet, "kernel": known.kernel, "score": known.score, "precision": "precision",
                "recall": "recall"}  # fmt: skip

    def verdicts(self) -> list[str]:
        """A sentence or two for each model: which row is nearest, and whether the paper has it so."""
        models: dict[str, list[int]] = {}
        for row, asked in enumerate(self.request.rows):
            if self.mean(row, "frechet") is not None and not is_start(asked):
                models.setdefault(self.model(row), []).append(row)
        return [f"{name}: {' '.join(self._verdict(measured))}" for name, measured in models.items()]

    def _verdict(self, measured: list[int]) -> Iterator[str]:
        ordered = sorted(measured, key=self._distance)
        best = ordered[0]
        said = f"{self._called(best)} has the lowest {self.names['frechet']}, {self.mean(best, 'frechet')}"
        if len(ordered) > 1:
            after = ordered[1]
            said += f"; next is {self._called(after)} with {self.mean(after, 'frechet')}, {self._apart(best, after)}"
        yield said + "."
        papers = [row for row in ordered if self.paper(row)]
        if len(papers) > 1:
            yield self._as_in_the_paper(papers)
        if len(swept := [row for row in ordered if is_swept(self.request.rows[row])]) > 1:
            order = ", ".join(f"{self._called(row)} ({self.mean(row, 'frechet')})" for row in swept)
            yield f"The sweep of b, the nearest first: {order}; its first two: {self._apart(*swept[:2])}."
        worse = [row for row in ordered if self._distance(row) >= self._distance(self._unmoved(row))]
        if worse:
            names = ", ".join(map(self._called, worse))
            yield f"No nearer than the starts that {'they' if len(worse) > 1 else 'it'} began with: {names}."

    def _unmoved(self, row: int) -> int | None:
        """The row of the starts that a row begins with."""
        begun = self.request.rows[row].start
        still = (other for other, asked in enumerate(self.request.rows) if is_start(asked) and asked.start == begun)
        return next(still, None)

    def _as_in_the_paper(self, papers: list[int]) -> str:
        """Of rows that the paper has too, by measured distance: is its best one ours?"""
        best, what = papers[0], "Of the rows that the paper has,"
        theirs = min(papers, key=lambda row: min(one.frechet for one in self.paper(row)))
        told = min(self.paper(theirs), key=lambda one: one.frechet)
        if best == theirs:
            return f"{what} {self._called(best)} is best here as there (FID {told.frechet:.2f}, {told.network})."
        said = f"{what} {self._called(theirs)} is best there (FID {told.frechet:.2f}, {told.network}) and "
        said += f"{self._called(best)} here, with {self.mean(best, 'frechet')} against {self.mean(theirs, 'frechet')}"
        apart = self._apart(best, theirs)
        return f"{said}: this contradicts the paper." if apart == _APART else f"{said}, {apart}."

    def _apart(self, one: int, other: int) -> str:
        """How sure an order of two rows is."""
        near, far = self.mean(one, "frechet"), self.mean(other, "frechet")
        assert near is not None
        assert far is not None
        if math.isnan(near.half) or math.isnan(far.half):
            return "though a single seed says nothing of others"
        return _APART if near.high < far.low else "though their intervals overlap"

    def _distance(self, row: int | None) -> float:
        known = None if row is None else self.mean(row, "frechet")
        return known.value if known else math.inf

    def _called(self, row: int) -> str:
        return self.request.rows[row].name

    # Files --------------------------------------------------------------------------------------------------------

    def claim(self, folder: Path) -> None:
        """Make the folder. Raises Refused if it holds files of our names that are not ours."""
        writing.claim(folder, RECORD, MADE_BY, FILES)

    def write(self, folder: Path) -> None:
        """Put all files in place of those of an earlier time.

        Raises:
            Refused: the folder is not ours, or a file cannot be written.
        """
        self.claim(folder)
        record = msgspec.json.format(msgspec.json.encode(self.record()))
        writing.replace(folder / RECORD, record)
        writing.replace(folder / MARKDOWN, self.markdown().encode("utf-8", "replace"))
        writing.replace(folder / SHEET, self.sheet().encode("utf-8", "replace"))
        wide, high = _size(self)
        svg, pixels = Svg(wide, high), Pixels(wide, high, zoom=2)
        for pen in (svg, pixels):
            _draw(pen, self)
        writing.replace(folder / SVG, svg.document(record))
        writing.replace(folder / PNG, png(pixels.picture()))

    def record(self) -> dict[str, Any]:
        """All that is known, as JSON has it: what is no number is null."""
        found: dict[str, Any] = printable(
            msgspec.to_builtins(
                {
                    "made_by": MADE_BY,
                    "complete": self.complete,
                    "request": self.request,
                    "names": self.names,
                    "rows": [
                        {
                            "name": row.name,
                            "checkpoint": self.checkpoints.get(number),
                            "means": {what: _interval(self.mean(number, what)) for what in NUMBERS},
                            "seeds": {
                                str(seed): self.cells[number, seed]
                                for seed in self.request.seeds
                                if (number, seed) in self.cells
                            },
                            "paper": [one._asdict() for one in self.paper(number)],
                        }
                        for number, row in enumerate(self.request.rows)
                    ],
                    "verdicts": self.verdicts(),
                    "notes": self.notes,
                    "devices": list(self.devices),
                    "versions": self.versions,
                }
            )
        )
        return found

    def markdown(self) -> str:
        return "\n".join(_markdown(self)) + "\n"

    def lines(self) -> list[tuple[str, ...]]:
        """The cells of the table in words, its heads first."""
        one = self.any
        return [] if one is None else list(_lines(self, one))

    def sheet(self) -> str:
        """CSV: a line for each row and seed, and one for all its seeds."""
        file = io.StringIO(newline="")
        sheet = csv.writer(file)
        sheet.writerows(_sheet(self))
        return file.getvalue()


_APART: Final = "and their intervals do not overlap"


def _interval(known: Mean | None) -> dict[str, float | None] | None:
    if known is None:
        return None
    sure = not math.isnan(known.half)
    return {"mean": known.value, "low": known.low if sure else None, "high": known.high if sure else None,
            "seeds": known.seeds}  # fmt: skip


# Markdown ---------------------------------------------------------------------------------------------------------


def source(request: Table) -> str:
    """What the reference is called."""
    data = request.reference
    name = Path(data.path).name or "bundled samples"
    return f"{name}, {data.split}" if data.split else name


def _markdown(report: Report) -> Iterator[str]:
    request, one = report.request, report.any
    yield f"# Samples against {source(request)}"
    yield ""
    if not report.complete:
        yield f"**Unfinished: {report.measured:,} of {report.expected:,} cells (a row and a seed each) are measured.**"
        yield ""
    if one is None:
        yield "Nothing is measured yet."
        yield ""
    else:
        yield from _introduced(report, one)
        yield from _grid(_lines(report, one))
        yield ""
        yield "## What came nearest"
        yield ""
        yield from (f"- {verdict}" for verdict in report.verdicts() or ["No sampler is measured yet."])
        yield ""
    yield "## Settings"
    yield ""
    yield "drift = a·∇f(x,y) + b·∇LSE(x), of which a step goes α along, plus η of Gaussian noise."
    yield ""
    yield from _grid(_settings(report))
    yield ""
    digests = {one.name: one.sha256 for one in report.checkpoints.values()}
    yield from (f"- {name}: SHA-256 `{sha256}`" for name, sha256 in digests.items())
    yield f"- Samples: {request.num:,} of each seed, in batches of {request.batch:,}, each class as often as any other"
    yield f"- Device: {', '.join(report.devices) or 'not known yet'}"
    yield f"- Versions: {', '.join(f'{name} {version}' for name, version in sorted(report.versions.items()))}"
    if report.notes:
        yield ""
        yield "## Notes"
        yield ""
        yield from (f"- {note}" for note in report.notes)


def _introduced(report: Report, one: Scores) -> Iterator[str]:
    seeds = ", ".join(map(str, report.request.seeds))
    yield (
        f"{one.num:,} samples of each row and seed against {one.reference:,} real images of {source(report.request)}, "
        f"in the features of {one.extractor}: mean and 95 % interval (Student's t) over the seeds {seeds}. ↓ lower is "
        "better, ↑ higher is."
    )
    yield ""
    if not one.inception:
        yield (
            f"These are distances in the features of {one.extractor} and no FID: compare them with each other and with "
            "nothing that was measured otherwise."
        )
        yield ""
    if any(report.paper(row) for row in range(len(report.request.rows))):
        yield (
            "The columns of the paper (Wang et al. 2022) are of its own networks, in Inception features, of 50,000 "
            "samples: their order may be compared with ours, their values may not."
        )
        yield ""
    yield (
        f"*Floor* is the distance of one half of the real images to the other, {one.reference // 2:,} each: what no "
        "sampler can be expected to pass. *Starts* are not moved at all."
    )
    yield ""


def _lines(report: Report, one: Scores) -> Iterator[tuple[str, ...]]:
    shown = [what for what in NUMBERS if what != "score" or one.score is not None]
    heads = [f"{report.names[what]} {_BEST[what]}" for what in shown]
    yield ("row", "model", *heads, "the paper's FID ↓", "its Inception score ↑")
    yield ("floor", "real images", f"{one.floor:.4g}", *[""] * (len(shown) + 1))
    for number, row in enumerate(report.request.rows):
        known = [report.mean(number, what) for what in shown]
        cells = [str(value) if value else "not yet" for value in known]
        if known[0] and known[0].seeds < len(report.request.seeds):
            cells[0] += f" ({known[0].seeds} of {len(report.request.seeds)} seeds)"
        papers = report.paper(number)
        yield (
            row.name,
            report.model(number),
            *cells,
            ", ".join(_of(paper.frechet, paper, papers) for paper in papers),
            ", ".join(_of(paper.score, paper, papers) for paper in papers),
        )


def _of(value: float, paper: Paper, papers: Sequence[Paper]) -> str:
    return f"{value:.2f}" + (f" ({paper.network})" if len(papers) > 1 else "")


def _settings(report: Report) -> Iterator[tuple[str, ...]]:
    yield ("row", "model", "starts", "a", "b", "step α", "noise η", "norm", "ball", "steps", "chains")
    for number, row in enumerate(report.request.rows):
        sampler = row.sampler
        if is_start(row):
            yield (row.name, report.model(number), row.start, "0", "0", *[""] * 4, "0", "")
            continue
        yield (
            row.name, report.model(number), row.start, f"{sampler.a:g}", f"{sampler.b:g}", f"{sampler.step_size:.4g}",
            f"{sampler.noise:g}", NORMS[sampler.norm] + ("" if sampler.normalised else ", plain gradient"),
            "none" if sampler.radius is None else f"{sampler.radius:.4g}", f"{sampler.steps:,}",
            "coupled" if sampler.coupled else "alone",
        )  # fmt: skip


def _grid(lines: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """A table of Markdown, its columns of one width for whoever reads it as text; numbers to the right."""
    cells = [tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for place, line in enumerate(cells):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield f"| {' | '.join(padded)} |"
        if not place:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


# CSV --------------------------------------------------------------------------------------------------------------


def _sheet(report: Report) -> Iterator[tuple[object, ...]]:
    intervals = [f"{what}{end}" for what in NUMBERS for end in ("", "_low", "_high")]
    yield (
        "row", "seed", "model", "sha256", "sampler", "a", "b", "step_size", "noise", "norm", "radius", "steps",
        "normalised", "coupled", "start", "num", "batch", "extractor", "inception", "reference", "reference_num",
        *intervals, "floor", "paper_frechet", "paper_score",
    )  # fmt: skip
    for number, row in enumerate(report.request.rows):
        sampler, checkpoint, papers = row.sampler, report.checkpoints.get(number), report.paper(number)
        known = [(seed, report.cells[number, seed]) for seed in report.request.seeds if (number, seed) in report.cells]
        for seed, scores in [*known, *([("all", known[0][1])] if known else [])]:
            if seed == "all":
                means = [_interval(report.mean(number, what)) or {} for what in NUMBERS]
                values = [one.get(end) for one in means for end in ("mean", "low", "high")]
            else:
                values = [cell for what in NUMBERS for cell in (getattr(scores, what), None, None)]
            yield (
                row.name, seed, report.model(number), checkpoint.sha256 if checkpoint else "", sampler.name, sampler.a,
                sampler.b, sampler.step_size, sampler.noise, sampler.norm, sampler.radius, sampler.steps,
                sampler.normalised, sampler.coupled, row.start, scores.num, report.request.batch, scores.extractor,
                scores.inception, source(report.request), scores.reference, *values, scores.floor,
                "; ".join(f"{paper.frechet:.2f} {paper.network}" for paper in papers),
                "; ".join(f"{paper.score:.2f} {paper.network}" for paper in papers),
            )  # fmt: skip


# The drawing ------------------------------------------------------------------------------------------------------

_WIDE, _TOP, _PITCH, _BOTTOM = 860.0, 84.0, 24.0, 74.0
_LEFT, _RIGHT = 330.0, 150.0


def _size(report: Report) -> tuple[float, float]:
    return _WIDE, _TOP + _PITCH * len(report.request.rows) + _BOTTOM


def _draw(pen: Pen, report: Report) -> None:
    """A dot with its interval for each row, a colour for each model, and the floor as a line."""
    request, one = report.request, report.any
    what = report.names["frechet"]
    pen.text((28, 26), f"{what} to {source(request)}"[:96], INK, 17)
    pen.text((28, 48), "lower is nearer", MUTED, 12)
    means = [report.mean(number, "frechet") for number in range(len(request.rows))]
    most = max(
        (value for known in means if known for value in (known.value, known.high) if value == value), default=1.0
    )
    box = Box(_LEFT, _TOP, _WIDE - _LEFT - _RIGHT, _PITCH * len(request.rows), (0, 1.04 * most or 1.0), (0, 1))
    bottom = box.top + box.height
    for value in ticks(*box.steps, 6):
        x, _ = box.place(value, 0)
        pen.line([(x, box.top), (x, bottom)], GRID, 1)
        pen.text((x, bottom + 14), f"{value:g}", MUTED, 11, "m")
    if one is not None:
        x, _ = box.place(one.floor, 0)
        pen.line([(x, box.top - 4), (x, bottom)], INK, 1.4)
        pen.text((max(x, box.left + 12), box.top - 13), f"floor {one.floor:.3g}", INK, 11, "m")
    moved = [report.model(number) for number, row in enumerate(request.rows) if not is_start(row)]
    colours = {model: colour_of(at) for at, model in enumerate(dict.fromkeys(moved))}
    for number, (row, known) in enumerate(zip(request.rows, means, strict=True)):
        y = box.top + _PITCH * (number + 0.5)
        colour = colours.get(report.model(number), MUTED)
        pen.text((28, y), row.name[:34], INK, 12)
        pen.text((_LEFT - 14, y), report.model(number)[:24], colour, 11, "r")
        if known is None:
            pen.text((box.left + 8, y), "not measured yet", MUTED, 11)
            continue
        if known.half > 0:
            low, high = ((box.place(max(0.0, end), 0)[0], y) for end in (known.low, known.high))
            pen.line([low, high], colour, 2)
            for x, _ in (low, high):
                pen.line([(x, y - 4), (x, y + 4)], colour, 1.5)
        pen.dot((box.place(known.value, 0)[0], y), colour, 4)
        pen.text((_WIDE - 28, y), str(known), INK, 12, "r")
    pen.text((box.left + box.width / 2, bottom + 34), what[:64], INK, 12, "m")
    pen.text((28, bottom + 58), _of_what(report), MUTED, 11)


def _of_what(report: Report) -> str:
    one = report.any
    so_far = "" if report.complete else f"unfinished, {report.measured:,} of {report.expected:,} cells; "
    if one is None:
        return f"{so_far}nothing is measured yet"
    seeds = len(report.request.seeds)
    over = f"mean and 95 % interval over {seeds} seeds" if seeds > 1 else "one seed"
    return f"{so_far}{one.num:,} samples a row and seed, {one.reference:,} real images; {over}"
