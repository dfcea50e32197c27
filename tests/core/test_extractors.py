"""Extractors: Inception as torchmetrics has it, and any checkpoint that has features."""

from __future__ import annotations

import io
import pickle
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import little
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

from cem_core import checkpoints
from cem_core.evaluation import extractors
from cem_core.evaluation.extractors import Extractor, open_extractor
from cem_core.images import Bytes, prepare
from cem_core.messages import Refused
from cem_core.probes.requests import Subject


def pictures(n: int = 3, side: int = 16, channels: int = 3) -> Bytes:
    return np.random.default_rng(n).integers(0, 256, (n, side, side, channels), np.uint8)


def opened(path: Path, **choices: str) -> Extractor:
    return open_extractor(Subject(str(path), choices, device="cpu"))


# Checkpoints ------------------------------------------------------------------------------------------------------


def test_features_and_logits_are_those_of_the_model(tmp_path: Path) -> None:
    path = tiny.saved(tmp_path / "net.safetensors")
    extractor, (model, known) = opened(path), checkpoints.load(str(path), "cpu")
    pixels = pictures()
    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float() / 255
    found = extractor.features(pixels)
    assert found.logits is not None
    np.testing.assert_allclose(found.features, model.features(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.logits, model(x), rtol=1e-5, atol=1e-5)
    assert found.features.dtype == found.logits.dtype == np.float32
    assert found.features.shape == (3, extractor.length)
    assert (extractor.name, extractor.inception, extractor.sha256) == ("net", False, known.sha256)
    assert extractor.remarks(16) == ()
    again = extractor.features(pixels)
    assert np.array_equal(again.features, found.features)
    assert np.array_equal(again.logits, found.logits)


def test_precision_is_the_subjects_and_features_are_float32_still(tmp_path: Path) -> None:
    path = tiny.saved(tmp_path / "net.safetensors")
    rough = open_extractor(Subject(str(path), {}, "cpu", "bfloat16")).features(pictures())
    exact = opened(path).features(pictures())
    assert rough.features.dtype == np.float32
    assert not np.array_equal(rough.features, exact.features)
    np.testing.assert_allclose(rough.features, exact.features, atol=0.1)


def test_an_encoder_has_features_alone(tmp_path: Path) -> None:
    weights = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    found = opened(tiny.saved(tmp_path / "net.safetensors", weights)).features(pictures())
    assert found.features.shape == (3, tiny.WIDTH * 8)
    assert found.logits is None


@pytest.mark.parametrize(("name", "data"), [("a.pt", little.scripted), ("a.pt2", little.exported)])
def test_programs_give_logits_only(tmp_path: Path, name: str, data: Any) -> None:
    (tmp_path / name).write_bytes(data())
    with pytest.raises(Refused, match=rf"{name} gives logits only, being a .* program: choose"):
        opened(tmp_path / name)


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refused, match=r"There is no model or file called nowhere\.pt"):
        open_extractor(Subject("nowhere.pt"))


def test_features_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    weights = tiny.weights()
    weights["bn.bias"][0] = float("inf")
    with pytest.raises(Refused, match=r"net sees features that are no numbers"):
        opened(tiny.saved(tmp_path / "net.safetensors", weights)).features(pictures())


def test_images_of_another_size_are_scaled_as_files_are(tmp_path: Path) -> None:
    extractor = opened(tiny.saved(tmp_path / "net.safetensors"))
    pixels = pictures(1, 40)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    asked = prepare(tmp_path / "a.png", 16).pixels.transpose(1, 2, 0)[None] * 255
    wanted = extractor.features(asked.round().astype(np.uint8)).features
    np.testing.assert_array_equal(extractor.features(pixels).features, wanted)
    (said,) = extractor.remarks(40)
    assert said == "Images of 40×40 pixels are scaled to the 16×16 that net sees, by Lanczos' filter."


def test_grey_images_and_grey_extractors_go_with_colour(tmp_path: Path) -> None:
    colour = opened(tiny.saved(tmp_path / "net.safetensors"))
    about = {"mean": "[0.5]", "std": "[0.5]"}
    grey = opened(tiny.saved(tmp_path / "grey.safetensors", tiny.weights(channels=1), **about))
    one = pictures(channels=1)
    three = np.ascontiguousarray(np.broadcast_to(one, (*one.shape[:3], 3)))
    for extractor in (colour, grey):
        np.testing.assert_array_equal(extractor.features(one).features, extractor.features(three).features)
    assert colour.remarks(16, 1) == ("net sees the images with their grey in all three channels.",)
    assert grey.remarks(16, 3) == ("grey sees the images in grey.",)
    for act in (lambda: colour.features(pictures(channels=4)), lambda: colour.remarks(16, 4)):
        with pytest.raises(Refused, match="net sees images of 1 or 3 channels, not 4"):
            act()


