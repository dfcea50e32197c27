"""Energies of clean, adversarial and generated images of two models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QFileDialog
from tiny import saved, weights
from windows import press, save_image

from cem_core.probes.energy_report import KINDS, EnergyReport
from cem_core.probes.measuring import measure
from cem_core.probes.results import auroc

IMAGES, GENERATED = 9, 4


def test_measure_change_and_export(window, wait, monkeypatch, tmp_path: Path) -> None:
    for number in range(IMAGES):
        save_image(tmp_path / "images" / ("cat", "dog", "horse")[number % 3] / f"{number}.png", 16, number)
    for number in range(2):
        window.subjects.choose(number, str(saved(tmp_path / f"net-{number}.safetensors", weights(number))))
    stage = window.energies
    window.tabs.setCurrentIndex(next(i for i in range(1, 6) if window.stage_at(i) is stage))
    wait(lambda: window.subjects.ready)
    choice = stage.panel.choice
    choice.choose_path(str(tmp_path / "images"))
    choice.generated.setValue(GENERATED)
    choice.eps.setFocus()
    choice.eps.selectAll()
    QTest.keyClicks(choice.eps, "1/4")
    assert not stage.can_export
    window.setFocus()
    press(Qt.Key.Key_Space)
    assert stage.busy
    wait(lambda: not stage.busy)
    assert not stage.panel.notice.isVisible()
    assert stage.status.startswith(f"{IMAGES} images measured")

    expected = EnergyReport()
    for answer in measure(stage._report.request):
        expected.add(answer)
    assert expected.request.eps == 0.25
    shown = stage._report
    for subject, model in enumerate(stage.panel.models[:2]):
        assert model.isVisible()
        for kind, count in zip(KINDS, (IMAGES, IMAGES, GENERATED), strict=True):
            np.testing.assert_array_equal(shown.energy(subject, kind), expected.energy(subject, kind))
            _, shares = model.plot._drawn[kind].getOriginalDataset()
            np.testing.assert_allclose(np.asarray(shares) * count / 100, np.round(np.asarray(shares) * count / 100))
        for row in expected.rows(subject)[1:]:
            assert row.auroc == auroc(expected.energy(subject, "clean"), expected.energy(subject, row.kind))
            assert f"{100 * round(row.auroc, 2):.0f} % of pairs" in model.meanings.text()
        assert model.why.text()[0] in "●○▲✕"
    assert not stage.panel.models[2].isVisible()

    choice.generated.setValue(0)
    assert stage.panel.about.text().endswith("not yet measured with what is chosen now")
    assert stage.panel.models[0].plot._drawn.keys() == set(KINDS)

    out = tmp_path / "out"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(out))
    QTest.mouseClick(stage.panel.export_button, Qt.MouseButton.LeftButton)
    wait(lambda: stage.status == f"Written to {out}")
    assert {path.name for path in out.iterdir()} == {"energies.csv", "energies.json", "energies.svg", "energies.png"}
    assert json.loads((out / "energies.json").read_text())["complete"]
    (out / "energies.json").write_text("somebody else's")
    QTest.mouseClick(stage.panel.export_button, Qt.MouseButton.LeftButton)
    wait(stage.panel.notice.isVisible)
    assert (out / "energies.json").read_text() == "somebody else's"
