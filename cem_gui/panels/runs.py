"""The recorded runs: a tree, newest first, forks below the run they came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from PySide6.QtCore import (
    QAbstractItemModel,
    QEvent,
    QItemSelectionModel,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QRect,
    QRectF,
    QSize,
    Qt,
    Signal,
    SignalInstance,
)
from PySide6.QtGui import (
    QColor,
    QHelpEvent,
    QImage,
    QKeyEvent,
    QPainter,
    QPen,
    QStandardItem,
    QStandardItemModel,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QStackedWidget,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolTip,
    QTreeView,
    QWidget,
)

from cem_core.sessions import Summary, told_size
from cem_gui import theme
from cem_gui.widgets.card import Card, small

_KEY: Final = Qt.ItemDataRole.UserRole
_ENTRY: Final = Qt.ItemDataRole.UserRole + 1
_THUMB: Final = Qt.ItemDataRole.UserRole + 2
_ROW: Final = 50
_PICTURE: Final = 38
_PAD: Final = 6
_EMPTY: Final = "Every run is kept here as it happens. Press Space to make the first."
Index = QModelIndex | QPersistentModelIndex


def title(run: Summary) -> str:
    """What a run is called: as the person said, else by its sampler."""
    return run.name if run.name != Path(run.folder).name else run.sampler or run.name


def resumable(run: Summary) -> bool:
    return run.interrupted or (run.end == "stopped" and not run.running)


def when(created: str) -> str:
    """The time of a run of today, the date of any other, with its year unless that is this."""
    try:
        moment = datetime.fromisoformat(created).astimezone()
    except ValueError:
        return ""
    today = datetime.now().astimezone()
    if moment.date() == today.date():
        return f"{moment:%H:%M}"
    return f"{moment.day} {moment:%b}" + ("" if moment.year == today.year else f" {moment.year}")


class RunsPanel(Card):
    """Says what the person wants of which run, by its key. `shown` is in sight, `compared` is drawn beside it."""

    opened = Signal(str)
    renamed = Signal(str, str)
    deleted = Signal(str)
    compare_wanted = Signal(str)
    """Empty: no run any more."""
    menu_wanted = Signal(str, QPoint)
    thumb_wanted = Signal(str)
    """Once for each run that comes into sight."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Runs", parent)
        self.shown = ""
        self.live = ""
        """Key of the run that this program records now."""
        self.compared = ""
        self._items: dict[str, QStandardItem] = {}
        self._asked: set[str] = set()
        self._by_hand = True
        self._model = QStandardItemModel(self)
        self.tree = _Tree()
        self.tree.setModel(self._model)
        self.tree.setItemDelegate(_Rows(self))
        self._model.itemChanged.connect(self._edited)
        self.empty = QLabel(_EMPTY)
        self.empty.setObjectName("muted")
        self.empty.setWordWrap(True)
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.empty.setMargin(16)
        self._stack = QStackedWidget()
        self._stack.addWidget(self.empty)
        self._stack.addWidget(self.tree)
        self.total = small()
        self.head.addWidget(self.total)
        self.open = self._button("Open", "Show this run (Enter)")
        self.compare = self._button("Compare", "Draw its curves dashed beside those of the run in sight")
        self.compare.setCheckable(True)
        self.delete = self._button("Delete", "Delete this run (Del); Edit → Undo brings it back")
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        for button in (self.open, self.compare, self.delete):
            buttons.addWidget(button, 1)
        self.body.addWidget(self._stack, 1)
        self.body.addLayout(buttons)
        self.open.clicked.connect(lambda: self._say(self.opened))
        self.delete.clicked.connect(lambda: self._say(self.deleted))
        self.compare.clicked.connect(self._toggle_compare)
        self.tree.activated.connect(lambda index: self.opened.emit(index.data(_KEY)))
        self.tree.delete_wanted.connect(lambda: self._say(self.deleted))
        self.tree.customContextMenuRequested.connect(self._show_menu)
        self.tree.selectionModel().currentChanged.connect(self._follow)
        self._follow()

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def show_entries(self, entries: Iterable[Summary]) -> None:
        """These runs and no others, newest first."""
        current, folded = self.current, {key for key, item in self._items.items() if self._folded(item)}
        thumbs = {key: item.data(_THUMB) for key, item in self._items.items()}
        self._model.clear()
        self._items = {}
        listed = list(entries)
        keys = {entry.folder for entry in listed}
        children: dict[str, list[Summary]] = {}
        for entry in listed:
            children.setdefault(self._parent(entry) if self._parent(entry) in keys else "", []).append(entry)
        waiting = [(self._model.invisibleRootItem(), entry) for entry in children.get("", [])]
        while waiting:
            above, entry = waiting.pop(0)
            item = self._item(entry, thumbs.get(entry.folder))
            above.appendRow(item)
            waiting += [(item, child) for child in children.get(entry.folder, [])]
        for key, item in self._items.items():
            self.tree.setExpanded(item.index(), key not in folded)
        self._asked &= keys
        self.choose(current if current in self._items else self.shown)
        self._count()

    def show_entry(self, entry: Summary, *, anew: bool = False) -> None:
        """A run that is listed has changed, or a new one; `anew`: its picture too."""
        item = self._items.get(entry.folder)
        if item is None:
            item = self._item(entry, None)
            above = self._items.get(self._parent(entry))
            (above or self._model.invisibleRootItem()).insertRow(0, item)
            if above is not None:
                self.tree.expand(above.index())
        else:
            if anew:
                self._asked.discard(entry.folder)
            self._by_hand = False
            item.setData(entry, _ENTRY)
            item.setText(title(entry))
            item.setAccessibleDescription(self.line(entry))
            self._by_hand = True
        self._count()
        self._follow()

    def drop(self, key: str) -> None:
        """A run is listed no more; its forks move up."""
        self.show_entries([entry for entry in self.entries() if entry.folder != key])

    def show_thumb(self, key: str, picture: QImage) -> None:
        if (item := self._items.get(key)) is not None:
            item.setData(picture, _THUMB)

    def mark(self, shown: str, compared: str) -> None:
        """Which run is in sight, and which is drawn beside it."""
        if (shown, compared) != (self.shown, self.compared):
            self.shown, self.compared = shown, compared
            self.tree.viewport().update()
            self._follow()

    def entries(self) -> Iterator[Summary]:
        """All runs that are listed."""
        return (item.data(_ENTRY) for item in list(self._items.values()))

    def entry(self, key: str) -> Summary | None:
        item = self._items.get(key)
        return item.data(_ENTRY) if item is not None else None

    @property
    def current(self) -> str:
        """Key of the run that is chosen in the list, or empty."""
        return str(self.tree.currentIndex().data(_KEY) or "")

    def choose(self, key: str) -> None:
        if (item := self._items.get(key)) is not None:
            flags = QItemSelectionModel.SelectionFlag.ClearAndSelect
            self.tree.selectionModel().setCurrentIndex(item.index(), flags)

    def edit(self, key: str) -> None:
        """Let the person type another name."""
        if (item := self._items.get(key)) is not None:
            self.tree.edit(item.index())

    def restyle(self) -> None:
        self.tree.viewport().update()

    # ---- what is done ------------------------------------------------------------------------------------------------

    def want_thumb(self, key: str) -> None:
        entry = self.entry(key)
        if key not in self._asked and entry is not None and not entry.damaged:
            self._asked.add(key)
            self.thumb_wanted.emit(key)

    def _item(self, entry: Summary, thumb: object) -> QStandardItem:
        item = QStandardItem(title(entry))
        item.setData(entry.folder, _KEY)
        item.setData(entry, _ENTRY)
        item.setData(thumb, _THUMB)
        item.setAccessibleDescription(self.line(entry))
        self._items[entry.folder] = item
        return item

    def _edited(self, item: QStandardItem) -> None:
        if not self._by_hand:
            return
        entry: Summary = item.data(_ENTRY)
        text = " ".join(item.text().split())
        if text and text != title(entry):
            item.setData(msgspec.structs.replace(entry, name=text), _ENTRY)
            self.renamed.emit(entry.folder, text)
        elif item.text() != title(entry):
            item.setText(title(entry))

    @staticmethod
    def _parent(entry: Summary) -> str:
        return entry.origin.session if entry.origin is not None else ""

    def line(self, entry: Summary) -> str:
        """What is said under the name."""
        fork = f"from step {entry.origin.step:,}" if entry.origin is not None else ""
        steps = "" if entry.damaged else f"{entry.steps:,} step{'' if entry.steps == 1 else 's'}"
        said = (self.state(entry), steps, fork, entry.model, told_size(entry.size) if entry.size else "")
        return " · ".join(filter(None, said))

    def state(self, entry: Summary) -> str:
        return "recording" if entry.folder == self.live else entry.state

    def tip(self, entry: Summary) -> str:
        lines = (
            title(entry),
            f"{entry.sampler} on {entry.model}" if entry.model else "",
            f"{entry.steps:,} steps of {entry.chains:,} chain{'' if entry.chains == 1 else 's'}, {self.state(entry)}",
            entry.detail,
            entry.folder,
        )
        return "\n".join(filter(None, lines))

    def _folded(self, item: QStandardItem) -> bool:
        return item.hasChildren() and not self.tree.isExpanded(item.index())

    def _say(self, signal: SignalInstance) -> None:
        if self.current:
            signal.emit(self.current)

    def _toggle_compare(self) -> None:
        self.compare_wanted.emit("" if self.current == self.compared else self.current)
        self._follow()

    def _show_menu(self, point: QPoint) -> None:
        index = self.tree.indexAt(point)
        if index.isValid():
            self.menu_wanted.emit(index.data(_KEY), self.tree.viewport().mapToGlobal(point))

    def _count(self) -> None:
        listed = list(self.entries())
        self._stack.setCurrentIndex(1 if listed else 0)
        said = f"{len(listed):,} · {told_size(sum(entry.size for entry in listed))}" if listed else ""
        self.total.setText(said)

    def _follow(self) -> None:
        """Enable what has a meaning now."""
        key = self.current
        entry = self.entry(key)
        self.open.setEnabled(bool(key) and key != self.shown)
        self.delete.setEnabled(entry is not None and not entry.running)
        self.compare.setEnabled(bool(key) and (key != self.shown or key == self.compared))
        self.compare.setChecked(bool(key) and key == self.compared)

    def _button(self, text: str, tip: str) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        return button


