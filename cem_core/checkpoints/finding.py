"""Which weights of a file, and as which family: the candidates of `unwrapping`, put before every family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import msgspec
from torch import Tensor

from cem_core.checkpoints import preprocessing, unwrapping
from cem_core.checkpoints.reading import Contents
from cem_core.checkpoints.unwrapping import Candidate, Tensors
from cem_core.messages import Fact, Refused, Source
from cem_core.models import FAMILIES, Evidence, Plan

_MOST_CLASSES: Final = 100_000
_MOST_TRIES: Final = 300
"""Candidates for the state dict that are looked at; a file with more is no checkpoint but a trap."""


@dataclass(frozen=True)
class Found:
    candidate: Candidate
    evidence: Evidence
    plan: Plan
    facts: tuple[Fact, ...]

    def again(self, tensors: Tensors) -> Plan:
        """The plan of the same family for other weights."""
        plans = plans_for(tensors, self.evidence)
        return next(plan for plan in plans if plan.family == self.plan.family)


def find(path: Path, contents: Contents, said: Mapping[str, str], choices: Mapping[str, str]) -> Found:
    """The weights in a file that a family knows. Raises Refused if there are none."""
    said = {**said, **unwrapping.facts_in(contents.tree), **contents.said}
    found: list[tuple[Candidate, Evidence, list[Plan]]] = []
    first: Candidate | None = None
    for candidate in islice(unwrapping.candidates(contents.tree), _MOST_TRIES):
        if any(candidate.outer.startswith(known.outer) for known, _, _ in found):
            continue  # a part of what was recognised whole
        if first is None or sum(map(_is_matrix, candidate.tensors.values())) > sum(
            map(_is_matrix, first.tensors.values())
        ):
            first = candidate
        evidence = Evidence(path.stem, {**candidate.said, **_translated(said)}, choices)
        if plans := plans_for(candidate.tensors, evidence):
            found.append((candidate, evidence, plans))
    if not found:
        raise Refused(_unknown(path.name, contents, first))
    places = tuple(candidate.where or "the file" for candidate, _, _ in found)
    index = _chosen("weights", places, choices)
    candidate, evidence, plans = found[index or 0]
    families = tuple(plan.family for plan in plans)
    which = _chosen("family", families, choices) if len(families) > 1 else None
    plan = plans[which or 0]
    if plan.channels not in (1, 3) or not 0 <= plan.classes <= _MOST_CLASSES:
        raise Refused(f"{path.name} takes {plan.channels} channels to {plan.classes} classes: no image classifier.")
    options = families if len(families) > 1 else ()
    source: Source = "file" if which is None else "choice"
    facts = [Fact("family", plan.family if options else plan.title, source, 0.8 if options else 1.0, options)]
    if len(places) > 1 or candidate.where:
        options = places if len(places) > 1 else ()
        sure, source = (0.9, "guess") if options and index is None else (1.0, "file" if index is None else "choice")
        facts.append(Fact("weights", places[index or 0], source, sure, options))
    return Found(candidate, evidence, plan, tuple(facts))


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.dim() >= 2


def plans_for(tensors: Mapping[str, Tensor], evidence: Evidence) -> list[Plan]:
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return [plan for recognise in FAMILIES if (plan := recognise(shapes, evidence))]


def _chosen(what: str, options: tuple[str, ...], choices: Mapping[str, str]) -> int | None:
    chosen = choices.get(what)
    if chosen is None:
        return None
    if chosen not in options:
        raise Refused(f"The {what} cannot be {chosen[:60]!r}: this file has {', '.join(options)}.")
    return options.index(chosen)


def _unknown(name: str, contents: Contents, best: Candidate | None) -> str:
    """Why a file that could be read is no model."""
    tree = contents.tree
    if isinstance(tree, Tensor):
        shape = "×".join(str(side) for side in tree.shape) or "one number"
        return f"{name} holds a single tensor ({shape}), perhaps labels, and no weights: open the model's file."
    if isinstance(tree, Mapping) and {"state", "param_groups"} <= tree.keys():
        return f"{name} holds the state of an optimizer and no weights: open the model's file beside it."
    if best is None or not any(map(_is_matrix, best.tensors.values())):
        return f"{name} holds no weights: open the file that has the model's state dict."
    if {"weight", "bias"} >= best.tensors.keys() or len(best.tensors) <= 2:
        return f"{name} holds a single layer, perhaps a head ({', '.join(best.tensors)}): open its encoder's file."
    first = ", ".join(list(best.tensors)[:3])[:200]
    return f"{name} is of no architecture that is known here (its first weights: {first})."


def _translated(said: Mapping[str, str]) -> dict[str, str]:
    """Metadata in the words of facts: `mean` and `std` as one normalisation."""
    words = dict(said)
    numbers = Annotated[list[float], msgspec.Meta(min_length=1, max_length=3)]
    try:
        mean, std = (msgspec.json.decode(words.pop(key, ""), type=numbers) for key in ("mean", "std"))
    except msgspec.MsgspecError:
        return words
    if len(mean) == len(std) and min(std) > 0:
        words.setdefault("normalisation", preprocessing.named(tuple(mean), tuple(std)))
    return words
