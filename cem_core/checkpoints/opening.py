"""A checkpoint file → a model and what is known of it: sniff → read → unwrap → recognise → settle → build strictly."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import msgspec
import torch
from torch import Tensor

from cem_core import bundle
from cem_core.checkpoints import labels, preprocessing, unwrapping
from cem_core.checkpoints.hashing import sha256
from cem_core.checkpoints.reading import Contents, Watch, read
from cem_core.checkpoints.sniffing import sniff
from cem_core.checkpoints.unwrapping import Candidate, Tensors
from cem_core.messages import Checkpoint, Device, Fact, Precision, Refused, Source
from cem_core.models import FAMILIES, Evidence, Model, Network, Normalisation, Plan
from cem_core.models.family import shown

_LARGEST: Final = 1024
"""Largest side of an input that is believed, in pixels."""
_MOST_CLASSES: Final = 100_000
_MOST_TRIES: Final = 300
"""Candidates for the state dict that are looked at; a file with more is no checkpoint but a trap."""
_KEPT: Final = 4
"""Models that stay in memory."""
_SIZES: Final = ("28", "32", "64", "96", "224", "288")
_HEAD_NAMES: Final = ("linear", "fc", "classifier", "head", "linear_classifier", "linear_layer", "lin")
_HEAD_FILE: Final = re.compile(r"linear|classifier|head|(?:^|[_.-])fc(?![a-z])", re.IGNORECASE)
_LARGEST_HEAD: Final = 64 * 2**20
_NO_HEAD: Final = "none"
_UNSHOWN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Breaks a line, steers a terminal, turns the direction of writing, or cannot be written at all."""


@dataclass(frozen=True)
class Opened:
    """A file that was read and understood, its weights not yet in a network."""

    path: Path
    plan: Plan
    tensors: Tensors
    """By the file's keys."""
    normalisation: Normalisation
    checkpoint: Checkpoint
    said: Mapping[str, str]
    replay: Tensor | None
    """(N, C, H, W) in the range of the network's input."""
    network: Network | None = None
    """Ready already: a program."""


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
    return torch.device("cuda" if cuda else "cpu")


_Key = tuple[Path, int, int, torch.device, str, tuple[tuple[str, str], ...]]
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
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size, where(device), precision, tuple(sorted(chosen.items())))
        with _models_lock:
            if key in _models:
                _models.move_to_end(key)
                return _models[key]
        found = _made(understand(path, chosen, watch), key[3], precision)
    with _models_lock:
        if keep:
            _models[key] = found
        while len(_models) > _KEPT:
            _models.popitem(last=False)
    return found


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
        raise Refused(_line(f"{path.name} cannot be read: {error.strerror or error}.")) from error
    except Refused as error:
        said = str(error)
        raise Refused(_line(f"{path.name}: {said}" if said.startswith("Its ") else said)) from error


def _line(text: str) -> str:
    text = _UNSHOWN.sub("\ufffd", text)
    return text if len(text) <= 400 else f"{text[:399]}…"


def _keys(choices: Mapping[str, str] | None) -> dict[str, str]:
    return {key.strip().replace(" ", "_"): value for key, value in (choices or {}).items()}


def _made(opened: Opened, device: torch.device, precision: Precision) -> tuple[Model, Checkpoint, Tensor | None]:
    name, plan, size = opened.path.name, opened.plan, opened.checkpoint.size
    try:
        model = Model(build(opened), opened.normalisation).frozen(device, getattr(torch, precision))
        with torch.no_grad():
            out = model(torch.zeros(1, plan.channels, size, size, device=device))
    except (RuntimeError, MemoryError, NotImplementedError, TypeError, IndexError, ArithmeticError) as error:
        said = _first_line(error)[:200]
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---- understanding ---------------------------------------------------------------------------------------------------


