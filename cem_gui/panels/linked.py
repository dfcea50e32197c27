"""Runs of several models side by side: the same images, each model's way with them, and what the others say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from cem_core import images
from cem_core.messages import Checkpoint, Floats, RunStart, Step
from cem_core.probes.requests import MODELS
from cem_core.session import Numbers
from cem_gui import theme
from cem_gui.widgets.band_plot import SYMBOLS
from cem_gui.widgets.beside import Beside
from cem_gui.widgets.card import Card, muted, small
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.image_grid import to_bytes
from cem_gui.widgets.matrix import Matrix
from cem_gui.widgets.model_column import LEAST, NO_REST, WIDE, ModelColumn
from cem_gui.widgets.notice import Notice
from cem_gui.widgets.picture import Picture
from cem_gui.widgets.shares import Share, Shares
from cem_gui.widgets.small_plot import SmallPlot
from cem_gui.widgets.thumbs import Thumbs

GAINS: Final = (1, 2, 4, 8, 16, 32)
IMAGES: Final = 4
"""Chains of each model unless somebody asks for more."""
MOST_IMAGES: Final = 32
_TOP: Final = 5
_SIDE: Final = 204


class Column(ModelColumn):
    """One model: its image, what it sees in it, what it changed, and its curves."""

    def __init__(self, index: int) -> None:
        self.energy = SmallPlot(
            f"Energies of model {index + 1}",
            "",
            "Energies are unnormalised: compare steps of one model, never two models. Each has an axis of its own.",
        )
        self.probability = SmallPlot(
            f"Probability of the target, model {index + 1}",
            "p",
            "p(y|x) of the target. Dashed: transfer, what each other model says of the images on this model's way.",
        )
        super().__init__(index, f"Image of model {index + 1}", (self.energy, self.probability))
        self.difference = Picture(f"What model {index + 1} changed", LEAST)
        self.difference.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.target = Shares(f"Target of model {index + 1}", 1)
        self.top = Shares(f"What model {index + 1} sees", _TOP)
        self.grid.setHorizontalSpacing(10)
        self.grid.setColumnStretch(0, 1)
        self.grid.setColumnStretch(1, 1)
        self._arranged: tuple[bool, bool] | None = None
        """Whether it is wide, and whether the pictures stand side by side."""
        self.arrange()
        self.restyle()

    def show_model(self, checkpoint: Checkpoint) -> None:
        """Its name, and no images yet."""
        training = checkpoint.fact("training")
        title = f"{checkpoint.title} · {training.value}" if training is not None else checkpoint.title
        self.show_name(checkpoint, title)
        self.difference.show_pixels(None)
        self.target.show_shares(())
        self.top.show_shares(())

    def show_step(self, start: RunStart, step: Step, first: Floats, chain: int, gain: int) -> None:
        """One chain of a step; first: (C, H, W) where it began."""
        pixels = step.pixels[chain : chain + 1]
        self.image.show_pixels(to_bytes(pixels)[0])
        self.difference.show_pixels(np.asarray(images.difference(pixels, first[None], gain)[0]))
        logits = step.logits[chain].astype(np.float64)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        classes, label = start.checkpoint.classes, start.labels[chain]
        arrow = "←" if step.sampler.a < 0 else "→"
        self.target.show_shares([Share(f"{arrow} {classes[label]}", float(p[label]), True)])
        self.top.show_shares([Share(classes[k], float(p[k]), bool(k == label)) for k in np.argsort(-p)[:_TOP]])

    def show_curves(self, numbers: Numbers, judged: Floats | None, chain: int, length: int) -> None:
        """judged: (T, N) p(y|x) that each model gives the images of this one; None for a single model."""
        own = theme.OF_MODELS[self.index]
        energies = {"E(x)": (own, numbers.energy[:, chain]), "E(x,y)": ("muted", numbers.joint[:, chain])}
        self.energy.show_series(energies, NO_REST, length)
        others = {}
        if judged is not None:
            others = {SYMBOLS[j]: (theme.OF_MODELS[j], judged[:, j]) for j in range(judged.shape[1]) if j != self.index}
        p = {SYMBOLS[self.index]: (own, np.exp(numbers.log_p[:, chain]))}
        self.probability.show_series(p, NO_REST, length, (0.0, 1.0), others)

    def arrange(self) -> None:
        """Where it is wide, the plots stand side by side, and so do image and difference where that makes the image
        hardly smaller; else all is below each other."""
        gap, grid = self.grid.verticalSpacing(), self.grid
        inside = self.inside
        half = (inside - grid.horizontalSpacing()) // 2
        wide = inside >= WIDE
        rest = [self.target, self.top, self.energy] if wide else [self.target, self.top, self.energy, self.probability]
        room = grid.geometry().height() - sum(max(one.minimumSizeHint().height(), one.minimumHeight(),
            one.sizeHint().height()) + gap for one in rest)  # fmt: skip
        beside = wide or 4 * half >= 3 * min(inside, room)
        self.image.setMaximumHeight(max(LEAST, half if beside else inside))
        self.difference.setMaximumHeight(max(LEAST, half if beside else self.top.sizeHint().height()))
        if (wide, beside) == self._arranged:
            return
        self._arranged = (wide, beside)
        pictures = [(self.image, 0, 0, 1), (self.difference, 0, 1, 1), (self.target, 1, 0, 2), (self.top, 2, 0, 2)]
        if not beside:
            pictures = [(self.image, 0, 0, 2), (self.target, 1, 0, 2), (self.difference, 2, 0, 1), (self.top, 2, 1, 1)]
        plots = [(self.energy, 3, 0, 1), (self.probability, 3, 1, 1)]
        if not wide:
            plots = [(self.energy, 3, 0, 2), (self.probability, 4, 0, 2)]
        self.place((*pictures, *plots), (4, 0, 0, 1, 0 if wide else 1))


class LinkedPanel(QWidget):
    stepped = Signal(int)
    """The person went to this step."""
    selected = Signal(int)
    """Another chain is shown."""
    count_changed = Signal(int)
    """So many chains are wanted of each model, from the next run on."""
    gain_changed = Signal()

    def __init__(self, foot: QWidget | None = None, parent: QWidget | None = None) -> None:
        """foot: what stands below everything."""
        super().__init__(parent)
        self.notice = Notice()
        self.empty = QLabel("Opening the models …")
        self.empty.setObjectName("muted")
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.empty.setWordWrap(True)
        self.about = Elided()
        self.about.setObjectName("muted")
        self.gain = QComboBox()
        self.gain.setAccessibleName("Amplification of the difference")
        self.gain.setToolTip("The difference from the start, amplified: grey is no change")
        self.gain.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        for gain in GAINS:
            self.gain.addItem(f"×{gain}", gain)
        self.gain.setCurrentIndex(GAINS.index(8))
        self.gain.activated.connect(self.gain_changed)
        gain_label = muted("Difference")
        gain_label.setBuddy(self.gain)
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self.about, 1)
        head.addWidget(gain_label)
        head.addWidget(self.gain)

        self.columns = [Column(index) for index in range(MODELS)]
        for column in self.columns:
            column.stepped.connect(self.stepped)
        self._beside = Beside(self.columns)
        area = QScrollArea()
        area.setWidget(self._beside)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)

        self.thumbs = Thumbs("Images of the linked runs")
        self.thumbs.selected.connect(self.selected)
        self.count = QSpinBox()
        self.count.setRange(1, MOST_IMAGES)
        self.count.setValue(IMAGES)
        self.count.setKeyboardTracking(False)
        self.count.setFocusPolicy(Qt.FocusPolicy.ClickFocus | Qt.FocusPolicy.TabFocus)
        self.count.setAccessibleName("Images of each model")
        self.count.setToolTip("The first so many of the sampler's chains are run, by each model")
        self.count.valueChanged.connect(self.count_changed)
        self.count.lineEdit().returnPressed.connect(self.thumbs.setFocus)
        chains = Card("Images")
        chains.head.addWidget(self.count)
        strip = QScrollArea()
        strip.setWidget(self.thumbs)
        strip.setWidgetResizable(True)
        strip.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        strip.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        chains.body.addWidget(strip, 1)
        self.transfer = Card("Transfer")
        self.matrix = Matrix()
        about = (
            "Whose images: rows. Who judges them: columns. p(y|x) of the target, and below it how E(x) has changed "
            "since step 0, which may be compared within a column only."
        )
        self.matrix.setToolTip(about)
        self.transfer.body.addWidget(self.matrix)
        explained = small("Row: whose images. Column: who judges. p(target), and ΔE(x) since step 0.")
        explained.setWordWrap(True)
        explained.setToolTip(about)
        self.transfer.body.addWidget(explained)
        side = QWidget()
        side.setFixedWidth(_SIDE)
        stack = QVBoxLayout(side)
        stack.setContentsMargins(0, 0, 0, 0)
        stack.setSpacing(8)
        stack.addWidget(chains, 1)
        stack.addWidget(self.transfer)

        runs = QWidget()
        middle = QVBoxLayout(runs)
        middle.setContentsMargins(0, 0, 0, 0)
        middle.setSpacing(8)
        middle.addLayout(head)
        both = QHBoxLayout()
        both.setSpacing(8)
        both.addWidget(area, 1)
        both.addWidget(side)
        middle.addLayout(both, 1)
        if foot is not None:
            middle.addWidget(foot)
        self.pages = QStackedWidget()
        self.pages.addWidget(self.empty)
        self.pages.addWidget(runs)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 0)
        layout.setSpacing(8)
        layout.addWidget(self.notice)
        layout.addWidget(self.pages, 1)
        self.setFocusProxy(self.thumbs)

    @property
    def chosen(self) -> int:
        """The chain that is shown."""
        return self.thumbs.chosen

    def restyle(self) -> None:
        for column in self.columns:
            column.restyle()
        self.update()

    def show_empty(self, text: str) -> None:
        """Nothing to show yet, and why."""
        self.empty.setText(text)
        self.pages.setCurrentIndex(0)

    def show_models(self, checkpoints: Sequence[Checkpoint]) -> None:
        """A column each, still without a run."""
        self._beside.show_columns(len(checkpoints))
        for column, checkpoint in zip(self.columns, checkpoints, strict=False):
            column.show_model(checkpoint)
        self.transfer.setVisible(len(checkpoints) > 1)
        self.matrix.show_names([checkpoint.name for checkpoint in checkpoints])
        self.pages.setCurrentIndex(1)

    def show_chains(self, start: RunStart, first: Step) -> None:
        """What all begin with."""
        arrow = "←" if start.spec.sampler.a < 0 else "→"
        targets = [f"{arrow} {start.checkpoint.classes[label]}" for label in start.labels]
        tips = [f"{name} {target}" for name, target in zip(start.names, targets, strict=True)]
        self.thumbs.set_pictures(to_bytes(first.pixels), targets, tips)

    def show_about(self, text: str) -> None:
        """What all columns have in common."""
        self.about.setText(text)
        self.about.setToolTip(text)

    def show_step(self, model: int, start: RunStart, step: Step, first: Floats) -> None:
        """The chosen chain of a model's run; first: (C, H, W) where it began."""
        self.columns[model].show_step(start, step, first, self.chosen, self.gain.currentData())

    @Slot(str)
    def say(self, sentence: str) -> None:
        """A message that stays until it is dismissed."""
        self.notice.say(sentence)
