"""Any checkpoint that opens → safetensors that say all of themselves, and give the same logits to the last bit."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import sources_preact
import sources_resnet
import sources_wide
import tiny
import torch
from plain import PlainNet
from safetensors import safe_open
from safetensors.torch import load_file
from source import Source
from torch import Tensor, nn

from cem_core import bundle, checkpoints, writing
from cem_core.checkpoints import opening
from cem_core.messages import Refused

SOURCES = {s.id: s for s in [*sources_preact.SOURCES, *sources_resnet.SOURCES, *sources_wide.SOURCES]}
SOME = ("robust_overfitting PreAct-18", "robustness-cifar", "moco-v1", "solo-learn", "dynacl", "amoc", "JEM WRN-10-2")


def saved(tree: object, path: Path) -> str:
    torch.save(tree, path)
    return str(path)


def images(size: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(4))


def given(reference: str, choices: Mapping[str, str] | None = None) -> Tensor:
    """Logits of the model as it is used, which is folded and normalises."""
    model, report = checkpoints.load(reference, "cpu", choices=choices)
    with torch.no_grad():
        out: Tensor = model(images(report.size, report.channels))
    checkpoints.forget()
    return out


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


# The same network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_precision_is_kept_and_gives_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tiny.weights().items()}
    reference, out = saved({"state_dict": weights}, tmp_path / "net.pt"), tmp_path / "made.safetensors"
    choices = {"activation": "silu", "normalisation": "mean 0.5/0.4/0.3, std 0.2/0.25/0.3", "class_names": "a, b, c"}
    checkpoints.convert(reference, out, choices)
    assert torch.equal(given(str(out)), given(reference, choices))
    made = load_file(out)
    assert made.keys() == weights.keys()
    assert all(torch.equal(made[key], value) and made[key].dtype == value.dtype for key, value in weights.items())


@pytest.mark.parametrize("name", SOME)
def test_what_repositories_write_becomes_a_file_that_leaves_nothing_open(name: str, tmp_path: Path) -> None:
    source: Source = SOURCES[name]
    reference = saved(source.wrap(source.network().state_dict()), tmp_path / "net.pt")
    out = tmp_path / "made.safetensors"
    before = checkpoints.inspect(reference, source.choices)
    after = checkpoints.convert(reference, out, source.choices)
    assert torch.equal(given(str(out)), given(reference, source.choices))
    assert after == checkpoints.inspect(str(out))
    assert {fact.source for fact in after.facts} == {"file"}
    assert after.warnings == ()
    kept = {fact.what: fact.value for fact in after.facts}
    gone = {"weights", "head"}
    assert {fact.what: fact.value for fact in before.facts if fact.what not in gone}.items() <= kept.items()
    for field in ("title", "family", "parameters", "classes", "features", "channels", "size", "replay"):
        assert getattr(after, field) == getattr(before, field)


def test_a_bundled_model_converted_is_the_same_model(tmp_path: Path) -> None:
    path = bundle.models()[bundle.DEFAULT_MODEL]
    report = checkpoints.convert(bundle.DEFAULT_MODEL, tmp_path / "made.safetensors")
    assert torch.equal(given(str(tmp_path / "made.safetensors")), given(bundle.DEFAULT_MODEL))
    against = report.fact("trained against")
    assert against is not None
    assert against.value == metadata(path)["trained_against"]
    assert report.classes == checkpoints.inspect(bundle.DEFAULT_MODEL).classes


def test_converted_again_it_is_the_same_file(tmp_path: Path) -> None:
    for name in SOME:
        source = SOURCES[name]
        reference = saved(source.wrap(source.network().state_dict()), tmp_path / "net.pt")
        paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
        checkpoints.convert(reference, paths[0], source.choices)
        checkpoints.convert(str(paths[0]), paths[1])
        checkpoints.convert(str(paths[1]), paths[2])
        first, second, third = (load_file(path) for path in paths)
        assert first.keys() == second.keys()
        assert all(torch.equal(second[key], value) for key, value in first.items())
        said = [metadata(path) for path in paths]
        for one in said:
            one.pop("source_sha256")
        assert said[0] == said[1] == said[2]
        assert all(torch.equal(third[key], value) for key, value in first.items())


# The file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_plain_safetensors_with_text_as_metadata(tmp_path: Path) -> None:
    reference, out = saved({"net": tiny.weights()}, tmp_path / "net_linf_8.pt"), tmp_path / "made.safetensors"
    checkpoints.convert(reference, out, {"class_names": "Katze, 犬, ☃", "shortcut_input": "raw"})
    assert metadata(out) == {
        "format": "cem-explorer",
        "family": "preact_resnet",
        "activation": "relu",
        "shortcut_input": "raw",
        "normalisation": "CIFAR-10",
        "image_size": "32",
        "classes": '["Katze","犬","☃"]',
        "trained_against": "L∞, ε = 8/255",
        "source_sha256": hashlib.sha256(Path(reference).read_bytes()).hexdigest(),
    }
    assert {key: tuple(value.shape) for key, value in load_file(out).items()} == {
        key: tuple(value.shape) for key, value in tiny.weights().items()
    }
    assert checkpoints.inspect(str(out)).classes == ("Katze", "犬", "☃")


@torch.no_grad()
def test_a_converted_model_is_the_plain_network_that_its_metadata_describe(tmp_path: Path) -> None:
    path = tiny.saved(tmp_path / "net.safetensors")
    checkpoints.convert(str(path), tmp_path / "made.safetensors")
    torch.testing.assert_close(given(str(tmp_path / "made.safetensors")), PlainNet(path)(images(16)))


def test_a_replay_buffer_comes_along(tmp_path: Path) -> None:
    source = SOURCES["JEM WRN-10-2"]
    reference = saved(source.wrap(source.network().state_dict()), tmp_path / "net.pt")
    report = checkpoints.convert(reference, tmp_path / "made.safetensors")
    assert report.replay == 20
    assert "replay_buffer" not in report.ignored
    assert report.warnings == ()
    ours, theirs = checkpoints.replay(str(tmp_path / "made.safetensors")), checkpoints.replay(reference)
    assert torch.equal(ours, theirs)
    assert 0 <= float(ours.min()) < float(ours.max()) <= 1
    checkpoints.forget()


def test_tensors_that_share_memory_or_are_views_are_written_once_and_whole(tmp_path: Path) -> None:
    weights = tiny.weights()
    weights["conv1.weight"] = weights["conv1.weight"].transpose(2, 3)
    weights["alias.weight"] = weights["conv1.weight"]
    whole = torch.zeros(100_000)
    whole[:3] = weights["linear.bias"]
    weights["linear.bias"] = whole[:3]
    reference, out = saved(weights, tmp_path / "net.pt"), tmp_path / "made.safetensors"
    checkpoints.convert(reference, out)
    assert torch.equal(given(str(out)), given(reference))
    held = sum(value.nbytes for value in tiny.weights().values())
    assert held < out.stat().st_size < held + 10_000, "and not the many numbers of which the bias is a view"


def test_layers_that_share_their_weights_are_each_written(tmp_path: Path) -> None:
    weights = tiny.weights()
    weights["layer2.0.bn2.weight"] = weights["layer2.0.bn2.bias"]
    reference, out = saved(weights, tmp_path / "net.pt"), tmp_path / "made.safetensors"
    checkpoints.convert(reference, out)
    assert torch.equal(given(str(out)), given(reference))


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = sources_preact.SOURCES[1].network()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


def test_a_program_stays_as_it_is(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would like programs of another kind
        torch.jit.trace(Same().eval(), torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "net.ts"))
    with pytest.raises(Refused, match=r"net\.ts is a program, which has no state dict: use it as it is\."):
        checkpoints.convert(str(tmp_path / "net.ts"), tmp_path / "made.safetensors")
    assert not (tmp_path / "made.safetensors").exists()


# Where it goes ----------------------------------------------------------------------------------------------------

BAD_PLACES: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "no such folder": (lambda folder: folder / "none" / "made.safetensors", "cannot be written"),
    "a folder": (lambda folder: _folder(folder / "made"), "no ordinary file"),
    "below a file": (lambda folder: folder / "net.pt" / "made", "cannot be written"),
    "the source": (lambda folder: folder / "net.pt", "net.pt is the checkpoint itself: choose another name."),
    "the source, roundabout": (lambda folder: folder / "x" / ".." / "net.pt", "is the checkpoint itself"),
    "a link to the source": (lambda folder: _link(folder / "link", folder / "net.pt"), "is the checkpoint itself"),
    "no name": (lambda _: Path("/"), "no ordinary file"),
    "too long": (lambda folder: folder / ("x" * 300), "cannot be written"),
}


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _link(path: Path, to: Path) -> Path:
    path.symlink_to(to)
    return path


@pytest.mark.parametrize(("place", "says"), BAD_PLACES.values(), ids=BAD_PLACES)
def test_a_place_that_is_none_is_one_sentence_and_nothing_changes(
    place: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    reference = Path(saved({"net": tiny.weights()}, tmp_path / "net.pt"))
    data = reference.read_bytes()
    (tmp_path / "x").mkdir()
    out = place(tmp_path)
    files = set(tmp_path.rglob("*"))
    with pytest.raises(Refused) as refused:
        checkpoints.convert(str(reference), out)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert reference.read_bytes() == data
    assert set(tmp_path.rglob("*")) == files


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_that_may_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    reference = saved(tiny.weights(), tmp_path / "net.pt")
    _folder(tmp_path / "closed").chmod(0o555)
    with pytest.raises(Refused, match=r"cannot be written \(Permission denied\)"):
        checkpoints.convert(reference, tmp_path / "closed" / "made")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = saved(tiny.weights(), tmp_path / "net.pt")
    (tmp_path / "made").write_text("the old one")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writing.Path, "write_bytes", full)
        with pytest.raises(Refused, match="No space left on device"):
            checkpoints.convert(reference, tmp_path / "made")
    assert (tmp_path / "made").read_text() == "the old one"
    assert {path.name for path in tmp_path.iterdir()} == {"net.pt", "made"}


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("the old one")
    checkpoints.convert(saved(tiny.weights(), tmp_path / "net.pt"), tmp_path / "made")
    assert checkpoints.inspect(str(tmp_path / "made")).family == "preact_resnet"


def test_what_cannot_be_opened_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("nothing")
    for reference, choices in ((tmp_path / "notes.pt", {}), (tmp_path / "none", {})):
        with pytest.raises(Refused):
            checkpoints.convert(str(reference), tmp_path / "made", choices)
    with pytest.raises(Refused, match="The activation cannot be 'loud'"):
        checkpoints.convert(saved(tiny.weights(), tmp_path / "net.pt"), tmp_path / "made", {"activation": "loud"})
    assert not (tmp_path / "made").exists()


def test_no_network_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "build", lambda _: pytest.fail("a network was made"))
    monkeypatch.setattr(nn.Module, "__call__", lambda *_: pytest.fail("a network was run"))
    checkpoints.convert(saved(tiny.weights(), tmp_path / "net.pt"), tmp_path / "made")