def understand(path: Path, choices: Mapping[str, str], watch: Watch | None = None) -> Opened:
    """Everything short of a network. Raises Refused as `load` does, OSError where the file cannot be read."""
    form = sniff(path)
    said = _beside(path)
    shapes = read(path, form, shapes=True)
    if shapes.program is not None:
        return _program(path, form, shapes, choices, watch)
    _find(path, shapes, said, choices)  # before its data are read: refused if it is no model
    half = (lambda share: watch(share / 2)) if watch else None
    digest = sha256(path, half)
    contents = read(path, form, watch=(lambda share: watch(0.5 + share / 2)) if watch else None)
    found = _find(path, contents, said, choices)
    tensors, plan = dict(found.candidate.tensors), found.plan
    head = _without_blank_head(found, tensors)
    if head is not None:
        plan = found.again(tensors)
    plan, facts_of_head, offered = _with_head(path, found, plan, tensors, head or "")
    for key, value in tensors.items():
        if not _is_plain(value):
            raise Refused(
                f"{path.name} holds {key[:80]!r}, which is no plain array of numbers: save dense real weights."
            )
    said = dict(found.evidence.said)
    normalisation, preprocessed = preprocessing.settle(
        plan, path.stem, said, choices, tensors, found.candidate.everything
    )
    replay = _replay(plan, found.candidate.everything)
    size, sized = _size(plan, said, choices, replay)
    network = _fit(path, plan, tensors)
    taken = {plan.key_of(key) for key in network.state_dict()}
    if replay is not None:
        taken.add("replay_buffer")
    unused = sorted(key for key in tensors.keys() - taken if tensors[key] is not replay)
    _refuse_strange(path, plan, taken, unused)
    facts = [
        *found.facts,
        *plan.facts,
        *([shown("classes", plan.classes)] if plan.classes else []),
        *facts_of_head,
        preprocessed,
        sized,
    ]
    checkpoint = _report(path, digest, plan, facts, size, said, choices)
    strange = [key for key in unused if tensors[key].dim() >= 2 and not plan.idle(key)]
    warnings = [f"{_some(strange)} not used: this may be another network than it looks like."] if strange else []
    checkpoint = msgspec.structs.replace(
        checkpoint,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        ignored=(*unused, *contents.stood_in),
        warnings=tuple(warnings),
        heads=offered,
        replay=0 if replay is None else len(replay),
    )
    _check_choices(choices, checkpoint)
    return Opened(path, plan, tensors, normalisation, checkpoint, said, replay)


def _refuse_strange(path: Path, plan: Plan, taken: set[str], unused: list[str]) -> None:
    """Parts within the layers of a network that it does not have, such as learned activations: it would be wrong."""
    layers = {key.split(".")[0] for key in taken if key.count(".") > 1}
    strange = [
        key
        for key in unused
        if key.count(".") > 1
        and key.split(".")[0] in layers
        and not key.endswith("num_batches_tracked")
        and not plan.idle(key)
    ]
    if strange:
        raise Refused(
            f"{path.name} looks like a {plan.title}, but has parts that one has not ({strange[0][:80]}): "
            "this architecture is not known here."
        )


def _some(keys: list[str]) -> str:
    first = ", ".join(keys[:2])
    return f"{first} is" if len(keys) == 1 else f"{len(keys):,} weights of the file, such as {first}, are"


@dataclass(frozen=True)
class _Found:
    candidate: Candidate
    evidence: Evidence
    plan: Plan
    facts: tuple[Fact, ...]

    def again(self, tensors: Tensors) -> Plan:
        """The plan of the same family for other weights."""
        plans = _plans(tensors, self.evidence)
        return next(plan for plan in plans if plan.family == self.plan.family)


