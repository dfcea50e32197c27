"""The chains themselves: a grid, one of them large, and what is shown of each: image, original, difference, and with
the lens on, the two parts of the step."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
from PySide6.QtCore import QPoint, Qt, Signal, Slot
from PySide6.QtGui import QAction, QActionGroup, QColor
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from cem_core import images
from cem_core.messages import Floats, RunStart, Step
from cem_gui import theme
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.figures import figure
from cem_gui.widgets.image_grid import Bytes, Caption, ImageGrid, to_bytes, to_image
from cem_gui.widgets.large_image import LargeImage
from cem_gui.widgets.notice import Notice

View = Literal["image", "original", "difference", "class", "marginal"]
_VIEWS: Final[tuple[tuple[View, str, str], ...]] = (
    ("image", "Image", "1"),
    ("original", "Original", "2"),
    ("difference", "Difference", "3"),
    ("class", "∇f", "4"),
    ("marginal", "∇LSE", "5"),
)
_PARTS: Final = {
    "class": "The class part of the step: bright where more light raises f(x,y), dark where less, grey is zero",
    "marginal": "The marginal part of the step: bright where more light raises LSE(x), dark where less, grey is zero",
}
GAINS: Final = (1, 2, 4, 8, 16, 32)
_TOP: Final = 10
_STRAY: Final = 1.0
"""Fall of E(x) from which on a chain that gains nothing on its target is said to climb another class."""


class Maps(NamedTuple):
    """What the lens shows of B chains. A chain's is of the newest step that it is known of; NaN: of none yet."""

    class_part: Floats
    """(B, C, H, W) ∇f(x,y)."""
    marginal_part: Floats
    """(B, C, H, W) ∇LSE(x)."""


