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
"""Where a chain started, its target, or nothing where it has none, and how far it came."""

_PLAIN: Final = str.maketrans({"∇": "grad ", "∞": "inf", "ε": "eps", "×": "x", "–": "-", "—": "-", "−": "-", "→": "->",
                               "±": "+/-"})  # fmt: skip
_LONGEST: Final = 200
"""Characters that are measured: Pillow refuses very long texts."""
_INK: Final = (24, 24, 27)
_GREY: Final = (113, 113, 122)


def draw(title: str, rows: list[Row], columns: list[tuple[str, Bytes]]) -> Bytes:
    """A sheet (H', W', 3) of columns, each a heading and the pictures (B, H, W, 3) of its B rows."""
    height, width = columns[0][1].shape[1:3]
    unit = round(8 * min(max(height / 128, 1), 2))  # text grows with the pictures
    margin, line, indent, widest = 3 * unit, 5 * unit // 2, 9 * unit // 4, 28 * unit
    large, small = ImageFont.load_default(1.9 * unit), ImageFont.load_default(1.6 * unit)

    rows = [(_cut(a, small, widest), _cut(b, large, widest - indent), _cut(c, small, widest)) for a, b, c in rows]
    label = max(max(small.getlength(a), large.getlength(b) + indent, small.getlength(c)) for a, b, c in rows)
    pitch_x = max(width, *(math.ceil(small.getlength(heading)) for heading, _ in columns)) + unit
    pitch_y = max(height, 3 * line) + unit
    left = margin + math.ceil(label) + 2 * unit
    top = margin + 2 * line + unit

    size = (left + len(columns) * pitch_x - unit + margin, top + len(rows) * pitch_y - unit + margin)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((margin, margin), _cut(title, large, size[0] - 2 * margin), _INK, large)
    for column, (heading, pictures) in enumerate(columns):
        x = left + column * pitch_x
        pen.text((x, top - line), heading, _GREY, small)
        for row, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, top + row * pitch_y))
    for row, (start, target, result) in enumerate(rows):
        y = top + row * pitch_y
        pen.text((margin, y), start, _GREY, small)
        if target:
            _draw_arrow(pen, margin, y + line + 9 * unit // 8, unit)
            pen.text((margin + indent, y + line), target, _INK, large)
        pen.text((margin, y + 2 * line), result, _GREY, small)
    return np.asarray(sheet)


def plain(text: str) -> str:
    """ASCII, accents taken off, the rest left out: all that Pillow's own font can draw, and safe in file names."""
    folded = unicodedata.normalize("NFKD", text.translate(_PLAIN)).encode("ascii", "ignore").decode()
    return re.sub(r"[^!-~]+", " ", folded).strip()


def _draw_arrow(pen: ImageDraw.ImageDraw, x: int, y: int, unit: int) -> None:
    """Pillow's own font has none."""
    tip = x + 3 * unit // 2
    half = 3 * unit // 8
    pen.line((x, y, tip - half, y), _INK, unit // 8)
    pen.polygon([(tip, y), (tip - half - 1, y - half), (tip - half - 1, y + half)], _INK)


def _cut(text: str, font: Font, width: float) -> str:
    """The text, ended with an ellipsis where it is wider than `width` pixels."""
    if len(text) <= _LONGEST and font.getlength(text) <= width:
        return text
    text = text[:_LONGEST]
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
