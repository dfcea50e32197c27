"""How similar models find two images, and one of them on its way to the other through feature space."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from PySide6.QtCore import QMimeData, QObject, QSettings, Signal, Slot
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication, QFileDialog

from cem_core import bundle, images
from cem_core.messages import Chain, Checkpoint, ImageStart, Reference, Refused, RunSpec, Sampler, Step
from cem_core.probes.requests import Linked, Subject
from cem_gui import intake
from cem_gui.files import Files, tried
from cem_gui.lockstep import Lockstep
from cem_gui.panels.similarity import HINT, LETTERS, SimilarityPanel
from cem_gui.panels.timeline import TimelinePanel
from cem_gui.prober import Prober
from cem_gui.subjects import Subjects
from cem_gui.widgets.figures import figure
from cem_gui.widgets.image_grid import Bytes, to_bytes, to_image
from cem_gui.widgets.nearest import MOST, Near

SAMPLES: Final = ("deer-1", "automobile-1")
"""What is morphed when somebody only wants to see something."""
_HEADLESS: Final = {"head": "none"}
_REMEMBERED: Final = "similarity images"
_VISITED: Final = "similarity visited"
_USUAL: Final = 32
"""Side of images before a model is open."""


class SimilarityStage(Lockstep):
    """The runs are of one chain each: from A, towards B. The reference batch is A, B and the bundled samples, so that
    the first two logits are f(x,A) and f(x,B), and those of step 0 tell f(A,B)."""

    title = "Similarity"
    tip = "How similar models find two images, and one on its way to the other"

    _looked_at = Signal(int, str, object, str)
    """Which of both, its path, its picture (H, W, 3) or None, and a sentence if it cannot be read; from the file
    thread."""

    def __init__(self, prober: Prober, subjects: Subjects, files: Files, settings: QSettings, parent: QObject) -> None:
        timeline = TimelinePanel()
        self.panel: SimilarityPanel
        super().__init__(
            SimilarityPanel(timeline, bundle.samples()), timeline, prober, subjects, settings, _VISITED, parent
        )
        self._files = files
        self._paths = ["", ""]
        """Of A and B; empty: there is none, or it is still being read."""
        self._awaited = ["", ""]
        self._seen: list[Bytes | None] = [None, None]
        """What the slots show,"""
        self._kind = (0, 0)
        """for models of that size and so many channels."""
        self._references: list[tuple[QImage, str]] = []
        """Of the runs that are shown: picture and name of each."""
        self._entered = False
        panel = self.panel
        panel.takes = intake.is_picture
        panel.setFocusProxy(timeline.strip)
        self._looked_at.connect(self._take)
        panel.stepped.connect(self.go_to)
        panel.row_changed.connect(self._row_changed)
        panel.measure_changed.connect(self._renew)
        panel.open_wanted.connect(self._ask)
        panel.paste_wanted.connect(self._paste)
        panel.sample_wanted.connect(lambda index, path: self._look_at([path], index))
        panel.cleared.connect(self._clear)
        panel.swap_wanted.connect(self.swap)
        panel.samples_wanted.connect(self.try_samples)
        panel.run_wanted.connect(self.run_or_pause)
        panel.dropped.connect(self.take)
        self.changed.connect(self._show_run)
        for index in (0, 1):
            panel.show_image(index, None)

    # ---- what the window asks ----------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        return super().status if all(self._paths) else "Two images are wanted"

    def enter(self) -> None:
        if not self._entered:
            self._entered = True
            remembered = _read(self._settings)
            if any(remembered):
                for index, path in enumerate(remembered):
                    self._look_at([path] if path else [], index)
            elif str(self._settings.value(_VISITED, "false")) != "true":
                self.try_samples()
        super().enter()
        self._show_images()

    @Slot(object, int)
    def take(self, data: QMimeData, index: int = -1) -> bool:
        """Images that were dropped or pasted: for A (0), for B (1), or wherever there is room."""
        if not intake.is_picture(data):
            return False
        try:
            self._look_at(intake.sort(intake.paths_of(data))[1], index)
        except Refused as refused:
            self.panel.say(str(refused))
        return True

    # ---- A and B -----------------------------------------------------------------------------------------------------

    @Slot()
    def try_samples(self) -> None:
        """Bundled images where there are none."""
        for index, stem in enumerate(SAMPLES):
            if not self._paths[index]:
                path = next(path for path in bundle.samples() if path.stem == stem)
                self._look_at([str(path)], index)

    @Slot()
    def swap(self) -> None:
        for both in (self._paths, self._awaited, self._seen):
            both.reverse()
        self._images_changed()

    @Slot(int)
    def _clear(self, index: int) -> None:
        self._paths[index], self._awaited[index], self._seen[index] = "", "", None
        self._images_changed()

    @Slot(int)
    def _ask(self, index: int) -> None:
        folder = str(self._settings.value("images", str(Path.home())))
        title = f"Open image {LETTERS[index]}"
        path, _ = QFileDialog.getOpenFileName(self.panel, title, folder, intake.IMAGE_FILTER)
        if path:
            self._settings.setValue("images", str(Path(path).parent))
            self._look_at([path], index)

    @Slot(int)
    def _paste(self, index: int) -> None:
        if not self.take(QApplication.clipboard().mimeData(), index):
            self.panel.say("The clipboard holds no image: copy an image or an image file first.")

    def _look_at(self, paths: Sequence[str], index: int = -1) -> None:
        """Read them on the file thread. One goes where it is wanted, or where there is room; two are A and B."""
        if len(paths) > len(LETTERS):
            self.panel.say(f"The first two of {len(paths):,} images are taken.")
        places = [0, 1] if len(paths) > 1 else [index if index >= 0 else self._room]
        for place, path in zip(places, paths, strict=False):
            self._awaited[place] = path
            self._files.ask(lambda place=place, path=path, kind=self._takes: self._read(place, path, kind))  # type: ignore[misc]

    @property
    def _room(self) -> int:
        return next((i for i in (0, 1) if not self._paths[i] and not self._awaited[i]), 1)

    @property
    def _takes(self) -> tuple[int, int]:
        """Size and channels of what the first model takes."""
        first = next(iter(self._subjects.checkpoints), None)
        return (_USUAL, 3) if first is None else (first.size, first.channels)

    def _read(self, index: int, path: str, kind: tuple[int, int]) -> None:
        """On the file thread."""

        def read() -> Bytes:
            _samples(*kind)
            return to_bytes(images.prepare(path, *kind).pixels)

        self._looked_at.emit(index, path, *tried(f"{Path(path).name} could not be read", read))

    @Slot(int, str, object, str)
    def _take(self, index: int, path: str, picture: Bytes | None, problem: str) -> None:
        if path != self._awaited[index]:
            return  # another is wanted by now
        self._awaited[index] = ""
        if picture is None:
            self.panel.say(problem)
            return
        is_new = path != self._paths[index]
        self._paths[index], self._seen[index], self._kind = path, picture, self._takes
        if is_new:
            self._images_changed()
        else:
            self._show_images()

    def _images_changed(self) -> None:
        self._settings.setValue(_REMEMBERED, msgspec.json.encode(self._paths).decode())
        self._show_images()
        if all(self._paths):
            self._renew()
            self._show_hindrance()
        else:
            self._settling.stop()
            self._forget()

    def _show_images(self) -> None:
        for index, (path, picture) in enumerate(zip(self._paths, self._seen, strict=True)):
            self.panel.show_image(index, picture, Path(path).name, path)

    # ---- what is run -------------------------------------------------------------------------------------------------

    @property
    def _wanted(self) -> object:
        return self._subjects.references, tuple(self._paths), self.panel.measure

    @property
    def _wanted_row(self) -> Sampler:
        return self.panel.sampler

    @property
    def _hindrance(self) -> str:
        if not all(self._paths):
            return HINT
        return "" if self._subjects.ready else "Opening the models …"

    @Slot()
    def _renew(self) -> None:
        """Other images, or another similarity: what is under way is of something else. It is recorded."""
        if self._job is not None:
            self._drop()
        self._settling.start()

    def _request(self) -> Linked:
        paths = tuple(dict.fromkeys((*self._paths, *map(str, bundle.samples()))))
        if self._paths[0] == self._paths[1]:
            paths = (paths[0], *paths)  # B has a column of its own, whatever it is
        cosine, temperature = self.panel.measure
        reference = Reference(paths, cosine=cosine, temperature=temperature)
        self._references = self._pictured(paths)
        models = zip(self._subjects.subjects, self._subjects.checkpoints, strict=True)
        return Linked(tuple(self._spec(*model, reference) for model in models), crossed=False)

    def _spec(self, subject: Subject, checkpoint: Checkpoint, reference: Reference) -> RunSpec:
        return RunSpec(
            id=uuid.uuid4().hex[:12],
            checkpoint=subject.reference,
            sampler=self.panel.sampler,
            chains=(Chain(ImageStart(reference.images[0]), 0, 1),),
            device=subject.device,
            precision=subject.precision,
            choices=subject.choices | _HEADLESS if checkpoint.classes else subject.choices,
            reference=reference,
        )

    def _pictured(self, paths: Sequence[str]) -> list[tuple[QImage, str]]:
        pictures = [to_image(picture) for picture in self._seen if picture is not None]
        samples = _samples(*self._takes)
        others = [(samples[path], Path(path).stem) for path in paths[len(LETTERS) :]]
        return [*zip(pictures, LETTERS, strict=True), *others]

    @Slot()
    def _subjects_changed(self) -> None:
        super()._subjects_changed()
        if self._subjects.ready and self._kind != self._takes:
            for index, path in enumerate(self._paths):
                if path and not self._awaited[index]:
                    self._look_at([path], index)

    # ---- what is shown -----------------------------------------------------------------------------------------------

    @Slot()
    def _show_run(self) -> None:
        text = self.run_text.replace("&", "")
        self.panel.show_run("Morph A → B" if text == "Run" else text, can_run=self.can_run)

    def _draw_runs(self) -> None:
        self.panel.show_models([(checkpoint, _compared(checkpoint)) for checkpoint in self._checkpoints])
        for column, session in zip(self.panel.columns, self._sessions, strict=False):
            if session is not None and len(session):
                f, spec = float(session.numbers.logits[0, 0, 1]), session.start.spec
                assert spec.reference is not None
                plain = spec.reference.cosine and spec.temperature != 1
                column.show_similarity(f, f * spec.temperature if plain else None)
        if (begun := self._begun) is not None:
            start = begun.start
            names = [Path(path).name for path in start.spec.reference.images[:2]] if start.spec.reference else []
            self.panel.show_about(" · ".join(filter(None, (" → ".join(names), start.notes[0]))))

    def _draw_step(self) -> None:
        """x at the cursor, or where a run ended before."""
        if self._runs is None:
            return
        for column, session, problem in zip(self.panel.columns, self._sessions, self._runs.problems, strict=False):
            if problem:
                column.show_problem(problem)
            if session is None or not len(session):
                continue
            if (step := self._at_cursor(session)) is None:
                return
            f = step.logits[0]
            column.show_step(self._frame(step), [self._near(k, f[k]) for k in np.argsort(-f)[:MOST]])

    def _near(self, index: int, f: float) -> Near:
        picture, name = self._references[index]
        return Near(picture, name, figure(f))

    def _draw_curves(self, model: int) -> None:
        session, column = self._sessions[model], self.panel.columns[model]
        if session is not None and len(session):
            column.show_curves(session.numbers, max(self._length, self.last_step))
            column.set_cursor(self._step)

    def _frame(self, step: Step) -> Bytes:
        return to_bytes(step.pixels[0])


@cache
def _samples(size: int, channels: int) -> dict[str, QImage]:
    """By their paths, as such models take them. Read once, on the file thread."""
    samples = map(str, bundle.samples())
    return {path: to_image(to_bytes(images.prepare(path, size, channels).pixels)) for path in samples}


def _compared(checkpoint: Checkpoint) -> str:
    """What of a model is compared."""
    return "Features before its classes" if checkpoint.classes else f"{checkpoint.title} · its features"


def _read(settings: QSettings) -> list[str]:
    """The images of the last visit, as far as they are still there."""
    try:
        paths = msgspec.json.decode(str(settings.value(_REMEMBERED, "[]")), type=list[str])
    except msgspec.MsgspecError:
        return []
    return [path if path and Path(path).is_file() else "" for path in paths[: len(LETTERS)]]
