"""Our numbers are torchmetrics' own on the same features, and the closed forms where there are any."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cem_core.evaluation import extractors, metrics
from cem_core.evaluation.metrics import frechet, kernel, score, scores
from cem_core.evaluation.results import named
from cem_core.evaluation.statistics import Features, Moments
from cem_core.messages import Floats, Refused
from cem_core.models.torchvision_nets import import_torchvision


def cloud(seed: int, n: int, length: int = 16, about: float = 0.0) -> Floats:
    """Of correlated features with tails on one side, as after a ReLU."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((length, length)) * np.linspace(2, 0.05, length)
    return np.maximum(random.standard_normal((n, length)) @ mixing + about, 0).astype(np.float32)


def shards(features: Floats, logits: Floats | None = None, size: int = 37) -> Iterator[Features]:
    """Of odd sizes, so that places are counted across them."""
    for first in range(0, len(features), size):
        part = slice(first, first + size)
        yield Features(features[part], None if logits is None else logits[part])


class Same(nn.Module):
    """For torchmetrics: features in the place of images, in double precision."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.num_features = length

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def theirs(name: str, kind: str, *given: Any, **named: Any) -> Any:
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return getattr(import_module(f"torchmetrics.image.{name}"), kind)(*given, **named)


# Fréchet distance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "accuracy"), [(400, 300, 1e-9), (12, 10, 1e-6)], ids=["plenty", "too few"])
def test_the_frechet_distance_is_that_of_torchmetrics_own_updates(n: int, m: int, accuracy: float) -> None:
    ours, real = cloud(0, n), cloud(1, m, about=0.5)
    metric = theirs("fid", "FrechetInceptionDistance", Same(16))
    for part in np.array_split(ours.astype(np.float64), 3):
        metric.update(torch.from_numpy(part), real=False)
    metric.update(torch.from_numpy(real.astype(np.float64)), real=True)
    assert frechet(Moments.of(ours), Moments.of(real)) == pytest.approx(float(metric.compute()), rel=accuracy)


def gaussian(mean: Any, covariance: Any, n: int = 10**6) -> Moments:
    """Of n images whose mean and (unbiased) covariance are exactly these."""
    mean, covariance = np.array(mean, np.float64), np.array(covariance, np.float64)
    return Moments(n, n * mean, (n - 1) * covariance + n * np.outer(mean, mean))


def test_of_two_gaussians_it_is_the_closed_form() -> None:
    """Covariances that commute: their roots subtract in the common basis."""
    random = np.random.default_rng(3)
    basis = np.linalg.qr(random.standard_normal((6, 6)))[0]
    one, other = random.uniform(0.1, 4, 6), random.uniform(0.1, 4, 6)
    shift = random.standard_normal(6)
    found = frechet(gaussian(np.zeros(6), basis * one @ basis.T), gaussian(shift, basis * other @ basis.T))
    assert found == pytest.approx((shift**2).sum() + ((one**0.5 - other**0.5) ** 2).sum(), rel=1e-9)


def test_of_two_gaussians_that_do_not_commute_it_is_the_closed_form() -> None:
    """In two dimensions tr √M = √(tr M + 2√det M)."""
    one, other = np.array([[2, 0.5], [0.5, 1]]), np.array([[1, -0.7], [-0.7, 3]])
    product = one @ other
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = 9 + 16 + np.trace(one + other) - 2 * root
    assert frechet(gaussian([0, 0], one), gaussian([3, -4], other)) == pytest.approx(wanted, rel=1e-9)


def test_it_is_symmetric_and_zero_from_a_set_to_itself() -> None:
    one, other = Moments.of(cloud(0, 200)), Moments.of(cloud(1, 300))
    assert frechet(one, other) == pytest.approx(frechet(other, one), rel=1e-9)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9 * np.trace(one.outer) / one.num)


@pytest.mark.parametrize("n", [2, 5, 16, 40])
def test_with_fewer_images_than_features_it_is_neither_negative_nor_noise(n: int) -> None:
    """Against the sum of singular values of the centred features themselves, which loses no digits."""
    ours, real = cloud(0, n, 64), cloud(1, n + 3, 64)
    one, other = Moments.of(ours), Moments.of(real)
    centred = [(x - x.astype(np.float64).mean(0)) / (len(x) - 1) ** 0.5 for x in (ours, real)]
    spread = sum((x**2).sum() for x in centred)
    exact = ((ours.mean(0, np.float64) - real.mean(0, np.float64)) ** 2).sum() + spread
    exact -= 2 * np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    assert frechet(one, other) == pytest.approx(exact, abs=1e-6 * spread)
    assert 0 <= frechet(one, one) <= 1e-6 * spread


# Kernel distance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(60, 45), (45, 60)])
def test_the_kernel_distance_is_that_of_torchmetrics_with_the_same_seed(
    monkeypatch: pytest.MonkeyPatch, n: int, m: int
) -> None:
    monkeypatch.setattr(metrics, "_SUBSET", 20)
    ours, real = cloud(0, n), cloud(1, m, about=0.5)
    metric = theirs("kid", "KernelInceptionDistance", Same(16), subsets=100, subset_size=20)
    metric.update(torch.from_numpy(ours), real=False)
    metric.update(torch.from_numpy(real), real=True)
    torch.manual_seed(7)
    mean, deviation = metric.compute()
    assert kernel(ours, real, 7) == (float(mean), float(deviation))
    assert kernel(ours, real, 8) != (float(mean), float(deviation))


def test_where_every_subset_is_the_whole_one_is_enough() -> None:
    """By its formula, in double precision."""
    ours, real = cloud(0, 30).astype(np.float64), cloud(1, 30, about=0.5).astype(np.float64)
    xx, yy, xy = ((a @ b.T / 16 + 1) ** 3 for a, b in ((real, real), (ours, ours), (real, ours)))
    off = sum(k.sum() - np.trace(k) for k in (xx, yy)) / (30 * 29)
    mean, deviation = kernel(ours.astype(np.float32), real.astype(np.float32))
    assert mean == pytest.approx(off - 2 * xy.mean(), rel=1e-4)
    assert deviation == 0


# Score ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "splits"), [(1000, 10), (220, 4), (10, 2)])
def test_the_score_is_that_of_torchmetrics_with_the_same_seed(n: int, splits: int) -> None:
    logits = np.random.default_rng(5).standard_normal((n, 10)).astype(np.float32) * 3
    metric = theirs("inception", "InceptionScore", Same(10), splits=splits)
    metric.update(torch.from_numpy(logits.astype(np.float64)))
    torch.manual_seed(7)
    mean, deviation = metric.compute()
    assert score(logits, 7) == pytest.approx((float(mean), float(deviation)), rel=1e-12)


def test_a_classifier_that_is_sure_of_every_class_alike_scores_their_number() -> None:
    """Of any sureness: torchmetrics makes NaN of probabilities that are 0."""
    for sureness in (50, 3000):
        logits = np.tile(np.eye(10, dtype=np.float32) * sureness, (100, 1))
        assert score(logits)[0] == pytest.approx(10, rel=0.05)  # each split draws its own classes
        assert score(logits[:1].repeat(100, 0)) == pytest.approx((1, 0), abs=1e-9)


# All of them ------------------------------------------------------------------------------------------------------


def test_all_numbers_of_a_set_are_those_of_its_parts_however_it_is_cut() -> None:
    ours, real = cloud(0, 300), cloud(1, 401, about=0.2)
    logits = np.random.default_rng(5).standard_normal((300, 4)).astype(np.float32)
    found = scores("some.net", False, shards(ours, logits), shards(real), compared=200, seed=3)
    assert (found.extractor, found.inception, found.num, found.reference) == ("some.net", False, 300, 401)
    assert found.frechet == pytest.approx(frechet(Moments.of(ours), Moments.of(real)), rel=1e-9)
    half = np.random.default_rng(0).random(401) < 0.5
    assert found.floor == pytest.approx(frechet(Moments.of(real[half]), Moments.of(real[~half])), rel=1e-9)
    assert (found.kernel, found.kernel_deviation) == kernel(ours[:200], real[:200], 3)
    assert (found.score, found.score_deviation) == score(logits, 3)
    assert (found.precision, found.recall) == metrics.precision_recall(ours[:200], real[:200], 3)
    assert found.compared == 200
    again = scores("some.net", False, shards(ours, logits, 100), shards(real, size=400), compared=200, seed=3)
    for name in ("frechet", "floor", "kernel", "score", "precision", "recall"):
        assert getattr(again, name) == pytest.approx(getattr(found, name), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_floor_is_of_two_halves_that_hold_all_classes(classes: int) -> None:
    """Which come in turns: every second image would be of every second class."""
    real = cloud(0, 1200)
    real[:, 0] += 50 * (np.arange(1200) % classes)
    spread = np.trace(np.cov(real.T))
    assert scores("net", False, shards(cloud(1, 50)), shards(real)).floor < 0.02 * spread


def test_the_floor_may_be_known_and_an_encoder_has_no_score() -> None:
    found = scores("encoder", False, shards(cloud(0, 50)), shards(cloud(1, 80)), floor=1.25)
    assert found.floor == 1.25
    assert found.score is None
    assert found.score_deviation is None
    assert found.compared == 50


def test_the_seed_of_whoever_asks_is_left_as_it_was() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    scores("net", False, shards(cloud(0, 50), cloud(2, 50)), shards(cloud(1, 50)), seed=5)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(("ours", "real", "said"), [
    (3, 50, "3 generated images are too few to be compared: at least 6 are needed."),
    (50, 5, "5 real images are too few to be compared: at least 6 are needed."),
    (0, 50, "There are no images to compare: make some first."),
])  # fmt: skip
def test_too_few_images_are_refused_with_the_number_needed(ours: int, real: int, said: str) -> None:
    with pytest.raises(Refused) as refused:
        scores("net", False, shards(cloud(0, ours)), shards(cloud(1, real)), neighbours=5)
    assert str(refused.value) == said


def test_features_of_two_extractors_are_refused() -> None:
    with pytest.raises(Refused, match="Features of 16 and of 12 numbers cannot be compared"):
        scores("net", False, shards(cloud(0, 50)), shards(cloud(1, 50, 12)))


def test_features_that_overflow_are_refused() -> None:
    with pytest.raises(Refused, match="The features of net are too large to be compared"):
        scores("net", False, shards(cloud(0, 50) * np.float32(1e15)), shards(cloud(1, 50)))


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    extractors.module.cache_clear()
    with pytest.raises(Refused, match=r'pip install "cem-explorer\[evaluate\]"'):
        frechet(Moments.of(cloud(0, 9)), Moments.of(cloud(1, 9)))
    extractors.module.cache_clear()


def test_only_inception_gives_names_that_are_inceptions() -> None:
    assert named("Inception", True) == ("FID", "KID", "Inception score")
    assert named("model_test", False) == (
        "Fréchet distance (model_test)", "kernel distance (model_test)", "class score (model_test)",
    )  # fmt: skip
