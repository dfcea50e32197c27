"""The numbers of a run: as a table, and drawn without a window, as SVG and as pixels."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cem_core.events import Event
from cem_core.export.carried import RunFile
from cem_core.images import Bytes
from cem_core.messages import Floats
from cem_core.session import Numbers, Session
from cem_core.sheet import plain

Point = tuple[float, float]

_COLOURS: Final = (
    "#147a66", "#2a66d0", "#b0540b", "#c4373a", "#7a4fbf", "#0b8bb0", "#8a7a10", "#b0428f", "#4d7c2a", "#5f6774",
)  # fmt: skip
_INK, _MUTED, _GRID, _PAPER = "#191c22", "#5f6774", "#e3e7ec", "#ffffff"
_FINEST: Final = 1000
"""Points of a drawn curve; of longer ones, the lowest and highest of each stretch are drawn."""
_NAMED: Final = 10
"""Chains in the legend."""
_MARKED: Final = 10
"""Chains whose events are drawn."""


# The table --------------------------------------------------------------------------------------------------------


@contextmanager
def table(path: Path, record: RunFile, numbers: Numbers) -> Iterator[Callable[[int], None]]:
    """Takes steps; a row for each chain at each, in which numbers have the digits that bring the same float32 back.

    What happened at steps that are left out stands at the next that is there.
    """
    classes = record.checkpoint.classes
    columns = ["step", "chain", "start", "target", "energy", "joint_energy", "log_p", "p", "gradient_norm", "distance"]
    columns += ["top1", "events", "a", "b", "step_size", "noise", "norm", "radius"]
    columns += [f"logit_{name}" for name in classes]
    waiting = _by_chain(record.events)
    for happened in waiting.values():
        happened.sort(key=lambda event: event.step, reverse=True)

    def events(chain: int, step: int) -> str:
        found = []
        while waiting[chain] and waiting[chain][-1].step <= step:
            event = waiting[chain].pop()
            found.append(event.kind if event.step == step else f"{event.kind} (step {event.step})")
        return "; ".join(found)

    rows = {0: record.spec.sampler} | {change.step: change.sampler for change in record.changes}
    log_p = numbers.log_p
    columns_of_numbers = (numbers.energy, numbers.joint, log_p, np.exp(log_p), numbers.gradient_norm, numbers.distance)

    def write(step: int) -> None:
        sampler = rows[max(begun for begun in rows if begun <= step)]
        row_of_sampler = [sampler.a, sampler.b, sampler.step_size, sampler.noise, sampler.norm, sampler.radius]
        for chain, label in enumerate(record.labels):
            logits = numbers.logits[step, chain]
            named = [step, chain + 1, record.starts[chain], classes[label]]
            measured = [str(column[step, chain]) for column in columns_of_numbers]
            seen = [classes[logits.argmax()], events(chain, step)]
            sheet.writerow([*named, *measured, *seen, *row_of_sampler, *map(str, logits)])

    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(columns)
        yield write


def _by_chain(events: Sequence[Event]) -> defaultdict[int, list[Event]]:
    found: defaultdict[int, list[Event]] = defaultdict(list)
    for event in events:
        found[event.chain].append(event)
    return found


# The drawing ------------------------------------------------------------------------------------------------------


class Pen(Protocol):
    """What a drawing is made with; y grows downwards."""

    def line(self, points: Sequence[Point], colour: str, width: float = 1) -> None: ...
    def dot(self, at: Point, colour: str, radius: float) -> None: ...
    def text(self, at: Point, text: str, colour: str, size: float, anchor: str = "l") -> None: ...


class _Svg:
    def __init__(self, width: float, height: float) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" font-family="system-ui, sans-serif">',
            f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
        ]

    def line(self, points: Sequence[Point], colour: str, width: float = 1) -> None:
        way = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="{width:g}" stroke-linejoin="round"/>'
        )

    def dot(self, at: Point, colour: str, radius: float) -> None:
        self._parts.append(f'<circle cx="{at[0]:.2f}" cy="{at[1]:.2f}" r="{radius:g}" fill="{colour}"/>')

    def text(self, at: Point, text: str, colour: str, size: float, anchor: str = "l") -> None:
        where = {"l": "start", "m": "middle", "r": "end"}[anchor]
        written = escape("".join(letter if letter.isprintable() else " " for letter in text))
        self._parts.append(
            f'<text x="{at[0]:.2f}" y="{at[1]:.2f}" fill="{colour}" font-size="{size:g}" text-anchor="{where}" '
            f'dominant-baseline="central">{written}</text>'
        )

    def document(self, text: bytes) -> bytes:
        carried = f"<metadata>{escape(text.decode())}</metadata>"
        return "\n".join([self._parts[0], carried, *self._parts[1:], "</svg>\n"]).encode()


class _Pixels:
    """Drawn larger and made smaller, as Pillow's lines have jagged edges."""

    FINER: Final = 2

    def __init__(self, width: float, height: float, zoom: float = 1) -> None:
        self._zoom = zoom
        self._unit = self.FINER * zoom
        self._image = Image.new("RGB", (math.ceil(width * self._unit), math.ceil(height * self._unit)), _PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[Point], colour: str, width: float = 1) -> None:
        way = [(x * self._unit, y * self._unit) for x, y in points]
        self._draw.line(way, colour, max(1, round(width * self._unit)), joint="curve")

    def dot(self, at: Point, colour: str, radius: float) -> None:
        x, y, r = at[0] * self._unit, at[1] * self._unit, radius * self._unit
        self._draw.ellipse((x - r, y - r, x + r, y + r), colour)

    def text(self, at: Point, text: str, colour: str, size: float, anchor: str = "l") -> None:
        font = ImageFont.load_default(max(4, size * self._unit))  # smaller ones cannot be made, nor read
        self._draw.text((at[0] * self._unit, at[1] * self._unit), plain(text), colour, font, anchor=f"{anchor}m")

    def picture(self) -> Bytes:
        """(H, W, 3)."""
        size = (self._image.width // self.FINER, self._image.height // self.FINER)
        return np.asarray(self._image.resize(size, Image.Resampling.BOX))


class _Plot(NamedTuple):
    """A box with axes: which steps and values lie where."""

    left: float
    top: float
    width: float
    height: float
    steps: tuple[float, float]
    values: tuple[float, float]

    def place(self, step: float, value: float) -> Point:
        across = (step - self.steps[0]) / ((self.steps[1] - self.steps[0]) or 1)
        up = (value - self.values[0]) / ((self.values[1] - self.values[0]) or 1)
        return self.left + across * self.width, self.top + (1 - up) * self.height


_PANELS: Final = (
    ("energy", "E(x)"),
    ("joint", "E(x,y)"),
    ("log_p", "log p(y|x)"),
    ("distance", "distance from the start"),
)
_WIDE, _HIGH = 1040.0, 720.0


def svg(session: Session, record: RunFile, steps: list[int], text: bytes) -> bytes:
    """The curves of the chosen steps as a document that carries the settings."""
    pen = _Svg(_WIDE, _HIGH)
    _draw(pen, session.numbers, record, steps)
    return pen.document(text)


def picture(session: Session, record: RunFile, steps: list[int]) -> Bytes:
    """The same as pixels (H, W, 3), twice as fine."""
    pen = _Pixels(_WIDE, _HIGH, zoom=2)
    _draw(pen, session.numbers, record, steps)
    return pen.picture()


def _draw(pen: Pen, numbers: Numbers, record: RunFile, steps: list[int]) -> None:
    name = f"{record.checkpoint.name}, {record.spec.sampler.name}"
    pen.text((28, 26), name[:100], _INK, 17)
    chains = len(record.labels)
    shown = min(chains, _NAMED)
    for chain in range(shown):
        column, row = divmod(chain, 2)
        x, y = 28 + column * 196.0, 54 + 18.0 * row
        label = f"{record.starts[chain][:16]} → {record.checkpoint.classes[record.labels[chain]][:16]}"
        pen.line([(x, y), (x + 16, y)], _colour(chain), 2.5)
        pen.text((x + 22, y), label[:28], _INK, 11.5)
    if chains > shown:
        pen.text((_WIDE - 28, 26), f"{shown} of {chains} chains named", _MUTED, 11.5, "r")
    for place, (what, title) in enumerate(_PANELS):
        row, column = divmod(place, 2)
        values: Floats = getattr(numbers, what)[steps]
        box = _Plot(84 + column * 506.0, 116 + row * 300.0, 422, 226, _range(steps), _range(values))
        pen.text((box.left, box.top - 14), title, _INK, 13)
        _axes(pen, box)
        for chain in reversed(range(chains)):  # the first on top
            for way in _ways(box, steps, values[:, chain]):
                pen.line(way, _colour(chain), 1.6 if chains <= _NAMED else 1)
        if what == "energy":
            _mark(pen, box, steps, values, record.events)


def _colour(chain: int) -> str:
    return _COLOURS[chain % len(_COLOURS)]


def _range(values: Sequence[float] | Floats) -> tuple[float, float]:
    """Lowest and highest of what is finite, and never about the same."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    pad = max(0.5, 0.01 * abs(low)) if high - low <= 1e-6 * abs(low) else 0.0
    return low - pad, high + pad


def _axes(pen: Pen, box: _Plot) -> None:
    for value in _ticks(*box.values, 5):
        _, y = box.place(box.steps[0], value)
        pen.line([(box.left, y), (box.left + box.width, y)], _GRID, 1)
        pen.text((box.left - 8, y), f"{value:g}", _MUTED, 11, "r")
    for step in _ticks(*box.steps, 6):
        if step == int(step):
            x, _ = box.place(step, box.values[0])
            pen.line([(x, box.top + box.height), (x, box.top + box.height + 4)], _MUTED, 1)
            pen.text((x, box.top + box.height + 14), f"{step:.0f}", _MUTED, 11, "m")


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / about
    size = 10 ** math.floor(math.log10(rough))
    pitch = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
    first = math.ceil(low / pitch - 1e-9)
    return [round(i * pitch, 12) for i in range(first, math.floor(high / pitch + 1e-9) + 1)]


def _ways(box: _Plot, steps: Sequence[int], values: Floats) -> Iterator[list[Point]]:
    """Lines through the finite points, in pieces between those that are not."""
    way: list[Point] = []
    for index in _kept(values):
        if np.isfinite(values[index]):
            way.append(box.place(steps[index], float(values[index])))
        elif way:
            yield way
            way = []
    if way:
        yield way if len(way) > 1 else [way[0], (way[0][0] + 0.5, way[0][1])]


def _kept(values: Floats) -> list[int]:
    """Which points of a curve are drawn: all, or the lowest and highest of each stretch."""
    if len(values) <= _FINEST:
        return list(range(len(values)))
    edges = np.linspace(0, len(values), _FINEST // 2 + 1).astype(int)
    kept = {0, len(values) - 1}
    finite = np.nan_to_num(values)
    for low, high in pairwise(edges.tolist()):
        kept |= {low + int(finite[low:high].argmin()), low + int(finite[low:high].argmax())}
    return sorted(kept)


def _mark(pen: Pen, box: _Plot, steps: list[int], values: Floats, events: Sequence[Event]) -> None:
    """A dot where something happened to the first chains, and one word for what, as far as there is room."""
    row_of = {step: row for row, step in enumerate(steps)}
    written: list[Point] = []
    for event in events:
        if event.chain >= _MARKED or event.step not in row_of:
            continue
        value = float(values[row_of[event.step], event.chain])
        if not math.isfinite(value):
            continue
        x, y = at = box.place(event.step, value)
        pen.dot(at, _colour(event.chain), 3.5)
        right = x > box.left + box.width / 2
        label = (x - 7, y - 8) if right else (x + 7, y - 8)
        if all(abs(label[0] - other[0]) > 110 or abs(label[1] - other[1]) > 13 for other in written):
            pen.text(label, event.kind, _MUTED, 10, "r" if right else "l")
            written.append(label)


class Miniature:
    """E(x) and p(y|x) of one chain in a square, which fade from the step on that is shown."""

    def __init__(self, numbers: Numbers, chain: int, steps: list[int], side: int) -> None:
        unit = side / 128
        pen = _Pixels(side, side)
        ends = _range(steps)
        p = np.exp(numbers.log_p[steps, chain])
        self._box = _Plot(6 * unit, 18 * unit, side - 12 * unit, 40 * unit, ends, _range(numbers.energy[steps, chain]))
        below = self._box._replace(top=80 * unit, values=(0.0, 1.0))
        rows = ((self._box, numbers.energy[steps, chain], "E(x)", _COLOURS[1]), (below, p, "p(y|x)", _COLOURS[0]))
        for box, values, title, colour in rows:
            pen.text((box.left, box.top - 9 * unit), title, _MUTED, 9 * unit)
            for edge in (box.top, box.top + box.height):
                pen.line([(box.left, edge), (box.left + box.width, edge)], _GRID, max(0.5, unit / 2))
            for way in _ways(box, steps, values):
                pen.line(way, colour, max(1, 1.4 * unit))
        self._past = pen.picture()
        self._future = 255 - (255 - self._past) // 4
        self._bottom = round(below.top + below.height)
        self._thick = max(1, round(unit))

    def at(self, step: int) -> Bytes:
        """(side, side, 3)."""
        here = round(self._box.place(step, self._box.values[0])[0])
        shown = np.concatenate([self._past[:, :here], self._future[:, here:]], axis=1)
        shown[round(self._box.top) : self._bottom, here : here + self._thick] = (25, 28, 34)
        return shown
