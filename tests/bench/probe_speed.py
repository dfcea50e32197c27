"""PGD-20 over 200 images with the bundled model on the CPU, against a bare loop that counts the same.

Both classify the images as they are, attack those that are right from a random start, and judge where the attack ends.
The probe does more: it reads the images, keeps a journal, and asks before each forward pass whether to go on. Its
lights are shown apart: they are looked at once a model, however many images follow.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from cem_core import bundle, checkpoints, datasets
from cem_core.probes.measuring import measure
from cem_core.probes.requests import Accuracy, Attack, Data, Subject
from cem_core.probes.results import Cell, Lights
from tests.bench import ratio

IMAGES = 200
STEPS = 20
ROUNDS = 5
BATCH = 128
EPS = 0.5


def folder(place: Path) -> Path:
    """The bundled samples again and again, as class folders."""
    paths = bundle.samples()
    for number in range(IMAGES):
        path = paths[number % len(paths)]
        (place / bundle.sample_class(path)).mkdir(exist_ok=True)
        shutil.copy(path, place / bundle.sample_class(path) / f"{number:03}.jpg")
    return place


def bare(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> int:
    """What one writes first."""
    robust = 0
    for x0, label in zip(x.split(BATCH), y.split(BATCH), strict=True):
        with torch.no_grad():
            right = model(x0).argmax(1) == label
        x0, label = x0[right], label[right]
        offset = torch.randn_like(x0)
        offset *= EPS * torch.rand(len(x0), 1, 1, 1) / offset.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        adversarial = (x0 + offset).clamp(0, 1)
        for _ in range(STEPS):
            leaf = adversarial.requires_grad_()
            loss = nn.functional.cross_entropy(model(leaf), label, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
            with torch.no_grad():
                length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
                offset = leaf + 2.5 * EPS / STEPS * gradient / length - x0
                length = offset.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
                adversarial = (x0 + offset * (EPS / length).clamp(max=1)).clamp(0, 1)
        with torch.no_grad():
            robust += int((model(adversarial).argmax(1) == label).sum())
    return robust


def probed(data: Path, journal: Path) -> tuple[float, float, int]:
    """Seconds until all is counted, those of the lights besides, and the count."""
    request = Accuracy((Subject(bundle.DEFAULT_MODEL, device="cpu"),), Data(str(data)), Attack(steps=STEPS), (EPS,),
                       BATCH)  # fmt: skip
    counted = looked = 0.0
    robust, before = 0, time.perf_counter()
    for answer in measure(request, journal=journal):
        now = time.perf_counter()
        if isinstance(answer, Lights):
            looked += now - before
        else:
            counted += now - before
        before = now
        robust += sum(answer.correct) if isinstance(answer, Cell) else 0
    return counted, looked, robust


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        data = folder(Path(place))
        pixels, labels = datasets.open_dataset(data).arrays(32)
        x, y = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)
        model = checkpoints.load(bundle.DEFAULT_MODEL, "cpu")[0]
        seconds: dict[str, list[float]] = {"bare loop, our network": [], "probe": [], "its lights": []}
        counts = (0, 0)
        for turn in range(-1, ROUNDS):  # the first is not counted
            for ours in (turn % 2 == 0, turn % 2 != 0):
                begun = time.perf_counter()
                if ours:
                    counted, looked, robust = probed(data, data.parent / f"{data.name}-{turn}.jsonl")
                    (data.parent / f"{data.name}-{turn}.jsonl").unlink()
                    counts = (counts[0], robust)
                    found = {"probe": counted, "its lights": looked}
                else:
                    counts = (bare(model, x, y), counts[1])
                    found = {"bare loop, our network": time.perf_counter() - begun}
                for name, took in found.items():
                    seconds[name] += [took] if turn >= 0 else []
    print(f"  {torch.get_num_threads()} threads, median of {ROUNDS} rounds in turns; goal ≤ 1.05")
    print(f"  of {IMAGES} images stand: {counts[0]} under the bare loop, {counts[1]} under the probe")
    for name, times in seconds.items():
        print(f"  {name:24} {median(times):6.2f} s  ÷ bare {ratio(times, seconds['bare loop, our network']):5.2f}")
