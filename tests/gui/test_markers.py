"""What happened in a run, on the time line and on the curves."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from windows import Wait, begin_from, press, run_to_end, save_image

from cem_core import events
from cem_gui.widgets import marks
from cem_gui.widgets.filmstrip import _MARKS, Filmstrip
from cem_gui.widgets.marks import Mark
from cem_gui.window import MainWindow


@pytest.fixture
def strip(qtbot) -> Filmstrip:
    strip = Filmstrip()
    qtbot.addWidget(strip)
    strip.resize(436, strip.sizeHint().height())
    strip.set_length(100)
    strip.setMaximum(100)
    strip.set_marks([
        Mark(20, "largest jump", "faint one", faint=True),
        Mark(20, "target reached", "target reached at step 20 (chain 1, dog)"),
        Mark(60, "energy minimum", "energy minimum at step 60 (chain 1, dog)"),
    ])  # fmt: skip
    return strip


def test_a_click_on_a_mark_goes_to_its_step(strip: Filmstrip) -> None:
    QTest.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(round(strip._x(60)) + 3, _MARKS))
    assert strip.value() == 60
    QTest.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(round(strip._x(40)), _MARKS))
    assert strip.value() == 40  # nothing there: it is the track


def test_a_mark_says_what_happened_the_chosen_chain_first(strip: Filmstrip) -> None:
    there = strip.marks_at(QPoint(round(strip._x(20)) - 2, _MARKS).toPointF())
    assert marks.told(there) == "target reached at step 20 (chain 1, dog)\nfaint one"
    assert strip.marks_at(QPoint(round(strip._x(20)), 10).toPointF()) == []


def test_marks_of_the_chosen_chain_are_on_the_time_line_and_the_curves(
    window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=8)
    run_to_end(window, wait)
    session = window.player.session
    found = events.events(session)
    assert found
    shown = window.timeline.strip._marks
    assert sorted((mark.step, mark.kind) for mark in shown) == sorted((event.step, event.kind) for event in found)
    assert {f"{found[0].kind} at step {found[0].step} (chain 1, horse)"} <= {mark.tip for mark in shown}
    on_curves = [mark for plot in window.curves._plots for mark in plot._marks]
    assert sorted(mark.step for mark in on_curves) == sorted(event.step for event in found)


def test_the_bracket_keys_go_from_one_event_to_the_next(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=8)
    run_to_end(window, wait)
    steps = sorted({event.step for event in events.events(window.player.session)})
    press(Qt.Key.Key_Home)
    seen = []
    for _ in steps:
        press(Qt.Key.Key_BracketRight)
        seen.append(window.step)
    assert seen == [step for step in steps if step > 0] + [steps[-1]] * (0 in steps)
    press(Qt.Key.Key_BracketLeft)
    assert window.step == (steps[-2] if len(steps) > 1 and steps[-2] > 0 else window.step)
