from __future__ import annotations

import io
import os
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, PngImagePlugin

from cem_core import images
from cem_core.images import difference, enlarge, hwc, prepare, prepare_file, tile, to_uint8
from cem_core.messages import Refused

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]
KINDS = {"PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"], "TIFF": MODES, "BMP": ["1", "L", "P", "RGB", "RGBA"]}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def coded(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def picture(mode: str, width: int, height: int) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(noise(height, width).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(noise(height, width).astype(np.int32) * 300)
    if mode == "F":
        return Image.fromarray(noise(height, width).astype(np.float32) * 3 - 100)
    return Image.fromarray(noise(height, width, 3)).convert("RGBA").convert(mode)


# A picture that fits already --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp"])
def test_an_rgb_image_of_the_right_size_is_exact_and_needs_no_note(tmp_path: Path, kind: str) -> None:
    pixels = noise(32, 32, 3)
    made = prepare(saved(tmp_path / f"x.{kind}", pixels, **({"lossless": True} if kind == "webp" else {})), 32)
    assert made.name == f"x.{kind}"
    assert made.note == ""
    assert made.pixels.dtype == np.float32
    assert made.pixels.flags.c_contiguous
    assert np.array_equal(made.pixels, pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    assert np.array_equal(to_uint8(made.pixels), pixels.transpose(2, 0, 1))


def test_non_ascii_paths_and_spaces_work(tmp_path: Path) -> None:
    folder = tmp_path / "Ünïcode und Leerzeichen 猫"
    folder.mkdir()
    assert prepare(saved(folder / "große Katze 🐈.png", noise(8, 8, 3)), 8).name == "große Katze 🐈.png"


def test_a_path_that_is_no_text_works(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(path)).write_bytes(coded(Image.fromarray(noise(8, 8, 3)), "PNG").getvalue())
    except OSError:
        pytest.skip("this file system takes only text")
    assert prepare(os.fsdecode(path), 8).name == "caf?.png"


# Any mode, any size -----------------------------------------------------------------------------------------------


@given(
    kind_mode=st.sampled_from([(kind, mode) for kind, modes in KINDS.items() for mode in modes]),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    size=st.integers(1, 24),
    channels=st.sampled_from([1, 3]),
)
def test_any_mode_and_size_fits(kind_mode: tuple[str, str], width: int, height: int, size: int, channels: int) -> None:
    kind, mode = kind_mode
    made = prepare_file(coded(picture(mode, width, height), kind), "x", size, channels)
    assert made.pixels.shape == (channels, size, size)
    assert made.pixels.dtype == np.float32
    assert made.pixels.min() >= 0
    assert made.pixels.max() <= 1
    assert (f"{width}×{height} {kind}" in made.note) == bool(made.note)
    if (width, height) != (size, size):
        assert made.note


@pytest.mark.parametrize(
    ("size", "note"),
    [
        ((640, 480), "640×480 PNG, centre 480×480 → 32×32"),
        ((64, 64), "64×64 PNG → 32×32"),
        ((32, 40), "32×40 PNG, centre 32×32"),
        ((10, 10), "10×10 PNG → 32×32, enlarged"),
        ((1, 3000), "1×3,000 PNG, centre 1×1 → 32×32, enlarged"),
    ],
)
def test_the_note_says_what_was_done(size: tuple[int, int], note: str) -> None:
    assert prepare_file(coded(Image.new("RGB", size), "PNG"), "x", 32).note == note


def test_the_centre_is_kept() -> None:
    pixels = noise(8, 20, 3)
    made = prepare_file(coded(Image.fromarray(pixels), "PNG"), "x", 8)
    assert np.array_equal(to_uint8(made.pixels).transpose(1, 2, 0), pixels[:, 6:14])


def test_shrinking_is_antialiased() -> None:
    board = np.indices((256, 256)).sum(0) % 2 * np.uint8(255)
    made = prepare_file(coded(Image.fromarray(board.astype(np.uint8)), "PNG"), "x", 32)
    assert np.abs(made.pixels - 0.5).max() < 0.02


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_rotation(turn: int, kind: str) -> None:
    """The corner that EXIF calls the top left of the upright picture is the one that is red."""
    red = np.zeros((40, 40, 3), np.uint8)
    rows, columns = {  # where the upright top left quarter is stored
        **dict.fromkeys((1, 5), (slice(20), slice(20))),
        **dict.fromkeys((2, 8), (slice(20), slice(20, 40))),
        **dict.fromkeys((3, 7), (slice(20, 40), slice(20, 40))),
        **dict.fromkeys((4, 6), (slice(20, 40), slice(20))),
    }[turn]
    red[rows, columns, 0] = 255
    exif = Image.Exif()
    exif[0x112] = turn
    made = prepare_file(coded(Image.fromarray(red), kind, exif=exif), "x", 40)
    assert made.pixels[0, 2:18, 2:18].min() > 0.9
    assert made.pixels[0].mean() == pytest.approx(0.25, abs=0.02)
    assert made.note == ("" if turn == 1 else f"40×40 {images._SHOWN_AS.get(kind, kind)}, turned upright")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_photo_held_upright_is_told_by_its_upright_size(kind: str) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    file = coded(Image.new("RGB", (300, 200)), kind, exif=exif)
    assert prepare_file(file, "x", 32).note == f"200×300 {kind}, centre 200×200 → 32×32, turned upright"


def test_a_photo_whose_exif_is_damaged_is_still_a_photo() -> None:
    for exif in (
        b"Exif\x00\x00garbage",
        b"Exif\x00\x00II*\x00\xff\xff\xff\x00",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff",
    ):
        assert prepare_file(coded(Image.new("RGB", (8, 8)), "JPEG", exif=exif), "x", 8).note == ""


def test_a_photo_with_a_preview_inside_is_a_jpeg() -> None:
    file = coded(Image.new("RGB", (64, 48)), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert prepare_file(file, "x", 8).note == "64×48 JPEG, centre 48×48 → 8×8"


def test_alpha_is_shown_over_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, 0] = 255, 0, 0, 255
    pixels[1, 1] = 0, 0, 0, 128
    made = prepare_file(coded(Image.fromarray(pixels), "PNG"), "x", 4)
    assert made.note == "4×4 PNG, alpha over white"
    assert made.pixels[:, 0, 0].tolist() == [1, 0, 0]
    assert made.pixels[:, 1, 1] == pytest.approx([127 / 255] * 3, abs=0.005)
    assert made.pixels[:, 2, 2].tolist() == [1, 1, 1]


def test_opaque_alpha_changes_nothing() -> None:
    pixels = noise(8, 8, 4)
    pixels[..., 3] = 255
    made = prepare_file(coded(Image.fromarray(pixels), "PNG"), "x", 8)
    assert made.note == ""
    assert np.array_equal(to_uint8(made.pixels), pixels[..., :3].transpose(2, 0, 1))


def test_transparent_palette_and_colour_key_are_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 2)
    for kind in ("PNG", "GIF"):
        made = prepare_file(coded(palette, kind, transparency=2), "x", 4)
        assert made.pixels[:, 0, 0].tolist() == [1, 1, 1]
        assert made.pixels[:, 1, 1].tolist() == [1, 0, 0]
        assert "alpha over white" in made.note
    grey = Image.new("L", (4, 4), 7)
    grey.putpixel((0, 0), 9)
    made = prepare_file(coded(grey, "PNG", transparency=9), "x", 4)
    assert to_uint8(made.pixels)[0, 0].tolist() == [255, 7, 7, 7]
    assert made.note == "4×4 PNG, alpha over white, grey to RGB"


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind, note in (("GIF", "8×8 GIF, first frame"), ("WEBP", "8×8 WebP, first frame"), ("PNG", None)):
        options = {"lossless": True} if kind == "WEBP" else {}
        made = prepare_file(coded(frames[0], kind, save_all=True, append_images=frames[1:], **options), "x", 8)
        assert made.pixels[:, 0, 0].tolist() == [1, 0, 0]
        assert made.note == (note or "8×8 PNG, first frame")
    made = prepare_file(coded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), "x", 8)
    assert made.note == "8×8 TIFF, first page"


def test_sixteen_bit_grey_keeps_its_precision() -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    for kind in ("PNG", "TIFF"):
        made = prepare_file(coded(Image.fromarray(values), kind), "x", 8)
        assert np.array_equal(made.pixels[1], values.astype(np.float32) / np.float32(65535))
        assert made.note == f"8×8 {kind}, 16-bit grey to RGB"
    small = prepare_file(coded(Image.fromarray(np.full((64, 64), 65535, np.uint16)), "PNG"), "x", 8)
    assert np.allclose(small.pixels, 1, atol=1e-6)


def test_sixteen_bit_rgb() -> None:
    """Pillow keeps the high byte."""
    values = np.array([[[65535, 32768, 0]]], ">u2")
    rows = b"\x00" + values.tobytes()
    data = png(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)) + png(b"IDAT", zlib.compress(rows))
    made = prepare_file(io.BytesIO(b"\x89PNG\r\n\x1a\n" + data + png(b"IEND", b"")), "x", 1)
    assert to_uint8(made.pixels).ravel().tolist() == [255, 128, 0]


