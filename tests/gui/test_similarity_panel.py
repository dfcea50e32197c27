"""Two images and one on its way between them: what is painted, and where; what is set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace
from PySide6.QtCore import QMimeData, QPoint, QPointF, QRect, Qt
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDropEvent, QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QMenu, QWidget
from scenarios_session import session as scenario
from windows import data_of, discard, read_back

from cem_core import bundle
from cem_core.images import hwc, to_uint8
from cem_core.presets import SAMPLERS
from cem_core.session import Session
from cem_gui import theme
from cem_gui.panels.similarity import HINT, SimilarityPanel, told
from cem_gui.widgets.image_grid import to_image
from cem_gui.widgets.nearest import Near, Nearest

SIZE = 8
LONG_NAME = "a-model-with-a-name-of-sixty-characters-that-must-not-break-it"


def show(panel: SimilarityPanel, sessions: list[Session], step: int = 0) -> None:
    """As the stage does."""
    panel.show_models([(session.start.checkpoint, "Compares its features") for session in sessions])
    for column, session in zip(panel.columns, sessions, strict=False):
        picture = picture_of(session, step)
        column.show_similarity(-0.25, None)
        column.show_step(picture, [Near(to_image(picture), f"image {k}", f"0.{k}0") for k in range(8)])
        column.show_curves(session.numbers, 10)
    QApplication.processEvents()


def picture_of(session: Session, step: int) -> np.ndarray:
    return np.asarray(hwc(to_uint8(session[step].pixels))[0])


def runs(count: int, **what: object) -> list[Session]:
    return [scenario(steps=6, chains=1, size=SIZE, seed=seed, **what) for seed in range(count)]


@pytest.fixture
def panel(qtbot) -> Iterator[SimilarityPanel]:
    panel = SimilarityPanel(samples=bundle.samples())
    panel.resize(1340, 560)
    with qtbot.waitExposed(panel):
        panel.show()
    yield panel
    panel.close()
    discard(panel)


@pytest.mark.parametrize("width", [160, 162, 171])
def test_a_name_that_is_too_long_is_elided_and_not_cut(qtbot, width: int) -> None:
    nearest = Nearest("Images")
    qtbot.addWidget(nearest)
    nearest.resize(width, nearest.sizeHint().height())
    blank = QImage(8, 8, QImage.Format.Format_RGB32)
    blank.fill(Qt.GlobalColor.red)
    nearest.show_items([Near(blank, "airplane-1" * 9, "0.50")] * 3)
    shown = nearest.grab().toImage()
    below = range(44 + 3, shown.height())
    ground = shown.pixelColor(0, shown.height() - 1)
    edges = {shown.pixelColor(x, y).name() for x in (0, shown.width() - 1) for y in below}
    assert edges == {ground.name()}
    ink = [shown.pixelColor(x, y) != ground for x in range(44) for y in below]
    assert any(ink), "it is there"
    assert nearest.toolTip().startswith("airplane-1")


def place(panel: SimilarityPanel, widget: QWidget) -> QRect:
    return QRect(widget.mapTo(panel, QPoint(0, 0)), widget.size())


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("size", [(1340, 560), (1900, 860), (3800, 1900)])
def test_every_pixel_of_x_is_on_the_screen_and_the_rows_are_aligned(
    panel: SimilarityPanel, count: int, size: tuple[int, int]
) -> None:
    sessions = runs(count)
    panel.resize(*size)
    for step in (0, 5):
        show(panel, sessions, step)
        show(panel, sessions, step)  # arranged for its size by now
        for column, session in zip(panel.columns, sessions, strict=False):
            painted = read_back(column.image.grab().toImage(), column.image.place(), SIZE)
            assert np.array_equal(painted, picture_of(session, step))
    columns = panel.columns[:count]
    assert [column.isVisible() for column in panel.columns] == [i < count for i in range(4)]
    assert len({column.width() for column in columns}) == 1
    for part in ("image", "facts", "curves", "distance"):
        places = [place(panel, getattr(column, part)) for column in columns]
        assert len({(where.top(), where.height()) for where in places}) == 1, part
        assert all(where.height() > 20 for where in places), part
    parts = [place(panel, getattr(columns[0], part)) for part in ("image", "facts", "curves", "distance")]
    assert not any(one.intersects(other) for i, one in enumerate(parts) for other in parts[:i])
    assert all(column.curves.legend.sizeHint().width() <= column.curves.legend.width() for column in columns)


def test_both_images_are_as_large_as_fits_and_level(panel: SimilarityPanel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    for height in (1400, 460, 560):
        panel.resize(1340, height)
        for index in (0, 1):
            panel.show_image(index, pixels, "a.png", "/there/a.png")
        QApplication.processEvents()
        faces = [slot.face for slot in panel.slots]
        for face in faces:
            assert np.array_equal(read_back(face.grab().toImage(), face.place(), SIZE), pixels)
        assert len({(face.height(), place(panel, face).top()) for face in faces}) == 1
        below = place(panel, panel.morph)
        assert place(panel, panel.slots[0]).bottom() < below.top()
        assert below.bottom() < panel.height()
    assert faces[0].place().width() > 150


def test_without_images_it_says_what_to_do(panel: SimilarityPanel) -> None:
    panel.show_empty(HINT)
    assert panel.empty.isVisible()
    assert panel.try_samples.isVisible()
    heard: list[bool] = []
    panel.samples_wanted.connect(lambda: heard.append(True))
    QTest.mouseClick(panel.try_samples, Qt.MouseButton.LeftButton)
    assert heard == [True]
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    for index in (0, 1):
        panel.show_image(index, pixels, "a.png")
    panel.show_empty("Opening the models …")
    assert panel.empty.text() == "Opening the models …"
    assert not panel.try_samples.isVisible(), "it is not images that are missing"


def test_what_is_set_is_a_row_of_the_table(panel: SimilarityPanel) -> None:
    heard: list[str] = []
    panel.row_changed.connect(lambda: heard.append("row"))
    panel.measure_changed.connect(lambda: heard.append("measure"))
    assert panel.sampler == replace(SAMPLERS["CS"], steps=60, step_size=0.15)
    assert panel.measure == (True, 1.0)
    panel.way.setCurrentIndex(1)
    panel.way.activated.emit(1)
    panel.ball.setChecked(True)
    panel.radius.setValue(2)
    panel.steps.setValue(7)
    assert panel.sampler == replace(SAMPLERS["TA"], steps=7, step_size=0.15, radius=2.0)
    assert heard == ["row"] * 4
    panel.temperature.setValue(0.5)
    assert heard[4:] == ["measure"]
    assert panel.formula.text() == "f(x,x′) = cos(g(x), g(x′)) / 0.5, g: features"
    panel.reset.click()
    assert panel.sampler == replace(SAMPLERS["CS"], steps=60, step_size=0.15)
    assert panel.measure == (True, 1.0)
    assert heard[5:] == ["row", "measure"]
    assert not panel.radius.isEnabled()


def test_what_is_dropped_is_heard_with_where_it_fell(panel: SimilarityPanel) -> None:
    heard: list[int] = []
    panel.dropped.connect(lambda _, index: heard.append(index))
    panel.takes = QMimeData.hasUrls
    data = data_of("a.png")
    how = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    points = [place(panel, slot).center() for slot in panel.slots] + [panel.rect().center()]
    for i, point in enumerate(points):
        QApplication.sendEvent(panel, QDragEnterEvent(point, *how))
        assert [slot.face.awaits for slot in panel.slots] == [i in (0, 2), i in (1, 2)], "where it would fall"
        QApplication.sendEvent(panel, QDropEvent(QPointF(point), *how))
        assert not any(slot.face.awaits for slot in panel.slots)
    assert heard == [0, 1, -1]
    QApplication.sendEvent(panel, QDragEnterEvent(points[0], *how))
    QApplication.sendEvent(panel, QDragLeaveEvent())
    assert not panel.slots[0].face.awaits
    panel.takes = QMimeData.hasImage
    enter = QDragEnterEvent(points[0], *how)
    QApplication.sendEvent(panel, enter)
    assert not enter.isAccepted(), "it is left to the window"


def test_all_samples_can_be_chosen(panel: SimilarityPanel) -> None:
    heard: list[tuple[int, str]] = []
    panel.sample_wanted.connect(lambda index, path: heard.append((index, path)))
    menu = panel.slots[1].menu()
    [samples] = menu.findChildren(QMenu)
    assert [action.text() for action in samples.actions()] == [path.stem for path in bundle.samples()]
    samples.actions()[3].trigger()
    assert heard == [(1, str(bundle.samples()[3]))]


def test_long_names_and_sentences_widen_nothing(panel: SimilarityPanel) -> None:
    panel.resize(1000, 520)
    sessions = runs(4)
    show(panel, sessions)
    width = panel.minimumSizeHint().width()
    panel.show_models([(replace(run.start.checkpoint, name=LONG_NAME), LONG_NAME * 3) for run in sessions])
    for slot in panel.slots:
        slot.show_image(np.zeros((SIZE, SIZE, 3), np.uint8), LONG_NAME * 2, LONG_NAME)
    panel.show_about(LONG_NAME * 4)
    panel.columns[0].show_problem("E(x) of chain 1 became nan at step 3; the steps before are kept.")
    QApplication.processEvents()
    assert panel.minimumSizeHint().width() == width
    assert panel.columns[0].about.toolTip().startswith("E(x) of chain 1 became nan")
    assert len({column.width() for column in panel.columns}) == 1


def test_the_most_similar_are_as_many_as_fit(panel: SimilarityPanel) -> None:
    show(panel, runs(1))
    nearest = panel.columns[0].nearest
    assert nearest.accessibleDescription().startswith("image 0 0.00, image 1 0.10")
    nearest.resize(nearest.width(), 60)
    before = nearest.grab().toImage()
    nearest.show_items(nearest.items[:1])
    assert nearest.grab().toImage() != before


def test_colours_follow_the_theme(panel: SimilarityPanel, qapp) -> None:
    show(panel, runs(2))
    before = panel.columns[1].symbol.styleSheet()
    theme.apply(qapp, "light")
    panel.restyle()
    after = panel.columns[1].symbol.styleSheet()
    theme.apply(qapp, "dark")
    assert before != after
    assert panel.columns[0].symbol.text() != panel.columns[1].symbol.text()


def test_similarities_are_told_in_a_width_that_does_not_jump() -> None:
    assert [told(f) for f in (0.12345, -1, 12.345, -1234.5)] == ["0.123", "−1.000", "12.3", "−1,234.5"]


def test_values_on_low_plots_keep_apart(panel: SimilarityPanel) -> None:
    """However low a plot is, its values are round, and legible one below the other."""
    axis = panel.columns[0].curves.view.getPlotItem().getAxis("left")
    for size in (30, 60, 150, 900):
        for low, high in ((-1.0, 1.0), (0.0, 1.47), (-0.0036, -0.0025), (3.0, 7.3), (0.0, 8e4)):
            [(spacing, offset)] = axis.tickSpacing(low, high, size)
            assert offset == 0
            assert spacing / (high - low) * size >= 14
            assert (high - low) / spacing <= 7
            assert float(f"{spacing:.0e}") == pytest.approx(spacing)
            assert f"{spacing:.0e}"[0] in "125"
    assert axis.tickStrings([-0.5, 0.5], 1, 0.5) == ["−0.5", "0.5"]
