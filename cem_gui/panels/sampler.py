"""The sampler: a preset and its numbers, where chains start and where they go; and run, pause, step, stop."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QWidget,
)

from cem_core.messages import MAX_CHAINS, MAX_STEPS, Checkpoint, Refused, Sampler
from cem_core.presets import ABOUT, FROM_DRAWS, FROM_IMAGES, SAMPLERS
from cem_gui.widgets.card import Card, form, heading, row
from cem_gui.widgets.chips import Chips
from cem_gui.widgets.number import Number

StartKind = Literal["image", "gaussian", "noise", "replay", "session"]
_MANY_CLASSES: Final = 24
_FIRST_CHOICE: Final = 10


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
            self.preset.setItemData(self.preset.count() - 1, ABOUT.get(name, ""), Qt.ItemDataRole.ToolTipRole)
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
        for text, kind in (("Images", "image"), ("Class Gaussians", "gaussian"), ("Noise", "noise")):
            self.start.addItem(text, kind)
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
        self.fleeing = QLabel("The sampler leaves the class that the model sees in each image.")
        self.fleeing.setObjectName("muted")
        self.fleeing.setWordWrap(True)

        self.body.addWidget(self.preset)
        self.body.addWidget(self.about)
        self.body.addLayout(
            form(
                ("Class a", self.a, "Weight a of the class part ∇f(x,y)"),
                ("Marginal b", self.b, "Weight b of the marginal part ∇LSE(x)"),
                ("Step size", self.step_size, "Length of a step, in pixel units of [0,1]"),
                ("Noise", self.noise, "Deviation of the noise added at each step"),
                ("Steps", self.steps, ""),
                (self.ball, self.radius, "Keep within this distance from the start"),
                ("Norm", row(self.norm, self.normalised), ""),
            )
        )
        self.body.addWidget(self.random_start)
        self.body.addWidget(heading("Targets"))
        self.body.addWidget(self.chips)
        self.body.addWidget(self.fleeing)
        self.body.addWidget(heading("Chains"))
        self.body.addLayout(
            form(
                ("Start from", self.start, ""),
                (
                    "Number, seed",
                    row(self.count, self.seed, stretch=-1),
                    "Each chain has its own seed, counted from this",
                ),
            )
        )
        self.body.addStretch(1)
        for combo in (self.preset, self.norm, self.start):
            combo.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # after a click the keys are the images' again
        self._sampler = SAMPLERS[FROM_IMAGES]
        self._gaussians = False
        for number in (self.a, self.b, self.step_size, self.noise, self.radius, self.steps):
            number.changed.connect(self._numbers_changed)
        for box in (self.ball, self.normalised, self.random_start):
            box.toggled.connect(self._numbers_changed)
        self.norm.activated.connect(self._numbers_changed)
        self.preset.activated.connect(self._preset_chosen)
        self.start.activated.connect(self._start_chosen)
        for spin in (self.count, self.seed):
            spin.valueChanged.connect(self.chains_changed)
            spin.lineEdit().returnPressed.connect(spin.clearFocus)
        self.chips.changed.connect(self.targets_changed)
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
        numbers = (self.a, self.b, self.step_size, self.noise, self.radius, self.steps)
        return next((number.pull for number in numbers if number.slider.isSliderDown()), 0)

    @property
    def start_kind(self) -> StartKind:
        kind: StartKind = self.start.currentData()
        return kind

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

    def show_checkpoint(self, checkpoint: Checkpoint, gaussians: bool) -> None:
        """The classes to choose from, and whether there are Gaussians of them."""
        self._gaussians = gaussians
        known = len(checkpoint.classes)
        self.chips.set_names(checkpoint.classes)
        if not self.chips.chosen:
            self.chips.choose(range(known if known <= _MANY_CLASSES else _FIRST_CHOICE))
        item: Any = self.start.model()
        item.item(self.start.findData("gaussian")).setEnabled(gaussians)
        there = {"gaussian": gaussians, "replay": bool(checkpoint.replay)}
        if not there.get(self.start_kind, True):
            self.set_start("image")
        self._offer_replay(checkpoint.replay)

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
        if self._sampler in (SAMPLERS[FROM_IMAGES], SAMPLERS[FROM_DRAWS]):
            self.show_sampler(SAMPLERS[FROM_IMAGES if self.start_kind == "image" else FROM_DRAWS])
            self.changed.emit(self._sampler)

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
        flees = self._sampler.a < 0
        self.fleeing.setVisible(flees)
        self.chips.setVisible(not flees)
        same = self._sampler == SAMPLERS.get(self._sampler.name)
        about = ABOUT.get(self._sampler.name, "")
        self.about.setText(about if same else f"{self._sampler.name} with changed numbers.")


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
