"""The panel of a training: what its curves, its table and its words say, and how an epoch is chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import training_folders as folders
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtTest import QTest
from windows import discard

from cem_core.training.history import History
from cem_core.training.progress import LOG, Ended, Epoch
from cem_core.training.recipe import Attack, Contrastive, Objective, Standard
from cem_gui import theme
from cem_gui.panels.training import Told, TrainingPanel, about, lasting, names, spread, state
from cem_gui.training import TrainingStage, _seen, _told


@pytest.fixture
def panel(qapp, qtbot) -> Iterator[TrainingPanel]:
    theme.apply(qapp, "dark")
    panel = TrainingPanel()
    panel.resize(1300, 700)
    with qtbot.waitExposed(panel):
        panel.show()
    yield panel
    panel.close()
    discard(panel)


def read(folder: Path) -> Told:
    history = History.open(folder)
    history.read()
    return _told(history, _seen(folder))


def show(panel: TrainingPanel, told: Told, now: float | None = None) -> None:
    panel.show_told(told, TrainingStage._columns(told), told.written if now is None else now)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return read(folders.write(tmp_path / "run", epochs=3))


# What is drawn -------------------------------------------------------------------------------------------------------


def values(plot, name: str) -> list[float]:
    return plot._curves[name].getData()[1].tolist()


def test_curves_hold_the_numbers_of_the_log(panel: TrainingPanel, told: Told) -> None:
    show(panel, told)
    plots = panel.plots
    for plot, name, expected in (
        (plots.loss, "loss, mean of the epoch", [1.9, 1.8, 1.7]),
        (plots.accuracy, "clean", [50, 60, 70]),
        (plots.accuracy, "robust, L2 ε 0.5", [30, 40, 50]),
        (plots.gap, "ΔE = E(x) − E(x*)", [-0.1, -0.2, -0.3]),
    ):
        found = values(plot, name)
        assert math.isnan(found[0]), "before the first epoch nothing is known"
        assert found[1:] == pytest.approx(expected)
    at, losses = plots.loss._between.getData()
    assert at.tolist() == pytest.approx([0.2 * i for i in range(1, 16)])
    assert losses == pytest.approx([2 - 0.02 * i for i in range(1, 16)])
    assert "1.700" in plots.loss.legend.text()
    assert "70.0 %" in plots.accuracy.legend.text()


def test_all_plots_share_one_axis_and_the_pictures_stand_below_it(panel: TrainingPanel, told: Told) -> None:
    show(panel, told)
    ranges = [plot.view.getPlotItem().vb.viewRange()[0] for plot in panel.plots]
    assert ranges[0] == ranges[1] == ranges[2] == [0, 3.5]
    for number in (1, 2, 3):
        there = [plot.view.mapTo(panel, QPoint(round(plot.across(number)), 0)).x() for plot in panel.plots]
        below = panel.strip.mapTo(panel, panel.strip.picture(number, 0).center()).x()
        assert max(there) - min(there) <= 1
        assert abs(below - there[0]) <= 2


def test_the_axis_leaves_each_column_its_room() -> None:
    assert spread([1, 3, 5, 7], 7.4) == (0, 8)
    assert spread([1, 33, 65], 70.0) == (-15, 81)
    assert spread([1], 1.8) == (0, 1.8)
    assert spread([], 0.0) == (0, 1)


def test_rows_have_the_numbers_of_each_epoch(panel: TrainingPanel, told: Told) -> None:
    show(panel, told)
    rows = panel.table.model()
    assert rows.rowCount() == 3
    cells = [rows.index(1, column).data() for column in range(rows.columnCount())]
    assert cells == ["2", "1.800", "60.0 %", "40.0 %", "−0.20", "2.0"]


def test_what_was_not_measured_is_told_as_such(panel: TrainingPanel, tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "run", epochs=0)
    folders.add(folder, folders.progress(2), folders.epoch(1, measured=False))
    show(panel, read(folder))
    rows = panel.table.model()
    assert [rows.index(0, column).data() for column in (1, 2, 4)] == ["1.900", "–", "–"]
    assert panel.table.isColumnHidden(3)
    assert "nothing was held out" in panel.plots.accuracy.legend.text()
    assert "nothing was held out" in panel.plots.gap.legend.text()
    assert not panel.open_button.isEnabled(), "nor is there a checkpoint"
    folders.add(folder, folders.began(classes=()))
    show(panel, read(folder))
    assert "the images have no classes" in panel.plots.accuracy.legend.text()
    assert "the images have no classes" in panel.plots.gap.legend.text()


def test_no_epoch_yet(panel: TrainingPanel, tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "run", epochs=0)
    show(panel, read(folder))
    assert "after the first epoch" in panel.plots.accuracy.legend.text()
    assert panel.table.model().rowCount() == 0
    assert not panel.open_button.isEnabled()
    folders.add(folder, folders.progress(2), folders.progress(4))
    show(panel, read(folder))
    assert panel.plots.loss._between.getData()[1] == pytest.approx([1.98, 1.96])
    assert "now&nbsp;1.960" in panel.plots.loss.legend.text()


def test_a_log_may_say_anything(panel: TrainingPanel, tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "run", epochs=1)
    wild = [folders.epoch(2**50), folders.epoch(-3), folders.progress(2**52), folders.began(0)]
    folders.add(folder, *wild)
    with (folder / LOG).open("ab") as log:
        log.write(b'\xff{"kind":"epoch"\n[]\n{"kind":"epoch","epoch":2')
    show(panel, read(folder))
    assert [word.epoch for word in panel._told.epochs] == [1]
    assert panel.table.model().rowCount() == 1


def test_colours_follow_the_scheme(qapp, panel: TrainingPanel, told: Told) -> None:
    show(panel, told)
    theme.apply(qapp, "light")
    panel.restyle()
    assert panel.plots.loss.view.backgroundBrush().color().name() == theme.LIGHT.card
    pen = panel.plots.loss._curves["loss, mean of the epoch"].opts["pen"]
    assert pen.color().name() == theme.LIGHT.blue
    theme.apply(qapp, "dark")
    panel.restyle()


# An epoch ------------------------------------------------------------------------------------------------------------


def test_one_epoch_is_in_sight_everywhere(panel: TrainingPanel, told: Told) -> None:
    show(panel, told)
    assert panel.chosen == 3
    panel.table.setFocus()
    for key, expected in (
        (Qt.Key.Key_Left, 2), (Qt.Key.Key_Up, 1), (Qt.Key.Key_Left, 1), (Qt.Key.Key_Right, 2), (Qt.Key.Key_Home, 1),
        (Qt.Key.Key_End, 3), (Qt.Key.Key_Up, 2),
    ):  # fmt: skip
        QTest.keyClick(panel.table, key)
        assert panel.chosen == expected
    assert [plot._cursor.value() for plot in panel.plots] == [2, 2, 2]
    assert panel.table.currentIndex().row() == 1
    assert "60.0 %" in panel.plots.accuracy.legend.text()
    assert panel.open_button.text() == "Open epoch 2"
    QTest.mouseClick(panel.strip, Qt.MouseButton.LeftButton, pos=panel.strip.picture(1, 0).center())
    assert panel.chosen == 1


def test_the_cursor_is_dragged_and_numbers_are_read_by_pointing(panel: TrainingPanel, told: Told) -> None:
    show(panel, told)
    plot = panel.plots.accuracy
    plot._cursor.setValue(1.2)
    assert panel.chosen == 1
    plot._cursor.setValue(-5)
    assert panel.chosen == 1
    scene = plot.view.mapToScene(QPoint(round(plot.across(2)), plot.view.height() // 2))
    plot._moved(QPointF(scene))
    assert "60.0 %" in plot.legend.text()
    assert "epoch&nbsp;2" in plot.legend.text()
    plot._left()
    assert "50.0 %" in plot.legend.text()


def test_the_newest_epoch_is_followed_until_another_is_chosen(panel: TrainingPanel, tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "run", epochs=1, planned=9)
    show(panel, read(folder))
    folders.train(folder, 2)
    show(panel, read(folder))
    assert panel.chosen == 2
    panel.choose(1)
    folders.train(folder, 3)
    show(panel, read(folder))
    assert panel.chosen == 1
    panel.choose(3)
    folders.train(folder, 4)
    show(panel, read(folder))
    assert panel.chosen == 4


def test_an_epoch_is_opened_by_return_by_two_clicks_and_by_the_button(qtbot, panel: TrainingPanel, told: Told) -> None:
    show(panel, told)
    panel.choose(2)
    with qtbot.waitSignal(panel.epoch_opened) as asked:
        QTest.keyClick(panel.table, Qt.Key.Key_Return)
    assert asked.args == [2]
    with qtbot.waitSignal(panel.epoch_opened) as asked:
        QTest.mouseClick(panel.open_button, Qt.MouseButton.LeftButton)
    assert asked.args == [2]
    with qtbot.waitSignal(panel.epoch_opened) as asked:
        QTest.mouseDClick(panel.strip, Qt.MouseButton.LeftButton, pos=panel.strip.picture(3, 0).center())
    assert asked.args == [3]


def test_an_epoch_without_its_file_cannot_be_opened(qtbot, panel: TrainingPanel, told: Told) -> None:
    told.files[2][0].unlink()
    told = read(told.folder)
    assert sorted(told.files) == [1, 3]
    show(panel, told)
    panel.choose(2)
    assert not panel.open_button.isEnabled()
    assert panel.table.model().index(1, 0).data(Qt.ItemDataRole.ToolTipRole) == "Its checkpoint is gone"
    with qtbot.assertNotEmitted(panel.epoch_opened):
        QTest.keyClick(panel.table, Qt.Key.Key_Return)


# Columns of the strip ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planned", [1, 7, 8, 9, 40, 130])
def test_columns_are_even_few_and_old_ones_as_more_epochs_come(told: Told, planned: int) -> None:
    """Whatever is shown has been the newest epoch at some time: nothing is computed that was passed over before."""
    seen: set[int] = set()
    for count in range(1, planned + 1):
        epochs: tuple[Epoch, ...] = tuple(folders.epoch(number) for number in range(1, count + 1))
        columns = TrainingStage._columns(told._replace(epochs=epochs))
        assert columns[0] == 1
        assert columns[-1] == count
        assert len(columns) <= 8
        assert len(columns) == count or len(columns) >= 4
        gaps = np.diff(columns)
        if len(gaps):
            assert gaps[:-1].max(initial=gaps[0]) == gaps.min()
            assert gaps[-1] < 2 * gaps.min()
        seen.add(count)
        assert set(columns) <= seen


# In words ------------------------------------------------------------------------------------------------------------


def test_its_state_is_told_as_it_is_known(told: Told) -> None:
    now = told.written
    assert state(told, now) == "training: 75 % · 60 s left · epoch 3 of 4 · step 30 of 40"
    assert state(told, now + 725) == "no word for 12 minutes · epoch 3 of 4 · step 30 of 40"
    slow = told._replace(pace=60.0)
    assert state(slow, now + 725).startswith("training: 75 % · 10 minutes left")
    assert state(told._replace(ended=Ended("done", 40, 5400.0)), now) == "done · 4 epochs in 1 h 30 min"
    assert state(told._replace(ended=Ended("stopped", 30, 90.0)), now + 9e6) == "stopped at step 30 of 40"
    failed = Ended("failed", 30, 90.0, "The loss became nan.")
    assert state(told._replace(ended=failed), now) == "failed at step 30 of 40: The loss became nan."
    assert state(told._replace(began=None), now) == "nothing was told yet"
    assert state(told._replace(pace=math.nan), now) == "training: 75 % · epoch 3 of 4 · step 30 of 40"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (40, "40 s"), (600, "10 minutes"), (5400, "1 h 30 min"), (100_000, "27 h 47 min"), (3e5, "3 days")],
)
def test_times_are_told_roughly(seconds: float, said: str) -> None:
    assert lasting(seconds) == said


@pytest.mark.parametrize(
    ("objective", "said", "accuracy"),
    [
        (Standard(), "Standard training · ", ("clean", "robust, L2 ε 0.5")),
        (None, "Adversarial training against L2 ε 0.5 in 1 step · ", ("clean", "robust, L2 ε 0.5")),
        (
            Contrastive(Attack(eps=8 / 255, norm="linf", steps=5)),
            "Contrastive training against L∞ ε 0.0314 in 5 steps · ",
            ("linear probe", "probe, L2 ε 0.5"),
        ),
        (Contrastive(), "Contrastive training · ", ("linear probe", "probe, L2 ε 0.5")),
    ],
)
def test_a_recipe_in_words(
    panel: TrainingPanel, tmp_path: Path, objective: Objective | None, said: str, accuracy: tuple[str, str]
) -> None:
    told = read(folders.write(tmp_path / "run", asked=folders.recipe(objective=objective)))
    assert about(told).startswith(said)
    assert about(told).endswith("1,000 images of images, 100 held out · CPU")
    assert names(told) == accuracy
    show(panel, told)
    assert set(panel.plots.accuracy._curves) == set(accuracy)


def test_an_empty_view_offers_folders_of_late(qtbot, panel: TrainingPanel) -> None:
    panel.show_recent(["/a/run", "/b/" + "x" * 100])
    buttons = [panel.recent.itemAt(i).widget() for i in range(panel.recent.count())]
    assert buttons[0].text() == "/a/run"
    assert len(buttons[1].text()) <= 60
    with qtbot.waitSignal(panel.folder_wanted) as asked:
        QTest.mouseClick(buttons[1], Qt.MouseButton.LeftButton)
    assert asked.args == ["/b/" + "x" * 100]
    panel.show_recent(["/a/run"])
    assert panel.recent.count() == 1
