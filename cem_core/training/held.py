"""How good a network is on the images that were held out of its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cem_core import energies, samplers
from cem_core.messages import Norm, Sampler
from cem_core.models import Model
from cem_core.similarity import Similarity

_STEPS: Final = 10
_AT_ONCE: Final = 250
_REFERENCES: Final = 256
_RIDGE: Final = 1e-2


class Measured(NamedTuple):
    """Shares of the images, and a mean over them."""

    clean: float
    robust: float
    """Right as they are and under PGD-10."""
    gap: float
    """ΔE = E(x) − E(x*)."""


def measure(model: Model, pixels: Tensor, labels: Tensor, norm: Norm, eps: float) -> Measured:
    """Of a frozen classifier.

    Args:
        pixels: (N, C, H, W) uint8. labels: (N,) int64. Both where the model is.
    """
    return _measure(model, lambda _, logits: energies.marginal(logits), pixels, labels, norm, eps)


def probed(
    model: Model, temperature: float, known: tuple[Tensor, Tensor], pixels: Tensor, labels: Tensor, norm: Norm,
    eps: float,
) -> Measured:  # fmt: skip
    """Of a frozen encoder, under a linear head: ridge regression of the labels, which has a closed form.

    Args:
        known: images (M, C, H, W) uint8 and labels (M,) that the head is fitted to; the first are the reference batch
            of E(x).
    """
    with torch.no_grad():
        features = torch.cat([model.features(x.float() / 255) for x in torch.split(known[0], _AT_ONCE)])
    model.net.head = _head(features, known[1], int(labels.max()) + 1).to(next(model.net.parameters()).dtype)
    compared = Similarity(model, known[0][:_REFERENCES].float() / 255, temperature=temperature)
    return _measure(model, lambda x, _: energies.marginal(compared(x)), pixels, labels, norm, eps)


def _head(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    x = ((features - mean) / std).double()
    wanted = functional.one_hot(labels, classes).double()
    centre = wanted.mean(0)
    gram = x.T @ x / len(x) + _RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ (wanted - centre) / len(x)).T.float() / std
    head = nn.Linear(weight.shape[1], classes, device=weight.device).requires_grad_(False)
    # The cross-entropy that an attack ascends should be neither flat nor a step.
    head.weight.copy_(10 * weight)
    head.bias.copy_(10 * (centre.float() - weight @ mean))
    return head


def _measure(
    model: Model, energy: Callable[[Tensor, Tensor], Tensor], pixels: Tensor, labels: Tensor, norm: Norm, eps: float
) -> Measured:
    """`energy` takes images and their logits."""
    row = Sampler(name="PGD", a=-1, b=1, norm=norm, radius=eps, step_size=2.5 * eps / _STEPS, steps=_STEPS)
    right = robust = 0
    gap = 0.0
    for first in range(0, len(labels), _AT_ONCE):
        x = pixels[first : first + _AT_ONCE].float() / 255
        y = labels[first : first + _AT_ONCE]
        attack = samplers.begin(row, x, y, tuple(range(len(y))))
        with torch.no_grad():
            clean = model(x)
        for _ in range(_STEPS):
            attack = samplers.step(row, attack, samplers.read(model, row, attack).drift)
        with torch.no_grad():
            attacked = model(attack.x)
            gap += float((energy(x, clean) - energy(attack.x, attacked)).sum())
        well = clean.argmax(1) == y
        right += int(well.sum())
        robust += int((well & (attacked.argmax(1) == y)).sum())
    return Measured(right / len(labels), robust / len(labels), gap / len(labels))
