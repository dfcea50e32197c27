"""The smallest ε that flips each model on one image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from PySide6.QtCore import QMimeData, QObject, QSettings, Signal, Slot
from PySide6.QtWidgets import QFileDialog

from cem_core import bundle, images
from cem_core.messages import Checkpoint, Floats, Refused
from cem_core.probes import smallest_report as report
from cem_core.probes.classes import alike
from cem_core.probes.requests import Smallest
from cem_core.probes.results import Bound, Flip, Note
from cem_gui import intake
from cem_gui.files import Files, tried
from cem_gui.panels.smallest import NORMS, Column, SmallestPanel
from cem_gui.prober import Job, Prober
from cem_gui.results import Results
from cem_gui.sight import Sight
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects
from cem_gui.widgets.image_grid import Bytes, to_bytes

_THUMB: Final = 64
_MOST: Final = 16
"""Images that are taken at once."""


@dataclass
class _Image:
    """One of the strip. `path` empty: what is in sight."""

    name: str
    path: str
    shows: str | None = None
    """Its class, if that is known."""
    note: str = ""


class SmallestStage(Stage):
    title = "Smallest ε"
    tip = "How little it takes to flip each model on one image"
    compares = True
    samples = False
    has_steps = False

    _looked_at = Signal(str, object, str)
    """Path, its picture (H, W, 3) or None, and a sentence if it cannot be read; from the file thread."""

    def __init__(
        self, prober: Prober, subjects: Subjects, sight: Sight, files: Files, settings: QSettings, parent: QObject
    ) -> None:
        self.panel: SmallestPanel
        super().__init__(SmallestPanel(), parent)
        self._prober, self._subjects, self._sight, self._files = prober, subjects, sight, files
        self._images: list[_Image] = []
        self._chosen = 0
        self._wanted = ""
        """The path that is to be chosen once it is known to be an image."""
        self._shown: tuple[object, ...] = ()
        """The models of which there are columns, and how they are understood."""
        self._job: Job | None = None
        self._asked: tuple[Smallest, tuple[Checkpoint, ...]] | None = None
        """What was measured last, and on which models,"""
        self._found: list[Flip] = []
        """and what was found."""
        self._total = 0
        self._said = ""
        self._entered = False
        self._seen: tuple[object, ...] = ()
        """What the image in sight is of."""
        prober.told.connect(self._told)
        prober.ended.connect(self._ended)
        subjects.changed.connect(self._subjects_changed)
        sight.began.connect(self._show_sight)
        self._looked_at.connect(self._take)
        self._results = Results(files, settings, self)
        self._results.written.connect(self._exported)
        panel = self.panel
        panel.image_chosen.connect(self._choose)
        panel.open_wanted.connect(self._ask)
        panel.takes = intake.is_picture
        panel.dropped.connect(self._dropped)
        panel.run_wanted.connect(self.run_or_pause)
        panel.export_wanted.connect(self.export)
        panel.settings_changed.connect(self._anew)
        self.changed.connect(self._show_run)

    # ---- what the window asks ----------------------------------------------------------------------------------------

    @property
    def run_text(self) -> str:
        return "Cancel" if self.busy else "Measure"

    @property
    def can_run(self) -> bool:
        return self.busy or (self._subjects.ready and not self._subjects.classless)

    @property
    def busy(self) -> bool:
        return self._job is not None

    @property
    def status(self) -> str:
        if self._job is not None:
            return f"Bisecting: {len(self._found)} of {self._total} found"
        if not self._subjects.ready:
            return "Opening the models that are compared"
        if self._subjects.classless:
            return "A model has no classes"
        return self._said

    def enter(self) -> None:
        self._entered = True
        if not self._images:
            self._fill()
        self._show_sight()
        self._subjects_changed()

    def leave(self) -> None:
        self._entered = False

    def say(self, sentence: str) -> None:
        self.panel.notice.say(sentence)

    def restyle(self) -> None:
        self.panel.restyle()

    @Slot()
    def run_or_pause(self) -> None:
        if self.busy:
            self.stop()
        else:
            self._begin()

    @Slot()
    def stop(self) -> None:
        """End the measurement, what was found stays; with none, dismiss the notice."""
        if self._job is None:
            self.panel.notice.hide()
            return
        self._let_go()
        self.panel.end()
        self._said = f"Cancelled: {len(self._found)} of {self._total} found"
        self.changed.emit()

    @Slot()
    def _show_run(self) -> None:
        self.panel.show_run(self.run_text, can_run=self.can_run, can_export=self.can_export)

    # ---- the image ---------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """The bundled images, and what is in sight."""
        for path in bundle.samples():
            shows = bundle.sample_class(path)
            picture = images.prepare(path, _THUMB // 2)
            self._images.append(_Image(path.name, str(path), shows))
            self.panel.add_image(shows, path.name, to_bytes(picture.pixels))
        self._images.append(_Image("The image in sight", ""))
        self.panel.add_image("in sight", "", None)
        self.panel.choose_image(0)
        self._choose(0)

    @property
    def _in_sight(self) -> int:
        return next(i for i, image in enumerate(self._images) if not image.path)

    @Slot()
    def _show_sight(self) -> None:
        """The chosen chain of the run in sight, at its step."""
        if not self._entered or not self._images:
            return
        pixels = self._sighted()
        session = self._sight.session
        tip = "There is no run in sight"
        if pixels is not None and session is not None:
            tip = f"{session.start.names[self._sight.chain]} at step {self._sight.step:,} of the run in sight"
        self._images[self._in_sight].note = tip
        self.panel.change_image(self._in_sight, tip, None if pixels is None else to_bytes(pixels))
        seen = (session and session.start.spec.id, self._sight.chain, self._sight.step)
        if self._chosen == self._in_sight and seen != self._seen:
            self._anew()
            self.panel.show_about(self._about())
        self._seen = seen

    def _sighted(self) -> Floats | None:
        """(C, H, W), or None if it cannot be had."""
        session = self._sight.session
        if session is None or not len(session):
            return None
        try:
            pixels = session[min(self._sight.step, len(session) - 1)].pixels
        except OSError:
            return None
        return np.array(pixels[self._sight.chain])

    @Slot(int)
    def _choose(self, row: int) -> None:
        if 0 <= row < len(self._images):
            self._chosen = row
            self.panel.show_about(self._about())
            self._show_classes()
            self._anew()

    def _about(self) -> str:
        image = self._images[self._chosen]
        return " · ".join(filter(None, (image.name, image.note)))

    def _show_classes(self) -> None:
        """The classes that all models know, in the words of the first."""
        lists = [checkpoint.classes for checkpoint in self._subjects.checkpoints]
        shared = set.intersection(*({alike(name) for name in names} for names in lists)) if lists else set()
        known = [name for name in (lists[0] if lists else ()) if alike(name) in shared]
        shows = self._images[self._chosen].shows if self._images else None
        same = next((name for name in known if shows is not None and alike(name) == alike(shows)), None)
        self.panel.show_classes(known, same)

    @Slot()
    def _ask(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self.panel, "Open images", str(Path.home()), intake.IMAGE_FILTER)
        self._look_at(paths)

    @Slot(object)
    def _dropped(self, data: QMimeData) -> None:
        try:
            self._look_at(intake.sort(intake.paths_of(data))[1])
        except Refused as refused:
            self.panel.notice.say(str(refused))

    def _look_at(self, paths: list[str]) -> None:
        """Read them on the file thread; the first is chosen."""
        self._wanted = paths[0] if paths else ""
        for path in paths[:_MOST]:
            self._files.ask(lambda path=path: self._read(path))  # type: ignore[misc]
        if len(paths) > _MOST:
            self.panel.notice.say(f"The first {_MOST} of {len(paths):,} images are taken.")

    def _read(self, path: str) -> None:
        """On the file thread."""
        work = partial(images.prepare, path, _THUMB)
        picture, problem = tried(f"{Path(path).name} could not be read", work)
        self._looked_at.emit(path, None if picture is None else to_bytes(picture.pixels), problem)

    @Slot(str, object, str)
    def _take(self, path: str, picture: Bytes | None, problem: str) -> None:
        if picture is None:
            self.panel.notice.say(problem)
            return
        row = next((i for i, image in enumerate(self._images) if image.path == path), len(self._images))
        if row == len(self._images):
            self._images.append(_Image(Path(path).name, path))
            self.panel.add_image(Path(path).name, path, picture)
        if path == self._wanted:
            self._wanted = ""
            self.panel.choose_image(row)
            self._choose(row)

    # ---- measuring ---------------------------------------------------------------------------------------------------

    @Slot()
    def _subjects_changed(self) -> None:
        """Other models, or one of them is open now: what was found of others goes."""
        if not self._entered:
            return
        columns = self._columns()
        shown = (self._subjects.references, self._subjects.subjects)
        if shown != self._shown:
            self._let_go()
            self._found, self._shown, self._said = [], shown, ""
            self.panel.show_columns(columns)
            self._show_classes()
            if self._subjects.classless:
                self.panel.notice.say(self._subjects.classless)
        self.changed.emit()

    def _columns(self) -> list[Column]:
        known = {subject.reference: checkpoint for subject, checkpoint in
                 zip(self._subjects.subjects, self._subjects.checkpoints, strict=True)}  # fmt: skip
        return [
            Column(known[name].name, known[name].classes, known[name].size) if name in known
            else Column(Path(name).name, (), 0)
            for name in self._subjects.references
        ]  # fmt: skip

    @Slot()
    def _anew(self) -> None:
        """Something else is to be measured: what was found is not of that."""
        self._let_go()
        self._found, self._said = [], ""
        self.panel.clear()
        self.changed.emit()

    def _begin(self) -> None:
        if not self.can_run or not self._images:
            return
        self._let_go()
        self.panel.notice.hide()
        self._show_sight()
        image = self._images[self._chosen]
        try:
            request = Smallest(
                subjects=self._subjects.subjects,
                path=image.path,
                pixels=None if image.path else self._sighted(),
                label=self.panel.class_name,
                norms=NORMS,
                steps=self.panel.steps.value(),
            )
        except Refused as refused:
            self.panel.notice.say(str(refused))
            return
        self._found, self._total, self._said = [], len(request.subjects) * len(NORMS), ""
        self._asked = request, self._subjects.checkpoints
        self.panel.begin()
        self._job = Job(request)
        self._prober.begin(self._job)
        self.changed.emit()

    def _let_go(self) -> None:
        """Of what is under way; its answers are passed over."""
        if self._job is not None:
            self._job.cancel()
            self._job = None

    @Slot(object, list)
    def _told(self, job: Job, answers: list[object]) -> None:
        if job is not self._job:
            return
        for answer in answers:
            if isinstance(answer, Bound):
                self.panel.show_bound(answer)
            elif isinstance(answer, Flip):
                self._found.append(answer)
                self.panel.show_flip(answer)
            elif isinstance(answer, Note):
                self.panel.notice.say(answer.says)
        self.changed.emit()

    @Slot(object, str)
    def _ended(self, job: Job, problem: str) -> None:
        if job is not self._job:
            return
        self._job = None
        self.panel.end()
        if problem:
            self.panel.notice.say(problem)
        else:
            self._said = f"{len(self._found)} of {self._total} found"
        self.changed.emit()

    # ---- export ------------------------------------------------------------------------------------------------------

    @property
    def can_export(self) -> bool:
        return bool(self._found)

    @Slot()
    def export(self) -> None:
        """Let the person choose where, and write what is found so far into a folder of its own there."""
        if self.can_export and (parent := self._results.ask(self.panel, "Export what is found to a new folder in")):
            self.write(parent)

    def write(self, parent: Path) -> None:
        """smallest.json, energies.csv and pictures in a new folder."""
        if self._asked is None or not self._found:
            return
        (request, checkpoints), found = self._asked, tuple(self._found)
        self._results.write(parent, lambda folder: report.write(folder, request, checkpoints, found), new="smallest")

    @Slot(str, str)
    def _exported(self, folder: str, problem: str) -> None:
        if problem:
            self.panel.notice.say(problem)
        else:
            self._said = f"Exported to {folder}"
        self.changed.emit()
