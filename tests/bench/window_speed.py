"""What the window costs: a run with it and without, how late the screen answers, how soon it is there, scrubbing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from msgspec.structs import replace
from PySide6.QtCore import QEvent, QObject, QSettings, Qt, QTimer
from PySide6.QtWidgets import QApplication

from cem_core import bundle, checkpoints, runner
from cem_core.messages import Chain, ImageStart, RunEnd, RunSpec, RunStart, Step
from cem_core.presets import SAMPLERS
from cem_core.session import Session
from cem_gui import theme
from cem_gui.window import MainWindow
from cem_gui.worker import Mailbox
from tests.bench import ROUNDS, ratio

CHAINS = 16
STEPS = 24
"""Of a run in a round."""
BEAT_MS = 5
JUMPS = 200
"""In a round."""
RECORDED = 1000
STARTS = 5


def spec(steps: int = STEPS) -> RunSpec:
    chains = tuple(Chain(ImageStart(str(path)), i, (i + 5) % 10) for i, path in enumerate(bundle.samples()[:CHAINS]))
    return RunSpec("bench", bundle.DEFAULT_MODEL, replace(SAMPLERS["RCS"], steps=steps), chains, "cpu")


# A run ---------------------------------------------------------------------------------------------------------------


def without() -> float:
    """Seconds a step of a plain loop that records."""
    session: Session | None = None
    at: list[float] = []
    for message in runner.play(spec()):
        if isinstance(message, RunStart):
            session = Session(message)
        elif isinstance(message, Step) and session is not None:
            session.append(message)
            at.append(time.perf_counter())
    return (at[-1] - at[0]) / (len(at) - 1)


class Stopwatch(Mailbox):
    """A mailbox that knows when each step came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []
        self.over = False

    def began(self, session: Session) -> None:
        self.at, self.over = [], False
        super().began(session)

    def moved(self, step: Step) -> None:
        super().moved(step)
        self.at.append(time.perf_counter())

    def ended(self, end: RunEnd) -> None:
        super().ended(end)
        self.over = True


class Heart(QObject):
    """Beats in the GUI thread, and knows how late each beat was."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[float] = []
        self._last = 0.0
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)

    def start(self) -> None:
        self._last = time.perf_counter()
        self._timer.start()

    def stop(self) -> None:
        self._timer.stop()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.late.append(max(0.0, 1000 * (now - self._last) - BEAT_MS))
        self._last = now


def settle(app: QApplication, condition: Callable[[], bool]) -> None:
    """The event loop, until a condition holds. It sleeps between events, as in the program."""
    poll = QTimer()
    poll.timeout.connect(lambda: app.exit() if condition() else None)
    poll.start(50)
    if not condition():
        app.exec()
    poll.stop()


def within(app: QApplication, window: MainWindow, watch: Stopwatch, heart: Heart | None = None) -> float:
    """Seconds a step of the same run in the window, seen from the thread that samples."""
    watch.over = False
    window.player.begin(spec(), "running")
    settle(app, lambda: bool(watch.at) or watch.over)
    if heart:
        heart.start()
    settle(app, lambda: watch.over)
    if heart:
        heart.stop()
    settle(app, lambda: window.player.gait == "ended")
    return (watch.at[-1] - watch.at[0]) / (len(watch.at) - 1)


# The screen ----------------------------------------------------------------------------------------------------------


def synthetic() -> Session:
    """1,000 steps of 16 chains, random and cheap."""
    random = np.random.default_rng(0)
    wanted = spec()
    checkpoint = checkpoints.load(bundle.DEFAULT_MODEL, "cpu")[1]
    labels = tuple(chain.label or 0 for chain in wanted.chains)
    session = Session(RunStart(wanted, checkpoint, labels, ("",) * CHAINS, ("",) * CHAINS, "CPU", {}))
    shape = (CHAINS, checkpoint.channels, checkpoint.size, checkpoint.size)
    for index in range(RECORDED):
        logits = random.standard_normal((CHAINS, len(checkpoint.classes)), np.float32)
        energy = -np.logaddexp.reduce(logits, axis=1)
        joint = -logits[np.arange(CHAINS), labels]
        numbers = random.random((2, CHAINS), np.float32)
        pixels = random.random(shape, np.float32)
        session.append(Step("bench", index, wanted.sampler, pixels, energy, joint, logits, *numbers))
    session.end = RunEnd("bench", "done")
    return session


class Painted(QObject):
    """Counts how often a widget was painted."""

    times = 0

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        self.times += event.type() == QEvent.Type.Paint
        return False


def jumps(app: QApplication, window: MainWindow, seed: int) -> tuple[list[float], int]:
    """Seconds of each jump to anywhere, with all that is painted anew; and how often the images were."""
    painted = Painted()
    canvas = window.evolution.grid.widget()
    canvas.installEventFilter(painted)
    seconds = []
    for step in np.random.default_rng(seed).permutation(RECORDED)[:JUMPS].tolist():
        begun = time.perf_counter()
        window.go_to(step)
        app.processEvents()
        seconds.append(time.perf_counter() - begun)
    canvas.removeEventFilter(painted)
    return seconds, painted.times


# The start -----------------------------------------------------------------------------------------------------------

_PROGRAM = """
import sys, time
begun = float(sys.argv.pop())
from cem_gui import app, files
from cem_gui.window import MainWindow

