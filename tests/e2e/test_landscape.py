"""Energies around an image and along a run, in the real window."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from scenarios_session import session as scenario
from windows import at_start, choose, press, run_to_end, type_number

from cem_core import checkpoints
from cem_gui.landscape import _Gathering, evenly

TAB = 5


@pytest.fixture
def stage(window, wait, tmp_path: Path):
    """A run of six steps of a tiny model, and the tab before it is entered."""
    window.models.open(str(tiny.saved(tmp_path / "tiny.safetensors")))
    wait(lambda: window.models.checkpoint.name.startswith("tiny") and at_start(window))
    type_number(window.sampler.steps, "6")
    wait(lambda: at_start(window) and window.player.session.start.spec.sampler.steps == 6)
    window.landscape.panel.size_.setCurrentIndex(0)
    return window.landscape


def go_to_tab(window, index: int = TAB) -> None:
    QTest.mouseClick(window.tabs, Qt.MouseButton.LeftButton, pos=window.tabs.tabRect(index).center())
    assert window.tabs.currentIndex() == index


def is_whole(stage) -> bool:
    return not stage.busy and stage._survey is not None and stage._survey.done == stage._survey.energy.size


def energies(window, images: np.ndarray) -> np.ndarray:
    """(N, K) E(x,k) by the model itself."""
    model, _ = checkpoints.load(window.models.current.reference)
    with torch.no_grad():
        return -model(torch.from_numpy(images)).numpy()


def test_it_draws_what_is_in_sight_and_every_energy_is_right(window, wait, stage, tmp_path: Path) -> None:
    run_to_end(window, wait)
    window.go_to(2)
    go_to_tab(window)
    choose(stage.panel.which, "around")
    wait(lambda: is_whole(stage) and len(stage._plane.path) == 1)
    plane, survey = stage._plane, stage._survey
    chain = window.evolution.chosen
    assert np.array_equal(plane.origin, window.player.session[2].pixels[chain])
    at = np.linspace(-plane.extent, plane.extent, 33)
    places = [(0, 0), (31, 4), (16, 16), (7, 30)]
    points = np.stack([plane.image(at[column], at[row]) for row, column in places])
    joint = energies(window, points)
    expected = -np.logaddexp.reduce(-joint, axis=1)
    assert [survey.energy[place] for place in places] == pytest.approx(expected, abs=1e-3)
    assert "1,089 points" in window.status.text()

    choose(stage.panel.energy, False)
    stage.panel.label.setCurrentText("horse")
    wait(lambda: is_whole(stage) and stage._request.label == 2)
    assert [stage._survey.energy[place] for place in places] == pytest.approx(joint[:, 2], abs=1e-3)

    choose(stage.panel.which, "along")
    wait(lambda: is_whole(stage) and len(stage._plane.path) == 7)
    trajectory = np.stack([step.pixels[chain] for step in window.player.session]).reshape(7, -1)
    flat = np.stack([stage._plane.u.ravel(), stage._plane.v.ravel()], axis=1)
    assert stage._plane.path == pytest.approx((trajectory - stage._plane.origin.ravel()) @ flat, abs=1e-3)
    assert "of the variance of the path" in stage.panel.about.text()

    stage.write(tmp_path)
    stage.write(tmp_path)
    wait(lambda: window.status.text().endswith(str(tmp_path / "landscape-2")))
    for name in ("landscape", "landscape-2"):
        with Image.open(tmp_path / name / "landscape.png") as picture:
            assert picture.width > 600
        rows = list(csv.DictReader((tmp_path / name / "landscape.csv").read_text().splitlines()))
        assert len(rows) == 1089
        assert [float(row["energy"]) for row in rows] == pytest.approx(stage._survey.energy.ravel(), rel=1e-5)
        record = json.loads((tmp_path / name / "landscape.json").read_text())
        assert (record["energy"], record["sha256"]) == ("E(x,horse)", window.models.checkpoint.sha256)


def test_a_full_or_missing_place_is_told(window, wait, stage, tmp_path: Path) -> None:
    go_to_tab(window)
    wait(lambda: is_whole(stage))
    (tmp_path / "file").write_text("not a folder")
    stage.write(tmp_path / "file")
    wait(lambda: stage.panel.notice.isVisible())
    assert "cannot be used" in stage.panel.notice.text.text()
    assert stage.can_export


def test_a_run_that_has_not_moved_says_what_to_do(window, wait, stage) -> None:
    choose(stage.panel.which, "along")
    go_to_tab(window)
    assert stage.panel.empty.isVisible()
    assert "press Space in the Evolution tab" in stage.panel.empty.text()
    assert not window.acts.run.isEnabled()
    choose(stage.panel.which, "around")
    wait(lambda: is_whole(stage))
    assert stage.panel.map.isVisible()
    assert window.acts.run.isEnabled()


def test_nothing_is_drawn_twice_and_another_image_is_drawn_by_itself(window, wait, stage) -> None:
    go_to_tab(window)
    wait(lambda: is_whole(stage))
    first = stage._plane
    go_to_tab(window, 0)
    go_to_tab(window)
    assert not stage.busy
    assert stage._plane is first
    window.pictures.use_photos()
    wait(lambda: is_whole(stage) and stage._plane is not first)
    assert np.array_equal(stage._plane.origin, window.player.session[0].pixels[window.evolution.chosen])


def test_escape_ends_it_and_space_draws_anew(window, wait, stage) -> None:
    stage.panel.size_.setCurrentIndex(2)
    go_to_tab(window)
    wait(lambda: stage._survey is not None)
    window.landscape.panel.map.view.setFocus()
    press(Qt.Key.Key_Escape)
    assert not stage.busy
    done = stage._survey.done
    assert done < 128 * 128
    assert "cancelled" in window.status.text()
    assert stage.panel.run.text() == "Redraw"
    press(Qt.Key.Key_Space)
    assert stage.busy
    wait(lambda: stage._survey is not None and stage._survey.done > done)


def test_an_image_that_the_model_does_not_take_is_refused_in_a_sentence(window, wait, stage) -> None:
    run_to_end(window, wait)
    session = window.player.session
    go_to_tab(window)
    wait(lambda: is_whole(stage))
    stage._gathering = _Gathering(scenario(size=8), 0, [0])  # a run of a model with other inputs
    stage._gather()
    wait(lambda: stage.panel.notice.isVisible())
    assert "takes images of 3×16×16, not 3×8×8" in stage.panel.notice.text.text()
    assert window.player.session is session


def test_a_run_that_has_moved_is_followed_until_somebody_chooses(window, wait, stage) -> None:
    go_to_tab(window)
    wait(lambda: is_whole(stage))
    assert stage.panel.choices.which == "around"
    go_to_tab(window, 0)
    run_to_end(window, wait)
    go_to_tab(window)
    wait(lambda: is_whole(stage) and len(stage._plane.path) == 7)
    assert stage.panel.choices.which == "along"
    choose(stage.panel.which, "around")
    wait(lambda: is_whole(stage) and len(stage._plane.path) == 1)
    go_to_tab(window, 0)
    go_to_tab(window)
    assert stage.panel.choices.which == "around"


# Reading a run -------------------------------------------------------------------------------------------------------


def test_steps_are_read_evenly_and_piece_by_piece_from_the_disk_too() -> None:
    run = scenario(steps=300, chains=3, budget=20_000)
    steps = evenly(len(run), 256)
    assert (steps[0], steps[-1], len(steps)) == (0, 299, 256)
    assert set(np.diff(steps)) <= {1, 2}
    assert evenly(5, 256) == [0, 1, 2, 3, 4]
    gathering = _Gathering(run, 1, steps)
    pieces = 1
    while not gathering.read_for(0):
        pieces += 1
    assert pieces == 256
    assert gathering.steps == steps
    assert np.array_equal(gathering.pixels[200], run[steps[200]].pixels[1])
    assert gathering.pixels[0].base is None, "the other chains are not kept alive"
