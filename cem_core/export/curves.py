"""The numbers of a run: as a table, and drawn without a window, as SVG and as pixels."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from cem_core.drawing import COLOURS, GRID, INK, MUTED, Box, Pen, Pixels, Point, Svg, axes, colour_of, span, ways
from cem_core.events import Event
from cem_core.export.carried import RunFile
from cem_core.images import Bytes
from cem_core.messages import Checkpoint, Floats
from cem_core.session import Numbers, Session

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
    candidates = record.candidates
    columns = ["step", "chain", "start", "target", "energy", "joint_energy", "log_p", "p", "gradient_norm", "distance"]
    columns += ["top1", "events", "a", "b", "step_size", "noise", "norm", "radius"]
    columns += [f"{'logit' if record.checkpoint.classes else 'similarity'}_{name}" for name in candidates]
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
        for chain in range(len(record.labels)):
            logits = numbers.logits[step, chain]
            named = [step, chain + 1, record.starts[chain], record.target(chain)]
            measured = [str(column[step, chain]) for column in columns_of_numbers]
            seen = [candidates[logits.argmax()], events(chain, step)]
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


_PANELS: Final = (
    ("energy", "E(x)"),
    ("joint", "E(x,{y})"),
    ("log_p", "log p({y}|x)"),
    ("distance", "distance from the start"),
)
_WIDE, _HIGH = 1040.0, 720.0


def second(checkpoint: Checkpoint) -> str:
    """What an image is compared with: y, a class; or with an encoder x', another image."""
    return "y" if checkpoint.classes else "x'"


def svg(session: Session, record: RunFile, steps: list[int], text: bytes) -> bytes:
    """The curves of the chosen steps as a document that carries the settings."""
    pen = Svg(_WIDE, _HIGH)
    _draw(pen, session.numbers, record, steps)
    return pen.document(text)


def picture(session: Session, record: RunFile, steps: list[int]) -> Bytes:
    """The same as pixels (H, W, 3), twice as fine."""
    pen = Pixels(_WIDE, _HIGH, zoom=2)
    _draw(pen, session.numbers, record, steps)
    return pen.picture()


def _draw(pen: Pen, numbers: Numbers, record: RunFile, steps: list[int]) -> None:
    name = f"{record.checkpoint.name}, {record.spec.sampler.name}"
    pen.text((28, 26), name[:100], INK, 17)
    chains = len(record.labels)
    shown = min(chains, _NAMED)
    for chain in range(shown):
        column, row = divmod(chain, 2)
        x, y = 28 + column * 196.0, 54 + 18.0 * row
        target = record.target(chain)[:16]
        label = record.starts[chain][:16] + (f" → {target}" if target else "")
        pen.line([(x, y), (x + 16, y)], colour_of(chain), 2.5)
        pen.text((x + 22, y), label[:28], INK, 11.5)
    if chains > shown:
        pen.text((_WIDE - 28, 26), f"{shown} of {chains} chains named", MUTED, 11.5, "r")
    for place, (what, title) in enumerate(_PANELS):
        row, column = divmod(place, 2)
        values: Floats = getattr(numbers, what)[steps]
        box = Box(84 + column * 506.0, 116 + row * 300.0, 422, 226, span(steps), span(values))
        pen.text((box.left, box.top - 14), title.format(y=second(record.checkpoint)), INK, 13)
        axes(pen, box)
        for chain in reversed(range(chains)):  # the first on top
            for way in ways(box, steps, values[:, chain]):
                pen.line(way, colour_of(chain), 1.6 if chains <= _NAMED else 1)
        if what == "energy":
            _mark(pen, box, steps, values, record.events)


def _mark(pen: Pen, box: Box, steps: list[int], values: Floats, events: Sequence[Event]) -> None:
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
        pen.dot(at, colour_of(event.chain), 3.5)
        right = x > box.left + box.width / 2
        label = (x - 7, y - 8) if right else (x + 7, y - 8)
        if all(abs(label[0] - other[0]) > 110 or abs(label[1] - other[1]) > 13 for other in written):
            pen.text(label, event.kind, MUTED, 10, "r" if right else "l")
            written.append(label)


class Miniature:
    """E(x) and p(y|x) of one chain in a square, which fade from the step on that is shown."""

    def __init__(self, numbers: Numbers, chain: int, steps: list[int], side: int, y: str = "y") -> None:
        unit = side / 128
        pen = Pixels(side, side)
        ends = span(steps)
        p = np.exp(numbers.log_p[steps, chain])
        self._box = Box(6 * unit, 18 * unit, side - 12 * unit, 40 * unit, ends, span(numbers.energy[steps, chain]))
        below = self._box._replace(top=80 * unit, values=(0.0, 1.0))
        rows = ((self._box, numbers.energy[steps, chain], "E(x)", COLOURS[1]), (below, p, f"p({y}|x)", COLOURS[0]))
        for box, values, title, colour in rows:
            pen.text((box.left, box.top - 9 * unit), title, MUTED, 9 * unit)
            for edge in (box.top, box.top + box.height):
                pen.line([(box.left, edge), (box.left + box.width, edge)], GRID, max(0.5, unit / 2))
            for way in ways(box, steps, values):
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