start, open_ = MainWindow.start, files.Files.open

def started(self, *rest):
    assert self.windowHandle().isExposed()
    print("window", time.monotonic() - begun, flush=True)
    self.player.began.connect(lambda: print("images", time.monotonic() - begun, flush=True) or self.close())
    start(self, *rest)

def opening(self, *rest):
    import torch
    print("torch", time.monotonic() - begun, flush=True)
    open_(self, *rest)

MainWindow.start, files.Files.open = started, opening
sys.exit(app.main())
"""


def launch(home: Path) -> dict[str, float]:
    """Seconds from the start of the process."""
    places = {f"XDG_{kind}_HOME": str(home) for kind in ("CONFIG", "CACHE", "DATA", "STATE")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(time.monotonic())],
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=True,
    )
    return {what: float(at) for what, at in (line.split() for line in done.stdout.splitlines())}


def main() -> None:
    app = QApplication.instance() or QApplication([])
    assert isinstance(app, QApplication)
    with tempfile.TemporaryDirectory() as folder:
        launches = [launch(Path(folder)) for _ in range(STARTS + 1)][1:]  # the first warms the disk's cache
        theme.apply(app, "dark")
        window = MainWindow(QSettings(f"{folder}/window.ini", QSettings.Format.IniFormat), Path(folder))
        window.show()
        window.start()
        settle(app, lambda: window.player.session is not None)
        watch, heart = Stopwatch(), Heart()
        window.player._thread.worker.mailbox = watch

        alone, together = [], []
        without(), within(app, window, watch)
        for turn in range(ROUNDS):
            order = (alone, together) if turn % 2 else (together, alone)
            for seconds in order:
                seconds.append(without() if seconds is alone else within(app, window, watch))
            if turn % 3 == 0:
                within(app, window, watch, heart)
        print(f"  {CHAINS} chains, RCS, float32, {STEPS} steps a round, {ROUNDS} rounds in turns")
        print(f"  without a window {1 / median(alone):6.1f} steps/s")
        print(
            f"  in the window    {1 / median(together):6.1f} steps/s, ratio {ratio(alone, together):.2f}, goal ≥ 0.90"
        )
        p50, p99, worst = (np.percentile(heart.late, q) for q in (50, 99, 100))
        print(f"  lateness of {len(heart.late):,} beats of {BEAT_MS} ms in the GUI thread during a run: "
              f"p50 {p50:.1f} ms, p99 {p99:.1f} ms (goal ≤ 33), worst {worst:.1f} ms")  # fmt: skip
        at = {what: median(one[what] for one in launches) for what in ("window", "torch", "images")}
        first = sum(one["window"] < one["torch"] for one in launches)
        print(f"  from the start of the process: window on the screen {at['window']:.2f} s, torch imported "
              f"{at['torch']:.2f} s, first images {at['images']:.2f} s;\n"
              f"  the window was there before torch in {first} of {STARTS} starts")  # fmt: skip

        window.player.previous = synthetic()
        window.player.back()
        app.processEvents()
        rounds = [jumps(app, window, seed) for seed in range(ROUNDS)]
        p50, p95 = (median(1000 * np.percentile(seconds, q) for seconds, _ in rounds) for q in (50, 95))
        times = sum(painted for _, painted in rounds)
        print(f"  jumps among {RECORDED:,} steps: p50 {p50:.1f} ms, p95 {p95:.1f} ms (goal ≤ 16); "
              f"the images were painted {times:,} times in {ROUNDS * JUMPS:,} jumps")  # fmt: skip
        window.close()


if __name__ == "__main__":
    main()
