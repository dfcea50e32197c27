"""Files of weights → models: sniff → read safely → unwrap → recognise → build strictly → report.

Nothing from a file is ever imported or run: safetensors has no code, and torch files are read with
`weights_only=True` and nothing else.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cem_core import bundle
from cem_core.messages import Checkpoint, Device, Fact, Precision, Refused, Source
from cem_core.models import FAMILIES, Model, Network, Plan

_LARGEST: Final = 1024
"""Largest side of an input that is believed, in pixels."""
_MOST_CLASSES: Final = 100_000
_LEGACY: Final = bytes.fromhex("80028a0a6cfc9c46f920")
_WRAPPERS: Final = ("state_dict_ema", "model_ema", "model_state_dict", "model", "state_dict", "net")
_DEEPEST: Final = 4
"""Wrappers in wrappers that are opened; more are no checkpoint but a trap."""
_PREFIXES: Final = ("module.", "_orig_mod.", "model.")
_CIFAR: Final = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


@dataclass(frozen=True)
class _Contents:
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


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


def load(reference: str, device: Device = "auto", precision: Precision = "float32") -> tuple[Model, Checkpoint]:
    """A frozen model and what is known of it; the last few stay in memory.

    Args:
        reference: name of a bundled model, or path of a checkpoint.

    Raises:
        Refused: the file cannot be opened, or is no model that is known here.
    """
    path = resolve(reference).resolve()
    try:
        stat = path.stat()
        return _load(path, (stat.st_mtime_ns, stat.st_size), where(device), precision)
    except OSError as error:
        raise Refused(f"{path.name} cannot be read: {error.strerror or error}.") from error


def where(device: Device) -> torch.device:
    """The device a choice means on this machine. Raises Refused if it has none such."""
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("This machine has no CUDA device that torch can use: choose cpu or auto.")
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")


@lru_cache(maxsize=4)
def _load(
    path: Path, _version: tuple[int, int], device: torch.device, precision: Precision
) -> tuple[Model, Checkpoint]:
    contents = unwrap(path.name, _READERS[sniff(path)](path))
    plan = recognise(path.name, contents)
    mean, std, _ = _normalisation(contents, plan)
    try:
        network = _built(path.name, contents.tensors, plan)
        model = Model(network, mean, std).frozen(device, getattr(torch, precision))
    except (RuntimeError, MemoryError) as error:
        raise Refused(f"{path.name} looks like a {plan.title}, but cannot be used: {_first_line(error)}") from error
    return model, _report(path, contents, plan)


def _built(name: str, tensors: Mapping[str, Tensor], plan: Plan) -> Network:
    """The network with exactly these weights. Nothing is allocated before every shape is known to fit."""
    with torch.device("meta"):
        network = plan.build()
    wanted = network.state_dict()
    kept = {key: value.to(wanted[key].dtype) for key, value in tensors.items() if key in wanted}
    # Batch counters are read by nothing at inference, and some writers leave them out.
    counters = {key for key in wanted.keys() - kept.keys() if key.endswith("num_batches_tracked")}
    try:
        network.load_state_dict(kept | dict.fromkeys(counters, torch.tensor(0)), strict=True, assign=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        reason = lines[1].strip() if len(lines) > 1 else lines[0]
        raise Refused(f"{name} looks like a {plan.title}, but its weights do not fit: {reason}") from error
    return network


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def sniff(path: Path) -> str:
    """The format of a file by its bytes, never by its extension: a key of the readers. Raises Refused."""
    with path.open("rb") as file:
        head = file.read(512)
    name = path.name
    if not head:
        raise Refused(f"{name} is empty: the download or copy did not finish.")
    if head.startswith(b"PK\x03\x04"):
        if not _stores_weights(path):
            raise Refused(f"{name} is a zip archive, not a checkpoint: unpack it and open the checkpoint inside.")
        return "torch zip"
    if head.startswith(_LEGACY):
        return "torch legacy"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 * 2**20:
        return "safetensors"
    for magic, what in _STRANGERS:
        if head.lstrip()[: len(magic)].lower() == magic:
            raise Refused(f"{name} is {what}, not a checkpoint.")
    if head[257:262] == b"ustar":
        raise Refused(f"{name} is a tar archive: unpack it and open the checkpoint inside.")
    if not head.translate(None, bytes(range(32, 127)) + b"\r\n\t"):
        raise Refused(f"{name} is a text file, not a checkpoint.")
    raise Refused(f"{name} is not a checkpoint that is known here: safetensors and torch files are.")


_STRANGERS: Final = (
    (b"<!doctype", "a web page (the download did not give the file)"),
    (b"<html", "a web page (the download did not give the file)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89hdf", "an HDF5 file"),
    (b"\x80\x04\x95", "a bare pickle, which may run code when read"),
    (b"\x89png", "an image"),
    (b"\xff\xd8\xff", "an image"),
)


def _stores_weights(path: Path) -> bool:
    """Whether a zip is as torch writes it, nothing compressed: else a small file could fill all memory.

    A damaged one counts as such: torch says better what is wrong with it.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return True
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    fits = sum(member.file_size for member in members) <= path.stat().st_size
    return stored and fits and any(member.filename.split("/")[-1] == "data.pkl" for member in members)


