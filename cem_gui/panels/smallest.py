"""The smallest ε of each model, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from PySide6.QtCore import QMimeData, QSignalBlocker, QSize, Qt, Signal, Slot
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QIcon, QPixmap, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QBoxLayout,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QListView,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from cem_core import images
from cem_core.messages import Norm
from cem_core.probes.results import Bound, Flip
from cem_gui import theme
from cem_gui.widgets.bracket import Bracket
from cem_gui.widgets.card import Card, heading, muted, small
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.image_grid import Bytes, to_bytes, to_image
from cem_gui.widgets.notice import Notice
from cem_gui.widgets.paired_bars import Pair, PairedBars
from cem_gui.widgets.picture import Picture

NORMS: Final[tuple[Norm, ...]] = ("l2", "linf")
GAINS: Final = (1, 2, 4, 8, 16, 32)
SEEN: Final = "What each model sees"
_NARROWEST: Final = 400
"""Less than it needs: the docks make room where it is shown, and where it is not, it widens no window."""
_HINT: Final = "Space measures how far the image must move until each model sees another class in it, in L2 and in L∞."
_LEGEND: Final = "Solid: the attack failed there. Hatched: not known yet. The mark: the smallest ε that flips so far."
_SHOWN: Final[Mapping[Norm, str]] = {"l2": "L2", "linf": "L∞"}
_ALL: Final = 10
"""Classes that are all shown; of more, the `_TOP` that change most."""
_TOP: Final = 6
_THUMB: Final = 44
_CELL: Final = QSize(62, 68)
_LEAST: Final = 96
"""Side of a picture, at least."""
_BESIDE: Final = 520
"""Width from which on the energies stand beside the images."""


class Column(NamedTuple):
    """A model that is compared."""

    name: str
    classes: tuple[str, ...]
    size: int
    """Side of its input, in pixels; 0: it is not open yet."""


class SmallestPanel(QWidget):
    """Columns are models, in the order of the comparison; each has a finding for each norm."""

    image_chosen = Signal(int)
    """Row of the strip."""
    open_wanted = Signal()
    dropped = Signal(object)
    """QMimeData with files or an image."""
    run_wanted = Signal()
    """Measure, or end the measurement."""
    export_wanted = Signal()
    settings_changed = Signal()
    """What was measured is not what would be."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAcceptDrops(True)
        self._columns: Sequence[Column] = ()
        self._cards: list[QWidget] = []
        self._found: dict[tuple[int, Norm], Flip] = {}
        self.findings: dict[tuple[int, Norm], Finding] = {}
        self.setMinimumWidth(_NARROWEST)
        self.takes: Callable[[QMimeData], bool] = QMimeData.hasImage
        """Whether what is dropped is for this panel; all else is left to the window."""
        self.notice = Notice()

        self.strip = QListWidget()
        self.strip.setAccessibleName("Images to choose from")
        self.strip.setViewMode(QListView.ViewMode.IconMode)
        self.strip.setFlow(QListView.Flow.LeftToRight)
        self.strip.setMovement(QListView.Movement.Static)
        self.strip.setWrapping(False)
        self.strip.setIconSize(QSize(_THUMB, _THUMB))
        self.strip.setGridSize(_CELL)
        self.strip.setFixedHeight(_CELL.height() + 14)
        self.strip.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.strip.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.strip.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.strip.setFrameShape(QFrame.Shape.NoFrame)
        self.strip.setDragDropMode(QAbstractItemView.DragDropMode.NoDragDrop)
        self.strip.viewport().setAcceptDrops(False)
        font = self.strip.font()
        font.setPointSizeF(font.pointSizeF() * 0.82)
        self.strip.setFont(font)

        self.open = QPushButton("Open…")
        self.open.setToolTip("Measure on images of your own; they can be dropped here too")
        self.label = QComboBox()
        self.label.addItem(SEEN)
        self.label.setMaxVisibleItems(20)
        self.label.setMinimumContentsLength(16)
        self.label.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.steps = QSpinBox()
        self.steps.setRange(1, 10_000)
        self.steps.setValue(40)
        self.steps.setKeyboardTracking(False)
        self.steps.lineEdit().returnPressed.connect(self.steps.clearFocus)
        self.gain = QComboBox()
        for gain in GAINS:
            self.gain.addItem(f"×{gain}", gain)
        self.gain.setCurrentIndex(GAINS.index(8))
        self.run = QPushButton("Measure")
        self.run.setObjectName("primary")
        self.run.setToolTip("Bisect over a strong attack, for each model in L2 and L∞ (Space)")
        self.run.setMinimumWidth(120)
        self.save = QPushButton("Export…")
        self.save.setToolTip("Write the ε, all energies and the adversarial images (Ctrl+E)")
        self.save.setEnabled(False)
        self._card = Card("Image")
        self.about = Elided()
        self.about.setObjectName("muted")
        self.about.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._card.head.addWidget(self.about, 6)
        self._card.body.setSpacing(4)
        self._card.body.addWidget(self.strip)
        controls = QHBoxLayout()
        controls.setSpacing(8)
        controls.addWidget(self.open)
        for name, field, tip in (
            ("Class", self.label, "The class that it is flipped away from"),
            ("Attack steps", self.steps, "Of each attack of the bisection: more of them may find a smaller ε"),
            ("Difference", self.gain, "Amplification of the difference"),
        ):
            buddy = muted(name)
            buddy.setBuddy(field)
            for widget in (buddy, field):
                widget.setToolTip(tip)
            controls.addSpacing(8)
            controls.addWidget(buddy)
            controls.addWidget(field)
        controls.addStretch(1)
        controls.addWidget(self.run)
        controls.addWidget(self.save)
        self._card.body.addLayout(controls)

        self.summary = QLabel()
        self.summary.setWordWrap(True)
        self.summary.setTextFormat(Qt.TextFormat.PlainText)
        self.summary.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.summary.setContentsMargins(4, 0, 4, 0)
        font = self.summary.font()
        font.setBold(True)
        self.summary.setFont(font)
        self.hint = muted("")
        self.hint.setWordWrap(True)
        self.hint.setContentsMargins(4, 0, 4, 0)
        self._field = QWidget()
        self._row = QHBoxLayout(self._field)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(8)
        area = QScrollArea()
        area.setWidget(self._field)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 0)
        layout.setSpacing(8)
        for above in (self._card, self.notice, self.hint, self.summary):
            layout.addWidget(above)
        layout.addWidget(area, 1)

        self.strip.currentRowChanged.connect(self.image_chosen)
        self.open.clicked.connect(self.open_wanted)
        self.run.clicked.connect(self.run_wanted)
        self.save.clicked.connect(self.export_wanted)
        self.label.currentIndexChanged.connect(self.settings_changed)
        self.steps.valueChanged.connect(self.settings_changed)
        self.gain.currentIndexChanged.connect(self._paint_differences)
        self.restyle()

    # ---- the image ---------------------------------------------------------------------------------------------------

    def add_image(self, name: str, tip: str, pixels: Bytes | None) -> None:
        """One more in the strip; (H, W, 3)."""
        item = QListWidgetItem(_icon(pixels), name)
        item.setToolTip(tip)
        item.setTextAlignment(Qt.AlignmentFlag.AlignHCenter)
        item.setSizeHint(_CELL)
        with QSignalBlocker(self.strip):
            self.strip.addItem(item)

    def change_image(self, row: int, tip: str, pixels: Bytes | None) -> None:
        """Another picture, or none, in that place."""
        item = self.strip.item(row)
        item.setIcon(_icon(pixels))
        item.setToolTip(tip)
        flags = Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled
        item.setFlags(flags if pixels is not None else Qt.ItemFlag.NoItemFlags)

    def choose_image(self, row: int) -> None:
        """Without announcing it."""
        with QSignalBlocker(self.strip):
            self.strip.setCurrentRow(row)
        self.strip.scrollToItem(self.strip.item(row))

    def show_about(self, text: str) -> None:
        self.about.setText(text)
        self.about.setToolTip(text)

    @property
    def class_name(self) -> str | None:
        """The class that the image shows; None: what each model sees in it."""
        return self.label.currentText() if self.label.currentIndex() > 0 else None

    def show_classes(self, names: Sequence[str], chosen: str | None) -> None:
        """What the image may show, and what it is believed to show."""
        with QSignalBlocker(self.label):
            if [self.label.itemText(i) for i in range(1, self.label.count())] != list(names):
                self.label.clear()
                self.label.addItems([SEEN, *names])
            self.label.setCurrentIndex(1 + names.index(chosen) if chosen in names else 0)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self.takes(event.mimeData()):
            event.acceptProposedAction()
        else:
            event.ignore()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        self.dropped.emit(event.mimeData())

    # ---- what is measured --------------------------------------------------------------------------------------------

    def show_columns(self, columns: Sequence[Column]) -> None:
        """The models that are compared; nothing is known of them yet."""
        if list(columns) != list(self._columns):
            self._columns, self.findings = tuple(columns), {}
            for card in self._cards:
                card.hide()
                card.deleteLater()
            self._cards = [self._column(index, column) for index, column in enumerate(columns)]
            for card in self._cards:
                self._row.addWidget(card, 1)
        self.clear()

    def _column(self, index: int, column: Column) -> QWidget:
        card = QFrame()
        card.setObjectName("card")
        body = QVBoxLayout(card)
        body.setContentsMargins(12, 10, 12, 12)
        body.setSpacing(10)
        name = Elided(column.name)
        name.setToolTip(column.name)
        font = name.font()
        font.setBold(True)
        name.setFont(font)
        body.addWidget(name)
        for norm in NORMS:
            finding = Finding(norm, index, column)
            self.findings[index, norm] = finding
            body.addWidget(finding)
        body.addStretch(1)
        return card

    def clear(self) -> None:
        """Nothing is measured yet."""
        self._found = {}
        self.hint.setText(_HINT)
        for finding in self.findings.values():
            finding.clear()
        self._write_summary()

    def begin(self) -> None:
        """A measurement: each finding waits for its turn."""
        self.clear()
        self.hint.setText(_LEGEND)
        for finding in self.findings.values():
            finding.wait()

    def show_bound(self, bound: Bound) -> None:
        self.findings[bound.subject, bound.norm].show_bound(bound.low, bound.high)
        self._scale(bound.norm)

    def show_flip(self, flip: Flip) -> None:
        self._found[flip.subject, flip.norm] = flip
        self.findings[flip.subject, flip.norm].show_flip(flip, self.gain.currentData())
        self._scale(flip.norm)
        self._write_summary()

    def end(self) -> None:
        """What has not been found will not be."""
        for finding in self.findings.values():
            finding.end()

    def show_run(self, text: str, *, can_run: bool, can_export: bool = False) -> None:
        self.run.setText(text)
        self.run.setEnabled(can_run)
        self.save.setEnabled(can_export)

    def restyle(self) -> None:
        colours = theme.now()
        self.strip.setStyleSheet(
            f"QListWidget {{ background: transparent; border: 0; outline: 0; color: {colours.muted}; }}"
            "QListWidget::item { border: 1px solid transparent; border-radius: 6px; padding: 2px; }"
            f"QListWidget::item:hover {{ background: {colours.field}; }}"
            f"QListWidget::item:selected {{ background: {colours.chip}; color: {colours.text}; "
            f"border-color: {colours.accent}; }}"
        )

    def _scale(self, norm: Norm) -> None:
        """The same for all models, so that lengths can be compared."""
        own = [finding for (_, other), finding in self.findings.items() if other == norm]
        ends = [finding.reach for finding in own]
        for finding in own:
            finding.bracket.set_scale(1.08 * max(ends) or 1.0)

    @Slot()
    def _paint_differences(self) -> None:
        for flip in self._found.values():
            self.findings[flip.subject, flip.norm].show_difference(flip, self.gain.currentData())

    def _write_summary(self) -> None:
        sizes = {column.size for column in self._columns if column.size}
        lines = [
            compared(norm, {column.name: self._found[i, norm].eps for i, column in _named(self._columns)
                            if (i, norm) in self._found})
            for norm in NORMS
            if norm == "linf" or len(sizes) < 2
        ]  # fmt: skip
        if len(sizes) > 1 and any(lines):
            lines.append("L2 distances of images of different sizes are not compared.")
        self.summary.setText("\n".join(filter(None, lines)))
        self.summary.setVisible(bool(self.summary.text()))
        self.hint.setVisible(self.summary.isHidden())


