"""A checkpoint file → what it is, short of a network: sniff → read → find → settle → prove that everything fits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor

from cem_core import bundle
from cem_core.checkpoints import finding, heads, labels, preprocessing
from cem_core.checkpoints.hashing import sha256
from cem_core.checkpoints.reading import Contents, Watch, read
from cem_core.checkpoints.sniffing import sniff
from cem_core.checkpoints.unwrapping import Tensors
from cem_core.messages import NORMS, Checkpoint, Fact, Norm, Refused
from cem_core.models import Network, Normalisation, Plan
from cem_core.models.family import shown

SIDECARS: Final = {"args.txt": ("data", "dataset"), "params.txt": ("dataset",)}
"""Options that some projects write beside their checkpoints, and the keys in them that name the data set."""
_LARGEST: Final = 1024
"""Largest side of an input that is believed, in pixels."""
_SIZES: Final = ("28", "32", "64", "96", "224", "288")
_UNSHOWN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Breaks a line, steers a terminal, turns the direction of writing, or cannot be written at all."""
_THREAT: Final = re.compile(
    r"(?<![a-z0-9])(linf|l2)[_=-]?(?:eps)?[_=-]?(\d+(?:\.\d+)?)(?:([_-])(\d+))?(?![\d.]*[a-z])", re.IGNORECASE
)


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


def understand(path: Path, choices: Mapping[str, str], watch: Watch | None = None) -> Opened:
    """Everything short of a network. Raises Refused as `load` does, OSError where the file cannot be read."""
    before = version(path)
    form = sniff(path)
    said = _beside(path)
    shapes = read(path, form, shapes=True)
    if shapes.program is not None:
        opened = _program(path, form, shapes, choices, watch)
    else:
        finding.find(path, shapes, said, choices)  # before its data are read: refused if it is no model
        digest = sha256(path, (lambda share: watch(share / 2)) if watch else None)
        contents = read(path, form, watch=(lambda share: watch(0.5 + share / 2)) if watch else None)
        opened = _state_dict(path, digest, contents, said, choices)
    if version(path) != before:  # by a training that goes on: these may be other weights than the hash is of
        raise Refused(f"{path.name} was written while it was read: open it again.")
    _check_choices(choices, opened.checkpoint)
    return opened


def _state_dict(
    path: Path, digest: str, contents: Contents, said: Mapping[str, str], choices: Mapping[str, str]
) -> Opened:
    found = finding.find(path, contents, said, choices)
    said, everything = found.evidence.said, found.candidate.everything
    plan, tensors, facts_of_head, offered, named = _with_head(path, found)
    said = {**said, **named}
    known = plan if plan.classes else found.plan  # a head that was taken away tells what the network was trained on
    normalisation, preprocessed = preprocessing.settle(known, path.stem, said, choices, tensors, everything)
    replay = _replay(plan, everything)
    size, sized = _size(plan, said, choices, replay)
    network = _fit(path, plan, tensors)
    inside = {**found.candidate.tensors, **tensors}
    taken = {plan.key_of(key) for key in network.state_dict()} | ({"replay_buffer"} if replay is not None else set())
    unused = sorted(key for key in inside.keys() - taken if inside[key] is not replay)
    _refuse_strange(path, plan, taken, unused)
    strange = [key for key in unused if inside[key].dim() >= 2 and not (plan.idle(key) or found.plan.idle(key))]
    classes = [shown("classes", plan.classes)] if plan.classes else []
    facts = [*found.facts, *plan.facts, *classes, *facts_of_head, preprocessed, sized]
    checkpoint = msgspec.structs.replace(
        _report(path, digest, plan, facts, size, said, choices),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        ignored=(*unused, *contents.stood_in),
        warnings=tuple(
            _warnings(
                strange,
                {key: tensors[key] for key in taken & tensors.keys()},
                strange_head=named.get("encoder_sha256", digest) != digest,
            )
        ),
        heads=offered,
        replay=0 if replay is None else len(replay),
    )
    return Opened(path, plan, tensors, normalisation, checkpoint, said, replay)


