"""Checkpoint files that mean harm, and a process of its own in which files are opened and measured.

ls FILES | python tests/hostile.py
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import marshal
import pickle
import re
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import little
import tiny
import torch
from safetensors.torch import save

# Pickles, opcode by opcode ----------------------------------------------------------------------------------------


def name(module: str, what: str) -> bytes:
    return f"c{module}\n{what}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def dotted(module: str, what: str) -> bytes:
    """A name as protocol 4 has it, which follows dots."""
    return text(module) + text(what) + b"\x93"


def octets(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def entry(key: bytes, value: bytes) -> bytes:
    """A dictionary of one entry."""
    return b"}" + key + value + b"s"


def listed(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


_VIEW = b"<view>"
"""Where only the older format has one thing more."""


def storage(count: bytes, kind: str = "FloatStorage", key: bytes = text("0")) -> bytes:
    return b"(" + text("storage") + name("torch", kind) + key + text("cpu") + count + _VIEW + b"tQ"


def rebuilt(function: str, *args: bytes) -> bytes:
    return entry(text("a.weight"), call(name("torch._utils", function), storage(number(4)), *args))


def run_by(careless: str, proof: Path) -> bytes:
    """A pickle that writes the file when it is read carelessly."""
    code = f"open({str(proof)!r}, 'w').close()"
    command, os_module = f"touch '{proof}'", call(name("importlib", "import_module"), text("os"))
    evil = b"\x80\x02" + call(name("builtins", "exec"), text(code)) + b"."
    body = {
        "os.system": lambda: call(name("os", "system"), text(command)),
        "posix.system": lambda: call(name("posix", "system"), text(command)),
        "eval": lambda: call(name("builtins", "eval"), text(code)),
        "exec": lambda: call(name("builtins", "exec"), text(code)),
        "Python 2's eval": lambda: call(name("__builtin__", "eval"), text(code)),
        "Popen": lambda: call(name("subprocess", "check_call"), listed(text("touch"), text(str(proof)))),
        "getattr": lambda: call(
            call(name("builtins", "getattr"), call(name("builtins", "__import__"), text("os")), text("system")),
            text(command),
        ),
        "attrgetter": lambda: call(
            call(call(name("operator", "attrgetter"), text("system")), os_module), text(command)
        ),
        "methodcaller": lambda: call(call(name("operator", "methodcaller"), text("system"), text(command)), os_module),
        "partial": lambda: call(call(name("functools", "partial"), name("os", "system"), text(command))),
        "map": lambda: call(
            name("builtins", "list"), call(name("builtins", "map"), name("builtins", "exec"), listed(text(code)))
        ),
        "FunctionType": lambda: call(
            call(
                name("types", "FunctionType"),
                call(name("marshal", "loads"), octets(marshal.dumps(compile(code, "", "exec")))),
                entry(text("open"), name("builtins", "open")),
            )
        ),
        "pickle in a pickle": lambda: call(name("pickle", "loads"), octets(evil)),
        "torch file in a pickle": lambda: call(name("torch.storage", "_load_from_bytes"), octets(in_zip(evil))),
        "dotted": lambda: b"\x80\x04" + call(dotted("torch", "serialization.os.system"), text(command)),
        "OBJ": lambda: b"(" + name("subprocess", "getoutput") + text(command) + b"o",
        "INST": lambda: b"(" + text(command) + b"ios\nsystem\n",
        "BUILD": lambda: (  # of an object whose __setstate__ is the function
            call(name("types", "SimpleNamespace"))
            + b"N" + entry(text("__setstate__"), name("builtins", "exec")) + b"\x86b" + text(code) + b"b"
        ),
    }[careless]()  # fmt: skip
    return b"\x80\x02" + entry(text("state_dict"), body) + b"."


CARELESS = (
    "os.system", "posix.system", "eval", "exec", "Python 2's eval", "Popen", "getattr", "attrgetter", "methodcaller",
    "partial", "map", "FunctionType", "pickle in a pickle", "torch file in a pickle", "dotted", "OBJ", "INST", "BUILD",
)  # fmt: skip


def _laughs() -> bytes:
    found = b"]"
    for depth in range(60):
        found = b"](" + found + b"r" + struct.pack("<I", depth) + (b"j" + struct.pack("<I", depth)) * 9 + b"e"
    return found


TRAPS: dict[str, bytes] = {
    "a place in the memo that needs 34 GB": b"Nr\xff\xff\xff\x7f",
    "a key that is nested too deeply to be hashed": entry(b")" + b"\x85" * 1_000_000, b"N"),
    "numbers as keys that collide": b"}(" + b"".join(number((2**61 - 1) * n) + b"N" for n in range(50_000)) + b"u",
    "places in the memo that collide": b"N" + b"".join(b"p%d\n" % ((2**61 - 1) * n) for n in range(50_000)),
    "lists, each of one byte": b"(" + b"]" * 5_000_000 + b"l",
    "copies of a large tuple": listed(
        b"(" + b"K\1" * 100_000 + b"tq\0", *[call(name("torch", "Size"), b"h\0")] * 5_000
    ),
    "a million keys": b"}(" + b"".join(text(f"{n:07}") + b"N" for n in range(1_000_000)) + b"u",
    "keys of a megabyte": entry(
        text("k" * 2**20), b"}(" + b"".join(text(f"k{n}") + b"N" for n in range(1000)) + b"u"
    ),
    "nested 100,000 deep": b"]" * 100_000 + b"a" * 99_999,
    "tuples nested 100,000 deep": b")" + b"\x85" * 100_000,
    "a dictionary within itself": b"}q\0" + text("model") + b"h\0s",
    "a list within itself": b"]q\0h\0a",
    "a billion laughs": _laughs(),
    "keys that are no text": b"}(" + b"K\1N" + b")N" + b"NN" + b"G" + bytes(8) + b"N" + name("x", "Y") + b"Nu",
    "an array of a terabyte": call(name("builtins", "bytearray"), number(10**12)),
    "octets of a terabyte": call(name("builtins", "bytes"), number(10**12)),
    "a list of a terabyte": call(name("builtins", "list"), call(name("builtins", "range"), number(10**12))),
    "a tensor of a terabyte": call(name("torch", "Tensor"), number(10**12)),
    "a storage of a terabyte": call(name("torch", "FloatStorage"), number(10**12)),
    "an untyped storage of a terabyte": call(name("torch.storage", "UntypedStorage"), number(10**12)),
    "a text that claims a terabyte": b"\x8d" + struct.pack("<Q", 10**12),
    "octets that claim all there is": b"\x8e" + b"\xff" * 8,
    "an array that claims a terabyte": b"\x96" + struct.pack("<Q", 10**12),
    "a number that claims a gigabyte": b"\x8b" + struct.pack("<i", 2**30),
    "a number of negative length": b"\x8b" + struct.pack("<i", -1),
    "a frame that claims a terabyte": b"\x95" + struct.pack("<Q", 10**12) + b"N",
    "a line without an end": b"c" + b"x" * 200_000,
    "a number of many digits": b"L" + b"9" * 100_000 + b"L\n",
    "an extension": b"\x82\1",
    "a large extension": b"\x84\xff\xff\xff\x7f",
    "a buffer that is elsewhere": b"\x97",
    "no value": b"",
    "more values taken than there are": b"000",
    "a tuple of nothing": b"\x87",
    "a mark that is missing": b"t",
    "an object of a number": b"K\1)R",
    "an object of a text": text("os.system") + b")\x81",
    "a class where an object should be": name("x", "Y") + entry(text("state"), b"N") + b"b",
    "a class as a list": name("x", "Y") + b"Na",
    "an attribute over a method": name("collections", "OrderedDict")
    + b")R" + entry(text("items"), name("x", "Y")) + b"b",
    "attributes of a stand-in": name("x", "Y") + b")\x81" + entry(text("attributes"), b"K\1") + b"b",
    "the class of a stand-in": name("x", "Y")
    + b")\x81N" + entry(text("__class__"), name("builtins", "dict")) + b"\x86b",
    "the attributes of a function": name("torch._utils", "_rebuild_tensor_v2")
    + b"N" + entry(text("__defaults__"), b"(K\1K\2t") + b"\x86b",
    "no storage": entry(
        text("a"), call(name("torch._utils", "_rebuild_tensor_v2"), b"N", b"K\0", b")", b")", b"\x89", b"N")
    ),
    "a reference that is a number": b"K\7Q",
    "a reference that is a text": text("storage") + b"Q",
    "a reference that is empty": b")Q",
    "a reference to a module": b"(" + text("module") + b"NNNtQ",
    "a reference to source code": b"("
    + text("module") + name("x", "Y") + text("/etc/passwd") + text("import os") + b"tQ",
    "a storage of negative size": storage(number(-1)),
    "a storage as large as can be": storage(number(2**62)),
    "a storage of a terabyte that is stored": storage(number(10**12)),
    "a storage whose size is a text": storage(text("4")),
    "a storage whose key is a path": storage(number(4), key=text("../../../../etc/passwd")),
    "a storage whose key is a tuple": storage(number(4), key=b"(K\1t"),
    "a storage of no kind": storage(number(4), kind="EvilStorage"),
    "a tensor beyond its storage": rebuilt("_rebuild_tensor_v2", number(3), numbers(2), numbers(1), b"\x89", b"}"),
    "a tensor far beyond": rebuilt("_rebuild_tensor_v2", number(0), numbers(2), numbers(2**50), b"\x89", b"}"),
    "a tensor before its storage": rebuilt("_rebuild_tensor_v2", number(-9), numbers(2), numbers(1), b"\x89", b"}"),
    "a tensor of negative strides": rebuilt("_rebuild_tensor_v2", number(3), numbers(2), numbers(-1), b"\x89", b"}"),
    "a tensor of negative size": rebuilt("_rebuild_tensor_v2", number(0), numbers(-2), numbers(1), b"\x89", b"}"),
    "a tensor that repeats a number": rebuilt(
        "_rebuild_tensor_v2", number(0), numbers(10**6, 10**6), numbers(0, 0), b"\x89", b"}"
    ),
    "a tensor of too many numbers to count": rebuilt(
        "_rebuild_tensor_v2", number(0), numbers(2**40, 2**40), numbers(0, 0), b"\x89", b"}"
    ),
    "an empty tensor of an impossible size": rebuilt(
        "_rebuild_tensor_v2", number(0), numbers(0, 2**59, 2**59), numbers(1, 1, 1), b"\x89", b"}"
    ),
    "a tensor of a thousand sides": rebuilt(
        "_rebuild_tensor_v2", number(0), numbers(*[1] * 1000), numbers(*[1] * 1000), b"\x89", b"}"
    ),
    "a tensor of texts": rebuilt("_rebuild_tensor_v2", text("0"), text("2"), text("1"), b"\x89", b"}"),
    "a tensor of another type": rebuilt(
        "_rebuild_tensor_v3", number(0), numbers(9), numbers(1), b"\x89", b"}", name("torch", "float64")
    ),
    "a tensor of an odd subclass": entry(
        text("a"),
        call(name("torch._tensor", "_rebuild_from_type_v2"), name("os", "system"), b"N", b"(" + text("x") + b"t", b"N"),
    ),
    "a sparse tensor": entry(
        text("a"), call(name("torch._utils", "_rebuild_sparse_tensor"), b"N", b"(NN" + numbers(10**9, 10**9) + b"t")
    ),
    "a sparse tensor of nothing": entry(text("a"), call(name("torch._utils", "_rebuild_sparse_tensor"), b"N", b")")),
    "a quantised tensor": rebuilt("_rebuild_qtensor", number(0), numbers(10**9), numbers(1), b"N", b"\x89", b"}"),
    "a nested tensor": rebuilt("_rebuild_nested_tensor", b"N", b"N", b"N"),
    "a wrapped tensor": rebuilt("_rebuild_wrapper_subclass", b"N", b"N", b"N", b"N", b"N", b"N"),
    "an array for a device": entry(
        text("a"), call(name("torch._utils", "_rebuild_device_tensor_from_numpy"), b"N", b"N", text("cuda"), b"\x89")
    ),
    "a parameter of attributes": entry(
        text("a.weight"),
        call(
            name("torch._utils", "_rebuild_parameter_with_state"),
            storage(number(4)), b"\x88", b"N", entry(text("detach"), name("x", "Y")),
        ),
    ),
    "an array of NumPy": call(
        name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), numbers(0), text("b")
    ),
    "an object of its class": call(
        name("copy_reg", "_reconstructor"), name("os", "_wrap_close"), name("builtins", "object"), b"N"
    ),
    "an object of keywords": name("subprocess", "Popen") + b")" + entry(text("args"), text("ls")) + b"\x92",
    "a module from the network": call(name("torch.hub", "load"), text("a/b"), text("c")),
    "a file that is loaded": call(name("torch", "load"), text("/dev/zero")),
    "a program that is loaded": call(name("torch.jit", "load"), text("/dev/zero")),
}  # fmt: skip
"""Bodies of pickles that take memory or time, crash, or change what there was."""


# Files ------------------------------------------------------------------------------------------------------------


def zipped(members: dict[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        for member, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(member, data)
    return file.getvalue()


def in_zip(found: bytes, **more: bytes) -> bytes:
    found = found.replace(_VIEW, b"")
    return zipped(
        {
            "archive/data.pkl": found,
            "archive/byteorder": b"little",
            "archive/version": b"3\n",
            "archive/data/0": bytes(16),
        }
        | more
    )


def in_stream(found: bytes, keys: bytes = listed(text("0")), data: bytes = struct.pack("<q", 4) + bytes(16)) -> bytes:
    start = b"".join(pickle.dumps(what, 2) for what in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return start + found.replace(_VIEW, b"N") + b"\x80\x02" + keys + b"." + data


def in_safetensors(header: str | bytes, data: bytes = b"") -> bytes:
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header)) + header + data


def torch_file(found: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(found, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


ZIP, STREAM = torch_file(tiny.weights()), torch_file(tiny.weights(), zipped=False)
SAFE = save(tiny.weights(), tiny.about())
_PICKLE = zipfile.ZipFile(io.BytesIO(ZIP)).read("archive/data.pkl")
_EMPTY = b"\x80\x02}."


def _members(data: bytes = ZIP) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def _edited(data: bytes, field: int, layout: str, *values: int) -> bytes:
    """A zip with another number in its directory, at this place of each entry."""
    changed = bytearray(data)
    at = changed.find(b"PK\1\2")
    while at >= 0:
        struct.pack_into(layout, changed, at + field, *values)
        at = changed.find(b"PK\1\2", at + 4)
    return bytes(changed)


def _overlapping() -> bytes:
    """A directory of a thousand entries that are all the same megabyte."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", _PICKLE)
        archive.writestr("archive/data/0", bytes(2**20))
        first = archive.getinfo("archive/data/0")
        for n in range(1, 1000):
            other = zipfile.ZipInfo(f"archive/data/{n}")
            other.header_offset, other.CRC = first.header_offset, first.CRC
            other.file_size = other.compress_size = first.file_size
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
        archive._didModify = True
    return file.getvalue()


