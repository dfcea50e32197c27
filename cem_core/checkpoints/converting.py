"""Any checkpoint that opens → the project's own format: safetensors with what is known of it as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save

from cem_core import writing
from cem_core.checkpoints import opening
from cem_core.checkpoints.understanding import Opened
from cem_core.checkpoints.unwrapping import Tensors
from cem_core.messages import Checkpoint, Refused


def _single(opened: Opened) -> Tensors:
    """Its tensors; what the network does not use is left out where it is another name for something else."""
    used = set(opened.plan.keys().values())
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    found = {}
    for key, value in sorted(opened.tensors.items(), key=lambda item: item[0] not in used):
        place = value.data_ptr(), tuple(value.shape), value.stride()
        if key in used or place not in seen or not value.numel():
            seen.add(place)
            found[key] = value.clone(memory_format=torch.contiguous_format)
    return found


def convert(reference: str, out: Path, choices: Mapping[str, str] | None = None) -> Checkpoint:
    """Write the state dict, unwrapped, with every assumption as metadata; it opens again to the same bits.

    Tensors keep their precision. Returns what is known of the new file.

    Raises:
        Refused: the file cannot be opened, is a program, or `out` cannot be written.
    """
    opened = opening.opened(reference, choices)
    if opened.network is not None:
        raise Refused(f"{opened.path.name} is a program, which has no state dict: use it as it is.")
    if out.resolve() == opened.path:
        raise Refused(f"{out.name} is the checkpoint itself: choose another name.")
    tensors = _single(opened)
    if opened.replay is not None:
        tensors["replay_buffer"] = opened.replay.contiguous()
    facts = {fact.what.replace(" ", "_"): fact for fact in opened.checkpoint.facts}
    metadata = {
        key: fact.value
        for key, fact in facts.items()
        if fact.options and key not in ("weights", "head", "class_names", "family")
    }
    for key in ("training", "trained_against", "temperature"):
        if key in facts:
            metadata[key] = facts[key].value
    if opened.checkpoint.classes:
        metadata["classes"] = msgspec.json.encode(opened.checkpoint.classes).decode()
    metadata |= {"format": "cem-explorer", "family": opened.plan.family, "source_sha256": opened.checkpoint.sha256}
    writing.replace(out, save(tensors, metadata))
    return opening.inspect(str(out))