def _with_head(
    path: Path, found: finding.Found
) -> tuple[Plan, Tensors, tuple[Fact, ...], tuple[str, ...], Mapping[str, str]]:
    """The plan and its weights with the head that they are used with, facts of it, heads beside the file, and what the
    head says."""
    tensors, plan = dict(found.candidate.tensors), found.plan
    blank = heads.without_blank_head(found, tensors)
    if blank is not None:
        plan = found.again(tensors)
    plan, facts, offered, named = heads.with_head(path, found, plan, tensors, blank or "")
    for key, value in tensors.items():
        if not _is_plain(value):
            raise Refused(
                f"{path.name} holds {key[:80]!r}, which is no plain array of numbers: save dense real weights."
            )
    return plan, tensors, facts, offered, named


def version(path: Path) -> tuple[int, int, int]:
    """Differs once a file has been written or replaced."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _warnings(strange: list[str], used: Tensors, *, strange_head: bool) -> Iterator[str]:
    if strange:
        yield f"{_some(strange)} not used: this may be another network than it looks like."
    if strange_head:
        yield "Its head was fitted to the features of another file: if the weights differ, fit one anew."
    broken = (key for key, value in used.items() if value.is_floating_point() and not value.isfinite().all())
    if key := next(broken, None):
        yield f"{key} holds NaN or infinity: its weights are broken, and no run will get far."


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


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, real and as large as it says: a view may claim a billion rows and store one."""
    odd = tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_complex()
    if odd or tensor.device.type == "meta":
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _beside(path: Path) -> dict[str, str]:
    """What the options say that some projects write beside their checkpoints."""
    for name, keys in SIDECARS.items():
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
        return int(chosen), Fact("image size", str(int(chosen)), "choice", 1.0, _SIZES, True)
    written = said.get("image_size", "")
    if written.isdecimal() and len(written) < 6 and 8 <= int(written) <= _LARGEST:
        return int(written), Fact("image size", str(int(written)), "file", 1.0, _SIZES, True)
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
        raise Refused(f"{said}, but its sizes make none: {first_line(error)[:200]}") from error
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
        facts.append(Fact("trained against", line(against), "file"))
    elif against := _threat(path.stem):
        facts.append(Fact("trained against", against, "name", 0.8))
    if not plan.classes and (temperature := _temperature(said)):
        facts.append(Fact("temperature", temperature, "file", why="what its contrastive training divided by"))
    if training := said.get("training"):
        facts.append(Fact("training", line(training), "file"))
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


class _Objective(msgspec.Struct):
    temperature: float | None = None


class _Recipe(msgspec.Struct):
    objective: _Objective


def _temperature(said: Mapping[str, str]) -> str:
    """What an encoder was trained with, as its file says, or the recipe in it; empty if neither does."""
    try:
        if (text := said.get("temperature")) is not None:
            found: float | None = msgspec.json.decode(text, type=float)
        else:
            found = msgspec.json.decode(said.get("recipe", ""), type=_Recipe).objective.temperature
    except (msgspec.MsgspecError, RecursionError):
        return ""
    return f"{found:g}" if found is not None and 0.001 <= found <= 1000 else ""


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
    norm: Norm = "linf" if point["norm"] == "linf" else "l2"
    return f"at {NORMS[norm]} {point['eps']:g}" if point["eps"] else "clean"


def _check_choices(choices: Mapping[str, str], checkpoint: Checkpoint) -> None:
    """Raises Refused for a choice that nothing asked for."""
    facts = {fact.what.replace(" ", "_"): fact for fact in checkpoint.facts}
    for key, value in choices.items():
        if key == "class_names" and choices.get("head", "").casefold() == heads.NONE:
            continue  # they wait until it has its head again
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
    return Opened(path, plan, {}, normalisation, checkpoint, said, None, program)


def line(text: str) -> str:
    text = _UNSHOWN.sub("\ufffd", text)
    return text if len(text) <= 400 else f"{text[:399]}…"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
