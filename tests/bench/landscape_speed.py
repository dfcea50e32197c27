"""A 64×64 landscape of the bundled model: how soon there is a picture, and how long all of it takes."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from cem_core import bundle, checkpoints, images
from cem_core.messages import Floats
from cem_core.models import Model
from cem_core.probes.landscape import landscape
from cem_core.probes.requests import Landscape, Subject
from cem_core.probes.results import Survey

SIZE = 64
BATCH = 256


def passes(model: Model) -> list[int]:
    """Grows by the number of images with each forward pass of a model."""
    counted: list[int] = []

    def count(_: torch.nn.Module, given: tuple[Tensor, ...], __: Tensor) -> None:
        counted.append(len(given[0]))

    model.register_forward_hook(count)
    return counted


def sources(size: int) -> dict[str, Floats]:
    """An image, and a straight way of 60 steps between two with some noise beside it."""
    first, last = (images.prepare(path, size).pixels for path in bundle.first_samples(2))
    share = np.linspace(0, 1, 61, dtype=np.float32)[:, None, None, None]
    noise = np.random.default_rng(0).normal(0, 0.01, (61, *first.shape)).cumsum(0).astype(np.float32)
    return {"image": first[None], "run of 60 steps": (first + share * (last - first) + noise).clip(0, 1)}


def main(size: int = SIZE) -> None:
    model, checkpoint = checkpoints.load(bundle.DEFAULT_MODEL, "cpu")
    counted = passes(model)
    print(f"  {size}×{size} points, {torch.get_num_threads()} threads; goal: a picture within 5 model batches")
    print(f"  {'':16} {'batches':>8} {'seconds':>8} {'in all':>8} {'batches':>8} {'÷ passes alone':>15}")
    for name, pixels in sources(checkpoint.size).items():
        counted.clear()
        first, seconds = 0, 0.0
        begun = time.perf_counter()
        for answer in landscape(Landscape(Subject(bundle.DEFAULT_MODEL, device="cpu"), pixels, size=size, batch=BATCH)):
            if isinstance(answer, Survey) and not first:
                first, seconds = len(counted), time.perf_counter() - begun
        whole, batches = time.perf_counter() - begun, len(counted)
        begun = time.perf_counter()
        with torch.no_grad():
            for done in range(0, size**2, BATCH):
                model(torch.rand(min(BATCH, size**2 - done), *pixels.shape[1:]))
        alone = time.perf_counter() - begun
        print(f"  {name:16} {first:8} {seconds:8.2f} {whole:8.2f} {batches:8} {whole / alone:15.2f}")


if __name__ == "__main__":
    main()
