"""The images of a run: those that chains start from, dropped, pasted, chosen or bundled, and checkpoints among them are
opened; and with an encoder, those that they are sent towards and compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from PySide6.QtCore import QMimeData, QObject, QSettings, Signal, Slot
from PySide6.QtWidgets import QApplication, QFileDialog, QWidget

from cem_core import bundle, images
from cem_core.messages import MAX_REFERENCES, Refused
from cem_gui import intake
from cem_gui.files import Files
from cem_gui.models import Models
from cem_gui.panels.sampler import BatchKind
from cem_gui.widgets.image_grid import to_image

_MOST_AT_ONCE: Final = 64
_MOST_TOLD: Final = 5
"""Files that are named where more cannot be read."""


class Pictures(QObject):
    """`paths`, `towards` and `batch` change only to files that can be read."""

    offered = Signal()
    """New files came in: what was said of those before is old."""
    run_offered = Signal(str)
    """The folder of a recorded run was among them."""
    training_offered = Signal(str)
    """The folder of a training was."""
    taken = Signal()
    """`paths` are others."""
    aimed = Signal()
    """`towards` is another."""
    grouped = Signal()
    """`batch` is another."""
    pictured = Signal(str, object)
    """A path that chains are sent towards, and its QImage as the model takes it."""
    said = Signal(str)
    """A sentence that should be read."""
    _read = Signal(object, list, list)
    """What to do with the paths that could be read, and a sentence for each that could not."""

    def __init__(
        self, files: Files, models: Models, settings: QSettings, paths: Iterable[Path], parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._files = files
        self._models = models
        self._settings = settings
        self._parent = parent
        self.paths = [str(path) for path in paths]
        self.towards: list[str] = []
        self.batch: list[str] = []
        """Empty: the bundled samples."""
        files.sifted.connect(self._sifted)
        self._read.connect(self._was_read)

    def offer(self, paths: Sequence[str]) -> None:
        """Files that were dropped, pasted or chosen: recorded runs, trainings and checkpoints are opened, all else
        is read as images."""
        if run := intake.recorded(paths):
            self.offered.emit()
            self.run_offered.emit(run)
            return
        if training := intake.trained(paths):
            self.offered.emit()
            self.training_offered.emit(training)
            return
        weights, pictures = intake.sort(paths)
        if weights or pictures:
            self.offered.emit()
        if weights:
            self._models.open(weights[0])
        if pictures:
            self._files.sift(pictures[:_MOST_AT_ONCE], self._size)
        if paths and not weights and not pictures:
            self.said.emit(f"{Path(paths[0]).name} is an empty folder: choose one with images in it.")
        if len(pictures) > _MOST_AT_ONCE:
            self.said.emit(f"The first {_MOST_AT_ONCE} of {len(pictures)} images are taken.")

    @property
    def _size(self) -> int:
        return self._models.checkpoint.size if self._models.checkpoint else 32

    @Slot(list, list)
    def _sifted(self, good: list[str], bad: list[str]) -> None:
        self._was_read(self._use, good, bad)

    @Slot(object, list, list)
    def _was_read(self, use: Callable[[list[str]], None], good: list[str], bad: list[str]) -> None:
        if bad:
            more = f"\nand {len(bad) - _MOST_TOLD} more" if len(bad) > _MOST_TOLD else ""
            self.said.emit("\n".join(bad[:_MOST_TOLD]) + more)
        if good:
            use(good)

    def _read_then(self, paths: Sequence[str], use: Callable[[list[str]], None]) -> None:
        """See which of these files are images, on the file thread, and use them if there are any."""
        size = self._size

        def read() -> None:
            good: list[str] = []
            bad: list[str] = []
            for path in paths:
                try:
                    images.prepare(path, size)
                except Refused as refused:
                    bad.append(str(refused))
                else:
                    good.append(path)
            self._read.emit(use, good, bad)

        self._files.ask(read)

    # ---- of an encoder -----------------------------------------------------------------------------------------------

    @Slot(str)
    def aim(self, path: str) -> None:
        """Send chains towards this image."""
        self._read_then([path], self._aim)

    def _aim(self, paths: list[str]) -> None:
        if paths != self.towards:
            self.towards = paths
            self.aimed.emit()

    @Slot(object)
    def aim_dropped(self, data: QMimeData) -> None:
        """Send chains towards the image that was dropped; what is no image is opened all the same."""
        try:
            paths = intake.paths_of(data)
        except Refused as refused:
            self.said.emit(str(refused))
            return
        weights, pictures = intake.sort(paths)
        if weights or intake.recorded(paths) or intake.trained(paths):
            self.offer(paths)
        elif pictures:
            self.offered.emit()
            self.aim(pictures[0])
        else:
            self.said.emit("What was dropped is neither an image on this machine nor image data.")

    @Slot()
    def ask_aim(self) -> None:
        folder = str(self._settings.value("images", str(Path.home())))
        path, _ = QFileDialog.getOpenFileName(self._parent, "An image to move towards", folder, intake.IMAGE_FILTER)
        if path:
            self._settings.setValue("images", str(Path(path).parent))
            self.aim(path)

    @Slot(str)
    def group(self, kind: BatchKind) -> None:
        """Compare images with others than before."""
        if kind != "folder":
            self._group([] if kind == "samples" else list(self.paths))
            return
        folder = str(self._settings.value("references", str(Path.home())))
        if chosen := QFileDialog.getExistingDirectory(self._parent, "A folder of images to compare with", folder):
            self._settings.setValue("references", chosen)
            self.group_folder(chosen)

    def group_folder(self, folder: str) -> None:
        """Compare images with those of a folder."""
        found = intake.sort([folder])[1]
        if not found:
            self.said.emit(f"{Path(folder).name} has no images in it: choose another folder.")
        if len(found) > MAX_REFERENCES:
            self.said.emit(f"The first {MAX_REFERENCES:,} of {len(found):,} images are taken.")
        self._read_then(found[:MAX_REFERENCES], self._group)

    def _group(self, paths: list[str]) -> None:
        if paths != self.batch:
            self.batch = paths
            self.grouped.emit()

    def picture(self, path: str) -> None:
        """Have it shown as the model takes it; `pictured` follows if it can be read."""
        size = self._size

        def read() -> None:
            try:
                pixels = images.prepare(path, size).pixels
            except Refused:
                return  # who begins a run with it says so
            self.pictured.emit(path, to_image(images.hwc(images.to_uint8(pixels[None]))[0]))

        self._files.ask(read)

    # ---- where chains start ------------------------------------------------------------------------------------------

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
