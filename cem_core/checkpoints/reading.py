"""A file → the Python objects in it, safely: no name in a file is imported, no code in it is run.

torch's own `weights_only` reader goes first; what it refuses is read with inert stand-ins. Shapes are read before data,
so that a file which is no model is told from one before its gigabytes are.
"""

from __future__ import annotations

import io
import pickle
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from safetensors import SafetensorError, safe_open

from cem_core.checkpoints import programs, stand_ins
from cem_core.checkpoints.sniffing import Format
from cem_core.messages import Refused

if TYPE_CHECKING:
    from cem_core.models.program import Program

Watch: TypeAlias = Callable[[float], None]
"""Told the share of the work that is done; may raise to end it."""

_PIECE: Final = 4 * 2**20
_MOST_PICKLE: Final = 64 * 2**20
"""Where a pickle in a legacy file is looked through, in bytes from its beginning."""
_one_at_a_time = threading.RLock()
"""Warnings are silenced for a whole process."""


@dataclass(frozen=True)
class Contents:
    """What was in a file."""

    tree: Any
    """Mappings, sequences, tensors and stand-ins."""
    said: dict[str, str] = field(default_factory=dict)
    """Its metadata."""
    stood_in: tuple[str, ...] = ()
    """Python classes and functions that were not rebuilt."""
    program: Program | None = None


class Watched(io.RawIOBase):
    """A file that tells how far it has been read, and lets go of other threads between two pieces."""

    def __init__(self, path: Path, watch: Watch | None) -> None:
        self._file = path.open("rb", buffering=0)
        self._watch = watch
        self.size = path.stat().st_size

    def readinto(self, buffer: Any, /) -> int:
        whole = memoryview(buffer).cast("B")
        done = 0
        while done < len(whole):
            count = self._file.readinto(whole[done : done + _PIECE])
            if not count:
                break
            done += count
            if self._watch and len(whole) > 2**16:
                self._watch(self._file.tell() / max(1, self.size))
        return done

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def read(path: Path, form: Format, *, shapes: bool = False, watch: Watch | None = None) -> Contents:
    """What is in a file of this format; with `shapes`, tensors without data, on the meta device.

    Raises:
        Refused: the file is damaged or incomplete, or holds what cannot be read safely.
    """
    if form == "safetensors":
        return _read_safetensors(path, shapes, watch)
    if form == "TorchScript":
        return Contents({}, program=programs.read_torchscript(path))
    if form == "torch.export":
        return Contents({}, program=programs.read_export(path))
    return _read_torch(path, shapes, watch)


def _read_safetensors(path: Path, shapes: bool, watch: Watch | None) -> Contents:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = list(file.keys())
            tensors = {}
            for done, key in enumerate(keys, start=1):
                if shapes:
                    piece = file.get_slice(key)
                    tensors[key] = torch.empty(piece.get_shape(), dtype=_DTYPES.get(piece.get_dtype()), device="meta")
                else:
                    tensors[key] = file.get_tensor(key)
                    if watch:
                        watch(done / len(keys))
            return Contents(tensors, dict(file.metadata() or {}))
    except SafetensorError as error:
        raise Refused(f"{path.name} is a damaged safetensors file: copy or download it again.") from error


_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _read_torch(path: Path, shapes: bool, watch: Watch | None) -> Contents:
    place = "meta" if shapes else "cpu"
    try:
        # A file object and not a path, which torch would judge by its extension.
        if not _claims_bytes(path):
            with _one_at_a_time, _quiet(), Watched(path, watch) as file, suppress(pickle.UnpicklingError):
                return Contents(torch.load(io.BufferedReader(file), map_location=place, weights_only=True))
        with _one_at_a_time, _quiet(), Watched(path, watch) as file:
            module, names = stand_ins.reader()
            buffered = io.BufferedReader(file)
            tree = torch.load(buffered, map_location=place, pickle_module=module, weights_only=False)
            return Contents(tree, stood_in=tuple(sorted(names)))
    except _PASSED_ON:
        raise
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise Refused(f"{path.name} is a damaged or incomplete torch file: copy or download it again.") from error


class Cancelled(Exception):
    """What a `Watch` raises to end the reading."""


_PASSED_ON: Final = (Cancelled, Refused, MemoryError)


def _claims_bytes(path: Path) -> bool:
    """Whether a pickle mentions `bytearray`, with which torch's own reader would fill any memory that a file names."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(
                b"bytearray" in archive.read(member)
                for member in archive.infolist()
                if member.filename.endswith("data.pkl")
            )
    with path.open("rb") as file:
        return b"bytearray" in file.read(_MOST_PICKLE)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns of old formats, which is no news to who opens an old file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
