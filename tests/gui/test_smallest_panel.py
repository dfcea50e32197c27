"""The smallest ε of each model: what is told of it, from hand-made answers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget
from windows import choose, discard, read_back

from cem_core import images
from cem_core.messages import Norm
from cem_core.probes.results import Bound, Flip
from cem_gui.panels.smallest import SEEN, Column, SmallestPanel, compared, energies, told

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 8


def flip(
    subject: int = 0, norm: Norm = "l2", eps: float = 0.5, *, failed: float = 0.49, seen: int = 5, classes: int = 10
) -> Flip:
    random = np.random.default_rng(subject)
    pixels = random.random((3, SIZE, SIZE), np.float32)
    moved = 0 < eps < math.inf
    return Flip(
        subject=subject,
        norm=norm,
        eps=eps,
        failed=failed,
        label=3,
        seen=seen,
        pixels=pixels,
        adversarial=(pixels + 0.02 * random.standard_normal(pixels.shape)).clip(0, 1).astype(np.float32)
        if moved
        else pixels,
        before=random.standard_normal(classes).astype(np.float32),
        after=random.standard_normal(classes).astype(np.float32),
        seconds=1.5,
    )


@pytest.fixture
def panel(qtbot) -> Iterator[SmallestPanel]:
    panel = SmallestPanel()
    panel.resize(1340, 800)
    with qtbot.waitExposed(panel):
        panel.show()
    panel.show_columns([Column("robust", CLASSES, SIZE), Column("standard", CLASSES, SIZE)])
    QApplication.processEvents()
    yield panel
    panel.close()
    discard(panel)


def seen_in(widget: QWidget) -> np.ndarray:
    QApplication.processEvents()
    return read_back(widget.grab().toImage(), widget.place(), SIZE)  # type: ignore[attr-defined]


# Words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.4311, 0.0301, 1.2345, 12.0001, 0.00042123])
def test_an_upper_bound_is_never_told_smaller_than_it_is(eps: float) -> None:
    assert eps <= float(told(eps, "l2", up=True)) <= eps * 1.01
    shown, levels = told(eps, "linf", up=True).rstrip(")").split(" (")
    assert float(shown) >= eps
    assert float(levels.removesuffix("/255")) >= eps * 255


def test_known_numbers() -> None:
    assert told(0.431, "l2", up=True) == "0.431"
    assert told(1.2, "l2") == "1.20"
    assert told(8 / 255, "linf") == "0.0314 (8.00/255)"


def test_models_are_ranked_by_what_they_need() -> None:
    assert compared("l2", {"a": 0.1, "b": 0.93, "c": 0.2}) == "L2: b needs 9.3 × and c 2.0 × the distance of a."
    assert compared("linf", {"a": 0.5, "b": 0.5}) == "L∞: a needs 1.0 × the distance of b."
    assert compared("l2", {"a": 0.5}) == ""
    told_of = compared("l2", {"a": 0.5, "b": 0.0, "c": math.inf})
    assert told_of == "L2: b is wrong as it is, nothing was found that flips c."


def test_few_classes_are_all_shown_and_of_many_those_that_change_most() -> None:
    few = flip()
    assert [pair.name for pair in energies(few, CLASSES)] == list(CLASSES)
    assert [pair.before for pair in energies(few, CLASSES)] == [pytest.approx(-logit) for logit in few.before]
    assert [pair.name for pair in energies(few, CLASSES) if pair.stressed] == ["cat", "dog"]
    many = flip(classes=1000)
    names = [f"class {k}" for k in range(1000)]
    shown = [pair.name for pair in energies(many, names)]
    change = np.abs(many.after - many.before)
    assert len(shown) == len(set(shown)) == 6
    assert {"class 3", "class 5", f"class {change.argmax()}"} <= set(shown)


# What is shown -------------------------------------------------------------------------------------------------------


def test_a_bracket_narrows(panel: SmallestPanel) -> None:
    panel.begin()
    finding = panel.findings[0, "l2"]
    assert finding.eps.text() == "…"
    panel.show_bound(Bound(0, "l2", 0.0, math.inf))
    assert finding.eps.text() == "…"
    panel.show_bound(Bound(0, "l2", 0.25, math.inf))
    assert finding.eps.text() == "> 0.250"
    panel.show_bound(Bound(0, "l2", 0.25, 0.5))
    assert finding.eps.text() == "≤ 0.500"
    width = finding.bracket.place(0.5) - finding.bracket.place(0.25)
    panel.show_bound(Bound(0, "l2", 0.375, 0.5))
    assert finding.bracket.place(0.5) - finding.bracket.place(0.375) == pytest.approx(width / 2)
    assert panel.findings[1, "l2"].said.text() == "waits for its turn"


def test_brackets_of_one_norm_have_one_scale(panel: SmallestPanel) -> None:
    panel.show_flip(flip(0, "l2", 0.8))
    panel.show_flip(flip(1, "l2", 0.2))
    panel.show_flip(flip(1, "linf", 0.01))
    of_norm = {norm: {panel.findings[i, norm].bracket.scale for i in (0, 1)} for norm in ("l2", "linf")}
    assert all(len(scales) == 1 for scales in of_norm.values())
    one, other = (panel.findings[i, "l2"].bracket for i in (0, 1))
    assert one.place(0.8) / one.width() == pytest.approx(4 * other.place(0.2) / other.width(), rel=1e-3)


def test_what_was_found_stands_with_its_images(panel: SmallestPanel) -> None:
    found = flip()
    panel.show_flip(found)
    finding = panel.findings[0, "l2"]
    assert finding.eps.text() == "≤ 0.500"
    assert finding.flips.full_text() == "cat → dog"
    assert "0.490" in finding.said.full_text()
    assert "1.5 s" in finding.said.full_text()
    expected = images.hwc(images.to_uint8(found.adversarial[None]))[0]
    assert np.array_equal(seen_in(finding.adversarial), expected)
    for gain in (1, 32):
        choose(panel.gain, gain)
        expected = images.difference(found.adversarial[None], found.pixels[None], gain)[0]
        assert np.array_equal(seen_in(finding.difference), expected)
    assert [pair.name for pair in finding.energies.pairs] == list(CLASSES)


def test_zero_and_infinity_have_words(panel: SmallestPanel) -> None:
    panel.show_flip(flip(0, "l2", 0.0, failed=0.0))
    assert panel.findings[0, "l2"].eps.text() == "0"
    assert panel.findings[0, "l2"].said.full_text().startswith("wrong as it is: it sees dog, not cat")
    panel.show_flip(flip(1, "l2", math.inf, failed=40.0, seen=3))
    assert panel.findings[1, "l2"].eps.text() == "none found"
    assert "40.0" in panel.findings[1, "l2"].said.full_text()
    assert panel.findings[1, "l2"].flips.full_text() == "stays cat"
    assert panel.summary.text() == "L2: robust is wrong as it is, nothing was found that flips standard."


def test_the_summary_comes_once_there_is_something_to_compare(panel: SmallestPanel) -> None:
    panel.begin()
    panel.show_flip(flip(0, "l2", 0.5))
    assert not panel.summary.isVisible()
    assert panel.hint.isVisible()
    panel.show_flip(flip(1, "l2", 0.1))
    assert panel.summary.text() == "L2: robust needs 5.0 × the distance of standard."
    assert not panel.hint.isVisible()
    panel.clear()
    assert not panel.summary.isVisible()
    assert panel.findings[0, "l2"].eps.text() == "–"


def test_l2_distances_of_different_sizes_are_not_compared(panel: SmallestPanel) -> None:
    panel.show_columns([Column("small", CLASSES, 8), Column("large", CLASSES, 16)])
    for norm in ("l2", "linf"):
        panel.show_flip(flip(0, norm, 0.1))
        panel.show_flip(flip(1, norm, 0.2))
    assert panel.summary.text().splitlines() == [
        "L∞: large needs 2.0 × the distance of small.",
        "L2 distances of images of different sizes are not compared.",
    ]


def test_what_was_not_found_says_so_at_the_end(panel: SmallestPanel) -> None:
    panel.begin()
    panel.show_flip(flip(0, "l2"))
    panel.show_bound(Bound(0, "linf", 0.01, 0.02))
    panel.end()
    assert panel.findings[0, "l2"].eps.text() == "≤ 0.500"
    assert panel.findings[0, "linf"].eps.text().startswith("≤ 0.0200")
    assert panel.findings[0, "linf"].said.full_text() == "ended before it was narrow"
    assert panel.findings[1, "l2"].said.full_text() == "not measured"


def test_four_models_with_long_names_and_many_classes_come_to_rest(qtbot, panel: SmallestPanel) -> None:
    classes = tuple(f"class {k} whose name is longer than any column is wide" for k in range(1000))
    panel.show_columns([Column("a model whose name has sixty characters, which is long " * 2, classes, SIZE)] * 4)
    for i in range(4):
        for norm in ("l2", "linf"):
            panel.show_flip(flip(i, norm, classes=1000))
    for width in (1900, 1340, 900, 1340):
        panel.resize(width, 700)
        QApplication.processEvents()
        cards = {panel.findings[i, "l2"].width() for i in range(4)}
        assert max(cards) - min(cards) <= 1
        assert max(cards) <= width / 4


# Choices -------------------------------------------------------------------------------------------------------------


def test_images_are_chosen_by_click_and_by_key(qtbot, panel: SmallestPanel) -> None:
    chosen: list[int] = []
    panel.image_chosen.connect(chosen.append)
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    for name in ("cat", "dog", "in sight"):
        panel.add_image(name, name, picture)
    panel.choose_image(0)
    QApplication.processEvents()
    assert chosen == []
    where = panel.strip.visualItemRect(panel.strip.item(1)).center()
    QTest.mouseClick(panel.strip.viewport(), Qt.MouseButton.LeftButton, pos=where)
    QTest.keyClick(panel.strip, Qt.Key.Key_Right)
    assert chosen == [1, 2]
    panel.change_image(2, "there is none", None)
    assert not panel.strip.item(2).flags() & Qt.ItemFlag.ItemIsEnabled


def test_the_class_is_what_is_believed_or_what_each_model_sees(panel: SmallestPanel) -> None:
    assert panel.class_name is None
    panel.show_classes(CLASSES, "cat")
    assert panel.class_name == "cat"
    panel.show_classes(CLASSES, None)
    assert (panel.class_name, panel.label.currentText()) == (None, SEEN)
    with_settings: list[None] = []
    panel.settings_changed.connect(lambda: with_settings.append(None))
    QTest.keyClick(panel.label, Qt.Key.Key_Down)
    assert panel.class_name == "airplane"
    assert len(with_settings) == 1


def test_the_button_runs_and_says_what_it_does(qtbot, panel: SmallestPanel) -> None:
    panel.show_run("Cancel", can_run=True)
    with qtbot.waitSignal(panel.run_wanted):
        QTest.mouseClick(panel.run, Qt.MouseButton.LeftButton)
    assert panel.run.text() == "Cancel"
    panel.show_run("Measure", can_run=False)
    assert not panel.run.isEnabled()
