"""Training: a plain generator of words on how it goes. It can be killed at any moment and goes on to the same weights.

Whatever is random in a step is keyed by (seed, step), so the state is the weights, the momentum and a number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cem_core import runner
from cem_core.datasets import Arrays, Dataset, open_labelled
from cem_core.messages import NORMS, Device, Refused
from cem_core.models import Model, Normalisation
from cem_core.models.preact_resnet import BLOCKS, PreActResNet
from cem_core.probes.requests import Data
from cem_core.training import objectives, routes
from cem_core.training.folder import Folder
from cem_core.training.held import measure, probed
from cem_core.training.progress import EPOCHS, STATE, Began, Ended, Epoch, Progress, Word
from cem_core.training.ranks import Lowered, Ranks, ranks
from cem_core.training.recipe import Attack, Contrastive, Recipe
from cem_core.training.views import views

_SAVE_EVERY: Final = 120.0
"""Seconds between two writings of the state."""
_TELL_EVERY: Final = 20
"""Steps between two words on the loss."""
_MEASURED: Final = Attack(0.5)
"""The attack on held images of a model that is trained against none."""
_PROBED: Final = 5000
"""Images of the training that a linear head is fitted to, to judge an encoder."""
_ORDER, _AUGMENT, _NOISE = range(3)


@dataclass
class _State:
    """What changes."""

    net: PreActResNet
    average: PreActResNet
    momentum: dict[str, Tensor]
    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class _Images:
    """(N, C, H, W) uint8 and (N,) int64, on the device."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def train(
    recipe: Recipe,
    out: Path,
    go_on: Callable[[], bool] = lambda: True,
    device: Device = "auto",
    *,
    resume: bool = False,
) -> Iterator[Word]:
    """Began, Progress and Epoch, Ended.

    Args:
        out: gets recipe.json, log.jsonl, epochs/<name>-<epoch>.safetensors and in the end <name>.safetensors.
        go_on: asked before each step; False saves the state and ends.
        resume: go on with what the folder holds, to the weights that an uninterrupted training would have had.

    Raises:
        Refused: the data cannot be used, the folder holds another training, the loss is no number any more.
    """
    from cem_core.checkpoints import where

    with ranks(where(device)) as (those, place):
        if not those.first:
            with _told():
                for _ in _train(recipe, None, go_on, place, those):
                    pass
            return
        folder = Folder(out, recipe, resume=resume)
        try:
            with _told():
                for word in _train(recipe, folder, go_on, place, those):
                    folder.write(word)
                    yield word
        except Refused as refused:
            folder.failed(str(refused))
            raise
        finally:
            folder.close()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not runner.out_of_memory(error):
            raise
        raise Refused(
            "There is not enough memory for this: choose a smaller batch or network, or close other programs."
        ) from error


