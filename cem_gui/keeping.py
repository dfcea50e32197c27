"""How runs are kept: in memory, and each in a folder of its own where they are recorded."""

from __future__ import annotations

from dataclasses import dataclass

from cem_core import sessions
from cem_core.messages import Step
from cem_core.recording import Recording
from cem_core.session import BUDGET, Session


@dataclass(frozen=True)
class Keeping:
    """How runs are kept."""

    record: bool = False
    """Each run gets a folder among the sessions; else it is gone with the program."""
    memory: int = BUDGET
    """Bytes of pixels that a run keeps in memory."""


def keep(session: Session, step: Step, keeping: Keeping) -> None:
    """Add a step. A run gets its folder with its first step: what was only looked at leaves nothing behind.

    Raises:
        OSError, Refused: the disk does not take it. Nothing is lost: it may be tried again.
    """
    if step.index == 1 and session.recording is None and keeping.record:
        recording = Recording.create(sessions.new_folder(session.start), session.start)
        recording.append(session[0])
        session.recording = recording
    session.append(step)
