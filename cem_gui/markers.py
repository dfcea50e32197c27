"""What happened in the run in sight, as marks on its steps; found as it grows, but never so often that it costs."""

from __future__ import annotations

import time
from typing import Final

from cem_core import events
from cem_core.events import Event
from cem_core.messages import RunStart
from cem_core.session import Session
from cem_gui.widgets.marks import Mark

_SHARE: Final = 0.05
"""Of the time that may be spent on it while a run goes on."""


class Markers:
    def __init__(self) -> None:
        self._session: Session | None = None
        self._events: list[Event] = []
        self._steps = -1
        self._ended = False
        self._not_before = 0.0

    def of(self, session: Session, chosen: int) -> list[Mark]:
        """Those of all chains; those of the chosen one last, so that they lie on top."""
        self._find(session)
        start = session.start
        marks = [Mark(event.step, event.kind, self._tip(event, start), event.chain != chosen) for event in self._events]
        return sorted(marks, key=lambda mark: not mark.faint)

    def following(self, session: Session, chosen: int, step: int, way: int) -> int | None:
        """The step of the next event of the chosen chain (way 1), or of the one before (way -1)."""
        self._find(session)
        steps = [event.step for event in self._events if event.chain == chosen and (event.step - step) * way > 0]
        return (min if way > 0 else max)(steps, default=None)

    @staticmethod
    def _tip(event: Event, start: RunStart) -> str:
        aim = f", {start.candidates[start.labels[event.chain]]}" if start.aims(event.chain) else ""
        return f"{event.kind} at step {event.step:,} (chain {event.chain + 1}{aim})"

    def _find(self, session: Session) -> None:
        steps, ended = len(session), session.end is not None
        same = session is self._session
        if same and (steps, ended) == (self._steps, self._ended):
            return
        began = time.perf_counter()
        if same and not ended and began < self._not_before:
            return
        self._session, self._steps, self._ended = session, steps, ended
        self._events = events.events(session)
        now = time.perf_counter()
        self._not_before = now + (now - began) / _SHARE