def _train(
    recipe: Recipe, folder: Folder | None, go_on: Callable[[], bool], place: torch.device, those: Ranks
) -> Iterator[Word]:
    """`folder` None: another process writes, and no word is said."""
    training, held, classes = _data(recipe, place, None if folder is None else folder.path)
    optimiser = recipe.optimiser
    an_epoch = _batches(len(training), optimiser.batch, those)
    total = optimiser.epochs * an_epoch
    state = _begun(recipe, len(classes), place)
    those.normed(state.net, place)
    if folder is not None:
        _recall(folder.path / STATE, state, total)
        device = runner.device_name(place)
        yield Began(
            recipe.name, len(training), len(held), classes, total, state.step,
            sum(weights.numel() for weights in state.net.parameters()),
            device if those.count == 1 else f"{those.count} × {device}", runner.versions(),
        )  # fmt: skip
    _share(state, those, place)
    lowered = those.joined(state.net, _lowered(state, recipe, those, place))
    order: NDArray[np.int64] = np.empty(0, np.int64)
    losses: list[float] = []  # since the last word, and of this epoch since it began or was gone on with
    of_epoch: list[float] = []
    saved = resumed = time.monotonic()
    before = state.seconds
    while state.step < total:
        if those.any(not go_on()):
            if folder is not None:
                _keep(folder, state)
                yield Ended("stopped", state.step, state.seconds)
            return
        epoch, turn = divmod(state.step, an_epoch)
        if turn == 0 or not len(order):
            order = _random(recipe.seed, epoch, _ORDER).permutation(len(training))
        rows = order[turn * optimiser.batch : (turn + 1) * optimiser.batch]
        rate = _rate(state.step, total, optimiser.rate, optimiser.rise)
        loss = _step(state, training, torch.from_numpy(rows).to(place), recipe, rate, lowered, those)
        if not math.isfinite(loss):
            if folder is None:
                return
            raise Refused(
                f"The loss became {loss} at step {state.step:,}: resuming would come to the same, so begin anew "
                f"in another folder with a smaller rate, or in float32. The checkpoints of the epochs before are kept."
            )
        state.seconds = before + time.monotonic() - resumed
        if folder is None:
            continue
        losses.append(loss)
        of_epoch.append(loss)
        if state.step % _TELL_EVERY == 0 or state.step == total:
            yield Progress(state.step, state.step / an_epoch, float(np.mean(losses)), rate, state.seconds)
            losses = []
        if state.step % an_epoch == 0:
            yield _measured(state, training, held, recipe, folder, classes, epoch + 1, float(np.mean(of_epoch)))
            of_epoch = []
        if state.step % an_epoch == 0 or time.monotonic() - saved > _SAVE_EVERY:
            _keep(folder, state)
            saved = time.monotonic()
    if folder is not None:
        folder.put(f"{recipe.name}.safetensors", _checkpoint(state, recipe, classes))
        yield Ended("done", state.step, state.seconds)


def _batches(images: int, batch: int, those: Ranks) -> int:
    """Of an epoch. Raises Refused if there are none, or a batch cannot be shared."""
    if batch % those.count or batch < 2 * those.count:
        raise Refused(f"A batch of {batch:,} cannot be shared by {those.count} processes: change either.")
    if images < batch:
        raise Refused(f"{images:,} images make no batch of {batch:,}: use a smaller batch.")
    return images // batch


def _lowered(state: _State, recipe: Recipe, those: Ranks, place: torch.device) -> Lowered:
    """The loss of the network that is trained."""
    objective, smoothing = recipe.objective, recipe.optimiser.smoothing
    mean, std = (torch.tensor(v, device=place).view(-1, 1, 1) for v in (recipe.network.mean, recipe.network.std))

    def net(x: Tensor, route: int = routes.ATTACKED) -> Tensor:
        routes.take(state.net, route)
        whole = state.net.embedding if isinstance(objective, Contrastive) else state.net
        with torch.autocast(place.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            out: Tensor = whole(((x - mean) / std).contiguous(memory_format=_layout(place)))
        return those.gathered(out) if isinstance(objective, Contrastive) else out

    def lowered(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        return objectives.loss(net, x, y, objective, noise, smoothing, partial(net, route=routes.CLEAN))

    return lowered


def _step(
    state: _State, images: _Images, rows: Tensor, recipe: Recipe, rate: float, lowered: Lowered, those: Ranks
) -> float:
    """One step down, and the loss before it; where that is no number, no step."""
    x, y = _shown(images, rows, recipe, state.step), images.labels[rows]
    drawn = _random(recipe.seed, state.step, _NOISE).standard_normal(x.shape, np.float32)
    noise = torch.from_numpy(drawn).to(x.device)
    state.net.train()
    loss = lowered(*(those.part(given, len(rows)) for given in (x, y, noise)))
    mean = those.mean(loss.item())
    if math.isfinite(mean):
        _descend(state, those.gradients(loss, list(state.net.parameters())), recipe, rate)
        state.step += 1
    return mean


def _random(seed: int, number: int, what: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, number * 4 + what], np.uint64)))


