"""Two models, the same image, noise and budget: what a newcomer sees, and what can be done with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from msgspec.structs import replace
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QDialog
from windows import Wait, choose_targets, data_of, drop, press, read_back, save_image, type_number

from cem_core import bundle, sessions
from cem_core.images import hwc, to_uint8
from cem_core.session import Session
from cem_gui.linked import LinkedStage
from cem_gui.panels.export import ExportDialog
from cem_gui.window import MainWindow

IMAGES = 2
"""Enough, and quick."""


def enter(window: MainWindow) -> LinkedStage:
    window.tabs.setCurrentIndex(window.views.indexOf(window.linked.panel))
    return window.linked


def ready(stage: LinkedStage) -> Callable[[], bool]:
    """It stands at step 0, and nothing is about to replace it."""
    return lambda: (
        stage._job is not None
        and stage._job.begun
        and stage._runs is not None
        and stage.last_step == 0
        and stage.status == "Ready · Space runs"
        and not stage._settling.isActive()
    )


def pairs(stage: LinkedStage) -> list[Session]:
    return [session for session in stage._runs.sessions if session is not None]


@pytest.fixture
def visited(window: MainWindow) -> MainWindow:
    """Somebody who has been here before, with few images and steps."""
    window.settings.setValue("linked visited", "true")
    window.linked.panel.count.setValue(IMAGES)
    type_number(window.sampler.steps, "6")
    return window


@pytest.fixture
def stage(visited: MainWindow, wait: Wait) -> LinkedStage:
    stage = enter(visited)
    wait(ready(stage))
    return stage


@pytest.fixture
def nets(tmp_path: Path) -> list[str]:
    """Of the same three classes, of others, and of another size."""
    other, large = json.dumps(["one", "two", "three"]), "32"
    return [
        str(tiny.saved(tmp_path / "0.safetensors")),
        str(tiny.saved(tmp_path / "1.safetensors", tiny.weights(1))),
        str(tiny.saved(tmp_path / "2.safetensors", tiny.weights(2), classes=other)),
        str(tiny.saved(tmp_path / "3.safetensors", tiny.weights(3), image_size=large)),
    ]


def test_the_first_thing_a_newcomer_sees(window: MainWindow, wait: Wait) -> None:
    """The robust model turns the image into the target; the standard one is sure of it, and has added noise."""
    window.linked.panel.count.setValue(1)
    stage = enter(window)
    wait(lambda: stage.last_step > 1)
    assert window.settings.value("linked visited") == "true"
    assert window.acts.run.text() == "Pa&use"
    wait(lambda: stage.run_text == "&Run")
    robust, standard = pairs(stage)
    assert (robust.start.checkpoint.name, standard.start.checkpoint.name) == tuple(bundle.models())[:2]
    assert np.array_equal(robust[0].pixels, standard[0].pixels)
    assert robust.start.spec.sampler == standard.start.spec.sampler
    assert len(robust) == len(standard) == window.sampler.sampler.steps + 1
    assert np.exp(robust[-1 + len(robust)].log_p[0]) > 0.9
    assert np.exp(standard[-1 + len(standard)].log_p[0]) > 0.9
    judged = np.exp(stage._crossings.log_p[-1, :, :, 0])
    assert judged[0, 1] > 0.9, "what the robust model makes is the target to the other as well"
    assert judged[1, 0] < 0.5, "but not the other way round"

    def roughness(session: Session) -> float:
        """How much neighbouring pixels of the change differ, for its size."""
        change = session[len(session) - 1].pixels[0] - session[0].pixels[0]
        return float(np.abs(np.diff(change, axis=2)).mean() / np.abs(change).mean())

    assert roughness(standard) > 1.25 * roughness(robust)


def test_later_visits_wait_and_one_key_runs_all(stage: LinkedStage, visited: MainWindow, wait: Wait) -> None:
    assert [len(session) for session in pairs(stage)] == [1, 1]
    assert visited.status.text() == "Ready · Space runs"
    assert stage.panel.thumbs.hasFocus()
    assert np.isfinite(stage.panel.matrix._p).all(), "what each makes of the start is known"
    press(Qt.Key.Key_Space)
    wait(lambda: stage.run_text == "&Run")
    assert [len(session) for session in pairs(stage)] == [7, 7]
    assert visited.status.text().startswith("Done after 6 steps")
    assert (stage.step, stage.last_step) == (6, 6)
    for model, session in enumerate(pairs(stage)):
        picture = stage.panel.columns[model].image
        size = session.start.checkpoint.size
        shown = read_back(picture.grab().toImage(), picture.place(), size)
        assert np.array_equal(shown, hwc(to_uint8(session[6].pixels))[0])


def test_one_cursor_for_all(stage: LinkedStage, visited: MainWindow, wait: Wait) -> None:
    press(Qt.Key.Key_Space)
    wait(lambda: stage.run_text == "&Run")
    stage.panel.thumbs.setFocus()
    for key, step in ((Qt.Key.Key_Home, 0), (Qt.Key.Key_Right, 1), (Qt.Key.Key_End, 6), (Qt.Key.Key_Left, 5)):
        press(key)
        assert visited.step == stage.step == step
        assert stage.timeline.strip.value() == step
        for column, session in zip(stage.panel.columns, pairs(stage), strict=False):
            assert column.energy._step == column.probability._step == step
            label = session.start.labels[0]
            assert column.target.shares[0].p == pytest.approx(np.exp(session[step].log_p[0]), rel=1e-4)
            assert column.target.shares[0].name.endswith(session.start.checkpoint.classes[label])
        p = stage.panel.matrix._p
        assert p[0, 0] == pytest.approx(np.exp(pairs(stage)[0][step].log_p[0]), rel=1e-5)
    stage.timeline.stepped.emit(2)
    stage.panel.columns[1].energy.stepped.emit(3)
    assert stage.step == 3


def test_pause_step_change_and_end_are_for_all(stage: LinkedStage, visited: MainWindow, wait: Wait) -> None:
    type_number(visited.sampler.steps, "1000")
    wait(lambda: ready(stage)() and pairs(stage)[0].start.spec.sampler.steps == 1000)
    stage.panel.thumbs.setFocus()
    press(Qt.Key.Key_Period)
    wait(lambda: stage.status == "Paused at step 1 · Space goes on")
    assert [len(session) for session in pairs(stage)] == [2, 2]
    assert visited.status.text() == stage.status
    wait(lambda: visited.acts.run.text() == "&Continue")
    press(Qt.Key.Key_Space)
    wait(lambda: stage.last_step > 2)
    press(Qt.Key.Key_Space)
    assert visited.acts.run.text() == "&Continue"
    type_number(visited.sampler.step_size, "0.01")
    stage.panel.thumbs.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: all(session.changes for session in pairs(stage)))
    assert len({session.changes[0][0] for session in pairs(stage)}) == 1, "in the same step"
    assert [session.changes[0][1].step_size for session in pairs(stage)] == [0.01, 0.01]
    assert stage.busy
    press(Qt.Key.Key_Escape)
    wait(lambda: not stage.busy)
    assert [session.end.reason for session in pairs(stage)] == ["stopped", "stopped"]
    assert len({len(session) for session in pairs(stage)}) == 1
    assert visited.status.text().startswith("Stopped after ")
    assert visited.acts.run.text() == "&Run"


def test_what_is_set_is_in_the_next_start(stage: LinkedStage, visited: MainWindow, wait: Wait, tmp_path: Path) -> None:
    choose_targets(visited.sampler.chips, [8])
    visited.sampler.seed.setValue(40)
    stage.panel.count.setValue(3)
    wait(lambda: ready(stage)() and len(pairs(stage)[0].start.labels) == 3)
    for session in pairs(stage):
        assert set(session.start.labels) <= {8, 9, 7}
        assert [chain.seed for chain in session.start.spec.chains] == [40, 41, 42]
    image = save_image(tmp_path / "own.png")
    drop(visited, data_of(image), stage.panel)
    wait(lambda: ready(stage)() and pairs(stage)[1].start.names[0] == "own.png")
    assert stage.panel.about.text().startswith("own.png · seed 40")


def test_leaving_does_not_end_it_and_what_was_set_elsewhere_is_taken(
    stage: LinkedStage, visited: MainWindow, wait: Wait
) -> None:
    press(Qt.Key.Key_Space)
    visited.tabs.setCurrentIndex(0)
    wait(lambda: not stage.busy)
    assert [len(session) for session in pairs(stage)] == [7, 7]
    type_number(visited.sampler.steps, "9")
    enter(visited)
    assert stage.step == 6, "what was done is still there"
    press(Qt.Key.Key_Space)
    wait(lambda: stage.last_step == 9)


def test_runs_are_among_the_recorded_ones(stage: LinkedStage, visited: MainWindow, wait: Wait) -> None:
    before = len(sessions.found())
    press(Qt.Key.Key_Space)
    wait(lambda: not stage.busy and len(list(visited.recorded.entries())) == before + 2)
    ours = {str(session.recording.folder): session for session in pairs(stage)}
    assert set(ours) <= {run.folder for run in visited.recorded.entries()}
    for folder, session in ours.items():
        assert np.array_equal(Session.open(Path(folder))[6].pixels, session[6].pixels)


def test_classes_that_are_not_shared_and_sizes_that_differ_are_a_reason_and_break_nothing(
    stage: LinkedStage, visited: MainWindow, wait: Wait, nets: list[str]
) -> None:
    visited.subjects.choose(1, nets[2])
    wait(lambda: "take the same images" in stage.panel.empty.text())
    press(Qt.Key.Key_Escape)
    press(Qt.Key.Key_Space)
    assert stage.panel.empty.isVisible(), "where there is nothing else, the reason cannot be dismissed"
    assert "take the same images" in stage.panel.empty.text()
    visited.subjects.choose(1, tuple(bundle.models())[1])
    wait(ready(stage))
    assert len(pairs(stage)) == 2
    assert stage.panel.columns[0].isVisible()


def test_a_target_that_one_model_does_not_know(
    stage: LinkedStage, visited: MainWindow, wait: Wait, nets: list[str]
) -> None:
    visited.models.open(nets[0])
    wait(lambda: visited.models.current.reference == nets[0])
    visited.subjects.choose(0, nets[0])
    visited.subjects.choose(1, nets[2])
    wait(lambda: stage.panel.empty.isVisible() and "share no class" in stage.panel.empty.text())
    assert stage._job is None
    visited.subjects.choose(1, nets[1])
    wait(ready(stage))
    assert [session.start.spec.checkpoint for session in pairs(stage)] == nets[:2]


def test_one_that_diverges_stays_at_its_last_step_and_the_other_goes_on(
    stage: LinkedStage, visited: MainWindow, wait: Wait, nets: list[str], tmp_path: Path
) -> None:
    """A weight so large that the energies overflow once the image leaves its start."""
    weights = tiny.weights(1)
    weights["linear.weight"] = weights["linear.weight"] * 3e37
    weights["linear.bias"] = weights["linear.bias"] * 0
    broken = str(tiny.saved(tmp_path / "broken.safetensors", weights))
    visited.models.open(nets[0])
    wait(lambda: visited.models.current.reference == nets[0])
    visited.subjects.choose(0, nets[0])
    visited.subjects.choose(1, broken)
    wait(lambda: stage._runs is not None and len(stage._checkpoints) == 2 and stage._checkpoints[1].path == broken)
    wait(lambda: stage._job is not None and stage._job.begun)
    press(Qt.Key.Key_Space)
    wait(lambda: not stage.busy)
    assert [bool(problem) for problem in stage._runs.problems] == [False, True]
    assert len(stage._runs.sessions[0]) == 7
    assert stage.panel.columns[1].about.text().startswith("⚠ ")
    assert stage.panel.columns[0].about.text().startswith("PreAct")
    assert stage.step == 6
    assert visited.status.text().startswith("Done after 6 steps")


def test_models_that_change_during_a_run_end_it(stage: LinkedStage, visited: MainWindow, wait: Wait) -> None:
    type_number(visited.sampler.steps, "1000")
    wait(lambda: ready(stage)() and pairs(stage)[0].start.spec.sampler.steps == 1000)
    stage.panel.thumbs.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: stage.last_step > 1)
    before = pairs(stage)
    visited.subjects.remove(1)
    wait(ready(stage))
    assert [session.end.reason for session in before] == ["stopped", "stopped"]
    assert len(pairs(stage)) == 1
    assert not stage.panel.transfer.isVisible()
    assert not stage.panel.columns[1].isVisible()


def test_the_window_closes_while_they_run(stage: LinkedStage, visited: MainWindow, wait: Wait) -> None:
    type_number(visited.sampler.steps, "1000")
    wait(lambda: ready(stage)() and pairs(stage)[0].start.spec.sampler.steps == 1000)
    stage.panel.thumbs.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: stage.last_step > 1)
    both = pairs(stage)
    visited.close()
    assert [session.end.reason for session in both] == ["stopped", "stopped"]
    found = {run.folder: run for run in sessions.found()}
    assert all(not found[str(session.recording.folder)].interrupted for session in both)
    QApplication.processEvents()
    assert replace(both[0].start.spec, id="") != replace(both[1].start.spec, id="")


def test_each_run_is_exported_into_a_folder_of_its_own(
    stage: LinkedStage, visited: MainWindow, wait: Wait, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    press(Qt.Key.Key_Space)
    wait(lambda: not stage.busy)

    def answer(dialog: ExportDialog) -> int:
        dialog.folder_field.setText(str(tmp_path / "out"))
        for name, check in dialog.formats.items():
            check.setChecked(name == "csv")
        return int(QDialog.DialogCode.Accepted)

    monkeypatch.setattr(ExportDialog, "exec", answer)
    visited.acts.export.trigger()
    wait(lambda: visited.status.text() == f"Exported to {tmp_path / 'out'}")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"1-cifar10-robust-l2", "2-cifar10-standard"}
    assert all(list(folder.glob("*.csv")) for folder in (tmp_path / "out").iterdir())
    assert not visited.exporter.busy


def test_l_plays_these_runs_and_not_the_evolution(stage: LinkedStage, visited: MainWindow, wait: Wait) -> None:
    press(Qt.Key.Key_Space)
    wait(lambda: not stage.busy)
    press(Qt.Key.Key_L)
    assert stage.timeline.loop.isChecked()
    assert not visited.timeline.loop.isChecked()
    press(Qt.Key.Key_L)
    for key in (Qt.Key.Key_F, Qt.Key.Key_C, Qt.Key.Key_BracketLeft, Qt.Key.Key_BracketRight):
        press(key)
    assert not visited.evolution.is_large
    assert not visited.lens.on


def test_numbers_that_are_changed_here_leave_the_hidden_run_until_it_is_in_front(
    stage: LinkedStage, visited: MainWindow, wait: Wait
) -> None:
    visited.tabs.setCurrentIndex(0)
    wait(lambda: visited.player.waits)
    visited.one_step()
    wait(lambda: len(visited.player.session) == 2)
    enter(visited)
    type_number(visited.sampler.step_size, "0.5")
    visited.player.one_step()
    wait(lambda: len(visited.player.session) == 3)
    assert visited.player.session[2].sampler.step_size != 0.5
    visited.tabs.setCurrentIndex(0)
    visited.one_step()
    wait(lambda: len(visited.player.session) == 4)
    assert visited.player.session[3].sampler.step_size == 0.5
