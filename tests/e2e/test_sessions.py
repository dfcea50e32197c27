"""Runs that outlive the program: recorded as they happen, interrupted, offered, resumed, forked, compared, deleted."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAction
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from windows import (
    Wait,
    at_start,
    begin_from,
    choose,
    data_of,
    drop,
    notice,
    press,
    run_to_end,
    save_image,
    spec,
    started_from,
    type_number,
)

from cem_core import recording, runner, sessions
from cem_core.export import Export, export, read
from cem_core.messages import RunSpec, SessionStart, Step
from cem_core.session import Session
from cem_gui.panels.recording import RecordingDialog
from cem_gui.player import folder_of
from cem_gui.window import MainWindow

_STEPS = 9
_BROKEN_OFF = 4


_PROGRAM = """
import sys
from PySide6.QtCore import QTimer
from cem_gui import window
from cem_gui.panels.recording import RecordingDialog
from cem_gui.player import folder_of

def watch(self, newest):
    if newest.index >= 3 and folder_of(self.player.session):
        print(folder_of(self.player.session), flush=True)
window.MainWindow._run_grew = watch
start = window.MainWindow.start
def begin(self, paths=()):
    start(self, paths)
    self.sampler.set_count(1)
    self.sampler.steps.set(100_000)
    self.sampler._numbers_changed()
    self.player.began.connect(lambda: self.player.gait == "paused" and QTimer.singleShot(0, self.run_or_pause))
