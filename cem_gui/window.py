"""The main window: which panel speaks to which thread. Panels know nothing of each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeVar

from PySide6.QtCore import QByteArray, QPoint, QSettings, QSize, Qt, QTimer, QUrl, Slot
from PySide6.QtGui import (
    QAction,
    QCloseEvent,
    QDesktopServices,
    QDragEnterEvent,
    QDropEvent,
    QGuiApplication,
    QUndoStack,
)
from PySide6.QtWidgets import (
    QApplication,
    QLabel,
    QMainWindow,
    QMessageBox,
    QStackedWidget,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from cem_core import __version__, bundle
from cem_core.messages import MAX_STEPS, Refused, RunEnd, Sampler, Step
from cem_core.session import Session
from cem_gui import actions, intake, theme
from cem_gui.accuracy import AccuracyStage
from cem_gui.docks import Docks
from cem_gui.energies import EnergiesStage
from cem_gui.evaluating import EvaluateStage
from cem_gui.exporter import Exporter
from cem_gui.files import FilesThread
from cem_gui.image_menu import ImageMenu
from cem_gui.landscape import LandscapeStage
from cem_gui.lens import Lens
from cem_gui.linked import LinkedStage
from cem_gui.lockstep import Lockstep
from cem_gui.models import Models
from cem_gui.panels.curves import CurvesPanel
from cem_gui.panels.evolution import EvolutionPanel
from cem_gui.panels.model import ModelPanel
from cem_gui.panels.runs import RunsPanel
from cem_gui.panels.sampler import RunPanel, SamplerPanel
from cem_gui.panels.subjects import SubjectsPanel
from cem_gui.panels.timeline import TimelinePanel
from cem_gui.pictures import Pictures
from cem_gui.player import Player, folder_of
from cem_gui.prober import Prober
from cem_gui.runs import Runs, row_of
from cem_gui.setup import CHAINS, Setup
from cem_gui.sight import Sight
from cem_gui.similarity import SimilarityStage
from cem_gui.smallest import SmallestStage
from cem_gui.stages import Stage
from cem_gui.subjects import Subjects
from cem_gui.training import TrainingStage
from cem_gui.widgets.image_grid import to_image
from cem_gui.widgets.space import keep_space

_SETTLE_MS: Final = 120
_FRAME: Final = 40
"""Height that a window manager may add, which Qt learns too late."""

_STAGES: Final[dict[str, type[Stage]]] = {
    "linked": LinkedStage,
    "smallest": SmallestStage,
    "accuracy": AccuracyStage,
    "energies": EnergiesStage,
    "landscape": LandscapeStage,
    "similarity": SimilarityStage,
    "training": TrainingStage,
    "evaluate": EvaluateStage,
}
"""In the order of their tabs."""
_Made = TypeVar("_Made", bound=Stage)


class MainWindow(QMainWindow):
    def __init__(self, settings: QSettings, log_folder: Path) -> None:
        super().__init__()
        self.setWindowTitle("CEM Explorer")
        self.setWindowIcon(theme.app_icon())
        self.setAcceptDrops(True)
        self.settings = settings
        self._log_folder = log_folder
        self._adopted: Session | None = None
        """The run of which the panels show the settings."""

        self.model = ModelPanel()
        self.sampler = SamplerPanel()
        self.evolution = EvolutionPanel()
        self.timeline = TimelinePanel()
        self.curves = CurvesPanel()
        self.recorded = RunsPanel()
        self._lay_out_centre()
        self._stack = QUndoStack(self)
        self.acts = actions.make(self, self.centralWidget(), self._stack)
        self.run_panel = RunPanel(self.acts.run, self.acts.one_step, self.acts.stop)
        self.docks = Docks(self, self.model, self.sampler, self.run_panel, self.curves, self.recorded)
        keep_space(self.recorded, self.model, self.sampler, self.run_panel, self.evolution, self.timeline)
        self.player = Player(self)
        self.prober = Prober(self)
        self.filing = FilesThread()
        self.models = Models(self.filing.files, self.model, self.acts.clear_recent, settings, self)
        self.pictures = Pictures(self.filing.files, self.models, settings, bundle.first_samples(CHAINS), self)
        self.setup = Setup(self.sampler, self.models, self.pictures, self._stack, self)
        self.runs = Runs(self.filing.files, self.recorded, self.player, self.prober, self._stack, settings, self)
        self.sight = Sight(self.player, self.runs, self.sampler, self.evolution, self.timeline, self.curves, self)
        self.lens = Lens(self.prober, self.player, self.sight, self.evolution, self.curves, self.acts.lens, self)
        files = self.filing.files
        self.exporter = Exporter(files, settings, self)
        self.subjects = Subjects(files, self.models, self.compared, settings, self)
        self._made: list[Stage] = []
        """The views that were looked at: each is made when it is first wanted."""
        self.stage: Stage | None = None
        """The view that is shown; None: the evolution."""
        self._fill_tabs()
        self._lay_out_status()
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.setInterval(_SETTLE_MS)
        self._connect()
        self._restore()
        self._show_gait()

    # ---- arrangement -------------------------------------------------------------------------------------------------

    def _lay_out_centre(self) -> None:
        self._evolving = QWidget()
        evolution = QVBoxLayout(self._evolving)
        evolution.setContentsMargins(0, 0, 0, 0)
        evolution.setSpacing(8)
        evolution.addWidget(self.evolution, 1)
        evolution.addWidget(self.timeline)
        self.tabs = QTabBar()
        self.tabs.setAccessibleName("Views")
        self.tabs.setExpanding(False)
        self.tabs.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.compared = SubjectsPanel()
        self.compared.hide()
        self.views = QStackedWidget()
        self.views.addWidget(self._evolving)
        centre = QWidget()
        layout = QVBoxLayout(centre)
        layout.setContentsMargins(4, 2, 4, 4)
        layout.setSpacing(8)
        layout.addWidget(self.tabs)
        layout.addWidget(self.compared)
        layout.addWidget(self.views, 1)
        self.setCentralWidget(centre)

    def _fill_tabs(self) -> None:
        self.tabs.addTab("Evolution")
        self.tabs.setTabToolTip(0, "Chains of one model, step by step")
        for kind in _STAGES.values():
            self.tabs.setTabToolTip(self.tabs.addTab(kind.title), kind.tip)
        keep_space(self.compared)
        self.tabs.currentChanged.connect(self._show_stage)
        self._choices = actions.tabs(self, [self.tabs.tabText(index) for index in range(self.tabs.count())])
        self._choices.triggered.connect(self._tab_wanted)
        actions.fill(self, self.acts, self.models.recent_menu, self._choices, self.evolution.views, self.docks.toggles)

    def _lay_out_status(self) -> None:
        self.status = QLabel()
        self.hints = QLabel()
        self.hints.setObjectName("muted")
        bar = self.statusBar()
        bar.setContentsMargins(8, 0, 8, 0)
        bar.addWidget(self.status)
        bar.addPermanentWidget(self.hints)
        for widget in (self.runs.badge, self.runs.row, self.exporter.row):
            bar.addPermanentWidget(widget)

    def _connect(self) -> None:
        acts, player, models, pictures = self.acts, self.player, self.models, self.pictures
        setup, runs, sight = self.setup, self.runs, self.sight
        player.began.connect(self._run_began)
        player.grew.connect(self._run_grew)
        player.ended.connect(self._run_ended)
        player.gait_changed.connect(self._show_gait)
        player.stuck.connect(self.evolution.show_notice)
        models.opened.connect(self._show_gait)
        models.none_open.connect(self._no_model)
        models.said.connect(self._model_said)
        pictures.offered.connect(self.evolution.clear_notice)
        pictures.run_offered.connect(runs.open)
        pictures.training_offered.connect(self._open_training)
        pictures.taken.connect(self._preview)
        pictures.said.connect(self._problem)
        self.exporter.began.connect(self._show_gait)
        self.exporter.ended.connect(self._exported)

        self.model.open_wanted.connect(acts.open_model.trigger)
        self.model.details_wanted.connect(acts.details.trigger)
        setup.numbers_changed.connect(self._sampler_changed)
        setup.chains_changed.connect(self._chains_changed)
        setup.renewed.connect(self._begin_anew)
        runs.opened.connect(self._run_opened)
        runs.carried.connect(self.setup.restore)
        runs.resume_wanted.connect(self.resume)
        runs.copied.connect(self._command_copied)
        runs.busy_changed.connect(self._show_gait)
        sight.said.connect(self._problem)
        self.lens.said.connect(self.evolution.show_notice)
        runs.offered.connect(self._offer_interrupted)
        runs.said.connect(self._problem)
        runs.gone.connect(self._preview)
        self.sampler.problem.connect(self._problem)
        self.evolution.menu_wanted.connect(self._show_menu)
        self.evolution.details_wanted.connect(acts.details.trigger)
        self.evolution.interrupted_wanted.connect(runs.open_offered)
        runs.of_shown = [acts.fork, acts.copy_command]
        self.recorded.menu_wanted.connect(runs.show_menu)

        acts.open_images.triggered.connect(pictures.ask)
        acts.open_model.triggered.connect(models.ask_file)
        acts.open_zoo.triggered.connect(models.ask_zoo)
        acts.open_run.triggered.connect(runs.ask_folder)
        acts.open_training.triggered.connect(self._ask_training)
        acts.recording.triggered.connect(runs.ask_keeping)
        acts.fork.triggered.connect(self.fork)
        acts.resume.triggered.connect(self.resume)
        acts.verify.triggered.connect(runs.verify)
        acts.copy_command.triggered.connect(runs.copy_command)
        acts.details.triggered.connect(models.show_details)
        acts.samples.triggered.connect(pictures.use_samples)
        acts.photos.triggered.connect(pictures.use_photos)
        acts.export.triggered.connect(self._ask_export)
        acts.quit.triggered.connect(self.close)
        acts.paste.triggered.connect(self._paste)
        acts.run.triggered.connect(self.run_or_pause)
        acts.one_step.triggered.connect(self.one_step)
        acts.stop.triggered.connect(self.stop)
        acts.back.triggered.connect(player.back)
        acts.previous.triggered.connect(self._previous)
        acts.next.triggered.connect(self._next)
        acts.first.triggered.connect(self._first)
        acts.last.triggered.connect(self._last)
        acts.previous_event.triggered.connect(sight.previous_event)
        acts.next_event.triggered.connect(sight.next_event)
        acts.loop.triggered.connect(self._loop)
        acts.large.triggered.connect(self.evolution.toggle_large)
        acts.reset.triggered.connect(self.docks.reset)
        acts.log.triggered.connect(self._open_log)
        acts.about.triggered.connect(self._about)
        acts.schemes.triggered.connect(self._scheme_chosen)
        QGuiApplication.styleHints().colorSchemeChanged.connect(self.restyle)
        self._settling.timeout.connect(self._preview)

    def _restore(self) -> None:
        mode = self.settings.value("scheme", "system")
        for scheme in self.acts.schemes.actions():
            scheme.setChecked(scheme.data() == mode)
        room = self.screen().availableSize() - QSize(0, _FRAME)
        self.resize(QSize(1440, 900).boundedTo(room))
        if isinstance(geometry := self.settings.value("geometry"), QByteArray):
            self.restoreGeometry(geometry)
        self.docks.restore(self.settings.value("layout"))

    def start(self, paths: Sequence[str] = ()) -> None:
        """Begin the work behind the window, once it is on the screen, with the files that the program was given."""
        self.player.start()
        self.filing.start()
        self.prober.start()
        self.evolution.grid.setFocus()
        training = intake.trained(paths)
        weights, pictures = intake.sort(() if training else paths)
        self.models.open(weights[0] if weights else bundle.DEFAULT_MODEL)
        self.pictures.offer([training] if training else pictures)
        self.runs.start()

    def closeEvent(self, event: QCloseEvent) -> None:
        self.settings.setValue("geometry", self.saveGeometry())
        self.settings.setValue("layout", self.docks.state)
        self.hide()  # what is still to be waited for need not be watched
        self.finish()
        super().closeEvent(event)

    def finish(self) -> None:
        """Stop the run and both threads, and wait for them. Does nothing the second time."""
        self._settling.stop()
        self.player.finish()
        self.prober.finish()
        self.filing.finish()

    # ---- views -------------------------------------------------------------------------------------------------------

    @cached_property
    def linked(self) -> LinkedStage:
        stage = LinkedStage(self.prober, self.subjects, self.setup, self.models, self.settings, self)
        self.pictures.taken.connect(stage.renew)
        return self._add(stage)

    @cached_property
    def smallest(self) -> SmallestStage:
        return self._add(SmallestStage(self.prober, self.subjects, self.sight, self.filing.files, self.settings, self))

    @cached_property
    def accuracy(self) -> AccuracyStage:
        return self._add(AccuracyStage(self.prober, self.subjects, self.filing.files, self.settings, self))

    @cached_property
    def energies(self) -> EnergiesStage:
        return self._add(EnergiesStage(self.prober, self.subjects, self.filing.files, self.settings, self))

    @cached_property
    def landscape(self) -> LandscapeStage:
        return self._add(LandscapeStage(self.prober, self.models, self.sight, self.filing.files, self.settings, self))

    @cached_property
    def training(self) -> TrainingStage:
        stage = TrainingStage(self.prober, self.models, self.pictures, self.filing.files, self.settings, self)
        stage.model_opened.connect(self._show_evolution)
        return self._add(stage)

    @cached_property
    def evaluate(self) -> EvaluateStage:
        files, settings = self.filing.files, self.settings
        return self._add(EvaluateStage(self.prober, self.subjects, self.models, self.setup, files, settings, self))

    @cached_property
    def similarity(self) -> SimilarityStage:
        return self._add(SimilarityStage(self.prober, self.subjects, self.filing.files, self.settings, self))

    def _add(self, stage: _Made) -> _Made:
        self._made.append(stage)
        self.views.addWidget(stage.panel)
        keep_space(stage.panel)
        stage.changed.connect(self._show_gait)
        if isinstance(stage, Lockstep):
            stage.recorded.connect(self.runs.start)
            stage.export_wanted.connect(self._export_linked)
        return stage

    def stage_at(self, index: int) -> Stage | None:
        """What the tab of that index shows; None: the evolution."""
        stage: Stage | None = getattr(self, list(_STAGES)[index - 1]) if index else None
        return stage

    @Slot(int)
    def _show_stage(self, index: int) -> None:
        if self.stage is None:
            self.timeline.loop.setChecked(False)
        else:
            self.stage.leave()
        self.stage = self.stage_at(index)
        self.views.setCurrentWidget(self._evolving if self.stage is None else self.stage.panel)
        self._choices.actions()[index].setChecked(True)
        self.compared.setVisible(self.stage is not None and self.stage.compares)
        beside = None if self.stage is None else ["sampler"] if self.stage.samples else []
        self.docks.show_for(self.tabs.tabText(index), beside)
        if self.stage is None:
            self.evolution.grid.setFocus()
            if self._under_way:
                self._sampler_changed(self.sampler.sampler)
        else:
            if self.stage.compares:
                self.subjects.ensure()
            self.stage.enter()
            self.stage.panel.setFocus()
        self._show_gait()

    @Slot()
    def _show_training(self) -> None:
        self.tabs.setCurrentIndex(1 + list(_STAGES).index("training"))

    @Slot()
    def _show_evolution(self) -> None:
        self.tabs.setCurrentIndex(0)

    @Slot()
    def _ask_training(self) -> None:
        self._show_training()
        self.training.ask()

    @Slot(str)
    def _open_training(self, folder: str) -> None:
        self._show_training()
        self.training.open(folder)

    @Slot(QAction)
    def _tab_wanted(self, choice: QAction) -> None:
        self.tabs.setCurrentIndex(choice.data())

    # ---- models ------------------------------------------------------------------------------------------------------

    @Slot()
    def _begin_anew(self) -> None:
        """With another model, for example."""
        self.evolution.clear_notice()
        self._preview()
        self._show_gait()

    @Slot()
    def _no_model(self) -> None:
        self.evolution.show_empty("No model is open. Choose one on the left, or drop a checkpoint here.")
        self._show_gait()

    # ---- images ------------------------------------------------------------------------------------------------------

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        if self.pictures.drop(event.mimeData()):
            event.acceptProposedAction()

    @Slot()
    def _paste(self) -> None:
        if self.stage is None or not self.stage.take(QApplication.clipboard().mimeData()):
            self.pictures.paste()

    # ---- runs --------------------------------------------------------------------------------------------------------

    @Slot()
    def run_or_pause(self) -> None:
        """Space: begin, pause or go on."""
        if self.stage is not None:
            self.stage.run_or_pause()
            return
        self.sight.follow()
        if self.player.gait == "running":
            self.player.go("paused")
        elif self.player.resumable and not self._settling.isActive():
            self.resume()
        elif self.player.gait == "ended" or self._settling.isActive():
            self._begin("running")
        else:
            self.player.go("running")

    @Slot()
    def one_step(self) -> None:
        if self.stage is not None:
            self.stage.one_step()
            return
        self.sight.follow()
        if self.player.gait == "ended" or self._settling.isActive():
            self._begin("paused")
        self.player.one_step()

    @Slot()
    def stop(self) -> None:
        """Esc: end the run; with none, leave the large view or dismiss the notice."""
        if self.stage is not None:
            self.stage.stop()
            return
        if self._under_way:
            self.player.stop()
        elif self.evolution.is_large:
            self.evolution.show_grid()
        else:
            self.evolution.clear_notice()

    @Slot()
    def _previous(self) -> None:
        self.go_to(self.step - 1)

    @Slot()
    def _next(self) -> None:
        self.go_to(self.step + 1)

    @Slot()
    def _first(self) -> None:
        self.go_to(0)

    @Slot()
    def _last(self) -> None:
        self.go_to(MAX_STEPS)

    @Slot()
    def _loop(self) -> None:
        if self.stage is None:
            self.timeline.loop.toggle()
        else:
            self.stage.loop()

    @Slot()
    def _preview(self) -> None:
        """Show where the chains start, and wait there."""
        self._begin("paused")

    def _begin(self, gait: Literal["running", "paused"]) -> None:
        """A new run with what the panels say."""
        self._settling.stop()
        if self.models.current is None:
            return
        try:
            spec = self.setup.spec()
        except Refused as refused:
            self.player.abandon()  # what stands ready is not what is asked for any more
            self._problem(str(refused))
        else:
            self.player.begin(spec, gait)

    @Slot()
    def fork(self) -> None:
        """Wait at the start of a new run that begins with the step in sight."""
        if (folder := folder_of(self.player.session)) and self.player.session is not None:
            self.setup.fork(folder, self.step, self.player.session.start)
            self._preview()

    @Slot()
    def resume(self) -> None:
        """Go on with the recorded run in sight: to the pixels that it would have had, but for what was set since."""
        session = self.player.session
        if session is not None and session.recording is not None:
            if session is not self._adopted:
                self.setup.adopt(session.start, row_of(session))
            row = row_of(session) if self.setup.waits else self.sampler.sampler
            self.player.resume(session.recording.folder, row)

    @Slot(object, int)
    def _run_opened(self, session: Session, step: int) -> None:
        """The panels say what it was made of."""
        self._settling.stop()
        self._adopted = session
        self.setup.adopt(session.start, row_of(session))
        if self.stage is not None and self.stage.compares:
            self.tabs.setCurrentIndex(0)  # where it is seen
        if step >= 0:
            self.go_to(step)
        if session.end is None and self.runs.is_elsewhere(folder_of(session)):
            self._problem("Another program records this run: it is shown as far as it has come, and cannot be changed.")
        self._show_gait()

    @Slot(object)
    def _sampler_changed(self, sampler: Sampler) -> None:
        """Another view has runs of its own that it is for; the run in sight follows when it is in front again."""
        if self.player.waits:
            self._settling.start()
        elif self._under_way and self.stage is None:
            session = self.player.session
            if sampler.coupled and session is not None and len(session.start.labels) < 2:
                self._problem(
                    f"{sampler.name} moves chains away from each other, and this run has one: it takes hold with the "
                    "next run. Esc ends this one."
                )
                return
            self.player.change(sampler)
            self.timeline.set_length(sampler.steps)

    @Slot()
    def _chains_changed(self) -> None:
        if self.player.waits or self.player.gait == "ended":
            self._settling.start()
        else:
            self._say("Start, targets, number and seed take hold with the next run: Esc ends this one.")

    @property
    def _under_way(self) -> bool:
        """Something would be lost if the run in progress ended."""
        return self.player.gait != "ended" and not self.player.waits

    # ---- news from the run -------------------------------------------------------------------------------------------

    @Slot()
    def _run_began(self) -> None:
        session = self.player.session
        assert session is not None
        self._adopted = session if self.player.live else None
        self.sight.begin()
        self._show_gait()

    @Slot(object)
    def _run_grew(self, newest: Step) -> None:
        if self.sight.grow(newest):
            self._enable()
            self._show_progress()

    @Slot(object)
    def _run_ended(self, end: RunEnd) -> None:
        if end.reason == "failed":
            self.evolution.show_notice(end.detail)
            if self.player.session is None:
                self.evolution.show_empty("Nothing could be shown: see the message above.")
        self.sight.show_curves()
        self._enable()
        self._show_progress()

    @property
    def step(self) -> int:
        """The step that is shown."""
        return self.sight.step if self.stage is None else self.stage.step

    @Slot(int)
    def go_to(self, step: int) -> None:
        """Show a recorded step everywhere."""
        if self.stage is None:
            self.sight.go_to(step)
        else:
            self.stage.go_to(step)

    # ---- what is said ------------------------------------------------------------------------------------------------

    @Slot()
    def _show_gait(self) -> None:
        running = self.player.gait == "running"
        can_run = self._under_way or self.models.current is not None
        run, step, stop = self.acts.run, self.acts.one_step, self.acts.stop
        goes_on = self.player.gait == "paused" and not self.player.waits
        text = "Pa&use" if running else "&Continue" if goes_on else "&Resume" if self.player.resumable else "&Run"
        can_step = can_run
        if self.stage is not None:
            text, can_run = self.stage.run_text, self.stage.can_run
            running, can_step = text.replace("&", "") == "Pause", can_run and self.stage.has_steps
        run.setText(text)
        run.setIconText(text.replace("&", ""))
        run.setIcon(theme.icon("pause" if running else "play", theme.now().on_accent))
        step.setIconText("Step")
        step.setIcon(theme.icon("step"))
        stop.setIconText("Stop")
        stop.setIcon(theme.icon("stop"))
        for act, can in ((run, can_run), (step, can_step)):
            act.setEnabled(can)
            act.setToolTip(act.statusTip())
        acts, has_steps = self.acts, self.stage is None or self.stage.has_steps
        for act in (acts.previous, acts.next, acts.first, acts.last, acts.loop):
            act.setEnabled(has_steps)  # where there are none, these keys belong to what has the focus
        for act in (acts.large, acts.lens, acts.previous_event, acts.next_event):
            act.setEnabled(self.stage is None)
        self.evolution.views.setEnabled(self.stage is None)
        self.acts.details.setEnabled(self.models.current is not None)
        something = self.player.session is not None if self.stage is None else self.stage.can_export
        self.acts.export.setEnabled(something and not self.exporter.busy)
        keys = "Space runs or pauses  ·  . one step  ·  Esc stops  ·  drop images or checkpoints anywhere"
        if self.stage is not None and not self.stage.has_steps:
            keys = f"Space: {self.stage.run_text.replace('&', '').lower()}" if can_run else ""
        self.hints.setText(keys)
        self.hints.setVisible(not self.exporter.busy and self.runs.row.isHidden())
        self._enable()
        self._show_progress()

    def _enable(self) -> None:
        """What can be done with the run in sight, where it is; it is recorded from its first step on."""
        session = self.player.session if self.stage is None else None
        recorded, idle = bool(folder_of(session)), self.player.gait == "ended"
        self.acts.fork.setEnabled(recorded)
        self.acts.copy_command.setEnabled(session is not None)
        self.acts.resume.setEnabled(recorded and idle)
        self.acts.verify.setEnabled(session is not None and len(session) > 1 and idle)
        self.acts.back.setEnabled(self.stage is None and self.player.previous is not None)

    def _show_progress(self) -> None:
        if self.stage is not None:
            self._say(self.stage.status)
            return
        if self.models.current is None and not self.models.is_opening:
            self._say("No model is open")
        else:
            self._say(self.player.describe(self.sight.length()))

    def _say(self, text: str) -> None:
        self.status.setText(text)

    @Slot(str)
    def _problem(self, sentence: str) -> None:
        """A message that stays until it is dismissed, in the view that is shown."""
        if self.stage is None:
            self.evolution.show_notice(sentence)
        else:
            self.stage.say(sentence)

    @Slot(str, str)
    def _model_said(self, sentence: str, offer: str) -> None:
        self.evolution.show_notice(sentence, offer)
        if self.stage is not None:
            self.stage.say(sentence)

    @Slot(str)
    def _offer_interrupted(self, sentence: str) -> None:
        self.evolution.show_notice(sentence, "Open", interrupted=True)

    @Slot(int, QPoint)
    def _show_menu(self, chain: int, where: QPoint) -> None:
        session = self.player.session
        start = session.start if session is not None and self._is_of_open_model(session) else None
        menu = ImageMenu(self.acts, chain, start, self)
        menu.target_chosen.connect(self._target_chosen)
        menu.copy_wanted.connect(self._copy_image)
        menu.popup(where)

    @Slot(int, int)
    def _target_chosen(self, chain: int, label: int) -> None:
        if (session := self.player.session) is not None:
            self.setup.set_target(chain, label, session.start)

    def _is_of_open_model(self, session: Session) -> bool:
        ours, theirs = self.models.checkpoint, session.start.checkpoint
        return ours is not None and (ours.sha256, ours.classes) == (theirs.sha256, theirs.classes)

    @Slot()
    def _copy_image(self) -> None:
        if (picture := self.sight.thumbnail(self.step)) is not None:
            QApplication.clipboard().setImage(to_image(picture))

    @Slot()
    def _command_copied(self) -> None:
        self._say("The command is in the clipboard")

    @Slot()
    def _ask_export(self) -> None:
        if self.stage is not None:
            self.stage.export()
        elif self.player.session is not None:
            self.exporter.ask(self.player.session)

    @Slot(tuple)
    def _export_linked(self, sessions: tuple[Session, ...]) -> None:
        if sessions:
            self.exporter.ask(*sessions)

    @Slot(str, str)
    def _exported(self, folder: str, problem: str) -> None:
        self._show_gait()
        if problem:
            self._problem(problem)
        else:
            self._say(f"Exported to {folder}" if folder else "Export cancelled: nothing was written")

    # ---- the window itself -------------------------------------------------------------------------------------------

    @Slot(QAction)
    def _scheme_chosen(self, choice: QAction) -> None:
        self.settings.setValue("scheme", choice.data())
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        theme.apply(app, choice.data())
        self.restyle()

    @Slot()
    def restyle(self) -> None:
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        theme.restyle(app)
        self.curves.restyle()
        self.timeline.restyle()
        self.recorded.restyle()
        self.sampler.restyle()
        for stage in self._made:
            stage.restyle()
        self._show_gait()
        self.update()

    @Slot()
    def _open_log(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._log_folder)))

    @Slot()
    def _about(self) -> None:
        QMessageBox.about(
            self,
            "About CEM Explorer",
            f"<b>CEM Explorer {__version__}</b><p>Classifiers as contrastive energy-based models, after Wang, Wang, "
            "Yang and Lin, <i>A Unified Contrastive Energy-based Model for Understanding the Generative Ability of "
            "Adversarial Training</i>, ICLR 2022, arXiv 2203.13455.</p>"
            f"<p>Log files: {self._log_folder}</p>",
        )
