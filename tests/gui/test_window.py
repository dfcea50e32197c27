"""What the panels have to do with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QSettings, Qt
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QMenu
from windows import (
    Wait,
    at_start,
    begin_from,
    choose,
    choose_targets,
    data_of,
    discard,
    drop,
    notice,
    picture,
    press,
    run_to_end,
    save_image,
    type_number,
)

from cem_core import bundle
from cem_core.export import Export
from cem_core.images import hwc, to_uint8
from cem_core.presets import SAMPLERS
from cem_gui.window import MainWindow


def shown(window: MainWindow, step: int, chain: int = 0) -> np.ndarray:
    """What should be painted at a step."""
    return hwc(to_uint8(window.player.session[step].pixels))[chain]


def labels(window: MainWindow) -> list[str]:
    start = window.player.session.start
    return [start.checkpoint.classes[label] for label in start.labels]


# Before a run --------------------------------------------------------------------------------------------------------


def test_what_is_changed_before_a_run_is_in_the_next_preview(window: MainWindow, wait: Wait) -> None:
    choose(window.sampler.preset, "CS")
    type_number(window.sampler.step_size, "0.5")
    type_number(window.sampler.steps, "7")
    wait(lambda: at_start(window) and window.player.session.start.spec.sampler.steps == 7)
    assert window.player.session.start.spec.sampler == window.sampler.sampler
    assert window.sampler.sampler.step_size == 0.5
    assert window.timeline.position.text() == "step 0 of 7"


def test_space_does_not_wait_for_the_preview(window: MainWindow, wait: Wait) -> None:
    type_number(window.sampler.steps, "2")
    assert window._settling.isActive()
    run_to_end(window, wait)
    assert window.player.session.start.spec.sampler.steps == 2
    assert len(window.player.session) == 3


def test_a_single_image_goes_to_each_chosen_target(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"))
    choose_targets(window.sampler.chips, [1, 4, 6])
    wait(lambda: at_start(window) and sorted(labels(window)) == ["automobile", "deer", "frog"])
    choose_targets(window.sampler.chips, [4])
    wait(lambda: at_start(window) and labels(window) == ["deer"])


def test_a_number_of_chains_that_was_asked_for_stays(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"))
    window.sampler.count.setValue(4)
    wait(lambda: at_start(window) and len(labels(window)) == 4)
    choose_targets(window.sampler.chips, [1, 4])
    wait(lambda: at_start(window) and set(labels(window)) == {"automobile", "deer"})
    assert len(labels(window)) == 4


def test_each_chain_has_a_seed_of_its_own(window: MainWindow, wait: Wait) -> None:
    window.sampler.seed.setValue(40)
    wait(lambda: at_start(window) and window.player.session.start.spec.chains[0].seed == 40)
    assert [chain.seed for chain in window.player.session.start.spec.chains] == list(range(40, 52))


@pytest.mark.parametrize(("kind", "name"), [("gaussian", "Gaussian of "), ("noise", "noise")])
def test_chains_can_start_elsewhere(window: MainWindow, wait: Wait, kind: str, name: str) -> None:
    choose(window.sampler.start, kind)
    wait(lambda: at_start(window) and all(n.startswith(name) for n in window.player.session.start.names))
    assert window.player.session.start.spec.sampler == SAMPLERS["RCS"]
    assert len(window.player.session.start.names) == 12


def test_dropping_an_image_goes_back_to_images(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    choose(window.sampler.start, "noise")
    wait(lambda: at_start(window) and window.player.session.start.names[0] == "noise")
    drop(window, data_of(save_image(tmp_path / "a.png")))
    wait(lambda: at_start(window) and window.player.session.start.names[0] == "a.png")
    assert window.sampler.start_kind == "image"
    assert window.sampler.sampler == SAMPLERS["TA"]


def test_another_model_takes_the_same_images(window: MainWindow, wait: Wait) -> None:
    names, starts = list(bundle.models()), window.player.session.start.names
    choose(window.model.choice, names[1])
    wait(lambda: at_start(window) and window.player.session.start.checkpoint.name == names[1])
    assert window.player.session.start.names == starts
    assert window.model.choice.currentText() == names[1]


# During a run --------------------------------------------------------------------------------------------------------


def test_the_cursor_follows_until_somebody_looks_back(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=1000)
    press(Qt.Key.Key_Space)
    wait(lambda: window.step >= 3)
    press(Qt.Key.Key_Home)
    recorded = len(window.player.session)
    wait(lambda: window.timeline.strip.maximum() > recorded)
    assert window.step == 0
    assert np.array_equal(picture(window.evolution), shown(window, 0))
    press(Qt.Key.Key_End)
    looked = window.step
    wait(lambda: window.step > looked)
    press(Qt.Key.Key_Escape)
    wait(lambda: window.player.gait == "ended")


def test_pause_one_step_and_go_on(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=6)
    for step in (1, 2):
        press(Qt.Key.Key_Period)
        wait(lambda step=step: window.step == step)
        assert window.player.gait == "paused"
        assert np.array_equal(picture(window.evolution), shown(window, step))
    assert window.status.text().startswith("Paused at step 2")
    run_to_end(window, wait)
    assert window.step == 6
    assert window.status.text().startswith("Done after 6 steps")


def test_what_takes_hold_with_the_next_run_is_said(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=6)
    press(Qt.Key.Key_Period)
    wait(lambda: window.step == 1)
    session = window.player.session
    choose_targets(window.sampler.chips, [1])
    assert "next run" in window.status.text()
    window.evolution.grid.setFocus()
    run_to_end(window, wait)
    assert window.player.session is session
    assert labels(window) == ["horse"]
    run_to_end(window, wait)
    assert labels(window) == ["automobile"]


def test_escape_ends_the_run_then_leaves_the_large_view_then_dismisses(
    window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=1000)
    window.evolution.show_notice("Something.")
    press(Qt.Key.Key_F)
    assert window.evolution.is_large
    window.acts.run.trigger()
    wait(lambda: window.step >= 1)
    QTest.keyClick(window, Qt.Key.Key_Escape)
    wait(lambda: window.player.gait == "ended")
    assert window.evolution.is_large
    QTest.keyClick(window, Qt.Key.Key_Escape)
    assert not window.evolution.is_large
    assert notice(window)
    QTest.keyClick(window, Qt.Key.Key_Escape)
    assert not notice(window)
    assert window.player.session.end.reason == "stopped"


def test_fewer_steps_end_the_run_and_more_prolong_it(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=5)
    for step in (1, 2, 3):
        press(Qt.Key.Key_Period)
        wait(lambda step=step: window.step == step)
    type_number(window.sampler.steps, "8")
    assert window.timeline.position.text() == "step 3 of 8"
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Period)
    wait(lambda: window.step == 4)
    type_number(window.sampler.steps, "2")
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: window.player.gait == "ended")
    assert len(window.player.session) == 5
    assert window.player.session.end.reason == "done"


# After a run ---------------------------------------------------------------------------------------------------------


def test_every_view_shares_the_cursor(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=6)
    run_to_end(window, wait)
    for ask in (window.curves.stepped, window.timeline.stepped):
        ask.emit(2)
        assert window.step == 2
        assert window.timeline.strip.value() == 2
        assert window.curves.energy._cursor.value() == window.curves.distance._cursor.value() == 2
        assert np.array_equal(picture(window.evolution), shown(window, 2))
        press(Qt.Key.Key_End)
        assert window.step == 6


def test_back_to_the_run_before_and_forth(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "first.png", seed=1), steps=2)
    run_to_end(window, wait)
    first = window.player.session
    assert not window.acts.back.isEnabled()
    begin_from(window, wait, save_image(tmp_path / "second.png", seed=2), steps=3)
    run_to_end(window, wait)
    second = window.player.session
    for session, steps in ((first, 2), (second, 3), (first, 2)):
        press(Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
        assert window.player.session is session
        assert window.step == steps
        assert np.array_equal(picture(window.evolution), shown(window, steps))
        assert window.evolution.about.text().startswith(f"Chain 1: {session.start.names[0]}")
        assert window.timeline.position.text() == f"step {steps} of {steps}"


def test_a_chain_that_is_chosen_is_the_one_in_the_curves(window: MainWindow, wait: Wait) -> None:
    type_number(window.sampler.steps, "2")
    run_to_end(window, wait)
    card = window.evolution.grid.card(5)
    QTest.mouseClick(window.evolution.grid.widget(), Qt.MouseButton.LeftButton, pos=card.center())
    _, values = window.curves.energy._curves["E(x)"].getData()
    assert np.array_equal(values, window.player.session.numbers.energy[:, 5])
    thumb = window.timeline.strip._thumbs[0]
    assert thumb.pixelColor(3, 4).getRgb()[:3] == tuple(shown(window, 0, 5)[4, 3])


def menu_of(window: MainWindow, point: QPoint) -> QMenu:
    """The menu that opens where the right button is pressed."""
    canvas = window.evolution.grid.widget()
    event = QContextMenuEvent(QContextMenuEvent.Reason.Mouse, point, canvas.mapToGlobal(point))
    QApplication.sendEvent(canvas, event)
    menu = QApplication.activePopupWidget()
    assert isinstance(menu, QMenu)
    return menu


def test_a_chain_may_have_a_target_of_its_own(window: MainWindow, wait: Wait) -> None:
    before = labels(window)
    menu = menu_of(window, window.evolution.grid.card(2).center())
    [targets] = [found for found in menu.findChildren(QMenu) if found.title().startswith("Target")]
    [choice] = [action for action in targets.actions() if action.text() == "ship"]
    menu.close()
    choice.trigger()
    wait(lambda: at_start(window) and labels(window)[2] == "ship")
    assert [name for i, name in enumerate(labels(window)) if i != 2] == [n for i, n in enumerate(before) if i != 2]


def test_beside_the_chains_the_menu_offers_images(window: MainWindow) -> None:
    first = window.evolution.grid.card(0)
    menu = menu_of(window, QPoint(first.right() + 4, first.center().y()))
    offered = menu.actions()
    menu.close()
    assert offered == [window.acts.open_images, window.acts.paste, window.acts.samples, window.acts.photos]


@pytest.mark.parametrize(("act", "paths"), [("samples", bundle.samples()), ("photos", bundle.photos())])
def test_bundled_images(window: MainWindow, wait: Wait, act: str, paths: list[Path]) -> None:
    getattr(window.acts, act).trigger()
    wait(lambda: at_start(window) and window.player.session.start.names == tuple(path.name for path in paths))
    assert notice(window) == ""
    if act == "photos":
        assert all("→ 32×32" in note for note in window.player.session.start.notes)


def test_an_export_during_a_run_has_what_was_recorded(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=100_000)
    press(Qt.Key.Key_Space)
    wait(lambda: window.step >= 3)
    window.exporter.begin(window.player.session, tmp_path / "clip", Export(formats=("csv",), last=3))
    assert not window.acts.export.isEnabled()
    wait(lambda: not window.exporter.busy)
    assert window.player.gait == "running"
    assert len((tmp_path / "clip" / "curves.csv").read_text().splitlines()) == 1 + 4
    press(Qt.Key.Key_Escape)
    wait(lambda: window.player.gait == "ended")


def test_an_export_gets_a_name_that_is_free(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"))
    window.settings.setValue("exports", str(tmp_path))
    assert window.exporter._free_folder(window.player.session) == tmp_path / "ta-horse"
    (tmp_path / "ta-horse").mkdir()
    (tmp_path / "ta-horse-2").symlink_to("nowhere")
    assert window.exporter._free_folder(window.player.session) == tmp_path / "ta-horse-3"


# Itself --------------------------------------------------------------------------------------------------------------


def again(window: MainWindow) -> MainWindow:
    """The same window, opened another time."""
    return MainWindow(QSettings(window.settings.fileName(), QSettings.Format.IniFormat), window._log_folder)


def test_the_layout_is_kept(window: MainWindow) -> None:
    window.resize(1100, 700)
    [curves] = [toggle for toggle in window.docks.toggles if toggle.text() == "Curves"]
    curves.trigger()
    window.close()
    window.settings.sync()
    other = again(window)
    other.show()
    assert other.size() == window.size()
    assert not other.curves.isVisible()
    assert other.model.isVisible()
    other.close()
    discard(other)


@pytest.mark.parametrize(
    "key", ["geometry", "layout", "scheme", "device", "precision", "images", "models", "exports", "recent"]
)
@pytest.mark.parametrize("value", ["nonsense", 12, ["a", "b"]], ids=str)
def test_settings_that_make_no_sense_are_passed_over(qapp, home: Path, key: str, value: object) -> None:
    settings = QSettings(str(home / "window.ini"), QSettings.Format.IniFormat)
    settings.setValue(key, value)
    other = MainWindow(settings, home)
    assert other.model.place == ("auto", "float32")
    other.close()
    discard(other)


def test_a_small_screen_is_enough(window: MainWindow) -> None:
    window.resize(window.minimumSizeHint())
    QApplication.processEvents()
    assert window.width() <= 1024
    assert window.height() <= 768
