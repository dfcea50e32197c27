"""Encoders, and the last layers for them that lie in the same file or beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from source import Tensors
from sources_resnet import (
    AdvCLTuned,
    BnListResNet,
    CifarResNet,
    SupCon,
    TorchResNet,
    amoc,
    moco,
    moco_file,
    prefixed,
    rocl_file,
    solo_learn_file,
)
from torch import Tensor, nn
from torch.nn import functional

from cem_core import bundle, checkpoints, runner
from cem_core.checkpoints import opening
from cem_core.messages import Chain, Checkpoint, Fact, NoiseStart, Refused, RunEnd, RunSpec, RunStart, Sampler

WIDTH, CLASSES = 32, 10


def head(seed: int = 1, classes: int = CLASSES, width: int = WIDTH) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(width, classes).eval()


def encoder() -> CifarResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CifarResNet(width=4, classes=0).eval()


def saved(tree: Any, path: Path) -> str:
    torch.save(tree, path)
    return str(path)


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def given(reference: str, choices: Mapping[str, str] | None = None) -> Tensor:
    with torch.no_grad():
        out: Tensor = opening.build(opening.opened(reference, choices))(images())
    return out


def fact(report: Checkpoint) -> Fact:
    found = report.fact("head")
    assert found is not None
    return found


# Beside the file --------------------------------------------------------------------------------------------------


@pytest.fixture
def rocl(tmp_path: Path) -> str:
    """The three files that RoCL writes, and those of another run in the same folder."""
    name = "ckpt.t7rocl_resnet18_cifar-10_b256_0"
    saved({"model": prefixed(head().state_dict(), "module.0."), "epoch": 150}, tmp_path / f"{name}_linear")
    projector = {"module.linear_1.weight": torch.ones(64, WIDTH), "module.linear_2.weight": torch.ones(16, 64)}
    saved({"model": projector}, tmp_path / f"{name}_projector")
    saved({"model": head(5).state_dict()}, tmp_path / "ckpt.t7another_run_0_linear")
    saved({"model": head(5).state_dict()}, tmp_path / "notes_linear.pt")
    return saved(rocl_file(encoder().state_dict()), tmp_path / name)


@torch.no_grad()
def test_the_head_beside_an_encoder_is_offered_and_gives_the_same_to_the_last_bit(rocl: str) -> None:
    report = checkpoints.inspect(rocl)
    beside = f"{rocl}_linear"
    assert report.classes == ()
    assert report.features == WIDTH
    assert report.heads == (beside,)
    assert fact(report).options == ("none", Path(beside).name)
    assert (fact(report).value, fact(report).source) == ("none", "file")
    assert torch.equal(given(rocl), encoder().features(images()))
    chosen = {"head": Path(beside).name}
    assert torch.equal(given(rocl, chosen), head()(encoder().features(images())))
    report = checkpoints.inspect(rocl, chosen)
    assert (len(report.classes), fact(report).source, report.heads) == (CLASSES, "choice", (beside,))
    model, _ = checkpoints.load(rocl, "cpu", choices={**chosen, "normalisation": "none"})
    torch.testing.assert_close(model(images()), head()(encoder().features(images())), rtol=1e-4, atol=1e-5)
    checkpoints.forget()


def test_nothing_is_assumed_of_the_bundled_encoder_though_a_head_lies_beside_it() -> None:
    report = checkpoints.inspect("cifar10-contrastive-l2")
    assert len(report.heads) == 1
    assert [one.what for one in report.facts if one.source in ("guess", "name")] == []


@pytest.mark.parametrize(
    ("file", "beside", "offered"),
    [
        ("net.pt", "net_linear.pt", True),
        ("net.pt", "net.linear.pt", True),
        ("net.pt", "net-head.pth", True),
        ("net.pt", "net_classifier", True),
        ("net.pt", "net.pt_linear", True),
        ("net.pt", "net.pt.linear_eval_90", True),
        ("net.pt", "net_fc.pt", True),
        ("net.pt", "netfc.pt", True),
        ("net.pt", "NET_linear.pt", False),
        ("net.pt", "network_linear.pt", False),
        ("net.pt", "net_best_linear.pt", False),
        ("net.pt", "net_fcn.pt", False),
        ("net.pt", "linear.pt", False),
        ("net.pt", "net_90.pt", False),
    ],
)
def test_which_files_count_as_beside(file: str, beside: str, offered: bool, tmp_path: Path) -> None:
    reference = saved(encoder().state_dict(), tmp_path / file)
    saved(head().state_dict(), tmp_path / beside)
    assert checkpoints.inspect(reference).heads == ((str(tmp_path / beside),) if offered else ())


NO_HEADS: Mapping[str, Callable[[Path], object]] = {
    "for another width": lambda path: torch.save(head(width=64).state_dict(), path),
    "a projection": lambda path: torch.save(
        {f"linear_{i}.weight": torch.zeros(size) for i, size in enumerate([(64, 32), (16, 64)])}, path
    ),
    "the first layer of two": lambda path: torch.save(
        {f"linear.{i}.weight": torch.zeros(size) for i, size in enumerate([(64, 32), (16, 64)])}, path
    ),
    "a convolution": lambda path: torch.save({"fc.weight": torch.zeros(10, WIDTH, 1, 1)}, path),
    "a bias of another length": lambda path: torch.save({"weight": torch.zeros(10, 32), "bias": torch.zeros(3)}, path),
    "no weights": lambda path: torch.save({"accuracy": 0.9}, path),
    "a log": lambda path: path.write_text("linear evaluation: 0.9"),
    "cut short": lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("make", NO_HEADS.values(), ids=NO_HEADS)
def test_what_is_no_head_for_it_is_not_offered(make: Callable[[Path], object], tmp_path: Path) -> None:
    reference = saved(encoder().state_dict(), tmp_path / "net.pt")
    make(tmp_path / "net_linear.pt")
    report = checkpoints.inspect(reference)
    assert report.heads == ()
    assert (fact(report).value, fact(report).options, fact(report).source) == ("none", (), "file")
    with pytest.raises(Refused, match=r"The head cannot be 'net_linear\.pt': choose one of none\."):
        checkpoints.inspect(reference, {"head": "net_linear.pt"})


def test_a_head_that_goes_away_is_said(rocl: str) -> None:
    chosen = {"head": f"{Path(rocl).name}_linear"}
    assert checkpoints.inspect(rocl, chosen).classes
    Path(f"{rocl}_linear").unlink()
    with pytest.raises(Refused, match="The head cannot be "):
        checkpoints.inspect(rocl, chosen)


def test_a_head_that_is_trained_again_is_read_again(rocl: str) -> None:
    beside = Path(f"{rocl}_linear")
    chosen = {"head": beside.name}
    first, _ = checkpoints.load(rocl, "cpu", choices=chosen)
    assert checkpoints.load(rocl, "cpu", choices=chosen)[0] is first
    saved(head(5).state_dict(), beside)
    second, _ = checkpoints.load(rocl, "cpu", choices=chosen)
    with torch.no_grad():
        assert not torch.equal(first(images()), second(images()))
    checkpoints.forget()


# Inside the file --------------------------------------------------------------------------------------------------


def with_classifier(prefix: str) -> Callable[[Tensors], Any]:
    """As AdvCL and SupContrast write it after linear evaluation."""
    return lambda tensors: {
        "model": prefixed(tensors, "module."),
        "classifier": prefixed(head().state_dict(), prefix),
        "epoch": 25,
        "rng_state": torch.get_rng_state(),
    }


INSIDE: Mapping[str, tuple[Callable[[Tensors], Any], str]] = {
    "RoCL's descendants": (
        lambda tensors: {
            "model": prefixed(tensors, "module."),
            "linear_layer": prefixed(head().state_dict(), "module.0."),
        },
        "linear_layer.module.0",
    ),
    "AdvCL": (with_classifier(""), "classifier"),
    "AdvCL, parallel": (with_classifier("module."), "classifier.module"),
    "SupContrast": (with_classifier("fc."), "classifier.fc"),
    "SupContrast, parallel": (with_classifier("module.fc."), "classifier.module.fc"),
    "below one wrapper": (
        lambda tensors: {"state_dict": prefixed(tensors, "encoder.") | prefixed(head().state_dict(), "linear.")},
        "state_dict.linear",
    ),
    "AMOC": (lambda tensors: prefixed(tensors, "arch.") | prefixed(head().state_dict(), "fc.fc."), "fc.fc"),
    "Lightning": (
        lambda tensors: {
            "state_dict": prefixed(tensors, "backbone.")
            | prefixed(head().state_dict(), "classifier.")
            | {"projector.0.weight": torch.ones(64, WIDTH), "momentum_classifier.bias": torch.zeros(3)}
        },
        "state_dict.classifier",
    ),
}


@pytest.mark.parametrize(("wrap", "name"), INSIDE.values(), ids=INSIDE)
@torch.no_grad()
def test_a_head_in_the_file_is_used_and_can_be_left_away(
    wrap: Callable[[Tensors], Any], name: str, tmp_path: Path
) -> None:
    reference = saved(wrap(encoder().state_dict()), tmp_path / "net.pt")
    report = checkpoints.inspect(reference)
    assert (fact(report).value, fact(report).options, fact(report).source) == (name, ("none", name), "guess")
    assert len(report.classes) == CLASSES
    assert report.ignored == ()
    features = encoder().features(images())
    assert torch.equal(given(reference), head()(features))
    assert torch.equal(given(reference, {"head": name}), head()(features))
    assert torch.equal(given(reference, {"head": "none"}), features)
    assert checkpoints.inspect(reference, {"head": "none"}).classes == ()
    with pytest.raises(Refused, match=f"The head cannot be 'other': choose one of none, {name}"):
        checkpoints.inspect(reference, {"head": "other"})


@torch.no_grad()
def test_a_head_without_a_bias(tmp_path: Path) -> None:
    weight = head().weight.detach()
    reference = saved({"model": encoder().state_dict(), "fc": {"weight": weight}}, tmp_path / "net.pt")
    torch.testing.assert_close(given(reference), encoder().features(images()) @ weight.T)


def test_of_two_heads_either_can_be_chosen(tmp_path: Path) -> None:
    tree = {"model": encoder().state_dict(), "linear": head(1).state_dict(), "classifier": head(2, 7).state_dict()}
    reference = saved(tree, tmp_path / "net.pt")
    saved(head(3, 5).state_dict(), tmp_path / "net_linear.pt")
    assert set(fact(checkpoints.inspect(reference)).options) == {"none", "linear", "classifier", "net_linear.pt"}
    for name, classes in (("linear", 10), ("classifier", 7), ("net_linear.pt", 5), ("none", 0)):
        assert len(checkpoints.inspect(reference, {"head": name}).classes) == classes


def test_a_head_of_another_width_in_the_file_is_not_offered(tmp_path: Path) -> None:
    tree = {"model": encoder().state_dict(), "classifier": head(width=64).state_dict()}
    report = checkpoints.inspect(saved(tree, tmp_path / "net.pt"))
    assert (fact(report).value, fact(report).options) == ("none", ())


BLANK: Mapping[str, tuple[nn.Module, str]] = {
    "kuangliu": (CifarResNet(width=4), "linear"),
    "torchvision": (TorchResNet(padding=1), "fc"),
    "ACL": (BnListResNet(head="linear"), "fc"),
}


@pytest.mark.parametrize(("net", "layer"), BLANK.values(), ids=BLANK)
def test_a_last_layer_of_zeros_was_never_trained(net: nn.Module, layer: str, tmp_path: Path) -> None:
    tensors = net.state_dict()
    assert len(checkpoints.inspect(saved(tensors, tmp_path / "net.pt")).classes) == CLASSES
    tensors |= {f"{layer}.weight": torch.zeros_like(tensors[f"{layer}.weight"])}
    report = checkpoints.inspect(saved(tensors, tmp_path / "net.pt"))
    assert (report.classes, report.features) == ((), WIDTH)
    assert fact(report).why == "its last layer is all zeros: never trained"
    saved(head().state_dict(), tmp_path / "net_linear.pt")
    report = checkpoints.inspect(str(tmp_path / "net.pt"), {"head": "net_linear.pt"})
    assert len(report.classes) == CLASSES


ENCODERS: Mapping[str, Callable[[], Any]] = {
    "RoCL": lambda: rocl_file(encoder().state_dict()),
    "SupContrast": lambda: {"model": SupCon().state_dict(), "epoch": 1000},
    "AMOC": lambda: amoc().state_dict(),
    "ACL": lambda: {"state_dict": BnListResNet().state_dict()},
}


@pytest.mark.parametrize("tree", ENCODERS.values(), ids=ENCODERS)
def test_a_projection_is_no_head(tree: Callable[[], Any], tmp_path: Path) -> None:
    report = checkpoints.inspect(saved(tree(), tmp_path / "net.pt"))
    assert report.classes == ()
    assert report.features > 0
    assert (fact(report).value, fact(report).options) == ("none", ())
    features = report.fact("features")
    assert features is not None
    assert features.value == str(report.features)


@torch.no_grad()
def test_the_projection_of_the_other_encoder_is_no_head_and_one_beside_takes_its_place(tmp_path: Path) -> None:
    net = moco(lambda: nn.Linear(128, 16)).eval()
    reference = saved(moco_file(net.state_dict()), tmp_path / "moco.pt")
    assert (fact(checkpoints.inspect(reference)).value, fact(checkpoints.inspect(reference)).options) == ("none", ())
    saved(head(1, 7, 128).state_dict(), tmp_path / "moco_linear.pt")
    chosen = {"head": "moco_linear.pt"}
    report = checkpoints.inspect(reference, chosen)
    assert len(report.classes) == 7
    assert "queue" in report.ignored
    net.fc = head(1, 7, 128)
    assert torch.equal(given(reference, chosen), net(images()))
    made = checkpoints.convert(reference, tmp_path / "made.safetensors", chosen)
    assert len(made.classes) == 7
    assert torch.equal(given(made.path), net(images()))


@torch.no_grad()
@pytest.mark.parametrize("net", [AdvCLTuned(), BnListResNet(3, "advcl")], ids=["tuned", "before"])
def test_of_advcl_the_classifier_beside_its_projections_is_the_head(net: nn.Module, tmp_path: Path) -> None:
    """And not the linear layer in between, which was never trained."""
    tree = with_classifier("module.")(net.eval().state_dict())
    reference = saved(tree, tmp_path / "net.pt")
    report = checkpoints.inspect(reference)
    assert fact(report).value == "classifier.module"
    assert len(report.classes) == CLASSES
    assert report.warnings == ()
    assert any(key.startswith("head_proj.") for key in report.ignored)
    assert torch.equal(given(reference), head()(given(reference, {"head": "none"})))


# What becomes of it -----------------------------------------------------------------------------------------------


def test_a_run_goes_towards_an_image_of_an_encoder_and_towards_a_class_once_it_has_a_head(rocl: str) -> None:
    sampler = Sampler(name="TA", a=1, b=0, steps=1)
    spec = RunSpec("x", rocl, sampler, (Chain(NoiseStart(), label=1),), "cpu")
    start, *_, end = runner.play(spec)
    assert isinstance(start, RunStart)
    assert len(start.candidates) == len(bundle.samples())
    assert end == RunEnd("x", "done")
    chosen = RunSpec("x", rocl, sampler, spec.chains, "cpu", choices={"head": f"{Path(rocl).name}_linear"})
    assert list(runner.play(chosen))[-1] == RunEnd("x", "done")
    checkpoints.forget()


@torch.no_grad()
@pytest.mark.parametrize("choice", ["file", "inside"])
def test_a_converted_encoder_keeps_the_head_that_was_chosen(choice: str, rocl: str, tmp_path: Path) -> None:
    if choice == "file":
        reference, chosen = rocl, {"head": f"{Path(rocl).name}_linear"}
    else:
        tensors = solo_learn_file(TorchResNet(classes=0, padding=2).state_dict())
        reference, chosen = saved(tensors, tmp_path / "solo.ckpt"), {"stem_padding": "2"}
    report = checkpoints.convert(reference, tmp_path / "made.safetensors", chosen)
    assert len(report.classes) == CLASSES
    assert {fact.source for fact in report.facts} == {"file"}
    assert torch.equal(given(str(tmp_path / "made.safetensors")), given(reference, chosen))


# A head that is taken off, and one that is fitted ------------------------------------------------------------------


@torch.no_grad()
def test_a_classifier_without_its_head_is_the_encoder_below_it(tmp_path: Path) -> None:
    net = tiny.weights()
    path = str(tiny.saved(tmp_path / "net.safetensors", net))
    own, none = checkpoints.inspect(path), checkpoints.inspect(path, {"head": "none"})
    assert (fact(own).value, fact(own).source, fact(own).options) == ("own", "file", ("own", "none"))
    assert (fact(none).value, fact(none).source, none.classes, none.warnings) == ("none", "choice", (), ())
    assert none.parameters == own.parameters - 3 * 33
    g = given(path, {"head": "none"})
    assert torch.equal(functional.linear(g, net["linear.weight"], net["linear.bias"]), given(path))
    converted = checkpoints.convert(path, tmp_path / "encoder.safetensors", {"head": "none"})
    assert converted.classes == ()
    assert torch.equal(given(converted.path), g)
    with pytest.raises(Refused, match="The head cannot be 'some': choose one of own, none"):
        checkpoints.inspect(path, {"head": "some"})


def test_names_that_were_chosen_wait_for_a_head_that_was_taken_away(tmp_path: Path) -> None:
    path = str(tiny.saved(tmp_path / "net.safetensors"))
    names = {"class_names": "a, b, c"}
    assert checkpoints.inspect(path, {**names, "head": "none"}).classes == ()
    assert checkpoints.inspect(path, names).classes == ("a", "b", "c")
