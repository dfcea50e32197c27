"""What a table is to be of: rows, how many samples, what they are compared with and by whose features, and where."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from PySide6.QtCore import QSignalBlocker, Qt, Signal, Slot
from PySide6.QtWidgets import QComboBox, QLabel, QLineEdit, QPushButton, QSizePolicy, QSpinBox, QWidget

from cem_core.cluster import LOCAL, MAX_WORKERS, Where
from cem_core.evaluation.requests import INCEPTION, MAX_NUM
from cem_core.messages import Refused
from cem_core.probes.requests import Data, Subject
from cem_gui import theme
from cem_gui.widgets.card import Card, form, muted, row
from cem_gui.widgets.elided import Elided, ElidedBox
from cem_gui.widgets.row_list import RowList

_FOLDER, _ARCHIVE, _MODEL, _WEIGHTS, _CLUSTER = "\0folder", "\0archive", "\0model", "\0weights", "\0cluster"
"""Not paths, whatever the system."""
_SEEDS: Final = 100
_ROWS: Final = 150
"""Least height of the list of rows."""


class TableSettings(msgspec.Struct, frozen=True):
    """What is asked for besides the rows, as it is remembered."""

    num: int = 500
    """Samples of each row and seed: enough to see something within minutes; papers take 50,000."""
    seeds: int = 1
    path: str = ""
    """Of the reference images; empty: none are chosen."""
    split: str = ""
    images: int = 0
    """Reference images; 0: all."""
    extractor: str = ""
    """Empty: a model that no row samples."""
    weights: str = ""
    """Of Inception; empty: those in torch's cache."""
    where: str = ""
    """As `Where.address`, or something that stands for `address`."""
    address: str = ""
    workers: int = 0
    """0: as many as suit."""


