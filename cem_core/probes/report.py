"""What has come of an accuracy so far: its points and lights, and the files that are made of them. No torch."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from cem_core import writing
from cem_core.drawing import GRID, INK, MUTED, Box, Pen, Pixels, Svg, colour_of, ticks
from cem_core.messages import Norm
from cem_core.probes import lights
from cem_core.probes.requests import ATTACKS, Accuracy, Attack
from cem_core.probes.results import Answer, Cell, Light, Lights, Note, Opening, Point

RESULTS: Final = "results.json"
TABLE: Final = "results.csv"
SVG: Final = "curve.svg"
PNG: Final = "curve.png"
JOURNAL: Final = "journal.jsonl"
MADE_BY: Final = "cem-explorer probe"
"""What our `results.json` begins with."""


def told(eps: float, norm: Norm) -> str:
    """A radius as people write it: L∞ in grey levels, where it is some."""
    levels = round(eps * 255)
    if norm == "linf" and levels and abs(eps * 255 - levels) < 1e-4:
        return f"{levels}/255"
    return f"{eps:.4g}"


def attack_told(attack: Attack) -> str:
    """Such as PGD-20, 5 restarts."""
    if attack.name != "pgd":
        return ATTACKS[attack.name]
    return f"PGD-{attack.steps}" + (f", {attack.restarts} restarts" if attack.restarts > 1 else "")


def names_of(opening: Opening) -> tuple[str, ...]:
    """Of the models, told apart where the same file is measured twice."""
    plain = [checkpoint.name for checkpoint in opening.checkpoints]
    found = []
    for number, (name, subject) in enumerate(zip(plain, opening.request.subjects, strict=True)):
        if plain.count(name) > 1:
            said = ", ".join([subject.precision, *(f"{fact} {value}" for fact, value in subject.choices.items())])
            name = f"{name} ({number + 1}: {said})"
        found.append(name)
    return tuple(found)


class Report:
    """Answers to an `Accuracy`, added up as they come."""

    def __init__(self) -> None:
        self.opening: Opening | None = None
        self.lights: dict[int, tuple[Light, ...]] = {}
        """Of each model as such, by its index."""
        self.notes: list[str] = []
        """What was met on the way, and what is left out."""
        self.skipped: dict[str, str] = {}
        """Images that could not be read, and why."""
        self._counts: dict[tuple[int, float], NDArray[np.int64]] = {}
        """(2, K) of each model and ε: how many images of each class are right, and how many there are."""
        self._attacks: dict[tuple[int, float], Cell] = {}
        """What the attacks have told, added up without the images: a long measurement is shown many times."""

    def add(self, answer: Answer) -> None:
        match answer:
            case Opening():
                self.opening = answer
                self.notes += answer.notes
            case Lights():
                self.lights[answer.subject] = answer.lights
            case Cell():
                self._count(answer)
            case Note(skipped=""):
                self.notes.append(answer.says)
            case Note():
                self.skipped[answer.skipped] = answer.says

    @property
    def begun(self) -> Opening:
        """The opening, which comes before all that is asked of a report."""
        assert self.opening is not None
        return self.opening

    @property
    def request(self) -> Accuracy:
        assert isinstance(self.begun.request, Accuracy)
        return self.begun.request

    @property
    def eps(self) -> tuple[float, ...]:
        """Those asked for, from small to large."""
        return tuple(sorted(set(self.request.eps)))

    @property
    def names(self) -> tuple[str, ...]:
        return names_of(self.begun)

    @property
    def measured(self) -> int:
        """Images that were judged, counted for each model and ε."""
        return sum(int(counts[1].sum()) for counts in self._counts.values())

    @property
    def expected(self) -> int:
        """How many it will be in the end."""
        if self.opening is None:
            return 0
        return (self.opening.images - len(self.skipped)) * len(self.request.subjects) * len(set(self.request.eps))

    @property
    def complete(self) -> bool:
        return self.opening is not None and self.measured == self.expected

    def points(self, subject: int) -> list[Point]:
        """The accuracies of a model as far as they are known, from small ε to large."""
        return [self._point((subject, eps)) for eps in self.eps if (subject, eps) in self._counts]

    def _count(self, cell: Cell) -> None:
        key, classes = (cell.subject, cell.eps), len(self.begun.classes)
        labels, correct = np.asarray(cell.labels, np.int64), np.asarray(cell.correct, bool)
        counts = np.stack([np.bincount(which, minlength=classes) for which in (labels[correct], labels)])
        self._counts[key] = self._counts.get(key, 0) + counts
        told = replace(cell, labels=(), correct=())
        self._attacks[key] = _joined(self._attacks[key], told) if key in self._attacks else told

    def _point(self, key: tuple[int, float]) -> Point:
        right, all_ = self._counts[key].tolist()
        seen = lights.of_cells([self._attacks[key]], self.request.attack)
        return Point(key[1], sum(right), sum(all_), tuple(zip(right, all_, strict=True)), seen)

    def write(self, folder: Path) -> None:
        """Put results.json, results.csv, curve.svg and curve.png in place of those of an earlier time.

        Raises:
            Refused: as `claim`, or a file cannot be written.
        """
        claim(folder)
        results = msgspec.json.format(msgspec.json.encode(_results(self)))
        writing.replace(folder / RESULTS, results)
        writing.replace(folder / TABLE, _table(self).encode("utf-8", "replace"))
        svg, pixels = Svg(_WIDE, _HIGH), Pixels(_WIDE, _HIGH, zoom=2)
        for pen in (svg, pixels):
            _draw(pen, self)
        writing.replace(folder / SVG, svg.document(results))
        file = io.BytesIO()
        Image.fromarray(pixels.picture()).save(file, "PNG")
        writing.replace(folder / PNG, file.getvalue())


def _joined(one: Cell, other: Cell) -> Cell:
    """Two cells that hold no images."""
    return replace(
        one,
        attacked=one.attacked + other.attacked,
        vanished=one.vanished + other.vanished,
        stuck=one.stuck + other.stuck,
        broken=tuple(map(sum, zip_longest(one.broken, other.broken, fillvalue=0))),
        seconds=one.seconds + other.seconds,
    )


def claim(folder: Path) -> None:
    """Make the folder if it is not there; what else is in it stays as it is.

    Raises:
        Refused: it cannot be made, or holds files of our names that are not ours.
    """
    writing.claim(folder, RESULTS, MADE_BY, (RESULTS, TABLE, SVG, PNG, JOURNAL))


# Numbers ----------------------------------------------------------------------------------------------------------


def _results(report: Report) -> dict[str, Any]:
    opening, request = report.begun, report.request
    models = [
        {
            "name": name,
            "title": checkpoint.title,
            "sha256": checkpoint.sha256,
            "precision": subject.precision,
            "choices": subject.choices,
            "lights": report.lights.get(number, ()),
            "points": [
                {
                    **msgspec.to_builtins(point),
                    "told": told(point.eps, request.attack.norm),
                    "accuracy": point.accuracy,
                    "band": point.band,
                }
                for point in report.points(number)
            ],
        }
        for number, (name, checkpoint, subject) in enumerate(
            zip(report.names, opening.checkpoints, request.subjects, strict=True)
        )
    ]
    found: dict[str, Any] = printable(
        msgspec.to_builtins(
            {
                "made_by": MADE_BY,
                "complete": report.complete,
                "request": request,
                "images": opening.images,
                "classes": opening.classes,
                "models": models,
                "notes": report.notes,
                "skipped": report.skipped,
                "versions": opening.versions,
            }
        )
    )
    return found


def printable(value: Any) -> Any:
    """Paths may hold bytes that are no text, which JSON cannot."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {printable(key): printable(entry) for key, entry in value.items()}
    return [printable(entry) for entry in value] if isinstance(value, list | tuple) else value


