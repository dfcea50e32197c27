"""Numbers as they are printed."""

from __future__ import annotations

import math


def figure(value: float, form: str = ".2f") -> str:
    """With a minus that is as long as a plus: for whatever may be below 0."""
    return f"{value:{form}}".replace("-", "−")


def small_figure(value: float) -> str:
    """Two digits that tell something, however near to 0: 1.25, −0.10, −0.0034."""
    if not 1e-6 <= abs(value) < 0.1:
        return figure(value, ".2f" if abs(value) >= 0.1 or value == 0 else ".1e")
    return figure(value, f".{1 - math.floor(math.log10(abs(value)))}f")
