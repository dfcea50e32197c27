"""Whatever is wrong with what comes in: a message that says so, and everything else as it was."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PySide6.QtCore import QMimeData, Qt, QTimer, QUrl
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from safetensors import safe_open
from safetensors.torch import save_file
from windows import Wait, begin_from, data_of, drop, notice, picture, press, run_to_end, save_image

from cem_core import bundle
from cem_gui.panels.export import ExportDialog
from cem_gui.window import MainWindow


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def half(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


class Runs:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# Files, made in a folder; and what the message must say of each -------------------------------------------------------


def no_image(folder: Path) -> Path:
    (folder / "Brief an Ämter.png").write_text("Sehr geehrte Damen und Herren")
    return folder / "Brief an Ämter.png"


def truncated_png(folder: Path) -> Path:
    return half(save_image(folder / "half.png", 64))


def truncated_jpeg(folder: Path) -> Path:
    return half(save_image(folder / "half.jpg", 64))


def huge(folder: Path) -> Path:
    """30,000×30,000 pixels, of which only the header is there."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    (folder / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return folder / "huge.png"


def empty(folder: Path) -> Path:
    (folder / "empty.png").touch()
    return folder / "empty.png"


def missing(folder: Path) -> Path:
    return folder / "gone.png"


def empty_folder(folder: Path) -> Path:
    (folder / "empty folder").mkdir()
    return folder / "empty folder"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def text_as_pt(folder: Path) -> Path:
    (folder / "net.pt").write_text("weights are at https://example.org")
    return folder / "net.pt"


def web_page_as_safetensors(folder: Path) -> Path:
    (folder / "net.safetensors").write_text("<!DOCTYPE html><html>Sign in</html>")
    return folder / "net.safetensors"


def empty_checkpoint(folder: Path) -> Path:
    (folder / "net.pth").touch()
    return folder / "net.pth"


def missing_checkpoint(folder: Path) -> Path:
    return folder / "gone.pt"


def truncated_checkpoint(folder: Path) -> Path:
    weights = {"conv1.weight": torch.zeros(64, 3, 3, 3)}
    save_file(weights, folder / "half.safetensors")
    return half(folder / "half.safetensors")


