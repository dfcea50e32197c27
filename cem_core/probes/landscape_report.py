"""A landscape as files: a heat map with contour lines and the trajectory, a table, and what it is. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cem_core import writing
from cem_core.drawing import INK, MUTED, PAPER, Box, Pixels, span, ticks
from cem_core.images import Bytes, png
from cem_core.messages import Floats
from cem_core.probes.results import Plane, Survey

RECORD: Final = "landscape.json"
MADE_BY: Final = "cem-explorer landscape"
_VIRIDIS: Final = np.array(
    [(68, 1, 84), (72, 23, 105), (71, 44, 122), (66, 63, 133), (59, 81, 139), (51, 98, 141),
     (44, 113, 142), (38, 129, 142), (33, 144, 140), (31, 159, 136), (39, 173, 128), (61, 188, 115),
     (92, 200, 98), (129, 211, 76), (170, 220, 49), (213, 226, 25), (253, 231, 37)]
)  # fmt: skip
"""Some of its colours, from low to high: even to the eye, and told apart by everybody."""
_UNKNOWN: Final = (150, 150, 150)
_LEVELS: Final = 8
_SIDE: Final = 480.0
_FINE: Final = 1920
"""Pixels of a side before the drawing is made smaller."""
_WIDE, _HIGH = 680.0, 620.0


def write(folder: Path, plane: Plane, survey: Survey, title: str, about: Mapping[str, Any]) -> None:
    """landscape.json, landscape.csv and landscape.png. Raises Refused if the folder is not ours, or full."""
    writing.claim(folder, RECORD, MADE_BY)
    told = {
        "made_by": MADE_BY,
        **about,
        "directions": plane.names,
        "extent": plane.extent,
        "size": len(survey.energy),
        "held": plane.held,
        "path": plane.path.tolist(),
    }
    writing.replace(folder / RECORD, msgspec.json.format(msgspec.json.encode(told)))
    writing.replace(folder / "landscape.csv", _table(plane, survey).encode())
    writing.replace(folder / "landscape.png", png(picture(plane, survey.energy, title)))


def _table(plane: Plane, survey: Survey) -> str:
    """A row for each point: s, t, energy; empty where that is no number."""
    file = io.StringIO(newline="")
    sheet = csv.writer(file)
    sheet.writerow(("s", "t", "energy"))
    at = np.linspace(-plane.extent, plane.extent, len(survey.energy)).astype(np.float32)
    for t, row in zip(at, survey.energy, strict=True):
        sheet.writerows((s, t, energy if np.isfinite(energy) else "") for s, energy in zip(at, row, strict=True))
    return file.getvalue()


def colours(values: Floats, low: float, high: float) -> Bytes:
    """(…) → (…, 3): viridis from low to high, grey where there is no number."""
    share = np.nan_to_num((values - low) / (high - low)).clip(0, 1)
    at = np.linspace(0, 1, len(_VIRIDIS))
    found = np.stack([np.interp(share, at, channel) for channel in _VIRIDIS.T], axis=-1).round().astype(np.uint8)
    found[~np.isfinite(values)] = _UNKNOWN
    return found


def picture(plane: Plane, energy: Floats, title: str) -> Bytes:
    """(H, W, 3): s to the right, t upwards."""
    box = Box(90, 64, _SIDE, _SIDE, (-plane.extent, plane.extent), (-plane.extent, plane.extent))
    low, high = span(energy)
    levels = ticks(low, high, _LEVELS)
    pen = Pixels(_WIDE, _HIGH, zoom=2)
    pen.text((28, 26), title[:80], INK, 17)
    pen.paste((box.left, box.top), (box.width, box.height), _relief(energy[::-1], low, high, levels))
    _draw_axes(pen, box, plane)
    _draw_scale(pen, box, low, high, levels)
    _draw_path(pen, box, plane)
    return pen.picture()


def _relief(energy: Floats, low: float, high: float, levels: list[float]) -> Bytes:
    """The heat map, with a line wherever a level is passed; the outermost points lie on its edge."""
    inside = (0.5, 0.5, len(energy) - 0.5, len(energy) - 0.5)  # from the middle of the first to that of the last
    gaps = ~np.isfinite(energy)
    known = Image.fromarray(np.where(gaps, np.float32(low), energy))
    smooth = np.asarray(known.resize((_FINE, _FINE), Image.Resampling.BILINEAR, inside), np.float32)
    unknown = np.asarray(Image.fromarray(gaps).resize((_FINE, _FINE), Image.Resampling.NEAREST, inside))
    found = colours(np.where(unknown, np.nan, smooth), low, high)
    band = np.searchsorted(np.array(levels, np.float32), smooth)
    passed = np.zeros(band.shape, bool)
    passed[1:] |= band[1:] != band[:-1]
    passed[:, 1:] |= band[:, 1:] != band[:, :-1]
    lines = _thicker(passed, 3) & ~unknown
    shade = np.where(smooth[lines] < (low + high) / 2, 255, 0)[:, None]  # white on dark colours, black on bright ones
    found[lines] = (0.5 * found[lines] + 0.5 * shade).astype(np.uint8)
    return found


def _thicker(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    found = mask.copy()
    for shift in range(1, by + 1):
        found[shift:] |= mask[:-shift]
        found[:, shift:] |= mask[:, :-shift]
    return found


def _draw_axes(pen: Pixels, box: Box, plane: Plane) -> None:
    bottom = box.top + box.height
    for value in ticks(-plane.extent, plane.extent, 5):
        x, y = box.place(value, value)
        pen.line([(x, bottom), (x, bottom + 4)], MUTED)
        pen.text((x, bottom + 14), f"{value:g}", MUTED, 11, "m")
        pen.line([(box.left - 4, y), (box.left, y)], MUTED)
        pen.text((box.left - 8, y), f"{value:g}", MUTED, 11, "r")
    pen.text((box.left, bottom + 36), f"s: {plane.names[0]}; t (upwards): {plane.names[1]}; L2 distances", INK, 12)
    if np.isfinite(plane.held):
        said = f"the run goes from the ring to the dot; {100 * plane.held:.1f} % of its variance is in this plane"
        pen.text((box.left, bottom + 54), said, MUTED, 11)


def _draw_scale(pen: Pixels, box: Box, low: float, high: float, levels: list[float]) -> None:
    bar = box._replace(left=box.left + box.width + 18, width=16, values=(low, high))
    ramp = np.linspace(high, low, 256, dtype=np.float32)[:, None]
    pen.paste((bar.left, bar.top), (bar.width, bar.height), colours(ramp, low, high))
    for level in levels:
        _, y = bar.place(0, level)
        pen.line([(bar.left + bar.width, y), (bar.left + bar.width + 4, y)], MUTED)
        pen.text((bar.left + bar.width + 8, y), f"{level:g}", MUTED, 11)


def _draw_path(pen: Pixels, box: Box, plane: Plane) -> None:
    """From a ring at the start to a dot at the end, as far as it is inside the square."""
    inside = np.abs(plane.path).max(axis=1) <= box.steps[1]
    at = [box.place(float(s), float(t)) for s, t in plane.path]
    for colour, width in ((INK, 4.0), (PAPER, 1.8)):
        for i, j in pairwise(range(len(at))):
            if inside[i] and inside[j]:
                pen.line([at[i], at[j]], colour, width)
    for i, centre in ((0, INK), (len(at) - 1, PAPER)):
        if inside[i]:
            pen.dot(at[i], INK, 6)
            pen.dot(at[i], PAPER, 4.6)
            pen.dot(at[i], centre, 3)
