"""A training that is watched in the real window: its words as they come, its epochs as models, and what they make."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
import training_folders as folders
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QFileDialog
from windows import Wait, choose, data_of, drop, press

from cem_core import bundle, runner, sessions
from cem_core.messages import Chain, ImageStart, Reference, RunSpec, Step
from cem_core.presets import FROM_IMAGES, SAMPLERS
from cem_core.training.history import History
from cem_core.training.progress import LOG, RECIPE, Ended
from cem_core.training.recipe import Contrastive
from cem_gui.training import TrainingStage, _read_on
from cem_gui.widgets.figures import figure
from cem_gui.window import _STAGES, MainWindow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folders.write(tmp_path / "run", epochs=2, planned=4)


@pytest.fixture
def stage(window: MainWindow, wait: Wait, folder: Path) -> TrainingStage:
    """The folder was dropped onto the window."""
    drop(window, data_of(folder))
    wait(lambda: window.training._told_last is not None)
    window.training.panel.steps.setValue(3)
    return window.training


def rows(stage: TrainingStage) -> int:
    return stage.panel.table.model().rowCount()


def done(stage: TrainingStage) -> dict[int, np.ndarray]:
    """Epoch → (B, C, H, W), of what is chosen."""
    columns = stage._columns(stage._told_last)
    found = {epoch: stage._frames.get(stage._key_of(epoch)) for epoch in columns}
    return {epoch: frame.pixels for epoch, frame in found.items() if frame is not None}


def morphed(path: Path, stage: TrainingStage, label: int) -> np.ndarray:
    """The same by the core alone."""
    choices = stage.panel.choices
    row = msgspec.structs.replace(SAMPLERS[FROM_IMAGES], steps=choices.steps)
    chains = tuple(Chain(ImageStart(start), seed, label) for seed, start in enumerate(choices.starts))
    steps = [word for word in runner.play(RunSpec("same", str(path), row, chains, "cpu")) if isinstance(word, Step)]
    return steps[-1].pixels


# Opening -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", LOG, RECIPE])
def test_a_folder_or_what_lies_in_it_is_dropped(window: MainWindow, wait: Wait, folder: Path, name: str) -> None:
    before = window.models.current
    assert drop(window, data_of(folder / name))
    wait(lambda: window.stage is window.training and rows(window.training) == 2)
    assert window.tabs.tabText(window.tabs.currentIndex()) == "Training"
    assert window.training.panel.name.text() == "tiny"
    assert "epoch 2 of 4" in window.training.panel.state.text()
    assert window.models.current is before


def test_it_is_chosen_from_the_menu_and_kept_for_the_next_time(
    window: MainWindow, wait: Wait, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    window.acts.open_training.trigger()
    wait(lambda: rows(window.training) == 2)
    other = folders.write(tmp_path / "other", epochs=1)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(other))
    window.acts.open_training.trigger()
    wait(lambda: rows(window.training) == 1)
    assert window.training._recent == [str(other), str(folder)]


def test_what_is_no_training_leaves_the_one_that_is_open(
    window: MainWindow, wait: Wait, stage: TrainingStage, tmp_path: Path
) -> None:
    stage.open(str(tmp_path))
    wait(stage.panel.notice.isVisible)
    assert "is no folder of a training" in stage.panel.notice.text.text()
    assert rows(stage) == 2
    (tmp_path / RECIPE).write_text("{")
    stage.open(str(tmp_path))
    wait(lambda: "damaged" in stage.panel.notice.text.text())
    assert rows(stage) == 2


def test_an_empty_view_says_how_to_begin(window: MainWindow, wait: Wait, folder: Path) -> None:
    window.settings.setValue("trainings", msgspec.json.encode([str(folder)]).decode())
    window.tabs.setCurrentIndex(1 + list(_STAGES).index("training"))
    assert window.stage is window.training
    assert not window.acts.run.isEnabled()
    assert window.hints.text() == "", "Space does nothing yet"
    assert window.status.text() == "No training is open"
    press(Qt.Key.Key_Space)
    button = window.training.panel.recent.itemAt(0).widget()
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)
    wait(lambda: rows(window.training) == 2)


# As it grows ---------------------------------------------------------------------------------------------------------


def test_the_view_grows_with_the_log(window: MainWindow, wait: Wait, stage: TrainingStage, folder: Path) -> None:
    folders.add(folder, *folders.told(3)[:-1])
    wait(lambda: "75 %" in stage.panel.state.text())
    assert rows(stage) == 2
    folders.train(folder, 3)
    wait(lambda: rows(stage) == 3)
    assert stage.panel.plots.accuracy._curves["clean"].getData()[1][3] == pytest.approx(70)
    assert stage.panel.chosen == 3
    folders.add(folder, Ended("done", 40, 100.0))
    wait(lambda: stage.panel.state.text() == "done · 4 epochs in 2 minutes")
    assert not stage.panel.bar.isVisible()


def test_it_is_read_again_when_it_comes_back_into_sight(
    window: MainWindow, wait: Wait, stage: TrainingStage, folder: Path
) -> None:
    window.tabs.setCurrentIndex(0)
    assert not stage._looking.isActive()
    folders.train(folder, 3)
    window.tabs.setCurrentIndex(1 + list(_STAGES).index("training"))
    wait(lambda: rows(stage) == 3)


def test_silence_is_told_and_a_folder_that_went(
    window: MainWindow, wait: Wait, stage: TrainingStage, folder: Path
) -> None:
    before = time.time() - 725
    os.utime(folder / LOG, (before, before))
    wait(lambda: "no word for 12 minutes" in stage.panel.state.text())
    folder.rename(folder.parent / "elsewhere")
    wait(lambda: stage.panel.state.text().startswith("its folder is gone · "))
    wait(lambda: not stage._told_last.files)
    assert rows(stage) == 2
    assert not stage.panel.open_button.isEnabled()
    assert not stage.can_run


def test_a_log_of_a_hundred_thousand_lines_is_read_once(tmp_path: Path) -> None:
    """And the next look at it reads what is new."""
    folder = folders.write(tmp_path / "run", epochs=0, planned=10_000)
    folders.add(folder, *(folders.progress(step) for step in range(1, 100_001)))
    history = History.open(folder)
    (told, _), problem = _read_on(history)
    assert problem == ""
    assert len(told.at) == len(told.losses) == 100_000
    folders.add(folder, folders.progress(100_001))
    assert [word.step for word in history.read()] == [100_001]


# Epochs as models ----------------------------------------------------------------------------------------------------


def test_an_epoch_becomes_the_windows_model(window: MainWindow, wait: Wait, stage: TrainingStage, folder: Path) -> None:
    stage.panel.table.setFocus()
    press(Qt.Key.Key_Up)
    assert stage.panel.chosen == 1
    press(Qt.Key.Key_Return)
    path = folder / "epochs" / "tiny-001.safetensors"
    wait(lambda: window.models.current.reference == str(path))
    assert window.stage is None, "where images are morphed with it"
    wait(lambda: window.player.session.start.checkpoint.path == str(path))


def test_a_file_that_went_meanwhile_is_told_of(window: MainWindow, wait: Wait, stage: TrainingStage) -> None:
    before = window.models.current
    stage._told_last.files[2][0].unlink()
    QTest.mouseClick(stage.panel.open_button, Qt.MouseButton.LeftButton)
    wait(lambda: "tiny-002" in window.evolution.notice.text())
    assert window.models.current is before


# The strip -----------------------------------------------------------------------------------------------------------


def test_the_same_morph_by_each_epoch_and_by_those_that_come(
    window: MainWindow, wait: Wait, stage: TrainingStage, folder: Path
) -> None:
    stage.panel.table.setFocus()
    press(Qt.Key.Key_Space)
    assert stage.busy
    assert stage.panel.run.text() == "Cancel"
    wait(lambda: sorted(done(stage)) == [1, 2])
    label = tiny.CLASSES.index(stage.panel.choices.target)
    for number in (1, 2):
        expected = morphed(folder / "epochs" / f"tiny-{number:03}.safetensors", stage, label)
        assert np.array_equal(done(stage)[number], expected)
    assert not np.array_equal(*done(stage).values())
    assert len(stage.panel.strip._starts) == 2
    assert all(column.captions[0].startswith("p ") for column in stage.panel.strip._columns.values())
    assert "the next ones as they come" in window.status.text()
    assert not window.acts.run.isEnabled(), "there is nothing to do"
    folders.train(folder, 3)
    wait(lambda: sorted(done(stage)) == [1, 2, 3])
    assert not list(window.recorded.entries()), "these runs are not recorded"
    assert not sessions.root().exists() or not list(sessions.root().iterdir())


def test_other_choices_are_morphed_anew_and_the_first_are_kept(
    window: MainWindow, wait: Wait, stage: TrainingStage
) -> None:
    stage.run_or_pause()
    wait(lambda: len(done(stage)) == 2)
    first = done(stage)
    choose(stage.panel.target, "horse")
    assert not done(stage)
    wait(lambda: len(done(stage)) == 2)
    assert not np.array_equal(done(stage)[1], first[1])
    stage.panel.image.setCurrentIndex(1)
    wait(lambda: len(done(stage)) == 2)
    assert len(done(stage)[1]) == 1
    stage.stop()
    stage.panel.image.setCurrentIndex(0)
    choose(stage.panel.target, "dog")
    assert np.array_equal(done(stage)[1], first[1])
    assert not stage.busy


def test_escape_ends_the_strip_and_what_is_there_stays(window: MainWindow, wait: Wait, stage: TrainingStage) -> None:
    stage.panel.steps.setValue(500)
    stage.run_or_pause()
    wait(lambda: stage._runs is not None)
    press(Qt.Key.Key_Escape)
    assert not stage.busy
    assert stage.panel.run.text() == "Watch it appear"
    assert stage.panel.run.isEnabled()
    assert not done(stage)
    stage.panel.steps.setValue(2)
    assert not stage.busy
    QTest.mouseClick(stage.panel.run, Qt.MouseButton.LeftButton)
    wait(lambda: len(done(stage)) == 2)


def test_escape_ends_the_wait_for_epochs_that_come(
    window: MainWindow, wait: Wait, stage: TrainingStage, folder: Path
) -> None:
    stage.run_or_pause()
    wait(lambda: not stage.busy and sorted(done(stage)) == [1, 2])
    stage.panel.table.setFocus()
    press(Qt.Key.Key_Escape)
    assert window.status.text() == "2 epochs morphed"
    folders.train(folder, 3)
    wait(lambda: rows(stage) == 3)
    assert not stage.busy
    assert window.acts.run.isEnabled(), "it can be asked for"


def test_a_damaged_checkpoint_is_told_of_and_the_others_are_shown(
    window: MainWindow, wait: Wait, stage: TrainingStage, folder: Path
) -> None:
    (folder / "epochs" / "tiny-001.safetensors").write_bytes(b"nothing")
    folders.train(folder, 3)
    wait(lambda: rows(stage) == 3)
    stage.run_or_pause()
    wait(lambda: not stage.busy and sorted(done(stage)) == [2, 3])
    assert stage.panel.strip._columns[1].says == "failed"
    assert "Epoch 1: " in stage.panel.notice.text.text()


def test_an_encoder_goes_towards_another_image(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "run", epochs=0, asked=folders.recipe(objective=Contrastive()))
    tensors = {name: value for name, value in tiny.weights(1).items() if not name.startswith("linear")}
    tiny.saved(folder / "epochs" / "tiny-001.safetensors", tensors, classes="[]")
    folders.add(folder, *folders.told(1))
    window.training.open(str(folder))
    wait(lambda: rows(window.training) == 1)
    stage = window.training
    stage.panel.steps.setValue(3)
    assert stage.panel.plots.accuracy._curves.keys() == {"linear probe", "probe, L2 ε 0.5"}
    stage.run_or_pause()
    wait(lambda: not stage.busy)
    assert stage.panel.notice.text.text() == ""
    choices = stage.panel.choices
    images = tuple(map(str, bundle.samples()))
    spec = RunSpec(
        "same", str(folder / "epochs" / "tiny-001.safetensors"),
        msgspec.structs.replace(SAMPLERS["CS"], steps=3),
        tuple(Chain(ImageStart(start), i, images.index(choices.target)) for i, start in enumerate(choices.starts)),
        "cpu", reference=Reference(images),
    )  # fmt: skip
    words = list(runner.play(spec))
    last = [word for word in words if isinstance(word, Step)][-1]
    assert np.array_equal(done(stage)[1], last.pixels)
    alike = words[0].likeness(last.logits)[0, images.index(choices.target)]
    assert stage.panel.strip._columns[1].captions[0] == f"cos {figure(alike)}"


def test_another_training_ends_the_strip_of_the_one_before(
    window: MainWindow, wait: Wait, stage: TrainingStage, tmp_path: Path
) -> None:
    stage.panel.steps.setValue(500)
    stage.run_or_pause()
    wait(lambda: stage._runs is not None)
    stage.open(str(folders.write(tmp_path / "other", epochs=1)))
    wait(lambda: rows(stage) == 1)
    assert not stage.busy
    assert not done(stage)


def test_the_window_is_closed_while_the_strip_is_filled(window: MainWindow, wait: Wait, stage: TrainingStage) -> None:
    """`nothing_left` looks at what is left."""
    stage.panel.steps.setValue(500)
    stage.run_or_pause()
    wait(lambda: stage._runs is not None)
    window.close()


def test_the_folder_goes_while_the_strip_is_filled(
    window: MainWindow, wait: Wait, stage: TrainingStage, folder: Path
) -> None:
    stage.panel.steps.setValue(500)
    stage.run_or_pause()
    wait(lambda: stage._runs is not None)
    shutil.rmtree(folder)
    wait(lambda: "its folder is gone" in stage.panel.state.text())
    stage.stop()
    assert not stage.busy
    assert rows(stage) == 2
