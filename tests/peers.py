"""Packages that only tests look into: installed without what they depend on, where Python does not search."""

from __future__ import annotations

import importlib
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_FOLDER = Path(__file__).parents[1] / ".venv" / "peers"


def package(name: str) -> Path:
    """The folder of a package; skips the test where it is not installed."""
    found = find_spec(name)
    places = [*(found.submodule_search_locations or ())] if found else []
    folder = Path(places[0]) if places else _FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not installed")
    return folder


def architecture(name: str) -> Any:
    """A file of RobustBench's architectures, imported apart from the package, which wants too much of a machine."""
    folder = package("robustbench") / "model_zoo" / "architectures"
    parent = "robustbench_architectures"
    if parent not in sys.modules:
        sys.modules[parent] = types.ModuleType(parent)
        sys.modules[parent].__path__ = [str(folder)]
    return importlib.import_module(f"{parent}.{name}")
