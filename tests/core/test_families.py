"""Every family, as files really are: wrapped, prefixed, in both of torch's formats, beside all kinds of objects."""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dill
import numpy as np
import pytest
import sources_packages
import sources_preact
import sources_resnet
import sources_wide
import torch
from safetensors.torch import save_file
from source import Source, Tensors
from torch import Tensor, nn

from cem_core import checkpoints
from cem_core.checkpoints import opening
from cem_core.models import FAMILIES, Evidence

SOURCES = [*sources_preact.SOURCES, *sources_resnet.SOURCES, *sources_wide.SOURCES, *sources_packages.SOURCES]
ONE_EACH = list({source.family: source for source in reversed(SOURCES)}.values())
"""The first source of each family."""


def images(source: Source, count: int = 2) -> Tensor:
    size = source.size
    return torch.randn(count, source.channels, size, size, generator=torch.Generator().manual_seed(5))


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def saved(found: Any, *, zipped: bool, **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dill and of the old format
        torch.save(found, file, _use_new_zipfile_serialization=zipped, **options)
    return file.getvalue()


def beside(found: Any, extra: dict[str, Any]) -> Any:
    """What a wrapper holds, and more; a bare state dict is wrapped for it."""
    wrapped = found if not any(isinstance(value, Tensor) for value in found.values()) else {"state_dict": found}
    return {**wrapped, **extra}


def half(tensors: Tensors) -> Tensors:
    return {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}


WRAPS: dict[str, Callable[[Source, Tensors], Any]] = {
    "bare": lambda _, tensors: tensors,
    "module.": lambda _, tensors: prefixed(tensors, "module."),
    "its own": lambda source, tensors: source.wrap(tensors),
}
WRITERS: dict[str, Callable[[Any, bool], bytes]] = {
    "plain": lambda found, zipped: saved(found, zipped=zipped),
    "dill with a lambda": lambda found, zipped: saved(
        beside(found, {"args": {"schedule": lambda epoch: 0.1**epoch}}), zipped=zipped, pickle_module=dill
    ),
    "Namespace": lambda found, zipped: saved(
        beside(found, {"args": argparse.Namespace(lr=0.1, data=Path("/data"))}), zipped=zipped
    ),
    "numpy scalar": lambda found, zipped: saved(
        beside(found, {"best_acc": np.float64(0.5), "curve": np.ones(3)}), zipped=zipped
    ),
    "protocol 4": lambda found, zipped: saved(found, zipped=zipped, pickle_protocol=4),
}
MODULES: dict[str, Callable[[nn.Module], Any]] = {
    "bare": lambda net: net,
    "module.": lambda net: nn.DataParallel(net, device_ids=[]),
    "its own": lambda net: {"net": net, "acc": 0.9},
}


def opened(path: Path, data: bytes, source: Source) -> opening.Opened:
    path.write_bytes(data)
    return opening.opened(str(path), source.choices)


def check(found: opening.Opened, source: Source, net: nn.Module, x: Tensor) -> None:
    """The same network to the last bit, and what the report must say."""
    assert found.plan.family == source.family
    assert found.checkpoint.channels == source.channels
    with torch.no_grad():
        assert torch.equal(opening.build(found)(x), source.logits(net, x))
    known = {fact.what: fact.value for fact in found.checkpoint.facts}
    for what, value in source.facts.items():
        assert known[what] == value


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("source", ONE_EACH, ids=lambda source: source.family)
def test_a_family_opens_however_it_was_saved(source: Source, wrap: str, zipped: bool, tmp_path: Path) -> None:
    net, x = source.network(), images(source)
    tensors = net.state_dict()
    for name, write in WRITERS.items():
        found = opened(tmp_path / f"{name}.pt", write(WRAPS[wrap](source, tensors), zipped), source)
        check(found, source, net, x)
    if all(isinstance(value, Tensor) for value in tensors.values()):
        halved = source.network().half().float()
        check(opened(tmp_path / "half.pt", saved(WRAPS[wrap](source, half(tensors)), zipped=zipped), source),
              source, halved, x)  # fmt: skip
    whole = opened(tmp_path / "whole.pt", saved(MODULES[wrap](net), zipped=zipped), source)
    check(whole, source, net, x)
    assert whole.checkpoint.ignored


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.id)
def test_every_variant_opens_as_its_own_repository_saves_it(source: Source, tmp_path: Path) -> None:
    net, x = source.network(), images(source)
    data = saved(source.wrap(net.state_dict()), zipped=True)
    found = opened(tmp_path / "net.pt", data, source)
    if source.encoder and found.checkpoint.classes:  # with the head of a linear evaluation beside it
        assert {"none", "file"} & set(found.checkpoint.fact("head").options)
        found = opening.opened(found.checkpoint.path, {**source.choices, "head": "none"})
    check(found, source, net, x)
    assert bool(found.checkpoint.classes) != source.encoder
    assert found.checkpoint.warnings == ()


