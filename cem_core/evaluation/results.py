"""What is answered about samples: frozen messages, numpy only. They are the JSON of result files too."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec

from cem_core.evaluation.requests import Evaluation, Sampling
from cem_core.messages import Checkpoint


class Plan(msgspec.Struct, frozen=True):
    """The first answer: what will be done, and what is done already."""

    request: Sampling | Evaluation
    checkpoint: Checkpoint | None
    """Of the sampled model; None: the samples are there."""
    classes: tuple[str, ...]
    """What the labels of samples count; empty: nothing."""
    num: int
    shards: int
    done: int
    """Shards that were found finished."""
    device: str
    notes: tuple[str, ...] = ()
    """A sentence each."""
    versions: dict[str, str] = {}


class Progress(msgspec.Struct, frozen=True):
    """How far a shard is, in (0, 1]: often, as a shard may take minutes."""

    what: str
    """reference, samples or features."""
    shard: int
    share: float


class Made(msgspec.Struct, frozen=True):
    """A shard is finished and on the disk."""

    what: str
    """As of `Progress`."""
    shard: int
    count: int
    """Images in it."""
    seconds: float = 0.0
    found: bool = False
    """It was there before."""


class Scores(msgspec.Struct, frozen=True):
    """How near N samples are to the reference. `named` says what the numbers may be called."""

    extractor: str
    """Its name, which stands beside every number."""
    inception: bool
    """Made with the weights that FID is defined with: only then is `frechet` a FID."""
    num: int
    reference: int
    """Real images."""
    frechet: float
    floor: float
    """Fréchet distance of one half of the reference to the other: what no sampler can be expected to pass."""
    kernel: float
    """Kernel distance (KID where `inception`): mean over subsets."""
    kernel_deviation: float
    score: float | None
    """Inception score, or the same of another classifier; None: an encoder, which has no classes."""
    score_deviation: float | None
    """Over the splits."""
    precision: float
    recall: float
    compared: int
    """Images of either side that precision and recall are of, at most."""


Answer: TypeAlias = Plan | Progress | Made | Scores


class Names(NamedTuple):
    """What the numbers of an extractor may be called."""

    frechet: str
    kernel: str
    score: str


def named(extractor: str, inception: bool) -> Names:
    """FID, KID and Inception score belong to Inception alone: of any other extractor, its name stands beside each."""
    if inception:
        return Names("FID", "KID", "Inception score")
    return Names(*(f"{what} ({extractor})" for what in ("Fréchet distance", "kernel distance", "class score")))
