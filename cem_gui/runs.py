"""The recorded runs: listed, opened, renamed, deleted, compared, resumed, verified; an interrupted one is offered."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from PySide6.QtCore import QObject, QPoint, QSettings, Qt, QUrl, Signal, Slot
from PySide6.QtGui import QAction, QDesktopServices, QUndoCommand, QUndoStack
from PySide6.QtWidgets import QApplication, QFileDialog, QLabel, QMenu, QWidget

from cem_core import sessions
from cem_core.export import RunFile, settings
from cem_core.export.command import command
from cem_core.messages import Refused, Sampler, Step
from cem_core.session import BUDGET, Session
from cem_core.sessions import Summary
from cem_gui.files import Files
from cem_gui.panels.recording import RecordingDialog
from cem_gui.panels.runs import RunsPanel, resumable, title
from cem_gui.player import Checked, Player, folder_of
from cem_gui.prober import Prober
from cem_gui.shelf import Shelf
from cem_gui.widgets.progress import ProgressRow

_TELL_EVERY: Final = 8
"""Ticks between two looks at how many steps the run in progress has."""


class Runs(QObject):
    """`panel` lists them; `compared` is the one whose curves are drawn beside those of the run in sight."""

    opened = Signal(object, int)
    """A recorded Session is in sight, and the step to show of it; -1: the last."""
    carried = Signal(object)
    """RunFile of a dropped picture whose run is not recorded here."""
    resume_wanted = Signal()
    """The run in sight should go on."""
    compared_changed = Signal()
    offered = Signal(str)
    """A sentence on a run that was interrupted; `open_offered` opens it."""
    said = Signal(str)
    """A sentence that should be read."""
    busy_changed = Signal()
    """A verification began or is over."""
    copied = Signal()
    """A command is in the clipboard."""
    gone = Signal()
    """The run in sight was deleted."""

    def __init__(
        self,
        files: Files,
        panel: RunsPanel,
        player: Player,
        prober: Prober,
        stack: QUndoStack,
        settings: QSettings,
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self.panel = panel
        self.compared: Session | None = None
        self.badge = QLabel("● recording")
        self.badge.setObjectName("muted")
        self.badge.setContentsMargins(10, 0, 4, 0)
        self.badge.hide()
        self.row = ProgressRow("Progress of the verification", "Cancel")
        self._player, self._prober, self._stack = player, prober, stack
        self._settings, self._parent = settings, parent
        self.of_shown: list[QAction] = []
        """What else can be done with the run in sight."""
        self._dialog: RecordingDialog | None = None
        self._offered = ""
        self._ticks = 0
        self._jump = -1
        """The step to show of the run that is being opened; -1: the last."""
        self.shelf = shelf = Shelf(files, self)
        shelf.listed.connect(self._listed)
        shelf.looked.connect(self._looked)
        shelf.opened.connect(self._opened)
        shelf.pictured.connect(panel.show_thumb)
        shelf.deleted.connect(self._deleted)
        shelf.restored.connect(self._looked)
        shelf.taken.connect(self._ask_keeping)
        shelf.recalled.connect(self._recalled)
        shelf.said.connect(self.said)
        files.carried.connect(shelf.recall)
        panel.opened.connect(self.open)
        panel.renamed.connect(shelf.rename)
        panel.deleted.connect(self.delete)
        panel.compare_wanted.connect(self.compare)
        panel.thumb_wanted.connect(shelf.picture)
        player.began.connect(self._began)
        player.grew.connect(self._grew)
        player.released.connect(self._released)
        player.checked.connect(self._checked)
        self.row.cancelled.connect(player.stop_verifying)
        self._keep()

    # ---- the list ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look at what is there, and offer what was interrupted."""
        self.shelf.list_all()

    @Slot(list)
    def _listed(self, runs: list[Summary]) -> None:
        beside = [run for run in self.panel.entries() if run.folder not in {other.folder for other in runs}]
        self.panel.show_entries([*beside, *runs])
        broken_off = [run for run in runs if run.interrupted and run.folder != self.panel.live]
        if broken_off and self._settings.value("offered") != broken_off[0].folder:
            run, more = broken_off[0], len(broken_off) - 1
            self._offered = run.folder
            self._settings.setValue("offered", run.folder)
            beside_it = f" {more} more {'is' if more == 1 else 'are'} marked under Runs." if more else ""
            self.offered.emit(f"A run of {run.sampler} was interrupted at step {run.steps:,}.{beside_it}")

    @Slot(object)
    def _looked(self, run: Summary) -> None:
        self.panel.show_entry(run, anew=run.folder != self.panel.live)

    @Slot()
    def _began(self) -> None:
        if self.panel.live and self.panel.live != folder_of(self._player.session):
            self._released()
        self._mark()

    @Slot(object)
    def _grew(self, newest: Step) -> None:
        folder = folder_of(self._player.session)
        if not folder:
            return
        if folder != self.panel.live:
            self.panel.live = folder
            self.badge.setToolTip(f"Every step is written to {folder}")
            self.badge.show()
            self._mark()
            self.shelf.look(folder)
        self._ticks += 1
        run = self.panel.entry(folder)
        if run is not None and (self._ticks % _TELL_EVERY == 0 or self._player.gait != "running"):
            self.panel.show_entry(msgspec.structs.replace(run, steps=newest.index))

    @Slot()
    def _released(self) -> None:
        folder, self.panel.live = self.panel.live, ""
        self.badge.hide()
        if folder:
            self.shelf.look(folder)
            self.shelf.check_budget()

    def _mark(self) -> None:
        self.panel.mark(folder_of(self._player.session), folder_of(self.compared))

    # ---- one run -----------------------------------------------------------------------------------------------------

    @Slot(str)
    def open(self, folder: str, step: int = -1) -> None:
        """Show a recorded run, at a step or at its last."""
        self._jump = step
        self.shelf.open(folder, "open", self.memory)

    @Slot()
    def open_offered(self) -> None:
        self.open(self._offered)

    @Slot()
    def ask_folder(self) -> None:
        """Let the person choose a session that is kept anywhere."""
        folder = QFileDialog.getExistingDirectory(self._parent, "Open a recorded run", str(sessions.root()))
        if folder:
            self.open(folder)

    @Slot(object, str)
    def _opened(self, session: Session, purpose: str) -> None:
        folder = folder_of(session)
        if purpose == "compare":
            self.compared = session
            self._mark()
            self.compared_changed.emit()
            return
        if not len(session):
            self.said.emit("There is nothing in this run: it was interrupted before its start was written.")
            return
        step, self._jump = self._jump if purpose == "open" else -1, -1
        try:
            session[0]  # nothing can be shown or run again without it
        except OSError as error:
            self.said.emit(f"{Path(folder).name} cannot be opened. {error}")
            return
        self._player.show(session)
        self.opened.emit(session, step)
        if self.panel.entry(folder) is None:
            self.shelf.look(folder)
        if purpose == "resume":
            self.resume_wanted.emit()
        elif purpose == "verify":
            self.verify()

    @Slot(object, str)
    def _recalled(self, run: RunFile, folder: str) -> None:
        """At the step that the picture shows, or else its settings."""
        if folder:
            self.open(folder, run.frame.step if run.frame is not None else -1)
        else:
            self.carried.emit(run)
            self.said.emit("The settings of its run are restored. The run itself is not recorded here: Run repeats it.")

    @Slot()
    def copy_command(self) -> None:
        """Put the line for a shell into the clipboard that repeats the run in sight."""
        session = self._player.session
        if session is None:
            return
        try:
            QApplication.clipboard().setText(command(settings(session), folder_of(session)))
        except Refused as refused:
            self.said.emit(str(refused))
        else:
            self.copied.emit()

    def is_elsewhere(self, folder: str) -> bool:
        """Another program records it."""
        run = self.panel.entry(folder)
        return run is not None and run.running and folder != self.panel.live

    @Slot()
    def verify(self) -> None:
        """Run the run in sight again, and say whether it comes out the same."""
        session = self._player.session
        if session is not None and len(session):
            self.row.show_progress("Verifying", 0, len(session))
            self._player.verify(session)
            self.busy_changed.emit()

    @Slot(object)
    def _checked(self, told: Checked) -> None:
        if told.over:
            self.row.hide()
            self.busy_changed.emit()
            if told.problem or told.verdict is not None:
                self.said.emit(told.problem or (told.verdict.sentence if told.verdict is not None else ""))
        else:
            total = len(told.session)
            self.row.show_progress(f"Verifying · {told.steps:,} of {total:,}", told.steps, total)

    @Slot(str)
    def compare(self, folder: str) -> None:
        """Draw the curves of a run beside those of the run in sight; none if empty."""
        if folder:
            self.shelf.open(folder, "compare", self.memory)
        else:
            self.compared = None
            self._mark()
            self.compared_changed.emit()

    @property
    def compared_name(self) -> str:
        run = self.panel.entry(folder_of(self.compared))
        return title(run) if run is not None else Path(folder_of(self.compared)).name

    @Slot(str)
    def delete(self, folder: str) -> None:
        """Move a run into the trash; Edit → Undo takes it out again."""
        run = self.panel.entry(folder)
        if run is None:
            return
        if Path(folder).parent != sessions.root():
            self.panel.drop(folder)  # not ours: it is only listed no more
        else:
            self._stack.push(_Delete(self.shelf, folder, title(run)))

    @Slot(str)
    def _deleted(self, folder: str) -> None:
        self.panel.drop(folder)
        self._player.forget(folder)
        if folder_of(self.compared) == folder:
            self.compare("")
        if folder_of(self._player.session) == folder:
            self.gone.emit()

    def menu(self, folder: str) -> QMenu | None:
        """What can be done with a run, but for what needs the rest of the window."""
        run = self.panel.entry(folder)
        if run is None:
            return None
        menu, panel = QMenu(self._parent), self.panel
        shown, idle = folder == panel.shown, self._player.gait == "ended" or self._player.waits
        for text, act, can in (
            ("&Open", lambda: self.open(folder), not shown),
            (
                "&Resume",
                lambda: self.shelf.open(folder, "resume", self.memory),
                resumable(run) and folder != panel.live,
            ),
            ("Re&name", lambda: panel.edit(folder), not run.damaged),
            ("&Verify", lambda: self.shelf.open(folder, "verify", self.memory), idle and not run.damaged),
            ("Show the &folder", lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(folder)), True),
            ("&Delete", lambda: self.delete(folder), not run.running and folder != panel.live),
        ):
            choice = menu.addAction(text)
            choice.triggered.connect(act)
            choice.setEnabled(can)
        if shown:
            menu.addSeparator()
            menu.addActions(self.of_shown)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        return menu

    @Slot(str, QPoint)
    def show_menu(self, folder: str, where: QPoint) -> None:
        if (menu := self.menu(folder)) is not None:
            menu.popup(where)

    # ---- how runs are kept -------------------------------------------------------------------------------------------

    @property
    def memory(self) -> int:
        return self._memory

    def _keep(self) -> None:
        self._memory = sessions.settings().memory or BUDGET
        self._player.keep(self._records, self._memory)
        self._prober.keep(self._records, self._memory)

    @property
    def _records(self) -> bool:
        return str(self._settings.value("record", "true")) == "true"

    @Slot()
    def ask_keeping(self) -> None:
        """Let the person say whether and how runs are kept, once it is known what they take."""
        self.shelf.measure()

    @Slot(list, list)
    def _ask_keeping(self, runs: list[Summary], trash: list[str]) -> None:
        if self._dialog is not None:
            return
        self._dialog = dialog = RecordingDialog(
            sessions.settings(),
            sessions.root(),
            self._records,
            sum(run.size for run in runs),
            len(runs),
            len(trash),
            self._parent,
        )
        dialog.emptied.connect(self.shelf.empty_trash)
        dialog.finished.connect(self._keeping_asked)
        dialog.open()

    @Slot(int)
    def _keeping_asked(self, answer: int) -> None:
        dialog, self._dialog = self._dialog, None
        if dialog is None:
            return
        if answer:
            self._settings.setValue("record", "true" if dialog.records else "false")
            try:
                sessions.save_settings(dialog.settings)
            except Refused as refused:
                self.said.emit(str(refused))
            self._keep()
            self.shelf.list_all()
        dialog.deleteLater()


class _Delete(QUndoCommand):
    def __init__(self, shelf: Shelf, folder: str, name: str) -> None:
        super().__init__(f"deletion of {name if len(name) <= 30 else name[:29] + '…'}")
        self._shelf, self._folder = shelf, folder

    def redo(self) -> None:
        self._shelf.delete(self._folder)

    def undo(self) -> None:
        self._shelf.restore(self._folder)


def row_of(session: Session) -> Sampler:
    """The row that made the last step."""
    changes = session.changes
    return changes[-1][1] if changes else session.start.spec.sampler
