"""Dark and light: both can be read, both are applied, and everything is painted anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest
from PySide6.QtCore import QPoint
from PySide6.QtGui import QColor, QImage, QPalette
from PySide6.QtWidgets import QApplication, QWidget
from windows import Wait

from cem_gui import theme
from cem_gui.theme import DARK, LIGHT, Theme
from cem_gui.window import MainWindow

THEMES = {"dark": DARK, "light": LIGHT}


@pytest.fixture(autouse=True)
def dark_again(qapp) -> Iterator[None]:
    theme.apply(qapp, "dark")
    yield
    theme.apply(qapp, "dark")


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [QColor(colour).redF(), QColor(colour).greenF(), QColor(colour).blueF()]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_what_wcag_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("mode", THEMES)
@pytest.mark.parametrize("ground", ["window", "card", "field", "chip"])
def test_text_can_be_read(mode: str, ground: str) -> None:
    assert contrast(THEMES[mode].text, getattr(THEMES[mode], ground)) >= 4.5


@pytest.mark.parametrize("mode", THEMES)
@pytest.mark.parametrize("ground", ["window", "card", "field"])
def test_quiet_text_can_be_read(mode: str, ground: str) -> None:
    assert contrast(THEMES[mode].muted, getattr(THEMES[mode], ground)) >= 4.5


@pytest.mark.parametrize("mode", THEMES)
def test_text_on_the_accent_can_be_read(mode: str) -> None:
    assert contrast(THEMES[mode].on_accent, THEMES[mode].accent) >= 4.5


@pytest.mark.parametrize("mode", THEMES)
@pytest.mark.parametrize("curve", ["accent", "blue", "orange", "red"])
def test_curves_stand_out_from_their_card(mode: str, curve: str) -> None:
    assert contrast(getattr(THEMES[mode], curve), THEMES[mode].card) >= 3


@pytest.mark.parametrize("mode", THEMES)
def test_every_colour_is_one(mode: str) -> None:
    assert all(QColor(getattr(THEMES[mode], field.name)).isValid() for field in fields(Theme))


@pytest.mark.parametrize("mode", THEMES)
def test_a_mode_is_applied_to_everything(qapp, mode: str) -> None:
    theme.apply(qapp, mode)
    assert theme.now() == THEMES[mode]
    palette = QApplication.palette()
    assert palette.color(QPalette.ColorRole.Window) == QColor(THEMES[mode].window)
    assert palette.color(QPalette.ColorRole.WindowText) == QColor(THEMES[mode].text)
    assert THEMES[mode].accent in qapp.styleSheet()
    other = LIGHT if mode == "dark" else DARK
    assert other.accent not in qapp.styleSheet()


def test_what_is_no_mode_means_the_system(qapp) -> None:
    theme.apply(qapp, "chartreuse")
    assert theme.now() in (DARK, LIGHT)


@pytest.mark.parametrize("name", ["play", "pause", "step", "stop", "loop"])
def test_icons_take_the_colour_of_the_text(qapp, name: str) -> None:
    for mode, colours in THEMES.items():
        theme.apply(qapp, mode)
        image = theme.icon(name).pixmap(64, 64).toImage()
        opaque = {
            image.pixelColor(x, y).name()
            for x in range(image.width())
            for y in range(image.height())
            if image.pixelColor(x, y).alpha() == 255
        }
        assert opaque == {colours.text}


def test_the_program_has_an_icon(qapp) -> None:
    assert not theme.app_icon().isNull()
    assert not theme.app_icon().pixmap(32, 32).isNull()


# In the window -------------------------------------------------------------------------------------------------------


def ground(widget: QWidget, where: QPoint) -> str:
    """The colour that is painted there."""
    image: QImage = widget.window().grab().toImage()
    return image.pixelColor(widget.mapTo(widget.window(), where)).name()


def test_a_change_repaints_the_whole_window(window: MainWindow, wait: Wait) -> None:
    for mode in ("light", "dark"):
        [action] = [action for action in window.acts.schemes.actions() if action.data() == mode]
        action.trigger()
        colours = THEMES[mode]
        wait(lambda colours=colours: ground(window.evolution, QPoint(1, 1)) == colours.window)
        card = window.model.rect().center()
        assert ground(window.model, QPoint(card.x(), 6)) == colours.card
        for plot in (window.curves.energy, window.curves.probability, window.curves.distance):
            assert ground(plot.view, QPoint(1, 1)) == colours.card
        thumb = window.evolution.grid.card(0)
        assert ground(window.evolution.grid.widget(), thumb.topLeft() + QPoint(20, 4)) == colours.card
        [chip, *_] = window.sampler.chips.findChildren(QWidget, "chip")
        assert ground(chip, QPoint(6, chip.height() // 2)) == colours.chip
        assert window.settings.value("scheme") == mode


def test_the_window_begins_with_the_mode_that_was_chosen(window: MainWindow) -> None:
    [light] = [action for action in window.acts.schemes.actions() if action.data() == "light"]
    assert [action.data() for action in window.acts.schemes.actions() if action.isChecked()] == ["system"]
    light.trigger()
    again = MainWindow(window.settings, window._log_folder)
    assert [action.data() for action in again.acts.schemes.actions() if action.isChecked()] == ["light"]
    again.deleteLater()
