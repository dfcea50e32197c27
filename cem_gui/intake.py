"""What people drop, paste and choose: files of two kinds, or image data without a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path
from PySide6.QtCore import QMimeData
from PySide6.QtGui import QImage

from cem_core.messages import Refused

_WEIGHTS: Final = {".safetensors", ".pt", ".pth", ".ckpt", ".t7", ".tar", ".bin", ".latest", ".best"}
IMAGE_FILTER: Final = "Images (*.png *.jpg *.jpeg *.webp *.gif *.bmp *.tif *.tiff);;All files (*)"
MODEL_FILTER: Final = "Checkpoints (*.safetensors *.pt *.pth *.ckpt *.t7 *.tar *.bin);;All files (*)"


def paths_of(data: QMimeData) -> list[str]:
    """The local files that dropped or pasted data names; image data without a file is kept in one.

    Raises:
        Refused: image data cannot be kept.
    """
    paths = [url.toLocalFile() for url in data.urls() if url.isLocalFile()]
    image = QImage(data.imageData()) if not paths and data.hasImage() else QImage()
    return paths if image.isNull() else [_keep(image)]


def sort(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Checkpoints by their suffix, and the rest, which is read as images; a folder stands for the files in it."""
    files = [str(file) for path in paths for file in _files(Path(path))]
    weights = [file for file in files if Path(file).suffix.lower() in _WEIGHTS]
    return weights, [file for file in files if file not in weights]


def _files(path: Path) -> list[Path]:
    try:
        if path.is_dir():
            return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError:  # whoever reads it says what is wrong
        pass
    return [path]


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
