"""The lens: what it asks of the measuring thread, and what it makes of the answers. Nothing is measured here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import pytest
from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QAction, QColor, QTextDocument
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QHBoxLayout, QWidget
from scenarios_session import session as scenario
from windows import discard, picture, press

from cem_core import images
from cem_core.messages import Floats, Sampler
from cem_core.presets import SAMPLERS
from cem_core.probes.results import Note, Split
from cem_core.session import Session
from cem_gui import lens, theme
from cem_gui.lens import Lens, explain
from cem_gui.panels.curves import CurvesPanel
from cem_gui.panels.evolution import EvolutionPanel
from cem_gui.panels.sampler import SamplerPanel
from cem_gui.panels.timeline import TimelinePanel
from cem_gui.player import Player
from cem_gui.prober import Job, Prober
from cem_gui.sight import Sight

STEPS, CHAINS = 6, 3
CONTROL = Qt.KeyboardModifier.ControlModifier


class _Runs(QObject):
    """No runs but one that may be compared."""

    compared_changed = Signal()
    compared: Session | None = None
    compared_name = "another"


class _Window(QWidget):
    """What the lens has to do with, without threads."""

    def __init__(self) -> None:
        super().__init__()
        self.player, self.prober, self.runs = Player(self), Prober(self), _Runs(self)
        self.sampler, self.evolution, self.timeline = SamplerPanel(), EvolutionPanel(), TimelinePanel()
        self.curves = CurvesPanel()
        self.sight = Sight(
            self.player, self.runs, self.sampler, self.evolution, self.timeline, self.curves, self
        )  # fmt: skip
        self.action = QAction("Lens", self)
        self.action.setCheckable(True)
        self.action.setShortcut("C")
        self.lens = Lens(self.prober, self.player, self.sight, self.evolution, self.curves, self.action, self)
        self.said: list[str] = []
        self.lens.said.connect(self.said.append)
        self.player.began.connect(self.sight.begin)
        self.addAction(self.action)
        self.addActions(self.evolution.views.actions())
        layout = QHBoxLayout(self)
        layout.addWidget(self.evolution, 2)
        layout.addWidget(self.curves, 1)
        self.resize(1000, 700)
        self.sampler.setParent(self)
        self.timeline.setParent(self)


@pytest.fixture
def window(qtbot) -> Iterator[_Window]:
    window = _Window()
    with qtbot.waitExposed(window):
        window.show()
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    yield window
    window.close()
    discard(window)


@pytest.fixture
def asked(window: _Window, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    jobs: list[Job] = []
    monkeypatch.setattr(window.prober, "begin", jobs.append)
    return jobs


@pytest.fixture
def run(window: _Window) -> Session:
    """A recorded run, whose last step is in sight."""
    run = scenario(steps=STEPS, chains=CHAINS)
    window.player.show(run)
    window.evolution.grid.setFocus()
    return run


def parts(pixels: Floats, labels: tuple[int, ...]) -> tuple[Floats, Floats]:
    """(T, C, H, W) each: any two vectors that tell where they come from."""
    of_class = (pixels - 0.5) * (1 + np.array(labels, np.float32)).reshape(-1, 1, 1, 1)
    return of_class, 0.25 - pixels**2


def split(pixels: Floats, labels: tuple[int, ...], seconds: float = 0.001) -> Split:
    one, other = parts(pixels, labels)
    flat, beside = one.reshape(len(one), -1), other.reshape(len(one), -1)
    norms = np.linalg.norm(flat, axis=1), np.linalg.norm(beside, axis=1)
    return Split(0, *norms, (flat * beside).sum(1) / (norms[0] * norms[1]), one, other, seconds)


def answer(window: _Window, job: Job, seconds: float = 0.001) -> None:
    window.prober.told.emit(job, [split(job.request.pixels, job.request.labels, seconds)])
    window.prober.ended.emit(job, "")


def answer_all(window: _Window, asked: list[Job]) -> None:
    while window.lens._job is not None:
        answer(window, asked[-1])


def steps_of(run: Session, jobs: list[Job]) -> list[tuple[int, int]]:
    """The steps and chains that were asked for, by their pixels."""
    places = {run[step].pixels[chain].tobytes(): (step, chain) for step in range(len(run)) for chain in range(CHAINS)}
    return [places[image.tobytes()] for job in jobs for image in job.request.pixels]


def curves(window: _Window) -> dict[str, Floats]:
    return {name: values for name, (_, values) in window.curves.distance._series.items()}


def legend(window: _Window) -> str:
    document = QTextDocument()
    document.setHtml(window.curves.distance.legend.text())
    return re.sub(r"\s+", " ", document.toPlainText())


def choose_curves(window: _Window, row: int) -> None:
    box = window.curves.which_distance
    box.setFocus()  # or Home would be the step key
    QTest.keyClick(box, Qt.Key.Key_Home)
    for _ in range(row):
        QTest.keyClick(box, Qt.Key.Key_Down)
    window.evolution.grid.setFocus()


# What is asked -------------------------------------------------------------------------------------------------------


def test_it_is_off_at_first(window: _Window, asked: list[Job], run: Session) -> None:
    window.sight.go_to(2)
    window.sight.go_to(4)
    assert asked == []
    assert not window.action.isChecked()
    assert not window.evolution.lens.isChecked()
    assert window.evolution.cost.text() == ""


def test_first_of_all_it_asks_for_what_is_in_sight(window: _Window, asked: list[Job], run: Session) -> None:
    window.sight.go_to(3)
    press(Qt.Key.Key_C)
    [job] = asked
    spec, request = run.start.spec, job.request
    assert steps_of(run, asked) == [(3, 0)]
    assert request.labels == (run.start.labels[0],)
    assert request.subject.reference == spec.checkpoint
    assert (request.subject.choices, request.subject.device) == (spec.choices, spec.device)
    assert request.subject.precision == "float32"
    assert request.sha256 == run.start.checkpoint.sha256


def test_every_step_of_the_chosen_chain_is_asked_for_once_and_one_job_at_a_time(
    window: _Window, asked: list[Job], run: Session
) -> None:
    press(Qt.Key.Key_C)
    for count in range(1, 100):
        window.sight.go_to(count % STEPS)  # that somebody looks around begins no second job
        if len(asked) < count:
            break
        assert len(asked) == count
        answer(window, asked[-1])
    assert sorted(steps_of(run, asked)) == [(step, 0) for step in range(STEPS)]


def test_steps_that_were_thinned_out_are_left_out(
    window: _Window, asked: list[Job], run: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "kept", lambda step: step % 2 == 1)
    press(Qt.Key.Key_C)
    assert "0 of 3 steps" in window.evolution.cost.text()
    answer_all(window, asked)
    assert sorted(steps_of(run, asked)) == [(1, 0), (3, 0), (5, 0)]
    assert "of" not in window.evolution.cost.text()


def test_a_number_that_is_none_is_not_asked_for_again(window: _Window, asked: list[Job], run: Session) -> None:
    press(Qt.Key.Key_C)
    for job in asked:
        assert len(asked) <= STEPS
        found = split(job.request.pixels * np.nan, job.request.labels)
        window.prober.told.emit(job, [found])
        window.prober.ended.emit(job, "")
    assert sorted(steps_of(run, asked)) == [(step, 0) for step in range(STEPS)]


def test_while_a_run_goes_on_it_rests(window: _Window, asked: list[Job], run: Session) -> None:
    press(Qt.Key.Key_C)
    window.player.gait = "running"
    answer(window, asked[0], seconds=1e6)
    window.sight.go_to(2)
    assert len(asked) == 1
    window.player._set_gait("paused")
    assert len(asked) == 2


def test_a_run_that_grows_is_followed(window: _Window, asked: list[Job], run: Session) -> None:
    longer = scenario(steps=STEPS + 2, chains=CHAINS)
    press(Qt.Key.Key_C)
    answer_all(window, asked)
    before = len(asked)
    for step in (STEPS, STEPS + 1):
        run.append(longer[step])
        window.sight.grow(run[step])
    answer_all(window, asked)
    assert sorted(steps_of(run, asked[before:])) == [(STEPS, 0), (STEPS + 1, 0)]


# Curves --------------------------------------------------------------------------------------------------------------


def test_the_curves_are_what_was_answered(window: _Window, asked: list[Job], run: Session) -> None:
    choose_curves(window, 2)
    assert window.lens.on  # to choose them is enough
    assert all(np.isnan(curves(window)[name]).all() for name in ("‖∇f‖₂", "‖∇LSE‖₂"))
    assert "‖∇f‖₂ …" in legend(window)
    answer(window, asked[0])
    expected = split(np.stack([step.pixels[0] for step in run]), run.start.labels[:1] * STEPS)
    assert np.flatnonzero(np.isfinite(curves(window)["‖∇f‖₂"])).tolist() == [STEPS - 1]  # the rest is to come
    answer_all(window, asked)
    assert curves(window)["‖∇f‖₂"] == pytest.approx(expected.class_norm, rel=1e-6)
    assert curves(window)["‖∇LSE‖₂"] == pytest.approx(expected.marginal_norm, rel=1e-6)
    assert np.array_equal(curves(window)["‖a∇f+b∇LSE‖₂"], run.numbers.gradient_norm[:, 0])
    window.sight.go_to(2)
    assert f"‖∇f‖₂ {expected.class_norm[2]:.2f}" in legend(window)
    choose_curves(window, 3)
    assert curves(window)["cos(∇f,∇LSE)"] == pytest.approx(expected.cosine, abs=1e-6)
    low, high = window.curves.distance.view.viewRange()[1]
    assert low < -1
    assert high > 1


def test_steps_to_come_are_gaps(window: _Window, asked: list[Job], run: Session) -> None:
    choose_curves(window, 3)
    answer_all(window, asked)
    run.append(scenario(steps=STEPS + 1, chains=CHAINS)[STEPS])
    window.sight.show_curves()
    values = curves(window)["cos(∇f,∇LSE)"]
    assert np.flatnonzero(np.isnan(values)).tolist() == [STEPS]


def test_every_chain_has_curves_of_its_own_and_keeps_them(window: _Window, asked: list[Job], run: Session) -> None:
    choose_curves(window, 2)
    answer_all(window, asked)
    first = curves(window)["‖∇f‖₂"]
    window.evolution.grid.choose(2)
    assert np.isnan(curves(window)["‖∇f‖₂"]).all()
    answer_all(window, asked)
    expected = split(np.stack([step.pixels[2] for step in run]), run.start.labels[2:] * STEPS)
    assert curves(window)["‖∇f‖₂"] == pytest.approx(expected.class_norm, rel=1e-6)
    before = len(asked)
    window.evolution.grid.choose(0)
    assert np.array_equal(curves(window)["‖∇f‖₂"], first)
    assert len(asked) == before


def test_the_compared_run_is_left_out(window: _Window, asked: list[Job], run: Session) -> None:
    window.runs.compared = scenario(steps=4, chains=CHAINS, seed=1)
    window.runs.compared_changed.emit()
    assert window.curves.distance._other
    choose_curves(window, 2)
    assert not window.curves.distance._other
    assert window.curves.energy._other


# Maps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "which"), [(Qt.Key.Key_4, 0), (Qt.Key.Key_5, 1)])
def test_the_maps_of_all_chains_of_the_step_in_sight(
    window: _Window, asked: list[Job], run: Session, key: Qt.Key, which: int
) -> None:
    window.sight.go_to(3)
    press(key, CONTROL)
    assert window.lens.on
    assert "maps 0 of 3" in window.evolution.cost.text()
    field = QColor(theme.now().field).getRgb()[:3]
    assert np.all(picture(window.evolution, 1) == field)  # not known is not zero
    answer_all(window, asked)
    expected = images.signed(parts(run[3].pixels, run.start.labels)[which])
    for chain in range(CHAINS):
        assert np.array_equal(picture(window.evolution, chain), expected[chain])
    assert "maps" not in window.evolution.cost.text()
    assert sorted(steps_of(run, asked)) == sorted({*((3, c) for c in range(CHAINS)), *((s, 0) for s in range(STEPS))})


def test_large_it_is_the_map_of_the_chosen_chain_alone(window: _Window, asked: list[Job], run: Session) -> None:
    window.evolution.grid.choose(1)
    window.evolution.toggle_large()
    press(Qt.Key.Key_4, CONTROL)
    answer_all(window, asked)
    expected = images.signed(parts(run[STEPS - 1].pixels, run.start.labels)[0])
    assert np.array_equal(picture(window.evolution), expected[1])
    assert {chain for _, chain in steps_of(run, asked)} == {1}
    before = len(asked)
    window.evolution.show_grid()
    answer_all(window, asked)
    assert {chain for _, chain in steps_of(run, asked[before:])} <= {0, 2}
    assert "maps" not in window.evolution.cost.text()


def test_the_probe_reads_the_map(window: _Window, asked: list[Job], run: Session) -> None:
    press(Qt.Key.Key_5, CONTROL)
    window.evolution._probe(1, 2, 3)
    assert window.evolution.probe.text() == "x 2  y 3  ·  not known yet"
    answer_all(window, asked)
    window.evolution._probe(1, 2, 3)
    values = parts(run[STEPS - 1].pixels, run.start.labels)[1][1, :, 3, 2]
    assert window.evolution.probe.text() == "x 2  y 3  ·  " + " ".join(f"{value:+.3g}" for value in values)


def test_a_run_that_is_faster_than_the_lens_leaves_no_chain_behind(
    window: _Window, asked: list[Job], run: Session
) -> None:
    press(Qt.Key.Key_4, CONTROL)
    seen: set[tuple[int, int]] = set()
    for step in range(2 * CHAINS):
        job = asked[-1]
        seen |= set(steps_of(run, [job]))
        window.sight.go_to((STEPS - 1 - step) % STEPS)  # the run is elsewhere when the answer comes
        answer(window, job, seconds=1.0)  # so slow that one image is asked for at a time
    assert {chain for _, chain in seen} == set(range(CHAINS))
    assert np.isfinite(window.lens._shown.class_part).all()


def test_no_more_maps_are_kept_than_there_is_room_for(
    window: _Window, asked: list[Job], run: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lens, "_BUDGET", 2 * 2 * run[0].pixels[0].nbytes)
    press(Qt.Key.Key_4, CONTROL)
    answer_all(window, asked)
    kept = window.lens._known(run).maps
    assert set(kept) == {(STEPS - 1, chain) for chain in range(CHAINS)}  # those in sight, come what may
    before = len(asked)
    window.sight.go_to(1)
    answer_all(window, asked)
    assert set(steps_of(run, asked[before:])) <= {(1, chain) for chain in range(CHAINS)}  # numbers are known for good


# Off, on and elsewhere -----------------------------------------------------------------------------------------------


def test_key_menu_and_button_are_one(window: _Window, asked: list[Job], run: Session) -> None:
    for act in (
        lambda: press(Qt.Key.Key_C),
        lambda: QTest.mouseClick(window.evolution.lens, Qt.MouseButton.LeftButton),
        window.action.trigger,
    ):
        act()
        assert window.action.isChecked()
        assert window.evolution.lens.isChecked()
        act()
        assert not window.action.isChecked()
        assert not window.evolution.lens.isChecked()
    assert window.evolution.lens.toolTip().endswith("(C)")


def test_turned_off_it_leaves_nothing_on_the_screen(window: _Window, asked: list[Job], run: Session) -> None:
    choose_curves(window, 3)
    press(Qt.Key.Key_5, CONTROL)
    answer(window, asked[0])
    job = asked[-1]
    press(Qt.Key.Key_C)
    assert job.cancelled
    assert window.evolution.view == "image"
    assert np.array_equal(picture(window.evolution, 1), images.hwc(images.to_uint8(run[STEPS - 1].pixels))[1])
    assert list(curves(window)) == ["‖x−x₀‖₂"]
    assert window.evolution.cost.text() == ""
    assert window.curves.told.isHidden()
    before = len(asked)
    answer(window, job)  # it was on its way
    assert len(asked) == before
    press(Qt.Key.Key_C)
    assert (STEPS - 1, 0) not in steps_of(run, asked[before:])  # what was known is known still


def test_another_run_wants_no_answers_of_the_one_before(window: _Window, asked: list[Job], run: Session) -> None:
    choose_curves(window, 2)
    press(Qt.Key.Key_4, CONTROL)
    late = asked[-1]
    other = scenario(steps=STEPS, chains=2, seed=1, size=4)
    window.player.show(other)
    assert late.cancelled
    assert len(asked) == 2
    answer(window, late)
    assert np.isnan(curves(window)["‖∇f‖₂"]).all()
    assert np.all(picture(window.evolution, 0) == QColor(theme.now().field).getRgb()[:3])
    answer_all(window, asked)
    expected = split(np.stack([step.pixels[0] for step in other]), other.start.labels[:1] * STEPS)
    assert curves(window)["‖∇f‖₂"] == pytest.approx(expected.class_norm, rel=1e-6)
    window.player.show(run)
    assert window.evolution.of_lens
    assert len(asked[-1].request.pixels[0, 0]) == 8


def test_what_goes_wrong_is_said_once_and_turns_it_off(window: _Window, asked: list[Job], run: Session) -> None:
    press(Qt.Key.Key_C)
    window.prober.told.emit(asked[0], [Note("32 images at once do not fit into memory.")])
    assert window.said == ["32 images at once do not fit into memory."]
    window.prober.ended.emit(asked[0], "net.pt is another file than it was.")
    assert window.said[1:] == ["net.pt is another file than it was."]
    assert not window.lens.on
    assert len(asked) == 1


def test_a_step_that_cannot_be_read_is_said(
    window: _Window, asked: list[Job], run: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    press(Qt.Key.Key_C)

    def lost(self: Session, index: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Session, "__getitem__", lost)
    answer(window, asked[0])
    assert "Input/output error" in window.said[0]
    assert not window.lens.on


def test_the_cost_is_measured(window: _Window, asked: list[Job], run: Session) -> None:
    press(Qt.Key.Key_C)
    assert window.evolution.cost.text() == "0 of 6 steps"
    answer(window, asked[0], seconds=0.25)
    assert window.evolution.cost.text() == "1 of 6 steps · 250 ms a step"
    worker = window.player._thread.worker
    window.player._run_id, worker.busy_steps, worker.busy_seconds = run.start.spec.id, 10, 12.0
    window.sight.go_to(1)
    assert window.evolution.cost.text() == "1 of 6 steps · 250 ms a step (run 1.2 s)"


# What is said of the parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "cosine", "said"),
    [
        ("TA", 0.5, "TA, ∇f − ∇LSE, keeps 50% of both lengths (cos 0.50): what tells dog from the rest."),
        ("RCS", 1, "RCS, ∇f + ∇LSE, keeps 100% of both lengths (cos 1.00): towards dog and where images are likely."),
        ("PGD", -1.0, "PGD, −∇f + ∇LSE, keeps 100% of both lengths (cos −1.00): what leads away from dog."),
        ("CS", 0.9, "CS, ∇f, leaves ∇LSE out (cos 0.90): along it E(x) falls."),
        ("CS", -0.9, "CS, ∇f, leaves ∇LSE out (cos −0.90): along it E(x) rises."),
        ("Langevin", 0.01, "Langevin, ∇LSE, leaves ∇f out (cos 0.01): along it E(x,dog) hardly changes."),
    ],
)  # fmt: skip
def test_the_parts_are_explained(preset: str, cosine: float, said: str) -> None:
    row = SAMPLERS[preset]
    drift = math.sqrt(4 * (row.a**2 + row.b**2 + 2 * row.a * row.b * cosine))  # both parts are 2 long
    assert explain(row, 2, 2, cosine, drift, "dog") == said


def test_weights_that_are_not_one_are_told() -> None:
    row = Sampler(name="custom", a=0.5, b=-2)
    assert explain(row, 4, 1, 0, math.sqrt(8), "dog").startswith("custom, 0.5∇f − 2∇LSE, keeps 71% of both lengths")
    assert "nothing but noise" in explain(Sampler(name="custom", a=0, b=0), 1, 1, 0, 0, "dog")


def test_what_is_not_known_is_not_explained() -> None:
    assert explain(SAMPLERS["TA"], math.nan, math.nan, math.nan, 1, "dog") == ""
    assert explain(SAMPLERS["TA"], 0, 1, math.nan, 1, "dog").startswith("∇f is zero here")
    assert explain(SAMPLERS["TA"], 1, 0, math.nan, 1, "dog").startswith("∇LSE is zero here")


def test_the_explanation_is_of_the_row_that_made_the_step(window: _Window, asked: list[Job], run: Session) -> None:
    choose_curves(window, 2)
    answer_all(window, asked)
    window.sight.go_to(2)
    assert window.curves.told.text().startswith("RCS, ∇f + ∇LSE,")
    window.sight.go_to(3)  # from where on the row was another
    assert window.curves.told.text().startswith("custom, 0.5∇f + ∇LSE,")
    assert window.curves.told.isVisible()
    choose_curves(window, 0)
    assert not window.curves.told.isVisible()
