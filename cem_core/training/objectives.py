"""What a step of training lowers.

The likelihood gradient of a CEM splits in two (Wang et al. 2022), with (x̂, ŷ) drawn from the model:

    ∇f(x,y) − ∇f(x̂,ŷ) = [∇f(x,y) − ∇f(x̂,y)]  +  [∇f(x̂,y) − ∇f(x̂,ŷ)]
                           consistency              contrastive

PGD from x is a biased Langevin step towards x̂, and ŷ ~ p(y|x̂) makes the contrastive part, in expectation, minus the
gradient of the cross-entropy at x̂: adversarial training. The consistency part is minus the gradient of f(x̂,y) − f(x,y),
which a recipe may add with a weight: this project's own reading of the split. With weight 1 the sum is

    −log p(y|x̂) + f(x̂,y) − f(x,y) = LSE(x̂) − f(x,y),   whose gradient is minus ∇f(x,y) − E_ŷ ∇f(x̂,ŷ), both parts.

TRADES acts on consistency by another measure, KL(p(·|x) ‖ p(·|x̂)).

Without labels, with pairs (x, x') in place of (x, y): the other views of the batch as a proposal for x̂' ~ p(x'|x), with
self-normalised importance weights w_j ∝ exp f(x,x_j), make the contrastive part

    ∇f(x,x') − Σ_j w_j ∇f(x,x_j),

minus the gradient of InfoNCE. tests/core/test_objectives.py says all of this in numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from cem_core import samplers
from cem_core.training.recipe import Adversarial, Attack, Contrastive, Objective, Trades

_BESIDE: Final = 1e-3
"""Standard deviation of where TRADES begins, around the image."""

Net: TypeAlias = Callable[[Tensor], Tensor]
"""(B, C, H, W) in [0,1] to logits (B, K), or to what f(x,x') compares (B, D), as it is being trained."""


def loss(
    net: Net,
    x: Tensor,
    y: Tensor,
    objective: Objective,
    noise: Tensor,
    smoothing: float = 0.0,
    clean: Net | None = None,
) -> Tensor:
    """The mean loss of a batch, to be differentiated by the weights.

    Args:
        x: (B, C, H, W) in [0,1]; for contrastive training first one view of each image, then the other of each.
        y: (B,) int64.
        noise: (B, C, H, W) standard normal, for a random start.
        clean: the network for views that are not attacked, if it is another.
    """
    if isinstance(objective, Contrastive):
        return _contrastive(net, clean or net, x, objective, noise)
    if isinstance(objective, Trades):
        return _trades(net, x, y, objective, noise, smoothing)
    if isinstance(objective, Adversarial):
        return _adversarial(net, x, y, objective, noise, smoothing)
    return functional.cross_entropy(net(x).float(), y, label_smoothing=smoothing)


def _adversarial(net: Net, x: Tensor, y: Tensor, objective: Adversarial, noise: Tensor, smoothing: float) -> Tensor:
    changed = attacked(lambda x: functional.cross_entropy(net(x).float(), y, reduction="sum"), x, objective, noise)
    f = net(changed).float()
    lowered = functional.cross_entropy(f, y, label_smoothing=smoothing)
    if objective.consistency:
        apart = f.gather(1, y[:, None]) - net(x).float().gather(1, y[:, None])
        lowered = lowered + objective.consistency * apart.mean()
    return lowered


def _trades(net: Net, x: Tensor, y: Tensor, objective: Trades, noise: Tensor, smoothing: float) -> Tensor:
    with torch.no_grad():
        seen = net(x).float()
    changed = attacked(lambda x: _divergence(seen, net(x).float()).sum(), x, objective, noise)
    f = net(x).float()
    apart = _divergence(f, net(changed).float())
    return functional.cross_entropy(f, y, label_smoothing=smoothing) + objective.beta * apart.mean()


def _divergence(f: Tensor, other: Tensor) -> Tensor:
    """(B,) KL of the class probabilities of logits (B, K) from those of others."""
    log_p, log_q = f.log_softmax(1), other.log_softmax(1)
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def info_nce(g: Tensor, temperature: float) -> Tensor:
    """(2B,) InfoNCE of each view, f(x,x') being the cosine over the temperature; views i and B + i are a pair.

    Args:
        g: (2B, D).
    """
    g = functional.normalize(g.float(), dim=1)
    f = (g @ g.T / temperature).masked_fill(torch.eye(len(g), dtype=torch.bool, device=g.device), -torch.inf)
    return functional.cross_entropy(f, torch.arange(len(g), device=g.device).roll(len(g) // 2), reduction="none")


def _contrastive(net: Net, clean: Net, x: Tensor, objective: Contrastive, noise: Tensor) -> Tensor:
    if objective.attack is None:
        return info_nce(net(x), objective.temperature).mean()
    changed = attacked(lambda x: info_nce(net(x), objective.temperature).sum(), x, objective.attack, noise)
    lowered = info_nce(net(changed), objective.temperature).mean()
    if objective.clean:
        lowered = lowered + objective.clean * info_nce(clean(x), objective.temperature).mean()
    return lowered


def attacked(ascended: Callable[[Tensor], Tensor], x: Tensor, attack: Attack, noise: Tensor) -> Tensor:
    """x̂: (B, C, H, W), steps of steepest ascent within the ball around x.

    Args:
        ascended: the sum over the batch of what the attack raises.
    """
    offset = torch.zeros_like(x)
    if attack.random_start:
        offset = _start(noise, attack)
        offset = (x + offset).clamp(0, 1) - x
    for _ in range(attack.steps):
        point = (x + offset).detach().requires_grad_()
        (ascent,) = torch.autograd.grad(ascended(point), point)
        with torch.no_grad():
            offset = samplers.project(
                offset + attack.length * samplers.unit(ascent, attack.norm), attack.norm, attack.eps
            )
            offset = (x + offset).clamp(0, 1) - x
    return (x + offset).detach()


def _start(noise: Tensor, attack: Attack) -> Tensor:
    """A point of the ball: uniform in L∞; in L2 on a sphere of a radius that is uniform in [0, ε]; TRADES: near x."""
    if isinstance(attack, Trades):
        return samplers.project(_BESIDE * noise, attack.norm, attack.eps)
    if attack.norm == "linf":
        return torch.erf(noise / 2**0.5) * attack.eps
    # Φ of one coordinate is uniform and as good as independent of the direction, of which it is one of thousands.
    share = (torch.erf(noise[:, :1, :1, :1] / 2**0.5) + 1) / 2
    return samplers.unit(noise, "l2") * (attack.eps * share)
