"""Folders of trainings that were never trained: words in a log, and checkpoints of tiny networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import tiny

from cem_core.training.progress import EPOCHS, LOG, RECIPE, Began, Epoch, Progress, Word
from cem_core.training.recipe import Adversarial, DataRecipe, NetworkRecipe, Objective, Optimiser, Recipe

STEPS = 10
"""Of an epoch."""


def recipe(epochs: int = 4, objective: Objective | None = None) -> Recipe:
    return Recipe(
        "tiny",
        DataRecipe("images"),
        Optimiser(epochs=epochs),
        Adversarial(eps=0.5, steps=1) if objective is None else objective,
        NetworkRecipe(size=16, width=4),
    )


def began(epochs: int = 4, classes: Sequence[str] = tiny.CLASSES) -> Began:
    return Began("tiny", 1000, 100, tuple(classes), STEPS * epochs, 0, 30_000, "CPU", {})


def progress(step: int) -> Progress:
    return Progress(step, step / STEPS, 2.0 - 0.01 * step, 0.1, 6.0 * step)


def epoch(number: int, *, measured: bool = True) -> Epoch:
    """measured: images were held out."""
    found = (0.4 + 0.1 * number, 0.2 + 0.1 * number, -0.1 * number) if measured else (None, None, None)
    clean, robust, gap = found
    file = f"{EPOCHS}/tiny-{number:03}.safetensors"
    return Epoch(number, STEPS * number, 2.0 - 0.1 * number, clean, robust, 0.5, "l2", gap, file, 60.0 * number)


def told(number: int) -> list[Word]:
    """All words of an epoch."""
    return [*(progress(step) for step in range(STEPS * (number - 1) + 2, STEPS * number + 1, 2)), epoch(number)]


def write(folder: Path, epochs: int = 2, planned: int = 4, asked: Recipe | None = None) -> Path:
    """A training that has come so far."""
    (folder / EPOCHS).mkdir(parents=True)
    asked = asked or recipe(planned)
    (folder / RECIPE).write_bytes(msgspec.json.format(msgspec.json.encode(asked)))
    add(folder, began(planned))
    for number in range(1, epochs + 1):
        train(folder, number)
    return folder


def train(folder: Path, number: int) -> None:
    """One more epoch: its checkpoint, then its words."""
    tiny.saved(folder / EPOCHS / f"tiny-{number:03}.safetensors", tiny.weights(number))
    add(folder, *told(number))


def add(folder: Path, *words: Word) -> None:
    with (folder / LOG).open("ab") as log:
        for word in words:
            log.write(msgspec.json.encode(word) + b"\n")
