"""What the loader asks of an architecture family: shapes and evidence in, a plan out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from cem_core.messages import Fact, Refused
from cem_core.models.model import Network

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Keys of a state dict without wrapper and prefix, and their shapes. There may be more than the network takes."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a file beside its shapes. Keys are facts with `_` for spaces: `shortcut_input`."""

    name: str = ""
    """Of the file, without folder and extension."""
    said: Mapping[str, str] = field(default_factory=dict)
    """By the file itself: its metadata, or the classes of a pickled module."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """By the person; they go before everything else."""

    def settle(self, what: str, options: tuple[str, ...], guess: str, confidence: float, why: str = "") -> Fact:
        """What cannot be read off shapes: chosen, said by the file, or guessed.

        Raises:
            Refused: something else than an option was chosen, or is said by the file.
        """
        key = what.replace(" ", "_")
        if (chosen := self.choices.get(key)) is not None:
            spelt = next((option for option in options if option.casefold() == chosen.casefold()), None)
            if spelt is None:
                raise Refused(f"The {what} cannot be {chosen[:40]!r}: choose one of {', '.join(options)}.")
            return Fact(what, spelt, "choice", 1.0, options)
        if (said := self.said.get(key)) is not None:
            if said not in options:
                raise Refused(f"Its {what} is {said[:40]!r}, which is not known here: {', '.join(options)} are.")
            return Fact(what, said, "file", 1.0, options)
        return Fact(what, guess, "guess", confidence, options, why=why)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recognised network, not yet built."""

    family: str
    title: str
    channels: int
    classes: int
    """0: an encoder without a head."""
    features: int
    """Length of g(x)."""
    size: int
    """Side of the input in pixels that the architecture suggests."""
    facts: tuple[Fact, ...]
    build: Callable[[], Network]
    key_of: Callable[[str], str] = str
    """Key of the network → key of the file."""
    normalisation: tuple[str, float, str] | None = None
    """Which one goes with this family (a name of `preprocessing.NORMALISATIONS`), how sure that is, and why."""
    stem: tuple[str, str] | None = None
    """Key of the first convolution's weight and prefix of the batch norm that reads its output directly."""
    idle: Callable[[str], bool] = lambda _: False
    """Whether a key is known to go unused by the network in its own code."""

    def keys(self) -> dict[str, str]:
        """Key of the network → key of the file, for all that the network takes."""
        with torch.device("meta"):
            return {key: self.key_of(key) for key in self.build().state_dict()}


def shown(what: str, value: object) -> Fact:
    """A fact that shapes settle."""
    return Fact(what, str(value), "file")


def count(shapes: Shapes, prefix: str) -> int:
    """n if `prefix.0.` … `prefix.n-1.` are there and no others; else 0."""
    found = {key.removeprefix(prefix + ".").split(".")[0] for key in shapes if key.startswith(prefix + ".")}
    return len(found) if found == {str(i) for i in range(len(found))} else 0


def head_named(name: str) -> Callable[[str], str]:
    """A `key_of` for a file that calls the last layer so, for example `linear`."""
    return lambda key: f"{name}.{key.removeprefix('head.')}" if key.startswith("head.") else key
