"""Two models are compared over labelled images: measure, cancel, go on, export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QFileDialog
from tiny import saved, weights
from windows import Wait, press, save_image

from cem_core.probes.measuring import measure
from cem_core.probes.report import Report
from cem_gui import prober
from cem_gui.accuracy import AccuracyStage
from cem_gui.window import MainWindow

IMAGES = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Labelled images of the classes of the tiny models."""
    for number in range(IMAGES):
        save_image(tmp_path / "images" / ("cat", "dog", "horse")[number % 3] / f"{number}.png", 16, number)
    return tmp_path / "images"


@pytest.fixture
def stage(window: MainWindow, wait: Wait, tmp_path: Path) -> AccuracyStage:
    """The view, with two tiny models open in it."""
    go_to(window, wait, window.accuracy, tmp_path)
    return window.accuracy


def go_to(window: MainWindow, wait: Wait, stage: AccuracyStage, folder: Path) -> None:
    for number in range(2):
        window.subjects.choose(number, str(saved(folder / f"net-{number}.safetensors", weights(number))))
    window.tabs.setCurrentIndex(next(i for i in range(1, 6) if window.stage_at(i) is stage))
    assert window.acts.run.isEnabled() == stage.can_run
    wait(lambda: window.subjects.ready)
    assert stage.can_run
    assert window.acts.run.text() == "&Measure"


