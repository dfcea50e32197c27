"""Heads for encoders: in the file beside the encoder, or in a file beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor

from cem_core.checkpoints import unwrapping
from cem_core.checkpoints.finding import Found
from cem_core.checkpoints.reading import Contents, read
from cem_core.checkpoints.sniffing import sniff
from cem_core.checkpoints.unwrapping import Tensors
from cem_core.messages import Fact, Refused
from cem_core.models import Network, Plan

_HEAD_NAMES: Final = ("linear", "fc", "classifier", "head", "linear_classifier", "linear_layer", "lin")
_HEAD_FILE: Final = re.compile(r"linear|classifier|head|(?:^|[_.-])fc(?![a-z])", re.IGNORECASE)
_LARGEST_HEAD: Final = 64 * 2**20
NONE: Final = "none"
OWN: Final = "own"


def without_blank_head(found: Found, tensors: Tensors) -> str | None:
    """Take a head of zeros away, as contrastive training leaves it; says why, or None where there is none."""
    weight = tensors.get(found.plan.key_of("head.weight"))
    if not found.plan.classes or weight is None or not weight.numel() or weight.any():
        return None
    for key in ("head.weight", "head.bias"):
        tensors.pop(found.plan.key_of(key), None)
    return "its last layer is all zeros: never trained"


def with_head(
    path: Path, found: Found, plan: Plan, tensors: Tensors, why: str
) -> tuple[Plan, tuple[Fact, ...], tuple[str, ...], Mapping[str, str]]:
    """For an encoder: the plan with the head that was chosen or lies in the file, the fact, heads beside the file, and
    what the chosen one says of its classes and its encoder. A classifier may be chosen to be an encoder.

    The head's tensors are added under the keys that the family's own head would have, and one that is not wanted goes.
    """
    if plan.classes:
        fact = found.evidence.settle("head", (OWN, NONE), OWN, 1.0)
        if fact.source == "guess":
            fact = msgspec.structs.replace(fact, source="file")
        if fact.value == OWN:
            return plan, (fact,), (), {}
        for key in _keys_of_head(plan):
            tensors.pop(key, None)
        return _headless(plan), (fact, Fact("features", str(plan.features), "file")), (), {}
    inside = dict(_heads_beside(found, plan.features))
    files = {file.name: file for file in _head_files(path, plan.features)}
    options = (NONE, *inside, *files)
    default = next(iter(inside), NONE)
    fact = found.evidence.settle("head", options, default, 0.8, why)
    if len(options) == 1:
        fact = Fact("head", NONE, "file", why=why)
    elif not inside and fact.source == "guess":  # those that lie beside it are offered, not expected
        fact = Fact("head", NONE, "file", 1.0, options, why=why)
    offered = tuple(str(file) for file in files.values())
    if fact.value == NONE:
        return plan, (fact, Fact("features", str(plan.features), "file")), offered, {}
    said: Mapping[str, str] = {}
    if fact.value in inside:
        weight, bias = inside[fact.value]
    else:
        contents = read(files[fact.value], sniff(files[fact.value]))
        weight, bias = next(iter(_heads(_everything(contents), plan.features, alone=True)))[1]
        said = {key: value for key, value in contents.said.items() if key in ("classes", "encoder_sha256")}
    for key in _projections(plan, tensors):
        del tensors[key]
    tensors[plan.key_of("head.weight")] = weight
    tensors[plan.key_of("head.bias")] = torch.zeros(len(weight)) if bias is None else bias
    return found.again(tensors), (fact,), offered, said


def _headless(plan: Plan) -> Plan:
    """The same network up to its features."""

    def build() -> Network:
        network = plan.build()
        network.head = None
        return network

    head = _keys_of_head(plan)
    return replace(plan, classes=0, build=build, idle=lambda key: key in head or plan.idle(key))


def _keys_of_head(plan: Plan) -> set[str]:
    return {theirs for ours, theirs in plan.keys().items() if ours.startswith("head.")}


def _projections(plan: Plan, tensors: Tensors) -> list[str]:
    """Keys that tell a family to see an encoder: the projections of contrastive training, and its queue."""
    layers = {key.split(".")[0] for key in tensors if not plan.idle(key)}
    return [key for key in tensors if plan.idle(key) and key.split(".")[0] not in layers]


def _heads_beside(found: Found, features: int) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
    """Those in the same file, but for the last layers of other networks, such as MoCo's second encoder."""
    beside = found.candidate.beside
    kernels = [key for key, tensor in found.candidate.tensors.items() if tensor.dim() > 2]
    for name, layer in _heads(beside, features):
        parent = name[: name.rfind(".") + 1]
        if not any(f"{parent}{key}" in beside for key in kernels):
            yield name, layer


def _everything(contents: Contents) -> Tensors:
    first = next(unwrapping.candidates(contents.tree), None)
    return first.everything if first else {}


def _heads(
    tensors: Mapping[str, Tensor], features: int, *, alone: bool = False
) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
    """Linear layers that take so many features to classes: name → weight and bias.

    Args:
        alone: in a file of its own a head may have any name, as RoCL's `module.0` does, if nothing else is there.
    """
    alone = alone and sum(tensor.dim() >= 2 for tensor in tensors.values()) == 1
    for key, weight in tensors.items():
        if key.endswith("weight") and weight.dim() == 2 and weight.shape[1] == features:
            layer = key.removesuffix("weight")
            name = layer.rstrip(".") or "linear"
            whole = re.sub(r"(?:\.module|\.0)+$", "", name)  # a DataParallel, or a Sequential of one
            others = whole != name and any(k.startswith(f"{whole}.") and not k.startswith(layer) for k in tensors)
            bias = tensors.get(f"{layer}bias")
            known = alone or (whole.rsplit(".", 1)[-1] in _HEAD_NAMES and not others)
            if known and (bias is None or bias.shape == weight.shape[:1]):
                yield name, (weight, bias)


def _head_files(path: Path, features: int) -> Iterator[Path]:
    """Files beside an encoder, named after it, that hold a head for it."""
    try:
        beside = sorted(path.parent.iterdir())[:5000]
    except OSError:
        return
    for file in beside:
        after = file.name.removeprefix(path.name)  # RoCL adds to the whole name, `.t7…` being its extension
        after_stem = file.name.removeprefix(path.stem).lstrip("._-")
        if (after != file.name and _HEAD_FILE.search(after)) or (
            file.name.startswith(path.stem) and file != path and _HEAD_FILE.match(after_stem)
        ):
            try:
                if file.is_file() and file.stat().st_size <= _LARGEST_HEAD:
                    contents = read(file, sniff(file), shapes=True)
                    if any(True for _ in _heads(_everything(contents), features, alone=True)):
                        yield file
            except (Refused, OSError):
                continue
