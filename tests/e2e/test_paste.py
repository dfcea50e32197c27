"""From the clipboard, and several things at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QMimeData, Qt
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication
from windows import Wait, at_start, choose_targets, data_of, drop, notice, picture, press, save_image, started_from

from cem_core import bundle
from cem_core.images import hwc, to_uint8
from cem_gui.window import MainWindow


@pytest.fixture(autouse=True)
def clean(qapp: QApplication) -> Iterator[None]:
    QApplication.clipboard().clear()
    yield
    QApplication.clipboard().clear()


def paste() -> None:
    press(Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)


def chains(window: MainWindow) -> int:
    return len(window.player.session.start.spec.chains)


def test_an_image_is_pasted(window: MainWindow, wait: Wait, home: Path) -> None:
    """As a browser copies it: pixels without a file."""
    choose_targets(window.sampler.chips, [3])
    wait(lambda: at_start(window))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    QApplication.clipboard().setImage(QImage(pixels.data, 32, 32, 96, QImage.Format.Format_RGB888))
    paste()
    wait(lambda: at_start(window) and chains(window) == 1)
    assert np.array_equal(picture(window.evolution), pixels)
    [kept] = started_from(window)
    assert Path(kept).is_relative_to(home)
    window.player.session.start.spec  # noqa: B018
    press(Qt.Key.Key_Period)
    wait(lambda: len(window.player.session) == 2)
    assert np.array_equal(to_uint8(hwc(window.player.session[0].pixels))[0], pixels)


def test_files_are_pasted(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    paths = [save_image(tmp_path / f"Bild {i} ü.png", 32 + i, seed=i) for i in range(3)]
    QApplication.clipboard().setMimeData(data_of(*paths))
    paste()
    wait(lambda: at_start(window) and chains(window) == 3)
    assert started_from(window) == [str(path) for path in paths]
    assert window.player.session.start.names == ("Bild 0 ü.png", "Bild 1 ü.png", "Bild 2 ü.png")
    assert window.player.session.start.notes[0] == ""
    assert window.player.session.start.notes[1].startswith("33×33 PNG → 32×32")
    for chain in range(3):
        assert np.array_equal(picture(window.evolution, chain), to_uint8(hwc(window.player.session[0].pixels))[chain])


def test_a_checkpoint_is_pasted(window: MainWindow, wait: Wait) -> None:
    name, path = list(bundle.models().items())[1]
    QApplication.clipboard().setMimeData(data_of(path))
    paste()
    wait(lambda: at_start(window) and window.player.session.start.checkpoint.name == name)
    assert notice(window) == ""


@pytest.mark.parametrize("what", ["nothing", "text"])
def test_there_is_nothing_to_paste(window: MainWindow, what: str) -> None:
    session = window.player.session
    if what == "text":
        QApplication.clipboard().setText("a cat")
    paste()
    assert notice(window) == "The clipboard holds no image: copy an image or image files first."
    assert window.player.session is session


def test_an_image_that_cannot_be_kept(window: MainWindow, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = window.player.session
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    image = QImage(4, 4, QImage.Format.Format_RGB888)
    image.fill(Qt.GlobalColor.red)
    QApplication.clipboard().setImage(image)
    paste()
    assert "could not be kept" in notice(window)
    assert window.player.session is session


def test_an_image_is_copied_and_pasted(window: MainWindow, wait: Wait) -> None:
    """What the menu of a chain copies."""
    choose_targets(window.sampler.chips, [3])
    wait(lambda: at_start(window))
    shown = picture(window.evolution, 0)
    window._copy_image()
    paste()
    wait(lambda: at_start(window) and chains(window) == 1)
    assert np.array_equal(picture(window.evolution, 0), shown)


def test_a_folder_of_images_is_dropped(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    for i in range(4):
        save_image(tmp_path / "Ordner mit Bildern" / f"{i}.png", seed=i)
    drop(window, data_of(tmp_path / "Ordner mit Bildern"))
    wait(lambda: at_start(window) and chains(window) == 4)
    assert window.player.session.start.names == ("0.png", "1.png", "2.png", "3.png")


def test_more_than_can_be_shown_are_dropped(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    path = save_image(tmp_path / "same.png")
    drop(window, data_of(*[path] * 70))
    wait(lambda: at_start(window) and chains(window) == 64)
    assert notice(window) == "The first 64 of 70 images are taken."


def test_one_image_goes_to_every_chosen_target(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    choose_targets(window.sampler.chips, [1, 5, 8])
    wait(lambda: at_start(window))
    drop(window, data_of(save_image(tmp_path / "one.png")))
    wait(lambda: at_start(window) and chains(window) == 3)
    assert sorted(window.player.session.start.labels) == [1, 5, 8]


def test_a_checkpoint_and_images_at_once(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    name, path = list(bundle.models().items())[1]
    images = [save_image(tmp_path / f"{i}.png", seed=i) for i in range(2)]
    drop(window, data_of(images[0], path, images[1]))
    wait(lambda: at_start(window) and chains(window) == 2)
    assert window.player.session.start.checkpoint.name == name
    assert started_from(window) == [str(image) for image in images]


@pytest.mark.parametrize("panel", ["model", "sampler", "curves", "timeline", "evolution"])
def test_anything_can_be_dropped_anywhere(window: MainWindow, wait: Wait, tmp_path: Path, panel: str) -> None:
    choose_targets(window.sampler.chips, [3])
    wait(lambda: at_start(window))
    path = save_image(tmp_path / "a.png")
    data: QMimeData = data_of(path)
    data.setText(path.as_uri())  # file managers give this as well
    assert drop(window, data, on=getattr(window, panel))
    wait(lambda: at_start(window) and started_from(window) == [str(path)])
