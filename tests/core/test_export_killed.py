"""An export that is killed at any moment leaves what was there, or what was to come, and nothing half-made.

By hand: `python tests/core/test_export_killed.py 100`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

TESTS = Path(__file__).parents[1]
FORMATS = ("png", "sheet", "apng", "webp", "gif", "csv", "svg")
FILES = {"run.json", "frames", "sheet.png", "morph.png", "morph.webp", "morph.gif", "curves.csv", "curves.svg"}
STEPS = (3, 5)
"""Of the two runs that are exported in turns to the same place."""
CHAINS, SIZE = 2, 16

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_a_kill_at_any_moment_leaves_no_half() -> None:
    done = subprocess.run(
        [sys.executable, __file__, "20"], cwd=TESTS.parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 kills" in done.stdout


def kill_one(out: Path, moment: int) -> None:
    """Fork a program that exports without end, wait for so many words of its progress, and kill it at once."""
    from scenarios_session import session

    from cem_core.export import Export, export

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        runs = [session(steps, CHAINS, size=SIZE, seed=steps) for steps in STEPS]
        while True:
            for run in runs:
                for _ in export(run, out, Export(formats=FORMATS, scale=4)):
                    os.write(writing, b".")
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as words:
        words.read(1)
        for _ in range(moment):
            words.read(1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def check(out: Path) -> str:
    """What is there: nothing, or all of an export. Every file is read in full."""
    import numpy as np
    from PIL import Image

    if not out.exists():
        return "nothing"
    assert {path.name for path in out.iterdir()} == FILES, sorted(out.iterdir())
    run = json.loads((out / "run.json").read_bytes())
    assert run["steps"] in STEPS
    for name in ("morph.png", "morph.webp", "morph.gif"):
        with Image.open(out / name) as image:
            assert image.n_frames == run["steps"]  # type: ignore[attr-defined]
            for index in range(run["steps"]):
                image.seek(index)
                image.load()
    frames = sorted((out / "frames").rglob("*.png"))
    assert len(frames) == CHAINS * run["steps"]
    for path in (*frames, out / "sheet.png"):
        with Image.open(path) as image:
            assert np.asarray(image).size
    assert len((out / "curves.csv").read_text().splitlines()) == 1 + CHAINS * run["steps"]
    assert (out / "curves.svg").read_text().endswith("</svg>\n")
    return "whole"


def main(kills: int) -> None:
    from scenarios_session import session

    from cem_core.export import Export, export

    moments = random.Random(0)
    found = {"nothing": 0, "whole": 0}
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        for _ in range(kills):
            kill_one(out, moments.randrange(60))
            found[check(out)] += 1
        for _ in export(session(STEPS[0], CHAINS, size=SIZE), out, Export(formats=FORMATS, scale=4)):
            pass
        assert check(out) == "whole"
        assert list(Path(folder).iterdir()) == [out], "the next export puts away what was left behind"
    print(f"{kills} kills: {found}")


if __name__ == "__main__":
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    main(int(sys.argv[1]))
