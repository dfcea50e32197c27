"""Files ↔ arrays: any picture becomes a float32 square in [0,1], and pixels become something to look at.

Pixels of a model are float32 `(…, C, H, W)` in [0,1]; pictures for the eye are uint8 `(…, H, W, 3)`.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from cem_core.messages import Floats, Refused

Bytes: TypeAlias = NDArray[np.uint8]
Colour: TypeAlias = int | tuple[int, int, int]

MAX_PIXELS: Final = 100_000_000
READABLE: Final = "PNG, JPEG, WebP, GIF, BMP and TIFF"
SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

# A closed list: Pillow's other readers are seldom tried, and the one for EPS runs a program.
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_SHOWN_AS: Final = {"WEBP": "WebP", "MPO": "JPEG"}
_GREY: Final = ("1", "L", "LA", "La")
_NUMBERS: Final = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_COLOURS: Final = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what undoes it; from 5 on, width and height are swapped."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as the model will see it."""

    name: str
    """The file's name."""
    pixels: Floats
    """(C, size, size) in [0,1]."""
    note: str
    """What was done to make it fit, in one line; empty where nothing was."""


def prepare(path: str | Path, size: int, channels: int = 3) -> Picture:
    """Read a file and make it fit: upright, first frame, over white, centre square, scaled to (channels, size, size).

    An 8-bit image that has the size already keeps its values exactly (v / 255).

    Raises:
        Refused: there is no such file, or it is not an image that can be read.
    """
    path = Path(path)
    name = _told(path.name or str(path))
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise Refused(f"{name} is a folder: choose the images in it.")
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device might never end
            raise Refused(f"{name} is not an ordinary file: choose another.")
        if not found.st_size:
            raise Refused(f"{name} is empty (0 bytes): choose another file.")
        with path.open("rb") as file:
            return prepare_file(file, name, size, channels)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Refused(f"There is no file {name} in {_told(str(path.absolute().parent))}: check the path.") from error
    except PermissionError as error:
        raise Refused(f"{name} may not be read: change its permissions or choose another file.") from error
    except OSError as error:
        raise Refused(f"{name} cannot be read ({error.strerror or error}): choose another file.") from error


def prepare_file(file: IO[bytes], name: str, size: int, channels: int = 3) -> Picture:
    """`prepare` for a file that is open; `name` is what to call it in notes and refusals."""
    if size < 1 or channels not in (1, 3):
        raise ValueError(f"no model takes {channels}×{size}×{size}")
    with _damage_told(name), _alone_and_quiet():
        return _fit(_open(file, name), name, size, channels)


def side(file: IO[bytes], name: str) -> int:
    """The shorter side of an image in pixels, as its header has it. Raises Refused as `prepare_file`."""
    with _damage_told(name), _alone_and_quiet():
        return min(_open(file, name).size)


def to_uint8(pixels: Floats) -> Bytes:
    """Any shape, [0,1] → 0 … 255, rounded to nearest; what lies outside is clipped, NaN is 0."""
    inside = np.fmin(np.fmax(pixels, np.float32(0)), np.float32(1))
    return (inside * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def hwc(pixels: NDArray[Any]) -> NDArray[Any]:
    """(B, C, H, W) → (B, H, W, 3), of the same type; a single channel is shown as grey."""
    if pixels.shape[1] not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, not {pixels.shape[1]}")
    return np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:])).transpose(0, 2, 3, 1)


def difference(pixels: Floats, reference: Floats, gain: float = 1) -> Bytes:
    """(B, C, H, W) each → (B, H, W, 3): pixels − reference as colour, equal is mid-grey 128.

    At gain 1 the whole range −1 … 1 fits; a greater gain shows small differences and clips large ones.
    """
    shift = np.nan_to_num((pixels - reference) * np.float32(127.5 * gain))
    return hwc(np.clip(np.rint(shift + np.float32(128)), 0, 255).astype(np.uint8))


def signed(values: Floats) -> Bytes:
    """(B, C, H, W) of any size → (B, H, W, 3): zero and NaN are mid-grey 128.

    The scale is symmetric and each image's own: 99.5 % of its values fit, so that one outlier does not hide the rest.
    """
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    scale = signed_scale(values)
    top = np.where(scale > 0, scale, np.float32(1)).reshape(-1, 1, 1, 1)
    return difference((np.clip(values, -top, top) / top).astype(np.float32), np.zeros_like(values))


def signed_scale(values: Floats) -> Floats:
    """(B, C, H, W) → (B,) the value that `signed` shows as 255, and its negative as 0; 0: there are zeros alone."""
    sizes = np.abs(np.nan_to_num(values, posinf=0.0, neginf=0.0)).reshape(len(values), -1)
    most = np.percentile(sizes, 99.5, axis=1, method="lower")
    return np.where(most > 0, most, sizes.max(axis=1)).astype(np.float32)  # hardly anything but zeros