def _find(path: Path, contents: Contents, said: Mapping[str, str], choices: Mapping[str, str]) -> _Found:
    """The weights in a file that a family knows. Raises Refused if there are none."""
    said = {**said, **unwrapping.facts_in(contents.tree), **contents.said}
    found: list[tuple[Candidate, Evidence, list[Plan]]] = []
    first: Candidate | None = None
    for candidate in islice(unwrapping.candidates(contents.tree), _MOST_TRIES):
        if any(candidate.outer.startswith(known.outer) for known, _, _ in found):
            continue  # a part of what was recognised whole
        if first is None or sum(map(_is_matrix, candidate.tensors.values())) > sum(
            map(_is_matrix, first.tensors.values())
        ):
            first = candidate
        evidence = Evidence(path.stem, {**candidate.said, **_translated(said)}, choices)
        if plans := _plans(candidate.tensors, evidence):
            found.append((candidate, evidence, plans))
    if not found:
        raise Refused(_unknown(path.name, contents, first))
    places = tuple(candidate.where or "the file" for candidate, _, _ in found)
    index = _chosen("weights", places, choices)
    candidate, evidence, plans = found[index or 0]
    families = tuple(plan.family for plan in plans)
    which = _chosen("family", families, choices)
    plan = plans[which or 0]
    if plan.channels not in (1, 3) or not 0 <= plan.classes <= _MOST_CLASSES:
        raise Refused(f"{path.name} takes {plan.channels} channels to {plan.classes} classes: no image classifier.")
    options = families if len(families) > 1 else ()
    source: Source = "file" if which is None else "choice"
    facts = [Fact("family", plan.family if options else plan.title, source, 0.8 if options else 1.0, options)]
    if len(places) > 1 or candidate.where:
        options = places if len(places) > 1 else ()
        sure, source = (0.9, "guess") if options and index is None else (1.0, "file" if index is None else "choice")
        facts.append(Fact("weights", places[index or 0], source, sure, options))
    return _Found(candidate, evidence, plan, tuple(facts))


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.dim() >= 2


def _plans(tensors: Mapping[str, Tensor], evidence: Evidence) -> list[Plan]:
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return [plan for recognise in FAMILIES if (plan := recognise(shapes, evidence))]


def _chosen(what: str, options: tuple[str, ...], choices: Mapping[str, str]) -> int | None:
    chosen = choices.get(what)
    if chosen is None:
        return None
    if chosen not in options:
        raise Refused(f"The {what} cannot be {chosen[:60]!r}: this file has {', '.join(options)}.")
    return options.index(chosen)


def _unknown(name: str, contents: Contents, best: Candidate | None) -> str:
    """Why a file that could be read is no model."""
    tree = contents.tree
    if isinstance(tree, Tensor):
        shape = "×".join(str(side) for side in tree.shape) or "one number"
        return f"{name} holds a single tensor ({shape}), perhaps labels, and no weights: open the model's file."
    if isinstance(tree, Mapping) and {"state", "param_groups"} <= tree.keys():
        return f"{name} holds the state of an optimizer and no weights: open the model's file beside it."
    if best is None or not any(map(_is_matrix, best.tensors.values())):
        return f"{name} holds no weights: open the file that has the model's state dict."
    if {"weight", "bias"} >= best.tensors.keys() or len(best.tensors) <= 2:
        return f"{name} holds a single layer, perhaps a head ({', '.join(best.tensors)}): open its encoder's file."
    first = ", ".join(list(best.tensors)[:3])[:200]
    return f"{name} is of no architecture that is known here (its first weights: {first})."


def _translated(said: Mapping[str, str]) -> dict[str, str]:
    """Metadata in the words of facts: `mean` and `std` as one normalisation."""
    words = dict(said)
    numbers = Annotated[list[float], msgspec.Meta(min_length=1, max_length=3)]
    try:
        mean, std = (msgspec.json.decode(words.pop(key, ""), type=numbers) for key in ("mean", "std"))
    except msgspec.MsgspecError:
        return words
    if len(mean) == len(std) and min(std) > 0:
        words.setdefault("normalisation", preprocessing.named(tuple(mean), tuple(std)))
    return words


