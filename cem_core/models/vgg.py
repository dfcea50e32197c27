"""VGG with or without batch norm: torchvision's with its three linear layers, and kuangliu's for CIFAR with one."""

from __future__ import annotations

import re
from functools import partial
from itertools import groupby
from typing import Final

from torch import Tensor, nn

from cem_core.models.family import Evidence, Plan, Shapes, head_named, shown
from cem_core.models.model import Network
from cem_core.models.torchvision_nets import have, head_size, imagenet, square_root

FAMILY: Final = "vgg"
_PUBLISHED: Final = ((1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4))
"""Convolutions before each max-pool."""


class VGG(Network):
    """Normalised (B, C, H, W) to logits (B, K). Written out: in the package, its sizes are fixed.

    Args:
        widths: of the convolutions; 0 is a max-pool.
        hidden: of the linear layers before the head.
        pooled: side in pixels to which what the convolutions give is averaged.
        classes: 0: no head.
    """

    def __init__(
        self, channels: int, widths: tuple[int, ...], hidden: tuple[int, ...], pooled: int, classes: int, *, norm: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            if width:
                normed = [nn.BatchNorm2d(width)] if norm else []
                layers += [nn.Conv2d(channels, width, 3, padding=1), *normed, nn.ReLU(inplace=True)]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.convs = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(pooled)
        inputs = channels * pooled**2
        linear: list[nn.Module] = []
        for width in hidden:
            linear += [nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Identity()]  # where dropout was
            inputs = width
        self.classifier = nn.Sequential(*linear)
        self.head = nn.Linear(inputs, classes) if classes else None

    def features(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.convs(x)).flatten(1))  # type: ignore[no-any-return]


def _layout(shapes: Shapes, step: int) -> tuple[int, ...]:
    """Widths of the convolutions, with 0 for a max-pool: a place that is free in the count. Empty: not a VGG's.

    Args:
        step: places that a convolution and what belongs to it take.
    """
    if any(key.startswith("features.") and key.count(".") != 2 for key in shapes):
        return ()
    found = ((re.fullmatch(r"features\.(\d{1,3})\.weight", key), shape) for key, shape in shapes.items())
    convolutions = {int(match[1]): shape for match, shape in found if match and len(shape) == 4}
    parts = {key.split(".")[1] for key in shapes if key.startswith("features.")}
    if parts != {str(at + i) for at in convolutions for i in range(step - 1)}:  # the last place is the activation's
        return ()
    widths: list[int] = []
    place = inputs = 0
    for at, shape in sorted(convolutions.items()):
        fits = at - place in (0, 1) and 0 not in shape and shape[1] == (inputs or shape[1])
        if not fits or shape[2:] != (3, 3):
            return ()
        widths += [0] * (at - place) + [shape[0]]
        place, inputs = at + step, shape[0]
    return tuple(widths)


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    if not have(shapes, 4, "features.0.weight"):
        return None
    norm = have(shapes, 1, "features.1.running_mean", "features.1.running_var")
    widths = _layout(shapes, step=3 if norm else 2)
    groups = tuple(len(list(group)) for convolution, group in groupby(widths, bool) if convolution)
    if sum(groups) < 2:
        return None
    facts = [shown("convolutions", ", ".join(map(str, groups))), shown("width", widths[0])]
    pool = "yes"
    if groups not in _PUBLISHED:  # what comes last and has no weights leaves no trace
        fact = evidence.settle("last pool", ("yes", "no"), "yes", 0.8, "all published ones have it")
        pool = fact.value
        facts.append(fact)
    deep = have(shapes, 2, "classifier.0.weight", "classifier.3.weight")
    last = "classifier.6" if deep else "classifier"
    first = "classifier.0.weight" if deep else "classifier.weight"
    taken = shapes[first][1] if have(shapes, 2, first) else 0
    pooled = square_root(taken // widths[-1]) if taken % widths[-1] == 0 else 0
    if not pooled if deep else any(f"classifier.{i}.weight" in shapes for i in (0, 3, 6)):
        return None
    channels, pooled = shapes["features.0.weight"][1], pooled or 1
    hidden = tuple(shapes[f"classifier.{i}.weight"][0] for i in (0, 3)) if deep else ()
    features = hidden[-1] if hidden else widths[-1] * pooled**2
    classes = head_size(shapes, last, features)
    return Plan(
        family=FAMILY,
        title=f"VGG-{sum(groups) + 3}" + (" with batch norm" if norm else ""),
        channels=channels,
        classes=classes,
        features=features,
        size=32 if classes and not deep else 224,
        facts=tuple(facts),
        build=partial(VGG, channels, (*widths, 0) if pool == "yes" else widths, hidden, pooled, classes, norm=norm),
        key_of=lambda key: re.sub("^convs", "features", head_named(last)(key)),
        normalisation=imagenet(classes),
    )
