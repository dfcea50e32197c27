"""A training: its learning curves, its epochs and their checkpoints, and the same morph by each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import (
    QAbstractTableModel,
    QItemSelectionModel,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QSignalBlocker,
    Qt,
    Signal,
    Slot,
)
from PySide6.QtGui import QColor, QKeyEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QStackedWidget,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from cem_core.messages import NORMS
from cem_core.training.progress import Began, Ended, Epoch, Progress
from cem_core.training.recipe import Attack, Contrastive, Recipe
from cem_gui import theme
from cem_gui.widgets.card import Card, muted, small
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.epoch_plot import EpochPlot
from cem_gui.widgets.epoch_strip import EpochStrip
from cem_gui.widgets.figures import figure, small_figure
from cem_gui.widgets.notice import Notice
from cem_gui.widgets.plot import Floats

_SIDE: Final = 372
_GAP: Final = 4
"""Column of the table: its numbers may be long."""
_NARROWEST: Final = 400
"""Less than it needs: the docks make room where it is shown, and where it is not, it widens no window."""
_SILENCE: Final = 120.0
"""Seconds without a word that are not worth one."""
_KINDS: Final = {"standard": "Standard training", "adversarial": "Adversarial training", "trades": "TRADES",
                 "contrastive": "Contrastive training"}  # fmt: skip
EXAMPLE: Final = "cem-explorer train assets/recipes/cifar10-robust-l2.toml --data DATA --out training"
Index = QModelIndex | QPersistentModelIndex


class Told(NamedTuple):
    """What a training has told so far."""

    folder: Path
    recipe: Recipe
    began: Began | None
    last: Progress | None
    ended: Ended | None
    epochs: tuple[Epoch, ...]
    files: Mapping[int, tuple[Path, int]]
    """Epoch → its checkpoint and the time of it; without those that are gone."""
    at: NDArray[np.float64]
    """(N,) epochs, in fractions too,"""
    losses: NDArray[np.float64]
    """(N,) and the loss there."""
    pace: float
    """Seconds a step, of late; NaN: not known."""
    written: float
    """When the last word was written, in seconds since 1970."""

    @property
    def planned(self) -> int:
        """Epochs in all."""
        return max(self.recipe.optimiser.epochs, *(word.epoch for word in self.epochs), 1)

    @property
    def step(self) -> int:
        return max(self.last.step if self.last else 0, self.epochs[-1].step if self.epochs else 0)

    @property
    def share(self) -> float:
        steps = self.began.steps if self.began is not None else 0
        return min(1.0, self.step / steps) if steps else 0.0

    @property
    def encodes(self) -> bool:
        """It trains an encoder, which has no classes."""
        return isinstance(self.recipe.objective, Contrastive)


class Choices(NamedTuple):
    """What the strip is of."""

    starts: tuple[str, ...]
    """Paths of images."""
    target: str
    """Name of a class; of an encoder, path of an image."""
    steps: int


class _Plots(NamedTuple):
    loss: EpochPlot
    accuracy: EpochPlot
    gap: EpochPlot


class TrainingPanel(QWidget):
    open_wanted = Signal()
    """Choose a folder."""
    folder_wanted = Signal(str)
    """This one."""
    epoch_opened = Signal(int)
    """Open the checkpoint of an epoch."""
    run_wanted = Signal()
    """Begin the strip, or end it."""
    changed = Signal()
    """The strip is to be of something else."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._told: Told | None = None
        self.chosen = 0
        """The epoch in sight; 0: none."""
        self._follows = True
        """The newest epoch is in sight, and the next will be."""
        self.setMinimumWidth(_NARROWEST)
        self.notice = Notice()
        self.stack = QStackedWidget()
        self.stack.addWidget(self._lay_out_empty())
        self.stack.addWidget(self._lay_out_full())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 0)
        layout.setSpacing(8)
        layout.addWidget(self.notice)
        layout.addWidget(self.stack, 1)
        self.setFocusProxy(self.table)

    # ---- arrangement -------------------------------------------------------------------------------------------------

    def _lay_out_empty(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setSpacing(10)
        said = muted("Open the folder of a training to watch its loss and its robustness, and what its images become.")
        said.setWordWrap(True)
        said.setAlignment(Qt.AlignmentFlag.AlignCenter)
        button = QPushButton("Open training folder…")
        button.setObjectName("primary")
        button.clicked.connect(self.open_wanted)
        self.recent = QVBoxLayout()
        self.recent.setSpacing(4)
        how = small("A command makes one, and never needs this window:")
        line = QLabel(EXAMPLE)
        line.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        line.setWordWrap(True)
        line.setAlignment(Qt.AlignmentFlag.AlignCenter)
        font = line.font()
        font.setFamily("monospace")
        line.setFont(font)
        column.addStretch(2)
        column.addWidget(said)
        column.addWidget(button, 0, Qt.AlignmentFlag.AlignCenter)
        column.addLayout(self.recent)
        column.addSpacing(16)
        column.addWidget(how, 0, Qt.AlignmentFlag.AlignCenter)
        column.addWidget(line)
        column.addStretch(3)
        return page

    def _lay_out_full(self) -> QWidget:
        page = QWidget()
        left = QVBoxLayout()
        left.setSpacing(8)
        left.addWidget(self._lay_out_curves(), 6)
        left.addWidget(self._lay_out_strip(), 5)
        cards = QHBoxLayout()
        cards.setSpacing(8)
        cards.addLayout(left, 1)
        cards.addWidget(self._lay_out_epochs())
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self._lay_out_head())
        layout.addLayout(cards, 1)
        return page

    def _lay_out_head(self) -> QWidget:
        head = Card("")
        head.title.hide()
        head.body.setSpacing(3)
        self.name = Elided()
        font = self.name.font()
        font.setBold(True)
        self.name.setFont(font)
        self.state = QLabel()
        self.state.setTextFormat(Qt.TextFormat.PlainText)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, 1000)
        self.bar.setFixedWidth(150)
        self.bar.setAccessibleName("How far the training is")
        another = QPushButton("Open…")
        another.setToolTip("Open the folder of another training")
        another.clicked.connect(self.open_wanted)
        self.about = Elided()
        self.about.setObjectName("muted")
        self.where = Elided(mode=Qt.TextElideMode.ElideMiddle)
        self.where.setObjectName("muted")
        self.where.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        first, second = QHBoxLayout(), QHBoxLayout()
        first.setSpacing(12)
        second.setSpacing(12)
        first.addWidget(self.name, 1)
        for widget in (self.bar, self.state, another):
            first.addWidget(widget)
        second.addWidget(self.about, 3)
        second.addWidget(self.where, 1)
        head.body.addLayout(first)
        head.body.addLayout(second)
        return head

    def _lay_out_curves(self) -> QWidget:
        card = Card("Learning curves")
        card.title.hide()
        card.body.setSpacing(2)
        self.plots = _Plots(
            EpochPlot("Loss", "What is lowered: its mean over each epoch, and in between over a few steps", _number),
            EpochPlot("Accuracy", "On the images that are held out, by the averaged weights", _percent),
            EpochPlot(
                "ΔE", "Mean ΔE = E(x) − E(x*) between the held images and the same attacked: near 0, an attack cannot "
                "change how likely an image is", small_figure, last=True,
            ),
        )  # fmt: skip
        for plot in self.plots:
            card.body.addWidget(plot, 1)
            plot.stepped.connect(self.choose)
        return card

    def _lay_out_strip(self) -> QWidget:
        card = Card("What images become")
        self.image, self.target = QComboBox(), QComboBox()
        for box, name in ((self.image, "Images that are morphed"), (self.target, "What they are morphed towards")):
            box.setAccessibleName(name)
            box.setToolTip(name)
            box.setMaxVisibleItems(20)
            box.currentIndexChanged.connect(self.changed)
        self.steps = QSpinBox()
        self.steps.setRange(1, 500)
        self.steps.setValue(30)
        self.steps.setSuffix(" steps")
        self.steps.setKeyboardTracking(False)
        self.steps.setAccessibleName("Steps of each morph")
        self.steps.setToolTip("Steps of each morph")
        self.steps.lineEdit().returnPressed.connect(self.steps.clearFocus)
        self.steps.valueChanged.connect(self.changed)
        self.run = QPushButton("Watch it appear")
        self.run.setObjectName("primary")
        self.run.clicked.connect(self.run_wanted)
        for widget in (self.image, muted("towards"), self.target, self.steps, self.run):
            card.head.addWidget(widget)
        self.strip = EpochStrip()
        self.strip.across = self._across
        self.strip.chosen.connect(self.choose)
        self.strip.opened.connect(self.epoch_opened)
        self.plots.loss.moved.connect(self.strip.update)
        card.body.addWidget(self.strip, 1)
        return card

    def _lay_out_epochs(self) -> QWidget:
        card = Card("Epochs")
        card.setFixedWidth(_SIDE)
        self.table = _Table()
        self._rows = _Rows(self)
        self.table.setModel(self._rows)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(_GAP, QHeaderView.ResizeMode.Stretch)
        self.table.selectionModel().currentRowChanged.connect(self._row_chosen)
        self.table.opened.connect(self._open)
        self.table.doubleClicked.connect(self._open)
        self.open_button = QPushButton("Open this epoch")
        self.open_button.setToolTip("Open its checkpoint as the window's model, and morph images with it (Enter)")
        self.open_button.clicked.connect(self._open)
        card.body.addWidget(self.table, 1)
        card.body.addWidget(self.open_button)
        return card

    def restyle(self) -> None:
        for plot in self.plots:
            plot.restyle()
        self.strip.update()
        self._rows.layoutChanged.emit()

    def _across(self, epoch: float) -> float:
        """Of the strip: pictures stand below their epoch's place on the axis."""
        plot = self.plots.loss
        there = plot.view.mapToGlobal(QPoint(round(plot.across(epoch)), 0))
        return float(self.strip.mapFromGlobal(there).x())

    # ---- what there is -----------------------------------------------------------------------------------------------

    def show_recent(self, folders: Sequence[str]) -> None:
        """Folders of late, newest first."""
        while (item := self.recent.takeAt(0)) is not None:
            if (button := item.widget()) is not None:
                button.deleteLater()
        for folder in folders:
            button = QPushButton(_short(folder).replace("&", "&&"))
            button.setToolTip(folder)
            button.setFlat(True)
            button.setProperty("folder", folder)
            button.clicked.connect(self._recent_chosen)
            self.recent.addWidget(button, 0, Qt.AlignmentFlag.AlignCenter)

    @Slot()
    def _recent_chosen(self) -> None:
        self.folder_wanted.emit(self.sender().property("folder"))

    def show_told(self, told: Told, columns: Sequence[int], now: float) -> None:
        """A training, or what it has told since; `columns` are the epochs of the strip."""
        anew = self._told is None or self._told.folder != told.folder
        self._told = told
        if anew:
            self._follows, self.chosen = True, 0
        self.name.setText(told.recipe.name)
        self.about.setText(about(told))
        self.about.setToolTip(about(told))
        self.where.setText(str(told.folder))
        self.where.setToolTip(str(told.folder))
        self.show_state(now)
        self._show_curves(told, columns)
        self._rows.show_epochs(told)
        self.table.setColumnHidden(3, all(word.robust is None for word in told.epochs) and bool(told.epochs))
        self.strip.show_columns(columns)
        self.stack.setCurrentIndex(1)
        if told.epochs:
            self.choose(told.epochs[-1].epoch if self._follows else self.chosen)
        else:
            self._show_chosen()

    def show_state(self, now: float, *, gone: bool = False) -> None:
        """How it stands at this moment, in seconds since 1970."""
        if self._told is not None:
            said = state(self._told, now)
            self.state.setText(f"its folder is gone · {said}" if gone else said)
            self.bar.setValue(round(1000 * self._told.share))
            self.bar.setVisible(self._told.ended is None and self._told.share < 1)

    def _show_curves(self, told: Told, columns: Sequence[int]) -> None:
        words = told.epochs
        count = 1 + max((word.epoch for word in words), default=0)

        def series(values: Sequence[float | None], scale: float = 1) -> Floats:
            found = np.full(count, np.nan, np.float32)
            for word, value in zip(words, values, strict=True):
                found[word.epoch] = math.nan if value is None else scale * value
            return found

        clean, robust = names(told)
        shares = {
            clean: ("accent", series([word.clean for word in words], 100)),
            robust: ("orange", series([word.robust for word in words], 100)),
        }
        gap = series([word.energy_gap for word in words])
        span = spread(columns, told.last.epoch if told.last is not None else 0.0)
        loss = {"loss, mean of the epoch": ("blue", series([word.loss for word in words]))} if words else {}
        self.plots.loss.show_epochs(loss, span, (told.at, told.losses), "loss")
        known = {name: one for name, one in shares.items() if np.isfinite(one[1]).any()}
        classless = told.began is not None and not told.began.classes
        never = "the images have no classes to measure it by" if classless else "nothing was held out to measure it on"
        why = never if words or classless else "after the first epoch"
        self.plots.accuracy.show_epochs(known, span, says=f"accuracy: {why}")
        gaps = {"ΔE = E(x) − E(x*)": ("red", gap)} if np.isfinite(gap).any() else {}
        self.plots.gap.show_epochs(gaps, span, says=f"ΔE: {'not measured' if known else why}")

    # ---- an epoch ----------------------------------------------------------------------------------------------------

    @Slot(int)
    def choose(self, epoch: int) -> None:
        """Have the nearest epoch in sight of which there are numbers."""
        if self._told is None or not self._told.epochs:
            return
        numbers = [word.epoch for word in self._told.epochs]
        self.chosen = min(numbers, key=lambda number: abs(number - epoch))
        self._follows = self.chosen == numbers[-1]
        self._show_chosen()

    def _show_chosen(self) -> None:
        told, epoch = self._told, self.chosen
        for plot in self.plots:
            plot.set_cursor(epoch)
        self.strip.choose(epoch)
        there = told is not None and epoch in told.files
        self.open_button.setText(f"Open epoch {epoch}" if epoch else "Open this epoch")
        self.open_button.setEnabled(there)
        if (row := self._rows.row(epoch)) is not None:
            with QSignalBlocker(self.table.selectionModel()):
                index = self._rows.index(row, 0)
                flags = QItemSelectionModel.SelectionFlag
                self.table.selectionModel().setCurrentIndex(index, flags.ClearAndSelect | flags.Rows)
            self.table.scrollTo(index)
            self.table.viewport().update()

    @Slot(QModelIndex, QModelIndex)
    def _row_chosen(self, index: QModelIndex, before: QModelIndex) -> None:
        if (epoch := self._rows.epoch(index.row())) is not None:
            self.choose(epoch)

    @Slot()
    def _open(self) -> None:
        if self.open_button.isEnabled():
            self.epoch_opened.emit(self.chosen)

    # ---- the strip ---------------------------------------------------------------------------------------------------

    def show_choices(
        self, images: Sequence[tuple[str, tuple[str, ...]]], targets: Sequence[tuple[str, str]], target: str
    ) -> None:
        """What can be morphed, as (name, paths), and towards what, as (name, target); what was chosen stays."""
        for box, entries, fallback in ((self.image, images, None), (self.target, targets, target)):
            before = box.currentData()
            with QSignalBlocker(box):
                box.clear()
                for name, value in entries:
                    box.addItem(name, value)
                data = [value for _, value in entries]
                wanted = before if before in data else fallback
                box.setCurrentIndex(data.index(wanted) if wanted in data else 0)

    @property
    def choices(self) -> Choices:
        return Choices(tuple(self.image.currentData() or ()), self.target.currentData() or "", self.steps.value())

    def show_run(self, text: str, *, can_run: bool) -> None:
        """What the button does, and whether it can."""
        self.run.setText(text)
        self.run.setEnabled(can_run)


