"""Small networks for MNIST: fast_adversarial's (which convex_adversarial had before), TRADES' SmallCNN and its Net."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from torch import Tensor, nn

from cem_core.models.activations import ACTIVATIONS
from cem_core.models.family import Evidence, Plan, Shapes
from cem_core.models.model import Network
from cem_core.models.wide_resnet import classes_of

FAMILY: Final = "mnist_nets"
_SIZES: Final = (28, 32)


@dataclass(frozen=True)
class Layout:
    """What shapes do not say of a network."""

    title: str
    order: str
    """Its layers up to the features: a name where there are weights, else what it does."""
    files: Mapping[str, str]
    """Name → as the file has it; with the last layer, `head`."""
    kernel: int
    stride: int = 1
    padding: int = 0


LAYOUTS: Final = (
    Layout(
        "Small CNN (fast_adversarial)",
        "conv1 act conv2 act flatten fc1 act",
        {"conv1": "0", "conv2": "2", "fc1": "5", "head": "7"},
        kernel=4,
        stride=2,
        padding=1,
    ),
    Layout(
        "SmallCNN (TRADES)",
        "conv1 act conv2 act pool conv3 act conv4 act pool flatten fc1 act fc2 act",
        {f"conv{i}": f"feature_extractor.conv{i}" for i in range(1, 5)}
        | {"fc1": "classifier.fc1", "fc2": "classifier.fc2", "head": "classifier.fc3"},
        kernel=3,
    ),
    Layout(
        "Net (TRADES)",
        "conv1 pool act conv2 pool act flatten fc1 act",
        {"conv1": "conv1", "conv2": "conv2", "fc1": "fc1", "head": "fc2"},
        kernel=5,
    ),
)


class MNISTNet(Network):
    """Normalised (B, C, H, W) to logits (B, K); `classes` 0: no head."""

    def __init__(self, layout: Layout, weights: Mapping[str, tuple[int, ...]], classes: int, activation: str) -> None:
        super().__init__()
        features = 0
        weightless: dict[str, Callable[[], nn.Module]] = {
            "act": ACTIVATIONS[activation],
            "pool": partial(nn.MaxPool2d, 2),
            "flatten": nn.Flatten,
        }
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for place, name in enumerate(layout.order.split()):
            if name not in weights:
                layers[f"{name}_{place}"] = weightless[name]()
                continue
            features, inputs, *kernel = weights[name]
            layers[name] = (
                nn.Conv2d(inputs, features, layout.kernel, layout.stride, layout.padding)
                if kernel
                else nn.Linear(inputs, features)
            )
        self.body = nn.Sequential(layers)
        self.head = nn.Linear(features, classes) if classes else None

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def _fits(layout: Layout, weights: Mapping[str, tuple[int, ...]], size: int) -> bool:
    """Whether each layer takes what the one before gives, for images of this size."""
    width, side = next(iter(weights.values()))[1], size
    for name in layout.order.split():
        if name == "pool":
            side //= 2
        elif name == "flatten":
            width *= side**2
        elif name in weights:
            if weights[name][1] != width:
                return False
            width = weights[name][0]
            if name.startswith("conv"):
                side = (side + 2 * layout.padding - layout.kernel) // layout.stride + 1
    return True


def _key_of(layout: Layout, key: str) -> str:
    name, _, parameter = key.removeprefix("body.").partition(".")
    return f"{layout.files[name]}.{parameter}"


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys and sizes are those of one of these networks, else None."""
    if "fc3.weight" in shapes:  # another LeNet, with a layer more than TRADES' Net
        return None
    for layout in LAYOUTS:
        weights = {name: tuple(shapes.get(f"{key}.weight", ())) for name, key in layout.files.items() if name != "head"}
        square = (layout.kernel, layout.kernel)
        if any(
            len(shape) < 2 or min(shape) < 1 or shape[2:] != (square if name.startswith("conv") else ())
            for name, shape in weights.items()
        ):
            continue
        size = next((size for size in _SIZES if _fits(layout, weights, size)), None)
        features = list(weights.values())[-1][0]
        classes = classes_of(shapes, layout.files["head"], features)
        if size is None or classes is None:
            continue
        channels = weights["conv1"][1]
        activation = evidence.settle("activation", tuple(ACTIVATIONS), "relu", 0.95, "all published files")
        return Plan(
            family=FAMILY,
            title=layout.title,
            channels=channels,
            classes=classes,
            features=features,
            size=size,
            facts=(activation,),
            build=partial(MNISTNet, layout, weights, classes, activation.value),
            key_of=partial(_key_of, layout),
            normalisation=("none", 0.95, "as all published MNIST networks") if channels == 1 else None,
        )
    return None
