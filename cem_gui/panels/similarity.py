"""Two images, how similar each model finds them, and one on its way to the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from PySide6.QtCore import QMimeData, QPoint, QSignalBlocker, Qt, Signal, Slot
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDragMoveEvent, QDropEvent, QResizeEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from cem_core.messages import MAX_STEPS, Checkpoint, Sampler
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import MODELS
from cem_core.session import Numbers
from cem_gui import theme
from cem_gui.widgets.beside import Beside
from cem_gui.widgets.card import Card, form, muted, small
from cem_gui.widgets.elided import Elided, ElidedBox
from cem_gui.widgets.figures import figure
from cem_gui.widgets.image_grid import Bytes
from cem_gui.widgets.model_column import LEAST, NO_REST, WIDE, ModelColumn
from cem_gui.widgets.nearest import Near, Nearest
from cem_gui.widgets.notice import Notice
from cem_gui.widgets.picture_slot import PictureSlot
from cem_gui.widgets.small_plot import SmallPlot

LETTERS: Final = ("A", "B")
WAYS: Final = {"CS": "Towards B", "TA": "Towards B, away from the rest"}
"""Rows of the samplers' table, and what they do here."""
STEPS: Final = 60
STEP_SIZE: Final = 0.15
RADIUS: Final = 4.0
TEMPERATURE: Final = 1.0
_SIDE: Final = (208, 420)
"""Width of the columns at the sides, at least and at most."""
_SHARE: Final = 6
"""So manieth part of the width is a column at the side."""
_NARROWEST: Final = 640
"""Less than it needs: the docks make room where it is shown, and where it is not, it widens no window."""
_GAP: Final = 8
_PLOT: Final = 150
"""Height of a plot below x, about."""
_IMAGE: Final = 3 / 5
"""Share of width and height that x has where all stands in pairs."""
_UNBOUNDED: Final = 16_777_215
HINT: Final = "Give two images, A and B: see how similar a model finds them, and morph one towards the other."


class MorphColumn(ModelColumn):
    """One model: how similar it finds A and B, and x on its way."""

    def __init__(self, index: int) -> None:
        self.curves = SmallPlot(
            f"Similarity of x to A and to B, model {index + 1}",
            "",
            "f(x,A) and f(x,B) at each step. Similarities of different models cannot be compared with each other.",
        )
        self.distance = SmallPlot(
            f"Distance of x from A, model {index + 1}", "", "L2 distance of x from A, in pixel units of [0,1]."
        )
        self.distance.view.getPlotItem().getViewBox().setLimits(yMin=-0.02)
        super().__init__(index, f"x on its way, model {index + 1}", (self.curves, self.distance))
        self.similarity = QLabel()
        self.similarity.setAccessibleName(f"f(A,B) of model {index + 1}")
        font = self.similarity.font()
        font.setPointSizeF(font.pointSizeF() * 1.5)
        font.setBold(True)
        self.similarity.setFont(font)
        self.cosine = small()
        self.nearest = Nearest(f"Images most similar to x, model {index + 1}")
        number = QHBoxLayout()
        number.setSpacing(8)
        number.addWidget(muted("f(A,B)"), 0, Qt.AlignmentFlag.AlignBaseline)
        number.addWidget(self.similarity, 0, Qt.AlignmentFlag.AlignBaseline)
        number.addWidget(self.cosine, 1, Qt.AlignmentFlag.AlignBaseline)
        self.facts = QWidget()
        facts = QVBoxLayout(self.facts)
        facts.setContentsMargins(0, 0, 0, 0)
        facts.setSpacing(4)
        facts.addLayout(number)
        facts.addWidget(small("Most similar to x"))
        facts.addWidget(self.nearest, 1)
        self.grid.setHorizontalSpacing(12)
        self.grid.setColumnStretch(0, 3)
        self.grid.setColumnStretch(1, 2)
        self._is_wide: bool | None = None
        self.arrange()
        self.restyle()

    def show_model(self, checkpoint: Checkpoint, about: str) -> None:
        """about: what of it is compared."""
        self.show_name(checkpoint, about)
        self.similarity.setText("…")
        self.cosine.setText("")
        self.nearest.show_items(())
        self.clear_curves()

    def show_similarity(self, f: float, cosine: float | None) -> None:
        """f(A,B); cosine: what it was before it was divided by the temperature, if that is not 1."""
        self.similarity.setText(told(f))
        self.cosine.setText("" if cosine is None else f"cos {told(cosine)}")

    def show_step(self, picture: Bytes, nearest: Sequence[Near]) -> None:
        """x, (H, W, 3)."""
        self.image.show_pixels(picture)
        self.nearest.show_items(nearest)

    def show_curves(self, numbers: Numbers, length: int) -> None:
        """Of one chain, A and B being the first two of the reference batch."""
        own, f = theme.OF_MODELS[self.index], numbers.logits[:, 0]
        self.curves.show_series({"f(x,B)": (own, f[:, 1]), "f(x,A)": ("muted", f[:, 0])}, NO_REST, length)
        self.distance.show_series({"‖x−A‖": (own, numbers.distance[:, 0])}, NO_REST, length)

    def arrange(self) -> None:
        """In pairs, unless it is narrow, or so high that x is much larger with all else below it."""
        inside, height = self.inside, self.grid.geometry().height()
        below = self.facts.sizeHint().height() + 2 * _PLOT
        wide = inside >= WIDE and 4 * min(inside, height) * _IMAGE >= 3 * min(inside, height - below)
        self.image.setMaximumHeight(_UNBOUNDED if wide else max(LEAST, inside))
        if wide == self._is_wide:
            return
        self._is_wide = wide
        places = [(self.image, 0, 0, 1), (self.facts, 0, 1, 1), (self.curves, 1, 0, 1), (self.distance, 1, 1, 1)]
        if not wide:
            places = [(self.image, 0, 0, 2), (self.facts, 1, 0, 2), (self.curves, 2, 0, 2), (self.distance, 3, 0, 2)]
        self.place(places, (3, 2, 0, 0) if wide else (4, 0, 2, 1))


