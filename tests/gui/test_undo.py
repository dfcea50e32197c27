"""Every setting can be taken back, under its name; one pull at a slider is one change."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from windows import (
    Wait,
    at_start,
    begin_from,
    bundle_classes,
    choose,
    choose_targets,
    data_of,
    drop,
    press,
    save_image,
    started_from,
    type_number,
)

from cem_core import bundle
from cem_core.presets import SAMPLERS
from cem_gui.window import MainWindow


def undo(window: MainWindow) -> None:
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)


def redo(window: MainWindow) -> None:
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)


def said(window: MainWindow) -> str:
    return window.acts.undo.text().replace("&", "")


def test_at_the_start_there_is_nothing_to_undo(window: MainWindow) -> None:
    assert not window.acts.undo.isEnabled()
    assert not window.acts.redo.isEnabled()


def test_a_number_is_taken_back_and_given_again(window: MainWindow, wait: Wait) -> None:
    type_number(window.sampler.step_size, "0.5")
    type_number(window.sampler.noise, "0.1")
    assert said(window) == "Undo noise"
    undo(window)
    assert said(window) == "Undo step size"
    assert window.sampler.sampler.noise == 0
    assert window.sampler.noise.field.value() == 0
    undo(window)
    assert window.sampler.sampler == SAMPLERS["TA"]
    redo(window)
    assert window.sampler.sampler.step_size == 0.5
    wait(lambda: at_start(window) and window.player.session.start.spec.sampler.step_size == 0.5)


def test_one_pull_at_a_slider_is_one_change(window: MainWindow) -> None:
    slider = window.sampler.b.slider
    for values in ((300, 400, 500), (600, 700)):
        slider.setSliderDown(True)
        for value in values:
            slider.setSliderPosition(value)
        slider.setSliderDown(False)
    assert window.sampler.sampler.b == pytest.approx(0.8)
    undo(window)
    assert window.sampler.sampler.b == 0
    assert said(window) == "Undo marginal weight"
    undo(window)
    assert window.sampler.sampler.b == -1
    assert not window.acts.undo.isEnabled()


def test_targets_start_count_and_seed(window: MainWindow, wait: Wait) -> None:
    choose_targets(window.sampler.chips, [3])
    window.sampler.count.setValue(2)
    window.sampler.seed.setValue(7)
    choose(window.sampler.start, "noise")
    for name in ("start", "start", "start", "seed", "number of chains"):  # the keyboard came by the Gaussians
        assert said(window) == f"Undo {name}"
        undo(window)
    assert window.sampler.start_kind == "image"
    assert window.sampler.sampler == SAMPLERS["TA"]
    assert window.sampler.seed.value() == 0
    assert window.sampler.count.value() == 12
    while window.acts.undo.isEnabled():
        assert said(window) == "Undo targets"
        undo(window)
    assert window.sampler.targets == list(range(10))
    wait(lambda: at_start(window) and len(window.player.session.start.labels) == 12)


def test_dropped_images_are_taken_back(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    before = started_from(window)
    path = save_image(tmp_path / "a.png")
    drop(window, data_of(path))
    wait(lambda: at_start(window) and set(started_from(window)) == {str(path)})
    assert said(window) == "Undo images"
    undo(window)
    wait(lambda: at_start(window) and started_from(window) == before)


def test_another_model_is_taken_back(window: MainWindow, wait: Wait) -> None:
    first, second = list(bundle.models())[:2]
    choose(window.model.choice, second)
    wait(lambda: at_start(window) and window.player.session.start.spec.checkpoint == second)
    assert said(window) == "Undo model"
    undo(window)
    wait(lambda: at_start(window) and window.player.session.start.spec.checkpoint == first)
    assert window.model.choice.currentData() == first
    redo(window)
    wait(lambda: at_start(window) and window.player.session.start.spec.checkpoint == second)


def test_a_model_that_is_gone_leaves_nothing_waiting(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    first = next(iter(bundle.models()))
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(bundle.models()[first].read_bytes())
    window.models.open(str(mine))
    wait(lambda: at_start(window) and window.player.session.start.spec.checkpoint == str(mine))
    choose(window.model.choice, first)
    wait(lambda: at_start(window) and window.player.session.start.spec.checkpoint == first)
    mine.unlink()
    undo(window)
    assert window.setup.waits
    wait(lambda: not window.setup.waits)
    assert window.player.session.start.spec.checkpoint == first
    assert not window.evolution.notice.isHidden()


def test_undo_changes_a_run_as_a_hand_would(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), preset="RCS", steps=10_000)
    player = window.player
    press(Qt.Key.Key_Space)
    wait(lambda: player.live and len(player.session) > 2)
    type_number(window.sampler.noise, "0.5")
    recorded = len(player.session)
    wait(lambda: len(player.session) > recorded + 1)
    undo(window)
    recorded = len(player.session)
    wait(lambda: len(player.session) > recorded + 1)
    press(Qt.Key.Key_Escape)
    wait(lambda: player.gait == "ended")
    assert [row.noise for _, row in player.session.changes] == [0.5, 0.01]


def test_the_target_of_one_chain(window: MainWindow, wait: Wait) -> None:
    label = window.player.session.start.labels[0]
    other = (label + 1) % len(bundle_classes(window))
    window.setup.set_target(0, other, window.player.session.start)
    wait(lambda: at_start(window) and window.player.session.start.labels[0] == other)
    assert said(window) == "Undo target of a chain"
    undo(window)
    wait(lambda: at_start(window) and window.player.session.start.labels[0] == label)


def test_keys_in_a_field_are_the_fields(window: MainWindow) -> None:
    field = window.sampler.noise.field
    field.setFocus()
    field.selectAll()
    QTest.keyClicks(field, "0.3")
    QTest.keyClick(field, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert window.sampler.sampler == SAMPLERS["TA"]
