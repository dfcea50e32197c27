"""The choices of an export, asked before it begins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from cem_core.export import FORMATS, Export, Format, Progress
from cem_gui.widgets.card import row

_FORMATS: Final[dict[Format, str]] = {
    "png": "PNG sequence: every step of every chain, lossless, with the settings inside",
    "apng": "Animation (APNG) of all chains, lossless",
    "sheet": "Contact sheet with step numbers",
    "csv": "Curves as CSV",
}


class ExportDialog(QDialog):
    """Asks; `choices` and `folder` hold the answer."""

    def __init__(self, recorded: int, folder: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Export the run")
        self.formats = {name: QCheckBox(text) for name, text in _FORMATS.items()}
        for box in self.formats.values():
            box.setChecked(True)
        self.first, self.last = QSpinBox(), QSpinBox()
        for spin, name in ((self.first, "First step"), (self.last, "Last step")):
            spin.setRange(0, recorded - 1)
            spin.setAccessibleName(name)
        self.last.setValue(recorded - 1)
        self.every = QSpinBox()
        self.every.setRange(1, max(1, recorded))
        self.scale = QSpinBox()
        self.scale.setRange(0, 64)
        self.scale.setSpecialValueText("automatic")
        self.scale.setPrefix("×")
        self.fps = QDoubleSpinBox()
        self.fps.setRange(0.5, 100)
        self.fps.setDecimals(1)
        self.fps.setValue(20)
        self.folder_field = QLineEdit(str(folder))
        self.folder_field.setMinimumWidth(380)
        self.folder_field.setAccessibleName("Folder")
        browse = QPushButton("Browse…")
        browse.clicked.connect(self._browse)
        self.problem = QLabel()
        self.problem.setObjectName("muted")
        self.problem.setWordWrap(True)

        form = QFormLayout()
        form.setHorizontalSpacing(16)
        form.setVerticalSpacing(9)
        for i, box in enumerate(self.formats.values()):
            form.addRow("Write" if i == 0 else "", box)
        form.addRow("Steps", row(self.first, QLabel("to"), self.last, stretch=-1))
        form.addRow("Take every n-th", self.every)
        form.addRow("Enlarge animation and sheet", self.scale)
        form.addRow("Pictures a second", self.fps)
        form.addRow("Into the folder", row(self.folder_field, browse))
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.accept_button = self.buttons.addButton("Export", QDialogButtonBox.ButtonRole.AcceptRole)
        self.accept_button.setObjectName("primary")
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 18, 20, 16)
        layout.setSpacing(14)
        layout.addLayout(form)
        layout.addWidget(self.problem)
        layout.addWidget(self.buttons)
        for spin in (self.first, self.last):
            spin.valueChanged.connect(self._follow)
        self.folder_field.textChanged.connect(self._follow)
        self._follow()

    @property
    def choices(self) -> Export:
        return Export(
            formats=tuple(name for name in FORMATS if self.formats[name].isChecked()),
            first=self.first.value(),
            last=self.last.value(),
            every=self.every.value(),
            scale=self.scale.value() or None,
            fps=self.fps.value(),
        )

    @property
    def folder(self) -> Path:
        folder = self._folder()
        assert folder is not None, "the dialog cannot be accepted without one"
        return folder

    def _folder(self) -> Path | None:
        try:
            return Path(self.folder_field.text().strip()).expanduser()
        except RuntimeError:  # ~somebody who is not there
            return None

    def _browse(self) -> None:
        parent = QFileDialog.getExistingDirectory(
            self, "Export into a new folder in", str((self._folder() or Path.home()).parent)
        )
        if parent:
            self.folder_field.setText(str(Path(parent) / (self._folder() or Path("export")).name))

    def _follow(self) -> None:
        problem = ""
        if self.first.value() > self.last.value():
            problem = "The first step must not come after the last."
        elif not self.folder_field.text().strip():
            problem = "Choose a folder."
        elif self._folder() is None:
            problem = "There is no such home folder: write the path in full."
        self.problem.setText(problem or "run.json with all settings is always written.")
        self.accept_button.setEnabled(not problem)


class ExportRow(QWidget):
    """An export in progress: what, how far, and a way to end it."""

    cancelled = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.what = QLabel()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedWidth(160)
        self.bar.setAccessibleName("Progress of the export")
        self.cancel = QPushButton("Cancel export")
        self.cancel.clicked.connect(self.cancelled)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        for widget in (self.what, self.bar, self.cancel):
            row.addWidget(widget)

    def begin(self) -> None:
        self.bar.setRange(0, 0)
        self.what.setText("Exporting")
        self.show()

    @Slot(object)
    def show_progress(self, progress: Progress) -> None:
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        self.what.setText(f"Exporting · {progress.what}")


def folder_name(sampler: str, targets: list[str]) -> str:
    """A name for a new export, such as `ta-horse`."""
    words = [sampler, *targets[:2]] if len(targets) <= 2 else [sampler, f"{len(targets)} classes"]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
