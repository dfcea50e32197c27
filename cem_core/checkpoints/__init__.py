"""Files of weights → models. Nothing from a file is ever imported or run."""

from cem_core.checkpoints.checking import Check, check
from cem_core.checkpoints.choices import recall, remember
from cem_core.checkpoints.converting import convert
from cem_core.checkpoints.hashing import sha256
from cem_core.checkpoints.opening import forget, inspect, load, replay, resolve, where
from cem_core.checkpoints.reading import Cancelled, Watch

__all__ = [
    "Cancelled",
    "Check",
    "Watch",
    "check",
    "convert",
    "forget",
    "inspect",
    "load",
    "recall",
    "remember",
    "replay",
    "resolve",
    "sha256",
    "where",
]
