"""What is dropped, pasted and chosen."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QMimeData, QUrl
from PySide6.QtGui import QColor, QImage
from windows import data_of, save_image

from cem_core import images
from cem_core.messages import Refused
from cem_gui import intake

NAMES = ["plain.png", "mit Leerzeichen & Ümläuten.png", "猫 #1 100%.png", "e\u0301.png", "a;b'c\"d.png", "🙂.png"]


@pytest.fixture
def copied(home: Path) -> QImage:
    """As a browser copies it."""
    image = QImage(3, 2, QImage.Format.Format_ARGB32)
    for x in range(3):
        for y in range(2):
            image.setPixelColor(x, y, QColor(100 * x, 200 * y, 50))
    return image


def data_with(image: QImage) -> QMimeData:
    data = QMimeData()
    data.setImageData(image)
    return data


@pytest.mark.parametrize("name", NAMES)
def test_any_name_survives(tmp_path: Path, name: str) -> None:
    path = save_image(tmp_path / "Bilder von früher" / name)
    [found] = intake.paths_of(data_of(path))
    assert unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", str(path))
    assert Path(found).exists()


def test_several_files_keep_their_order(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("c.png", "a.pt", "b.png")]
    assert intake.paths_of(data_of(*paths)) == paths


def test_only_local_files_are_taken(tmp_path: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl("https://example.org/cat.png"), QUrl.fromLocalFile(str(tmp_path / "a.png")), QUrl("data:,x")])
    assert intake.paths_of(data) == [str(tmp_path / "a.png")]


@pytest.mark.parametrize("url", ["https://example.org/cat.png", "mailto:a@example.org", ""])
def test_what_is_elsewhere_is_nothing(url: str) -> None:
    data = QMimeData()
    data.setUrls([QUrl(url)])
    assert intake.paths_of(data) == []


def test_text_is_nothing() -> None:
    data = QMimeData()
    data.setText("/etc/passwd")
    assert intake.paths_of(data) == []
    assert intake.paths_of(QMimeData()) == []


def test_image_data_is_kept_in_a_file(home: Path, copied: QImage) -> None:
    [path] = intake.paths_of(data_with(copied))
    assert Path(path).is_relative_to(home / ".cache")
    pixels = images.prepare(path, 2).pixels  # the centre square of 3×2 is its left part
    assert np.array_equal(images.to_uint8(pixels)[2], np.full((2, 2), 50))
    assert np.array_equal(images.to_uint8(pixels)[0], [[0, 100], [0, 100]])


def test_the_same_image_data_is_kept_once(home: Path, copied: QImage) -> None:
    first = intake.paths_of(data_with(copied))
    assert intake.paths_of(data_with(copied)) == first
    copied.setPixelColor(0, 0, QColor("white"))
    assert intake.paths_of(data_with(copied)) != first


def test_a_file_is_preferred_to_the_image_data_beside_it(tmp_path: Path, home: Path, copied: QImage) -> None:
    """Some programs copy both."""
    data = data_of(tmp_path / "a.png")
    data.setImageData(copied)
    assert intake.paths_of(data) == [str(tmp_path / "a.png")]


def test_image_data_beside_an_address_is_taken(home: Path, copied: QImage) -> None:
    """Browsers give the picture and where it is from."""
    data = data_with(copied)
    data.setUrls([QUrl("https://example.org/cat.png")])
    assert len(intake.paths_of(data)) == 1


def test_image_data_that_is_none_is_nothing(home: Path) -> None:
    assert intake.paths_of(data_with(QImage())) == []


def test_image_data_that_cannot_be_kept_is_refused(home: Path, copied: QImage, monkeypatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    with pytest.raises(Refused, match="could not be kept"):
        intake.paths_of(data_with(copied))


def test_image_data_is_not_kept_by_halves(home: Path, copied: QImage, monkeypatch) -> None:
    monkeypatch.setattr(QImage, "save", lambda *_: False)
    with pytest.raises(Refused, match="could not be kept"):
        intake.paths_of(data_with(copied))


# Two kinds of files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix", [".safetensors", ".pt", ".pt2", ".pth", ".ckpt", ".t7", ".tar", ".bin", ".PT", ".SafeTensors"]
)
def test_checkpoints_are_known_by_their_suffix(suffix: str) -> None:
    assert intake.sort([f"/a/b{suffix}", "/a/b.png"]) == ([f"/a/b{suffix}"], ["/a/b.png"])


def test_everything_else_is_read_as_an_image() -> None:
    assert intake.sort(["/a.JPG", "/b", "/c.txt", "/d.pt.png"]) == ([], ["/a.JPG", "/b", "/c.txt", "/d.pt.png"])


ZIP, LEGACY = b"PK\x03\x04 and more", bytes.fromhex("80028a0a6cfc9c46f920") + b"and more"
SAFETENSORS = (24).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}   '


@pytest.mark.parametrize("head", [ZIP, LEGACY, SAFETENSORS], ids=["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("name", ["ckpt.t7rocl_run_0", "net", "weights.epoch_12", "cat.dat"])
def test_checkpoints_are_known_by_their_first_bytes(tmp_path: Path, head: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(head)
    assert intake.sort([str(tmp_path / name)]) == ([str(tmp_path / name)], [])


@pytest.mark.parametrize("head", [b"", b"PK", b"{", b"GIF89a", b"\x80\x02}q\x00.", b"hello, {world}"], ids=repr)
def test_other_first_bytes_are_left_to_the_reader_of_images(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "what").write_bytes(head)
    assert intake.sort([str(tmp_path / "what")]) == ([], [str(tmp_path / "what")])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert intake.sort([str(tmp_path / "pipe")]) == ([], [str(tmp_path / "pipe")])


def test_of_a_large_folder_only_so_many_files_are_looked_into(tmp_path: Path, monkeypatch) -> None:
    """And none of those whose name says enough."""
    looked: list[str] = []
    monkeypatch.setattr(intake, "_holds_weights", lambda path: bool(looked.append(path)))
    names = [*(f"{i}.png" for i in range(500)), *(f"{i}.dat" for i in range(1500)), "net.pt"]
    for name in names:
        (tmp_path / name).touch()
    weights, pictures = intake.sort([str(tmp_path)])
    assert weights == [str(tmp_path / "net.pt")]
    assert len(pictures) == 2000
    assert len(looked) == 1000


def test_the_dialogs_know_the_same_names() -> None:
    for suffix in (".pt", ".pt2", ".safetensors", ".pth", ".tar"):
        assert f"*{suffix} " in intake.MODEL_FILTER
    assert "*.t7*" in intake.MODEL_FILTER


def test_a_folder_stands_for_the_files_in_it(tmp_path: Path) -> None:
    for name in ("b ü.png", "a.png", "net.pt", "deeper/c.png"):
        save_image(tmp_path / f"{name}.png").rename(tmp_path / name)
    assert intake.sort([str(tmp_path)]) == (
        [str(tmp_path / "net.pt")],
        [str(tmp_path / "a.png"), str(tmp_path / "b ü.png")],
    )


def test_what_a_folder_hides_stays_hidden(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / ".DS_Store").touch()
    assert intake.sort([str(tmp_path)]) == ([], [str(tmp_path / "a.png")])


def test_an_empty_folder_is_nothing(tmp_path: Path) -> None:
    assert intake.sort([str(tmp_path)]) == ([], [])


@pytest.mark.parametrize("name", ["gone", "x" * 5000, "gone/deeper"])
def test_what_is_not_there_is_left_to_the_reader(tmp_path: Path, name: str) -> None:
    """Which says so."""
    assert intake.sort([str(tmp_path / name)]) == ([], [str(tmp_path / name)])


def test_a_folder_that_may_not_be_entered_is_left_to_the_reader(tmp_path: Path, monkeypatch) -> None:
    def denied(path: str):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(os, "scandir", denied)
    assert intake.sort([str(tmp_path)]) == ([], [str(tmp_path)])
