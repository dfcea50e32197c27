"""A linear head for an encoder: multinomial logistic regression on its frozen features g(x).

    minimise over W, b:   mean over images of −log softmax(W z + b)_y  +  (λ/2) ‖W‖²,   z = (g(x) − mean) / deviation

Features are standardised, so that λ means the same for every encoder, and the fit is deterministic. What comes out is
folded back, a plain layer on g(x).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from cem_core import bundle, checkpoints, writing
from cem_core.checkpoints.heads import NONE, OWN
from cem_core.datasets import Indices, open_labelled
from cem_core.messages import Refused
from cem_core.probes.requests import Data, Subject
from cem_core.probes.results import Note
from cem_core.probes.subjects import Opened, at_once, halving, noting, tensor

PENALTY: Final = 1e-4
"""λ."""
_ITERATIONS: Final = 500
_CONVERGED: Final = 1e-6
"""Largest entry of the gradient at which the fit ends."""


class Seen(msgspec.Struct, frozen=True):
    """So many images have gone through the encoder, of so many."""

    done: int
    total: int


class Fitted(msgspec.Struct, frozen=True):
    """The head is written."""

    path: str
    classes: tuple[str, ...]
    images: int
    accuracy: float
    """On the images that it was fitted to."""
    name: str
    """What to choose as the head of the encoder; empty: it lies where it is not looked for."""


def fit(features: Tensor, labels: Tensor, classes: int, penalty: float = PENALTY) -> tuple[Tensor, Tensor]:
    """(K, F) weight and (K,) bias in float64, by L-BFGS over all images at once.

    Args:
        features: (N, F), finite.
        labels: (N,) int64 in 0 … K-1.
    """
    features = features.double()
    mean, deviation = features.mean(0), features.std(0, correction=0)
    deviation = torch.where(
        deviation > 1e-12 * features.abs().amax(0).clamp_min(1), deviation, 1.0
    )  # or it says nothing
    z = (features - mean) / deviation
    weight = z.new_zeros(classes, z.shape[1]).requires_grad_()
    bias = z.new_zeros(classes).requires_grad_()
    search = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, tolerance_grad=_CONVERGED, tolerance_change=1e-12, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        search.zero_grad()
        found: Tensor = functional.cross_entropy(z @ weight.T + bias, labels) + penalty / 2 * (weight**2).sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    with torch.enable_grad():
        search.step(loss)  # type: ignore[no-untyped-call]
    folded = (weight / deviation).detach()
    return folded, (bias - folded @ mean).detach()


def fit_head(subject: Subject, data: Data, out: Path | None = None) -> Iterator[Seen | Note | Fitted]:
    """Fit a head for an encoder and write it, by default beside the encoder, where it is offered from then on.

    Raises:
        Refused: it is no encoder, the data cannot be used or have fewer than two classes, features are no numbers, or
            the file cannot be written.
    """
    choices = {**subject.choices, "head": NONE}  # whatever head was chosen for it before
    model, checkpoint = checkpoints.load(subject.reference, subject.device, subject.precision, choices)
    if OWN in getattr(checkpoint.fact("head"), "options", ()):
        raise Refused(f"{checkpoint.name} has a head of its own: heads are fitted for encoders, which have none.")
    encoder = Path(checkpoint.path)
    place = encoder.with_name(encoder.stem + bundle.HEAD) if out is None else out.expanduser()
    if place.resolve() == encoder.resolve():
        raise Refused(f"{place.name} is the encoder itself: choose another name.")
    writing.check(place)  # rather now than after an hour
    labelled = open_labelled(data)
    if len(labelled.classes) < 2:
        raise Refused(f"{labelled.name} has one class, {labelled.classes[0]}: a head needs two or more to tell apart.")
    total, opened = len(labelled), Opened(model, checkpoint)
    found: dict[int, Tensor] = {}
    kept: dict[int, Indices] = {}
    said: list[Note] = []
    skipped = noting(said)

    def look(first: int, last: int) -> None:
        pixels, which = labelled.part(first, last, checkpoint.size, skipped)
        with torch.no_grad():
            found[first] = model.features(tensor(pixels, opened)) if len(which) else torch.empty(0, checkpoint.features)
        kept[first] = which

    batch, first = at_once(0, [opened]), 0
    while first < total:
        last = min(first + batch, total)
        batch = halving(first, last, batch, look, said.append)
        yield from said
        said.clear()
        yield Seen(last, total)
        first = last
    if not sum(map(len, kept.values())):
        raise Refused(f"None of the {total:,} images of {labelled.name} can be read: choose other data.")
    order = sorted(found)
    features = torch.cat([found[i].to(model.device) for i in order])
    labels = torch.from_numpy(labelled.labels[np.concatenate([kept[i] for i in order])]).to(model.device)
    counts = torch.bincount(labels, minlength=len(labelled.classes))
    if missing := [name for name, count in zip(labelled.classes, counts.tolist(), strict=True) if not count]:
        raise Refused(f"There is no image of {missing[0]} in {labelled.name}: a head needs some of each class.")
    if not bool(features.isfinite().all()):
        raise Refused(f"Features of {checkpoint.name} are no finite numbers: its weights are broken.")
    weight, bias = fit(features, labels, len(labelled.classes))
    layer = {"linear.weight": weight.float().cpu().contiguous(), "linear.bias": bias.float().cpu()}
    logits = functional.linear(features, layer["linear.weight"].to(features), layer["linear.bias"].to(features))
    writing.replace(
        place,
        save(
            layer,
            {
                "classes": msgspec.json.encode(labelled.classes).decode("utf-8", "replace"),
                "encoder_sha256": checkpoint.sha256,
                "source": f"{labelled.name}, {len(labels):,} images, logistic regression, L2 {PENALTY:g}",
            },
        ),
    )
    offered = checkpoints.inspect(subject.reference, choices).heads
    yield Fitted(
        path=str(place),
        classes=labelled.classes,
        images=len(labels),
        accuracy=float((logits.argmax(1) == labels).double().mean()),
        name=place.name if place.resolve() in {Path(head).resolve() for head in offered} else "",
    )
