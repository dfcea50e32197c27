"""Attacks on each image within its ball.

PGD is the sampler with a = -1 and b = +1, whose drift is the gradient of the cross-entropy. APGD and AutoAttack are
those of the `pyautoattack` package (Croce and Hein 2020), used as they are. Wherever an attack ends, its point is put
into ball and box here, and judged here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Final, NamedTuple

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from cem_core import presets, samplers
from cem_core.messages import Norm, Refused, Sampler
from cem_core.probes.measuring import GoOn, asking
from cem_core.probes.requests import ATTACKS, Attack
from cem_core.samplers import Logits, Reading, State

_NAMES: Final = {"l2": "L2", "linf": "Linf"}
"""Norms as pyautoattack calls them."""
_LONGEST: Final = 1000.0
"""A longer step is no longer: it ends at the edge of the ball or of the box anyway."""


class Outcome(NamedTuple):
    """What came of an attack on B images."""

    adversarial: Tensor
    """(B, C, H, W) in [0,1] and in the ball. Where flipped, it flips; elsewhere it is the end of PGD's last restart, or
    the image itself, which is what pyautoattack gives back of those."""
    flipped: Tensor
    """(B,) bool: the model sees another class than y in `adversarial`."""
    vanished: Tensor
    """(B,) bool: the gradient of the loss is zero or lost in rounding where the attack begins (PGD: each restart)."""
    stuck: Tensor
    """(B,) bool: the loss at the end is no higher than at the start, in each restart. pyautoattack keeps its ends to
    itself, so that nothing is stuck there."""
    broken: tuple[int, ...]
    """How many images each restart of PGD was the first to break; () for one restart, and for pyautoattack."""


def perturb(
    logits_of: Logits,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    eps: float,
    seeds: Sequence[int],
    go_on: GoOn = lambda: True,
) -> Outcome:
    """Move each image away from its class, within its ball of radius eps.

    Args:
        x: (B, C, H, W) float32 in [0,1]. y: (B,) int64, what the model sees in x.
        eps: in the norm of the attack; 0 judges the images as they are.
        seeds: (B,) of the random starts, below 2³². PGD does the same to an image whatever else is in the batch;
            pyautoattack draws from one generator for all, which is seeded with the first of them.

    Raises:
        Refused: the model has too few classes for the attack, its logits are no numbers, or pyautoattack is missing.
        Cancelled: `go_on` said so before a forward pass.
    """
    asked = asking(logits_of, go_on)
    if eps == 0:
        none = torch.zeros_like(y, dtype=torch.bool)
        return Outcome(x, judged(asked, x).argmax(1) != y, none, none, ())
    if attack.name == "pgd":
        return _restarted(asked, x, y, attack, eps, seeds)
    return _auto(asked, x.contiguous(), y, attack, eps, seeds[0])


def packages(attack: Attack) -> dict[str, str]:
    """Name → version of what else decides the outcome of an attack."""
    if attack.name == "pgd":
        return {}
    try:
        return {"pyautoattack": metadata.version("pyautoattack")}
    except metadata.PackageNotFoundError:
        return {}


def pgd(norm: Norm, eps: float, steps: int = 20) -> Sampler:
    """The untargeted PGD row of strength eps: step 2.5·ε/steps, random start (Madry et al. 2018)."""
    row = presets.SAMPLERS["PGD" if norm == "l2" else "PGD-Linf"]
    return msgspec.structs.replace(row, radius=eps, step_size=min(2.5 * eps / steps, _LONGEST), steps=steps)


def climb(logits_of: Logits, row: Sampler, start: State) -> tuple[Tensor, Reading]:
    """All steps of the row: where they end, (B, C, H, W), and what was read at the start."""
    state, reading = start, samplers.read(logits_of, row, start)
    first = reading
    for _ in range(row.steps - 1):
        state = samplers.step(row, state, reading.drift)
        reading = samplers.read(logits_of, row, state)
    return samplers.step(row, state, reading.drift).x, first


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) log (1-p(y|x))/p(y|x). The cross-entropy is its softplus, and unlike it never saturates."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


def judged(logits_of: Logits, x: Tensor) -> Tensor:
    """(B, K) logits, no gradient. Raises Refused if one is no number."""
    with torch.no_grad():
        logits = logits_of(x)
    if not logits.isfinite().all():
        raise Refused("The model gives logits that are no numbers: its weights are broken.")
    return logits


def _restarted(logits_of: Logits, x: Tensor, y: Tensor, attack: Attack, eps: float, seeds: Sequence[int]) -> Outcome:
    """PGD from random starts; those that stand are attacked again. The last iterate is judged, as Foolbox does."""
    row = pgd(attack.norm, eps, attack.steps)
    adversarial, flipped = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    vanished, stuck = ~flipped, ~flipped
    standing = torch.arange(len(x), device=x.device)
    broken = [0] * attack.restarts
    for restart in range(attack.restarts):
        keys = tuple(seeds[i] + (restart << 32) for i in standing.tolist())
        end, first = climb(logits_of, row, samplers.begin(row, x[standing], y[standing], keys))
        logits = judged(logits_of, end)
        falls = logits.argmax(1) != y[standing]
        adversarial[standing], flipped[standing] = end, falls
        vanished[standing] &= _aimless(first.drift, row.norm)
        stuck[standing] &= log_odds(logits, y[standing]) <= log_odds(first.logits, y[standing])
        broken[restart] = int(falls.sum())
        standing = standing[~falls]
        if not len(standing):
            break
    return Outcome(adversarial, flipped, vanished, stuck, tuple(broken) if attack.restarts > 1 else ())


def _aimless(gradient: Tensor, norm: Norm) -> Tensor:
    """(B,) bool: the gradient is so small that no direction of unit length comes of it."""
    return samplers.length(samplers.unit(gradient, norm), norm) < 0.5


def _auto(logits_of: Logits, x: Tensor, y: Tensor, attack: Attack, eps: float, seed: int) -> Outcome:
    adversary = _adversary(logits_of, attack, eps, seed, x.device)
    vanished, classes = _vanished(logits_of, x, y, attack)
    if attack.name != "apgd-ce":
        if classes < 4:
            raise Refused(
                f"{ATTACKS[attack.name]} needs 4 classes or more for its loss, and {classes} are judged here: "
                "choose PGD or APGD-CE."
            )
        adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(9, classes - 1)
    tracing = sys.gettrace()
    try:
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            found, _ = adversary.run_standard_evaluation(x, y, batch_size=len(x))
    finally:
        sys.settrace(tracing)  # it counts calls by tracing, and leaves that on if it is interrupted
    with torch.no_grad():
        adversarial = (x + samplers.project(found - x, attack.norm, eps)).clamp(0, 1)
    flipped = judged(logits_of, adversarial).argmax(1) != y
    return Outcome(adversarial, flipped, vanished, torch.zeros_like(flipped), ())


def _adversary(logits_of: Logits, attack: Attack, eps: float, seed: int, device: torch.device) -> Any:
    """pyautoattack's own object, silent."""
    try:
        from pyautoattack import AutoAttack
    except Exception as error:  # a package that does not fit the others raises nearly anything
        raise Refused(
            f"{ATTACKS[attack.name]} needs the package pyautoattack, which is missing or does not work: install it "
            "with pip install 'cem-explorer[attacks]', or choose PGD."
        ) from error
    logging.getLogger("auto-attack").setLevel(logging.CRITICAL)  # its warnings are what the lights say
    whole = attack.name == "autoattack"
    adversary = AutoAttack(
        logits_of,
        norm=_NAMES[attack.norm],
        eps=eps,
        seed=seed,
        device=device,
        version="standard" if whole else "custom",
        attacks=None if whole else [attack.name],
    )
    adversary.verbose = False
    return adversary


def _vanished(logits_of: Logits, x: Tensor, y: Tensor, attack: Attack) -> tuple[Tensor, int]:
    """(B,) bool, whether the gradient of the attack's loss is lost at x, in the arithmetic of pyautoattack; and K.

    Cross-entropy loses the part of y once p(y|x) is rounded to 1. The loss of the targeted attacks compares logits, and
    is only lost where these do not depend on x.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = logits_of(leaf)
        if attack.name == "apgd-ce":
            loss = functional.cross_entropy(logits, y, reduction="sum")
        else:
            others = logits.scatter(1, y[:, None], -torch.inf)
            loss = (others.amax(1) - logits.gather(1, y[:, None]).squeeze(1)).sum()
        by_logits, by_x = torch.autograd.grad(loss, (logits, leaf))
    own = by_logits.gather(1, y[:, None]).squeeze(1)
    return (own == 0) | _aimless(by_x, attack.norm), logits.shape[1]
