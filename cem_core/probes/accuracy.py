"""Measurements of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from cem_core import presets, samplers
from cem_core.messages import Norm, Refused, Sampler
from cem_core.models import Model

_BATCH: Final = 128


class Point(msgspec.Struct, frozen=True):
    """Accuracy under one attack."""

    eps: float
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total


def pgd(norm: Norm, eps: float, steps: int = 20) -> Sampler:
    """The untargeted PGD row of strength eps: step 2.5·ε/steps, random start (Madry et al. 2018)."""
    row = presets.SAMPLERS["PGD" if norm == "l2" else "PGD-Linf"]
    return msgspec.structs.replace(row, radius=eps, step_size=2.5 * eps / steps, steps=steps)


def accuracy(
    model: Model, pixels: NDArray[np.uint8], labels: NDArray[np.int64], norm: Norm, eps: Sequence[float], seed: int = 0
) -> Iterator[Point]:
    """The running count for each ε after each batch; the last of an ε is its result. ε 0 is clean accuracy.

    The attack's last iterate is judged; it lies in the ball by construction.

    Args:
        pixels: (N, H, W, C) uint8. labels: (N,) the true classes.

    Raises:
        Refused: an ε is negative, infinite or NaN.
    """
    for strength in eps:
        if not 0 <= strength < math.inf:
            raise Refused(f"ε must be a number of 0 or more, not {strength:g}.")
    for strength in eps:
        correct = 0
        for first in range(0, len(labels), _BATCH):
            last = min(first + _BATCH, len(labels))
            x = torch.from_numpy(pixels[first:last]).to(model.device).permute(0, 3, 1, 2).float() / 255
            y = torch.from_numpy(labels[first:last]).to(model.device)
            if strength > 0:
                row = pgd(norm, strength)
                state = samplers.begin(row, x, y, tuple(range(seed + first, seed + last)))
                for _ in range(row.steps):
                    state = samplers.step(row, state, samplers.read(model, row, state).drift)
                x = state.x
            with torch.no_grad():
                logits = model(x)
            if not logits.isfinite().all():
                raise Refused("The model gives logits that are no numbers: its weights are broken.")
            correct += int((logits.argmax(1) == y).sum())
            yield Point(strength, correct, last)
