"""Every message that crosses a border: frozen, typed, numpy only.

Settings (`Sampler`, `Chain`, `RunSpec`) travel down from a window or a command line; a run answers with one
stream of `RunStart`, `Step` … `Step`, `RunEnd`. The same structs are the JSON that is written into files.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Norm = Literal["l2", "linf"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
Reason = Literal["done", "stopped", "failed"]
Source = Literal["file", "name", "guess", "choice"]

NORMS: Final[dict[Norm, str]] = {"l2": "L2", "linf": "L∞"}
"""As they are shown."""
MAX_STEPS = 100_000
MAX_CHAINS = 1024
MAX_REFERENCES = 4096
TEMPERATURE = 0.5
"""Of an encoder that does not tell its own."""
MAX_SEED = 2**63 - 1


class Refused(ValueError):
    """Bad input, told in one sentence that is fit to be shown: what is wrong, and what to do."""


def _number(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    inside = math.isfinite(value) and (low < value if above else low <= value) and value <= high
    if not inside:
        bounds = f"above {low:g} and at most {high:g}" if above else f"between {low:g} and {high:g}"
        raise Refused(f"{name} must be a number {bounds}, not {value:g}.")


class Sampler(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A row of numbers: drift = a·∇f(x,y) + b·∇LSE(x), one step of size `step_size`, then noise, then the ball.

    Raises:
        Refused: a number is outside its range, infinite or NaN.
    """

    name: str
    a: float
    """Weight of the class part ∇f(x,y)."""
    b: float
    """Weight of the marginal part ∇LSE(x)."""
    step_size: float = 0.25
    """Length of one step in pixel units of [0,1] (per pixel for the L∞ norm)."""
    noise: float = 0.0
    """Standard deviation of the Gaussian noise added at each step, in pixel units."""
    norm: Norm = "l2"
    """Norm in which the drift is normalised and the ball is measured."""
    radius: float | None = None
    """Radius of the ball around the start; None: no ball."""
    steps: int = 60
    random_start: bool = False
    """Begin at a point drawn uniformly from the ball."""
    normalised: bool = True
    """Normalise the drift of each chain (L2: unit length; L∞: sign); False: plain gradient steps."""
    coupled: bool = False
    """LSE runs over the other chains of the run and x' is the chain's own start, so chains act on each other and a run
    is never split. Of encoders only."""

    def __post_init__(self) -> None:
        _number("Weight a", self.a, -10, 10)
        _number("Weight b", self.b, -10, 10)
        _number("Step size", self.step_size, 0, 1000, above=True)
        _number("Noise", self.noise, 0, 10)
        if self.radius is not None:
            _number("Radius", self.radius, 0, 10_000, above=True)
        if not 1 <= self.steps <= MAX_STEPS:
            raise Refused(f"Steps must be between 1 and {MAX_STEPS:,}, not {self.steps:,}.")
        if self.random_start and self.radius is None:
            raise Refused("A random start needs a ball: give a radius.")


class ImageStart(msgspec.Struct, frozen=True, tag="image", tag_field="kind"):
    path: str


class GaussianStart(msgspec.Struct, frozen=True, tag="gaussian", tag_field="kind"):
    """Drawn from the Gaussian of a class."""

    of: str = ""
    """Its name; empty: the class of the chain's label."""


class OverallStart(msgspec.Struct, frozen=True, tag="overall", tag_field="kind"):
    """Drawn from the one Gaussian of all classes together."""


class NoiseStart(msgspec.Struct, frozen=True, tag="noise", tag_field="kind"):
    """Uniform noise in [0,1]."""


class ReplayStart(msgspec.Struct, frozen=True, tag="replay", tag_field="kind"):
    """An image of the replay buffer in the checkpoint, drawn with the seed of the chain."""


class SessionStart(msgspec.Struct, frozen=True, tag="session", tag_field="kind"):
    """A chain of a recorded run, as it was after some step."""

    session: str
    """Path of the session's folder."""
    step: int
    chain: int


Start: TypeAlias = ImageStart | GaussianStart | OverallStart | NoiseStart | ReplayStart | SessionStart


class Chain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image being moved. `label` is the y of f(x,y): a class, or with an encoder an image of the reference batch.
    None: what the model sees in the start."""

    start: Start
    seed: int = 0
    label: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise Refused(f"A seed must be between 0 and {MAX_SEED}, not {self.seed}.")


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an encoder compares images with, as there are no classes: f(x,x') = g(x)ᵀg(x').

    Raises:
        Refused: the temperature is out of range, or there are too many images.
    """

    images: tuple[str, ...]
    """Paths of the x_j."""
    cosine: bool = True
    """Compare unit features."""
    temperature: float | None = None
    """What similarities are divided by; None: what the encoder was trained with."""

    def __post_init__(self) -> None:
        if self.temperature is not None:
            _number("The temperature", self.temperature, 0.001, 1000)
        if not 1 <= len(self.images) <= MAX_REFERENCES:
            raise Refused(f"A reference batch has between 1 and {MAX_REFERENCES:,} images, not {len(self.images):,}.")


class RunSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that decides the pixels of a run, on one machine."""

    id: str
    checkpoint: str
    sampler: Sampler
    chains: tuple[Chain, ...]
    device: Device = "auto"
    precision: Precision = "float32"
    choices: dict[str, str] = {}
    """What the person said of the checkpoint where it might be read in more than one way: fact → value."""
    reference: Reference | None = None
    """Of an encoder; None: the bundled samples. Models with classes have no use for it."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.chains) <= MAX_CHAINS:
            raise Refused(f"A run needs between 1 and {MAX_CHAINS:,} chains, not {len(self.chains):,}.")

    @property
    def temperature(self) -> float:
        """Of an encoder's run that was made. A record that does not tell is older than encoders that do."""
        given = self.reference.temperature if self.reference is not None else None
        return TEMPERATURE if given is None else given

    def aims(self, chain: int, *, encoder: bool) -> bool:
        """Whether the label of a chain was asked for, or is what the sampler flees. That of any other chain is what an
        encoder found most alike at first, which matters to nobody."""
        asked = self.chains[chain].label is not None
        return not encoder or asked or (self.sampler.a != 0 and not self.sampler.coupled)


class Fact(msgspec.Struct, frozen=True):
    """One thing that the loader believes about a checkpoint, and where it comes from."""

    what: str
    value: str
    source: Source
    confidence: float = 1.0
    """Between 0 and 1; 1 where the file or the person says so."""
    options: tuple[str, ...] = ()
    """What else may be chosen; empty: settled."""
    free: bool = False
    """Any text of the same form may be chosen, not the options alone."""
    why: str = ""
    """What speaks for it, in a phrase."""


class Checkpoint(msgspec.Struct, frozen=True):
    """What is known of a checkpoint once it has been opened."""

    name: str
    path: str
    sha256: str
    title: str
    family: str
    parameters: int
    classes: tuple[str, ...]
    """Empty: an encoder, which has features and no logits."""
    channels: int
    size: int
    """Side of the square input, in pixels."""
    facts: tuple[Fact, ...]
    features: int = 0
    """Length of g(x)."""
    ignored: tuple[str, ...] = ()
    """Keys of the file that the network does not use, and Python objects that were not rebuilt."""
    warnings: tuple[str, ...] = ()
    """A sentence each."""
    heads: tuple[str, ...] = ()
    """Files beside an encoder that hold a head for it."""
    replay: int = 0
    """Images in the replay buffer of an energy-based model, to start chains from."""

    def fact(self, what: str) -> Fact | None:
        return next((fact for fact in self.facts if fact.what == what), None)

    @property
    def temperature(self) -> float:
        """Of an encoder: what it was trained with, or what is usual."""
        fact = self.fact("temperature")
        return TEMPERATURE if fact is None else float(fact.value)


class RunStart(msgspec.Struct, frozen=True):
    spec: RunSpec
    checkpoint: Checkpoint
    labels: tuple[int, ...]
    """y of each chain, with what the model saw filled in."""
    names: tuple[str, ...]
    """What each chain started from, in a word."""
    notes: tuple[str, ...]
    """What was done to the image of each chain to make it fit the model; empty where nothing was."""
    device: str
    versions: dict[str, str]
    references: tuple[str, ...] = ()
    """Names of the images of an encoder's reference batch."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """What the columns of `Step.logits` are, and labels count: classes, or the images of the reference batch."""
        return self.checkpoint.classes or self.references

    @property
    def measure(self) -> str:
        """What `likeness` is, in a word or two."""
        return "cosine" if self.spec.reference is None or self.spec.reference.cosine else "g(x)ᵀg(x′)"

    def likeness(self, logits: Floats) -> Floats:
        """Of an encoder: f(x,·) without its temperature."""
        return logits * np.float32(self.spec.temperature)

    def aims(self, chain: int) -> bool:
        """As `RunSpec.aims`."""
        return self.spec.aims(chain, encoder=not self.checkpoint.classes)


class Step(msgspec.Struct, frozen=True, eq=False):
    """The chains after `index` steps; index 0 is the start. B chains, K classes."""

    run: str
    index: int
    sampler: Sampler
    """The row in force when this step was made (at index 0: the one it begins with)."""
    pixels: Floats
    """(B, C, H, W) in [0,1]."""
    energy: Floats
    """(B,) E(x) = -LSE(x)."""
    joint: Floats
    """(B,) E(x,y) = -f(x,y)."""
    logits: Floats
    """(B, K) f(x,·), a column for each of `RunStart.candidates`."""
    gradient_norm: Floats
    """(B,) L2 norm of the drift a·∇f + b·∇LSE, before normalisation."""
    distance: Floats
    """(B,) ‖x - x₀‖ in the norm of the sampler."""

    @property
    def log_p(self) -> Floats:
        """(B,) log p(y|x) = E(x) - E(x,y)."""
        return self.energy - self.joint


class RunEnd(msgspec.Struct, frozen=True):
    run: str
    reason: Reason
    detail: str = ""
    """One sentence; empty unless there is something to say."""
    diverged: tuple[int, ...] = ()
    """Chains of which a number was no longer finite."""


Message: TypeAlias = RunStart | Step | RunEnd