def png(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_floats_in_range_are_kept_and_others_are_stretched() -> None:
    inside = np.linspace(0.2, 0.7, 64, dtype=np.float32).reshape(8, 8)
    assert np.array_equal(prepare_file(coded(Image.fromarray(inside), "TIFF"), "x", 8, 1).pixels[0], inside)
    made = prepare_file(coded(Image.fromarray(inside * 400 - 100), "TIFF"), "x", 8, 1)
    assert (made.pixels.min(), made.pixels.max()) == (0, 1)
    assert made.note == "8×8 TIFF, values -20 … 180 stretched to 0 … 1"
    flat = prepare_file(coded(Image.fromarray(np.full((8, 8), 3e9, np.float32)), "TIFF"), "x", 8, 1)
    assert not flat.pixels.any()


def test_numbers_that_are_none_are_refused() -> None:
    values = np.zeros((8, 8), np.float32)
    values[3, 3] = np.nan
    with pytest.raises(Refused, match=r"x\.tif holds values that are no numbers"):
        prepare_file(coded(Image.fromarray(values), "TIFF"), "x.tif", 8)


def test_cmyk_one_bit_and_colour_to_grey() -> None:
    cyan = prepare_file(coded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF"), "x", 8)
    assert cyan.pixels[:, 0, 0].tolist() == [0, 1, 1]
    assert cyan.note == "8×8 TIFF, CMYK to RGB"
    assert "CMYK to RGB" in prepare_file(coded(Image.new("CMYK", (8, 8)), "JPEG"), "x", 8).note
    assert np.unique(prepare_file(coded(picture("1", 8, 8), "PNG"), "x", 8).pixels).tolist() == [0, 1]
    assert prepare_file(coded(picture("RGB", 8, 8), "PNG"), "x", 8, 1).note == "8×8 PNG, colour to grey"
    assert prepare_file(coded(picture("L", 8, 8), "PNG"), "x", 8, 1).note == ""
    assert prepare_file(coded(picture("L", 8, 8), "PNG"), "x", 8, 3).note == "8×8 PNG, grey to RGB"


def test_a_large_photo_decoded_at_a_fraction_looks_the_same() -> None:
    ramp = np.linspace(0, 255, 2048).astype(np.uint8)
    photo = Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(90)), -1))
    drafted = prepare_file(coded(photo, "JPEG", quality=95), "x", 32)
    whole = prepare_file(coded(photo, "PNG"), "x", 32)
    assert drafted.note == "2,048×2,048 JPEG → 32×32"
    assert np.abs(drafted.pixels - whole.pixels).max() < 0.02


