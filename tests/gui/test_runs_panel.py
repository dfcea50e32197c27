"""The list of recorded runs."""

from __future__ import annotations

import msgspec
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLineEdit

from cem_core.recording import Origin
from cem_core.sessions import Summary
from cem_gui.panels.runs import RunsPanel, resumable, title, when

ROOT = "/sessions"


def run(number: int, **told: object) -> Summary:
    name = f"2026-01-01 00.00.{number:02d} RCS"
    usual = {
        "folder": f"{ROOT}/{name}", "name": name, "size": 1_500_000, "created": "2026-01-01T00:00:00+00:00",
        "steps": 60, "chains": 4, "model": "ResNet-18", "sampler": "RCS", "end": "done",
    }  # fmt: skip
    return Summary(**(usual | told))


def fork_of(origin: Summary, number: int) -> Summary:
    return run(number, origin=Origin(origin.folder, 17))


class Ear:
    """All that a panel says, in order."""

    def __init__(self, panel: RunsPanel) -> None:
        self.said: list[tuple[str, ...]] = []
        for name in ("opened", "deleted", "compare_wanted", "thumb_wanted"):
            getattr(panel, name).connect(lambda key, name=name: self.said.append((name, key)))
        panel.renamed.connect(lambda key, name: self.said.append(("renamed", key, name)))
        panel.menu_wanted.connect(lambda key, _: self.said.append(("menu", key)))

    def heard(self, name: str) -> list[tuple[str, ...]]:
        return [line[1:] for line in self.said if line[0] == name]


@pytest.fixture
def panel(qtbot) -> RunsPanel:
    panel = RunsPanel()
    qtbot.addWidget(panel)
    panel.resize(320, 480)
    with qtbot.waitExposed(panel):
        panel.show()
    return panel


@pytest.fixture
def ear(panel: RunsPanel) -> Ear:
    return Ear(panel)


def test_with_no_run_it_says_how_to_make_one(panel: RunsPanel) -> None:
    assert panel.empty.isVisible()
    assert "Space" in panel.empty.text()
    assert not panel.tree.isVisible()
    assert not any(button.isEnabled() for button in (panel.open, panel.compare, panel.delete))
    panel.show_entries([run(1)])
    assert panel.tree.isVisible()
    panel.drop(run(1).folder)
    assert panel.empty.isVisible()


def test_forks_stand_below_their_origin_even_in_a_chain(panel: RunsPanel) -> None:
    first = run(1)
    second = fork_of(first, 2)
    third, stray = fork_of(second, 3), run(4, origin=Origin(f"{ROOT}/gone", 5))
    panel.show_entries([stray, third, second, first])
    model = panel.tree.model()
    assert [model.index(i, 0).data() for i in range(model.rowCount())] == [title(stray), title(first)]
    below = model.index(0, 0, model.index(1, 0))
    assert below.data(Qt.ItemDataRole.UserRole) == second.folder
    assert model.index(0, 0, below).data(Qt.ItemDataRole.UserRole) == third.folder
    assert panel.tree.isExpanded(below)


def test_a_new_run_comes_first_and_a_fork_below(panel: RunsPanel) -> None:
    panel.show_entries([run(1)])
    panel.show_entry(run(2))
    panel.show_entry(fork_of(run(1), 3))
    model = panel.tree.model()
    assert [model.index(i, 0).data(Qt.ItemDataRole.UserRole) for i in range(2)] == [run(2).folder, run(1).folder]
    assert model.rowCount(model.index(1, 0)) == 1


def test_what_is_said_of_a_run(panel: RunsPanel) -> None:
    assert title(run(1)) == "RCS"
    assert title(run(1, name="the good one")) == "the good one"
    assert panel.line(run(1)) == "done · 60 steps · ResNet-18 · 1.5 MB"
    assert panel.line(fork_of(run(1), 2)) == "done · 60 steps · from step 17 · ResNet-18 · 1.5 MB"
    assert panel.line(run(1, end=None, steps=1)) == "interrupted · 1 step · ResNet-18 · 1.5 MB"
    panel.live = run(1).folder
    assert panel.line(run(1, end=None, running=True)).startswith("recording · ")
    assert when("2019-01-02T12:00:00+00:00") == "2 Jan 2019"
    assert when("nonsense") == ""


@pytest.mark.parametrize(
    ("told", "can"),
    [
        ({"end": None}, True),
        ({"end": "stopped"}, True),
        ({"end": "done"}, False),
        ({"end": "failed"}, False),
        ({"end": None, "running": True}, False),
        ({"end": None, "damaged": True}, False),
    ],
)
def test_what_can_go_on(told: dict[str, object], can: bool) -> None:
    assert resumable(run(1, **told)) is can


