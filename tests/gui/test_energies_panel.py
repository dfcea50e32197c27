"""Histograms of E(x), and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QTextDocument
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from windows import Wait, checkpoint, discard

from cem_core.messages import Refused
from cem_core.probes.energy_report import EnergyReport, Row
from cem_core.probes.requests import Attack, Data, Energies, Subject
from cem_core.probes.results import Kind, Light, Lights, Opening, Sample
from cem_gui import theme
from cem_gui.panels.energies import EnergiesPanel, meaning

KINDS: tuple[Kind, ...] = ("clean", "adversarial", "generated")


def report(models: int = 1, images: int = 4, name: str = "net") -> EnergyReport:
    """One that has begun."""
    subjects = tuple(Subject(f"{name}-{i}") for i in range(models))
    known = tuple(msgspec.structs.replace(checkpoint(), name=f"{name}-{i}") for i in range(models))
    found = EnergyReport()
    found.add(Opening(Energies(subjects, Data(), Attack(), 0.5, 3), known, ("cat", "dog"), images))
    return found


def sample(subject: int, kind: Kind, *energy: float) -> Sample:
    return Sample(subject, kind, np.array(energy, np.float32))


@pytest.fixture
def panel(qtbot) -> Iterator[EnergiesPanel]:
    panel = EnergiesPanel()
    panel.resize(1358, 640)
    with qtbot.waitExposed(panel):
        panel.show()
    yield panel
    panel.close()
    discard(panel)


def show(panel: EnergiesPanel, report: EnergyReport, *, so_far: bool = False, stale: bool = False) -> None:
    panel.show_report(report, so_far=so_far, stale=stale)
    QApplication.processEvents()


def plain(html: str) -> str:
    document = QTextDocument()
    document.setHtml(html)
    return re.sub(r"\s+", " ", document.toPlainText().replace("\xa0", " ").replace("￼", " ")).strip()


def test_each_kind_is_drawn_over_the_same_energies(panel: EnergiesPanel) -> None:
    known = report()
    for answer in (
        sample(0, "clean", -4, -3, -3, -1), sample(0, "adversarial", -2, -1, -1, 0), sample(0, "generated", -9, -8, -8),
    ):  # fmt: skip
        known.add(answer)
    show(panel, known)
    drawn = panel.models[0].plot._drawn
    assert set(drawn) == set(KINDS)
    for kind, expected in known.histogram(0).shares.items():
        edges, shares = drawn[kind].getOriginalDataset()
        np.testing.assert_array_equal(edges, known.histogram(0).edges)
        np.testing.assert_allclose(shares, 100 * expected)
        assert shares.sum() == pytest.approx(100)


def test_kinds_differ_by_colour_and_by_how_they_are_filled(panel: EnergiesPanel) -> None:
    known = report()
    for kind in KINDS:
        known.add(sample(0, kind, -1, 0))
    show(panel, known)
    looks = [panel.models[0].plot._drawn[kind].opts for kind in KINDS]
    assert len({look["pen"].color().name() for look in looks}) == 3
    assert len({look["fillBrush"].style() for look in looks}) == 3
    assert plain(panel.models[0].legend.text()) == "■ clean ▨ adversarial □ generated"


def test_each_model_has_a_plot_of_its_own(panel: EnergiesPanel) -> None:
    known = report(models=3)
    for subject in range(3):
        known.add(sample(subject, "clean", -100.0 * subject - 1, -100.0 * subject))
    show(panel, known)
    assert [model.isVisible() for model in panel.models] == [True, True, True, False]
    ranges = [model.plot.getPlotItem().vb.viewRange()[0] for model in panel.models[:3]]
    for subject, (low, high) in enumerate(ranges):
        assert low <= -100 * subject - 1
        assert -100 * subject <= high
        assert high - low < 2
    assert panel.alone.text().count("never energies") == 1
    show(panel, report_of_one := _with(report(), sample(0, "clean", 0, 1)))
    assert [model.isVisible() for model in panel.models] == [True, False, False, False]
    assert panel.models[0].name.text() == report_of_one.names[0]


def _with(known: EnergyReport, *answers: Sample | Lights) -> EnergyReport:
    for answer in answers:
        known.add(answer)
    return known


def test_numbers_say_how_well_kinds_are_told_apart(panel: EnergiesPanel) -> None:
    known = _with(report(), sample(0, "clean", 0, 1, 2, 3), sample(0, "adversarial", 2.5, 3.5, 4, 5))
    show(panel, known)
    said = plain(panel.models[0].numbers.text())
    assert "adversarial 4 3.75 ± 0.90 +2.25 0.94" in said
    assert "clean 4 1.50 ± 1.12 – –" in said
    assert "0.94: in 94 % of pairs, E(x) of the adversarial image is the higher" in panel.models[0].meanings.text()
    assert "generated" not in said


@pytest.mark.parametrize(
    ("auroc", "says"),
    [
        (1.0, "1.00: in 100 % of pairs, E(x) of the generated image is the higher: the model finds generated images"),
        (0.93, "0.93: in 93 % of pairs"),
        (0.52, "so that it hardly tells them from clean ones (0.5: not at all)."),
        (0.015, "the model finds generated images more likely than clean ones."),
    ],
)  # fmt: skip
def test_the_meaning_of_an_auroc(auroc: float, says: str) -> None:
    assert says in meaning(Row("generated", 10, 0.0, 1.0, 0.0, auroc))


@pytest.mark.parametrize("auroc", np.linspace(0, 1, 201))
def test_the_number_and_its_percentage_are_the_same(auroc: float) -> None:
    number, percent = re.match(r"([\d.]+): in (\d+) %", meaning(Row("adversarial", 10, 0, 1, 0, auroc))).groups()  # type: ignore[union-attr]
    assert round(100 * float(number)) == int(percent)
    assert float(number) == pytest.approx(auroc, abs=0.0051)


def test_what_is_not_there_yet_is_told(panel: EnergiesPanel) -> None:
    known = _with(report(models=2, images=4), sample(0, "clean", 0, 1))
    show(panel, known, so_far=True)
    assert plain(panel.models[1].numbers.text()) == "Nothing has been measured yet."
    assert panel.about.text() == "PGD-20 at L2 ε = 0.5 · 0 of 4 images so far"
    known.add(sample(1, "clean", 0, 1))
    show(panel, known, so_far=True, stale=True)
    assert panel.about.text().startswith("PGD-20 at L2 ε = 0.5 · 2 of 4 images so far · not yet measured")


def test_hovering_reads_a_bin(panel: EnergiesPanel, wait: Wait) -> None:
    known = _with(report(), sample(0, "clean", 0, 0, 0, 10), sample(0, "adversarial", 10, 10))
    show(panel, known)
    model = panel.models[0]
    box = model.plot.getPlotItem().vb
    point = QPointF(box.mapViewToScene(QPointF(9.9, 0)).x(), box.sceneBoundingRect().center().y())
    QTest.mouseMove(model.plot.viewport(), model.plot.mapFromScene(point) - QPoint(9, 0))
    QTest.mouseMove(model.plot.viewport(), model.plot.mapFromScene(point))
    edges = known.histogram(0).edges
    read = f"E(x) from {edges[-2]:.2f} to {edges[-1]:.2f}: ■ clean 25.0 %, ▨ adversarial 100.0 %"
    wait(lambda: plain(model.legend.text()) == read)
    QTest.mouseMove(panel.choice, QPoint(2, 2))
    QTest.mouseMove(panel.choice, QPoint(4, 4))
    wait(lambda: plain(model.legend.text()) == "■ clean ▨ adversarial")


def test_lights_of_a_model_are_told_when_asked_for(panel: EnergiesPanel) -> None:
    alarm = Light("mode", "alarm", "It is in train mode.", "Save it in evaluation mode.")
    fine = Light("logits", "fine", "The model gives logits.")
    known = _with(report(models=2), sample(0, "clean", 0, 1), Lights(0, (fine,)), Lights(1, (fine, alarm)))
    show(panel, known)
    first, second = panel.models[0].why, panel.models[1].why
    assert (first.text(), second.text()) == ("● fine", "✕ alarm: mode")
    assert not panel.trust.isVisible()
    QTest.mouseClick(second, Qt.MouseButton.LeftButton)
    assert panel.chosen.text() == "net-1"
    assert "→ Save it in evaluation mode." in panel.lights.toPlainText()
    QTest.mouseClick(first, Qt.MouseButton.LeftButton)
    assert panel.chosen.text() == "net-0"
    assert not second.isChecked()
    QTest.mouseClick(first, Qt.MouseButton.LeftButton)
    assert not panel.trust.isVisible()


def test_long_names_keep_the_panel_narrow(panel: EnergiesPanel) -> None:
    show(panel, _with(report(models=4), sample(0, "clean", 0, 1)))
    width = panel.results.minimumSizeHint().width()
    name = "Wang2023Better_WRN-70-16-and-a-name-that-goes-on-for-ever-and-on"
    known = report(models=4, name=name)
    for subject in range(4):
        for kind in KINDS:
            known.add(sample(subject, kind, -1, 0, 12345))
    show(panel, known)
    assert panel.results.minimumSizeHint().width() == width
    assert panel.models[3].name.toolTip() == f"{name}-3"


def test_other_colours_are_taken(panel: EnergiesPanel, qapp) -> None:
    show(panel, _with(report(), sample(0, "clean", 0, 1)))
    try:
        theme.apply(qapp, "light")
        panel.restyle()
        assert panel.models[0].plot._drawn["clean"].opts["pen"].color().name() == theme.LIGHT.accent
        assert theme.LIGHT.accent in panel.models[0].legend.text()
    finally:
        theme.apply(qapp, "dark")


def test_one_radius_and_a_number_of_images_to_generate(panel: EnergiesPanel) -> None:
    choice = panel.choice
    assert choice.wanted_eps() == (0.5,)
    choice.eps.setText("0.5, 1")
    with pytest.raises(Refused, match="One ε is wanted here"):
        choice.wanted_eps()
    choice.generated.setValue(7)
    assert choice.settings.generated == 7
    choice.show_settings(msgspec.structs.replace(choice.settings, generated=0))
    assert choice.generated.value() == 0
    choice.show_settings(msgspec.structs.replace(choice.settings, generated=None))
    assert choice.generated.value() == 20
