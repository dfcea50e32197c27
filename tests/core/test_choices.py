"""What a person may say of a file, what is remembered of it, and what names and neighbours of a file tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from cem_core import bundle, checkpoints
from cem_core.checkpoints import choices, labels, understanding
from cem_core.checkpoints.choices import recall, remember
from cem_core.messages import Checkpoint, Fact, Refused


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of choices, in a folder of the test's own that is not there yet."""
    monkeypatch.setattr(choices, "user_config_path", lambda name: tmp_path / "config" / name)
    return tmp_path / "config" / "cem-explorer" / "choices.json"


def bare(path: Path, seed: int = 0) -> Path:
    """Weights that leave much open."""
    torch.save(tiny.weights(seed), path)
    return path


def fact(report: Checkpoint, what: str) -> Fact:
    found = report.fact(what)
    assert found is not None
    return found


# What is remembered -----------------------------------------------------------------------------------------------


def test_choices_are_those_of_a_file_wherever_it_is(kept: Path, tmp_path: Path) -> None:
    path, other = bare(tmp_path / "net.pt"), bare(tmp_path / "other.pt", 1)
    assert recall(str(path)) == {}
    remember(checkpoints.sha256(path), {"activation": "silu", "normalisation": "none"})
    moved = path.rename(tmp_path / "renamed.pt")
    assert recall(str(moved)) == {"activation": "silu", "normalisation": "none"}
    assert recall(str(other)) == {}
    assert json.loads(kept.read_text()) == {checkpoints.sha256(moved): recall(str(moved))}
    remember(checkpoints.sha256(other), {"activation": "gelu"})
    remember(checkpoints.sha256(moved), {"activation": "relu"})
    assert (recall(str(moved)), recall(str(other))) == ({"activation": "relu"}, {"activation": "gelu"})
    remember(checkpoints.sha256(moved), {})
    assert recall(str(moved)) == {}
    assert list(json.loads(kept.read_text())) == [checkpoints.sha256(other)]


def test_the_usual_place_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if choices._file().is_relative_to(tmp_path):  # where the system follows it
        remember("0" * 64, {"activation": "silu"})
        assert (tmp_path / "cem-explorer" / "choices.json").is_file()
    assert choices._file().name == "choices.json"


CORRUPT = [b"", b"{", b"[]", b'{"a": 3}', b'{"a": {"b": 3}}', b"\xff\xfe", b"null", b"[" * 100_000]


@pytest.mark.parametrize("data", CORRUPT, ids=lambda data: repr(data[:12]))
def test_a_file_of_choices_that_is_corrupt_is_as_none_and_is_mended(kept: Path, tmp_path: Path, data: bytes) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_bytes(data)
    path = bare(tmp_path / "net.pt")
    assert recall(str(path)) == {}
    remember(checkpoints.sha256(path), {"activation": "silu"})
    assert recall(str(path)) == {"activation": "silu"}


def test_a_limited_number_is_kept_and_the_oldest_go(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "_KEPT", 3)
    for digest in "abcd":
        remember(digest, {"activation": digest})
    assert list(json.loads(kept.read_text())) == ["b", "c", "d"]
    remember("b", {"activation": "anew"})
    remember("e", {"activation": "e"})
    assert list(json.loads(kept.read_text())) == ["d", "b", "e"]


def test_a_place_that_cannot_be_written_is_said(kept: Path) -> None:
    kept.parent.parent.mkdir(parents=True)
    kept.parent.write_text("a file where the folder should be")
    with pytest.raises(Refused, match=r"choices\.json cannot be written"):
        remember("a", {"activation": "silu"})
    kept.parent.unlink()
    kept.mkdir(parents=True)
    assert recall(str(bundle.models()[bundle.DEFAULT_MODEL])) == {}
    with pytest.raises(Refused, match="no ordinary file"):
        remember("a", {"activation": "silu"})


@pytest.mark.parametrize("known", [False, True], ids=["nothing known", "something known"])
def test_of_a_missing_file_nothing_is_known(kept: Path, known: bool) -> None:
    if not known:
        assert recall("no-such-model") == {}, "that is said when it is opened"
        return
    remember("a", {"activation": "silu"})
    with pytest.raises(Refused, match="There is no model or file called no-such-model"):
        recall("no-such-model")


# What may be chosen -----------------------------------------------------------------------------------------------

