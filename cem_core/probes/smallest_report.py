"""The smallest ε of some models on one image as files: numbers, energies of all classes, and pictures. No torch."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from cem_core import images, writing
from cem_core.messages import Checkpoint
from cem_core.probes.requests import Smallest
from cem_core.probes.results import Flip

RECORD: Final = "smallest.json"
TABLE: Final = "energies.csv"
MADE_BY: Final = "cem-explorer smallest"
GAINS: Final = (32, 16, 8, 4, 2, 1)
"""By which differences are shown."""


def write(folder: Path, request: Smallest, checkpoints: Sequence[Checkpoint], flips: Sequence[Flip]) -> None:
    """smallest.json, energies.csv, and for each model and norm the adversarial image and its signed difference.

    Pictures are PNG, which has 256 levels a channel; the exact pixels stand beside them as float32 (C, H, W) in npy.

    Raises:
        Refused: the folder holds something else, or cannot be written.
    """
    writing.claim(folder, RECORD, MADE_BY)
    told = {
        "made_by": MADE_BY,
        "eps_is": "an upper bound: a better attack may need less; null: no attack succeeded",
        "image": request.path,
        "label": request.label,
        "steps": request.steps,
        "seed": request.seed,
        "results": rows(request, checkpoints, flips),
    }
    writing.replace(folder / RECORD, msgspec.json.format(msgspec.json.encode(told)))
    writing.replace(folder / TABLE, _table(checkpoints, flips).encode())
    for flip in flips:
        for name, data in _pictures(checkpoints[flip.subject], flip):
            writing.replace(folder / name, data)


def rows(request: Smallest, checkpoints: Sequence[Checkpoint], flips: Sequence[Flip]) -> list[dict[str, Any]]:
    """What is found for each model and norm, for JSON: an ε is None where nothing was."""
    found = []
    for flip in flips:
        checkpoint, subject = checkpoints[flip.subject], request.subjects[flip.subject]
        finite = math.isfinite(flip.eps)
        found.append(
            {
                "name": checkpoint.name,
                "sha256": checkpoint.sha256,
                "precision": subject.precision,
                "choices": subject.choices,
                "norm": flip.norm,
                "eps": flip.eps if finite else None,
                "failed": flip.failed,
                "label": checkpoint.classes[flip.label],
                "seen": checkpoint.classes[flip.seen] if finite else None,
                "seconds": round(flip.seconds, 3),
            }
        )
    return found


def gain(flip: Flip) -> int:
    """The largest at which no pixel of the difference is clipped."""
    most = float(np.abs(flip.adversarial - flip.pixels).max())
    return next(gain for gain in GAINS if gain * most <= 1 or gain == 1)


def _pictures(checkpoint: Checkpoint, flip: Flip) -> Iterator[tuple[str, bytes]]:
    """Names of files and what is in them; none where the image itself is the answer."""
    if not 0 < flip.eps < math.inf:
        return
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", checkpoint.name.removesuffix(Path(checkpoint.path).suffix))[:60].strip("-.")
    name = f"{flip.subject + 1}-{slug or 'model'}-{flip.norm}"
    yield f"{name}-adversarial.png", images.png(images.to_uint8(images.hwc(flip.adversarial[None])[0]))
    shown = images.difference(flip.adversarial[None], flip.pixels[None], gain(flip))[0]
    yield f"{name}-difference-x{gain(flip)}.png", images.png(shown)
    file = io.BytesIO()
    np.save(file, flip.adversarial, allow_pickle=False)
    yield f"{name}-adversarial.npy", file.getvalue()


def _table(checkpoints: Sequence[Checkpoint], flips: Sequence[Flip]) -> str:
    """A row for each model, norm and class: E(x,k) of the image and of the adversarial one."""
    file = io.StringIO(newline="")
    sheet = csv.writer(file)
    sheet.writerow(("model", "norm", "class", "before", "after"))
    for flip in flips:
        checkpoint = checkpoints[flip.subject]
        for name, before, after in zip(checkpoint.classes, -flip.before, -flip.after, strict=True):
            sheet.writerow((checkpoint.name, flip.norm, name, before, after))
    return file.getvalue()
