"""The models that are compared: which they are, and opening them."""

from __future__ import annotations

from pathlib import Path

import msgspec
from PySide6.QtCore import QObject, QSettings, Signal, Slot
from PySide6.QtWidgets import QFileDialog, QMainWindow

from cem_core import bundle
from cem_core.messages import Checkpoint
from cem_core.probes.requests import MODELS, Subject
from cem_gui import intake
from cem_gui.files import Files, Opening, OpenModel
from cem_gui.models import Models, classless
from cem_gui.panels.subjects import SubjectsPanel


class Subjects(QObject):
    """One to four models, kept open side by side. They are opened when they are first wanted."""

    changed = Signal()
    """Others are compared, or one of them is open now."""

    def __init__(
        self, files: Files, models: Models, panel: SubjectsPanel, settings: QSettings, window: QMainWindow
    ) -> None:
        super().__init__(window)
        self._files, self._models, self._panel, self._settings, self._window = files, models, panel, settings, window
        self._references = _read(settings)
        self._open: dict[str, OpenModel] = {}
        self._openings: dict[str, Opening] = {}
        self._wanted = False
        files.opened.connect(self._opened)
        files.refused.connect(self._refused)
        models.opened.connect(self._model_opened)
        panel.chosen.connect(self.choose)
        panel.open_wanted.connect(self._ask_file)
        panel.removed.connect(self.remove)
        panel.added.connect(self.add)
        self._show()

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(self._references)

    @property
    def ready(self) -> bool:
        """All are open."""
        return all(reference in self._open for reference in self._references)

    @property
    def models(self) -> tuple[OpenModel, ...]:
        """Those that are open, in order."""
        return tuple(self._open[reference] for reference in self._references if reference in self._open)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Of those that are open, in order."""
        return tuple(model.checkpoint for model in self.models)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """As they are to be measured: in float32."""
        return tuple(
            Subject(found.reference, found.choices, found.device)
            for reference in self._references
            if (found := self._open.get(reference)) is not None
        )

    @property
    def classless(self) -> str:
        """Why they cannot be compared by classes; empty if all that are open have some."""
        return next(filter(None, map(classless, self.checkpoints)), "")

    def ensure(self) -> None:
        """Have them open, from now on."""
        self._wanted = True
        for reference in self._references:
            if reference not in self._open and reference not in self._openings:
                self._openings[reference] = Opening(reference, "auto", "float32")
                self._files.open(self._openings[reference])
        self._show()

    @Slot(int, str)
    def choose(self, index: int, reference: str) -> None:
        """Compare another one in that place."""
        if reference != self._references[index]:
            self._set([*self._references[:index], reference, *self._references[index + 1 :]])

    @Slot(int)
    def remove(self, index: int) -> None:
        if len(self._references) > 1:
            self._set([*self._references[:index], *self._references[index + 1 :]])

    @Slot()
    def add(self) -> None:
        """One more: the open model, or one that is not compared yet."""
        current = [self._models.current.reference] if self._models.current else []
        known = [*current, *(reference for _, reference in self._models.known())]
        fresh = next((reference for reference in known if reference not in self._references), known[0])
        if len(self._references) < MODELS:
            self._set([*self._references, fresh])

    def _set(self, references: list[str]) -> None:
        self._references = references
        self._settings.setValue("subjects", msgspec.json.encode(references).decode())
        self._open = {name: model for name, model in self._open.items() if name in references}
        if self._wanted:
            self.ensure()
        self._show()
        self.changed.emit()

    @Slot()
    def _model_opened(self) -> None:
        """One that is compared may be understood otherwise from now on."""
        current = self._models.current
        known = self._open.get(current.reference) if current is not None else None
        if current is not None and known is not None and known.choices != current.choices:
            del self._open[current.reference]
            self._openings[current.reference] = Opening(current.reference, "auto", "float32", current.choices)
            self._files.open(self._openings[current.reference])
            self.changed.emit()
        self._show()

    @Slot(object, object)
    def _opened(self, opening: Opening, model: OpenModel) -> None:
        if self._openings.get(opening.reference) is not opening:
            return
        del self._openings[opening.reference]
        if opening.reference in self._references:
            self._open[opening.reference] = model
            self._show()
            self.changed.emit()

    @Slot(object, str)
    def _refused(self, opening: Opening, sentence: str) -> None:
        if self._openings.get(opening.reference) is opening:
            del self._openings[opening.reference]
            self._lose(opening.reference, sentence)

    def _lose(self, reference: str, why: str) -> None:
        """It cannot be compared: the others stay, or else the bundled ones come back."""
        rest = [other for other in self._references if other != reference]
        bundled = [name for name in bundle.models() if name != reference]
        self._panel.notice.say(why)
        self._set(rest or bundled[:1])

    @Slot(int)
    def _ask_file(self, index: int) -> None:
        folder = str(self._settings.value("models", str(Path.home())))
        path, _ = QFileDialog.getOpenFileName(self._window, "Open a model to compare", folder, intake.MODEL_FILTER)
        if path:
            self._settings.setValue("models", str(Path(path).parent))
            self.choose(index, path)
        else:
            self._show()

    @Slot()
    def _show(self) -> None:
        known = list(self._models.known())
        listed = {reference for _, reference in known}
        known += [(Path(name).name, name) for name in dict.fromkeys(self._references) if name not in listed]
        opening = [reference in self._openings for reference in self._references]
        self._panel.show_subjects(known, self._references, opening)


def _read(settings: QSettings) -> list[str]:
    try:
        kept = msgspec.json.decode(str(settings.value("subjects", "[]")), type=list[str])[:MODELS]
    except msgspec.MsgspecError:
        kept = []
    return kept or list(bundle.models())[:2]
