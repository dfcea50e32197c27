"""Sanity lights: a symbol for each state, and what they say in full."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import Qt
from PySide6.QtGui import QTextOption
from PySide6.QtWidgets import QFrame, QTextEdit, QWidget

from cem_core.probes.results import Light, State, worst
from cem_gui import theme

SYMBOLS: Final[dict[State, str]] = {"fine": "●", "unknown": "○", "doubt": "▲", "alarm": "✕"}
_COLOURS: Final[dict[State, str]] = {"fine": "accent", "unknown": "muted", "doubt": "orange", "alarm": "red"}
_GRAVEST_FIRST: Final[tuple[State, ...]] = ("alarm", "doubt", "unknown", "fine")


def colour(state: State) -> str:
    """Of its symbol, in the colours in force."""
    return str(getattr(theme.now(), _COLOURS[state]))


def in_short(lights: Sequence[Light]) -> str:
    """The worst state, and which lights are in it unless all is well."""
    if not lights:
        return "–"
    state = worst(lights)
    named = f": {', '.join(light.name for light in lights if light.state == state)}" if state != "fine" else ""
    return f"{SYMBOLS[state]} {state}{named}"


def in_full(lights: Sequence[Light]) -> str:
    """Every light as rich text, the gravest first: what it means, and what to do."""
    muted = theme.now().muted
    return "".join(
        f'<p style="margin: 0 0 10px 0"><span style="color: {colour(light.state)}">{SYMBOLS[light.state]}</span> '
        f'<b>{html.escape(light.name)}</b> <span style="color: {muted}">{light.state}</span><br>'
        f"{html.escape(light.says)}"
        + (f'<br><span style="color: {muted}">→ {html.escape(light.do)}</span>' if light.do else "")
        + "</p>"
        for light in sorted(lights, key=lambda light: _GRAVEST_FIRST.index(light.state))
    )


class LightsView(QTextEdit):
    """Every light with what it means and what to do, to be scrolled and copied."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("passage")
        self.setAccessibleName("Why trust this number?")
        self.setReadOnly(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setAcceptDrops(False)  # what is dropped belongs to the window, wherever it falls
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.document().setDocumentMargin(0)
        self.setViewportMargins(0, 0, 8, 0)
        self._shown: tuple[Light, ...] = ()
        self.restyle()

    def show_lights(self, lights: Sequence[Light]) -> None:
        if tuple(lights) != self._shown:
            self._shown = tuple(lights)
            self.restyle()

    def restyle(self) -> None:
        """Take the colours in force."""
        nothing = f'<p style="color: {theme.now().muted}">Nothing has been looked at yet.</p>'
        self.setHtml(in_full(self._shown) or nothing)
