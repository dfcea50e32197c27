"""The recorded runs, as the file thread finds them: every folder is read and moved there and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QImage

from cem_core import export, images, recording, sessions
from cem_core.export import RunFile
from cem_core.messages import Refused
from cem_core.recording import Recording
from cem_core.session import Session
from cem_gui.files import Files

log = logging.getLogger(__name__)


class Shelf(QObject):
    """Asked by plain calls from the window's thread; answers by signals, from the file thread."""

    listed = Signal(list)
    """Summaries of all runs, newest first."""
    looked = Signal(object)
    """Summary of one."""
    opened = Signal(object, str)
    """Session, and what it was wanted for."""
    pictured = Signal(str, QImage)
    """Folder, and what its first chain came to."""
    deleted = Signal(str)
    """Folder that is in the trash now."""
    taken = Signal(list, list)
    """Summaries of all runs, and the names of those in the trash."""
    restored = Signal(object)
    """Summary of a run that was in the trash."""
    recalled = Signal(object, str)
    """RunFile, and the folder in which its run is recorded; empty: it is not here."""
    said = Signal(str)
    """A sentence that should be read."""

    def __init__(self, files: Files, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._files = files
        self._trash: dict[str, str] = {}
        """Folder → name in the trash. Only the file thread asks."""
        self._over = False

    def list_all(self) -> None:
        self._do(lambda: self.listed.emit(sessions.found()))

    def look(self, folder: str) -> None:
        """At one run, which has changed."""
        self._do(lambda: self.looked.emit(sessions.summarise(Path(folder))))

    def open(self, folder: str, purpose: str, memory: int) -> None:
        self._do(lambda: self.opened.emit(Session.open(Path(folder), budget=memory), purpose))

    def recall(self, run: RunFile) -> None:
        """Look whether a run that a picture carries is recorded here."""
        self._do(lambda: self.recalled.emit(run, str(export.session_of(run, sessions.root()) or "")))

    def picture(self, folder: str) -> None:
        self._do(lambda: self._picture(Path(folder)))

    def rename(self, folder: str, name: str) -> None:
        def rename() -> None:
            path = Path(folder)
            Recording(path, recording.read_header(path)).rename(name)
            self.looked.emit(sessions.summarise(path))

        self._do(rename)

    def delete(self, folder: str) -> None:
        def delete() -> None:
            self._trash[folder] = sessions.delete(Path(folder))
            self.deleted.emit(folder)

        self._do(delete)

    def restore(self, folder: str) -> None:
        """Take a run out of the trash that was deleted before."""

        def restore() -> None:
            if folder in self._trash:
                restored = sessions.restore(self._trash[folder])
                del self._trash[folder]  # not before: if it could not be moved, it may be tried again
                self.restored.emit(sessions.summarise(restored))

        self._do(restore)

    def measure(self) -> None:
        self._do(lambda: self.taken.emit(sessions.found(), sessions.deleted()))

    def check_budget(self) -> None:
        """Say so once if all runs together have come to take more room than they may."""

        def check() -> None:
            told = sessions.over_budget()
            if told and not self._over:
                self.said.emit(told)
            self._over = bool(told)

        self._do(check)

    def empty_trash(self) -> None:
        self._do(sessions.empty_trash)

    def _picture(self, folder: Path) -> None:
        with suppress(Refused, OSError):  # then the list shows none, and opening it says why
            steps, _, _ = recording.overview(folder)
            pixels = recording.frames(folder, recording.read_header(folder)).read(max(0, steps - 1))[:1]
            shown = np.ascontiguousarray(images.hwc(images.to_uint8(pixels))[0], np.uint8)
            height, width, _ = shown.shape
            image = QImage(shown.data, width, height, 3 * width, QImage.Format.Format_RGB888)
            self.pictured.emit(str(folder), image.copy())

    def _do(self, job: Callable[[], None]) -> None:
        def tried() -> None:
            try:
                job()
            except Refused as refused:
                self.said.emit(str(refused))
            except OSError as error:
                self.said.emit(f"That did not work: {error.strerror or error}.")
            except Exception as error:
                log.exception("reading the recorded runs failed")
                self.said.emit(f"The recorded runs could not be read ({error}): the log file has the details.")

        self._files.ask(tried)