def _data(recipe: Recipe, place: torch.device, out: Path | None) -> tuple[_Images, _Images, tuple[str, ...]]:
    """What is trained on, what is held out, and the classes, of which an encoder needs none. `out` is written to, and
    must not become one of them."""
    wanted, needed = recipe.data, not isinstance(recipe.objective, Contrastive)
    dataset = open_labelled(Data(wanted.path, wanted.split), classless=not needed)
    labels, count = dataset.labels, len(dataset.classes)
    labelled = count > 1
    if isinstance(dataset, Arrays) and wanted.split is None:
        raise Refused(f'{wanted.path} is a dataset of torchvision: say split = "train", or what else to train on.')
    if out is not None and isinstance(dataset, Dataset) and out.resolve().is_relative_to(dataset.root.resolve()):
        raise Refused(f"{out} lies among the images of {wanted.path}: choose a folder elsewhere to write to.")
    if isinstance(dataset, Dataset) and (labelled or needed) and (empty := dataset.empty()):
        raise Refused(f"{empty[0]} in {wanted.path} has no images: add some, or take the folder away.")
    if needed and not labelled:
        raise Refused(f"{wanted.path} has one class: there must be two or more, unless the objective is contrastive.")
    if labelled and 0 < wanted.held < count:
        raise Refused(f"held = {wanted.held} is not one image for each of the {count:,} classes: hold more, or 0.")
    damaged: list[str] = []
    pixels, _ = dataset.part(0, len(dataset), recipe.network.size, lambda file, _: damaged.append(file))
    if damaged:
        raise Refused(
            f"{len(damaged):,} of {len(dataset):,} images cannot be read: mend them or take them out. "
            f"The first is {damaged[0]}."
        )
    kept = np.ones(len(labels), bool)
    each = wanted.held // count if labelled else 0  # there is nothing to judge them by
    for label in range(count):
        members = np.flatnonzero(labels == label)
        if not len(members):
            raise Refused(f"There is no image of {dataset.classes[label]} in {wanted.path}: add some.")
        if len(members) <= each:
            raise Refused(f"{dataset.classes[label]} has {len(members):,} images, of which {each:,} would be held out.")
        kept[members[len(members) - each :]] = False

    def images(chosen: NDArray[np.bool_]) -> _Images:
        shown = torch.from_numpy(np.ascontiguousarray(pixels[chosen].transpose(0, 3, 1, 2)))
        return _Images(shown.to(place), torch.from_numpy(labels[chosen]).to(place))

    return images(kept), images(~kept), dataset.classes if labelled else ()


def _build(recipe: Recipe, classes: int) -> PreActResNet:
    network, objective = recipe.network, recipe.objective
    contrastive = isinstance(objective, Contrastive)
    return PreActResNet(
        BLOCKS[network.depth], network.width, 3, 0 if contrastive else classes, network.activation,
        bottleneck=network.depth == 50, shortcut_activated=True, final_bn=True,
        projection=objective.projection if isinstance(objective, Contrastive) else 0,
    )  # fmt: skip


def _layout(place: torch.device) -> torch.memory_format:
    """Channels last are no faster on a CPU; and for few of them, gradients of strided convolutions crash there."""
    return torch.channels_last if place.type == "cuda" else torch.contiguous_format


def _begun(recipe: Recipe, classes: int, place: torch.device) -> _State:
    """Weights as He et al. draw them, from the recipe's seed."""
    net = _build(recipe, classes)
    generator = torch.Generator().manual_seed(recipe.seed % 2**63)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(part, nn.Linear) and part is net.head:
            nn.init.normal_(part.weight, std=0.01, generator=generator)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    if isinstance(recipe.objective, Contrastive) and recipe.objective.routes == 2:
        routes.split(net)
    average = deepcopy(net)
    for module in (net, average):
        module.to(place, memory_format=_layout(place))  # type: ignore[call-overload]
    average.requires_grad_(False)
    momentum = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    return _State(net, average, momentum)


