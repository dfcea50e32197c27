"""The recorded steps, by mouse, by keys and by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from windows import Wait, discard, drag

from cem_gui.panels.timeline import TimelinePanel
from cem_gui.widgets.filmstrip import THUMBS

Left = Qt.MouseButton.LeftButton


@pytest.fixture
def panel(qtbot) -> Iterator[TimelinePanel]:
    """40 of 60 steps are recorded, and the cursor is at step 10."""
    panel = TimelinePanel()
    panel.resize(800, 80)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.start(60)
    panel.show_recorded(41, 10)
    yield panel
    panel.close()
    discard(panel)


@pytest.fixture
def heard(panel: TimelinePanel) -> list[int]:
    heard: list[int] = []
    panel.stepped.connect(heard.append)
    return heard


def at(panel: TimelinePanel, step: float) -> QPoint:
    """Where a step is on the strip."""
    return QPoint(round(panel.strip._x(step)), panel.strip.height() - 12)


def test_it_says_where_it_is(panel: TimelinePanel) -> None:
    assert panel.position.text() == "step 10 of 60"
    panel.show_recorded(41, 40)
    assert panel.position.text() == "step 40 of 60"


def test_a_click_goes_to_a_step(panel: TimelinePanel, heard: list[int]) -> None:
    QTest.mouseClick(panel.strip, Left, pos=at(panel, 25))
    assert heard == [25]
    assert panel.position.text() == "step 25 of 60"


def test_a_drag_passes_through_the_steps(panel: TimelinePanel, heard: list[int]) -> None:
    drag(panel.strip, *(at(panel, step) for step in range(10, 20)))
    assert heard == list(range(11, 20))
    QTest.mouseMove(panel.strip, at(panel, 30))  # the button is up
    assert heard[-1] == 19


def test_only_recorded_steps_can_be_reached(panel: TimelinePanel, heard: list[int]) -> None:
    drag(panel.strip, at(panel, 55), QPoint(-500, 5), QPoint(5000, 5))
    assert heard == [40, 0, 40]


def test_another_button_does_nothing(panel: TimelinePanel, heard: list[int]) -> None:
    QTest.mouseClick(panel.strip, Qt.MouseButton.RightButton, pos=at(panel, 25))
    assert heard == []


@pytest.mark.parametrize(
    ("key", "step"),
    [
        (Qt.Key.Key_Right, 11),
        (Qt.Key.Key_Left, 9),
        (Qt.Key.Key_Home, 0),
        (Qt.Key.Key_End, 40),
        (Qt.Key.Key_PageUp, 20),
        (Qt.Key.Key_PageDown, 0),
    ],
)
def test_the_keys(panel: TimelinePanel, heard: list[int], key: Qt.Key, step: int) -> None:
    QTest.keyClick(panel.strip, key)
    assert heard == [step]


def test_what_the_program_shows_it_does_not_announce(panel: TimelinePanel, heard: list[int]) -> None:
    panel.show_recorded(50, 49)
    panel.set_length(90)
    panel.start(10)
    assert heard == []
    assert panel.strip.maximum() == 0
    assert panel.position.text() == "step 0 of 10"


def test_a_run_that_is_longer_than_was_meant_makes_room(panel: TimelinePanel) -> None:
    panel.show_recorded(101, 100)
    assert panel.position.text() == "step 100 of 100"
    assert panel.strip.rect().contains(at(panel, 100))


def test_the_loop_plays_through_and_begins_again(panel: TimelinePanel, heard: list[int], wait: Wait) -> None:
    panel.show_recorded(4, 1)
    QTest.mouseClick(panel.loop, Left)
    wait(lambda: len(heard) >= 6)
    QTest.mouseClick(panel.loop, Left)
    assert heard[:6] == [2, 3, 0, 1, 2, 3]
    assert not panel._clock.isActive()


def test_a_new_run_ends_the_loop(panel: TimelinePanel) -> None:
    QTest.mouseClick(panel.loop, Left)
    assert panel._clock.isActive()
    panel.start(5)
    assert not panel.loop.isChecked()
    assert not panel._clock.isActive()


@pytest.mark.parametrize("length", [1, 10, 60, 5000])
def test_the_pictures_fit_and_are_asked_for_once(panel: TimelinePanel, length: int) -> None:
    asked: list[int] = []

    def picture(step: int) -> np.ndarray:
        asked.append(step)
        return np.full((8, 8, 3), step % 256, np.uint8)

    panel.start(length)
    panel.show_recorded(length + 1, length)
    panel.show_thumbs(picture)
    first = list(asked)
    assert first[0] == 0
    assert len(first) <= THUMBS + 1
    panel.show_thumbs(picture)
    assert asked == first
    panel.show_thumbs(picture, anew=True)
    assert asked == first * 2
    panel.grab()


def test_it_is_a_slider_to_a_screen_reader(panel: TimelinePanel) -> None:
    from PySide6.QtGui import QAccessible

    interface = QAccessible.queryAccessibleInterface(panel.strip)
    assert interface.role() == QAccessible.Role.Slider
    assert interface.text(QAccessible.Text.Name) == "Step"
