from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from cem_core.messages import Checkpoint, Fact, Refused
from cem_core.probes import journal as journals
from cem_core.probes.journal import Journal, Key
from cem_core.probes.requests import Attack
from cem_core.probes.results import Cell

KEY = Key("a" * 64, "b" * 64, "float32", Attack(), 0.5, "c" * 64)
CELL = Cell(0, 0.5, 128, (0, 1, 2), (True, False, True), 2, 0, 1, (1, 0), 2.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_what_is_kept_is_found_by_whoever_opens_it_next(path: Path) -> None:
    Journal(path).keep(KEY, CELL)
    other = replace(KEY, eps=0.25)
    Journal(path).keep(other, replace(CELL, eps=0.25))
    found = Journal(path)
    assert found.find(KEY) == CELL
    assert found.find(other) == replace(CELL, eps=0.25)
    assert len(path.read_bytes().splitlines()) == 2


def test_within_one_process_it_is_found_too(path: Path) -> None:
    for journal in (Journal(path), Journal(None)):
        assert journal.find(KEY) is None
        journal.keep(KEY, CELL)
        assert journal.find(KEY) == CELL


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint": "d" * 64}, {"reading": "d" * 64}, {"precision": "bfloat16"}, {"eps": 0.25}, {"images": "d" * 64},
        {"version": "0.0.1"}, {"attack": Attack(name="apgd-ce")}, {"attack": Attack(norm="linf")},
        {"attack": Attack(steps=21)}, {"attack": Attack(restarts=2)}, {"attack": Attack(seed=1)},
    ],
    ids=str,
)  # fmt: skip
def test_all_that_decides_a_cell_tells_it_apart(path: Path, changes: dict[str, object]) -> None:
    journal = Journal(path)
    journal.keep(KEY, CELL)
    assert Journal(path).find(replace(KEY, **changes)) is None


def test_a_file_that_ends_anywhere_loses_its_last_line_at_most(path: Path) -> None:
    journal = Journal(path)
    keys = [replace(KEY, eps=float(i)) for i in range(3)]
    for key in keys:
        journal.keep(key, replace(CELL, eps=key.eps))
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in sorted({*range(0, len(whole), 11), *ends, *(end + 1 for end in ends)}):
        path.write_bytes(whole[:length])
        torn = Journal(path)
        kept = sum(end <= length for end in ends)  # a line is whole without the sign at its end
        assert [torn.find(key) is not None for key in keys] == [i < kept for i in range(3)]
        torn.keep(KEY, CELL)
        again = Journal(path)
        assert again.find(KEY) == CELL, "what follows a torn line is not lost with it"
        assert [again.find(key) is not None for key in keys] == [i < kept for i in range(3)]


def test_foreign_lines_are_passed_over(path: Path) -> None:
    Journal(path).keep(KEY, CELL)
    entry = json.loads(path.read_bytes())
    path.write_bytes(
        b"\n".join(
            [
                b"", b"hello", b"\xff\xfe\x00", b"[" * 100_000, b"{}", b"null", b'{"key": 1, "cell": 2}',
                json.dumps(entry | {"key": entry["key"] | {"attack": {"name": "square"}}}).encode(),
                json.dumps(entry | {"cell": entry["cell"] | {"correct": [True]}}).encode(),
                json.dumps(entry).encode(), b"more",
            ]
        )
    )  # fmt: skip
    assert Journal(path).find(KEY) == CELL


@pytest.mark.parametrize(
    "damage",
    [
        {"eps": 3.0}, {"attacked": -1}, {"vanished": 4}, {"stuck": 10**9}, {"broken": [1, -1]}, {"broken": [10**30]},
        {"correct": [True]}, {"labels": [0]},
    ],
    ids=str,
)  # fmt: skip
def test_a_cell_that_cannot_be_is_measured_again(path: Path, damage: dict[str, object]) -> None:
    Journal(path).keep(KEY, CELL)
    line = json.loads(path.read_bytes())
    line["cell"] |= damage
    path.write_bytes(json.dumps(line).encode() + b"\n")
    assert Journal(path).find(KEY) is None


def test_a_line_without_end_is_read_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_LONGEST", 1000)
    path.write_bytes(b"x" * 5000)
    Journal(path).keep(KEY, CELL)
    assert Journal(path).find(KEY) == CELL


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such pipes")
def test_a_pipe_in_its_place_is_refused(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(Refused, match="not an ordinary file"):
        Journal(path)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be used"):
        Journal(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="cannot be used"):
        Journal(tmp_path / "file" / "journal.jsonl").keep(KEY, CELL)


def test_its_folder_is_made_with_the_first_cell(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "down" / "journal.jsonl")
    assert not (tmp_path / "deep").exists()
    journal.keep(KEY, CELL)
    assert Journal(tmp_path / "deep" / "down" / "journal.jsonl").find(KEY) == CELL


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk here")  # noqa: PTH110
def test_a_full_disk_is_told() -> None:
    journal = Journal(None)
    journal._path = Path("/dev/full")
    with pytest.raises(Refused, match="No space left"):
        journal.keep(KEY, CELL)


WRITER = """
import sys
from pathlib import Path
from msgspec.structs import replace
from cem_core.probes.journal import Journal, Key
from cem_core.probes.requests import Attack
from cem_core.probes.results import Cell
path, name = Path(sys.argv[1]), sys.argv[2]
journal = Journal(path)
sys.stdin.readline()
for number in range(200):
    cell = Cell(0, float(number), 0, tuple(range(500)), (True,) * 500)
    journal.keep(Key(name, "", "float32", Attack(), float(number), ""), cell)
"""


def test_two_processes_may_write_at_once(path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdin=subprocess.PIPE, text=True)
        for name in ("one", "other")
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0]
    found = Journal(path)
    for name in ("one", "other"):
        for number in range(200):
            assert found.find(Key(name, "", "float32", Attack(), float(number), "")) is not None


# What the keys are made of ----------------------------------------------------------------------------------------


def test_another_reading_of_the_same_file_is_another_model() -> None:
    fact = Fact("normalisation", "none", "guess", 0.5)
    found = Checkpoint("a", "/a", "", "", "", 0, ("cat", "dog"), 3, 32, (fact,))
    same = replace(found, name="b", path="/b", facts=(replace(fact, source="choice", confidence=1.0),))
    assert journals.reading(found) == journals.reading(same)
    for other in (
        replace(found, facts=(replace(fact, value="CIFAR-10"),)),
        replace(found, classes=("dog", "cat")),
        replace(found, size=28),
    ):
        assert journals.reading(other) != journals.reading(found)


def test_images_are_known_by_pixels_labels_seeds_and_classes() -> None:
    pixels = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    labels = np.array([0, 1])
    digest = journals.images(pixels, labels, (5, 6), ("cat", "dog"))
    assert digest == journals.images(pixels.copy(order="F"), labels.copy(), [5, 6], ["cat", "dog"])
    others = [
        journals.images(pixels + np.uint8(1), labels, (5, 6), ("cat", "dog")),
        journals.images(pixels.reshape(1, 8, 4, 3), labels, (5, 6), ("cat", "dog")),
        journals.images(pixels, 1 - labels, (5, 6), ("cat", "dog")),
        journals.images(pixels, labels, (5, 7), ("cat", "dog")),
        journals.images(pixels, labels, (5, 6), ("cat", "horse")),
    ]
    assert len({digest, *others}) == 6
    assert msgspec.json.decode(msgspec.json.encode(KEY), type=Key) == KEY
