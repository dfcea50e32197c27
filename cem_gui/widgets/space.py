"""Space runs, wherever the focus is; only a button that was reached by Tab keeps it, or no key could press it."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QAbstractButton, QWidget


class _Keeper(QObject):
    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        keeps = (
            event.type() == QEvent.Type.ShortcutOverride
            and isinstance(event, QKeyEvent)
            and event.key() == Qt.Key.Key_Space
        )
        if keeps:
            event.accept()
        return keeps


def keep_space(*widgets: QWidget) -> None:
    """Let these buttons, or the buttons in these widgets, have the focus by Tab alone, and Space while they have it."""
    for widget in widgets:
        keeper = _Keeper(widget)
        buttons = [widget] if isinstance(widget, QAbstractButton) else widget.findChildren(QAbstractButton)
        for button in buttons:
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            button.installEventFilter(keeper)