IMPOSSIBLE: list[tuple[dict[str, str], str]] = [
    ({"colour": "red"}, "There is no 'colour' to choose for net.pt: only activation, shortcut_input, head, "
                        "normalisation, image_size, class_names."),
    ({"activation": "loud"}, "The activation cannot be 'loud': choose one of relu, silu"),
    ({"activation": ""}, "The activation cannot be '': choose one of relu, silu"),
    ({"shortcut_input": "both"}, "The shortcut input cannot be 'both': choose one of activated, raw."),
    ({"normalisation": "loud"}, "'loud' is no normalisation: give one of none, CIFAR-10"),
    ({"image_size": "7"}, "The image size must be a whole number of pixels from 8 to 1024, not '7'."),
    ({"image_size": "-32"}, "The image size must be a whole number"),
    ({"image_size": "1e3"}, "The image size must be a whole number"),
    ({"image_size": "٣٢٣٢٣٢"}, "The image size must be a whole number"),
    ({"image_size": "9" * 5000}, "The image size must be a whole number"),
    ({"class_names": "a,b"}, "The model has 3 classes and 2 names were given: give one for each."),
    ({"class_names": "ImageNet"}, "The model has 3 classes and 1,000 names were given"),
    ({"class_names": "a,,c"}, "Class names must differ and none may be empty"),
    ({"class_names": "a,b,a"}, "Class names must differ and none may be empty"),
    ({"depth": "34"}, "The depth of net.pt is settled by its weights: 10."),
    ({"classes": "10"}, "The classes of net.pt is settled by its weights: 3."),
    ({"family": "resnet"}, "The family of net.pt is settled by its weights: PreAct ResNet-10."),
    ({"weights": "ema"}, "The weights cannot be 'ema': this file has the file."),
    ({"head": "linear"}, "The head cannot be 'linear': choose one of own, none."),
]  # fmt: skip


@pytest.mark.parametrize(("chosen", "says"), IMPOSSIBLE, ids=lambda value: str(value)[:40])
def test_an_impossible_choice_is_one_sentence_with_what_is_possible(
    chosen: dict[str, str], says: str, tmp_path: Path
) -> None:
    path = str(bare(tmp_path / "net.pt"))
    for ask in (checkpoints.inspect, lambda path, chosen: checkpoints.load(path, "cpu", choices=chosen)):
        with pytest.raises(Refused) as refused:
            ask(path, chosen)
        assert says in str(refused.value)
        assert len(str(refused.value)) < 500
        assert "\n" not in str(refused.value)


def test_what_is_settled_may_be_said_but_not_changed(tmp_path: Path) -> None:
    path = str(bare(tmp_path / "net.pt"))
    report = checkpoints.inspect(path)
    settled = {fact.what: fact.value for fact in report.facts if not fact.options and fact.what != "family"}
    assert settled == {"depth": "10", "width": "4", "classes": "3"}
    assert checkpoints.inspect(path, settled).facts == report.facts


def test_every_option_that_is_offered_can_be_chosen(tmp_path: Path) -> None:
    path = str(bare(tmp_path / "net.pt"))
    for offered in checkpoints.inspect(path).facts:
        for option in offered.options:
            for key in (offered.what, offered.what.replace(" ", "_"), f" {offered.what} "):
                found = fact(checkpoints.inspect(path, {key: option}), offered.what)
                assert (found.value, found.source, found.confidence) == (option, "choice", 1.0)
                assert found.options == offered.options, "what else there is stays the same"


def test_the_chosen_size_and_names_are_those_of_the_report(tmp_path: Path) -> None:
    path = str(bare(tmp_path / "net.pt"))
    report = checkpoints.inspect(path, {"image size": "48", "class names": " cat, big dog ,horse"})
    assert (report.size, report.classes) == (48, ("cat", "big dog", "horse"))
    assert fact(report, "class names").value == " cat, big dog ,horse"


# Image size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "found", "source"),
    [("16", 16, "file"), ("1024", 1024, "file"), ("7", 32, "guess"), ("wide", 32, "guess"), ("9" * 99, 32, "guess"),
     ("1025", 32, "guess"), ("", 32, "guess")],
)  # fmt: skip
def test_the_size_that_metadata_tell(size: str, found: int, source: str, tmp_path: Path) -> None:
    report = checkpoints.inspect(str(tiny.saved(tmp_path / "net", image_size=size)))
    assert (report.size, fact(report, "image size").source) == (found, source)


def test_the_size_of_a_replay_buffer_goes_before_the_usual_one(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"model_state_dict": tiny.weights(), "replay_buffer": torch.zeros(4, 3, 24, 24)}, path)
    report = checkpoints.inspect(str(path))
    assert (report.size, report.replay) == (24, 4)
    assert fact(report, "image size").why == "that of its replay buffer"
    assert checkpoints.inspect(str(path), {"image_size": "32"}).size == 32


