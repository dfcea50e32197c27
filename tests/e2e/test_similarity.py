"""Two images: how similar a model finds them, and one on its way to the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import training_folders
from PIL import Image
from PySide6.QtCore import Qt
from PySide6.QtGui import QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QDialog, QMenu
from torch.nn import functional
from windows import Wait, data_of, drop, press, read_back, save_image

from cem_core import bundle, checkpoints, images, sessions
from cem_core.images import hwc, to_uint8
from cem_core.messages import ImageStart
from cem_core.session import Session
from cem_gui.panels.export import ExportDialog
from cem_gui.panels.similarity import HINT, told
from cem_gui.similarity import SAMPLES, SimilarityStage
from cem_gui.widgets.figures import figure
from cem_gui.window import _STAGES, MainWindow

ROBUST = bundle.DEFAULT_MODEL
STEPS = 6


def sample(stem: str) -> str:
    return str(next(path for path in bundle.samples() if path.stem == stem))


def enter(window: MainWindow) -> SimilarityStage:
    window.tabs.setCurrentIndex(list(_STAGES).index("similarity") + 1)
    return window.similarity


def ready(stage: SimilarityStage) -> Callable[[], bool]:
    """It stands at step 0, and nothing is about to replace it."""
    return lambda: (
        stage._job is not None
        and stage._job.begun
        and stage._runs is not None
        and stage.last_step == 0
        and stage.status == "Ready · Space runs"
        and not stage._settling.isActive()
        and not any(stage._awaited)
    )


def between(stage: SimilarityStage, *paths: object) -> Callable[[], bool]:
    """As `ready`, and the run is of these two."""
    wanted = tuple(map(str, paths))
    return lambda: ready(stage)() and runs(stage)[0].start.spec.reference.images[:2] == wanted


def shown_similarity(stage: SimilarityStage) -> float:
    return float(stage.panel.columns[0].similarity.text().replace("−", "-"))


def runs(stage: SimilarityStage) -> list[Session]:
    return [session for session in stage._runs.sessions if session is not None and len(session)]


def run_to_end(stage: SimilarityStage, wait: Wait) -> None:
    press(Qt.Key.Key_Space)
    wait(lambda: stage.run_text == "&Run" and not stage.busy)


def cosine(model: str, *paths: object) -> float:
    """Between the features of two images, computed beside all of it."""
    network, checkpoint = checkpoints.load(model, "cpu", "float32", {})
    pixels = np.stack([images.prepare(str(path), checkpoint.size).pixels for path in paths])
    with torch.no_grad():
        g = network.features(torch.from_numpy(pixels))
    return float(functional.cosine_similarity(g[:1], g[1:]))


@pytest.fixture
def stage(window: MainWindow, wait: Wait) -> SimilarityStage:
    """Somebody who has been here before, with the robust model alone and few steps."""
    window.settings.setValue("similarity visited", "true")
    window.similarity.panel.steps.setValue(STEPS)
    window.subjects.remove(1)
    stage = enter(window)
    wait(lambda: window.subjects.ready)
    return stage


@pytest.fixture
def pair(stage: SimilarityStage, wait: Wait) -> SimilarityStage:
    stage.panel.try_samples.click()
    wait(between(stage, *map(sample, SAMPLES)))
    stage.panel.setFocus()
    return stage


def test_the_first_thing_a_newcomer_sees(window: MainWindow, wait: Wait) -> None:
    """The robust model turns one image into something like the other; the standard one adds a pattern."""
    stage = enter(window)
    wait(lambda: stage.last_step > 1)
    assert stage.panel.run.text() == "Pause"
    wait(lambda: stage.run_text == "&Run")
    robust, standard = runs(stage)
    assert robust.start.spec.choices == {"head": "none"}
    assert not robust.start.checkpoint.classes
    assert np.array_equal(robust[0].pixels, standard[0].pixels)
    for session in (robust, standard):
        f = session.numbers.logits[:, 0]
        assert f[0, 0] == pytest.approx(1, abs=1e-4), "A is like itself"
        assert f[-1, 1] > 0.9 > f[0, 1] + 0.5
        assert f[-1, 0] < 0.2

    def roughness(session: Session) -> float:
        """How much neighbouring pixels of the change differ, for its size."""
        change = session[len(session) - 1].pixels[0] - session[0].pixels[0]
        return float(np.abs(np.diff(change, axis=2)).mean() / np.abs(change).mean())

    assert roughness(standard) > 1.5 * roughness(robust)
    assert window.settings.value("similarity visited") == "true"


def test_later_there_are_two_empty_places_and_a_way_to_see_something(stage: SimilarityStage, wait: Wait) -> None:
    assert stage.panel.empty.isVisible()
    assert stage.panel.empty.text() == HINT
    assert all(slot.is_empty for slot in stage.panel.slots)
    assert not stage.can_run
    QTest.mouseClick(stage.panel.try_samples, Qt.MouseButton.LeftButton)
    wait(between(stage, *map(sample, SAMPLES)))
    assert [slot.name.text() for slot in stage.panel.slots] == [f"{stem}.jpg" for stem in SAMPLES]
    assert not stage.panel.empty.isVisible()
    run_to_end(stage, wait)
    assert stage.timeline.position.text() == f"step {STEPS} of {STEPS}"
    stage.panel.slots[0].clear.click()
    assert stage.panel.empty.isVisible()
    assert stage.panel.empty.text() == HINT
    assert stage._job is None
    assert stage.timeline.position.text() == "No steps yet"
    assert not stage.timeline.strip.has_thumb(0)


def test_with_both_images_it_asks_for_no_more(
    stage: SimilarityStage, window: MainWindow, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the runs begin."""
    monkeypatch.setattr(window.prober, "begin", lambda _: None)
    stage.panel.try_samples.click()
    wait(lambda: stage._job is not None)
    assert stage.panel.empty.text() == "Beginning …"
    assert not stage.panel.try_samples.isVisible()