class _Tree(QTreeView):
    delete_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Recorded runs")
        self.setObjectName("runs")
        self.setHeaderHidden(True)
        self.setUniformRowHeights(True)
        self.setIndentation(16)
        self.setMinimumHeight(120)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.EditKeyPressed)
        self.setExpandsOnDoubleClick(False)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.delete_wanted.emit()
        else:
            super().keyPressEvent(event)


class _Rows(QStyledItemDelegate):
    """Two lines beside a picture."""

    def __init__(self, panel: RunsPanel) -> None:
        super().__init__(panel)
        self._panel = panel

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(120, _ROW)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        entry: Summary | None = index.data(_ENTRY)
        if entry is None:
            return
        colours = theme.now()
        rect: QRect = option.rect
        chosen = bool(option.state & QStyle.StateFlag.State_Selected)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if chosen:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colours.chip))
            painter.drawRoundedRect(QRectF(rect).adjusted(0, 1, -1, -1), 6, 6)
        if entry.folder == self._panel.shown:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colours.accent))
            painter.drawRoundedRect(QRectF(rect.left(), rect.top() + 8, 3, rect.height() - 16), 1.5, 1.5)
        picture = QRect(rect.left() + _PAD + 2, rect.top() + (rect.height() - _PICTURE) // 2, _PICTURE, _PICTURE)
        self._paint_picture(painter, picture, index, entry)
        left = picture.right() + 9
        text = QRect(left, rect.top() + 7, rect.right() - left - _PAD, (rect.height() - 14) // 2)
        self._paint_first(painter, text, entry)
        font = painter.font()
        font.setPointSizeF(font.pointSizeF() * 0.87)
        painter.setFont(font)
        painter.setPen(
            QColor(
                colours.orange if self._panel.state(entry) in ("interrupted", "failed", "damaged") else colours.muted
            )
        )
        below = text.translated(0, text.height())
        line = painter.fontMetrics().elidedText(self._panel.line(entry), Qt.TextElideMode.ElideRight, below.width())
        painter.drawText(below, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, line)
        painter.restore()

    def _paint_picture(self, painter: QPainter, where: QRect, index: Index, entry: Summary) -> None:
        image: QImage | None = index.data(_THUMB)
        self._panel.want_thumb(entry.folder)
        if image is not None and not image.isNull():
            painter.drawImage(where, image)
        else:
            painter.setPen(QPen(QColor(theme.now().border), 1))
            painter.setBrush(QColor(theme.now().card))
            painter.drawRoundedRect(QRectF(where).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)

    def _paint_first(self, painter: QPainter, text: QRect, entry: Summary) -> None:
        """Name on the left, when on the right; a dashed line where its curves are."""
        colours, metrics = theme.now(), painter.fontMetrics()
        moment = when(entry.created)
        width = metrics.horizontalAdvance(moment)
        painter.setPen(QColor(colours.muted))
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(text, Qt.AlignmentFlag.AlignRight | middle, moment)
        room = text.width() - width - 8
        if entry.folder == self._panel.compared:
            pen = QPen(QColor(colours.text), 2, Qt.PenStyle.CustomDashLine)
            pen.setDashPattern([3, 2])
            painter.setPen(pen)
            y, right = text.center().y() + 1, text.right() - width - 8
            painter.drawLine(right - 26, y, right, y)
            room -= 34
        painter.setPen(QColor(colours.text))
        name = metrics.elidedText(title(entry), Qt.TextElideMode.ElideRight, room)
        painter.drawText(text, Qt.AlignmentFlag.AlignLeft | middle, name)

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        editor = QLineEdit(parent)
        editor.setAccessibleName("Name of the run")
        editor.setMaxLength(200)
        return editor

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Index) -> None:
        rect: QRect = option.rect
        left = rect.left() + _PAD + _PICTURE + 8
        editor.setGeometry(left, rect.top() + 10, rect.right() - left - _PAD, rect.height() - 20)

    def setModelData(self, editor: QWidget, model: QAbstractItemModel, index: Index) -> None:
        assert isinstance(editor, QLineEdit)
        model.setData(index, editor.text())

    def helpEvent(self, event: QHelpEvent, view: QAbstractItemView, option: QStyleOptionViewItem, index: Index) -> bool:
        entry: Summary | None = index.data(_ENTRY)
        if event.type() == QEvent.Type.ToolTip and entry is not None:
            QToolTip.showText(event.globalPos(), self._panel.tip(entry), view)
            return True
        return super().helpEvent(event, view, option, index)
