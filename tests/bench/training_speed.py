"""A step of training by a recipe on the CPU, against the plain torch loop that one writes first.

The same network, batch, augmentation, attack and optimiser. The plain loop takes them from torch: `SGD` with Nesterov
momentum, `OneCycleLR`, `AveragedModel`. Ours keys all that is random besides, says how it goes, and keeps a log.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cem_core import datasets
from cem_core.models.preact_resnet import BLOCKS, PreActResNet
from cem_core.training import loop
from cem_core.training.progress import Progress
from cem_core.training.recipe import Adversarial, DataRecipe, NetworkRecipe, Optimiser, Recipe, Standard
from tests.bench import ROUNDS, in_turns, ratio

WIDTH = 32
BATCH = 128
STEPS = 2
"""Of each contender in a round."""
OBJECTIVES = {
    "standard": Standard(),
    "single step, L2": Adversarial(eps=0.75, steps=1),
    "PGD-3, L2": Adversarial(eps=0.5, steps=3),
}


def folder(place: Path) -> Path:
    """More images than are come by, so that no epoch ends."""
    random = np.random.default_rng(0)
    for label in range(10):
        (place / str(label)).mkdir()
    for number in range(BATCH * (STEPS * (ROUNDS + 1) + 1)):
        pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(place / str(number % 10) / f"{number:05}.bmp")
    return place


def ours(recipe: Recipe, out: Path) -> Callable[[], int]:
    words = loop.train(recipe, out, device="cpu")
    next(words)

    def steps() -> int:
        for _ in range(STEPS):
            assert isinstance(next(words), Progress)  # one a step
        return STEPS

    return steps


def plain(recipe: Recipe) -> Callable[[], int]:
    """What one writes first."""
    pixels, labels = datasets.open_dataset(recipe.data.path).arrays(32)
    images, targets = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
    net = PreActResNet(
        BLOCKS[18], WIDTH, 3, 10, "relu", bottleneck=False, shortcut_activated=True, final_bn=True
    ).train()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (recipe.network.mean, recipe.network.std))
    asked = recipe.optimiser
    total = asked.epochs * (len(images) // BATCH)
    decayed = [weight for weight in net.parameters() if weight.ndim > 1]
    rest = [weight for weight in net.parameters() if weight.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": asked.weight_decay}, {"params": rest}],
        lr=asked.rate, momentum=asked.momentum, nesterov=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, asked.rate, total, asked.rise, cycle_momentum=False)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(asked.average), use_buffers=True)
    order = torch.randperm(len(images))
    at = 0

    def logits(x: Tensor) -> Tensor:
        found: Tensor = net((x - mean) / std)
        return found

    def shown(rows: Tensor) -> Tensor:
        padded = nn.functional.pad(images[rows].float() / 255, (recipe.data.crop,) * 4, mode="reflect")
        shifts = torch.randint(0, 2 * recipe.data.crop + 1, (len(rows), 2)).tolist()
        x = torch.stack([image[:, i : i + 32, j : j + 32] for image, (i, j) in zip(padded, shifts, strict=True)])
        return torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, x.flip(3), x)

    def attacked(x: Tensor, y: Tensor, attack: Adversarial) -> Tensor:
        offset = torch.randn_like(x)
        offset *= attack.eps * torch.rand(len(x), 1, 1, 1) / offset.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        adversarial = (x + offset).clamp(0, 1)
        for _ in range(attack.steps):
            leaf = adversarial.requires_grad_()
            (up,) = torch.autograd.grad(nn.functional.cross_entropy(logits(leaf), y, reduction="sum"), leaf)
            with torch.no_grad():
                length = up.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
                offset = leaf + attack.length * up / length - x
                length = offset.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
                adversarial = (x + offset * (attack.eps / length).clamp(max=1)).clamp(0, 1)
        return adversarial.detach()

    def steps() -> int:
        nonlocal at
        for _ in range(STEPS):
            rows = order[at : at + BATCH]
            at += BATCH
            x, y = shown(rows), targets[rows]
            if isinstance(recipe.objective, Adversarial):
                x = attacked(x, y, recipe.objective)
            loss = nn.functional.cross_entropy(logits(x), y)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            average.update_parameters(net)
            loss.item()
        return STEPS

    return steps


def main() -> None:
    print(f"  PreAct ResNet-18 of width {WIDTH}, batch {BATCH}, float32, {torch.get_num_threads()} threads; median of "
          f"{ROUNDS} rounds of {STEPS} steps in turns; goal ≤ 1.05")  # fmt: skip
    loop._TELL_EVERY = 1  # type: ignore[misc]  # it is held where it speaks
    with tempfile.TemporaryDirectory() as name:
        data = folder(Path(name))
        for title, objective in OBJECTIVES.items():
            recipe = Recipe("bench", DataRecipe(str(data), held=0), Optimiser(100, BATCH), objective,
                            NetworkRecipe(width=WIDTH))  # fmt: skip
            with tempfile.TemporaryDirectory() as out:
                seconds = in_turns({"plain": plain(recipe), "ours": ours(recipe, Path(out) / "training")})
            took = {who: f"{who} {1000 * median(times):7.1f} ms a step" for who, times in seconds.items()}
            against = ratio(seconds["ours"], seconds["plain"])
            print(f"  {title:16} {took['plain']}, {took['ours']}, ratio {against:.3f}")
