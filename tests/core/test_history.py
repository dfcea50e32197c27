"""The history of a training: what its folder tells while it goes on, and what hostile folders do not do."""

from __future__ import annotations

import math
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cem_core.messages import Refused
from cem_core.training.history import History, is_training
from cem_core.training.progress import EPOCHS, LOG, RECIPE, Began, Ended, Epoch, Progress, Word
from cem_core.training.recipe import DataRecipe, Optimiser, Recipe, Standard

ASKED = Recipe("tiny", DataRecipe("images"), Optimiser(epochs=2), Standard())
BEGAN = Began("tiny", 64, 16, ("bright", "dark"), 40, 0, 1000, "CPU", {"torch": "2"})


def progress(step: int, loss: float = 1.0) -> Progress:
    return Progress(step, step / 20, loss, 0.1, float(step))


def epoch(number: int, clean: float = 0.5, file: str | None = None) -> Epoch:
    where = f"{EPOCHS}/tiny-{number:03}.safetensors" if file is None else file
    return Epoch(number, 20 * number, 1.0, clean, 0.25, 0.5, "l2", 1.5, where, 1.0)


STORY: list[Word] = [BEGAN, progress(20), epoch(1), progress(40), epoch(2), Ended("done", 40, 9.0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / EPOCHS).mkdir()
    (tmp_path / RECIPE).write_bytes(msgspec.json.format(msgspec.json.encode(ASKED)))
    return tmp_path


def lines(*words: Word) -> bytes:
    return b"".join(msgspec.json.encode(word) + b"\n" for word in words)


def add(folder: Path, data: bytes) -> None:
    with (folder / LOG).open("ab") as file:
        file.write(data)


# Known answers ----------------------------------------------------------------------------------------------------


def test_words_come_once_as_they_are_written(folder: Path) -> None:
    history = History.open(folder)
    assert history.recipe == ASKED
    assert (history.read(), history.began, history.ended, history.progress) == ([], None, None, ())  # no log yet
    add(folder, lines(*STORY[:3]))
    assert history.read() == STORY[:3]
    assert (history.began, history.progress, history.epochs) == (BEGAN, (progress(20),), (epoch(1),))
    assert history.read() == []
    add(folder, lines(*STORY[3:]))
    assert history.read() == STORY[3:]
    assert (history.progress, history.epochs) == ((progress(20), progress(40)), (epoch(1), epoch(2)))
    assert history.ended == STORY[-1]


def test_a_training_that_goes_on_repeats_steps_and_the_later_ones_count(folder: Path) -> None:
    """It was killed at 40 with the state of 10."""
    again = msgspec.structs.replace(BEGAN, first=10)
    add(folder, lines(BEGAN, progress(20), epoch(1), progress(40), Ended("stopped", 40, 1.0)))
    history = History.open(folder)
    history.read()
    assert history.ended is not None
    add(folder, lines(again, progress(20, 0.5), epoch(1, 0.75)))
    assert history.read() == [again, progress(20, 0.5), epoch(1, 0.75)]
    assert (history.began, history.ended) == (again, None)
    assert history.progress == (progress(20, 0.5), progress(40))
    assert history.epochs == (epoch(1, 0.75),)


@given(cuts=st.lists(st.integers(0, len(lines(*STORY))), max_size=8).map(sorted))
def test_it_is_read_the_same_wherever_the_writer_was_caught(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("training")
    (folder / RECIPE).write_bytes(msgspec.json.encode(ASKED))
    history, whole, found = History.open(folder), lines(*STORY), []
    for first, last in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        add(folder, whole[first:last])
        found += history.read()
    assert found == STORY


@pytest.mark.parametrize("others", [[], STORY[:2], [BEGAN, *(progress(20 * i, 3.0) for i in range(1, 30))]], ids=len)
@pytest.mark.parametrize("renamed", [False, True])
def test_a_log_that_was_replaced_is_read_anew(folder: Path, others: list[Word], renamed: bool) -> None:
    """Emptied, cut, and longer than it was but another."""
    add(folder, lines(*STORY))
    history = History.open(folder)
    history.read()
    if renamed:
        (folder / "made").write_bytes(lines(*others))
        (folder / "made").replace(folder / LOG)
    else:
        (folder / LOG).write_bytes(lines(*others))
    assert history.read() == others
    fresh = History.open(folder)
    fresh.read()
    for name in ("began", "ended", "progress", "epochs"):
        assert getattr(history, name) == getattr(fresh, name)


def test_a_log_that_is_gone_leaves_what_was_read(folder: Path) -> None:
    add(folder, lines(*STORY))
    history = History.open(folder)
    history.read()
    (folder / LOG).unlink()
    assert history.read() == []
    assert history.epochs == (epoch(1), epoch(2))


def test_the_checkpoint_of_an_epoch(folder: Path) -> None:
    history = History.open(folder)
    with pytest.raises(Refused, match="checkpoint of epoch 1 is not in"):
        history.checkpoint(epoch(1))
    (folder / epoch(1).file).write_bytes(b"weights")
    assert history.checkpoint(epoch(1)).read_bytes() == b"weights"


# Hostile folders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b'{"kind": "magic"}',
        b'{"kind": "progress"}',
        b"[" * 100_000,
        b'{"kind":"progress","step":' + 400 * b"9" + b',"epoch":1,"loss":1,"rate":1,"seconds":1}',
        b'{"kind":"progress","step":1,"epoch":1,"loss":1e400,"rate":1,"seconds":1}',
        b'{"kind":"progress","step":1,"epoch":1,"loss":NaN,"rate":1,"seconds":1}',
        b'{"kind":"progress","step":"1","epoch":1,"loss":1,"rate":1,"seconds":1}',
        b"x" * (2**20 + 7),
        b"x" * 2**21,
    ],
    ids=lambda line: f"{line[:20]!r}{len(line)}",
)
def test_a_line_that_is_no_word_is_passed_over(folder: Path, line: bytes) -> None:
    history = History.open(folder)
    add(folder, lines(*STORY[:2]) + line)
    assert history.read() == STORY[:2]
    add(folder, b"\n" + lines(*STORY[2:]))
    assert history.read() == STORY[2:]
    assert history.progress == (progress(20), progress(40))