def give(stage: AccuracyStage, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Choose a folder as a person does."""
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    images = stage.panel.choice.images
    images.setFocus()
    QTest.keyClick(images, Qt.Key.Key_Down)
    assert stage.panel.choice.path == str(folder)


def write(stage: AccuracyStage, text: str) -> None:
    field = stage.panel.choice.eps
    field.setFocus()
    field.selectAll()
    QTest.keyClicks(field, text)
    QTest.keyClick(field, Qt.Key.Key_Return)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def test_measure_and_export(window, stage, wait, folder: Path, monkeypatch, tmp_path: Path) -> None:
    give(stage, monkeypatch, folder)
    write(stage, "0, 0.2, 1")
    assert stage.panel.empty.isVisible()
    window.setFocus()
    press(Qt.Key.Key_Space)
    assert stage.busy
    assert window.acts.run.text() == "&Cancel"
    wait(lambda: not stage.busy)
    assert not stage.panel.notice.isVisible()
    assert window.status.text() == stage.status
    assert stage.status.startswith(f"{IMAGES} images measured")

    expected = Report()
    for answer in measure(stage._report.request):
        expected.add(answer)
    for subject in range(2):
        points = expected.points(subject)
        assert [point.total for point in points] == [IMAGES] * 3
        x, y = stage.panel.plot._drawn[subject].line.getData()
        assert list(x) == [0, 0.2, 1]
        assert list(y) == [100 * point.accuracy for point in points]
    table = stage.panel.table
    assert table.topLevelItemCount() == 6
    assert all(table.topLevelItem(row).text(5)[0] in "●○▲✕" for row in range(6))

    out = tmp_path / "out"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(out))
    window.acts.export.trigger()
    wait(lambda: str(out) in window.status.text())
    assert {"results.csv", "results.json", "curve.svg", "curve.png"} <= {path.name for path in out.iterdir()}
    written = json.loads((out / "results.json").read_text())
    assert written["complete"]
    assert [[point["accuracy"] for point in model["points"]] for model in written["models"]] == [
        [point.accuracy for point in expected.points(subject)] for subject in range(2)
    ]
    with Image.open(out / "curve.png") as drawn:
        drawn.load()


def test_cancelled_and_gone_on_with(window, stage, wait, folder: Path, monkeypatch) -> None:
    """What was measured stays, also on the disk, and is not measured again."""
    give(stage, monkeypatch, folder)
    write(stage, "0, 0.5")
    stage.panel.choice.batch.setValue(1)
    stage.panel.choice.steps.setValue(60)
    window.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: stage._report is not None and len(stage._report.points(1)) == 2)
    press(Qt.Key.Key_Space)
    assert not stage.busy
    assert stage.status.startswith("Cancelled: ")
    assert "so far" in stage.panel.plot.about.text()
    kept = stage._report
    assert not kept.complete
    before = [point.total for point in kept.points(0)]
    wait(lambda: not window.prober._thread._jobs)
    assert stage._report is kept
    assert [point.total for point in kept.points(0)] == before
    cells = lines(prober.journal())
    assert len(cells) >= 4

    press(Qt.Key.Key_Space)
    wait(lambda: not stage.busy)
    assert stage._report is not kept
    assert stage._report.complete
    assert lines(prober.journal())[: len(cells)] == cells
    assert len(lines(prober.journal())) == 2 * 2 * IMAGES, "each cell once"


def test_settings_that_cannot_be_measured_are_told_at_once(window, stage, wait) -> None:
    write(stage, "0, -1")
    assert stage.panel.choice.problem.isVisible()
    assert "ε must be a number between 0 and 10000, not -1." in stage.panel.choice.problem.text()
    assert not stage.can_run
    assert not window.acts.run.isEnabled()
    assert not stage.panel.measure.isEnabled()
    window.setFocus()
    press(Qt.Key.Key_Space)
    assert not stage.busy
    write(stage, "0")
    assert not stage.panel.choice.problem.isVisible()
    assert stage.can_run


def test_results_stay_until_others_come(window, stage, wait, folder: Path, monkeypatch, tmp_path: Path) -> None:
    give(stage, monkeypatch, folder)
    write(stage, "0")
    QTest.mouseClick(stage.panel.measure, Qt.MouseButton.LeftButton)
    wait(lambda: not stage.busy)
    shown = stage.panel.plot.about.text()
    window.subjects.choose(1, str(saved(tmp_path / "another.safetensors", weights(5))))
    wait(lambda: window.subjects.ready)
    assert stage.panel.plot.about.text() == f"{shown} · not yet measured with what is chosen now"
    assert "net-1" in stage.panel.table.topLevelItem(1).text(0)

    (tmp_path / "empty").mkdir()
    stage.panel.choice.choose_path(str(tmp_path / "empty"))
    QTest.mouseClick(stage.panel.measure, Qt.MouseButton.LeftButton)
    wait(lambda: not stage.busy)
    assert stage.panel.notice.isVisible()
    assert "empty" in stage.panel.notice.text.text()
    assert stage.status == "Ended early: nothing was measured"
    assert "net-1" in stage.panel.table.topLevelItem(1).text(0)
    assert stage.can_export
    stage.stop()
    assert not stage.panel.notice.isVisible()

    stage.panel.choice.choose_path(str(folder))
    QTest.mouseClick(stage.panel.measure, Qt.MouseButton.LeftButton)
    wait(lambda: not stage.busy)
    assert stage.panel.plot.about.text() == shown
    assert "another" in stage.panel.table.topLevelItem(1).text(0)


def test_unreadable_images_are_skipped_and_listed(stage, wait, folder: Path, monkeypatch) -> None:
    (folder / "cat" / "broken.png").write_bytes(b"no image")
    give(stage, monkeypatch, folder)
    write(stage, "0")
    QTest.mouseClick(stage.panel.measure, Qt.MouseButton.LeftButton)
    wait(lambda: not stage.busy)
    assert stage._report.complete
    assert "1 image was skipped:" in stage.panel.notes.toPlainText()
    assert "broken.png" in stage.panel.notes.toPlainText()
    assert stage.status.startswith(f"{IMAGES} images measured")


def test_settings_are_remembered(window, stage, monkeypatch, folder: Path) -> None:
    give(stage, monkeypatch, folder)
    write(stage, "0, 3")
    again = AccuracyStage(window.prober, window.subjects, window.filing.files, window.settings, window)
    assert again.panel.choice.settings == stage.panel.choice.settings
    assert again.panel.choice.wanted_eps() == (0, 3)
    window.settings.setValue("accuracy", "no JSON")
    fresh = AccuracyStage(window.prober, window.subjects, window.filing.files, window.settings, window)
    assert fresh.panel.choice.wanted_data().path == ""
    for one in (again, fresh):
        one.panel.deleteLater()
        one.deleteLater()
