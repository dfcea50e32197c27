"""Whether a model recognises the bundled labelled images: wrong preprocessing shows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cem_core import bundle, images
from cem_core.checkpoints.opening import load
from cem_core.checkpoints.reading import Cancelled, Watch
from cem_core.messages import Checkpoint, Device, Fact, Precision, Refused
from cem_core.models import Model

_WELL: Final = 0.6
"""Share of the images below which something must be wrong."""
_SURE: Final = 0.85
"""Share from which on no other reading is looked for: wrong ones recognise up to 16 of 20."""
_BETTER: Final = 0.2
"""How much more another reading must recognise to be worth telling."""
_TRIED: Final = ("normalisation", "activation", "shortcut input", "stem padding", "route", "weights")
"""Facts that decide the logits, and that keys do not tell."""
_AT_ONCE: Final = 5
"""Images between two looks at whether to go on."""


@dataclass(frozen=True)
class Check:
    """How many of the bundled images a model recognises."""

    right: int
    total: int
    better: tuple[str, str, int] | None = None
    """A fact, the value for it that recognises more, and how many that is."""

    @property
    def well(self) -> bool:
        return self.better is None and self.right >= _WELL * self.total

    @property
    def fact(self) -> Fact:
        """For the list of what is known."""
        return Fact("check", f"{self.right} of {self.total} bundled images recognised", "file")

    @property
    def sentence(self) -> str:
        """Empty if all is well."""
        if self.well:
            return ""
        said = f"Only {self.right} of {self.total} bundled CIFAR-10 images are recognised: "
        if self.better is None:
            return said + "the preprocessing may be wrong, the classes other ones, or the model weak."
        what, value, right = self.better
        return said + f"with {what} “{value}” it would be {right}. Choose it under Details."


def check(
    reference: str,
    choices: Mapping[str, str] | None = None,
    go_on: Callable[[], bool] = lambda: True,
    *,
    device: Device = "auto",
    precision: Precision = "float32",
) -> Check | None:
    """Classify the bundled images, and if that goes badly, look for a reading of the file that does better.

    Args:
        go_on: asked now and then; False ends the check.

    Returns:
        None where the images say nothing, the model having other classes, or when it was ended.

    Raises:
        Refused: as `load`.
    """

    def watch(_: float) -> None:
        if not go_on():
            raise Cancelled

    try:
        return _checked(reference, device, precision, choices, go_on, watch)
    except Cancelled:
        return None


def _checked(
    reference: str,
    device: Device,
    precision: Precision,
    choices: Mapping[str, str] | None,
    go_on: Callable[[], bool],
    watch: Watch,
) -> Check | None:
    model, checkpoint = load(reference, device, precision, choices, watch)
    shown = [bundle.class_shown(path, checkpoint.classes) for path in bundle.samples()]
    if checkpoint.channels != 3 or None in shown or len(checkpoint.classes) != 10:
        return None
    pixels, labels = _samples(checkpoint.size), torch.tensor([label for label in shown if label is not None])
    right = _right(model, pixels, labels, go_on)
    if right is None:
        return None
    found = Check(right, len(labels))
    if right >= _SURE * len(labels):
        return found
    best: tuple[str, str, int] | None = None
    for what, value in _other_readings(checkpoint):
        try:
            other, _ = load(reference, device, precision, {**(choices or {}), what: value}, watch, keep=False)
        except Refused:
            continue
        count = _right(other, pixels, labels, go_on)
        if count is None:
            return found
        if count >= max(right + _BETTER * len(labels), best[2] + 1 if best else 0):
            best = what, value, count
    return Check(right, len(labels), best)


def _other_readings(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    for what in _TRIED:
        if (fact := checkpoint.fact(what)) is not None:
            yield from ((what, value) for value in fact.options if value != fact.value)


def _samples(size: int) -> Tensor:
    return torch.from_numpy(np.stack([images.prepare(path, size).pixels for path in bundle.samples()]))


def _right(model: Model, pixels: Tensor, labels: Tensor, go_on: Callable[[], bool]) -> int | None:
    right = 0
    for first in range(0, len(labels), _AT_ONCE):
        if not go_on():
            return None
        part = slice(first, first + _AT_ONCE)
        with torch.no_grad():
            seen = model(pixels[part].to(model.device)).argmax(1).cpu()
        right += int((seen == labels[part]).sum())
    return right
