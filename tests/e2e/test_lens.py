"""The lens in the real program: a run as it is made, a recorded one, and a model that is not there any more."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PySide6.QtCore import Qt
from windows import Wait, begin_from, notice, picture, press, run_to_end, save_image, spec

from cem_core import bundle, checkpoints, images, runner, sessions
from cem_core.messages import RunSpec, RunStart, Step
from cem_core.probes.lens import split
from cem_core.session import Session
from cem_gui.player import folder_of
from cem_gui.window import MainWindow

CONTROL = Qt.KeyboardModifier.ControlModifier


def expected(session: Session, chain: int) -> dict[str, np.ndarray]:
    """∇f, ∇LSE (T, C, H, W), their norms and their cosine, all steps of a chain at once, in one pass of the core."""
    model, _ = checkpoints.load(session.start.spec.checkpoint)
    x = torch.from_numpy(np.stack([step.pixels[chain] for step in session]))
    parts = split(model, x, torch.full((len(x),), session.start.labels[chain]))
    of_class, of_marginal = (part.double().flatten(1).numpy() for part in parts[:2])
    norms = np.linalg.norm(of_class, axis=1), np.linalg.norm(of_marginal, axis=1)
    cosine = (of_class * of_marginal).sum(1) / (norms[0] * norms[1])
    maps = {"class": parts[0].numpy(), "marginal": parts[1].numpy()}
    return {"‖∇f‖₂": norms[0], "‖∇LSE‖₂": norms[1], "cos(∇f,∇LSE)": cosine, **maps}


def caught_up(window: MainWindow) -> bool:
    return "a step" in window.evolution.cost.text() and " of " not in window.evolution.cost.text()


def choose_curves(window: MainWindow, row: int) -> dict[str, np.ndarray]:
    window.curves.which_distance.setCurrentIndex(row)
    window.curves.which_distance.activated.emit(row)
    return {name: values for name, (_, values) in window.curves.distance._series.items()}


def record(wanted: RunSpec) -> str:
    """A run that was made some other day: its folder."""
    session = None
    for message in runner.play(wanted):
        if isinstance(message, RunStart):
            session = sessions.record(message)
        elif isinstance(message, Step):
            session.append(message)
        else:
            assert message.reason == "done", message.detail
            session.finish(message)
    session.close()
    return folder_of(session)


def test_a_run_is_seen_through_the_lens_while_it_is_made(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    begin_from(window, wait, save_image(tmp_path / "a.png"), steps=7)
    press(Qt.Key.Key_C)
    wait(lambda: caught_up(window))  # with the start alone
    press(Qt.Key.Key_4, CONTROL)
    run_to_end(window, wait)
    wait(lambda: caught_up(window))
    session = window.player.session
    assert len(session) == 8
    direct = expected(session, 0)
    shown = choose_curves(window, 2) | choose_curves(window, 3)
    for name in ("‖∇f‖₂", "‖∇LSE‖₂", "cos(∇f,∇LSE)"):
        assert shown[name] == pytest.approx(direct[name], rel=1e-3, abs=1e-4)
    # What the sampler itself measured along the way: TA is ∇f − ∇LSE.
    c, m = shown["‖∇f‖₂"], shown["‖∇LSE‖₂"]
    drift = np.sqrt(c**2 + m**2 - 2 * c * m * shown["cos(∇f,∇LSE)"])
    assert session.numbers.gradient_norm[:, 0] == pytest.approx(drift, rel=0.01)
    assert window.curves.told.text().startswith("TA, ∇f − ∇LSE, keeps ")
    for key, which in ((Qt.Key.Key_4, "class"), (Qt.Key.Key_5, "marginal")):
        press(key, CONTROL)
        for step in (7, 2):
            window.go_to(step)
            wait(lambda: caught_up(window))
            wanted = images.signed(direct[which][step : step + 1])[0].astype(int)
            assert np.abs(picture(window.evolution).astype(int) - wanted).max() <= 2
    assert "(run " in window.evolution.cost.text()
    assert not notice(window)


def test_a_recorded_run_is_seen_through_the_lens(window: MainWindow, wait: Wait) -> None:
    folder = record(spec(steps=3, chains=2, preset="RCS"))
    window.runs.open(folder)
    wait(lambda: folder_of(window.player.session) == folder)
    press(Qt.Key.Key_5, CONTROL)  # to choose what it shows turns it on
    assert window.acts.lens.isChecked()
    wait(lambda: caught_up(window))
    session = window.player.session
    assert len(set(session.start.labels)) == 2
    for chain in (0, 1):
        window.evolution.grid.choose(chain)
        wait(lambda: caught_up(window))
        direct = expected(session, chain)
        shown = choose_curves(window, 2)
        assert shown["‖∇f‖₂"] == pytest.approx(direct["‖∇f‖₂"], rel=1e-3)
        wanted = images.signed(direct["marginal"][3:])[0].astype(int)
        assert np.abs(picture(window.evolution, chain).astype(int) - wanted).max() <= 2
    other = record(spec(steps=1, chains=1, name="another run", preset="CS"))
    window.runs.open(other)
    wait(lambda: folder_of(window.player.session) == other and caught_up(window))
    direct = expected(window.player.session, 0)
    assert choose_curves(window, 2)["‖∇LSE‖₂"] == pytest.approx(direct["‖∇LSE‖₂"], rel=1e-3)
    window.acts.back.trigger()
    wait(lambda: window.player.session is session and caught_up(window))
    assert len(choose_curves(window, 3)["cos(∇f,∇LSE)"]) == 4


@pytest.mark.parametrize("how", ["another", "gone"])
def test_without_the_model_of_the_run_it_says_so(window: MainWindow, wait: Wait, tmp_path: Path, how: str) -> None:
    ours, other = (bundle.models()[name] for name in list(bundle.models())[:2])
    model = Path(shutil.copy(ours, tmp_path / f"net{ours.suffix}"))
    folder = record(msgspec.structs.replace(spec(steps=1), checkpoint=str(model)))
    if how == "another":
        shutil.copy(other, model)
    else:
        model.unlink()
    window.runs.open(folder)
    wait(lambda: folder_of(window.player.session) == folder)
    press(Qt.Key.Key_C)
    assert window.acts.lens.isChecked()
    wait(lambda: not window.acts.lens.isChecked())
    assert model.name in notice(window)
    assert ("another file" if how == "another" else "There is no") in notice(window)
    assert not window.evolution.lens.isChecked()
