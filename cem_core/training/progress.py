"""What a training tells, and what its folder holds of it: torch-free messages, a line each in log.jsonl."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from cem_core.messages import Norm

LOG: Final = "log.jsonl"
RECIPE: Final = "recipe.json"
STATE: Final = "state.safetensors"
EPOCHS: Final = "epochs"
LOCK: Final = "lock"


class Began(msgspec.Struct, frozen=True, tag="began", tag_field="kind"):
    """It starts, or goes on."""

    name: str
    images: int
    held: int
    classes: tuple[str, ...]
    """Empty: the images of an encoder have none, and so none are held out."""
    steps: int
    """In all."""
    first: int
    """The step it goes on from."""
    parameters: int
    device: str
    versions: dict[str, str]


class Progress(msgspec.Struct, frozen=True, tag="progress", tag_field="kind"):
    step: int
    epoch: float
    loss: float
    """Mean over the steps since the last word."""
    rate: float
    """Learning rate."""
    seconds: float
    """Since the training began, interruptions left out."""


class Epoch(msgspec.Struct, frozen=True, tag="epoch", tag_field="kind"):
    """The averaged weights after an epoch, measured on the images held out."""

    epoch: int
    step: int
    loss: float
    """Mean over the epoch; or over what was left of it when it was gone on with."""
    clean: float | None
    """Share that is classified rightly; of an encoder, by a linear head on its features. None: nothing was held out."""
    robust: float | None
    """Likewise, under PGD-10 at `eps` besides."""
    eps: float
    norm: Norm
    energy_gap: float | None
    """Mean ΔE = E(x) − E(x*) between the images and the same attacked."""
    file: str
    """The checkpoint, in the training's folder."""
    seconds: float


class Ended(msgspec.Struct, frozen=True, tag="ended", tag_field="kind"):
    reason: str
    """done, stopped or failed."""
    step: int
    seconds: float
    detail: str = ""


Word: TypeAlias = Began | Progress | Epoch | Ended
