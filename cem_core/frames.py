"""The pixels of a session: a Zarr v3 array, (step, chain, channel, y, x) float32, one file a step.

The files are written and read here with Zarr's own codecs and not through zarr itself, whose layers cost ten times what
the codecs do and hold up the sampling thread meanwhile. Any reader of Zarr opens the folder.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from cem_core.messages import Floats

_GROWTH: Final = 1024
"""Steps that the declared length is ahead at first; then it doubles. A step that has no file reads as NaN."""
_OVERHEAD: Final = 1024
"""Bytes that a file may be longer than its pixels."""


class Lost(OSError):
    """The pixels of a step cannot be had again; says so in a sentence."""


class Frames:
    """The files of T steps of pixels (B, C, H, W).

    Args:
        folder: may be missing until `declare`.
        shape: (B, C, H, W).
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self._folder = folder
        self._shape = shape
        self._declared = 0

    def path(self, index: int) -> Path:
        """Of a step's file, which may not be there."""
        return self._folder / ".".join(("c", str(index), *"0000"))

    def declare(self, steps: int) -> None:
        """Say how many steps there are. Raises OSError."""
        self._folder.mkdir(exist_ok=True)
        put(self._folder / "zarr.json", msgspec.json.format(msgspec.json.encode(_metadata(steps, self._shape))))
        self._declared = steps

    def write(self, index: int, pixels: Floats) -> int:
        """Put the pixels (B, C, H, W) of a step on the disk, whole or not at all: bytes taken. Raises OSError."""
        if pixels.shape != self._shape:
            raise ValueError(f"pixels of shape {pixels.shape} among those of {self._shape}")
        if index >= self._declared:
            self.declare(max(_GROWTH, 2 * index))
        packed = _codec().encode(np.ascontiguousarray(pixels, "<f4"))
        packed += _checksum(packed)
        put(self.path(index), packed)
        return len(packed)

    def read(self, index: int) -> Floats:
        """(B, C, H, W). Raises OSError, in a sentence, if they are missing or damaged."""
        pixels = np.empty(self._shape, "<f4") if np.prod(self._shape, dtype=float) < 2**31 else None
        try:
            if self.path(index).is_fifo():  # which might never end
                raise OSError("it is a pipe")
            with self.path(index).open("rb") as file:
                packed = file.read(0 if pixels is None else pixels.nbytes + _OVERHEAD)
        except FileNotFoundError as error:
            raise Lost(f"The pixels of step {index:,} are missing: their file is gone.") from error
        except OSError as error:
            raise Lost(f"The pixels of step {index:,} cannot be read: {error.strerror or error}.") from error
        if pixels is None or not _is_whole(packed, pixels.nbytes):
            raise Lost(f"The pixels of step {index:,} are damaged: their file is cut short or was changed.")
        try:
            _codec().decode(packed[:-4], out=pixels)
        except (RuntimeError, ValueError) as error:
            raise Lost(f"The pixels of step {index:,} are damaged: their file was changed.") from error
        return np.asarray(pixels, np.float32)

    def is_whole(self, index: int) -> bool:
        """Whether the pixels of a step can be read."""
        try:
            self.read(index)
        except OSError:
            return False
        return True


def put(path: Path, data: bytes) -> None:
    """Put a file in place at once, and on the disk itself before that. Raises OSError; then nothing is left behind."""
    made = path.with_name(".part")
    try:
        with made.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
    except OSError:
        with suppress(OSError):
            made.unlink()
        raise


def _metadata(steps: int, shape: tuple[int, ...]) -> dict[str, Any]:
    blosc = {"typesize": 4, "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [steps, *shape],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN",
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": blosc},
            {"name": "crc32c"},
        ],
        "dimension_names": ["step", "chain", "channel", "y", "x"],
        "attributes": {},
    }


def _codec() -> Any:
    return _blosc().Blosc(cname="lz4", clevel=5, shuffle=_blosc().Blosc.BITSHUFFLE)


def _checksum(packed: bytes) -> bytes:
    import google_crc32c

    return int(google_crc32c.value(packed)).to_bytes(4, "little")


def _is_whole(packed: bytes, nbytes: int) -> bool:
    inner = packed[:-4]
    # Blosc's header tells the lengths before and after: at 4 and at 12.
    lengths = np.frombuffer(inner[4:16], "<u4")[::2].tolist() if len(inner) >= 16 else []
    return lengths == [nbytes, len(inner)] and _checksum(inner) == packed[-4:]


def _blosc() -> Any:
    from numcodecs import blosc  # type: ignore[import-untyped]  # a tenth of a second, not for listing sessions

    return blosc