window.MainWindow.start = begin
from cem_gui.app import main
sys.argv = ["cem-explorer-gui"]
main()
"""
"""Runs until somebody kills it, and says where it records."""


def steps_of(wanted: RunSpec) -> list[Step]:
    return [message for message in runner.play(wanted) if isinstance(message, Step)]


@pytest.fixture
def interrupted(home: Path) -> tuple[str, RunSpec]:
    """A run whose program was killed: its folder has some steps and no end."""
    wanted = spec(steps=_STEPS, chains=2, preset="RCS")
    messages = runner.play(wanted)
    session = sessions.record(next(messages))
    for step in itertools.islice(messages, _BROKEN_OFF + 1):
        session.append(step)
    session.close()
    messages.close()
    return str(session.recording.folder), wanted


def test_what_is_only_looked_at_leaves_nothing_behind(window: MainWindow) -> None:
    assert sessions.found() == []
    assert list(window.recorded.entries()) == []


def test_a_run_is_recorded_as_it_happens(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=5)
    press(Qt.Key.Key_Period)
    wait(lambda: len(window.player.session) == 2)
    folder = folder_of(window.player.session)
    assert Path(folder).parent == sessions.root()
    assert recording.is_held(Path(folder))
    wait(lambda: window.recorded.entry(folder) is not None)
    assert window.recorded.state(window.recorded.entry(folder)) == "recording"
    assert window.runs.badge.isVisible()
    run_to_end(window, wait)
    wait(lambda: window.recorded.entry(folder).end == "done")
    assert window.recorded.entry(folder).steps == 5
    assert not window.runs.badge.isVisible()
    again = Session.open(Path(folder))
    for step in window.player.session:
        np.testing.assert_array_equal(step.pixels, again[step.index].pixels)


def test_an_interrupted_run_is_offered_and_goes_on_to_the_same_pixels(
    interrupted: tuple[str, RunSpec], window: MainWindow, wait: Wait
) -> None:
    folder, wanted = interrupted
    wait(lambda: "interrupted at step 4" in notice(window))
    QTest.mouseClick(window.evolution._notice.offer, Qt.MouseButton.LeftButton)
    wait(lambda: folder_of(window.player.session) == folder)
    assert notice(window) == ""
    assert window.step == _BROKEN_OFF
    assert window.acts.run.iconText() == "Resume"
    assert window.sampler.sampler == wanted.sampler
    assert window.sampler.count.value() == 2
    run_to_end(window, wait)
    session = window.player.session
    assert session.end.reason == "done"
    assert len(session) == _STEPS + 1
    for step in steps_of(wanted):
        np.testing.assert_array_equal(step.pixels, session[step.index].pixels)
    wait(lambda: window.recorded.entry(folder).end == "done")


@pytest.fixture
def killed(home: Path) -> str:
    """The folder of a run whose window was killed, with nothing left to it that it could tidy up with."""
    program = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True)
    folder = program.stdout.readline().strip()
    program.kill()
    program.wait()
    program.stdout.close()
    return folder


def test_a_window_that_is_killed_loses_at_most_the_step_in_flight(killed: str, window: MainWindow, wait: Wait) -> None:
    wait(lambda: "was interrupted at step" in notice(window))
    QTest.mouseClick(window.evolution._notice.offer, Qt.MouseButton.LeftButton)
    wait(lambda: folder_of(window.player.session) == killed)
    session = window.player.session
    reached = len(session)
    assert reached >= 3  # the fourth was on its way to the disk
    assert session.end is None
    type_number(window.sampler.steps, str(reached + 2))
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: window.player.gait == "ended" and len(window.player.session) == reached + 3)
    resumed = window.player.session
    wanted = msgspec.structs.replace(resumed.start.spec.sampler, steps=reached + 2)
    for step in steps_of(msgspec.structs.replace(resumed.start.spec, sampler=wanted)):
        np.testing.assert_array_equal(step.pixels, resumed[step.index].pixels)


def test_a_fork_starts_from_the_step_in_sight(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=5)
    run_to_end(window, wait)
    origin = window.player.session
    folder = folder_of(origin)
    press(Qt.Key.Key_Left)
    press(Qt.Key.Key_Left)
    QTest.keyClick(window, Qt.Key.Key_F, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    wait(lambda: at_start(window) and window.player.session is not origin)
    fork = window.player.session
    assert fork.start.spec.chains[0].start == SessionStart(folder, 3, 0)
    assert fork.start.labels == origin.start.labels
    np.testing.assert_array_equal(fork[0].pixels, origin[3].pixels)
    run_to_end(window, wait)
    key = folder_of(window.player.session)
    wait(lambda: (entry := window.recorded.entry(key)) is not None and entry.end == "done")
    assert window.recorded.entry(key).origin.session == folder
    item = window.recorded._items[key]
    assert item.parent() is window.recorded._items[folder]


def test_a_deleted_run_comes_back(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=2)
    run_to_end(window, wait)
    folder = folder_of(window.player.session)
    wait(lambda: (entry := window.recorded.entry(folder)) is not None and entry.end == "done")
    window.recorded.choose(folder)
    window.recorded.delete.click()
    wait(lambda: window.recorded.entry(folder) is None)
    assert sessions.found() == []
    wait(lambda: at_start(window))  # it was in sight
    assert window.player.previous is None
    assert window.acts.undo.text().startswith("&Undo deletion of TA")
    window.acts.undo.trigger()
    wait(lambda: window.recorded.entry(folder) is not None)
    assert [run.folder for run in sessions.found()] == [folder]
    window.acts.redo.trigger()
    wait(lambda: window.recorded.entry(folder) is None)


def test_a_second_run_is_drawn_dashed(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=3)
    run_to_end(window, wait)
    first = folder_of(window.player.session)
    choose(window.sampler.preset, "CS")
    run_to_end(window, wait)
    wait(lambda: window.recorded.entry(first) is not None)
    window.recorded.choose(first)
    window.recorded.compare.click()
    wait(lambda: window.runs.compared is not None)
    assert window.recorded.compared == first
    np.testing.assert_array_equal(
        window.curves.energy._beside["E(x)"].getData()[1], window.runs.compared.numbers.energy[:, 0]
    )
    window.recorded.compare.click()
    assert window.runs.compared is None
    assert not window.curves.energy._beside


def test_a_full_disk_pauses_and_loses_nothing(window: MainWindow, wait: Wait, tmp_path: Path, monkeypatch) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=6)
    press(Qt.Key.Key_Period)
    wait(lambda: len(window.player.session) == 2)
    write = recording.Frames.write

    def full(self, index, pixels):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording.Frames, "write", full)
    press(Qt.Key.Key_Space)
    wait(lambda: "No space left" in notice(window))
    assert window.player.gait == "paused"
    monkeypatch.setattr(recording.Frames, "write", write)
    run_to_end(window, wait)
    folder = Path(folder_of(window.player.session))
    again = Session.open(folder)
    assert again.end.reason == "done"
    assert len(again) == 7
    for step in window.player.session:
        np.testing.assert_array_equal(step.pixels, again[step.index].pixels)


def test_a_folder_that_is_gone_pauses_until_it_is_back(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=6)
    press(Qt.Key.Key_Period)
    wait(lambda: len(window.player.session) == 2)
    folder = Path(folder_of(window.player.session))
    wait(lambda: window.player.session.recording._work.done())
    folder.rename(tmp_path / "away")
    press(Qt.Key.Key_Space)
    wait(lambda: "cannot be written" in notice(window))
    assert window.player.gait == "paused"
    (tmp_path / "away").rename(folder)
    run_to_end(window, wait)
    assert len(Session.open(folder)) == 7


def test_stop_ends_a_run_that_cannot_be_written(window: MainWindow, wait: Wait, tmp_path: Path, monkeypatch) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=6)
    monkeypatch.setattr(sessions, "root", lambda: Path("/dev/null/nowhere"))
    press(Qt.Key.Key_Space)
    wait(lambda: "cannot be written" in notice(window))
    press(Qt.Key.Key_Escape)
    wait(lambda: window.player.gait == "ended")
    assert window.player.session.end.reason == "stopped"
    assert len(window.player.session) == 1
    monkeypatch.undo()
    run_to_end(window, wait)
    assert len(window.player.session) == 7


def test_nothing_is_recorded_where_that_is_not_wanted(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    dialog = recording_dialog(window, wait)
    assert dialog.record.isChecked()
    QTest.mouseClick(dialog.record, Qt.MouseButton.LeftButton, pos=QPoint(8, dialog.record.height() // 2))
    dialog.disk.setValue(3)
    dialog.accept()
    wait_for_focus(window, wait)
    assert sessions.settings().disk == 3 * 10**9
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=2)
    run_to_end(window, wait)
    assert sessions.found() == []
    assert window.player.session.recording is None
    assert window.status.text().endswith("not recorded")
    assert not window.acts.fork.isEnabled()
    dialog = recording_dialog(window, wait)
    assert not dialog.record.isChecked()
    dialog.record.click()
    dialog.accept()
    wait_for_focus(window, wait)
    run_to_end(window, wait)
    assert len(sessions.found()) == 1


def wait_for_focus(window: MainWindow, wait: Wait) -> None:
    wait(lambda: QApplication.activeModalWidget() is None)
    window.activateWindow()
    wait(window.isActiveWindow)


def recording_dialog(window: MainWindow, wait: Wait) -> RecordingDialog:
    window.acts.recording.trigger()
    wait(lambda: window.findChildren(RecordingDialog) and window.findChildren(RecordingDialog)[-1].isVisible())
    return window.findChildren(RecordingDialog)[-1]


def test_the_trash_is_emptied_for_good(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=1)
    run_to_end(window, wait)
    folder = folder_of(window.player.session)
    wait(lambda: (entry := window.recorded.entry(folder)) is not None and entry.end == "done")
    window.runs.delete(folder)
    wait(lambda: sessions.deleted())
    dialog = recording_dialog(window, wait)
    assert dialog.trash.text() == "1 deleted run"
    dialog.empty.click()
    dialog.reject()
    wait(lambda: not sessions.deleted())
    window.acts.undo.trigger()
    wait(lambda: "in the trash" in notice(window))


def test_what_the_menu_of_a_run_does(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=5000)
    for taken in (1, 2):
        press(Qt.Key.Key_Period)
        wait(lambda taken=taken: len(window.player.session) == taken + 1)
    press(Qt.Key.Key_Escape)
    wait(lambda: window.player.gait == "ended")
    folder = folder_of(window.player.session)
    wait(lambda: (entry := window.recorded.entry(folder)) is not None and entry.end == "stopped")
    window.sampler.seed.setValue(3)
    wait(lambda: at_start(window))

    choice(window, folder, "Verify").trigger()
    wait(lambda: "bit-equal" in notice(window))
    assert folder_of(window.player.session) == folder
    choice(window, folder, "Resume").trigger()
    wait(lambda: window.player.gait == "running")
    wait(lambda: window.recorded.live == folder)  # the window has seen it grow
    assert not choice(window, folder, "Delete").isEnabled()
    press(Qt.Key.Key_Escape)
    wait(lambda: window.player.gait == "ended")
    window.runs.shelf.rename(folder, "the good one")
    wait(lambda: window.recorded.entry(folder).name == "the good one")
    assert {run.name for run in sessions.found()} == {"the good one"}


def choice(window: MainWindow, folder: str, text: str) -> QAction:
    [found] = [act for act in window.runs.menu(folder).actions() if act.text().replace("&", "") == text]
    return found


def test_a_verification_can_be_cancelled_and_gives_way(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=40)
    run_to_end(window, wait)
    window.acts.verify.trigger()
    assert window.runs.row.isVisible()
    window.runs.row.cancel.click()
    wait(lambda: not window.runs.row.isVisible())
    assert notice(window) == ""
    window.acts.verify.trigger()
    window.sampler.seed.setValue(5)  # what comes next does not wait for it
    wait(lambda: at_start(window) and not window.runs.row.isVisible())
    assert notice(window) == ""


def test_a_run_is_verified(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=4)
    run_to_end(window, wait)
    window.acts.verify.trigger()
    wait(lambda: notice(window))
    assert notice(window) == "All 5 steps are bit-equal."
    assert not window.runs.row.isVisible()


def test_a_dropped_folder_of_a_run_is_opened(
    interrupted: tuple[str, RunSpec], window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    folder, _ = interrupted
    elsewhere = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    drop(window, data_of(elsewhere))
    wait(lambda: folder_of(window.player.session) == str(elsewhere))
    assert len(window.player.session) == _BROKEN_OFF + 1
    wait(lambda: window.recorded.entry(str(elsewhere)) is not None)
    assert window.recorded.current or window.recorded.shown == str(elsewhere)


def test_a_run_that_another_program_records_is_read_only(
    home: Path, window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    messages = runner.play(spec(steps=_STEPS))
    session = sessions.record(next(messages))
    for step in itertools.islice(messages, 3):
        session.append(step)
    session.recording.flush()
    folder = str(session.recording.folder)
    try:
        window.runs.start()
        wait(lambda: window.recorded.entry(folder) is not None)
        assert window.recorded.entry(folder).state == "running elsewhere"
        window.recorded.choose(folder)
        assert not window.recorded.delete.isEnabled()
        window.recorded.open.click()
        wait(lambda: "Another program records this run" in notice(window))
        assert len(window.player.session) == 3
        window.evolution.clear_notice()
        window.acts.resume.trigger()
        wait(lambda: "another program records it" in notice(window))
        assert window.player.gait == "ended"
        assert len(Session.open(Path(folder))) == 3
    finally:
        session.close()
        messages.close()


@pytest.mark.parametrize("here", [True, False])
def test_a_dropped_picture_brings_its_run_back(window: MainWindow, wait: Wait, tmp_path: Path, here: bool) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), preset="RCS", steps=4)
    type_number(window.sampler.noise, "0.02")
    wait(lambda: at_start(window) and window.player.session.start.spec.sampler.noise == 0.02)
    run_to_end(window, wait)
    made = window.player.session
    folder = Path(folder_of(made))
    list(export(made, tmp_path / "out", Export(formats=("png",))))
    picture = sorted((tmp_path / "out").rglob("*.png"))
    carried = next(path for path in picture if (run := read(path)) is not None and run.frame and run.frame.step == 2)
    if not here:
        sessions.delete(folder)
    choose(window.sampler.preset, "PGD")
    drop(window, data_of(save_image(tmp_path / "b.png", seed=1)))
    wait(lambda: at_start(window) and started_from(window) == [str(tmp_path / "b.png")])
    drop(window, data_of(carried))
    if here:
        wait(lambda: folder_of(window.player.session) == str(folder) and window.step == 2)
        np.testing.assert_array_equal(window.player.session[2].pixels, made[2].pixels)
    else:
        wait(lambda: at_start(window) and started_from(window) == [str(tmp_path / "a.png")])
        assert window.player.session.start.labels == made.start.labels
    assert window.sampler.sampler == made.start.spec.sampler
    assert window.acts.undo.text() == "&Undo settings of a run"


def test_another_programs_picture_is_just_a_picture(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    path, told = tmp_path / "theirs.png", PngInfo()
    told.add_text("parameters", "a cat, masterpiece, steps: 20")
    Image.new("RGB", (32, 32), "red").save(path, pnginfo=told)
    drop(window, data_of(path))
    wait(lambda: at_start(window) and set(started_from(window)) == {str(path)})
    assert notice(window) == ""


def test_a_run_is_copied_as_a_command(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=2)
    run_to_end(window, wait)
    window.acts.copy_command.trigger()
    line = QApplication.clipboard().text()
    assert line.startswith("cem-explorer morph ")
    assert "--target horse" in line
    assert window.status.text() == "The command is in the clipboard"


def test_a_run_can_be_forked_from_its_first_step_on(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=5)
    assert not window.acts.fork.isEnabled()
    press(Qt.Key.Key_Period)
    wait(window.acts.fork.isEnabled)
    window.acts.fork.trigger()
    wait(lambda: at_start(window) and window.player.session.start.names == ("a.png, step 1",))


def test_a_run_that_lost_its_start_is_refused_in_a_sentence(
    interrupted: tuple[str, RunSpec], window: MainWindow, wait: Wait
) -> None:
    folder, _ = interrupted
    recording.frames(Path(folder), recording.read_header(Path(folder))).path(0).unlink()
    before = window.player.session
    window.runs.open(folder)
    wait(lambda: "The pixels of step 0 are missing" in notice(window))
    assert window.player.session is before
