"""What can be asked of models: frozen messages, each answered by a stream (`measuring.measure`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from cem_core.messages import Device, Floats, Norm, Precision, Refused, RunSpec, Sampler

AttackName = Literal["pgd", "apgd-ce", "apgd-t", "autoattack"]
ATTACKS: Final[dict[AttackName, str]] = {
    "pgd": "PGD",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "autoattack": "AutoAttack",
}
"""Names as they are shown."""
MODELS: Final = 4
"""Models that are compared at once."""
MAX_EPS: Final = {"l2": 10_000.0, "linf": 1.0}
"""Radii from which on a ball is no smaller than all images."""


class Attack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a model is attacked; its strength ε stands beside it.

    Raises:
        Refused: a number is outside its range.
    """

    name: AttackName = "pgd"
    """pgd is ours; the others are those of the `pyautoattack` package, used as they are."""
    norm: Norm = "l2"
    steps: int = 20
    """Of pgd: its step size is 2.5·ε/steps (Madry et al. 2018). The others know their own."""
    restarts: int = 1
    """Of pgd: random starts, of which any may succeed."""
    seed: int = 0

    def __post_init__(self) -> None:
        _whole("Steps of an attack", self.steps, 1, 10_000)
        _whole("Restarts of an attack", self.restarts, 1, 1000)
        _whole("The seed of an attack", self.seed, 0, 2**31 - 1)


class Subject(msgspec.Struct, frozen=True):
    """A model that is measured: its file, and how it is read."""

    reference: str
    """Name of a bundled model, or path of a file."""
    choices: dict[str, str] = {}
    device: Device = "auto"
    precision: Precision = "float32"
    """Gradients that are rounded to bfloat16 make a model look more robust than it is."""


class Data(msgspec.Struct, frozen=True):
    """Labelled images: a folder or archive of class folders, a dataset of torchvision, or the bundled samples."""

    path: str = ""
    """Empty: the bundled samples."""
    split: str | None = None
    num: int | None = None
    """The first so many, evenly over the classes; None: all."""

    def __post_init__(self) -> None:
        if self.num is not None:
            _whole("Images", self.num, 1, 10**9)


class Accuracy(msgspec.Struct, frozen=True):
    """Accuracy against ε of up to four models over a set of images.

    Answered by `results.Opening`, then `Lights`, `Cell` and `Note` as they come.

    Raises:
        Refused: no model or too many, or an ε that is negative, infinite, NaN or absurd.
    """

    subjects: tuple[Subject, ...]
    data: Data
    attack: Attack
    eps: tuple[float, ...]
    """Radii in the norm of the attack, in pixel units of [0,1]; 0 is clean accuracy."""
    batch: int = 128
    """Images that are attacked at once; halved where memory does not suffice. 0: few on a CPU, for quick answers, and
    128 elsewhere."""

    def __post_init__(self) -> None:
        _models(self.subjects)
        _whole("The batch", self.batch, 0, 100_000)
        if not self.eps:
            raise Refused("Give at least one ε, such as 0.5.")
        for eps in self.eps:
            _eps(eps, self.attack.norm)


class Energies(msgspec.Struct, frozen=True):
    """Energies E(x) of clean, adversarial and generated images: how well E(x) tells them apart.

    Answered by `results.Opening`, then `Lights`, `Sample` and `Note` as they come.

    Raises:
        Refused: as `Accuracy`.
    """

    subjects: tuple[Subject, ...]
    data: Data
    attack: Attack
    eps: float
    generated: int = 0
    """Images that each model generates, to be compared too."""
    sampler: Sampler | None = None
    """What generates them; None: RCS from class Gaussians where there are any, else Langevin from noise."""
    batch: int = 128
    """As of `Accuracy`."""

    def __post_init__(self) -> None:
        _models(self.subjects)
        _eps(self.eps, self.attack.norm)
        _whole("Generated images", self.generated, 0, 100_000)
        _whole("The batch", self.batch, 0, 100_000)


