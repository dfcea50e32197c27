"""One fact of a checkpoint in a line, with a word beside it where it was assumed."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QHBoxLayout, QWidget

from cem_core.messages import Fact
from cem_gui.widgets.card import small
from cem_gui.widgets.elided import Elided


def source(fact: Fact) -> str:
    """Where a fact comes from, in words."""
    sure = f", {100 * fact.confidence:.0f} % sure" if fact.confidence < 1 else ""
    said = {"file": "from the file", "name": "from the file name", "guess": "assumed", "choice": "chosen by you"}
    return said[fact.source] + sure


class FactLine(QWidget):
    """One line of text, and a word beside it where something in it was assumed."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.label = Elided("–")
        self.mark = small("assumed")
        self.mark.hide()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.label, 1)
        layout.addWidget(self.mark)

    def text(self) -> str:
        return str(self.label.text())

    def show_text(self, text: str, facts: Sequence[Fact] = (), tip: str = "") -> None:
        """A text, and the facts behind it: what may be chosen otherwise, and nothing settled, is marked."""
        assumed = [fact for fact in facts if fact.options and fact.source in ("guess", "name") and fact.confidence < 1]
        self.label.setText(text)
        self.label.setToolTip(tip or text)
        self.mark.setVisible(bool(assumed))
        self.mark.setToolTip("\n".join(f"{fact.what}: {source(fact)}" for fact in assumed))
