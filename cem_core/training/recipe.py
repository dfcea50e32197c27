"""What is trained, on what, against what: a validated TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from cem_core.messages import MAX_SEED, Norm, Precision, Refused
from cem_core.training.progress import STATE

_LONGEST_NAME: Final = 100
"""Bytes."""
LARGEST: Final = 2**20
"""Bytes of a recipe."""


def _within(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    if not (low < value if above else low <= value) or not value <= high:  # as NaN is neither
        bounds = f"above {low:g} and at most {high:g}" if above else f"between {low:g} and {high:g}"
        given = f"{value:g}" if isinstance(value, float) or abs(value) < 10**15 else "a number of many digits"
        raise Refused(f"{name} must be {bounds}, not {given}.")


class Standard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="standard", tag_field="kind"):
    """Cross-entropy on the images as they are."""


class Attack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How images are attacked while a network is trained on them."""

    eps: float
    norm: Norm = "l2"
    steps: int = 10
    """1: a single step (Wong et al. 2020)."""
    step_size: float | None = None
    """None: 2.5·ε/steps, or 1.25·ε for a single step."""
    random_start: bool = True

    def __post_init__(self) -> None:
        _within("eps", self.eps, 0, 1000 if self.norm == "l2" else 1, above=True)
        _within("steps", self.steps, 1, 1000)
        if self.step_size is not None:
            _within("step_size", self.step_size, 0, 10_000, above=True)

    @property
    def length(self) -> float:
        """Of one step, in pixel units."""
        if self.step_size is not None:
            return self.step_size
        return 1.25 * self.eps if self.steps == 1 else 2.5 * self.eps / self.steps


class Adversarial(Attack, frozen=True, forbid_unknown_fields=True, tag="adversarial", tag_field="kind"):
    """Cross-entropy on attacked images (Madry et al. 2018): the contrastive part of the likelihood gradient."""

    consistency: float = 0.0
    """Weight of f(x̂,y) − f(x,y) beside it: the consistency part. At 1 the whole likelihood gradient is followed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("consistency", self.consistency, 0, 1000)


class Trades(Attack, frozen=True, forbid_unknown_fields=True, tag="trades", tag_field="kind"):
    """Cross-entropy on the images as they are, and β·KL(p(·|x) ‖ p(·|x̂)), which x̂ ascends (Zhang et al. 2019)."""

    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("beta", self.beta, 0, 10_000, above=True)
        if not self.random_start:
            raise Refused("TRADES begins beside the image, where its KL has a gradient: leave random_start out.")


class Views(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two of these are drawn of each image: a part of it, scaled, mirrored, in other colours (Chen et al. 2020)."""

    size: int | None = None
    """Side in pixels; None: that of the network. Smaller ones cost less and show things as large as whole images do."""
    smallest: float = 0.2
    """Share of the image that is seen at least."""
    jitter: float = 0.4
    """By which share brightness, contrast and saturation vary; hue by a quarter of it, as a share of a turn."""
    grey: float = 0.2
    """Share of views without colour."""

    def __post_init__(self) -> None:
        if self.size is not None:
            _within("size", self.size, 8, 256)
        _within("smallest", self.smallest, 0, 1, above=True)
        _within("jitter", self.jitter, 0, 1)
        _within("grey", self.grey, 0, 1)


class Contrastive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="contrastive", tag_field="kind"):
    """InfoNCE between two views of each image: no labels. With an attack on both of them, unsupervised AT."""

    attack: Attack | None = None
    """What the views suffer; None: nothing."""
    temperature: float = 0.5
    projection: int = 128
    """Length of what is compared; 0: g(x) itself, without a projection."""
    routes: Literal[1, 2] = 1
    """2: the views as they are have batch norms of their own (Jiang et al. 2020); those of attacked views are kept."""
    clean: float = 0.0
    """Weight of InfoNCE of the views as they are, beside that of the attacked ones."""
    views: Views = Views()

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0.001, 1000)
        _within("projection", self.projection, 0, 65_536)
        _within("clean", self.clean, 0, 1000)
        if self.attack is None and (self.clean or self.routes == 2):
            raise Refused("clean and routes = 2 are for views that are attacked: add [objective.attack].")
        if self.routes == 2 and not self.clean:
            raise Refused("routes = 2 needs views as they are: give clean a weight.")


