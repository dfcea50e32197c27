"""MP4, FFV1 and VP9 through PyAV, which not everybody has: it is imported when a video is written."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np

from cem_core.export.animations import Show, Writer
from cem_core.export.choices import Format
from cem_core.images import Bytes
from cem_core.messages import Refused

HOW_TO_INSTALL: Final = "PyAV is not installed: pip install 'cem-explorer[video]' adds videos."
LARGEST_SIDE: Final = 8192
"""Pixels; what players show has far fewer."""
_A_SECOND: Final = 1000
"""Ticks."""
_BT709: Final = 1
"""Of high-definition video: the number of its matrix, of its primaries, of its curve and of its limited range."""


@dataclass(frozen=True)
class _Codec:
    container: str
    name: str
    colours: str
    options: dict[str, str] = field(default_factory=dict)
    muxer: dict[str, str] = field(default_factory=dict)
    subsampled: bool = False
    """Colours have half the resolution, so that width and height have to be even, and a matrix of their own."""


_CODECS: Final[dict[Format, _Codec]] = {
    # No B-frames: with frames of unequal length they make players wrong about how long the whole is.
    "mp4": _Codec("mp4", "libx264", "yuv420p", {"crf": "10", "bf": "0"}, {"movflags": "faststart"}, subsampled=True),
    "ffv1": _Codec("matroska", "ffv1", "bgr0", {"level": "3"}),
    "vp9": _Codec("webm", "libvpx-vp9", "gbrp", {"lossless": "1", "row-mt": "1", "cpu-used": "4"}),
}


def installed() -> bool:
    return importlib.util.find_spec("av") is not None


def _writer(format: Format) -> Writer:
    codec = _CODECS[format]

    @contextmanager
    def write(path: Path, size: tuple[int, int], seconds: Sequence[float], _loop: bool, _text: bytes) -> Iterator[Show]:
        if not installed():
            raise Refused(HOW_TO_INSTALL)
        import av

        width, height = (side + side % 2 if codec.subsampled else side for side in size)
        ends = [round(end * _A_SECOND) for end in accumulate(seconds)]
        shortest = max(1, round(min(seconds) * _A_SECOND))
        shown = 0

        def send(frame: Bytes, at: int) -> None:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = picture.reformat(format=codec.colours, dst_colorspace=_BT709 if codec.subsampled else None)
            picture.pts, picture.time_base = at, Fraction(1, _A_SECOND)
            container.mux(stream.encode(picture))

        def show(frame: Bytes) -> None:
            nonlocal shown
            padded = _padded(frame, width, height)
            begins = ends[shown - 1] if shown else 0
            send(padded, begins)
            shown += 1
            if shown == len(ends) and ends[-1] - begins > shortest:  # a frame at the end of a video is shown as briefly
                send(padded, ends[-1] - shortest)

        try:
            with path.open("wb") as file, av.open(file, "w", format=codec.container, options=codec.muxer) as container:
                rate = Fraction(_A_SECOND, shortest)
                stream: Any = container.add_stream(codec.name, rate=rate, options=codec.options)
                stream.width, stream.height, stream.pix_fmt = width, height, codec.colours
                stream.codec_context.time_base = Fraction(1, _A_SECOND)
                if codec.subsampled:  # said in the file, or players guess from the size
                    for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
                        setattr(stream.codec_context, name, _BT709)
                yield show
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise Refused(f"{path.name} could not be written ({error.strerror}): choose another format.") from error

    return write


def _padded(frame: Bytes, width: int, height: int) -> Bytes:
    """White right and below, up to the size."""
    missing = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
    return np.pad(frame, missing, constant_values=255) if missing[0][1] or missing[1][1] else frame


WRITERS: Final[dict[Format, Writer]] = {name: _writer(name) for name in _CODECS}