class EvolutionPanel(QWidget):
    selected = Signal(int)
    viewed = Signal()
    """Something else is shown of the chains, or of another number of them."""
    lens_wanted = Signal(bool)
    details_wanted = Signal()
    interrupted_wanted = Signal()
    """The run that a notice told of should be opened."""
    menu_wanted = Signal(int, QPoint)
    """Chain under the mouse or -1, and where on the screen."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._start: RunStart | None = None
        self._first: Floats | None = None
        self._origin: Step | None = None
        self._step: Step | None = None
        self._maps: Maps | None = None
        self._offers_run = False
        self.view: View = "image"
        self.views = QActionGroup(self)
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        self.lens = QPushButton("Lens")
        self.lens.setCheckable(True)
        self.lens.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.lens.setAccessibleName("CEM lens")
        self.lens.clicked.connect(self.lens_wanted)
        self.cost = Elided()
        self.cost.setObjectName("muted")
        buttons.addWidget(self.lens)
        buttons.addWidget(self.cost, 1)
        group = QButtonGroup(self)
        self._of_parts: list[QPushButton] = []
        for view, text, key in _VIEWS:
            action = QAction(text, self.views)
            action.setCheckable(True)
            action.setShortcut(f"Ctrl+{key}")
            action.setData(view)
            action.setChecked(view == "image")
            button = QPushButton(text)
            button.setCheckable(True)
            button.setChecked(view == "image")
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            tip = f"{_PARTS.get(view, text)} ({action.shortcut().toString()})"
            button.setToolTip(tip)
            action.setToolTip(tip)
            button.clicked.connect(action.trigger)
            action.toggled.connect(button.setChecked)
            group.addButton(button)
            buttons.addWidget(button)
            if view in _PARTS:
                self._of_parts.append(button)
        self.views.triggered.connect(self._view_chosen)
        self.gain = QComboBox()
        self.gain.setAccessibleName("Amplification of the difference")
        for gain in GAINS:
            self.gain.addItem(f"×{gain}", gain)
        self.gain.setCurrentIndex(GAINS.index(8))
        self.gain.setEnabled(False)
        self.gain.activated.connect(self._paint)
        buttons.addWidget(self.gain)

        self._notice = Notice()
        self.notice = self._notice.text
        self._notice.offer_taken.connect(self._take_offer_of_notice)

        self.empty = QLabel("Opening the model …")
        self.empty.setObjectName("muted")
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.empty.setWordWrap(True)
        self.grid = ImageGrid()
        self.large = LargeImage()
        self.stack = QStackedWidget()
        for widget in (self.empty, self.grid, self.large):
            self.stack.addWidget(widget)
        self.about = Elided()
        self.about.setObjectName("muted")
        self.probe = QLabel("")
        self.probe.setObjectName("muted")
        foot = QHBoxLayout()
        foot.addWidget(self.about, 1)
        foot.addWidget(self.probe)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 0)
        layout.setSpacing(8)
        layout.addLayout(buttons)
        layout.addWidget(self._notice)
        layout.addWidget(self.stack, 1)
        layout.addLayout(foot)
        self.grid.selected.connect(self._select)
        self.grid.opened.connect(self._open_large)
        self.grid.menu_wanted.connect(self.menu_wanted)
        self.grid.probed.connect(self._probe)
        self.large.probed.connect(self._probe_large)
        self.large.closed.connect(self.show_grid)

    @property
    def chosen(self) -> int:
        return self.grid.chosen

    @property
    def of_lens(self) -> bool:
        """A part of the step is shown."""
        return self.view in _PARTS

    @property
    def is_large(self) -> bool:
        return self.stack.currentWidget() is self.large

    def show_start(self, start: RunStart, first: Step) -> None:
        """A run: its chains, as they begin."""
        self._start, self._first, self._origin, self._maps = start, first.pixels, first, None
        self.grid.measure = "p" if start.checkpoint.classes else start.measure
        self.grid.set_starts(to_bytes(first.pixels))
        self.show_step(first)
        if self.stack.currentWidget() is self.empty:
            self.stack.setCurrentWidget(self.grid)
        self._write_about()

    def show_step(self, step: Step) -> None:
        self._step = step
        self._paint()

    def show_maps(self, maps: Maps) -> None:
        """The two parts of the step at each chain, as far as they are known."""
        self._maps = maps
        if self.of_lens:
            self._paint()

    def show_lens(self, on: bool) -> None:
        """Whether the lens is on; if it is not, there are no parts to be seen."""
        self.lens.setChecked(on)
        for button in self._of_parts:
            button.setVisible(on)  # else a narrow window has no room to spare for them
        if not on:
            self._maps = None
            self.show_cost("", "")
            if self.of_lens:
                self.views.actions()[0].trigger()

    def show_cost(self, text: str, tip: str) -> None:
        """What the lens takes, or how far it is."""
        self.cost.setText(text)
        self.cost.setToolTip(f"{text}\n{tip}".strip())  # where there is little room, it is cut

    def show_empty(self, text: str) -> None:
        """Nothing to show yet, and what to do."""
        self.empty.setText(text)
        self.stack.setCurrentWidget(self.empty)

    def show_notice(self, text: str, offer: str = "", *, interrupted: bool = False) -> None:
        """A message that stays until it is dismissed; what is shown stays too, and the messages before it.

        interrupted: the offer leads to a run, else to the model's details.
        """
        if offer or self._notice.isHidden():
            self._offers_run = interrupted
        self._notice.say(text, offer)

    def clear_notice(self) -> None:
        self._notice.hide()

    def show_grid(self) -> None:
        if self._step is not None:
            self.stack.setCurrentWidget(self.grid)
            self._paint()
            self.viewed.emit()

    def toggle_large(self) -> None:
        if self.is_large:
            self.show_grid()
        elif self._step is not None:
            self._open_large(self.chosen)

    def thumbnail(self, step: Step, chain: int) -> Bytes:
        """(H, W, 3)."""
        return to_bytes(step.pixels[chain])

    @Slot()
    def _take_offer_of_notice(self) -> None:
        if self._offers_run:
            self.clear_notice()
            self.interrupted_wanted.emit()
        else:
            self.details_wanted.emit()

    def _view_chosen(self, action: QAction) -> None:
        self.view = action.data()
        self.gain.setEnabled(self.view == "difference")
        self._paint()
        if self.of_lens and not self.lens.isChecked():
            self.lens_wanted.emit(True)
        self.viewed.emit()

    def _paint(self) -> None:
        if self._step is None or self._first is None or self._start is None:
            return
        step = self._step
        if self.is_large:
            self._paint_large(step, self._first, self._start)
            return
        self.grid.show_images(self._pictures(step.pixels, self._first), self._captions(step, self._start))

    def _pictures(self, pixels: Floats, first: Floats, chains: slice = slice(None)) -> Bytes:
        pixels, first = pixels[chains], first[chains]
        if self.of_lens:
            part: Floats = np.full_like(pixels, np.nan) if self._part is None else self._part[chains]
            maps = images.signed(part).copy()
            empty = QColor(theme.now().field)
            maps[np.isnan(part[:, 0, 0, 0])] = empty.red(), empty.green(), empty.blue()
            return maps
        if self.view == "difference":
            return images.difference(pixels, first, self.gain.currentData())
        return to_bytes(first if self.view == "original" else pixels)

    @property
    def _part(self) -> Floats | None:
        """(B, C, H, W) what is shown of the lens, if anything is known."""
        if self._maps is None:
            return None
        return self._maps.class_part if self.view == "class" else self._maps.marginal_part

    def _captions(self, step: Step, start: RunStart) -> list[Caption]:
        names, classes = start.candidates, start.checkpoint.classes
        arrow = "←" if step.sampler.a < 0 else "→"
        seen = step.logits.argmax(1)
        captions = []
        for i, (label, p) in enumerate(zip(start.labels, np.exp(step.log_p), strict=True)):
            goes = f"{arrow} {names[label]}" if start.aims(i) else f"≈ {names[seen[i]]}"
            tip = "\n".join(filter(None, (f"{start.names[i]} {goes}", start.notes[i])))
            title, strays = goes, step.sampler.a > 0 and start.aims(i) and self._strays(step, i, label)
            if strays:
                title += f" ({'sees' if classes else '≈'} {names[seen[i]]})"
                tip += (
                    f"\nThe chain climbs {names[seen[i]]} instead: E(x) falls while its target does not gain."
                    "\nA smaller weight b holds against it; TA has b = -1."
                )
            value = float(p)
            if not classes:
                value = float(start.likeness(step.logits[i])[label if start.aims(i) else seen[i]])
                tip += f"\n{start.measure} to {names[label if start.aims(i) else seen[i]]}: {figure(value, '.3f')}"
            captions.append(Caption(title, figure(value), min(max(value, 0.0), 1.0), tip, bool(strays)))
        return captions

    def _strays(self, step: Step, chain: int, label: int) -> bool:
        """Whether a chain went down in E(x) by more than in E(x,y), and stands in another class."""
        first = self._origin
        if first is None or step.logits[chain].argmax() == label:
            return False
        fallen = first.energy[chain] - step.energy[chain]
        return bool(fallen > _STRAY and fallen > first.joint[chain] - step.joint[chain])

    def _paint_large(self, step: Step, first: Floats, start: RunStart) -> None:
        chain = slice(self.chosen, self.chosen + 1)
        logits = step.logits[self.chosen].astype(np.float64)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        order = np.argsort(-p)[:_TOP]
        names, label = start.candidates, start.labels[self.chosen] if start.aims(self.chosen) else None
        shares = p if start.checkpoint.classes else start.likeness(step.logits[self.chosen])
        bars = [(names[k], float(shares[k]), bool(k == label)) for k in order]
        what = "What the model sees" if start.checkpoint.classes else f"Most similar: {start.measure}"
        picture = self._pictures(step.pixels, first, chain)[0]
        self.large.show_image(to_image(picture), to_image(to_bytes(first[chain])[0]), bars, what)

    def _select(self, chain: int) -> None:
        self._write_about()
        self.selected.emit(chain)

    def _open_large(self, chain: int) -> None:
        self.grid.choose(chain)
        self.stack.setCurrentWidget(self.large)
        self._paint()
        self.viewed.emit()

    def _write_about(self) -> None:
        if self._start is None:
            return
        chain, note = self._start.spec.chains[self.chosen], self._start.notes[self.chosen]
        parts = [f"Chain {self.chosen + 1}: {self._start.names[self.chosen]}", note, f"seed {chain.seed}"]
        if self._start.references:
            parts.append(f"E(x) over {len(self._start.references):,} images")
        self.about.setText(" · ".join(part for part in parts if part))
        self.about.setToolTip("\n".join(filter(None, (self.about.text(), ", ".join(self._start.references)))))

    def _probe(self, chain: int, x: int, y: int) -> None:
        if chain < 0 or self._step is None or chain >= len(self._step.pixels):
            self.probe.setText("")
            return
        part = self._part
        if not self.of_lens:
            values = " ".join(f"{value:.3f}" for value in self._step.pixels[chain, :, y, x])
        elif part is None or np.isnan(part[chain, :, y, x]).any():
            values = "not known yet"
        else:
            values = " ".join(figure(value, "+.3g") for value in part[chain, :, y, x])
        self.probe.setText(f"x {x}  y {y}  ·  {values}")

    def _probe_large(self, x: int, y: int) -> None:
        self._probe(self.chosen if x >= 0 else -1, x, y)
