"""Which labelled images are measured, and how they are attacked: what all measurements over a set ask for."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any, Final

import msgspec
from PySide6.QtCore import QSignalBlocker, Qt, Signal, Slot
from PySide6.QtWidgets import QComboBox, QLabel, QLineEdit, QSizePolicy, QSpinBox, QWidget

from cem_core.messages import Norm, Refused
from cem_core.probes.requests import ATTACKS, Attack, AttackName, Data
from cem_gui import theme
from cem_gui.widgets.card import Card, form, muted, row

WIDTH: Final = 300
_FOLDER, _ARCHIVE = "\0folder", "\0archive"
"""Not paths, whatever the system."""
_MANY: Final = 200
"""Images of a folder that are measured unless more are asked for: a first answer within minutes on most machines."""
_TIPS: Final[dict[AttackName, str]] = {
    "pgd": "Projected gradient descent: quick, and the weakest of these",
    "apgd-ce": "PGD that sets its own step size, on the cross-entropy",
    "apgd-t": "PGD that sets its own step size, towards each of nine other classes",
    "autoattack": "Four attacks one after another: slow, and what papers report",
}


class SetSettings(msgspec.Struct, frozen=True):
    """What is asked for, as it is remembered."""

    path: str = ""
    """Empty: the bundled samples."""
    split: str = ""
    num: int = 0
    """0: all."""
    batch: int = 0
    """Images that are attacked at once; 0: as many as suit the models."""
    attack: AttackName = "pgd"
    steps: int = 20
    restarts: int = 1
    norm: Norm = "l2"
    eps: dict[Norm, str] = {}
    """What is written in the field, for each norm."""
    generated: int | None = None
    """None: as many as usual."""


def radii(text: str) -> tuple[float, ...]:
    """Numbers and fractions between commas or spaces, from small to large, each once. Raises Refused for other text."""
    found = set()
    for part in re.split(r"[,;\s]+", re.sub(r"\s*/\s*", "/", text).strip(" ,;\t")):
        above, slash, below = part.partition("/")
        try:
            found.add(float(above) / (float(below) if slash else 1.0))
        except (ValueError, ZeroDivisionError):
            said = f"{part[:20]!r} is not a number" if part else "No ε is given"
            raise Refused(f"{said}: write radii such as 0.5 or 8/255, with commas between.") from None
    return tuple(sorted(found))


class SetChoice(Card):
    """Only what the person changes is announced.

    Args:
        eps: what stands in the field of ε at first, for each norm.
        samples: how many images come with the program.
        generated: how many images are to be generated at first, where that is asked for; there is only one ε then.
    """

    changed = Signal()
    folder_wanted = Signal()
    archive_wanted = Signal()

    def __init__(
        self, eps: dict[Norm, str], samples: int, generated: int | None = None, parent: QWidget | None = None
    ) -> None:
        super().__init__("Settings", parent)
        self._defaults, self._generated = eps, generated
        one = self._one = generated is not None
        self._texts: dict[Norm, str] = dict(eps)
        self._norm: Norm = "l2"
        self.path = ""
        """Of the images; empty: the bundled samples."""
        self.images = _combo("Images")
        self.images.addItem(f"Bundled samples ({samples})", "")
        self.images.addItem("Folder…", _FOLDER)
        self.images.addItem("Archive…", _ARCHIVE)
        self.split = QLineEdit()
        self.split.setPlaceholderText("none")
        self.split.setAccessibleName("Split")
        self.split.setAcceptDrops(False)  # what is dropped belongs to the window, wherever it falls
        self.num = _spin("Number of images", 0, 10**9, "all")
        self.batch = _spin("Images at once", 0, 100_000, "auto")
        self.attack = _combo("Attack")
        for name, text in ATTACKS.items():
            self.attack.addItem(text, name)
            self.attack.setItemData(self.attack.count() - 1, _TIPS[name], Qt.ItemDataRole.ToolTipRole)
        self.steps = _spin("Steps of PGD", 1, 10_000)
        self.restarts = _spin("Restarts of PGD", 1, 1000)
        self.norm = _combo("Norm")
        self.norm.addItem("L2", "l2")
        self.norm.addItem("L∞", "linf")
        self.eps = QLineEdit()
        self.eps.setAccessibleName("Radius ε" if one else "Radii ε")
        self.eps.setAcceptDrops(False)
        self.generated = _spin("Images that each model generates", 0, 100_000, "none")
        self.problem = QLabel()
        self.problem.setTextFormat(Qt.TextFormat.RichText)
        self.problem.setWordWrap(True)
        self.problem.hide()
        self._split_label, self._steps_label = muted("Split"), muted("Steps, restarts")
        self._steps = row(self.steps, self.restarts, stretch=-1)
        more = [("Generated", self.generated, "Images that each model generates, from class Gaussians or noise")]
        many = "" if one else ", with commas between; 0 is clean accuracy"
        self.body.addLayout(
            form(
                ("Images", self.images, "Class folders with images, an archive of them, or a torchvision dataset"),
                (self._split_label, self.split, "Such as test, where the data has splits"),
                (
                    "Number, batch",
                    row(self.num, self.batch, stretch=-1),
                    "How many images, evenly over the classes, and how many of them are attacked at once:\n"
                    "more are faster on a GPU, and results come in larger pieces",
                ),
                ("Attack", self.attack, ""),
                (self._steps_label, self._steps, "Restarts begin at other random points; any may succeed"),
                ("Norm", self.norm, "In which the size of a change is measured"),
                ("ε", self.eps, f"In pixel units of [0,1], such as 0.5 or 8/255{many}"),
                *(more if one else []),
            )
        )
        self.body.addWidget(self.problem)
        for combo in (self.images, self.attack, self.norm):
            combo.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # after a click, Space measures again
        self.images.activated.connect(self._images_chosen)
        self.split.textEdited.connect(self._touched)
        for spin in (self.num, self.batch, self.steps, self.restarts, self.generated):
            spin.valueChanged.connect(self._touched)
            spin.lineEdit().returnPressed.connect(spin.clearFocus)
        self.attack.activated.connect(self._touched)
        self.norm.activated.connect(self._norm_chosen)
        self.eps.textEdited.connect(self._touched)
        for line in (self.split, self.eps):
            line.returnPressed.connect(line.clearFocus)
        self.show_settings(SetSettings())

    # ---- what is asked for -------------------------------------------------------------------------------------------

    def wanted_data(self) -> Data:
        split = self.split.text().strip() if self.path else ""
        return Data(self.path, split or None, self.num.value() or None)

    def wanted_attack(self) -> Attack:
        name: AttackName = self.attack.currentData()
        if name != "pgd":
            return Attack(name=name, norm=self._norm)
        return Attack(name=name, norm=self._norm, steps=self.steps.value(), restarts=self.restarts.value())

    def wanted_eps(self) -> tuple[float, ...]:
        """Raises Refused if what is written is no radius, or more than one where one is wanted."""
        found = radii(self.eps.text())
        if self._one and len(found) > 1:
            raise Refused("One ε is wanted here: leave the others out.")
        return found

    @property
    def settings(self) -> SetSettings:
        """All of it, to be remembered."""
        return SetSettings(
            self.path,
            self.split.text(),
            self.num.value(),
            self.batch.value(),
            self.attack.currentData(),
            self.steps.value(),
            self.restarts.value(),
            self._norm,
            self._texts | {self._norm: self.eps.text()},
            self.generated.value() if self._one else None,
        )

    def show_settings(self, settings: SetSettings) -> None:
        """Set every field without announcing it."""
        self._show_path(settings.path)
        self._norm = settings.norm
        self._texts = self._defaults | settings.eps
        self.norm.setCurrentIndex(self.norm.findData(settings.norm))
        self.attack.setCurrentIndex(self.attack.findData(settings.attack))
        self.split.setText(settings.split)
        self.eps.setText(self._texts[self._norm])
        for spin, value in (
            (self.num, settings.num), (self.batch, settings.batch), (self.steps, settings.steps),
            (self.restarts, settings.restarts),
            (self.generated, self._generated or 0 if settings.generated is None else settings.generated),
        ):  # fmt: skip
            with QSignalBlocker(spin):
                spin.setValue(value)
        self._follow()

    @Slot(str)
    def choose_path(self, path: str) -> None:
        """A folder or an archive that the person chose."""
        if path != self.path:
            self.split.clear()
        if path and not self.path and not self.num.value():
            with QSignalBlocker(self.num):
                self.num.setValue(_MANY)
        self._show_path(path)
        self._touched()

    def say(self, problem: str) -> None:
        """A sentence on what cannot be measured as it is asked for; empty: nothing is wrong."""
        shown = f"<span style='color: {theme.now().red}'>✕</span> {html.escape(problem)}" if problem else ""
        self.problem.setText(shown)
        self.problem.setVisible(bool(problem))

    # ---- keeping it consistent ---------------------------------------------------------------------------------------

    def _show_path(self, path: str) -> None:
        """Offer it in the list, and choose it."""
        index = self.images.findData(path)
        if index < 0:
            if self.images.count() > 3:
                self.images.removeItem(1)
            index = 1
            self.images.insertItem(index, self._elided(path), path)
            self.images.setItemData(index, path, Qt.ItemDataRole.ToolTipRole)
        self.images.setCurrentIndex(index)
        self.path = path
        self.images.setToolTip(path or "Images that come with the program")
        self._follow()

    def _elided(self, path: str) -> str:
        name = Path(path).name or path
        return self.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, 130)

    @Slot(int)
    def _images_chosen(self, index: int) -> None:
        data: Any = self.images.itemData(index)
        if data in (_FOLDER, _ARCHIVE):
            self.images.setCurrentIndex(self.images.findData(self.path))
            (self.folder_wanted if data == _FOLDER else self.archive_wanted).emit()
        else:
            self.choose_path(data)

    @Slot()
    def _norm_chosen(self) -> None:
        """Each norm has radii of its own."""
        self._texts[self._norm] = self.eps.text()
        self._norm = self.norm.currentData()
        self.eps.setText(self._texts[self._norm])
        self._touched()

    @Slot()
    def _touched(self) -> None:
        self._follow()
        self.changed.emit()

    def _follow(self) -> None:
        """Only what matters is shown."""
        pgd = self.attack.currentData() == "pgd"
        shown: tuple[tuple[QWidget, bool], ...] = (
            (self._split_label, bool(self.path)), (self.split, bool(self.path)),
            (self._steps_label, pgd), (self._steps, pgd),
        )  # fmt: skip
        for widget, on in shown:
            widget.setVisible(on)
        self.attack.setToolTip(_TIPS[self.attack.currentData()])


def _combo(name: str) -> QComboBox:
    combo = QComboBox()
    combo.setAccessibleName(name)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def _spin(name: str, low: int, high: int, at_zero: str = "") -> QSpinBox:
    spin = QSpinBox()
    spin.setRange(low, high)
    spin.setSpecialValueText(at_zero)
    spin.setAccessibleName(name)
    spin.setKeyboardTracking(False)
    spin.setGroupSeparatorShown(True)
    spin.setMinimumWidth(60)
    return spin
