"""When two names mean the same class."""

from __future__ import annotations


def alike(name: str) -> str:
    """What names of the same class have in common: case and the sign between words do not matter."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
