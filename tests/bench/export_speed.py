"""An export of 60 frames of 512 px as APNG, against the time that Pillow needs to encode the same frames."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from cem_core import bundle, images
from cem_core.export import Export, Format, Layout, export
from cem_core.messages import Chain, Checkpoint, NoiseStart, RunSpec, RunStart, Step
from cem_core.presets import SAMPLERS
from cem_core.session import Session
from tests.bench import ROUNDS, in_turns, ratio

FRAMES, SIDE = 60, 512
GOAL = 2.0
STEP = 0.004
"""Standard deviation of what changes from frame to frame, about 1/255."""


def record(size: int) -> Session:
    """A bundled photo that is disturbed a little more at each step."""
    random = np.random.default_rng(0)
    photo = next(path for path in sorted((bundle.ASSETS / "photos").iterdir()) if path.suffix in images.SUFFIXES)
    pixels = images.prepare(photo, size).pixels[None]
    row = SAMPLERS["TA"]
    checkpoint = Checkpoint("photo", "", "", "", "", 0, ("a", "b"), 3, size, ())
    spec = RunSpec("bench", "photo", row, (Chain(NoiseStart(), 0, 0),))
    session = Session(RunStart(spec, checkpoint, (0,), ("photo",), ("",), "CPU", {}))
    for index in range(FRAMES):
        numbers = [random.random(1, np.float32) for _ in range(4)]
        logits = random.random((1, 2), np.float32)
        session.append(Step("bench", index, row, pixels, numbers[0], numbers[1], logits, numbers[2], numbers[3]))
        pixels = np.clip(pixels + random.normal(0, STEP, pixels.shape).astype(np.float32), 0, 1)
    return session


def exported(session: Session, choices: Export) -> int:
    """Bytes of the file that an export makes."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in export(session, Path(folder) / "out", choices):
            pass
        return max(path.stat().st_size for path in (Path(folder) / "out").iterdir())


def encoded(session: Session, choices: Export) -> int:
    """Bytes of the PNGs that Pillow makes of the frames."""
    layout = Layout(session, choices, list(range(FRAMES)))
    size = 0
    for step in session:
        file = io.BytesIO()
        Image.fromarray(layout.frame(step)).save(file, "PNG")
        size += file.tell()
    return size


def main() -> None:
    print(f"  {FRAMES} frames of {SIDE} px, medians of {ROUNDS} rounds in turns; goal ≤ {GOAL:g} × Pillow")
    print(f"  {'':>24} {'Pillow':>8} {'export':>8} {'÷ Pillow':>9} {'MB':>6} {'÷ Pillow':>9}")
    rows: list[tuple[str, int, Format]] = [
        ("APNG of 32 px, enlarged", 32, "apng"), ("APNG of 512 px", SIDE, "apng"), ("WebP of 512 px", SIDE, "webp"),
    ]  # fmt: skip
    for title, size, format in rows:
        session, choices = record(size), Export(formats=(format,), scale=SIDE // size)
        sizes: dict[str, int] = {}

        def timed(name: str, work: Callable[[Session, Export], int]) -> Callable[[], int]:
            def once() -> int:
                sizes[name] = work(session, choices)  # noqa: B023 - called in this turn of the loop
                return 1

            return once

        seconds = in_turns({"ours": timed("ours", exported), "theirs": timed("theirs", encoded)})
        print(f"  {title:>24} {median(seconds['theirs']):6.2f} s {median(seconds['ours']):6.2f} s "
              f"{ratio(seconds['ours'], seconds['theirs']):9.2f} {sizes['ours'] / 1e6:6.1f} "
              f"{sizes['ours'] / sizes['theirs']:9.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
