from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from plain import PlainNet
from safetensors.torch import save
from torch import Tensor

from cem_core import bundle, checkpoints, starts
from cem_core.checkpoints import understanding
from cem_core.messages import Chain, ImageStart, Refused
from cem_core.models import Evidence, Model, Normalisation, preact_resnet


def images(size: int = 16, count: int = 5, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(3))


def torch_file(found: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(found, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def facts(report: Any) -> dict[str, tuple[str, str]]:
    return {fact.what: (fact.value, fact.source) for fact in report.facts}


# The bundled models -----------------------------------------------------------------------------------------------


def test_the_default_model_and_its_twin_are_the_first() -> None:
    assert list(bundle.models())[:2] == ["cifar10-robust-l2", "cifar10-standard"]
    assert (bundle.DEFAULT_MODEL, bundle.TWIN) == ("cifar10-robust-l2", "cifar10-standard")


@pytest.mark.parametrize("name", ["cifar10-robust-l2", "cifar10-standard"])
def test_a_bundled_model_loads_by_name(name: str) -> None:
    model, report = checkpoints.load(name, "cpu")
    path = bundle.models()[name]
    assert report.name == name
    assert Path(report.path) == path.resolve()
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.title == "PreAct ResNet-18"
    assert report.family == "preact_resnet"
    assert report.parameters == 2_796_714
    assert report.classes == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert (report.channels, report.size) == (3, 32)
    assert report.ignored == ()
    known = facts(report)
    assert known.pop("trained against", None) == (("L2, ε = 0.65", "file") if name == bundle.DEFAULT_MODEL else None)
    assert re.match(r"\d+\.\d % clean, \d+\.\d % at L2 0\.25, ", known.pop("accuracy")[0])
    assert known == {
        "family": ("PreAct ResNet-18", "file"),
        "depth": ("18", "file"),
        "width": ("32", "file"),
        "activation": ("silu", "file"),
        "shortcut input": ("activated", "file"),
        "classes": ("10", "file"),
        "head": ("own", "file"),
        "normalisation": ("CIFAR-10", "file"),
        "image size": ("32", "file"),
        "class names": ("CIFAR-10", "file"),
    }
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    norms = [where for where, part in model.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms == [f"net.layer{stage}.{block}.bn1" for stage in (1, 2, 3, 4) for block in (0, 1)] + ["net.bn"], (
        "those after a convolution are folded into it"
    )


def test_a_bundled_model_has_its_name_behind_a_link_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linked").symlink_to(bundle.ASSETS, target_is_directory=True)
    monkeypatch.setattr(bundle, "ASSETS", tmp_path / "linked")
    checkpoints.forget()
    assert checkpoints.load(bundle.DEFAULT_MODEL, "cpu")[1].name == bundle.DEFAULT_MODEL


@pytest.mark.parametrize("name", ["cifar10-robust-l2", "cifar10-standard"])
def test_bundled_logits_and_gradients_are_those_of_the_network_as_described(name: str) -> None:
    model, report = checkpoints.load(name, "cpu")
    plain = PlainNet(bundle.models()[name])
    chains = [Chain(ImageStart(str(path))) for path in bundle.samples()]
    for x in (torch.from_numpy(starts.make(report, chains)[0]), images(32)):
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        logits, expected = model(ours), plain(theirs)
        assert torch.allclose(logits, expected, atol=1e-4, rtol=1e-4)
        (gradient,) = torch.autograd.grad(logits[:, 3].sum(), ours)
        (other,) = torch.autograd.grad(expected[:, 3].sum(), theirs)
        assert torch.allclose(gradient, other, atol=1e-4, rtol=1e-3)


def test_both_bundled_classifiers_know_the_sample_images() -> None:
    chains = [Chain(ImageStart(str(path))) for path in bundle.samples()]
    for name in (bundle.DEFAULT_MODEL, bundle.TWIN):
        model, report = checkpoints.load(name, "cpu")
        seen = model(torch.from_numpy(starts.make(report, chains)[0])).argmax(1)
        shown = [report.classes.index(bundle.sample_class(path)) for path in bundle.samples()]
        assert len(shown) >= 20
        assert (seen == torch.tensor(shown)).float().mean() >= 0.8


def test_bfloat16_is_near_float32() -> None:
    exact, half = (checkpoints.load(bundle.DEFAULT_MODEL, "cpu", precision)[0] for precision in ("float32", "bfloat16"))
    assert half(images(32)).dtype == torch.float32
    assert torch.allclose(exact(images(32)), half(images(32)), atol=0.2)
    assert not torch.equal(exact(images(32)), half(images(32)))


# Networks of every shape that is known ----------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("shortcut", ["activated", "raw"])
def test_folding_changes_nothing(tmp_path: Path, blocks: int, channels: int, activation: str, shortcut: str) -> None:
    tensors = tiny.weights(blocks=blocks, channels=channels)
    grey = {"mean": "[0.3]", "std": "[0.2]"} if channels == 1 else {}
    path = tiny.saved(tmp_path / "net", tensors, activation=activation, shortcut_input=shortcut, **grey)
    model, report = checkpoints.load(str(path), "cpu")
    x = images(channels=channels)
    assert torch.allclose(model(x), PlainNet(path)(x), atol=1e-5, rtol=1e-4)
    assert report.title == f"PreAct ResNet-{2 + 8 * blocks}"
    assert report.channels == channels
    assert facts(report)["activation"] == (activation, "file")
    assert facts(report)["shortcut input"] == (shortcut, "file")


def test_what_a_bare_state_dict_does_not_say_is_marked_as_guessed(tmp_path: Path) -> None:
    _, report = checkpoints.load(str(written(tmp_path / "net.safetensors", save(tiny.weights()))), "cpu")
    known = facts(report)
    assert {what for what, (_, source) in known.items() if source == "guess"} == {
        "activation", "shortcut input", "normalisation", "image size", "class names",
    }  # fmt: skip
    assert report.classes == ("class 0", "class 1", "class 2")
    assert report.size == 32
    assert known["normalisation"][0] == "CIFAR-10", "there are too few filters to ask"


@pytest.mark.parametrize(
    "odd",
    [
        {"mean": "nonsense", "classes": "{", "image_size": "wide"},
        {"mean": "[0.5]", "std": "[1]", "classes": '["a"]'},
        {"mean": "[]", "classes": "[1, 2, 3]"},
    ],
)
def test_metadata_that_does_not_fit_is_left_aside(tmp_path: Path, odd: dict[str, str]) -> None:
    _, report = checkpoints.load(str(tiny.saved(tmp_path / "net", **odd)), "cpu")
    assert facts(report)["normalisation"][1] == "guess"
    assert report.classes == ("class 0", "class 1", "class 2")


def test_keys_that_the_network_does_not_use_are_named(tmp_path: Path) -> None:
    tensors = tiny.weights() | {"ema_decay": torch.zeros(1), "aux.weight": torch.zeros(2, 2)}
    assert checkpoints.load(str(tiny.saved(tmp_path / "net", tensors)), "cpu")[1].ignored == ("aux.weight", "ema_decay")


def test_weights_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    tensors = tiny.weights()
    tensors["layer2.0.conv1.weight"][0, 0] = torch.nan
    report = checkpoints.inspect(str(tiny.saved(tmp_path / "net", tensors)))
    assert report.warnings == (
        "layer2.0.conv1.weight holds NaN or infinity: its weights are broken, and no run will get far.",
    )
    assert checkpoints.inspect(str(tiny.saved(tmp_path / "net"))).warnings == ()


def test_missing_batch_counters_are_no_obstacle(tmp_path: Path) -> None:
    tensors = {key: value for key, value in tiny.weights().items() if "num_batches" not in key}
    slim = checkpoints.load(str(tiny.saved(tmp_path / "slim", tensors)), "cpu")[0]
    full = checkpoints.load(str(tiny.saved(tmp_path / "full")), "cpu")[0]
    assert torch.equal(slim(images()), full(images()))


# Containers and wrappings -----------------------------------------------------------------------------------------


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tiny.weights().items()}


WRAPPINGS: dict[str, Any] = {
    "bare": tiny.weights(),
    "data parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "twice prefixed": prefixed("module._orig_mod."),
    "wrapped": {"state_dict": tiny.weights(), "epoch": 90, "best": 0.7},
    "wrapped and prefixed": {"state_dict": prefixed("module."), "arch": "preactresnet18"},
    "with its optimizer": {"net": prefixed("module."), "optimizer": {"state": {0: {"m": torch.ones(3)}}}},
    "averaged beside raw": {"model": tiny.weights(seed=9), "state_dict_ema": tiny.weights()},
    "wrapped twice": {"model": {"state_dict": tiny.weights()}},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("found", WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrapped_and_prefixed_weights_are_found(tmp_path: Path, found: Any, zipped: bool) -> None:
    expected = checkpoints.load(str(written(tmp_path / "bare.safetensors", save(tiny.weights()))), "cpu")[0]
    path = written(tmp_path / "näme with spaces.pt", torch_file(found, zipped=zipped))
    model, report = checkpoints.load(str(path), "cpu")
    assert torch.equal(model(images()), expected(images()))
    assert report.name == "näme with spaces.pt"
    assert report.ignored == ()


def test_the_extension_says_nothing(tmp_path: Path) -> None:
    assert checkpoints.load(str(tiny.saved(tmp_path / "really-safetensors.pt")), "cpu")[1].classes == tiny.CLASSES
    assert checkpoints.load(str(written(tmp_path / "zip.safetensors", torch_file(tiny.weights()))), "cpu")


def test_half_precision_weights_are_computed_in_single(tmp_path: Path) -> None:
    halves = {key: value.half() if value.is_floating_point() else value for key, value in tiny.weights().items()}
    path = tiny.saved(tmp_path / "half", halves)
    assert torch.allclose(checkpoints.load(str(path), "cpu")[0](images()), PlainNet(path)(images()), atol=1e-5)


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tiny.saved(tmp_path / "net")
    first, report = checkpoints.load(str(path), "cpu")
    assert checkpoints.load(str(path), "cpu")[0] is first
    tiny.saved(path, tiny.weights(seed=1))
    os.utime(path, ns=(1, 1))
    second, changed = checkpoints.load(str(path), "cpu")
    assert not torch.equal(first(images()), second(images()))
    assert changed.sha256 != report.sha256


@pytest.mark.parametrize("swapped", [False, True], ids=["written", "replaced"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    swapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "net.pt", torch_file(tiny.weights()))
    known = understanding.sha256

    def hashed_while_a_training_goes_on(file: Path, watch: Any = None) -> str:
        found = known(file, watch)
        other = written(tmp_path / "next.pt", torch_file({"net": tiny.weights()})) if swapped else None
        if other is None:
            written(path, torch_file({"net": tiny.weights()}))
        else:
            other.replace(path)
        return found

    monkeypatch.setattr(understanding, "sha256", hashed_while_a_training_goes_on)
    with pytest.raises(Refused, match=r"net\.pt was written while it was read: open it again\."):
        checkpoints.inspect(str(path))
    monkeypatch.undo()
    assert checkpoints.inspect(str(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.saved(tmp_path / "net")
    assert checkpoints.load("~/net", "cpu")[1].classes == tiny.CLASSES


# Bad input --------------------------------------------------------------------------------------------------------


class Payload:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.proof}'",)


def misshapen() -> dict[str, Tensor]:
    return tiny.weights() | {"layer2.0.conv1.weight": torch.zeros(8, 5, 3, 3)}


def without(key: str) -> dict[str, Tensor]:
    return {name: value for name, value in tiny.weights().items() if name != key}


ZIP, LEGACY, SAFE = torch_file(tiny.weights()), torch_file(tiny.weights(), zipped=False), save(tiny.weights())
BAD: dict[str, tuple[bytes, str]] = {
    "empty.pt": (b"", "is empty"),
    "text.pt": (b"The weights are on the other disk.\n", "is a text file"),
    "utf-8.pt": ("Die Gewichte fehlen, größtenteils.".encode(), "is not a checkpoint that is known"),
    "page.pt": (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    "other-page.pt": (b"<HTML><body>Virus scan warning</body>", "is a web page"),
    "picture.pt": (b"\x89PNG\r\n\x1a\n" + bytes(20), "is an image"),
    "archive.tar": (bytes(257) + b"ustar\x0000" + bytes(250), "is a tar archive"),
    "archive.gz": (b"\x1f\x8b\x08" + bytes(20), "is a gzip archive"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "zeros.bin": (bytes(5000), "is not a checkpoint that is known"),
    "one-byte": (b"\x80", "is not a checkpoint that is known"),
    "half.safetensors": (SAFE[: len(SAFE) // 2], "is a damaged safetensors file"),
    "head.safetensors": (SAFE[:100], "is a damaged safetensors file"),
    "half.pt": (ZIP[: len(ZIP) // 2], "is a damaged or incomplete torch file"),
    "start.pt": (ZIP[:8], "is a damaged or incomplete torch file"),
    "no-directory.pt": (ZIP[:-30], "is a damaged or incomplete torch file"),
    "half-legacy.pt": (LEGACY[: len(LEGACY) // 2], "is a damaged or incomplete torch file"),
    "start-legacy.pt": (LEGACY[:22], "is a damaged or incomplete torch file"),
    "shapes.safetensors": (
        save(misshapen()),
        "its weights do not fit: layer2.0.conv1.weight is 8×5×3×3, and not 8×4×3×3",
    ),
    "shapes.pt": (torch_file({"state_dict": misshapen()}), "its weights do not fit"),
    "lacking.safetensors": (save(without("layer3.0.bn2.bias")), "its weights do not fit: layer3.0.bn2.bias is missing"),
    "unknown.safetensors": (
        save({f"encoder.{i}.weight": torch.zeros(2, 2) for i in range(3)}),
        "is of no architecture that is known here",
    ),
    "nothing.safetensors": (save({}), "holds no weights"),
    "optimizer.pt": (
        torch_file({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}], "epoch": 3}),
        "holds the state of an optimizer and no weights",
    ),
    "number.pt": (torch_file(3), "holds no weights"),
    "list.pt": (torch_file([torch.zeros(3)]), "holds no weights"),
    "module.pt": (torch_file(torch.nn.Linear(2, 2)), "holds a single layer"),
    "numpy.pkl": (pickle.dumps({"w": np.zeros(3)}, protocol=4), "is a bare pickle"),
}


def sentence(refused: pytest.ExceptionInfo[Refused]) -> str:
    said = str(refused.value)
    assert re.fullmatch(r"[^\n]{10,400}[.]?", said), said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(("name", "data", "says"), [(name, *bad) for name, bad in BAD.items()], ids=BAD)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    path = written(tmp_path / name, data)
    with pytest.raises(Refused) as refused:
        checkpoints.load(str(path), "cpu")
    assert says in sentence(refused)
    assert name in sentence(refused)
    assert path.read_bytes() == data


MISSING = ["no-such-model", "/no/such/file.pt", "cifar10-robust", "~nobody-of-this-name/net.pt", "x" * 5000, "\0", "é☃"]


@pytest.mark.parametrize("reference", MISSING, ids=lambda reference: ascii(reference[:20]))
def test_a_missing_file_is_refused_with_what_there_is(reference: str) -> None:
    with pytest.raises(Refused, match=r"There is no model or file called .*cifar10-robust-l2, cifar10-standard"):
        checkpoints.load(reference)


@pytest.mark.parametrize("reference", ["", ".", "/"])
def test_a_folder_is_refused(reference: str, tmp_path: Path) -> None:
    for folder in (reference, str(tmp_path)):
        with pytest.raises(Refused, match=r"^\S+ is a folder: choose a checkpoint file\.$"):
            checkpoints.load(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(Refused, match="is not an ordinary file"):
        checkpoints.load(str(tmp_path / "pipe.pt"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tiny.saved(tmp_path / "net.safetensors")
    path.chmod(0)
    with pytest.raises(Refused, match=r"net\.safetensors cannot be read: Permission denied"):
        checkpoints.load(str(path))


CARELESS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "zip": (torch_file, lambda data: torch.load(io.BytesIO(data), weights_only=False)),
    "legacy": (
        lambda found: torch_file(found, zipped=False),
        lambda data: torch.load(io.BytesIO(data), weights_only=False),
    ),
    "pickle 2": (lambda found: pickle.dumps(found, 2), pickle.loads),
    "pickle 4": (lambda found: pickle.dumps(found, 4), pickle.loads),
}
"""How such a file is made, and how it is read by who trusts it."""


@pytest.mark.parametrize(("make", "read_carelessly"), CARELESS.values(), ids=CARELESS)
def test_nothing_in_a_file_is_ever_run(
    tmp_path: Path, make: Callable[[Any], bytes], read_carelessly: Callable[[bytes], Any]
) -> None:
    proof = tmp_path / "proof"
    data = make({"state_dict": {"linear.weight": Payload(proof)}})
    with pytest.raises(Refused) as refused:
        checkpoints.load(str(written(tmp_path / "evil.pt", data)), "cpu")
    assert sentence(refused)
    assert not proof.exists(), "the payload ran"
    read_carelessly(data)
    assert proof.exists(), "the payload could not have run: the test proves nothing"


@pytest.mark.parametrize("whole", [ZIP, LEGACY, SAFE], ids=["zip", "legacy", "safetensors"])
def test_no_damage_leads_to_anything_but_a_refusal(tmp_path: Path, whole: bytes) -> None:
    """Cut anywhere, and bytes changed at random where the structure is."""
    random = np.random.default_rng(0)
    cuts = [whole[:n] for n in random.integers(1, len(whole), 60)]
    damaged = []
    for _ in range(120):
        data = bytearray(whole)
        for place in random.integers(0, min(len(whole), 4000), 3):
            data[place] = random.integers(256)
        damaged.append(bytes(data))
    for data in cuts + damaged:
        path = written(tmp_path / "net.pt", data)
        with suppress(Refused):
            checkpoints.inspect(str(path))


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match="has no CUDA device"):
        checkpoints.load(bundle.DEFAULT_MODEL, "cuda")
    assert checkpoints.where("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert checkpoints.where("auto") == torch.device("cuda")
    assert checkpoints.where("cpu") == torch.device("cpu")


# The network ------------------------------------------------------------------------------------------------------


def test_normalisation_is_inside_the_model(tmp_path: Path) -> None:
    model, _ = checkpoints.load(str(tiny.saved(tmp_path / "net")), "cpu")
    x = images()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (tiny.MEAN, tiny.STD))
    assert torch.allclose(model(x), model.net((x - mean) / std), atol=1e-6)


def test_a_foreign_layout_is_not_taken_for_this_family() -> None:
    shapes = {key: tuple(value.shape) for key, value in tiny.weights().items()}
    assert preact_resnet.recognise(shapes, Evidence())
    for other in (
        shapes | {"bn1.weight": (4,)},  # ResNet, normalised after the stem
        shapes | {"conv1.weight": (4, 3, 7, 7)},  # a stem for large images
        {key: value for key, value in shapes.items() if not key.startswith("layer4")},
    ):
        assert preact_resnet.recognise(other, Evidence()) is None
    with pytest.raises(Refused, match="Its activation is 'mish', which is not known here: relu, silu"):
        preact_resnet.recognise(shapes, Evidence(said={"activation": "mish"}))


def test_folding_twice_is_folding_once(tmp_path: Path) -> None:
    model, _ = checkpoints.load(str(tiny.saved(tmp_path / "net")), "cpu")
    before = model(images())
    again = Model(model.net, Normalisation(tiny.MEAN, tiny.STD)).frozen(torch.device("cpu"), torch.float32)
    assert torch.equal(again(images()), before)
