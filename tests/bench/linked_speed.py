"""What four linked models cost: how late the screen answers while they run, and their steps against a plain loop."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from PySide6.QtCore import QSettings
from PySide6.QtWidgets import QApplication

from cem_core import bundle, linked
from cem_core.messages import Step
from cem_core.probes.requests import Linked
from cem_gui import theme
from cem_gui.window import MainWindow
from tests.bench import ratio
from tests.bench.window_speed import Heart, settle

MODELS = 4
STEPS = 16
"""Of a round."""
ROUNDS = 3


def models(folder: Path) -> list[str]:
    """The bundled ones, and copies of them under other names: files of their own, and so models of their own."""
    copies = []
    for index, path in enumerate([*bundle.models().values()] * MODELS):
        copies.append(str(shutil.copy(path, folder / f"{index}.safetensors")))
    return copies[:MODELS]


def alone(request: Linked) -> float:
    """Seconds a round of a plain loop."""
    at = [time.perf_counter() for round in linked.play(request) if isinstance(round.messages[0], Step)]
    return (at[-1] - at[0]) / (len(at) - 1)


def within(app: QApplication, window: MainWindow, heart: Heart) -> float:
    """Seconds a round of the same in the window."""
    stage = window.linked
    settle(app, lambda: stage.can_run and not stage.busy)
    stage.run_or_pause()
    settle(app, lambda: stage._job is not None and stage._job.begun and stage.last_step > 0)
    begun, since = stage.last_step, time.perf_counter()
    heart.start()
    settle(app, lambda: not stage.busy)
    heart.stop()
    return (time.perf_counter() - since) / max(1, stage.last_step - begun)


def main() -> None:
    app = QApplication.instance() or QApplication([])
    assert isinstance(app, QApplication)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theme.apply(app, "dark")
        settings = QSettings(str(folder / "window.ini"), QSettings.Format.IniFormat)
        settings.setValue("subjects", msgspec.json.encode(models(folder)).decode())
        settings.setValue("linked visited", "true")
        settings.setValue("record", "false")
        window = MainWindow(settings, folder)
        window.resize(1440, 900)
        window.show()
        window.start()
        settle(app, lambda: window.player.session is not None)
        window.player.stop()  # what waits there takes no part
        window.sampler.show_sampler(msgspec.structs.replace(window.sampler.sampler, steps=STEPS))
        window.tabs.setCurrentIndex(window.views.indexOf(window.linked.panel))
        settle(app, lambda: window.subjects.ready and window.linked._runs is not None)
        heart = Heart()
        within(app, window, Heart())
        request = Linked(window.linked._specs())
        seconds, plain = [], []
        for _ in range(ROUNDS):
            plain.append(alone(request))
            seconds.append(within(app, window, heart))
        p50, p99, worst = (np.percentile(heart.late, q) for q in (50, 99, 100))
        chains = len(request.specs[0].chains)
        print(f"  {MODELS} models, {chains} chains each, every model on every other's images, {STEPS} steps a round")
        print(f"  without a window {1 / median(plain):5.1f} steps/s, in the window {1 / median(seconds):5.1f}, "
              f"ratio {ratio(plain, seconds):.2f}")  # fmt: skip
        print(f"  lateness of {len(heart.late):,} beats in the GUI thread meanwhile: p50 {p50:.1f} ms, "
              f"p99 {p99:.1f} ms (goal ≤ 33), worst {worst:.1f} ms")  # fmt: skip
        window.close()


if __name__ == "__main__":
    main()
