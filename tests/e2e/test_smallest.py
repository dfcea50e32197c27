"""The smallest ε of two models on one image, in the real window."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from windows import at_start, data_of, drop, press, save_image

from cem_core import bundle, checkpoints
from cem_core.images import prepare

TAB = 2


@pytest.fixture
def stage(window, wait, tmp_path: Path):
    """Two tiny models of the same classes are compared."""
    for index in range(2):
        path = tiny.saved(tmp_path / f"tiny-{index}.safetensors", tiny.weights(seed=index))
        window.subjects.choose(index, str(path))
    QTest.mouseClick(window.tabs, Qt.MouseButton.LeftButton, pos=window.tabs.tabRect(TAB).center())
    wait(lambda: window.subjects.ready)
    window.smallest.panel.steps.setValue(6)
    window.smallest.panel.strip.setFocus()
    return window.smallest


def measured(stage) -> bool:
    return not stage.busy and len(stage.panel._found) == 4


def distance(found) -> float:
    offset = (found.adversarial - found.pixels).ravel().astype(np.float64)
    return float(np.linalg.norm(offset) if found.norm == "l2" else np.abs(offset).max())


def seen(window, index: int, pixels: np.ndarray) -> int:
    """By the model itself."""
    model, _ = checkpoints.load(window.subjects.references[index])
    with torch.no_grad():
        return int(model(torch.from_numpy(pixels)[None]).argmax())


def test_space_measures_and_what_is_told_is_true(window, wait, stage) -> None:
    panel = stage.panel
    assert panel.strip.count() == len(bundle.samples()) + 1
    row = next(i for i, path in enumerate(bundle.samples()) if path.name == "cat-1.jpg")
    where = panel.strip.visualItemRect(panel.strip.item(row)).center()
    QTest.mouseClick(panel.strip.viewport(), Qt.MouseButton.LeftButton, pos=where)
    assert panel.class_name == "cat"
    panel.label.setCurrentIndex(0)  # random weights see no cat in it
    press(Qt.Key.Key_Space)
    assert stage.busy
    assert window.acts.run.text() == "Cancel"
    wait(lambda: measured(stage))
    assert window.status.text() == "4 of 4 found"
    for (index, norm), found in panel._found.items():
        assert np.array_equal(found.pixels, prepare(bundle.samples()[row], 16).pixels)
        assert found.label == seen(window, index, found.pixels)
        assert panel.findings[index, norm].eps.text().startswith("≤ ")
        assert distance(found) == pytest.approx(found.eps, rel=1e-4)
        assert seen(window, index, found.adversarial) == found.seen != found.label
        shown = float(panel.findings[index, norm].eps.text().split()[1])
        assert found.eps <= shown <= 1.01 * found.eps
    more = max((0, 1), key=lambda index: panel._found[index, "l2"].eps)
    assert panel.summary.text().startswith(f"L2: tiny-{more}")

    panel.strip.setFocus()
    press(Qt.Key.Key_Left)
    assert panel.strip.currentRow() == row - 1
    assert not panel._found
    assert panel.findings[0, "l2"].eps.text() == "–"


def test_what_is_wrong_as_it_is_needs_nothing(window, wait, stage) -> None:
    panel = stage.panel
    pixels = prepare(bundle.samples()[0], 16).pixels
    wrong = next(k for k in range(3) if all(seen(window, index, pixels) != k for index in (0, 1)))
    panel.label.setCurrentText(tiny.CLASSES[wrong])
    press(Qt.Key.Key_Space)
    wait(lambda: measured(stage))
    assert [finding.eps.text() for finding in panel.findings.values()] == ["0"] * 4
    assert all(found.eps == 0 for found in panel._found.values())


def test_escape_ends_it_and_what_was_found_stays(window, wait, stage) -> None:
    stage.panel.steps.setValue(2000)
    stage.panel.label.setCurrentIndex(0)
    stage.panel.strip.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: math.isfinite(stage.panel.findings[0, "l2"].bracket.high))
    press(Qt.Key.Key_Escape)
    assert not stage.busy
    assert "ended before" in stage.panel.findings[0, "l2"].said.full_text()
    assert stage.panel.findings[1, "linf"].said.full_text() == "not measured"
    assert window.status.text().startswith("Cancelled: 0 of 4")


def test_an_image_that_is_dropped_here_is_measured_and_no_run_begins(window, wait, stage, tmp_path: Path) -> None:
    session, count = window.player.session, stage.panel.strip.count()
    path = save_image(tmp_path / "mein bïld.png", size=16)
    assert drop(window, data_of(path), on=stage.panel)
    wait(lambda: stage.panel.strip.count() == count + 1)
    assert stage.panel.strip.currentRow() == count
    assert stage.panel.class_name is None
    bad = tmp_path / "no image.png"
    bad.write_bytes(b"nothing")
    drop(window, data_of(bad), on=stage.panel)
    wait(lambda: stage.panel.notice.isVisible())
    assert "no image.png" in stage.panel.notice.text.text()
    press(Qt.Key.Key_Space)
    wait(lambda: measured(stage))
    assert np.array_equal(stage.panel._found[0, "l2"].pixels, prepare(path, 16).pixels)
    assert window.player.session is session


def test_a_checkpoint_that_is_dropped_here_is_opened_by_the_window(window, wait, stage, tmp_path: Path) -> None:
    count = stage.panel.strip.count()
    path = tiny.saved(tmp_path / "third.safetensors", tiny.weights(seed=3))
    assert drop(window, data_of(path), on=stage.panel)
    wait(lambda: window.models.checkpoint.name == "third.safetensors")
    assert stage.panel.strip.count() == count


def test_the_image_in_sight_of_another_size_is_refused_in_a_sentence(window, wait, stage) -> None:
    stage.panel.strip.setCurrentRow(len(bundle.samples()))
    assert "of the run in sight" in stage.panel.about.full_text()
    press(Qt.Key.Key_Space)
    wait(lambda: stage.panel.notice.isVisible())
    assert "The image is 3×32×32, and tiny-0.safetensors takes 3×16×16" in stage.panel.notice.text.text()
    assert not stage.busy


def test_other_models_take_what_was_found_with_them(window, wait, stage) -> None:
    stage.panel.label.setCurrentIndex(0)
    stage.panel.strip.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: measured(stage))
    window.subjects.remove(1)
    assert list(stage.panel.findings) == [(0, "l2"), (0, "linf")]
    assert not stage.panel._found
    assert stage.panel.findings[0, "l2"].eps.text() == "–"


def test_what_is_found_and_chosen_stays_while_another_tab_is_looked_at(window, wait, stage) -> None:
    window.models.open(window.subjects.references[0])
    wait(lambda: window.models.current.reference == window.subjects.references[0] and at_start(window))
    stage._show_sight()
    stage.panel.strip.setCurrentRow(len(bundle.samples()))
    stage.panel.label.setCurrentText("dog")
    press(Qt.Key.Key_Space)
    window.tabs.setCurrentIndex(3)
    window.tabs.setCurrentIndex(TAB)
    assert stage.busy
    wait(lambda: measured(stage))
    window.tabs.setCurrentIndex(3)
    window.tabs.setCurrentIndex(TAB)
    assert measured(stage)
    assert stage.panel.class_name == "dog"


def test_what_is_found_is_exported_on_the_file_thread(window, wait, stage, tmp_path: Path) -> None:
    assert not window.acts.export.isEnabled()
    press(Qt.Key.Key_Space)
    wait(lambda: measured(stage))
    assert window.acts.export.isEnabled()
    stage.write(tmp_path)
    wait(lambda: window.status.text() == f"Exported to {tmp_path / 'smallest'}")
    record = json.loads((tmp_path / "smallest" / "smallest.json").read_text())
    found = {(int(row["name"][5]), row["norm"]): row["eps"] for row in record["results"]}
    assert found == {key: pytest.approx(flip.eps) for key, flip in stage.panel._found.items()}
    (tmp_path / "file").write_text("not a folder")
    stage.write(tmp_path / "file")
    wait(lambda: stage.panel.notice.isVisible())
    assert "cannot be used" in stage.panel.notice.text.text()
    stage.panel.strip.setCurrentRow(3)
    assert not window.acts.export.isEnabled()
