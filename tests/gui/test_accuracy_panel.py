"""Accuracy against ε: settings, curves, numbers and lights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QTextDocument
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QComboBox, QLineEdit
from windows import Wait, checkpoint, discard

from cem_core.messages import Norm, Refused
from cem_core.probes.report import Report
from cem_core.probes.requests import Accuracy, Attack, Data, Subject
from cem_core.probes.results import Cell, Light, Lights, Note, Opening, wilson
from cem_gui import theme
from cem_gui.panels.accuracy import AccuracyPanel
from cem_gui.widgets.lights import SYMBOLS
from cem_gui.widgets.set_choice import SetSettings, radii

CLASSES = ("cat", "dog")
FINE = Light("logits", "fine", "The model gives logits.")
DOUBT = Light("restarts", "doubt", "Some restarts break more.", "Give the attack more of them.")
ALARM = Light("mode", "alarm", "It is in train mode.", "Save it in evaluation mode.")


def report(
    models: int = 1,
    eps: Sequence[float] = (0.0, 0.5),
    images: int = 20,
    norm: Norm = "l2",
    classes: Sequence[str] = CLASSES,
    name: str = "net",
) -> Report:
    """One that has begun."""
    subjects = tuple(Subject(f"{name}-{i}") for i in range(models))
    known = tuple(msgspec.structs.replace(checkpoint(classes), name=f"{name}-{i}") for i in range(models))
    found = Report()
    found.add(Opening(Accuracy(subjects, Data(), Attack(norm=norm), tuple(eps)), known, tuple(classes), images))
    return found


def cell(subject: int, eps: float, right: int, total: int = 10, first: int = 0) -> Cell:
    """Of so many images, class about class, the first ones right."""
    labels = tuple(i % len(CLASSES) for i in range(total))
    attacked = {"attacked": total, "broken": (total - right, 0)} if eps else {}
    return Cell(subject, eps, first, labels, tuple(i < right for i in range(total)), **attacked)


@pytest.fixture
def panel(qtbot) -> Iterator[AccuracyPanel]:
    panel = AccuracyPanel()
    panel.resize(1358, 640)
    with qtbot.waitExposed(panel):
        panel.show()
    yield panel
    panel.close()
    discard(panel)


def show(panel: AccuracyPanel, report: Report, *, so_far: bool = False, stale: bool = False) -> None:
    panel.show_report(report, so_far=so_far, stale=stale)
    QApplication.processEvents()


def rows(panel: AccuracyPanel) -> list[list[str]]:
    items = [panel.table.topLevelItem(i) for i in range(panel.table.topLevelItemCount())]
    return [[item.text(column) for column in range(6)] for item in items]


def plain(html: str) -> str:
    document = QTextDocument()
    document.setHtml(html)
    return re.sub(r"\s+", " ", document.toPlainText().replace("\xa0", " ").replace("\u2011", "-")).strip()


def choose(box: QComboBox, data: object) -> None:
    """By the keyboard."""
    box.setFocus()
    QTest.keyClick(box, Qt.Key.Key_Home)
    for _ in range(box.findData(data)):
        QTest.keyClick(box, Qt.Key.Key_Down)
    assert box.currentData() == data


def write(field: QLineEdit, text: str) -> None:
    field.setFocus()
    field.selectAll()
    QTest.keyClicks(field, text)


# What is drawn -------------------------------------------------------------------------------------------------------


def test_curves_go_through_the_accuracies_within_their_bands(panel: AccuracyPanel) -> None:
    known = report()
    for answer in (cell(0, 0.0, 10), cell(0, 0.5, 7)):
        known.add(answer)
    show(panel, known)
    (drawn,) = panel.plot._drawn
    for part, expected in (
        (drawn.line, [100, 70]),
        (drawn.low, [100 * wilson(10, 10).low, 100 * wilson(7, 10).low]),
        (drawn.high, [100 * wilson(10, 10).high, 100 * wilson(7, 10).high]),
    ):
        x, y = part.getData()
        np.testing.assert_array_equal(x, [0, 0.5])
        np.testing.assert_allclose(y, expected)


def test_models_differ_by_colour_dashes_and_symbol(panel: AccuracyPanel) -> None:
    known = report(models=4)
    for subject in range(4):
        known.add(cell(subject, 0.5, subject))
    show(panel, known)
    looks = [
        (line.opts["pen"].color().name(), line.opts["pen"].style(), line.opts["symbol"])
        for line in (drawn.line for drawn in panel.plot._drawn)
    ]
    for aspect in zip(*looks, strict=True):
        assert len(set(aspect)) == 4
    assert plain(panel.plot.legend.text()) == "● net-0 ■ net-1 ◆ net-2 ★ net-3"


def test_fewer_models_leave_nothing_of_the_others(panel: AccuracyPanel) -> None:
    many, one = report(models=3), report()
    for subject in range(3):
        many.add(cell(subject, 0.5, 5))
    one.add(cell(0, 0.5, 5))
    show(panel, many)
    show(panel, one)
    assert len(panel.plot._drawn) == 1
    assert plain(panel.plot.legend.text()) == "● net-0"
    assert len(rows(panel)) == 1


def test_hovering_reads_values_with_band_and_number(panel: AccuracyPanel, wait: Wait) -> None:
    known = report(eps=(0.0, 0.25, 0.5))
    for answer in (cell(0, 0.0, 10), cell(0, 0.25, 7)):
        known.add(answer)
    show(panel, known)
    view = panel.plot.view
    box = view.getPlotItem().vb
    for eps in (0.05, 0.27):
        scene = QPointF(box.mapViewToScene(QPointF(eps, 0)).x(), box.sceneBoundingRect().center().y())
        QTest.mouseMove(view.viewport(), view.mapFromScene(scene))
    low, high = wilson(7, 10)
    read = f"at ε = 0.25 ● net-0 70.0 % ({100 * low:.1f}–{100 * high:.1f} %, n = 10)"
    wait(lambda: plain(panel.plot.legend.text()) == read)
    QTest.mouseMove(panel.choice, QPoint(2, 2))
    QTest.mouseMove(panel.choice, QPoint(5, 5))
    wait(lambda: plain(panel.plot.legend.text()) == "● net-0")


@pytest.mark.parametrize(
    ("norm", "eps", "ticks"),
    [
        ("l2", (0.0, 0.25, 1.0), ["0", "0.25", "1"]),
        ("linf", (0.0, 1 / 255, 8 / 255), ["0", "1/255", "8/255"]),
        ("l2", tuple(i / 100 for i in range(101)), None),
    ],
)
def test_ticks_are_the_radii_as_far_as_there_is_room(panel: AccuracyPanel, norm, eps, ticks) -> None:
    known = report(eps=eps, norm=norm)
    known.add(cell(0, eps[-1], 5))
    show(panel, known)
    (shown,) = panel.plot.view.getPlotItem().getAxis("bottom")._tickLevels
    labels = [label for _, label in shown]
    assert labels == ticks if ticks else 10 < len(labels) < 20 and labels[-1] == "1"


# Numbers and lights --------------------------------------------------------------------------------------------------


def test_rows_are_by_model_and_radius_whatever_comes_first(panel: AccuracyPanel) -> None:
    known = report(models=2, images=20)
    for answer in (cell(1, 0.5, 2), cell(0, 0.5, 7), cell(1, 0.0, 9), cell(0, 0.0, 10), cell(0, 0.0, 9, first=10)):
        known.add(answer)
        show(panel, known, so_far=True)
    low, high = wilson(19, 20)
    first = ["●  net-0", "0", "95.0 %", f"{100 * low:.1f}–{100 * high:.1f} %", "20", "–"]
    assert rows(panel)[0] == first
    assert [row[:3] for row in rows(panel)[1:]] == [
        ["●  net-0", "0.5", "70.0 %"],
        ["■  net-1", "0", "90.0 %"],
        ["■  net-1", "0.5", "20.0 %"],
    ]
    assert [row[4] for row in rows(panel)] == ["20", "10 of 20", "10 of 20", "10 of 20"]
    assert panel.plot.about.text() == "PGD-20 · L2 · 10 of 20 images so far · 95 % bands (Wilson)"


def test_what_is_shown_says_that_something_else_is_chosen(panel: AccuracyPanel) -> None:
    known = report(images=10)
    known.add(cell(0, 0.5, 7))
    show(panel, known)
    assert panel.plot.about.text() == "PGD-20 · L2 · 10 images · 95 % bands (Wilson)"
    show(panel, known, stale=True)
    assert panel.plot.about.text().endswith("· not yet measured with what is chosen now")


def test_every_number_has_lights_that_say_what_they_mean(panel: AccuracyPanel) -> None:
    known = report(models=2)
    for subject, lights in ((0, (FINE,)), (1, (FINE, DOUBT, ALARM))):
        known.add(cell(subject, 0.0, 9))
        known.add(Lights(subject, lights))
    show(panel, known)
    assert [row[5] for row in rows(panel)] == ["● fine", "✕ alarm: mode"]
    item = panel.table.topLevelItem(1)
    QTest.mouseClick(panel.table.viewport(), Qt.MouseButton.LeftButton, pos=panel.table.visualItemRect(item).center())
    assert panel.chosen.text() == "90.0 % at ε = 0: net-1"
    said = " ".join(panel.lights.toPlainText().split())
    assert said == (
        "✕ mode alarm It is in train mode. → Save it in evaluation mode. "
        "▲ restarts doubt Some restarts break more. → Give the attack more of them. "
        "● logits fine The model gives logits."
    )
    assert plain(item.toolTip(5)) == said


def test_states_differ_by_symbol_and_by_colour(panel: AccuracyPanel) -> None:
    from cem_gui.widgets import lights

    assert len(set(SYMBOLS.values())) == 4
    assert len({lights.colour(state) for state in SYMBOLS}) == 4


def test_lights_of_the_attack_are_added_up_over_all_images(panel: AccuracyPanel) -> None:
    known = report(eps=(0.5,))
    known.add(cell(0, 0.5, 5))
    show(panel, known)
    before = rows(panel)[0][5]
    worse = cell(0, 0.5, 5, first=10)
    known.add(msgspec.structs.replace(worse, vanished=10))
    show(panel, known)
    assert "gradients" not in before
    assert rows(panel)[0][5] == "✕ alarm: gradients"
    assert "10 of 20" in panel.lights.toPlainText()


def test_the_chosen_row_stays_while_more_comes(panel: AccuracyPanel) -> None:
    known = report(models=2, eps=(0.0, 0.25, 0.5))
    known.add(cell(0, 0.0, 10))
    show(panel, known)
    assert panel.chosen.text() == "100.0 % at ε = 0: net-0"
    known.add(cell(0, 0.25, 8))
    show(panel, known)
    assert panel.chosen.text() == "80.0 % at ε = 0.25: net-0", "the strongest so far, until somebody chooses"
    first = panel.table.visualItemRect(panel.table.topLevelItem(0)).center()
    QTest.mouseClick(panel.table.viewport(), Qt.MouseButton.LeftButton, pos=first)
    for answer in (cell(0, 0.5, 5), cell(1, 0.0, 9), cell(0, 0.0, 5, first=10)):
        known.add(answer)
        show(panel, known)
    assert panel.chosen.text() == "75.0 % at ε = 0: net-0"


def test_classes_come_worst_first_and_only_those_with_images(panel: AccuracyPanel) -> None:
    classes = tuple(f"class {i}" for i in range(1000))
    known = report(eps=(0.0,), classes=classes, images=1998)
    labels = tuple(range(999)) * 2  # none of the last class
    known.add(Cell(0, 0.0, 0, labels, tuple(label % 3 != 0 or i >= 999 for i, label in enumerate(labels))))
    show(panel, known)
    shares = panel.classes.shares
    assert len(shares) == 999
    assert [share.share for share in shares] == sorted(share.share for share in shares)
    assert (shares[0].name, shares[0].correct, shares[0].total) == ("class 0", 1, 2)
    assert panel.classes.verticalScrollBar().maximum() > 10 * panel.classes.viewport().height()
    assert "1 of 2 images" in panel.classes.model().index(0, 0).data(Qt.ItemDataRole.ToolTipRole)


def test_long_names_and_many_classes_keep_the_panel_narrow(panel: AccuracyPanel) -> None:
    width = panel.results.minimumSizeHint().width()
    name = "Wang2023Better_WRN-70-16-and-a-name-that-goes-on-for-ever-and-on"
    known = report(models=4, name=name, classes=tuple("w" * 80 + str(i) for i in range(1000)))
    for subject in range(4):
        known.add(cell(subject, 0.5, 5))
        known.add(Lights(subject, (Light("mode", "doubt", "w" * 200, "x" * 200),)))
    known.notes.append("y" * 300)
    known.skipped["z" * 300] = "w" * 300
    show(panel, known)
    assert panel.results.minimumSizeHint().width() == width
    assert panel.minimumSizeHint().width() < 400, "it must not keep the window wide where it is not shown"
    assert panel.chosen.toolTip().endswith(f"{name}-0")
    assert panel.lights.horizontalScrollBar().maximum() == 0


def test_notes_count_what_was_skipped_and_list_it(panel: AccuracyPanel) -> None:
    known = report()
    known.add(cell(0, 0.5, 5))
    known.add(Note("Half of the batch fits into memory."))
    for i in range(1500):
        known.add(Note(f"it is damaged, {i}", f"dog/{i}.png"))
    show(panel, known)
    said = panel.notes.toPlainText().splitlines()
    assert said[:3] == [
        "Half of the batch fits into memory.",
        "1,500 images were skipped:",
        "· dog/0.png: it is damaged, 0",
    ]
    assert len(said) == 203
    assert said[-1] == "… and 1,300 more."


def test_other_colours_are_taken(panel: AccuracyPanel, qapp) -> None:
    known = report(models=2)
    known.add(cell(1, 0.5, 5))
    known.add(Lights(1, (ALARM,)))
    show(panel, known)
    try:
        theme.apply(qapp, "light")
        panel.restyle()
        assert panel.plot._drawn[1].line.opts["pen"].color().name() == theme.LIGHT.blue
        assert theme.LIGHT.red in panel.lights.toHtml()
    finally:
        theme.apply(qapp, "dark")


# What is asked for ---------------------------------------------------------------------------------------------------


def test_nothing_is_measured_before_somebody_says_so(panel: AccuracyPanel, qtbot) -> None:
    assert panel.empty.isVisible()
    assert not panel.results.isVisible()
    assert "Press Measure" in panel.empty.text()
    panel.show_state(busy=False, can_run=True)
    with qtbot.waitSignal(panel.measure_wanted):
        QTest.mouseClick(panel.measure, Qt.MouseButton.LeftButton)
    panel.show_state(busy=True, can_run=True)
    assert panel.measure.text() == "Cancel"
    with qtbot.waitSignal(panel.cancel_wanted):
        QTest.mouseClick(panel.measure, Qt.MouseButton.LeftButton)
    assert not panel.export_button.isEnabled()
    panel.show_state(busy=False, can_run=False, why_not="The models are still being opened.", can_export=True)
    assert not panel.measure.isEnabled()
    assert panel.measure.toolTip() == "The models are still being opened."
    with qtbot.waitSignal(panel.export_wanted):
        QTest.mouseClick(panel.export_button, Qt.MouseButton.LeftButton)


def test_each_norm_has_radii_of_its_own(panel: AccuracyPanel) -> None:
    choice = panel.choice
    assert choice.wanted_eps() == (0, 0.25, 0.5, 1)
    choose(choice.norm, "linf")
    assert choice.wanted_eps() == (0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
    assert choice.wanted_attack() == Attack(norm="linf")
    write(choice.eps, "0, 3/255")
    choose(choice.norm, "l2")
    assert choice.wanted_eps() == (0, 0.25, 0.5, 1)
    choose(choice.norm, "linf")
    assert choice.wanted_eps() == (0, 3 / 255)


@given(
    st.lists(st.fractions(0, 100, max_denominator=1000), min_size=1, max_size=8), st.sampled_from([", ", ",", " ", ";"])
)
def test_radii_are_read_in_any_order_and_each_once(values, between: str) -> None:
    assert radii(between.join(map(str, values))) == tuple(sorted({float(value) for value in values}))


@pytest.mark.parametrize("text", ["", " , ", "a", "1/0", "0.5, b", "1/2/3", "/255", "8/", "0x10"])
def test_what_is_no_radius_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="write radii such as"):
        radii(text)


@pytest.mark.parametrize("text", ["0, 1 / 255", " 0,1/255 ", "1/255;0", "0 1/255,"])
def test_spaces_around_strokes_and_commas_do_not_matter(text: str) -> None:
    assert radii(text) == (0, 1 / 255)


def test_a_problem_stands_under_the_radii(panel: AccuracyPanel) -> None:
    panel.choice.say("ε must be a number between 0 and 1, not 8.")
    assert panel.choice.problem.isVisible()
    assert plain(panel.choice.problem.text()) == "✕ ε must be a number between 0 and 1, not 8."
    panel.choice.say("")
    assert not panel.choice.problem.isVisible()


def test_only_pgd_has_steps_and_restarts(panel: AccuracyPanel) -> None:
    choice = panel.choice
    choice.steps.setValue(50)
    choice.restarts.setValue(5)
    assert choice.wanted_attack() == Attack(steps=50, restarts=5)
    for name in ("apgd-ce", "apgd-t", "autoattack"):
        choose(choice.attack, name)
        assert choice.wanted_attack() == Attack(name=name)
        assert not choice.steps.isVisible()
    choose(choice.attack, "pgd")
    assert choice.steps.isVisible()


def test_a_folder_can_be_chosen_and_left_again(panel: AccuracyPanel, qtbot, tmp_path: Path) -> None:
    choice = panel.choice
    assert choice.wanted_data() == Data()
    assert not choice.split.isVisible()
    with qtbot.waitSignal(choice.folder_wanted):
        choice.images.setFocus()
        QTest.keyClick(choice.images, Qt.Key.Key_Down)
    assert choice.images.currentText() == "Bundled samples (20)", "until there is one"
    path = str(tmp_path / ("a folder with a very long name " * 4) / "test images")
    with qtbot.waitSignal(choice.changed):
        choice.choose_path(path)
    assert choice.wanted_data() == Data(path, None, 200), "not all of what may be fifty thousand"
    assert choice.images.toolTip() == path
    assert choice.split.isVisible()
    write(choice.split, "val")
    choice.num.setValue(0)
    assert choice.wanted_data() == Data(path, "val", None)
    choose(choice.images, "")
    assert choice.wanted_data() == Data()
    choose(choice.images, path)
    assert choice.wanted_data() == Data(path, None, 200)
    choice.choose_path("/elsewhere.tar")
    assert [choice.images.itemText(i) for i in range(choice.images.count())] == [
        "Bundled samples (20)", "elsewhere.tar", "Folder…", "Archive…",
    ]  # fmt: skip
    with qtbot.waitSignal(choice.archive_wanted):
        choice.images.setFocus()
        QTest.keyClick(choice.images, Qt.Key.Key_End)
    assert choice.path == "/elsewhere.tar"


def test_settings_are_shown_as_they_were(panel: AccuracyPanel, qtbot) -> None:
    wanted = SetSettings(
        "/data/images", "test", 500, 64, "apgd-ce", 7, 3, "linf", {"l2": "0, 2", "linf": "0, 3/255"}, None
    )
    with qtbot.assertNotEmitted(panel.choice.changed):
        panel.choice.show_settings(wanted)
    assert panel.choice.settings == wanted
    assert panel.choice.wanted_data() == Data("/data/images", "test", 500)
    assert panel.choice.wanted_eps() == (0, 3 / 255)


def test_every_field_can_be_told_without_seeing_it(panel: AccuracyPanel) -> None:
    choice = panel.choice
    fields = (choice.images, choice.split, choice.num, choice.batch, choice.attack, choice.steps, choice.restarts,
              choice.norm, choice.eps, panel.bar, panel.table, panel.lights, panel.classes, panel.notes,
              panel.plot.view)  # fmt: skip
    names = [field.accessibleName() for field in fields]
    assert all(names)
    assert len(set(names)) == len(names)
