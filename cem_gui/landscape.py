"""Energies on a plane through an image or a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from PySide6.QtCore import QObject, QSettings, QTimer, Slot

from cem_core.messages import Checkpoint, Floats, Refused
from cem_core.probes import landscape_report as report
from cem_core.probes.requests import Landscape, Subject
from cem_core.probes.results import Note, Plane, Survey
from cem_core.session import Session
from cem_gui.files import Files, OpenModel
from cem_gui.models import Models
from cem_gui.panels.landscape import Choices, LandscapePanel
from cem_gui.prober import Job, Prober
from cem_gui.results import Results
from cem_gui.sight import Sight
from cem_gui.stages import Stage

POINTS: Final = 256
"""Steps of a run that its plane is made of, at most."""
_PIECE: Final = 0.012
"""Seconds of reading steps at a time: the window goes on meanwhile."""


class LandscapeStage(Stage):
    title = "Landscape"
    tip = "Energies on a plane through the image or along the run in sight"
    compares = False
    samples = False
    has_steps = False

    def __init__(
        self, prober: Prober, models: Models, sight: Sight, files: Files, settings: QSettings, parent: QObject
    ) -> None:
        self.panel: LandscapePanel
        super().__init__(LandscapePanel(), parent)
        self._prober, self._models, self._sight = prober, models, sight
        self._results = Results(files, settings, self)
        self._entered = False
        self._job: Job | None = None
        self._gathering: _Gathering | None = None
        self._drawn: tuple[object, ...] | None = None
        """What the picture is of; None: there is none."""
        self._asked: Choices | None = None
        self._steps: list[int] = []
        self._request: Landscape | None = None
        self._source: tuple[str, Checkpoint] | None = None
        """What it is drawn of, in a word, and the model."""
        self._survey: Survey | None = None
        self._plane: Plane | None = None
        self._seconds = 0.0
        self._said = ""
        self._reading = QTimer(self)
        self._reading.timeout.connect(self._gather)
        prober.told.connect(self._told)
        prober.ended.connect(self._ended)
        models.opened.connect(self._look)
        models.none_open.connect(self._look)
        sight.began.connect(self._look)
        self.panel.changed.connect(self._changed)
        self.panel.run_wanted.connect(self.run_or_pause)
        self.panel.export_wanted.connect(self.export)
        self._results.written.connect(self._exported)
        self.changed.connect(self._show_run)

    # ---- what the window asks ----------------------------------------------------------------------------------------

    @property
    def run_text(self) -> str:
        return "Cancel" if self.busy else "Redraw" if self._survey is not None else "Draw"

    @property
    def can_run(self) -> bool:
        return self.busy or not self._hindrance()

    @property
    def busy(self) -> bool:
        return self._job is not None or self._gathering is not None

    @property
    def status(self) -> str:
        if self._gathering is not None:
            return f"Reading the run: {len(self._gathering.steps):,} of {self._gathering.total:,} steps"
        if self._survey is None:
            return "Finding the plane" if self.busy else self._said
        total, done = self._survey.energy.size, self._survey.done
        said = f"{done:,} of {total:,} points" if done < total else f"{total:,} points"
        rest = "" if self.busy or done == total else " · cancelled"
        return f"{said} in {self._seconds:.1f} s{rest}{self._said and ' · '}{self._said}"

    def enter(self) -> None:
        self._entered = True
        self._look()

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
        """End the drawing, what is drawn stays; with none, dismiss the notice."""
        if self.busy:
            self._let_go()
            self.changed.emit()
        else:
            self.panel.notice.hide()

    # ---- drawing -----------------------------------------------------------------------------------------------------

    @Slot()
    def _look(self) -> None:
        """Draw what is in sight, if the tab is, and nothing is drawn of it yet."""
        if not self._entered:
            return
        session = self._sight.session
        moved = session is not None and sum(map(session.kept, range(len(session)))) > 2
        self.panel.suggest("along" if moved else "around")
        self._show_model()
        if self._hindrance():
            self._empty()
        elif self._of() != self._drawn:
            self._begin()
        self.panel.show_step(self._sight.step)
        self.changed.emit()

    @Slot()
    def _changed(self) -> None:
        if self._hindrance():
            self._empty()
        else:
            self._begin()

    def _of(self) -> tuple[object, ...]:
        """What a picture would be of now."""
        session, which = self._sight.session, self.panel.choices.which
        step = self._sight.step if which == "around" else len(session or ())
        return (self._models.current, session, self._sight.chain, step, which)

    def _hindrance(self) -> str:
        """Why nothing can be drawn, and what to do; empty if it can."""
        session = self._sight.session
        if self._models.current is None:
            return "The model is being opened …" if self._models.is_opening else (
                "No model is open: open one in the Evolution tab."
            )  # fmt: skip
        if self._models.classless:
            return self._models.classless
        if session is None or not len(session):
            return "There is no run in sight: drop an image on the Evolution tab, or open a recorded run."
        if self.panel.choices.which == "along" and len(session) < 2:
            return (
                "The run in sight has not moved yet: press Space in the Evolution tab first, or choose the plane "
                "around its image."
            )
        return ""

    def _empty(self) -> None:
        self._let_go()
        self._drawn = self._survey = self._plane = None
        self.panel.show_empty(self._hindrance())
        self.changed.emit()

    def _show_model(self) -> None:
        """The y that E(x,y) has is the target of the chain in sight, where the model knows that class."""
        checkpoint, session = self._models.checkpoint, self._sight.session
        if checkpoint is None:
            return
        label = None
        if session is not None and self._sight.chain < len(session.start.labels):
            target = session.start.candidates[session.start.labels[self._sight.chain]]
            label = checkpoint.classes.index(target) if target in checkpoint.classes else None
        same = self._drawn is not None and self._of()[:3] == self._drawn[:3]
        self.panel.show_model(checkpoint.name, checkpoint.classes, None if same else label)

    @Slot()
    def _begin(self) -> None:
        """Read what the plane is made of; then its energies are asked for."""
        session = self._sight.session
        if self._hindrance() or session is None:
            return
        self._let_go()
        self.panel.notice.hide()
        self._said = ""
        self._drawn, self._asked = self._of(), self.panel.choices
        if self._asked.which == "around":
            steps = [self._sight.step]
        else:
            steps = [step for step in evenly(len(session), POINTS) if session.kept(step)]
            if len(steps) < 2:
                self._fail("The pixels of this run were thinned out: choose the plane around its image.")
                return
        self._gathering = _Gathering(session, self._sight.chain, steps)
        self._reading.start(0)
        self._gather()

    @Slot()
    def _gather(self) -> None:
        gathering = self._gathering
        if gathering is None:
            self._reading.stop()
            return
        try:
            complete = gathering.read_for(_PIECE)
        except OSError as error:
            of_disk = f"A step of the run could not be read back from the disk: {error.strerror}."
            self._fail(of_disk if error.strerror else str(error))
            return
        if complete:
            self._reading.stop()
            self._gathering = None
            self._ask(gathering)
        self.changed.emit()

    def _ask(self, gathering: _Gathering) -> None:
        model, choices = self._models.current, self._asked
        assert model is not None
        assert choices is not None
        try:
            request = Landscape(
                subject=_subject(model),
                pixels=np.stack(gathering.pixels),
                label=None if choices.marginal else choices.label,
                marginal=choices.marginal,
                size=choices.size,
                extent=choices.extent,
                seed=choices.seed,
            )
        except Refused as refused:
            self._fail(str(refused))
            return
        self._steps, self._survey, self._plane, self._seconds = gathering.steps, None, None, 0.0
        self._request, self._source = request, (gathering.name, model.checkpoint)
        self._job = Job(request)
        self._prober.begin(self._job)

    def _fail(self, sentence: str) -> None:
        self._let_go()
        self.panel.notice.say(sentence)
        self.changed.emit()

    def _let_go(self) -> None:
        """Of what is under way; its answers are passed over."""
        self._reading.stop()
        self._gathering = None
        if self._job is not None:
            self._job.cancel()
            self._job = None

    # ---- answers -----------------------------------------------------------------------------------------------------

    @Slot(object, list)
    def _told(self, job: Job, answers: list[object]) -> None:
        if job is not self._job or self._asked is None:
            return
        newest = None
        for answer in answers:
            if isinstance(answer, Plane):
                self._plane = answer
                self.panel.show_plane(answer, self._steps, self._asked.marginal)
                self.panel.show_step(self._sight.step)
            elif isinstance(answer, Survey):
                self._seconds += answer.seconds
                newest = answer
            elif isinstance(answer, Note):
                self._said = answer.says
        if newest is not None:
            self._survey = newest
            self.panel.show_survey(newest)
        self.changed.emit()

    @Slot(object, str)
    def _ended(self, job: Job, problem: str) -> None:
        if job is not self._job:
            return
        self._job = None
        if problem:
            self.panel.notice.say(problem)
        self.changed.emit()

    @Slot()
    def _show_run(self) -> None:
        self.panel.show_run(self.run_text, can_run=self.can_run)

    # ---- export ------------------------------------------------------------------------------------------------------

    @property
    def can_export(self) -> bool:
        return self._survey is not None

    @Slot()
    def export(self) -> None:
        """Let the person choose where, and write the map and its numbers into a folder of their own there."""
        if self.can_export and (parent := self._results.ask(self.panel, "Export the landscape to a new folder in")):
            self.write(parent)

    def write(self, parent: Path) -> None:
        """landscape.png, landscape.csv and landscape.json in a new folder."""
        if self._survey is None or self._plane is None or self._request is None:
            return
        plane, survey, (title, about) = self._plane, self._survey, self._told_of(self._request)
        self._said = "exporting …"
        self._results.write(parent, lambda folder: report.write(folder, plane, survey, title, about), new="landscape")
        self.changed.emit()

    @Slot(str, str)
    def _exported(self, folder: str, problem: str) -> None:
        self._said = "" if problem else f"exported to {folder}"
        if problem:
            self.panel.notice.say(problem)
        self.changed.emit()

    def _told_of(self, request: Landscape) -> tuple[str, dict[str, object]]:
        """Its title, and what it is of, for the record."""
        assert self._source is not None
        source, checkpoint = self._source
        label = "y" if request.label is None else checkpoint.classes[request.label]
        energy = "E(x)" if request.marginal else f"E(x,{label})"
        about = {
            "source": source,
            "checkpoint": checkpoint.name,
            "sha256": checkpoint.sha256,
            "subject": msgspec.to_builtins(request.subject),
            "energy": energy,
            "seed": request.seed,
        }
        return f"{energy} of {checkpoint.name}, {source}", about


class _Gathering:
    """One chain at some steps of a run, read piece by piece."""

    def __init__(self, session: Session, chain: int, wanted: list[int]) -> None:
        self._session, self._chain = session, chain
        self._wanted, self.total = wanted, len(wanted)
        of_steps = f"step {wanted[0]:,}" if len(wanted) == 1 else f"steps {wanted[0]:,} to {wanted[-1]:,}"
        self.name = f"{session.start.names[chain]}, {of_steps}"
        self.steps: list[int] = []
        self.pixels: list[Floats] = []
        """(C, H, W) each, and nothing of the other chains."""

    def read_for(self, seconds: float) -> bool:
        """Whether all are there now. Raises OSError if one cannot be read."""
        until = time.perf_counter() + seconds
        while len(self.steps) < self.total:
            step = self._wanted[len(self.steps)]
            self.pixels.append(self._session[step].pixels[self._chain].copy())
            self.steps.append(step)
            if time.perf_counter() > until:
                break
        return len(self.steps) == self.total


def evenly(count: int, most: int) -> list[int]:
    """At most so many of 0 … count-1, evenly spaced, the first and the last among them."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, most))})


def _subject(model: OpenModel) -> Subject:
    """In float32, as models are measured."""
    return Subject(model.reference, model.choices, model.device)