def test_a_run_is_renamed_in_place(panel: RunsPanel, ear: Ear) -> None:
    panel.show_entries([run(1)])
    panel.choose(run(1).folder)
    panel.tree.setFocus()
    QTest.keyClick(panel.tree, Qt.Key.Key_F2)
    editor = panel.tree.findChild(QLineEdit)
    editor.selectAll()
    QTest.keyClicks(editor, "  the   good one ")
    QTest.keyClick(editor, Qt.Key.Key_Return)
    QApplication.processEvents()  # the editor is closed a moment later
    assert ear.heard("renamed") == [(run(1).folder, "the good one")]
    assert panel.entry(run(1).folder).name == "the good one"
    panel.show_entry(run(1, name="the good one"))  # as it is on the disk now
    assert len(ear.heard("renamed")) == 1


@pytest.mark.parametrize("text", ["", "   ", "RCS"])
def test_no_name_and_the_same_name_change_nothing(panel: RunsPanel, ear: Ear, text: str) -> None:
    panel.show_entries([run(1)])
    panel.edit(run(1).folder)
    editor = panel.tree.findChild(QLineEdit)
    editor.selectAll()
    QTest.keyClick(editor, Qt.Key.Key_Delete)
    QTest.keyClicks(editor, text)
    QTest.keyClick(editor, Qt.Key.Key_Return)
    QApplication.processEvents()  # the editor is closed a moment later
    assert ear.heard("renamed") == []
    assert panel.tree.model().index(0, 0).data() == "RCS"


def test_keys_open_and_delete(panel: RunsPanel, ear: Ear) -> None:
    panel.show_entries([run(2), run(1)])
    panel.tree.setFocus()
    panel.choose(run(2).folder)
    QTest.keyClick(panel.tree, Qt.Key.Key_Down)
    QTest.keyClick(panel.tree, Qt.Key.Key_Return)
    QTest.keyClick(panel.tree, Qt.Key.Key_Delete)
    assert ear.heard("opened") == ear.heard("deleted") == [(run(1).folder,)]


def test_the_run_in_sight_cannot_be_opened_or_compared_with_itself(panel: RunsPanel, ear: Ear) -> None:
    panel.show_entries([run(2), run(1)])
    panel.mark(run(1).folder, "")
    panel.choose(run(1).folder)
    assert not panel.open.isEnabled()
    assert not panel.compare.isEnabled()
    panel.choose(run(2).folder)
    panel.compare.click()
    panel.mark(run(1).folder, run(2).folder)
    assert panel.compare.isChecked()
    panel.compare.click()
    assert ear.heard("compare_wanted") == [(run(2).folder,), ("",)]


def test_a_run_that_is_being_recorded_cannot_be_deleted(panel: RunsPanel) -> None:
    panel.show_entries([run(1, end=None, running=True)])
    panel.choose(run(1).folder)
    assert not panel.delete.isEnabled()


def test_pictures_are_asked_for_once_and_only_of_what_is_in_sight(panel: RunsPanel, ear: Ear, qtbot) -> None:
    panel.show_entries([run(i) for i in range(60)])
    panel.tree.viewport().repaint()
    asked = {key for (key,) in ear.heard("thumb_wanted")}
    assert run(0).folder in asked
    assert run(59).folder not in asked
    panel.show_thumb(run(0).folder, QImage(8, 8, QImage.Format.Format_RGB32))
    panel.tree.viewport().repaint()
    assert len(ear.heard("thumb_wanted")) == len(asked)
    panel.show_entry(run(0, steps=61), anew=True)
    panel.tree.viewport().repaint()
    assert len(ear.heard("thumb_wanted")) == len(asked) + 1


def test_five_hundred_runs_and_names_without_end(panel: RunsPanel, ear: Ear) -> None:
    many = [run(i, folder=f"{ROOT}/{i}", name="a name without end " * 9) for i in range(500)]
    panel.show_entries(many)
    panel.choose(f"{ROOT}/499")
    panel.tree.scrollTo(panel.tree.currentIndex())
    panel.grab()
    assert panel.total.text() == "500 · 750 MB"
    assert panel.tree.horizontalScrollBar().maximum() == 0
    assert len(ear.heard("thumb_wanted")) < 40
    panel.show_entry(msgspec.structs.replace(many[3], steps=9))
    assert panel.current == f"{ROOT}/499"


def test_the_menu_is_asked_for_where_the_mouse_is(panel: RunsPanel, ear: Ear) -> None:
    panel.show_entries([run(1)])
    point = panel.tree.visualRect(panel.tree.model().index(0, 0)).center()
    panel.tree.customContextMenuRequested.emit(point)
    panel.tree.customContextMenuRequested.emit(QPoint(10, 400))
    assert ear.heard("menu") == [(run(1).folder,)]


def test_what_was_folded_stays_so_and_what_was_chosen_too(panel: RunsPanel) -> None:
    listed = [fork_of(run(1), 2), run(1)]
    panel.show_entries(listed)
    panel.tree.collapse(panel.tree.model().index(0, 0))
    panel.choose(run(1).folder)
    panel.show_entries([run(3), *listed])
    assert not panel.tree.isExpanded(panel.tree.model().index(1, 0))
    assert panel.current == run(1).folder
