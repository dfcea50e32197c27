"""Whether a model recognises the bundled images, and which other reading of its file would do better."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from cem_core import bundle, checkpoints
from cem_core.checkpoints import Check, checking, opening
from cem_core.messages import Refused

ROBUST = bundle.models()[bundle.DEFAULT_MODEL]


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    checkpoints.forget()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A good model without metadata, so that all must be guessed."""
    path = tmp_path_factory.mktemp("bare") / "net.safetensors"
    save_file(load_file(ROBUST), path)
    return str(path)


@pytest.mark.parametrize("name", ["cifar10-robust-l2", "cifar10-standard"])
def test_the_bundled_models_recognise_the_bundled_images(name: str) -> None:
    checked = checkpoints.check(name)
    assert checked is not None
    assert checked.total == len(bundle.samples())
    assert checked.right >= 0.8 * checked.total
    assert checked.well
    assert checked.better is None
    assert checked.sentence == ""
    assert checked.fact.value == f"{checked.right} of {checked.total} bundled images recognised"


def test_the_head_that_ships_fits_the_encoder_that_ships() -> None:
    checked = checkpoints.check("cifar10-contrastive-l2", {"head": "cifar10-contrastive-l2.linear.safetensors"})
    assert checked is not None
    assert checked.well
    _, found = checkpoints.load(
        "cifar10-contrastive-l2", "cpu", choices={"head": "cifar10-contrastive-l2.linear.safetensors"}
    )
    assert found.classes == checkpoints.inspect("cifar10-robust-l2").classes
    assert found.warnings == ()


RIGHT = {"activation": "silu", "normalisation": "CIFAR-10"}
HEADED = {"head": "cifar10-contrastive-l2.linear.safetensors"}


@pytest.mark.parametrize(("what", "value"), [("normalisation", "none"), ("shortcut input", "raw")])
def test_a_wrong_reading_is_noticed_and_the_right_one_told(what: str, value: str, bare: str) -> None:
    """The encoder minds more than the classifier, which hardly does where its shortcuts come from."""
    model, right = (bare, RIGHT) if what == "normalisation" else ("cifar10-contrastive-l2", HEADED)
    checked = checkpoints.check(model, {**right, what: value})
    assert checked is not None
    assert not checked.well
    assert checked.better is not None
    assert checked.better[:2] == (what, {"normalisation": "CIFAR-10", "shortcut input": "activated"}[what])
    assert checked.better[2] > checked.right
    better = checkpoints.check(model, {**right, what: checked.better[1]})
    assert better is not None
    assert (better.right, better.well) == (checked.better[2], True)
    assert checked.sentence == (
        f"Only {checked.right} of 20 bundled CIFAR-10 images are recognised: with {what} “{checked.better[1]}” it "
        f"would be {checked.better[2]}. Choose it under Details."
    )


def test_the_right_reading_needs_no_other(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_other_readings", lambda _: pytest.fail("no other was asked for"))
    checked = checkpoints.check(bare, RIGHT)
    assert checked is not None
    assert checked.well


def test_a_choice_with_spaces_is_the_same_as_with_underscores(bare: str) -> None:
    found = {key: checkpoints.check(bare, {**RIGHT, key: "raw"}) for key in ("shortcut_input", "shortcut input")}
    assert found["shortcut_input"] == found["shortcut input"]
    assert found["shortcut_input"] != checkpoints.check(bare, RIGHT)


def test_a_weak_model_is_said_to_be_one(tmp_path: Path) -> None:
    weights = tiny.weights() | {"linear.weight": torch.ones(10, 32), "linear.bias": torch.arange(10.0)}
    save_file(weights, tmp_path / "net.safetensors")
    checked = checkpoints.check(str(tmp_path / "net.safetensors"))
    assert checked is not None
    assert checked.right == 2, "every image is a truck to it"
    assert checked.better is None
    assert checked.sentence.endswith("the preprocessing may be wrong, the classes other ones, or the model weak.")


@pytest.mark.parametrize(
    "choices", [{"class_names": "numbers"}, {"class_names": "STL-10"}, {"class_names": "a,b,c,d,e,f,g,h,i,j"}]
)
def test_of_other_classes_the_images_say_nothing(choices: dict[str, str], bare: str) -> None:
    assert checkpoints.check(bare, {**RIGHT, **choices}) is None


def test_of_other_networks_the_images_say_nothing(tmp_path: Path) -> None:
    assert checkpoints.check(str(tiny.saved(tmp_path / "net.safetensors"))) is None
    grey = tiny.weights(channels=1) | {"linear.weight": torch.ones(10, 32), "linear.bias": torch.zeros(10)}
    save_file(grey, tmp_path / "grey.safetensors")
    assert checkpoints.check(str(tmp_path / "grey.safetensors"), {"class_names": "CIFAR-10"}) is None


def test_the_images_are_made_to_fit_the_model(bare: str) -> None:
    checked = checkpoints.check(bare, {**RIGHT, "image_size": "64"})
    assert checked is not None
    assert checked.total == 20


def asked(times: int) -> list[bool]:
    return [True] * times + [False] * 1000


@pytest.mark.parametrize("times", [0, 1, 3])
def test_it_can_be_ended_at_once(times: int, bare: str) -> None:
    answers = iter(asked(times))
    assert checkpoints.check(bare, {**RIGHT, "normalisation": "none"}, lambda: next(answers)) is None


@pytest.mark.parametrize("times", [5, 8, 20])
def test_ended_later_it_never_tells_what_it_has_not_seen(times: int, bare: str) -> None:
    answers = iter(asked(times))
    checked = checkpoints.check(bare, {**RIGHT, "normalisation": "none"}, lambda: next(answers))
    assert checked is None or (checked.right < 12 and checked.better is None)


def test_what_is_looked_at_once_is_not_kept(bare: str) -> None:
    model, _ = checkpoints.load(bare, "cpu", choices={**RIGHT, "normalisation": "none"})
    checkpoints.check(bare, {**RIGHT, "normalisation": "none"})
    assert len(opening._models) <= 2
    assert checkpoints.load(bare, "cpu", choices={**RIGHT, "normalisation": "none"})[0] is model


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="There is no model or file called"):
        checkpoints.check(str(tmp_path / "none"))


@pytest.mark.parametrize(("right", "well"), [(20, True), (12, True), (11, False), (0, False)])
def test_well_is_three_in_five(right: int, well: bool) -> None:
    assert Check(right, 20).well == well
    assert (Check(right, 20).sentence == "") == well
    assert not Check(right, 20, ("normalisation", "none", 20)).well, "where another reading is better by far"
