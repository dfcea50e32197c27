"""TorchScript files and exports that mean harm: nothing runs, crashes, hangs or fills the memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import hostile
import pytest

CONSTANT = 192 * 2**20
"""Bytes that opening may take beside twice the file: what code and the objects of pickles may take at most."""
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it"
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile")
    paths = []
    for number, (title, data) in enumerate(hostile.programs()):
        paths.append(folder / f"{number} {re.sub(r'[^a-zA-Z0-9 ]', '', title)}.pt")
        paths[-1].write_bytes(data)
    found = hostile.opened_alone(paths, folder, 280)
    assert {path.name for path in folder.iterdir()} == {"good", *(path.name for path in paths)}, "a file was written"
    return found | {"sizes": {path.name: path.stat().st_size for path in paths}}


def test_every_trap_is_refused_in_a_line(outcomes: dict[str, dict[str, Any]]) -> None:
    assert {name for name in outcomes["sizes"] if not all(outcomes[name]["said"])} == set()
    for name in outcomes["sizes"]:
        first, second = outcomes[name]["said"]
        assert first == second
        assert re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]{10,400}", first), first
        assert name in first


def test_no_trap_takes_long(outcomes: dict[str, dict[str, Any]]) -> None:
    assert {name: outcomes[name]["seconds"] for name in outcomes["sizes"] if outcomes[name]["seconds"] > 20} == {}, (
        "each was opened twice"
    )


def test_no_trap_fills_the_memory(outcomes: dict[str, dict[str, Any]]) -> None:
    grown = {name: outcomes[name]["grown"] for name, size in outcomes["sizes"].items()}
    assert {n: g / 2**20 for n, g in grown.items() if g > 2 * outcomes["sizes"][n] + CONSTANT} == {}


def test_no_trap_changes_what_there_was(outcomes: dict[str, dict[str, Any]]) -> None:
    for name in outcomes["sizes"]:
        assert not outcomes[name]["changed"], name
