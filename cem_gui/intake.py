"""What people drop, paste and choose: files of two kinds, or image data without a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path
from PySide6.QtCore import QMimeData
from PySide6.QtGui import QImage

from cem_core.messages import Refused
from cem_core.recording import HEADER
from cem_core.training.history import is_training
from cem_core.training.progress import LOG, RECIPE

_WEIGHTS: Final = (
    ".safetensors", ".pt", ".pth", ".pt2", ".ckpt", ".t7", ".tar", ".bin", ".th", ".pyth", ".latest", ".best",
    ".torchscript", ".checkpoint", ".weights",
)  # fmt: skip
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MAGIC: Final = (b"PK\x03\x04", bytes.fromhex("80028a0a6cfc9c46f920"))
"""The first bytes of what torch writes, now and formerly."""
_MOST_LOOKED_INTO: Final = 1000
"""Files without a name that says what they are; of a larger folder the rest counts as images."""
IMAGE_FILTER: Final = f"Images ({' '.join(f'*{suffix}' for suffix in _PICTURES)});;All files (*)"
MODEL_FILTER: Final = f"Checkpoints ({' '.join(f'*{suffix}' for suffix in _WEIGHTS)} *.t7*);;All files (*)"


def paths_of(data: QMimeData) -> list[str]:
    """The local files that dropped or pasted data names; image data without a file is kept in one.

    Raises:
        Refused: image data cannot be kept.
    """
    paths = [url.toLocalFile() for url in data.urls() if url.isLocalFile()]
    image = QImage(data.imageData()) if not paths and data.hasImage() else QImage()
    return paths if image.isNull() else [_keep(image)]


def recorded(paths: Iterable[str]) -> str:
    """The first that is the folder of a recorded run, or what says so in it; empty: none is."""
    for path in paths:
        folder = Path(path).parent if Path(path).name == HEADER else Path(path)
        try:
            if (folder / HEADER).is_file():
                return str(folder)
        except (OSError, ValueError):  # whoever reads it says what is wrong
            pass
    return ""


def trained(paths: Iterable[str]) -> str:
    """The first that is the folder of a training, or its recipe or log in it; empty: none is."""
    for path in map(Path, paths):
        folder = path.parent if path.name in (RECIPE, LOG) else path
        if is_training(folder):
            return str(folder)
    return ""


def is_picture(data: QMimeData) -> bool:
    """Whether it is for a view that takes images: checkpoints, recorded runs and trainings are for the window."""
    paths = [url.toLocalFile() for url in data.urls() if url.isLocalFile()]
    if not paths:
        return data.hasImage()
    return bool(sort(paths)[1]) and not recorded(paths) and not trained(paths)


def sort(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Checkpoints by their first bytes or their suffix, and the rest, which is read as images.

    A folder stands for the files in it.
    """
    weights: list[str] = []
    pictures: list[str] = []
    looks = _MOST_LOOKED_INTO
    for file in (file for path in paths for file in _files(path)):
        suffix = Path(file).suffix.lower()
        known = suffix in _WEIGHTS or suffix in _PICTURES
        looks -= not known
        is_weights = suffix in _WEIGHTS if known or looks < 0 else _holds_weights(file)
        (weights if is_weights else pictures).append(file)
    return weights, pictures


def _files(path: str) -> list[str]:
    try:
        if Path(path).is_dir():
            with os.scandir(path) as found:  # which knows files from folders without asking for each
                return sorted(file.path for file in found if file.is_file() and not file.name.startswith("."))
    except (OSError, ValueError):  # whoever reads it says what is wrong
        pass
    return [path]


def _holds_weights(path: str) -> bool:
    try:
        if not Path(path).is_file():  # a pipe might never answer
            return False
        with Path(path).open("rb") as file:
            head = file.read(16)
    except (OSError, ValueError):
        return False
    return head.startswith(_MAGIC) or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32)


def _keep(image: QImage) -> str:
    """A file that holds the image, so that a run that starts from it can be repeated."""
    image = image.convertToFormat(QImage.Format.Format_RGBA8888)
    folder = user_cache_path("cem-explorer") / "pasted"
    path = folder / f"{hashlib.sha256(bytes(image.constBits())).hexdigest()[:12]}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = image.save(str(path))
    except OSError:
        kept = False
    if not kept:
        raise Refused(f"The image could not be kept in {folder}: make room there, or save it as a file and drop that.")
    return str(path)
