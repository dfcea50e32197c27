"""Every fact with its source; and what can be chosen otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel, QPlainTextEdit
from windows import Wait, checkpoint, discard, press

from cem_core.messages import Fact
from cem_gui.panels.details import Details
from cem_gui.widgets.passage import Passage

FACTS = (
    Fact("family", "A net", "file"),
    Fact("activation", "relu", "guess", 0.75, ("relu", "silu", "gelu"), why="usual for this architecture"),
    Fact("trained against", "<b>L2</b>", "name", 0.8),
    Fact("normalisation", "none", "guess", 0.5, ("none", "CIFAR-10"), True, "nothing speaks for another"),
    Fact("image size", "8", "choice", 1.0, ("8", "32"), True),
)
NET = msgspec.structs.replace(checkpoint(), facts=FACTS)


@pytest.fixture
def dialog(qtbot, wait: Wait) -> Iterator[Details]:
    dialog = Details()
    dialog.show_checkpoint(NET, {"image_size": "8"})
    with qtbot.waitExposed(dialog):
        dialog.show()
    dialog.activateWindow()
    wait(dialog.isActiveWindow)
    yield dialog
    dialog.close()
    discard(dialog)


@pytest.fixture
def asked(dialog: Details) -> list[dict[str, str]]:
    """What was applied."""
    asked: list[dict[str, str]] = []
    dialog.applied.connect(asked.append)
    return asked


def click(button) -> None:
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def write(dialog: Details, what: str, text: str) -> None:
    """Into an editable choice."""
    line = dialog.fields[what].lineEdit()
    line.setFocus()
    line.selectAll()
    QTest.keyClicks(line, text)


def test_every_fact_is_told_with_its_source_and_why(dialog: Details) -> None:
    said = {label.text() for label in dialog.findChildren(QLabel)}
    for text in (
        "A net", "from the file", "assumed, 75 % sure", "usual for this architecture", "from the file name, 80 % sure",
        "assumed, 50 % sure", "nothing speaks for another", "chosen by you", "Trained against",
    ):  # fmt: skip
        assert text in said
    plain = [passage.toPlainText() for passage in dialog.findChildren(Passage)]
    assert plain == ["A net", "<b>L2</b>", NET.path, NET.sha256]
    assert {what: field.currentText() for what, field in dialog.fields.items()} == {
        "activation": "relu", "normalisation": "none", "image size": "8",
    }  # fmt: skip
    assert [field.isEditable() for field in dialog.fields.values()] == [False, True, True]


def test_what_can_be_selected_can_be_copied(dialog: Details) -> None:
    hash_ = dialog.findChildren(Passage)[-1]
    hash_.setFocus()
    press(Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    press(Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QApplication.clipboard().text() == NET.sha256


def test_nothing_to_apply_before_something_is_changed(dialog: Details, asked: list) -> None:
    assert not dialog.apply.isEnabled()
    assert dialog.reset.isEnabled()  # the image size was chosen before
    choose_text(dialog, "activation", "silu")
    assert dialog.apply.isEnabled()
    choose_text(dialog, "activation", "relu")
    assert not dialog.apply.isEnabled()
    assert asked == []


def choose_text(dialog: Details, what: str, text: str) -> None:
    """By the keyboard."""
    field = dialog.fields[what]
    field.setFocus()
    QTest.keyClick(field, Qt.Key.Key_Home)
    for _ in range(field.findText(text)):
        QTest.keyClick(field, Qt.Key.Key_Down)
    assert field.currentText() == text


def test_apply_asks_for_all_that_is_chosen(dialog: Details, asked: list) -> None:
    choose_text(dialog, "activation", "silu")
    write(dialog, "normalisation", "mean 0.5/0.5/0.5, std 0.25/0.25/0.25")
    click(dialog.apply)
    assert asked == [{"image_size": "8", "activation": "silu", "normalisation": "mean 0.5/0.5/0.5, std 0.25/0.25/0.25"}]
    assert not dialog.apply.isEnabled()  # until it is answered
    assert dialog.isVisible()


def test_return_applies(dialog: Details, asked: list) -> None:
    write(dialog, "image size", "16")
    press(Qt.Key.Key_Return)
    assert asked == [{"image_size": "16"}]
    assert dialog.isVisible()


def test_return_with_nothing_to_apply_does_nothing(dialog: Details, asked: list) -> None:
    dialog.fields["image size"].lineEdit().setFocus()
    press(Qt.Key.Key_Return)
    assert asked == []
    assert dialog.isVisible()


def test_a_refusal_is_said_and_what_was_entered_stays(dialog: Details, asked: list) -> None:
    write(dialog, "image size", "7")
    click(dialog.apply)
    dialog.show_problem("The image size must be a whole number.")
    assert dialog.problem.isVisible()
    assert dialog.problem.text() == "The image size must be a whole number."
    assert dialog.fields["image size"].currentText() == "7"
    assert dialog.apply.isEnabled()
    click(dialog.apply)
    assert not dialog.problem.isVisible()
    assert len(asked) == 2


def test_what_came_of_it_is_shown_in_place(dialog: Details, asked: list) -> None:
    choose_text(dialog, "activation", "gelu")
    click(dialog.apply)
    gelu = Fact("activation", "gelu", "choice", 1.0, ("relu", "silu", "gelu"))
    dialog.show_checkpoint(msgspec.structs.replace(NET, facts=(gelu,)), asked[0])
    assert list(dialog.fields) == ["activation"]
    assert dialog.fields["activation"].currentText() == "gelu"
    assert not dialog.apply.isEnabled()
    click(dialog.reset)
    assert asked[1] == {}


def test_reset_takes_back_what_was_only_entered(qtbot, asked: list, dialog: Details) -> None:
    dialog.show_checkpoint(NET, {})
    assert not dialog.reset.isEnabled()
    choose_text(dialog, "activation", "gelu")
    click(dialog.reset)
    assert dialog.fields["activation"].currentText() == "relu"
    assert asked == []
    assert not dialog.reset.isEnabled()


def test_escape_ends_the_opening_and_then_the_dialog(qtbot, dialog: Details, asked: list) -> None:
    choose_text(dialog, "activation", "gelu")
    click(dialog.apply)
    assert dialog.bar.isVisible()
    dialog.show_progress(0.5)
    assert dialog.close_button.text() == "Cancel"
    with qtbot.waitSignal(dialog.cancelled):
        QTest.keyClick(dialog, Qt.Key.Key_Escape)
    assert dialog.isVisible()
    assert not dialog.bar.isVisible()
    assert dialog.fields["activation"].currentText() == "gelu"
    with qtbot.assertNotEmitted(dialog.cancelled):
        QTest.keyClick(dialog, Qt.Key.Key_Escape)
    assert not dialog.isVisible()


def test_a_few_keys_are_told_in_a_line_and_many_in_a_list(dialog: Details) -> None:
    dialog.show_checkpoint(msgspec.structs.replace(NET, ignored=("ema.weight", "fc2.bias")), {})
    assert dialog.findChildren(Passage)[-1].toPlainText() == "ema.weight, fc2.bias"
    many = tuple(f"head.{i}" for i in range(1200))
    dialog.show_checkpoint(msgspec.structs.replace(NET, ignored=many), {})
    assert dialog.findChildren(Passage)[-1].toPlainText() == "head.0, head.1 … and 1,198 more"
    [full] = dialog.area.widget().findChildren(QPlainTextEdit)
    assert full.toPlainText().splitlines() == list(many)


def test_long_values_wrap_and_make_nothing_wider(dialog: Details) -> None:
    path = "/data/" + "a_long_folder_without_a_break_" * 20 + "/net.pt"
    long = Fact("training", "adversarial, " * 60, "file", why="because " * 100)
    width = dialog.width()
    dialog.show_checkpoint(msgspec.structs.replace(NET, path=path, facts=(*FACTS, long)), {})
    QApplication.processEvents()
    assert dialog.width() == width
    assert dialog.area.widget().width() <= dialog.area.viewport().width()
    for passage in dialog.findChildren(Passage):
        document = passage.document().size()
        assert document.width() <= passage.viewport().width()
        assert document.height() <= passage.viewport().height() + 1


def test_a_small_screen_is_enough(dialog: Details) -> None:
    facts = tuple(Fact(f"fact {i}", "value", "guess", 0.5, ("value", "other")) for i in range(60))
    other = Details()
    other.show_checkpoint(msgspec.structs.replace(NET, facts=facts), {})
    assert other.height() <= other.screen().availableSize().height()
    assert other.minimumSizeHint().height() <= 500
    discard(other)


def test_the_wheel_changes_no_choice_that_it_passes(dialog: Details) -> None:
    field = dialog.fields["activation"]
    centre = QPointF(field.rect().center())
    QApplication.sendEvent(
        field,
        QWheelEvent(
            centre, QPointF(field.mapToGlobal(centre.toPoint())), QPoint(), QPoint(0, -120), Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        ),
    )  # fmt: skip
    assert field.currentText() == "relu"
