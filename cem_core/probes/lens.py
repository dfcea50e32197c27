"""The two parts of every supervised sampler's drift a·∇f(x,y) + b·∇LSE(x) (Wang et al. 2022).

TA, CS, RCS, Langevin and PGD differ in a and b alone: how far apart they lead is told by the two lengths and the angle
between. For TA, ‖∇f − ∇LSE‖² = ‖∇f‖² + ‖∇LSE‖² − 2‖∇f‖‖∇LSE‖cos: where the parts agree, little is left of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cem_core import energies
from cem_core.messages import Floats, Refused
from cem_core.probes.measuring import GoOn, asking
from cem_core.probes.requests import Lens
from cem_core.probes.results import Note, Split
from cem_core.probes.subjects import check_images, halving, open_subject
from cem_core.samplers import Logits, length


class Parts(NamedTuple):
    """(B, C, H, W) each."""

    class_part: Tensor
    """∇f(x,y)."""
    marginal_part: Tensor
    """∇LSE(x)."""

    @property
    def cosine(self) -> Tensor:
        """(B,) of the angle between them; NaN where one is zero."""
        one, other = (part / length(part, "l2").view(-1, 1, 1, 1) for part in self)
        return (one * other).flatten(1).sum(1).clamp(-1, 1)


def split(logits_of: Logits, x: Tensor, y: Tensor) -> Parts:
    """Both parts from one forward and two backward passes. x: (B, C, H, W) in [0,1]; y: (B,) int64."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = logits_of(x)
        of_class, of_marginal = (energies.cotangent(logits.detach(), y, a, b) for a, b in ((1, 0), (0, 1)))
        (class_part,) = torch.autograd.grad(logits, x, of_class, retain_graph=True)
        (marginal_part,) = torch.autograd.grad(logits, x, of_marginal)
    return Parts(class_part, marginal_part)


def lens(request: Lens, go_on: GoOn = lambda: True) -> Iterator[Split | Note]:
    """The parts at each point, a piece of `request.batch` points at a time.

    Raises:
        Refused: the model cannot be opened, is not the one that was meant, takes other images, or has no such class.
        Cancelled: `go_on` said so.
    """
    model, checkpoint = open_subject(request.subject)
    if request.sha256 not in ("", checkpoint.sha256):
        raise Refused(
            f"{checkpoint.name} is another file than the one that the run was made with: put that one back to look "
            "through the lens."
        )
    labels = request.labels or (request.label,) * len(request.pixels)
    for label in set(labels) or {request.label}:
        check_images(checkpoint, request.pixels, label)
    logits_of = asking(model, go_on)
    pieces: list[Parts] = []
    notes: list[Note] = []

    def work(first: int, last: int) -> None:
        x = torch.tensor(request.pixels[first:last], device=model.device)
        pieces.append(split(logits_of, x, torch.tensor(labels[first:last], device=x.device)))

    first, batch = 0, request.batch
    while first < len(request.pixels):
        begun = time.perf_counter()
        last = min(first + batch, len(request.pixels))
        batch = halving(first, last, batch, work, notes.append)
        parts = Parts(*(torch.cat(part) for part in zip(*pieces, strict=True)))
        yield from notes
        yield Split(
            first=request.first + first,
            class_norm=_numpy(length(parts.class_part, "l2")),
            marginal_norm=_numpy(length(parts.marginal_part, "l2")),
            cosine=_numpy(parts.cosine),
            class_part=_numpy(parts.class_part),
            marginal_part=_numpy(parts.marginal_part),
            seconds=time.perf_counter() - begun,
        )
        pieces.clear()
        notes.clear()
        first = last


def _numpy(tensor: Tensor) -> Floats:
    found: Floats = tensor.detach().cpu().contiguous().numpy()
    return found
