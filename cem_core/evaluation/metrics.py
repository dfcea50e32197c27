"""How near generated images are to real ones, of their features: torchmetrics' own numbers, and two of ours."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import torch
from torch import nn

from cem_core.evaluation.extractors import module
from cem_core.evaluation.results import Scores
from cem_core.evaluation.statistics import Features, Moments, check_lengths, precision_recall
from cem_core.messages import Floats, Refused

_SUBSETS, _SUBSET = 100, 1000
"""Of the kernel distance (Bińkowski et al. 2018): how many, and images in each."""
_SPLITS, _SPLIT = 10, 50
"""Of the score (Salimans et al. 2016): how many, and images below which there are fewer splits; never fewer than 2."""
_SUREST: Final = 700.0
"""By how much a logit is below another at most: beyond, p(y|x) is 0 in double precision, and torchmetrics gives NaN."""
_FEWEST: Final = 4
"""Images on either side: two in each half, or split."""


def scores(
    name: str,
    inception: bool,
    generated: Iterable[Features],
    reference: Iterable[Features],
    *,
    compared: int = 10_000,
    neighbours: int = 3,
    seed: int = 0,
    floor: float | None = None,
) -> Scores:
    """All numbers of one set of samples.

    Args:
        name: of the extractor, and whether it is `Extractor.inception`.
        compared: how many of either side, the first, make up precision, recall and the kernel distance.
        seed: of the subsets and splits that torchmetrics draws.
        floor: of this reference, if it is known already.

    Raises:
        Refused: too few images on a side, features that differ in length or are too large, or packages are missing.
    """
    ours, real = _gathered(generated, compared), _gathered(reference, compared)
    needed = max(_FEWEST, neighbours + 1)
    for what, num in (("generated", ours.num), ("real", real.num)):
        if num < needed:
            raise Refused(f"{num:,} {what} images are too few to be compared: at least {needed:,} are needed.")
    frechet_distance = frechet(ours.one + ours.other, real.one + real.other)
    kernel_distance, kernel_deviation = kernel(ours.first, real.first, seed)
    score_mean, score_deviation = (None, None) if ours.logits is None else score(ours.logits, seed)
    alike = min(len(ours.first), len(real.first))  # as many on either side, as radii shrink with their number
    precision, recall = precision_recall(ours.first[:alike], real.first[:alike], neighbours)
    found = Scores(
        extractor=name,
        inception=inception,
        num=ours.num,
        reference=real.num,
        frechet=frechet_distance,
        floor=frechet(real.one, real.other) if floor is None else floor,
        kernel=kernel_distance,
        kernel_deviation=kernel_deviation,
        score=score_mean,
        score_deviation=score_deviation,
        precision=precision,
        recall=recall,
        compared=alike,
    )
    if not all(math.isfinite(value) for value in msgspec.structs.astuple(found) if isinstance(value, float)):
        raise Refused(f"The features of {name} are too large to be compared: choose another extractor.")
    return found


def frechet(one: Moments, other: Moments) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of two sets of at least two images (Heusel et al. 2017).

    The true one is never negative; where rounding takes it below zero (by some 1e-8 of the traces, where there are
    fewer images than features), it is 0.
    """
    length = len(one.total)
    check_lengths(length, len(other.total))
    with _quiet():
        metric = module("torchmetrics.image.fid").FrechetInceptionDistance(_AsTheyAre(length))
        for sums, real in ((one, True), (other, False)):
            metric.update(torch.empty(0, length, dtype=torch.float64), real=real)  # none, in double precision
            kind = "real" if real else "fake"
            setattr(metric, f"{kind}_features_num_samples", torch.tensor(sums.num))
            setattr(metric, f"{kind}_features_sum", torch.from_numpy(sums.total))
            setattr(metric, f"{kind}_features_cov_sum", torch.from_numpy(sums.outer))
        return max(0.0, float(metric.compute()))


def kernel(generated: Floats, reference: Floats, seed: int = 0) -> tuple[float, float]:
    """The squared maximum mean discrepancy under (f·f′/F + 1)³, unbiased: mean and deviation over random subsets.

    Args:
        generated: (N, F) features; reference: (M, F).
    """
    size = min(_SUBSET, len(generated), len(reference))
    subsets = _SUBSETS if max(len(generated), len(reference)) > size else 1  # all of them would be the same
    with _quiet(), _drawn(seed):
        metric = module("torchmetrics.image.kid").KernelInceptionDistance(
            _AsTheyAre(generated.shape[1]), subsets=subsets, subset_size=size
        )
        metric.update(torch.from_numpy(reference), real=True)
        metric.update(torch.from_numpy(generated), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def score(logits: Floats, seed: int = 0) -> tuple[float, float]:
    """exp E KL(p(y|x) ‖ p(y)) of (N, K) logits: mean and deviation over random splits."""
    exact = logits.astype(np.float64)
    exact = np.maximum(exact, exact.max(1, keepdims=True) - _SUREST)
    with _quiet(), _drawn(seed):
        splits = max(2, min(_SPLITS, len(logits) // _SPLIT))
        metric = module("torchmetrics.image.inception").InceptionScore(_AsTheyAre(logits.shape[1]), splits=splits)
        metric.update(torch.from_numpy(exact))
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


@dataclass
class _Gathered:
    """One side, read once."""

    one: Moments
    """Of a half of the images,"""
    other: Moments
    """and of the other."""
    first: Floats
    logits: Floats | None

    @property
    def num(self) -> int:
        return self.one.num + self.other.num


def _gathered(parts: Iterable[Features], most: int) -> _Gathered:
    halves: list[Moments] = []
    features, logits = list[Floats](), list[Floats]()
    num = 0
    drawn = np.random.default_rng(0)  # a number for each image, as classes come in turns: every second is of some alone
    for part in parts:
        chosen = drawn.random(len(part.features)) < 0.5
        found = [Moments.of(part.features[half]) for half in (chosen, ~chosen)]
        halves = [before + more for before, more in zip(halves, found, strict=True)] if halves else found
        if num < most:
            features.append(part.features[: most - num])
        if part.logits is not None:
            logits.append(part.logits)
        num += len(part.features)
    if not halves:
        raise Refused("There are no images to compare: make some first.")
    one, other = halves
    return _Gathered(one, other, np.concatenate(features), np.concatenate(logits) if logits else None)


class _AsTheyAre(nn.Identity):
    """Features in the place of images: torchmetrics has nothing to extract."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.num_features = length


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    """What torchmetrics draws from torch's own generator is drawn from this seed; afterwards that is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torchmetrics' warnings of the memory that it takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
