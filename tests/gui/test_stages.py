"""What the views of the centre have to do with the panels around them, and where messages are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from PySide6.QtCore import QSettings, Qt
from PySide6.QtWidgets import QApplication
from windows import Wait, data_of, discard, drop

from cem_gui.window import MainWindow

NAMES = ("model", "sampler", "curves", "runs")


@pytest.fixture
def window(window: MainWindow) -> MainWindow:
    window.settings.setValue("linked visited", "true")
    return window


def shown(window: MainWindow) -> list[str]:
    QApplication.processEvents()
    return [dock.objectName() for dock in window.docks._docks if not dock.isHidden()]


def toggle(window: MainWindow, name: str) -> None:
    window.docks.toggles[NAMES.index(name)].trigger()


def widths(window: MainWindow) -> list[int]:
    QApplication.processEvents()
    return [dock.width() for dock in window.docks._docks if not dock.isHidden()]


def test_each_view_keeps_the_panels_that_were_left_beside_it(window: MainWindow) -> None:
    toggle(window, "model")
    window.resizeDocks(window.docks._docks[1:3], [390, 350], Qt.Orientation.Horizontal)
    before = widths(window)
    window.tabs.setCurrentIndex(1)
    assert shown(window) == ["sampler"]
    window.tabs.setCurrentIndex(3)
    assert shown(window) == []
    toggle(window, "curves")
    window.tabs.setCurrentIndex(0)
    assert shown(window) == ["sampler", "curves", "runs"]
    assert widths(window) == before
    window.tabs.setCurrentIndex(3)
    assert shown(window) == ["curves"]


def test_what_was_arranged_in_the_evolution_is_kept_when_the_window_is_closed_elsewhere(
    window: MainWindow, home: Path
) -> None:
    toggle(window, "runs")
    window.tabs.setCurrentIndex(4)
    toggle(window, "model")
    window.close()
    other = MainWindow(QSettings(str(home / "window.ini"), QSettings.Format.IniFormat), home)
    assert shown(other) == ["model", "sampler", "curves"]
    other.close()
    discard(other)


def test_reset_in_another_view_is_of_all_views(window: MainWindow) -> None:
    before = widths(window)[:3]  # runs lie behind curves
    toggle(window, "model")
    window.resizeDocks([window.docks._docks[1]], [420], Qt.Orientation.Horizontal)
    window.tabs.setCurrentIndex(1)
    toggle(window, "runs")
    window.acts.reset.trigger()
    assert shown(window) == ["sampler"]
    window.tabs.setCurrentIndex(0)
    assert shown(window) == list(NAMES)
    assert widths(window)[:3] == before


def test_what_acts_on_the_run_in_sight_does_so_only_where_it_is(window: MainWindow) -> None:
    acts = window.acts
    of_evolution = (
        acts.large,
        acts.lens,
        acts.previous_event,
        acts.next_event,
        acts.copy_command,
        window.evolution.views,
    )
    assert all(act.isEnabled() for act in of_evolution)
    for index, stage in ((index, window.stage_at(index)) for index in range(1, window.tabs.count())):
        window.tabs.setCurrentIndex(index)
        assert not any(act.isEnabled() for act in of_evolution), stage.title
        assert acts.loop.isEnabled() == stage.has_steps
    window.tabs.setCurrentIndex(0)
    assert all(act.isEnabled() for act in of_evolution)


def test_the_evolution_is_not_played_behind_another_view(window: MainWindow) -> None:
    window.timeline.loop.setChecked(True)
    window.tabs.setCurrentIndex(3)
    assert not window.timeline.loop.isChecked()


@pytest.mark.parametrize("index", [1, 2, 3, 4, 5, 6, 7])
def test_what_goes_wrong_is_told_where_it_is_seen(window: MainWindow, wait: Wait, tmp_path: Path, index: int) -> None:
    window.tabs.setCurrentIndex(index)
    notice = window.stage.panel.notice
    bad = tmp_path / "picture.png"
    bad.write_bytes(b"nothing")
    drop(window, data_of(bad))
    wait(lambda: notice.isVisible() and "picture.png" in notice.text.text())
    assert window.evolution.notice.text() == ""


def test_a_model_that_cannot_be_opened_is_told_of_in_both_places(
    window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    window.tabs.setCurrentIndex(3)
    window.models.open(str(tmp_path / "gone.pt"))
    wait(lambda: "gone.pt" in window.accuracy.panel.notice.text.text())
    assert "gone.pt" in window.evolution.notice.text()


def test_another_reading_of_a_compared_file_is_compared(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    net = str(tiny.saved(tmp_path / "net.safetensors"))
    window.subjects.choose(1, net)
    window.tabs.setCurrentIndex(3)
    window.models.open(net)
    wait(lambda: window.subjects.ready and window.models.current.reference == net)
    fact = next(fact for fact in window.models.checkpoint.facts if len(fact.options) > 1)
    choices = {fact.what: next(option for option in fact.options if option != fact.value)}
    window.models.open_as(net, "cpu", "float32", choices)
    wait(lambda: window.subjects.ready and window.subjects.subjects[1].choices == choices)
