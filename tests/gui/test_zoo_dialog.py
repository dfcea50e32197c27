"""Published models: found, and opened only by the button that says what it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from windows import Published, Wait, discard, press

from cem_gui.panels.zoo import ZooDialog

ENTRIES = (
    Published("cifar10", "Linf", "Carmon2019Unlabeled"),
    Published("cifar10", "L2", "Rice2020Overfitting", True),
    Published("cifar100", "Linf", "Rice2020Overfitting"),
    Published("imagenet", "Linf", "Salman2020Do_R50"),
)


@pytest.fixture
def dialog(qtbot, wait: Wait) -> Iterator[ZooDialog]:
    dialog = ZooDialog(ENTRIES)
    with qtbot.waitExposed(dialog):
        dialog.show()
    dialog.activateWindow()
    wait(dialog.isActiveWindow)
    yield dialog
    dialog.close()
    discard(dialog)


def shown(dialog: ZooDialog) -> list[Published]:
    return [entry for entry, item in zip(ENTRIES, dialog._items, strict=True) if not item.isHidden()]


def test_all_are_shown_and_the_first_is_chosen(dialog: ZooDialog) -> None:
    assert shown(dialog) == list(ENTRIES)
    assert dialog.entry == ENTRIES[0]
    assert dialog.count.text() == "4 of 4 models"
    assert [item.text(3) for item in dialog._items] == ["", "downloaded", "", ""]


def test_words_find_names(dialog: ZooDialog) -> None:
    dialog.search.setFocus()
    QTest.keyClicks(dialog.search, "over RICE")
    assert shown(dialog) == [ENTRIES[1], ENTRIES[2]]
    assert dialog.entry == ENTRIES[1]
    assert dialog.count.text() == "2 of 4 models"
    press(Qt.Key.Key_Down)  # from the search into the list
    press(Qt.Key.Key_Down)
    assert dialog.entry == ENTRIES[2]


def test_data_set_and_threat_model(dialog: ZooDialog) -> None:
    dialog.dataset.setCurrentText("cifar10")
    dialog.threat.setCurrentText("L2")
    assert shown(dialog) == [ENTRIES[1]]
    dialog.dataset.setCurrentText("imagenet")
    assert shown(dialog) == []
    assert dialog.entry is None
    assert not dialog.accept_button.isEnabled()
    dialog.threat.setCurrentIndex(0)
    assert dialog.entry == ENTRIES[3]
    assert dialog.accept_button.isEnabled()


def test_the_button_says_what_it_does(dialog: ZooDialog) -> None:
    assert dialog.accept_button.text() == "Download and open"
    dialog.list.setFocus()
    press(Qt.Key.Key_Down)
    assert dialog.entry == ENTRIES[1]
    assert dialog.accept_button.text() == "Open"
    press(Qt.Key.Key_Down)
    assert dialog.accept_button.text() == "Download and open"


def test_the_button_accepts_and_a_double_click_does_not(qtbot, dialog: ZooDialog) -> None:
    where = dialog.list.visualItemRect(dialog._items[2]).center()
    viewport = dialog.list.viewport()
    QTest.mouseClick(viewport, Qt.MouseButton.LeftButton, pos=where)
    QTest.mouseDClick(viewport, Qt.MouseButton.LeftButton, pos=where)
    assert dialog.isVisible()
    with qtbot.waitSignal(dialog.accepted):
        QTest.mouseClick(dialog.accept_button, Qt.MouseButton.LeftButton)
    assert dialog.entry == ENTRIES[2]
