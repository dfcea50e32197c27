"""Every fact of the model that is open: where it comes from, what speaks for it, and what else it could be."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from cem_core.messages import Checkpoint, Fact
from cem_gui.widgets.card import heading, muted, small
from cem_gui.widgets.fact import source
from cem_gui.widgets.passage import INDENT, PAD, Passage

_WIDTH: Final = 680
_MOST_IN_LINE: Final = 4
"""Keys that are told in a line; more get a list that scrolls."""
_LIST_HEIGHT: Final = 96


class Details(QDialog):
    """`applied` asks for the file to be read otherwise; the dialog stays, and says what came of it."""

    applied = Signal(dict)
    """Fact → value, for all that is chosen; empty: as it was recognised."""
    cancelled = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Model details")
        self.setSizeGripEnabled(True)
        self._checkpoint: Checkpoint | None = None
        self._choices: dict[str, str] = {}
        self.fields: dict[str, QComboBox] = {}
        """What can be chosen, by fact."""
        self.title = QLabel()
        font = self.title.font()
        font.setPointSizeF(font.pointSizeF() * 1.25)
        font.setBold(True)
        self.title.setFont(font)
        self.title.setTextFormat(Qt.TextFormat.PlainText)
        self.title.setWordWrap(True)
        self.about = muted("")
        self.about.setTextFormat(Qt.TextFormat.PlainText)
        self.about.setWordWrap(True)
        self.area = QScrollArea()
        self.area.setWidgetResizable(True)
        self.area.setFrameShape(QFrame.Shape.NoFrame)
        self.area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.problem = QLabel()
        self.problem.setObjectName("notice")
        self.problem.setWordWrap(True)
        self.problem.setTextFormat(Qt.TextFormat.PlainText)
        self.problem.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.problem.hide()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedSize(120, 4)
        self.bar.setAccessibleName("Progress of the opening")
        self.reset = QPushButton("Reset")
        self.reset.setToolTip("Back to what was recognised")
        self.reset.setAutoDefault(False)
        self.apply = QPushButton("Apply")
        self.apply.setObjectName("primary")
        self.apply.setToolTip("Open the file again as chosen here, now and from now on")
        self.close_button = QPushButton("Close")
        self.close_button.setAutoDefault(False)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addWidget(self.reset)
        buttons.addStretch(1)
        buttons.addWidget(self.bar)
        buttons.addSpacing(8)
        buttons.addWidget(self.close_button)
        buttons.addWidget(self.apply)
        self.reset.clicked.connect(self._reset)
        self.apply.clicked.connect(self._apply)
        self.close_button.clicked.connect(self.reject)

        head = QVBoxLayout()
        head.setSpacing(2)
        head.addWidget(self.title)
        head.addWidget(self.about)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(22, 20, 22, 16)
        layout.setSpacing(14)
        layout.addLayout(head)
        layout.addWidget(self.area, 1)
        layout.addWidget(self.problem)
        layout.addLayout(buttons)
        self._set_busy(False)

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def show_checkpoint(self, checkpoint: Checkpoint, choices: dict[str, str]) -> None:
        """The facts of a model, and what was chosen for it."""
        first = self._checkpoint is None
        at = 0 if first else self.area.verticalScrollBar().value()
        self._checkpoint, self._choices = checkpoint, dict(choices)
        self.title.setText(checkpoint.title)
        known = f"{len(checkpoint.classes):,} classes" if checkpoint.classes else f"{checkpoint.features:,} features"
        self.about.setText(f"{checkpoint.name}  ·  {checkpoint.parameters:,} parameters  ·  {known}")
        self.problem.hide()
        self._set_busy(False)
        table = self._table(checkpoint)
        self.area.setWidget(table)
        if first:
            room = self.screen().availableSize()
            height = self.sizeHint().height() - self.area.sizeHint().height() + table.heightForWidth(_WIDTH - 44) + 2
            self.resize(min(_WIDTH, room.width() - 80), min(height, room.height() - 120))
        self.area.verticalScrollBar().setValue(at)
        self._follow()

    def show_problem(self, sentence: str) -> None:
        """Why the file cannot be read so; what was entered stays."""
        self._set_busy(False)
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))
        self._follow()

    def show_progress(self, share: float) -> None:
        self.bar.setRange(0, 1000 if share > 0 else 0)
        self.bar.setValue(round(1000 * share))

    def _table(self, checkpoint: Checkpoint) -> QWidget:
        table = QWidget()
        grid = QGridLayout(table)
        grid.setContentsMargins(0, 0, 12, 0)
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(3)
        grid.setColumnStretch(1, 1)
        grid.setColumnMinimumWidth(0, 110)
        self.fields = {}
        for fact in checkpoint.facts:
            value: QWidget = self._field(fact) if fact.options else Passage(fact.value)
            _add(grid, fact.what.capitalize(), value, source(fact), fact.why)
        _part(grid, "File")
        _add(grid, "Path", Passage(checkpoint.path))
        _add(grid, "SHA-256", Passage(checkpoint.sha256))
        if checkpoint.replay:
            _add(grid, "Replay buffer", Passage(f"{checkpoint.replay:,} images"))
        if ignored := checkpoint.ignored:
            short = len(ignored) <= _MOST_IN_LINE
            first = ", ".join(ignored[: _MOST_IN_LINE if short else 2])
            _add(grid, "Not used", Passage(first if short else f"{first} … and {len(ignored) - 2:,} more"))
            if not short:
                grid.addWidget(_list(ignored), grid.rowCount(), 1, 1, 2)
        grid.setRowStretch(grid.rowCount(), 1)
        return table

    def _field(self, fact: Fact) -> QComboBox:
        field = QComboBox()
        field.setAccessibleName(fact.what.capitalize())
        field.setEditable(fact.free)
        field.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        field.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        field.setMinimumContentsLength(16)
        field.addItems(list(dict.fromkeys((*fact.options, *(() if fact.free else (fact.value,))))))
        field.setCurrentText(fact.value)
        field.setProperty("value", fact.value)
        field.installEventFilter(self)
        if (line := field.lineEdit()) is not None:
            line.setCursorPosition(0)
            line.setTextMargins(-2, 0, 0, 0)  # as far in as what cannot be edited
            line.setAcceptDrops(False)
            field.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
            field.setToolTip("Choose one, or write another in the same form")
        field.currentTextChanged.connect(self._follow)
        self.fields[fact.what] = field
        return field

    # ---- what is chosen ----------------------------------------------------------------------------------------------

    @property
    def choices(self) -> dict[str, str]:
        """What was chosen before, and what is entered now."""
        return self._choices | {
            what.replace(" ", "_"): text
            for what, field in self.fields.items()
            if (text := field.currentText().strip()) != field.property("value")
        }

    def _apply(self) -> None:
        self._ask(self.choices)

    def _reset(self) -> None:
        for field in self.fields.values():
            field.setCurrentText(field.property("value"))
        self.problem.hide()
        if self._choices:
            self._ask({})

    def _ask(self, choices: dict[str, str]) -> None:
        self.problem.hide()
        self._set_busy(True)
        self.applied.emit(choices)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        self.bar.setRange(0, 0)
        self.bar.setVisible(busy)
        self.area.setEnabled(not busy)
        self.close_button.setText("Cancel" if busy else "Close")
        self._follow()

    def _follow(self) -> None:
        changed = self.choices != self._choices
        self.apply.setEnabled(changed and not self._busy)
        self.apply.setDefault(changed)
        self.reset.setEnabled((changed or bool(self._choices)) and not self._busy)

    def reject(self) -> None:
        """Esc and Close: end what is being opened, and only then the dialog."""
        if self._busy:
            self._set_busy(False)
            self.cancelled.emit()
        else:
            super().reject()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """A wheel turns the table, and no choice that happens to pass under it."""
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QComboBox):
            event.ignore()
            return True
        return super().eventFilter(watched, event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Return in a field applies, if there is anything to apply."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.apply.isEnabled():
            self.apply.click()
        elif event.key() not in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            super().keyPressEvent(event)


def _add(grid: QGridLayout, name: str, value: QWidget, said: str = "", why: str = "") -> None:
    """A fact: its name and value, where it comes from, and below what speaks for it."""
    row = grid.rowCount()
    label = muted(name)
    label.setBuddy(value)
    beside = small(said)
    top = Qt.AlignmentFlag.AlignTop if isinstance(value, Passage) else Qt.AlignmentFlag.AlignVCenter
    if isinstance(value, Passage):  # which may have several lines
        label.setContentsMargins(0, PAD, 0, PAD)
        beside.setContentsMargins(0, PAD + 1, 0, PAD)
    grid.addWidget(label, row, 0, top)
    grid.addWidget(value, row, 1, 1, 1 if said else 2)
    grid.addWidget(beside, row, 2, top)
    if why:
        reason = small(why)
        reason.setWordWrap(True)
        reason.setTextFormat(Qt.TextFormat.PlainText)
        reason.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        reason.setContentsMargins(INDENT, 0, 0, 4)
        grid.addWidget(reason, row + 1, 1, 1, 2)


def _part(grid: QGridLayout, name: str) -> None:
    title = heading(name)
    title.setContentsMargins(0, 14, 0, 2)
    grid.addWidget(title, grid.rowCount(), 0, 1, 3)


def _list(names: tuple[str, ...]) -> QPlainTextEdit:
    """All of them, to scroll through and to copy from."""
    full = QPlainTextEdit("\n".join(names))
    full.setAccessibleName("All that is not used")
    full.setReadOnly(True)
    full.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
    full.setFixedHeight(_LIST_HEIGHT)
    full.setAcceptDrops(False)
    return full
