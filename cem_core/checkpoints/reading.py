"""A file → the Python objects in it, safely: no name in a file is imported, no code in it is run.

No loader of torch or another library is asked, as none bounds what a hostile file may take, and some can be crashed by
one. Shapes are read before data, so that a file which is no model is told from one before its gigabytes are.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import torch

from cem_core.checkpoints import programs, torch_files
from cem_core.checkpoints.sniffing import Format
from cem_core.checkpoints.stand_ins import DAMAGED, Unreadable
from cem_core.checkpoints.watching import Cancelled as Cancelled
from cem_core.checkpoints.watching import Watch as Watch
from cem_core.checkpoints.watching import Watched as Watched
from cem_core.messages import Refused

if TYPE_CHECKING:
    from cem_core.models.program import Program

_LONGEST_HEADER: Final = 8 * 2**20
_LONGEST_VALUE: Final = 2**20
_MOST_TENSORS: Final = 20_000
_DAMAGED: Final = "is a damaged safetensors file: copy or download it again."


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


def read(path: Path, form: Format, *, shapes: bool = False, watch: Watch | None = None) -> Contents:
    """What is in a file of this format; with `shapes`, tensors without data, on the meta device.

    Raises:
        Refused: the file is damaged or incomplete, or holds what cannot be read safely.
    """
    if form == "TorchScript":
        return Contents({}, program=programs.read_torchscript(path, watch))
    if form == "torch.export":
        return Contents({}, program=programs.read_export(path, watch))
    try:
        if form == "safetensors":
            return _read_safetensors(path, shapes, watch)
        return _read_torch(path, form, shapes, watch)
    except Unreadable as error:
        raise Refused(f"{path.name} {error}") from error
    except MemoryError as error:
        raise Refused(f"{path.name} needs more memory than there is.") from error
    except (Cancelled, Refused, OSError):
        raise
    except Exception as error:  # what is damaged makes the readers raise nearly anything
        raise Refused(f"{path.name} {_DAMAGED if form == 'safetensors' else DAMAGED}") from error


def _read_safetensors(path: Path, shapes: bool, watch: Watch | None) -> Contents:
    """Not through the library, which maps the file: were it written anew, the program would die of a bus error."""
    with Watched(path, watch) as raw:
        file = io.BufferedReader(raw)
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise Unreadable("has a longer header than any model: save its state dict alone.")
        entries = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        said = msgspec.json.decode(entries.pop("__metadata__", b"{}"), type=dict[str, str] | None) or {}
        if len(entries) > _MOST_TENSORS:
            raise Unreadable("has more tensors than any model: save its state dict alone.")
        places = {key: msgspec.json.decode(entry, type=_Place) for key, entry in entries.items()}
        tensors = {}
        at = 8 + length
        for key, place in sorted(places.items(), key=lambda item: item[1].data_offsets):
            start, stop = (8 + length + offset for offset in place.data_offsets)
            dtype = _DTYPES.get(place.dtype)
            if start != at or not start <= stop <= raw.size:
                raise Unreadable(_DAMAGED)
            at = stop
            if dtype is None:
                tensors[key] = torch.empty(place.shape, dtype=torch.uint8, device="meta")
                continue
            if prod(place.shape) * dtype.itemsize != stop - start:
                raise Unreadable(_DAMAGED)
            tensors[key] = torch.empty(place.shape, dtype=dtype, device="meta" if shapes else "cpu")
            if not shapes:
                torch_files.fill(tensors[key].untyped_storage(), file)
        if at != raw.size:
            raise Unreadable(_DAMAGED)
        said = {key: value for key, value in said.items() if len(value) <= _LONGEST_VALUE}
        return Contents({key: tensors[key] for key in places}, said)


class _Place(msgspec.Struct):
    """Of a tensor in a safetensors file."""

    dtype: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=64)]
    data_offsets: tuple[int, int]


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


def _read_torch(path: Path, form: Format, shapes: bool, watch: Watch | None) -> Contents:
    read_objects = torch_files.read_zip if form == "torch zip" else torch_files.read_stream
    names: set[str] = set()
    with Watched(path, watch) as raw:
        tree = read_objects(io.BufferedReader(raw), raw.size, names, shapes=shapes)
        return Contents(tree, stood_in=tuple(sorted(names)))