def test_a_model_that_takes_something_else_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no model takes 4×8×8"):
        prepare_file(coded(picture("RGB", 8, 8), "PNG"), "x", 8, 4)


# What is refused --------------------------------------------------------------------------------------------------


def test_what_is_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match=r"There is no file gone\.png in .*: check the path"):
        prepare(tmp_path / "gone.png", 8)
    (tmp_path / "a folder").mkdir()
    with pytest.raises(Refused, match="a folder is a folder: choose the images in it"):
        prepare(tmp_path / "a folder", 8)
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(Refused, match=r"empty\.png is empty"):
        prepare(empty, 8)
    with pytest.raises(Refused, match="There is no file x"):
        prepare(empty / "x", 8)
    with pytest.raises(Refused, match="cannot be read"):
        prepare(tmp_path / ("x" * 300), 8)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(Refused, match=r"pipe\.png is not an ordinary file"):
        prepare(tmp_path / "pipe.png", 8)
    mine = saved(tmp_path / "mine.png", noise(8, 8, 3))

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(Refused, match=r"mine\.png may not be read"):
        prepare(mine, 8)


@pytest.mark.parametrize(
    "content",
    [
        b"Dear diary",
        b"\x00" * 1000,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        b"\x89PNG\r\n\x1a\n",
        b"P6 8 8 255 " + b"x" * 192,
    ],
    ids=["text", "zeros", "svg", "heic", "eps", "png signature", "ppm"],
)
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "diary.png"
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"^diary\.png is not an image that can be read: PNG, JPEG, WebP, GIF"):
        prepare(path, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.03, 0.3, 0.6, 0.9])
