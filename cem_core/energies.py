"""Energies of the contrastive energy-based model, read from logits (Wang et al. 2022, supervised case P-CEM).

`p(x,y) = exp f(x,y) / Z` with f the logits of a classifier: f is a similarity, so the energy is -f and low is likely.
All are unnormalised: compare differences, never the values of two models.

Shapes: logits (B, K), y (B,) int64, results (B,).
"""

from __future__ import annotations

from torch import Tensor


def joint(logits: Tensor, y: Tensor) -> Tensor:
    """E(x,y) = -f(x,y)."""
    return -logits.gather(1, y[:, None]).squeeze(1)


def marginal(logits: Tensor) -> Tensor:
    """E(x) = -LSE(x) = -log Σ_k exp f(x,k)."""
    return -logits.logsumexp(1)


def cotangent(logits: Tensor, y: Tensor, a: float, b: float) -> Tensor:
    """(B, K) what to feed back into the logits so that one backward pass gives the drift a·∇f(x,y) + b·∇LSE(x).

    ∂f(x,y)/∂logits is the one-hot of y and ∂LSE/∂logits the softmax; gradients are linear in what is fed back. The
    entry of y, a + b·p(y|x), is written with the probabilities of the others: with a = -b nothing would be left of it
    but rounding once p(y|x) is nearly 1, and the drift would lose its direction.
    """
    others = logits.softmax(1).scatter(1, y[:, None], 0)
    own = (a + b) - b * others.sum(1, keepdim=True)
    return (b * others).scatter(1, y[:, None], own)
