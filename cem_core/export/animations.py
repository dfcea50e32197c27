"""APNG, WebP and GIF, each written a frame at a time, so that a long run needs no more memory than a short one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from struct import pack
from typing import Final

from PIL import Image

from cem_core import png, webp
from cem_core.export.choices import Format
from cem_core.images import Bytes
from cem_core.messages import Refused

Show = Callable[[Bytes], None]
"""Takes the next frame (H, W, 3); each has the same size."""
Writer = Callable[[Path, tuple[int, int], Sequence[float], bool, bytes], AbstractContextManager[Show]]
"""Takes path, (width, height), seconds of each frame, whether it loops, and the settings; as many frames are shown."""

LARGEST_SIDES: Final[dict[Format, int]] = {"webp": webp.LARGEST_SIDE, "webp-lossy": webp.LARGEST_SIDE, "gif": 65535}


def ticks(seconds: Sequence[float], a_second: int, least: int = 1) -> list[int]:
    """Whole ticks for which each frame is shown: rounded so that no error adds up."""
    ends = [0, *(round(end * a_second) for end in accumulate(seconds))]
    return [max(least, end - begun) for begun, end in pairwise(ends)]


@contextmanager
def _apng(path: Path, size: tuple[int, int], seconds: Sequence[float], loop: bool, text: bytes) -> Iterator[Show]:
    width, height = size
    shown = 0

    def show(frame: Bytes) -> None:
        nonlocal shown
        file.write(png.moving(frame, shown, seconds[shown]))
        shown += 1

    with path.open("wb") as file:
        file.write(png.head((height, width, 3), text) + png.animation(len(seconds), loop=loop))
        yield show
        file.write(png.END)


def _webp(lossless: bool) -> Writer:
    @contextmanager
    def write(path: Path, size: tuple[int, int], seconds: Sequence[float], loop: bool, text: bytes) -> Iterator[Show]:
        milliseconds = iter(ticks(seconds, 1000))

        def show(frame: Bytes) -> None:
            file.write(webp.frame(frame, next(milliseconds), lossless=lossless))
            if file.tell() > webp.LONGEST:
                raise Refused(f"{path.name} would be larger than 4 GiB, which WebP cannot be: export fewer steps.")

        with path.open("wb") as file:
            file.write(webp.head(*size, loop=loop))
            yield show
            file.write(webp.tail(text))
            length = file.tell()
            file.seek(0)
            file.write(webp.opening(length))

    return write


@contextmanager
def _gif(path: Path, size: tuple[int, int], seconds: Sequence[float], loop: bool, _text: bytes) -> Iterator[Show]:
    """Each frame with the 256 colours that suit it; players show none for less than a fiftieth of a second."""
    hundredths = iter(ticks(seconds, 100, least=2))

    def show(frame: Bytes) -> None:
        control = b"\x21\xf9\x04\x00" + pack("<H", next(hundredths)) + b"\x00\x00"
        file.write(control + _gif_image(frame))

    with path.open("wb") as file:
        file.write(b"GIF89a" + pack("<HHBBB", *size, 0x70, 0, 0))
        if loop:
            file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
        yield show
        file.write(b"\x3b")


def _gif_image(frame: Bytes) -> bytes:
    """One image of a GIF with its own palette, taken from the file that Pillow makes of it."""
    still = io.BytesIO()
    # Without dithering: it would make noise of what is to be seen, and long files.
    few = Image.fromarray(frame).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(still, "GIF", interlace=0, optimize=False)
    whole = still.getvalue()
    bits = whole[10] & 7
    after = 13 + 3 * 2 ** (bits + 1)
    palette, image = whole[13:after], whole[after:-1]
    assert image[:1] == b"\x2c"
    return image[:9] + bytes([image[9] | 0x80 | bits]) + palette + image[10:]


WRITERS: Final[dict[Format, Writer]] = {
    "apng": _apng,
    "webp": _webp(lossless=True),
    "webp-lossy": _webp(lossless=False),
    "gif": _gif,
}
