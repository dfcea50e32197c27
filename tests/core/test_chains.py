from __future__ import annotations

from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cem_core.chains import compared, lay_out
from cem_core.messages import MAX_SEED, GaussianStart, ImageStart, NoiseStart, Refused, Sampler, Start
from cem_core.presets import SAMPLERS

A, B, C = (ImageStart(f"/{name}.png") for name in "abc")
GAUSSIAN, NOISE = GaussianStart(), NoiseStart()


Laid: TypeAlias = list[tuple[Start, int | None]]


def laid(sampler: str, starts: list[Start], targets: list[int], count: int, **options: Any) -> Laid:
    chains = lay_out(SAMPLERS[sampler], starts, targets, count, **options)
    assert len(chains) == count
    return [(chain.start, chain.label) for chain in chains]


def test_one_image_and_one_target() -> None:
    assert laid("TA", [A], [5], 1) == [(A, 5)]


def test_one_image_goes_to_each_target_in_turn() -> None:
    assert laid("TA", [A], [5, 3], 5) == [(A, 5), (A, 3), (A, 5), (A, 3), (A, 5)]


def test_several_images_with_one_target() -> None:
    assert laid("CS", [A, B, C], [7], 3) == [(A, 7), (B, 7), (C, 7)]


@pytest.mark.parametrize(("images", "targets"), [(2, 2), (2, 3), (3, 2), (3, 3), (1, 4), (4, 1), (5, 10)])
def test_as_many_chains_as_pairs_are_all_pairs(images: int, targets: int) -> None:
    starts = [ImageStart(f"/{i}") for i in range(images)]
    chains = laid("RCS", starts, list(range(targets)), images * targets)
    assert set(chains) == {(start, target) for start in starts for target in range(targets)}


def test_a_gaussian_start_is_of_the_target() -> None:
    assert laid("RCS", [GAUSSIAN], [2, 4], 4) == [(GAUSSIAN, 2), (GAUSSIAN, 4), (GAUSSIAN, 2), (GAUSSIAN, 4)]


@pytest.mark.parametrize("sampler", ["PGD", "PGD-Linf"])
def test_a_sampler_that_flees_takes_the_class_that_the_model_sees(sampler: str) -> None:
    assert laid(sampler, [A, B], [1, 2], 3) == [(A, None), (B, None), (A, None)]
    assert laid(sampler, [NOISE], [], 2) == [(NOISE, None), (NOISE, None)]
    assert laid(sampler, [GAUSSIAN], [1], 1) == [(GAUSSIAN, 1)], "a class is needed to draw from its Gaussian"


def test_the_marginal_alone_needs_no_target_and_reports_one_if_given() -> None:
    assert laid("Langevin", [A, NOISE], [], 2) == [(A, None), (NOISE, None)]
    assert laid("Langevin", [A], [3], 1) == [(A, 3)]


@pytest.mark.parametrize("sampler", ["TA", "CS", "RCS", "PGD-targeted", "PGD-Linf-targeted"])
@pytest.mark.parametrize("start", [A, GAUSSIAN, NOISE])
def test_a_sampler_that_seeks_a_class_needs_a_target(sampler: str, start: Start) -> None:
    with pytest.raises(Refused, match=rf"^{sampler} needs a target: choose at least one\.$"):
        laid(sampler, [start], [], 1)


def test_a_gaussian_needs_a_class_whatever_the_sampler() -> None:
    with pytest.raises(Refused, match="Langevin needs a target"):
        laid("Langevin", [GAUSSIAN], [], 1)


def test_a_gaussian_of_a_named_class_needs_none() -> None:
    assert laid("Langevin", [GaussianStart("cat")], [], 2) == [(GaussianStart("cat"), None)] * 2


def test_a_reference_batch_holds_every_image_of_the_run_once() -> None:
    assert compared(["/x", "/a.png"], [A, B, NOISE, B], ["/b.png", "/y", "/y"]) == ("/x", "/a.png", "/b.png", "/y")


def test_there_must_be_something_to_start_from() -> None:
    with pytest.raises(Refused, match="There is no image to start from"):
        lay_out(SAMPLERS["TA"], [], [1], 1)


def test_a_chain_is_not_sent_where_it_already_is() -> None:
    assert laid("TA", [A, B], [3, 5], 2, seen=[3, 5]) == [(A, 5), (B, 3)]
    assert laid("TA", [A, B], [3, 5], 2, seen=[None, 3]) == [(A, 3), (B, 5)]
    assert laid("TA", [A], [3], 1, seen=[3]) == [(A, 3)], "unless there is nowhere else"


@given(
    row=st.sampled_from(list(SAMPLERS.values())),
    images=st.integers(1, 9),
    targets=st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True),
    count=st.integers(1, 60),
    seed=st.integers(0, MAX_SEED - 60),
)
def test_seeds_are_consecutive_and_starts_take_turns(
    row: Sampler, images: int, targets: list[int], count: int, seed: int
) -> None:
    starts = [ImageStart(f"/{i}") for i in range(images)]
    chains = lay_out(row, starts, targets, count, seed)
    assert [chain.seed for chain in chains] == list(range(seed, seed + count))
    assert [chain.start for chain in chains] == [starts[i % images] for i in range(count)]
    assert all(chain.label in ([None] if row.a < 0 else targets) for chain in chains)


def test_seeds_that_run_out_are_refused() -> None:
    with pytest.raises(Refused, match="A seed must be"):
        lay_out(SAMPLERS["TA"], [A], [1], 2, MAX_SEED)
