"""What can be done with the image under the mouse."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QWidget

from cem_core.messages import RunStart
from cem_gui.actions import Actions


class ImageMenu(QMenu):
    """Gone once it is closed."""

    target_chosen = Signal(int, int)
    """Chain, and class or image of the reference batch."""
    copy_wanted = Signal()

    def __init__(self, acts: Actions, chain: int, start: RunStart | None, parent: QWidget) -> None:
        """For a chain of a run of the model that is open; `start` None: there is none there."""
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        if chain >= 0 and start is not None:
            self.addAction(acts.large)
            self._add_targets(chain, start.candidates, start.labels[chain])
            copy = self.addAction("Copy the image")
            copy.triggered.connect(self.copy_wanted)
            self.addAction(acts.fork)
            self.addSeparator()
        self.addActions([acts.open_images, acts.paste, acts.samples, acts.photos])

    def _add_targets(self, chain: int, candidates: Sequence[str], target: int) -> None:
        targets = self.addMenu("Target of this chain")
        for index, name in enumerate(candidates):
            choice = targets.addAction(name.replace("&", "&&"))
            choice.setCheckable(True)
            choice.setChecked(index == target)
            choice.setData((chain, index))
        targets.triggered.connect(self._chosen)

    @Slot(QAction)
    def _chosen(self, choice: QAction) -> None:
        self.target_chosen.emit(*choice.data())
