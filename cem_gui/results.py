"""What a probe has found, as files: asked where, and written on the file thread, since drawing takes seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject, QSettings, QStandardPaths, Signal
from PySide6.QtWidgets import QFileDialog, QWidget

from cem_gui.files import Files, tried


class Results(QObject):
    written = Signal(str, str)
    """The folder, and a sentence if that failed; from the file thread."""

    def __init__(self, files: Files, settings: QSettings, parent: QObject) -> None:
        super().__init__(parent)
        self._files, self._settings = files, settings

    def ask(self, parent: QWidget, title: str) -> Path | None:
        """The folder that the person chooses."""
        documents = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
        folder = QFileDialog.getExistingDirectory(parent, title, str(self._settings.value("results", documents)))
        if not folder:
            return None
        self._settings.setValue("results", folder)
        return Path(folder)

    def write(self, folder: Path, write: Callable[[Path], None], *, new: str = "") -> None:
        """`written` follows. What `write` looks at must not change any more.

        new: write into a new folder of that name in it.
        """
        self._files.ask(lambda: self._write(folder, write, new))

    def _write(self, folder: Path, write: Callable[[Path], None], new: str) -> None:
        """On the file thread."""
        folder = fresh(folder, new) if new else folder
        _, problem = tried("The export failed", lambda: write(folder))
        self.written.emit(str(folder), problem)


def fresh(parent: Path, name: str) -> Path:
    """A folder of that name, or with a number behind it, which is not there yet."""
    numbered = (parent / each for each in (name, *(f"{name}-{i}" for i in range(2, 1000))))
    return next((path for path in numbered if not os.path.lexists(path)), parent / name)