@pytest.mark.parametrize(("size", "wanted"), [(32, 250), (64, 250), (224, 20), (299, 11), (2000, 1)])
def test_fewer_large_images_go_through_at_once(size: int, wanted: int) -> None:
    nothing: Any = None
    assert Extractor("net", False, size, 3, 8, "", (), nothing).at_once == wanted


def test_the_extractor_of_another_project_opens() -> None:
    """pyautoattack's ResNet-18, which is independent of the bundled models."""
    found = find_spec("pyautoattack")
    if found is None or found.origin is None:
        pytest.skip("wants pyautoattack")
    extractor = opened(Path(found.origin).parent / "examples/model_test.pt")
    assert (extractor.name, extractor.size, extractor.length) == ("model_test", 32, 512)
    seen = extractor.features(pictures(2, 32))
    assert seen.logits is not None
    assert (seen.features.shape, seen.logits.shape) == ((2, 512), (2, 10))


# Inception --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random ones, with the keys and shapes of torch-fidelity's, large enough that images differ."""
    module = extractors.module("torch_fidelity.feature_extractor_inceptionv3")
    kind, none = module.FeatureExtractorInceptionV3, io.BytesIO()
    torch.save({}, none)
    none.seek(0)
    with patch.object(kind, "load_state_dict"):
        network = kind("inception-v3-compat", ["2048"], none)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim == 4:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=random)
    path = tmp_path_factory.mktemp("inception") / "own.pth"
    torch.save(network.state_dict(), path)
    return path


def theirs(weights: Path, *features: str) -> tuple[Tensor, ...]:
    """What torchmetrics' own network sees in four pictures, read by torch-fidelity."""
    network = extractors.module("torchmetrics.image.fid").NoTrainInceptionV3(
        "inception-v3-compat", [*features], weights
    )
    x = torch.from_numpy(pictures(4, 32).transpose(0, 3, 1, 2).copy())
    found: tuple[Tensor, ...] = network._torch_fidelity_forward(x)
    return found


def test_it_is_torchmetrics_inception_with_the_logits_of_its_score(weights: Path) -> None:
    extractor = open_extractor(Subject("inception", {"weights": str(weights)}, device="cpu"))
    found = extractor.features(pictures(4, 32))
    features, logits = theirs(weights, "2048", "logits_unbiased")
    assert features.std(0).mean() > 1e-3
    assert found.logits is not None
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-5, atol=1e-5)
    assert (extractor.length, extractor.size, extractor.channels) == (2048, 299, 3)


def test_only_published_weights_make_it_inception(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = open_extractor(Subject("inception", {"weights": str(weights)}, device="cpu", precision="bfloat16"))
    assert (other.name, other.inception) == ("Inception of own.pth", False)
    said = other.remarks(299)
    assert said[0].startswith("own.pth is not torch-fidelity's weights-inception-2015-12-05-6726825d.pth, so its numb")
    assert said[1] == "Inception is used in float32, as FID is defined."
    monkeypatch.setattr(extractors, "_published", lambda: f"weights-{checkpoints.sha256(weights)[:8]}.pth")
    genuine = open_extractor(Subject("inception", {"weights": str(weights)}, device="cpu"))
    assert (genuine.name, genuine.inception) == ("Inception", True)
    assert genuine.remarks(299) == ()


def test_the_cache_of_torch_is_looked_into_and_nothing_is_fetched(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    with pytest.raises(Refused) as refused:
        open_extractor(Subject("inception", device="cpu"))
    assert f"put torch-fidelity's weights-inception-2015-12-05-6726825d.pth into {folder}, or say" in str(refused.value)
    folder.mkdir(parents=True)
    (folder / "weights-inception-2015-12-05-6726825d.pth").symlink_to(weights)
    assert open_extractor(Subject("inception", device="cpu")).length == 2048


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_weights_that_are_something_else_are_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"Conv2d_1a_3x3.conv.weight": Hostile(mark)}, tmp_path / "hostile.pth")
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Hostile(mark)))
    (tmp_path / "empty.pth").touch()
    (tmp_path / "program.pth").write_bytes(little.scripted())
    for name in ("hostile", "other", "list", "bare", "empty", "program"):
        with pytest.raises(Refused, match=rf"{name}\.pth (does not hold|is )") as refused, warnings.catch_warnings():
            open_extractor(Subject("inception", {"weights": str(tmp_path / f"{name}.pth")}, device="cpu"))
        assert "\n" not in str(refused.value)
    assert not mark.exists()


def test_inception_takes_no_other_choice(weights: Path) -> None:
    with pytest.raises(Refused, match="There is no 'head' to choose for Inception: only weights"):
        open_extractor(Subject("inception", {"weights": str(weights), "head": "x"}))
