"""How near samples are to real images: a table that is begun, followed and gone on with, and the samples behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from platformdirs import user_data_path
from PySide6.QtCore import QObject, QSettings, QTimer, Signal, Slot
from PySide6.QtWidgets import QFileDialog

from cem_core import bundle
from cem_core.evaluation import looking
from cem_core.evaluation.looking import Neighbour, Shown
from cem_core.evaluation.report import Report
from cem_core.evaluation.requests import Row, StartName, Table
from cem_core.evaluation.results import Answer, Made
from cem_core.evaluation.rows import STARTS, SUPERVISED, UNSUPERVISED
from cem_core.messages import Refused, Sampler
from cem_core.presets import ABOUT, OF_IMAGES, SAMPLERS
from cem_core.probes.requests import Subject
from cem_gui import intake, tables
from cem_gui.files import Files, OpenModel, tried
from cem_gui.measurement import ARCHIVES
from cem_gui.models import Models
from cem_gui.panels.evaluate import EvaluatePanel
from cem_gui.prober import Job, Prober, Tabling
from cem_gui.results import fresh
from cem_gui.setup import Setup
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects
from cem_gui.tables import Course
from cem_gui.widgets.class_grid import ClassRow
from cem_gui.widgets.image_grid import to_image
from cem_gui.widgets.nearest import MOST, Near
from cem_gui.widgets.row_list import Offer
from cem_gui.widgets.table_choice import TableSettings

_SHOWN_MS: Final = 150
"""What has come is drawn at most so often."""


class _Offered(NamedTuple):
    """A row as it can be chosen."""

    model: OpenModel
    sampler: Sampler
    start: StartName


class EvaluateStage(Stage):
    title = "Evaluate"
    tip = "How near samples are to real images: the paper's table, and the samples behind it"

    _opened = Signal(object, object, str)
    """Folder, Report, or a sentence instead; from the file thread."""
    _looked = Signal(object, object, str)
    """Which samples, Shown, or a sentence instead; from the file thread."""
    _neighboured = Signal(object, list, str)
    """Of which sample, its neighbours, and a sentence; from the file thread."""

    def __init__(
        self,
        prober: Prober,
        subjects: Subjects,
        models: Models,
        setup: Setup,
        files: Files,
        settings: QSettings,
        parent: QObject,
    ) -> None:
        self.panel: EvaluatePanel
        super().__init__(EvaluatePanel(), parent)
        self._prober, self._subjects, self._models, self._setup = prober, subjects, models, setup
        self._files, self._settings = files, settings
        self._offered: dict[str, _Offered] = {}
        """By the name of the offer."""
        self._report: Report | None = None
        """The table in sight; None: none is begun or open,"""
        self._folder = Path()
        """and its folder, or that of the next one."""
        self._course: Course | None = None
        self._is_new = False
        """It was begun with what is chosen now."""
        self._job: Job | None = None
        self._left: Job | None = None
        """What was cancelled, until it has come to its end."""
        self._said = ""
        self._looking: tuple[Path, int, int] | None = None
        """Whose samples are being read: folder, row, seed."""
        self._seen: tuple[Path, int, int] | None = None
        """Whose are shown,"""
        self._shown: Shown | None = None
        self._more = False
        """and whether there are more by now."""
        self._wanted_sample: tuple[Path, int, int, int] | None = None
        """Whose neighbours are wanted."""
        self._drawing = QTimer(self)
        self._drawing.setSingleShot(True)
        self._drawing.setInterval(_SHOWN_MS)
        self._drawing.timeout.connect(self._show)
        choice = self.panel.choice
        choice.show_settings(_read(settings))
        choice.changed.connect(self._choice_changed)
        choice.reference_wanted.connect(self._ask_reference)
        choice.model_wanted.connect(self._ask_model)
        choice.weights_wanted.connect(self._ask_weights)
        choice.folder_wanted.connect(self.ask)
        self.panel.run_wanted.connect(self.run_or_pause)
        self.panel.open_wanted.connect(self.ask)
        self.panel.new_wanted.connect(self.renew)
        self.panel.row_chosen.connect(self._row_chosen)
        self.panel.sample_chosen.connect(self._sample_chosen)
        self._opened.connect(self._show_opened)
        self._looked.connect(self._show_samples)
        self._neighboured.connect(self._show_neighbours)
        prober.told.connect(self._told)
        prober.ended.connect(self._ended)
        subjects.changed.connect(self._offer)
        models.opened.connect(self._offer)
        setup.numbers_changed.connect(self._offer)
        self._propose()
        self._offer()

    # ---- what the window asks ----------------------------------------------------------------------------------------

    @property
    def run_text(self) -> str:
        return "Cancel" if self.busy else "Begin" if self._report is None else "Go on"

    @property
    def can_run(self) -> bool:
        return self.busy or not self._why_not()

    @property
    def busy(self) -> bool:
        return self._job is not None

    @property
    def status(self) -> str:
        return self._said

    def enter(self) -> None:
        self._offer()

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
            self.begin()

    @Slot()
    def begin(self) -> None:
        """A new table, or the one in sight goes on."""
        try:
            where = self.panel.choice.wanted_where()
            report = self._report or Report(self._wanted())
        except Refused as refused:
            self.panel.notice.say(str(refused))
            return
        self._is_new = report is not self._report
        if self._is_new:
            self._take(report, self._folder)
        self._course = Course(report.request)
        for cell in report.cells:
            self._course.found(*cell)
        self.panel.notice.hide()
        self._job = Job(Tabling(report.request, self._folder, where))
        self._prober.begin(self._job)
        self._said = "Opening models and images …" if not where.address else "Asking Ray …"
        self._show()

    @Slot()
    def stop(self) -> None:
        """End it; what is finished stays on the disk. With none under way, leave the large view or the notice."""
        if self._job is not None:
            self._job.cancel()
            self._left = self._job
            self._finish("Cancelled")
        elif self.panel.is_large:
            self.panel.reduce()
        else:
            self.panel.notice.hide()
            self.changed.emit()

    @Slot()
    def renew(self) -> None:
        """Back to the settings, for a table in a folder of its own."""
        if not self.busy:
            self._report = self._course = None
            self._seen = self._shown = None
            self._said = ""
            self._propose()
            self._offer()

    # ---- what is asked for -------------------------------------------------------------------------------------------

    def _wanted(self) -> Table:
        """Raises Refused if that makes no table."""
        choice = self.panel.choice
        chosen = [self._offered[name] for name in choice.rows.chosen]
        if not chosen:
            raise Refused("Tick at least one row.")
        several = len({offered.model.reference for offered in chosen}) > 1
        return Table(
            rows=tuple(_row(offered, several=several) for offered in chosen),
            reference=choice.wanted_reference(),
            extractor=choice.wanted_extractor(),
            num=choice.num.value(),
            seeds=tuple(range(choice.seeds.value())),
            batch=min(100, choice.num.value()),
        )

    def _why_not(self) -> str:
        """What is wrong with what is asked for, in a sentence; empty: it can be begun or gone on with."""
        if self._left is not None:
            return "What was cancelled is still coming to its end."
        if self._report is not None:
            return "All is measured." if self._report.complete else ""
        if not self._offered:
            return "The models are still being opened."
        try:
            self._wanted()
            self.panel.choice.wanted_where()
        except Refused as refused:
            return str(refused)
        return ""

    @Slot()
    def _offer(self) -> None:
        """Rows of the open model, and of those that are compared."""
        current = [self._models.current] if self._models.current is not None else []
        models = {model.reference: model for model in [*self._subjects.models, *current]}
        order = dict.fromkeys([*(model.reference for model in current), *self._subjects.references])
        known = [models[reference] for reference in order if reference in models]
        own = self._setup.settings.sampler if self._setup.settings is not None else None
        offers = []
        self._offered = {}
        for place, model in enumerate(known):
            rows = list(_offers(model, own, usual=not place))
            offers.append((model.checkpoint.name, [offer for offer, _ in rows]))
            self._offered |= {offer.name: offered for offer, offered in rows}
        self.panel.choice.rows.show_offers(offers)
        sampled = {self._offered[name].model.reference for name in self.panel.choice.rows.chosen}
        listed = self._models.known()
        others = [reference for reference in bundle.models() if reference not in sampled]
        self.panel.choice.show_models(listed, next(iter(others), bundle.DEFAULT_MODEL))
        self._show()

    @Slot()
    def _choice_changed(self) -> None:
        self._settings.setValue("evaluate", msgspec.json.encode(self.panel.choice.settings).decode())
        self._offer()

    @Slot(bool)
    def _ask_reference(self, archive: bool) -> None:
        folder = str(self._settings.value("labelled images", str(Path.home())))
        if archive:
            path = QFileDialog.getOpenFileName(self.panel, "Archive of real images", folder, ARCHIVES)[0]
        else:
            path = QFileDialog.getExistingDirectory(self.panel, "Folder of real images", folder)
        if path:
            self._settings.setValue("labelled images", str(Path(path).parent))
            self.panel.choice.choose_reference(path)

    @Slot()
    def _ask_model(self) -> None:
        if path := self._ask_file("The model whose features are compared", "models", intake.MODEL_FILTER):
            self.panel.choice.choose_extractor(path)

    @Slot()
    def _ask_weights(self) -> None:
        if path := self._ask_file("The weights of Inception", "models", intake.MODEL_FILTER):
            self.panel.choice.choose_weights(path)

    def _ask_file(self, title: str, key: str, kinds: str) -> str:
        folder = str(self._settings.value(key, str(Path.home())))
        path, _ = QFileDialog.getOpenFileName(self.panel, title, folder, kinds)
        if path:
            self._settings.setValue(key, str(Path(path).parent))
        return path

    # ---- folders -----------------------------------------------------------------------------------------------------

    def _propose(self) -> None:
        """A folder for the next table, which is made when that is begun."""
        parent = Path(str(self._settings.value("tables", ""))) if self._settings.value("tables") else _usual()
        self._folder = fresh(parent, "evaluation")
        self.panel.choice.show_folder(str(self._folder))

    @Slot()
    def ask(self) -> None:
        """Let the person choose a folder: that of a table is opened, any other is for the next one."""
        if self.busy:
            return
        begin = self._folder.parent if self._folder.parent.is_dir() else Path.home()
        if folder := QFileDialog.getExistingDirectory(self.panel, "Folder of a table, or an empty one", str(begin)):
            self.open(folder)

    @Slot(str)
    def open(self, folder: str) -> None:
        """Show the table in a folder, and let it go on; with none there, it is where the next one will be."""
        path = Path(folder).absolute()
        self._files.ask(lambda: self._open(path))

    def _open(self, folder: Path) -> None:
        """On the file thread."""
        is_table = looking.is_table(folder)
        found = tried("The table could not be read", lambda: looking.open_table(folder) if is_table else None)
        self._opened.emit(folder, *found)

    @Slot(object, object, str)
    def _show_opened(self, folder: Path, report: Report | None, problem: str) -> None:
        if problem:
            self.panel.notice.say(problem)
        elif self.busy:
            self.panel.notice.say(f"{folder} was not opened: cancel what is being evaluated first.")
        elif report is None:
            self._settings.setValue("tables", str(folder.parent))
            self._folder = folder
            self.panel.choice.show_folder(str(folder))
            self._show()
        else:
            self._settings.setValue("tables", str(folder.parent))
            self.panel.notice.hide()
            self._said = ""
            self._take(report, folder)
            self._show()

    def _take(self, report: Report, folder: Path) -> None:
        """Another table is in sight."""
        self._report, self._folder, self._course = report, folder, None
        self._seen = self._shown = self._wanted_sample = None
        self.panel.begin_table()
        self.panel.show_seeds(report.request.seeds)
        self.panel.show_no_samples("")

    # ---- answers -----------------------------------------------------------------------------------------------------

    @Slot(object, list)
    def _told(self, job: Job, answers: Sequence[tuple[int, int, Answer]]) -> None:
        if job is not self._job or self._report is None or self._course is None:
            return
        for row, seed, answer in answers:
            self._report.add(row, seed, answer)
            self._course.add(row, seed, answer)
            if isinstance(answer, Made) and answer.what == "samples":
                self._more |= (self._folder, row, seed) in (self._seen, self._looking)
        if not self._drawing.isActive():
            self._drawing.start()

    @Slot(object, str)
    def _ended(self, job: Job, problem: str) -> None:
        if job is self._left:
            self._left = None
            self._show()
        elif job is self._job:
            if problem:
                self.panel.notice.say(problem)
            self._finish("Ended early" if problem else "")

    def _finish(self, how: str) -> None:
        """how: empty if all was measured."""
        report, course, self._job = self._report, self._course, None
        assert report is not None
        assert course is not None
        self._drawing.stop()
        cells = f"{report.measured} of {report.expected} cells are measured"
        self._said = f"{how}: {cells}" if how else cells
        if how and self._is_new and not course.what:  # nothing has come of it: choose otherwise
            self._report = None
            if looking.is_table(self._folder):
                self._propose()
        self._more = self._seen is not None
        self._show()

    # ---- what is shown -----------------------------------------------------------------------------------------------

    @Slot()
    def _show(self) -> None:
        report, course, why_not = self._report, self._course, self._why_not()
        share = None
        if report is None:
            self._show_empty(why_not)
        else:
            if self.busy and course is not None and course.what:
                self._said = tables.so_far(report, course)
            working = course if self.busy else None
            share = working.share if working is not None else None
            at = working.at[0] if working is not None else None
            lines = tables.lines(report, working)
            self.panel.show_table(tables.heads(report), lines, tables.of_table(report), at)
            self.panel.show_about(list(tables.about(report, self._folder)))
            self._look()
        chosen = bool(self.panel.choice.path)
        self.panel.choice.say(why_not if report is None and chosen else "")
        self.panel.show_state(self.run_text, can=self.can_run, why_not="" if self.busy else why_not,
                              settled=report is not None)  # fmt: skip
        self.panel.show_progress(self._said, share)
        self.changed.emit()

    def _show_empty(self, why_not: str) -> None:
        choice, rows = self.panel.choice, len(self.panel.choice.rows.chosen)
        what = "How near what a model generates is to real images: choose these, and the rows that are ticked on the "
        what += "left are sampled, measured and laid out side by side."
        if choice.path and not why_not:
            count = f"{rows:,} rows" if rows != 1 else "1 row"
            what = f"Press Begin, or Space: {count} of {choice.num.value():,} samples are made and measured."
        self.panel.show_empty(what, chosen=bool(choice.path))

    # ---- samples -----------------------------------------------------------------------------------------------------

    @Slot(int, int)
    def _row_chosen(self, row: int, seed: int) -> None:
        if self._report is not None:
            self._look()

    def _look(self) -> None:
        """Have the samples of the chosen row read, if they are not shown or there are more; one look at a time."""
        report, row = self._report, self.panel.row
        if report is None or not 0 <= row < len(report.request.rows):
            return
        wanted = self._folder, row, report.request.seeds[min(self.panel.seed, len(report.request.seeds) - 1)]
        if self._looking is not None or (wanted == self._seen and not self._more):
            return
        self._looking, self._more = wanted, False
        request = report.request
        self._files.ask(lambda: self._read_samples(request, wanted))

    def _read_samples(self, request: Table, wanted: tuple[Path, int, int]) -> None:
        """On the file thread."""
        folder, row, seed = wanted
        found = tried("The samples could not be read", lambda: looking.samples(folder, request, row, seed))
        self._looked.emit(wanted, *found)

    @Slot(object, object, str)
    def _show_samples(self, of: tuple[Path, int, int], shown: Shown | None, problem: str) -> None:
        self._looking = None
        report = self._report
        if report is None or of[0] != self._folder:
            return
        row, seed = of[1:]
        whose = report.request.rows[row].name + (f", seed {seed}" if len(report.request.seeds) > 1 else "")
        if of != self._seen:
            self._wanted_sample = None
            self.panel.show_no_samples("")
        self._seen, self._shown = of, shown
        if shown is None or not shown.rows:
            self.panel.show_no_samples(problem or "No samples yet.", whose)
        else:
            rows = [ClassRow(one.name, one.pixels, one.numbers) for one in shown.rows]
            self.panel.show_samples(rows, f"{whose} · {shown.total:,} so far" if not shown.whole else whose)
        self._look()  # another row may have been chosen meanwhile

    @Slot(int)
    def _sample_chosen(self, number: int) -> None:
        report = self._report
        if report is None or self._seen is None:
            return
        wanted = self._wanted_sample = (*self._seen, number)
        self._files.ask(lambda: self._find(report.request, wanted))

    def _find(self, request: Table, wanted: tuple[Path, int, int, int]) -> None:
        """On the file thread."""
        if wanted == self._wanted_sample:  # or another was chosen meanwhile
            folder, row, seed, sample = wanted
            found, problem = tried(
                "The nearest real images could not be found",
                lambda: looking.neighbours(folder, request, row, seed, sample, MOST),
            )
            self._neighboured.emit(wanted, found or [], problem)

    @Slot(object, list, str)
    def _show_neighbours(self, of: object, found: list[Neighbour], problem: str) -> None:
        if of == self._wanted_sample:
            near = [Near(to_image(one.pixels), one.name, f"{one.distance:.3g}") for one in found]
            self.panel.show_nearest(near, problem or "With their distances in feature space.")


# ---- rows ------------------------------------------------------------------------------------------------------------


def _offers(model: OpenModel, own: Sampler | None, *, usual: bool) -> Iterator[tuple[Offer, _Offered]]:
    """The rows of a model: those of the paper first, with the starts that the paper has, then the other starts."""
    encoder = not model.checkpoint.classes
    names = UNSUPERVISED if encoder else SUPERVISED
    samplers = [Sampler(name=STARTS, a=0, b=0, steps=1), *(SAMPLERS[name] for name in names)]
    suits = own is not None and (own.coupled or own.a == 0 if encoder else not own.coupled)
    if own is not None and suits and own not in samplers:
        samplers.append(msgspec.structs.replace(own, name=_own(own)))
    begun: tuple[StartName, ...] = ("gaussian", "overall", "noise") if model.gaussians else ("noise",)
    papers: tuple[StartName, ...] = ("gaussian", "overall") if encoder else begun[:1]
    about = OF_IMAGES if encoder else ABOUT
    for start in begun:
        for sampler in samplers:
            tip = about.get(sampler.name, "")
            if sampler.name == STARTS:
                tip = "Not moved at all: what the starts themselves are worth"
            elif sampler.name not in SAMPLERS:
                tip = "As the Sampler panel has it now"
            of_paper = usual and start in papers and (sampler.name == STARTS or sampler.name in names)
            offered = _Offered(model, sampler, start)
            key = "\0".join((model.reference, start, sampler.name))
            yield Offer(key, sampler.name, tables.STARTS[start], tip, of_paper), offered


def _own(sampler: Sampler) -> str:
    """What a row of one's own is called: by what is another than in its preset."""
    preset = SAMPLERS.get(sampler.name)
    if preset == sampler:
        return sampler.name
    words = {"a": "a", "b": "b", "step_size": "step", "noise": "noise", "steps": "steps", "radius": "ball",
             "norm": "norm"}  # fmt: skip
    other = [f"{word} {_told(getattr(sampler, field))}" for field, word in words.items()
             if preset is None or getattr(preset, field) != getattr(sampler, field)]  # fmt: skip
    return f"{sampler.name} with {', '.join(other)}" if other else f"{sampler.name}, changed"


def _told(value: object) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _row(offered: _Offered, *, several: bool) -> Row:
    """several: rows of more than one model, which are told apart by its name."""
    model, sampler, start = offered
    starts = [] if start == "gaussian" else [start]
    name = ", ".join([sampler.name, *starts, *([model.checkpoint.name] if several else [])])
    subject = Subject(model.reference, model.choices, model.device)
    return Row(name=name, subject=subject, sampler=sampler, start=start)


def _usual() -> Path:
    """Where tables are kept unless somebody says otherwise."""
    return user_data_path("cem-explorer") / "evaluations"


def _read(settings: QSettings) -> TableSettings:
    try:
        return msgspec.json.decode(str(settings.value("evaluate", "{}")), type=TableSettings)
    except (msgspec.MsgspecError, Refused):
        return TableSettings()
