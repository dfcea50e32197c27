"""All samplers: one step with two weights (Wang et al. 2022); their rows are in `presets`.

    drift = a·∇f(x,y) + b·∇LSE(x)
    x ← clamp₀₁( Π_{‖x−x₀‖≤r} [ x + α·ĝ + η·ε ] )

ĝ is the drift normalised per chain (L2: unit length; L∞: sign), α the step size, η the noise, ε standard normal.
Projecting before clamping keeps both promises: x₀ lies in the box, so clamping never leaves the ball.

With an encoder y is an image x' of a reference batch and LSE runs over that batch (`similarity`). In a coupled row the
other chains are the batch and x' is the chain's own start; with a = 0 that does not count among them:

    PGD-unsup  x_i += α ∇ [ log ( exp f(x_i,x') + Σ_{j≠i} exp f(x_i,x_j) ) − f(x_i,x') ]     ascends InfoNCE
    MaxEnt     x_i −= α ∇ log Σ_{j≠i} exp f(x_i,x_j)                                        spreads the batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cem_core import energies
from cem_core.messages import Norm, Sampler
from cem_core.similarity import Similarity

Logits: TypeAlias = Callable[[Tensor], Tensor]
"""f(x,·): (B, C, H, W) in [0,1] to (B, K), differentiable in x; chains do not touch each other."""

_TINY: Final = 1e-12


class State(NamedTuple):
    """B chains between two steps."""

    x: Tensor
    """(B, C, H, W) in [0,1]."""
    x0: Tensor
    """(B, C, H, W): the centre of the ball."""
    y: Tensor
    """(B,) int64."""
    seeds: tuple[int, ...]
    step: int = 0


class Reading(NamedTuple):
    """What one forward and one backward pass say of a state."""

    drift: Tensor  # (B, C, H, W)
    logits: Tensor  # (B, K)
    energy: Tensor  # (B,) E(x)
    joint: Tensor  # (B,) E(x,y)
    gradient_norm: Tensor  # (B,) L2 norm of the drift
    distance: Tensor  # (B,) from x0, in the sampler's norm


def normal(seeds: tuple[int, ...], step: int, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) standard normal noise keyed by (seed of the chain, step): independent of order, split and device."""
    rows = [_generator(seed, step).standard_normal(shape, np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def _generator(seed: int, step: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64)))


def begin(sampler: Sampler, x0: Tensor, y: Tensor, seeds: tuple[int, ...]) -> State:
    """Step 0: the start itself, or a point drawn uniformly from its ball.

    x0: (B, C, H, W) in [0,1]; y: (B,) int64.
    """
    if not sampler.random_start or sampler.radius is None:
        return State(x0, x0, y, seeds)
    # The key of step 2⁶³ is never reached by a run, so the draw is independent of every step's noise.
    draw = normal(seeds, 2**63, (*x0.shape[1:],)).to(x0)
    if sampler.norm == "linf":
        offset = torch.erf(draw / 2**0.5) * sampler.radius  # Φ of a normal is uniform
    else:
        uniform = torch.tensor([_generator(seed, 2**63 + 1).random() for seed in seeds]).to(x0)
        offset = unit(draw, "l2") * _column(sampler.radius * uniform ** (1 / x0[0].numel()))
    return State((x0 + offset).clamp(0, 1), x0, y, seeds)


def read(logits_of: Logits, sampler: Sampler, state: State) -> Reading:
    """One forward and one backward pass: energies, logits and the drift a·∇f(x,y) + b·∇LSE(x).

    A coupled row needs a `Similarity`, and two chains or more.
    """
    with torch.enable_grad():
        x = state.x.detach().requires_grad_()
        if sampler.coupled:
            assert isinstance(logits_of, Similarity)
            drift, inner = _coupled(logits_of, sampler, x, state.x0)
        else:
            logits = logits_of(x)
            inner = logits.detach()
            (drift,) = torch.autograd.grad(logits, x, energies.cotangent(inner, state.y, sampler.a, sampler.b))
    return Reading(
        drift,
        inner,
        energies.marginal(inner),
        energies.joint(inner, state.y),
        length(drift, "l2"),
        length(state.x - state.x0, sampler.norm),
    )


def _coupled(similarity: Similarity, sampler: Sampler, x: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """The drift of each chain while the others stand still, and (B, K) f(x,·) over the reference batch."""
    g = similarity.embed(x)
    still = g.detach()
    others = (g @ still.T).masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), -torch.inf)
    if sampler.a:
        own = (g * similarity.anchored(x0)).sum(1, keepdim=True)
        among = torch.cat([own, others], 1)
        fed = energies.cotangent(among.detach(), torch.zeros(len(x), dtype=torch.long, device=x.device),
                                 sampler.a, sampler.b)  # fmt: skip
    else:
        among, fed = others, sampler.b * others.detach().softmax(1)
    (drift,) = torch.autograd.grad(among, x, fed)
    return drift, similarity.compared(still)


def step(sampler: Sampler, state: State, drift: Tensor) -> State:
    """The state after one step along the drift, which `read` gives."""
    with torch.no_grad():
        ascent = unit(drift, sampler.norm) if sampler.normalised else drift
        offset = state.x - state.x0 + sampler.step_size * ascent
        if sampler.noise:
            offset = offset + sampler.noise * normal(state.seeds, state.step, (*state.x.shape[1:],)).to(offset)
        if sampler.radius is not None:
            offset = project(offset, sampler.norm, sampler.radius)
        return state._replace(x=(state.x0 + offset).clamp_(0, 1), step=state.step + 1)


def evolve(
    logits_of: Logits, sampler: Sampler, state: State, following: Callable[[int], Sampler | None]
) -> Iterator[tuple[State, Reading, Sampler]]:
    """Every state from the given one on, with its reading and the row that made it.

    Args:
        sampler: the row of the first reading.
        following: asked after each state was yielded, with its index: the row of the step that comes next, so a
            change takes hold from there on; None ends the run.
    """
    while True:
        reading = read(logits_of, sampler, state)
        yield state, reading, sampler
        latest = following(state.step)
        if latest is None:
            return
        if (latest.a, latest.b, latest.coupled) != (sampler.a, sampler.b, sampler.coupled):
            reading = read(logits_of, latest, state)
        state, sampler = step(latest, state, reading.drift), latest


def unit(v: Tensor, norm: Norm) -> Tensor:
    """The direction of v (B, C, H, W) per chain: unit length in L2, signs in L∞; zero stays zero."""
    return v.sign() if norm == "linf" else v / _column(length(v, "l2").clamp_min(_TINY))


def project(offset: Tensor, norm: Norm, radius: float) -> Tensor:
    """The nearest point to offset (B, C, H, W) in the ball of the radius around 0."""
    if norm == "linf":
        return offset.clamp(-radius, radius)
    return offset * _column((radius / length(offset, "l2").clamp_min(_TINY)).clamp_max(1))


def length(v: Tensor, norm: Norm) -> Tensor:
    """(B,) norm of each of v (B, C, H, W)."""
    norms: Tensor = torch.linalg.vector_norm(v.flatten(1), ord=2 if norm == "l2" else torch.inf, dim=1)
    return norms


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
