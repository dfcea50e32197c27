"""The views of the window's centre, one at a time, and what the keys that run things mean in each."""

from __future__ import annotations

from typing import ClassVar

from PySide6.QtCore import QMimeData, QObject, Signal, Slot
from PySide6.QtWidgets import QWidget


class Stage(QObject):
    """A view beside the evolution, which the window itself is the stage of. What a stage cannot do, it leaves out."""

    changed = Signal()
    """What can be done, or what there is to say, is another."""

    title: ClassVar[str] = ""
    """On its tab."""
    tip: ClassVar[str] = ""
    compares: ClassVar[bool] = True
    """It is about the models that are compared, which stand above it."""
    samples: ClassVar[bool] = False
    """The sampler's panel says what it does."""
    has_steps: ClassVar[bool] = False

    def __init__(self, panel: QWidget, parent: QObject) -> None:
        super().__init__(parent)
        self.panel = panel

    @property
    def run_text(self) -> str:
        """What the key that runs would do now: Run, Pause, Continue, Cancel …"""
        return "Run"

    @property
    def can_run(self) -> bool:
        return True

    @property
    def busy(self) -> bool:
        """Something is under way that Esc would end."""
        return False

    @property
    def status(self) -> str:
        """One line on how far it is."""
        return ""

    def enter(self) -> None:
        """It is shown now."""

    def leave(self) -> None:
        """Another is shown."""

    def restyle(self) -> None:
        """The colours changed."""

    @Slot()
    def run_or_pause(self) -> None:
        """Space."""

    @Slot()
    def one_step(self) -> None:
        """The full stop."""

    @Slot()
    def stop(self) -> None:
        """Esc."""

    @property
    def can_export(self) -> bool:
        """There is something to write."""
        return False

    @Slot()
    def export(self) -> None:
        """Ctrl+E."""

    def say(self, sentence: str) -> None:
        """A message that stays until it is dismissed, about what was done while this is shown."""

    def take(self, data: QMimeData) -> bool:
        """What is pasted while this is shown; whether it had a use for it."""
        return False

    @Slot()
    def loop(self) -> None:
        """L: play the steps again and again, or no more."""

    def go_to(self, step: int) -> None:
        """Show a step; those before the first and after the last are these."""

    @property
    def step(self) -> int:
        return 0

    @property
    def last_step(self) -> int:
        return 0
