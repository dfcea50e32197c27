"""What a step of training lowers.

The likelihood gradient of a CEM splits in two (Wang et al. 2022), with (x̂, ŷ) drawn from the model:

    ∇f(x,y) − ∇f(x̂,ŷ) = [∇f(x,y) − ∇f(x̂,y)]  +  [∇f(x̂,y) − ∇f(x̂,ŷ)]
                           consistency              contrastive

PGD from x is a biased Langevin step towards x̂, and ŷ ~ p(y|x̂) makes the contrastive part the gradient of the
cross-entropy at x̂: adversarial training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from cem_core import samplers
from cem_core.training.recipe import Adversarial, Objective

Net = Callable[[Tensor], Tensor]
"""(B, C, H, W) in [0,1] to logits (B, K), as it is being trained."""


def loss(net: Net, x: Tensor, y: Tensor, objective: Objective, noise: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean loss of a batch, to be differentiated by the weights.

    Args:
        x: (B, C, H, W) in [0,1]. y: (B,) int64.
        noise: (B, C, H, W) standard normal, for a random start.
    """
    if isinstance(objective, Adversarial):
        x = attacked(net, x, y, objective, noise)
    return functional.cross_entropy(net(x).float(), y, label_smoothing=smoothing)


def attacked(net: Net, x: Tensor, y: Tensor, attack: Adversarial, noise: Tensor) -> Tensor:
    """x̂: (B, C, H, W), steps of steepest ascent on the cross-entropy within the ball around x."""
    offset = torch.zeros_like(x)
    if attack.random_start:
        offset = _start(noise, attack)
        offset = (x + offset).clamp(0, 1) - x
    for _ in range(attack.steps):
        point = (x + offset).detach().requires_grad_()
        (ascent,) = torch.autograd.grad(functional.cross_entropy(net(point).float(), y, reduction="sum"), point)
        with torch.no_grad():
            offset = samplers.project(
                offset + attack.length * samplers.unit(ascent, attack.norm), attack.norm, attack.eps
            )
            offset = (x + offset).clamp(0, 1) - x
    return (x + offset).detach()


def _start(noise: Tensor, attack: Adversarial) -> Tensor:
    """A point of the ball: uniform in L∞; in L2 on a sphere of a radius that is uniform in [0, ε]."""
    if attack.norm == "linf":
        return torch.erf(noise / 2**0.5) * attack.eps
    # Φ of one coordinate is uniform and as good as independent of the direction, of which it is one of thousands.
    share = (torch.erf(noise[:, :1, :1, :1] / 2**0.5) + 1) / 2
    return samplers.unit(noise, "l2") * (attack.eps * share)
