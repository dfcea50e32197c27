"""Single pictures: a PNG for each step of each chain, and the contact sheet."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from cem_core import png
from cem_core.events import Kind
from cem_core.export import layout
from cem_core.export.carried import Frame, RunFile, dump
from cem_core.export.choices import Export
from cem_core.images import Bytes, enlarge, hwc, to_uint8
from cem_core.messages import Step
from cem_core.session import Session
from cem_core.sheet import draw, plain

SHEET_ROWS: Final = 64
SHEET_COLUMNS: Final = 10


def encoded(pixels: Bytes, text: bytes) -> bytes:
    """A PNG of (H, W, C) that carries the settings."""
    return png.head(pixels.shape, text) + png.still(pixels) + png.END


def frames(folder: Path, record: RunFile) -> Callable[[Step], None]:
    """A PNG for each step of each chain, at the model's own resolution."""
    happened: defaultdict[tuple[int, int], tuple[Kind, ...]] = defaultdict(tuple)
    for event in record.events:
        happened[event.step, event.chain] += (event.kind,)
    alone = msgspec.to_builtins(msgspec.structs.replace(record, events=()))
    del alone["frame"]
    shared = dump(alone)[:-1]
    folders = [folder / _folder_name(record, chain) for chain in range(len(record.labels))]
    for path in folders:
        path.mkdir(parents=True)
    digits = max(4, len(str(record.steps - 1)))

    def write(step: Step) -> None:
        pixels = to_uint8(step.pixels).transpose(0, 2, 3, 1)
        for chain, path in enumerate(folders):
            frame = Frame(
                chain=chain + 1,
                start=record.starts[chain],
                target=record.target(chain),
                step=step.index,
                energy=_finite(step.energy[chain]),
                joint=_finite(step.joint[chain]),
                log_p=_finite(step.log_p[chain]),
                distance=_finite(step.distance[chain]),
                events=happened[step.index, chain],
            )
            text = shared + b', "frame": ' + dump(frame) + b"}"
            (path / f"step-{step.index:0{digits}}.png").write_bytes(encoded(pixels[chain], text))

    return write


def _told(record: RunFile, chain: int) -> str:
    """Where a chain is sent, by its number where the name is no text; empty: nowhere."""
    if not record.spec.aims(chain, encoder=not record.checkpoint.classes):
        return ""
    what = "class" if record.checkpoint.classes else "image"
    return plain(record.target(chain)) or f"{what} {record.labels[chain]}"


def _folder_name(record: RunFile, chain: int) -> str:
    """chain-01-horse, whatever the class is called; chain-01 of a chain that is sent nowhere."""
    digits = max(2, len(str(len(record.labels))))
    told = _told(record, chain)
    slug = re.sub(r"[^a-z0-9]+", "-", told.lower())[:40].strip("-") or (told and f"class-{record.labels[chain]}")
    return f"chain-{chain + 1:0{digits}}-{slug}".rstrip("-")


def _finite(value: np.float32) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def sheet_scale(session: Session, choices: Export, steps: list[int]) -> int:
    """Of the contact sheet. Raises Refused if it would be too large."""
    columns, rows = min(SHEET_COLUMNS, len(steps)), min(SHEET_ROWS, len(session.start.labels))
    return layout.scale(choices, session.start.checkpoint.size, columns, rows)


def sheet(record: RunFile, session: Session, steps: list[int]) -> bytes:
    """A PNG with a row for each chain, up to ten evenly spaced steps as columns."""
    shown = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, SHEET_COLUMNS).round().astype(int))]
    chains = range(min(SHEET_ROWS, len(record.labels)))
    scale = sheet_scale(session, record.exported or Export(), steps)
    last = session[shown[-1]]
    rows = [
        (
            plain(record.starts[i]) if plain(Path(record.starts[i]).stem) else f"chain {i + 1}",
            _told(record, i),
            f"p {np.exp(last.log_p[i]):.2f}" if _told(record, i) else f"E(x) {last.energy[i]:.2f}",
        )
        for i in chains
    ]
    columns = [
        (f"step {index}", enlarge(hwc(to_uint8(session[index].pixels[: len(chains)])), scale)) for index in shown
    ]
    title = f"{plain(record.checkpoint.name)}, {plain(record.spec.sampler.name)}"
    if len(chains) < len(record.labels):
        title += f", {len(chains)} of {len(record.labels)} chains"
    return encoded(draw(title, rows, columns), dump(record))