def test_what_is_for_the_window_is_left_to_it(
    pair: SimilarityStage, window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    """A training that was dropped here is no folder of images."""
    folder = training_folders.write(tmp_path / "run", epochs=1)
    assert drop(window, data_of(folder), pair.panel.slots[0])
    wait(lambda: window.stage is window.training)
    assert pair._paths == [sample(stem) for stem in SAMPLES]


def test_two_dropped_images_show_how_similar_they_are(
    stage: SimilarityStage, window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    started = list(window.pictures.paths)
    large, small = save_image(tmp_path / "größer.png", 70, 1, "RGBA"), save_image(tmp_path / "b.png", 32, 2)
    assert drop(window, data_of(large, small), stage.panel)
    wait(between(stage, large, small))
    column = stage.panel.columns[0]
    assert column.similarity.text() == told(cosine(ROBUST, large, small))
    assert stage.last_step == 0, "and nothing was run for it"
    seen = to_uint8(images.prepare(small, 32).pixels)
    face = stage.panel.slots[1].face
    assert np.array_equal(read_back(face.grab().toImage(), face.place(), 32), hwc(seen[None])[0])
    assert window.pictures.paths == started, "they are not for the evolution"


def test_one_goes_where_it_is_dropped_or_pasted(
    pair: SimilarityStage, window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    image = save_image(tmp_path / "own.png")
    assert drop(window, data_of(image), pair.panel.slots[0])
    wait(between(pair, image, sample(SAMPLES[1])))
    started = list(window.pictures.paths)
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    QApplication.clipboard().setImage(QImage(pixels.data, 32, 32, 96, QImage.Format.Format_RGB888).copy())
    pair.panel.setFocus()
    press(Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    wait(lambda: ready(pair)() and pair._paths[1] not in ("", sample(SAMPLES[1])))
    assert pair._paths[0] == str(image)
    assert np.array_equal(np.asarray(Image.open(pair._paths[1]).convert("RGB")), pixels)
    assert window.pictures.paths == started


def test_a_sample_is_chosen_from_the_menu(pair: SimilarityStage, wait: Wait) -> None:
    menu = pair.panel.slots[1].menu()
    [samples] = menu.findChildren(QMenu)
    next(action for action in samples.actions() if action.text() == "frog-1").trigger()
    wait(between(pair, sample(SAMPLES[0]), sample("frog-1")))


def test_the_morph_is_played_and_gone_through(pair: SimilarityStage, window: MainWindow, wait: Wait) -> None:
    run_to_end(pair, wait)
    [session] = runs(pair)
    f = session.numbers.logits[:, 0]
    assert len(session) == STEPS + 1
    assert (np.diff(f[:, 1]) > 0).all(), "each step is towards B"
    assert session.start.labels == (1,)
    column = pair.panel.columns[0]
    pair.panel.setFocus()
    for key, step in ((Qt.Key.Key_Home, 0), (Qt.Key.Key_Right, 1), (Qt.Key.Key_End, STEPS), (Qt.Key.Key_Left, 5)):
        press(key)
        assert window.step == pair.step == pair.timeline.strip.value() == step
        assert column.curves._step == column.distance._step == step
        shown = read_back(column.image.grab().toImage(), column.image.place(), 32)
        assert np.array_equal(shown, hwc(to_uint8(session[step].pixels))[0])
        names = ("A", "B", *session.start.references[2:])
        order = np.argsort(-f[step])
        assert [item.name for item in column.nearest.items[:3]] == [names[k] for k in order[:3]]
        assert column.nearest.items[0].said == figure(f[step].max())
    column.curves.stepped.emit(2)
    assert pair.step == 2


def test_swapped_it_begins_from_the_other(pair: SimilarityStage, wait: Wait) -> None:
    before = shown_similarity(pair)
    run_to_end(pair, wait)
    QTest.mouseClick(pair.panel.swap, Qt.MouseButton.LeftButton)
    wait(between(pair, *map(sample, reversed(SAMPLES))))
    assert shown_similarity(pair) == pytest.approx(before, abs=2e-3), "f is symmetric"
    [chain] = runs(pair)[0].start.spec.chains
    assert chain.start == ImageStart(sample(SAMPLES[1]))
    assert [slot.name.text() for slot in pair.panel.slots] == [f"{stem}.jpg" for stem in reversed(SAMPLES)]


def test_what_f_is_can_be_said(pair: SimilarityStage, wait: Wait) -> None:
    column, plain = pair.panel.columns[0], cosine(ROBUST, *map(sample, SAMPLES))
    pair.panel.temperature.setValue(0.5)
    wait(lambda: ready(pair)() and column.similarity.text() == told(plain / 0.5))
    assert column.cosine.text() == f"cos {told(plain)}"
    pair.panel.cosine.setCurrentIndex(pair.panel.cosine.findData(False))
    pair.panel.cosine.activated.emit(1)
    wait(lambda: ready(pair)() and not runs(pair)[0].start.spec.reference.cosine)
    own, other = runs(pair)[0].numbers.logits[0, 0, :2]
    assert own > abs(other)
    pair.panel.reset.click()
    wait(lambda: ready(pair)() and column.similarity.text() == told(plain))


def test_settings_change_a_morph_that_is_under_way(pair: SimilarityStage, wait: Wait) -> None:
    pair.panel.steps.setValue(1000)
    wait(lambda: ready(pair)() and runs(pair)[0].start.spec.sampler.steps == 1000)
    pair.panel.setFocus()
    press(Qt.Key.Key_Period)
    wait(lambda: pair.last_step == 1)
    pair.panel.way.setCurrentIndex(pair.panel.way.findData("TA"))
    pair.panel.way.activated.emit(1)
    pair.panel.step_size.setValue(0.02)
    press(Qt.Key.Key_Period)
    wait(lambda: pair.last_step == 2)
    [session] = runs(pair)
    assert (session[1].sampler.name, session[1].sampler.b) == ("CS", 0)
    assert (session[2].sampler.name, session[2].sampler.b, session[2].sampler.step_size) == ("TA", -1, 0.02)
    assert pair.busy
    press(Qt.Key.Key_Escape)
    wait(lambda: not pair.busy)
    assert session.end.reason == "stopped"


def test_what_is_no_image_and_what_has_gone_is_a_sentence_and_nothing_is_lost(
    pair: SimilarityStage, window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    drop(window, data_of(text), pair.panel.slots[0])
    wait(lambda: pair.panel.notice.isVisible())
    assert "notes.txt" in pair.panel.notice.text.text()
    assert pair._paths == [sample(stem) for stem in SAMPLES]
    assert ready(pair)()
    image = save_image(tmp_path / "gone.png")
    drop(window, data_of(image), pair.panel.slots[0])
    wait(between(pair, image, sample(SAMPLES[1])))
    run_to_end(pair, wait)
    image.unlink()
    run_to_end(pair, wait)
    assert "There is no file gone.png" in pair.panel.notice.text.text()
    assert len(runs(pair)[0]) == STEPS + 1, "the morph before is still there"


def test_a_model_that_fails_says_so_and_the_other_goes_on(
    pair: SimilarityStage, window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    weights = tiny.weights()
    weights["bn.bias"] = weights["bn.bias"] * float("inf")
    broken = str(tiny.saved(tmp_path / "broken.safetensors", weights))
    window.subjects.add()
    window.subjects.choose(1, broken)
    wait(lambda: pair._runs is not None and any(pair._runs.problems))
    assert pair.panel.columns[1].about.text().startswith("⚠ ")
    pair.panel.setFocus()
    run_to_end(pair, wait)
    assert len(runs(pair)[0]) == STEPS + 1


def test_an_encoder_is_compared_as_it_is(pair: SimilarityStage, window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    kept = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    path = tmp_path / "encoder.pt"
    torch.save(kept, path)
    window.subjects.choose(0, str(path))
    wait(lambda: ready(pair)() and runs(pair)[0].start.spec.checkpoint == str(path))
    assert runs(pair)[0].start.spec.choices == {}
    assert runs(pair)[0].start.references[:2] == SAMPLES


def test_the_last_pair_is_there_again(pair: SimilarityStage, window: MainWindow, wait: Wait) -> None:
    assert window.settings.value("similarity images")
    again = SimilarityStage(window.prober, window.subjects, window.filing.files, window.settings, window)
    again.enter()
    wait(between(again, *map(sample, SAMPLES)))
    again.leave()
    again._drop()
    again.panel.deleteLater()


def test_a_morph_is_recorded_and_exported(
    pair: SimilarityStage, window: MainWindow, wait: Wait, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = len(sessions.found())
    run_to_end(pair, wait)
    [session] = runs(pair)
    wait(lambda: len(list(window.recorded.entries())) == before + 1)
    folder = session.recording.folder
    assert np.array_equal(Session.open(Path(folder))[STEPS].pixels, session[STEPS].pixels)

    def answer(dialog: ExportDialog) -> int:
        dialog.folder_field.setText(str(tmp_path / "out"))
        for name, check in dialog.formats.items():
            check.setChecked(name in ("csv", "png"))
        return int(QDialog.DialogCode.Accepted)

    monkeypatch.setattr(ExportDialog, "exec", answer)
    window.acts.export.trigger()
    wait(lambda: window.status.text() == f"Exported to {tmp_path / 'out'}")
    [table] = (tmp_path / "out").glob("*.csv")
    assert SAMPLES[1] in table.read_text()
    assert list((tmp_path / "out").rglob("*.png"))


def test_the_window_closes_while_it_runs(pair: SimilarityStage, window: MainWindow, wait: Wait) -> None:
    pair.panel.steps.setValue(1000)
    wait(lambda: ready(pair)() and runs(pair)[0].start.spec.sampler.steps == 1000)
    pair.panel.setFocus()
    press(Qt.Key.Key_Space)
    wait(lambda: pair.last_step > 1)
    [session] = runs(pair)
    window.close()
    assert session.end.reason == "stopped"
    found = {run.folder: run for run in sessions.found()}
    assert not found[str(session.recording.folder)].interrupted
