"""A real window for tests: on a screen, in a home of its own, and nothing left behind when it is closed."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from PIL import Image
from PySide6.QtCore import QEvent, QMimeData, QObject, QPoint, QPointF, QRect, QSettings, Qt, QThread, QtMsgType, QUrl
from PySide6.QtGui import QDragEnterEvent, QDragMoveEvent, QDropEvent, QImage, QMouseEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QComboBox, QWidget
from shiboken6 import isValid

from cem_core import bundle
from cem_core.messages import Chain, Checkpoint, ImageStart, RunSpec, Sampler
from cem_core.presets import SAMPLERS
from cem_gui import theme
from cem_gui.panels.evolution import EvolutionPanel
from cem_gui.widgets.chips import Chip, Chips
from cem_gui.widgets.image_grid import Bytes, ImageGrid
from cem_gui.widgets.number import Number
from cem_gui.window import MainWindow

LONG = 60_000
"""When to call something hung, in milliseconds. Nothing is ever expected to take so long."""

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture
def wait(qtbot) -> Wait:
    """Go on as soon as a condition holds."""

    def wait(condition: Callable[[], object]) -> None:
        qtbot.waitUntil(lambda: bool(condition()), timeout=LONG)

    return wait


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program keeps its things."""
    folder = tmp_path / "home"
    for name, part in (
        ("HOME", ""),
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_STATE_HOME", ".local/state"),
    ):
        (folder / part).mkdir(parents=True)
        monkeypatch.setenv(name, str(folder / part))
    return folder


