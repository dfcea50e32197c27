"""The sampler: a preset and its numbers, where chains start and where they go; and run, pause, step, stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from cem_core.messages import MAX_CHAINS, MAX_STEPS, TEMPERATURE, Checkpoint, Refused, Sampler
from cem_core.presets import ABOUT, FROM_IMAGES, OF_IMAGES, SAMPLERS, default
from cem_gui import theme
from cem_gui.widgets.card import Card, form, heading, muted, row
from cem_gui.widgets.chips import Chips
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.image_slot import ImageSlot
from cem_gui.widgets.number import Number

StartKind = Literal["image", "gaussian", "overall", "noise", "replay", "session"]
BatchKind = Literal["samples", "set", "folder"]
_MANY_CLASSES: Final = 24
_FIRST_CHOICE: Final = 10
_FLEEING: Final = "The sampler leaves the class that the model sees in each image."
_FLEEING_ALIKE: Final = "The sampler leaves the image of the reference batch that each start is most like."
_FLEEING_START: Final = "The sampler leaves each chain's own start, towards the other chains."


class SamplerPanel(Card):
    changed = Signal(object)
    """A Sampler: its numbers changed, also during a run."""
    chains_changed = Signal()
    """Start, number of chains or seed changed."""
    targets_changed = Signal(list)
    problem = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Sampler", parent)
        self.preset = QComboBox()
        self.preset.setAccessibleName("Sampler")
        for name in SAMPLERS:
            self.preset.addItem(name, name)
        self.about = QLabel()
        self.about.setObjectName("muted")
        self.about.setWordWrap(True)

        self.a = Number("Class weight a", -2, 2, least=-10, most=10, decimals=2)
        self.b = Number("Marginal weight b", -2, 2, least=-10, most=10, decimals=2)
        self.step_size = Number("Step size", 1e-3, 10, least=1e-4, most=1000, decimals=4, logarithmic=True)
        self.noise = Number("Noise", 1e-4, 1, least=0, most=10, decimals=4, logarithmic=True)
        self.radius = Number("Radius of the ball", 1e-3, 100, least=1e-4, most=10_000, decimals=4, logarithmic=True)
        self.steps = Number("Steps", 1, 10_000, least=1, most=MAX_STEPS, decimals=0, logarithmic=True)
        self.ball = QCheckBox("Ball radius")
        self.norm = QComboBox()
        self.norm.setAccessibleName("Norm")
        self.norm.addItem("L2", "l2")
        self.norm.addItem("L∞", "linf")
        self.norm.setToolTip("How the drift is normalised (L2: unit length, L∞: signs) and the ball is measured")
        self.normalised = QCheckBox("Normalise")
        self.normalised.setToolTip("Off: plain gradient steps, scaled by the step size")
        self.random_start = QCheckBox("Random point of the ball first")

        self.start = QComboBox()
        self.start.setAccessibleName("Start")
        for text, kind in (
            ("Images", "image"),
            ("Class Gaussians", "gaussian"),
            ("Overall Gaussian", "overall"),
            ("Noise", "noise"),
        ):
            self.start.addItem(text, kind)
        self.gaussian = QComboBox()
        self.gaussian.setAccessibleName("Class of the Gaussian")
        self.gaussian.setToolTip("The class that the Gaussian is of")
        self.count = QSpinBox()
        self.count.setRange(1, MAX_CHAINS)
        self.count.setAccessibleName("Chains")
        self.count.setKeyboardTracking(False)
        self.seed = QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setAccessibleName("Seed of the first chain")
        self.seed.setKeyboardTracking(False)
        for spin in (self.count, self.seed):
            spin.setMinimumWidth(64)
        self.chips = Chips()
        self.towards = ImageSlot("Image to move towards")
        self.fleeing = QLabel()
        self.fleeing.setObjectName("muted")
        self.fleeing.setWordWrap(True)

        self.body.addWidget(self.preset)
        self.body.addWidget(self.about)
        self._of_a, self._of_b = muted(""), muted("")
        self.body.addLayout(
            form(
                (self._of_a, self.a, ""),
                (self._of_b, self.b, ""),
                ("Step size", self.step_size, "Length of a step, in pixel units of [0,1]"),
                ("Noise", self.noise, "Deviation of the noise added at each step"),
                ("Steps", self.steps, ""),
                (self.ball, self.radius, "Keep within this distance from the start"),
                ("Norm", row(self.norm, self.normalised), ""),
            )
        )
        self.body.addWidget(self.random_start)
        self._of_targets = heading("Targets")
        self.body.addWidget(self._of_targets)
        self.body.addWidget(self.chips)
        self.body.addWidget(self.towards)
        self.body.addWidget(self.fleeing)
        self.body.addWidget(heading("Chains"))
        self.body.addLayout(
            form(
                ("Start from", row(self.start, self.gaussian, stretch=-1), ""),
                (
                    "Number, seed",
                    row(self.count, self.seed, stretch=-1),
                    "Each chain has its own seed, counted from this",
                ),
            )
        )
        self.reference = ReferenceBatch()
        self.body.addWidget(self.reference)
        self.body.addStretch(1)
        for combo in (self.preset, self.norm, self.start, self.gaussian):
            combo.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # after a click the keys are the images' again
        self._sampler = SAMPLERS[FROM_IMAGES]
        self._encoder = False
        for number in (self.a, self.b, self.step_size, self.noise, self.radius, self.steps):
            number.changed.connect(self._numbers_changed)
        for box in (self.ball, self.normalised, self.random_start):
            box.toggled.connect(self._numbers_changed)
        self.norm.activated.connect(self._numbers_changed)
        self.preset.activated.connect(self._preset_chosen)
        self.start.activated.connect(self._start_chosen)
        self.gaussian.activated.connect(self.chains_changed)
        self.reference.changed.connect(self.chains_changed)
        for spin in (self.count, self.seed):
            spin.valueChanged.connect(self.chains_changed)
            spin.lineEdit().returnPressed.connect(spin.clearFocus)
        self.chips.changed.connect(self.targets_changed)
        self._offer_gaussians(())
        self._offer_presets()
        self.show_sampler(self._sampler)

    @property
    def sampler(self) -> Sampler:
        return self._sampler

    @property
    def targets(self) -> list[int]:
        return self.chips.chosen

    @property
    def gesture(self) -> int:
        """Which pull at a slider is going on; 0: none."""
        numbers = (self.a, self.b, self.step_size, self.noise, self.radius, self.steps, self.reference.temperature)
        return next((number.pull for number in numbers if number.slider.isSliderDown()), 0)

    @property
    def start_kind(self) -> StartKind:
        kind: StartKind = self.start.currentData()
        return kind

    @property
    def gaussian_class(self) -> str:
        """Of which class the Gaussian is; empty: of the target, or with an encoder of each class in turn."""
        return str(self.gaussian.currentData() or "")

    def restyle(self) -> None:
        self.reference.restyle()

    def show_sampler(self, sampler: Sampler) -> None:
        """Set every number without announcing it."""
        self._sampler = sampler
        self.preset.setCurrentIndex(max(0, self.preset.findData(sampler.name)))
        for number, value in (
            (self.a, sampler.a), (self.b, sampler.b), (self.step_size, sampler.step_size),
            (self.noise, sampler.noise), (self.steps, sampler.steps), (self.radius, sampler.radius or 1.0),
        ):  # fmt: skip
            number.set(value)
        for box, on in (
            (self.ball, sampler.radius is not None),
            (self.normalised, sampler.normalised),
            (self.random_start, sampler.random_start),
        ):
            with QSignalBlocker(box):
                box.setChecked(on)
        self.norm.setCurrentIndex(self.norm.findData(sampler.norm))
        self._follow()

    def show_checkpoint(self, checkpoint: Checkpoint, gaussians: Sequence[str]) -> None:
        """The classes to choose from, or images where the model has none; and the classes that there are Gaussians of.

        A sampler that nobody touched gives way to the default for this model.
        """
        untouched = self._sampler in self._defaults
        self._encoder = not checkpoint.classes
        if checkpoint.classes:  # an encoder is no reason to forget what was chosen of the classes
            known = len(checkpoint.classes)
            self.chips.set_names(checkpoint.classes)
            if not self.chips.chosen:
                self.chips.choose(range(known if known <= _MANY_CLASSES else _FIRST_CHOICE))
        item: Any = self.start.model()
        for kind in ("gaussian", "overall"):
            item.item(self.start.findData(kind)).setEnabled(bool(gaussians))
        there = {"gaussian": bool(gaussians), "overall": bool(gaussians), "replay": bool(checkpoint.replay)}
        if not there.get(self.start_kind, True):
            self.show_start("image")
        self._offer_replay(checkpoint.replay)
        self._offer_gaussians(gaussians)
        self._offer_presets()
        if untouched or (self._sampler.coupled and not self._encoder):
            self.show_sampler(self._suited)
        self._follow()

    @property
    def _suited(self) -> Sampler:
        images = self.start_kind == "image"
        return SAMPLERS[default(encoder=self._encoder, images=images, target=images)]

    @property
    def _defaults(self) -> list[Sampler]:
        return [SAMPLERS[default(encoder=self._encoder, images=images, target=images)] for images in (True, False)]

    def _offer_gaussians(self, classes: Sequence[str]) -> None:
        chosen = self.gaussian_class
        self.gaussian.clear()
        self.gaussian.addItem("Each in turn" if self._encoder else "Of the target", "")
        for name in classes:
            self.gaussian.addItem(name, name)
        self.show_gaussian(chosen)

    def _offer_presets(self) -> None:
        """Rows that compare features cannot be chosen where a model compares classes."""
        item: Any = self.preset.model()
        for index, (name, sampler) in enumerate(SAMPLERS.items()):
            can = self._encoder or not sampler.coupled
            item.item(index).setEnabled(can)
            why = "" if can else "\nThis model has classes: open an encoder, or for its head choose none."
            self.preset.setItemData(index, self._about(name) + why, Qt.ItemDataRole.ToolTipRole)

    def _about(self, name: str) -> str:
        return (OF_IMAGES if self._encoder else ABOUT).get(name, "")

    def _offer_replay(self, images: int) -> None:
        """The buffer of an energy-based model is a start that hardly any other model has."""
        index = self.start.findData("replay")
        if images and index < 0:
            self.start.addItem("Replay buffer", "replay")
            index = self.start.count() - 1
        elif not images and index >= 0:
            self.start.removeItem(index)
        if images:
            tip = f"Draw from the {images:,} images that the model was trained with last"
            self.start.setItemData(index, tip, Qt.ItemDataRole.ToolTipRole)

    def offer_fork(self, name: str) -> None:
        """A step of a recorded run may be started from, under this name."""
        index = self.start.findData("session")
        if index < 0:
            self.start.addItem(name, "session")
        else:
            self.start.setItemText(index, name)

    def show_start(self, kind: StartKind) -> None:
        """Say where chains start, with the numbers as they are."""
        self.start.setCurrentIndex(max(0, self.start.findData(kind)))
        self._follow()

    def show_gaussian(self, name: str) -> None:
        """Say which class the Gaussian is of."""
        self.gaussian.setCurrentIndex(max(0, self.gaussian.findData(name)))

    def set_start(self, kind: StartKind) -> None:
        """Choose where chains start, with the preset that suits it."""
        if kind != self.start_kind:
            self.start.setCurrentIndex(self.start.findData(kind))
            self._suit_start()

    def set_count(self, chains: int) -> None:
        with QSignalBlocker(self.count):
            self.count.setValue(chains)

    def set_seed(self, seed: int) -> None:
        with QSignalBlocker(self.seed):
            self.seed.setValue(seed)

    def _suit_start(self) -> None:
        # A preset that the person tuned is left alone; an untouched default gives way to the other default.
        if self._sampler in self._defaults:
            self.show_sampler(self._suited)
            self.changed.emit(self._sampler)
        self._follow()

    def _start_chosen(self) -> None:
        self._suit_start()
        self.chains_changed.emit()

    def _preset_chosen(self) -> None:
        flees = self._sampler.a < 0
        self.show_sampler(SAMPLERS[self.preset.currentData()])
        self.changed.emit(self._sampler)
        if flees != (self._sampler.a < 0):
            self.chains_changed.emit()

    def _numbers_changed(self) -> None:
        flees = self._sampler.a < 0
        ball = self.ball.isChecked()
        try:
            self._sampler = msgspec.structs.replace(
                self._sampler,
                a=self.a.value,
                b=self.b.value,
                step_size=self.step_size.value,
                noise=self.noise.value,
                steps=round(self.steps.value),
                radius=self.radius.value if ball else None,
                norm=self.norm.currentData(),
                normalised=self.normalised.isChecked(),
                random_start=ball and self.random_start.isChecked(),
            )
        except Refused as refused:
            self.problem.emit(str(refused))
            self.show_sampler(self._sampler)
            return
        self._follow()
        self.changed.emit(self._sampler)
        if flees != (self._sampler.a < 0):
            self.chains_changed.emit()

    def _follow(self) -> None:
        """Enable what has a meaning now."""
        ball = self.ball.isChecked()
        self.radius.setEnabled(ball)
        self.random_start.setEnabled(ball)
        self._follow_targets()
        with QSignalBlocker(self.count):
            self.count.setMinimum(2 if self._sampler.coupled else 1)
        self.gaussian.setVisible(self.start_kind == "gaussian")
        self.reference.setVisible(self._encoder)
        same = self._sampler == SAMPLERS.get(self._sampler.name)
        self.about.setText(self._about(self._sampler.name) if same else f"{self._sampler.name} with changed numbers.")

    def _follow_targets(self) -> None:
        """Where chains go: to classes, or with an encoder to an image; a sampler that flees goes to neither."""
        a, coupled, encoder = self._sampler.a, self._sampler.coupled, self._encoder
        self.chips.setVisible(a >= 0 and not encoder)
        self.towards.setVisible(a > 0 and encoder)
        self.fleeing.setVisible(a < 0)
        self.fleeing.setText(_FLEEING_START if coupled else _FLEEING_ALIKE if encoder else _FLEEING)
        self._of_targets.setText("TOWARDS" if encoder and a > 0 else "TARGETS")
        self._of_targets.setVisible(a != 0 or not encoder)
        for label, text, tip in (
            (self._of_a, "Start a", "Weight a of f(x,x₀), the likeness to the chain's own start")
            if coupled
            else (self._of_a, "Image a", "Weight a of the part towards an image, ∇f(x,x')")
            if encoder
            else (self._of_a, "Class a", "Weight a of the class part ∇f(x,y)"),
            (self._of_b, "Others b", "Weight b of ∇LSE over the other chains")
            if coupled
            else (self._of_b, "Marginal b", "Weight b of the marginal part ∇LSE(x)"),
        ):
            label.setText(text)
            label.setToolTip(tip)


class ReferenceBatch(QWidget):
    """What an encoder compares images with: one line that says so, and unfolds to choose otherwise."""

    changed = Signal()
    """How images are compared."""
    wanted = Signal(str)
    """BatchKind: other images."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.about = Elided()
        self.about.setObjectName("muted")
        self.fold = QToolButton()
        self.fold.setCheckable(True)
        self.fold.setAccessibleName("Reference batch")
        self.fold.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.fold.setToolTip("Choose what images are compared with, and how")
        self.images = QPushButton()
        self.images.setAccessibleName("Images of the reference batch")
        self.images.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        menu = QMenu(self)
        for text, kind in (
            ("The bundled samples", "samples"),
            ("The images of the set", "set"),
            ("A folder of images…", "folder"),
        ):
            menu.addAction(text).triggered.connect(lambda _, kind=kind: self.wanted.emit(kind))
        self.images.setMenu(menu)
        self.cosine = QCheckBox("Cosine")
        self.cosine.setToolTip("Compare unit features: the cosine between them. Off: their inner product")
        self.temperature = Number("Temperature", 0.01, 10, least=0.001, most=1000, decimals=3, logarithmic=True)
        self._more = QWidget()
        grid: QGridLayout = form(
            ("Images", row(self.images, self.cosine), "What images are compared with, besides those of the run itself"),
            ("Temperature", self.temperature, "What similarities are divided by"),
        )
        self._more.setLayout(grid)
        self._more.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(row(self.fold, self.about, stretch=1))
        layout.addWidget(self._more)
        self.fold.toggled.connect(self._more.setVisible)
        self.fold.toggled.connect(self.restyle)
        self.cosine.toggled.connect(self.changed)
        self.temperature.changed.connect(self.changed)
        self.show_comparison(True, TEMPERATURE)
        self.show_batch("20 samples")
        self.restyle()

    def show_batch(self, images: str) -> None:
        """What is chosen, in a word or two."""
        self.about.setText(f"E(x) over {images} + the run's")
        self.about.setToolTip(
            f"E(x) = −log Σ exp f(x,x′) over a reference batch: {images} and the images of the run itself"
        )
        self.images.setText(images[:1].upper() + images[1:])

    def show_comparison(self, cosine: bool, temperature: float) -> None:
        with QSignalBlocker(self.cosine):
            self.cosine.setChecked(cosine)
        self.temperature.set(temperature)

    def restyle(self) -> None:
        self.fold.setIcon(theme.icon("down" if self.fold.isChecked() else "right", theme.now().muted))


class RunPanel(QWidget):
    """Run or pause, one step, stop: always in sight below the sampler's numbers."""

    def __init__(self, run: QAction, step: QAction, stop: QAction, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.run = _button(run)
        self.run.setObjectName("primary")
        self.step = _button(step)
        self.stop = _button(stop)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.run, 2)
        layout.addWidget(self.step, 1)
        layout.addWidget(self.stop, 1)


def _button(action: QAction) -> QPushButton:
    """A button that shows and does what an action does."""
    button = QPushButton()
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    button.clicked.connect(action.trigger)

    def follow() -> None:
        button.setText(action.iconText())
        button.setIcon(action.icon())
        button.setEnabled(action.isEnabled())
        keys = action.shortcut().toString()
        button.setToolTip(f"{action.toolTip()} ({keys})" if keys else action.toolTip())

    action.changed.connect(follow)
    follow()
    return button
