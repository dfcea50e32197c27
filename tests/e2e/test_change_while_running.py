"""A slider that is moved during a run changes the run from the next step on, and the record says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt
from windows import begin_from, press, save_image, type_number

from cem_core import runner
from cem_core.messages import Step

_STEPS = 12


def test_a_slider_is_dragged_while_it_runs(window, wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), target="ship", preset="RCS", steps=10_000)
    player, slider = window.player, window.sampler.b.slider
    press(Qt.Key.Key_Space)
    wait(lambda: player.live and len(player.session) > 3)
    for share in (0.5, 0.25):
        slider.setSliderDown(True)
        slider.setSliderPosition(round(share * slider.maximum()))
        slider.setSliderDown(False)
        recorded = len(player.session)
        # The step that was on its way may still be made with the row before.
        wait(lambda recorded=recorded: len(player.session) > recorded + 1)
    press(Qt.Key.Key_Escape)
    wait(lambda: player.gait == "ended")
    session = player.session
    assert [sampler.b for _, sampler in session.changes] == [0, -1]
    assert session.end.reason == "stopped"

    rows = iter([session[i].sampler for i in range(1, len(session))])
    again = [m for m in runner.play(session.start.spec, lambda: next(rows, None)) if isinstance(m, Step)]
    assert len(again) == len(session)
    for step in again:
        assert step.sampler == session[step.index].sampler
        np.testing.assert_array_equal(step.pixels, session[step.index].pixels)


def test_change_while_running(window, wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), target="ship", preset="RCS", steps=_STEPS)
    player = window.player
    for _ in range(3):
        recorded = len(player.session)
        press(Qt.Key.Key_Period)
        wait(lambda recorded=recorded: len(player.session) == recorded + 1)
    slider = window.sampler.b.slider
    slider.setValue(slider.minimum())
    type_number(window.sampler.noise, "0.05")
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: player.gait == "ended")
    session = player.session
    assert len(session) == _STEPS + 1
    assert [session[i].sampler.b for i in (0, 3, 4, _STEPS)] == [1, 1, -2, -2]
    assert [session[i].sampler.noise for i in (3, 4)] == [0.01, 0.05]
    changes = dict(session.changes)
    assert list(changes) == [4]

    # The record alone is enough to make the same pixels again.
    row = session.start.spec.sampler
    asked = 0

    def live():
        nonlocal row, asked
        asked += 1
        row = changes.get(asked, row)
        return row

    steps = [message for message in runner.play(session.start.spec, live) if isinstance(message, Step)]
    assert len(steps) == len(session)
    for step in steps:
        np.testing.assert_array_equal(step.pixels, session[step.index].pixels)
        np.testing.assert_array_equal(step.energy, session[step.index].energy)
