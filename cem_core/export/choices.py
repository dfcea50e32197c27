"""What to write, and how: the formats there are, and everything that may be chosen about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import msgspec

from cem_core.messages import Refused

Format = Literal["png", "sheet", "apng", "webp", "webp-lossy", "gif", "mp4", "ffv1", "vp9", "csv", "svg", "plot"]
Layout = Literal["image", "difference", "original", "curves"]
Group = Literal["images", "animation", "video", "data"]


@dataclass(frozen=True)
class Kind:
    """One format."""

    group: Group
    file: str
    """What is written, below the folder of the export."""
    title: str
    lossy: bool = False
    """It changes pixels, and with them the perturbation."""


KINDS: Final[dict[Format, Kind]] = {
    "png": Kind("images", "frames", "PNG of every step of every chain"),
    "sheet": Kind("images", "sheet.png", "Contact sheet"),
    "apng": Kind("animation", "morph.png", "APNG"),
    "webp": Kind("animation", "morph.webp", "WebP"),
    "webp-lossy": Kind("animation", "morph-lossy.webp", "WebP, lossy", lossy=True),
    "gif": Kind("animation", "morph.gif", "GIF, 256 colours", lossy=True),
    "mp4": Kind("video", "morph.mp4", "MP4 (H.264)", lossy=True),
    "ffv1": Kind("video", "morph.mkv", "Matroska (FFV1)"),
    "vp9": Kind("video", "morph.webm", "WebM (VP9)"),
    "csv": Kind("data", "curves.csv", "Numbers as CSV"),
    "svg": Kind("data", "curves.svg", "Curves as SVG"),
    "plot": Kind("data", "curves.png", "Curves as PNG"),
}
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
DEFAULT: Final[tuple[Format, ...]] = ("png", "sheet", "apng", "csv")

LAYOUTS: Final[dict[Layout, str]] = {
    "image": "Image",
    "difference": "Image and difference",
    "original": "Original and image",
    "curves": "Image and curves",
}
GAINS: Final = (1, 2, 4, 8, 16, 32)
LONGEST_HOLD: Final = 10
"""Seconds."""

_SLOWEST: Final = 3
"""How many times as long the first and last frame of an eased animation are shown."""


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to write. `run.json` is always written: it is how a folder is known to be ours.

    Raises:
        Refused: a choice is out of range.
    """

    formats: tuple[Format, ...] = DEFAULT
    first: int = 0
    last: int | None = None
    """Inclusive; None: the last step recorded."""
    every: int = 1
    """Every how manieth step; the last is always included."""
    layout: Layout = "image"
    """Of animations and videos: what stands beside each image."""
    gain: int = 8
    """How much the difference from the start is amplified."""
    captions: bool = False
    """Step, probability of the target and energy below each image of an animation or video."""
    scale: int | None = None
    """Enlargement of animation and sheet, in whole pixels; None: a chain is 256 pixels wide where there is room."""
    fps: float = 20
    hold: float = 0
    """Seconds for which the first and the last frame stay longer than others."""
    ease: bool = False
    """Begin and end slowly."""
    loop: bool = True

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise Refused(f"There is no format {unknown[0]}: choose from {', '.join(FORMATS)}.")
        if self.layout not in LAYOUTS:
            raise Refused(f"There is no layout {self.layout}: choose from {', '.join(LAYOUTS)}.")
        if self.first < 0 or (self.last is not None and self.last < self.first):
            raise Refused(f"Steps {self.first} to {self.last} are no range: give a first step and a later last one.")
        if self.every < 1:
            raise Refused(f"Every how manieth step must be 1 or more, not {self.every}.")
        if self.gain not in GAINS:
            raise Refused(f"The difference can be amplified {', '.join(map(str, GAINS))} times, not {self.gain} times.")
        if self.scale is not None and not 1 <= self.scale <= 64:
            raise Refused(f"The scale must be between 1 and 64, not {self.scale}.")
        if not 0.1 <= self.fps <= 120:  # NaN is refused as well
            raise Refused(f"Frames per second must be a number between 0.1 and 120, not {self.fps:g}.")
        if not 0 <= self.hold <= LONGEST_HOLD:
            raise Refused(f"The ends can be held for 0 to {LONGEST_HOLD} seconds, not {self.hold:g}.")

    def steps(self, recorded: int) -> list[int]:
        """Indices of the steps to write. Raises Refused if the range is not among the recorded ones."""
        last = recorded - 1 if self.last is None else self.last
        if not recorded:
            raise Refused("There is nothing to export yet: run some steps first.")
        if self.first > last or last >= recorded:
            raise Refused(f"Steps {self.first} to {last} cannot be exported: steps 0 to {recorded - 1} are recorded.")
        chosen = list(range(self.first, last + 1, self.every))
        return chosen if chosen[-1] == last else [*chosen, last]

    def seconds(self, frames: int) -> list[float]:
        """How long each of so many frames is shown."""
        shown = [1 / self.fps] * frames
        ramp = frames // 4 if self.ease else 0
        for i in range(ramp):
            slower = 1 + (_SLOWEST - 1) * (1 + math.cos(math.pi * i / ramp)) / 2
            shown[i] *= slower
            shown[-1 - i] *= slower
        for end in {0, frames - 1}:
            shown[end] += self.hold
        return shown

    def choosing(self, group: Group) -> tuple[Format, ...]:
        """The chosen formats of a group."""
        return tuple(name for name in self.formats if KINDS[name].group == group)


class Progress(msgspec.Struct, frozen=True):
    done: int
    total: int
    what: str
