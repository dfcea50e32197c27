"""Text that is cut where it does not fit."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from cem_gui.widgets.elided import Elided, ElidedBox

LONG = "a model of a rather long name " * 4


def test_its_text_never_says_how_wide_a_layout_is(qtbot) -> None:
    holder = QWidget()
    qtbot.addWidget(holder)
    label = Elided(LONG)
    inner = QHBoxLayout()
    inner.addWidget(label, 1)
    QVBoxLayout(holder).addLayout(inner)
    holder.resize(200, 40)
    holder.show()
    assert label.sizePolicy().horizontalPolicy() == QSizePolicy.Policy.Ignored
    assert holder.width() == 200
    assert label.text() == LONG
    assert label._elidedText().endswith("…")


def test_names_are_no_markup() -> None:
    assert Elided("<b>net</b>.pt").textFormat() == Qt.TextFormat.PlainText
    assert Elided("a", Qt.TextElideMode.ElideMiddle).elideMode() == Qt.TextElideMode.ElideMiddle


def test_a_long_choice_is_cut_within_its_field(qtbot) -> None:
    box, same = ElidedBox(), ElidedBox()
    for each, text in ((box, LONG + "one"), (same, LONG + "two")):
        qtbot.addWidget(each)
        each.addItem(text)
        each.resize(QSize(160, 26))
    assert box.grab().toImage() != same.grab().toImage(), "the end of the name is seen"
