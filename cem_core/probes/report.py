"""What has come of a measurement over a set of images, and of an accuracy: points, lights and files. No torch."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from cem_core import writing
from cem_core.drawing import GRID, INK, MUTED, Box, Pen, Pixels, Svg, colour_of, ticks
from cem_core.images import png
from cem_core.messages import NORMS, Norm
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


class Files(NamedTuple):
    """Names of what is written into a folder, and who it is made by."""

    made_by: str
    record: str
    table: str
    svg: str
    png: str
    beside: tuple[str, ...] = ()

    def claim(self, folder: Path) -> None:
        """Make the folder if it is not there; what else is in it stays as it is.

        Raises:
            Refused: it cannot be made, or holds files of our names that are not ours.
        """
        writing.claim(folder, self.record, self.made_by, (*self[1:5], *self.beside))


class Gathered:
    """What the answers to any request over a set of images have in common."""

    files: ClassVar[Files]

    def __init__(self) -> None:
        self.opening: Opening | None = None
        self.lights: dict[int, tuple[Light, ...]] = {}
        """Of each model, by its index: the last that was told."""
        self.notes: list[str] = []
        """What was met on the way, and what is left out."""
        self.skipped: dict[str, str] = {}
        """Images that could not be read, and why."""

    def add(self, answer: Answer) -> None:
        match answer:
            case Opening():
                self.opening = answer
                self.notes += answer.notes
            case Lights():
                self.lights[answer.subject] = answer.lights
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
    def names(self) -> tuple[str, ...]:
        return names_of(self.begun)

    @property
    def measured(self) -> int:
        """How many numbers are known."""
        raise NotImplementedError

    @property
    def expected(self) -> int:
        """How many it will be in the end."""
        raise NotImplementedError

    @property
    def complete(self) -> bool:
        return self.opening is not None and self.measured == self.expected

    def write(self, folder: Path) -> None:
        """Put the record, the table and both drawings in place of those of an earlier time.

        Raises:
            Refused: the folder is not ours, or a file cannot be written.
        """
        self.files.claim(folder)
        record = msgspec.json.format(msgspec.json.encode(self._record()))
        writing.replace(folder / self.files.record, record)
        writing.replace(folder / self.files.table, self._table().encode("utf-8", "replace"))
        wide, high = self._size()
        svg, pixels = Svg(wide, high), Pixels(wide, high, zoom=2)
        for pen in (svg, pixels):
            self._draw(pen)
        writing.replace(folder / self.files.svg, svg.document(record))
        writing.replace(folder / self.files.png, png(pixels.picture()))

    def _record(self) -> dict[str, Any]:
        opening = self.begun
        models = [
            {
                "name": name,
                "title": checkpoint.title,
                "sha256": checkpoint.sha256,
                "precision": subject.precision,
                "choices": subject.choices,
                "lights": self.lights.get(number, ()),
                **self._of_model(number),
            }
            for number, (name, checkpoint, subject) in enumerate(
                zip(self.names, opening.checkpoints, opening.request.subjects, strict=True)
            )
        ]
        found: dict[str, Any] = printable(
            msgspec.to_builtins(
                {
                    "made_by": self.files.made_by,
                    "complete": self.complete,
                    "request": opening.request,
                    "images": opening.images,
                    "classes": opening.classes,
                    "models": models,
                    **self._told(),
                    "notes": self.notes,
                    "skipped": self.skipped,
                    "versions": opening.versions,
                }
            )
        )
        return found

    def _of_model(self, number: int) -> dict[str, Any]:
        """What the record says of a model besides what it is."""
        raise NotImplementedError

    def _told(self) -> dict[str, Any]:
        """What else the record says."""
        return {}

    def _table(self) -> str:
        raise NotImplementedError

    def _size(self) -> tuple[float, float]:
        """Of the drawing, width and height."""
        raise NotImplementedError

    def _draw(self, pen: Pen) -> None:
        raise NotImplementedError


class Report(Gathered):
    """Answers to an `Accuracy`, added up as they come."""

    files = Files(MADE_BY, RESULTS, TABLE, SVG, PNG, (JOURNAL,))

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[tuple[int, float], NDArray[np.int64]] = {}
        """(2, K) of each model and ε: how many images of each class are right, and how many there are."""
        self._attacks: dict[tuple[int, float], Cell] = {}
        """What the attacks have told, added up without the images: a long measurement is shown many times."""

    def add(self, answer: Answer) -> None:
        super().add(answer)
        if isinstance(answer, Cell):
            self._count(answer)

    @property
    def request(self) -> Accuracy:
        assert isinstance(self.begun.request, Accuracy)
        return self.begun.request

    @property
    def eps(self) -> tuple[float, ...]:
        """Those asked for, from small to large."""
        return tuple(sorted(set(self.request.eps)))

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

    def _of_model(self, number: int) -> dict[str, Any]:
        norm = self.request.attack.norm
        points = [
            {
                **msgspec.to_builtins(point),
                "told": told(point.eps, norm),
                "accuracy": point.accuracy,
                "band": point.band,
            }
            for point in self.points(number)
        ]
        return {"points": points}

    def _table(self) -> str:
        return _table(self)

    def _size(self) -> tuple[float, float]:
        return _WIDE, _HIGH

    def _draw(self, pen: Pen) -> None:
        _draw(pen, self)


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


# Numbers ----------------------------------------------------------------------------------------------------------


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


def _draw(pen: Pen, report: Report) -> None:
    """Accuracy against ε, a curve a model; each is numbered, as colours alone tell not everybody enough."""
    attack = report.request.attack
    eps, names = report.eps, report.names
    pen.text((28, 26), f"Accuracy under {attack_told(attack)} ({NORMS[attack.norm]})", INK, 17)
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
    pen.text((box.left + box.width / 2, bottom + 34), f"ε ({NORMS[norm]}, pixels in [0,1])", INK, 12, "m")


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
