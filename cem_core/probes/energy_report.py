"""What has come of energies so far: how well E(x) tells the kinds of images apart, and files of it. No torch.

A higher E(x) stands for an image that the model finds less likely, so that the AUROC of a kind is the probability that
one of its images has a higher E(x) than a clean one: 1 where all are found less likely, 0.5 where E(x) tells nothing,
and below that where they are found more likely than clean images. E(x) of two models is never compared.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cem_core.drawing import COLOURS, GRID, INK, MUTED, Box, Pen, Point, ticks
from cem_core.messages import NORMS, Floats
from cem_core.probes.report import Files, Gathered, attack_told, told
from cem_core.probes.requests import Energies
from cem_core.probes.results import Answer, Kind, Sample, auroc

RECORD: Final = "energies.json"
TABLE: Final = "energies.csv"
SVG: Final = "energies.svg"
PNG: Final = "energies.png"
MADE_BY: Final = "cem-explorer energies"
KINDS: Final[tuple[Kind, ...]] = ("clean", "adversarial", "generated")
_BINS: Final = (10, 60)


class Row(NamedTuple):
    """The energies of one kind of images, for one model."""

    kind: Kind
    images: int
    mean: float
    deviation: float
    change: float
    """Mean E(x) less that of the clean images; 0 for these."""
    auroc: float
    """Of clean images against this kind; NaN for the clean ones."""


class Histogram(NamedTuple):
    """One model's kinds over the same bins."""

    edges: NDArray[np.float64]
    """(bins + 1,)"""
    shares: dict[Kind, NDArray[np.float64]]
    """(bins,) of the images of the kind."""


class EnergyReport(Gathered):
    """Answers to an `Energies`, put together as they come."""

    files = Files(MADE_BY, RECORD, TABLE, SVG, PNG)

    def __init__(self) -> None:
        super().__init__()
        self._parts: defaultdict[tuple[int, Kind], list[Floats]] = defaultdict(list)

    def add(self, answer: Answer) -> None:
        super().add(answer)
        if isinstance(answer, Sample):
            self._parts[answer.subject, answer.kind].append(answer.energy)

    @property
    def request(self) -> Energies:
        assert isinstance(self.begun.request, Energies)
        return self.begun.request

    @property
    def measured(self) -> int:
        """Energies that are known, of all models and kinds."""
        return sum(len(part) for parts in self._parts.values() for part in parts)

    @property
    def expected(self) -> int:
        """How many it will be in the end."""
        if self.opening is None:
            return 0
        images = self.opening.images - len(self.skipped)
        each = images * (2 if self.request.eps > 0 else 1) + self.request.generated
        return each * len(self.request.subjects)

    def energy(self, subject: int, kind: Kind) -> Floats:
        """(N,) E(x) of all images so far; the n-th clean and adversarial ones are of the same image."""
        parts = self._parts.get((subject, kind), [])
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def rows(self, subject: int) -> list[Row]:
        """What is known of a model, a row for each kind of which there are images."""
        clean = self.energy(subject, "clean")
        found = []
        for kind in KINDS:
            if len(energy := self.energy(subject, kind)):
                mean, deviation = float(energy.mean(dtype=np.float64)), float(energy.std(dtype=np.float64))
                # Of adversarial images as many as there are: after an interruption, some clean ones have none yet.
                paired = clean[: len(energy)] if kind == "adversarial" else clean
                change = mean - float(paired.mean(dtype=np.float64)) if len(paired) else np.nan
                found.append(
                    Row(kind, len(energy), mean, deviation, change, np.nan if kind == "clean" else auroc(clean, energy))
                )
        return found

    def histogram(self, subject: int) -> Histogram:
        """The kinds of one model over bins that all of them share (Freedman and Diaconis 1981, of the narrowest)."""
        known = {kind: energy for kind in KINDS if len(energy := self.energy(subject, kind))}
        if not known:
            return Histogram(np.linspace(0, 1, 2), {})
        low = min(float(energy.min()) for energy in known.values())
        high = max(float(energy.max()) for energy in known.values())
        if not high > low:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, _bins(list(known.values()), high - low) + 1)
        return Histogram(edges, {kind: np.histogram(energy, edges)[0] / len(energy) for kind, energy in known.items()})

    def _of_model(self, number: int) -> dict[str, Any]:
        histogram = self.histogram(number)
        return {
            "kinds": [row._asdict() for row in self.rows(number)],
            "edges": histogram.edges.tolist(),
            "shares": {kind: shares.tolist() for kind, shares in histogram.shares.items()},
        }

    def _told(self) -> dict[str, Any]:
        return {"auroc": "probability that E(x) of an image of the kind is above that of a clean one"}

    def _table(self) -> str:
        return _table(self)

    def _size(self) -> tuple[float, float]:
        return _WIDE, _TOP + _PANEL * len(self.names) + _BOTTOM

    def _draw(self, pen: Pen) -> None:
        _draw(pen, self)


def _bins(energies: list[Floats], span: float) -> int:
    widths = [2 * float(np.subtract(*np.percentile(each, [75, 25]))) / len(each) ** (1 / 3) for each in energies]
    narrowest = min((width for width in widths if width > 0), default=span)
    return int(np.clip(np.ceil(span / narrowest), *_BINS))


