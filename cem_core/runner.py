"""One run: a plain generator of messages. The one file that joins model, starts and sampler."""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from cem_core import __version__, checkpoints, samplers, starts
from cem_core.chains import settled
from cem_core.checkpoints.hashing import sha256
from cem_core.messages import (
    Chain,
    Checkpoint,
    Floats,
    Message,
    Reference,
    Refused,
    RunEnd,
    RunSpec,
    RunStart,
    Sampler,
    Step,
)  # fmt: skip
from cem_core.models import Model
from cem_core.samplers import Reading, State
from cem_core.similarity import Similarity

log = logging.getLogger(__name__)

BATCH: Final = "reference batch"
"""Beside the versions of a run: its digest, as it decides the pixels of an encoder's run."""
_ROUNDING: Final = 1e-5
"""By how much a random start may come out otherwise on another device; another image differs by far more."""


class Since(NamedTuple):
    """Where a recorded run goes on."""

    first: Step
    last: Step | None
    """The step before the next; None: it begins again, with the recorded start."""
    labels: tuple[int, ...]
    batch: tuple[Floats, str] | None = None
    """(K, C, H, W) an encoder's reference batch and its digest, where they were kept: the files may be gone by now."""


def play(
    spec: RunSpec, live: Callable[[], Sampler | None] | None = None, since: Since | None = None
) -> Iterator[Message]:
    """RunStart, Step 0, Step 1, …, RunEnd. Nothing is raised: a failure is a RunEnd that says why.

    Args:
        live: asked before every step for the row to make it with; it may block to pause, and None stops the run.
            By default the row of the spec is used to the end.
        since: go on with a recorded run: the first step is the one after `since.last`, to the same pixels that the
            run would have had without the interruption.
    """
    try:
        yield from _play(spec, live or (lambda: spec.sampler), since)
    except Refused as refused:
        yield RunEnd(spec.id, "failed", str(refused))
    except Exception as error:
        if out_of_memory(error):
            yield RunEnd(spec.id, "failed", f"{len(spec.chains):,} chains do not fit into memory: use fewer.")
            return
        log.exception("run %s failed", spec.id)
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        yield RunEnd(spec.id, "failed", f"Something went wrong ({said}): the log file has the details.")


def out_of_memory(error: Exception) -> bool:
    """Whether that is what went wrong: on the CPU torch has no error of its own for it."""
    said = ("can't allocate memory", "not enough memory: you tried to allocate")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(part in str(error) for part in said)


@dataclass
class _Course:
    """Turns what the live row says into the next row, and remembers why a run ended."""

    live: Callable[[], Sampler | None]
    allowed: Callable[[Sampler], None]
    """Raises Refused for a row that this run cannot take."""
    stopped: bool = False

    def following(self, index: int) -> Sampler | None:
        sampler = self.live()
        self.stopped = sampler is None
        if sampler is not None:
            self.allowed(sampler)
        return sampler if sampler is not None and index < sampler.steps else None


def _play(spec: RunSpec, live: Callable[[], Sampler | None], since: Since | None) -> Iterator[Message]:
    network, checkpoint = checkpoints.load(spec.checkpoint, spec.device, spec.precision, spec.choices)
    model: Model | Similarity = network
    references: tuple[str, ...] = ()
    known = versions()
    if not checkpoint.classes:
        usual = checkpoint.temperature if since is None else spec.temperature  # a record may be of before files told it
        reference = settled(spec.reference, usual)
        spec = msgspec.structs.replace(spec, reference=reference)
        kept = since.batch if since is not None else None
        model, references = similar(network, checkpoint, reference, None if kept is None else kept[0])
        known[BATCH] = digest(reference.images) if kept is None else kept[1]
    _check(spec, checkpoint, references)
    if since is None or spec.sampler.random_start:
        pixels, names, notes = starts.make(checkpoint, spec.chains, _replay(spec) if checkpoint.replay else None)
    else:  # the images may be gone by now
        pixels, names, notes = since.first.pixels, [""] * len(spec.chains), [""] * len(spec.chains)
    x0 = torch.from_numpy(pixels).to(model.device)
    labels = _labels(model, x0, spec.chains) if since is None else torch.tensor(since.labels, device=x0.device)
    yield RunStart(
        spec=spec,
        checkpoint=checkpoint,
        labels=tuple(labels.tolist()),
        names=tuple(names),
        notes=tuple(notes),
        device=device_name(model.device),
        versions=known,
        references=references,
    )
    course = _Course(live, partial(check_row, checkpoint=checkpoint, chains=len(spec.chains)))
    row, begun = spec.sampler, samplers.begin(spec.sampler, x0, labels, tuple(chain.seed for chain in spec.chains))
    if since is not None:
        if not np.allclose(_numpy(begun.x), since.first.pixels, rtol=0, atol=_ROUNDING):
            raise Refused("The run cannot go on: its start is not what it was, as an image or a data file changed.")
        if since.last is not None:
            row, x = since.last.sampler, torch.from_numpy(since.last.pixels).to(x0)
            begun = begun._replace(x=x, step=since.last.index)
    for state, reading, sampler in samplers.evolve(model, row, begun, course.following):
        if since is not None and since.last is not None and state.step == since.last.index:
            continue  # it is recorded
        message = _message(spec.id, state, reading, sampler)
        if broken := _broken(message):
            yield broken
            return
        yield message
    yield RunEnd(spec.id, "stopped" if course.stopped else "done")