@pytest.fixture(autouse=True)
def nothing_left(qapp, qtlog) -> Iterator[None]:
    """No thread and no window outlives a test, and Qt had nothing to complain of."""
    gc.freeze()  # what is there already need not be looked through
    yield
    QApplication.sendPostedEvents()
    # type(), not isinstance: some objects of torch warn when they are asked for their class.
    threads = [
        thread.objectName()
        for thread in gc.get_objects()
        if issubclass(type(thread), QThread) and isValid(thread) and thread.isRunning() and thread != qapp.thread()
    ]
    gc.unfreeze()
    workers = [t.name for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    widgets = [widget for widget in QApplication.topLevelWidgets() if widget.isVisible()]
    shown = [f"{type(widget).__name__} {widget.windowTitle()!r}" for widget in widgets]
    for widget in widgets:
        widget.close()
    complaints = [
        record.message for record in qtlog.records if record.type not in (QtMsgType.QtDebugMsg, QtMsgType.QtInfoMsg)
    ]
    left = {"threads": threads + workers, "windows": shown, "complaints of Qt": complaints}
    assert not any(left.values()), left


@pytest.fixture
def window(qapp, qtbot, home: Path, wait: Wait) -> Iterator[MainWindow]:
    """The program as it is a moment after it was started: its first images are shown and wait at step 0."""
    theme.apply(qapp, "dark")
    window = MainWindow(QSettings(str(home / "window.ini"), QSettings.Format.IniFormat), home / "log")
    with qtbot.waitExposed(window, timeout=LONG):
        window.show()
    window.activateWindow()
    wait(window.isActiveWindow)
    window.start()
    wait(lambda: at_start(window))
    yield window
    window.close()
    discard(window)


def discard(thing: QObject) -> None:
    """Destroy it now, in this thread, rather than when Python finds the time, in any."""
    thing.deleteLater()
    QApplication.sendPostedEvents(thing, QEvent.Type.DeferredDelete.value)


# What is done to it --------------------------------------------------------------------------------------------------


def drag(widget: QWidget, *points: QPoint) -> None:
    """Press at the first point, pass through the others, let go at the last."""
    QTest.mousePress(widget, Qt.MouseButton.LeftButton, pos=points[0])
    for point in points[1:]:
        move = QMouseEvent(
            QEvent.Type.MouseMove,
            QPointF(point),
            QPointF(widget.mapToGlobal(point)),
            Qt.MouseButton.NoButton,
            Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
        )
        QApplication.sendEvent(widget, move)
    QTest.mouseRelease(widget, Qt.MouseButton.LeftButton, pos=points[-1])


def press(key: Qt.Key, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    """A key, to whatever has the focus."""
    widget = QApplication.focusWidget()
    assert widget is not None
    QTest.keyClick(widget, key, modifier)


def type_number(number: Number, text: str) -> None:
    """Replace what stands in the field and press Return."""
    number.field.setFocus()
    number.field.selectAll()
    QTest.keyClicks(number.field, text)
    QTest.keyClick(number.field, Qt.Key.Key_Return)


def chip_names(chips: Chips) -> dict[int, Chip]:
    """The buttons that are there, by class."""
    QApplication.processEvents()  # new buttons appear, old ones vanish
    return {chip.property("index"): chip for chip in chips.findChildren(Chip) if not chip.isHidden()}


def choose_targets(chips: Chips, wanted: Sequence[int]) -> None:
    """Click until these classes are chosen and no others."""
    for index, chip in chip_names(chips).items():
        if chip.isChecked() != (index in wanted):
            QTest.mouseClick(chip, Qt.MouseButton.LeftButton)
    assert chips.chosen == sorted(wanted)


def data_of(*paths: Path | str) -> QMimeData:
    """What a file manager hands over."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    return data


def drop(window: MainWindow, data: QMimeData, on: QWidget | None = None) -> bool:
    """Drag something in and let it go over a widget, as the window system does; whether anything took it."""
    widget = on or window.evolution
    point, handle = widget.mapTo(window, widget.rect().center()), window.windowHandle()
    how = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    enter = QDragEnterEvent(point, *how)
    QApplication.sendEvent(handle, enter)
    if not enter.isAccepted():
        return False
    move = QDragMoveEvent(point, *how)
    move.setDropAction(enter.dropAction())
    move.accept()
    QApplication.sendEvent(handle, move)
    let_go = QDropEvent(QPointF(point), *how)
    QApplication.sendEvent(handle, let_go)
    return let_go.isAccepted()


def begin_from(
    window: MainWindow, wait: Wait, path: Path, *, target: str = "horse", preset: str = "TA", steps: int = 5
) -> None:
    """Drop an image and set the sampler by hand: one chain, so that it is quick."""
    classes = bundle_classes(window)
    choose(window.sampler.preset, preset)
    choose_targets(window.sampler.chips, [classes.index(target)])
    type_number(window.sampler.steps, str(steps))
    drop(window, data_of(path))
    wait(lambda: at_start(window) and started_from(window) == [str(path)] and settled(window, steps, target))
    window.evolution.grid.setFocus()


def choose(box: QComboBox, data: str) -> None:
    """By the keyboard."""
    box.setFocus()  # or Home would be the step key
    QTest.keyClick(box, Qt.Key.Key_Home)
    for _ in range(box.findData(data)):
        QTest.keyClick(box, Qt.Key.Key_Down)
    assert box.currentData() == data


def run_to_end(window: MainWindow, wait: Wait) -> None:
    """Space, and wait."""
    assert window.player.gait != "running"
    window.evolution.grid.setFocus()
    press(Qt.Key.Key_Space)
    assert window.player.gait == "running"
    wait(lambda: window.player.gait == "ended" and window.step == len(window.player.session) - 1)


# What can be seen of it ----------------------------------------------------------------------------------------------


def at_start(window: MainWindow) -> bool:
    """A run stands at its step 0 and nothing is about to replace it."""
    player = window.player
    return player.live and player.gait == "paused" and len(player.session) == 1 and not window._settling.isActive()


def started_from(window: MainWindow) -> list[str]:
    """The files that the chains of the run in sight began with."""
    chains = window.player.session.start.spec.chains
    return [chain.start.path for chain in chains if isinstance(chain.start, ImageStart)]


def settled(window: MainWindow, steps: int, target: str) -> bool:
    start = window.player.session.start
    names = {start.checkpoint.classes[label] for label in start.labels}
    return start.spec.sampler.steps == steps and names == {target}


def bundle_classes(window: MainWindow) -> tuple[str, ...]:
    return window.player.session.start.checkpoint.classes


def notice(window: MainWindow) -> str:
    """The message that is shown, or nothing."""
    return window.evolution.notice.text() if window.evolution.notice.isVisible() else ""


def picture(panel: EvolutionPanel, chain: int = 0) -> Bytes:
    """(H, W, 3): what the panel paints of a chain, one value for each pixel of the model."""
    if panel.is_large:
        return read_back(panel.large.grab().toImage(), panel.large.picture(), size_of(panel))
    grid: ImageGrid = panel.grid
    return read_back(grid.widget().grab().toImage(), grid._picture(chain), size_of(panel))


def size_of(panel: EvolutionPanel) -> int:
    return panel._start.checkpoint.size


def read_back(image: QImage, where: QRect, size: int) -> Bytes:
    """The colour at the middle of each of size×size equal squares."""
    centres = [(i + 0.5) / size for i in range(size)]
    columns = [where.left() + int(share * where.width()) for share in centres]
    rows = [where.top() + int(share * where.height()) for share in centres]
    return np.array([[image.pixelColor(x, y).getRgb()[:3] for x in columns] for y in rows], np.uint8)


def pixel_at(grid: ImageGrid, chain: int, x: int, y: int, size: int) -> QPoint:
    """Where on the grid's canvas a pixel of a chain is."""
    where = grid._picture(chain)
    return where.topLeft() + QPoint(int((x + 0.5) / size * where.width()), int((y + 0.5) / size * where.height()))


# Things to use -------------------------------------------------------------------------------------------------------


def checkpoint(classes: Sequence[str] = ("cat", "dog"), size: int = 8) -> Checkpoint:
    return Checkpoint("net", "/models/net.pt", "0" * 64, "A net", "a family", 1_200_000, tuple(classes), 3, size, ())


class Published(NamedTuple):
    """An entry of a list of published models."""

    dataset: str
    threat: str
    name: str
    downloaded: bool = False


def spec(steps: int = 5, chains: int = 1, name: str = "a run", preset: str = "RCS", **changes: object) -> RunSpec:
    """A run of the bundled model from bundled images."""
    sampler: Sampler = msgspec.structs.replace(SAMPLERS[preset], steps=steps, **changes)
    starts = [ImageStart(str(path)) for path in bundle.first_samples(chains)]
    return RunSpec(name, bundle.DEFAULT_MODEL, sampler, tuple(Chain(s, i, (i + 3) % 10) for i, s in enumerate(starts)))


def save_image(path: Path, size: int = 32, seed: int = 0, mode: str = "RGB") -> Path:
    """An image of random pixels, RGB or RGBA, whatever folders it takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, len(mode)), np.uint8)).save(path)
    return path
