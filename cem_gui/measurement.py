"""What the views that measure models over a set of images have in common: one job at a time, and its results."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import msgspec
from PySide6.QtCore import QObject, QSettings, QTimer, Slot
from PySide6.QtWidgets import QFileDialog

from cem_core.messages import Refused
from cem_core.probes.requests import Accuracy, Energies, Subject
from cem_core.probes.results import Answer
from cem_gui.files import Files
from cem_gui.prober import Job, Prober
from cem_gui.results import Results
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects
from cem_gui.widgets.measure_view import MeasureView
from cem_gui.widgets.set_choice import SetSettings

SetRequest: TypeAlias = Accuracy | Energies
_SHOWN_MS: Final = 100
"""Results are drawn anew at most so often."""
ARCHIVES: Final = "Archives (*.tar *.tar.gz *.tgz *.tar.bz2 *.tar.xz *.zip);;All files (*)"


class Report(Protocol):
    """What answers add up to."""

    notes: list[str]
    skipped: dict[str, str]

    @property
    def request(self) -> SetRequest: ...
    def add(self, answer: Answer) -> None: ...
    def write(self, folder: Path) -> None: ...


class Pace:
    """How far a measurement is and how fast, by how long each piece took: those kept from another day tell it too."""

    def __init__(self) -> None:
        self.images = 0
        """How many there are,"""
        self.expected: Mapping[Hashable, int] = {}
        """and how often that makes for each kind of work, in which all take about as long."""
        self._done: dict[Hashable, tuple[int, float]] = {}

    def add(self, kind: Hashable, images: int, seconds: float) -> None:
        count, spent = self._done.get(kind, (0, 0.0))
        self._done[kind] = count + images, spent + seconds

    @property
    def done(self) -> int:
        return sum(count for count, _ in self._done.values())

    @property
    def total(self) -> int:
        return sum(self.expected.values())

    @property
    def left(self) -> float | None:
        """Seconds; None: too little was tried yet to say. What was not tried takes as long as the slowest that was."""
        each = {kind: spent / count for kind, (count, spent) in self._done.items() if count}
        if 2 * len(each) < len(self.expected):
            return None
        return sum(
            max(0, images - self._done.get(kind, (0, 0.0))[0]) * each.get(kind, max(each.values()))
            for kind, images in self.expected.items()
        )

    def told(self) -> str:
        """Such as: 45 % · 3.2 images/s · 40 s left."""
        if not self.total:
            return "0 %"
        left, spent = self.left, sum(spent for _, spent in self._done.values())
        if left is None:
            return f"{100 * self.done // self.total} %"
        finished = self.done >= self.total
        rate = self.images / (spent + left) if spent + left else 0.0
        said = [f"{self.images:,} images measured" if finished else f"{100 * self.done // self.total} %"]
        if rate:
            said.append(f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s")
        return " · ".join(said if finished else [*said, f"{_duration(left)} left"])


def _duration(seconds: float) -> str:
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Measurement(Stage):
    """Measures when asked to, shows what comes, and keeps what came when it is cancelled."""

    compares = True

    def __init__(
        self,
        panel: MeasureView,
        key: str,
        prober: Prober,
        subjects: Subjects,
        files: Files,
        settings: QSettings,
        parent: QObject,
    ) -> None:
        self.panel: MeasureView
        super().__init__(panel, parent)
        self._prober, self._subjects, self._settings, self._key = prober, subjects, settings, key
        self._job: Job | None = None
        """What is being measured,"""
        self._coming: Report | None = None
        """what has come of it,"""
        self._report: Report | None = None
        """and what is shown: of an earlier one, until there is something to show of this."""
        self._pace = Pace()
        self._said = ""
        self._drawing = QTimer(self)
        self._drawing.setSingleShot(True)
        self._drawing.setInterval(_SHOWN_MS)
        self._drawing.timeout.connect(self._show)
        panel.choice.show_settings(_read(settings, key))
        panel.choice.changed.connect(self._settings_changed)
        panel.choice.folder_wanted.connect(self._ask_folder)
        panel.choice.archive_wanted.connect(self._ask_archive)
        panel.measure_wanted.connect(self.measure)
        panel.cancel_wanted.connect(self.stop)
        panel.export_wanted.connect(self.export)
        self._results = Results(files, settings, self)
        self._results.written.connect(self._exported)
        prober.told.connect(self._told)
        prober.ended.connect(self._ended)
        subjects.changed.connect(self._show)
        self._show()

    # ---- for those who inherit ---------------------------------------------------------------------------------------

    def _request(self, subjects: tuple[Subject, ...], batch: int) -> SetRequest:
        """What is asked for now. Raises Refused if it cannot be measured."""
        raise NotImplementedError

    def _begin(self) -> Report:
        """An empty one."""
        raise NotImplementedError

    def _time(self, report: Report, answer: Answer, pace: Pace) -> None:
        """Tell the pace of what was measured, and of what is still to come."""
        raise NotImplementedError

    def _draw(self, report: Report, *, so_far: bool, stale: bool) -> None:
        """Show it. so_far: there may be more; stale: what is chosen is not what was measured."""
        raise NotImplementedError

    # ---- what can be done --------------------------------------------------------------------------------------------

    @property
    def run_text(self) -> str:
        return "&Cancel" if self.busy else "&Measure"

    @property
    def can_run(self) -> bool:
        return self.busy or (self._subjects.ready and not self._problem())

    @property
    def busy(self) -> bool:
        return self._job is not None

    @property
    def status(self) -> str:
        return self._said

    @property
    def can_export(self) -> bool:
        return self._report is not None

    def say(self, sentence: str) -> None:
        self.panel.notice.say(sentence)

    def restyle(self) -> None:
        self.panel.restyle()
        self._show()

    @Slot()
    def run_or_pause(self) -> None:
        if self.busy:
            self.stop()
        elif self.can_run:
            self.measure()

    @Slot()
    def measure(self) -> None:
        """From the beginning; what was measured before comes from the journal."""
        self._job = Job(self._wanted())
        self._coming, self._pace = self._begin(), Pace()
        self.panel.notice.hide()
        self._say("Opening models and images …")
        self._prober.begin(self._job)

    @Slot()
    def stop(self) -> None:
        """What was measured stays."""
        if self._job is None:
            self.panel.notice.hide()
            return
        self._job.cancel()
        self._finish("Cancelled")

    @Slot()
    def export(self) -> None:
        """Write what is known into a folder that the person chooses."""
        if self._report is not None and (folder := self._results.ask(self.panel, "Folder for the results")):
            self._results.write(folder, deepcopy(self._report).write)  # more may come meanwhile

    @Slot(str, str)
    def _exported(self, folder: str, problem: str) -> None:
        if problem:
            self.panel.notice.say(problem)
        else:
            self._say(f"Written to {folder}")

    # ---- settings ----------------------------------------------------------------------------------------------------

    def _wanted(self) -> SetRequest:
        return self._request(self._subjects.subjects or (Subject(""),), self.panel.choice.settings.batch)

    def _problem(self) -> str:
        """What is wrong with the models or the settings, in a sentence."""
        if self._subjects.classless:
            return self._subjects.classless
        try:
            self._wanted()
        except Refused as refused:
            return str(refused)
        return ""

    def _stale(self, report: Report) -> bool:
        if not self._subjects.ready:
            return self._subjects.references != tuple(subject.reference for subject in report.request.subjects)
        try:
            return self._wanted() != report.request
        except Refused:
            return True

    @Slot()
    def _settings_changed(self) -> None:
        self._settings.setValue(self._key, msgspec.json.encode(self.panel.choice.settings).decode())
        self._show()

    @Slot()
    def _ask_folder(self) -> None:
        self._choose(QFileDialog.getExistingDirectory(self.panel, "Folder of class folders", self._images_folder()))

    @Slot()
    def _ask_archive(self) -> None:
        title = "Archive of class folders"
        self._choose(QFileDialog.getOpenFileName(self.panel, title, self._images_folder(), ARCHIVES)[0])

    def _images_folder(self) -> str:
        return str(self._settings.value("labelled images", str(Path.home())))

    def _choose(self, path: str) -> None:
        if path:
            self._settings.setValue("labelled images", str(Path(path).parent))
            self.panel.choice.choose_path(path)

    # ---- answers -----------------------------------------------------------------------------------------------------

    @Slot(object, list)
    def _told(self, job: Job, answers: list[Answer]) -> None:
        if job is not self._job or self._coming is None:
            return
        for answer in answers:
            self._coming.add(answer)
            self._time(self._coming, answer, self._pace)
        if not self._drawing.isActive():
            self._drawing.start()

    @Slot(object, str)
    def _ended(self, job: Job, problem: str) -> None:
        if job is self._job:
            if problem:
                self.panel.notice.say(problem)
            self._finish("Ended early" if problem else "")

    def _finish(self, how: str) -> None:
        """how: empty if all was measured."""
        self._job = None
        self._drawing.stop()
        far = self._pace.told() if self._pace.done else "nothing was measured"
        self._said = f"{how}: {far}" if how else far
        self._show()

    @Slot()
    def _show(self) -> None:
        if self._coming is not None and self._pace.done:
            self._report = self._coming
            if self.busy:
                self._said = self._pace.told()
        if self._report is not None:
            more = self._report is self._coming and self._pace.done < self._pace.total
            self._draw(self._report, so_far=more, stale=self._stale(self._report))
        self._say(self._said)

    def _say(self, text: str) -> None:
        """Show a line on how far it is, and what can be done now."""
        self._said = text
        problem, ready = self._problem(), self._subjects.ready
        self.panel.choice.say(problem)
        why_not = "" if self.busy else problem if problem else "" if ready else "The models are still being opened."
        self.panel.show_state(busy=self.busy, can_run=self.can_run, why_not=why_not, can_export=self.can_export)
        self.panel.show_progress(text, self._pace.done, self._pace.total)
        self.changed.emit()


def _read(settings: QSettings, key: str) -> SetSettings:
    try:
        return msgspec.json.decode(str(settings.value(key, "{}")), type=SetSettings)
    except msgspec.MsgspecError:
        return SetSettings()
