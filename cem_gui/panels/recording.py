"""How runs are kept: whether, where, and how much room they may take."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from PySide6.QtCore import Qt, QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFileDialog,
    QLabel,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from cem_core.sessions import Settings, told_size
from cem_gui.widgets.card import form, row
from cem_gui.widgets.elided import Elided

_GB: Final = 10**9
_MB: Final = 2**20
_FIELD: Final = 130


class RecordingDialog(QDialog):
    """Asks; `records` and `settings` hold the answer."""

    emptied = Signal()
    """What is in the trash should be deleted for good. Nothing takes that back."""

    def __init__(
        self,
        settings: Settings,
        root: Path,
        records: bool,
        taken: int,
        runs: int,
        trash: int,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Recording")
        self._folder = settings.folder
        self.record = QCheckBox("Record every run as it happens")
        self.record.setChecked(records)
        self.record.setToolTip("Off: a run is gone when the program ends. The next run heeds it.")
        self.where = Elided(str(root), Qt.TextElideMode.ElideMiddle)
        self.where.setToolTip(str(root))
        self.where.setMinimumWidth(300)
        self.change = QPushButton("Change…")
        self.change.clicked.connect(self._choose)
        show = QPushButton("Show")
        show.clicked.connect(lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(root))))
        show.setEnabled(root.is_dir())
        self.disk = QDoubleSpinBox()
        self.disk.setRange(0.1, 100_000)
        self.disk.setDecimals(1)
        self.disk.setSuffix(" GB")
        self.disk.setValue(settings.disk / _GB)
        self.disk.setFixedWidth(_FIELD)
        self.disk.setAccessibleName("Room that all runs may take")
        self.memory = QSpinBox()
        self.memory.setRange(16, 1_000_000)
        self.memory.setSingleStep(64)
        self.memory.setSuffix(" MB")
        self.memory.setValue(settings.memory // _MB)
        self.memory.setFixedWidth(_FIELD)
        self.memory.setAccessibleName("Memory for the images of a run")
        share = f"{told_size(taken)} in {runs:,} run{'' if runs == 1 else 's'}"
        self.taken = QLabel(share)
        self.trash = QLabel("empty" if not trash else f"{trash:,} deleted run{'' if trash == 1 else 's'}")
        self.empty = QPushButton("Empty")
        self.empty.setToolTip("Delete them for good: nothing brings them back")
        self.empty.setEnabled(trash > 0)
        self.empty.clicked.connect(self._empty)
        about = QLabel("Nothing is ever deleted by itself. Where runs take more than they may, a message says so.")
        about.setObjectName("muted")
        about.setWordWrap(True)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 18, 20, 16)
        layout.setSpacing(14)
        layout.addWidget(self.record)
        layout.addLayout(
            form(
                ("Folder", row(self.where, self.change, show), ""),
                ("Taken", self.taken, ""),
                ("May take", row(self.disk, QLabel("of the disk"), QLabel(), stretch=2), ""),
                (
                    "Memory",
                    row(self.memory, QLabel("for the images of a run"), QLabel(), stretch=2),
                    "Older steps stay on the disk",
                ),
                ("Trash", row(self.trash, self.empty), ""),
            )
        )
        layout.addWidget(about)
        layout.addStretch(1)
        layout.addWidget(buttons)
        self.setMinimumWidth(540)

    @property
    def records(self) -> bool:
        return self.record.isChecked()

    @property
    def settings(self) -> Settings:
        return Settings(folder=self._folder, disk=round(self.disk.value() * _GB), memory=self.memory.value() * _MB)

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Where runs are kept", self.where.text())
        if folder:
            self._folder = folder
            self.where.setText(folder)
            self.where.setToolTip(folder)

    def _empty(self) -> None:
        self.empty.setEnabled(False)
        self.trash.setText("empty")
        self.emptied.emit()
