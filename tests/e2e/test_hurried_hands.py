"""What a person does between asking for a run and seeing it is not lost."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from windows import at_start, begin_from, choose_targets, press, save_image

from cem_core import starts

_STEPS = 8


@pytest.fixture
def hurried(window, wait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A window whose next run comes into sight only when `let` is called."""
    begin_from(window, wait, save_image(tmp_path / "a.png"), target="ship", steps=_STEPS)
    gate = threading.Event()
    make = starts.make

    def slowly(*arguments):
        assert gate.wait(60)
        return make(*arguments)

    press(Qt.Key.Key_Space)
    wait(lambda: window.player.gait == "ended")
    monkeypatch.setattr(starts, "make", slowly)
    yield window, gate.set
    gate.set()


def test_a_slider_that_is_moved_at_once_is_heard(hurried, wait) -> None:
    window, let = hurried
    before = window.player.session
    press(Qt.Key.Key_Space)
    window.sampler.b.slider.setValue(window.sampler.b.slider.maximum())
    let()
    wait(lambda: window.player.session is not before and window.player.gait == "ended")
    session = window.player.session
    assert [session[i].sampler.b for i in range(1, _STEPS + 1)] == [2.0] * _STEPS


def test_escape_at_once_ends_the_run(hurried, wait) -> None:
    window, let = hurried
    before = window.player.session
    press(Qt.Key.Key_Space)
    press(Qt.Key.Key_Escape)
    let()
    wait(lambda: window.player.gait == "ended")
    session = window.player.session
    assert session is before or (session.end.reason, len(session)) == ("stopped", 1)


def test_the_picture_follows_a_run_that_is_faster_than_the_eye(hurried, wait) -> None:
    window, let = hurried
    before = window.player.session
    press(Qt.Key.Key_Space)
    let()
    wait(lambda: window.player.session is not before and window.player.gait == "ended")
    assert window.step == _STEPS


def test_a_run_that_cannot_be_asked_for_does_not_run_what_was_asked_before(hurried, wait) -> None:
    window, let = hurried
    let()
    before = window.player.session
    choose_targets(window.sampler.chips, [])
    wait(lambda: "target" in window.evolution.notice.text())
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Space)
    assert window.player.gait == "ended"
    assert window.player.session is before
    choose_targets(window.sampler.chips, [3])
    wait(lambda: at_start(window))
    assert set(window.player.session.start.labels) == {3}
