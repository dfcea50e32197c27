"""The README's pictures, made by the running program: `make screenshots`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QSettings
from PySide6.QtWidgets import QApplication

from cem_core.export import Export
from cem_gui import theme
from cem_gui.window import MainWindow

_OUT = Path(__file__).parents[1] / "docs" / "images"
_SIZE = (1440, 900)


def main() -> None:
    app = QApplication([])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
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
        window.close()


def _until(app: QApplication, condition: Callable[[], bool]) -> None:
    """Let the program work until something is so, and a little longer, for it to be painted."""
    while not condition():
        app.processEvents()
        time.sleep(0.01)
    for _ in range(30):
        app.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