@given(garbage=st.binary(max_size=200))
def test_garbage_between_words_does_nothing(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    folder = tmp_path_factory.mktemp("training")
    (folder / RECIPE).write_bytes(msgspec.json.encode(ASKED))
    add(folder, lines(*STORY[:3]) + garbage + b"\n" + lines(*STORY[3:]))
    assert History.open(folder).read() == STORY


@pytest.mark.parametrize(
    "file",
    ["../outside", "epochs/../../outside", "/etc/hostname", "epochs/link", "", ".", EPOCHS, "epochs/\0", "x" * 5000,
     "epochs/ring", "epochs/pipe"],
    ids=lambda file: file[:20],
)  # fmt: skip
def test_no_file_elsewhere_is_a_checkpoint(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "training"
    (folder / EPOCHS).mkdir(parents=True)
    (folder / RECIPE).write_bytes(msgspec.json.encode(ASKED))
    (tmp_path / "outside").write_text("theirs")
    (folder / EPOCHS / "link").symlink_to(tmp_path / "outside")
    (folder / EPOCHS / "ring").symlink_to(folder / EPOCHS / "ring")
    os.mkfifo(folder / EPOCHS / "pipe")
    with pytest.raises(Refused, match="is not in") as refused:
        History.open(folder).checkpoint(epoch(1, file=file))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "nowhere", EPOCHS, LOG, "\0", "x" * 5000], ids=lambda name: name[:10])
def test_what_is_no_training_is_refused(folder: Path, name: str) -> None:
    (folder / LOG).touch()
    (folder / RECIPE).unlink()
    assert not is_training(folder / name)
    with pytest.raises(Refused, match="is no folder of a training"):
        History.open(folder / name)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", "[" * 200_000, " " * (2**20 + 1), '{"made_by": "another program"}',
     msgspec.json.encode(ASKED).decode().replace('"tiny"', '"../tiny"'),
     msgspec.json.encode(ASKED).decode().replace('"epochs":2', f'"epochs":{400 * "9"}')],
    ids=lambda text: f"{text[:20]}{len(text)}",
)  # fmt: skip
def test_a_recipe_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / RECIPE).write_text(text)
    with pytest.raises(Refused, match="is none of a training, or damaged"):
        History.open(folder)


def test_pipes_are_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / LOG)
    with pytest.raises(Refused, match="no ordinary file"):
        History.open(folder).read()
    (folder / RECIPE).unlink()
    os.mkfifo(folder / RECIPE)
    assert not is_training(folder)
    with pytest.raises(Refused, match="is no folder of a training"):
        History.open(folder)


def test_what_may_not_be_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(folder, lines(*STORY))
    history = History.open(folder)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(Refused, match=r"cannot be read \(Permission denied\)"):
        history.read()
    with pytest.raises(Refused, match=r"cannot be read \(Permission denied\)"):
        History.open(folder)


def test_numbers_that_are_missing_stay_missing(folder: Path) -> None:
    """As msgspec writes NaN: null, which only what may be missing can be."""
    unmeasured = msgspec.structs.replace(epoch(1), clean=None, robust=None, energy_gap=None)
    broken = msgspec.structs.replace(epoch(2), energy_gap=math.nan)
    add(folder, lines(unmeasured, broken))
    assert History.open(folder).read() == [unmeasured, msgspec.structs.replace(broken, energy_gap=None)]