class TableChoice(Card):
    """Only what the person changes is announced."""

    changed = Signal()
    reference_wanted = Signal(bool)
    """Choose reference images; of an archive."""
    model_wanted = Signal()
    """Choose the file of an extractor,"""
    weights_wanted = Signal()
    """or of Inception's weights."""
    folder_wanted = Signal()
    """Choose the folder of the results."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Settings", parent)
        self.path = ""
        self.weights = ""
        self._models: Sequence[tuple[str, str]] = ()
        self._suggested = ""
        self._extractor = ""
        """As in the settings."""
        self.rows = RowList()
        self.rows.setMinimumHeight(_ROWS)
        self.num = _spin("Samples of each row and seed", 1, MAX_NUM)
        self.num.setSingleStep(500)
        self.seeds = _spin("Seeds", 1, _SEEDS)
        self.reference = _combo("Reference images")
        self.split = _line("Split", "none")
        self.images = _spin("Number of reference images", 0, 10**9, "all")
        self.images.setSingleStep(1000)
        self.extractor = _combo("Whose features are compared")
        self.where = _combo("Where it is worked on")
        for text, address in (("This window", ""), ("Processes, by Ray", LOCAL), ("A Ray cluster", _CLUSTER)):
            self.where.addItem(text, address)
        self.address = _line("Address of the Ray cluster", "host:port, or auto")
        self.workers = _spin("Workers", 0, MAX_WORKERS, "auto")
        self.folder = Elided(mode=Qt.TextElideMode.ElideMiddle)
        self.folder_button = QPushButton("Choose…")
        self.folder_button.setAccessibleName("Choose the folder of the results")
        self.folder_button.setToolTip("A new folder for the results; or that of a table, to see it and go on with it")
        self.problem = QLabel()
        self.problem.setTextFormat(Qt.TextFormat.RichText)
        self.problem.setWordWrap(True)
        self.problem.hide()
        self._split_label, self._workers_label, self._address_label = map(
            muted, ("Split, number", "Workers", "Address")
        )
        self._split_row = row(self.split, self.images, stretch=-1)
        self.body.addWidget(self.rows, 1)
        self.body.addLayout(
            form(
                (
                    "Samples, seeds",
                    row(self.num, self.seeds, stretch=-1),
                    "So many samples of each row, and that with so many seeds:\nan interval needs at least two of them",
                ),
                ("Reference", self.reference, "Real images: class folders, an archive of them, or a torchvision "
                 "dataset"),
                (self._split_label, self._split_row, "Such as train, where the data has splits; and how many images"),
                ("Features of", self.extractor, "The model in whose features distances are measured, best one that no "
                 "row samples.\nOnly with Inception's are they called FID, KID and Inception score"),
                ("Works in", self.where, "A long evaluation can be handed over to Ray, on this machine or a cluster"),
                (self._address_label, self.address, "Of the cluster, which this machine must belong to; auto finds it"),
                (self._workers_label, self.workers, "How many work at once; auto: one for each GPU, or where there is "
                 "none, for two cores"),
                ("Results in", row(self.folder, self.folder_button), "Samples, features and tables are kept there: the "
                 "same folder goes on where it was left"),
            )
        )  # fmt: skip
        self.body.addWidget(self.problem)
        self._connect()
        self.show_settings(TableSettings())

    def _connect(self) -> None:
        for combo in (self.reference, self.extractor, self.where):
            combo.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # after a click, Space begins
        self.rows.changed.connect(self.changed)
        self.reference.activated.connect(self._reference_chosen)
        self.extractor.activated.connect(self._extractor_chosen)
        self.where.activated.connect(self._touched)
        for spin in (self.num, self.seeds, self.images, self.workers):
            spin.valueChanged.connect(self._touched)
            spin.lineEdit().returnPressed.connect(spin.clearFocus)
        for line in (self.split, self.address):
            line.textEdited.connect(self._touched)
            line.returnPressed.connect(line.clearFocus)
        self.folder_button.clicked.connect(self.folder_wanted)

    # ---- what is asked for -------------------------------------------------------------------------------------------

    def wanted_reference(self) -> Data:
        """Raises Refused while none is chosen."""
        if not self.path:
            raise Refused("Choose reference images to compare the samples with.")
        return Data(self.path, self.split.text().strip() or None, self.images.value() or None)

    def wanted_extractor(self) -> Subject:
        reference = self._extractor or self._suggested
        return Subject(reference, {"weights": self.weights} if reference == INCEPTION and self.weights else {})

    def wanted_where(self) -> Where:
        """Raises Refused if there is no address."""
        where = self.where.currentData()
        if where == _CLUSTER and not self.address.text().strip():
            raise Refused("Give the address of the Ray cluster, such as 10.0.0.1:6379, or auto.")
        address = self.address.text().strip() if where == _CLUSTER else where
        return Where(address, (self.workers.value() or None) if address else None)

    @property
    def settings(self) -> TableSettings:
        """All of it, to be remembered."""
        return TableSettings(
            num=self.num.value(),
            seeds=self.seeds.value(),
            path=self.path,
            split=self.split.text(),
            images=self.images.value(),
            extractor=self._extractor,
            weights=self.weights,
            where=self.where.currentData(),
            address=self.address.text(),
            workers=self.workers.value(),
        )

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def show_settings(self, settings: TableSettings) -> None:
        """Set every field without announcing it."""
        self.weights, self._extractor = settings.weights, settings.extractor
        self.where.setCurrentIndex(max(0, self.where.findData(settings.where)))
        self.split.setText(settings.split)
        self.address.setText(settings.address)
        for spin, value in (
            (self.num, settings.num), (self.seeds, settings.seeds), (self.images, settings.images),
            (self.workers, settings.workers),
        ):  # fmt: skip
            with QSignalBlocker(spin):
                spin.setValue(value)
        self._show_path(settings.path)
        self._show_extractors()
        self._follow()

    def show_models(self, models: Sequence[tuple[str, str]], suggested: str) -> None:
        """What may give features, as (what is shown, reference); suggested: unless somebody says otherwise."""
        self._models, self._suggested = models, suggested
        self._show_extractors()

    def show_folder(self, folder: str) -> None:
        self.folder.setText(folder)
        self.folder.setToolTip(folder)

    def choose_reference(self, path: str) -> None:
        """A folder or an archive that the person chose."""
        if path != self.path:
            self.split.clear()
        self._show_path(path)
        self._touched()

    def choose_extractor(self, reference: str) -> None:
        """A model that the person chose."""
        self._extractor = reference
        self._show_extractors()
        self._touched()

    def choose_weights(self, path: str) -> None:
        """Of Inception; empty: those in torch's cache."""
        self.weights = path
        self.choose_extractor(INCEPTION)

    def say(self, problem: str) -> None:
        """A sentence on what cannot be evaluated as it is asked for; empty: nothing is wrong."""
        shown = f"<span style='color: {theme.now().red}'>✕</span> {html.escape(problem)}" if problem else ""
        self.problem.setText(shown)
        self.problem.setVisible(bool(problem))

    # ---- keeping it consistent ---------------------------------------------------------------------------------------

    def _show_path(self, path: str) -> None:
        self.path = path
        self.reference.clear()
        self.reference.addItem(Path(path).name or path if path else "None chosen", path)
        self.reference.addItem("Folder…", _FOLDER)
        self.reference.addItem("Archive…", _ARCHIVE)
        self.reference.setToolTip(path or "Real images that the samples are compared with")

    def _show_extractors(self) -> None:
        chosen = self._extractor or self._suggested
        listed = [*self._models, ("Inception", INCEPTION)]
        if chosen and chosen not in {reference for _, reference in listed}:
            listed.insert(0, (Path(chosen).name, chosen))
        self.extractor.clear()
        for text, reference in listed:
            self.extractor.addItem(text, reference)
            self.extractor.setItemData(self.extractor.count() - 1, reference, Qt.ItemDataRole.ToolTipRole)
        self.extractor.addItem("Model file…", _MODEL)
        self.extractor.addItem("Inception's weights…", _WEIGHTS)
        if self.weights:
            at = self.extractor.findData(INCEPTION)
            self.extractor.setItemText(at, f"Inception ({Path(self.weights).name})")
            self.extractor.setItemData(at, self.weights, Qt.ItemDataRole.ToolTipRole)
        self.extractor.setCurrentIndex(max(0, self.extractor.findData(chosen)))
        self.extractor.setToolTip(str(self.extractor.currentData(Qt.ItemDataRole.ToolTipRole) or ""))

    @Slot(int)
    def _reference_chosen(self, index: int) -> None:
        data: Any = self.reference.itemData(index)
        if data in (_FOLDER, _ARCHIVE):
            self.reference.setCurrentIndex(0)
            self.reference_wanted.emit(data == _ARCHIVE)

    @Slot(int)
    def _extractor_chosen(self, index: int) -> None:
        data: Any = self.extractor.itemData(index)
        if data in (_MODEL, _WEIGHTS):
            self._show_extractors()
            (self.model_wanted if data == _MODEL else self.weights_wanted).emit()
        else:
            self.choose_extractor(data)

    @Slot()
    def _touched(self) -> None:
        self._follow()
        self.changed.emit()

    def _follow(self) -> None:
        """Only what matters is shown."""
        where = self.where.currentData()
        shown: tuple[tuple[QWidget, bool], ...] = (
            (self._split_label, bool(self.path)), (self._split_row, bool(self.path)),
            (self._workers_label, bool(where)), (self.workers, bool(where)),
            (self._address_label, where == _CLUSTER), (self.address, where == _CLUSTER),
        )  # fmt: skip
        for widget, on in shown:
            widget.setVisible(on)


def _combo(name: str) -> QComboBox:
    combo = ElidedBox()
    combo.setAccessibleName(name)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    combo.setMaxVisibleItems(20)
    return combo


def _line(name: str, placeholder: str) -> QLineEdit:
    line = QLineEdit()
    line.setPlaceholderText(placeholder)
    line.setAccessibleName(name)
    line.setAcceptDrops(False)  # what is dropped belongs to the window, wherever it falls
    return line


def _spin(name: str, low: int, high: int, at_zero: str = "") -> QSpinBox:
    spin = QSpinBox()
    spin.setRange(low, min(high, 2**31 - 1))
    spin.setSpecialValueText(at_zero)
    spin.setAccessibleName(name)
    spin.setKeyboardTracking(False)
    spin.setGroupSeparatorShown(True)
    spin.setMinimumWidth(60)
    return spin
