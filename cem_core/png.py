"""The PNG and APNG containers, written a frame at a time: Pillow would hold every frame of an animation.

A file is `head`, then for an animation `animation`, then frames (`still` or `moving`), then `END`.
"""

from __future__ import annotations

import zlib
from fractions import Fraction
from struct import pack, unpack
from typing import IO, Final

import numpy as np

from cem_core.images import Bytes

KEYWORD: Final = "cem-explorer"
"""Of the text chunk that carries the settings of a run."""
_PLAIN_TEXT: Final = 2**20
"""Readers refuse compressed text that unpacks to more than this."""


_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHUNKS_SEEN: Final = 1000
"""Of a foreign file, before the settings; ours stand right behind the size."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(data, zlib.crc32(kind)))


END: Final = chunk(b"IEND", b"")


def head(shape: tuple[int, ...], text: bytes) -> bytes:
    """Size (H, W, C) with C = 1 grey or 3 RGB, and the settings: UTF-8, in an international text chunk."""
    height, width, channels = shape
    small = len(text) < _PLAIN_TEXT
    body = b"\x01\x00" + b"\x00\x00" + zlib.compress(text, 1) if small else b"\x00\x00" + b"\x00\x00" + text
    size = pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    return _SIGNATURE + chunk(b"IHDR", size) + chunk(b"iTXt", KEYWORD.encode() + b"\x00" + body)


def animation(frames: int, *, loop: bool) -> bytes:
    return chunk(b"acTL", pack(">II", frames, 0 if loop else 1))


def still(pixels: Bytes) -> bytes:
    """(H, W, C) uint8, lossless."""
    return chunk(b"IDAT", _packed(pixels))


def moving(pixels: Bytes, index: int, seconds: float) -> bytes:
    """Frame `index` of an animation, (H, W, C) uint8, lossless; frame 0 is what a plain PNG reader shows."""
    height, width = pixels.shape[:2]
    delay = Fraction(seconds).limit_denominator(int(65535 // max(1, seconds)))  # both must fit into 16 bits
    number = max(0, 2 * index - 1)  # frame 0 takes one number of the sequence, each later one two
    control = pack(">IIIIIHHBB", number, width, height, 0, 0, delay.numerator, delay.denominator, 0, 0)
    data = still(pixels) if index == 0 else chunk(b"fdAT", pack(">I", number + 1) + _packed(pixels))
    return chunk(b"fcTL", control) + data


def _packed(pixels: Bytes) -> bytes:
    """Each row as its difference from the one above, which is zero where a pixel has been enlarged."""
    height, width, channels = pixels.shape
    up = 2
    rows = np.full((height, 1 + width * channels), up, np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    rows[1:, 1:] -= rows[:-1, 1:].copy()
    return zlib.compress(rows.data, 6)


def text(file: IO[bytes], longest: int) -> bytes | None:
    """The settings that a PNG carries, up to `longest` bytes. None: it is no PNG, or carries none.

    Raises:
        ValueError: it does, but they are damaged or too long; in a few words.
    """
    file.seek(0)
    if file.read(8) != _SIGNATURE:
        return None
    keyword = KEYWORD.encode() + b"\x00"
    for _ in range(_CHUNKS_SEEN):
        frame = file.read(8)
        if len(frame) < 8:
            return None
        size, kind = unpack(">I4s", frame)
        if kind in (b"IDAT", b"IEND"):
            return None
        start = file.read(min(size, len(keyword))) if kind == b"iTXt" else b""
        if start != keyword:
            file.seek(size - len(start) + 4, 1)
            continue
        if size > longest:
            raise ValueError("they are too long")
        body = file.read(size - len(start))
        if pack(">I", zlib.crc32(body, zlib.crc32(kind + start))) != file.read(4):
            raise ValueError("their checksum is wrong")
        return _unpacked(body, longest)
    return None


def _unpacked(body: bytes, longest: int) -> bytes:
    """The text of an international text chunk, without its keyword."""
    _language, _translated, text = [*body[2:].split(b"\x00", 2), b"", b""][:3]
    if body[:1] == b"\x00":
        return text
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(text, longest)
    except zlib.error:
        raise ValueError("they are damaged") from None
    if not unpacker.eof:
        raise ValueError("they are cut short or too long")
    return found
