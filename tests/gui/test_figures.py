"""Numbers as they are printed."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import cem_gui
from cem_gui.widgets.figures import figure, small_figure


@pytest.mark.parametrize(
    ("value", "form", "printed"),
    [(-3.456, ".2f", "−3.46"), (3.456, ".1f", "3.5"), (-1234.5, ",.1f", "−1,234.5"), (1.5e-5, ".1e", "1.5e−05")],
)
def test_a_minus_is_no_hyphen(value: float, form: str, printed: str) -> None:
    assert figure(value, form) == printed


def test_whatever_has_a_sign_is_printed_so() -> None:
    signed = re.compile(r"\{[^{}]*:\+")
    sources = Path(cem_gui.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if signed.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0.0, "0.00"), (-1.254, "−1.25"), (-0.2, "−0.20"), (-0.05, "−0.050"), (-0.0034422, "−0.0034"),
        (-0.00996, "−0.0100"), (2e-6, "0.0000020"), (-3e-9, "−3.0e−09"), (math.nan, "nan"),
    ],
)  # fmt: skip
def test_two_digits_tell_something_however_small_the_number(value: float, printed: str) -> None:
    assert small_figure(value) == printed
