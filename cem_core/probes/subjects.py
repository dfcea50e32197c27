"""The models of a request, what they have in common, and batches that fit into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cem_core import checkpoints, datasets
from cem_core.datasets import Indices, Labelled, Skipped, in_turns
from cem_core.images import Bytes
from cem_core.messages import Checkpoint, Floats, Refused
from cem_core.models import Model
from cem_core.probes.attacks import packages
from cem_core.probes.classes import alike as alike
from cem_core.probes.classes import check_classes
from cem_core.probes.requests import Accuracy, Energies, Subject
from cem_core.probes.results import Note, Opening
from cem_core.runner import out_of_memory, versions
from cem_core.samplers import Logits

_SMALL: Final = 64
"""Side of images, in pixels,"""
_FEW, _FEWER, _ON_GPU = 10, 4, 128
"""and how many up to that side, and of larger ones, are soon answered on a CPU; and so many elsewhere."""


class Opened(NamedTuple):
    """A model that is measured, and what is known of it."""

    model: Model
    checkpoint: Checkpoint


def open_subject(subject: Subject) -> Opened:
    """The model behind a subject. Raises Refused if it cannot be opened, or is an encoder."""
    model, checkpoint = checkpoints.load(subject.reference, subject.device, subject.precision, subject.choices)
    check_classes(checkpoint)
    return Opened(model, checkpoint)


def check_images(known: Checkpoint, pixels: Floats, label: int | None = None) -> None:
    """Raises Refused unless pixels (T, C, H, W) and a label suit the model."""
    wanted = (known.channels, known.size, known.size)
    if pixels.ndim != 4 or not len(pixels) or pixels.shape[1:] != wanted:
        takes, given = ("×".join(map(str, shape)) for shape in (wanted, pixels.shape[1:]))
        raise Refused(f"{known.name} takes images of {takes}, not {given}: choose a model for these, or other images.")
    if label is not None and not 0 <= label < len(known.classes):
        raise Refused(f"{known.name} has no class {label}: it has 0 to {len(known.classes) - 1}.")


# What they have in common -----------------------------------------------------------------------------------------


class Shared(NamedTuple):
    """The classes that some models and data share, and where each model has them."""

    classes: tuple[str, ...]
    columns: tuple[tuple[int, ...] | None, ...]
    """For each model, which of its logits the shared classes are; None: all of them, in the same order."""
    notes: tuple[str, ...]
    """A sentence each: what is left out."""


def shared(models: Sequence[Checkpoint], others: Sequence[tuple[str, Sequence[str]]] = ()) -> Shared:
    """The classes that all of them have, in the order of the first model.

    Args:
        others: what else must have them, and its classes: `("the data", names)`.

    Raises:
        Refused: fewer than two are shared.
    """
    lists = [(checkpoint.name, checkpoint.classes) for checkpoint in models] + list(others)
    keys = [[alike(name) for name in classes] for _, classes in lists]
    if all(one == keys[0] for one in keys):
        return Shared(models[0].classes, (None,) * len(models), ())
    unique = [{key for key, times in Counter(one).items() if times == 1} for one in keys]  # others cannot be told apart
    common = set[str].intersection(*unique)
    if len(common) < 2:
        raise Refused(_nothing_in_common(lists, len(common)))
    kept = [key for key in keys[0] if key in common]
    names = dict(zip(keys[0], models[0].classes, strict=True))
    places = [{key: place for place, key in enumerate(one)} for one in keys[: len(models)]]
    columns = [None if one == kept else tuple(of[key] for key in kept) for one, of in zip(keys, places, strict=False)]
    notes = tuple(
        f"{len(common):,} of the {len(one):,} classes of {name} are judged, being shared by all; its others are left "
        f"out: {_some([entry for entry, key in zip(classes, one, strict=True) if key not in common])}."
        for (name, classes), one in zip(lists, keys, strict=True)
        if len(common) < len(one)
    )
    return Shared(tuple(names[key] for key in kept), tuple(columns), notes)


def _nothing_in_common(lists: Sequence[tuple[str, Sequence[str]]], common: int) -> str:
    has = "; ".join(f"{name} has {_some(classes)}" for name, classes in lists)
    return (
        f"{'Only one class is' if common else 'No classes are'} shared, and two are needed to judge: {has}. "
        "Give data and models with the same classes, or say the class names of a model."
    )


def _some(names: Sequence[str], at_most: int = 4) -> str:
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most:,} more" if len(names) > at_most else "")


def judged(data: Labelled, shared: Shared) -> tuple[Indices, Indices]:
    """Which images of the data show a shared class, the classes in turns, and the shared class that each shows.

    Raises:
        Refused: none does.
    """
    number = np.arange(len(data.classes))  # where the lists are the same, a name may stand in them twice
    if [alike(name) for name in data.classes] != [alike(name) for name in shared.classes]:
        known = {alike(name): label for label, name in enumerate(shared.classes)}
        number = np.array([known.get(alike(name), -1) for name in data.classes], np.int64)
    labels = number[data.labels]
    order = in_turns(labels)
    order = order[labels[order] >= 0]
    if not len(order):
        raise Refused(f"{data.name} has no image of a class that all models know: choose other data.")
    return order, labels[order]


class Comparison(NamedTuple):
    """Models and the images that they are measured on."""

    data: Labelled
    opened: tuple[Opened, ...]
    shared: Shared
    order: Indices
    """(N,) the images of a shared class, the classes in turns."""
    labels: Indices
    """(N,) the shared class of each."""
    batch: int

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        return tuple(checkpoint for _, checkpoint in self.opened)

    def opening(self, request: Accuracy | Energies, *notes: str) -> Opening:
        """What is measured, and what else to know of it."""
        known = versions() | packages(request.attack)
        return Opening(request, self.checkpoints, self.shared.classes, len(self.order), notes, known)

    def unread(self) -> Refused:
        """What is said where not one image can be read."""
        return Refused(f"None of the {len(self.order):,} images of {self.data.name} can be read: choose other data.")


def comparison(request: Accuracy | Energies) -> Comparison:
    """Raises Refused if a model or the data cannot be used, or they share no classes."""
    data = datasets.open_labelled(request.data)
    opened = tuple(open_subject(subject) for subject in request.subjects)
    common = shared([checkpoint for _, checkpoint in opened], [(data.name, data.classes)])
    return Comparison(data, opened, common, *judged(data, common), at_once(request.batch, opened))


def restricted(model: Model, columns: tuple[int, ...] | None) -> Logits:
    """The logits of these classes alone, (B, C, H, W) to (B, len(columns)); None: of all."""
    if columns is None:
        return model
    chosen = torch.tensor(columns, device=model.device)
    return lambda x: model(x).index_select(1, chosen)


# Pixels and batches -----------------------------------------------------------------------------------------------


def noting(said: list[Note]) -> Skipped:
    """Notes each image that cannot be read once, however many sizes it is wanted in."""
    known: set[str] = set()

    def skipped(path: str, why: str) -> None:
        if path not in known:
            known.add(path)
            said.append(Note(why, path))

    return skipped


def tensor(pixels: Bytes, opened: Opened) -> Tensor:
    """Pictures (N, H, W, 3) → (N, C, H, W) float32 in [0,1] where the model is; grey if it takes one channel."""
    if opened.checkpoint.channels == 1:  # as Pillow does; grey pictures keep their values
        pixels = ((pixels @ np.array([19595, 38470, 7471]) + 0x8000) >> 16).astype(np.uint8)[..., None]
    return (torch.from_numpy(pixels).to(opened.model.device).permute(0, 3, 1, 2).float() / 255).contiguous()


def at_once(batch: int, opened: Sequence[Opened]) -> int:
    """The batch that a request says; or if it leaves that open, what suits the device and the size of the images."""
    if batch:
        return batch
    if all(model.device.type != "cpu" for model, _ in opened):
        return _ON_GPU
    return _FEW if all(checkpoint.size <= _SMALL for _, checkpoint in opened) else _FEWER


def halving(first: int, last: int, batch: int, work: Callable[[int, int], None], say: Callable[[Note], None]) -> int:
    """Do the work on [first, last) in batches, and where memory does not suffice, in smaller ones.

    Args:
        work: takes a range within [first, last); done again on part of it if memory did not suffice.
        say: told each time the batch is halved.

    Returns:
        The size of batches that fits, to go on with.

    Raises:
        Refused: a single image does not fit.
    """
    while first < last:
        upto = min(first + batch, last)
        fits = _fits(work, first, upto)
        if fits:
            first = upto
            continue
        if upto - first == 1:
            raise Refused("Not even one image at a time fits into memory: close other programs, or use the CPU.")
        batch = (upto - first) // 2
        images = "1 image goes" if batch == 1 else f"{batch:,} images go"
        say(Note(f"{upto - first:,} images at once do not fit into memory: from here on {images} through the model."))
    return batch


def _fits(work: Callable[[int, int], None], first: int, last: int) -> bool:
    """A function of its own, so that what the error held on to is let go of before the next try."""
    try:
        work(first, last)
    except Exception as error:
        if not out_of_memory(error):
            raise
    else:
        return True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
