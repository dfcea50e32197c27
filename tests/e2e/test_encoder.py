"""A model without classes is a model like any other: opened, run, sent towards an image, recorded, and left again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from PIL import Image
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QMenu
from windows import (
    Wait,
    at_start,
    choose,
    data_of,
    drop,
    notice,
    press,
    run_to_end,
    save_image,
    type_number,
)

from cem_core import bundle
from cem_core.cli import main
from cem_core.export import FORMATS, Export, settings
from cem_core.images import hwc, to_uint8
from cem_core.messages import GaussianStart, OverallStart
from cem_gui.image_menu import ImageMenu
from cem_gui.player import folder_of
from cem_gui.window import MainWindow


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """Of the size of the bundled models, so that there are Gaussians."""
    weights = {key: value for key, value in tiny.weights().items() if not key.startswith("linear.")}
    return tiny.saved(tmp_path / "encoder.safetensors", weights, image_size="32")


@pytest.fixture
def opened(window: MainWindow, wait: Wait, encoder: Path) -> MainWindow:
    drop(window, data_of(encoder))
    wait(lambda: at_start(window) and not window.player.session.start.checkpoint.classes)
    type_number(window.sampler.steps, "4")
    wait(lambda: at_start(window) and window.player.session.start.spec.sampler.steps == 4)
    return window


def undo(window: MainWindow) -> None:
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)


def preset(window: MainWindow, wait: Wait, name: str, steps: int = 4) -> None:
    choose(window.sampler.preset, name)
    type_number(window.sampler.steps, str(steps))
    wait(lambda: at_start(window) and window.player.session.start.spec.sampler == window.sampler.sampler)


def test_targets_go_with_the_classes_and_come_back(window: MainWindow, wait: Wait, opened: MainWindow) -> None:
    assert window.sampler.towards.isVisible()
    assert not window.sampler.chips.isVisible()
    run_to_end(window, wait)
    preset(window, wait, "MaxEnt")
    assert not window.sampler.towards.isVisible()
    run_to_end(window, wait)
    assert window.player.session.end.reason == "done"
    choose(window.model.choice, bundle.DEFAULT_MODEL)
    wait(lambda: at_start(window) and len(window.player.session.start.checkpoint.classes) == 10)
    assert window.sampler.chips.isVisible()
    assert not window.sampler.sampler.coupled
    assert window.sampler.targets == list(range(10))


def test_a_dropped_image_is_where_chains_go(window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path) -> None:
    path = save_image(tmp_path / "goal.png", size=40, seed=5)
    preset(window, wait, "CS", 12)
    began = window.pictures.paths
    assert drop(window, data_of(path), on=window.sampler.towards)
    wait(lambda: at_start(window) and "goal" in window.player.session.start.references)
    assert window.pictures.paths == began  # it is no start
    run_to_end(window, wait)
    session = window.player.session
    start, numbers = session.start, session.numbers
    assert {start.candidates[label] for label in start.labels} == {"goal"}
    assert (numbers.joint[-1] < numbers.joint[0]).all()
    assert [list(series) for series in window.curves._series(start, numbers, 0, "l2")][:2] == [
        ["E(x)", "E(x,goal)"],
        ["to goal"],
    ]
    undo(window)
    wait(lambda: at_start(window) and "goal" not in window.player.session.start.references)


def test_what_is_no_image_changes_nothing(window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path) -> None:
    towards = list(window.pictures.towards)
    (tmp_path / "text.png").write_text("no image")
    drop(window, data_of(tmp_path / "text.png"), on=window.sampler.towards)
    wait(lambda: "text.png" in notice(window))
    assert window.pictures.towards == towards


def test_overall_and_class_gaussians_spread(window: MainWindow, wait: Wait, opened: MainWindow) -> None:
    choose(window.sampler.preset, "MaxEnt")
    choose(window.sampler.start, "overall")
    window.sampler.count.setValue(3)
    wait(lambda: at_start(window) and window.player.session.start.spec.chains[0].start == OverallStart())
    run_to_end_of(window, wait, 2)
    assert window.player.session.start.names == ("overall Gaussian",) * 3
    choose(window.sampler.start, "gaussian")
    wait(lambda: at_start(window) and isinstance(window.player.session.start.spec.chains[0].start, GaussianStart))
    assert window.player.session.start.names == tuple(f"Gaussian of {n}" for n in ("airplane", "automobile", "bird"))
    choose(window.sampler.gaussian, "cat")
    wait(lambda: at_start(window) and set(window.player.session.start.names) == {"Gaussian of cat"})
    assert window.sampler.sampler.coupled


def run_to_end_of(window: MainWindow, wait: Wait, steps: int) -> None:
    type_number(window.sampler.steps, str(steps))
    wait(lambda: at_start(window) and window.player.session.start.spec.sampler.steps == steps)
    run_to_end(window, wait)


def test_a_row_that_needs_others_gets_them(window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path) -> None:
    path = save_image(tmp_path / "one.png")
    drop(window, data_of(path))
    wait(lambda: at_start(window) and len(window.player.session.start.labels) == 1)
    choose(window.sampler.preset, "MaxEnt")
    wait(lambda: at_start(window) and window.player.session.start.spec.sampler.coupled)
    assert len(window.player.session.start.labels) == 12
    window.sampler.count.setValue(1)
    assert window.sampler.count.value() == 2


def test_rows_change_between_coupled_and_not_while_it_goes(
    window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path
) -> None:
    preset(window, wait, "CS", 100_000)
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Space)
    for name in ("MaxEnt", "PGD-unsup", "Langevin"):
        seen = window.step
        choose(window.sampler.preset, name)
        type_number(window.sampler.steps, "100000")
        wait(lambda: window.step > seen and window.player.session[window.step].sampler.name == name)  # noqa: B023
    window.acts.stop.trigger()
    wait(lambda: window.player.gait == "ended")
    assert window.player.session.end.reason == "stopped"


def test_a_run_of_one_chain_is_not_ended_by_a_row_that_needs_two(
    window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path
) -> None:
    drop(window, data_of(save_image(tmp_path / "one.png")))
    wait(lambda: at_start(window) and len(window.player.session.start.labels) == 1)
    preset(window, wait, "CS", 100_000)
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: window.step >= 1)
    choose(window.sampler.preset, "MaxEnt")
    wait(lambda: "takes hold with the next run" in notice(window))
    seen = window.step
    wait(lambda: window.step > seen)
    assert window.player.gait == "running"
    window.acts.stop.trigger()
    wait(lambda: window.player.gait == "ended")


def test_another_reference_batch(window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path) -> None:
    for name in "abc":
        save_image(tmp_path / "others" / f"{name}.png", seed=ord(name))
    assert "20 samples" in window.sampler.reference.about.text()
    before = window.player.session.start.references
    window.pictures.group_folder(str(tmp_path / "others"))
    wait(lambda: at_start(window) and window.player.session.start.references[:3] == ("a", "b", "c"))
    assert "3 images" in window.sampler.reference.about.text()
    type_number(window.sampler.reference.temperature, "0.2")
    wait(lambda: at_start(window) and window.player.session.start.spec.reference.temperature == 0.2)
    run_to_end(window, wait)
    for name in ("reference batch", "reference batch"):
        assert window.acts.undo.text().replace("&", "") == f"Undo {name}"
        undo(window)
    wait(lambda: at_start(window) and window.player.session.start.references == before)


def test_each_encoder_is_compared_at_its_own_temperature_until_one_is_chosen(
    window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path
) -> None:
    def open_it(name: str, **told: str) -> None:
        weights = {key: value for key, value in tiny.weights().items() if not key.startswith("linear.")}
        drop(window, data_of(tiny.saved(tmp_path / name, weights, image_size="32", **told)))
        wait(lambda: at_start(window) and window.player.session.start.checkpoint.name == name)

    def at() -> tuple[float, float]:
        return window.sampler.reference.temperature.value, window.player.session.start.spec.temperature

    assert at() == (0.5, 0.5)
    open_it("cold.safetensors", temperature="0.07")
    assert at() == (0.07, 0.07)
    undo(window)
    wait(lambda: at_start(window) and window.player.session.start.checkpoint.name == "encoder.safetensors")
    assert at() == (0.5, 0.5)
    type_number(window.sampler.reference.temperature, "0.3")
    wait(lambda: at_start(window) and window.player.session.start.spec.temperature == 0.3)
    open_it("colder.safetensors", temperature="0.05")
    assert at() == (0.3, 0.3), "what was chosen stays"


def test_a_recorded_run_is_opened_compared_forked_and_resumed(
    window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path
) -> None:
    goal = save_image(tmp_path / "goal.png")
    drop(window, data_of(goal), on=window.sampler.towards)
    wait(lambda: at_start(window) and "goal" in window.player.session.start.references)
    run_to_end(window, wait)
    first = window.player.session
    folder = folder_of(first)
    window.acts.fork.trigger()
    wait(lambda: at_start(window) and window.sampler.start_kind == "session")
    forked = window.player.session.start
    assert {forked.candidates[label] for label in forked.labels} == {"goal"}
    assert set(first.start.references) == set(forked.references)
    run_to_end(window, wait)
    window.runs.compare(folder)
    wait(lambda: window.runs.compared is not None)
    choose(window.model.choice, bundle.DEFAULT_MODEL)
    wait(lambda: at_start(window) and len(window.player.session.start.checkpoint.classes) == 10)
    window.runs.open(folder)
    wait(lambda: window.player.session.start.spec.id == first.start.spec.id and not window.models.is_opening)
    wait(lambda: window.pictures.towards == [str(goal)])
    assert window.setup.spec().chains == first.start.spec.chains
    assert window.setup.spec().reference == first.start.spec.reference
    type_number(window.sampler.steps, "6")
    window.go_to(2)
    window.evolution.toggle_large()
    window.evolution.grab()
    window.resume()
    wait(lambda: window.player.gait == "ended" and len(window.player.session) == 7)


def test_the_image_menu_offers_images(window: MainWindow, wait: Wait, opened: MainWindow) -> None:
    start = window.player.session.start
    menu = ImageMenu(window.acts, 1, start, window)
    (targets,) = menu.findChildren(QMenu)
    assert tuple(action.text() for action in targets.actions()) == start.references
    window._target_chosen(1, 14)
    wait(lambda: at_start(window) and window.player.session.start.labels[1] == 14)
    assert window.player.session.start.labels[0] != 14
    assert window.player.session.start.candidates[14] == "horse-1"
    menu.close()
    menu.deleteLater()


def test_views_of_classes_say_what_they_lack(window: MainWindow, wait: Wait, opened: MainWindow) -> None:
    index = [window.tabs.tabText(i) for i in range(window.tabs.count())].index("Landscape")
    window.tabs.setCurrentIndex(index)
    assert "features but no classes: choose a head" in window.landscape.panel.empty.text()
    assert not window.run_panel.run.isEnabled()
    assert window.hints.text() == ""
    window.settings.setValue("linked visited", "true")
    window.tabs.setCurrentIndex(1)
    wait(lambda: "features but no classes: choose a head" in window.linked.panel.empty.text())
    assert not window.run_panel.run.isEnabled()
    assert window.status.text() == "The open model has no classes"
    window.tabs.setCurrentIndex(0)
    choose(window.model.choice, bundle.DEFAULT_MODEL)
    wait(lambda: at_start(window) and len(window.player.session.start.checkpoint.classes) == 10)
    window.tabs.setCurrentIndex(index)
    assert window.run_panel.run.isEnabled()
    window.tabs.setCurrentIndex(1)
    wait(lambda: window.linked._begun is not None)
    assert window.run_panel.run.isEnabled()


def test_numbers_say_what_they_are_of(window: MainWindow, wait: Wait, opened: MainWindow) -> None:
    evolution, start = window.evolution, window.player.session.start
    assert evolution.about.text().endswith(f"E(x) over {len(start.references)} images")
    assert start.references[-1] in evolution.about.toolTip()
    assert f", cosine {evolution.grid.captions[0].value}" in evolution.grid._canvas.accessibleDescription()
    choose(window.model.choice, bundle.DEFAULT_MODEL)
    wait(lambda: at_start(window) and len(window.player.session.start.checkpoint.classes) == 10)
    assert "E(x)" not in evolution.about.text()
    assert f", p {evolution.grid.captions[0].value}" in evolution.grid._canvas.accessibleDescription()


def test_the_lens_says_why_it_stays_off(window: MainWindow, wait: Wait, opened: MainWindow) -> None:
    window.acts.lens.trigger()
    wait(lambda: "The lens is off" in notice(window))
    assert not window.lens.on


def test_its_run_is_exported_in_every_format(
    window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path
) -> None:
    preset(window, wait, "MaxEnt", 2)
    run_to_end(window, wait)
    window.exporter.begin(window.player.session, tmp_path / "out", Export(formats=FORMATS))
    wait(lambda: not window.exporter.busy)
    assert notice(window) == ""
    assert (tmp_path / "out" / "curves.csv").is_file()


def test_window_equals_command(
    window: MainWindow, wait: Wait, opened: MainWindow, tmp_path: Path, encoder: Path
) -> None:
    path, goal = save_image(tmp_path / "photo.png", size=47, seed=3), save_image(tmp_path / "goal.png", seed=4)
    drop(window, data_of(path))
    wait(lambda: at_start(window) and len(window.player.session.start.labels) == 1)
    drop(window, data_of(goal), on=window.sampler.towards)
    wait(lambda: at_start(window) and "goal" in window.player.session.start.references)
    run_to_end(window, wait)
    session = window.player.session

    out = tmp_path / "out"
    words = ["morph", str(path), "--checkpoint", str(encoder), "--target", str(goal), "--sampler", "CS", "--steps", "4"]
    result = CliRunner().invoke(main, [*words, "--out", str(out), "--formats", "png"])
    assert result.exit_code == 0, result.output
    (folder,) = (out / "frames").iterdir()
    frames = sorted(folder.iterdir())
    assert len(frames) == len(session) == 5
    for index, frame in enumerate(frames):
        with Image.open(frame) as image:
            np.testing.assert_array_equal(np.asarray(image), hwc(to_uint8(session[index].pixels))[0])
    assert settings(session).spec.reference.images[-2:] == (str(path), str(goal))
