"""The images that chains start from: dropped, pasted, chosen or bundled. Checkpoints among them are opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from PySide6.QtCore import QMimeData, QObject, QSettings, Signal, Slot
from PySide6.QtWidgets import QApplication, QFileDialog, QWidget

from cem_core import bundle
from cem_core.messages import Refused
from cem_gui import intake
from cem_gui.files import Files
from cem_gui.models import Models

_MOST_AT_ONCE: Final = 64
_MOST_TOLD: Final = 5
"""Files that are named where more cannot be read."""


class Pictures(QObject):
    """`paths` changes only to files that can be read."""

    offered = Signal()
    """New files came in: what was said of those before is old."""
    run_offered = Signal(str)
    """The folder of a recorded run was among them."""
    taken = Signal()
    """`paths` are others."""
    said = Signal(str)
    """A sentence that should be read."""

    def __init__(
        self, files: Files, models: Models, settings: QSettings, paths: Iterable[Path], parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._files = files
        self._models = models
        self._settings = settings
        self._parent = parent
        self.paths = [str(path) for path in paths]
        files.sifted.connect(self._sifted)

    def offer(self, paths: Sequence[str]) -> None:
        """Files that were dropped, pasted or chosen: recorded runs and checkpoints are opened, all else is read as
        images."""
        if run := intake.recorded(paths):
            self.offered.emit()
            self.run_offered.emit(run)
            return
        weights, pictures = intake.sort(paths)
        if weights or pictures:
            self.offered.emit()
        if weights:
            self._models.open(weights[0])
        if pictures:
            size = self._models.checkpoint.size if self._models.checkpoint else 32
            self._files.sift(pictures[:_MOST_AT_ONCE], size)
        if paths and not weights and not pictures:
            self.said.emit(f"{Path(paths[0]).name} is an empty folder: choose one with images in it.")
        if len(pictures) > _MOST_AT_ONCE:
            self.said.emit(f"The first {_MOST_AT_ONCE} of {len(pictures)} images are taken.")

    @Slot(list, list)
    def _sifted(self, good: list[str], bad: list[str]) -> None:
        if bad:
            more = f"\nand {len(bad) - _MOST_TOLD} more" if len(bad) > _MOST_TOLD else ""
            self.said.emit("\n".join(bad[:_MOST_TOLD]) + more)
        if good:
            self._use(good)

    def _use(self, paths: Iterable[str | Path]) -> None:
        self.paths = [str(path) for path in paths]
        self.taken.emit()

    @Slot()
    def use_samples(self) -> None:
        self._use(bundle.samples())

    @Slot()
    def use_photos(self) -> None:
        self._use(bundle.photos())

    @Slot()
    def ask(self) -> None:
        folder = str(self._settings.value("images", str(Path.home())))
        paths, _ = QFileDialog.getOpenFileNames(self._parent, "Open images", folder, intake.IMAGE_FILTER)
        if paths:
            self._settings.setValue("images", str(Path(paths[0]).parent))
            self.offer(paths)

    @Slot()
    def paste(self) -> None:
        if not self._take(QApplication.clipboard().mimeData()):
            self.said.emit("The clipboard holds no image: copy an image or image files first.")

    def drop(self, data: QMimeData) -> bool:
        """Whether what was dropped held anything to start from."""
        taken = self._take(data)
        if not taken:
            self.said.emit("What was dropped is neither a file on this machine nor image data.")
        return taken

    def _take(self, data: QMimeData) -> bool:
        try:
            paths = intake.paths_of(data)
        except Refused as refused:
            self.said.emit(str(refused))
            return True
        self.offer(paths)
        return bool(paths)
