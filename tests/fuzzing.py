"""Opens damaged copies of checkpoints: each must be refused in one clear line, or open.

    python tests/fuzzing.py 0 100000 [FOLDER]

opens the copies of these numbers; the same number is the same copy every time. Ends with 1 after the first that gives
anything else, with 2 and a traceback when one takes over ten seconds, and by its signal when one crashes. The number
at work stands in the file FOLDER/at.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import pickle
import random
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dill
import torch
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).parent))

import little
import tiny

from cem_core import checkpoints
from cem_core.messages import Refused

SEED = 20_240_229
LIMIT_S = 10
PROGRAMS = ("TorchScript", "torch.export")


class Net(torch.nn.Module):
    """Pickled whole; its keys are those of a family."""

    def __init__(self) -> None:
        super().__init__()
        for key, value in tiny.weights().items():
            *parts, last = key.split(".")
            part: Any = self
            for name in parts:
                if not hasattr(part, name):
                    part.add_module(name, torch.nn.Module())
                part = getattr(part, name)
            part.register_buffer(last, value)


def saved(found: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(found, file, **options)
    return file.getvalue()


@cache
def originals() -> dict[str, bytes]:
    """Files of every kind that opens."""
    weights = tiny.weights()
    jem = {"model_state_dict": weights, "replay_buffer": torch.rand(2, 3, 16, 16)}
    options = {"state_dict": weights, "args": argparse.Namespace(arch="x"), "schedule": lambda t: t}
    old: dict[str, Any] = {"_use_new_zipfile_serialization": False}
    return {
        "zip": saved(weights),
        "legacy": saved(weights, **old),
        "protocol 4": saved({"state_dict": weights, "args": argparse.Namespace(dataset="x")}, pickle_protocol=4),
        "dill": saved(options, pickle_module=dill),
        "dill, legacy": saved(options, pickle_module=dill, **old),
        "module": saved(Net()),
        "module, legacy": saved({"net": Net()}, **old),
        "replay": saved(jem),
        "safetensors": save(weights, tiny.about()),
        "TorchScript": little.scripted(),
        "torch.export": little.exported(),
    }


class Copy(bytearray):
    """Of a file, or of a part of one."""

    names: Sequence[int] = ()
    """Where structure was in it before it was changed."""


@cache
def names_in(data: bytes) -> Sequence[int]:
    return [match.start() for match in re.finditer(rb"PK|c(?:torch|__tor)|X.\0\0\0|data\.pkl|data_offsets|\"as_", data)]


@cache
def members(name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(originals()[name])) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def mutated(number: int) -> tuple[str, bytes]:
    """A name that tells how a copy came about, and the copy."""
    chance = random.Random(f"{SEED} {number}")
    name, whole = chance.choice(list(originals().items()))
    done = [name]
    inside = ""
    if name in PROGRAMS and chance.randrange(4):  # in what a change from outside would only leave unreadable
        inside = chance.choice([member for member in members(name) if member.endswith((".pkl", ".py", ".json"))])
        whole = members(name)[inside]
        done.append(inside)
    data = Copy(whole)
    data.names = names_in(whole)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        change = chance.choice(CHANGES)
        change(chance, data)
        done.append(change.__name__)
    if inside:
        return " ".join(done), zipped(members(name) | {inside: bytes(data)})
    return " ".join(done), bytes(data)


def zipped(found: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member, data in found.items():
            archive.writestr(member, data)
    return file.getvalue()


def place(chance: random.Random, data: Copy) -> int:
    """Mostly where structure is: at the beginning, at the end, in a pickle, near a name."""
    if not data:
        return 0
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randrange(min(len(data), 600))
    if kind == 1:
        return len(data) - 1 - chance.randrange(min(len(data), 600))
    if kind < 4 and data.names:
        return min(len(data) - 1, chance.choice(data.names) + chance.randrange(40))
    return chance.randrange(len(data))


def flip(chance: random.Random, data: Copy) -> None:
    if data:
        data[place(chance, data)] ^= 1 << chance.randrange(8)


def overwrite(chance: random.Random, data: Copy) -> None:
    at = place(chance, data)
    data[at : at + 8] = chance.choice((bytes(8), b"\xff" * 8, b"\xff\xff\xff\x7f", chance.randbytes(8)))


def opcode(chance: random.Random, data: Copy) -> None:
    """One of pickle's for another byte."""
    if data:
        data[place(chance, data)] = chance.choice(OPCODES)[0]


def insert(chance: random.Random, data: Copy) -> None:
    at = place(chance, data)
    data[at:at] = chance.randbytes(chance.randrange(1, 20))


def delete(chance: random.Random, data: Copy) -> None:
    at = place(chance, data)
    del data[at : at + chance.randrange(1, 40)]


def swap(chance: random.Random, data: Copy) -> None:
    one, other, length = place(chance, data), place(chance, data), chance.randrange(1, 200)
    data[one : one + length], data[other : other + length] = data[other : other + length], data[one : one + length]


def truncate(chance: random.Random, data: Copy) -> None:
    del data[place(chance, data) :]


def splice(chance: random.Random, data: Copy) -> None:
    """The beginning of one file, and the end of another."""
    other = chance.choice(list(originals().values()))
    at = place(chance, data)
    data[at:] = other[min(at + chance.randrange(-8, 9), len(other)) :]


def repeat(chance: random.Random, data: Copy) -> None:
    at = place(chance, data)
    data[at:at] = data[at : at + chance.randrange(1, 60)] * chance.randrange(1, 50)


CHANGES: tuple[Callable[[random.Random, Copy], None], ...] = (
    flip, overwrite, opcode, insert, delete, swap, truncate, splice, repeat
)  # fmt: skip
OPCODES = [code for name in pickle.__all__ if isinstance(code := getattr(pickle, name), bytes)]


def main() -> int:
    first, last = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[3] if len(sys.argv) > 3 else temporary)
        path = folder / "net.pt"
        opened, begin = 0, time.monotonic()
        for number in range(first, last):
            (folder / "at").write_text(str(number))
            how, data = mutated(number)
            path.write_bytes(data)
            faulthandler.dump_traceback_later(LIMIT_S, exit=True)
            try:
                (checkpoints.inspect if number % 4 else checkpoints.load)(str(path))
                opened += 1
            except Refused as refused:
                if not re.fullmatch(r"[^\n]{10,400}", str(refused)) or path.name not in str(refused):
                    print(f"{number} ({how}) is refused in other words: {refused}")
                    return 1
            except BaseException as error:
                print(f"{number} ({how}) raises {type(error).__name__}: {error}")
                raise
            checkpoints.forget()
        faulthandler.cancel_dump_traceback_later()
        seconds = time.monotonic() - begin
    print(f"{last - first} copies, {opened} of them opened, {(last - first) / seconds:.0f} per second")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    faulthandler.enable()
    sys.exit(main())