def shapes_that_do_not_fit(folder: Path) -> Path:
    with safe_open(bundle.models()[bundle.DEFAULT_MODEL], framework="pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = file.metadata()
    key = "layer3.1.conv2.weight"
    weights[key] = weights[key][:-1].contiguous()
    save_file(weights, folder / "cut.safetensors", about)
    return folder / "cut.safetensors"


def another_architecture(folder: Path) -> Path:
    save_file({f"transformer.h.{i}.attn.weight": torch.zeros(4, 4) for i in range(4)}, folder / "gpt.safetensors")
    return folder / "gpt.safetensors"


def code_in_a_pickle(folder: Path) -> Path:
    (folder / "code.pt").write_bytes(pickle.dumps(Runs(folder / "the code ran")))
    return folder / "code.pt"


def code_in_a_torch_file(folder: Path) -> Path:
    torch.save({"state_dict": Runs(folder / "the code ran")}, folder / "code.ckpt")
    return folder / "code.ckpt"


IMAGES = {
    no_image: "Brief an Ämter.png is not an image",
    truncated_png: "half.png is damaged or cut short",
    truncated_jpeg: "half.jpg is damaged or cut short",
    huge: "huge.png has more than 100 megapixels",
    empty: "empty.png is empty",
    missing: "There is no file gone.png",
    empty_folder: "empty folder",
    pipe: "pipe.png is not an ordinary file",
}
CHECKPOINTS = {
    text_as_pt: "net.pt is a text file",
    web_page_as_safetensors: "net.safetensors is a web page",
    empty_checkpoint: "net.pth is empty",
    missing_checkpoint: "gone.pt",
    truncated_checkpoint: "half.safetensors is a damaged safetensors file",
    shapes_that_do_not_fit: "its weights do not fit",
    another_architecture: "gpt.safetensors is of no architecture that is known here",
    code_in_a_pickle: "may run code when read",
    code_in_a_torch_file: "code.ckpt holds no weights",
}


# The window ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def worked(window: MainWindow, wait: Wait, tmp_path: Path) -> MainWindow:
    """A window that has done something already: a run of three steps from an image, looked at in the middle."""
    begin_from(window, wait, save_image(tmp_path / "good.png"), steps=3)
    run_to_end(window, wait)
    press(Qt.Key.Key_Left)
    return window


@contextmanager
def nothing_changes(window: MainWindow) -> Iterator[None]:
    """What is shown, what is recorded and what would run next stay the same."""

    def state() -> dict[str, object]:
        return {
            "session": id(window.player.session),
            "recorded": len(window.player.session),
            "gait": window.player.gait,
            "step": window.step,
            "model": [line.text() for line in window.model.facts.values()],
            "chosen model": window.model.choice.currentText(),
            "place": window.model.place,
            "sampler": window.sampler.sampler,
            "targets": window.sampler.targets,
            "chains": window.setup.spec().chains,
            "title": window.timeline.position.text(),
            "about": window.evolution.about.text(),
        }

    before, shown = state(), picture(window.evolution)
    numbers = [value.copy() for value in (window.player.session.numbers.energy, window.player.session[0].pixels)]
    yield
    assert state() == before
    assert np.array_equal(window.player.session.numbers.energy, numbers[0])
    assert np.array_equal(window.player.session[0].pixels, numbers[1])
    # The message takes some room: the picture may be smaller, but it is the same.
    QApplication.processEvents()
    assert np.array_equal(picture(window.evolution), shown)


@pytest.mark.parametrize("make", [*IMAGES, *CHECKPOINTS], ids=lambda make: make.__name__)
def test_a_bad_file_is_dropped(worked: MainWindow, wait: Wait, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = tmp_path / "what came in"
    folder.mkdir()
    path = make(folder)
    with nothing_changes(worked):
        assert drop(worked, data_of(path))
        wait(lambda: notice(worked))
    assert (IMAGES | CHECKPOINTS)[make] in notice(worked)
    assert notice(worked).endswith(".")
    assert not (folder / "the code ran").exists()
    press(Qt.Key.Key_Escape)
    assert notice(worked) == ""


def test_the_good_images_among_bad_ones_are_taken(worked: MainWindow, wait: Wait, tmp_path: Path) -> None:
    good = [save_image(tmp_path / f"good {i}.png", seed=i) for i in range(2)]
    drop(worked, data_of(good[0], empty(tmp_path), no_image(tmp_path), good[1]))
    wait(lambda: worked.player.live and len(worked.player.session.start.spec.chains) == 2)
    assert "empty.png" in notice(worked)
    assert "Brief an Ämter.png" in notice(worked)
    assert [chain.start.path for chain in worked.player.session.start.spec.chains] == [str(path) for path in good]


def test_many_bad_files_are_told_shortly(worked: MainWindow, wait: Wait, tmp_path: Path) -> None:
    with nothing_changes(worked):
        drop(worked, data_of(*(tmp_path / f"gone {i}.png" for i in range(40))))
        wait(lambda: notice(worked))
    assert len(notice(worked).splitlines()) == 6
    assert notice(worked).endswith("and 35 more")


@pytest.mark.parametrize("url", ["https://example.org/cat.png", "smb://server/cat.png"])
def test_something_elsewhere_is_dropped(worked: MainWindow, url: str) -> None:
    data = QMimeData()
    data.setUrls([QUrl(url)])
    with nothing_changes(worked):
        drop(worked, data)
    assert notice(worked) == "What was dropped is neither a file on this machine nor image data."


def test_text_is_not_even_taken(worked: MainWindow) -> None:
    data = QMimeData()
    data.setText("hello")
    with nothing_changes(worked):
        assert not drop(worked, data)
    assert notice(worked) == ""


def test_a_bad_checkpoint_does_not_disturb_a_run(worked: MainWindow, wait: Wait, tmp_path: Path) -> None:
    sampler = worked.sampler.steps
    sampler.field.setValue(10_000)
    press(Qt.Key.Key_Space)
    wait(lambda: worked.player.live and len(worked.player.session) > 2)
    session, model = worked.player.session, worked.model.choice.currentText()
    drop(worked, data_of(text_as_pt(tmp_path)))
    wait(lambda: notice(worked))
    recorded = len(session)
    wait(lambda: len(session) > recorded)
    assert worked.player.session is session
    assert worked.player.gait == "running"
    assert worked.model.choice.currentText() == model


def test_a_model_opened_through_a_link_stays_open(worked: MainWindow, wait: Wait, tmp_path: Path) -> None:
    link = tmp_path / "my model.safetensors"
    link.symlink_to(list(bundle.models().values())[1])
    drop(worked, data_of(link))
    wait(lambda: worked.player.live and worked.player.session.start.spec.checkpoint == str(link))
    with nothing_changes(worked):
        drop(worked, data_of(empty_checkpoint(tmp_path)))
        wait(lambda: notice(worked))
    assert worked.model.choice.currentText() == "my model.safetensors"


def test_a_device_that_is_not_there(worked: MainWindow, wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with nothing_changes(worked):
        worked.model.device.setFocus()
        QTest.keyClick(worked.model.device, Qt.Key.Key_End)
        assert worked.model.place == ("cuda", "float32")
        wait(lambda: "no CUDA device" in notice(worked))
        wait(lambda: worked.model.place == ("auto", "float32"))
    assert worked.settings.value("device") != "cuda"


def test_an_image_that_vanishes_before_the_run(worked: MainWindow, wait: Wait, tmp_path: Path) -> None:
    (tmp_path / "good.png").unlink()
    with nothing_changes(worked):
        press(Qt.Key.Key_Space)
        wait(lambda: notice(worked))
    assert notice(worked).startswith("There is no file good.png")


def test_no_target_is_left(worked: MainWindow, wait: Wait) -> None:
    from windows import choose_targets

    choose_targets(worked.sampler.chips, [])
    wait(lambda: notice(worked))
    assert notice(worked) == "TA needs a target: choose at least one."
    assert len(worked.player.session) == 4


# Exports -------------------------------------------------------------------------------------------------------------


def answer(window: MainWindow, folder: Path) -> None:
    """Ctrl+E, and in the dialog: the folder, and Export."""

    def fill() -> None:
        dialog = QApplication.activeModalWidget()
        assert isinstance(dialog, ExportDialog)
        dialog.folder_field.selectAll()
        QTest.keyClicks(dialog.folder_field, str(folder))
        QTest.mouseClick(dialog.accept_button, Qt.MouseButton.LeftButton)

    QTimer.singleShot(0, fill)
    press(Qt.Key.Key_E, Qt.KeyboardModifier.ControlModifier)


def in_a_file(folder: Path) -> Path:
    (folder / "file").write_text("keep me")
    return folder / "file" / "export"


def on_a_file(folder: Path) -> Path:
    (folder / "file").write_text("keep me")
    return folder / "file"


def on_something_else(folder: Path) -> Path:
    (folder / "Documents").mkdir()
    (folder / "Documents" / "thesis.tex").write_text("keep me")
    return folder / "Documents"


def name_too_long(folder: Path) -> Path:
    return folder / ("x" * 300)


def read_only(folder: Path) -> Path:
    """Where nobody may write, not even root."""
    return Path("/proc/export")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (in_a_file, "is a file, not a folder"),
        (on_a_file, "is a file, not a folder"),
        (on_something_else, "was not made by CEM Explorer"),
        (name_too_long, "is too long"),
        (read_only, "nothing was exported"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_cannot_be_exported_into(
    worked: MainWindow, wait: Wait, tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    out = make(folder)
    before = {path: path.read_text() for path in folder.rglob("*") if path.is_file()}
    with nothing_changes(worked):
        answer(worked, out)
        wait(lambda: notice(worked) and not worked.exporter.busy)
    assert said in notice(worked)
    assert {path: path.read_text() for path in folder.rglob("*") if path.is_file()} == before
    assert worked.acts.export.isEnabled()


def test_an_export_that_is_cancelled(worked: MainWindow, wait: Wait, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    with nothing_changes(worked):
        answer(worked, folder / "clip")
        QTest.mouseClick(worked.exporter.row.cancel, Qt.MouseButton.LeftButton)
        wait(lambda: not worked.exporter.busy)
    assert notice(worked) == ""
    # It may have been done before the click came: then all of it is there, else nothing.
    assert worked.status.text() in ("Export cancelled: nothing was written", f"Exported to {folder / 'clip'}")
    assert (folder / "clip" / "run.json").exists() == worked.status.text().startswith("Exported")
    assert folder.exists() == worked.status.text().startswith("Exported")
