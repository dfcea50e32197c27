"""What a file is, by its bytes and never by its extension."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Final, Literal

from cem_core.checkpoints import programs
from cem_core.checkpoints.stand_ins import DAMAGED
from cem_core.messages import Refused

Format = Literal["torch zip", "torch legacy", "safetensors", "TorchScript", "torch.export"]

_LEGACY: Final = bytes.fromhex("8a0a6cfc9c46f9206aa850192e")
"""The number with which torch's old stream begins, as any protocol pickles it."""
_HEADER: Final = 100 * 2**20
"""The longest header that safetensors allows, in bytes."""
_STRANGERS: Final = (
    (b"<!doctype", "a web page (the download did not give the file)"),
    (b"<html", "a web page (the download did not give the file)"),
    (b"<?xml", "an XML page (the download did not give the file)"),
    (b"\x1f\x8b", "a gzip archive: unpack it and open the checkpoint inside"),
    (b"bzh", "a bzip2 archive: unpack it and open the checkpoint inside"),
    (b"\xfd7zxz\x00", "an xz archive: unpack it and open the checkpoint inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it and open the checkpoint inside"),
    (b"rar!\x1a\x07", "a RAR archive: unpack it and open the checkpoint inside"),
    (b"\x89hdf", "an HDF5 file, as Keras and some training logs write: open the PyTorch checkpoint"),
    (b"model_checkpoint_path:", "a TensorFlow checkpoint, which PyTorch cannot read: convert it first"),
    (b"\x08\x01\x12", "a TensorFlow or ONNX graph: open the PyTorch checkpoint"),
    (b"\x93numpy", "a NumPy array: open the PyTorch checkpoint"),
    (b"\x89png", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"gguf", "a GGUF language model"),
)
_LARGEST_DIRECTORY: Final = 4 * 2**20
"""Of a zip, in bytes: some 50,000 tensors."""
_TENSORFLOW_INDEX: Final = bytes.fromhex("57fb808b247547db")
"""The last bytes of the `.index` beside a TensorFlow checkpoint."""


def sniff(path: Path) -> Format:
    """The format of a file that can be opened. Raises Refused, saying what another one is."""
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(max(0, path.stat().st_size - 8))
        tail = file.read()
    name = path.name
    if not head:
        raise Refused(f"{name} is empty: the download or copy did not finish.")
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head[:1] == b"\x80" and _LEGACY in head[:32]:
        return "torch legacy"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _HEADER:
        return "safetensors"
    for magic, what in _STRANGERS:
        if head.lstrip()[: len(magic)].lower() == magic:
            raise Refused(f"{name} is {what}, not a checkpoint." if ":" not in what else f"{name} is {what}.")
    if head[257:262] == b"ustar":
        raise Refused(f"{name} is a tar archive: unpack it and open the checkpoint inside.")
    if tail == _TENSORFLOW_INDEX or ".data-0" in name:
        raise Refused(f"{name} is part of a TensorFlow checkpoint, which PyTorch cannot read: convert it first.")
    if head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5:
        raise Refused(f"{name} is a bare pickle, which may run code when read: save its state dict with torch.save.")
    if not head.translate(None, bytes(range(32, 127)) + b"\r\n\t"):
        raise Refused(f"{name} is a text file, not a checkpoint.")
    raise Refused(f"{name} is not a checkpoint that is known here: safetensors and torch files are.")


def _sniff_zip(path: Path) -> Format:
    """Which of torch's zips it is; one that torch did not write could hide a bomb."""
    name = path.name
    try:
        start, length = _directory(path)
        if length > _LARGEST_DIRECTORY:
            raise Refused(f"{name} is a zip archive of more parts than any model has: save its state dict alone.")
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            whole = file.start_dir == start
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise Refused(f"{name} {DAMAGED}") from error
    names = [member.filename for member in members]
    if any(member.endswith(".npy") for member in names):
        raise Refused(f"{name} is a NumPy archive, as JAX projects write: open the PyTorch checkpoint.")
    script, exported = programs.is_torchscript(names), programs.is_export(names)
    plain = any(member.split("/")[-1] == "data.pkl" for member in names)
    if not (script or exported or plain):
        raise Refused(f"{name} is a zip archive, not a checkpoint: unpack it and open the checkpoint inside.")
    loose = {m.filename for m in members if m.compress_type != zipfile.ZIP_STORED}
    if script or exported:
        loose = {member for member in loose if not programs.may_be_compressed(member)}
    size = path.stat().st_size
    stored = sum(member.file_size for member in members if member.compress_type == zipfile.ZIP_STORED)
    if loose or stored > size or len(set(names)) < len(names) or not whole:
        raise Refused(f"{name} is a zip archive that torch did not write: save the state dict again with torch.save.")
    return "TorchScript" if script else "torch.export" if exported else "torch zip"


def _directory(path: Path) -> tuple[int, int]:
    """Where the end of a zip says that its directory is, and how long.

    Python's zipfile shifts it when something stands before the archive, and reads all of it however long it is. Raises
    ValueError where it is not at the very end, or is followed by a comment, which torch never writes.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 98))
        tail = file.read()
    end, locator, large = tail[-22:], tail[-42:-22], tail[:-42]
    if end[:4] != b"PK\x05\x06" or end[20:] != b"\0\0":
        raise ValueError("no end")
    if locator[:4] != b"PK\x06\x07":
        length, start = struct.unpack("<LL", end[12:20])
    elif large[:4] == b"PK\x06\x06":
        length, start = struct.unpack("<QQ", large[40:56])
    else:
        raise ValueError("no large end")
    return start, length
