"""Energies, probabilities and distances over steps."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QColor, QTextDocument
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from scenarios_session import session as scenario
from windows import Wait, discard, drag

from cem_core.messages import Norm
from cem_core.session import Session
from cem_gui import theme
from cem_gui.panels.curves import CurvesPanel
from cem_gui.widgets.figures import figure
from cem_gui.widgets.plot import Plot

STEPS = 20


@pytest.fixture
def run() -> Session:
    return scenario(steps=STEPS + 1, chains=3)


@pytest.fixture
def panel(qtbot, run: Session) -> Iterator[CurvesPanel]:
    panel = CurvesPanel()
    panel.resize(380, 900)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.show_numbers(run.start, run.numbers, 1, STEPS, "l2")
    panel.set_cursor(STEPS)
    QApplication.processEvents()
    yield panel
    panel.close()
    discard(panel)


def legend(plot: Plot) -> str:
    """As it can be read."""
    document = QTextDocument()
    document.setHtml(plot.legend.text())
    return re.sub(r"\s+", " ", document.toPlainText().replace("\xa0", " ")).strip()


def drawn(plot: Plot) -> dict[str, np.ndarray]:
    return {name: curve.getData()[1] for name, curve in plot._curves.items()}


def at(plot: Plot, step: float) -> QPoint:
    """Where a step is, halfway up the plot."""
    view = plot.view
    box = view.getPlotItem().vb
    x = box.mapViewToScene(QPointF(step, 0)).x()
    return view.mapFromScene(QPointF(x, box.sceneBoundingRect().center().y()))


def choose(panel: CurvesPanel, plot: str, row: int) -> None:
    box = getattr(panel, f"which_{plot}")
    QTest.keyClick(box, Qt.Key.Key_Home)
    for _ in range(row):
        QTest.keyClick(box, Qt.Key.Key_Down)
    assert box.currentIndex() == row


# What is drawn -------------------------------------------------------------------------------------------------------


def test_the_chosen_chain_is_drawn_with_its_target(panel: CurvesPanel, run: Session) -> None:
    target = run.start.checkpoint.classes[run.start.labels[1]]
    curves = drawn(panel.energy)
    assert set(curves) == {"E(x)", f"E(x,{target})"}
    assert np.array_equal(curves["E(x)"], run.numbers.energy[:, 1])
    assert np.array_equal(curves[f"E(x,{target})"], run.numbers.joint[:, 1])
    assert np.array_equal(drawn(panel.probability)[f"p({target}|x)"], np.exp(run.numbers.log_p[:, 1]))
    assert np.array_equal(drawn(panel.distance)["‖x−x₀‖₂"], run.numbers.distance[:, 1])


def test_another_chain_takes_its_place(panel: CurvesPanel, run: Session) -> None:
    panel.show_numbers(run.start, run.numbers, 2, STEPS, "l2")
    target = run.start.checkpoint.classes[run.start.labels[2]]
    assert set(drawn(panel.energy)) == {"E(x)", f"E(x,{target})"}
    assert np.array_equal(drawn(panel.energy)["E(x)"], run.numbers.energy[:, 2])


def test_the_others_are_there_faintly(panel: CurvesPanel, run: Session) -> None:
    x, y = panel.energy._rest.getData()
    for chain in range(3):
        one = y[chain * (STEPS + 2) : (chain + 1) * (STEPS + 2)]
        assert np.array_equal(one[:-1], run.numbers.energy[:, chain])
        assert np.isnan(one[-1])
    assert x.max() == STEPS + 1


def test_the_choice_of_the_probabilities(panel: CurvesPanel, run: Session) -> None:
    choose(panel, "probability", 2)
    [(name, values)] = drawn(panel.probability).items()
    assert name.startswith("log p(")
    assert np.array_equal(values, run.numbers.log_p[:, 1])
    choose(panel, "probability", 1)
    logits = run.numbers.logits[:, 1].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    likely = np.argsort(-p[-1])[:5]
    curves = drawn(panel.probability)
    assert list(curves) == [run.start.checkpoint.classes[k] for k in likely]
    for k in likely:
        assert curves[run.start.checkpoint.classes[k]] == pytest.approx(p[:, k], abs=1e-5)
    choose(panel, "probability", 0)
    assert len(drawn(panel.probability)) == 1


def test_a_curve_has_the_colour_that_its_legend_says(panel: CurvesPanel, run: Session) -> None:
    """Also when the classes change places."""
    choose(panel, "probability", 1)
    for steps in range(2, STEPS + 1):
        part = scenario(steps=steps, chains=3)
        panel.show_numbers(part.start, part.numbers, 1, STEPS, "l2")
        for name, (colour, _) in panel.probability._series.items():
            pen = panel.probability._curves[name].opts["pen"]
            assert pen.color() == QColor(getattr(theme.now(), colour))


def test_the_choice_of_the_distance(panel: CurvesPanel, run: Session) -> None:
    choose(panel, "distance", 1)
    assert np.array_equal(drawn(panel.distance)["‖a∇f+b∇LSE‖₂"], run.numbers.gradient_norm[:, 1])
    choose(panel, "distance", 0)
    assert list(drawn(panel.distance)) == ["‖x−x₀‖₂"]


@pytest.mark.parametrize(("norm", "name"), [("l2", "‖x−x₀‖₂"), ("linf", "‖x−x₀‖∞"), (None, "‖x−x₀‖, norm changed")])
def test_the_distance_says_its_norm(panel: CurvesPanel, run: Session, norm: Norm | None, name: str) -> None:
    panel.show_numbers(run.start, run.numbers, 1, STEPS, norm)
    assert list(drawn(panel.distance)) == [name]


def test_the_axis_covers_the_steps_to_come(panel: CurvesPanel, run: Session) -> None:
    panel.show_numbers(run.start, run.numbers, 0, 500, "l2")
    (left, right), _ = panel.energy.view.viewRange()
    assert left <= 0
    assert right >= 500


def test_a_single_step_can_be_shown(panel: CurvesPanel) -> None:
    short = scenario(steps=1, chains=1)
    panel.show_numbers(short.start, short.numbers, 0, 60, "l2")
    panel.set_cursor(0)
    assert legend(panel.energy).count("E(x") == 2
    panel.grab()


def test_names_that_look_alike_when_they_are_cut_have_a_curve_each(panel: CurvesPanel) -> None:
    names = ("automobile-north-1", "automobile-south-1", "automobile-south-2")
    alike = scenario(steps=2, chains=1, classes=names)
    choose(panel, "probability", 1)
    panel.show_numbers(alike.start, alike.numbers, 0, 1, "l2")
    p = np.exp(alike.numbers.logits[:, 0] + alike.numbers.energy[:, 0, None])
    curves = drawn(panel.probability)
    assert sorted(map(tuple, curves.values())) == sorted(map(tuple, p.T))


def test_names_of_classes_are_text(panel: CurvesPanel) -> None:
    odd = scenario(steps=2, chains=1, classes=("<b>bold</b>", "a & b"))
    panel.show_numbers(odd.start, odd.numbers, 0, 1, "l2")
    assert "a & b" in legend(panel.energy)


# The cursor ----------------------------------------------------------------------------------------------------------


def test_the_cursor_is_the_same_in_all_three(panel: CurvesPanel, run: Session) -> None:
    panel.set_cursor(7)
    for plot in (panel.energy, panel.probability, panel.distance):
        assert plot._cursor.value() == 7
    assert f"E(x) {figure(run.numbers.energy[7, 1])}" in legend(panel.energy)


def test_a_cursor_that_is_set_is_not_announced(qtbot, panel: CurvesPanel) -> None:
    with qtbot.assertNotEmitted(panel.stepped):
        panel.set_cursor(3)


@pytest.mark.parametrize("plot", ["energy", "probability", "distance"])
def test_a_click_goes_to_a_step(qtbot, panel: CurvesPanel, plot: str) -> None:
    view = getattr(panel, plot).view
    with qtbot.waitSignal(panel.stepped) as stepped:
        QTest.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=at(getattr(panel, plot), 12))
    assert stepped.args == [12]


def test_the_cursor_can_be_dragged(panel: CurvesPanel) -> None:
    panel.set_cursor(5)
    heard: list[int] = []
    panel.stepped.connect(heard.append)
    drag(panel.energy.view.viewport(), *(at(panel.energy, step) for step in range(5, 16)))
    assert heard[-1] == 15


def test_the_cursor_stays_among_the_recorded_steps(panel: CurvesPanel) -> None:
    heard: list[int] = []
    panel.stepped.connect(heard.append)
    for x in (-10.0, 1e9):
        panel.energy._cursor.setValue(x)
    assert heard == [0, STEPS]


# Hovering ------------------------------------------------------------------------------------------------------------


def test_hovering_reads_the_values_there(panel: CurvesPanel, run: Session, wait: Wait) -> None:
    viewport = panel.energy.view.viewport()
    QTest.mouseMove(viewport, at(panel.energy, 3))
    QTest.mouseMove(viewport, at(panel.energy, 4))
    wait(lambda: "at step 4" in legend(panel.energy))
    assert f"E(x) {figure(run.numbers.energy[4, 1])}" in legend(panel.energy)
    assert "at step" not in legend(panel.distance)
    QTest.mouseMove(panel.energy.title)
    QTest.mouseMove(panel.energy.title, QPoint(2, 2))
    wait(lambda: "at step" not in legend(panel.energy))
    assert f"E(x) {figure(run.numbers.energy[STEPS, 1])}" in legend(panel.energy)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.9812, "0.98"), (-14.83, "−14.83"), (1.2e-5, "1.2e−05"), (0.00123, "0.0012"), (123456, "1.2e+05")],
)
def test_numbers_have_as_many_digits_as_can_be_read(qtbot, value: float, text: str) -> None:
    plot = Plot("Energy")
    qtbot.addWidget(plot)
    plot.show_series({"E": ("blue", np.array([value]))}, np.zeros((1, 1), np.float32), 1)
    assert legend(plot).endswith(f"E {text}")


def test_long_legends_do_not_widen_the_panel(panel: CurvesPanel) -> None:
    width = panel.minimumSizeHint().width()
    long = scenario(steps=2, chains=1, classes=("Donaudampfschifffahrtselektrizitätenhauptbetriebswerk" * 3,))
    panel.show_numbers(long.start, long.numbers, 0, 1, "l2")
    assert panel.minimumSizeHint().width() == width
