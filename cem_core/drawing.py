"""Curves drawn without a window, as SVG and as pixels: pens, axes, and lines with gaps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, Protocol
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from cem_core.images import Bytes
from cem_core.messages import Floats
from cem_core.sheet import plain

Point = tuple[float, float]

COLOURS: Final = (
    "#147a66", "#2a66d0", "#b0540b", "#c4373a", "#7a4fbf", "#0b8bb0", "#8a7a10", "#b0428f", "#4d7c2a", "#5f6774",
)  # fmt: skip
INK, MUTED, GRID, PAPER = "#191c22", "#5f6774", "#e3e7ec", "#ffffff"
_FINEST: Final = 1000
"""Points of a drawn curve; of longer ones, the lowest and highest of each stretch are drawn."""


class Pen(Protocol):
    """What a drawing is made with; y grows downwards."""

    def line(self, points: Sequence[Point], colour: str, width: float = 1) -> None: ...
    def area(self, points: Sequence[Point], colour: str, opacity: float) -> None: ...
    def dot(self, at: Point, colour: str, radius: float) -> None: ...
    def text(self, at: Point, text: str, colour: str, size: float, anchor: str = "l") -> None: ...


class Svg:
    def __init__(self, width: float, height: float) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" font-family="system-ui, sans-serif">',
            f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        ]

    def line(self, points: Sequence[Point], colour: str, width: float = 1) -> None:
        way = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="{width:g}" stroke-linejoin="round"/>'
        )

    def area(self, points: Sequence[Point], colour: str, opacity: float) -> None:
        edge = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        self._parts.append(f'<polygon points="{edge}" fill="{colour}" fill-opacity="{opacity:g}"/>')

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


class Pixels:
    """Drawn larger and made smaller, as Pillow's lines have jagged edges."""

    FINER: Final = 2

    def __init__(self, width: float, height: float, zoom: float = 1) -> None:
        self._zoom = zoom
        self._unit = self.FINER * zoom
        self._image = Image.new("RGB", (math.ceil(width * self._unit), math.ceil(height * self._unit)), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[Point], colour: str, width: float = 1) -> None:
        way = [(x * self._unit, y * self._unit) for x, y in points]
        self._draw.line(way, colour, max(1, round(width * self._unit)), joint="curve")

    def area(self, points: Sequence[Point], colour: str, opacity: float) -> None:
        edge = [(x * self._unit, y * self._unit) for x, y in points]
        inside = (*ImageColor.getrgb(colour)[:3], round(255 * opacity))
        ImageDraw.Draw(self._image, "RGBA").polygon(edge, inside)  # which lays colours over what is there

    def dot(self, at: Point, colour: str, radius: float) -> None:
        x, y, r = at[0] * self._unit, at[1] * self._unit, radius * self._unit
        self._draw.ellipse((x - r, y - r, x + r, y + r), colour)

    def text(self, at: Point, text: str, colour: str, size: float, anchor: str = "l") -> None:
        font = ImageFont.load_default(max(4, size * self._unit))  # smaller ones cannot be made, nor read
        self._draw.text((at[0] * self._unit, at[1] * self._unit), plain(text), colour, font, anchor=f"{anchor}m")

    def paste(self, at: Point, size: Point, pixels: Bytes) -> None:
        """A picture (H, W, 3), stretched to this size."""
        room = (round(size[0] * self._unit), round(size[1] * self._unit))
        fitted = Image.fromarray(pixels).resize(room, Image.Resampling.NEAREST)
        self._image.paste(fitted, (round(at[0] * self._unit), round(at[1] * self._unit)))

    def picture(self) -> Bytes:
        """(H, W, 3)."""
        size = (self._image.width // self.FINER, self._image.height // self.FINER)
        return np.asarray(self._image.resize(size, Image.Resampling.BOX))


class Box(NamedTuple):
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


def colour_of(chain: int) -> str:
    return COLOURS[chain % len(COLOURS)]


def span(values: Sequence[float] | Floats) -> tuple[float, float]:
    """Lowest and highest of what is finite, and never about the same."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    pad = max(0.5, 0.01 * abs(low)) if high - low <= 1e-6 * abs(low) else 0.0
    return low - pad, high + pad


def axes(pen: Pen, box: Box) -> None:
    for value in ticks(*box.values, 5):
        _, y = box.place(box.steps[0], value)
        pen.line([(box.left, y), (box.left + box.width, y)], GRID, 1)
        pen.text((box.left - 8, y), f"{value:g}", MUTED, 11, "r")
    for step in ticks(*box.steps, 6):
        if step == int(step):
            x, _ = box.place(step, box.values[0])
            pen.line([(x, box.top + box.height), (x, box.top + box.height + 4)], MUTED, 1)
            pen.text((x, box.top + box.height + 14), f"{step:.0f}", MUTED, 11, "m")


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / about
    size = 10 ** math.floor(math.log10(rough))
    pitch = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
    first = math.ceil(low / pitch - 1e-9)
    return [round(i * pitch, 12) for i in range(first, math.floor(high / pitch + 1e-9) + 1)]


def ways(box: Box, steps: Sequence[int], values: Floats) -> Iterator[list[Point]]:
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
