"""MaxEnt against PGD-unsup: Fréchet distance to real images, the same encoder, starts and steps, three seeds.

The distance is torchmetrics', on the features of pyautoattack's ResNet-18, which knows nothing of the encoder. Wants
labelled images: `CIFAR=path make bench ARGS=unsupervised`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from cem_core import checkpoints, datasets, presets, runner, samplers, starts
from cem_core.messages import Chain, Checkpoint, GaussianStart, OverallStart, Start
from cem_core.models import Model
from cem_core.models.torchvision_nets import import_torchvision
from cem_core.similarity import Similarity

_ENCODER = "cifar10-contrastive-l2"
_SAMPLES, _TOGETHER, _SEEDS, _STEPS = 2000, 100, 3, 20
_REAL = 10_000


class _Features(nn.Module):
    def __init__(self, model: Model, length: int) -> None:
        super().__init__()
        self.model, self.num_features = model, length

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.features(x)


def main() -> None:
    import_torchvision()  # torchmetrics wants it, and one that is built for CUDA does not import without help
    from torchmetrics.image.fid import FrechetInceptionDistance

    data, spec = os.environ.get("CIFAR"), find_spec("pyautoattack")
    if data is None or spec is None or spec.origin is None:
        print("wants pyautoattack, and CIFAR=PATH with labelled images of CIFAR-10")
        return
    extractor, found = checkpoints.load(str(Path(spec.origin).parent / "examples/model_test.pt"), "cpu", "bfloat16")
    pixels, _ = datasets.open_dataset(data, "test").arrays(32)
    distance = FrechetInceptionDistance(
        _Features(extractor, found.features), reset_real_features=False, normalize=True, input_img_size=(3, 32, 32)
    )
    real = torch.from_numpy(pixels[:_REAL].transpose(0, 3, 1, 2).copy()).float() / 255
    for part in torch.split(real, 250):
        distance.update(part, real=True)
    model, checkpoint = checkpoints.load(_ENCODER, "cpu", "bfloat16")
    compared, _ = runner.similar(model, checkpoint)
    classes = starts.gaussian_classes(checkpoint)
    beginnings: dict[str, tuple[Start, ...]] = {
        "uncond": (OverallStart(),), "cond": tuple(GaussianStart(name) for name in classes),
    }  # fmt: skip
    print(f"{_SAMPLES:,} samples, {_TOGETHER} together, {_STEPS} steps, {len(real):,} real images")
    for name, kinds in beginnings.items():
        for row in ("starts", "PGD-unsup", "MaxEnt"):
            distances = []
            for seed in range(_SEEDS):
                for x in _sampled(compared, checkpoint, row, kinds, seed):
                    distance.update(x, real=False)
                distances.append(float(distance.compute()))
                distance.reset()
            print(
                f"{name:7} {row:10} {' '.join(f'{d:7.2f}' for d in distances)}   mean {np.mean(distances):.2f}",
                flush=True,
            )


def _sampled(
    compared: Similarity, checkpoint: Checkpoint, row: str, kinds: tuple[Start, ...], seed: int
) -> Iterator[Tensor]:
    for first in range(0, _SAMPLES, _TOGETHER):
        chains = [Chain(kinds[i % len(kinds)], seed * 10**6 + first + i) for i in range(_TOGETHER)]
        x0 = torch.from_numpy(starts.make(checkpoint, chains)[0])
        if row == "starts":
            yield x0
            continue
        sampler = msgspec.structs.replace(presets.SAMPLERS[row], steps=_STEPS)
        state = samplers.begin(sampler, x0, torch.zeros(len(x0), dtype=torch.long), tuple(c.seed for c in chains))
        for _ in range(_STEPS):
            state = samplers.step(sampler, state, samplers.read(compared, sampler, state).drift)
        yield state.x
