"""Energies of the contrastive energy-based model, read from logits (Wang et al. 2022, supervised case P-CEM).

`p(x,y) = exp f(x,y) / Z` with f the logits of a classifier: f is a similarity, so the energy is -f and low is likely.
All are unnormalised: compare differences, never the values of two models.

Shapes: logits (B, K), y (B,) int64, results (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor


def joint(logits: Tensor, y: Tensor) -> Tensor:
    """E(x,y) = -f(x,y)."""
    return -logits.gather(1, y[:, None]).squeeze(1)


def marginal(logits: Tensor) -> Tensor:
    """E(x) = -LSE(x) = -log Σ_k exp f(x,k)."""
    return -logits.logsumexp(1)


def cotangent(logits: Tensor, y: Tensor, a: float, b: float) -> Tensor:
    """(B, K) what to feed back into the logits so that one backward pass gives the drift a·∇f(x,y) + b·∇LSE(x).

    ∂f(x,y)/∂logits is the one-hot of y and ∂LSE/∂logits the softmax; gradients are linear in what is fed back.
    """
    pull = b * logits.softmax(1)
    return pull.scatter_add(1, y[:, None], torch.full_like(pull[:, :1], a))