@pytest.mark.parametrize("source", [s for s in SOURCES if not s.encoder], ids=lambda source: source.id)
def test_without_its_head_a_model_is_what_lies_below_it(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(saved(source.wrap(source.network().state_dict()), zipped=True))
    model, known = checkpoints.load(str(path), "cpu", choices=source.choices, keep=False)
    encoder, bare = checkpoints.load(str(path), "cpu", choices={**source.choices, "head": "none"}, keep=False)
    x = torch.rand(2, source.channels, known.size, known.size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert torch.equal(encoder(x), model.features(x))
        assert torch.equal(encoder.embedding(x), model.features(x))
    assert (bare.classes, bare.warnings) == ((), ())
    for what in ("normalisation", "image size"):
        assert bare.fact(what) == known.fact(what), "what was trained on is told by the head, wherever it is now"


@pytest.mark.parametrize("source", ONE_EACH, ids=lambda source: source.family)
def test_a_frozen_model_gives_the_same_and_so_does_a_converted_one(source: Source, tmp_path: Path) -> None:
    net = source.network()
    path = tmp_path / "net.pt"
    path.write_bytes(saved(source.wrap(net.state_dict()), zipped=True))
    choices = {**source.choices, "normalisation": "none", "image_size": str(source.size)}
    model, report = checkpoints.load(str(path), "cpu", choices=choices)
    x = torch.rand(2, source.channels, source.size, source.size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        exact = source.logits(net, x)
        assert torch.allclose(model(x), exact, atol=1e-4 * float(exact.abs().max()), rtol=1e-3)
    checkpoints.convert(str(path), tmp_path / "net.safetensors", choices)
    again, converted = checkpoints.load(str(tmp_path / "net.safetensors"), "cpu")
    with torch.no_grad():
        assert torch.equal(again(x), model(x)), "bit-equal"
        assert torch.equal(opening.build(opening.opened(str(tmp_path / "net.safetensors")))(x), exact)
    assert (converted.family, converted.classes, converted.size) == (report.family, report.classes, report.size)
    assert {fact.source for fact in converted.facts} <= {"file"}, "nothing is a guess any more"
    checkpoints.forget()


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.id)
def test_no_two_families_claim_the_same_keys(source: Source) -> None:
    tensors = next(candidates(source))
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    plans = [plan for recognise in FAMILIES if (plan := recognise(shapes, Evidence(choices=source.choices)))]
    assert [plan.family for plan in plans] == [source.family]


def candidates(source: Source) -> Iterator[Tensors]:
    from cem_core.checkpoints import unwrapping

    for candidate in unwrapping.candidates(source.wrap(source.network().state_dict())):
        shapes = {key: tuple(value.shape) for key, value in candidate.tensors.items()}
        if any(recognise(shapes, Evidence(choices=source.choices)) for recognise in FAMILIES):
            yield candidate.tensors


def test_each_family_has_a_source() -> None:
    assert len(ONE_EACH) == len(FAMILIES)


def test_safetensors_of_every_family(tmp_path: Path) -> None:
    for source in ONE_EACH:
        net, x = source.network(), images(source)
        save_file({key: value.clone() for key, value in net.state_dict().items()}, tmp_path / "net.safetensors")
        check(opening.opened(str(tmp_path / "net.safetensors"), source.choices), source, net, x)
