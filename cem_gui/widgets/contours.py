"""Lines of equal value on a grid."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_PIECES: Final = {
    (3, 0): (1, 14, 17), (0, 1): (2, 13, 16), (3, 1): (3, 12), (1, 2): (4, 11, 17), (0, 2): (6, 9), (2, 3): (7, 8, 16),
}  # fmt: skip
"""Two sides of a cell (top, right, bottom, left) → the kinds of cells that a line crosses from one to the other. A kind
has a bit for each corner above the level, clockwise from the top left; 16 and 17 are the two ways through a saddle."""


def segments(values: NDArray[Any], level: float) -> Doubles:
    """(N, 2, 2): pieces of the line where a grid (rows, columns), linear between its points, has this value.

    Each goes from one (column, row) to another. Marching squares; a saddle is cut as the mean of its corners says. A
    cell with a corner that is no number has none.
    """
    grid = np.asarray(values, np.float64)
    corners = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]])
    above = corners >= level
    kind = (above * np.array([1, 2, 4, 8])[:, None, None]).sum(0)
    middle = corners.mean(0) >= level
    kind[((kind == 5) & middle) | ((kind == 10) & ~middle)] = 16
    kind[((kind == 5) & ~middle) | ((kind == 10) & middle)] = 17
    kind[~np.isfinite(corners).all(0)] = 0
    found = []
    for sides, kinds in _PIECES.items():
        rows, columns = np.nonzero(np.isin(kind, kinds))
        found.append(np.stack([_crossing(corners[:, rows, columns], level, side, rows, columns) for side in sides], 1))
    return np.concatenate(found)


def _crossing(corners: Doubles, level: float, side: int, rows: NDArray[Any], columns: NDArray[Any]) -> Doubles:
    """(N, 2): column and row at which the level is met on one side of each of N cells."""
    one, other = ((0, 1), (1, 2), (3, 2), (0, 3))[side]
    share = (level - corners[one]) / (corners[other] - corners[one])
    along_row = side in (0, 2)
    return np.stack([
        columns + (share if along_row else side == 1),
        rows + (side == 2 if along_row else share),
    ], 1)  # fmt: skip


def round_levels(low: float, high: float, about: int = 8) -> list[float]:
    """Round numbers strictly between two, `about` so many; none if there is nothing between."""
    if not (math.isfinite(low) and math.isfinite(high)) or high - low <= 1e-6 * max(abs(low), abs(high)):
        return []
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= 0.7 * rough)
    return [i * step for i in range(math.floor(low / step) + 1, math.ceil(high / step))]


def known_lattice(values: NDArray[Any]) -> tuple[NDArray[Any], int] | None:
    """The finest of the grids with every point, every second, every fourth … that has no gap, and how far its points
    are apart; None: not even four points of the coarsest are known."""
    stride = 1
    while stride < min(values.shape):
        grid = values[::stride, ::stride]
        if np.isfinite(grid).all():
            return grid, stride
        stride *= 2
    return None
