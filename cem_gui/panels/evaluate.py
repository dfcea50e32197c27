"""A table of how near samples are to real images: what it is of, how far it is, and the samples themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from PySide6.QtCore import QRect, QSignalBlocker, QSize, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent, QMouseEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from cem_gui.widgets.card import Card, muted, small
from cem_gui.widgets.class_grid import ClassGrid, ClassRow
from cem_gui.widgets.elided import Elided
from cem_gui.widgets.nearest import Near, Nearest
from cem_gui.widgets.notice import Notice
from cem_gui.widgets.passage import Passage
from cem_gui.widgets.picture import Picture
from cem_gui.widgets.set_choice import WIDTH
from cem_gui.widgets.table_choice import TableChoice

_SAMPLE: Final = 128
"""Side of the chosen sample, beside its neighbours."""
_ROWS: Final = 6
"""Of the table, that are seen at once."""
_BEST: Final = "★"
_CLICK: Final = (
    "Click a sample to see the real images that are nearest to it in feature space. One that it nearly equals was "
    "memorised."
)
Act = str
"""What the main button does: Begin, Go on or Cancel."""


class Number(NamedTuple):
    """A column of the table."""

    name: str
    of: str
    """The second line of its head, such as the extractor."""
    tip: str


class Line(NamedTuple):
    """A row of the table."""

    name: str
    tip: str
    cells: Sequence[tuple[str, str]]
    """For each `Number`: what stands there, and what is said of it."""
    best: Sequence[bool]
    state: str
    """How far it is."""


class EvaluatePanel(QWidget):
    run_wanted = Signal()
    """The main button: begin, go on or cancel."""
    open_wanted = Signal()
    """Choose the folder of a table."""
    new_wanted = Signal()
    """Back to the settings."""
    row_chosen = Signal(int, int)
    """Whose samples are to be shown: the row, and the place of its seed."""
    sample_chosen = Signal(int)
    """Whose neighbours are to be shown."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.choice = TableChoice()
        self.notice = Notice()
        self._lay_out_work()
        self._lay_out_table()
        self._lay_out_samples()
        self._lay_out()
        self._picked = False
        """Somebody chose the row in sight."""

    # ---- arrangement -------------------------------------------------------------------------------------------------

    def _lay_out_work(self) -> None:
        """What is below the settings: the buttons, and how far it is."""
        self.run = QPushButton("Begin")
        self.run.setObjectName("primary")
        self.run.clicked.connect(self.run_wanted)
        self.other = QPushButton("Open…")
        self.other.clicked.connect(self._other_pressed)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, 1000)
        self.bar.setAccessibleName("How far the table is")
        self.progress = small()
        self.progress.setWordWrap(True)
        self.about = Passage()
        self.about.setAccessibleName("What the table is of")
        self.about.setViewportMargins(0, 0, 0, 0)
        self._work = Card("")
        self._work.title.hide()
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addWidget(self.run, 1)
        buttons.addWidget(self.other)
        self._work.body.addLayout(buttons)
        self._work.body.addWidget(self.bar)
        self._work.body.addWidget(self.progress)
        for part in (self.bar, self.progress):
            part.hide()

    def _lay_out_table(self) -> None:
        self.table = QTreeWidget()
        self.table.setAccessibleName("How near the samples of each row are")
        self.table.setRootIsDecorated(False)
        self.table.setUniformRowHeights(True)
        self.table.setAllColumnsShowFocus(True)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.table.header().setStretchLastSection(False)
        self.table.header().setSectionsMovable(False)
        self.table.header().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.table.currentItemChanged.connect(self._choose_row)
        self.said = Elided()
        self.said.setObjectName("muted")

    def _lay_out_samples(self) -> None:
        self.seeds = QComboBox()
        self.seeds.setAccessibleName("Seed whose samples are shown")
        self.seeds.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.seeds.activated.connect(self._choose_row)
        self.samples = Card("Samples")
        self.whose = Elided(mode=Qt.TextElideMode.ElideMiddle)
        self.whose.setObjectName("muted")
        self.samples.head.insertWidget(1, self.whose, 100)
        self.samples.head.addWidget(self.seeds)
        self.grid = ClassGrid()
        self.grid.selected.connect(self._choose_sample)
        self.grid.opened.connect(self.enlarge)
        self.large = _Large()
        self.large.closed.connect(self.reduce)
        self.no_samples = muted("")
        self.no_samples.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.no_samples.setWordWrap(True)
        self._shown = QStackedWidget()
        for page in (self.no_samples, self.grid, self.large):
            self._shown.addWidget(page)
        self.samples.body.addWidget(self._shown, 1)
        self.near = Card("Nearest real images")
        self.near.setFixedWidth(WIDTH)
        self.sample = Picture("The chosen sample", _SAMPLE, fixed=True)
        self.sample_name = Elided()
        self.nearest = Nearest("The real images that are nearest to the chosen sample")
        self.near_said = small(_CLICK)
        self.near_said.setWordWrap(True)
        self.near.body.addWidget(self.sample)
        self.near.body.addWidget(self.sample_name)
        self.near.body.addWidget(self.near_said)
        self.near.body.addWidget(self.nearest, 1)
        self.sample.hide()
        self.sample_name.hide()

    def _lay_out(self) -> None:
        about = Card("This table")
        about.body.addWidget(self.about, 1)
        self._asked = QStackedWidget()
        self._asked.addWidget(self.choice)
        self._asked.addWidget(about)
        scrolling = QScrollArea()
        scrolling.setWidget(self._asked)
        scrolling.setWidgetResizable(True)
        scrolling.setFrameShape(QFrame.Shape.NoFrame)
        scrolling.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        scrolling.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        left = QVBoxLayout()
        left.setSpacing(8)
        left.addWidget(scrolling, 1)
        left.addWidget(self._work)
        side = QWidget()
        side.setFixedWidth(WIDTH)
        side.setLayout(left)
        left.setContentsMargins(0, 0, 0, 0)
        right = QVBoxLayout()
        right.setSpacing(8)
        right.addWidget(self.notice)
        self._pages = QStackedWidget()
        self._pages.addWidget(self._lay_out_empty())
        self._pages.addWidget(self._lay_out_results())
        self._pages.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        right.addWidget(self._pages, 1)
        both = QHBoxLayout(self)
        both.setContentsMargins(4, 0, 4, 0)
        both.setSpacing(8)
        both.addWidget(side)
        both.addLayout(right, 1)

    def _lay_out_empty(self) -> QWidget:
        page = Card("")
        page.title.hide()
        self.empty = muted("")
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.empty.setWordWrap(True)
        self.folder_button, self.archive_button = QPushButton("Folder of images…"), QPushButton("Archive of images…")
        self.open_button = QPushButton("Open a table…")
        self.folder_button.setObjectName("primary")
        self.folder_button.clicked.connect(self._folder_pressed)
        self.archive_button.clicked.connect(self._archive_pressed)
        self.open_button.clicked.connect(self.open_wanted)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addStretch(1)
        for button in (self.folder_button, self.archive_button, self.open_button):
            buttons.addWidget(button)
        buttons.addStretch(1)
        page.body.addStretch(2)
        page.body.addWidget(self.empty)
        page.body.addSpacing(6)
        page.body.addLayout(buttons)
        page.body.addStretch(3)
        return page

    def _lay_out_results(self) -> QWidget:
        page = QWidget()
        numbers = Card("Table")
        numbers.head.insertWidget(1, self.said, 100)
        numbers.body.addWidget(self.table, 1)
        below = QHBoxLayout()
        below.setSpacing(8)
        below.addWidget(self.samples, 1)
        below.addWidget(self.near)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(numbers)
        layout.addLayout(below, 1)
        return page

    def minimumSizeHint(self) -> QSize:
        """Little: a view that is not shown must not keep the window wide."""
        return QSize(WIDTH, super().minimumSizeHint().height())

    def restyle(self) -> None:
        """Take the colours in force."""
        for part in (self.grid, self.nearest, self.table.viewport()):
            part.update()

    # ---- what can be done --------------------------------------------------------------------------------------------

    def show_state(self, act: Act, *, can: bool, why_not: str = "", settled: bool = False) -> None:
        """What the buttons do.

        Args:
            act: of the main one.
            why_not: a sentence where it can do nothing.
            settled: there is a table, and no more to choose for it.
        """
        self._busy = act == "Cancel"
        self.run.setText(act)
        self.run.setEnabled(can)
        tip = {"Cancel": "Ends it; what is finished stays, and it can go on from there  (Space)"}.get(act, "Space")
        self.run.setToolTip(why_not or tip)
        self.other.setText("New table…" if settled else "Open…")
        self.other.setToolTip("Back to the settings; the files of this table stay where they are" if settled else
                              "Open the folder of a table, to see it and go on with it")  # fmt: skip
        self.other.setEnabled(not self._busy)
        self._settled = settled
        self._asked.setCurrentIndex(int(settled))

    def show_progress(self, text: str, share: float | None = None) -> None:
        """share: how far all is; None: that is not known, or nothing is under way."""
        self.bar.setVisible(share is not None)
        self.bar.setValue(round(1000 * (share or 0.0)))
        self.progress.setText(text)
        self.progress.setVisible(bool(text))

    def show_empty(self, text: str, *, chosen: bool) -> None:
        """No table yet, and how to come by one. chosen: there are reference images."""
        self.empty.setText(text)
        self.folder_button.setVisible(not chosen)
        self.archive_button.setVisible(not chosen)
        self._pages.setCurrentIndex(0)

    def show_about(self, lines: Sequence[str]) -> None:
        """What the table is of."""
        text = "\n".join(lines)
        if text != self.about.toPlainText():
            self.about.setPlainText(text)

    @Slot()
    def _other_pressed(self) -> None:
        (self.new_wanted if self._settled else self.open_wanted).emit()

    @Slot()
    def _folder_pressed(self) -> None:
        self.choice.reference_wanted.emit(False)

    @Slot()
    def _archive_pressed(self) -> None:
        self.choice.reference_wanted.emit(True)

    # ---- the table ---------------------------------------------------------------------------------------------------

    def begin_table(self) -> None:
        """Another one: nobody has chosen a row yet."""
        self._picked = False
        with QSignalBlocker(self.table):
            self.table.clear()

    def show_table(self, numbers: Sequence[Number], lines: Sequence[Line], said: str, at: int | None = None) -> None:
        """All that is known. The row in sight is the one that is worked on, `at`, until somebody chooses another."""
        heads = ["Row", *(f"{number.name}\n{number.of}" for number in numbers), ""]
        head = self.table.headerItem()
        if [head.text(column) for column in range(self.table.columnCount())] != heads:
            self._show_heads(heads, numbers)
        if self.table.topLevelItemCount() != len(lines):
            with QSignalBlocker(self.table):
                self.table.clear()
                self.table.addTopLevelItems([QTreeWidgetItem() for _ in lines])
        for place, line in enumerate(lines):
            item = self.table.topLevelItem(place)
            assert item is not None
            self._show_line(item, line)
        self._fit_table()
        self.said.setText(said)
        self.said.setToolTip(said)
        self._pages.setCurrentIndex(1)
        wanted = max(0, self.row) if at is None or self._picked else at
        if lines and self.row != wanted:
            picked, item = self._picked, self.table.topLevelItem(wanted)
            assert item is not None
            self.table.setCurrentItem(item)
            self._picked = picked

    def _show_heads(self, heads: Sequence[str], numbers: Sequence[Number]) -> None:
        self.table.setColumnCount(len(heads))
        self.table.setHeaderLabels(list(heads))
        head, bar = self.table.headerItem(), self.table.header()
        for column in range(len(heads)):
            bar.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
            if 0 < column <= len(numbers):
                head.setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                head.setToolTip(column, numbers[column - 1].tip)
        bar.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)

    def _fit_table(self) -> None:
        """As high as its rows, so that the samples have the room; many rows scroll."""
        count = self.table.topLevelItemCount()
        around = self.table.header().sizeHint().height() + 2 * self.table.frameWidth() + 2
        self.table.setFixedHeight(around + min(count, _ROWS) * self.table.sizeHintForRow(0))

    def _show_line(self, item: QTreeWidgetItem, line: Line) -> None:
        texts = [line.name, *(text for text, _ in line.cells), line.state]
        tips = [line.tip, *(tip for _, tip in line.cells), ""]
        best = [False, *line.best, False]
        for column, (text, tip, is_best) in enumerate(zip(texts, tips, best, strict=True)):
            item.setText(column, f"{_BEST} {text}" if is_best else text)
            item.setToolTip(column, tip)
            if 0 < column <= len(line.cells):
                item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            font = item.font(column)
            font.setBold(is_best)
            item.setFont(column, font)

    @property
    def row(self) -> int:
        """The one that is chosen; −1: there is none."""
        return self.table.indexOfTopLevelItem(self.table.currentItem()) if self.table.currentItem() else -1

    @property
    def seed(self) -> int:
        """The place of the seed that is chosen."""
        return max(0, self.seeds.currentIndex())

    def show_seeds(self, seeds: Sequence[int]) -> None:
        """Of the table."""
        texts = [f"Seed {seed}" for seed in seeds]
        if [self.seeds.itemText(i) for i in range(self.seeds.count())] != texts:
            self.seeds.clear()
            self.seeds.addItems(texts)
        self.seeds.setVisible(len(seeds) > 1)

    @Slot()
    def _choose_row(self) -> None:
        self._picked = True
        if self.row >= 0:
            self.row_chosen.emit(self.row, self.seed)

    # ---- samples -----------------------------------------------------------------------------------------------------

    def show_samples(self, rows: Sequence[ClassRow], whose: str) -> None:
        """Those of the chosen row, by class."""
        self.whose.setText(whose)
        self.whose.setToolTip(whose)
        before = self.grid.chosen_image
        self.grid.show_rows(rows)
        now = self.grid.chosen_image
        if before is not None and (now is None or not np.array_equal(now, before)):
            self.grid.let_go()
            self._forget_sample()
        if self._shown.currentWidget() is not self.large:
            self._shown.setCurrentWidget(self.grid)

    def show_no_samples(self, why: str, whose: str = "") -> None:
        """A sentence stands in their place."""
        self.whose.setText(whose)
        self.no_samples.setText(why)
        self.grid.show_rows(())
        self._forget_sample()
        self._shown.setCurrentWidget(self.no_samples)

    def _forget_sample(self) -> None:
        self.sample.hide()
        self.sample_name.hide()
        self.nearest.show_items(())
        self.say_near(_CLICK)
        if self._shown.currentWidget() is self.large:
            self._shown.setCurrentWidget(self.grid)

    @Slot(int)
    def _choose_sample(self, number: int) -> None:
        self.sample.show_pixels(self.grid.chosen_image)
        self.sample.show()
        self.sample_name.show()
        name = self.grid.chosen_told
        self.sample_name.setText(name)
        self.sample_name.setToolTip(name)
        self.nearest.show_items(())
        self.say_near("Looking for the nearest …")
        self.sample_chosen.emit(number)

    def show_nearest(self, items: Sequence[Near], said: str) -> None:
        """Of the chosen sample, the nearest first."""
        self.nearest.show_items(items)
        self.say_near(said)

    def say_near(self, text: str) -> None:
        """A sentence above the neighbours."""
        self.near_said.setText(text)
        self.near_said.setVisible(bool(text))

    @property
    def is_large(self) -> bool:
        return self._shown.currentWidget() is self.large

    @Slot()
    def enlarge(self) -> None:
        """Show the chosen sample as large as fits."""
        if self.grid.chosen_image is not None:
            self.large.show_pixels(self.grid.chosen_image)
            self.large.setAccessibleDescription(self.grid.chosen_told)
            self._shown.setCurrentWidget(self.large)
            self.large.setFocus()

    @Slot()
    def reduce(self) -> None:
        """Back to all samples."""
        if self.is_large:
            self._shown.setCurrentWidget(self.grid)
            self.grid.setFocus()


class _Large(Picture):
    """A sample as large as fits; a double click or Enter closes it."""

    closed = Signal()

    def __init__(self) -> None:
        super().__init__("Large view of the chosen sample", _SAMPLE)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setToolTip("Double click, Enter or Esc: back to all samples")

    def place(self) -> QRect:
        """In the middle."""
        place = super().place()
        place.moveCenter(self.rect().center())
        return place

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.closed.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.closed.emit()
        else:
            super().keyPressEvent(event)
