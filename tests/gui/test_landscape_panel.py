"""Energies on a plane: contours, colours, and the image at each point; from hand-made answers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from windows import choose, discard, read_back

from cem_core.images import hwc, to_uint8
from cem_core.probes.results import Plane, Survey
from cem_gui import theme
from cem_gui.panels.landscape import LandscapePanel
from cem_gui.widgets import contours
from cem_gui.widgets.figures import figure

SIZE, POINTS = 8, 17


def plane(path: np.ndarray | None = None, extent: float = 2.0) -> Plane:
    random = np.random.default_rng(0)
    u, v = np.linalg.qr(random.standard_normal((3 * SIZE * SIZE, 2)))[0].T.reshape(2, 3, SIZE, SIZE)
    origin = (0.5 + 0.1 * random.standard_normal((3, SIZE, SIZE))).astype(np.float32)
    path = np.zeros((1, 2), np.float32) if path is None else path.astype(np.float32)
    held = math.nan if len(path) < 2 else 0.876
    return Plane(origin, u.astype(np.float32), v.astype(np.float32), extent, ("adversarial", "random"), path, held)


def survey(stride: int = 1, extent: float = 2.0) -> Survey:
    """s + 10·t at every point, or at those of a coarse grid."""
    at = np.linspace(-extent, extent, POINTS, dtype=np.float32)
    whole = at[None, :] + 10 * at[:, None]
    energy = np.full_like(whole, np.nan)
    energy[::stride, ::stride] = whole[::stride, ::stride]
    nearest = (np.arange(POINTS) + stride // 2) // stride * stride
    return Survey(energy, whole[np.ix_(nearest, nearest)], int(np.isfinite(energy).sum()), 0.5)


@pytest.fixture
def panel(qtbot) -> Iterator[LandscapePanel]:
    panel = LandscapePanel()
    panel.resize(1340, 640)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.show_model("net", ("cat", "dog"), 1)
    QApplication.processEvents()
    yield panel
    panel.close()
    discard(panel)


@pytest.fixture
def drawn(panel: LandscapePanel) -> LandscapePanel:
    panel.show_plane(plane(), (0,), marginal=True)
    panel.show_survey(survey())
    QApplication.processEvents()
    return panel


def on_map(panel: LandscapePanel, s: float, t: float) -> QPoint:
    return panel.map.at((s, t)).toPoint()


def hover(panel: LandscapePanel, s: float, t: float) -> None:
    where = on_map(panel, s, t)
    QTest.mouseMove(panel.map.view.viewport(), where + QPoint(1, 0))
    QTest.mouseMove(panel.map.view.viewport(), where)
    QApplication.processEvents()


def click(panel: LandscapePanel, s: float, t: float) -> None:
    hover(panel, s, t)
    QTest.mouseClick(panel.map.view.viewport(), Qt.MouseButton.LeftButton, pos=on_map(panel, s, t))
    QApplication.processEvents()


def shown(panel: LandscapePanel) -> np.ndarray:
    QApplication.processEvents()
    return read_back(panel.here.grab().toImage(), panel.here.place(), SIZE)


def told(panel: LandscapePanel) -> tuple[float, float]:
    """s and t that are written beside the image."""
    parts = panel.where.text().replace("−", "-").split()
    return float(parts[1]), float(parts[3])


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    return hwc(to_uint8(pixels[None]))[0]


# Contours ------------------------------------------------------------------------------------------------------------


def test_the_contour_of_a_plane_is_the_line_itself() -> None:
    columns, rows = np.meshgrid(np.arange(7.0), np.arange(5.0))
    found = contours.segments(2 * columns + 3 * rows, 8.5).reshape(-1, 2)
    assert len(found) > 0
    assert found @ [2, 3] == pytest.approx(8.5)
    x = found[:, 0]
    assert (x.min(), x.max()) == pytest.approx((0, 4.25))


def test_the_contour_of_a_bowl_closes() -> None:
    at = np.linspace(-1, 1, 41)
    found = contours.segments(np.hypot(at[None, :], at[:, None]), 0.7)
    ends, times = np.unique(found.reshape(-1, 2).round(9), axis=0, return_counts=True)
    assert np.all(times == 2)
    assert np.hypot(*(ends.T / 20 - 1)) == pytest.approx(0.7, abs=2e-3)


@pytest.mark.parametrize("level", [0.3, 0.6])
def test_a_saddle_is_cut_as_its_middle_says(level: float) -> None:
    """1 at two opposite corners, 0 at the others: the mean is ½, and corners below (above) it are cut off."""
    found = contours.segments(np.array([[1.0, 0.0], [0.0, 1.0]]), level)
    assert len(found) == 2
    lonely = [(1, 0), (0, 1)] if level < 0.5 else [(0, 0), (1, 1)]
    for corner in lonely:
        assert any(np.abs(line - corner).sum(1) == pytest.approx(min(level, 1 - level)) for line in found)


def test_there_is_no_contour_through_what_is_no_number() -> None:
    grid = np.arange(25.0).reshape(5, 5)
    grid[2, 2] = np.nan
    found = contours.segments(grid, 12.2).reshape(-1, 2)
    assert len(found) > 0
    assert not np.any((np.abs(found - 2) < 1).all(1))


def test_levels_are_round_and_inside() -> None:
    assert contours.round_levels(-5.3, -4.0) == pytest.approx([-5.2, -5, -4.8, -4.6, -4.4, -4.2])
    assert contours.round_levels(0, 1) == pytest.approx(np.arange(1, 10) / 10)
    assert contours.round_levels(3, 3) == contours.round_levels(math.nan, 1) == []


def test_the_finest_grid_without_gaps_is_found() -> None:
    for stride in (1, 2, 4):
        grid, found = contours.known_lattice(survey(stride).energy)
        assert found == stride
        assert np.isfinite(grid).all()
    assert contours.known_lattice(np.full((9, 9), np.nan)) is None


# The map -------------------------------------------------------------------------------------------------------------


def test_row_and_column_lie_where_t_and_s_are(drawn: LandscapePanel) -> None:
    image, levels = drawn.map.image, drawn.map.levels
    assert levels == pytest.approx((-22, 22))
    assert np.array_equal(image.image, survey().energy)
    for s, t in ((-2, -2), (2, -2), (0.5, 1.25)):
        at = image.mapFromView(drawn.map._plot.vb.mapSceneToView(drawn.map.view.mapToScene(on_map(drawn, s, t))))
        column, row = (s + 2) / 4 * (POINTS - 1) + 0.5, (t + 2) / 4 * (POINTS - 1) + 0.5
        assert (at.x(), at.y()) == pytest.approx((column, row), abs=0.1)


def test_the_square_is_one_on_the_screen(qtbot, drawn: LandscapePanel) -> None:
    for width, height in ((1340, 640), (1000, 900), (1900, 980)):
        drawn.resize(width, height)
        QApplication.processEvents()
        across = on_map(drawn, 1, 0) - on_map(drawn, -1, 0)
        down = on_map(drawn, 0, -1) - on_map(drawn, 0, 1)
        assert across.x() == pytest.approx(down.y(), rel=0.03)
        assert drawn.map.view.geometry().right() <= drawn.map.width()
        assert drawn.map.view.geometry().bottom() <= drawn.map.height()


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_contours_are_right_from_the_coarse_picture_on(panel: LandscapePanel, stride: int) -> None:
    panel.show_plane(plane(), (0,), marginal=True)
    panel.show_survey(survey(stride))
    s, t = panel.map._contours.getData()
    levels = contours.round_levels(-22, 22)
    value = s + 10 * t
    assert len(value) > 0
    assert {min(levels, key=lambda level: abs(level - v)) for v in value} == set(levels)
    assert max(min(abs(level - v) for level in levels) for v in value) < 1e-4


def test_gaps_that_stay_leave_the_rest_its_contours(panel: LandscapePanel) -> None:
    found = survey()
    found.energy[3, 3] = np.nan
    whole = Survey(found.energy, found.coarse, found.energy.size, 1.0)
    panel.show_plane(plane(), (0,), marginal=True)
    panel.show_survey(whole)
    assert len(panel.map._contours.getData()[0]) > 0


def test_all_the_same_is_no_division_by_zero(panel: LandscapePanel) -> None:
    flat = np.full((POINTS, POINTS), 3.0, np.float32)
    panel.show_plane(plane(), (0,), marginal=True)
    panel.show_survey(Survey(flat, flat, flat.size, 0.1))
    QApplication.processEvents()
    low, high = panel.map.levels
    assert low == 3
    assert high > 3


# A point of it -------------------------------------------------------------------------------------------------------


def test_pointing_shows_the_image_there(drawn: LandscapePanel) -> None:
    assert np.array_equal(shown(drawn), as_bytes(plane().image(0, 0)))
    hover(drawn, 1.2, -0.7)
    s, t = told(drawn)
    assert (s, t) == pytest.approx((1.2, -0.7), abs=0.02)
    assert np.abs(shown(drawn).astype(int) - as_bytes(plane().image(s, t))).max() <= 1
    nearest = [round((at + 2) * 4) / 4 - 2 for at in (s, t)]
    assert f"E(x) {figure(nearest[0] + 10 * nearest[1], '.3f')}" in drawn.where.text()
    drawn.map._left()
    assert np.array_equal(shown(drawn), as_bytes(plane().image(0, 0)))


def test_a_click_holds_a_point_and_another_lets_it_go(drawn: LandscapePanel) -> None:
    click(drawn, -1.0, 0.5)
    held = shown(drawn)
    hover(drawn, 1.5, 1.5)
    assert np.array_equal(shown(drawn), held)
    assert "held" in drawn.where.text()
    click(drawn, -1.0, 0.5)
    hover(drawn, 1.5, 1.5)
    assert told(drawn) == pytest.approx((1.5, 1.5), abs=0.02)


def test_arrow_keys_go_from_point_to_point(drawn: LandscapePanel) -> None:
    drawn.map.view.setFocus()
    for key in (Qt.Key.Key_Right, Qt.Key.Key_Right, Qt.Key.Key_Up):
        QTest.keyClick(drawn.map.view, key)
    spacing = 4 / (POINTS - 1)
    assert told(drawn) == pytest.approx((2 * spacing, spacing), abs=1e-3)
    for _ in range(POINTS):
        QTest.keyClick(drawn.map.view, Qt.Key.Key_Right)
    assert told(drawn) == pytest.approx((2, spacing), abs=1e-3)


def test_what_is_not_known_yet_is_told_as_such(panel: LandscapePanel) -> None:
    panel.show_plane(plane(), (0,), marginal=False)
    panel.show_survey(survey(4))
    click(panel, 0.25, 0.0)
    assert "E(x,dog) about" in panel.where.text()
    panel.show_survey(survey())
    assert "E(x,dog) 0.250" in panel.where.text()


# A path --------------------------------------------------------------------------------------------------------------


def test_a_path_has_a_start_an_end_and_the_step_in_sight(panel: LandscapePanel) -> None:
    way = np.array([[-1.5, 0.5], [0, -0.5], [1, -0.25], [1.5, 0.5]])
    panel.show_plane(plane(way), (0, 10, 20, 30), marginal=True)
    panel.show_survey(survey())
    assert "87.6 % of the variance" in panel.about.text()
    assert np.column_stack(panel.map._trail.getData()) == pytest.approx(way)
    panel.show_step(18)
    spots = {spot.symbol(): tuple(spot.pos()) for spot in panel.map._dots.points()}
    assert spots == {"o": (-1.5, 0.5), "s": (1.5, 0.5), "d": (1.0, -0.25)}
    hover(panel, 0.0, -0.5)
    assert "step 10 of the run" in panel.where.text()
    hover(panel, 0.0, 1.0)
    assert "step" not in panel.where.text()


# Choices -------------------------------------------------------------------------------------------------------------


def test_changes_are_told_once_they_have_settled(qtbot, panel: LandscapePanel) -> None:
    told_of: list[None] = []
    panel.changed.connect(lambda: told_of.append(None))
    with qtbot.waitSignal(panel.changed):
        choose(panel.which, "along")
        choose(panel.size_, 129)
        panel.extent.setValue(1.5)
        panel.seed.setValue(3)
    assert len(told_of) == 1
    assert panel.choices == ("along", True, 1, 129, 1.5, 3)


def test_the_class_has_a_meaning_for_one_energy_only(panel: LandscapePanel) -> None:
    assert not panel.label.isEnabled()
    assert panel.choices.extent is None
    choose(panel.energy, False)
    assert panel.label.isEnabled()
    assert panel.label.currentText() == "dog"


def test_what_was_drawn_goes_with_what_it_was_of(drawn: LandscapePanel) -> None:
    drawn.show_empty("There is no run in sight.")
    assert drawn.empty.isVisible()
    assert drawn.here.is_empty
    assert not drawn.point.isVisible()
    assert not drawn.save.isEnabled()
    assert drawn.where.text() == ""


def test_another_scheme_repaints(qapp, drawn: LandscapePanel) -> None:
    theme.apply(qapp, "light")
    drawn.restyle()
    assert drawn.map.view.backgroundBrush().color().name() == theme.LIGHT.card
    theme.apply(qapp, "dark")
    drawn.restyle()


def test_both_axes_have_the_same_round_ticks(panel: LandscapePanel) -> None:
    for extent in (2.0, 0.137, 30.0):
        panel.show_plane(plane(extent=extent), (0,), marginal=True)
        left, bottom = (panel.map._plot.getAxis(side)._tickLevels[0] for side in ("left", "bottom"))
        assert left == bottom
        assert 3 <= len(left) <= 9
        assert all(abs(value) < extent and text == f"{value:g}".replace("-", "−") for value, text in left)


def test_a_plane_is_suggested_until_somebody_chooses_one(panel: LandscapePanel) -> None:
    panel.suggest("along")
    assert panel.choices.which == "along"
    choose(panel.which, "around")
    panel.suggest("along")
    assert panel.choices.which == "around"
