"""The window's exports: ask, hand to the file thread, show how far it is, say how it ended."""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path

from PySide6.QtCore import QObject, QSettings, QStandardPaths, Signal, Slot
from PySide6.QtWidgets import QWidget

from cem_core.export import Export
from cem_core.session import Session
from cem_gui.files import Files
from cem_gui.panels.export import ExportDialog, ExportRow, folder_name


class Exporter(QObject):
    """One export at a time. `row` shows it, and is hidden while there is none."""

    began = Signal()
    ended = Signal(str, str)
    """The folder that was written, or empty; and a sentence if it failed. Both empty: cancelled."""

    def __init__(self, files: Files, settings: QSettings, parent: QWidget) -> None:
        super().__init__(parent)
        self._settings = settings
        self._parent = parent
        self.row = ExportRow()
        self.row.hide()
        self._files = files
        self._rest: deque[tuple[Session, Path]] = deque()
        """Runs that are still to be written, and where."""
        self._choices, self._folder = Export(), ""
        self.row.cancelled.connect(files.cancel)
        files.exporting.connect(self.row.show_progress)
        files.exported.connect(self._exported)

    @property
    def busy(self) -> bool:
        return not self.row.isHidden()

    def ask(self, *sessions: Session) -> None:
        """Let the person choose what to write and where; of several runs each gets a folder in that."""
        session = min(sessions, key=len)  # what can be chosen of it, can of all
        dialog = ExportDialog(session, self._free_folder(session), self._parent)
        dialog.measure_wanted.connect(lambda choices: self._files.measure(session, choices))
        self._files.measured.connect(dialog.show_fidelity)
        chosen = dialog.exec()
        self._files.measured.disconnect(dialog.show_fidelity)
        self._files.stop_measuring()
        if chosen:
            self._settings.setValue("exports", str(dialog.folder.parent))
            self.begin(sessions[0], dialog.folder, dialog.choices, *sessions[1:])
        dialog.deleteLater()

    def begin(self, session: Session, folder: Path, choices: Export, *others: Session) -> None:
        """Write a run into a folder, or several into folders of their own in it, one after the other."""
        runs = (session, *others)
        places = [folder / _named(i, run) for i, run in enumerate(runs, 1)] if others else [folder]
        self._rest = deque(zip(runs, places, strict=True))
        self._choices, self._folder = choices, str(folder)
        self._next()
        self.began.emit()

    def _next(self) -> None:
        session, folder = self._rest.popleft()
        self.row.begin()
        self._files.export(session, str(folder), self._choices)

    def _free_folder(self, session: Session) -> Path:
        documents = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
        parent = Path(str(self._settings.value("exports", documents)))
        start = session.start
        names = sorted({start.candidates[label] for label in start.labels})
        wanted = folder_name(start.spec.sampler.name, names)
        numbered = [wanted, *(f"{wanted}-{i}" for i in range(2, 1000))]
        return next((parent / name for name in numbered if not os.path.lexists(parent / name)), parent / wanted)

    @Slot(str, str)
    def _exported(self, folder: str, problem: str) -> None:
        if folder and self._rest:
            self._next()
            return
        self._rest.clear()
        self.row.hide()
        self.ended.emit(folder and self._folder, problem)


def _named(number: int, session: Session) -> str:
    """A folder for the run of one of several models, whatever that is called."""
    checkpoint = session.start.checkpoint
    stem = checkpoint.name.removesuffix(Path(checkpoint.path).suffix)
    return f"{number}-{re.sub(r'[^A-Za-z0-9.-]+', '-', stem)[:60].strip('-.') or 'model'}"
