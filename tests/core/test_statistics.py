"""Moments that merge, nearest images, precision and recall: known answers and properties."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cem_core.evaluation import statistics
from cem_core.evaluation.statistics import Moments, nearest, precision_recall, remark
from cem_core.messages import Floats, Refused


def cloud(seed: int, n: int, length: int = 8, about: float = 0.0) -> Floats:
    return (np.random.default_rng(seed).standard_normal((n, length)) + about).astype(np.float32)


# Moments ----------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 60), st.integers(1, 12), st.lists(st.integers(0, 60), max_size=6), st.randoms(use_true_random=False),
    st.floats(-100, 100), st.floats(0.01, 100),
)  # fmt: skip
def test_shards_in_any_order_give_the_moments_of_the_whole(
    n: int, length: int, cuts: list[int], random: object, about: float, scale: float
) -> None:
    features = (cloud(n, n, length) * scale + about).astype(np.float32)
    shards = [Moments.of(part) for part in np.split(features, sorted(min(cut, n) for cut in cuts))]
    random.shuffle(shards)  # type: ignore[attr-defined]
    merged, whole = reduce(add, shards), Moments.of(features)
    assert merged.num == whole.num == n
    for ours, theirs in ((merged.total, whole.total), (merged.outer, whole.outer)):
        size = np.abs(features).astype(np.float64).sum(0) if ours.ndim == 1 else np.sqrt(np.outer(
            np.diag(whole.outer), np.diag(whole.outer)))  # fmt: skip
        assert ours.dtype == np.float64
        assert (np.abs(ours - theirs) <= 1e-9 * size).all()


def test_moments_are_the_mean_and_covariance_that_numpy_knows() -> None:
    features = cloud(0, 500, 5, about=3)
    found = Moments.of(features)
    mean = found.total / found.num
    covariance = (found.outer - found.num * np.outer(mean, mean)) / (found.num - 1)
    np.testing.assert_allclose(mean, features.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.astype(np.float64).T), rtol=1e-9, atol=1e-12)


def test_moments_of_other_features_do_not_merge() -> None:
    with pytest.raises(Refused, match=r"Features of 8 and of 5 numbers cannot be compared"):
        Moments.of(cloud(0, 4)) + Moments.of(cloud(0, 4, 5))


def test_too_few_images_for_their_features_are_remarked() -> None:
    assert remark(513, 512) == ""
    assert remark(512, 512).startswith("512 images are not more than the 512 features")


# Nearest ----------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(-8, 8).map(lambda value: value / 4)


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3)), elements=NUMBERS),
    arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3)), elements=NUMBERS),
    st.integers(1, 12), st.sampled_from([1, 7, 2**24]),
)  # fmt: skip
def test_the_nearest_are_those_of_all_distances(features: Floats, reference: Floats, k: int, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_AT_ONCE", at_once)
        indices, distances = nearest(features, reference, k)
    every = np.linalg.norm(features[:, None].astype(np.float64) - reference, axis=2)
    assert indices.shape == distances.shape == (len(features), min(k, len(reference)))
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :k], rtol=1e-6)
    np.testing.assert_allclose(distances, np.take_along_axis(every, indices, 1), rtol=1e-6)
    assert all(len(set(row)) == len(row) for row in indices.tolist())


def test_an_image_is_its_own_nearest_at_distance_zero_however_far_from_the_origin() -> None:
    features = cloud(1, 300, 64, about=1000)
    indices, distances = nearest(features, features, 2)
    assert indices[:, 0].tolist() == list(range(300))
    assert not distances[:, 0].any()
    assert (distances[:, 1] > 5).all()


def test_among_no_references_there_is_none() -> None:
    indices, distances = nearest(cloud(0, 4), cloud(0, 0), 3)
    assert indices.shape == distances.shape == (4, 0)


# Precision and recall ---------------------------------------------------------------------------------------------


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(5, 20), st.integers(1, 4)), elements=st.floats(-9, 9, width=32)),
    st.integers(1, 4), st.sampled_from([1, 50, 2**24]),
)  # fmt: skip
def test_identical_sets_are_all_precise_and_all_recalled(features: Floats, k: int, at_once: int) -> None:
    """Also where images stand in a set several times, and their radius is 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_AT_ONCE", at_once)
        assert precision_recall(features, features.copy(), k) == (1, 1)


def test_sets_that_are_far_apart_share_nothing() -> None:
    assert precision_recall(cloud(0, 200), cloud(1, 300, about=50), 3) == (0, 0)


def test_a_dropped_mode_costs_recall_its_share_and_no_precision() -> None:
    modes = [cloud(seed, n, about=about) for seed, (n, about) in enumerate([(300, 0), (100, 60), (100, -60)])]
    reference = np.concatenate(modes)
    generated = np.concatenate(modes[:2])
    assert precision_recall(generated, reference, 3) == (1, 0.8)
    assert precision_recall(reference, generated, 3) == (0.8, 1)


def test_a_point_counts_up_to_the_kth_neighbour_and_not_beyond() -> None:
    """On a line: 0, 1, 3, 7 have their second neighbours at 3, 2, 3 and 6."""
    reference = np.array([[0], [1], [3], [7]], np.float32)
    inside, outside = np.array([[-3], [13]], np.float32), np.array([[-3.01], [13.01]], np.float32)
    rest = np.array([[200], [300], [400]], np.float32)
    assert precision_recall(np.concatenate([inside, rest]), reference, 2)[0] == pytest.approx(2 / 5)
    assert precision_recall(np.concatenate([outside, rest]), reference, 2)[0] == 0
