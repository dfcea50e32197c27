"""What a frame of an animation shows: all chains in one grid, each with what was asked to stand beside it."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cem_core.export.choices import Export
from cem_core.export.curves import Miniature, second
from cem_core.images import MAX_PIXELS, Bytes, difference, enlarge, hwc, tile, to_uint8
from cem_core.messages import Floats, Refused, Step
from cem_core.session import Session

_WIDE_ENOUGH: Final = 256
_ROOMY: Final = 16_000_000
"""Pixels that an automatic scale does not exceed."""
_INK: Final = (63, 63, 70)


def square(chains: int, wide: int = 1) -> int:
    """Columns of a grid that is about square, of cells so many times as wide as high."""
    return math.ceil(math.sqrt(chains / wide))


def scale(choices: Export, cell: int, columns: int, rows: int) -> int:
    """How many pixels wide a pixel becomes. Raises Refused if the picture would be too large to be opened again."""
    chosen = choices.scale
    if chosen is None:
        chosen = math.ceil(_WIDE_ENOUGH / cell)
        while chosen > 1 and columns * rows * (cell * chosen) ** 2 > _ROOMY:
            chosen -= 1
    if columns * rows * (cell * chosen) ** 2 > MAX_PIXELS:
        size = f"{columns * cell * chosen:,}×{rows * cell * chosen:,}"
        raise Refused(f"A picture of {size} pixels is too large: choose a smaller scale, or only PNGs and curves.")
    return chosen


class Layout:
    """Frames of a run, at `scale`, without anything between its pixels.

    Args:
        chains: how many of them are shown, from the first on; None: all.

    Raises:
        Refused: the frames would be too large.
    """

    def __init__(self, session: Session, choices: Export, steps: list[int], chains: int | None = None) -> None:
        start = session.start
        self._session = session
        self._choices = choices
        self._steps = steps
        self._chains = len(start.labels) if chains is None else min(chains, len(start.labels))
        self._cell = start.checkpoint.size
        self._start: Floats | None = None
        self._miniatures: list[Miniature] = []
        panels = 1 if choices.layout == "image" else 2
        self.columns = square(self._chains, panels)
        rows = -(-self._chains // self.columns)
        self.scale = scale(choices, self._cell, self.columns * panels, rows)
        self._side = self._cell * self.scale
        gap = max(1, self._cell // 32)
        self._between = gap * self.scale
        """Within a chain."""
        self._around = self._between if panels == 1 else 3 * self._between
        self._caption = _Caption(self._side) if choices.captions else None
        self._wide = panels * self._side + (panels - 1) * self._between
        self._high = self._side + (self._caption.height if self._caption else 0)
        self.size = (
            self.columns * self._wide + (self.columns - 1) * self._around,
            rows * self._high + (rows - 1) * self._around,
        )
        """Width and height in pixels."""

    def frame(self, step: Step) -> Bytes:
        """(height, width, 3). Raises OSError if the start cannot be read back."""
        self._make_ready()
        pixels = step.pixels[: self._chains]
        image = hwc(to_uint8(pixels))
        panels = [image]
        if self._choices.layout == "difference":
            assert self._start is not None
            panels = [image, difference(pixels, self._start, self._choices.gain)]
        elif self._choices.layout == "original":
            assert self._start is not None
            panels = [hwc(to_uint8(self._start)), image]
        elif not self._caption and not self._miniatures:  # small first: far less to move
            return enlarge(tile(image, self.columns, gap=self._between // self.scale), self.scale)
        cells = np.full((self._chains, self._high, self._wide, 3), 255, np.uint8)
        for place, panel in enumerate(panels):
            left = place * (self._side + self._between)
            cells[:, : self._side, left : left + self._side] = enlarge(panel, self.scale)
        for chain, miniature in enumerate(self._miniatures):
            cells[chain, : self._side, -self._side :] = miniature.at(step.index)
        if self._caption:
            for chain in range(self._chains):
                cells[chain, self._side :] = self._caption.draw(step, chain, self._wide)
        return tile(cells, self.columns, gap=self._around)

    def _make_ready(self) -> None:
        """Fetch what stands beside the images, for which there is no need as long as only the size is asked for."""
        if self._choices.layout == "curves" and not self._miniatures:
            numbers, chains = self._session.numbers, range(self._chains)
            y = second(self._session.start.checkpoint)
            self._miniatures = [Miniature(numbers, chain, self._steps, self._side, y) for chain in chains]
        if self._choices.layout in ("difference", "original") and self._start is None:
            self._start = self._session[0].pixels[: self._chains]

    def images(self, frame: NDArray[Any]) -> Floats:
        """The chains (B, cell, cell, 3) in a frame as somebody else shows it, in 0 … 255: each pixel's mean."""
        found = np.empty((self._chains, self._cell, self._cell, 3), np.float32)
        offset = self._side + self._between if self._choices.layout == "original" else 0
        for chain in range(self._chains):
            row, column = divmod(chain, self.columns)
            top, left = row * (self._high + self._around), column * (self._wide + self._around) + offset
            shown = frame[top : top + self._side, left : left + self._side].astype(np.float32)
            found[chain] = shown.reshape(self._cell, self.scale, self._cell, self.scale, 3).mean((1, 3))
        return found


class _Caption:
    """A line below an image, as much of it as there is room for."""

    def __init__(self, side: int) -> None:
        size = min(max(side / 15, 9), 22)
        self._font = ImageFont.load_default(size)
        self._indent = round(size / 3)
        self.height = round(1.8 * size)

    def draw(self, step: Step, chain: int, width: int) -> Bytes:
        """(height, width, 3)."""
        p, energy = float(np.exp(step.log_p[chain])), float(step.energy[chain])
        parts = [f"step {step.index}", f"p {p:.2f}", f"E {energy:.2f}"]
        text = parts[0]
        for more in parts[1:]:
            longer = f"{text}   {more}"
            if self._indent + self._font.getlength(longer) <= width:
                text = longer
        line = Image.new("RGB", (width, self.height), "white")
        ImageDraw.Draw(line).text((self._indent, self.height / 2), text, _INK, self._font, anchor="lm")
        return np.asarray(line)
