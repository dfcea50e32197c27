"""The window's run and the same command give the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image
from windows import begin_from, run_to_end, save_image

from cem_core.cli import main
from cem_core.export import Export, export
from cem_core.images import hwc, to_uint8

_STEPS = 5


def test_window_equals_command(window, wait, tmp_path: Path) -> None:
    path = save_image(tmp_path / "photo.png", size=47, seed=3)
    begin_from(window, wait, path, target="truck", preset="RCS", steps=_STEPS)
    run_to_end(window, wait)
    session = window.player.session

    out = tmp_path / "out"
    arguments = ["morph", str(path), "--target", "truck", "--sampler", "RCS", "--steps", str(_STEPS), "--out", str(out)]
    result = CliRunner().invoke(main, [*arguments, "--formats", "png,csv"])
    assert result.exit_code == 0, result.output
    frames = sorted((out / "frames" / "chain-01-truck").iterdir())
    assert len(frames) == len(session) == _STEPS + 1
    for index, frame in enumerate(frames):
        with Image.open(frame) as image:
            np.testing.assert_array_equal(np.asarray(image), hwc(to_uint8(session[index].pixels))[0])
    # The curves have the digits that bring the same float32 back: they are equal to the last bit.
    list(export(session, tmp_path / "from the window", Export(formats=("csv",))))
    assert (out / "curves.csv").read_bytes() == (tmp_path / "from the window" / "curves.csv").read_bytes()
