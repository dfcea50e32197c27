"""The chains: what is painted of them, one by one and large."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QPushButton, QWidget
from scenarios_session import session as scenario
from windows import discard, picture, pixel_at

from cem_core import images
from cem_core.images import hwc, to_uint8
from cem_core.messages import Step
from cem_core.session import Session
from cem_gui.panels.evolution import GAINS, EvolutionPanel

SIZE = 8


@pytest.fixture
def run() -> Session:
    return scenario(steps=6, chains=3, size=SIZE)


@pytest.fixture
def panel(qtbot, run: Session) -> Iterator[EvolutionPanel]:
    panel = EvolutionPanel()
    panel.resize(900, 600)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.show_start(run.start, run[0])
    yield panel
    panel.close()
    discard(panel)


def canvas(panel: EvolutionPanel) -> QWidget:
    return panel.grid.widget()


def click(panel: EvolutionPanel, text: str) -> None:
    [button] = [button for button in panel.findChildren(QPushButton) if button.text() == text]
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def move(widget: QWidget, point: QPoint) -> None:
    """The mouse, from beside the point onto it: a real pointer never appears out of nowhere."""
    QTest.mouseMove(widget, point + QPoint(1, 0))
    QTest.mouseMove(widget, point)
    QApplication.processEvents()


def pixels(run: Session, step: int, chain: int = 0) -> np.ndarray:
    return hwc(to_uint8(run[step].pixels))[chain]


# Views ---------------------------------------------------------------------------------------------------------------


def test_every_pixel_of_every_chain_is_on_the_screen(panel: EvolutionPanel, run: Session) -> None:
    for step in (0, 5, 2):
        panel.show_step(run[step])
        for chain in range(3):
            assert np.array_equal(picture(panel, chain), pixels(run, step, chain))


def test_grey_chains_are_painted_grey(qtbot, panel: EvolutionPanel) -> None:
    grey = scenario(steps=2, chains=2, size=SIZE, channels=1)
    panel.show_start(grey.start, grey[0])
    shown = picture(panel, 1)
    assert np.array_equal(shown, pixels(grey, 0, 1))
    assert np.array_equal(shown[..., 0], shown[..., 2])


def test_the_original_can_be_seen_at_any_step(panel: EvolutionPanel, run: Session) -> None:
    panel.show_step(run[4])
    click(panel, "Original")
    assert np.array_equal(picture(panel, 1), pixels(run, 0, 1))
    click(panel, "Image")
    assert np.array_equal(picture(panel, 1), pixels(run, 4, 1))


@pytest.mark.parametrize("gain", GAINS)
def test_the_difference_is_what_the_core_says(panel: EvolutionPanel, run: Session, gain: int) -> None:
    panel.show_step(run[3])
    click(panel, "Difference")
    QTest.keyClick(panel.gain, Qt.Key.Key_Home)
    for _ in range(GAINS.index(gain)):
        QTest.keyClick(panel.gain, Qt.Key.Key_Down)
    assert panel.gain.currentText() == f"×{gain}"
    expected = images.difference(run[3].pixels, run[0].pixels, gain)
    for chain in range(3):
        assert np.array_equal(picture(panel, chain), expected[chain])


def test_the_gain_has_a_meaning_for_the_difference_only(panel: EvolutionPanel) -> None:
    assert not panel.gain.isEnabled()
    click(panel, "Difference")
    assert panel.gain.isEnabled()
    click(panel, "Original")
    assert not panel.gain.isEnabled()


def test_nothing_has_changed_at_the_start(panel: EvolutionPanel) -> None:
    click(panel, "Difference")
    assert np.all(picture(panel, 2) == 128)


def test_buttons_and_menu_show_the_same_view(panel: EvolutionPanel) -> None:
    for action in panel.views.actions():
        action.trigger()
        checked = [button.text() for button in panel.findChildren(QPushButton) if button.isChecked()]
        assert checked == [action.text()]
        assert panel.view == action.data()


# Chains --------------------------------------------------------------------------------------------------------------


def test_under_each_image_stand_target_and_probability(panel: EvolutionPanel, run: Session) -> None:
    panel.show_step(run[4])
    classes, p = run.start.checkpoint.classes, np.exp(run[4].log_p)
    for caption, label, share in zip(panel.grid.captions, run.start.labels, p, strict=True):
        assert caption.title.startswith(f"→ {classes[label]}")
        assert caption.value == f"{share:.2f}"
        assert caption.share == pytest.approx(share)


def test_a_sampler_that_flees_points_away(panel: EvolutionPanel, run: Session) -> None:
    step = msgspec.structs.replace(run[1], sampler=msgspec.structs.replace(run[1].sampler, a=-1))
    panel.show_step(step)
    assert panel.grid.captions[0].title == "← horse"
    assert panel.grid.captions[0].tip == "image 1.png ← horse"


def strays(run: Session, energy: float, joint: float, seen: int) -> Step:
    """A step at which E(x) and E(x,y) of the first chain have changed by so much, and the model sees some class."""
    logits = run[0].logits.copy()
    logits[0, seen] = logits[0].max() + 1
    first = run[0].energy, run[0].joint
    moved = [values.copy() for values in first]
    moved[0][0] += energy
    moved[1][0] += joint
    return msgspec.structs.replace(run[1], energy=moved[0], joint=moved[1], logits=logits)


@pytest.mark.parametrize(
    ("energy", "joint", "seen", "a", "said"),
    [
        (-5, -1, 2, 1, True),
        (-5, -6, 2, 1, False),  # it gains more on its target
        (-0.5, 0, 2, 1, False),  # hardly anything happened
        (-5, -1, 7, 1, False),  # it stands in its target
        (-5, -1, 2, -1, False),  # it has no target to reach
    ],
)
def test_a_chain_that_climbs_another_class_is_named(
    panel: EvolutionPanel, run: Session, energy: float, joint: float, seen: int, a: float, said: bool
) -> None:
    step = strays(run, energy, joint, seen)
    panel.show_step(msgspec.structs.replace(step, sampler=msgspec.structs.replace(step.sampler, a=a)))
    caption = panel.grid.captions[0]
    assert caption.strays == said
    assert ("climbs bird instead" in caption.tip) == said
    assert ("bird" in caption.title) == said  # not by colour alone


def test_a_screen_reader_hears_the_chosen_chain(panel: EvolutionPanel, run: Session) -> None:
    QTest.mouseClick(canvas(panel), Qt.MouseButton.LeftButton, pos=panel.grid.card(1).center())
    p = np.exp(run[0].log_p[1])
    assert canvas(panel).accessibleDescription() == f"Chain 2: {panel.grid.captions[1].title}, p {p:.2f}"


def test_a_click_chooses_a_chain(qtbot, panel: EvolutionPanel) -> None:
    with qtbot.waitSignal(panel.selected) as selected:
        QTest.mouseClick(canvas(panel), Qt.MouseButton.LeftButton, pos=panel.grid.card(2).center())
    assert selected.args == [2]
    assert panel.chosen == 2
    assert panel.about.text().startswith("Chain 3: image 3.png")


def test_the_keys_choose_a_chain(panel: EvolutionPanel) -> None:
    panel.resize(300, 2400)  # one column
    assert panel.grid.columns == 1
    for key, chosen in ((Qt.Key.Key_Down, 1), (Qt.Key.Key_Down, 2), (Qt.Key.Key_Down, 2), (Qt.Key.Key_Up, 1)):
        QTest.keyClick(canvas(panel), key)
        assert panel.chosen == chosen


def test_a_run_of_fewer_chains_chooses_one_that_is_there(panel: EvolutionPanel) -> None:
    QTest.mouseClick(canvas(panel), Qt.MouseButton.LeftButton, pos=panel.grid.card(2).center())
    small = scenario(steps=1, chains=1, size=SIZE)
    panel.show_start(small.start, small[0])
    assert panel.chosen == 0
    assert panel.grid.count == 1


def test_all_chains_of_a_large_run_can_be_reached(qtbot, panel: EvolutionPanel) -> None:
    large = scenario(steps=1, chains=200, size=SIZE)
    panel.show_start(large.start, large[0])
    QApplication.processEvents()
    assert panel.grid.verticalScrollBar().maximum() > 0
    panel.grid.choose(199)
    assert np.array_equal(picture(panel, 199), pixels(large, 0, 199))
    visible = canvas(panel).visibleRegion().boundingRect()
    assert visible.contains(panel.grid.card(199).center())


@pytest.mark.parametrize(("width", "height"), [(1, 1), (120, 160), (300, 2000), (3000, 300)])
def test_any_size_of_the_panel_will_do(panel: EvolutionPanel, width: int, height: int) -> None:
    panel.resize(width, height)
    QApplication.processEvents()
    cards = [panel.grid.card(chain) for chain in range(3)]
    assert not any(one.intersects(other) for i, one in enumerate(cards) for other in cards[:i])
    panel.toggle_large()
    panel.grab()


def test_the_menu_says_which_chain(qtbot, panel: EvolutionPanel) -> None:
    for point, chain in ((panel.grid.card(1).center(), 1), (QPoint(0, 0), -1)):
        where = canvas(panel).mapToGlobal(point)
        with qtbot.waitSignal(panel.menu_wanted) as wanted:
            QApplication.sendEvent(canvas(panel), QContextMenuEvent(QContextMenuEvent.Reason.Mouse, point, where))
        assert wanted.args == [chain, where]
        assert panel.chosen == 1


def test_a_tip_tells_what_was_done_to_the_image(panel: EvolutionPanel, run: Session) -> None:
    start = msgspec.structs.replace(run.start, notes=("640×480 PNG, centre 480×480 → 8×8", "", ""))
    panel.show_start(start, run[0])
    assert panel.grid.captions[0].tip.endswith("640×480 PNG, centre 480×480 → 8×8")
    assert "640×480 PNG" in panel.about.text()


# Large view ----------------------------------------------------------------------------------------------------------


def test_a_double_click_shows_a_chain_large(panel: EvolutionPanel, run: Session) -> None:
    panel.show_step(run[2])
    QTest.mouseDClick(canvas(panel), Qt.MouseButton.LeftButton, pos=panel.grid.card(1).center())
    assert panel.is_large
    assert np.array_equal(picture(panel), pixels(run, 2, 1))
    panel.show_step(run[5])
    assert np.array_equal(picture(panel), pixels(run, 5, 1))
    click(panel, "Difference")
    assert np.array_equal(picture(panel), images.difference(run[5].pixels, run[0].pixels, 8)[1])
    QTest.mouseDClick(panel.large, Qt.MouseButton.LeftButton, pos=panel.large.rect().center())
    assert not panel.is_large
    assert np.array_equal(picture(panel, 1), images.difference(run[5].pixels, run[0].pixels, 8)[1])


def test_return_shows_the_chosen_chain_large(panel: EvolutionPanel, run: Session) -> None:
    QTest.keyClick(canvas(panel), Qt.Key.Key_Return)
    assert panel.is_large
    assert np.array_equal(picture(panel), pixels(run, 0, 0))


def test_the_pixels_of_the_large_view_are_squares_of_one_size(panel: EvolutionPanel) -> None:
    panel.toggle_large()
    where = panel.large.picture()
    assert where.width() == where.height()
    assert where.width() % SIZE == 0
    assert panel.large.rect().contains(where)


def test_the_large_view_tells_what_the_model_sees(panel: EvolutionPanel, run: Session) -> None:
    panel.show_step(run[3])
    panel.toggle_large()
    logits = run[3].logits[0].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum()
    names, shares, targets = zip(*panel.large._bars, strict=True)
    assert list(names) == [run.start.checkpoint.classes[k] for k in np.argsort(-p)]
    assert list(shares) == pytest.approx(np.sort(p)[::-1])
    assert [name for name, target in zip(names, targets, strict=True) if target] == ["horse"]


def test_a_new_run_stays_large(panel: EvolutionPanel) -> None:
    panel.toggle_large()
    other = scenario(steps=1, chains=1, size=SIZE, seed=1)
    panel.show_start(other.start, other[0])
    assert panel.is_large
    assert np.array_equal(picture(panel), pixels(other, 0, 0))


# The probe -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chain", "x", "y"), [(0, 0, 0), (1, 7, 7), (2, 3, 5)])
def test_the_probe_reads_the_pixel_under_the_mouse(
    panel: EvolutionPanel, run: Session, chain: int, x: int, y: int
) -> None:
    panel.show_step(run[1])
    move(canvas(panel), pixel_at(panel.grid, chain, x, y, SIZE))
    values = " ".join(f"{value:.3f}" for value in run[1].pixels[chain, :, y, x])
    assert panel.probe.text() == f"x {x}  y {y}  ·  {values}"
    move(canvas(panel), panel.grid.card(chain).bottomLeft() - QPoint(-12, 4))  # the caption
    assert panel.probe.text() == ""


def test_the_probe_reads_the_large_view(panel: EvolutionPanel, run: Session) -> None:
    panel.toggle_large()
    where = panel.large.picture()
    move(panel.large, where.bottomRight())
    values = " ".join(f"{value:.3f}" for value in run[0].pixels[0, :, 7, 7])
    assert panel.probe.text() == f"x 7  y 7  ·  {values}"
    move(panel.large, QPoint(2, 2))
    assert panel.probe.text() == ""


# What is said --------------------------------------------------------------------------------------------------------


def test_a_notice_stays_until_it_is_dismissed(panel: EvolutionPanel, run: Session) -> None:
    panel.show_notice("text.png is <b>not</b> an image.")
    panel.show_step(run[1])
    assert panel.notice.isVisible()
    assert panel.notice.text() == "text.png is <b>not</b> an image."
    assert panel.notice.textFormat() == Qt.TextFormat.PlainText
    click(panel, "Dismiss")
    assert not panel.notice.isVisible()


def test_a_message_may_lead_to_the_details(qtbot, panel: EvolutionPanel, run: Session) -> None:
    panel.show_notice("Only 8 of 20 images.", "Details…")
    panel.show_notice("Something else.")
    with qtbot.waitSignal(panel.details_wanted):
        click(panel, "Details…")
    panel.clear_notice()
    panel.show_notice("text.png is not an image.")
    assert not panel._notice.offer.isVisible()


def test_with_nothing_to_show_it_says_why(qtbot) -> None:
    panel = EvolutionPanel()
    qtbot.addWidget(panel)
    with qtbot.waitExposed(panel):
        panel.show()
    assert panel.empty.isVisible()
    assert panel.empty.text() == "Opening the model …"
    panel.toggle_large()  # there is nothing to enlarge
    assert not panel.is_large
    panel.show_grid()
    panel.show_empty("No model is open.")
    assert panel.empty.text() == "No model is open."
    panel.grab()