def _beside(path: Path) -> dict[str, str]:
    """What the options say that some projects write beside their checkpoints."""
    for name, keys in (("args.txt", ("data", "dataset")), ("params.txt", ("dataset",))):
        try:
            file = path.parent / name
            if not file.is_file() or file.stat().st_size > 2**20:
                continue
            options = msgspec.json.decode(file.read_bytes(), type=dict[str, object])
        except (OSError, msgspec.MsgspecError, RecursionError):
            continue
        for key in keys:
            if isinstance(value := options.get(key), str):
                return {"dataset": value[:100]}
    return {}


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, real and as large as it says: a view may claim a billion rows and store one."""
    odd = tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_complex()
    if odd or tensor.device.type == "meta":
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


# ---- heads -----------------------------------------------------------------------------------------------------------


def _without_blank_head(found: _Found, tensors: Tensors) -> str | None:
    """Take a head of zeros away, as contrastive training leaves it; says why, or None where there is none."""
    weight = tensors.get(found.plan.key_of("head.weight"))
    if not found.plan.classes or weight is None or not weight.numel() or weight.any():
        return None
    for key in ("head.weight", "head.bias"):
        tensors.pop(found.plan.key_of(key), None)
    return "its last layer is all zeros: never trained"


def _with_head(
    path: Path, found: _Found, plan: Plan, tensors: Tensors, why: str
) -> tuple[Plan, tuple[Fact, ...], tuple[str, ...]]:
    """For an encoder: the plan with the head that was chosen or lies in the file, the fact, and heads beside the file.

    The head's tensors are added under the keys that the family's own head would have.
    """
    if plan.classes:
        return plan, (), ()
    inside = dict(_heads(found.candidate.beside, plan.features))
    files = {file.name: file for file in _head_files(path, plan.features)}
    options = (_NO_HEAD, *inside, *files)
    default = next(iter(inside), _NO_HEAD)
    fact = found.evidence.settle("head", options, default, 0.8, why)
    if len(options) == 1:
        fact = Fact("head", _NO_HEAD, "file", why=why)
    offered = tuple(str(file) for file in files.values())
    if fact.value == _NO_HEAD:
        return plan, (fact, Fact("features", str(plan.features), "file")), offered
    if fact.value in inside:
        weight, bias = inside[fact.value]
    else:
        contents = read(files[fact.value], sniff(files[fact.value]))
        weight, bias = next(iter(_heads(_all(contents), plan.features, alone=True)))[1]
    tensors[plan.key_of("head.weight")] = weight
    tensors[plan.key_of("head.bias")] = torch.zeros(len(weight)) if bias is None else bias
    return found.again(tensors), (fact,), offered


def _all(contents: Contents) -> Tensors:
    first = next(unwrapping.candidates(contents.tree), None)
    return first.everything if first else {}


def _heads(
    tensors: Mapping[str, Tensor], features: int, *, alone: bool = False
) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
    """Linear layers that take so many features to classes: name → weight and bias.

    Args:
        alone: in a file of its own a head may have any name, as RoCL's `module.0` does, if nothing else is there.
    """
    alone = alone and sum(map(_is_matrix, tensors.values())) == 1
    for key, weight in tensors.items():
        if key.endswith("weight") and weight.dim() == 2 and weight.shape[1] == features:
            layer = key.removesuffix("weight")
            name = layer.rstrip(".") or "linear"
            whole = re.sub(r"(?:\.module|\.0)+$", "", name)  # a DataParallel, or a Sequential of one
            others = whole != name and any(k.startswith(f"{whole}.") and not k.startswith(layer) for k in tensors)
            bias = tensors.get(f"{layer}bias")
            known = alone or (whole.rsplit(".", 1)[-1] in _HEAD_NAMES and not others)
            if known and (bias is None or bias.shape == weight.shape[:1]):
                yield name, (weight, bias)


def _head_files(path: Path, features: int) -> Iterator[Path]:
    """Files beside an encoder, named after it, that hold a head for it."""
    try:
        beside = sorted(path.parent.iterdir())[:5000]
    except OSError:
        return
    for file in beside:
        after = file.name.removeprefix(path.name)  # RoCL adds to the whole name, `.t7…` being its extension
        after_stem = file.name.removeprefix(path.stem).lstrip("._-")
        if (after != file.name and _HEAD_FILE.search(after)) or (
            file.name.startswith(path.stem) and file != path and _HEAD_FILE.match(after_stem)
        ):
            try:
                if file.is_file() and file.stat().st_size <= _LARGEST_HEAD:
                    contents = read(file, sniff(file), shapes=True)
                    if any(True for _ in _heads(_all(contents), features, alone=True)):
                        yield file
            except (Refused, OSError):
                continue


# ---- the rest of the facts -------------------------------------------------------------------------------------------


def _replay(plan: Plan, everything: Mapping[str, Tensor]) -> Tensor | None:
    for key, tensor in everything.items():
        if key.split(".")[-1] == "replay_buffer" and tensor.dim() == 4 and tensor.shape[1] == plan.channels:
            square = tensor.shape[2] == tensor.shape[3] and 8 <= tensor.shape[2] <= _LARGEST
            if len(tensor) and square and tensor.is_floating_point() and _is_plain(tensor):
                return tensor
    return None


def _size(plan: Plan, said: Mapping[str, str], choices: Mapping[str, str], replay: Tensor | None) -> tuple[int, Fact]:
    """The side of the input."""
    if (chosen := choices.get("image_size")) is not None:
        if not chosen.isdecimal() or len(chosen) > 5 or not 8 <= int(chosen) <= _LARGEST:
            raise Refused(f"The image size must be a whole number of pixels from 8 to {_LARGEST}, not {chosen[:20]!r}.")
        return int(chosen), Fact("image size", chosen, "choice", 1.0, _SIZES, True)
    written = said.get("image_size", "")
    if written.isdecimal() and len(written) < 6 and 8 <= int(written) <= _LARGEST:
        return int(written), Fact("image size", written, "file", 1.0, _SIZES, True)
    if replay is not None:
        size = int(replay.shape[-1])
        return size, Fact("image size", str(size), "file", 1.0, _SIZES, True, "that of its replay buffer")
    return plan.size, Fact("image size", str(plan.size), "guess", 0.85, _SIZES, True, "usual for this architecture")


def _fit(path: Path, plan: Plan, tensors: Tensors) -> Network:
    """The network without data, proved to take exactly these weights."""
    said = f"{path.name} looks like a {plan.title}"
    try:
        with torch.device("meta"):
            network = plan.build().eval()
            shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
            for key, shape in shapes.items():
                value = tensors.get(plan.key_of(key))
                if value is None and not key.endswith("num_batches_tracked"):
                    raise Refused(f"{said}, but its weights do not fit: {plan.key_of(key)} is missing.")
                if value is not None and tuple(value.shape) != shape:
                    theirs, ours = ("×".join(map(str, s)) or "one number" for s in (value.shape, shape))
                    raise Refused(
                        f"{said}, but its weights do not fit: {plan.key_of(key)} is {theirs}, and not {ours}."
                    )
    except (RuntimeError, TypeError, IndexError, ArithmeticError, MemoryError) as error:
        raise Refused(f"{said}, but its sizes make none: {_first_line(error)[:200]}") from error
    return network


def _report(
    path: Path,
    digest: str,
    plan: Plan,
    facts: list[Fact],
    size: int,
    said: Mapping[str, str],
    choices: Mapping[str, str],
) -> Checkpoint:
    name = next((name for name, file in bundle.models().items() if file.resolve() == path), path.name)
    names: tuple[str, ...] = ()
    if plan.classes:
        names, named = labels.settle(plan.channels, plan.classes, said, choices)
        facts.append(named)
    if against := said.get("trained_against"):
        facts.append(Fact("trained against", _line(against), "file"))
    elif against := _threat(path.stem):
        facts.append(Fact("trained against", against, "name", 0.8))
    if training := said.get("training"):
        facts.append(Fact("training", _line(training), "file"))
    if path == bundle.models().get(name) and not choices and (points := bundle.measured(path)):
        found = ", ".join(f"{100 * float(p['accuracy']):.1f} % {_attack(p)}" for p in points)
        facts.append(Fact("accuracy", f"{found} ({points[0]['total']:,} test images)", "file"))
    return Checkpoint(
        name=name,
        path=str(path),
        sha256=digest,
        title=plan.title,
        family=plan.family,
        parameters=0,
        classes=names,
        features=plan.features,
        channels=plan.channels,
        size=size,
        facts=tuple(facts),
    )


_THREAT: Final = re.compile(
    r"(?<![a-z0-9])(linf|l2)[_=-]?(?:eps)?[_=-]?(\d+(?:\.\d+)?)(?:([_-])(\d+))?(?![\d.]*[a-z])", re.IGNORECASE
)


def _threat(stem: str) -> str:
    """The ball of adversarial training, as names tell it: `l2_0_5`, `linf_eps4.0`, `linf_8_255`; empty if they do not.

    L∞ from a half on is in units of 1/255, as there are no larger balls. `_` is a decimal point after 0, and after L2.
    """
    match = _THREAT.search(stem)
    if match is None:
        return ""
    norm, whole, mark, more = match.groups()
    if mark == "_" and "." not in whole and len(more) <= 3 and (whole == "0" or norm.lower() == "l2"):
        whole = f"{whole}.{more}"
    eps = float(whole)
    if norm.lower() == "l2":
        return f"L2, ε = {eps:g}" if 0.01 <= eps <= 100 else ""
    if eps >= 0.5:
        return f"L∞, ε = {eps:g}/255" if eps <= 128 else ""
    return f"L∞, ε = {eps:g}" if eps >= 0.001 else ""


def _attack(point: dict[str, float | str]) -> str:
    norm = {"l2": "L2", "linf": "L∞"}[str(point["norm"])]
    return f"at {norm} {point['eps']:g}" if point["eps"] else "clean"


def _check_choices(choices: Mapping[str, str], checkpoint: Checkpoint) -> None:
    """Raises Refused for a choice that nothing asked for."""
    facts = {fact.what.replace(" ", "_"): fact for fact in checkpoint.facts}
    for key, value in choices.items():
        fact = facts.get(key)
        if fact is None:
            known = ", ".join(key for key, fact in facts.items() if fact.options)
            raise Refused(f"There is no {key.replace('_', ' ')!r} to choose for {checkpoint.name}: only {known}.")
        if fact.source != "choice" and fact.value != value:
            raise Refused(f"The {fact.what} of {checkpoint.name} is settled by its weights: {fact.value}.")


def _program(path: Path, form: str, contents: Contents, choices: Mapping[str, str], watch: Watch | None) -> Opened:
    """A program that comes with its own architecture, used as it is."""
    program = contents.program
    assert program is not None
    plan = Plan(
        family=form,
        title=f"{form} program",
        channels=program.channels,
        classes=program.outputs,
        features=program.outputs,
        size=program.size or (32 if 32 in program.sizes else program.sizes[0]),
        facts=(),
        build=lambda: program,
    )
    said: dict[str, str] = {}
    normalisation, preprocessed = preprocessing.settle(plan, path.stem, said, choices, {}, {})
    if preprocessed.source == "guess":
        why = "a program usually normalises by itself"
        preprocessed = msgspec.structs.replace(preprocessed, value="none", confidence=0.5, why=why)
        normalisation = preprocessing.parse("none", plan.channels)
    size, sized = _size(plan, said, choices, None)
    facts = [Fact("family", plan.title, "file"), shown("classes", plan.classes), preprocessed, sized]
    checkpoint = _report(path, sha256(path, watch), plan, facts, size, said, choices)
    parameters = sum(parameter.numel() for parameter in program.parameters())
    checkpoint = msgspec.structs.replace(checkpoint, parameters=parameters)
    _check_choices(choices, checkpoint)
    return Opened(path, plan, {}, normalisation, checkpoint, said, None, program)
