"""What was in a file → candidates for the state dict: without wrappers and prefixes, the likeliest first."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from torch import Tensor

from cem_core.checkpoints import stand_ins
from cem_core.checkpoints.stand_ins import StandIn

Tensors = dict[str, Tensor]

_WRAPPERS: Final = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "model_state_dict", "teacher", "model", "state_dict",
    "P_state", "last", "net", "best", "student", "unaveraged_model_state_dict",
)  # fmt: skip
"""Averaged weights first, as the authors evaluate them."""
_SKIPPED: Final = re.compile(r"optim|sched|^amp$|rng|^replay_buffer$|^scaler$|^hparams|^param_groups$", re.IGNORECASE)
_AVERAGED: Final = ("ema", "model_ema", "ema_model", "averaged_model")
_PARTS: Final = (
    "", *_AVERAGED, "module", "_orig_mod", "model", "net", "backbone", "encoder", "base_encoder", "encoder_k",
    "encoder_q", "arch", "base_model", "network", "classifier", "0", "1",
)  # fmt: skip
"""Prefixes that writers use, the likeliest first."""
_DEEPEST: Final = 8
_LONGEST_KEY: Final = 300
_MOST_NODES: Final = 20_000
_MOST_PREFIXES: Final = 60


@dataclass(frozen=True)
class Candidate:
    """A mapping of the file that might be a state dict, seen below one prefix."""

    path: tuple[str, ...]
    """Keys that lead to the mapping."""
    prefix: str
    tensors: Tensors
    """Below the prefix, and without it."""
    everything: Tensors
    """All tensors of the file, by dotted key."""
    said: Mapping[str, str]
    """What a pickled module tells beside its tensors."""

    @property
    def outer(self) -> str:
        """What stands before the keys of `tensors` in `everything`."""
        return "".join(f"{part}." for part in self.path) + self.prefix

    @property
    def beside(self) -> Tensors:
        """All tensors of the file but these, by dotted key."""
        return {key: value for key, value in self.everything.items() if not key.startswith(self.outer)}

    @property
    def where(self) -> str:
        """For people: `state_dict · module.encoder`; empty: the file is nothing but this state dict."""
        return " · ".join(part for part in (*self.path, self.prefix.rstrip(".")) if part)


@dataclass(frozen=True)
class _Node:
    path: tuple[str, ...]
    tensors: Tensors
    said: Mapping[str, str]


def candidates(tree: Any) -> Iterator[Candidate]:
    """Every mapping with tensors, below every prefix that many of its keys share."""
    nodes = list(_nodes(tree))
    everything = {".".join((*node.path, key)): value for node in nodes for key, value in node.tensors.items()}
    for node in sorted(nodes, key=_rank):
        # A queue of negatives beside an encoder tells a family that its last layer is a projection.
        queue = [value for key, value in node.tensors.items() if key.split(".")[-1] == "queue"][:1]
        for prefix in _prefixes(node.tensors):
            inside = {key[len(prefix) :]: value for key, value in node.tensors.items() if key.startswith(prefix)}
            inside |= dict(zip(["queue"], queue, strict=False))
            yield Candidate(node.path, prefix, inside, everything, node.said)


def facts_in(tree: Any) -> dict[str, str]:
    """`arch`, `dataset` and `classes` (as JSON), where a wrapper or its pickled options tell them."""
    found: dict[str, str] = {}
    holders = [tree, *tree.values()] if isinstance(tree, Mapping) else []
    for holder in holders:
        entries = holder.attributes() if isinstance(holder, StandIn) else holder
        if isinstance(entries, Mapping):
            for key in ("arch", "dataset"):
                if isinstance(value := entries.get(key), str):
                    found.setdefault(key, value[:100])
            for key in ("classes", "class_names", "class_to_idx"):
                if names := _class_names(entries.get(key)):
                    found.setdefault("classes", msgspec.json.encode(names).decode())
    return found


def _class_names(value: Any) -> list[str]:
    """In the order of the network's outputs: a list, or torchvision's `class_to_idx`. Empty: it is neither."""
    if isinstance(value, Mapping):
        if not all(type(index) is int for index in value.values()):
            return []
        if sorted(value.values()) != list(range(len(value))):
            return []
        value = sorted(value, key=value.__getitem__)
    if not isinstance(value, list | tuple) or len(value) > _MOST_NODES:
        return []
    return list(value) if all(isinstance(name, str) and len(name) <= _LONGEST_KEY for name in value) else []


def _nodes(tree: Any) -> Iterator[_Node]:
    """Breadth first; each object once, as shared ones could be met without end."""
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), tree)])
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_NODES:
        path, value = waiting.popleft()
        if id(value) in seen or len(path) > _DEEPEST:
            continue
        seen.add(id(value))
        if isinstance(value, StandIn):
            tensors, said = stand_ins.state_dict(value)
            tensors = {key: part for key, part in tensors.items() if _is_name(key)}
            if tensors:
                yield _Node(path, tensors, said)
                continue
            value = value.attributes() or value.entries  # not a module: perhaps a mapping of another kind
        if isinstance(value, list | tuple):
            value = dict(enumerate(value[:64]))
        if isinstance(value, Mapping):
            entries = [(name, part) for key, part in value.items() if _is_name(name := str(key))]
            tensors = {name: part.detach() for name, part in entries if isinstance(part, Tensor)}
            if tensors:
                yield _Node(path, tensors, {})
            waiting += [
                ((*path, name), part)
                for name, part in sorted(entries, key=lambda entry: entry[0])
                if isinstance(part, Mapping | StandIn | list | tuple) and not _SKIPPED.search(name)
            ]


def _is_name(key: str) -> bool:
    """Whether a key is fit to be shown in one line; tensors below a key of a megabyte would each have as much."""
    return len(key) <= _LONGEST_KEY and key.isprintable()


def _rank(node: _Node) -> tuple[bool, int, int, tuple[str, ...]]:
    """The likeliest first; the path last, so that the order of keys in a file never decides."""
    known = [_WRAPPERS.index(part) for part in node.path if part in _WRAPPERS]
    matrices = sum(tensor.dim() >= 2 for tensor in node.tensors.values())
    unknown = len(node.path) - len(known)
    return (not matrices, unknown, min(known, default=0) if node.path else -1, node.path)


def _prefixes(tensors: Tensors) -> list[str]:
    """Dotted beginnings that lead to at least two weights, the likeliest first: averaged weights, then ""."""
    counts: dict[str, int] = {"": 0}
    for key, tensor in tensors.items():
        if tensor.dim() >= 2:
            parts = key.split(".")[:-1]
            for depth in range(1, min(len(parts), 5)):
                prefix = ".".join(parts[:depth]) + "."
                counts[prefix] = counts.get(prefix, 0) + 1

    contrast = any(key.split(".")[-1] == "queue" for key in tensors)

    def rank(prefix: str) -> tuple[int, bool, int, int, str]:
        parts = prefix.split(".")[:-1]
        if contrast:  # MoCo, whose queries are the encoder; DynACL evaluates the one that makes keys
            parts = [{"encoder_q": "encoder_k", "encoder_k": "encoder_q"}.get(part, part) for part in parts]
        strange = sum(part not in _PARTS for part in parts)
        raw = not any(part in _AVERAGED for part in parts)
        return strange, raw, len(parts), sum(_PARTS.index(part) for part in parts if part in _PARTS), prefix

    def is_twin(prefix: str) -> bool:
        """MadryLab's AttackerModel holds the same tensors as `model` beside it."""
        other = prefix.replace("attacker.", "", 1)
        return other != prefix and counts.get(other) == counts[prefix]

    found = [prefix for prefix, count in counts.items() if not prefix or (count >= 2 and not is_twin(prefix))]
    return sorted(found, key=rank)[:_MOST_PREFIXES]
