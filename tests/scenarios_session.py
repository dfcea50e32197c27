"""A recorded run made of numbers drawn from a seed: no model, no torch."""

from __future__ import annotations

import msgspec
import numpy as np

from cem_core.messages import Chain, Checkpoint, Fact, ImageStart, RunEnd, RunSpec, RunStart, Sampler, Step
from cem_core.session import Session

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SAMPLER = Sampler(name="RCS", a=1, b=1, step_size=0.25, noise=0.01, steps=60)


def session(
    steps: int = 7,
    chains: int = 3,
    *,
    size: int = 8,
    channels: int = 3,
    classes: tuple[str, ...] = CLASSES,
    references: tuple[str, ...] = (),
    seed: int = 0,
    names: tuple[str, ...] | None = None,
    budget: int = 512 * 2**20,
) -> Session:
    """Steps 0 … steps-1, random pixels and numbers; the sampler changes at step 3, and the run has ended.

    Args:
        references: of an encoder, which has no classes.
    """
    candidates = classes or references
    random = np.random.default_rng(seed)
    labels = tuple((7 + i) % len(candidates) for i in range(chains))
    names = names or tuple(f"image {i + 1}.png" for i in range(chains))
    spec = RunSpec(
        id="a-run",
        checkpoint="cifar10-robust-l2",
        sampler=SAMPLER,
        chains=tuple(
            Chain(start=ImageStart(path=f"/päth/{name}"), seed=2**62 + i, label=label)
            for i, (name, label) in enumerate(zip(names, labels, strict=True))
        ),
    )
    checkpoint = Checkpoint(
        name="cifar10-robust-l2",
        path="/models/cifar10-robust-l2.safetensors",
        sha256="ab" * 32,
        title="Robust CIFAR-10 (L2)",
        family="a family",
        parameters=123,
        classes=classes,
        channels=channels,
        size=size,
        facts=(Fact(what="classes", value=str(len(classes)), source="file"),),
    )
    start = RunStart(
        spec=spec,
        checkpoint=checkpoint,
        labels=labels,
        names=names,
        notes=("",) * chains,
        device="cpu",
        versions={"torch": "2.13.0"},
        references=references,
    )
    run = Session(start, budget=budget)
    for index in range(steps):
        logits = random.normal(size=(chains, len(candidates))).astype(np.float32) * 5
        energy = -np.logaddexp.reduce(logits, axis=1)
        run.append(
            Step(
                run=spec.id,
                index=index,
                sampler=SAMPLER if index < 3 else msgspec.structs.replace(SAMPLER, name="custom", a=0.5),
                pixels=random.random((chains, channels, size, size), np.float32),
                energy=energy,
                joint=-logits[np.arange(chains), labels],
                logits=logits,
                gradient_norm=random.random(chains, np.float32),
                distance=random.random(chains, np.float32) * index,
            )
        )
    run.end = RunEnd(run=spec.id, reason="done")
    return run