def similar(
    encoder: Model, checkpoint: Checkpoint, reference: Reference | None = None, pixels: Floats | None = None
) -> tuple[Similarity, tuple[str, ...]]:
    """An encoder with its reference batch, and the names of the images in it.

    Args:
        pixels: (K, C, H, W) of these images, which are not read then.

    Raises:
        Refused: one of them cannot be read.
    """
    reference = settled(reference, checkpoint.temperature)
    assert reference.temperature is not None
    pixels = starts.pictures(checkpoint, reference.images) if pixels is None else pixels
    compared = Similarity(
        encoder,
        torch.from_numpy(pixels).to(encoder.device),
        cosine=reference.cosine,
        temperature=reference.temperature,
    )
    return compared, tuple(Path(path).stem for path in reference.images)


def digest(files: Iterable[str | Path]) -> str:
    """Differs once a file is another, as names are kept and what they hold is not."""
    return hashlib.sha256("".join(sha256(Path(path)) for path in files).encode()).hexdigest()[:12]


def _check(spec: RunSpec, checkpoint: Checkpoint, references: tuple[str, ...]) -> None:
    what, known = ("class", checkpoint.classes) if checkpoint.classes else ("reference image", references)
    for chain in spec.chains:
        if chain.label is not None and not 0 <= chain.label < len(known):
            raise Refused(f"{checkpoint.name} has no {what} {chain.label}: it has 0 to {len(known) - 1}.")
    check_row(spec.sampler, checkpoint, len(spec.chains))


def check_row(sampler: Sampler, checkpoint: Checkpoint, chains: int) -> None:
    """Raises Refused where chains cannot be compared with each other, as a coupled row does."""
    if not sampler.coupled:
        return
    if checkpoint.classes:
        raise Refused(f"{sampler.name} compares features, not classes: choose an encoder, or for the head: none.")
    if chains < 2:
        raise Refused(f"{sampler.name} moves chains away from each other: give two or more.")


def _replay(spec: RunSpec) -> Callable[[int], Floats]:
    """The i-th image of the replay buffer, which is looked for when it is wanted."""
    return lambda index: checkpoints.replay(spec.checkpoint, spec.choices)[index].numpy()


def _labels(model: Model | Similarity, x0: Tensor, chains: tuple[Chain, ...]) -> Tensor:
    """y of each chain; where none is given, the class that the model sees in the start, or the reference image that it
    finds most alike."""
    if all(chain.label is not None for chain in chains):
        return torch.tensor([chain.label for chain in chains], device=x0.device)
    with torch.no_grad():
        seen = model(x0).argmax(1)
    given = [seen[i] if chain.label is None else torch.tensor(chain.label) for i, chain in enumerate(chains)]
    return torch.stack([label.to(x0.device) for label in given])


def _message(run: str, state: State, reading: Reading, sampler: Sampler) -> Step:
    return Step(
        run=run,
        index=state.step,
        sampler=sampler,
        pixels=_numpy(state.x),
        energy=_numpy(reading.energy),
        joint=_numpy(reading.joint),
        logits=_numpy(reading.logits),
        gradient_norm=_numpy(reading.gradient_norm),
        distance=_numpy(reading.distance),
    )


def _numpy(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.float().cpu().numpy())


def _broken(step: Step) -> RunEnd | None:
    """The end if a number of the step is not finite, which no later step could mend."""
    for what, values in (("E(x)", step.energy), ("E(x,y)", step.joint), ("The gradient", step.gradient_norm)):
        bad = np.flatnonzero(~np.isfinite(values))
        if not bad.size:
            continue
        said = f"{what} of chain {bad[0] + 1} became {values[bad[0]]} at step {step.index}; the steps before are kept. "
        said += "Try a smaller step size, less noise, or float32."
        if step.index == 0:
            said = (
                f"{what} of chain {bad[0] + 1} is {values[bad[0]]} at its start: the weights of this model are broken."
            )
        return RunEnd(step.run, "failed", said, tuple(bad.tolist()))
    return None


def versions() -> dict[str, str]:
    """What decides the pixels, for the record."""
    return {
        "cem-explorer": __version__,
        "torch": str(torch.__version__),  # its own subclass of str, which no JSON encoder takes
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def device_name(device: torch.device) -> str:
    """As it is told to people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
