"""A table of evaluations: what it is to be of, its numbers, its samples and their neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QTextDocument
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QVBoxLayout, QWidget
from windows import checkpoint, choose, discard, press

from cem_core.cluster import Where
from cem_core.evaluation.report import Report
from cem_core.evaluation.requests import INCEPTION, Row, Table
from cem_core.evaluation.results import Made, Plan, Progress, Scores
from cem_core.messages import Refused
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import Data, Subject
from cem_gui import tables, theme
from cem_gui.files import OpenModel
from cem_gui.panels.evaluate import EvaluatePanel, Line, Number
from cem_gui.widgets.class_grid import ClassRow
from cem_gui.widgets.image_grid import to_image
from cem_gui.widgets.nearest import Near
from cem_gui.widgets.row_list import Offer
from cem_gui.widgets.table_choice import TableSettings

CLASSES = ("cat", "dog", "horse")
OFFERS = [
    ("net", [Offer("a", "TA", "noise", "Towards.", True), Offer("b", "RCS", "noise", "", True)]),
    ("other", [Offer("c", "TA", "noise", "", False)]),
]
NUMBERS = [Number("Fréchet distance ↓", "judge", "Nearness."), Number("precision ↑", "judge", "A share.")]


@pytest.fixture
def panel(qapp, qtbot) -> Iterator[EvaluatePanel]:
    theme.apply(qapp, "dark")
    window = QWidget()
    panel = EvaluatePanel()
    QVBoxLayout(window).addWidget(panel)
    window.resize(1300, 640)
    with qtbot.waitExposed(window):
        window.show()
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    yield panel
    window.close()
    discard(window)


def line(name: str, *cells: str, best: int | None = None, state: str = "done") -> Line:
    return Line(name, f"{name} in full", [(cell, f"{cell} in full") for cell in cells],
                [place == best for place in range(len(cells))], state)  # fmt: skip


def texts(panel: EvaluatePanel) -> list[list[str]]:
    items = [panel.table.topLevelItem(i) for i in range(panel.table.topLevelItemCount())]
    return [[item.text(column) for column in range(panel.table.columnCount())] for item in items]


def rows(each: int = 4, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> list[ClassRow]:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(classes), each, 8, 8, 3), np.uint8)
    return [ClassRow(name, pixels[i], tuple(range(i, i + each * len(classes), len(classes))))
            for i, name in enumerate(classes)]  # fmt: skip


def click(panel: EvaluatePanel, row: int, column: int) -> None:
    QTest.mouseClick(panel.grid.widget(), Qt.MouseButton.LeftButton, pos=panel.grid.card(row, column).center())


def plain(text: str) -> str:
    document = QTextDocument()
    document.setHtml(text)
    return document.toPlainText()


# What it is to be of -------------------------------------------------------------------------------------------------


def test_an_empty_view_says_what_to_do(panel: EvaluatePanel, qtbot) -> None:
    panel.show_empty("Choose images.", chosen=False)
    assert panel.empty.isVisible()
    for button, archive in ((panel.folder_button, False), (panel.archive_button, True)):
        with qtbot.waitSignal(panel.choice.reference_wanted) as asked:
            QTest.mouseClick(button, Qt.MouseButton.LeftButton)
        assert asked.args == [archive]
    with qtbot.waitSignal(panel.open_wanted):
        QTest.mouseClick(panel.open_button, Qt.MouseButton.LeftButton)
    panel.show_empty("Press Begin.", chosen=True)
    assert not panel.folder_button.isVisible()
    assert panel.open_button.isVisible()


def test_rows_are_ticked_as_usual_until_somebody_says_otherwise(panel: EvaluatePanel, qtbot) -> None:
    shown = panel.choice.rows
    shown.show_offers(OFFERS)
    assert shown.chosen == ("a", "b")
    first = shown.topLevelItem(0).child(0)
    with qtbot.waitSignal(shown.changed):
        box = shown.visualItemRect(first)
        QTest.mouseClick(shown.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(box.left() + 16, box.center().y()))
    assert shown.chosen == ("b",)
    assert shown.topLevelItem(0).checkState(0) == Qt.CheckState.PartiallyChecked
    shown.show_offers([*OFFERS, ("third", [Offer("d", "CS", "noise", "", True)])])
    assert shown.chosen == ("b", "d"), "what was said by hand stays"
    shown.topLevelItem(1).setCheckState(0, Qt.CheckState.Checked)
    assert shown.chosen == ("b", "c", "d"), "a model is ticked with all its rows"


def test_space_ticks_a_row_that_the_keyboard_went_to(panel: EvaluatePanel) -> None:
    shown = panel.choice.rows
    shown.show_offers(OFFERS)
    shown.setFocus(Qt.FocusReason.TabFocusReason)
    shown.setCurrentItem(shown.topLevelItem(0).child(1))
    press(Qt.Key.Key_Space)
    assert shown.chosen == ("a",)
    press(Qt.Key.Key_Space)
    assert shown.chosen == ("a", "b")
    assert shown.focusPolicy() == Qt.FocusPolicy.TabFocus, "a click leaves Space to what it begins"


def test_what_is_folded_stays_so_while_rows_change(panel: EvaluatePanel) -> None:
    shown = panel.choice.rows
    shown.show_offers(OFFERS)
    assert [shown.topLevelItem(i).isExpanded() for i in range(2)] == [True, False]
    shown.topLevelItem(0).setExpanded(False)
    shown.topLevelItem(1).setExpanded(True)
    shown.show_offers([(name, offers[:1]) for name, offers in OFFERS])
    assert [shown.topLevelItem(i).isExpanded() for i in range(2)] == [False, True]


def test_settings_are_shown_as_they_were(panel: EvaluatePanel, qtbot) -> None:
    wanted = TableSettings(num=2000, seeds=3, path="/data/pets.tar", split="test", images=5000, extractor="/judge.pt",
                           weights="/nets/inception.pth", where="local", address="head:6379", workers=4)  # fmt: skip
    with qtbot.assertNotEmitted(panel.choice.changed):
        panel.choice.show_settings(wanted)
    assert panel.choice.settings == wanted
    assert msgspec.json.decode(msgspec.json.encode(wanted), type=TableSettings) == wanted
    assert panel.choice.wanted_reference() == Data("/data/pets.tar", "test", 5000)
    assert panel.choice.wanted_extractor() == Subject("/judge.pt")
    assert panel.choice.wanted_where() == Where("local", 4)


def test_without_reference_images_nothing_can_be_wanted(panel: EvaluatePanel) -> None:
    with pytest.raises(Refused, match="Choose reference images"):
        panel.choice.wanted_reference()
    assert not panel.choice.split.isVisible()
    panel.choice.choose_reference("/data/pets")
    assert panel.choice.split.isVisible()
    assert panel.choice.wanted_reference() == Data("/data/pets")
    panel.choice.split.setText("test")
    panel.choice.choose_reference("/data/others")
    assert panel.choice.wanted_reference() == Data("/data/others"), "a split is of one data set"


def test_the_extractor_is_a_model_that_is_suggested_a_file_or_inception(panel: EvaluatePanel, qtbot) -> None:
    choice = panel.choice
    choice.show_models([("robust", "robust"), ("standard", "standard")], "standard")
    assert choice.wanted_extractor() == Subject("standard")
    choice.show_models([("robust", "robust"), ("standard", "standard")], "robust")
    assert choice.wanted_extractor() == Subject("robust"), "as nobody has chosen"
    choose(choice.extractor, "standard")
    choice.show_models([("robust", "robust"), ("standard", "standard")], "robust")
    assert choice.wanted_extractor() == Subject("standard")
    choose(choice.extractor, INCEPTION)
    assert choice.wanted_extractor() == Subject(INCEPTION)
    choice.choose_weights("/nets/inception.pth")
    assert choice.wanted_extractor() == Subject(INCEPTION, {"weights": "/nets/inception.pth"})
    assert choice.extractor.currentText() == "Inception (inception.pth)"
    choice.choose_extractor("/nets/judge.pt")
    assert choice.extractor.currentText() == "judge.pt"
    assert choice.wanted_extractor() == Subject("/nets/judge.pt")
    choice.extractor.setFocus()
    with qtbot.waitSignal(choice.weights_wanted):
        QTest.keyClick(choice.extractor, Qt.Key.Key_End)
    assert choice.extractor.currentText() == "judge.pt", "until there is a file"


def test_ray_takes_an_address_and_workers(panel: EvaluatePanel) -> None:
    choice = panel.choice
    assert choice.wanted_where() == Where()
    assert not choice.workers.isVisible()
    choose(choice.where, "local")
    assert choice.wanted_where() == Where("local")
    assert choice.workers.isVisible()
    assert not choice.address.isVisible()
    QTest.keyClick(choice.where, Qt.Key.Key_End)
    assert choice.address.isVisible()
    with pytest.raises(Refused, match="Give the address"):
        choice.wanted_where()
    QTest.keyClicks(choice.address, "head:6379")
    choice.workers.setValue(8)
    assert choice.wanted_where() == Where("head:6379", 8)


def test_a_problem_stands_below_the_settings(panel: EvaluatePanel) -> None:
    panel.choice.say("Tick at least one row & begin.")
    assert plain(panel.choice.problem.text()) == "✕ Tick at least one row & begin."
    panel.choice.say("")
    assert not panel.choice.problem.isVisible()


def test_the_buttons_follow_what_can_be_done(panel: EvaluatePanel, qtbot) -> None:
    panel.show_state("Begin", can=False, why_not="Choose images.")
    assert not panel.run.isEnabled()
    assert panel.run.toolTip() == "Choose images."
    with qtbot.waitSignal(panel.open_wanted):
        QTest.mouseClick(panel.other, Qt.MouseButton.LeftButton)
    panel.show_state("Cancel", can=True, settled=True)
    assert not panel.choice.isVisible(), "a table that is begun is settled"
    assert not panel.other.isEnabled()
    panel.show_progress("12 %", 0.12)
    assert panel.bar.value() == 120
    panel.show_state("Go on", can=True, settled=True)
    panel.show_progress("Cancelled")
    assert not panel.bar.isVisible()
    with qtbot.waitSignal(panel.run_wanted):
        QTest.mouseClick(panel.run, Qt.MouseButton.LeftButton)
    with qtbot.waitSignal(panel.new_wanted):
        QTest.mouseClick(panel.other, Qt.MouseButton.LeftButton)


# Numbers -------------------------------------------------------------------------------------------------------------


def test_the_best_is_marked_by_more_than_its_weight(panel: EvaluatePanel) -> None:
    panel.show_table(
        NUMBERS, [line("TA", "12.0 ± 0.5", "0.80", best=0), line("RCS", "–", "–", state="42 %")], "of pets"
    )
    assert texts(panel) == [["TA", "★ 12.0 ± 0.5", "0.80", "done"], ["RCS", "–", "–", "42 %"]]
    first = panel.table.topLevelItem(0)
    assert first.font(1).bold()
    assert not first.font(2).bold()
    assert first.toolTip(0) == "TA in full"
    assert panel.table.headerItem().text(1) == "Fréchet distance ↓\njudge"
    assert panel.table.headerItem().toolTip(1) == "Nearness."
    assert panel.said.toolTip() == "of pets"


def test_the_row_that_is_worked_on_is_in_sight_until_another_is_chosen(panel: EvaluatePanel, qtbot) -> None:
    lines = [line(name, "–", "–") for name in ("TA", "RCS", "CS")]
    panel.begin_table()
    panel.show_seeds((0, 7))
    with qtbot.waitSignal(panel.row_chosen) as asked:
        panel.show_table(NUMBERS, lines, "", 0)
    assert asked.args == [0, 0]
    panel.show_table(NUMBERS, lines, "", 1)
    assert panel.row == 1
    place = panel.table.visualItemRect(panel.table.topLevelItem(2)).center()
    QTest.mouseClick(panel.table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    panel.show_table(NUMBERS, lines, "", 1)
    assert panel.row == 2
    with qtbot.waitSignal(panel.row_chosen) as asked:
        panel.seeds.setFocus()
        QTest.keyClick(panel.seeds, Qt.Key.Key_Down)
    assert asked.args == [2, 1]
    assert panel.seeds.currentText() == "Seed 7"
    panel.begin_table()
    panel.show_table(NUMBERS, lines, "", 1)
    assert panel.row == 1, "in another table nobody has chosen yet"
    panel.show_table(NUMBERS, lines, "")
    assert panel.row == 1, "it has come to its end"
    panel.table.setFocus()
    press(Qt.Key.Key_Up)
    panel.show_table(NUMBERS, lines, "", 2)
    assert panel.row == 0, "the keyboard chooses too"


def test_a_single_seed_is_no_choice(panel: EvaluatePanel) -> None:
    panel.show_table(NUMBERS, [line("TA", "1", "2")], "")
    panel.show_seeds((0,))
    assert not panel.seeds.isVisible()


def test_long_names_and_many_rows_keep_the_panel_small(panel: EvaluatePanel) -> None:
    panel.show_table(NUMBERS, [line("TA", "1", "2")], "")
    width = panel.minimumSizeHint().width()
    name = "Wang2023Better_WRN-70-16-and-a-name-that-goes-on-for-ever-and-on"
    panel.show_table(NUMBERS, [line(f"{name} {i}", "12.0 ± 0.5", "0.80") for i in range(40)], "w" * 300)
    panel.show_about(["x" * 300])
    panel.show_samples(rows(classes=tuple("w" * 80 + str(i) for i in range(100))), name * 3)
    panel.choice.rows.show_offers([(name, [Offer("a", name, "class Gaussians", "", True)])])
    QApplication.processEvents()
    assert panel.minimumSizeHint().width() == width < 400
    assert panel.table.height() < 300
    assert panel.table.verticalScrollBar().maximum() > 0
    assert panel.table.horizontalScrollBar().maximum() == 0
    assert panel.grid.verticalScrollBar().maximum() > 0
    assert panel.window().width() == 1300


# Samples -------------------------------------------------------------------------------------------------------------


def shown(panel: EvaluatePanel, found: list[ClassRow]) -> None:
    panel.show_table(NUMBERS, [line("TA", "1", "2")], "")
    panel.show_samples(found, "TA")
    QApplication.processEvents()


def test_samples_are_painted_by_class_with_their_own_pixels(panel: EvaluatePanel) -> None:
    found = rows()
    shown(panel, found)
    seen = panel.grid.widget().grab().toImage()
    for i in range(3):
        for j in range(4):
            card, expected = panel.grid.card(i, j), to_image(found[i].pixels[j]).scaled(panel.grid.card(i, j).size())
            for share in (0.2, 0.55, 0.8):
                at = QPoint(int(share * card.width()), int(share * card.height()))
                assert seen.pixelColor(card.topLeft() + at) == expected.pixelColor(at)


def test_a_click_tells_which_sample_and_a_double_click_enlarges_it(panel: EvaluatePanel, qtbot) -> None:
    found = rows()
    shown(panel, found)
    with qtbot.waitSignal(panel.sample_chosen) as asked:
        click(panel, 1, 2)
    assert asked.args == [found[1].numbers[2]]
    assert panel.sample_name.text() == f"dog, sample {found[1].numbers[2]}"
    QTest.mouseDClick(panel.grid.widget(), Qt.MouseButton.LeftButton, pos=panel.grid.card(1, 2).center())
    assert panel.is_large
    place, image = panel.large.place(), panel.large.grab().toImage()
    side = place.width() // 8
    assert place.width() == 8 * side, "its pixels are crisp"
    centres = [[image.pixelColor(place.left() + side * x + side // 2, place.top() + side * y + side // 2).getRgb()[:3]
                for x in range(8)] for y in range(8)]  # fmt: skip
    np.testing.assert_array_equal(np.array(centres, np.uint8), found[1].pixels[2])
    QTest.mouseDClick(panel.large, Qt.MouseButton.LeftButton)
    assert not panel.is_large


def test_the_arrow_keys_walk_through_samples(panel: EvaluatePanel) -> None:
    found = rows()
    shown(panel, found)
    panel.grid.setFocus()
    for key, expected in (
        (Qt.Key.Key_Right, (0, 0)), (Qt.Key.Key_Right, (0, 1)), (Qt.Key.Key_Down, (1, 1)), (Qt.Key.Key_End, (1, 3)),
        (Qt.Key.Key_Down, (2, 3)), (Qt.Key.Key_Down, (2, 3)), (Qt.Key.Key_Home, (2, 0)), (Qt.Key.Key_Left, (2, 0)),
        (Qt.Key.Key_Up, (1, 0)),
    ):  # fmt: skip
        press(key)
        assert panel.grid.chosen == found[expected[0]].numbers[expected[1]]
    assert panel.grid.widget().accessibleDescription() == "dog, sample 1"
    press(Qt.Key.Key_Return)
    assert panel.is_large
    press(Qt.Key.Key_Return)
    assert not panel.is_large


def test_neighbours_stand_beside_the_sample_with_their_distances(panel: EvaluatePanel) -> None:
    found = rows()
    shown(panel, found)
    click(panel, 0, 1)
    near = [Near(to_image(found[2].pixels[i]), "horse", f"{i}.5") for i in range(3)]
    panel.show_nearest(near, "With their distances.")
    assert panel.nearest.accessibleDescription() == "horse 0.5, horse 1.5, horse 2.5"
    assert panel.near_said.text() == "With their distances."
    click(panel, 0, 2)
    assert not panel.nearest.items, "they were of another sample"


def test_what_is_chosen_stays_while_more_samples_come(panel: EvaluatePanel) -> None:
    few, many = rows(2), rows(2)
    for row in range(3):
        more = np.concatenate([many[row].pixels, many[row].pixels[::-1]])
        many[row] = ClassRow(CLASSES[row], more, (*few[row].numbers, 90 + row, 95 + row))
    shown(panel, few)
    click(panel, 1, 1)
    panel.show_nearest([Near(to_image(few[0].pixels[0]), "cat", "1")], "")
    panel.show_samples(many, "TA")
    assert panel.grid.chosen == few[1].numbers[1]
    assert panel.nearest.items
    panel.show_samples(rows(seed=1), "RCS")
    assert panel.grid.chosen is None, "the same number, but of another row"
    assert not panel.nearest.items
    assert not panel.sample.isVisible()


def test_where_there_are_no_samples_a_sentence_says_so(panel: EvaluatePanel) -> None:
    shown(panel, rows())
    click(panel, 0, 0)
    panel.show_no_samples("No samples yet.", "TA")
    assert panel.no_samples.isVisible()
    assert not panel.grid.isVisible()
    assert not panel.sample.isVisible()


def test_a_thousand_classes_scroll_and_samples_without_classes_have_no_names(panel: EvaluatePanel) -> None:
    shown(panel, rows(2, tuple(f"class {i}" for i in range(1000))))
    assert panel.grid.verticalScrollBar().maximum() > 10 * panel.grid.viewport().height()
    panel.grid.choose(900, 1)
    assert (
        panel.grid.viewport()
        .rect()
        .contains(panel.grid.widget().mapTo(panel.grid.viewport(), panel.grid.card(900, 1).center()))
    )
    shown(panel, rows(2, ("", "")))
    assert panel.grid.card(0, 0).left() == 0
    assert panel.grid.told(1, 0) == "Sample 1"


def test_every_part_can_be_told_without_seeing_it(panel: EvaluatePanel) -> None:
    choice = panel.choice
    parts = (choice.rows, choice.num, choice.seeds, choice.reference, choice.split, choice.images, choice.extractor,
             choice.where, choice.address, choice.workers, choice.folder_button, panel.bar, panel.table, panel.seeds,
             panel.grid.widget(), panel.large, panel.sample, panel.nearest, panel.about)  # fmt: skip
    names = [part.accessibleName() for part in parts]
    assert all(names)
    assert len(set(names)) == len(names)


def test_tab_goes_from_the_rows_to_begin(panel: EvaluatePanel) -> None:
    panel.choice.rows.show_offers(OFFERS)
    panel.choice.choose_reference("/data/pets")
    panel.show_state("Begin", can=True)
    panel.choice.rows.setFocus()
    passed: list[QWidget | None] = []
    while panel.run not in passed and len(passed) < 20:
        press(Qt.Key.Key_Tab)
        passed.append(QApplication.focusWidget())
    choice = panel.choice
    expected = [choice.num, choice.seeds, choice.reference, choice.split, choice.images, choice.extractor, choice.where,
                choice.folder_button, panel.run]  # fmt: skip
    assert passed == expected


# In words ------------------------------------------------------------------------------------------------------------


def table(seeds: tuple[int, ...] = (0, 1), num: int = 250) -> Table:
    names = {"starts": msgspec.structs.replace(SAMPLERS["TA"], name="starts", a=0, b=0, steps=1), "TA": SAMPLERS["TA"],
             "RCS": SAMPLERS["RCS"]}  # fmt: skip
    return Table(rows=tuple(Row(name=name, subject=Subject("net"), sampler=row) for name, row in names.items()),
                 reference=Data("/data/pets", "test"), extractor=Subject("judge"), num=num, seeds=seeds)  # fmt: skip


def scores(frechet: float, **more: object) -> Scores:
    known = {"extractor": "judge", "inception": False, "num": 250, "reference": 1000, "floor": 1.5, "kernel": 0.01,
             "kernel_deviation": 0.001, "score": 5.0, "score_deviation": 0.1, "precision": 0.5, "recall": 0.25,
             "compared": 250}  # fmt: skip
    return Scores(frechet=frechet, **known | more)


def test_no_number_is_called_fid_but_that_of_inception() -> None:
    for inception, name, heads in (
        (
            False,
            "judge",
            ["Fréchet distance ↓", "floor", "kernel distance ↓", "class score ↑", "precision ↑", "recall ↑"],
        ),
        (True, "Inception", ["FID ↓", "floor", "KID ↓", "Inception score ↑", "precision ↑", "recall ↑"]),
    ):
        report = Report(table())
        report.add(1, 0, scores(9.0, inception=inception, extractor=name))
        found = tables.heads(report)
        assert [number.name for number in found] == heads
        assert {number.of for number in found} == {name}
        tips = " ".join(number.tip for number in found)
        assert ("FID" in tips) is inception


def test_an_encoder_as_extractor_has_no_score() -> None:
    report = Report(table())
    report.add(1, 0, scores(9.0, score=None, score_deviation=None))
    assert not any("score" in number.name for number in tables.heads(report))
    assert len(tables.lines(report, None)[1].cells) == 5


def test_the_best_row_is_the_lowest_distance_and_the_highest_score() -> None:
    report = Report(table())
    for row, distance in enumerate((20.0, 9.0, 12.0)):
        for seed in (0, 1):
            report.add(row, seed, scores(distance + seed, score=distance, recall=0.1))
    lines = tables.lines(report, None)
    assert [line.best[0] for line in lines] == [False, True, False]
    assert [line.best[3] for line in lines] == [True, False, False]
    assert not any(line.best[1] for line in lines), "the floor is nobody's"
    assert [line.state for line in lines] == ["2 seeds"] * 3
    mean, half = 9.5, 12.7062 * np.std([9, 10], ddof=1) / np.sqrt(2)
    assert lines[1].cells[0][0] == f"{mean:.1f} ± {half:.1f}"
    assert "95 % interval over 2 seeds" in lines[1].cells[0][1]


def test_one_row_alone_is_not_the_best_of_anything() -> None:
    report = Report(table())
    report.add(1, 0, scores(9.0))
    assert not any(any(line.best) for line in tables.lines(report, None))


def test_a_course_tells_how_far_each_cell_is() -> None:
    """250 samples are three shards, and a cell is as much work as its steps, and two more."""
    whole = 2 * 62 + 3
    report, course = Report(table((0,))), tables.Course(table((0,)))
    model = checkpoint()
    course.add(0, 0, Plan(report.request.evaluation(report.request.rows[0], 0), model, CLASSES, 250, 3, 0, "CPU"))
    assert course.share == 0
    course.add(0, 0, Made("reference", 0, 250))
    assert course.share == 0
    assert tables.so_far(report, course) == "0 % · features of the reference images"
    course.add(0, 0, Progress("samples", 0, 0.5))
    assert course.of(0, 0) == pytest.approx(0.5 / 3 / 3)
    course.add(0, 0, Made("samples", 0, 100))
    assert course.of(0, 0) == pytest.approx(1 / 3 / 3)
    assert course.share == pytest.approx(1 / 3 / whole)
    assert tables.lines(report, course)[0].state == "11 %"
    assert [line.state for line in tables.lines(report, course)[1:]] == ["waits"] * 2
    assert tables.so_far(report, course) == "0 % · starts: samples"
    for shard in (1, 2):
        course.add(0, 0, Made("samples", shard, 100))
    for shard in range(3):
        course.add(0, 0, Made("features", shard, 100))
    assert 0.9 < course.of(0, 0) < 1, "its numbers are still to come"
    course.add(0, 0, scores(9.0))
    assert course.of(0, 0) == 1
    assert course.share == pytest.approx(3 / whole)
    course.add(1, 0, Made("samples", 0, 100))
    assert course.share == pytest.approx((3 + 60 / 3) / whole)


def test_what_was_found_says_nothing_of_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(tables.time, "monotonic", lambda: now[0])
    course = tables.Course(table((0,)))
    course.found(0, 0)
    for shard in range(3):
        course.add(1, 0, Made("samples", shard, 100, found=True))
    now[0] += 10
    assert course.left is None
    course.add(2, 0, Made("samples", 0, 100))
    now[0] += 10
    gained = 60 / 3
    assert course.left == pytest.approx(20 * (2 * 62 + 3 - 3 - 60 - gained) / gained)


def test_the_pace_counts_a_shard_once_however_often_it_is_told_of() -> None:
    course = tables.Course(table((0,)))
    for share in (0.2, 0.4, 0.4, 0.9):
        course.add(0, 0, Progress("samples", 0, share))
    course.add(0, 0, Made("samples", 0, 100))
    course.add(0, 0, Made("samples", 0, 100))
    assert course._gained == pytest.approx(course.of(0, 0) * 3) == pytest.approx(1 / 3)


# Rows ----------------------------------------------------------------------------------------------------------------


def model(classes: tuple[str, ...] = CLASSES, gaussians: tuple[str, ...] = CLASSES) -> OpenModel:
    return OpenModel("/models/net.pt", "cpu", "float32", {"mean": "0"}, checkpoint(classes), gaussians)


def offered(model: OpenModel, own: str | None = None, *, usual: bool = True, **changes: object) -> dict[str, bool]:
    from cem_gui.evaluating import _offers

    sampler = None if own is None else msgspec.structs.replace(SAMPLERS[own], **changes)
    return {f"{offer.sampler}, {offer.start}": offer.usual for offer, _ in _offers(model, sampler, usual=usual)}


def ticked(offers: dict[str, bool]) -> list[str]:
    return [name for name, usual in offers.items() if usual]


def test_the_papers_rows_are_ticked_for_the_open_model() -> None:
    known = offered(model())
    assert ticked(known) == [f"{name}, class Gaussians" for name in ("starts", "TA", "Langevin", "CS", "RCS")]
    assert len(known) == 15
    assert ticked(offered(model(), usual=False)) == []
    assert ticked(offered(model(gaussians=()))) == [
        f"{name}, noise" for name in ("starts", "TA", "Langevin", "CS", "RCS")
    ]


def test_encoders_have_rows_of_their_own_from_both_gaussians() -> None:
    assert ticked(offered(model(classes=()))) == [
        f"{name}, {start}" for start in ("class Gaussians", "overall Gaussian")
        for name in ("starts", "PGD-unsup", "MaxEnt")
    ]  # fmt: skip


def test_the_samplers_panel_gives_a_row_of_ones_own_that_says_what_is_other() -> None:
    known = offered(model(), "RCS", b=0.5, steps=90)
    assert "RCS with b 0.5, steps 90, class Gaussians" in known
    assert not known["RCS with b 0.5, steps 90, class Gaussians"]
    assert len(offered(model(), "RCS")) == 15, "as it is, it is a row already"
    assert len(offered(model(), "MaxEnt", noise=0.02)) == 15, "of encoders alone"
    assert len(offered(model(classes=()), "TA", steps=5)) == 9, "an encoder has no classes to go to"
    assert "MaxEnt with noise 0.02, noise" in offered(model(classes=()), "MaxEnt", noise=0.02)


def test_rows_of_several_models_are_told_apart_by_their_names() -> None:
    from cem_gui.evaluating import _Offered, _row

    found = _row(_Offered(model(), SAMPLERS["RCS"], "gaussian"), several=False)
    assert found == Row(name="RCS", subject=Subject("/models/net.pt", {"mean": "0"}, "cpu"), sampler=SAMPLERS["RCS"])
    assert _row(_Offered(model(), SAMPLERS["RCS"], "overall"), several=True).name == "RCS, overall, net"


def test_settings_that_are_damaged_are_forgotten(tmp_path: Path) -> None:
    from PySide6.QtCore import QSettings

    from cem_gui.evaluating import _read

    settings = QSettings(str(tmp_path / "w.ini"), QSettings.Format.IniFormat)
    settings.setValue("evaluate", '{"num": "many"}')
    assert _read(settings) == TableSettings()