class Finding(QWidget):
    """One model in one norm: how far the bisection is, and what was found."""

    def __init__(self, norm: Norm, index: int, column: Column, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._norm, self._classes = norm, column.classes
        self.eps = QLabel()
        font = self.eps.font()
        font.setPointSizeF(font.pointSizeF() * 1.35)
        font.setBold(True)
        self.eps.setFont(font)
        self.eps.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.flips = Elided()
        self.flips.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        head = QHBoxLayout()
        head.setSpacing(10)
        name = heading(_SHOWN[norm])
        name.setFixedWidth(24)
        head.addWidget(name)
        head.addWidget(self.eps)
        head.addWidget(self.flips, 1)
        self.bracket = Bracket(f"{_SHOWN[norm]} bracket of {column.name}", index)
        self.said = Elided()
        self.said.setObjectName("muted")
        font = small().font()
        self.said.setFont(font)
        self.adversarial = Picture(f"Adversarial image of {column.name} in {_SHOWN[norm]}", _LEAST, fixed=True)
        self.difference = Picture(f"Its difference to the image, {_SHOWN[norm]}", _LEAST, fixed=True)
        self.energies = PairedBars("E(x,k)", index)
        self.energies.set_rows(len(column.classes) if len(column.classes) <= _ALL else _TOP)
        pictures = QHBoxLayout()
        pictures.setSpacing(8)
        for picture, text in ((self.adversarial, "Adversarial"), (self.difference, "Difference")):
            stack = QVBoxLayout()
            stack.setSpacing(3)
            stack.addWidget(small(text))
            stack.addWidget(picture)
            stack.addStretch(1)
            pictures.addLayout(stack)
        pictures.addStretch(1)
        self._beside = QBoxLayout(QBoxLayout.Direction.TopToBottom)
        self._beside.setSpacing(12)
        self._beside.addLayout(pictures)
        self._beside.addWidget(self.energies, 1, Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self.bracket)
        layout.addWidget(self.said)
        layout.addLayout(self._beside)
        self.clear()

    @property
    def reach(self) -> float:
        """The largest finite ε that is to be shown; where nothing was found, that is none."""
        if math.isfinite(self.bracket.high):
            return self.bracket.high
        return 0.0 if self.energies.pairs else self.bracket.low

    def minimumSizeHint(self) -> QSize:
        """The pictures become smaller, as far as they may."""
        return QSize(2 * _LEAST + 8, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        across = self.width() >= _BESIDE
        self._beside.setDirection(QBoxLayout.Direction.LeftToRight if across else QBoxLayout.Direction.TopToBottom)
        side = (self.width() - 28) // 4 if across else (self.width() - 8) // 2
        for picture in (self.adversarial, self.difference):
            picture.setFixedSize(*(min(max(side, _LEAST), 256) // 32 * 32,) * 2)
        super().resizeEvent(event)

    def clear(self) -> None:
        self._show("–", "")
        self.bracket.low, self.bracket.high = 0.0, math.inf
        self.bracket.clear()
        self.flips.setText("")
        for picture in (self.adversarial, self.difference):
            picture.show_pixels(None)
        self.energies.show_pairs(())

    def wait(self) -> None:
        self._show("…", "waits for its turn")

    def show_bound(self, low: float, high: float) -> None:
        self.bracket.show_interval(low, high)
        if math.isfinite(high):
            failed = f"; the attack failed at {told(low, self._norm)}" if low > 0 else ""
            self._show(f"≤ {told(high, self._norm, up=True)}", f"narrowing{failed}")
        elif low > 0:
            self._show(f"> {told(low, self._norm)}", "looking for an ε that is enough")
        else:
            self._show("…", "looking for an ε that is enough")

    def show_flip(self, flip: Flip, gain: int) -> None:
        label, seen = self._classes[flip.label], self._classes[flip.seen]
        seconds = f"{flip.seconds:.1f} s"
        self.bracket.show_interval(flip.failed, flip.eps)
        if flip.eps == 0:
            self._show("0", f"wrong as it is: it sees {seen}, not {label} · {seconds}")
        elif math.isfinite(flip.eps):
            failed = told(flip.failed, self._norm)
            self._show(
                f"≤ {told(flip.eps, self._norm, up=True)}",
                f"a better attack may need less; this one failed at {failed} · {seconds}",
            )
        else:
            self._show("none found", f"the attack failed up to {told(flip.failed, self._norm)}, and nothing in [0,1] "
                                     f"flips it · {seconds}")  # fmt: skip
        self.flips.setText(f"{label} → {seen}" if flip.seen != flip.label else f"stays {label}")
        self.flips.setToolTip(self.flips.text())
        self.adversarial.show_pixels(to_bytes(flip.adversarial))
        self.show_difference(flip, gain)
        self.energies.show_pairs(energies(flip, self._classes))

    def show_difference(self, flip: Flip, gain: int) -> None:
        self.difference.show_pixels(images.difference(flip.adversarial[None], flip.pixels[None], gain)[0])

    def end(self) -> None:
        if self.energies.pairs:
            return
        if math.isfinite(self.bracket.high) and self.bracket.high > 0:
            self._show(self.eps.text(), "ended before it was narrow")
        else:
            self._show("–", "not measured")

    def _show(self, eps: str, said: str) -> None:
        self.eps.setText(eps)
        self.said.setText(said)
        self.said.setToolTip(said)


def told(eps: float, norm: Norm, *, up: bool = False) -> str:
    """An ε in three figures, L∞ in grey levels too; up: never smaller than it is, for an upper bound."""
    return f"{_figures(eps, up)} ({_figures(eps * 255, up)}/255)" if norm == "linf" else _figures(eps, up)


def _figures(value: float, up: bool) -> str:
    if not math.isfinite(value) or value <= 0:
        return f"{value:g}"
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{(math.ceil(value / unit - 1e-9) if up else round(value / unit)) * unit:#.3g}".rstrip(".")


def _times(factor: float) -> str:
    return f"{factor:.1f}" if factor < 9.95 else f"{factor:,.0f}"


def compared(norm: Norm, eps: Mapping[str, float]) -> str:
    """How much more each model needs than the one that needs least, in a sentence; empty if there is nothing to say."""
    if len(eps) < 2:
        return ""
    said = []
    flipped = {name: value for name, value in eps.items() if 0 < value < math.inf}
    if len(flipped) > 1:
        *others, (least, smallest) = sorted(flipped.items(), key=lambda item: -item[1])
        times = " and ".join(f"{name} {'needs ' if not i else ''}{_times(value / smallest)} ×"
                             for i, (name, value) in enumerate(others))  # fmt: skip
        said.append(f"{times} the distance of {least}")
    said += [f"{name} is wrong as it is" for name, value in eps.items() if value == 0]
    said += [f"nothing was found that flips {name}" for name, value in eps.items() if value == math.inf]
    return f"{_SHOWN[norm]}: {', '.join(said)}." if said else ""


def energies(flip: Flip, classes: Sequence[str]) -> list[Pair]:
    """E(x,k) before and after, of all classes if these are few, else of those that change most."""
    change = np.abs(flip.after - flip.before)
    chosen = list(range(len(classes)))
    if len(classes) > _ALL:
        ends = list(dict.fromkeys((flip.label, flip.seen)))
        rest = [int(k) for k in np.argsort(-change, kind="stable") if k not in ends]
        chosen = sorted([*ends, *rest[: _TOP - len(ends)]], key=lambda k: -change[k])
    return [
        Pair(classes[k], -float(flip.before[k]), -float(flip.after[k]), k in (flip.label, flip.seen)) for k in chosen
    ]


def _named(columns: Sequence[Column]) -> list[tuple[int, Column]]:
    """Two of one name get a number."""
    names = [column.name for column in columns]
    return [
        (i, column if names.count(column.name) == 1 else column._replace(name=f"{column.name} ({i + 1})"))
        for i, column in enumerate(columns)
    ]


def _icon(pixels: Bytes | None) -> QIcon:
    """None: an empty place."""
    if pixels is None:
        empty = QPixmap(_THUMB, _THUMB)
        empty.fill(theme.now().field)
        return QIcon(empty)
    side = (
        Qt.TransformationMode.FastTransformation if len(pixels) < _THUMB else Qt.TransformationMode.SmoothTransformation
    )
    image = to_image(pixels).scaled(2 * _THUMB, 2 * _THUMB, mode=side)
    icon = QIcon()
    for state in (QIcon.Mode.Normal, QIcon.Mode.Selected):  # or it would be tinted
        icon.addPixmap(QPixmap.fromImage(image), state)
    return icon
