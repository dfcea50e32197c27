"""Energies on a square in image space, from coarse to fine.

The square is spanned by two directions: around an image, the one that an attack takes and a random one; along a
trajectory, its first two principal components (as Li et al. 2018 draw the way of a training).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cem_core import energies, presets, samplers
from cem_core.messages import Floats
from cem_core.probes.attacks import judged
from cem_core.probes.measuring import GoOn, asking
from cem_core.probes.requests import Landscape
from cem_core.probes.results import Note, Plane, Survey
from cem_core.probes.subjects import check_images, halving, open_subject
from cem_core.samplers import Logits

Doubles: TypeAlias = NDArray[np.float64]

EXTENT: Final = 1.0
"""Half the side of a square around an image, as an L2 distance."""
_ATTACK: Final = 3
"""Steps of the attack that gives a direction: more of them turn it little, and delay the first picture."""
_POINTS: Final = 128
"""Of a trajectory, from which its principal components are taken: enough for two of a smooth way."""
_MARGIN: Final = 1.15
"""The square to the trajectory in it."""
_NUMBERS: Final = 2**22
"""In a batch of images; of large images, fewer go through the model at once, so that an answer does not take long."""
_PIECE: Final = 2**20
"""Numbers of a trajectory that are looked at in double precision at once."""


def landscape(request: Landscape, go_on: GoOn = lambda: True) -> Iterator[Plane | Survey | Note]:
    """The plane, and its energies after each batch of points.

    Raises:
        Refused: the model cannot be opened, takes other images, has no such class, or gives logits that are no numbers.
        Cancelled: `go_on` said so.
    """
    model, checkpoint = open_subject(request.subject)
    check_images(checkpoint, request.pixels, request.label)
    logits_of = asking(model, go_on)
    x = torch.tensor(request.pixels[:1], device=model.device)
    seen = judged(logits_of, x).argmax(1)
    plane = along(request.pixels, request.extent, request.seed)
    if plane is None:  # one image, however often
        plane = around(logits_of, x, seen, request.extent or EXTENT, request.seed)
        plane = msgspec.structs.replace(plane, path=np.zeros((len(request.pixels), 2), np.float32))
    yield plane
    y = None if request.marginal else seen if request.label is None else torch.full_like(seen, request.label)
    batch = max(1, min(request.batch, _NUMBERS // plane.origin.size))
    yield from survey(logits_of, plane, y, request.size, batch, model.device)


# The plane --------------------------------------------------------------------------------------------------------


def around(logits_of: Logits, x: Tensor, y: Tensor, extent: float, seed: int) -> Plane:
    """The square around an image: away from its class, as far as a short PGD gets, and in a random direction.

    x: (1, C, H, W) in [0,1]; y: (1,) the class that the model sees. Where its gradient is zero, both are random.
    """
    row = presets.SAMPLERS["PGD"]
    row = msgspec.structs.replace(row, radius=extent, step_size=2.5 * extent / _ATTACK, random_start=False)
    state = samplers.begin(row, x, y, (seed,))
    for _ in range(_ATTACK):
        state = samplers.step(row, state, samplers.read(logits_of, row, state).drift)
    away = (state.x - x)[0].double().cpu().numpy()
    attacked = bool(away.any())
    if not attacked:
        away = _random(away.shape, seed, 1)
    u, v = _orthonormal(away, _random(away.shape, seed, 0))
    names = ("adversarial" if attacked else "random, as the gradient is zero", "random")
    origin: Floats = x[0].cpu().numpy()
    return Plane(origin, u, v, extent, names, np.zeros((1, 2), np.float32), float("nan"))


def along(pixels: Floats, extent: float | None, seed: int) -> Plane | None:
    """The plane of the first two principal components of a trajectory (T, C, H, W); None if all its points are one.

    It begins left of where it ends. Of a straight one, the second direction is random.
    """
    flat = pixels.reshape(len(pixels), -1)
    origin = flat.mean(0, dtype=np.float64).astype(np.float32)
    chosen = flat[np.linspace(0, len(flat) - 1, min(len(flat), _POINTS)).round().astype(np.int64)]
    columns = _pieces(flat.shape[1], _PIECE // len(chosen))
    # The products of T points are few, where their covariance has D² entries: the same components, from T × T numbers.
    products = np.zeros((len(chosen), len(chosen)))
    for piece in columns:
        centred = _centred(chosen[:, piece], origin[piece])
        products += centred @ centred.T
    variances, vectors = np.linalg.eigh(products)
    rounding = chosen.size * np.finfo(np.float32).eps ** 2
    if len(variances) < 2 or variances[-1] <= rounding:
        return None
    weights = vectors[:, [-1, -2]].T
    directions = np.concatenate([weights @ _centred(chosen[:, piece], origin[piece]) for piece in columns], axis=1)
    straight = bool(variances[-2] <= rounding)
    second = _random(pixels.shape[1:], seed, 0) if straight else directions[1].reshape(pixels.shape[1:])
    u, v = _orthonormal(directions[0].reshape(pixels.shape[1:]), second)

    both = np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
    path, total = np.empty((len(flat), 2)), 0.0
    for piece in _pieces(len(flat), max(1, _PIECE // flat.shape[1])):
        centred = _centred(flat[piece], origin)
        path[piece] = centred @ both
        total += float(np.square(centred).sum())
    turn = np.where([path[-1, 0] < path[0, 0], path[np.abs(path[:, 1]).argmax(), 1] < 0], -1.0, 1.0).astype(np.float32)
    held = min(1.0, float(np.square(path).sum()) / total)
    return Plane(
        origin=origin.reshape(pixels.shape[1:]),
        u=u * turn[0],
        v=v * turn[1],
        extent=_MARGIN * float(np.abs(path).max()) if extent is None else extent,
        names=("first principal component", "random" if straight else "second principal component"),
        path=(path * turn).astype(np.float32),
        held=held,
    )


def _centred(points: Floats, origin: Floats) -> Doubles:
    return points.astype(np.float64) - origin


def _pieces(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, max(1, size))]


def _random(shape: tuple[int, ...], seed: int, draw: int) -> Doubles:
    return samplers.normal((seed,), draw, shape)[0].double().numpy()


def _orthonormal(first: Doubles, second: Doubles) -> tuple[Floats, Floats]:
    """The two directions (C, H, W) at unit length, the second turned so that it is at right angles to the first."""
    u = first / np.linalg.norm(first)
    v = second - (u * second).sum() * u
    return u.astype(np.float32), (v / np.linalg.norm(v)).astype(np.float32)


# The energies -----------------------------------------------------------------------------------------------------


def survey(
    logits_of: Logits,
    plane: Plane,
    y: Tensor | None,
    size: int,
    batch: int,
    device: torch.device | None = None,
) -> Iterator[Survey | Note]:
    """The energies of size × size points, coarse to fine, a batch at a time; each point is evaluated once.

    An energy that is no finite number stays NaN, and counts as done.

    Args:
        y: (1,) of E(x,y); None: E(x).
    """
    order, strides = _coarse_to_fine(size)
    at = torch.linspace(-plane.extent, plane.extent, size, device=device)
    origin, u, v = (torch.tensor(part, device=device) for part in (plane.origin, plane.u, plane.v))
    energy, known = np.full((size, size), np.nan, np.float32), np.zeros((size, size), bool)

    def work(first: int, last: int) -> None:
        rows, columns = np.divmod(order[first:last], size)
        s, t = (at[torch.tensor(index, device=device)].view(-1, 1, 1, 1) for index in (columns, rows))
        with torch.no_grad():
            logits = logits_of((origin + s * u + t * v).clamp_(0, 1))
            found = energies.marginal(logits) if y is None else energies.joint(logits, y.expand(len(logits)))
        values = found.cpu().numpy()
        energy[rows, columns] = np.where(np.isfinite(values), values, np.nan)
        known[rows, columns] = True

    done, notes = 0, list[Note]()
    while done < len(order):
        begun = time.perf_counter()
        last = min(done + batch, len(order))
        batch, done = halving(done, last, batch, work, notes.append), last
        yield from notes
        notes.clear()
        coarse = _filled(energy, known, int(strides[last - 1]))
        yield Survey(energy.copy(), coarse, done, time.perf_counter() - begun)


def _coarse_to_fine(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All points (row · size + column), each of a grid of twice the stride before those it lacks; and their strides."""
    index = np.arange(size)
    stride = np.where(index == 0, 1 << (size - 1).bit_length(), index & -index)  # the largest power of two that divides
    strides = np.minimum.outer(stride, stride).ravel()
    order = np.argsort(-strides, kind="stable")
    return order, strides[order]


def _filled(energy: Floats, known: NDArray[np.bool_], stride: int) -> Floats:
    """Each point as the nearest of the grid of this stride, if that is known, else of the next coarser one."""
    finer, coarser = (np.ix_(near, near) for near in (_nearest(len(energy), times * stride) for times in (1, 2)))
    found: Floats = np.where(known[finer], energy[finer], energy[coarser])
    return np.where(known, energy, found)


def _nearest(size: int, stride: int) -> NDArray[np.int64]:
    """(size,) the nearest multiple of the stride, within the size."""
    found: NDArray[np.int64] = np.minimum((np.arange(size) + stride // 2) // stride, (size - 1) // stride) * stride
    return found
