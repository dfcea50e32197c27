"""Accuracy against ε: curves, numbers and how far to trust them."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QBrush, QColor
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from cem_core import bundle
from cem_core.messages import NORMS, Norm
from cem_core.probes.report import Report, attack_told, told
from cem_core.probes.results import Light, Point, worst
from cem_gui import theme
from cem_gui.widgets import lights
from cem_gui.widgets.band_plot import SYMBOLS, BandCurve, BandPlot
from cem_gui.widgets.card import Card, small
from cem_gui.widgets.class_bars import ClassBars
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.lights import LightsView
from cem_gui.widgets.measure_view import MeasureView
from cem_gui.widgets.set_choice import SetChoice

_EMPTY: Final = (
    "How many of the images each model still classifies rightly when they are changed by up to ε, with 95 % bands, and "
    "how far to trust each number.\nPress Measure, or Space."
)
_MODEL, _EPS, _ACCURACY, _BAND, _IMAGES, _LIGHTS = range(6)
_KEY: Final = Qt.ItemDataRole.UserRole


class AccuracyPanel(MeasureView):
    def __init__(self, parent: QWidget | None = None) -> None:
        radii: dict[Norm, str] = {"l2": "0, 0.25, 0.5, 1", "linf": "0, 1/255, 2/255, 4/255, 8/255"}
        super().__init__(SetChoice(radii, len(bundle.samples())), _EMPTY, parent)
        self.plot = BandPlot("Accuracy")
        self.table = QTreeWidget()
        self.table.setAccessibleName("Accuracy of each model at each ε")
        self.table.setHeaderLabels(["Model", "ε", "Accuracy", "95 % band", "Images", "Lights"])
        self.table.setRootIsDecorated(False)
        self.table.setUniformRowHeights(True)
        self.table.setAllColumnsShowFocus(True)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        header = self.table.header()
        header.setStretchLastSection(False)
        header.setSectionsMovable(False)
        for column in range(6):
            mode = QHeaderView.ResizeMode.Stretch if column == _MODEL else QHeaderView.ResizeMode.ResizeToContents
            header.setSectionResizeMode(column, mode)
        self.table.itemClicked.connect(self._picked)
        self.table.currentItemChanged.connect(self._show_chosen)
        self.chosen = Elided(mode=Qt.TextElideMode.ElideMiddle)
        self.lights = LightsView()
        self.classes = ClassBars()
        self._report: Report | None = None
        self._is_picked = False
        self._rows: dict[tuple[int, float], tuple[QTreeWidgetItem, Point, tuple[Light, ...]]] = {}
        self._lay_out_results()

    def _lay_out_results(self) -> None:
        trust, each = Card("Why trust this?"), Card("Per class, worst first")
        trust.body.addWidget(self.chosen)
        trust.body.addWidget(self.lights, 1)
        each.body.addWidget(self.classes, 1)
        numbers = Card("Numbers")
        numbers.head.addWidget(small("● fine  ○ unknown  ▲ doubt  ✕ alarm"))
        numbers.body.addWidget(self.table, 1)
        left, right = QVBoxLayout(), QVBoxLayout()
        for column, parts in ((left, (self.plot, numbers)), (right, (trust, each))):
            column.setSpacing(8)
            for part, stretch in zip(parts, (3, 2), strict=True):
                column.addWidget(part, stretch)
        for part in (trust, each):
            part.setFixedWidth(300)
        both = QHBoxLayout(self.results)
        both.setContentsMargins(0, 0, 0, 0)
        both.setSpacing(8)
        both.addLayout(left, 1)
        both.addLayout(right)

    def restyle(self) -> None:
        """Take the colours in force."""
        self.plot.restyle()
        self.lights.restyle()
        self.classes.viewport().update()
        for (subject, _), (item, _, seen) in self._rows.items():
            _paint(item, subject, seen)

    def show_report(self, report: Report, *, so_far: bool, stale: bool) -> None:
        """All that is known.

        Args:
            so_far: it is still being measured, or was cancelled.
            stale: what is chosen is not what was measured.
        """
        if report is not self._report:
            self._report, self._is_picked = report, False
            self._rows.clear()
            self.table.clear()
        points = [report.points(number) for number in range(len(report.names))]
        images = report.begun.images - len(report.skipped)
        curves = [BandCurve(name, known) for name, known in zip(report.names, points, strict=True)]
        self.plot.show_curves(curves, report.eps, report.request.attack.norm, _about(report, points, so_far, stale))
        for subject, known in enumerate(points):
            for point in known:
                self._show_row(report, subject, point, images)
        if not self._is_picked and self._rows:
            last = max((key for key in self._rows if key[0] == min(self._rows)[0]), key=lambda key: key[1])
            self.table.setCurrentItem(self._rows[last][0])
        self._show_chosen()
        self.show_notes(report.notes, report.skipped)
        self.show_results(True)

    def _show_row(self, report: Report, subject: int, point: Point, images: int) -> None:
        seen = (*report.lights.get(subject, ()), *point.lights)
        key = (subject, point.eps)
        if key not in self._rows:
            item = QTreeWidgetItem()
            item.setData(0, _KEY, key)
            for column in (_EPS, _ACCURACY, _BAND, _IMAGES):
                item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.table.insertTopLevelItem(sum(other < key for other in self._rows), item)
        else:
            item = self._rows[key][0]
        self._rows[key] = item, point, seen
        low, high = point.band
        name = report.names[subject]
        texts = (
            f"{SYMBOLS[subject]}  {name}",
            told(point.eps, report.request.attack.norm),
            f"{100 * point.accuracy:.1f} %",
            f"{100 * low:.1f}–{100 * high:.1f} %",
            f"{point.total:,}" if point.total >= images else f"{point.total:,} of {images:,}",
            lights.in_short(seen),
        )
        for column, text in enumerate(texts):
            item.setText(column, text)
        item.setToolTip(_MODEL, name)
        item.setToolTip(_LIGHTS, lights.in_full(seen))
        _paint(item, subject, seen)

    @Slot(object)
    def _picked(self, item: QTreeWidgetItem) -> None:
        self._is_picked = True

    @Slot()
    def _show_chosen(self) -> None:
        """The lights and classes of the chosen row."""
        item, report = self.table.currentItem(), self._report
        if item is None or report is None or item.data(0, _KEY) not in self._rows:
            self.chosen.setText("")
            self.lights.show_lights(())
            self.classes.show_shares((), ())
            return
        subject, eps = item.data(0, _KEY)
        _, point, seen = self._rows[subject, eps]
        where = told(eps, report.request.attack.norm)
        said = f"{100 * point.accuracy:.1f} % at ε = {where}: {report.names[subject]}"
        self.chosen.setText(said)
        self.chosen.setToolTip(said)
        self.lights.show_lights(seen)
        self.classes.show_shares(report.begun.classes, point.per_class)


def _paint(item: QTreeWidgetItem, subject: int, seen: tuple[Light, ...]) -> None:
    item.setForeground(_MODEL, QBrush(QColor(theme.of_model(subject))))
    item.setForeground(_LIGHTS, QBrush(QColor(lights.colour(worst(seen)) if seen else theme.now().muted)))


def _about(report: Report, points: list[list[Point]], so_far: bool, stale: bool) -> str:
    request, images = report.request, report.begun.images - len(report.skipped)
    least = min((point.total for known in points for point in known), default=0)
    count = f"{least:,} of {images:,} images so far" if so_far else f"{images:,} images"
    parts = [attack_told(request.attack), NORMS[request.attack.norm], count, "95 % bands (Wilson)"]
    if stale:
        parts.append("not yet measured with what is chosen now")
    return " · ".join(parts)
