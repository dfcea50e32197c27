"""What is counted of features: moments that merge exactly, nearest images, precision and recall. numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cem_core.messages import Floats, Refused

Doubles: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_AT_ONCE: Final = 2**24
"""Numbers of one piece of a matrix of distances."""
_ROUNDING: Final = 1e-6
"""Of squared lengths: by how much a distance may come out too long that is found through products in float32."""


class Features(NamedTuple):
    """What an extractor sees in N images."""

    features: Floats
    """(N, F)"""
    logits: Floats | None
    """(N, K); None: an encoder, which has no classes."""


@dataclass(frozen=True, eq=False)
class Moments:
    """All that a Fréchet distance has to know of N features: sums in float64, so that shards add up to the whole."""

    num: int
    total: Doubles
    """(F,) Σf"""
    outer: Doubles
    """(F, F) Σffᵀ"""

    @classmethod
    def of(cls, features: Floats) -> Self:
        """Of (N, F) features; N may be 0."""
        exact = np.asarray(features, np.float64)
        return cls(len(exact), exact.sum(0), exact.T @ exact)

    def __add__(self, other: Self) -> Self:
        """Of both together. Raises Refused if their features differ in length."""
        check_lengths(len(self.total), len(other.total))
        return type(self)(self.num + other.num, self.total + other.total, self.outer + other.outer)


def check_lengths(one: int, other: int) -> None:
    """Raises Refused unless features of these lengths can be of the same extractor."""
    if one != other:
        raise Refused(f"Features of {one:,} and of {other:,} numbers cannot be compared: take both of one extractor.")


def remark(num: int, length: int) -> str:
    """What must be said where fewer images than features make up a Fréchet distance; empty otherwise."""
    if num > length:
        return ""
    return (f"{num:,} images are not more than the {length:,} features of each: the Fréchet distance comes out too "
            "large, and compares only with others of as many images.")  # fmt: skip


def nearest(features: Floats, reference: Floats, k: int) -> tuple[Indices, Floats]:
    """Which k of (M, F) references are nearest to each of (N, F) features, by Euclidean distance, the nearest first.

    Returns:
        (N, k) indices and distances; fewer where there are fewer references.
    """
    check_lengths(features.shape[1], reference.shape[1])
    k = min(k, len(reference))
    indices, distances = np.empty((len(features), k), np.int64), np.empty((len(features), k), np.float32)
    if not k:
        return indices, distances
    centre = reference.mean(0)
    among = _Points(reference - centre)
    for rows in _pieces(len(features), max(len(reference), k * reference.shape[1])):
        coarse = among.squared(_Points(features[rows] - centre))
        found = np.sort(np.argpartition(coarse, k - 1, axis=1)[:, :k], axis=1)
        exact = np.linalg.norm(features[rows, None].astype(np.float64) - reference[found], axis=2)
        order = np.argsort(exact, axis=1, kind="stable")
        indices[rows] = np.take_along_axis(found, order, 1)
        distances[rows] = np.take_along_axis(exact, order, 1)
    return indices, distances


def precision_recall(generated: Floats, reference: Floats, neighbours: int) -> tuple[float, float]:
    """The share of N generated images within the k-th neighbour distance of a real one, and of M real ones within
    that of a generated one (Kynkäänniemi et al. 2019, arXiv 1904.06991).

    Args:
        generated: (N, F) features; reference: (M, F).
        neighbours: k, among the others of the same set.
    """
    radii = [nearest(these, these, neighbours + 1)[1][:, -1] ** 2 for these in (generated, reference)]
    centre = reference.mean(0)
    among = _Points(reference - centre)
    precise, recalled = np.zeros(len(generated), bool), np.zeros(len(reference), bool)
    for rows in _pieces(len(generated), len(reference)):
        least = among.squared(_Points(generated[rows] - centre), 1 - _ROUNDING)  # what is the same must not miss itself
        precise[rows] = (least <= radii[1]).any(1)
        recalled |= (least <= radii[0][rows, None]).any(0)
    return float(precise.mean()), float(recalled.mean())


class _Points:
    """(N, F) about a common centre, as differences of large numbers lose their digits; and their squared lengths."""

    def __init__(self, points: Floats) -> None:
        self.points = points
        self.lengths: NDArray[Any] = np.einsum("nf,nf->n", points, points)

    def squared(self, others: _Points, scale: float = 1.0) -> Floats:
        """(M, N) squared distances from others; with a scale, to squared lengths so much smaller."""
        product = others.points @ self.points.T
        product *= -2
        product += np.float32(scale) * others.lengths[:, None]
        product += np.float32(scale) * self.lengths
        return product


def _pieces(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _AT_ONCE // columns)
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))
