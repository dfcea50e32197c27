"""A checkpoint file → a frozen model, or what would be said of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from cem_core import bundle
from cem_core.checkpoints.reading import Watch
from cem_core.checkpoints.understanding import SIDECARS, Opened, first_line, line, understand, version
from cem_core.messages import Checkpoint, Device, Precision, Refused
from cem_core.models import Model, Network, Normalisation

_KEPT: Final = 6
"""Models that stay in memory: four that are compared, that of the window, and the one before it."""


def resolve(reference: str) -> Path:
    """The file behind a bundled name or a path. Raises Refused if there is none."""
    bundled = bundle.models()
    if reference in bundled:
        return bundled[reference]
    missing = f"There is no model or file called {reference}: give a path, or one of {', '.join(bundled)}."
    try:
        path = Path(reference).expanduser()
        if path.is_dir():
            raise Refused(f"{path.name or path} is a folder: choose a checkpoint file.")
        if not path.exists():
            raise Refused(missing)
    except (OSError, RuntimeError) as error:  # a name that is too long, a folder that may not be entered, no such ~user
        raise Refused(missing) from error
    if not path.is_file():  # a pipe or a device might never end
        raise Refused(f"{path.name} is not an ordinary file: choose a checkpoint file.")
    return path


def where(device: Device) -> torch.device:
    """The device a choice means on this machine. Raises Refused if it has none such."""
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("This machine has no CUDA device that torch can use: choose cpu or auto.")
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda:  # float32 means float32: torch would round what goes into convolutions to ten bits
        torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if cuda else "cpu")


_Key = tuple[Path, tuple[object, ...], torch.device, str, tuple[tuple[str, str], ...]]
_models: OrderedDict[_Key, tuple[Model, Checkpoint, Tensor | None]] = OrderedDict()
_models_lock = threading.Lock()


def load(
    reference: str,
    device: Device = "auto",
    precision: Precision = "float32",
    choices: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    *,
    keep: bool = True,
) -> tuple[Model, Checkpoint]:
    """A frozen model and what is known of it; the last few stay in memory.

    Args:
        reference: name of a bundled model, or path of a checkpoint.
        choices: fact → value, for what may be read in more than one way; spaces may be written `_`.
        watch: told the share that is read, and may raise `Cancelled`.
        keep: False for a model that is looked at once.

    Raises:
        Refused: the file cannot be opened, or is no model that is known here, or a choice does not suit it.
    """
    return _load(reference, device, precision, choices, watch, keep=keep)[:2]


def replay(reference: str, choices: Mapping[str, str] | None = None) -> Tensor:
    """(N, C, H, W) in [0,1]: the replay buffer of a checkpoint. Raises Refused if it has none."""
    _, checkpoint, found = _load(reference, "cpu", "float32", choices, None)
    if found is None:
        raise Refused(f"{checkpoint.name} has no replay buffer: start from images or noise.")
    return found


def _load(
    reference: str,
    device: Device,
    precision: Precision,
    choices: Mapping[str, str] | None,
    watch: Watch | None,
    *,
    keep: bool = True,
) -> tuple[Model, Checkpoint, Tensor | None]:
    path = resolve(reference).resolve()
    chosen = _keys(choices)
    with _in_a_line(path):
        place = where(device)
        key = (path, _versions(path, chosen), place, precision, tuple(sorted(chosen.items())))
        with _models_lock:
            if key in _models:
                _models.move_to_end(key)
                return _models[key]
        found = _made(understand(path, chosen, watch), place, precision)
    with _models_lock:
        if keep:
            _models[key] = found
        while len(_models) > _KEPT:
            _models.popitem(last=False)
    return found


def _versions(path: Path, chosen: Mapping[str, str]) -> tuple[object, ...]:
    """Differ once the file was written, or what is read with it: options beside it, and the head that was chosen."""
    found: list[object] = [version(path)]
    for name in (*SIDECARS, *filter(None, [chosen.get("head")])):
        try:
            found.append(version(path.parent / name))
        except (OSError, ValueError):  # mostly, it is not there
            found.append(None)
    return tuple(found)


def forget() -> None:
    """Let go of the models that are kept in memory."""
    with _models_lock:
        _models.clear()


def inspect(reference: str, choices: Mapping[str, str] | None = None, watch: Watch | None = None) -> Checkpoint:
    """What `load` would say of a file, without making its network. Raises Refused as that does."""
    return opened(reference, choices, watch).checkpoint


def opened(reference: str, choices: Mapping[str, str] | None = None, watch: Watch | None = None) -> Opened:
    """A file, read and understood. Raises Refused as `load` does."""
    path = resolve(reference).resolve()
    with _in_a_line(path):
        return understand(path, _keys(choices), watch)


@contextmanager
def _in_a_line(path: Path) -> Iterator[None]:
    """Why a file is refused, in one line that can be shown: its name and its keys may hold anything."""
    try:
        yield
    except OSError as error:
        raise Refused(line(f"{path.name} cannot be read: {error.strerror or error}.")) from error
    except Refused as error:
        said = str(error)
        raise Refused(line(f"{path.name}: {said}" if said.startswith("Its ") else said)) from error


def _keys(choices: Mapping[str, str] | None) -> dict[str, str]:
    return {key.strip().replace(" ", "_"): value for key, value in (choices or {}).items()}


def _made(opened: Opened, device: torch.device, precision: Precision) -> tuple[Model, Checkpoint, Tensor | None]:
    name, plan, size = opened.path.name, opened.plan, opened.checkpoint.size
    try:
        model = Model(build(opened), opened.normalisation).frozen(device, getattr(torch, precision))
        with torch.no_grad():
            out = model(torch.zeros(1, plan.channels, size, size, device=device))
    except (RuntimeError, MemoryError, NotImplementedError, TypeError, IndexError, ArithmeticError) as error:
        said = first_line(error)[:200]
        raise Refused(f"{name} looks like a {plan.title}, but fails on {size}×{size} pixels: {said}") from error
    if tuple(out.shape) != (1, plan.classes or plan.features):
        raise Refused(f"{name} looks like a {plan.title}, but gives {tuple(out.shape)} for one image.")
    return model, opened.checkpoint, _unit(opened.replay, opened.normalisation)


def build(opened: Opened) -> Network:
    """The network with exactly these weights, in single precision, neither folded nor frozen."""
    if opened.network is not None:
        return opened.network
    with torch.device("meta"):
        network = opened.plan.build()
    wanted = network.state_dict()
    kept = copy(wanted)  # with the versions that some modules ask for
    for key, blank in wanted.items():
        value = opened.tensors.get(opened.plan.key_of(key))
        # Batch counters are read by nothing at inference, and some writers leave them out.
        kept[key] = torch.zeros((), dtype=blank.dtype) if value is None else value.to(blank.dtype)
    network.load_state_dict(kept, strict=True, assign=True)
    return network.eval()


def _unit(replay: Tensor | None, normalisation: Normalisation) -> Tensor | None:
    """What a network has seen, back in [0,1]."""
    if replay is None:
        return None
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (normalisation.mean, normalisation.std))
    return (replay.float() * std + mean).clamp(0, 1)
