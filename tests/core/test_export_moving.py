"""Animations and videos: what was written is decoded again and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scenarios_session import session

from cem_core import images
from cem_core.export import KINDS, LAYOUTS, Export, Format, Layout, LayoutName, animations, export, measure, video
from cem_core.messages import Refused

PILLOWS: tuple[Format, ...] = ("apng", "webp", "webp-lossy", "gif")
VIDEOS: tuple[Format, ...] = ("mp4", "ffv1", "vp9")
needs_av = pytest.mark.skipif(not video.installed(), reason="needs PyAV")
EVERY = [*PILLOWS, *(pytest.param(name, marks=needs_av) for name in VIDEOS)]
LOSSLESS = ["apng", "webp", *(pytest.param(name, marks=needs_av) for name in ("ffv1", "vp9"))]
LOSSY = ["webp-lossy", "gif", pytest.param("mp4", marks=needs_av)]


def decoded(path: Path) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """Frames (H, W, 3), and when each is shown and the last ends, in seconds."""
    if path.suffix in (".png", ".webp", ".gif"):
        frames, times = [], [0.0]
        with Image.open(path) as image:
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                frames.append(np.asarray(image.convert("RGB")))
                times.append(times[-1] + image.info["duration"] / 1000)
        return frames, times
    import av

    with av.open(str(path)) as container:
        found = list(container.decode(video=0))
        length = container.duration / 1e6
    return [frame.to_ndarray(format="rgb24") for frame in found], [*(float(frame.time) for frame in found), length]


def wrote(out: Path, format: Format, steps: int = 5, chains: int = 3, size: int = 8, **choices) -> Path:
    for _ in export(session(steps, chains, size=size), out, Export(formats=(format,), **choices)):
        pass
    assert {path.name for path in out.iterdir()} == {"run.json", KINDS[format].file}
    return out / KINDS[format].file


# Frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_lossless_formats_bring_every_frame_back(tmp_path: Path, format: Format, layout: LayoutName) -> None:
    choices = Export(formats=(format,), layout=layout, captions=layout != "image", scale=4)
    run = session(5, 3, size=16)
    for _ in export(run, tmp_path / "out", choices):
        pass
    frames, _ = decoded(tmp_path / "out" / KINDS[format].file)
    composed = Layout(run, choices, list(range(5)))
    assert len(frames) in (5, 6)  # videos show the last one twice, so that it has a length
    for index in range(5):
        assert frames[index].shape == (*composed.size[::-1], 3)
        assert np.array_equal(frames[index], composed.frame(run[index]))
    assert all(np.array_equal(frame, frames[4]) for frame in frames[5:])


@pytest.mark.parametrize("format", LOSSY)
def test_lossy_formats_bring_about_the_same_back(tmp_path: Path, format: Format) -> None:
    frames, _ = decoded(wrote(tmp_path / "out", format, scale=8, size=9, chains=1))  # 72 × 72
    run, choices = session(5, 1, size=9), Export(scale=8)
    for index in range(5):
        off = frames[index].astype(float) - Layout(run, choices, [0]).frame(run[index])
        assert np.abs(off).mean() < 12


@needs_av
def test_h264_adds_a_white_edge_where_a_side_is_odd(tmp_path: Path) -> None:
    frames, _ = decoded(wrote(tmp_path / "out", "mp4", scale=1, size=33, chains=1))
    assert frames[0].shape == (34, 34, 3)
    assert frames[0][33].mean() > 200
    assert frames[0][:, 33].mean() > 200


@pytest.mark.parametrize("format", EVERY)
def test_a_single_step_can_be_shown(tmp_path: Path, format: Format) -> None:
    frames, _ = decoded(wrote(tmp_path / "out", format, steps=1, chains=1, size=32))
    assert {frame.shape for frame in frames} == {(256, 256, 3)}


@pytest.mark.parametrize("format", EVERY)
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_are_shown_grey(tmp_path: Path, format: Format, channels: int) -> None:
    run = session(2, 1, size=32, channels=channels)
    for _ in export(run, tmp_path / "out", Export(formats=(format,), scale=4)):
        pass
    frame = decoded(tmp_path / "out" / KINDS[format].file)[0][0].astype(int)
    spread = np.ptp(frame, axis=2).mean()
    assert spread < 4 if channels == 1 else spread > 20


# Time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", EVERY)
def test_frames_are_shown_as_long_as_they_should(tmp_path: Path, format: Format) -> None:
    choices = Export(fps=12.5, hold=1.5, ease=True)
    _, times = decoded(wrote(tmp_path / "out", format, steps=8, chains=1, fps=12.5, hold=1.5, ease=True))
    ends = np.cumsum(choices.seconds(8))
    assert times[0] == 0
    assert np.allclose(times[1:8], ends[:7], atol=0.011)
    assert times[-1] == pytest.approx(ends[-1], abs=0.02)


@given(frames=st.integers(1, 60), fps=st.floats(0.1, 120), hold=st.floats(0, 10), ease=st.booleans())
def test_the_ends_are_held_and_eased(frames: int, fps: float, hold: float, ease: bool) -> None:
    seconds = Export(fps=fps, hold=hold, ease=ease).seconds(frames)
    assert len(seconds) == frames
    assert seconds == pytest.approx(seconds[::-1])
    assert seconds[frames // 2] == pytest.approx(1 / fps + hold * (frames <= 2 and frames // 2 in (0, frames - 1)))
    falling = seconds[: (frames + 1) // 2]
    assert falling == sorted(falling, reverse=True)
    if not ease and frames > 1:
        assert sum(seconds) == pytest.approx(frames / fps + 2 * hold)


@given(st.lists(st.floats(0.001, 5), min_size=1, max_size=200), st.sampled_from([100, 1000]))
def test_rounding_errors_do_not_add_up(seconds: list[float], a_second: int) -> None:
    ticks = animations.ticks(seconds, a_second)
    assert min(ticks) >= 1
    short = sum(1 for each in seconds if each * a_second < 1)
    assert abs(sum(ticks) - sum(seconds) * a_second) <= 0.5 + short + 1e-6 * len(seconds)


@pytest.mark.parametrize("format", PILLOWS)
@pytest.mark.parametrize("loop", [True, False])
def test_what_loops(tmp_path: Path, format: Format, loop: bool) -> None:
    with Image.open(wrote(tmp_path / "out", format, loop=loop)) as image:
        assert image.info.get("loop", 1) == (0 if loop else 1)


# Layout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chains", [1, 2, 3, 7])
@pytest.mark.parametrize("captions", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_images_stand_where_they_are_said_to(chains: int, captions: bool, layout: LayoutName) -> None:
    run = session(4, chains, size=8)
    composed = Layout(run, Export(layout=layout, captions=captions, scale=8), [0, 1, 2, 3])
    frame = composed.frame(run[2])
    assert frame.shape == (*composed.size[::-1], 3)
    assert np.array_equal(composed.images(frame), images.hwc(images.to_uint8(run[2].pixels)))


@pytest.mark.parametrize("gain", [1, 32])
def test_the_difference_and_the_original_stand_beside_the_image(gain: int) -> None:
    run = session(4, 1, size=32)
    frame = Layout(run, Export(layout="difference", gain=gain, scale=2), [0, 3]).frame(run[3])
    expected = images.difference(run[3].pixels, run[0].pixels, gain)[0]
    assert np.array_equal(frame[::2, -64::2], expected)
    frame = Layout(run, Export(layout="original", scale=2), [0, 3]).frame(run[3])
    assert np.array_equal(frame[::2, :64:2], images.hwc(images.to_uint8(run[0].pixels))[0])
    assert np.array_equal(frame[::2, -64::2], images.hwc(images.to_uint8(run[3].pixels))[0])


def test_captions_and_curves_follow_the_step() -> None:
    run = session(6, 1, size=32)
    for choices in (Export(captions=True, scale=4), Export(layout="curves", scale=4)):
        composed = Layout(run, choices, list(range(6)))
        beside = [composed.frame(run[index]) for index in (1, 2)]
        for frame in beside:
            frame[:128, :128] = 255
        assert not np.array_equal(*beside)
        assert all((frame < 128).any() for frame in beside)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_smallest_frames_are_made(size: int, layout: LayoutName) -> None:
    run = session(2, 2, size=size)
    composed = Layout(run, Export(layout=layout, captions=True, scale=1), [0, 1])
    assert composed.frame(run[1]).shape == (*composed.size[::-1], 3)


@needs_av
@pytest.mark.parametrize("fps", [0.1, 120])
def test_the_slowest_and_the_fastest_video(tmp_path: Path, fps: float) -> None:
    _, times = decoded(wrote(tmp_path / "out", "mp4", steps=4, chains=1, fps=fps))
    assert times[-1] == pytest.approx(4 / fps, abs=0.02)


def test_a_preview_shows_the_first_chains() -> None:
    run = session(2, 9, size=8)
    composed = Layout(run, Export(scale=1), [0, 1], chains=2)
    assert composed.size == (17, 8)
    assert np.array_equal(composed.frame(run[1])[:, 9:], images.hwc(images.to_uint8(run[1].pixels))[1])


@pytest.mark.parametrize(
    ("formats", "sentence"),
    [
        (("webp",), "WebP cannot have 20,480×2,048 pixels, but 16,383 a side: choose a smaller scale"),
        pytest.param(("apng", "mp4"), "MP4 .H.264. cannot have .* but 8,192 a side", marks=needs_av),
    ],
)
def test_frames_that_a_format_has_no_room_for(
    tmp_path: Path, formats: tuple[Format, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layout, "size", (20_480, 2_048), raising=False)
    monkeypatch.setattr(Layout, "__setattr__", lambda self, name, value: name == "size" or set_on(self, name, value))
    with pytest.raises(Refused, match=sentence):
        export(session(2, 2, size=32), tmp_path / "out", Export(formats=formats))
    assert not (tmp_path / "out").exists()


def set_on(thing: object, name: str, value: object) -> None:
    object.__setattr__(thing, name, value)


# Fidelity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_lossless_formats_keep_all_of_the_perturbation(format: Format, layout: LayoutName) -> None:
    found = measure(session(7, 3, size=16), Export(layout=layout, captions=True), format)
    assert found is not None
    assert (found.kept, found.cosine) == (1, pytest.approx(1))
    assert found.sentence == "keeps 100 % of the perturbation (cosine 1.00)"


@pytest.mark.parametrize("format", LOSSY)
def test_lossy_formats_keep_less(format: Format) -> None:
    found = measure(session(7, 1, size=64), Export(scale=1), format)
    assert found is not None
    assert 0 <= found.kept < 0.999
    assert 0 < found.cosine < 1


def test_what_is_measured_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format that loses half of the perturbation and adds none: 1 − ½² is kept, at cosine 1."""
    run = session(3, 1, size=8)
    original = images.hwc(images.to_uint8(run[0].pixels)).astype(np.float32)
    monkeypatch.setattr(Layout, "images", halved(Layout.images, original))
    found = measure(run, Export(scale=1), "apng")
    assert found is not None
    assert found.kept == pytest.approx(0.75)
    assert found.cosine == pytest.approx(1)


def halved(read: Callable, original: NDArray[np.float32]) -> Callable:
    return lambda self, frame: (read(self, frame) + original) / 2


def test_where_nothing_moved_there_is_nothing_to_keep() -> None:
    assert measure(session(1, 1), Export(), "gif") is None


def test_a_measurement_ends_when_it_is_told_to() -> None:
    asked = iter([False, False, True])
    assert measure(session(7, 1), Export(), "gif", lambda: next(asked)) is None


# Without PyAV -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", VIDEOS)
def test_without_pyav_a_video_is_a_sentence(tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "installed", lambda: False)
    with pytest.raises(Refused, match=r"^PyAV is not installed: pip install 'cem-explorer\[video\]' adds videos\.$"):
        export(session(), tmp_path / "out", Export(formats=("csv", format)))
    with pytest.raises(Refused, match="PyAV is not installed"):
        measure(session(), Export(), format)
    assert not (tmp_path / "out").exists()