def _shown(images: _Images, rows: Tensor, recipe: Recipe, step: int) -> Tensor:
    """(B, C, H, W) in [0,1]: shifted and mirrored by chance; or (2B, C, S, S), two views of each image."""
    random, data, size = _random(recipe.seed, step, _AUGMENT), recipe.data, images.pixels.shape[2]
    x = images.pixels[rows]
    if isinstance(recipe.objective, Contrastive):
        wanted = recipe.objective.views
        return views(torch.cat([x, x]), wanted, wanted.size or size, random, flip=data.flip)
    count, place = len(rows), x.device
    if data.crop:
        shifts = torch.from_numpy(random.integers(0, 2 * data.crop + 1, (2, count))).to(place)
        x = nn.functional.pad(x.float(), (data.crop,) * 4, mode="reflect")
        down, across = (shift[:, None] + torch.arange(size, device=place) for shift in shifts)
        x = x[torch.arange(count, device=place)[:, None, None, None], torch.arange(3, device=place)[:, None, None],
              down[:, None, :, None], across[:, None, None, :]]  # fmt: skip
    if data.flip:
        mirrored = torch.from_numpy(random.random(count) < 0.5).to(place)
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x.float() / 255


def _rate(step: int, total: int, peak: float, rise: float) -> float:
    """The learning rate: a line up, half a cosine down."""
    done = (step + 1) / total
    return (
        peak * done / rise if done < rise else peak * (1 + math.cos(math.pi * (done - rise) / max(1e-9, 1 - rise))) / 2
    )


@torch.no_grad()
def _descend(state: _State, gradients: tuple[Tensor, ...], recipe: Recipe, rate: float) -> None:
    """SGD with Nesterov momentum; batch norms and biases do not decay. Then the running average of all weights."""
    optimiser = recipe.optimiser
    parameters = dict(state.net.named_parameters())
    names = list(parameters)
    weights: list[Tensor] = list(parameters.values())
    buffers = [state.momentum[name] for name in names]
    decayed = [i for i, weight in enumerate(weights) if weight.ndim > 1]
    steps = list(gradients)
    for i, decay in zip(
        decayed, torch._foreach_mul([weights[i] for i in decayed], optimiser.weight_decay), strict=True
    ):
        steps[i] = steps[i] + decay
    torch._foreach_mul_(buffers, optimiser.momentum)
    torch._foreach_add_(buffers, steps)
    torch._foreach_add_(weights, torch._foreach_add(steps, buffers, alpha=optimiser.momentum), alpha=-rate)
    # Young averages would be all beginning: they grow old by and by.
    average = min(optimiser.average, (state.step + 1) / (state.step + 10))
    ours, theirs = state.average.state_dict(), state.net.state_dict()
    floating = [name for name, value in ours.items() if value.is_floating_point()]
    torch._foreach_lerp_([ours[name] for name in floating], [theirs[name] for name in floating], 1 - average)


def _measured(
    state: _State, training: _Images, held: _Images, recipe: Recipe, folder: Folder, classes: tuple[str, ...],
    epoch: int, loss: float,
) -> Epoch:  # fmt: skip
    """Accuracies of the averaged weights on the images held out, and their checkpoint."""
    file = f"{EPOCHS}/{recipe.name}-{epoch:03}.safetensors"
    folder.put(file, _checkpoint(state, recipe, classes))
    objective = recipe.objective
    attack = objective.attack if isinstance(objective, Contrastive) else objective
    attack = attack if isinstance(attack, Attack) else _MEASURED
    if not len(held):
        return Epoch(epoch, state.step, loss, None, None, attack.eps, attack.norm, None, file, state.seconds)
    copy = _build(recipe, len(classes))
    copy.load_state_dict(routes.one(state.average.state_dict()))
    model = Model(copy, Normalisation(recipe.network.mean, recipe.network.std)).frozen(
        held.pixels.device, torch.float32
    )
    judged = held.pixels, held.labels, attack.norm, attack.eps
    if isinstance(objective, Contrastive):
        known = _random(recipe.seed, 0, _ORDER).permutation(len(training))[:_PROBED]
        rows = torch.from_numpy(known).to(held.pixels.device)
        found = probed(model, objective.temperature, (training.pixels[rows], training.labels[rows]), *judged)
    else:
        found = measure(model, *judged)
    return Epoch(epoch, state.step, loss, found.clean, found.robust, attack.eps, attack.norm, found.gap, file,
                 state.seconds)  # fmt: skip


