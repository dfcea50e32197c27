"""What an export is asked, and how far it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAccessible
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractSpinBox, QComboBox, QDialog, QLabel, QWidget
from scenarios_session import session
from windows import discard

from cem_core.export import FORMATS, Export, Progress, video
from cem_gui.panels.export import ExportDialog, ExportRow, folder_name


@pytest.fixture
def dialog(qtbot, tmp_path: Path) -> Iterator[ExportDialog]:
    """A run of which the steps 0 to 40 are recorded."""
    dialog = ExportDialog(session(41, 3, size=32), tmp_path / "ta-horse")
    with qtbot.waitExposed(dialog):
        dialog.show()
    yield dialog
    dialog.close()
    discard(dialog)


def fill(spin: QAbstractSpinBox, text: str) -> None:
    spin.setFocus()
    spin.selectAll()
    QTest.keyClicks(spin, text)
    QTest.keyClick(spin, Qt.Key.Key_Tab)


def click(box: QWidget) -> None:
    QTest.mouseClick(box, Qt.MouseButton.LeftButton, pos=QPoint(8, box.height() // 2))


def choose(combo: QComboBox, text: str) -> None:
    combo.setCurrentIndex(combo.findText(text))


def test_by_default_everything_is_written(dialog: ExportDialog, tmp_path: Path) -> None:
    assert dialog.choices == Export(first=0, last=40)
    assert dialog.folder == tmp_path / "ta-horse"
    assert dialog.accept_button.isEnabled()
    assert dialog.problem.text() == "run.json with all settings is always written."


def test_every_choice_is_in_the_answer(dialog: ExportDialog) -> None:
    click(dialog.formats["sheet"])
    click(dialog.formats["apng"])
    fill(dialog.first, "3")
    fill(dialog.last, "30")
    fill(dialog.every, "2")
    fill(dialog.scale, "5")
    fill(dialog.fps, "12.5")
    choose(dialog.layouts, "Image and difference")
    choose(dialog.gain, "×32")
    click(dialog.captions)
    fill(dialog.hold, "1.5")
    click(dialog.ease)
    click(dialog.loop)
    assert dialog.choices == Export(
        formats=("png", "csv"), first=3, last=30, every=2, layout="difference", gain=32, captions=True, scale=5,
        fps=12.5, hold=1.5, ease=True, loop=False,
    )  # fmt: skip


def test_settings_alone_can_be_written(dialog: ExportDialog) -> None:
    for box in dialog.formats.values():
        if box.isChecked():
            click(box)
    assert dialog.choices.formats == ()
    assert dialog.accept_button.isEnabled()


def test_the_formats_are_those_that_there_are(dialog: ExportDialog) -> None:
    assert set(dialog.formats) == set(FORMATS)


def test_a_range_that_is_none_is_said(dialog: ExportDialog) -> None:
    fill(dialog.first, "30")
    fill(dialog.last, "3")
    assert dialog.problem.text() == "The first step must not come after the last."
    assert not dialog.accept_button.isEnabled()
    fill(dialog.last, "30")
    assert dialog.accept_button.isEnabled()
    assert dialog.choices.steps(41) == [30]


@pytest.mark.parametrize("text", ["", "   "])
def test_without_a_folder_there_is_no_export(dialog: ExportDialog, text: str) -> None:
    dialog.folder_field.selectAll()
    QTest.keyClick(dialog.folder_field, Qt.Key.Key_Delete)
    QTest.keyClicks(dialog.folder_field, text)
    assert dialog.problem.text() == "Choose a folder."
    assert not dialog.accept_button.isEnabled()


@pytest.mark.parametrize("text", ["99999999", "-5", "nan"])
def test_no_number_can_be_typed_that_an_export_refuses(dialog: ExportDialog, text: str) -> None:
    for spin in (dialog.first, dialog.last, dialog.every, dialog.scale, dialog.fps):
        fill(spin, text)
    if dialog.accept_button.isEnabled():
        assert dialog.choices.steps(41)


def test_a_home_folder_may_be_abbreviated(dialog: ExportDialog) -> None:
    dialog.folder_field.setText("  ~/Bilder/Über uns  ")
    assert dialog.folder == Path.home() / "Bilder" / "Über uns"


def test_return_exports_and_escape_does_not(qtbot, dialog: ExportDialog) -> None:
    with qtbot.waitSignal(dialog.accepted):
        QTest.mouseClick(dialog.accept_button, Qt.MouseButton.LeftButton)
    assert dialog.result() == QDialog.DialogCode.Accepted
    dialog.show()
    with qtbot.waitSignal(dialog.rejected):
        QTest.keyClick(dialog, Qt.Key.Key_Escape)
    assert dialog.result() == QDialog.DialogCode.Rejected


def test_a_run_of_one_step_can_be_exported(qtbot, tmp_path: Path) -> None:
    dialog = ExportDialog(session(1, 1), tmp_path / "noise")
    qtbot.addWidget(dialog)
    assert dialog.choices.steps(1) == [0]


def test_every_field_has_a_name(dialog: ExportDialog) -> None:
    for widget in dialog.findChildren(QWidget):
        inner = isinstance(widget.parent(), QAbstractSpinBox)
        if widget.focusPolicy() & Qt.FocusPolicy.TabFocus and widget.isVisible() and not inner:
            name = QAccessible.queryAccessibleInterface(widget).text(QAccessible.Text.Name)
            assert name, widget


# What it shows of the choices ----------------------------------------------------------------------------------------


def test_the_size_and_the_length_are_said(dialog: ExportDialog) -> None:
    assert dialog.size_label.text() == "520 × 520 pixels"  # 3 chains of 32 pixels, enlarged 8 times
    assert dialog.length_label.text() == "41 frames, 2.1 s"
    fill(dialog.scale, "2")
    fill(dialog.every, "10")
    fill(dialog.hold, "1")
    choose(dialog.layouts, "Original and image")
    assert dialog.size_label.text() == "266 × 134 pixels"
    assert dialog.length_label.text() == "5 frames, 2.2 s"


def test_the_preview_follows_the_layout(dialog: ExportDialog) -> None:
    seen = [dialog.preview.pixmap().toImage()]
    for title in ("Image and difference", "Original and image", "Image and curves"):
        choose(dialog.layouts, title)
        seen.append(dialog.preview.pixmap().toImage())
    click(dialog.captions)
    seen.append(dialog.preview.pixmap().toImage())
    assert all(one != other for one, other in itertools.pairwise(seen))
    assert all(not image.isNull() and image.width() <= dialog.preview.width() for image in seen)


def test_the_gain_is_for_differences(dialog: ExportDialog) -> None:
    assert not dialog.gain.isEnabled()
    choose(dialog.layouts, "Image and difference")
    assert dialog.gain.isEnabled()


def test_frames_that_are_too_large_are_said(dialog: ExportDialog) -> None:
    huge = ExportDialog(session(2, 2, size=512), dialog.folder)
    fill(huge.scale, "64")
    assert "pixels is too large: choose a smaller scale" in huge.problem.text()
    assert not huge.accept_button.isEnabled()
    discard(huge)


def test_what_lossy_formats_keep_is_asked_for_once_nothing_changes(qtbot, dialog: ExportDialog) -> None:
    asked: list[Export] = []
    dialog.measure_wanted.connect(asked.append)
    with qtbot.waitSignal(dialog.measure_wanted):
        click(dialog.formats["gif"])
        click(dialog.formats["webp-lossy"])
        fill(dialog.scale, "3")
        assert dialog.remarks["gif"].text() == "measuring …"
    [choices] = asked
    assert choices == Export(formats=("webp-lossy", "gif"), first=0, last=40, scale=3)
    dialog.show_fidelity(choices, "gif", "keeps 12 %")
    assert dialog.remarks["gif"].text() == "keeps 12 %"
    fill(dialog.fps, "7")  # makes no difference
    assert dialog.remarks["gif"].text() == "keeps 12 %"
    click(dialog.captions)
    dialog.show_fidelity(choices, "gif", "keeps 12 %")
    assert dialog.remarks["gif"].text() == "measuring …"  # that was of other frames
    click(dialog.formats["gif"])
    assert dialog.remarks["gif"].text() == "changes pixels"


@pytest.mark.parametrize("installed", [True, False])
def test_videos_say_what_they_need(qtbot, tmp_path: Path, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "installed", lambda: installed)
    dialog = ExportDialog(session(2, 1), tmp_path)
    qtbot.addWidget(dialog)
    assert {dialog.formats[name].isEnabled() for name in ("mp4", "ffv1", "vp9")} == {installed}
    said = [label.text() for label in dialog.findChildren(QLabel)]
    assert (video.HOW_TO_INSTALL in said) == (not installed)


def test_it_fits_a_small_screen(qtbot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "installed", lambda: False)  # one more line
    dialog = ExportDialog(session(2, 1, size=32), tmp_path)
    qtbot.addWidget(dialog)
    choose(dialog.layouts, "Image and difference")
    hint = dialog.sizeHint()
    assert hint.width() <= 1000
    assert hint.height() <= 700


# The row in the status bar -------------------------------------------------------------------------------------------


def test_the_row_shows_how_far_it_is_and_cancels(qtbot, qapp) -> None:
    row = ExportRow()
    qtbot.addWidget(row)
    row.begin()
    assert row.isVisible()
    assert row.bar.maximum() == 0  # busy: how much there is to do is not yet known
    row.show_progress(Progress(3, 9, "Step 2"))
    assert (row.bar.value(), row.bar.maximum()) == (3, 9)
    assert row.what.text() == "Exporting · Step 2"
    row._begun -= 6  # seconds ago
    row.show_progress(Progress(3, 9, "Step 2"))
    assert row.what.text() == "Exporting · Step 2 · 12 s left"
    with qtbot.waitSignal(row.cancelled):
        QTest.mouseClick(row.cancel, Qt.MouseButton.LeftButton)


@pytest.mark.parametrize(
    ("sampler", "targets", "name"),
    [
        ("TA", ["horse"], "ta-horse"),
        ("RCS", ["cat", "dog"], "rcs-cat-dog"),
        ("PGD-Linf", ["a", "b", "c"], "pgd-linf-3-classes"),
        ("TA", ["great white shark / Carcharodon"], "ta-great-white-shark-carcharodon"),
        ("TA", ["../../etc"], "ta-etc"),
        ("TA", ["ネコ"], "ta"),
    ],
)
def test_the_name_of_a_folder(sampler: str, targets: list[str], name: str) -> None:
    assert folder_name(sampler, targets) == name