NO_REPLAY = {
    "another number of channels": torch.zeros(4, 1, 24, 24),
    "oblong": torch.zeros(4, 3, 24, 32),
    "whole numbers": torch.zeros(4, 3, 24, 24, dtype=torch.uint8),
    "nothing in it": torch.zeros(0, 3, 24, 24),
    "tiny": torch.zeros(4, 3, 4, 4),
    "a vector": torch.zeros(4),
    "claimed": torch.zeros(1, 1, 1, 1).expand(10_000, 3, 24, 24),
}


@pytest.mark.parametrize("buffer", NO_REPLAY.values(), ids=NO_REPLAY)
def test_what_is_no_replay_buffer_is_left_aside(buffer: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"model_state_dict": tiny.weights(), "replay_buffer": buffer}, tmp_path / "net.pt")
    report = checkpoints.inspect(str(tmp_path / "net.pt"))
    assert (report.size, report.replay) == (32, 0)
    with pytest.raises(Refused, match=r"net\.pt has no replay buffer: start from images or noise"):
        checkpoints.replay(str(tmp_path / "net.pt"))


# Class names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "classes", "value", "some"),
    [
        (3, 10, "CIFAR-10", {0: "airplane", 9: "truck"}),
        (1, 10, "digits", {0: "0", 9: "9"}),
        (3, 100, "CIFAR-100", {0: "apple", 99: "worm"}),
        (3, 1000, "ImageNet", {0: "tench", 281: "tabby"}),
        (3, 9, "RestrictedImageNet", {0: "dog", 8: "insect"}),
        (3, 2, "numbers", {0: "class 0", 1: "class 1"}),
        (3, 1, "numbers", {0: "class 0"}),
        (3, 200, "numbers", {199: "class 199"}),
        (3, 50_000, "numbers", {49_999: "class 49999"}),
    ],
)
def test_the_usual_names_of_so_many_classes(channels: int, classes: int, value: str, some: dict[int, str]) -> None:
    names, found = labels.settle(channels, classes, {}, {})
    assert len(set(names)) == classes
    assert {index: names[index] for index in some} == some
    assert (found.value, found.source) == (value, "guess")
    assert found.options[-1] == "numbers"
    for option in found.options:
        names, chosen = labels.settle(channels, classes, {}, {"class_names": option})
        assert len(names) == classes
        assert chosen.source == "choice"


@pytest.mark.parametrize(
    ("dataset", "classes", "value", "source"),
    [
        ("CIFAR-10", 10, "CIFAR-10", "file"),
        ("cifar10s", 10, "CIFAR-10", "file"),
        ("cifar100s", 100, "CIFAR-100", "file"),
        ("cifar_100", 100, "CIFAR-100", "file"),
        ("svhn", 10, "digits", "file"),
        ("svhns", 10, "digits", "file"),
        ("STL-10", 10, "STL-10", "file"),
        ("fashion-mnist", 10, "Fashion-MNIST", "file"),
        ("imagenet", 1000, "ImageNet", "file"),
        ("restricted_imagenet", 9, "RestrictedImageNet", "file"),
        ("cifar10", 100, "CIFAR-100", "guess"),
        ("imagenet", 10, "CIFAR-10", "guess"),
        ("/data/mine", 10, "CIFAR-10", "guess"),
        ("", 10, "CIFAR-10", "guess"),
    ],
)
def test_the_data_set_tells_the_names(dataset: str, classes: int, value: str, source: str) -> None:
    found = labels.settle(3, classes, {"dataset": dataset}, {})[1]
    assert (found.value, found.source) == (value, source)


BESIDE: list[tuple[str, Any, str]] = [
    ("args.txt", {"data": "svhn", "model": "wrn-28-10-swish"}, "file"),
    ("args.txt", {"dataset": "svhn"}, "file"),
    ("params.txt", {"dataset": "svhn", "eps": 0.03}, "file"),
    ("params.txt", {"data": "svhn"}, "guess"),
    ("args.txt", {"data": 3}, "guess"),
    ("args.txt", {}, "guess"),
    ("args.txt", [1, 2], "guess"),
    ("args.txt", "text", "guess"),
    ("other.txt", {"dataset": "svhn"}, "guess"),
]


@pytest.mark.parametrize(("name", "options", "source"), BESIDE, ids=str)
def test_options_beside_a_file_tell_the_data_set(name: str, options: Any, source: str, tmp_path: Path) -> None:
    weights = tiny.weights() | {"linear.weight": torch.zeros(10, 32) + 1, "linear.bias": torch.zeros(10)}
    torch.save(weights, tmp_path / "net.pt")
    (tmp_path / name).write_text(json.dumps(options))
    report = checkpoints.inspect(str(tmp_path / "net.pt"))
    found = fact(report, "class names")
    assert (found.value, found.source) == ("digits" if source == "file" else "CIFAR-10", source)