class Smallest(msgspec.Struct, frozen=True, eq=False):
    """The smallest ε at which a strong attack flips each model on one image: an upper bound, found by bisection.

    Answered by `results.Bound` as it narrows, and `Flip` for each model and norm.

    Raises:
        Refused: as `Accuracy`.
    """

    subjects: tuple[Subject, ...]
    path: str = ""
    """Of the image; empty: `pixels` are it."""
    pixels: Floats | None = None
    """(C, H, W) in [0,1]."""
    label: str | None = None
    """The class that it shows; None: what each model sees in it."""
    norms: tuple[Norm, ...] = ("l2", "linf")
    steps: int = 40
    """Of each attack."""
    seed: int = 0

    def __post_init__(self) -> None:
        _models(self.subjects)
        _whole("Steps of an attack", self.steps, 1, 10_000)
        _whole("The seed of an attack", self.seed, 0, 2**31 - 1)
        if not self.path and self.pixels is None:
            raise Refused("There is no image to attack: choose one.")


class Landscape(msgspec.Struct, frozen=True, eq=False):
    """E(x) or E(x,y) on a plane through an image, from coarse to fine.

    Answered by `results.Plane`, then `Survey` after each batch, and `Note`.

    Raises:
        Refused: the size is not between 2 and 1,024, or another number is out of range.
    """

    subject: Subject
    pixels: Floats
    """(T, C, H, W) in [0,1]. One: its surroundings, away from the class that the model sees × a random direction. Two
    or more: the plane of the first two principal components of that trajectory."""
    label: int | None = None
    """y of E(x,y); None: the class that the model sees in the first image."""
    marginal: bool = True
    """Show E(x); else E(x,y)."""
    size: int = 65
    """Points on each side; of an odd number, one is the origin itself."""
    extent: float | None = None
    """Half the side of the square, as an L2 distance; None: what suits the trajectory, or 1.0."""
    batch: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _whole("Points on a side", self.size, 2, 1024)
        _whole("The batch", self.batch, 1, 100_000)
        _whole("The seed", self.seed, 0, 2**31 - 1)
        if self.extent is not None and not 0 < self.extent <= MAX_EPS["l2"]:
            raise Refused(f"The extent must be a number above 0 and at most {MAX_EPS['l2']:g}, not {self.extent:g}.")


class Lens(msgspec.Struct, frozen=True, eq=False):
    """The step split into its class part ∇f(x,y) and its marginal part ∇LSE(x), along T points of one chain.

    Answered by `results.Split` for each piece of them, and `Note`.

    Raises:
        Refused: the batch is not between 1 and 100,000, or there are not as many labels as points.
    """

    subject: Subject
    pixels: Floats
    """(T, C, H, W) in [0,1]."""
    label: int
    """y."""
    first: int = 0
    """Step of the first of them, which the answers count from."""
    batch: int = 32
    labels: tuple[int, ...] = ()
    """y of each point, if they are of several chains; empty: `label` for all."""
    sha256: str = ""
    """Of the checkpoint that the points were made with, and no other will do; empty: whatever the file is by now."""

    def __post_init__(self) -> None:
        _whole("The batch", self.batch, 1, 100_000)
        if self.labels and len(self.labels) != len(self.pixels):
            raise Refused(f"There are {len(self.labels):,} labels for {len(self.pixels):,} points: give as many.")


class Linked(msgspec.Struct, frozen=True):
    """Runs of two to four models in step: the same images, noise and budget.

    Answered by `linked.Round`s.

    Raises:
        Refused: not between one and four of them, or not as many chains in each.
    """

    specs: tuple[RunSpec, ...]
    crossed: bool = True
    """Show each model every other's images as well, which takes a forward pass for each pair."""

    def __post_init__(self) -> None:
        _models(self.specs)
        if len({len(spec.chains) for spec in self.specs}) > 1:
            raise Refused("Linked runs have the same chains: give each as many.")


Request: TypeAlias = Accuracy | Energies | Smallest | Landscape | Lens


def _models(subjects: Sequence[object]) -> None:
    if not 1 <= len(subjects) <= MODELS:
        raise Refused(f"Between 1 and {MODELS} models can be compared, not {len(subjects)}.")


def _eps(eps: float, norm: Norm) -> None:
    if not 0 <= eps <= MAX_EPS[norm]:
        hint = " Images lie in [0,1]: eight grey levels are 8/255." if norm == "linf" and 1 < eps < math.inf else ""
        raise Refused(f"ε must be a number between 0 and {MAX_EPS[norm]:g}, not {eps:g}.{hint}")


def _whole(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise Refused(f"{what} must be between {low:,} and {high:,}, not {value:,}.")