def _entries(**changes: str) -> str:
    fields = {"dtype": '"F32"', "shape": "[2]", "data_offsets": "[0, 8]"} | changes
    return "{" + ", ".join(f'"{key}": {value}' for key, value in fields.items()) + "}"


_FAR = '"a": ' + _entries(shape="[9]", data_offsets="[0, 36]")

FILES: dict[str, bytes] = {
    "compressed": zipped(_members(), zipfile.ZIP_DEFLATED),
    "a bomb of zeros": zipped({"archive/data.pkl": b"\x80\x02" + bytes(2**28)}, zipfile.ZIP_DEFLATED),
    "a bomb as a tensor": zipped({"archive/data.pkl": _PICKLE, "archive/data/0": bytes(2**28)}, zipfile.ZIP_BZIP2),
    "entries that overlap": _overlapping(),
    "no pickle": zipped({"archive/data/0": bytes(16)}),
    "an empty zip": zipped({}),
    "two pickles": zipped({"archive/data.pkl": _EMPTY, "other/data.pkl": _PICKLE}),
    "a hundred thousand parts": zipped({"archive/data.pkl": _EMPTY} | {f"a/{n}": b"" for n in range(100_000)}),
    "something before it": b"#!/bin/sh\n" + ZIP,
    "another zip before it": zipped({"archive/data.pkl": _EMPTY}) + ZIP,
    "a comment behind it": ZIP[:-2] + b"\4\0evil",
    "something behind it": ZIP + bytes(1000),
    "another end behind it": ZIP + ZIP[-22:],
    "sizes of four gigabytes": _edited(ZIP, 20, "<LL", 2**32 - 2, 2**32 - 2),
    "sizes in a part that is missing": _edited(ZIP, 20, "<LL", 2**32 - 1, 2**32 - 1),
    "parts that begin far away": _edited(ZIP, 42, "<L", 2**31),
    "parts that begin in the directory": _edited(ZIP, 42, "<L", len(ZIP) - 30),
    "encrypted parts": _edited(_edited(ZIP, 8, "<H", 1), 10, "<H", 99),
    "a directory that is too long": zipped(_members())[:-10] + struct.pack("<LLH", 2**32 - 2, 0, 0),
    "an end of zip64 that is none": ZIP[:-22] + b"PK\6\7" + bytes(16) + ZIP[-22:],
    "a storage that is too small": zipped(_members() | {"archive/data/0": bytes(4)}),
    "a storage that is too large": zipped(_members() | {"archive/data/0": bytes(400_000)}),
    "the other order of bytes": zipped(_members() | {"archive/byteorder": b"big"}),
    "constants as of a program": zipped({"archive/data.pkl": _EMPTY, "archive/constants.pkl": b"\x80\x02)."}),
    "a program without code": zipped(
        {"archive/data.pkl": _EMPTY, "archive/constants.pkl": b"\x80\x02).", "archive/code/x.py": b"import os"}
    ),
    "two numbers at the beginning": STREAM[:15] + STREAM,
    "the wrong protocol": STREAM.replace(b"M\xe9\x03.", b"M\xea\x03.", 1),
    "no storages": in_stream(_EMPTY, keys=b"N"),
    "storages that are not named": in_stream(_EMPTY),
    "a storage twice": in_stream(b"\x80\x02" + storage(number(4)) + b".", keys=listed(text("0"), text("0"))),
    "a storage of another size": in_stream(b"\x80\x02" + storage(number(4)) + b".", data=struct.pack("<q", 2**60)),
    "a storage of a negative size": in_stream(b"\x80\x02" + storage(number(4)) + b".", data=struct.pack("<q", -4)),
    "a storage that ends early": in_stream(b"\x80\x02" + storage(number(4)) + b".", data=struct.pack("<q", 4) + b"ab"),
    "a page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a header that is too long": struct.pack("<Q", 99 * 2**20) + b"{",
    "a header of spaces": in_safetensors(b"{" + b" " * (100 * 2**20 - 2) + b"}"),
    "a header of all there is": b"\xff" * 8 + b"{}",
    "a header that is no object": in_safetensors("{]"),
    "a header nested deeply": in_safetensors('{"a":' + '{"a":' * 200_000),
    "a million tensors": in_safetensors(
        "{" + ",".join(f'"{n}":' + _entries(shape="[0]", data_offsets="[0,0]") for n in range(100_000)) + "}"
    ),
    "tensors that overlap": in_safetensors('{"a": ' + _entries() + ', "b": ' + _entries() + "}", bytes(8)),
    "a tensor beyond the end": in_safetensors("{" + _FAR + "}", bytes(8)),
    "a hole between tensors": in_safetensors('{"a": ' + _entries(data_offsets="[8, 16]") + "}", bytes(16)),
    "something behind the tensors": in_safetensors('{"a": ' + _entries() + "}", bytes(16)),
    "offsets that run back": in_safetensors('{"a": ' + _entries(data_offsets="[8, 0]") + "}", bytes(8)),
    "negative offsets": in_safetensors('{"a": ' + _entries(data_offsets="[-8, 0]") + "}", bytes(8)),
    "a shape that is huge": in_safetensors('{"a": ' + _entries(shape=f"[{2**62}, {2**62}]") + "}", bytes(8)),
    "a shape that is huge and empty": in_safetensors(
        '{"a": ' + _entries(shape=f"[0, {2**62}, {2**62}]", data_offsets="[0, 0]") + "}"
    ),
    "a negative shape": in_safetensors('{"a": ' + _entries(shape="[-1, -2]") + "}", bytes(8)),
    "a shape of fractions": in_safetensors('{"a": ' + _entries(shape="[0.5, 4]") + "}", bytes(8)),
    "a shape of a thousand sides": in_safetensors('{"a": ' + _entries(shape=str([1] * 1000)) + "}", bytes(4)),
    "an unknown type": in_safetensors('{"a": ' + _entries(dtype='"EVIL"') + "}", bytes(8)),
    "metadata that are no texts": in_safetensors('{"__metadata__": {"mean": NaN, "std": 1}}'),
    "metadata that are a number": in_safetensors('{"__metadata__": 1e999}'),
    "a key twice": in_safetensors('{"a": ' + _entries() + ', "a": ' + _entries() + "}", bytes(16)),
    "keys that steer a terminal": save({f"\x1b[2J\r\n{n}.weight\u202e": torch.zeros(2, 2) for n in range(4)}),
}
"""Whole files."""
FILES["every name twice"] = zipped([*_members().items(), ("archive/data.pkl", _EMPTY)])


