"""The contact sheet: pictures in rows and columns, labelled, on white."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Final, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cem_core.images import Bytes

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
Row: TypeAlias = tuple[str, str, str]
"""Where a chain started, its target, and how far it came."""

_MARGIN: Final = 24
_GAP: Final = 8
_LINE: Final = 20
_ARROW: Final = 18
_LABEL: Final = 220
"""Width of the longest label; what is longer is cut with an ellipsis."""
_INK: Final = (24, 24, 27)
_GREY: Final = (113, 113, 122)


def draw(title: str, rows: list[Row], columns: list[tuple[str, Bytes]]) -> Bytes:
    """A sheet (H', W', 3) of columns, each a heading and the pictures (B, H, W, 3) of its B rows."""
    large, small = ImageFont.load_default(15), ImageFont.load_default(13)
    rows = [(_cut(a, small, _LABEL), _cut(b, large, _LABEL - _ARROW), _cut(c, small, _LABEL)) for a, b, c in rows]
    label = max(max(small.getlength(a), large.getlength(b) + _ARROW, small.getlength(c)) for a, b, c in rows)
    height, width = columns[0][1].shape[1:3]
    pitch_x = max(width, *(math.ceil(small.getlength(heading)) for heading, _ in columns)) + _GAP
    pitch_y = max(height, 3 * _LINE) + _GAP
    left = _MARGIN + math.ceil(label) + 2 * _GAP
    top = _MARGIN + 2 * _LINE + _GAP

    size = (left + len(columns) * pitch_x - _GAP + _MARGIN, top + len(rows) * pitch_y - _GAP + _MARGIN)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), _cut(title, large, size[0] - 2 * _MARGIN), _INK, large)
    for column, (heading, pictures) in enumerate(columns):
        x = left + column * pitch_x
        pen.text((x, top - _LINE - 2), heading, _GREY, small)
        for row, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, top + row * pitch_y))
    for row, (start, target, result) in enumerate(rows):
        y = top + row * pitch_y
        pen.text((_MARGIN, y), start, _GREY, small)
        _draw_arrow(pen, _MARGIN, y + _LINE + 9)
        pen.text((_MARGIN + _ARROW, y + _LINE), target, _INK, large)
        pen.text((_MARGIN, y + 2 * _LINE), result, _GREY, small)
    return np.asarray(sheet)


def plain(text: str) -> str:
    """ASCII, accents taken off, the rest left out: all that Pillow's own font can draw, and safe in file names."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^!-~]+", " ", folded).strip()


def _draw_arrow(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """Pillow's own font has none."""
    pen.line((x, y, x + 9, y), _INK, 1)
    pen.polygon([(x + 12, y), (x + 8, y - 3), (x + 8, y + 3)], _INK)


def _cut(text: str, font: Font, width: float) -> str:
    """The text, ended with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