def test_a_truncated_image(tmp_path: Path, kind: str, part: float) -> None:
    whole = coded(Image.fromarray(noise(64, 64, 3)), kind).getvalue()
    path = tmp_path / "cut.img"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(Refused, match=r"^cut\.img is (damaged or cut short|not an image that can be read)"):
        prepare(path, 8)


@pytest.mark.parametrize("at", [-13, -17])
def test_a_png_whose_checksum_is_wrong(at: int) -> None:
    """From the end: 12 bytes of IEND, 4 of the checksum of the pixels, then the pixels."""
    whole = bytearray(coded(Image.fromarray(noise(16, 16, 3)), "PNG").getvalue())
    whole[at] ^= 1
    with pytest.raises(Refused, match="x is damaged or cut short"):
        prepare_file(io.BytesIO(bytes(whole)), "x", 16)


@pytest.mark.parametrize(
    ("side", "colours", "sentence"),
    [(7100, 6, "has transparency and more than 50 megapixels"), (7100, 2, "is damaged"), (7000, 6, "is damaged")],
)
def test_transparency_has_a_smaller_limit(side: int, colours: int, sentence: str) -> None:
    head = png(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, colours, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + png(b"IDAT", zlib.compress(bytes(1000))) + png(b"IEND", b"")
    with pytest.raises(Refused, match=f"^x {sentence}"):
        prepare_file(io.BytesIO(data), "x", 32)


@given(data=st.data())
def test_damage_anywhere_is_refused_or_survived(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
    whole = bytearray(coded(Image.fromarray(noise(16, 16, 3)), kind).getvalue())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=8)):
        whole[at] = byte
    with suppress(Refused):
        assert prepare_file(io.BytesIO(bytes(whole)), "x", 8).pixels.shape == (3, 8, 8)


@pytest.mark.parametrize("side", [9_500, 10_001, 30_000, 2**31 - 1])
def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    head = png(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + png(b"IDAT", zlib.compress(bytes(1000))) + png(b"IEND", b""))
    began = time.perf_counter()
    sentence = "damaged" if side < 10_000 else "more than 100 megapixels: make the image smaller first"
    with pytest.raises(Refused, match=rf"^bomb\.png .*{sentence}"):
        prepare(path, 32)
    assert time.perf_counter() - began < 5  # a decoded one would take far longer, if it fitted


def test_text_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("hostile", "x" * 50_000_000, zip=True)
    path = saved(tmp_path / "text.png", noise(8, 8, 3), pnginfo=info)
    with pytest.raises(Refused, match=r"text\.png is damaged"):
        prepare(path, 8)


def test_colours_that_cannot_be_converted() -> None:
    with pytest.raises(Refused, match="stored in LAB colours"):
        prepare_file(coded(Image.new("LAB", (8, 8)), "TIFF"), "x", 8)


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_fit", full)
    with pytest.raises(Refused, match="x needs more memory"):
        prepare_file(coded(picture("RGB", 8, 8), "PNG"), "x", 8)


