"""Class names, which hardly any checkpoint holds: well-known sets by their number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Final

import msgspec

from cem_core import bundle
from cem_core.messages import Fact, Refused

NUMBERS: Final = "numbers"
_SETS: Final[Mapping[tuple[int, int], tuple[str, ...]]] = {
    (3, 10): ("CIFAR-10", "STL-10", "digits", "Fashion-MNIST"),
    (1, 10): ("digits", "Fashion-MNIST", "CIFAR-10"),
    (3, 100): ("CIFAR-100",),
    (3, 1000): ("ImageNet",),
    (3, 9): ("RestrictedImageNet",),
}
"""(channels, classes) → sets of that many, the usual one first."""
_DATASETS: Final = {
    "cifar": "CIFAR-10", "cifar10": "CIFAR-10", "cinic": "CIFAR-10", "cifar100": "CIFAR-100",
    "svhn": "digits", "mnist": "digits", "fashionmnist": "Fashion-MNIST", "stl10": "STL-10", "imagenet": "ImageNet",
    "imagenet1k": "ImageNet", "restrictedimagenet": "RestrictedImageNet",
}  # fmt: skip
_MORE: Final = re.compile(r"(?<=\d|n)[sg]$")
"""What DeepMind's successors add to names of data sets with generated images beside: `cifar10s`, `svhns`."""
_Names = Annotated[list[Annotated[str, msgspec.Meta(max_length=200)]], msgspec.Meta(max_length=100_000)]


def settle(
    channels: int, classes: int, said: Mapping[str, str], choices: Mapping[str, str]
) -> tuple[tuple[str, ...], Fact]:
    """The names of the classes, and where they come from. What is chosen is a set's name, or names with commas between.

    Raises:
        Refused: the chosen names are not as many as the classes, or not all different.
    """
    options = (*_SETS.get((channels, classes), ()), NUMBERS)
    if (chosen := choices.get("class_names")) is not None:
        names = _set(chosen) or tuple(part.strip() for part in chosen.split(","))
        if chosen == NUMBERS:
            names = _numbers(classes)
        if len(names) != classes:
            raise Refused(f"The model has {classes:,} classes and {len(names):,} names were given: give one for each.")
        if "" in names or len(set(names)) < classes:
            raise Refused("Class names must differ and none may be empty: give one for each, with commas between.")
        return names, Fact("class names", chosen, "choice", 1.0, options, True)
    try:
        written = tuple(msgspec.json.decode(said.get("classes", ""), type=_Names))
    except msgspec.MsgspecError:
        written = ()
    written = tuple("".join(sign if sign.isprintable() else "\ufffd" for sign in name) for name in written)
    if len(written) == classes:
        return written, Fact("class names", _text(written), "file", 1.0, options, True)
    dataset = _MORE.sub("", said.get("dataset", "").lower().replace("-", "").replace("_", ""))
    for name, source, sure in ((_DATASETS.get(dataset, ""), "file", 0.95), (options[0], "guess", 0.8)):
        names = _set(name)
        if len(names) == classes:
            why = f"its data set is {dataset}" if source == "file" else f"the usual set of {classes:,} classes"
            return names, Fact("class names", name, source, sure, options, True, why)  # type: ignore[arg-type]
    return _numbers(classes), Fact("class names", NUMBERS, "guess", 1.0, options, True, "no set of that many is known")


def _text(names: tuple[str, ...]) -> str:
    """The name of a set, or the names themselves."""
    for sets in _SETS.values():
        for name in sets:
            if _set(name) == names:
                return name
    return ", ".join(names)


def _numbers(classes: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(classes))


@lru_cache(maxsize=16)
def _set(name: str) -> tuple[str, ...]:
    """Empty where there is no such set."""
    path = bundle.ASSETS / "classes" / f"{name}.txt"
    if name not in {known for sets in _SETS.values() for known in sets} or not path.exists():
        return ()
    return tuple(path.read_text(encoding="utf-8").splitlines())