def png(picture: Bytes) -> bytes:
    """(H, W, 3) as a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def tile(pixels: Bytes, columns: int, gap: int = 0, background: Colour = 255) -> Bytes:
    """(B, H, W, 3) → one picture, row by row, with `gap` pixels between; missing cells are background."""
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + gap, width + gap, 3), background, np.uint8)
    cells[:count, :height, :width] = pixels
    grid = cells.reshape(rows, columns, height + gap, width + gap, 3).transpose(0, 2, 1, 3, 4)
    whole = grid.reshape(rows * (height + gap), columns * (width + gap), 3)
    return whole[: len(whole) - gap, : whole.shape[1] - gap]


def enlarge(pixels: Bytes, scale: int) -> Bytes:
    """(…, H, W, 3) → (…, scale·H, scale·W, 3), each pixel a square (nearest neighbour)."""
    return pixels.repeat(scale, axis=-3).repeat(scale, axis=-2)


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except MemoryError as error:
        raise Refused(f"{name} needs more memory than there is: make the image smaller first.") from error
    except Exception as error:  # a hostile file makes Pillow raise nearly anything
        raise Refused(f"{name} is damaged or cut short: save it again or choose another file.") from error


@contextmanager
def _alone_and_quiet() -> Iterator[None]:
    """One decoding at a time, without Pillow's warnings: warning filters are process-wide, and memory is finite."""
    with _decoding, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_decoding = threading.Lock()


def _told(name: str) -> str:
    """A name that can be printed and put into JSON: bytes that are no text become question marks."""
    return os.fsencode(name).decode("utf-8", "replace").replace("�", "?")


def _open(file: IO[bytes], name: str) -> Image.Image:
    """Read the header and the checksums, decode nothing."""
    too_large = f"{name} has more than {MAX_PIXELS // 10**6} megapixels: make the image smaller first."
    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise Refused(f"{name} is not an image that can be read: {READABLE} can.") from error
    except Image.DecompressionBombError as error:
        raise Refused(too_large) from error
    if image.width * image.height > MAX_PIXELS:
        raise Refused(too_large)
    if image.has_transparency_data and image.width * image.height > MAX_PIXELS // 2:
        most = MAX_PIXELS // 2 // 10**6
        raise Refused(f"{name} has transparency and more than {most} megapixels: make the image smaller first.")
    if image.format == "PNG":  # the decoder passes over the checksums of the pixels
        image.verify()
        file.seek(0)
        image = Image.open(file, formats=_FORMATS)
    return image


def _fit(image: Image.Image, name: str, size: int, channels: int) -> Picture:
    kind = _SHOWN_AS.get(image.format or "", image.format)
    width, height = image.size
    done: list[str] = []
    if image.format != "MPO" and getattr(image, "is_animated", False):
        done.append("first page" if image.format == "TIFF" else "first frame")
    turn = _orientation(image)
    # Photos are decoded at a half, quarter or eighth of their size where that leaves twice what is needed.
    image.draft(None, (2 * size, 2 * size))
    image.load()
    if turn in _UPRIGHT:
        done.append("turned upright")
        if image.format != "TIFF":  # Pillow turns TIFF by itself
            image = image.transpose(_UPRIGHT[turn])
            if turn >= 5:
                width, height = height, width

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if image.mode in _NUMBERS:
        pixels, remarks = _numbers(square, name, size, channels)
    else:
        pixels, remarks = _colours(square, name, size, channels)
    done += remarks

    whole = min(width, height)
    cut = f", centre {whole:,}×{whole:,}" if width != height else ""
    scaled = f" → {size}×{size}" if whole != size else ""
    enlarged = ["enlarged"] if whole < size else []
    note = ""
    if cut or scaled or done:
        note = ", ".join([f"{width:,}×{height:,} {kind}{cut}{scaled}", *enlarged, *done])
    return Picture(name, pixels, note)


def _orientation(image: Image.Image) -> int:
    """What EXIF says; a photo whose EXIF is damaged is still a photo."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's EXIF reader raises nearly anything
        return 1


def _colours(square: Image.Image, name: str, size: int, channels: int) -> tuple[Floats, list[str]]:
    """8 bits a channel: (channels, size, size) in [0,1], and what was done."""
    if square.mode not in (*_GREY, *_COLOURS):
        raise Refused(f"{name} is stored in {square.mode} colours, which cannot be read: save it as RGB.")
    done = []
    grey = square.mode in _GREY
    if square.has_transparency_data:
        square = square.convert("RGBA")
        if np.asarray(square.getchannel("A")).min() < 255:
            done.append("alpha over white")
            square = Image.alpha_composite(Image.new("RGBA", square.size, "white"), square)
    if square.mode == "CMYK":
        done.append("CMYK to RGB")
    square = square.convert("L" if grey else "RGB")
    if square.width != size:
        square = square.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3)
    if grey and channels == 3:
        done.append("grey to RGB")
    if channels == 1 and not grey:
        done.append("colour to grey")
    levels = np.asarray(square.convert("L" if channels == 1 else "RGB"), np.float32)
    pixels = levels.reshape(size, size, channels).transpose(2, 0, 1) / np.float32(255)
    return np.ascontiguousarray(pixels), done


def _numbers(square: Image.Image, name: str, size: int, channels: int) -> tuple[Floats, list[str]]:
    """One number a pixel, 16 or 32 bits or floating: (channels, size, size) in [0,1], and what was done.

    16-bit values are divided by 65535 and floats in [0,1] are kept. Others have no known range: theirs is stretched.
    """
    values = np.asarray(square, np.float32)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Refused(f"{name} holds values that are no numbers (NaN or infinite): save it as 8-bit PNG.")
    done = [f"{'16-bit ' if square.mode.startswith('I;16') else ''}grey to RGB"] if channels == 3 else []
    top = 1.0 if square.mode == "F" else 65535.0
    if low >= 0 and high <= top:
        low, high = 0.0, top
    else:
        done.append(f"values {low:g} … {high:g} stretched to 0 … 1")
    if square.width != size:
        image = Image.fromarray(values)
        values = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3))
    scaled = (values - np.float32(low)) / np.float32(high - low if high > low else 1)
    return np.repeat(np.clip(scaled, 0, 1)[None], channels, axis=0), done
