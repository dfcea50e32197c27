"""A linear head for an encoder: known separators, and what becomes of it as a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from cem_core import bundle, checkpoints, cli, fitting, images
from cem_core.checkpoints import choices as chosen
from cem_core.messages import Refused
from cem_core.probes.requests import Data, Subject

SAMPLES = bundle.samples()
NAMES = sorted({bundle.sample_class(path) for path in SAMPLES})


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The fit ----------------------------------------------------------------------------------------------------------


def test_it_recovers_the_layer_that_labels_were_drawn_with() -> None:
    """Labels from softmax(Wx + b): logistic regression is consistent, up to what all logits share."""
    x, true, bias = normal(60_000, 4) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 5, normal(3, 4, seed=1), normal(3, seed=2)
    true = true / torch.tensor([1.0, 10.0, 0.1, 3.0])
    bias = bias - true @ torch.full((4,), 5.0, dtype=torch.float64)
    labels = torch.multinomial((x @ true.T + bias).softmax(1), 1, generator=torch.Generator().manual_seed(3))[:, 0]
    weight, found = fitting.fit(x.float(), labels, 3, penalty=0)
    assert weight.dtype == torch.float64
    logits, expected = x @ weight.T + found, x @ true.T + bias
    gap = (logits - logits.mean(1, keepdim=True)) - (expected - expected.mean(1, keepdim=True))
    assert float(gap.std()) < 0.04


@pytest.mark.parametrize("penalty", [1e-4, 1e-1])
def test_it_ends_where_the_gradient_of_its_objective_vanishes(penalty: float) -> None:
    x, labels = normal(200, 6) * 7 + 3, torch.arange(200) % 4
    weight, bias = fitting.fit(x, labels, 4, penalty)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    w, b = (weight * deviation).requires_grad_(), (bias + weight @ mean).requires_grad_()
    loss = functional.cross_entropy((x - mean) / deviation @ w.T + b, labels) + penalty / 2 * (w**2).sum()
    for gradient in torch.autograd.grad(loss, (w, b)):
        assert gradient.abs().max() < 1e-5


def test_classes_that_a_plane_parts_are_parted_and_features_that_never_change_say_nothing() -> None:
    x = normal(300, 5)
    x[:, 2] = 4.0
    x = x[(x[:, 0] - 2 * x[:, 1] - 0.1).abs() > 0.3]
    labels = (x[:, 0] - 2 * x[:, 1] > 0.1).long()
    weight, bias = fitting.fit(x, labels, 2)
    assert torch.equal((x @ weight.T + bias).argmax(1), labels)
    towards = weight[1] - weight[0]
    assert float(towards[1] / towards[0]) == pytest.approx(-2, rel=0.1)
    assert weight[:, 2].abs().max() == 0
    assert torch.equal(fitting.fit(x, labels, 2)[0], weight), "the same again"


# The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for path in SAMPLES:
        (tmp_path / "data" / bundle.sample_class(path)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / bundle.sample_class(path))
    return tmp_path / "data"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    features = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    return tiny.saved(tmp_path / "net.safetensors", features)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_a_fitted_head_is_found_beside_its_encoder_and_has_the_classes_of_the_data(data: Path, encoder: Path) -> None:
    result = run("fit-head", "--checkpoint", encoder, "--data", data)
    assert result.exit_code == 0, result.output
    made = encoder.with_name("net.linear.safetensors")
    assert result.stdout.splitlines() == [
        f"{made}: 10 classes, 100.0 % of the 20 images that it was fitted to",
        f"To use it: --checkpoint {encoder} --assume head=net.linear.safetensors",
    ]
    choices = {"head": made.name}
    model, known = checkpoints.load(str(encoder), "cpu", choices=choices)
    assert known.classes == tuple(NAMES)
    assert known.fact("class names").source == "file"
    pixels = torch.from_numpy(np.stack([images.prepare(path, known.size).pixels for path in SAMPLES]))
    with torch.no_grad():
        seen = model(pixels).argmax(1).tolist()
    assert [NAMES[label] for label in seen] == [bundle.sample_class(path) for path in SAMPLES]
    with safe_open(made, framework="pt") as file:
        assert json.loads(file.metadata()["classes"]) == NAMES
        assert file.metadata()["encoder_sha256"] == checkpoints.inspect(str(encoder)).sha256


def test_a_head_is_fitted_anew_whichever_was_chosen_before(
    data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "user_config_path", lambda _: tmp_path / "config")
    run("fit-head", "--checkpoint", encoder, "--data", data)
    made = encoder.with_name("net.linear.safetensors")
    before = made.read_bytes()
    checkpoints.remember(checkpoints.inspect(str(encoder)).sha256, {"head": made.name, "class_names": "numbers"})
    shutil.rmtree(data / "cat")
    result = run("fit-head", "--checkpoint", encoder, "--data", data)
    assert result.exit_code == 0, result.output
    assert "9 classes" in result.stdout
    assert made.read_bytes() != before


def test_a_head_that_was_fitted_to_other_features_is_told(data: Path, encoder: Path) -> None:
    run("fit-head", "--checkpoint", encoder, "--data", data)
    choices = {"head": "net.linear.safetensors"}
    assert checkpoints.inspect(str(encoder), choices).warnings == ()
    tiny.saved(encoder, {key: value for key, value in tiny.weights(1).items() if not key.startswith("linear")})
    (warning,) = checkpoints.inspect(str(encoder), choices).warnings
    assert warning.startswith("Its head was fitted to the features of another file")
    assert checkpoints.inspect(str(encoder)).warnings == ()


def test_what_is_probed_is_the_encoder_with_the_head(data: Path, encoder: Path) -> None:
    refused = run("probe", "--checkpoint", encoder, "--data", data, "--eps", "0")
    assert refused.exit_code == 1
    assert "choose a head for it (under Details, or --assume head=…), or fit one with cem-explorer fit-head." in (
        refused.stderr
    )
    run("fit-head", "--checkpoint", encoder, "--data", data)
    result = run("probe", "--checkpoint", encoder, "--assume", "head=net.linear.safetensors", "--data", data, "--eps",
                 "0,4", "--steps", 2, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    clean, robust = json.loads(result.stdout)
    assert clean["accuracy"] == 1
    assert robust["accuracy"] < 1


def test_a_head_that_lies_elsewhere_is_not_offered_and_that_is_said(data: Path, encoder: Path, tmp_path: Path) -> None:
    result = run("fit-head", "--checkpoint", encoder, "--data", data, "--num", 20, "--out", tmp_path / "other.bin")
    assert result.exit_code == 0, result.output
    assert "It is offered once it lies beside the encoder" in result.stdout


def test_what_cannot_be_fitted_is_refused(data: Path, encoder: Path, tmp_path: Path) -> None:
    def refused(reference: object, given: Path = data, out: Path | None = None, **choices: str) -> str:
        with pytest.raises(Refused) as caught:
            list(fitting.fit_head(Subject(str(reference), choices, "cpu"), Data(str(given)), out))
        return str(caught.value)

    classifier = tiny.saved(tmp_path / "classifier.safetensors")
    assert "classifier.safetensors has a head of its own" in refused(classifier)
    assert "classifier.safetensors has a head of its own" in refused(classifier, head="none")
    assert "net.safetensors is the encoder itself" in refused(encoder, out=encoder)
    for out in (tmp_path / "nowhere" / "x.safetensors", tmp_path, tmp_path / ("x" * 300)):  # before any image is read
        assert "cannot be written" in refused(encoder, tmp_path / "missing", out)
    assert "There is no folder or archive" in refused(encoder, tmp_path / "missing")
    shutil.copytree(data / "cat", tmp_path / "one" / "cat")
    assert "has one class, cat: a head needs two or more" in refused(encoder, tmp_path / "one")
    for path in (data / "cat").iterdir():
        path.write_bytes(b"no image")
    assert "There is no image of cat in" in refused(encoder)
    broken = tiny.weights()
    broken["conv1.weight"][:] = torch.nan
    del broken["linear.weight"], broken["linear.bias"]
    shutil.rmtree(data / "cat")
    assert "are no finite numbers" in refused(tiny.saved(tmp_path / "broken.safetensors", broken))
    assert not encoder.with_name("net.linear.safetensors").exists()


def test_a_head_is_not_listed_as_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    for name in ("b", "cifar10-standard", "a", "cifar10-robust-l2", "a.linear"):
        (tmp_path / "models" / f"{name}.safetensors").touch()
    monkeypatch.setattr(bundle, "ASSETS", tmp_path)
    assert list(bundle.models()) == ["cifar10-robust-l2", "cifar10-standard", "a", "b"]
