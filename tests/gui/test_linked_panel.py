"""Runs side by side: what is painted of each model, and where."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace
from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget
from scenarios_session import session as scenario
from windows import discard, read_back

from cem_core import images
from cem_core.images import hwc, to_uint8
from cem_core.session import Session
from cem_gui.panels.linked import GAINS, IMAGES, LinkedPanel
from cem_gui.widgets.band_plot import SYMBOLS
from cem_gui.widgets.picture import Picture

SIZE = 8
CHAINS = 3
LONG_NAME = "a-model-with-a-name-of-sixty-characters-that-must-not-break-it"


def runs(count: int, **what: object) -> list[Session]:
    return [scenario(steps=6, chains=CHAINS, size=SIZE, seed=seed, **what) for seed in range(count)]


def show(panel: LinkedPanel, sessions: list[Session], step: int = 0) -> None:
    """As the stage does."""
    panel.show_models([session.start.checkpoint for session in sessions])
    panel.show_chains(sessions[0].start, sessions[0][0])
    for model, session in enumerate(sessions):
        panel.show_step(model, session.start, session[step], session[0].pixels[panel.chosen])
        panel.columns[model].show_curves(session.numbers, None, panel.chosen, 10)
    QApplication.processEvents()


@pytest.fixture
def panel(qtbot) -> Iterator[LinkedPanel]:
    panel = LinkedPanel()
    panel.resize(1100, 760)
    with qtbot.waitExposed(panel):
        panel.show()
    yield panel
    panel.close()
    discard(panel)


def painted(picture: Picture) -> np.ndarray:
    return read_back(picture.grab().toImage(), picture.place(), SIZE)


def pixels(session: Session, step: int, chain: int = 0) -> np.ndarray:
    return hwc(to_uint8(session[step].pixels))[chain]


def place(panel: LinkedPanel, widget: QWidget) -> QRect:
    return QRect(widget.mapTo(panel, QPoint(0, 0)), widget.size())


# A model's column ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_pixel_of_the_chosen_chain_of_every_model_is_on_the_screen(panel: LinkedPanel, count: int) -> None:
    sessions = runs(count)
    for step in (0, 5):
        show(panel, sessions, step)
        for column, session in zip(panel.columns, sessions, strict=False):
            assert np.array_equal(painted(column.image), pixels(session, step))
    assert [column.isVisible() for column in panel.columns] == [i < count for i in range(4)]


def test_another_chain_is_shown_of_all_models(panel: LinkedPanel) -> None:
    sessions = runs(2)
    show(panel, sessions)
    panel.thumbs.choose(2)
    show(panel, sessions, 4)
    for column, session in zip(panel.columns, sessions, strict=False):
        assert np.array_equal(painted(column.image), pixels(session, 4, 2))


@pytest.mark.parametrize("gain", [1, 32])
def test_the_difference_is_signed_and_amplified(panel: LinkedPanel, gain: int) -> None:
    sessions = runs(2)
    heard: list[bool] = []
    panel.gain_changed.connect(lambda: heard.append(True))
    panel.gain.setCurrentIndex(GAINS.index(gain))
    panel.gain.activated.emit(GAINS.index(gain))
    assert heard
    show(panel, sessions, 3)
    for column, session in zip(panel.columns, sessions, strict=False):
        wanted = images.difference(session[3].pixels[:1], session[0].pixels[:1], gain)[0]
        assert np.array_equal(painted(column.difference), wanted)
    show(panel, sessions, 0)
    assert (painted(panel.columns[0].difference) == 128).all(), "nothing has changed: grey"


def test_the_target_and_the_most_likely_classes_are_told(panel: LinkedPanel) -> None:
    [session] = runs(1)
    show(panel, [session], 2)
    logits = session[2].logits[0].astype(float)
    p = np.exp(logits) / np.exp(logits).sum()
    classes, label = session.start.checkpoint.classes, session.start.labels[0]
    [target] = panel.columns[0].target.shares
    assert (target.name, target.is_target) == (f"→ {classes[label]}", True)
    assert target.p == pytest.approx(p[label], rel=1e-5)
    shares = panel.columns[0].top.shares
    assert [share.name for share in shares] == [classes[k] for k in np.argsort(-p)[:5]]
    assert [share.p for share in shares] == pytest.approx(sorted(p)[::-1][:5])
    assert [share.is_target for share in shares] == [share.name == classes[label] for share in shares]
    assert panel.columns[0].target.accessibleDescription() == f"→ {classes[label]} {p[label]:.2f}"


def test_a_sampler_that_flees_its_class_has_another_arrow(panel: LinkedPanel) -> None:
    [session] = runs(1)
    show(panel, [session])
    step = replace(session[1], sampler=replace(session[1].sampler, a=-1.0))
    panel.show_step(0, session.start, step, session[0].pixels[0])
    assert panel.columns[0].target.shares[0].name.startswith("← ")


def test_a_model_that_failed_says_so_where_its_title_was(panel: LinkedPanel) -> None:
    sessions = runs(2)
    show(panel, sessions)
    before = place(panel, panel.columns[0].image)
    said = "E(x) of chain 1 became nan at step 3; the steps before are kept. Try a smaller step size."
    panel.columns[0].show_problem(said)
    QApplication.processEvents()
    assert panel.columns[0].about.toolTip() == said
    assert panel.columns[0].about.text() == f"⚠ {said}"
    assert place(panel, panel.columns[0].image) == before, "the rows stay aligned"
    assert panel.columns[1].about.toolTip() == "Robust CIFAR-10 (L2)"
    show(panel, sessions)
    assert panel.columns[0].about.toolTip() == "Robust CIFAR-10 (L2)"


def test_the_curves_are_the_chosen_chains_and_what_the_others_say_is_dashed(panel: LinkedPanel) -> None:
    sessions = runs(3)
    show(panel, sessions)
    judged = np.random.default_rng(0).random((6, 3), np.float32)
    column = panel.columns[1]
    column.show_curves(sessions[1].numbers, judged, 2, 10)
    numbers = sessions[1].numbers
    assert list(column.energy._series) == ["E(x)", "E(x,y)"]
    assert np.array_equal(column.energy._series["E(x)"][1], numbers.energy[:, 2])
    assert np.array_equal(column.energy._series["E(x,y)"][1], numbers.joint[:, 2])
    assert list(column.probability._series) == [SYMBOLS[1]]
    assert np.array_equal(column.probability._series[SYMBOLS[1]][1], np.exp(numbers.log_p[:, 2]))
    assert list(column.probability._other) == [SYMBOLS[0], SYMBOLS[2]]
    assert np.array_equal(column.probability._other[SYMBOLS[2]][1], judged[:, 2])
    column.set_cursor(4)
    for symbol, value in ((SYMBOLS[0], judged[4, 0]), (SYMBOLS[2], judged[4, 2])):
        assert f"{symbol}</span>&nbsp;{value:.2f}" in column.probability.legend.text()


def test_a_click_into_a_plot_goes_to_its_step(panel: LinkedPanel) -> None:
    show(panel, runs(2))
    heard: list[int] = []
    panel.stepped.connect(heard.append)
    view = panel.columns[1].energy.view
    where = view.mapFromScene(view.getPlotItem().vb.mapViewToScene(QPoint(3, 0)))
    QTest.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(where.x(), view.height() // 3))
    assert heard == [3]


# All columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("size", [(1000, 520), (1100, 760), (3400, 1900)])
def test_columns_are_equally_wide_and_their_rows_aligned(panel: LinkedPanel, count: int, size: tuple[int, int]) -> None:
    sessions = runs(count)
    panel.resize(*size)
    show(panel, sessions, 5)
    QApplication.processEvents()
    columns = panel.columns[:count]
    widths = [column.width() for column in columns]
    assert max(widths) == min(widths)
    for part in ("image", "difference", "target", "top", "energy", "probability"):
        places = [place(panel, getattr(column, part)) for column in columns]
        assert len({(where.top(), where.height()) for where in places}) == 1, part
        assert all(where.height() > 20 for where in places), part
    assert columns[0].image.place().width() >= 64
    judged = np.full((6, count), 0.5, np.float32)
    for column, session in zip(columns, sessions, strict=True):
        column.show_curves(session.numbers, judged, 0, 10)
        for plot in (column.energy, column.probability):
            assert plot.legend.sizeHint().width() <= plot.legend.width(), "nothing is cut off"
    where = place(panel, columns[-1])
    assert where.right() < place(panel, panel.transfer).left()


def test_long_names_and_many_classes_fit(panel: LinkedPanel) -> None:
    classes = tuple(f"class number {i} with a long name, as those of ImageNet are" for i in range(1000))
    sessions = runs(4, classes=classes)
    panel.resize(1000, 520)
    width = panel.minimumSizeHint().width()
    long = [replace(session.start.checkpoint, name=LONG_NAME, title=LONG_NAME) for session in sessions]
    show(panel, sessions, 2)
    panel.show_models(long)
    panel.show_step(0, sessions[0].start, sessions[0][2], sessions[0][0].pixels[0])
    QApplication.processEvents()
    assert panel.minimumSizeHint().width() == width
    assert panel.columns[0].name.toolTip().startswith(LONG_NAME)
    assert panel.columns[0].name.text() == LONG_NAME
    assert [column.width() for column in panel.columns] == [panel.columns[0].width()] * 4
    assert len(panel.columns[0].top.shares) == 5


def test_colours_follow_the_theme(panel: LinkedPanel) -> None:
    show(panel, runs(2))
    panel.columns[0].show_problem("It failed.")
    panel.restyle()
    assert panel.columns[0].symbol.styleSheet() != panel.columns[1].symbol.styleSheet()
    assert (panel.columns[0].symbol.text(), panel.columns[1].symbol.text()) == SYMBOLS[:2]


def test_before_anything_is_there_it_says_what_it_waits_for(panel: LinkedPanel) -> None:
    panel.show_empty("Opening the models …")
    assert panel.empty.isVisible()
    assert panel.empty.text() == "Opening the models …"
    show(panel, runs(2))
    assert not panel.empty.isVisible()
    panel.say("These do not go together.")
    assert panel.notice.text.isVisible()
    assert panel.notice.text.text() == "These do not go together."


# Which images --------------------------------------------------------------------------------------------------------


def test_chains_are_chosen_by_keys_and_mouse(panel: LinkedPanel) -> None:
    show(panel, runs(2))
    heard: list[int] = []
    panel.selected.connect(heard.append)
    assert panel.focusProxy() is panel.thumbs
    for key in (Qt.Key.Key_Up, Qt.Key.Key_Down, Qt.Key.Key_Down, Qt.Key.Key_Down, Qt.Key.Key_Up):
        QTest.keyClick(panel.thumbs, key)
    assert heard == [1, 2, 1], "and it stays at the ends"
    QTest.mouseClick(panel.thumbs, Qt.MouseButton.LeftButton, pos=panel.thumbs.card(0).center())
    QTest.mouseClick(panel.thumbs, Qt.MouseButton.LeftButton, pos=QPoint(1, panel.thumbs.height() - 1))
    assert heard[3:] == [0]
    assert panel.chosen == 0
    assert panel.thumbs.accessibleDescription() == "1 of 3: image 1.png → horse"


def test_the_chosen_chain_stays_as_long_as_there_are_so_many(panel: LinkedPanel) -> None:
    show(panel, runs(2))
    panel.thumbs.choose(2)
    show(panel, runs(2))
    assert panel.chosen == 2
    one = scenario(steps=2, chains=1, size=SIZE)
    show(panel, [one, one])
    assert panel.chosen == 0


def test_how_many_images_there_are_can_be_said(panel: LinkedPanel) -> None:
    heard: list[int] = []
    panel.count_changed.connect(heard.append)
    assert panel.count.value() == IMAGES
    panel.count.setValue(7)
    assert heard == [7]


# Transfer ------------------------------------------------------------------------------------------------------------


def test_the_matrix_tells_what_each_model_makes_of_each_run(panel: LinkedPanel) -> None:
    sessions = runs(2)
    show(panel, sessions)
    names = ["robust", "standard"]
    panel.matrix.show_names(names)
    panel.matrix.show_values(np.array([[0.9, 0.1], [np.nan, 1.0]]), np.array([[-2.5, 3.0], [np.nan, 0.0]]))
    assert panel.matrix.told(0, 0) == "robust on its own images: p(y|x) 0.900, E(x) −2.50 since step 0"
    assert panel.matrix.told(0, 1) == "standard on the images of robust: p(y|x) 0.100, E(x) +3.00 since step 0"
    assert panel.matrix.told(1, 0) == "robust on the images of standard: nothing is known"
    assert all(panel.matrix.told(i, j) in panel.matrix.accessibleDescription() for i in range(2) for j in range(2))
    cells = [panel.matrix.cell(i, j) for i in range(2) for j in range(2)]
    assert [panel.matrix.at(cell.center()) for cell in cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert panel.matrix.at(QPoint(2, 2)) is None


def test_the_more_probable_the_stronger_the_tint(panel: LinkedPanel) -> None:
    show(panel, runs(2))
    p = np.array([[0.0, 0.3], [0.6, 1.0]])
    panel.matrix.show_values(p, np.zeros((2, 2)))
    image = panel.matrix.grab().toImage()
    ground = image.pixelColor(2, 2)

    def tint(i: int, j: int) -> int:
        colour = image.pixelColor(panel.matrix.cell(i, j).topLeft() + QPoint(8, 8))
        return abs(colour.green() - ground.green())

    strengths = [tint(*at) for at in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert strengths == sorted(strengths)
    assert len(set(strengths)) == 4


def test_a_single_model_has_nobody_to_judge_it(panel: LinkedPanel) -> None:
    show(panel, runs(1))
    assert not panel.transfer.isVisible()
    show(panel, runs(2))
    assert panel.transfer.isVisible()
