"""The smallest ε that flips a model on one image, as an upper bound: a strong attack, and a bracket that it narrows.

Some attacks run at once: away from the class, and towards each of the likely others. First their balls follow them, and
shrink where they flip (Pintor et al. 2021): where they end is the first upper bound. Then the best of them are confined
to smaller balls: where one flips, the upper bound falls; where none does, the lower one rises.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cem_core import images, samplers
from cem_core.messages import Checkpoint, Floats, Norm, Refused
from cem_core.probes import attacks, subjects
from cem_core.probes.classes import alike
from cem_core.probes.measuring import GoOn, asking
from cem_core.probes.requests import Smallest
from cem_core.probes.results import Bound, Flip
from cem_core.samplers import Logits

_TARGETS: Final = 9
"""Other classes that are attacked towards at first, the most likely ones."""
_KEPT: Final = (4, 2)
"""Attacks that go on after the first and the second quarter."""
_AWAY: Final = -1
"""Stands for any class but y, where an attack aims at a class."""
_CLOSE: Final = 0.0025
"""The search ends when the bracket is no wider than this share of its upper end."""
_HALVINGS: Final = 12
"""Of the segment between the image and a point that flips."""


class Bracket(NamedTuple):
    """How far a search is."""

    low: float
    """The largest ε at which the attacks did not succeed."""
    high: float
    """Distance of `adversarial`; inf: nothing is found yet."""
    adversarial: Tensor
    """(1, C, H, W) the nearest point that flips; the image itself where none is known."""


def smallest(request: Smallest, go_on: GoOn = lambda: True) -> Iterator[Bound | Flip]:
    """A Bound after each step of a search, and a Flip for each model and norm, model after model.

    Raises:
        Refused: a model cannot be opened, the image cannot be read or does not fit, or a model does not know the class.
        Cancelled: `go_on` said so before a forward pass.
    """
    opened = [subjects.open_subject(subject) for subject in request.subjects]
    labels = [_label(request.label, checkpoint) for _, checkpoint in opened]
    for subject, (model, checkpoint) in enumerate(opened):
        logits_of = asking(model, go_on)
        x = torch.from_numpy(_pixels(request, checkpoint))[None].to(model.device)
        before = attacks.judged(logits_of, x)
        label = labels[subject]
        y = int(before.argmax()) if label is None else label
        for norm in request.norms:
            begun = time.perf_counter()
            bracket = Bracket(0, math.inf, x)
            for bracket in search(logits_of, x, y, norm, request.steps, request.seed):
                yield Bound(subject, norm, bracket.low, bracket.high)
            after = attacks.judged(logits_of, bracket.adversarial)
            yield Flip(
                subject=subject,
                norm=norm,
                eps=bracket.high,
                failed=bracket.low,
                label=y,
                seen=int(after.argmax()),
                pixels=_numpy(x[0]),
                adversarial=_numpy(bracket.adversarial[0]),
                before=_numpy(before[0]),
                after=_numpy(after[0]),
                seconds=time.perf_counter() - begun,
            )


def search(logits_of: Logits, x: Tensor, y: int, norm: Norm, steps: int = 40, seed: int = 0) -> Iterator[Bracket]:
    """The bracket after each step of the attacks; the last one is the answer.

    On a linear model the upper end is the exact distance, to rounding. It is 0 if the model sees another class than y
    in x, and inf if the attacks find nothing in a ball that holds all images.

    Args:
        x: (1, C, H, W) in [0,1]. y: the class to be flipped away from.
        steps: of each attack within one ball. seed: of its random start.

    Raises:
        Refused: the logits are no numbers.
    """
    logits = attacks.judged(logits_of, x)
    whole = float(samplers.length(torch.maximum(x, 1 - x), norm))
    if int(logits.argmax()) != y:
        yield Bracket(0, 0, x)
        return
    if logits.shape[1] == 1:
        yield Bracket(whole, math.inf, x)
        return
    scene = _Scene(logits_of, x, y, norm, whole)
    others = logits[0].index_fill(0, torch.tensor([y], device=x.device), -torch.inf)
    likely = others.topk(min(_TARGETS, len(others) - 1)).indices
    targets = torch.cat([likely, likely.new_tensor([_AWAY])])
    bracket, flips = Bracket(0, math.inf, x), x[:0]
    for flips, best in _approach(scene, targets, steps):
        targets = best
        distance = samplers.length(flips - x, norm)
        yield bracket if not len(flips) else Bracket(0, float(distance.min()), flips[distance.argmin()][None])
    bracket = _narrowed(scene, bracket, flips)
    gap = _CLOSE
    eps = bracket.high * (1 - gap) if math.isfinite(bracket.high) else whole / 8
    while bracket.low < bracket.high * (1 - _CLOSE):
        for flips in _confined(scene, targets, bracket.adversarial, eps, steps, seed):
            yield bracket
            if len(flips):
                break
        better = _narrowed(scene, bracket, flips)
        if better.high < bracket.high:
            bracket, gap = better, 2 * gap
        else:
            bracket, gap = bracket._replace(low=eps), _CLOSE
        if math.isfinite(bracket.high):
            eps = max((bracket.low + bracket.high) / 2, bracket.high * (1 - gap))
        elif eps >= whole:
            break
        else:
            eps = min(2 * eps, whole)
    yield bracket


class _Scene(NamedTuple):
    """What all attacks of a search share."""

    logits_of: Logits
    x: Tensor  # (1, C, H, W)
    y: int
    norm: Norm
    whole: float  # radius of the ball that holds all images


def _read(scene: _Scene, points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One forward and one backward pass: whether each of R points flips, how far its objective leads, and its gradient.

    The objective is f(x,k) - f(x,y) towards a class k, and the log-odds against y away from it, whose direction is that
    of the cross-entropy.
    """
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        logits = scene.logits_of(leaf)
        y = torch.full_like(targets, scene.y)
        towards = (logits.gather(1, targets.clamp_min(0)[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
        lead = torch.where(targets == _AWAY, attacks.log_odds(logits, y), towards)
        (gradient,) = torch.autograd.grad(lead.sum(), leaf)
    return _flipped(logits.detach(), scene.y), lead.detach(), gradient


def _flipped(logits: Tensor, y: int) -> Tensor:
    return (logits.argmax(1) != y) & logits.isfinite().all(1)


def _dual_length(gradient: Tensor, norm: Norm) -> Tensor:
    """(B,) by how much a step of length 1 changes a linear function at most."""
    lengths: Tensor = torch.linalg.vector_norm(gradient.flatten(1), ord=2 if norm == "l2" else 1, dim=1)
    return lengths


def _moved(scene: _Scene, points: Tensor, gradient: Tensor, length: Tensor, radius: Tensor) -> Tensor:
    """A step of this length up the gradient, back into the ball of this radius around x and into the box; (R,) each."""
    length, radius = length.view(-1, 1, 1, 1), radius.view(-1, 1, 1, 1)
    offset = points - scene.x + length * samplers.unit(gradient, scene.norm)
    if scene.norm == "linf":
        offset = offset.clamp(-radius, radius)
    else:
        far = samplers.length(offset, "l2").view(-1, 1, 1, 1).clamp_min(torch.finfo(offset.dtype).tiny)
        offset = offset * (radius / far).clamp_max(1)
    return (scene.x + offset).clamp(0, 1)


def _approach(scene: _Scene, targets: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Attacks whose balls follow them (Pintor et al. 2021).

    Until an attack flips, its ball reaches a little further than it must if the model is linear; then the ball shrinks
    a little where the point in it flips, and grows a little where it does not. All attacks make a quarter of the steps,
    the four that came nearest another quarter, and the best two all steps of an attack.

    Yields:
        After each step the nearest points that flip, and what the attacks aim at, or the last four.
    """
    quarter = max(1, steps // 4)
    last = 2 * quarter + steps
    aims = targets
    points = scene.x.expand(len(targets), -1, -1, -1)
    nearest, found = points.clone(), torch.full((len(targets),), math.inf, device=points.device)
    radius = torch.zeros_like(found)
    for i in range(last + 1):
        if i in (quarter, 2 * quarter):
            best = found.argsort(stable=True)[: _KEPT[i // quarter - 1]]
            aims = targets[best] if i == quarter else aims
            points, targets, nearest, found, radius = (t[best] for t in (points, targets, nearest, found, radius))
        flips, lead, gradient = _read(scene, points, targets)
        distance = samplers.length(points - scene.x, scene.norm)
        better = flips & (distance < found)
        nearest = torch.where(better.view(-1, 1, 1, 1), points, nearest)
        found = torch.where(better, distance, found)
        yield nearest[found.isfinite()], aims
        early = _decay(i, last)
        change = 0.002 + 0.1 * early
        reaching = distance - lead / _dual_length(gradient, scene.norm).clamp_min(torch.finfo(lead.dtype).tiny)
        growing = torch.where(
            found.isfinite(), torch.minimum(radius * (1 + change), found * (1 - 0.002)), reaching * (1 + change)
        )
        radius = torch.where(flips, torch.minimum(radius, distance) * (1 - change), growing).clamp(0, scene.whole)
        points = _moved(scene, points, gradient, radius * (0.02 + 2 * early), radius)


def _confined(
    scene: _Scene, targets: Tensor, adversarial: Tensor, eps: float, steps: int, seed: int
) -> Iterator[Tensor]:
    """Attacks in a ball of radius eps; after each step, the points of it that flip.

    Those towards a class begin at the image, one away from y at a random point of the ball, and one more at the point
    of the ball that is nearest to the adversarial one known so far. Steps shrink from eps to a hundredth of it.
    """
    towards = targets[targets != _AWAY][: _KEPT[0] - 1]
    targets = torch.cat([towards, towards.new_tensor([_AWAY])])
    random = samplers.begin(attacks.pgd(scene.norm, eps), scene.x, targets[:1], (seed,)).x
    starts = [*([scene.x] * len(towards)), random]
    scale = torch.full((len(targets),), eps, device=targets.device)
    if not torch.equal(adversarial, scene.x):
        starts.append(adversarial)
        targets = torch.cat([targets, attacks.judged(scene.logits_of, adversarial).argmax(1)])
        scale = torch.cat([scale, scale[:1] / 4])
    radius = torch.full_like(scale, eps)
    points = torch.cat(starts)
    points = _moved(scene, points, torch.zeros_like(points), scale, radius)
    for i in range(steps + 1):
        flips, _, gradient = _read(scene, points, targets)
        yield points[flips]
        points = _moved(scene, points, gradient, scale * (0.01 + _decay(i, steps)), radius)


def _decay(i: int, steps: int) -> float:
    """From 1 to 0, along half a cosine."""
    return 0.5 + 0.5 * math.cos(math.pi * min(i / steps, 1))


def _narrowed(scene: _Scene, bracket: Bracket, flips: Tensor) -> Bracket:
    """The bracket with the nearest point that flips on the way from the image to any of these (N, C, H, W)."""
    if not len(flips):
        return bracket
    low, high = torch.zeros(len(flips), 1, 1, 1).to(flips), torch.ones(len(flips), 1, 1, 1).to(flips)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        flipped = _flipped(attacks.judged(scene.logits_of, scene.x + middle * (flips - scene.x)), scene.y)
        flipped = flipped.view(-1, 1, 1, 1)
        low, high = torch.where(flipped, low, middle), torch.where(flipped, middle, high)
    points = (scene.x + high * (flips - scene.x)).clamp(0, 1)
    for i in samplers.length(points - scene.x, scene.norm).argsort().tolist():
        one = points[i : i + 1]  # judged alone, as logits of a batch are rounded otherwise
        distance = float(samplers.length(one - scene.x, scene.norm))
        if distance < bracket.high and _flipped(attacks.judged(scene.logits_of, one), scene.y).all():
            return Bracket(min(bracket.low, distance), distance, one)
    return bracket


def _label(name: str | None, checkpoint: Checkpoint) -> int | None:
    if name is None:
        return None
    wanted = alike(name)
    known = [i for i, other in enumerate(checkpoint.classes) if alike(other) == wanted]
    if len(known) != 1:
        raise Refused(
            f"{checkpoint.name} has {'more than one class' if known else 'no class'} {name}: choose another of its "
            f"classes, such as {', '.join(checkpoint.classes[:4])}, or none to take what the model sees."
        )
    return known[0]


def _pixels(request: Smallest, checkpoint: Checkpoint) -> Floats:
    """(C, H, W) of the image, as the model takes it."""
    if request.pixels is None:
        return images.prepare(request.path, checkpoint.size, checkpoint.channels).pixels
    shape = (checkpoint.channels, checkpoint.size, checkpoint.size)
    if request.pixels.shape != shape:
        has, takes = ("×".join(map(str, sizes)) for sizes in (request.pixels.shape, shape))
        raise Refused(f"The image is {has}, and {checkpoint.name} takes {takes}: give the file that it comes from.")
    if not (request.pixels.min() >= 0 and request.pixels.max() <= 1):
        raise Refused("The pixels of the image do not lie in [0,1]: choose another image.")
    return np.ascontiguousarray(request.pixels, np.float32)


def _numpy(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.float().cpu().numpy())