def _read_safetensors(path: Path) -> _Contents:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return _Contents({key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {}))  # noqa: SIM118
    except SafetensorError as error:
        raise Refused(f"{path.name} is a damaged safetensors file: copy or download it again.") from error


def _read_torch(path: Path) -> _Contents:
    try:
        with path.open("rb") as file:  # not the path: torch would judge it by its extension
            found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused(
            f"{path.name} holds Python objects beside its weights, which could run code: "
            "save only its state dict, or convert it to safetensors."
        ) from error
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise Refused(f"{path.name} is a damaged or incomplete torch file: copy or download it again.") from error
    return _Contents(found if isinstance(found, dict) else {"": found}, {})


_READERS: Final[Mapping[str, Callable[[Path], _Contents]]] = {
    "safetensors": _read_safetensors,
    "torch zip": _read_torch,
    "torch legacy": _read_torch,
}


def unwrap(name: str, contents: _Contents) -> _Contents:
    """The state dict inside what was read, without wrappers and prefixes. Raises Refused if there is none."""
    tensors: Any = contents.tensors
    for _ in range(_DEEPEST):
        tensors = next((tensors[k] for k in _WRAPPERS if isinstance(tensors.get(k), Mapping)), tensors)
    tensors = {str(key): value for key, value in tensors.items() if isinstance(value, Tensor)}
    for key, value in tensors.items():
        if not _is_plain(value):
            raise Refused(f"{name} holds {key[:80]!r}, which is no plain array of numbers: save dense real weights.")
    if not tensors:
        raise Refused(f"{name} holds no weights: open the file that has the model's state dict.")
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return _Contents(tensors, contents.metadata)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, real and as large as it says: a view may claim a billion rows and store one."""
    odd = tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_complex()
    if odd or tensor.device.type == "meta":
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def recognise(name: str, contents: _Contents) -> Plan:
    """The family that knows these keys. Raises Refused if none does."""
    shapes = {key: tuple(value.shape) for key, value in contents.tensors.items()}
    for family in FAMILIES:
        if plan := family(shapes, contents.metadata):
            if plan.channels not in (1, 3) or not 1 <= plan.classes <= _MOST_CLASSES:
                raise Refused(f"{name} takes {plan.channels} channels to {plan.classes} classes: no image classifier.")
            return plan
    first = ", ".join(list(shapes)[:3])
    raise Refused(f"{name} is of no architecture that is known here (its first weights: {first}).")


def _normalisation(contents: _Contents, plan: Plan) -> tuple[tuple[float, ...], tuple[float, ...], Source]:
    mean, std = (_entry(contents, key, list[float]) for key in ("mean", "std"))
    if mean and std and len(mean) == len(std) == plan.channels and min(std) > 0:
        return tuple(mean), tuple(std), "file"
    if plan.channels == 3:
        return *_CIFAR, "guess"
    return (0.0,) * plan.channels, (1.0,) * plan.channels, "guess"


def _entry(contents: _Contents, key: str, kind: Any) -> Any:
    """A metadata value that is JSON of the kind, else None."""
    try:
        return msgspec.json.decode(contents.metadata[key].encode(), type=kind)
    except (KeyError, msgspec.MsgspecError):
        return None


def _report(path: Path, contents: _Contents, plan: Plan) -> Checkpoint:
    names = _entry(contents, "classes", list[Annotated[str, msgspec.Meta(max_length=200)]])
    named = bool(names) and len(names) == plan.classes
    mean, std, source = _normalisation(contents, plan)
    size = _entry(contents, "image_size", Annotated[int, msgspec.Meta(ge=8, le=_LARGEST)])
    name = next((name for name, file in bundle.models().items() if file.resolve() == path), path.name)
    facts = [
        Fact("family", plan.title, "file"),
        *plan.facts,
        Fact("normalisation", f"mean {_list(mean)}, std {_list(std)}", source),
        Fact("image size", f"{size or plan.size}×{size or plan.size}", "file" if size else "guess"),
        Fact("class names", f"{plan.classes} names" if named else "numbers", "file" if named else "guess"),
    ]
    if training := contents.metadata.get("training"):
        facts.append(Fact("training", training, "file"))
    if path == bundle.models().get(name) and (points := bundle.measured(path)):
        found = ", ".join(f"{100 * float(p['accuracy']):.1f} % {_attack(p)}" for p in points)
        facts.append(Fact("accuracy", f"{found} ({points[0]['total']:,} test images)", "file"))
    return Checkpoint(
        name=name,
        path=str(path),
        sha256=_sha256(path),
        title=plan.title,
        family=plan.family,
        parameters=sum(v.numel() for k, v in contents.tensors.items() if v.is_floating_point() and "running_" not in k),
        classes=tuple(names) if named else tuple(f"class {i}" for i in range(plan.classes)),
        channels=plan.channels,
        size=size or plan.size,
        facts=tuple(facts),
        ignored=tuple(sorted(contents.tensors.keys() - plan.keys())),
    )


def _attack(point: dict[str, float | str]) -> str:
    norm = {"l2": "L2", "linf": "L∞"}[str(point["norm"])]
    return f"at {norm} {point['eps']:g}" if point["eps"] else "clean"


def _list(values: tuple[float, ...]) -> str:
    return "/".join(f"{v:.4g}" for v in values)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
