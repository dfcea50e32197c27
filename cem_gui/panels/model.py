"""The model: which one, what was recognised, and where each assumption came from."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from cem_core.messages import Checkpoint, Device, Precision
from cem_gui.widgets.card import Card, form, muted, row

_SOURCES = {"file": "from the file", "name": "from the file name", "guess": "assumed"}


class ModelPanel(Card):
    chosen = Signal(str)
    """Name of a bundled model or path of a file."""
    open_wanted = Signal()
    placed = Signal()
    """`place` was chosen anew."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Model", parent)
        self.choice = QComboBox()
        self.choice.setAccessibleName("Model")
        self.choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.choice.setMinimumContentsLength(12)
        self.choice.activated.connect(self._activated)
        self.device = QComboBox()
        self.device.setAccessibleName("Device")
        self.device.setToolTip("Auto: the fastest device that torch finds")
        for text, data in (("Auto", "auto"), ("CPU", "cpu"), ("CUDA", "cuda")):
            self.device.addItem(text, data)
        self.precision = QComboBox()
        self.precision.setAccessibleName("Precision")
        self.precision.addItem("float32", "float32")
        self.precision.addItem("bfloat16", "bfloat16")
        self.precision.setToolTip("bfloat16 is about twice as fast; its pixels differ a little from float32.")
        self._facts = {name: QElidingLabel("–") for name in ("Network", "Classes", "Input", "Measured")}
        for label in self._facts.values():
            label.setElideMode(Qt.TextElideMode.ElideRight)
        facts = form(
            *((name, label, "") for name, label in self._facts.items()),
            ("Runs on", row(self.device, self.precision, stretch=-1), ""),
        )
        self.open_button = QPushButton("Open…")
        self.open_button.setToolTip("Open a checkpoint file, or drop one on the window")
        self.open_button.clicked.connect(self.open_wanted)
        self.details_button = QPushButton("Details")
        self.details_button.setEnabled(False)
        self.details_button.clicked.connect(self._show_details)
        buttons = QHBoxLayout()
        buttons.addWidget(self.open_button)
        buttons.addWidget(self.details_button)
        self.body.addWidget(self.choice)
        self.body.addLayout(facts)
        self.body.addLayout(buttons)
        self.body.addStretch(1)
        self.device.activated.connect(self.placed)
        self.precision.activated.connect(self.placed)
        for combo in (self.choice, self.device, self.precision):
            combo.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # after a click the keys are the images' again
        self._checkpoint: Checkpoint | None = None

    def set_models(self, references: Sequence[str]) -> None:
        """What can be chosen without a file dialog: bundled names and recent paths."""
        for reference in references:
            self._add(reference)

    @property
    def place(self) -> tuple[Device, Precision]:
        return self.device.currentData(), self.precision.currentData()

    def set_place(self, device: str, precision: str) -> None:
        self.device.setCurrentIndex(max(0, self.device.findData(device)))
        self.precision.setCurrentIndex(max(0, self.precision.findData(precision)))

    def show_opening(self, reference: str) -> None:
        self._facts["Network"].setText(f"Opening {_short(reference)} …")

    def show_checkpoint(self, reference: str, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._add(reference)
        with QSignalBlocker(self.choice):
            self.choice.setCurrentIndex(self.choice.findData(reference))
        self.choice.setToolTip(checkpoint.path)
        names = checkpoint.classes
        shown = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        facts = {fact.what: fact.value for fact in checkpoint.facts}
        for name, text in (
            ("Network", f"{checkpoint.title} · {checkpoint.parameters / 1e6:.1f} M"),
            ("Classes", f"{len(names):,} · {shown}"),
            ("Input", f"{checkpoint.size}×{checkpoint.size} · {'RGB' if checkpoint.channels == 3 else 'grey'}"),
            ("Measured", facts.get("accuracy", "not yet")),
        ):
            self._facts[name].setText(text)
            self._facts[name].setToolTip(text)
        self.details_button.setEnabled(True)

    def show_refused(self, reference: str) -> None:
        """Go back to what is open, if anything is."""
        if self._checkpoint is None:
            self._facts["Network"].setText("none open")
        else:
            self.show_checkpoint(reference, self._checkpoint)

    def _add(self, reference: str) -> None:
        if self.choice.findData(reference) < 0:
            self.choice.addItem(_short(reference), reference)
            self.choice.setItemData(self.choice.count() - 1, reference, Qt.ItemDataRole.ToolTipRole)

    def _activated(self, index: int) -> None:
        self.chosen.emit(self.choice.itemData(index))

    def _show_details(self) -> None:
        if self._checkpoint is not None:
            Details(self._checkpoint, self).exec()


class Details(QDialog):
    """Every fact of a checkpoint, with its source."""

    def __init__(self, checkpoint: Checkpoint, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"{checkpoint.name} – details")
        table = QFormLayout()
        table.setHorizontalSpacing(18)
        rows = [(fact.what.capitalize(), f"{fact.value}  ({_SOURCES[fact.source]})") for fact in checkpoint.facts]
        rows += [("File", checkpoint.path), ("SHA-256", checkpoint.sha256)]
        if checkpoint.ignored:
            rows.append(("Not used", ", ".join(checkpoint.ignored)))
        for name, text in rows:
            label = QLabel(text)
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            label.setMinimumWidth(420)
            table.addRow(muted(name), label)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 18, 20, 16)
        layout.setSpacing(16)
        layout.addLayout(table)
        layout.addWidget(buttons)


def _short(reference: str) -> str:
    """The file's own name."""
    return reference.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
