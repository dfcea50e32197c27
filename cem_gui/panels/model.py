"""The model: which one, what was recognised, and what of that is assumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QProgressBar, QPushButton, QStackedWidget, QVBoxLayout, QWidget

from cem_core.messages import Checkpoint, Device, Precision
from cem_gui.widgets.card import Card, form, row
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.fact import FactLine

_SHOW_AFTER_MS: Final = 200
"""An opening that is over sooner is not worth a moving bar."""
_OF_THE_NETWORK: Final = ("classes", "class names", "image size", "normalisation", "head")
"""Facts that have a row of their own; all others are of the network."""


class ModelPanel(Card):
    chosen = Signal(str)
    """Name of a bundled model or path of a file."""
    open_wanted = Signal()
    details_wanted = Signal()
    cancelled = Signal()
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
        self.facts = {name: FactLine() for name in ("Network", "Classes", "Input", "Normalised", "Check")}
        facts = form(
            *((name, line, "") for name, line in self.facts.items()),
            ("Runs on", row(self.device, self.precision, stretch=-1), ""),
        )
        self.open_button = QPushButton("Open…")
        self.open_button.setToolTip("Open a checkpoint file, or drop one on the window")
        self.open_button.clicked.connect(self.open_wanted)
        self.details_button = QPushButton("Details…")
        self.details_button.setToolTip("Everything that was recognised, and what was assumed")
        self.details_button.setEnabled(False)
        self.details_button.clicked.connect(self.details_wanted)
        self.opening = OpeningRow()
        self.opening.cancel.clicked.connect(self.cancelled)
        self._foot = QStackedWidget()  # in one place, so that nothing moves when an opening begins or ends
        self._foot.addWidget(row(self.open_button, self.details_button, stretch=-1))
        self._foot.addWidget(self.opening)
        self._late = QTimer(self)
        self._late.setSingleShot(True)
        self._late.setInterval(_SHOW_AFTER_MS)
        self._late.timeout.connect(lambda: self._foot.setCurrentWidget(self.opening))
        self.body.addWidget(self.choice)
        self.body.addLayout(facts)
        self.body.addWidget(self._foot)
        self.body.addStretch(1)
        self.device.activated.connect(self.placed)
        self.precision.activated.connect(self.placed)
        for combo in (self.choice, self.device, self.precision):
            combo.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # after a click the keys are the images' again

    def set_models(self, bundled: Sequence[str], files: Sequence[tuple[str, str]] = ()) -> None:
        """What can be chosen without a file dialog: bundled names, and (what is shown, path) of files."""
        chosen = self.choice.currentData()
        with QSignalBlocker(self.choice):
            self.choice.clear()
            for text, reference in [*((name, name) for name in bundled), *files]:
                self.choice.addItem(text, reference)
                self.choice.setItemData(self.choice.count() - 1, reference, Qt.ItemDataRole.ToolTipRole)
            if files:
                self.choice.insertSeparator(len(bundled))
            self._choose(chosen)

    @property
    def place(self) -> tuple[Device, Precision]:
        return self.device.currentData(), self.precision.currentData()

    def set_place(self, device: str, precision: str) -> None:
        self.device.setCurrentIndex(max(0, self.device.findData(device)))
        self.precision.setCurrentIndex(max(0, self.precision.findData(precision)))

    def show_opening(self, name: str) -> None:
        """Something is being opened: said, with a way to end it, unless it is over at once."""
        self.opening.begin(name)
        self._late.start()

    def end_opening(self, reference: str) -> None:
        """Back to what is open, under the reference by which it was opened; or nothing."""
        self._late.stop()
        self._foot.setCurrentIndex(0)
        with QSignalBlocker(self.choice):
            self._choose(reference)

    def show_checkpoint(self, reference: str, checkpoint: Checkpoint) -> None:
        """What was recognised. `reference` is among those that can be chosen."""
        self.end_opening(reference)
        self.choice.setToolTip(checkpoint.path)
        names, head = checkpoint.classes, checkpoint.fact("head")
        off = head is not None and (head.source, head.value) == ("choice", "none")
        features = f"{'Head: none' if off else 'Encoder'} · {checkpoint.features:,} features"
        shown = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}" if names else ""
        network = [fact for fact in checkpoint.facts if fact.what not in _OF_THE_NETWORK]
        normalised, accuracy = checkpoint.fact("normalisation"), checkpoint.fact("accuracy")
        colours = "RGB" if checkpoint.channels == 3 else "grey"
        for name, text, about in (
            ("Network", f"{checkpoint.title} · {_parameters(checkpoint.parameters)}", network),
            (
                "Classes",
                f"{len(names):,} · {shown}" if names else features,
                [checkpoint.fact("class names"), head],
            ),
            ("Input", f"{checkpoint.size}×{checkpoint.size} · {colours}", [checkpoint.fact("image size")]),
            ("Normalised", normalised.value if normalised else "–", [normalised]),
            ("Check", accuracy.value if accuracy else "–", []),
        ):
            self.facts[name].show_text(text, [fact for fact in about if fact is not None])
        self.details_button.setEnabled(True)

    def show_check(self, text: str, tip: str = "") -> None:
        """What came of trying the model on images that are known."""
        self.facts["Check"].show_text(text, tip=tip)

    def _choose(self, reference: str | None) -> None:
        self.choice.setCurrentIndex(self.choice.findData(reference))

    def _activated(self, index: int) -> None:
        self.chosen.emit(self.choice.itemData(index))


class OpeningRow(QWidget):
    """A model that is being opened: which, how far, and a way to end it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.what = Elided(mode=Qt.TextElideMode.ElideMiddle)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(4)
        self.bar.setAccessibleName("Progress of the opening")
        self.cancel = QPushButton("Cancel")
        said = QVBoxLayout()
        said.setSpacing(3)
        said.addWidget(self.what)
        said.addWidget(self.bar)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(10)
        layout.addLayout(said, 1)
        layout.addWidget(self.cancel)
        self._name = ""

    def begin(self, name: str) -> None:
        self._name = name
        self.bar.setRange(0, 0)
        self._say("Opening")

    def show_progress(self, what: str, share: float) -> None:
        self.bar.setRange(0, 1000 if share > 0 else 0)  # with nothing known, it only moves
        self.bar.setValue(round(1000 * share))
        self._say(what)

    def _say(self, what: str) -> None:
        self.what.setText(f"{what} {self._name}")
        self.what.setToolTip(self.what.text())


def _parameters(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"