def _table(report: Report) -> str:
    """A row for each model, ε and class, and one for all classes."""
    opening, attack = report.begun, report.request.attack
    file = io.StringIO(newline="")
    sheet = csv.writer(file)
    sheet.writerow(
        ("model", "sha256", "precision", "attack", "norm", "eps", "eps_told", "class", "correct", "total", "accuracy",
         "low", "high", "lights")
    )  # fmt: skip
    for number, (name, checkpoint, subject) in enumerate(
        zip(report.names, opening.checkpoints, report.request.subjects, strict=True)
    ):
        model = [name, checkpoint.sha256, subject.precision, attack_told(attack), attack.norm]
        for point in report.points(number):
            seen = [light for light in (*report.lights.get(number, ()), *point.lights) if light.state != "fine"]
            warned = "; ".join(f"{light.name}: {light.state}" for light in seen)
            rows = [("all", point, warned)]
            each = zip(opening.classes, point.per_class, strict=True)
            rows += [(label, Point(point.eps, *counts), "") for label, counts in each if counts[1]]
            for label, one, said in rows:
                counts = [label, one.correct, one.total, one.accuracy, *one.band, said]
                sheet.writerow([*model, point.eps, told(point.eps, attack.norm), *counts])
    return file.getvalue()


# The drawing ------------------------------------------------------------------------------------------------------