# Arrays for the eye -----------------------------------------------------------------------------------------------


def test_to_uint8_rounds_and_clips() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8(levels.astype(np.float32) / np.float32(255)), levels)
    odd = np.array([-1, 0, 0.499 / 255, 0.5 / 255, 254.6 / 255, 1, 7, np.inf, -np.inf, np.nan], np.float32)
    assert to_uint8(odd).tolist() == [0, 0, 0, 1, 255, 255, 255, 255, 0, 0]


@given(arrays(np.float32, (5,), elements=st.floats(0, 1, width=32)))
def test_to_uint8_is_the_nearest_level(pixels: np.ndarray) -> None:
    assert (np.abs(to_uint8(pixels).astype(np.float64) - pixels.astype(np.float64) * 255) <= 0.5001).all()


def test_hwc_shows_one_channel_as_grey() -> None:
    grey = noise(2, 1, 4, 5)
    assert np.array_equal(hwc(grey), np.stack([grey[:, 0]] * 3, -1))
    colour = noise(2, 3, 4, 5)
    assert np.array_equal(hwc(colour), colour.transpose(0, 2, 3, 1))
    with pytest.raises(ValueError, match="not 4"):
        hwc(noise(2, 4, 4, 5))


@given(gain=st.sampled_from([1, 2, 8, 32]), shift=st.floats(-1, 1, width=32))
def test_difference(gain: float, shift: float) -> None:
    reference = np.full((1, 3, 2, 2), 0.5, np.float32)
    shown = difference(reference + np.float32(shift), reference, gain).astype(int)
    assert shown.shape == (1, 2, 2, 3)
    assert np.abs(shown - np.clip(128 + 127.5 * gain * shift, 0, 255)).max() <= 0.51


def test_no_difference_is_mid_grey() -> None:
    pixels = np.random.default_rng(0).random((2, 1, 4, 4), np.float32)
    assert np.unique(difference(pixels, pixels, 32)).tolist() == [128]


@given(count=st.integers(1, 10), columns=st.integers(1, 6), gap=st.integers(0, 3), height=st.integers(1, 4))
def test_tile_puts_each_picture_in_its_place(count: int, columns: int, gap: int, height: int) -> None:
    pixels = noise(count, height, 3, 3)
    rows = -(-count // columns)
    whole = tile(pixels, columns, gap, (1, 2, 3))
    assert whole.shape == (rows * (height + gap) - gap, columns * (3 + gap) - gap, 3)
    for i in range(count):
        y, x = i // columns * (height + gap), i % columns * (3 + gap)
        assert np.array_equal(whole[y : y + height, x : x + 3], pixels[i])
        whole[y : y + height, x : x + 3] = 1, 2, 3
    assert (whole == (1, 2, 3)).all()


def test_enlarge() -> None:
    pixels = noise(2, 3, 4, 3)
    assert np.array_equal(enlarge(pixels, 3)[:, 1::3, 2::3], pixels)
    assert enlarge(pixels, 3).shape == (2, 9, 12, 3)


def test_signed_pictures_are_symmetric_about_grey() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    values[1] *= 1e-6  # the scale is each image's own
    shown, negative = (images.signed(part).astype(int) - 128 for part in (values, -values))
    assert np.abs(shown + negative).max() <= 1
    assert np.abs(shown).max(axis=(1, 2, 3)).min() >= 127
    loud = values.copy()
    loud[0, 0, 0, 0] *= 1e6  # one outlier does not hide the rest
    assert np.abs(images.signed(loud)[0, 1:].astype(int) - images.signed(values)[0, 1:].astype(int)).max() < 8


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_nothing_is_grey(value: float) -> None:
    assert np.all(images.signed(np.full((1, 3, 4, 4), value, np.float32)) == 128)


def test_a_single_pixel_is_seen() -> None:
    values = np.zeros((1, 3, 32, 32), np.float32)
    values[0, 1, 2, 3] = -1e-5
    shown = images.signed(values)
    assert shown[0, 2, 3].tolist() == [128, 0, 128]
    assert np.count_nonzero(shown != 128) == 1
