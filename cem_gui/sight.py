"""The step in sight: one cursor for the images, the time line and the curves."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QObject, Signal, Slot

from cem_core.messages import Step
from cem_core.session import Session
from cem_gui.markers import Markers
from cem_gui.panels.curves import CurvesPanel
from cem_gui.panels.evolution import EvolutionPanel
from cem_gui.panels.sampler import SamplerPanel
from cem_gui.panels.timeline import TimelinePanel
from cem_gui.player import Player
from cem_gui.runs import Runs
from cem_gui.widgets.image_grid import Bytes

_CURVE_TICKS: Final = 4
"""Curves are drawn anew at each so manieth tick; the images at each."""


class Sight(QObject):
    """Shows a step of the run in sight everywhere; at the newest one, a run in progress is followed."""

    began = Signal()
    """Another run is in sight."""
    said = Signal(str)
    """A sentence that should be read."""
    moved = Signal()
    """Another step, chain or run is in sight, or the run has more steps."""

    def __init__(
        self,
        player: Player,
        runs: Runs,
        sampler: SamplerPanel,
        evolution: EvolutionPanel,
        timeline: TimelinePanel,
        curves: CurvesPanel,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._player, self._runs, self._sampler = player, runs, sampler
        self._evolution, self._timeline, self._curves = evolution, timeline, curves
        self._markers = Markers()
        self.step = 0
        self._follows = True
        self._ticks = 0
        evolution.selected.connect(self._chain_selected)
        timeline.stepped.connect(self.go_to)
        curves.stepped.connect(self.go_to)
        runs.compared_changed.connect(self.show_curves)

    @property
    def session(self) -> Session | None:
        """The run in sight."""
        return self._player.session

    @property
    def chain(self) -> int:
        """Its chosen chain."""
        return self._evolution.chosen

    def follow(self) -> None:
        """Stay at the newest step."""
        self._follows = True

    def begin(self) -> None:
        """Another run is in sight: show its newest step."""
        session = self._player.session
        assert session is not None
        self._ticks, self._follows = 0, True
        self._evolution.show_start(session.start, session[0])
        self._timeline.start(self.length())
        self.go_to(len(session) - 1)
        self.show_curves()
        self.began.emit()

    def grow(self, newest: Step) -> bool:
        """It has more steps; whether the curves were drawn anew."""
        assert self._player.session is not None
        self._ticks += 1
        if self._follows:  # the cursor in the curves comes along when they are drawn anew
            self.step = newest.index
            self._evolution.show_step(newest)
        self._timeline.show_recorded(len(self._player.session), self.step)
        drawn = self._ticks % _CURVE_TICKS == 0 or self._player.gait != "running"
        if drawn:
            self.show_curves()
        self.moved.emit()
        return drawn

    @Slot()
    def show_curves(self) -> None:
        session = self._player.session
        if session is not None:
            length = max(self.length(), len(session) - 1)
            chain, beside = self._evolution.chosen, self._runs.compared
            other = (beside.start, beside.numbers, self._runs.compared_name) if beside and len(beside) else None
            self._curves.show_numbers(session.start, session.numbers, chain, length, session.norm, other)
            marks = self._markers.of(session, chain)
            self._curves.show_marks(marks)
            self._timeline.show_marks(marks)
            self._curves.set_cursor(self.step)
            self._timeline.show_thumbs(self.thumbnail)

    def length(self) -> int:
        """Steps that the run in sight is meant to take, or took."""
        session = self._player.session
        return self._sampler.sampler.steps if self._player.live or session is None else max(1, len(session) - 1)

    def thumbnail(self, step: int) -> Bytes | None:
        """The chosen chain after a step; None if that cannot be read."""
        assert self._player.session is not None
        try:
            return self._evolution.thumbnail(self._player.session[step], self._evolution.chosen)
        except OSError:  # go_to says so, where somebody asks for this step
            return None

    @Slot(int)
    def go_to(self, step: int) -> None:
        """Show a recorded step everywhere, or the next one whose pixels were kept."""
        session = self._player.session
        if session is None:
            return
        last = len(session) - 1
        step, way = min(max(step, 0), last), 1 if step > self.step else -1
        while 0 < step < last and not session.kept(step):
            step += way
        self._follows = step == last
        try:
            shown = session[step]
        except OSError as error:
            of_disk = f"Step {step} could not be read back from the disk: {error.strerror}."
            self.said.emit(of_disk if error.strerror else str(error))
            return
        self.step = step
        self._evolution.show_step(shown)
        self._curves.set_cursor(step)
        self._timeline.show_recorded(last + 1, step)
        self.moved.emit()

    @Slot()
    def previous(self) -> None:
        self.go_to(self.step - 1)

    @Slot()
    def next(self) -> None:
        self.go_to(self.step + 1)

    @Slot()
    def first(self) -> None:
        self.go_to(0)

    @Slot()
    def last(self) -> None:
        if self._player.session is not None:
            self.go_to(len(self._player.session) - 1)

    @Slot()
    def previous_event(self) -> None:
        self._go_to_event(-1)

    @Slot()
    def next_event(self) -> None:
        self._go_to_event(1)

    def _go_to_event(self, way: int) -> None:
        session = self._player.session
        if session is not None:
            step = self._markers.following(session, self._evolution.chosen, self.step, way)
            if step is not None:
                self.go_to(step)

    @Slot(int)
    def _chain_selected(self, chain: int) -> None:
        self.show_curves()
        self._timeline.show_thumbs(self.thumbnail, anew=True)
        self.moved.emit()
