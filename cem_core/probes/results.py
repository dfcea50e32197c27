"""What probes answer: frozen messages, numpy only. They are the JSON of result files too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from cem_core.messages import Checkpoint, Floats, Norm
from cem_core.probes.requests import Accuracy, Energies

State = Literal["fine", "unknown", "doubt", "alarm"]
"""From good to bad."""
Kind = Literal["clean", "adversarial", "generated"]
_STATES: Final[tuple[State, ...]] = ("fine", "unknown", "doubt", "alarm")
_Z: Final = 1.959963984540054
"""Of a normal distribution, 95 % lies within so many deviations."""


class Opening(msgspec.Struct, frozen=True):
    """The first message of a measurement over a set of images: what is compared, on what."""

    request: Accuracy | Energies
    checkpoints: tuple[Checkpoint, ...]
    classes: tuple[str, ...]
    """What is judged: the classes that the data and all models share."""
    images: int
    notes: tuple[str, ...] = ()
    """A sentence each: classes that are left out, …"""
    versions: dict[str, str] = {}
    """Of what decides the numbers, for the record."""


class Note(msgspec.Struct, frozen=True):
    """Something that was met on the way and got round: a batch that was halved, an image that cannot be read."""

    says: str
    skipped: str = ""
    """The image that is left out, if it is about one."""


class Light(msgspec.Struct, frozen=True):
    """One reason to trust a number, or not to."""

    name: str
    """gradients, loss, restarts, logits, mode, preprocessing, or unbounded."""
    state: State
    says: str
    """What was seen and what it means, in a sentence."""
    do: str = ""
    """What to do about it; empty if nothing."""


class Lights(msgspec.Struct, frozen=True):
    """What was seen of one model as such, whatever the ε."""

    subject: int
    lights: tuple[Light, ...]


class Cell(msgspec.Struct, frozen=True):
    """What came of one range of images: one model, one attack, one ε. The piece in which results come and are kept."""

    subject: int
    """Index into the subjects of the request."""
    eps: float
    first: int
    """Of the range, in the order of the data."""
    labels: tuple[int, ...]
    """The true classes, as indices into `Opening.classes`."""
    correct: tuple[bool, ...]
    """Classified rightly as they are and wherever the attack ended. As long as `labels`."""
    attacked: int = 0
    """Images that the attack was tried on: those that are classified rightly as they are."""
    vanished: int = 0
    """Attacked images of which the gradient of the loss is zero, or too small to be told from rounding."""
    stuck: int = 0
    """Attacked images of which the loss at the end is no higher than at the beginning."""
    broken: tuple[int, ...] = ()
    """How many images each restart was the first to break: a last one above 0 says that more restarts would break more.
    Empty where only one was made."""
    seconds: float = 0.0


class Point(msgspec.Struct, frozen=True):
    """Accuracy of one model at one ε, over all images so far."""

    eps: float
    correct: int
    total: int
    per_class: tuple[tuple[int, int], ...] = ()
    """(correct, total) for each class."""
    lights: tuple[Light, ...] = ()

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.total else math.nan

    @property
    def band(self) -> Band:
        """95 % confidence band of the accuracy (Wilson 1927)."""
        return wilson(self.correct, self.total)


class Sample(msgspec.Struct, frozen=True, eq=False):
    """Energies of some more images of one kind."""

    subject: int
    kind: Kind
    energy: Floats
    """(N,) E(x)."""
    seconds: float = 0.0


class Bound(msgspec.Struct, frozen=True):
    """How far a bisection is: the attack failed at `low`, and succeeded at `high`."""

    subject: int
    norm: Norm
    low: float
    high: float
    """inf: not yet."""


class Flip(msgspec.Struct, frozen=True, eq=False):
    """The smallest ε found that flips a model on one image. An upper bound: a better attack may need less."""

    subject: int
    norm: Norm
    eps: float
    """Distance of `adversarial`; 0: it is wrong as it is; inf: nothing in [0,1] was found that flips it."""
    failed: float
    """The largest ε at which the attack did not succeed."""
    label: int
    """The class that it is flipped away from."""
    seen: int
    """What the model sees in `adversarial`."""
    pixels: Floats
    """(C, H, W) the image."""
    adversarial: Floats
    """(C, H, W); the image itself if nothing was found."""
    before: Floats
    """(K,) logits of the image; the energies E(x,k) are their negatives."""
    after: Floats
    """(K,) logits of `adversarial`."""
    seconds: float = 0.0


class Plane(msgspec.Struct, frozen=True, eq=False):
    """A square in image space: origin + s·u + t·v with s and t in ±extent, clipped to [0,1] as samplers do."""

    origin: Floats
    """(C, H, W)."""
    u: Floats
    """(C, H, W) of unit L2 length."""
    v: Floats
    """(C, H, W) of unit L2 length, orthogonal to u."""
    extent: float
    names: tuple[str, str]
    """What the directions are."""
    path: Floats
    """(T, 2) s and t of each point of the trajectory; (1, 2) zeros for a single image."""
    held: float
    """Share of the trajectory's variance that lies in the plane; NaN for a single image."""

    def image(self, s: float, t: float) -> Floats:
        """(C, H, W) in [0,1]: the image at a point of the square."""
        point: Floats = (self.origin + s * self.u + t * self.v).clip(0, 1).astype(np.float32)
        return point


class Survey(msgspec.Struct, frozen=True, eq=False):
    """The energies of a plane as far as they are known."""

    energy: Floats
    """(size, size): row i is t = linspace(-extent, extent)[i], column j is s. NaN: not known yet."""
    coarse: NDArray[np.float32]
    """The same without gaps: each unknown point has the energy of the nearest coarser one that is known."""
    done: int
    """Points that are known."""
    seconds: float = 0.0


class Split(msgspec.Struct, frozen=True, eq=False):
    """The two parts of the drift a·∇f(x,y) + b·∇LSE(x) at T steps of one chain, from `first` on."""

    first: int
    class_norm: Floats
    """(T,) ‖∇f(x,y)‖₂."""
    marginal_norm: Floats
    """(T,) ‖∇LSE(x)‖₂."""
    cosine: Floats
    """(T,) of the angle between the two."""
    class_part: Floats
    """(T, C, H, W) ∇f(x,y)."""
    marginal_part: Floats
    """(T, C, H, W) ∇LSE(x)."""
    seconds: float = 0.0


Answer: TypeAlias = Opening | Note | Lights | Cell | Sample | Bound | Flip | Plane | Survey | Split


class Band(NamedTuple):
    low: float
    high: float


def wilson(correct: int, total: int) -> Band:
    """The Wilson score interval, which covers the true share in 95 % of all cases; (0, 1) where nothing is known."""
    if not total:
        return Band(0.0, 1.0)
    share, z2 = correct / total, _Z * _Z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return Band(min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))  # rounded, still around it


def auroc(negative: Floats, positive: Floats) -> float:
    """Probability that a positive value is above a negative one, ties counted half; NaN if either is empty."""
    if not len(negative) or not len(positive):
        return math.nan
    ordered = np.sort(negative)
    below, not_above = np.searchsorted(ordered, positive, "left"), np.searchsorted(ordered, positive, "right")
    return float((below + not_above).mean() / (2 * len(negative)))


def worst(lights: Iterable[Light]) -> State:
    """The gravest state among them; fine if there are none."""
    return max((light.state for light in lights), key=_STATES.index, default="fine")
