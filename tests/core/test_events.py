from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenarios_session import SAMPLER
from scenarios_session import session as made

from cem_core import events
from cem_core.events import Event, find
from cem_core.messages import RunEnd
from cem_core.session import Numbers

FREE = np.float32(np.inf)


def numbers(energy: list[list[float]], seen: list[list[int]] | None = None, distance: float | list = 0.0) -> Numbers:
    """Of chains as columns: E(x), the class that is seen, and the distance."""
    rows = np.array(energy, np.float32)
    top = np.zeros(rows.shape, int) if seen is None else np.array(seen)
    far = np.broadcast_to(np.array(distance, np.float32), rows.shape)
    return Numbers(rows, rows, rows, far, np.eye(4, dtype=np.float32)[top])


def radii(values: Numbers, radius: float = FREE) -> np.ndarray:
    return np.full(len(values.energy), radius, np.float32)


def of(kind: str, found: list[Event]) -> list[tuple[int, int]]:
    return [(event.step, event.chain) for event in found if event.kind == kind]


def test_a_run_that_has_not_begun_has_no_events() -> None:
    assert find(numbers([[1.0, 2.0]]), [0, 0], radii(numbers([[1.0, 2.0]]))) == []
    assert events.events(made(steps=0)) == []
    assert events.events(made(steps=1)) == []


def test_events_are_found_where_they_are() -> None:
    values = numbers(
        [[5, 1], [4, 1], [0, 2], [1, 9], [1, 9]],
        seen=[[0, 3], [0, 3], [2, 3], [1, 3], [2, 3]],
        distance=[[0, 0], [0.5, 0.1], [0.99, 0.2], [1, 0.3], [1, 0.4]],
    )
    found = find(values, [1, 3], radii(values, 1.0))
    assert found == [
        Event("energy minimum", 0, 1),
        Event("misclassified", 2, 0),
        Event("energy minimum", 2, 0),
        Event("largest jump", 2, 0),
        Event("target reached", 3, 0),
        Event("ball reached", 3, 0),
        Event("largest jump", 3, 1),
    ]


def test_a_target_that_was_seen_from_the_start_is_not_reached() -> None:
    values = numbers([[0], [0], [0]], seen=[[1], [2], [1]])
    assert of("target reached", find(values, [1], radii(values))) == []
    assert of("misclassified", find(values, [1], radii(values))) == [(1, 0)]


def test_rounding_does_not_hide_the_surface_of_a_ball() -> None:
    values = numbers([[0]] * 3, distance=[[0], [0.9998], [0.99995]])
    assert of("ball reached", find(values, [0], radii(values, 1.0))) == [(2, 0)]
    assert of("ball reached", find(values, [0], radii(values))) == []


def test_a_ball_that_is_drawn_during_a_run() -> None:
    values = numbers([[0]] * 4, distance=[[0], [3], [3], [3]])
    changing = np.array([FREE, FREE, 3, 3], np.float32)
    assert of("ball reached", find(values, [0], changing)) == [(2, 0)]


def test_only_the_chains_that_diverged_are_said_to_have() -> None:
    values = numbers([[0, 0, 0]] * 3)
    end = RunEnd("a run", "failed", "E(x) of chain 2 became nan at step 3.", (1,))
    assert of("diverged", find(values, [0] * 3, radii(values), end)) == [(2, 1)]
    other = RunEnd("a run", "failed", "The disk is full.")
    assert of("diverged", find(values, [0] * 3, radii(values), other)) == []


def test_a_session_has_the_events_of_its_numbers() -> None:
    session = made(steps=7)
    rows = np.full(7, np.inf, np.float32)
    assert events.events(session) == find(session.numbers, session.start.labels, rows, session.end)
    assert SAMPLER.radius is None


def test_every_kind_is_explained() -> None:
    assert {event.kind for event in events.events(made(steps=7))} <= set(events.KINDS)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Numbers, list[int], float]:
    steps, chains = draw(st.integers(2, 12)), draw(st.integers(1, 4))

    def table(values: st.SearchStrategy) -> list:
        return draw(st.lists(st.lists(values, min_size=chains, max_size=chains), min_size=steps, max_size=steps))

    values = numbers(table(st.integers(-9, 9)), table(st.integers(0, 3)), table(st.floats(0, 2, width=16)))
    return values, draw(st.lists(st.integers(0, 3), min_size=chains, max_size=chains)), draw(st.sampled_from([1, FREE]))


def slowly(values: Numbers, labels: list[int], radius: float) -> Iterator[Event]:
    """The same, said step by step."""
    seen = values.logits.argmax(2)
    for chain, label in enumerate(labels):
        energy = values.energy[:, chain].tolist()
        jumps = [abs(b - a) for a, b in pairwise(energy)]
        yield Event("energy minimum", energy.index(min(energy)), chain)
        yield Event("largest jump", jumps.index(max(jumps)) + 1, chain)
        for step in range(len(energy)):
            if seen[step, chain] != seen[0, chain]:
                yield Event("misclassified", step, chain)
                break
        for step in range(len(energy)):
            if seen[step, chain] == label and seen[0, chain] != label:
                yield Event("target reached", step, chain)
                break
        for step in range(len(energy)):
            if values.distance[step, chain] >= np.float32(1 - 1e-4) * np.float32(radius):
                yield Event("ball reached", step, chain)
                break


@given(runs())
def test_events_are_those_that_one_finds_step_by_step(run: tuple[Numbers, list[int], float]) -> None:
    values, labels, radius = run
    found = find(values, labels, radii(values, radius))
    assert sorted(map(str, found)) == sorted(map(str, slowly(values, labels, radius)))
    assert [event.step for event in found] == sorted(event.step for event in found)


@given(runs(), st.data())
def test_firsts_stay_where_they_are_while_a_run_goes_on(
    run: tuple[Numbers, list[int], float], data: st.DataObject
) -> None:
    values, labels, radius = run
    count = data.draw(st.integers(2, len(values.energy)))
    part = Numbers(*(getattr(values, name)[:count] for name in ("energy", "joint", "gradient_norm", "distance",
                                                                "logits")))  # fmt: skip
    firsts = {"misclassified", "target reached", "ball reached"}
    before = {event for event in find(part, labels, radii(part, radius)) if event.kind in firsts}
    after = {event for event in find(values, labels, radii(values, radius)) if event.kind in firsts}
    assert before == {event for event in after if event.step < count}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_distance_without_a_value_is_no_surface(value: float) -> None:
    values = numbers([[0]] * 2, distance=[[0], [value]])
    assert of("ball reached", find(values, [0], radii(values))) == ([(1, 0)] if value == np.inf else [])


def test_an_encoder_sees_no_classes_but_neighbours() -> None:
    values = numbers([[0], [0], [0]], seen=[[0], [2], [1]])
    found = find(values, [1], radii(values), encoder=True)
    assert of("new neighbour", found) == [(1, 0)]
    assert of("target reached", found) == [(2, 0)]
    assert of("misclassified", found) == []
    assert of("new neighbour", events.events(made(7, classes=(), references=("a", "b", "c")))) != []