_WIDE, _HIGH = 760.0, 520.0
_NORMS: Final[dict[Norm, str]] = {"l2": "L2", "linf": "L∞"}


def _draw(pen: Pen, report: Report) -> None:
    """Accuracy against ε, a curve a model; each is numbered, as colours alone tell not everybody enough."""
    attack = report.request.attack
    eps, names = report.eps, report.names
    pen.text((28, 26), f"Accuracy under {attack_told(attack)} ({_NORMS[attack.norm]})", INK, 17)
    for number, name in enumerate(names):
        y = 52 + 18.0 * number
        pen.line([(28, y), (46, y)], colour_of(number), 2.5)
        pen.text((54, y), f"{number + 1}  {name[:90]}", INK, 12)
    top = 52 + 18.0 * len(names) + 14
    most = max(eps) or 1.0
    box = Box(64, top, _WIDE - 64 - 48, _HIGH - top - 74, (0, most), (0, 100))
    _axes(pen, box, eps, attack.norm)
    ends: list[tuple[float, float, int]] = []
    for number in reversed(range(len(names))):  # the first on top
        points = report.points(number)
        if not points:
            continue
        colour = colour_of(number)
        low, high = ([box.place(point.eps, 100 * point.band[side]) for point in points] for side in (0, 1))
        if len(points) > 1:
            pen.area([*low, *reversed(high)], colour, 0.16)
        else:
            pen.line([low[0], high[0]], colour, 1)
        way = [box.place(point.eps, 100 * point.accuracy) for point in points]
        if len(way) > 1:
            pen.line(way, colour, 2.2)
        for at in way:
            pen.dot(at, colour, 3.2)
        ends.append((way[-1][1], way[-1][0], number))
    for y, x, number in _apart(ends):
        pen.text((x + 9, y), str(number + 1), colour_of(number), 12)
    pen.text((28, _HIGH - 16), _of_what(report), MUTED, 11)


def _axes(pen: Pen, box: Box, eps: tuple[float, ...], norm: Norm) -> None:
    bottom = box.top + box.height
    for value in ticks(0, 100, 5):
        _, y = box.place(0, value)
        pen.line([(box.left, y), (box.left + box.width, y)], GRID, 1)
        pen.text((box.left - 8, y), f"{value:g} %", MUTED, 11, "r")
    free = -1.0
    for value in eps:
        x, _ = box.place(value, 0)
        label = told(value, norm)
        pen.line([(x, bottom), (x, bottom + 4)], MUTED, 1)
        if x - 3.5 * len(label) > free:
            pen.text((x, bottom + 14), label, MUTED, 11, "m")
            free = x + 3.5 * len(label) + 6
    pen.text((box.left + box.width / 2, bottom + 34), f"ε ({_NORMS[norm]}, pixels in [0,1])", INK, 12, "m")


def _apart(ends: list[tuple[float, float, int]], least: float = 13) -> Iterator[tuple[float, float, int]]:
    """The places of labels (y, x, number), moved down as far as they would hide each other."""
    ordered = sorted(ends)
    moved = [y for y, _, _ in ordered]
    for above, below in pairwise(range(len(moved))):
        moved[below] = max(moved[below], moved[above] + least)
    for y, (_, x, number) in zip(moved, ordered, strict=True):
        yield y, x, number


def _of_what(report: Report) -> str:
    totals = Counter(point.total for number in range(len(report.names)) for point in report.points(number))
    images = report.begun.images - len(report.skipped)
    of, band = Path(report.request.data.path).name or "bundled samples", "bands: 95 % (Wilson)"
    if report.complete:
        return f"{images:,} images of {of}; {band}"
    so_far = " to ".join(f"{count:,}" for count in sorted({min(totals, default=0), max(totals, default=0)}))
    return f"unfinished: {so_far} of {images:,} images of {of} so far; {band}"
