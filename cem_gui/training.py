"""A training that is watched: read again and again while it goes on, and the same morph by each of its epochs."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from PySide6.QtCore import QObject, QSettings, QTimer, Signal, Slot
from PySide6.QtWidgets import QFileDialog

from cem_core import bundle, images
from cem_core.linking import Round
from cem_core.messages import Chain, Floats, ImageStart, Reference, Refused, RunSpec, RunStart, Sampler, Step
from cem_core.presets import FROM_IMAGES, SAMPLERS
from cem_core.probes.requests import Linked
from cem_core.training.history import History
from cem_core.training.progress import LOG
from cem_gui.controls import Controls
from cem_gui.files import Files, tried
from cem_gui.models import Models
from cem_gui.panels.training import Choices, Told, TrainingPanel
from cem_gui.pictures import Pictures
from cem_gui.prober import Job, LinkedRuns, Prober
from cem_gui.stages import Stage
from cem_gui.widgets.figures import figure
from cem_gui.widgets.image_grid import Bytes, to_bytes

_LOOK_MS: Final = 1000
"""Between two looks at whether there is more in the log."""
_RECENT: Final = 5
"""Folders that are remembered."""
_COLUMNS: Final = 8
"""Epochs of which the strip has images, at most."""
_MOST: Final = 100_000
"""Epochs that any recipe could ask for: a log may say anything."""
_LATE: Final = 20
"""Words that the pace is taken of."""
_SAMPLES: Final = frozenset(map(str, bundle.samples()))
"""Images that are so small that they can be shown at once."""
_ENCODED: Final = "CS"
"""The row for encoders: the way of one image to another in feature space."""


class _Frame(NamedTuple):
    """What images have become by the weights of one epoch."""

    pixels: Floats
    """(B, C, H, W)."""
    reached: Floats
    """(B,) p(target); by an encoder how like the target they are."""
    distance: Floats
    """(B,) from where they began."""


_Key = tuple[tuple[Path, int], Choices]
"""A checkpoint with its time, and what was done with it."""
_Found = tuple[Told, tuple[int, int] | None]
"""What was told, and the size and time of the log it was read in."""


class TrainingStage(Stage):
    title = "Training"
    tip = "The learning curves of a training, live, and what its epochs make of images"
    compares = False
    samples = False
    has_steps = False

    model_opened = Signal()
    """An epoch is on its way to be the window's model."""
    _opened = Signal(object, object, str)
    """History, what it has told and when, or a sentence instead; from the file thread."""
    _read = Signal(object, object, str)
    """The same of a training that was open."""

    def __init__(
        self,
        prober: Prober,
        models: Models,
        pictures: Pictures,
        files: Files,
        settings: QSettings,
        parent: QObject,
    ) -> None:
        self.panel: TrainingPanel
        super().__init__(TrainingPanel(), parent)
        self._prober, self._models, self._pictures = prober, models, pictures
        self._files, self._settings = files, settings
        self._history: History | None = None
        self._told_last: Told | None = None
        self._seen: tuple[int, int] | None = None
        """Size and time of the log that was read; None: there is none."""
        self._reading = False
        self._frames: dict[_Key, _Frame] = {}
        self._failed: dict[_Key, str] = {}
        """Why there is no image, in a sentence."""
        self._starts: dict[tuple[Choices, int], Bytes] = {}
        """What the rows of a strip began with, by the size of the images."""
        self._watching = False
        """The strip is being filled, or would be if there were more epochs."""
        self._job: Job | None = None
        self._epoch = 0
        """Whose images `_job` makes,"""
        self._key: _Key | None = None
        """of what,"""
        self._runs: LinkedRuns | None = None
        """and the run itself, once it has begun."""
        self._looking = QTimer(self)
        self._looking.setInterval(_LOOK_MS)
        self._looking.timeout.connect(self._look)
        self._opened.connect(self._show)
        self._read.connect(self._take)
        prober.told.connect(self._answered)
        prober.ended.connect(self._ended)
        pictures.taken.connect(self._show_choices)
        self.panel.open_wanted.connect(self.ask)
        self.panel.folder_wanted.connect(self.open)
        self.panel.epoch_opened.connect(self.open_epoch)
        self.panel.run_wanted.connect(self.run_or_pause)
        self.panel.changed.connect(self._choices_changed)
        self.changed.connect(self._show_run)
        self.panel.show_recent(self._recent)

    # ---- what the window asks ----------------------------------------------------------------------------------------

    @property
    def run_text(self) -> str:
        return "Cancel" if self.busy else "Watch it appear"

    @property
    def can_run(self) -> bool:
        return self.busy or self._next() is not None

    @property
    def busy(self) -> bool:
        return self._job is not None

    @property
    def status(self) -> str:
        told = self._told_last
        if told is None:
            return "No training is open"
        columns = self._columns(told)
        done = sum(self._key_of(epoch) in self._frames for epoch in columns)
        if self._job is not None:
            step = len(self._runs.sessions[0] or ()) - 1 if self._runs is not None else 0
            return f"Morphing by epoch {self._epoch} · step {max(0, step)} · {done} of {len(columns)} epochs"
        if not done:
            return ""
        said = "1 epoch morphed" if done == 1 else f"{done} epochs morphed"
        return f"{said} · the next ones as they come" if self._watching and told.ended is None else said

    def enter(self) -> None:
        self._show_choices()
        self._looking.start()
        self._look()

    def leave(self) -> None:
        self._looking.stop()

    def say(self, sentence: str) -> None:
        self.panel.notice.say(sentence)

    def restyle(self) -> None:
        self.panel.restyle()

    @Slot()
    def run_or_pause(self) -> None:
        if self.busy:
            self.stop()
        else:
            self._watching = True
            self._failed.clear()
            self._go_on()

    @Slot()
    def stop(self) -> None:
        """End the strip, what is there stays; with none under way, dismiss the notice."""
        self._watching = False
        if self.busy:
            self._let_go()
            self._show_strip()
            self.changed.emit()
        else:
            self.panel.notice.hide()
            self.changed.emit()

    # ---- the folder --------------------------------------------------------------------------------------------------

    @Slot()
    def ask(self) -> None:
        """Let the person choose the folder of a training."""
        begin = str(Path(self._recent[0]).parent) if self._recent else str(Path.home())
        if folder := QFileDialog.getExistingDirectory(self.panel, "Open the folder of a training", begin):
            self.open(folder)

    @Slot(str)
    def open(self, folder: str) -> None:
        """Watch the training in a folder; the one before stays if that is none."""
        self._files.ask(lambda: self._open(Path(folder).absolute()))

    @property
    def _recent(self) -> list[str]:
        try:
            return msgspec.json.decode(str(self._settings.value("trainings", "[]")), type=list[str])[:_RECENT]
        except msgspec.MsgspecError:
            return []

    def _remember(self, folders: Sequence[str]) -> None:
        kept = list(dict.fromkeys(folders))[:_RECENT]
        self._settings.setValue("trainings", msgspec.json.encode(kept).decode())
        self.panel.show_recent(kept)

    @Slot()
    def _look(self) -> None:
        """Have the log read on if there is more in it; to look is all that is done on this thread."""
        if self._history is None:
            return
        folder = self._history.folder
        self.panel.show_state(time.time(), gone=not folder.is_dir())
        if not self._reading and self._seen != _seen(folder):
            history, self._reading = self._history, True
            self._files.ask(lambda: self._read_more(history))

    # ---- on the file thread ------------------------------------------------------------------------------------------

    def _open(self, folder: Path) -> None:
        history, problem = tried("The folder could not be read", lambda: History.open(folder))
        self._opened.emit(history, *((None, problem) if history is None else _read_on(history)))

    def _read_more(self, history: History) -> None:
        self._read.emit(history, *_read_on(history))

    # ---- what was read -----------------------------------------------------------------------------------------------

    @Slot(object, object, str)
    def _show(self, history: History | None, found: _Found | None, problem: str) -> None:
        """Another training."""
        if history is None or found is None:
            self._remember([folder for folder in self._recent if Path(folder).is_dir()])
            self.panel.notice.say(problem)
            return
        if self._told_last is not None and self._told_last.folder != history.folder:
            self._watching = False
            self._let_go()
        self._history, self._reading = history, False
        self._told_last, self._seen = found
        self._remember([str(history.folder), *self._recent])
        self.panel.notice.hide()
        self._show_told()

    @Slot(object, object, str)
    def _take(self, history: History, found: _Found | None, problem: str) -> None:
        """What a training has told since."""
        if history is not self._history:
            return
        self._reading = False
        if found is None:
            self.panel.notice.say(problem)
            return
        self._told_last, self._seen = found
        self._show_told()

    def _show_told(self) -> None:
        told = self._told_last
        assert told is not None
        self.panel.show_told(told, self._columns(told), time.time())
        self._show_choices()

    @Slot(int)
    def open_epoch(self, epoch: int) -> None:
        """Its checkpoint becomes the window's model."""
        told = self._told_last
        if told is not None and epoch in told.files:
            self._models.open(str(told.files[epoch][0]))
            self.model_opened.emit()

    # ---- the strip ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _columns(told: Told) -> list[int]:
        """Epochs, evenly from the first to the last; as more come, those of before stay or go, and none between them
        is new."""
        epochs = told.epochs
        every = 1
        while len(epochs) > _COLUMNS * every:
            every *= 2
        chosen = [word.epoch for word in epochs[::every]]
        if chosen and chosen[-1] != epochs[-1].epoch:
            chosen[-1 if len(chosen) > 1 else 1 :] = [epochs[-1].epoch]
        return chosen

    @Slot()
    def _show_choices(self) -> None:
        """The bundled samples and the window's images; the classes of the training, or with an encoder the samples."""
        told = self._told_last
        if told is None:
            return
        samples = bundle.first_samples(10)  # of each class one
        classes = told.began.classes if told.began is not None and not told.encodes else ()
        if told.encodes:
            targets = [(path.stem, str(path)) for path in bundle.samples()]
            target = str(samples[len(samples) // 2])
        else:
            targets = [(name, name) for name in classes]
            target = classes[len(classes) // 2] if classes else ""
        shows = bundle.sample_class(target) if told.encodes else target
        others = [str(path) for path in samples if bundle.sample_class(path) != shows]
        offered: list[tuple[str, tuple[str, ...]]] = [("two samples", (others[0], others[len(others) // 2]))]
        known = dict.fromkeys([*map(str, samples), *self._pictures.paths])
        offered += [(Path(path).stem, (path,)) for path in known]
        self.panel.show_choices(offered, targets, target)
        self._choices_changed()

    @Slot()
    def _choices_changed(self) -> None:
        if self._key is not None and self._key[1] != self.panel.choices:
            self._let_go()
        self._show_strip()
        self._go_on()

    def _key_of(self, epoch: int) -> _Key | None:
        told = self._told_last
        file = told.files.get(epoch) if told is not None else None
        return None if file is None else (file, self.panel.choices)

    def _next(self) -> int | None:
        """The first epoch of which there could be images, and are not."""
        told = self._told_last
        if told is None or not self.panel.choices.starts or not self.panel.choices.target:
            return None
        keys = ((epoch, self._key_of(epoch)) for epoch in self._columns(told))
        return next((epoch for epoch, key in keys if key and key not in self._frames and key not in self._failed), None)

    def _go_on(self) -> None:
        if self._watching and self._job is None and (epoch := self._next()) is not None:
            self._begin(epoch)
        self.changed.emit()

    def _begin(self, epoch: int) -> None:
        self._epoch, self._key, self._runs = epoch, self._key_of(epoch), None
        assert self._key is not None
        try:
            spec = self._spec(self._key)
            self._job = Job(Linked((spec,)), Controls(spec.sampler, "running"), recorded=False)
        except Refused as refused:
            self._fail(str(refused))
            return
        self.panel.strip.say(epoch, "opening …")
        self._prober.begin(self._job)

    def _spec(self, key: _Key) -> RunSpec:
        """The same images, target, seeds and row for each."""
        (path, _), choices = key
        told, current = self._told_last, self._models.current
        assert told is not None
        reference = None
        if told.encodes:
            batch = tuple(dict.fromkeys([*map(str, bundle.samples()), *choices.starts]))
            reference, label = Reference(batch), batch.index(choices.target)
        else:
            assert told.began is not None
            label = told.began.classes.index(choices.target)
        row: Sampler = SAMPLERS[_ENCODED if told.encodes else FROM_IMAGES]
        return RunSpec(
            id=uuid.uuid4().hex[:12],
            checkpoint=str(path),
            sampler=msgspec.structs.replace(row, steps=choices.steps),
            chains=tuple(Chain(ImageStart(start), seed, label) for seed, start in enumerate(choices.starts)),
            device=current.device if current is not None else "auto",
            reference=reference,
        )

    def _let_go(self) -> None:
        """Of what is under way; its answers are passed over."""
        if self._job is not None:
            self._job.cancel()
        self._job = self._runs = self._key = None

    @Slot(object, list)
    def _answered(self, job: Job, answers: list[object]) -> None:
        if job is not self._job or self._key is None:
            return
        for answer in answers:
            if isinstance(answer, LinkedRuns):
                self._runs = answer
                session = answer.sessions[0]
                if session is not None:
                    pixels = session[0].pixels
                    self._starts[self._key[1], pixels.shape[-1]] = to_bytes(pixels)
                    self.panel.strip.show_starts(to_bytes(pixels), _names(self._key[1]))
        session = self._runs.sessions[0] if self._runs is not None else None
        newest = next((answer for answer in reversed(answers) if isinstance(answer, Round)), None)
        if session is not None and newest is not None and isinstance(step := newest.messages[0], Step):
            self._show_frame(self._epoch, _frame(session.start, step), self._key[1])
        self.changed.emit()

    @Slot(object, str)
    def _ended(self, job: Job, problem: str) -> None:
        if job is not self._job or self._key is None:
            return
        session = self._runs.sessions[0] if self._runs is not None else None
        if problem or session is None:
            self._fail(problem or "Nothing could be morphed.")
        elif self._runs is not None and self._runs.problems[0]:
            self._fail(self._runs.problems[0])
        else:
            self._frames[self._key] = _frame(session.start, session[len(session) - 1])
        self._job = self._runs = self._key = None
        self._show_strip()
        self._go_on()

    def _fail(self, sentence: str) -> None:
        if self._key is not None:
            self._failed[self._key] = sentence
        self.panel.notice.say(f"Epoch {self._epoch}: {sentence}")

    def _show_strip(self) -> None:
        """All that is known of what is chosen, and why the rest is not."""
        told, choices, strip = self._told_last, self.panel.choices, self.panel.strip
        if told is None:
            return
        size = told.recipe.network.size
        if (choices, size) not in self._starts and choices.starts and _SAMPLES.issuperset(choices.starts):
            self._starts[choices, size] = np.concatenate(
                [to_bytes(images.prepare(path, size).pixels[None]) for path in choices.starts]
            )
        strip.show_starts(self._starts.get((choices, size)), _names(choices))
        for epoch in self._columns(told):
            key = self._key_of(epoch)
            if key in self._frames:
                self._show_frame(epoch, self._frames[key], choices)
            elif key is None:
                strip.say(epoch, "no file")
            elif key in self._failed:
                strip.say(epoch, "failed")
            elif key != self._key:
                strip.say(epoch, "")

    def _show_frame(self, epoch: int, frame: _Frame, choices: Choices) -> None:
        encodes = self._told_last is not None and self._told_last.encodes
        target, measure = (Path(choices.target).stem, "cos") if encodes else (choices.target, "p")
        tips = [
            f"Epoch {epoch}: {name} towards {target} came to {measure} {figure(reached, '.3f')} "
            f"at distance {distance:.2f}"
            for name, reached, distance in zip(_names(choices), frame.reached, frame.distance, strict=True)
        ]
        captions = [f"{measure} {figure(reached)}" for reached in frame.reached]
        self.panel.strip.show_images(epoch, to_bytes(frame.pixels), captions, tips)

    @Slot()
    def _show_run(self) -> None:
        self.panel.show_run(self.run_text, can_run=self.can_run)


def _read_on(history: History) -> tuple[_Found | None, str]:
    """What it has told by now; or a sentence instead."""

    def read() -> _Found:
        seen = _seen(history.folder)
        history.read()
        return _told(history, seen), seen

    return tried("The log of the training could not be read", read)


def _told(history: History, seen: tuple[int, int] | None) -> Told:
    progress = history.progress
    epochs = tuple(word for word in history.epochs if 1 <= word.epoch <= _MOST)
    files: dict[int, tuple[Path, int]] = {}
    for word in epochs:
        try:
            path = history.checkpoint(word)
            files[word.epoch] = path, path.stat().st_mtime_ns
        except (Refused, OSError):
            pass
    late = progress[-_LATE:]
    steps = late[-1].step - late[0].step if late else 0
    return Told(
        folder=history.folder,
        recipe=history.recipe,
        began=history.began,
        last=progress[-1] if progress else None,
        ended=history.ended,
        epochs=epochs,
        files=files,
        at=np.array([word.epoch for word in progress], np.float64),
        losses=np.array([word.loss for word in progress], np.float64),
        pace=(late[-1].seconds - late[0].seconds) / steps if steps else math.nan,
        written=seen[1] / 1e9 if seen is not None else 0.0,
    )


def _frame(start: RunStart, step: Step) -> _Frame:
    if start.checkpoint.classes:
        reached = np.exp(step.log_p)
    else:
        reached = start.likeness(step.logits)[np.arange(len(start.labels)), start.labels]
    return _Frame(step.pixels, reached, step.distance)


def _seen(folder: Path) -> tuple[int, int] | None:
    """Size and time of the log; None: there is none."""
    try:
        found = (folder / LOG).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _names(choices: Choices) -> list[str]:
    return [Path(start).stem for start in choices.starts]