class _Side(QWidget):
    """A slot, as large as fits, and what stands below it."""

    resized = Signal()

    def __init__(self, slot: PictureSlot, below: QWidget) -> None:
        super().__init__()
        self._slot, self._below = slot, below
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(_GAP)
        layout.addWidget(slot, 1000)  # before all else; it knows how large it may be
        layout.addWidget(below)
        layout.addStretch(1)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.resized.emit()

    def room(self) -> int:
        """Height that is left for the slot."""
        return self.height() - self._below.sizeHint().height() - _GAP


class SimilarityPanel(QWidget):
    stepped = Signal(int)
    """The person went to this step."""
    row_changed = Signal()
    """The sampler: its numbers changed, also during a run."""
    measure_changed = Signal()
    """What f is changed."""
    open_wanted = Signal(int)
    """An image file for A (0) or B (1)."""
    paste_wanted = Signal(int)
    sample_wanted = Signal(int, str)
    cleared = Signal(int)
    swap_wanted = Signal()
    samples_wanted = Signal()
    """Two of them, to see something."""
    run_wanted = Signal()
    dropped = Signal(object, int)
    """QMimeData with files or an image, and where it fell: 0, 1, or -1 beside both."""

    def __init__(
        self, foot: QWidget | None = None, samples: Sequence[Path] = (), parent: QWidget | None = None
    ) -> None:
        """foot: what stands below everything. samples: bundled images to choose from."""
        super().__init__(parent)
        self.setAcceptDrops(True)
        self.takes: Callable[[QMimeData], bool] = QMimeData.hasImage
        """Whether what is dropped is for this panel; all else is left to the window."""
        self.setMinimumWidth(_NARROWEST)
        self.notice = Notice()
        self.slots = [PictureSlot(letter, samples) for letter in LETTERS]
        for index, slot in enumerate(self.slots):
            slot.open_wanted.connect(lambda index=index: self.open_wanted.emit(index))
            slot.paste_wanted.connect(lambda index=index: self.paste_wanted.emit(index))
            slot.sample_wanted.connect(lambda path, index=index: self.sample_wanted.emit(index, path))
            slot.cleared.connect(lambda index=index: self.cleared.emit(index))

        self.way = ElidedBox()
        self.way.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        for name, text in WAYS.items():
            self.way.addItem(text, name)
        self.steps = QSpinBox()
        self.steps.setRange(1, MAX_STEPS)
        self.step_size = _number(0.001, 100, 3)
        self.ball = QCheckBox("Ball radius")
        self.radius = _number(0.01, 1000, 2)
        self.reset = QPushButton("Reset")
        self.reset.setToolTip("All settings as at first")
        self.reset.clicked.connect(self.reset_settings)
        self.morph = Card("Morph")
        self.morph.head.addWidget(self.reset)
        self.morph.body.addLayout(
            form(
                ("Way", self.way, "Towards B climbs f(x,B). Away from the rest: from A and from the samples as well"),
                ("Steps", self.steps, ""),
                ("Step size", self.step_size, "Length of a step, in pixel units of [0,1]"),
                (self.ball, self.radius, "Keep within this L2 distance from A"),
            )
        )
        self.cosine = ElidedBox()
        self.cosine.addItem("Cosine", True)
        self.cosine.addItem("Dot product", False)
        self.temperature = _number(0.01, 1000, 2)
        self.formula = small()
        self.formula.setWordWrap(True)
        measure = Card("Similarity")
        measure.head.addStrut(self.reset.sizeHint().height())  # level with the card on the other side
        measure.body.addLayout(
            form(
                ("Compare by", self.cosine, "Cosine: features of unit length"),
                ("Temperature", self.temperature, "What similarities are divided by: small sets the nearest apart"),
            )
        )
        measure.body.addWidget(self.formula)
        self.step_size.setAccessibleName("Step size")
        self.radius.setAccessibleName("Radius of the ball")
        for box in (self.way, self.cosine):
            box.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # after a click the keys are the images' again
        for spin in (self.steps, self.step_size, self.radius, self.temperature):
            spin.setKeyboardTracking(False)
            spin.lineEdit().returnPressed.connect(spin.clearFocus)

        self.about = Elided()
        self.about.setObjectName("muted")
        self.swap = QPushButton("Swap")
        self.swap.setToolTip("A becomes B, and B becomes A")
        self.swap.clicked.connect(self.swap_wanted)
        self.run = QPushButton()
        self.run.setObjectName("primary")
        self.run.setToolTip("Run or pause (Space)")
        self.run.setMinimumWidth(self.fontMetrics().horizontalAdvance("Morph A → B") + 44)
        self.run.clicked.connect(self.run_wanted)
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self.about, 1)
        head.addWidget(self.swap)
        head.addWidget(self.run)

        self.columns = [MorphColumn(index) for index in range(MODELS)]
        for column in self.columns:
            column.stepped.connect(self.stepped)
        self._beside = Beside(self.columns)
        area = QScrollArea()
        area.setWidget(self._beside)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.empty = QLabel(HINT)
        self.empty.setObjectName("muted")
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.empty.setWordWrap(True)
        self.try_samples = QPushButton("Try two samples")
        self.try_samples.clicked.connect(self.samples_wanted)
        nothing = QWidget()
        still = QVBoxLayout(nothing)
        still.setSpacing(14)
        still.addStretch(1)
        still.addWidget(self.empty)
        still.addWidget(self.try_samples, 0, Qt.AlignmentFlag.AlignCenter)
        still.addStretch(1)
        self.pages = QStackedWidget()
        self.pages.addWidget(nothing)
        self.pages.addWidget(area)

        middle = QVBoxLayout()
        middle.setSpacing(8)
        middle.addLayout(head)
        middle.addWidget(self.pages, 1)
        self._sides = [_Side(self.slots[0], self.morph), _Side(self.slots[1], measure)]
        for side in self._sides:
            side.resized.connect(self._share)
        body = QHBoxLayout()
        body.setSpacing(8)
        body.addWidget(self._sides[0])
        body.addLayout(middle, 1)
        body.addWidget(self._sides[1])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 0)
        layout.setSpacing(8)
        layout.addWidget(self.notice)
        layout.addLayout(body, 1)
        if foot is not None:
            layout.addWidget(foot)

        self._set_defaults()
        self._show_formula()
        self.way.activated.connect(self.row_changed)
        self.ball.toggled.connect(self._ball_toggled)
        for spin in (self.steps, self.step_size, self.radius):
            spin.valueChanged.connect(self.row_changed)
        self.cosine.activated.connect(self._measure_changed)
        self.temperature.valueChanged.connect(self._measure_changed)

    # ---- settings ----------------------------------------------------------------------------------------------------

    @property
    def sampler(self) -> Sampler:
        return msgspec.structs.replace(
            SAMPLERS[self.way.currentData()],
            steps=self.steps.value(),
            step_size=self.step_size.value(),
            radius=self.radius.value() if self.ball.isChecked() else None,
        )

    @property
    def measure(self) -> tuple[bool, float]:
        """Whether cosines are compared, and the temperature."""
        return self.cosine.currentData(), self.temperature.value()

    @Slot()
    def reset_settings(self) -> None:
        fields = (self.way, self.steps, self.step_size, self.ball, self.radius, self.cosine, self.temperature)
        blockers = [QSignalBlocker(field) for field in fields]
        self._set_defaults()
        del blockers
        self._show_formula()
        self.row_changed.emit()
        self.measure_changed.emit()

    def _set_defaults(self) -> None:
        self.way.setCurrentIndex(0)
        self.steps.setValue(STEPS)
        self.step_size.setValue(STEP_SIZE)
        self.ball.setChecked(False)
        self.radius.setValue(RADIUS)
        self.radius.setEnabled(False)
        self.cosine.setCurrentIndex(0)
        self.temperature.setValue(TEMPERATURE)

    @Slot(bool)
    def _ball_toggled(self, on: bool) -> None:
        self.radius.setEnabled(on)
        self.row_changed.emit()

    @Slot()
    def _measure_changed(self) -> None:
        self._show_formula()
        self.measure_changed.emit()

    def _show_formula(self) -> None:
        cosine, temperature = self.measure
        of = "cos(g(x), g(x′))" if cosine else "g(x)ᵀg(x′)"
        self.formula.setText(f"f(x,x′) = {of}{'' if temperature == 1 else f' / {temperature:g}'}, g: features")

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def restyle(self) -> None:
        for column in self.columns:
            column.restyle()
        self.update()

    def show_image(self, index: int, pixels: Bytes | None, name: str = "", tip: str = "") -> None:
        """A (0) or B (1) as the first model takes it, (H, W, 3); None: there is none."""
        self.slots[index].show_image(pixels, name, tip)
        self.swap.setEnabled(any(not slot.is_empty for slot in self.slots))

    def show_run(self, text: str, *, can_run: bool) -> None:
        self.run.setText(text)
        self.run.setEnabled(can_run)

    def show_empty(self, text: str) -> None:
        """Nothing to show yet, and why."""
        self.empty.setText(text)
        self.try_samples.setVisible(any(slot.is_empty for slot in self.slots))
        self.about.setText("")
        self.pages.setCurrentIndex(0)

    def show_models(self, models: Sequence[tuple[Checkpoint, str]]) -> None:
        """A column each, still without a run; and what of each is compared."""
        self._beside.show_columns(len(models))
        for column, (checkpoint, about) in zip(self.columns, models, strict=False):
            column.show_model(checkpoint, about)
        self.pages.setCurrentIndex(1)

    def show_about(self, text: str) -> None:
        """What all columns have in common."""
        self.about.setText(text)
        self.about.setToolTip(text)

    @Slot(str)
    def say(self, sentence: str) -> None:
        """A message that stays until it is dismissed."""
        self.notice.say(sentence)

    # ---- what is dropped, and where things are -----------------------------------------------------------------------

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self.takes(event.mimeData()):
            event.acceptProposedAction()
            self._await(event.position().toPoint())
        else:
            event.ignore()

    def dragMoveEvent(self, event: QDragMoveEvent) -> None:
        self._await(event.position().toPoint())

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._await(None)

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        self._await(None)
        self.dropped.emit(event.mimeData(), self._slot_at(event.position().toPoint()))

    def _slot_at(self, point: QPoint) -> int:
        found = (i for i, slot in enumerate(self.slots) if slot.rect().contains(slot.mapFrom(self, point)))
        return next(found, -1)

    def _await(self, point: QPoint | None) -> None:
        for i, slot in enumerate(self.slots):
            slot.await_drop(point is not None and self._slot_at(point) in (i, -1))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        least, most = _SIDE
        width = min(max(least, self.width() // _SHARE), most)
        for side in self._sides:
            side.setFixedWidth(width)

    @Slot()
    def _share(self) -> None:
        """Both slots are equally large."""
        room = min(side.room() for side in self._sides)
        for slot in self.slots:
            slot.set_room(room)


def told(f: float) -> str:
    """A similarity in a width that does not jump."""
    return figure(f, ".3f" if abs(f) < 10 else ",.1f")


def _number(least: float, most: float, decimals: int) -> QDoubleSpinBox:
    field = QDoubleSpinBox()
    field.setRange(least, most)
    field.setDecimals(decimals)
    field.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
    return field
