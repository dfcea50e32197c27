"""The README's pictures, made by the running program: `make screenshots`."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QSettings
from PySide6.QtWidgets import QApplication

from cem_core.export import Export
from cem_gui import theme
from cem_gui.stages import Stage
from cem_gui.window import MainWindow

_OUT = Path(__file__).parents[1] / "docs" / "images"
_SIZE = (1440, 900)


def main() -> None:
    app = QApplication([])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_DATA_HOME"] = temporary  # runs and cells are none of those of who makes the pictures
        theme.apply(app, "dark")
        window = MainWindow(QSettings(str(folder / "window.ini"), QSettings.Format.IniFormat), folder)
        window.resize(*_SIZE)
        window.show()
        window.start()
        player = window.player
        _until(app, lambda: player.session is not None)
        window.acts.run.trigger()
        _until(app, lambda: player.gait == "ended")
        window.go_to(38)
        for mode in ("dark", "light"):
            theme.apply(app, mode)
            window.restyle()
            _until(app, lambda: True)
            window.grab().save(str(_OUT / f"window-{mode}.png"))
        clip = folder / "clip"
        assert player.session is not None
        window.exporter.begin(player.session, clip, Export(formats=("apng",), every=2, scale=3, fps=12))
        _until(app, clip.exists)
        (clip / "morph.png").replace(_OUT / "morph.png")
        theme.apply(app, "dark")
        window.restyle()
        window.acts.lens.trigger()
        window.evolution.views.actions()[-2].trigger()
        window.curves.which_distance.setCurrentIndex(2)
        window.curves.which_distance.activated.emit(2)
        cost = window.evolution.cost
        _until(app, lambda: " a step" in cost.text() and "·" not in cost.text())
        window.grab().save(str(_OUT / "lens.png"))
        window.acts.lens.trigger()
        _show(app, window, window.linked)
        _until(app, lambda: window.linked.last_step == 60 and not window.linked.busy)
        window.go_to(32)
        _until(app, lambda: True)
        window.grab().save(str(_OUT / "linked.png"))
        _show(app, window, window.landscape)
        _until(app, lambda: window.landscape.can_export and not window.landscape.busy)
        window.grab().save(str(_OUT / "landscape.png"))
        _show(app, window, window.accuracy)
        _until(app, lambda: window.accuracy.can_run)
        window.acts.run.trigger()
        _until(app, lambda: window.accuracy.can_export and not window.accuracy.busy)
        window.grab().save(str(_OUT / "accuracy.png"))
        _show(app, window, window.similarity)
        _until(app, lambda: window.similarity.last_step == 60 and not window.similarity.busy)
        window.grab().save(str(_OUT / "similarity.png"))
        window.close()


def _show(app: QApplication, window: MainWindow, stage: Stage) -> None:
    window.tabs.setCurrentIndex(next(i for i in range(1, window.tabs.count()) if window.stage_at(i) is stage))
    _until(app, lambda: True)


def _until(app: QApplication, condition: Callable[[], bool], seconds: float = 0.3) -> None:
    """Let the program work until something is so, and a little longer, for it to be painted."""
    while not condition():
        app.processEvents()
        time.sleep(0.01)
    for _ in range(round(seconds / 0.01)):
        app.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