class _Table(QTableView):
    """← and → choose too, as everywhere where there are steps."""

    opened = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Epochs")
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setFrameShape(self.Shape.NoFrame)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(24)
        self.horizontalHeader().setHighlightSections(False)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        rows, row = self.model().rowCount(), self.currentIndex().row()
        ways = {Qt.Key.Key_Left: row - 1, Qt.Key.Key_Right: row + 1, Qt.Key.Key_Home: 0, Qt.Key.Key_End: rows - 1}
        key = Qt.Key(event.key())
        if key in ways and rows:
            self.setCurrentIndex(self.model().index(min(max(ways[key], 0), rows - 1), 0))
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.opened.emit()
        else:
            super().keyPressEvent(event)


class _Rows(QAbstractTableModel):
    """The numbers of each epoch."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._epochs: tuple[Epoch, ...] = ()
        self._files: Mapping[int, object] = {}
        self._heads: Sequence[str] = ()
        self._tips: Sequence[str] = ()

    def show_epochs(self, told: Told) -> None:
        clean, robust = names(told)
        self.beginResetModel()
        self._epochs, self._files = told.epochs, told.files
        self._heads = ("epoch", "loss", "probe" if told.encodes else "clean", "robust", "ΔE", "min")
        self._tips = ("", "Mean over the epoch", clean, robust, "Mean ΔE = E(x) − E(x*) on the images held out",
                      "Minutes since the training began")  # fmt: skip
        self.endResetModel()

    def row(self, epoch: int) -> int | None:
        return next((i for i, word in enumerate(self._epochs) if word.epoch == epoch), None)

    def epoch(self, row: int) -> int | None:
        return self._epochs[row].epoch if 0 <= row < len(self._epochs) else None

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._epochs)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else 6

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation == Qt.Orientation.Horizontal and section < len(self._heads):
            if role == Qt.ItemDataRole.DisplayRole:
                return self._heads[section]
            if role == Qt.ItemDataRole.ToolTipRole:
                return self._tips[section]
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        word = self._epochs[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(word, index.column())
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(Qt.AlignmentFlag.AlignCenter)
        if word.epoch not in self._files:
            if role == Qt.ItemDataRole.ForegroundRole:
                return QColor(theme.now().faint)
            if role == Qt.ItemDataRole.ToolTipRole:
                return "Its checkpoint is gone"
        return None

    @staticmethod
    def _text(word: Epoch, column: int) -> str:
        value = (word.epoch, word.loss, word.clean, word.robust, word.energy_gap, word.seconds / 60)[column]
        if value is None or not math.isfinite(value):
            return "–"
        return (str(value), f"{value:.3f}", f"{100 * value:.1f} %", f"{100 * value:.1f} %", small_figure(value),
                f"{value:.0f}" if value >= 10 else f"{value:.1f}")[column]  # fmt: skip


# In words ------------------------------------------------------------------------------------------------------------


def about(told: Told) -> str:
    """What is trained, on what, against what."""
    recipe, began = told.recipe, told.began
    network, objective = recipe.network, recipe.objective
    kind = str(objective.__struct_config__.tag)
    attack = objective if isinstance(objective, Attack) else getattr(objective, "attack", None)
    said = [_KINDS.get(kind, kind.capitalize())]
    if attack is not None:
        steps = "1 step" if attack.steps == 1 else f"{attack.steps} steps"
        said[0] += f" against {NORMS[attack.norm]} ε {attack.eps:.3g} in {steps}"
    size = f", {began.parameters / 1e6:.1f} M parameters" if began is not None else ""
    said.append(f"PreAct ResNet-{network.depth}, width {network.width}{size}")
    data = Path(recipe.data.path).name + (f" ({recipe.data.split})" if recipe.data.split else "")
    said.append(f"{began.images:,} images of {data}, {began.held:,} held out" if began is not None else data)
    if began is not None:
        said.append(began.device)
    return " · ".join(said)


def names(told: Told) -> tuple[str, str]:
    """Of the two accuracies."""
    word = next((word for word in reversed(told.epochs) if word.robust is not None), None)
    under = f", {NORMS[word.norm]} ε {word.eps:.3g}" if word is not None else ""
    return ("linear probe" if told.encodes else "clean"), ("probe" if told.encodes else "robust") + under


def state(told: Told, now: float) -> str:
    """How it stands. That a training was killed nobody tells: there is no word any more, which is all that is known."""
    epoch = f"epoch {len(told.epochs)} of {told.planned}"
    steps = f"step {told.step:,}" + (f" of {told.began.steps:,}" if told.began is not None else "")
    if told.ended is not None:
        if told.ended.reason == "done":
            return f"done · {told.planned} epochs in {lasting(told.ended.seconds)}"
        how = f"{told.ended.reason} at {steps}"
        return f"{how}: {told.ended.detail}" if told.ended.detail else how
    if told.began is None:
        return "nothing was told yet"
    silent = now - told.written
    if silent > max(_SILENCE, 60 * told.pace if math.isfinite(told.pace) else 0.0):
        return f"no word for {lasting(silent)} · {epoch} · {steps}"
    left = (told.began.steps - told.step) * told.pace
    rest = f" · {lasting(left)} left" if math.isfinite(left) else ""
    return f"training: {100 * told.share:.0f} %{rest} · {epoch} · {steps}"


def lasting(seconds: float) -> str:
    """Such as: 40 s, 12 minutes, 1 h 20 min, 3 days."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if minutes < 90:
        return f"{minutes} minutes"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{round(seconds / 86400)} days"


def spread(columns: Sequence[int], reached: float) -> tuple[float, float]:
    """What the axis covers: all there is, and so much that each column of the strip has its room below it."""
    half = min((b - a for a, b in pairwise(columns)), default=1) / 2
    return min(0.0, 1 - half), max(1.0, reached, *(column + half for column in columns))


def _number(value: float) -> str:
    return figure(value, ".3f" if abs(value) < 100 else ".3g")


def _percent(value: float) -> str:
    return f"{value:.1f} %"


def _short(folder: str, most: int = 60) -> str:
    return folder if len(folder) <= most else f"…{folder[1 - most :]}"