def files() -> Iterator[tuple[str, bytes]]:
    """All that is to be refused, but what runs."""
    for title, body in TRAPS.items():
        found = b"\x80\x02" + body + b"."
        yield f"{title} (zip)", in_zip(found)
        yield f"{title} (stream)", in_stream(found)
        yield f"{title} (stream, stored nowhere)", in_stream(found, keys=b"]", data=b"")
    yield from FILES.items()
    for form, whole, mark in (("zip", ZIP, b"PK"), ("stream", STREAM, b"\x80\x02"), ("safetensors", SAFE, b'"')):
        edges = [match.start() for match in re.finditer(re.escape(mark), whole)]
        for cut in {*range(1, 30), *edges[1 :: len(edges) // 40 + 1], len(whole) - 22, len(whole) - 1}:
            yield f"{form} cut at {cut}", whole[:cut]


# Programs ---------------------------------------------------------------------------------------------------------


def changed(data: bytes, changes: Mapping[str, bytes | Callable[[bytes], bytes]], deflated: str = "\0") -> bytes:
    """A zip with these members changed or added, their names without the root; and some compressed."""
    members = _members(data)
    root = next(iter(members)).split("/")[0]
    for member, change in changes.items():
        key = f"{root}/{member}"
        members[key] = change(members[key]) if callable(change) else change
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content, zipfile.ZIP_DEFLATED if member.endswith(deflated) else zipfile.ZIP_STORED)
    return file.getvalue()


def _code(body: str) -> bytes:
    return (
        "class Little(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
        f"  def forward(self: __torch__.x,\n    x: Tensor) -> Tensor:\n    {body}\n    return torch.flatten(x, 1)\n"
    ).encode()


_TWICE = "y = [1]\n    z = [1]\n    for i in range(60):\n      y = [y, y]\n      z = [z, z]\n    "
"""Two lists that print to 2^60 numbers."""

CODE: dict[str, bytes] = {
    "brackets 300,000 deep": _code("y = " + "(" * 300_000 + "x" + ")" * 300_000),
    "brackets that are not closed": _code("y = " + "(" * 300_000),
    "a minus 1,000,000 times": _code("y = " + "-" * 1_000_000 + "x"),
    "a minus 5,900 times": _code("y = " + "-" * 5_900 + "x"),
    "a minus in each line": _code("y = (" + "-\n" * 5_900 + "x)"),
    "not 100,000 times": _code("y = " + "not " * 100_000 + "x"),
    "functions 5,900 deep": _code("y = " + "lambda:" * 5_900 + "x"),
    "a sum of 100,000": _code("y = " + "1+" * 100_000 + "1"),
    "a power of 100,000": _code("y = " + "1**" * 100_000 + "1"),
    "an attribute of 100,000": _code("y = x" + ".a" * 100_000),
    "calls of 100,000": _code("y = x" + "()" * 100_000),
    "a subscript of 100,000": _code("y = x" + "[0]" * 100_000),
    "a choice of 100,000": _code("y = " + "1 if 1 else " * 100_000 + "1"),
    "a chain of 20,000 elifs": _code("if x:\n      y=1\n" + "    elif x:\n      y=1\n" * 20_000),
    "blocks 1,000 deep": _code("\n    ".join(" " * n + "if x:" for n in range(1_000))),
    "as many statements as may be": b"x\\n" * 74_000,
    "as many numbers as may be": _code("y = [" + "1," * 148_000 + "]\n    w = torch.relu(y)"),
    "eight megabytes of statements": b"x\n" * (4 * 2**20 - 1),
    "eight megabytes of numbers": _code("y = [" + "1," * (4 * 2**20 - 200) + "]"),
    "eight megabytes of comparisons": _code("y = " + "1<" * (4 * 2**20 - 200) + "1"),
    "eight megabytes of quotes": b'"' * (8 * 2**20),
    "eight megabytes of escapes": b'"' + b'\\"' * (4 * 2**20 - 1),
    "a gigabyte of code": bytes(2**28),
    "a number of many digits": _code("y = " + "9" * 1_000_000),
    "a zero byte": _code("y = \0"),
    "another encoding": b"# coding: utf-7\n" + _code("+AHg-"),
    "no text": b"\xff\xfe" * 100,
    "loops in loops": _code(
        "for a in range(99999):\n      for b in range(99999):\n        for c in range(99999):\n          pass"
    ),
    "long loops of long lists": _code(
        "y = torch.mul([1], 10000)\n    for i in range(100000):\n      z = torch.list(y)\n      w = torch.eq(y, z)"
    ),
    "long lists for operations": _code(
        "y = torch.mul([x], 10000)\n    for i in range(100000):\n      z = torch.cat(y)"
    ),
    "constants in a loop": _code("for i in range(100000):\n      y = [" + "1, " * 10_000 + "]"),
    "lists that are compared for ages": _code(_TWICE + "w = torch.eq(y, z)"),
    "lists that are looked for for ages": _code(_TWICE + "w = torch.__contains__([y], z)"),
    "the greatest of lists": _code(_TWICE + "w = ops.prim.max(y, z)"),
    "lists that are printed for ages": _code(_TWICE + "w = torch.relu(y)"),
    "lists that are given to torch": _code(_TWICE + "w = torch.cat(y)"),
    "lists in an error": _code(_TWICE + "ops.prim.RaiseException(y)"),
    "lists as a key": _code(_TWICE + "w = {y: 1}"),
    "lists as a name": _code(_TWICE + "w = getattr(self, y)"),
    "a list within itself": _code("y = [1]\n    w = torch.append(y, y)\n    w = torch.relu(y)"),
    "a module for torch": _code("w = torch.relu(self)"),
    "operations without end": _code("for i in range(100000):\n      y = torch.relu(x)"),
    "wrong for every size": _code("for i in range(10000):\n      y = torch.relu(x)\n    ops.prim.RaiseException('no')"),
}
"""What stands in a TorchScript file for its code."""


def _module(state: bytes) -> bytes:
    """A pickle of the module, with this for its state."""
    return b"\x80\x02" + name("__torch__", "Little") + b")\x81" + state + b"b."


def _node(tree: Any) -> Any:
    return tree["graph_module"]["graph"]["nodes"][0]


def _deep(text: bytes) -> bytes:
    return text.replace(b'"nodes": [', b'"nodes": [' + b"[" * 500_000 + b"]" * 500_000 + b",", 1)


def _edit(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def edited(data: bytes) -> bytes:
        tree = json.loads(data)
        change(tree)
        return json.dumps(tree).encode()

    return edited


def _for_ages(tree: Any) -> None:
    tree["graph_module"]["graph"]["nodes"] = [_node(tree)] * 20_000


_PICKLES = ("data", "constants", "traced_inputs")
_ANYWHERE = [title for title in TRAPS if re.search("memo|nested|collide|one byte|laughs|within itself|as large", title)]


def programs() -> Iterator[tuple[str, bytes]]:
    """TorchScript files and exports that are to be refused."""
    script, export = little.scripted(), little.exported()
    code = next(
        member.split("/", 1)[1]
        for member in _members(script)
        if member.endswith("Little.py") or re.search(r"code/.+\.py$", member)
    )
    for title, text_ in CODE.items():
        yield f"{title} (code)", changed(script, {code: text_}, deflated=".py")
    for title, body in TRAPS.items():
        found = (b"\x80\x02" + body + b".").replace(_VIEW, b"")
        for member in _PICKLES if title in _ANYWHERE else _PICKLES[:1]:
            yield f"{title} ({member})", changed(script, {f"{member}.pkl": found})
        yield f"{title} (weights)", changed(export, {"data/weights/model.pt": in_zip(found)})
    yield (
        "many parts (weights)",
        changed(
            export,
            {"data/weights/model.pt": zipped({"archive/data.pkl": _EMPTY} | {f"a/{n}": b"" for n in range(99_999)})},
        ),
    )
    yield (
        "a bomb (weights)",
        changed(export, {"data/weights/model.pt": zipped({"archive/data.pkl": bytes(2**28)}, zipfile.ZIP_DEFLATED)}),
    )
    graph, config = "models/model.json", "data/weights/model_weights_config.json"
    for member in (graph, config):
        for title, json_ in {
            "lists 1,000,000 deep": b"[" * 1_000_000,
            "objects 1,000,000 deep": b'{"a":' * 1_000_000,
            "lists 500,000 deep": b"[" * 500_000 + b"]" * 500_000,
            "as many objects as may be": b"[" + b"{}," * 440_000 + b"{}]",
            "as many lists as may be": b"[" + b"[]," * 830_000 + b"[]]",
            "31 megabytes of lists": b"[" + b"[]," * (10 * 2**20) + b"[]]",
            "31 megabytes of objects": b"[" + b"{}," * (10 * 2**20) + b"{}]",
            "31 megabytes of numbers": b"[" + b"1," * (15 * 2**20) + b"1]",
            "40 megabytes of spaces": b" " * (40 * 2**20) + b"{}",
            "a number of many digits": b"9" * 1_000_000,
            "no object": b"null",
            "nothing": b"",
        }.items():
            yield f"{title} ({member})", changed(export, {member: json_})
    yield "lists 500,000 deep (nodes)", changed(export, {graph: _deep})
    yield "operations without end (nodes)", changed(export, {graph: _edit(_for_ages)})
    for form, whole in (("script", script), ("export", export)):
        edges = [match.start() for match in re.finditer(b"PK", whole)]
        for cut in {*range(1, 30), *edges[1 :: len(edges) // 20 + 1], len(whole) - 22, len(whole) - 1}:
            yield f"{form} cut at {cut}", whole[:cut]


# A process to open them in ----------------------------------------------------------------------------------------


def _memory(what: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(what)))


def opened(path: Path) -> dict[str, Any]:
    """What became of opening a file, and what that took."""
    from cem_core import checkpoints
    from cem_core.messages import Refused

    checkpoints.forget()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    modules, defaults = set(sys.modules), torch._utils._rebuild_tensor_v2.__defaults__
    said = []
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory so far is forgotten
    before, begin = _memory("VmRSS"), time.monotonic()
    for open_file in (checkpoints.inspect, checkpoints.load):
        try:
            open_file(str(path))
            said.append("")
        except Refused as refused:
            said.append(str(refused))
    return {
        "name": path.name,
        "said": said,
        "seconds": time.monotonic() - begin,
        "grown": _memory("VmHWM") - before,
        "imported": sorted(set(sys.modules) - modules),
        "changed": torch._utils._rebuild_tensor_v2.__defaults__ != defaults,
    }


def opened_alone(paths: Iterable[Path], folder: Path, limit_s: float) -> dict[str, dict[str, Any]]:
    """What became of each file in a process of its own, whose crash or hang is told with the file at work."""
    good = tiny.saved(folder / "good")
    names = [good, *paths]
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
    try:
        out, _ = process.communicate("\n".join(map(str, names)).encode(), timeout=limit_s)
        ended = f"ended with {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        ended = "hung"
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == len(names), f"{ended} at {names[len(found)].name}"
    assert found[0]["said"] == ["", ""]
    return {outcome["name"]: outcome for outcome in found[1:]}


def main() -> None:
    """Prints a line of JSON for each file; the first is a good one, for what is imported late."""
    torch.set_num_threads(1)
    "".encode("cp437")  # imported late, for the names in a zip
    for path in sys.stdin.read().splitlines():
        print(json.dumps(opened(Path(path))), flush=True)
        gc.freeze()  # so that collecting is quick


if __name__ == "__main__":
    main()
