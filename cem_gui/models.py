"""The window's models: which is open, which is being opened, which were before, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from PySide6.QtCore import QObject, QSettings, Signal, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QFileDialog, QMainWindow, QMenu

from cem_core import bundle
from cem_core.messages import Checkpoint, Device, Precision, Refused
from cem_core.probes.classes import check_classes
from cem_gui import intake
from cem_gui.files import Files, Opening, OpenModel, Verdict
from cem_gui.panels.details import Details
from cem_gui.panels.model import ModelPanel
from cem_gui.panels.zoo import ZooDialog

_RECENT: Final = 10
"""Files that are remembered."""


class Models(QObject):
    """One model is open, or none; one more may be on its way. `panel` shows both."""

    opened = Signal()
    """`current` is another, or the same read otherwise."""
    stayed = Signal()
    """An opening failed or was cancelled: `current` is what it was."""
    none_open = Signal()
    """An opening failed or was cancelled, and there was no model before."""
    said = Signal(str, str)
    """A sentence that should be read; and where Details have the answer, what a button to them says."""

    def __init__(
        self, files: Files, panel: ModelPanel, clear_recent: QAction, settings: QSettings, window: QMainWindow
    ) -> None:
        super().__init__(window)
        self._files = files
        self._panel = panel
        self._settings = settings
        self._window = window
        self.current: OpenModel | None = None
        self._opening: Opening | None = None
        """What the panel waits for; answers to any other are passed over."""
        self._unsaid: list[str] = []
        """Why something else is being opened than was asked for: to be said once that is open."""
        self._details: Details | None = None
        self._zoo: ZooDialog | None = None
        self._clear_recent = clear_recent
        self.recent_menu = QMenu("Open &recent", window.menuBar())
        self.recent_menu.setToolTipsVisible(True)
        self.recent_menu.triggered.connect(self._recent_chosen)
        clear_recent.triggered.connect(self._forget_recent)
        files.progress.connect(self._progressed)
        files.opened.connect(self._opened)
        files.refused.connect(self._refused)
        files.checked.connect(self._checked)
        files.zoo_listed.connect(self._ask_entry)
        panel.chosen.connect(self.open)
        panel.cancelled.connect(self.cancel)
        panel.placed.connect(self._placed)
        panel.set_place(str(settings.value("device", "auto")), str(settings.value("precision", "float32")))
        self._recent = _read_recent(settings)
        self._show_references()

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self.current.checkpoint if self.current else None

    @property
    def is_opening(self) -> bool:
        return self._opening is not None

    @property
    def classless(self) -> str:
        """Why what needs classes has nothing to show of the model that is open; empty if it has, or none is open."""
        return classless(self.checkpoint) if self.checkpoint is not None else ""

    def known(self) -> list[tuple[str, str]]:
        """What can be opened without a file dialog, as (what is shown, reference)."""
        return [*((name, name) for name in bundle.models()), *zip(_told_apart(self._recent), self._recent, strict=True)]

    # ---- opening -----------------------------------------------------------------------------------------------------

    @Slot(str)
    def open(self, reference: str) -> None:
        """Open a bundled model or a file; what is open stays, and goes on running, if that fails."""
        self._begin(Opening(reference, *self._panel.place))

    def open_as(self, reference: str, device: Device, precision: Precision, choices: dict[str, str]) -> None:
        """Open it just so, as it was open before."""
        self._panel.set_place(device, precision)
        self._begin(Opening(reference, device, precision, choices))

    def _begin(self, opening: Opening) -> None:
        if self._opening is not None:
            self._opening.cancelled.set()
        self._opening = opening
        self._panel.show_opening(_name(opening.reference))
        self._files.open(opening)

    @Slot()
    def cancel(self) -> None:
        """Wait no longer for what is being opened."""
        if self._opening is not None:
            self._opening.cancelled.set()
            self._end_opening()
            self._stay()

    def _end_opening(self) -> None:
        self._opening = None
        if self.current is None:
            self._panel.end_opening("")
        else:
            self._panel.end_opening(self.current.reference)
            self._panel.set_place(self.current.device, self.current.precision)

    @Slot(object, str, float)
    def _progressed(self, opening: Opening, what: str, share: float) -> None:
        if opening is self._opening:
            self._panel.opening.show_progress(what, share)
            if self._details is not None:
                self._details.show_progress(share)

    @Slot(object, object)
    def _opened(self, opening: Opening, model: OpenModel) -> None:
        if opening is not self._opening:
            return
        self._opening, self.current = None, model
        self._settings.setValue("device", model.device)
        self._settings.setValue("precision", model.precision)
        if model.reference not in bundle.models():
            path = str(Path(model.reference).expanduser().absolute())
            self._set_recent([path, *(other for other in self._recent if other != path)])
        self._show_references()
        self._panel.show_checkpoint(model.reference, model.checkpoint)
        if self._details is not None:
            self._details.show_checkpoint(model.checkpoint, model.choices)
        self.opened.emit()
        self._say_all(*model.notes)

    def _say_all(self, *sentences: str) -> None:
        for sentence in (*self._unsaid, *sentences):
            self.said.emit(sentence, "")
        self._unsaid = []

    @Slot(object, str)
    def _refused(self, opening: Opening, sentence: str) -> None:
        if opening is not self._opening:
            return
        self._end_opening()
        if self._details is not None and opening.choices is not None:
            self._details.show_problem(sentence)
            return
        self._unsaid.append(sentence)
        if opening.reference in self._recent and not Path(opening.reference).exists():
            self._set_recent([path for path in self._recent if path != opening.reference])
            self._unsaid.append(f"{_name(opening.reference)} was taken off the recent files.")
        if self.current is None and (opening.device, opening.precision) != ("auto", "float32"):
            self._panel.set_place("auto", "float32")  # a device of another day: start on one that is there
            self._begin(_again(opening, *self._panel.place))
        elif self.current is None and opening.reference != bundle.DEFAULT_MODEL:
            self.open(bundle.DEFAULT_MODEL)
        else:
            self._say_all()
            self._stay()

    def _stay(self) -> None:
        self.stayed.emit()
        if self.current is None:
            self.none_open.emit()

    @Slot()
    def _placed(self) -> None:
        if self._opening is not None:
            self._begin(_again(self._opening, *self._panel.place))
        elif self.current is not None:
            self._begin(Opening(self.current.reference, *self._panel.place, self.current.choices))
        else:
            self.open(bundle.DEFAULT_MODEL)

    @Slot(object, object)
    def _checked(self, model: OpenModel, verdict: Verdict | None) -> None:
        if model is not self.current:
            return
        if verdict is None:
            self._panel.show_check("no images of its classes" if model.checkpoint.classes else "–")
            return
        said = f"{verdict.right} of {verdict.total}"
        self._panel.show_check(f"{said} images recognised", f"{said} bundled images are recognised")
        if verdict.sentence:
            self.said.emit(verdict.sentence, "Details…" if verdict.better else "")

    # ---- choosing ----------------------------------------------------------------------------------------------------

    @Slot()
    def ask_file(self) -> None:
        folder = str(self._settings.value("models", str(Path.home())))
        path, _ = QFileDialog.getOpenFileName(self._window, "Open a model", folder, intake.MODEL_FILTER)
        if path:
            self._settings.setValue("models", str(Path(path).parent))
            self.open(path)

    @Slot()
    def ask_zoo(self) -> None:
        """Let the person choose a published model, once it is known what there is."""
        self._files.list_zoo()

    @Slot(list, str)
    def _ask_entry(self, entries: list, problem: str) -> None:  # type: ignore[type-arg]
        if problem:
            self.said.emit(problem, "")
            return
        if self._zoo is None:
            self._zoo = ZooDialog(entries, self._window)
            self._zoo.finished.connect(self._entry_asked)
            self._zoo.open()

    @Slot(int)
    def _entry_asked(self, answer: int) -> None:
        dialog, self._zoo = self._zoo, None
        if dialog is not None:
            if answer and (entry := dialog.entry) is not None:
                self._begin(Opening(entry.name, *self._panel.place, entry=entry))
            dialog.deleteLater()

    @Slot()
    def show_details(self) -> None:
        if self.current is None or self._details is not None:
            return
        self._details = Details(self._window)
        self._details.applied.connect(self._read_otherwise)
        self._details.cancelled.connect(self.cancel)
        self._details.finished.connect(self._details_closed)
        self._details.show_checkpoint(self.current.checkpoint, self.current.choices)
        self._details.open()

    @Slot(dict)
    def _read_otherwise(self, choices: dict[str, str]) -> None:
        if self.current is not None:
            self._begin(Opening(self.current.reference, *self._panel.place, choices, remember=True))

    @Slot()
    def _details_closed(self) -> None:
        if self._details is not None:
            self._details.deleteLater()
            self._details = None

    # ---- recent files ------------------------------------------------------------------------------------------------

    def _set_recent(self, paths: Sequence[str]) -> None:
        self._recent = list(paths)[:_RECENT]
        self._settings.setValue("recent", msgspec.json.encode(self._recent).decode())
        self._show_references()

    @Slot(QAction)
    def _recent_chosen(self, choice: QAction) -> None:
        if choice is not self._clear_recent:
            self.open(choice.data())

    @Slot()
    def _forget_recent(self) -> None:
        self._set_recent([])

    def _show_references(self) -> None:
        """The bundled models, and the files of late, newest first."""
        bundled = list(bundle.models())
        files = list(self._recent)
        open_now = self.current.reference if self.current else ""
        if open_now and open_now not in (*bundled, *files):
            # Under the name by which it was opened: a relative path, perhaps.
            absolute = str(Path(open_now).expanduser().absolute())
            files = [open_now, *(path for path in files if path != absolute)]
        self._panel.set_models(bundled, list(zip(_told_apart(files), files, strict=True)))
        self.recent_menu.clear()
        for text, path in zip(_told_apart(self._recent), self._recent, strict=True):
            choice = self.recent_menu.addAction(text.replace("&", "&&"))
            choice.setData(path)
            choice.setToolTip(str(Path(path).parent))
        if not self._recent:
            self.recent_menu.addAction("No file was opened yet").setEnabled(False)
        self.recent_menu.addSeparator()
        self.recent_menu.addAction(self._clear_recent)
        self._clear_recent.setEnabled(bool(self._recent))


def classless(checkpoint: Checkpoint) -> str:
    """What is said where a model lacks the classes that are needed; empty if it has them."""
    try:
        check_classes(checkpoint)
    except Refused as refused:
        return str(refused)
    return ""


def _read_recent(settings: QSettings) -> list[str]:
    try:
        return msgspec.json.decode(str(settings.value("recent", "[]")), type=list[str])[:_RECENT]
    except msgspec.MsgspecError:
        return []


def _again(opening: Opening, device: Device, precision: Precision) -> Opening:
    return Opening(opening.reference, device, precision, opening.choices, opening.remember, opening.entry)


def _name(reference: str) -> str:
    """The file's own name."""
    return reference.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def _told_apart(paths: Sequence[str]) -> list[str]:
    """The files' own names, with their folders where two are called the same."""
    names = [_name(path) for path in paths]
    return [
        f"{name} ({Path(path).parent.name})" if names.count(name) > 1 else name
        for name, path in zip(names, paths, strict=True)
    ]
