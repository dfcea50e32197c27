"""Numbers, presets, targets and chains."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAction
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QSlider, QSpinBox
from windows import Wait, checkpoint, chip_names, choose, choose_targets, discard, type_number

from cem_core.messages import MAX_CHAINS, MAX_STEPS, Refused, Sampler
from cem_core.presets import ABOUT, FROM_DRAWS, FROM_IMAGES, OF_IMAGES, SAMPLERS
from cem_gui.panels.sampler import RunPanel, SamplerPanel
from cem_gui.widgets.number import Number

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def panel(qtbot) -> Iterator[SamplerPanel]:
    panel = SamplerPanel()
    panel.resize(330, 900)
    panel.show_checkpoint(checkpoint(CIFAR), CIFAR)
    with qtbot.waitExposed(panel):
        panel.show()
    yield panel
    panel.close()
    discard(panel)


def slide(slider: QSlider, share: float) -> None:
    """Drag the handle to a share of the way."""
    slider.setSliderDown(True)
    slider.setSliderPosition(round(share * slider.maximum()))
    slider.setSliderDown(False)


def same(one: Sampler, other: Sampler) -> bool:
    """Whatever they are called."""
    return msgspec.structs.replace(one, name=other.name) == other


# Presets and numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if name != FROM_IMAGES and not row.coupled])
def test_a_preset_sets_every_number(panel: SamplerPanel, name: str) -> None:
    heard: list[Sampler] = []
    panel.changed.connect(heard.append)
    choose(panel.preset, name)
    row = SAMPLERS[name]
    assert heard[-1] == panel.sampler == row
    assert panel.about.text() == ABOUT[name]
    assert panel.ball.isChecked() == (row.radius is not None)
    assert panel.radius.isEnabled() == panel.random_start.isEnabled() == (row.radius is not None)
    assert panel.random_start.isChecked() == row.random_start
    assert panel.norm.currentData() == row.norm
    assert panel.normalised.isChecked() == row.normalised
    assert float(panel.steps.field.value()) == row.steps
    for number, value in ((panel.a, row.a), (panel.b, row.b), (panel.step_size, row.step_size)):
        assert number.field.value() == pytest.approx(value, abs=6e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_changing_one_number_leaves_the_others_exactly_as_they_were(panel: SamplerPanel, name: str) -> None:
    """8/255 is not 0.0314, though the field has no room for more."""
    panel.show_sampler(SAMPLERS[name])
    type_number(panel.b, "0.5")
    assert panel.sampler == msgspec.structs.replace(SAMPLERS[name], b=0.5)


def test_the_weights_turn_ta_into_cs_and_rcs(panel: SamplerPanel) -> None:
    choose(panel.preset, "TA")
    slide(panel.b.slider, 0.5)
    assert same(panel.sampler, SAMPLERS["CS"])
    slide(panel.b.slider, 0.75)
    type_number(panel.noise, "0.01")
    assert same(panel.sampler, SAMPLERS["RCS"])
    slide(panel.b.slider, 0.25)
    type_number(panel.noise, "0")
    assert panel.sampler == SAMPLERS["TA"]
    assert panel.about.text() == ABOUT["TA"]


def test_a_changed_preset_says_that_it_was_changed(panel: SamplerPanel) -> None:
    type_number(panel.a, "0.9")
    assert panel.about.text() == f"{FROM_IMAGES} with changed numbers."
    choose(panel.preset, "CS")
    choose(panel.preset, FROM_IMAGES)
    assert panel.sampler == SAMPLERS[FROM_IMAGES]


def test_showing_a_sampler_is_silent(qtbot, panel: SamplerPanel) -> None:
    with qtbot.assertNotEmitted(panel.changed), qtbot.assertNotEmitted(panel.chains_changed):
        for row in SAMPLERS.values():
            panel.show_sampler(row)
        panel.set_count(7)
        panel.set_seed(11)


def test_ball_and_random_start(panel: SamplerPanel) -> None:
    choose(panel.preset, "PGD")
    QTest.mouseClick(panel.ball, Qt.MouseButton.LeftButton, pos=QPoint(8, panel.ball.height() // 2))
    assert panel.sampler.radius is None
    assert not panel.sampler.random_start
    assert not panel.random_start.isEnabled()
    QTest.mouseClick(panel.ball, Qt.MouseButton.LeftButton, pos=QPoint(8, panel.ball.height() // 2))
    assert panel.sampler == SAMPLERS["PGD"]


@pytest.mark.parametrize("name", ["a", "b", "step_size", "noise", "radius", "steps"])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "9" * 40, "-" + "9" * 40, "", "-", ".", "0x10", "½"])
def test_nothing_that_is_typed_breaks_it(panel: SamplerPanel, name: str, text: str) -> None:
    problems: list[str] = []
    panel.problem.connect(problems.append)
    choose(panel.preset, "PGD-targeted")
    type_number(getattr(panel, name), text)
    sampler = panel.sampler
    msgspec.structs.replace(sampler)  # would refuse what is out of range
    assert all(math.isfinite(v) for v in (sampler.a, sampler.b, sampler.step_size, sampler.noise, sampler.radius))
    assert 1 <= sampler.steps <= MAX_STEPS
    assert problems == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("name", ["a", "b", "step_size", "noise", "radius", "steps"])
def test_nor_does_a_program_break_it(panel: SamplerPanel, name: str, value: float) -> None:
    getattr(panel, name).field.setValue(value)
    msgspec.structs.replace(panel.sampler)


def test_what_is_refused_is_said_and_undone(qtbot, panel: SamplerPanel, monkeypatch) -> None:
    before = panel.sampler

    def refuse(*_: object, **__: object) -> None:
        raise Refused("That is no number.")

    with monkeypatch.context() as patch:
        patch.setattr(msgspec.structs, "replace", refuse)
        with qtbot.waitSignal(panel.problem) as problem, qtbot.assertNotEmitted(panel.changed):
            type_number(panel.a, "0.5")
    assert problem.args == ["That is no number."]
    assert panel.sampler == before
    assert panel.a.field.value() == before.a


@pytest.mark.parametrize(("text", "expected"), [("0", 60), ("-5", 5), ("12", 12), ("100000", 100_000)])
def test_steps(panel: SamplerPanel, text: str, expected: int) -> None:
    """What cannot be is not taken: no steps at all leaves the number that was, and a minus cannot be typed."""
    type_number(panel.steps, text)
    assert panel.sampler.steps == expected


# A number by itself --------------------------------------------------------------------------------------------------


@pytest.fixture
def number(qtbot) -> Iterator[Number]:
    number = Number("Noise", 1e-4, 1, least=0, most=10, decimals=4, logarithmic=True)
    with qtbot.waitExposed(number):
        number.show()
    yield number
    number.close()
    discard(number)


def test_slider_and_field_follow_each_other(number: Number) -> None:
    heard: list[float] = []
    number.changed.connect(heard.append)
    slide(number.slider, 0.5)
    assert number.field.value() == pytest.approx(0.01)
    type_number(number, "1")
    assert number.slider.value() == number.slider.maximum()
    slide(number.slider, 0)
    assert number.value == 0
    type_number(number, "7.5")  # beyond the slider, within the field
    assert number.slider.value() == number.slider.maximum()
    assert heard == [pytest.approx(0.01), 1, 0, 7.5]
    assert number.value == 7.5


def test_a_value_that_is_set_is_kept_exactly_and_silently(qtbot, number: Number) -> None:
    with qtbot.assertNotEmitted(number.changed):
        number.set(8 / 255)
    assert number.value == 8 / 255
    number.field.setFocus()
    number.field.clearFocus()
    assert number.value == 8 / 255


def test_the_arrows_move_the_slider(number: Number) -> None:
    number.set(0.01)
    number.slider.setFocus()
    QTest.keyClick(number.slider, Qt.Key.Key_Right)
    assert number.value > 0.01


# Targets -------------------------------------------------------------------------------------------------------------


def test_every_class_is_a_chip_and_chosen(panel: SamplerPanel) -> None:
    assert panel.targets == list(range(10))
    assert [chip.text() for chip in chip_names(panel.chips).values()] == list(CIFAR)
    assert not panel.chips._search.isVisible()


def test_a_click_chooses_and_another_unchooses(qtbot, panel: SamplerPanel) -> None:
    chip = chip_names(panel.chips)[3]
    with qtbot.waitSignal(panel.targets_changed):
        QTest.mouseClick(chip, Qt.MouseButton.LeftButton)
    assert 3 not in panel.targets
    QTest.mouseClick(chip, Qt.MouseButton.LeftButton)
    assert 3 in panel.targets


def test_space_chooses_a_chip_that_has_the_focus(panel: SamplerPanel) -> None:
    """Although Space belongs to the window."""
    runs: list[bool] = []
    run = QAction("Run", panel)
    run.setShortcut("Space")
    run.triggered.connect(runs.append)
    panel.addAction(run)
    panel.activateWindow()
    chip = chip_names(panel.chips)[3]
    chip.setFocus(Qt.FocusReason.TabFocusReason)
    QTest.keyClick(chip, Qt.Key.Key_Space)
    assert 3 not in panel.targets
    assert runs == []


def test_what_was_chosen_stays_for_the_same_classes_only(panel: SamplerPanel) -> None:
    choose_targets(panel.chips, [2, 5])
    panel.show_checkpoint(checkpoint(CIFAR, size=64), ())
    assert panel.targets == [2, 5]
    panel.show_checkpoint(checkpoint(("cat", "dog")), ())
    assert panel.targets == [0, 1]


def test_a_thousand_classes(panel: SamplerPanel, wait: Wait) -> None:
    names = [f"class {i}, which is a rather long name of the kind that ImageNet has" for i in range(1000)]
    names[777] = "tench & chips, Tinca tinca"
    height = panel.height()
    panel.show_checkpoint(checkpoint(names), ())
    assert panel.targets == list(range(10))
    assert len(chip_names(panel.chips)) == 24
    assert panel.chips._search.isVisible()
    assert panel.chips._more.text() == "and 976 more: type to find them"
    for chip in chip_names(panel.chips).values():
        assert chip.sizeHint().width() < 220
        assert chip.toolTip() == f"{names[chip.property('index')]} (class {chip.property('index')})"
    QTest.keyClicks(panel.chips._search, "TENCH & c")
    assert set(chip_names(panel.chips)) == {*range(10), 777}
    assert not panel.chips._more.isVisible()
    QTest.mouseClick(chip_names(panel.chips)[777], Qt.MouseButton.LeftButton)
    assert 777 in panel.targets
    panel.chips._search.clear()
    assert 777 in chip_names(panel.chips)  # what is chosen can always be unchosen
    assert 777 in panel.targets
    QTest.keyClicks(panel.chips._search, "no such class")
    assert set(chip_names(panel.chips)) == {*range(10), 777}
    assert panel.height() == height


def test_the_space_key_types_a_space_into_the_search(panel: SamplerPanel) -> None:
    panel.show_checkpoint(checkpoint([f"class {i}" for i in range(100)]), ())
    panel.chips._search.setFocus()
    QTest.keyClicks(panel.chips._search, "class 9 ")
    assert panel.chips._search.text() == "class 9 "


@pytest.mark.parametrize("name", SAMPLERS)
def test_targets_are_hidden_where_they_have_no_meaning(panel: SamplerPanel, name: str) -> None:
    panel.show_sampler(SAMPLERS[name])
    flees = SAMPLERS[name].a < 0
    assert panel.fleeing.isVisible() == flees
    assert panel.chips.isVisible() == (not flees)


def test_turning_to_flight_changes_the_chains(qtbot, panel: SamplerPanel) -> None:
    with qtbot.waitSignal(panel.chains_changed):
        choose(panel.preset, "PGD")
    with qtbot.waitSignal(panel.chains_changed):
        slide(panel.a.slider, 0.75)
    with qtbot.assertNotEmitted(panel.chains_changed):
        slide(panel.a.slider, 0.8)


# Encoders ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def of_encoder(panel: SamplerPanel) -> SamplerPanel:
    panel.show_checkpoint(checkpoint(()), CIFAR)
    return panel


def test_an_encoder_has_an_image_in_place_of_classes(of_encoder: SamplerPanel) -> None:
    assert of_encoder.sampler == SAMPLERS["CS"]
    assert of_encoder.towards.isVisible()
    assert of_encoder.reference.isVisible()
    assert not of_encoder.chips.isVisible()
    of_encoder.show_checkpoint(checkpoint(CIFAR), CIFAR)
    assert of_encoder.sampler == SAMPLERS[FROM_IMAGES]
    assert of_encoder.chips.isVisible()
    assert not of_encoder.towards.isVisible()
    assert not of_encoder.reference.isVisible()


def test_the_targets_outlast_an_encoder(panel: SamplerPanel) -> None:
    choose_targets(panel.chips, [2, 5])
    panel.show_checkpoint(checkpoint(()), ())
    panel.show_checkpoint(checkpoint(CIFAR), CIFAR)
    assert panel.targets == [2, 5]


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_is_wanted_only_where_there_is_a_way_to_it(of_encoder: SamplerPanel, name: str) -> None:
    of_encoder.show_sampler(SAMPLERS[name])
    assert of_encoder.towards.isVisible() == (SAMPLERS[name].a > 0)
    assert of_encoder.fleeing.isVisible() == (SAMPLERS[name].a < 0)
    assert not of_encoder.chips.isVisible()


def test_coupled_rows_are_of_encoders_and_take_two_chains(panel: SamplerPanel) -> None:
    coupled = [name for name, row in SAMPLERS.items() if row.coupled]
    choose(panel.preset, list(SAMPLERS)[len(SAMPLERS) - len(coupled) - 1])
    QTest.keyClick(panel.preset, Qt.Key.Key_Down)
    assert not panel.sampler.coupled
    for name in coupled:
        tip = panel.preset.itemData(panel.preset.findData(name), Qt.ItemDataRole.ToolTipRole)
        assert "open an encoder" in tip
    panel.set_count(1)
    panel.show_checkpoint(checkpoint(()), CIFAR)
    for name in coupled:
        choose(panel.preset, name)
        assert panel.sampler == SAMPLERS[name]
        assert panel.count.value() >= 2
    panel.show_checkpoint(checkpoint(CIFAR), CIFAR)
    assert not panel.sampler.coupled


def test_a_row_is_told_in_terms_of_what_the_model_has(panel: SamplerPanel) -> None:
    choose(panel.preset, "CS")
    assert panel.about.text() == ABOUT["CS"]
    panel.show_checkpoint(checkpoint(()), ())
    assert panel.about.text() == OF_IMAGES["CS"]
    for name in SAMPLERS:
        assert "class" not in OF_IMAGES[name] or "No class" in OF_IMAGES[name]


def test_a_changed_coupled_row_stays_coupled(of_encoder: SamplerPanel) -> None:
    choose(of_encoder.preset, "MaxEnt")
    type_number(of_encoder.noise, "0.05")
    assert of_encoder.sampler == msgspec.structs.replace(SAMPLERS["MaxEnt"], noise=0.05)


def test_draws_bring_the_row_that_spreads(of_encoder: SamplerPanel) -> None:
    choose(of_encoder.start, "overall")
    assert of_encoder.sampler == SAMPLERS["MaxEnt"]
    choose(of_encoder.start, "image")
    assert of_encoder.sampler == SAMPLERS["CS"]


def test_the_class_of_a_gaussian(qtbot, of_encoder: SamplerPanel) -> None:
    assert not of_encoder.gaussian.isVisible()
    choose(of_encoder.start, "gaussian")
    assert of_encoder.gaussian.isVisible()
    assert of_encoder.gaussian_class == ""
    with qtbot.waitSignal(of_encoder.chains_changed):
        choose(of_encoder.gaussian, "cat")
    assert of_encoder.gaussian_class == "cat"
    choose(of_encoder.start, "overall")
    assert not of_encoder.gaussian.isVisible()


def test_how_images_are_compared(qtbot, of_encoder: SamplerPanel) -> None:
    reference = of_encoder.reference
    assert not reference.temperature.isVisible()
    QTest.mouseClick(reference.fold, Qt.MouseButton.LeftButton)
    assert reference.temperature.isVisible()
    with qtbot.waitSignal(of_encoder.chains_changed):
        type_number(reference.temperature, "0.2")
    with qtbot.waitSignal(of_encoder.chains_changed):
        QTest.mouseClick(reference.cosine, Qt.MouseButton.LeftButton, pos=QPoint(8, reference.cosine.height() // 2))
    assert (reference.cosine.isChecked(), reference.temperature.value) == (False, 0.2)


# Chains --------------------------------------------------------------------------------------------------------------


def test_the_start_brings_the_preset_that_suits_it(qtbot, panel: SamplerPanel) -> None:
    with qtbot.waitSignals([panel.changed, panel.chains_changed]):
        choose(panel.start, "gaussian")
    assert panel.sampler == SAMPLERS[FROM_DRAWS]
    choose(panel.start, "image")
    assert panel.sampler == SAMPLERS[FROM_IMAGES]


def test_a_preset_that_was_tuned_is_left_alone(panel: SamplerPanel) -> None:
    type_number(panel.a, "0.75")
    tuned = panel.sampler
    choose(panel.start, "noise")
    assert panel.sampler == tuned


def test_class_gaussians_only_where_there_are_some(panel: SamplerPanel) -> None:
    choose(panel.start, "gaussian")
    panel.show_checkpoint(checkpoint(("cat", "dog")), ())
    assert panel.start_kind == "image"
    QTest.keyClick(panel.start, Qt.Key.Key_Down)
    assert panel.start_kind == "noise"  # the Gaussians are passed over
    panel.show_checkpoint(checkpoint(CIFAR), CIFAR)
    choose(panel.start, "gaussian")


def test_a_replay_buffer_is_offered_where_there_is_one(panel: SamplerPanel) -> None:
    kinds = [panel.start.itemData(i) for i in range(panel.start.count())]
    energy_based = msgspec.structs.replace(checkpoint(CIFAR), replay=10_000)
    for _ in range(2):
        panel.show_checkpoint(energy_based, CIFAR)
    assert [panel.start.itemData(i) for i in range(panel.start.count())] == [*kinds, "replay"]
    assert "10,000 images" in panel.start.itemData(len(kinds), Qt.ItemDataRole.ToolTipRole)
    choose(panel.start, "replay")
    assert panel.sampler == SAMPLERS[FROM_DRAWS]
    panel.show_checkpoint(energy_based, ())
    assert panel.start_kind == "replay"
    panel.show_checkpoint(checkpoint(CIFAR), CIFAR)
    assert panel.start_kind == "image"
    assert [panel.start.itemData(i) for i in range(panel.start.count())] == kinds


@pytest.mark.parametrize(("field", "text", "least", "most"), [("count", "0", 1, 1), ("count", "9999", 999, MAX_CHAINS)])
def test_the_number_of_chains_stays_in_its_range(
    panel: SamplerPanel, field: str, text: str, least: int, most: int
) -> None:
    type_into(getattr(panel, field), text)
    assert least <= panel.count.value() <= most


def test_number_and_seed_change_the_chains(qtbot, panel: SamplerPanel) -> None:
    for spin in (panel.count, panel.seed):
        with qtbot.waitSignal(panel.chains_changed):
            type_into(spin, "5")
        assert spin.value() == 5


def type_into(spin: QSpinBox, text: str) -> None:
    spin.setFocus()
    spin.selectAll()
    QTest.keyClicks(spin, text)
    QTest.keyClick(spin, Qt.Key.Key_Return)


# The buttons ---------------------------------------------------------------------------------------------------------


def test_the_buttons_do_and_show_what_their_actions_do(qtbot, qapp) -> None:
    actions = [QAction(name) for name in ("Run", "Step", "Stop")]
    actions[0].setShortcut("Space")
    panel = RunPanel(*actions)
    qtbot.addWidget(panel)
    for button, action in zip((panel.run, panel.step, panel.stop), actions, strict=True):
        with qtbot.waitSignal(action.triggered):
            QTest.mouseClick(button, Qt.MouseButton.LeftButton)
        assert button.text() == action.text()
    assert panel.run.toolTip() == "Run (Space)"
    actions[0].setIconText("Pause")
    actions[1].setEnabled(False)
    assert panel.run.text() == "Pause"
    assert not panel.step.isEnabled()
