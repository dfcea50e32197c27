"""The window is on the screen before torch is imported, and one key is enough to see something."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PySide6.QtCore import Qt
from windows import notice, press

from cem_core import bundle

_PROGRAM = """
import sys
from cem_gui import app
from cem_gui.window import MainWindow

start = MainWindow.start

def started(self, paths=()):
    assert self.isVisible() and self.windowHandle().isExposed()
    print("torch before the window:", "torch" in sys.modules)
    start(self, paths)
    self.player.began.connect(self.close)

MainWindow.start = started
sys.exit(app.main())
"""


@pytest.mark.usefixtures("home")
def test_window_before_torch() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "torch before the window: False"


def test_one_key(window, wait) -> None:
    session = window.player.session
    assert session.start.checkpoint.name == bundle.DEFAULT_MODEL
    assert len(session.start.spec.chains) == 12
    assert len(set(session.start.names)) == 12
    own = [bundle.sample_class(name) for name in session.start.names]
    targets = [session.start.checkpoint.classes[label] for label in session.start.labels]
    assert all(a != b for a, b in zip(own, targets, strict=True))
    press(Qt.Key.Key_Space)
    wait(lambda: len(session) > 2)
    assert np.abs(session[2].pixels - session[0].pixels).max() > 0.01
    press(Qt.Key.Key_Escape)
    wait(lambda: window.player.gait == "ended")
    assert not notice(window)
