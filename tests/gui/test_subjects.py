"""The models that are compared: chosen, added, taken out, and what happens if one cannot be opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from PySide6.QtCore import QSettings, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QFileDialog
from windows import Wait, discard, press

from cem_core import bundle
from cem_core.probes.requests import MODELS
from cem_gui.panels.subjects import SubjectsPanel
from cem_gui.subjects import Subjects, _read
from cem_gui.window import MainWindow

PAIR = tuple(bundle.models())[:2]


@pytest.fixture
def net(tmp_path: Path) -> str:
    return str(tiny.saved(tmp_path / "net.safetensors"))


@pytest.fixture
def compared(window: MainWindow, wait: Wait) -> Subjects:
    """The bundled pair, open."""
    window.settings.setValue("linked visited", "true")
    window.tabs.setCurrentIndex(window.views.indexOf(window.accuracy.panel))
    wait(lambda: window.subjects.ready)
    return window.subjects


def changes(subjects: Subjects) -> list[tuple[str, ...]]:
    heard: list[tuple[str, ...]] = []
    subjects.changed.connect(lambda: heard.append(subjects.references))
    return heard


def said(window: MainWindow) -> str:
    notice = window.compared.notice
    return notice.text.text() if notice.isVisible() else ""


def again(window: MainWindow) -> tuple[str, ...]:
    """What the next start of the program compares."""
    return tuple(_read(window.settings))


def test_the_bundled_pair_is_opened_when_it_is_first_wanted(window: MainWindow, wait: Wait) -> None:
    assert window.subjects.references == PAIR
    assert not window.subjects.checkpoints
    assert not window.compared.isVisible()
    window.tabs.setCurrentIndex(window.views.indexOf(window.accuracy.panel))
    assert window.compared.isVisible()
    assert not window.subjects.ready
    boxes = [choice.box for choice in window.compared.choices]
    assert [box.currentText() for box in boxes[:2]] == [f"{name} …" for name in PAIR]
    wait(lambda: window.subjects.ready)
    assert [checkpoint.name for checkpoint in window.subjects.checkpoints] == list(PAIR)
    assert [(one.reference, one.precision) for one in window.subjects.subjects] == [(n, "float32") for n in PAIR]
    assert [box.currentText() for box in boxes[:2]] == list(PAIR)
    assert [choice.isVisible() for choice in window.compared.choices] == [True, True, False, False]


def test_another_file_is_chosen_by_the_dialog_and_remembered(
    window: MainWindow, compared: Subjects, wait: Wait, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (net, ""))
    box = window.compared.choices[1].box
    box.activated.emit(box.count() - 1)
    assert compared.references == (PAIR[0], net)
    assert not compared.ready
    wait(lambda: compared.ready)
    assert compared.checkpoints[1].path == net
    assert (box.currentText(), box.toolTip()) == ("net.safetensors", net)
    assert again(window) == (PAIR[0], net)
    assert compared.subjects[0].reference == PAIR[0], "the other stays open"


def test_a_dialog_that_is_cancelled_leaves_the_model(
    window: MainWindow, compared: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("", ""))
    heard = changes(compared)
    box = window.compared.choices[1].box
    box.setCurrentIndex(box.count() - 1)
    box.activated.emit(box.count() - 1)
    assert box.currentText() == PAIR[1]
    assert not heard


def test_models_are_added_and_taken_out(window: MainWindow, compared: Subjects, wait: Wait, net: str) -> None:
    heard = changes(compared)
    compared.choose(0, PAIR[0])
    assert not heard, "it is that one already"
    for count in (3, 4):
        QTest.mouseClick(window.compared.add, Qt.MouseButton.LeftButton)
        assert len(compared.references) == count
    assert not window.compared.add.isVisible()
    compared.add()
    assert len(compared.references) == MODELS
    compared.choose(3, net)
    wait(lambda: compared.ready)
    assert [subject.reference for subject in compared.subjects] == list(compared.references)
    for _ in range(3):
        QTest.mouseClick(window.compared.choices[0].remove, Qt.MouseButton.LeftButton)
    assert compared.references == (net,)
    assert not window.compared.choices[0].remove.isVisible()
    compared.remove(0)
    assert compared.references == (net,) == again(window)
    assert compared.ready


def test_the_open_model_is_the_first_to_be_added(window: MainWindow, compared: Subjects, wait: Wait, net: str) -> None:
    window.models.open(net)
    wait(lambda: window.models.current.reference == net)
    compared.add()
    assert compared.references == (*PAIR, net)


@pytest.mark.parametrize("what", ["missing", "broken"])
def test_one_that_cannot_be_opened_leaves_the_others(
    window: MainWindow, compared: Subjects, wait: Wait, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "lost.pt"
    if what == "broken":
        path.write_bytes(b"no model at all")
    compared.choose(1, str(path))
    wait(lambda: said(window))
    assert "lost.pt" in said(window)
    assert compared.references == (PAIR[0],) == again(window)
    assert compared.ready


def test_when_the_only_one_cannot_be_opened_a_bundled_one_takes_its_place(
    window: MainWindow, compared: Subjects, wait: Wait, tmp_path: Path
) -> None:
    compared.remove(1)
    compared.choose(0, str(tmp_path / "lost.pt"))
    wait(lambda: said(window) and compared.ready)
    assert compared.references == (PAIR[0],)


def test_an_encoder_has_no_classes_to_compare_by(
    window: MainWindow, compared: Subjects, wait: Wait, tmp_path: Path
) -> None:
    path = tmp_path / "encoder.pt"
    kept = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    torch.save(kept, path)
    compared.choose(1, str(path))
    wait(lambda: compared.ready and compared.references == (PAIR[0], str(path)))
    assert "encoder.pt is an encoder, with features but no classes: choose a head" in compared.classless
    for index, view in ((2, window.smallest), (3, window.accuracy), (4, window.energies)):
        window.tabs.setCurrentIndex(index)
        assert not view.can_run
        press(Qt.Key.Key_Space)
        assert not view.busy
    compared.choose(1, PAIR[1])
    wait(lambda: compared.ready and not compared.classless)
    assert all(view.can_run for view in (window.smallest, window.accuracy, window.energies))


def test_one_that_was_replaced_on_its_way_is_not_taken(
    window: MainWindow, compared: Subjects, wait: Wait, net: str, tmp_path: Path
) -> None:
    other = str(tiny.saved(tmp_path / "other.safetensors", tiny.weights(1)))
    heard = changes(compared)
    compared.choose(1, net)
    compared.choose(1, other)
    wait(lambda: compared.ready)
    assert [subject.reference for subject in compared.subjects] == [PAIR[0], other]
    assert heard[0] == (PAIR[0], net)
    assert set(heard[1:]) == {(PAIR[0], other)}


@pytest.mark.parametrize("kept", ["", "{}", "[1]", "[]", "\0"])
def test_settings_that_make_no_sense_are_passed_over(home: Path, kept: str) -> None:
    settings = QSettings(str(home / "own.ini"), QSettings.Format.IniFormat)
    settings.setValue("subjects", kept)
    assert tuple(_read(settings)) == PAIR


def test_no_more_than_can_be_compared_are_remembered(home: Path) -> None:
    settings = QSettings(str(home / "own.ini"), QSettings.Format.IniFormat)
    settings.setValue("subjects", json.dumps([f"net {i}" for i in range(9)]))
    assert _read(settings) == [f"net {i}" for i in range(MODELS)]


# The row of choices --------------------------------------------------------------------------------------------------


@pytest.fixture
def panel(qtbot) -> Iterator[SubjectsPanel]:
    panel = SubjectsPanel()
    panel.resize(1000, 40)
    with qtbot.waitExposed(panel):
        panel.show()
    yield panel
    panel.close()
    discard(panel)


def test_names_of_any_length_share_the_row(panel: SubjectsPanel) -> None:
    known = [(f"{'long ' * 12}{i}", f"net {i}") for i in range(4)]
    panel.show_subjects(known, [reference for _, reference in known], [False] * 4)
    assert panel.minimumSizeHint().width() < 900
    assert len({choice.box.width() for choice in panel.choices}) <= 2  # a pixel more or less
    chosen: list[tuple[int, str]] = []
    panel.chosen.connect(lambda index, reference: chosen.append((index, reference)))
    panel.choices[2].box.activated.emit(0)
    assert chosen == [(2, "net 0")]
