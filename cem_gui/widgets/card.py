"""A titled box on the window's ground."""

from __future__ import annotations

from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget


def heading(text: str) -> QLabel:
    label = QLabel(text.upper())
    label.setObjectName("heading")
    font = label.font()
    font.setPointSizeF(font.pointSizeF() * 0.85)
    label.setFont(font)
    return label


def form(*rows: tuple[str | QWidget, QWidget, str]) -> QGridLayout:
    """Rows of label (a text, or a check box), field and tip, centred on each other."""
    grid = QGridLayout()
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(10)
    grid.setVerticalSpacing(5)
    grid.setColumnStretch(1, 1)
    for row, (name, field, tip) in enumerate(rows):
        label = muted(name) if isinstance(name, str) else name
        if isinstance(label, QLabel):
            label.setBuddy(field)
        label.setToolTip(tip)
        grid.addWidget(label, row, 0)
        grid.addWidget(field, row, 1)
    return grid


def row(*widgets: QWidget, stretch: int = 0) -> QWidget:
    """Widgets side by side; the one at `stretch` takes what room is left, or all fields if it is -1."""
    holder = QWidget()
    layout = QHBoxLayout(holder)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    for i, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if stretch == i or (stretch == -1 and not isinstance(widget, QLabel)) else 0)
    return holder


def muted(text: str) -> QLabel:
    label = QLabel(text)
    label.setObjectName("muted")
    return label


def small(text: str = "") -> QLabel:
    """What is said beside something, and not first."""
    label = muted(text)
    font = label.font()
    font.setPointSizeF(font.pointSizeF() * 0.87)
    label.setFont(font)
    return label


class Card(QFrame):
    """`body` takes the content; `head` takes what stands right of the title."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.title = heading(title)
        self.head = QHBoxLayout()
        self.head.addWidget(self.title)
        self.head.addStretch(1)
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(12, 10, 12, 12)
        self.body.setSpacing(8)
        self.body.addLayout(self.head)
