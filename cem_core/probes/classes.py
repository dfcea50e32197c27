"""When two names mean the same class, and what is said where there are none."""

from __future__ import annotations

from cem_core.messages import Checkpoint, Refused


def alike(name: str) -> str:
    """What names of the same class have in common: case and the sign between words do not matter."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def check_classes(checkpoint: Checkpoint) -> None:
    """Raises Refused for an encoder, which says how it comes to have classes."""
    if not checkpoint.classes:
        raise Refused(
            f"{checkpoint.name} is an encoder, with features but no classes: choose a head for it (under Details, or "
            "--assume head=…), or fit one with cem-explorer fit-head."
        )
