"""Every act has a name, a place in a menu and a key that is its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, QSettings, Qt
from PySide6.QtGui import QAccessible, QAction, QActionGroup, QKeySequence
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QAbstractSpinBox, QApplication, QMenu, QWidget
from windows import discard, press

from cem_gui.window import MainWindow


@pytest.fixture
def still(qtbot, home: Path) -> Iterator[MainWindow]:
    """A window without threads: nothing is opened and nothing runs."""
    window = MainWindow(QSettings(str(home / "window.ini"), QSettings.Format.IniFormat), home / "log")
    with qtbot.waitExposed(window):
        window.show()
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    window.evolution.grid.setFocus()
    yield window
    window.close()
    discard(window)


def menus(window: MainWindow) -> dict[str, QMenu]:
    """By title. QAction.menu() would be the way, but PySide destroys what it returns."""
    return {menu.title().replace("&", ""): menu for menu in window.menuBar().findChildren(QMenu)}


def in_menus(window: MainWindow) -> list[QAction]:
    found = menus(window).values()
    openers = [menu.menuAction() for menu in found]
    return [a for menu in found for a in menu.actions() if a not in openers and not a.isSeparator()]


def acts_of(window: MainWindow) -> dict[str, QAction]:
    """Every act by its name in the program."""
    acts = {field.name: getattr(window.acts, field.name) for field in fields(window.acts)}
    groups = {name: act for name, act in acts.items() if isinstance(act, QActionGroup)}
    for name, group in groups.items():
        del acts[name]
        acts |= {f"{name} {action.data()}": action for action in group.actions()}
    acts |= {f"view {action.data()}": action for action in window.evolution.views.actions()}
    return acts


def plain(action: QAction) -> str:
    return action.text().replace("&", "")


# Menus ---------------------------------------------------------------------------------------------------------------


def test_every_action_is_in_one_menu(still: MainWindow) -> None:
    places = Counter(in_menus(still))
    for name, action in acts_of(still).items():
        assert places[action] == 1, name


def test_every_panel_can_be_hidden_and_shown_from_a_menu(still: MainWindow) -> None:
    toggles = {plain(action): action for action in menus(still)["View"].actions() if action in still.docks.toggles}
    assert set(toggles) == {"Model", "Sampler", "Curves", "Runs"}
    for panel, name in ((still.model, "Model"), (still.sampler, "Sampler"), (still.curves, "Curves")):
        toggles[name].trigger()
        assert not panel.isVisible()
        toggles[name].trigger()
        assert panel.isVisible()


def test_the_layout_can_be_put_back(still: MainWindow) -> None:
    for toggle in still.docks.toggles:
        toggle.trigger()
    still.acts.reset.trigger()
    assert still.model.isVisible()
    assert still.sampler.isVisible()
    assert still.curves.isVisible()


@pytest.mark.parametrize("bar", [True, False])
def test_no_two_neighbours_share_a_letter(still: MainWindow, bar: bool) -> None:
    """The underlined letter that opens a menu or chooses in it."""
    still.player.gait = "running"  # Run is called Pause then
    still._show_gait()
    rows = {"the bar": still.menuBar().actions()} if bar else {n: m.actions() for n, m in menus(still).items()}
    for name, actions in rows.items():
        letters = [QKeySequence.mnemonic(action.text()).toString() for action in actions if "&" in action.text()]
        assert len(letters) == len(set(letters)), (name, letters)


def test_dialogs_are_announced_by_dots(still: MainWindow) -> None:
    for name in ("open_images", "open_model", "export"):
        assert acts_of(still)[name].text().endswith("…")


# Keys ----------------------------------------------------------------------------------------------------------------


def test_no_two_actions_share_a_key(still: MainWindow) -> None:
    keys = Counter(
        shortcut.toString()
        for action in set(still.findChildren(QAction)) | set(in_menus(still))
        for shortcut in action.shortcuts()
    )
    assert [key for key, count in keys.items() if count > 1] == []


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("run", "Space"),
        ("one_step", "."),
        ("stop", "Esc"),
        ("first", "Home"),
        ("last", "End"),
        ("previous", "Left"),
        ("next", "Right"),
        ("open_images", QKeySequence.StandardKey.Open),
        ("paste", QKeySequence.StandardKey.Paste),
        ("quit", QKeySequence.StandardKey.Quit),
    ],
)
def test_the_keys_that_are_promised(still: MainWindow, name: str, keys: object) -> None:
    assert acts_of(still)[name].shortcut() == QKeySequence(keys)


def test_every_key_works_and_means_one_thing(still: MainWindow) -> None:
    """Pressed where the images have the focus, as after the start."""
    heard: list[str] = []
    acts = acts_of(still)
    for name, action in acts.items():
        action.setEnabled(True)
        action.triggered.disconnect()
        action.triggered.connect(lambda _=False, name=name: heard.append(name))
    with_keys = {name: action for name, action in acts.items() if not action.shortcut().isEmpty()}
    assert len(with_keys) >= 16
    for name, action in with_keys.items():
        heard.clear()
        combination = action.shortcut()[0]
        press(combination.key(), combination.keyboardModifiers())
        assert heard == [name]


def test_the_step_keys_belong_to_sliders_where_those_have_the_focus(still: MainWindow) -> None:
    heard: list[str] = []
    for name in ("first", "previous", "next", "last"):
        acts_of(still)[name].triggered.connect(lambda _=False, name=name: heard.append(name))
    slider = still.sampler.b.slider
    slider.setFocus()
    for key, moved in ((Qt.Key.Key_Right, 1), (Qt.Key.Key_Left, 0)):
        before = slider.value()
        press(key)
        assert slider.value() == before + (1 if moved else -1)
    assert heard == []


def test_space_in_a_field_does_not_run(still: MainWindow) -> None:
    heard: list[bool] = []
    still.acts.run.setEnabled(True)
    still.acts.run.triggered.connect(lambda: heard.append(True))
    still.sampler.a.field.setFocus()
    press(Qt.Key.Key_Space)
    assert heard == []
    press(Qt.Key.Key_Return)  # gives the keys back
    assert not still.sampler.a.field.hasFocus()


def test_a_button_that_was_reached_by_tab_takes_space(still: MainWindow) -> None:
    """Or it could not be used without a mouse."""
    heard: list[bool] = []
    still.acts.run.setEnabled(True)
    still.acts.run.triggered.connect(lambda: heard.append(True))
    for box in (still.sampler.ball, still.sampler.normalised, still.timeline.loop):
        before = box.isChecked()
        box.setFocus(Qt.FocusReason.TabFocusReason)
        press(Qt.Key.Key_Space)
        assert box.isChecked() != before
    assert heard == []


def test_a_click_on_a_button_leaves_space_to_the_run(still: MainWindow) -> None:
    heard: list[bool] = []
    still.acts.run.setEnabled(True)
    still.acts.run.triggered.connect(lambda: heard.append(True))
    still.evolution.grid.setFocus()
    for box in (still.sampler.ball, still.sampler.normalised):
        QTest.mouseClick(box, Qt.MouseButton.LeftButton, pos=QPoint(8, box.height() // 2))
    press(Qt.Key.Key_Space)
    assert heard == [True]


# Names ---------------------------------------------------------------------------------------------------------------


def test_all_that_can_have_the_focus_has_a_name(window: MainWindow) -> None:
    nameless = []
    for widget in window.findChildren(QWidget):
        inner = isinstance(widget.parent(), QAbstractSpinBox) or widget.focusProxy() is not None
        if widget.focusPolicy() & Qt.FocusPolicy.TabFocus and widget.isVisible() and not inner:
            name = QAccessible.queryAccessibleInterface(widget).text(QAccessible.Text.Name)
            if not name.strip():
                nameless.append(f"{type(widget).__name__} in {type(widget.parentWidget()).__name__}")
    assert nameless == []


def test_tab_reaches_every_panel_and_comes_back(window: MainWindow) -> None:
    beginning = QApplication.focusWidget()
    seen: list[QWidget] = []
    for _ in range(200):
        press(Qt.Key.Key_Tab)
        widget = QApplication.focusWidget()
        if widget is beginning:
            break
        seen.append(widget)
    else:
        pytest.fail("Tab never came back")
    panels = (window.model, window.sampler, window.run_panel, window.evolution, window.timeline)
    assert all(any(panel.isAncestorOf(widget) for widget in seen) for panel in panels)
    for button in window.findChildren(QAbstractButton):
        group = button.group()  # of buttons that exclude each other, Tab reaches one and the arrows the others
        reached = button in seen or any(other in seen for other in (group.buttons() if group else ()))
        assert reached or not (button.isEnabled() and button.isVisible()), button.text()


def test_every_button_in_the_window_says_its_key(still: MainWindow) -> None:
    for button, key in ((still.run_panel.run, "Space"), (still.run_panel.step, "."), (still.run_panel.stop, "Esc")):
        assert button.toolTip().endswith(f"({key})")


def test_only_what_can_be_done_can_be_chosen(still: MainWindow) -> None:
    """Nothing is open yet."""
    for name in ("run", "one_step", "export", "back"):
        assert not acts_of(still)[name].isEnabled()
    QTest.keyClick(still.evolution.grid.widget(), Qt.Key.Key_Space)
    assert still.player.session is None
