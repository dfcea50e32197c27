"""Energies on a plane: a heat map with contours, and the image at each of its points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from PySide6.QtCore import QSignalBlocker, Qt, QTimer, Signal, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from cem_core.probes.results import Plane, Survey
from cem_gui.widgets.card import Card, form, muted
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.figures import figure
from cem_gui.widgets.heat_map import HeatMap
from cem_gui.widgets.image_grid import to_bytes
from cem_gui.widgets.notice import Notice
from cem_gui.widgets.picture import Picture

Which = Literal["around", "along"]

SIZES: Final = (33, 65, 129)
_NARROWEST: Final = 400
"""Less than it needs: the docks make room where it is shown, and where it is not, it widens no window."""
_SETTLE_MS: Final = 150
_SIDE: Final = 250
_THUMB: Final = 96


class Choices(NamedTuple):
    """What is to be drawn."""

    which: Which
    """Around the image in sight, or along the run."""
    marginal: bool
    """E(x); else E(x,y)."""
    label: int | None
    """y; None: there are no classes to choose from."""
    size: int
    extent: float | None
    """None: what suits."""
    seed: int


class LandscapePanel(QWidget):
    changed = Signal()
    """Something else is to be drawn; a moment after the last change."""
    run_wanted = Signal()
    """Draw, or end the drawing."""
    export_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._plane: Plane | None = None
        self._survey: Survey | None = None
        self._steps: Sequence[int] = ()
        self._value = "E(x)"
        self._pin: tuple[float, float] | None = None
        self._is_chosen = False
        """The person chose a plane."""
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.setInterval(_SETTLE_MS)
        self._settling.timeout.connect(self.changed)

        self.which = QComboBox()
        self.which.addItem("Around the image", "around")
        self.which.addItem("Along the run", "along")
        self.energy = QComboBox()
        self.energy.addItem("E(x)", True)
        self.energy.addItem("E(x,y)", False)
        self.label = QComboBox()
        self.label.setMaxVisibleItems(20)
        self.label.setEnabled(False)
        self.size_ = QComboBox()
        for size in SIZES:
            self.size_.addItem(f"{size} × {size}", size)
        self.size_.setCurrentIndex(SIZES.index(65))
        for box in (self.which, self.energy, self.label, self.size_):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(8)
        self.extent = QDoubleSpinBox()
        self.extent.setDecimals(3)
        self.extent.setRange(0, 1000)
        self.extent.setSpecialValueText("auto")
        self.extent.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        self.seed = QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        for field in (self.extent, self.seed):
            field.setKeyboardTracking(False)
            field.lineEdit().returnPressed.connect(field.clearFocus)
        settings = Card("Landscape")
        settings.setFixedWidth(_SIDE)
        settings.body.addLayout(form(
            ("Plane", self.which, "Around the image in sight: where an attack goes × a random direction. Along the run "
                                  "in sight: the first two principal components of its steps"),
            ("Energy", self.energy, "E(x) is low where images are likely; E(x,y) where they are likely of class y"),
            ("Class y", self.label, "The y of E(x,y)"),
            ("Points", self.size_, "Points of the square at which the energy is computed"),
            ("Extent", self.extent, "Half the side of the square, as an L2 distance; 0: what suits"),
            ("Seed", self.seed, "Of the random direction"),
        ))  # fmt: skip
        self.run = QPushButton("Draw")
        self.run.setObjectName("primary")
        self.run.setToolTip("Draw it anew, as far as the run has come (Space)")
        self.save = QPushButton("Export…")
        self.save.setToolTip("Write the map as a picture and its numbers as a table (Ctrl+E)")
        self.save.setEnabled(False)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addWidget(self.run, 1)
        buttons.addWidget(self.save)
        settings.body.addSpacing(4)
        settings.body.addLayout(buttons)
        self.about = QLabel()
        self.about.setObjectName("muted")
        self.about.setWordWrap(True)
        settings.body.addWidget(self.about)
        settings.body.addStretch(1)

        self.map = HeatMap("Energies on the plane; the arrow keys move the point whose image is shown")
        self.empty = muted("")
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.empty.setWordWrap(True)
        self.stack = QStackedWidget()
        self.stack.addWidget(self.empty)
        self.stack.addWidget(self.map)
        middle = Card("Energies")
        self.model = Elided()
        self.model.setObjectName("muted")
        self.model.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        middle.head.addWidget(self.model, 2)
        middle.body.addWidget(self.stack, 1)

        self.here = Picture("The image at the point", 160)
        self.origin = Picture("The image at the origin", _THUMB, fixed=True)
        self.where = QLabel()
        self.where.setTextFormat(Qt.TextFormat.PlainText)
        self.where.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.where.setWordWrap(True)
        self.where.setMinimumHeight(_THUMB)
        self.point = Card("Image here")
        self.point.setMinimumWidth(_SIDE)
        self.point.setMaximumWidth(640)
        self.point.body.addWidget(self.here)
        foot = QHBoxLayout()
        foot.setSpacing(12)
        beside = QVBoxLayout()
        beside.setSpacing(4)
        self._of_origin = muted("At the origin")
        beside.addWidget(self._of_origin)
        beside.addWidget(self.origin)
        foot.addLayout(beside)
        foot.addWidget(self.where, 1, Qt.AlignmentFlag.AlignTop)
        self.point.body.addLayout(foot)
        self.point.body.addStretch(1)

        self.setMinimumWidth(_NARROWEST)
        self.notice = Notice()
        cards = QHBoxLayout()
        cards.setSpacing(8)
        cards.addWidget(settings)
        cards.addWidget(middle, 5)
        cards.addWidget(self.point, 2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 0)
        layout.setSpacing(8)
        layout.addWidget(self.notice)
        layout.addLayout(cards, 1)

        for box in (self.which, self.energy, self.label, self.size_):
            box.currentIndexChanged.connect(self._choices_changed)
        self.which.activated.connect(self._which_chosen)
        self.extent.valueChanged.connect(self._choices_changed)
        self.seed.valueChanged.connect(self._choices_changed)
        self.run.clicked.connect(self.run_wanted)
        self.save.clicked.connect(self.export_wanted)
        self.map.hovered.connect(self._hover)
        self.map.pinned.connect(self._pinned)
        self._show_point(None)

    # ---- what is to be drawn -----------------------------------------------------------------------------------------

    @property
    def choices(self) -> Choices:
        return Choices(
            which=self.which.currentData(),
            marginal=self.energy.currentData(),
            label=self.label.currentIndex() if self.label.count() else None,
            size=self.size_.currentData(),
            extent=self.extent.value() or None,
            seed=self.seed.value(),
        )

    def suggest(self, which: Which) -> None:
        """The plane that shows most, unless the person chose one."""
        if not self._is_chosen:
            with QSignalBlocker(self.which):
                self.which.setCurrentIndex(self.which.findData(which))

    @Slot()
    def _which_chosen(self) -> None:
        self._is_chosen = True

    @Slot()
    def _choices_changed(self) -> None:
        self.label.setEnabled(not self.energy.currentData())
        self._settling.start()

    def show_model(self, name: str, classes: Sequence[str], label: int | None) -> None:
        """The model that is asked, and the y that E(x,y) has unless somebody chooses another."""
        self.model.setText(name)
        self.model.setToolTip(name)
        with QSignalBlocker(self.label):
            if [self.label.itemText(i) for i in range(self.label.count())] != list(classes):
                self.label.clear()
                self.label.addItems(list(classes))
            if label is not None:
                self.label.setCurrentIndex(label)

    # ---- what there is -----------------------------------------------------------------------------------------------

    def show_empty(self, text: str) -> None:
        """Nothing to draw, and what to do."""
        self._plane = self._survey = None
        self._steps = ()
        self.empty.setText(text)
        self.stack.setCurrentWidget(self.empty)
        self.point.hide()
        self.about.clear()
        self.save.setEnabled(False)
        self._pin = None
        self._show_point(None)

    def show_run(self, text: str, *, can_run: bool) -> None:
        """What the button does, and whether it can."""
        self.run.setText(text)
        self.run.setEnabled(can_run)

    def show_plane(self, plane: Plane, steps: Sequence[int], marginal: bool) -> None:
        """A new square, and which steps of the run the points of its path are."""
        self._plane, self._survey, self._steps = plane, None, steps
        self._pin = None
        self._value = "E(x)" if marginal else f"E(x,{_short(self.label)})"
        self.map.show_square(plane.extent, plane.names, self._value)
        along = len(plane.path) > 1
        self.map.show_path(plane.path, "start" if along else "", "end" if along else "")
        self.stack.setCurrentWidget(self.map)
        self.point.show()
        self.save.setEnabled(False)
        said = "Low energy (dark) is likely. Point at the map to see the image there; a click holds it."
        if along and not math.isnan(plane.held):
            said = f"The plane holds {_percent(plane.held)} of the variance of the path. {said}"
        self.about.setText(said)
        self.origin.show_pixels(to_bytes(plane.origin))
        self._of_origin.setText("Mean of the path" if along else "At the origin")
        self._show_point(None)

    def show_survey(self, survey: Survey) -> None:
        self._survey = survey
        self.map.show_values(survey.energy, survey.coarse, survey.done == survey.energy.size)
        self.save.setEnabled(True)
        self._write_point(self._pin or self.map.hover)

    def show_step(self, step: int) -> None:
        """Mark the recorded step that is nearest to the one in sight."""
        if len(self._steps) > 1:
            self.map.show_here(min(range(len(self._steps)), key=lambda i: abs(self._steps[i] - step)))

    def restyle(self) -> None:
        self.map.restyle()

    # ---- a point of it -----------------------------------------------------------------------------------------------

    @Slot(object)
    def _hover(self, point: tuple[float, float] | None) -> None:
        if self._pin is None:
            self._show_point(point)

    @Slot(object)
    def _pinned(self, point: tuple[float, float] | None) -> None:
        self._pin = point
        self.map.show_pin(point)
        self._show_point(point or self.map.hover)

    def _show_point(self, point: tuple[float, float] | None) -> None:
        """None: the origin, until somebody points elsewhere."""
        if self._plane is None:
            self.here.show_pixels(None)
            self.origin.show_pixels(None)
        else:
            self.here.show_pixels(to_bytes(self._plane.image(*(point or (0.0, 0.0)))))
        self._write_point(point)

    def _write_point(self, point: tuple[float, float] | None) -> None:
        if self._plane is None:
            self.where.setText("")
            return
        s, t = point or (0.0, 0.0)
        lines = [f"s {figure(s, '+.3f')}   t {figure(t, '+.3f')}", f"L2 distance {math.hypot(s, t):.3f}"]
        if (energy := self._energy(s, t)) is not None:
            lines.append(energy)
        near = self.map.near((s, t))
        if near is not None and self._steps:
            lines.append(f"step {self._steps[near]:,} of the run")
        lines.append("held: click it again to let go" if self._pin else "" if point else "the origin")
        self.where.setText("\n".join(filter(None, lines)))
        self.map.view.setAccessibleDescription(", ".join(filter(None, lines)))

    def _energy(self, s: float, t: float) -> str | None:
        """Of the nearest point that was computed."""
        if self._survey is None or self._plane is None:
            return None
        size = len(self._survey.energy)
        column, row = (min(max(round((at / self._plane.extent + 1) / 2 * (size - 1)), 0), size - 1) for at in (s, t))
        exact = float(self._survey.energy[row, column])
        if math.isfinite(exact):
            return f"{self._value} {figure(exact, '.3f')}"
        about = float(self._survey.coarse[row, column])
        return f"{self._value} about {figure(about)}" if math.isfinite(about) else f"{self._value} is no number here"


def _percent(share: float) -> str:
    return "all" if share > 0.9995 else f"{100 * share:.1f} %"


def _short(box: QComboBox, most: int = 24) -> str:
    name = box.currentText()
    return name if len(name) <= most else name[: most - 1] + "…"