Objective: TypeAlias = Standard | Adversarial | Trades | Contrastive


class DataRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    """A folder or archive of class folders, or a dataset of torchvision on the disk; relative to the recipe."""
    split: str | None = None
    held: int = 1000
    """Images that are not trained on, evenly over the classes: accuracies are measured on them meanwhile."""
    flip: bool = True
    crop: int = 4
    """Pixels by which an image is shifted at most, over its own mirrored edge."""

    def __post_init__(self) -> None:
        if not self.path:
            raise Refused("The path of the data is empty: say where they are.")
        _within("held", self.held, 0, 1_000_000)
        _within("crop", self.crop, 0, 64)


class NetworkRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: Literal["preact_resnet"] = "preact_resnet"
    depth: Literal[18, 34, 50] = 18
    width: int = 64
    """Channels of the first stage."""
    activation: Literal["relu", "silu", "gelu"] = "relu"
    size: int = 32
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2471, 0.2435, 0.2616)

    def __post_init__(self) -> None:
        _within("width", self.width, 1, 1024)
        _within("size", self.size, 8, 256)
        for value in self.mean:
            _within("mean", value, -100, 100)
        for value in self.std:
            _within("std", value, 0, 100, above=True)


class Optimiser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SGD with Nesterov momentum; the learning rate rises and falls once."""

    epochs: int
    batch: int = 128
    rate: float = 0.2
    """Learning rate at its peak."""
    rise: float = 0.2
    """Share of all steps in which it rises from nothing; it falls along a half cosine after that."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    average: float = 0.998
    """Of the exponential average of the weights, which is what is saved and measured; 0: none."""
    smoothing: float = 0.0
    """Of the labels."""

    def __post_init__(self) -> None:
        _within("epochs", self.epochs, 1, 100_000)
        _within("batch", self.batch, 2, 100_000)  # batch norm has nothing to go by with one image
        _within("rate", self.rate, 0, 1000, above=True)
        for name in ("rise", "momentum", "average", "smoothing"):
            _within(name, getattr(self, name), 0, 1)
        _within("weight_decay", self.weight_decay, 0, 10)


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that decides the weights, on one device."""

    name: str
    data: DataRecipe
    optimiser: Optimiser
    objective: Objective
    network: NetworkRecipe = NetworkRecipe()
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        plain = Path(self.name).name == self.name and self.name.isprintable() and not self.name.startswith(".")
        if not plain or not 0 < len(self.name.encode()) <= _LONGEST_NAME or f"{self.name}.safetensors" == STATE:
            shown = self.name if len(self.name) <= _LONGEST_NAME else f"{self.name[:20]}…"
            raise Refused(f"The name of a recipe becomes the name of a file: {shown!r} cannot be one.")
        _within("seed", self.seed, 0, MAX_SEED)
        if self.data.crop >= self.network.size:
            raise Refused(f"crop must be below the size of the images, {self.network.size}, not {self.data.crop}.")
        if isinstance(self.objective, Contrastive) and self.optimiser.smoothing:
            raise Refused("smoothing is of labels, which contrastive training has none of: leave it out.")


def read(path: Path) -> Recipe:
    """A recipe from a TOML file. Raises Refused where a key is unknown, missing or out of range, and says which."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe or a device might never end
            raise Refused(f"{path} is not an ordinary file: choose another.")
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise Refused(f"{path} is larger than {LARGEST // 2**20} MB, which no recipe is: choose another.")
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror or error}): check the path.") from error
    try:
        recipe = msgspec.toml.decode(text.decode("utf-8-sig"), type=Recipe)  # some editors begin with a mark
    except msgspec.ValidationError as error:
        ours = isinstance(error.__cause__, Refused)
        said = str(error.__cause__) if ours else f"{error}; docs/training.md lists all keys and their values."
        raise Refused(f"{path.name}: {said}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refused(f"{path.name} is not TOML: {str(error).splitlines()[0].rstrip('.')}.") from error
    where = recipe.data.path if recipe.data.path.startswith("~") else str(path.parent / recipe.data.path)
    data = msgspec.structs.replace(recipe.data, path=where)  # absolute ones stay
    return msgspec.structs.replace(recipe, data=data)
