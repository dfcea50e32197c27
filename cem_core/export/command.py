"""A run as a line for the shell, which makes the same run again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from cem_core import bundle
from cem_core.chains import compared, lay_out
from cem_core.export.carried import RunFile
from cem_core.messages import (
    GaussianStart,
    ImageStart,
    NoiseStart,
    OverallStart,
    Refused,
    ReplayStart,
    RunSpec,
    Sampler,
    Start,
)  # fmt: skip
from cem_core.presets import SAMPLERS

_NUMBERS: Final = {"a": "--a", "b": "--b", "step_size": "--step-size", "noise": "--noise", "norm": "--norm"}
_SWITCHES: Final = {
    "random_start": ("--random-start", "--no-random-start"),
    "normalised": ("--normalised", "--plain"),
}
_DRAWN: Final[dict[type[Start], str]] = {
    GaussianStart: "gaussian", OverallStart: "overall", NoiseStart: "noise", ReplayStart: "replay",
}  # fmt: skip
_SPELT: Final = 100
"""Reference images that a line spells out."""


def command(run: RunFile, at: str = "", out: str = "morph") -> str:
    """`cem-explorer morph …`, quoted for a POSIX shell.

    Args:
        at: where the run is recorded or carried: a session's folder, a `run.json` or an exported picture. It is used
            where options cannot say what was done: seeds out of order, starts of several kinds, a large reference
            batch, or a sampler that was changed on the way.
        out: the folder that the line exports into.

    Raises:
        Refused: options cannot say it, and no record is given.
    """
    words = None if _changed(run) else _options(run)
    if words is None:
        if not at:
            raise Refused("No options can say what was done in this run: export it, and use --run with its run.json.")
        words = ["--run", at]
    return shlex.join(["cem-explorer", "morph", *words, "--out", out])


def rows(run: RunFile) -> Callable[[], Sampler | None]:
    """For `runner.play`: the rows that a run was made with, one change after another, and its end where it ended."""
    changes = {change.step: change.sampler for change in run.changes}
    row, index = run.spec.sampler, -1

    def live() -> Sampler | None:
        nonlocal row, index
        index += 1
        row = changes.get(index + 1, row)
        if run.end is None:
            return row
        if index + 1 < run.steps:  # the recorded length decides, not what was planned
            return msgspec.structs.replace(row, steps=max(row.steps, index + 1))
        return msgspec.structs.replace(row, steps=index) if index and run.end.reason != "stopped" else None

    return live


def _changed(run: RunFile) -> bool:
    """Whether the sampler was changed on the way, its name and length aside, which no pixel depends on."""
    first = run.spec.sampler
    rows = (msgspec.structs.replace(change.sampler, name=first.name, steps=first.steps) for change in run.changes)
    return any(row != first for row in rows)


def _options(run: RunFile) -> list[str] | None:
    """None where they cannot say all of it."""
    spec = run.spec
    encoder = not run.checkpoint.classes
    chains = _chains(spec, None if encoder else run.checkpoint.classes)
    if chains is None:
        return None
    words = [*chains, "--checkpoint", spec.checkpoint] if spec.checkpoint != bundle.DEFAULT_MODEL else chains
    for fact, value in spec.choices.items():
        if "=" in fact or fact != fact.strip().replace(" ", "_").replace("-", "_") or value != value.strip():
            return None
        words += ["--assume", f"{fact}={value}"]
    # A run that was stopped, or went on for longer than was planned, has as many steps as it has.
    planned = (run.changes[-1].sampler if run.changes else spec.sampler).steps
    steps = max(1, run.steps - 1) if run.end is not None else planned
    words += _sampler(spec.sampler, steps)
    if encoder:
        if spec.reference is not None and not spec.reference.cosine:
            words += ["--dot"]
        known = run.checkpoint.fact("temperature")
        if known is None or spec.temperature != float(known.value):  # it may be told by the file one day
            words += ["--temperature", str(spec.temperature)]
    if seed := spec.chains[0].seed:
        words += ["--seed", str(seed)]
    if spec.device != "auto":
        words += ["--device", spec.device]
    if spec.precision != "float32":
        words += ["--precision", spec.precision]
    return words


def _chains(spec: RunSpec, classes: tuple[str, ...] | None) -> list[str] | None:
    """Starts, targets and how many, as short as they can be said; None where `lay_out` would make others.

    Args:
        classes: None: an encoder, and what it compares with is said too.
    """
    every = [chain.start for chain in spec.chains]
    kinds = {(type(start), isinstance(start, GaussianStart) and not start.of) for start in every}
    if len(kinds) > 1 or not {type(start) for start in every} <= {ImageStart, *_DRAWN}:
        return None
    several = isinstance(every[0], ImageStart) or (isinstance(every[0], GaussianStart) and bool(every[0].of))
    labels = [chain.label for chain in spec.chains if chain.label is not None]
    candidates: list[tuple[list[Start], list[int]]] = [
        (list(dict.fromkeys(every)), list(dict.fromkeys(labels))),  # in turns, as the window and the options do
        (every if several else every[:1], labels),  # one by one
    ]
    count, seed = len(spec.chains), spec.chains[0].seed
    for starts, targets in candidates:
        try:
            if lay_out(spec.sampler, starts, targets, count, seed) != spec.chains:
                continue
        except Refused:
            continue
        words = [path for start in starts if isinstance(start, ImageStart) for path in [start.path]]
        if any(path.startswith("-") or not path for path in words):
            return None
        if not several:
            words += ["--start", _DRAWN[type(every[0])]]
        for start in starts:
            if isinstance(start, GaussianStart) and start.of:
                if not _plain(start.of):
                    return None
                words += ["--gaussian", start.of]
        if classes is None:
            said = _compared(spec, starts, targets)
            if said is None:
                return None
            words += said
        else:
            words += [word for target in targets for word in ("--target", _named(target, classes))]
        if spec.sampler.coupled or count != max(1, len(starts)) * max(1, len(targets)):
            words += ["--chains", str(count)]
        return words
    return None


def _compared(spec: RunSpec, starts: list[Start], targets: list[int]) -> list[str] | None:
    """Targets and the reference batch of an encoder; None where the command would compare with another."""
    samples = tuple(map(str, bundle.samples()))
    images = samples if spec.reference is None else spec.reference.images
    to = [images[target] for target in targets if target < len(images)]
    if any(path.startswith("-") or not path for path in (*to, *images)):
        return None
    said = [word for path in to for word in ("--target", path)]
    if compared(samples, starts, to) == images:
        return said
    if compared(images, starts, to) == images and len(images) <= _SPELT:
        return [*said, *(word for path in images for word in ("--reference", path))]
    return None


def _named(target: int, classes: tuple[str, ...]) -> str:
    """The class by its name where that means no other."""
    name = classes[target] if target < len(classes) else ""
    return name if _plain(name) and classes.index(name) == target else str(target)


def _plain(name: str) -> bool:
    """Whether an option takes it as it is."""
    return bool(name) and name == name.strip() and not name.startswith("-") and name.isprintable()


def _sampler(sampler: Sampler, steps: int) -> Iterator[str]:
    """The preset of its name, or else the one that has most in common, and what is different."""

    def different(preset: Sampler) -> list[str]:
        fields = (*_NUMBERS, *_SWITCHES, "radius")
        return [name for name in fields if getattr(preset, name) != getattr(sampler, name)]

    rows = [row for row in SAMPLERS.values() if row.coupled == sampler.coupled]  # no option says that
    preset = min(rows, key=lambda row: (row.name != sampler.name, len(different(row))))
    yield from ("--sampler", preset.name)
    changed = different(preset)
    for name in changed:
        value = getattr(sampler, name)
        if name in _NUMBERS:
            yield from (_NUMBERS[name], str(value))
        elif name in _SWITCHES:
            yield _SWITCHES[name][not value]
        else:
            yield from ("--radius", "none" if value is None else str(value))
    if steps != preset.steps:
        yield from ("--steps", str(steps))
