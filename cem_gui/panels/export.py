"""The choices of an export, asked before it begins."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import msgspec
from PySide6.QtCore import QSize, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from cem_core.export import (
    DEFAULT,
    FORMATS,
    GAINS,
    KINDS,
    LAYOUTS,
    LONGEST_HOLD,
    Export,
    Format,
    Group,
    Layout,
    Progress,
    missing,
)
from cem_core.messages import Refused
from cem_core.session import Session
from cem_gui.widgets.card import form, heading, row, small
from cem_gui.widgets.image_grid import to_image

_GROUPS: Final[dict[Group, str]] = {
    "images": "Images",
    "animation": "Animation",
    "video": "Video",
    "data": "Numbers and curves",
}
_SETTLE_MS: Final = 250
_PREVIEW: Final = QSize(372, 172)
_SIDE: Final = 128
"""Pixels, about, of an image of the preview before it is fitted."""
_REMARKS: Final[dict[Format, str]] = {
    "png": "lossless, carries its run",
    "sheet": "up to ten steps, carries its run",
    "apng": "lossless, carries its run",
    "webp": "lossless, carries its run",
    "webp-lossy": "changes pixels, carries its run",
    "gif": "changes pixels",
    "mp4": "changes pixels",
    "ffv1": "lossless",
    "vp9": "lossless",
    "csv": "every number and event",
    "svg": "E(x), E(x,y), log p, distance",
    "plot": "the same, carries its run",
}


class ExportDialog(QDialog):
    """Asks; `choices` and `folder` hold the answer."""

    measure_wanted = Signal(object)
    """Export, with lossy formats only: `show_fidelity` is to be told what each keeps."""

    def __init__(self, session: Session, folder: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Export the run")
        self._session = session
        self._recorded = recorded = len(session)
        self._measured: Export | None = None
        self._make_formats()
        self.first, self.last = QSpinBox(), QSpinBox()
        for spin, name in ((self.first, "First step"), (self.last, "Last step")):
            spin.setRange(0, recorded - 1)
            spin.setAccessibleName(name)
        self.last.setValue(recorded - 1)
        self.every = QSpinBox()
        self.every.setRange(1, max(1, recorded))
        self.layouts = QComboBox()
        for layout, title in LAYOUTS.items():
            self.layouts.addItem(title, layout)
        self.gain = QComboBox()
        self.layouts.setAccessibleName("Frame")
        self.gain.setAccessibleName("Amplification of the difference")
        for gain in GAINS:
            self.gain.addItem(f"×{gain}", gain)
        self.gain.setCurrentText(f"×{Export().gain}")
        self.captions = QCheckBox("Captions: step, p(target), E(x)")
        self.scale = QSpinBox()
        self.scale.setRange(0, 64)
        self.scale.setSpecialValueText("automatic")
        self.scale.setPrefix("×")
        self.scale.setAccessibleName("Enlarge")
        self.size_label = small()
        self.fps = QDoubleSpinBox()
        self.fps.setRange(0.5, 100)
        self.fps.setDecimals(1)
        self.fps.setValue(20)
        self.fps.setAccessibleName("Frames a second")
        self.hold = QDoubleSpinBox()
        self.hold.setRange(0, LONGEST_HOLD)
        self.hold.setDecimals(1)
        self.hold.setSingleStep(0.5)
        self.hold.setSuffix(" s")
        self.hold.setAccessibleName("Hold the ends")
        self.ease = QCheckBox("Begin and end slowly")
        self.loop = QCheckBox("Loop")
        self.loop.setChecked(True)
        self.length_label = small()
        self.preview = QLabel()
        self.preview.setFixedSize(_PREVIEW)
        self.preview.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.preview.setAccessibleName("Preview of a frame")
        self.folder_field = QLineEdit(str(folder))
        self.folder_field.setMinimumWidth(380)
        self.folder_field.setAccessibleName("Folder")
        browse = QPushButton("Browse…")
        browse.clicked.connect(self._browse)
        self.problem = QLabel()
        self.problem.setObjectName("muted")
        self.problem.setWordWrap(True)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.accept_button = self.buttons.addButton("Export", QDialogButtonBox.ButtonRole.AcceptRole)
        self.accept_button.setObjectName("primary")
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self._lay_out(browse)

        self._settled = QTimer(self)
        self._settled.setSingleShot(True)
        self._settled.setInterval(_SETTLE_MS)
        self._settled.timeout.connect(self._ask_fidelity)
        for number in (self.first, self.last, self.every, self.scale, self.fps, self.hold):
            number.valueChanged.connect(self._follow)
        for combo in (self.layouts, self.gain):
            combo.currentIndexChanged.connect(self._follow)
        for check in (*self.formats.values(), self.captions, self.ease, self.loop):
            check.toggled.connect(self._follow)
        self.folder_field.textChanged.connect(self._follow)
        self._follow()

    def _make_formats(self) -> None:
        self.formats: dict[Format, QCheckBox] = {}
        self.remarks: dict[Format, QLabel] = {}
        """Of lossy formats that are chosen: what they keep."""
        for name in FORMATS:
            box = QCheckBox(KINDS[name].title)
            box.setChecked(name in DEFAULT)
            remark = small(_REMARKS[name])
            if sentence := missing(name):
                box.setEnabled(False)
                box.setToolTip(sentence)
            self.formats[name], self.remarks[name] = box, remark

    def _lay_out(self, browse: QPushButton) -> None:
        formats = QGridLayout()
        formats.setHorizontalSpacing(14)
        formats.setVerticalSpacing(5)
        formats.setColumnMinimumWidth(1, self._widest_remark())
        formats.setColumnStretch(1, 1)
        line = 0
        for group in get_args(Group):
            if line:
                formats.setRowMinimumHeight(line, 8)
            formats.addWidget(heading(_GROUPS[group]), line + 1, 0, 1, 2)
            line += 2
            of_group = [name for name in FORMATS if KINDS[name].group == group]
            for name in of_group:
                formats.addWidget(self.formats[name], line, 0)
                formats.addWidget(self.remarks[name], line, 1)
                line += 1
            if sentence := missing(of_group[0]):
                why = small(sentence)
                why.setWordWrap(True)
                formats.addWidget(why, line, 0, 1, 2)
                line += 1
        formats.setRowStretch(line, 1)

        choices = form(
            ("Steps", row(self.first, QLabel("to"), self.last, stretch=-1), "The first and the last to export."),
            ("Every n-th", self.every, "Leave steps out; the last is always there."),
            ("Frame", row(self.layouts, self.gain, stretch=0), "What animations and videos show of each chain."),
            ("", self.captions, "Below each image of animations and videos."),
            ("Enlarge", row(self.scale, self.size_label, stretch=1), "Each pixel becomes a square of so many."),
            ("Frames a second", row(self.fps, self.length_label, stretch=1), ""),
            ("Hold the ends", row(self.hold, self.ease, stretch=1), "The first and last frame stay longer."),
            ("", self.loop, "Animations play again and again."),
        )
        right = QVBoxLayout()
        right.setSpacing(8)
        right.addWidget(self.preview, 0, Qt.AlignmentFlag.AlignHCenter)
        right.addLayout(choices)
        right.addStretch(1)
        columns = QHBoxLayout()
        columns.setSpacing(28)
        columns.addLayout(formats)
        columns.addLayout(right)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 18, 20, 16)
        layout.setSpacing(12)
        layout.addLayout(columns)
        layout.addLayout(form(("Folder", row(self.folder_field, browse), "Made anew; an earlier export is replaced.")))
        layout.addWidget(self.problem)
        layout.addWidget(self.buttons)

    def _widest_remark(self) -> int:
        return self.remarks["gif"].fontMetrics().horizontalAdvance("keeps 100 % of the perturbation (cosine -0.00)")

    @property
    def choices(self) -> Export:
        return Export(
            formats=tuple(name for name in FORMATS if self.formats[name].isChecked()),
            first=self.first.value(),
            last=self.last.value(),
            every=self.every.value(),
            layout=self.layouts.currentData(),
            gain=self.gain.currentData(),
            captions=self.captions.isChecked(),
            scale=self.scale.value() or None,
            fps=self.fps.value(),
            hold=self.hold.value(),
            ease=self.ease.isChecked(),
            loop=self.loop.isChecked(),
        )

    @property
    def folder(self) -> Path:
        folder = self._folder()
        assert folder is not None, "the dialog cannot be accepted without one"
        return folder

    @Slot(object, str, str)
    def show_fidelity(self, choices: Export, format: Format, sentence: str) -> None:
        """Tell what a lossy format keeps with these choices; ignored if others are in force by now."""
        if choices == self._measured:
            self.remarks[format].setText(sentence)

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
        self.gain.setEnabled(self.layouts.currentData() == "difference")
        problem = next(self._problems(), "")
        self.problem.setText(problem or "run.json with all settings is always written.")
        self.accept_button.setEnabled(not problem)
        if not problem:
            self._show_preview()
            self._forget_fidelity()

    def _problems(self) -> Iterator[str]:
        """What keeps the export from beginning, a sentence each."""
        if self.first.value() > self.last.value():
            yield "The first step must not come after the last."
            return
        if not self.folder_field.text().strip():
            yield "Choose a folder."
        elif self._folder() is None:
            yield "There is no such home folder: write the path in full."
        choices = self.choices
        steps = choices.steps(self._recorded)
        seconds = sum(choices.seconds(len(steps)))
        self.length_label.setText(f"{len(steps):,} frame{'' if len(steps) == 1 else 's'}, {seconds:.1f} s")
        try:
            width, height = Layout(self._session, choices, steps).size
        except Refused as refused:
            self.size_label.setText("")
            if {"sheet", *choices.choosing("animation"), *choices.choosing("video")} & set(choices.formats):
                yield str(refused)
        else:
            self.size_label.setText(f"{width:,} × {height:,} pixels")

    def _show_preview(self) -> None:
        """A frame from the middle of the range, of the first chain or two."""
        choices = self.choices
        steps = [index for index in choices.steps(self._recorded) if self._session.kept(index)]
        cell = self._session.start.checkpoint.size
        small_one = msgspec.structs.replace(choices, scale=max(1, min(64, round(_SIDE / cell))))
        try:
            layout = Layout(self._session, small_one, steps, chains=2 if choices.layout == "image" else 1)
            frame = layout.frame(self._session[steps[len(steps) // 2]])
        except (Refused, OSError, IndexError):  # the export says it better
            self.preview.clear()
            return
        self.preview.setPixmap(
            QPixmap.fromImage(to_image(frame)).scaled(
                _PREVIEW, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            )
        )

    def _forget_fidelity(self) -> None:
        """Of other choices than those in force; it is measured again once nothing has changed for a moment."""
        choices = self._to_measure()
        if choices == self._measured:
            return
        self._measured = None
        for name, remark in self.remarks.items():
            if KINDS[name].lossy and not missing(name):
                remark.setText("measuring …" if name in choices.formats else _REMARKS[name])
        self._settled.start()

    def _to_measure(self) -> Export:
        """The choices with lossy formats only, and without what makes no difference to the pixels."""
        choices = self.choices
        lossy = tuple(name for name in choices.formats if KINDS[name].lossy)
        return msgspec.structs.replace(choices, formats=lossy, fps=20, hold=0, ease=False, loop=True)

    @Slot()
    def _ask_fidelity(self) -> None:
        if not self.accept_button.isEnabled():
            return
        choices = self._to_measure()
        if choices.formats:
            self._measured = choices
            self.measure_wanted.emit(choices)


class ExportRow(QWidget):
    """An export in progress: what, how far, how much longer, and a way to end it."""

    cancelled = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._begun = 0.0
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
        self._begun = time.monotonic()
        self.bar.setRange(0, 0)
        self.what.setText("Exporting")
        self.show()

    @Slot(object)
    def show_progress(self, progress: Progress) -> None:
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        busy = time.monotonic() - self._begun
        left = ""
        if progress.done and busy > 1:  # the first second says little about the rest
            left = f" · {busy / progress.done * (progress.total - progress.done):.0f} s left"
        self.what.setText(f"Exporting · {progress.what}{left}")


def folder_name(sampler: str, targets: list[str]) -> str:
    """A name for a new export, such as `ta-horse`."""
    words = [sampler, *targets[:2]] if len(targets) <= 2 else [sampler, f"{len(targets)} classes"]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