def direction(row: Row) -> str:
    """What an AUROC means, in a few words; empty for clean images."""
    if np.isnan(row.auroc):
        return ""
    if abs(row.auroc - 0.5) < 0.05:
        return "not told from clean"
    return "less likely than clean" if row.auroc > 0.5 else "more likely than clean"


# Numbers ----------------------------------------------------------------------------------------------------------


def _table(report: EnergyReport) -> str:
    """A row for each image; clean and adversarial ones of the same number are of the same image."""
    file = io.StringIO(newline="")
    sheet = csv.writer(file)
    sheet.writerow(("model", "sha256", "kind", "image", "energy"))
    for number, (name, checkpoint) in enumerate(zip(report.names, report.begun.checkpoints, strict=True)):
        for kind in KINDS:
            energies = enumerate(report.energy(number, kind))
            sheet.writerows((name, checkpoint.sha256, kind, image + 1, energy) for image, energy in energies)
    return file.getvalue()


# The drawing ------------------------------------------------------------------------------------------------------

_WIDE, _PANEL, _TOP, _BOTTOM = 760.0, 268.0, 48.0, 34.0
_COLOUR: Final[dict[Kind, str]] = {"clean": COLOURS[0], "adversarial": COLOURS[3], "generated": COLOURS[1]}


def _draw(pen: Pen, report: EnergyReport) -> None:
    """A panel for each model, with an axis of its own."""
    request = report.request
    pen.text((28, 26), "E(x) of clean and other images: a lower one is more likely to the model", INK, 17)
    for number, name in enumerate(report.names):
        _panel(pen, _TOP + _PANEL * number, f"{number + 1}  {name[:80]}", report.histogram(number), report.rows(number))
    norm, of = request.attack.norm, Path(request.data.path).name or "bundled samples"
    said = f"{'' if report.complete else 'unfinished; '}{report.begun.images:,} images of {of}"
    if request.eps > 0:
        said += f"; adversarial: {attack_told(request.attack)}, {NORMS[norm]} {told(request.eps, norm)}"
    pen.text((28, _TOP + _PANEL * len(report.names) + _BOTTOM - 16), said, MUTED, 11)


def _panel(pen: Pen, top: float, name: str, histogram: Histogram, rows: list[Row]) -> None:
    pen.text((28, top + 12), name, INK, 13)
    for place, row in enumerate(rows):
        y = top + 32 + 15 * place
        said = f"{row.kind}: mean {row.mean:.2f} of {row.images:,}"
        if row.kind != "clean":
            said += f", {row.change:+.2f} from clean; AUROC {row.auroc:.3f}, {direction(row)}"
        pen.line([(28, y), (46, y)], _COLOUR[row.kind], 2.5)
        pen.text((54, y), said, INK, 11.5)
    edges, most = histogram.edges, max((float(shares.max()) for shares in histogram.shares.values()), default=1.0)
    box = Box(64, top + 92, _WIDE - 64 - 28, 126, (float(edges[0]), float(edges[-1])), (0, 100 * most * 1.3))
    _axes(pen, box)
    outlines = {kind: list(_outlines(box, edges, shares)) for kind, shares in histogram.shares.items()}
    for kind, ways in outlines.items():
        for way in ways:
            pen.area(way, _COLOUR[kind], 0.18)
    named: list[Point] = []
    for kind, shares in histogram.shares.items():
        for way in outlines[kind]:
            pen.line(way, _COLOUR[kind], 1.8)
        peak = int(shares.argmax())
        x, y = box.place(float(edges[peak] + edges[peak + 1]) / 2, 100 * float(shares[peak]))
        x, y = min(max(x, box.left + 34), box.left + box.width - 34), y - 8
        while any(abs(x - other[0]) < 76 and abs(y - other[1]) < 12 for other in named):
            y -= 4  # up, until it hides no other
        pen.text((x, y), kind, _COLOUR[kind], 11, "m")
        named.append((x, y))


def _outlines(box: Box, edges: NDArray[np.float64], shares: NDArray[np.float64]) -> Iterator[list[Point]]:
    """Around each stretch of bins that hold something: up, over them in steps, and down."""
    filled = np.flatnonzero(shares)
    for bins in np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1):
        at = np.repeat(edges[bins[0] : bins[-1] + 2], 2)
        heights = np.concatenate([[0], np.repeat(100 * shares[bins], 2), [0]])
        yield [box.place(float(x), float(y)) for x, y in zip(at, heights, strict=True)]


def _axes(pen: Pen, box: Box) -> None:
    for value in ticks(*box.values, 3):
        _, y = box.place(box.steps[0], value)
        pen.line([(box.left, y), (box.left + box.width, y)], GRID, 1)
        pen.text((box.left - 8, y), f"{value:g} %", MUTED, 11, "r")
    bottom = box.top + box.height
    for value in ticks(*box.steps, 8):
        x, _ = box.place(value, 0)
        pen.line([(x, bottom), (x, bottom + 4)], MUTED, 1)
        pen.text((x, bottom + 14), f"{value:g}", MUTED, 11, "m")
    pen.text((box.left + box.width / 2, bottom + 32), "E(x)", INK, 12, "m")
