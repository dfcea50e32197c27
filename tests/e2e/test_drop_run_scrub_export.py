"""Drop an image, run, look back, export: the main job."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from windows import begin_from, picture, press, run_to_end, save_image

from cem_core.export import Export, RunFile
from cem_core.images import hwc, prepare, to_uint8

_STEPS = 6


def test_drop_run_scrub_export(window, wait, tmp_path: Path) -> None:
    path = save_image(tmp_path / "ünï cödé" / "mein bïld.png", size=50, mode="RGBA")
    begin_from(window, wait, path, target="horse", steps=_STEPS)
    start = hwc(to_uint8(prepare(path, 32).pixels[None]))[0]
    np.testing.assert_array_equal(picture(window.evolution), start)
    assert "50×50" in window.evolution.about.text()
    assert "alpha" in window.evolution.about.text()

    run_to_end(window, wait)
    session = window.player.session
    assert len(session) == _STEPS + 1
    assert session.end.reason == "done"
    moved = picture(window.evolution)
    np.testing.assert_array_equal(moved, hwc(to_uint8(session[_STEPS].pixels))[0])
    assert np.abs(moved.astype(int) - start).max() > 10
    assert np.isfinite(session.numbers.energy).all()
    assert (np.diff(session.numbers.joint[:, 0]) < 0).all(), "TA climbs f(x, horse) at every step here"

    press(Qt.Key.Key_Home)
    assert window.step == 0
    np.testing.assert_array_equal(picture(window.evolution), start)
    press(Qt.Key.Key_Right)
    assert window.step == 1
    np.testing.assert_array_equal(picture(window.evolution), hwc(to_uint8(session[1].pixels))[0])
    strip = window.timeline.strip
    y = strip.height() - 10
    QTest.mousePress(strip, Qt.MouseButton.LeftButton, pos=QPoint(strip.width() - 20, y))
    assert window.step == _STEPS
    QTest.mouseMove(strip, QPoint(5, y))
    QTest.mouseRelease(strip, Qt.MouseButton.LeftButton, pos=QPoint(5, y))
    assert window.step == 0
    np.testing.assert_array_equal(picture(window.evolution), start)

    out = tmp_path / "exports" / "clip"
    window.exporter.begin(session, out, Export(first=1, last=_STEPS, scale=2))
    wait(lambda: out.exists() and not window.exporter.busy)
    assert {p.name for p in out.iterdir()} == {"frames", "morph.png", "sheet.png", "curves.csv", "run.json"}
    frames = sorted((out / "frames" / "chain-01-horse").iterdir())
    assert [f.name for f in frames] == [f"step-{i:04}.png" for i in range(1, _STEPS + 1)]
    for index, frame in enumerate(frames, start=1):
        with Image.open(frame) as image:
            np.testing.assert_array_equal(np.asarray(image), hwc(to_uint8(session[index].pixels))[0])
            assert json.loads(image.text["cem-explorer"])["spec"]["id"] == session.start.spec.id
    with Image.open(out / "morph.png") as clip:
        assert clip.n_frames == _STEPS
    record = msgspec.json.decode((out / "run.json").read_bytes(), type=RunFile)
    assert record.spec == session.start.spec
    assert record.checkpoint.sha256 == session.start.checkpoint.sha256
    assert len((out / "curves.csv").read_text().splitlines()) == 1 + _STEPS
