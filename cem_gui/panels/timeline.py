"""The recorded steps: drag, arrow keys, play in a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from PySide6.QtCore import QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QToolButton, QWidget

from cem_gui import theme
from cem_gui.widgets.filmstrip import Filmstrip
from cem_gui.widgets.image_grid import Bytes, to_image
from cem_gui.widgets.marks import Mark

_FRAME_MS: Final = 50
_NONE: Final = "No steps yet"


class TimelinePanel(QWidget):
    stepped = Signal(int)
    """The person went to this step."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("timeline")
        self.strip = Filmstrip()
        self.loop = QToolButton()
        self.loop.setCheckable(True)
        self.loop.setAccessibleName("Play the recorded steps in a loop")
        self.loop.setToolTip("Play the recorded steps in a loop")
        self.loop.toggled.connect(self._play)
        self.position = QLabel(_NONE)
        self.position.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.position.setMinimumWidth(self.fontMetrics().horizontalAdvance("step 8,888 of 8,888"))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 0)
        layout.setSpacing(8)
        layout.addWidget(self.loop)
        layout.addWidget(self.strip, 1)
        layout.addWidget(self.position)
        self._clock = QTimer(self)
        self._clock.setInterval(_FRAME_MS)
        self._clock.timeout.connect(self._next)
        self._length = 0
        self.strip.valueChanged.connect(self._moved)
        self.restyle()

    def restyle(self) -> None:
        self.loop.setIcon(theme.icon("loop"))

    def start(self, length: int) -> None:
        """A new run of so many steps."""
        self.loop.setChecked(False)
        with QSignalBlocker(self.strip):
            self.strip.setRange(0, 0)
        self.strip.set_thumbs({})
        self.strip.set_marks(())
        self.set_length(length)

    def clear(self) -> None:
        """There is no run."""
        self.start(0)
        self.position.setText(_NONE)

    def set_length(self, length: int) -> None:
        self._length = max(length, self.strip.maximum())
        self.strip.set_length(self._length)
        self._write()

    def show_recorded(self, steps: int, cursor: int) -> None:
        """The steps 0 … steps-1 are recorded, and the cursor is at one of them."""
        with QSignalBlocker(self.strip):
            self.strip.setMaximum(max(0, steps - 1))
            self.strip.setValue(cursor)
        if self.strip.maximum() > self._length:
            self.set_length(self.strip.maximum())
        self.strip.update()
        self._write()

    def show_thumbs(self, picture: Callable[[int], Bytes | None], *, anew: bool = False) -> None:
        """Fill the strip with the pictures of some recorded steps; anew if they changed."""
        wanted = self.strip.thumb_steps()
        if anew or any(not self.strip.has_thumb(step) for step in wanted):
            pictures = {step: picture(step) for step in wanted}
            self.strip.set_thumbs({step: to_image(made) for step, made in pictures.items() if made is not None})

    def show_marks(self, marks: Sequence[Mark]) -> None:
        """What happened, and when."""
        self.strip.set_marks(marks)

    def _moved(self, step: int) -> None:
        self._write()
        self.stepped.emit(step)

    def _write(self) -> None:
        self.position.setText(f"step {self.strip.value():,} of {self._length:,}")

    def _play(self, on: bool) -> None:
        if on:
            self._clock.start()
        else:
            self._clock.stop()

    def _next(self) -> None:
        last = self.strip.maximum()
        self.strip.setValue(0 if self.strip.value() >= last else self.strip.value() + 1)
