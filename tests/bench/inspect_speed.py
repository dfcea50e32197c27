"""`inspect` on files of 100 MB, as multiples of the time that importing torch takes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import torch
from torch import Tensor

from cem_core.models import resnet
from cem_core.models.family import Evidence
from tests.bench import ROUNDS

GOAL: Final = 1.5
_IMPORT: Final = (sys.executable, "-c", "import torch")


def weights(layout: str) -> dict[str, Tensor]:
    """Random ResNet-50: kuangliu's keys as MadryLab's CIFAR files have them, or torchvision's."""
    shapes = {key: tuple(value.shape) for key, value in _skeleton(layout).items()}
    random = torch.Generator().manual_seed(0)
    return {
        key: torch.tensor(1) if key.endswith("tracked") else torch.rand(shape, generator=random)
        for key, shape in shapes.items()
    }


def _skeleton(layout: str) -> dict[str, Tensor]:
    """Keys and shapes, from a ResNet-50 of one block a stage with the others added."""
    shortcut, head, kernel = ("shortcut", "linear", 3) if layout == "CIFAR" else ("downsample", "fc", 7)
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, kernel, kernel)}

    def norm(name: str, width: int) -> None:
        found.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        inner = 64 * 2 ** (stage - 1)
        for i in range(blocks):
            name = f"layer{stage}.{i}"
            for conv, shape in enumerate(((inner, inputs, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1)), 1):
                found[f"{name}.conv{conv}.weight"] = shape
                norm(f"{name}.bn{conv}", shape[0])
            if i == 0:
                found[f"{name}.{shortcut}.0.weight"] = (4 * inner, inputs, 1, 1)
                norm(f"{name}.{shortcut}.1", 4 * inner)
            inputs = 4 * inner
    classes = 10 if layout == "CIFAR" else 1000
    found[f"{head}.weight"], found[f"{head}.bias"] = (classes, inputs), (classes,)
    return {key: torch.empty(shape, device="meta") for key, shape in found.items()}


def _seconds(command: tuple[str, ...]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        commands: dict[str, tuple[str, ...]] = {"import torch": _IMPORT}
        for layout in ("CIFAR", "ImageNet"):
            tensors = weights(layout)
            assert resnet.recognise({key: tuple(value.shape) for key, value in tensors.items()}, Evidence())
            writers: dict[str, Callable[..., None]] = {
                "zip": torch.save,
                "legacy": partial(torch.save, _use_new_zipfile_serialization=False),
            }
            for name, save in writers.items():
                path = Path(folder) / f"{layout}-{name}.pt"
                save({"model": tensors, "epoch": 1}, path)
                label = f"{layout} ResNet-50, {name}, {path.stat().st_size / 1e6:.0f} MB"
                commands[label] = (sys.executable, "-m", "cem_core.cli", "inspect", str(path))
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                taken[name].append(_seconds(command))
    base = median(taken["import torch"])
    print(f"import torch: {base:.2f} s")
    for name in list(commands)[1:]:
        print(f"{name}: {median(taken[name]) / base:.2f} × (goal {GOAL})")
