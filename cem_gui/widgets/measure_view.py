"""The frame of a measurement over a set of images: settings and how far it is on the left, results on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from cem_gui.widgets.card import Card, small
from cem_gui.widgets.notice import Notice
from cem_gui.widgets.passage import Passage
from cem_gui.widgets.set_choice import WIDTH, SetChoice

_LISTED: Final = 200
"""Images that are listed by name."""


class MeasureView(QWidget):
    """`results` is for what comes out, which is shown once there is something."""

    measure_wanted = Signal()
    cancel_wanted = Signal()
    export_wanted = Signal()

    def __init__(self, choice: SetChoice, empty: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.choice = choice
        self.measure = QPushButton("Measure")
        self.measure.setObjectName("primary")
        self.measure.clicked.connect(self._pressed)
        self.export_button = QPushButton("Export…")
        self.export_button.setEnabled(False)
        self.export_button.clicked.connect(self.export_wanted)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Images that are measured")
        self.progress = small()
        self.progress.setWordWrap(True)
        self.notes = Passage()
        self.notes.setAccessibleName("What was met on the way")
        self._notes_card = Card("Notes")
        self.notes.setViewportMargins(0, 0, 0, 0)  # in line with the heading
        self.notes.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.notes.setMinimumHeight(48)
        policy = self.notes.sizePolicy()
        policy.setHeightForWidth(False)  # as high as it needs to be, if there is room
        self.notes.setSizePolicy(policy)
        self._notes_card.body.addWidget(self.notes)
        self.notice = Notice()
        self.empty = QLabel(empty)
        self.empty.setObjectName("muted")
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.empty.setWordWrap(True)
        self.results = QWidget()
        self._busy = False
        self._lay_out()

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addWidget(self.measure, 1)
        buttons.addWidget(self.export_button)
        for part in (self.bar, self.progress):
            part.hide()
        self.choice.body.addLayout(buttons)
        self.choice.body.addWidget(self.bar)
        self.choice.body.addWidget(self.progress)
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        column.addWidget(self.choice)
        column.addWidget(self._notes_card)
        column.addStretch(1)
        self._notes_card.hide()
        scrolling = QScrollArea()
        scrolling.setWidget(left)
        scrolling.setWidgetResizable(True)
        scrolling.setFrameShape(QFrame.Shape.NoFrame)
        scrolling.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        scrolling.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scrolling.setFixedWidth(WIDTH)
        ground = Card("")
        ground.title.hide()
        ground.body.addWidget(self.empty, 1)
        self._pages = QStackedWidget()
        self._pages.addWidget(ground)
        self._pages.addWidget(self.results)
        self._pages.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        right = QVBoxLayout()
        right.setSpacing(8)
        right.addWidget(self.notice)
        right.addWidget(self._pages, 1)
        both = QHBoxLayout(self)
        both.setContentsMargins(4, 0, 4, 0)
        both.setSpacing(8)
        both.addWidget(scrolling)
        both.addLayout(right, 1)

    def minimumSizeHint(self) -> QSize:
        """Little: a view that is not shown must not keep the window wide."""
        return QSize(WIDTH, super().minimumSizeHint().height())

    def restyle(self) -> None:
        """Take the colours in force."""

    def show_state(self, *, busy: bool, can_run: bool, why_not: str = "", can_export: bool = False) -> None:
        """What the buttons do. why_not: a sentence where nothing can be measured."""
        self._busy = busy
        self.measure.setText("Cancel" if busy else "Measure")
        self.measure.setEnabled(can_run)
        self.measure.setToolTip(why_not or ("Ends it; what was measured stays  (Space)" if busy else "Space"))
        self.export_button.setEnabled(can_export)
        self.export_button.setToolTip("Write the results so far as CSV, JSON, SVG and PNG" if can_export else "")

    def show_progress(self, text: str, done: int = 0, total: int = 0) -> None:
        """total 0: how much there is to do is not known yet. An empty text hides it."""
        self.bar.setVisible(bool(text) and self._busy)
        self.bar.setRange(0, total)
        self.bar.setValue(min(done, total))
        self.progress.setText(text)
        self.progress.setVisible(bool(text))

    def show_notes(self, notes: Sequence[str], skipped: Mapping[str, str]) -> None:
        """Sentences, and the images that were left out with why."""
        lines = list(dict.fromkeys(notes))
        if skipped:
            images = "1 image was" if len(skipped) == 1 else f"{len(skipped):,} images were"
            lines.append(f"{images} skipped:")
            lines += [f"· {path}: {why}" for path, why in list(skipped.items())[:_LISTED]]
        if len(skipped) > _LISTED:
            lines.append(f"… and {len(skipped) - _LISTED:,} more.")
        text = "\n".join(lines)
        if text != self.notes.toPlainText():
            self.notes.setPlainText(text)
            self.notes.updateGeometry()
        self._notes_card.setVisible(bool(lines))

    def show_results(self, there: bool) -> None:
        """Results, or the sentence that stands where they will be."""
        self._pages.setCurrentIndex(int(there))

    @Slot()
    def _pressed(self) -> None:
        (self.cancel_wanted if self._busy else self.measure_wanted).emit()
