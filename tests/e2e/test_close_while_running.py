"""Closing the window ends the program with code 0 and without a word, whatever it is doing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import sys
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication
from cem_gui import app

def watch():
    window = next((w for w in QApplication.topLevelWidgets() if hasattr(w, "player")), None)
    if window is None or not window.isVisible():
        return
    moment, player = sys.argv[1], window.player
    if moment == "showing":
        window.close()
    elif moment == "importing":
        if not window.player._thread.isRunning():
            return
        assert player.session is None
        window.close()
    elif player.live and player.gait == "paused":
        window.sampler.steps.field.setValue(5000)
        window.acts.run.trigger()
    elif player.live and len(player.session) > 2:
        if moment == "exporting" and not window.exporter.busy:
            window.acts.stop.trigger()
            from pathlib import Path
            from cem_core.export import Export
            window.exporter.begin(player.session, Path(sys.argv[2]), Export())
        window.close()

timer = QTimer()
timer.timeout.connect(watch)
make = QApplication.__init__

def begin(self, *args):
    make(self, *args)
    timer.start(5)

QApplication.__init__ = begin
sys.exit(app.main())
"""


@pytest.mark.parametrize("moment", ["showing", "importing", "running", "exporting"])
def test_close(moment: str, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "exports" / "clip"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, moment, str(out)], capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not out.parent.exists() or out.exists() or not list(out.parent.iterdir()), "nothing half-made is left"
    log = home / ".local" / "state" / "cem-explorer" / "log" / "cem-explorer.log"
    assert "ERROR" not in log.read_text()
