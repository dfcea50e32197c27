"""The animated WebP container, written a frame at a time: Pillow would hold every frame of an animation.

A file is `head`, then a `frame` for each picture, then `tail`; at last its first bytes are written again, since they
hold its length. The settings stand in an XMP packet, as other programs know no text of their own.
"""

from __future__ import annotations

import io
import re
from struct import pack, unpack
from typing import IO, Final
from xml.sax.saxutils import escape, unescape

from PIL import Image

from cem_core.images import Bytes

LARGEST_SIDE: Final = 16383
"""Pixels."""
LONGEST: Final = 2**32 - 10
"""Bytes of a file."""
_XMP: Final = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:cem="urn:cem-explorer:run"><cem:run>{}</cem:run>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
_RUN: Final = re.compile(rb"<cem:run>(.*?)</cem:run>", re.DOTALL)
_CHUNKS_SEEN: Final = 1_000_000
"""Frames come first."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return kind + pack("<I", len(data)) + data + b"\x00" * (len(data) % 2)


def opening(length: int) -> bytes:
    """The first bytes of a file of so many."""
    return b"RIFF" + pack("<I", length - 8) + b"WEBP"


def head(width: int, height: int, *, loop: bool) -> bytes:
    """All that stands before the frames, the length still to be filled in."""
    animated_with_xmp = b"\x06\x00\x00\x00"
    size = _three(width - 1) + _three(height - 1)
    return opening(8) + chunk(b"VP8X", animated_with_xmp + size) + chunk(b"ANIM", pack("<IH", 0, 0 if loop else 1))


def frame(pixels: Bytes, milliseconds: int, *, lossless: bool) -> bytes:
    """(H, W, 3) uint8."""
    height, width = pixels.shape[:2]
    still = io.BytesIO()
    # Lossless, quality is effort: more than this takes far longer and saves little.
    Image.fromarray(pixels).save(still, "WEBP", lossless=lossless, quality=20 if lossless else 90, method=2)
    place = _three(0) + _three(0) + _three(width - 1) + _three(height - 1) + _three(milliseconds)
    replace = b"\x02"
    return chunk(b"ANMF", place + replace + still.getvalue()[12:])


def tail(text: bytes) -> bytes:
    """The settings: UTF-8."""
    return chunk(b"XMP ", _XMP.format(escape(text.decode())).encode())


def text(file: IO[bytes], longest: int) -> bytes | None:
    """The settings that a WebP carries, up to `longest` bytes. None: it is no WebP, or carries none.

    Raises:
        ValueError: it does, but they are too long; in a few words.
    """
    file.seek(0)
    start = file.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WEBP":
        return None
    for _ in range(_CHUNKS_SEEN):
        beginning = file.read(8)
        if len(beginning) < 8:
            return None
        kind, size = unpack("<4sI", beginning)
        if kind != b"XMP ":
            file.seek(size + size % 2, 1)
            continue
        found = _RUN.search(file.read(min(size, longest)))
        if found is not None:
            return unescape(found[1].decode("utf-8", "replace")).encode()
        if size > longest:
            raise ValueError("they are too long")
        return None
    return None


def _three(number: int) -> bytes:
    return pack("<I", number)[:3]