@pytest.mark.parametrize(
    "beside",
    [
        {"classes": [f"kind {i}" for i in range(10)]},
        {"class_names": tuple(f"kind {i}" for i in range(10))},
        {"class_to_idx": {f"kind {i}": i for i in reversed(range(10))}},
        {"args": {"classes": [f"kind {i}" for i in range(10)]}},
    ],
    ids=lambda beside: next(iter(beside)),
)
def test_names_in_the_file_go_before_the_usual_ones(beside: dict[str, Any], tmp_path: Path) -> None:
    weights = tiny.weights() | {"linear.weight": torch.zeros(10, 32) + 1, "linear.bias": torch.zeros(10)}
    torch.save({"state_dict": weights, **beside}, tmp_path / "net.pt")
    report = checkpoints.inspect(str(tmp_path / "net.pt"))
    assert report.classes == tuple(f"kind {i}" for i in range(10))
    assert fact(report, "class names").source == "file"


def test_names_that_steer_a_terminal_are_made_harmless() -> None:
    written = ["\x1b[2Jcat", "a\nb", "dog"]
    assert labels.settle(3, 3, {"classes": json.dumps(written)}, {})[0] == ("\ufffd[2Jcat", "a\ufffdb", "dog")


@pytest.mark.parametrize("data", [b"", b"lr=0.1", b"\xff\xff", b"[" * 100_000, b" " * 2**21], ids=lambda data: data[:4])
def test_options_that_cannot_be_read_are_left_aside(data: bytes, tmp_path: Path) -> None:
    bare(tmp_path / "net.pt")
    (tmp_path / "args.txt").write_bytes(data)
    (tmp_path / "params.txt").mkdir()
    assert fact(checkpoints.inspect(str(tmp_path / "net.pt")), "class names").source == "guess"


# What it was trained against --------------------------------------------------------------------------------------

THREATS = {
    "cifar_l2_0_5": "L2, ε = 0.5",
    "cifar_l2_0_25": "L2, ε = 0.25",
    "cifar_l2_1_0": "L2, ε = 1",
    "resnet50_l2_eps0.05": "L2, ε = 0.05",
    "resnet50_l2_eps3": "L2, ε = 3",
    "L2_eps3_ep100": "L2, ε = 3",
    "net-l2-0.5-best": "L2, ε = 0.5",
    "resnet18_linf_eps8.0": "L∞, ε = 8/255",
    "resnet50_linf_eps0.5": "L∞, ε = 0.5/255",
    "wide_resnet50_2_linf_eps4.0": "L∞, ε = 4/255",
    "linf_8": "L∞, ε = 8/255",
    "linf8": "L∞, ε = 8/255",
    "Linf-2": "L∞, ε = 2/255",
    "linf_8_255": "L∞, ε = 8/255",
    "linf-8-255": "L∞, ε = 8/255",
    "linf_8_2021": "L∞, ε = 8/255",
    "linf_eps_8_best": "L∞, ε = 8/255",
    "eps=4, linf=4": "L∞, ε = 4/255",
    "wrn_linf_8_seed1": "L∞, ε = 8/255",
    "mnist_linf_0.3": "L∞, ε = 0.3",
    "linf_0_03": "L∞, ε = 0.03",
    "linf_0.031": "L∞, ε = 0.031",
}
NO_THREATS = (
    "", "net", "linf", "l2", "Rice2020_Linf", "l2_robust_3", "cifar_nat", "model2_8", "modell2_3", "l2_0", "linf_eps0",
    "l2_5e-4", "l2_12e", "wd_l2_0.0005", "l2_2021", "linf_16px", "linf_255", "resnet18", "l2_128x128", "html2_3",
)  # fmt: skip


@pytest.mark.parametrize(("stem", "ball"), [*THREATS.items(), *((stem, "") for stem in NO_THREATS)])
def test_the_threat_that_a_name_tells(stem: str, ball: str) -> None:
    assert understanding._threat(stem) == ball


def test_the_threat_is_a_fact_that_comes_from_the_name(tmp_path: Path) -> None:
    report = checkpoints.inspect(str(bare(tmp_path / "net_l2_0_5.pt")))
    assert fact(report, "trained against") == Fact("trained against", "L2, ε = 0.5", "name", 0.8)
    assert checkpoints.inspect(str(bare(tmp_path / "net.pt"))).fact("trained against") is None
    said = tiny.saved(tmp_path / "net_l2_0_5.safetensors", trained_against="L∞, ε = 8/255")
    assert fact(checkpoints.inspect(str(said)), "trained against").source == "file"
