"""What the lens has shown of one chain: its numbers, drawings and maps as files. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from cem_core import writing
from cem_core.drawing import INK, Box, Pen, Pixels, Svg, axes, colour_of, span, ways
from cem_core.images import Bytes, enlarge, png, signed, signed_scale
from cem_core.messages import Floats
from cem_core.presets import SAMPLERS
from cem_core.probes.results import Split

RECORD: Final = "lens.json"
MADE_BY: Final = "cem-explorer lens"
ROWS: Final = ("TA", "CS", "RCS", "Langevin", "PGD")
"""The presets that differ in the weights of the two parts."""
_SIDE: Final = 256
"""Pixels that a map has at least."""
_TINY: Final = 1e-30


class Drift(NamedTuple):
    """a·∇f(x,y) + b·∇LSE(x) of one preset, along T steps."""

    norm: Floats
    """(T,)"""
    cosine: Floats
    """(T,) of the angle to ∇f(x,y); NaN where one of the two is zero."""


def drift(split: Split, a: float, b: float) -> Drift:
    """What a row would make of the two parts."""
    whole = (a * split.class_part + b * split.marginal_part).reshape(len(split.cosine), -1).astype(np.float64)
    norm, of_class = np.linalg.norm(whole, axis=1), np.asarray(split.class_norm, np.float64)
    product = (whole * split.class_part.reshape(len(whole), -1)).sum(1)
    lengths = norm * of_class
    known = lengths > _TINY
    cosine = np.where(known, product / np.where(known, lengths, 1), np.nan).clip(-1, 1)
    return Drift(norm.astype(np.float32), cosine.astype(np.float32))


class LensReport:
    """The answers to a `Lens`, put together as they come.

    Args:
        steps: which step each point is.
        shown: the steps of which the maps are kept.
    """

    def __init__(self, steps: Sequence[int], shown: Sequence[int]) -> None:
        self._steps, self._shown = list(steps), set(shown)
        self._splits: list[tuple[Floats, ...]] = []
        self._maps: dict[int, tuple[Floats, Floats]] = {}
        self.seconds = 0.0

    def add(self, split: Split) -> None:
        """Its `first` counts the points, which come in their order."""
        drifts = [drift(split, SAMPLERS[name].a, SAMPLERS[name].b) for name in ROWS]
        numbers = [split.class_norm, split.marginal_norm, split.cosine]
        self._splits.append((*numbers, *(values for one in drifts for values in one)))
        self.seconds += split.seconds
        for point in range(len(split.cosine)):
            if (step := self._steps[split.first + point]) in self._shown:
                self._maps[step] = (split.class_part[point].copy(), split.marginal_part[point].copy())

    @property
    def columns(self) -> dict[str, Floats]:
        """Name → (T,) values."""
        names = ["class_norm", "marginal_norm", "cosine"]
        names += [f"{row}_{what}" for row in ROWS for what in ("norm", "cosine")]
        return {name: np.concatenate(parts) for name, parts in zip(names, zip(*self._splits, strict=True), strict=True)}

    def write(self, folder: Path, title: str, chain: int, about: Mapping[str, Any]) -> None:
        """lens.json, lens.csv, lens.svg, lens.png and the maps. Raises Refused if the folder is not ours, or full."""
        writing.claim(folder, RECORD, MADE_BY)
        maps = list(self._drawn())
        told = {
            "made_by": MADE_BY,
            **about,
            "seconds": self.seconds,
            "maps": [
                {"file": name, "step": step, "part": part, "grey": 0.0, "white": scale, "black": -scale}
                for name, step, part, scale, _ in maps
            ],
        }
        text = msgspec.json.format(msgspec.json.encode(told))
        writing.replace(folder / RECORD, text)
        writing.replace(folder / "lens.csv", self._table(chain).encode())
        svg, pixels = Svg(_WIDE, _HIGH), Pixels(_WIDE, _HIGH, zoom=2)
        for pen in (svg, pixels):
            self._draw(pen, title)
        writing.replace(folder / "lens.svg", svg.document(text))
        writing.replace(folder / "lens.png", png(pixels.picture()))
        for name, _, _, _, picture in maps:
            writing.replace(folder / name, png(picture))

    def _drawn(self) -> Iterator[tuple[str, int, str, float, Bytes]]:
        """File, step, part, scale and picture of each map: zero is mid-grey, and the scale is each one's own."""
        for step, parts in sorted(self._maps.items()):
            for part, values in zip(("class", "marginal"), parts, strict=True):
                picture = enlarge(signed(values[None]), -(-_SIDE // values.shape[-1]))[0]
                yield f"step-{step:04}-{part}.png", step, part, float(signed_scale(values[None])[0]), picture

    def _table(self, chain: int) -> str:
        file = io.StringIO(newline="")
        sheet = csv.writer(file)
        columns = self.columns
        sheet.writerow(("step", "chain", *columns))
        for i, row in enumerate(zip(*columns.values(), strict=True)):
            sheet.writerow((self._steps[i], chain + 1, *row))
        return file.getvalue()

    def _draw(self, pen: Pen, title: str) -> None:
        columns = self.columns
        steps = self._steps[: len(columns["cosine"])]
        pen.text((28, 26), title[:110], INK, 17)
        norms = {"∇f(x,y)": columns["class_norm"], "∇LSE(x)": columns["marginal_norm"]}
        panels: list[tuple[str, dict[str, Floats], tuple[float, float] | None]] = [
            ("norm of the two parts", norms, None),
            ("cos(∇f, ∇LSE)", {"": columns["cosine"]}, (-1.0, 1.0)),
            ("norm of the drift (PGD: that of TA)", {row: columns[f"{row}_norm"] for row in ROWS}, None),
            ("cos(drift, ∇f)", {row: columns[f"{row}_cosine"] for row in ROWS}, (-1.0, 1.0)),
        ]
        for place, (name, lines, values) in enumerate(panels):
            row, column = divmod(place, 2)
            extent = values or (0.0, span(np.concatenate(list(lines.values())))[1])
            box = Box(84 + column * 506.0, 90 + row * 312.0, 422, 226, span(steps), extent)
            pen.text((box.left, box.top - 32), name, INK, 13)
            axes(pen, box)
            for number, (label, line) in reversed(list(enumerate(lines.items()))):
                x = box.left + 84.0 * number
                if label:
                    pen.line([(x, box.top - 13), (x + 14, box.top - 13)], colour_of(number), 2.5)
                    pen.text((x + 19, box.top - 13), label, INK, 11)
                for way in ways(box, steps, line):
                    pen.line(way, colour_of(number), 1.8)


_WIDE, _HIGH = 1040.0, 720.0
