"""How far a measurement is, and how fast."""

from __future__ import annotations

import pytest

from cem_gui.measurement import Pace


def pace(images: int, kinds: int, *parts: tuple[int, int, float]) -> Pace:
    found = Pace()
    found.images, found.expected = images, dict.fromkeys(range(kinds), images)
    for part in parts:
        found.add(*part)
    return found


def test_time_left_goes_by_what_each_kind_takes() -> None:
    """Clean accuracy is quick and attacks are slow: 90 images more at 0.01 and at 1 second each."""
    known = pace(100, 2, (0, 10, 0.1), (1, 10, 10.0))
    assert known.left == pytest.approx(90 * 0.01 + 90 * 1.0)
    assert known.told() == "10 % · 0.99 images/s · 2 min left"


def test_what_was_not_tried_yet_takes_as_long_as_the_slowest() -> None:
    known = pace(10, 4, (0, 10, 1.0), (1, 10, 20.0))
    assert known.left == pytest.approx(2 * 10 * 2.0)


def test_no_time_is_told_from_too_little() -> None:
    assert pace(10, 4, (0, 5, 0.1)).left is None
    assert pace(10, 4, (0, 5, 0.1)).told() == "12 %"
    assert Pace().told() == "0 %"


def test_at_the_end_nothing_is_left() -> None:
    known = pace(1000, 1, (0, 600, 3.0), (0, 400, 2.0))
    assert known.left == 0
    assert known.told() == "1,000 images measured · 200 images/s"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (59, "59 s"), (59.7, "1 min"), (600, "10 min"), (5399, "90 min"), (7200, "2.0 h")],
)
def test_times_are_as_long_as_they_need_to_be(seconds: float, told: str) -> None:
    assert pace(2, 1, (0, 1, seconds)).told().endswith(f" · {told} left")
