"""The zip and the older stream that `torch.save` writes, read without `torch.load`.

Only what a file holds is allocated, never what it claims; and the entries of a zip that were checked are those that
are read, as one reader finds both.
"""

from __future__ import annotations

import struct
import zipfile
from typing import Any, BinaryIO, Final

import torch
from torch import UntypedStorage

from cem_core.checkpoints.stand_ins import DAMAGED, Reader, Storage, Unreadable

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001


class Storages:
    """Those that a pickle has named so far; their data come behind it."""

    def __init__(self, size: int, *, shapes: bool) -> None:
        self.found: dict[str, Storage] = {}
        self._room = size
        self._device = "meta" if shapes else "cpu"

    def add(self, key: Any, dtype: Any, count: Any) -> Storage:
        """One of so many numbers. Raises Unreadable where all of them are larger than the file."""
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or type(count) is not int or count < 0:
            raise Unreadable(DAMAGED)
        if key not in self.found:
            self._room -= count * dtype.itemsize
            if self._room < 0:
                raise Unreadable(DAMAGED)
            data = torch.empty(count * dtype.itemsize, dtype=torch.uint8, device=self._device).untyped_storage()
            self.found[key] = Storage(data, dtype)
        return Storage(self.found[key].data, dtype)


def read_zip(file: BinaryIO, size: int, names: set[str], *, shapes: bool) -> Any:
    """The object in a zip; with `shapes`, its tensors are on the meta device. `names` gets what was not rebuilt."""
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
    (first,) = (name for name in members if name.split("/")[-1] == "data.pkl")
    root = first.removesuffix("data.pkl")
    storages = Storages(size, shapes=shapes)

    def persistent(key: tuple[Any, ...]) -> Storage:
        kind, dtype, name, _, count = key
        if kind != "storage":
            raise Unreadable(DAMAGED)
        storage = storages.add(name, dtype, count)
        if storage.data.nbytes() != members[f"{root}data/{name}"].file_size:
            raise Unreadable(DAMAGED)
        return storage

    if f"{root}byteorder" in members:
        count = go_to(members[f"{root}byteorder"], file, size)
        if file.read(min(count, 16)) != b"little":
            raise Unreadable("was written by a machine of the other byte order: save it there as safetensors.")
    go_to(members[first], file, size)
    tree = Reader(file, names, persistent).load()
    for name, storage in storages.found.items():
        go_to(members[f"{root}data/{name}"], file, size)
        if not shapes:
            fill(storage.data, file)
    return tree


def go_to(member: zipfile.ZipInfo, file: BinaryIO, size: int) -> int:
    """To where the bytes of a member begin. Returns how many they are."""
    file.seek(member.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04" or member.compress_type != zipfile.ZIP_STORED:
        raise Unreadable(DAMAGED)
    begin = file.tell() + sum(struct.unpack("<HH", header[26:]))
    if begin + member.file_size > size:
        raise Unreadable(DAMAGED)
    file.seek(begin)
    return member.file_size


def read_stream(file: BinaryIO, size: int, names: set[str], *, shapes: bool) -> Any:
    """The same of the format before torch 1.6: pickles, then the storages one behind the other."""
    if Reader(file).load() != _MAGIC or Reader(file).load() != _PROTOCOL:
        raise Unreadable(DAMAGED)
    Reader(file).load()  # of the machine that wrote it
    storages = Storages(size, shapes=shapes)

    def persistent(key: tuple[Any, ...]) -> Any:
        kind, *about = key
        if kind == "module":  # with the source code of its class
            return about[0]
        if kind != "storage":
            raise Unreadable(DAMAGED)
        dtype, name, _, count, view = about
        storage = storages.add(name, dtype, count)
        if view is None:
            return storage
        _, offset, length = view
        start, stop = offset * dtype.itemsize, (offset + length) * dtype.itemsize
        if not 0 <= start <= stop <= storage.data.nbytes():
            raise Unreadable(DAMAGED)
        return Storage(storage.data[start:stop], dtype)

    tree = Reader(file, names, persistent).load()
    keys = Reader(file).load()
    if not isinstance(keys, list) or sorted(keys) != sorted(storages.found):
        raise Unreadable(DAMAGED)
    for key in keys:
        storage = storages.found[key]
        if int.from_bytes(file.read(8), "little") * storage.dtype.itemsize != storage.data.nbytes():
            raise Unreadable(DAMAGED)
        if not shapes:
            fill(storage.data, file)
        elif file.seek(storage.data.nbytes(), 1) > size:
            raise Unreadable(DAMAGED)
    return tree


def fill(storage: UntypedStorage, file: BinaryIO) -> None:
    """With the bytes at which a file stands. Raises Unreadable where it ends before."""
    view = torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise Unreadable(DAMAGED)
        view = view[count:]