def _checkpoint(state: _State, recipe: Recipe, classes: tuple[str, ...]) -> bytes:
    """The averaged weights in the project's own format; convolutions in half precision, as half the bytes do.

    Raises:
        Refused: they have become infinite, or no numbers.
    """
    tensors = {
        ("linear" + key.removeprefix("head") if key.startswith("head.") else key): (
            value.half() if value.ndim > 1 else value
        ).contiguous().cpu()
        for key, value in routes.one(state.average.state_dict()).items()
    }  # fmt: skip
    if not all(value.isfinite().all() for value in tensors.values()):
        raise _infinite(state)
    network = recipe.network
    # Where the data lie is nobody's business whom the checkpoint is given to.
    told = msgspec.structs.replace(recipe, data=msgspec.structs.replace(recipe.data, path=Path(recipe.data.path).name))
    metadata = {
        "format": "cem-explorer", "name": recipe.name, "family": network.family, "activation": network.activation,
        "shortcut_input": "activated", "image_size": str(network.size),
        "mean": msgspec.json.encode(network.mean).decode(), "std": msgspec.json.encode(network.std).decode(),
        "recipe": msgspec.json.encode(told).decode(),
    }  # fmt: skip
    if against := _against(recipe):
        metadata["trained_against"] = against
    if state.average.head is not None:
        metadata["classes"] = msgspec.json.encode(classes).decode()
    return save(tensors, metadata)


def _against(recipe: Recipe) -> str:
    """The ball of the attack, as cards tell it; empty if there was none."""
    objective = recipe.objective
    attack = objective.attack if isinstance(objective, Contrastive) else objective
    if not isinstance(attack, Attack):
        return ""
    said = f"{NORMS[attack.norm]}, ε = {attack.eps:g}"
    if isinstance(objective, Contrastive) and objective.views.size not in (None, recipe.network.size):
        said += f" on views of {objective.views.size} pixels"
    return said


def _tensors(state: _State) -> dict[str, Tensor]:
    tensors = {f"net.{key}": value for key, value in state.net.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in state.average.state_dict().items()}
    return tensors | {f"momentum.{key}": value for key, value in state.momentum.items()}


def _keep(folder: Folder, state: _State) -> None:
    """Raises Refused if it is nothing to go on with; then the state before stays."""
    kept = {key: value.detach().contiguous().cpu() for key, value in _tensors(state).items()}
    if not all(value.isfinite().all() for value in kept.values()):
        raise _infinite(state)
    folder.put(STATE, save(kept, {"step": str(state.step), "seconds": str(state.seconds)}))


def _infinite(state: _State) -> Refused:
    return Refused(
        f"The weights became infinite before step {state.step:,}: begin anew in another folder with a smaller rate, or "
        "in float32."
    )


def _share(state: _State, those: Ranks, place: torch.device) -> None:
    """All go on from where the first one does."""
    if those.count == 1:
        return
    step = torch.tensor(state.step, device=place)
    those.share([*_tensors(state).values(), step])
    state.step = int(step)


def _recall(path: Path, state: _State, total: int) -> None:
    """Go on from a state that was kept, if there is one."""
    if not path.exists():
        return
    try:
        if not path.is_file():  # a pipe might never end
            raise ValueError
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        parts = {part: {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
                 for part in ("net.", "average.", "momentum.")}  # fmt: skip
        state.net.load_state_dict(parts["net."])
        state.average.load_state_dict(parts["average."])
        for name, value in state.momentum.items():
            value.copy_(parts["momentum."][name])
        state.step, state.seconds = int(metadata["step"]), float(metadata["seconds"])
        if not (0 <= state.step <= total and 0 <= state.seconds < math.inf):
            raise ValueError
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise Refused(f"{path} is damaged or of another training: delete it to begin anew.") from error
