"""A run may be killed at any moment, and nothing is lost but the step that is being written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import killed
import pytest
import tiny

from cem_core import replaying, runner, sessions
from cem_core.messages import RunEnd, Step
from cem_core.session import Session

KILLS = 100
LONGEST = 0.004
"""Seconds after a step was taken: some more than the next one takes."""
ARRAYS = ("pixels", "energy", "joint", "logits", "gradient_norm", "distance")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without kill -9")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def whole(net: str) -> list[Step]:
    """The run without an interruption."""
    return [message for message in runner.play(killed.spec(net)) if isinstance(message, Step)]


@pytest.fixture
def recorder(net: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, killed.__file__, net],
        bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        yield process
        process.stdin.close()


def record_and_kill(recorder: subprocess.Popen[bytes], folder: Path, after: int, seconds: float) -> int:
    """Kill the run so many seconds after so many steps were taken: how many steps it had told of in the end."""
    assert recorder.stdin is not None
    assert recorder.stdout is not None
    assert recorder.stderr is not None
    recorder.stdin.write(f"{folder}\n".encode())
    child = int(recorder.stderr.readline())
    told = b""
    while told.count(b".") < after and b"!" not in told:
        told += recorder.stdout.read(1)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:  # a sleep would be too coarse
        pass
    os.kill(child, signal.SIGKILL)
    while b"!" not in told:
        told += recorder.stdout.read(1)
    return told.count(b".")


def same(recorded: list[Step], whole: list[Step]) -> None:
    for step, again in zip(recorded, whole, strict=True):
        assert step.sampler == again.sampler
        for name in ARRAYS:
            assert getattr(step, name).tobytes() == getattr(again, name).tobytes(), f"{name} of step {step.index}"


def test_killed_at_any_moment(tmp_path: Path, recorder: subprocess.Popen[bytes], whole: list[Step]) -> None:
    moments = random.Random(0)
    interrupted = 0
    for kill in range(KILLS):
        folder = tmp_path / str(kill)
        after, seconds = moments.randrange(killed.STEPS - 2), moments.uniform(0, LONGEST)
        told = record_and_kill(recorder, folder, after, seconds)
        if not (folder / "session.json").exists():
            assert told == 0, "it was not made yet"
            continue
        summary = sessions.summarise(folder)
        session = Session.open(folder, write=True)
        assert session.recording is not None
        assert session.recording.writable, "the lock of a dead program holds nobody"
        assert len(session) >= told - 1, "but for the step that is being written, nothing is lost"
        same(list(session), whole[: len(session)])
        assert (session.end is None) == summary.interrupted
        interrupted += summary.interrupted
        if not len(session):
            session.close()
            continue
        if session.end is None:
            for message in replaying.resume(session):
                if isinstance(message, Step):
                    session.append(message)
                else:
                    session.finish(message)
        session.close()
        again = Session.open(folder)
        assert again.end == RunEnd("a run", "done")
        same(list(again), whole)
        half_made = {path.name for path in folder.rglob("*")} - {f"c.{i}.0.0.0.0" for i in range(len(whole))}
        assert half_made == {"session.json", "steps.sqlite", "lock", "pixels", "zarr.json"}
    assert interrupted > KILLS / 2
