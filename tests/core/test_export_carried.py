"""Runs inside files: what was put in comes out, and what others put in does no harm."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from scenarios_session import session

from cem_core import export, png, webp
from cem_core.events import events
from cem_core.export import Export, carried
from cem_core.messages import Refused
from cem_core.session import Session

PIXELS = np.zeros((4, 4, 3), np.uint8)


def picture(path: Path, text: bytes) -> Path:
    """A PNG that carries a text as ours do."""
    path.write_bytes(png.head(PIXELS.shape, text) + png.still(PIXELS) + png.END)
    return path


def known() -> dict[str, Any]:
    return json.loads(carried.dump(carried.settings(session(), Export())))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("carried") / "out"
    for _ in export.export(
        session(), out, Export(formats=("png", "apng", "webp", "webp-lossy", "sheet", "svg", "plot"))
    ):
        pass
    return out


# What comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.json", "morph.png", "morph.webp", "morph-lossy.webp", "sheet.png", "curves.png"])
def test_the_run_comes_out_as_it_was_put_in(exported: Path, name: str) -> None:
    found = export.read(exported / name)
    assert found is not None
    assert found == export.settings(session(), found.exported)
    assert found.spec == session().start.spec
    assert list(found.events) == events(session())


def test_a_frame_says_which_step_it_is(exported: Path) -> None:
    found = export.read(exported / "frames" / "chain-02-ship" / "step-0004.png")
    assert found is not None
    assert found.frame is not None
    assert (found.frame.chain, found.frame.step, found.frame.target) == (2, 4, "ship")
    assert found.frame.events == tuple(e.kind for e in events(session()) if (e.step, e.chain) == (4, 1))
    assert found.events == ()  # thousands of them, again in each of thousands of files


def test_a_drawing_carries_it_as_text(exported: Path) -> None:
    from xml.etree import ElementTree

    metadata = ElementTree.parse(exported / "curves.svg").getroot()[0]
    assert msgspec.json.decode(metadata.text or "", type=export.RunFile).spec == session().start.spec


def test_names_of_all_kinds_come_through(tmp_path: Path) -> None:
    names = ("</cem:run>&amp;", "猫 <b>\x00\x1b", "\udce9.png")
    run = session(2, 3, classes=("<a&b>", "\ufffe]]>", '"'), names=names)
    for _ in export.export(run, tmp_path / "out", Export(formats=("png", "webp", "apng"))):
        pass
    for file in ("morph.png", "morph.webp", "run.json"):
        found = export.read(tmp_path / "out" / file)
        assert found is not None
        assert found.starts == (*names[:2], "?.png")
        assert found.checkpoint.classes == run.start.checkpoint.classes


def test_a_run_that_is_long_to_tell_is_carried_whole(tmp_path: Path) -> None:
    run = session(1, 1, classes=("W" * 3_000_000,))
    path = picture(tmp_path / "long.png", carried.dump(carried.settings(run)))
    assert export.read(path) == export.settings(run)


# What others put in -----------------------------------------------------------------------------------------------


def test_pictures_of_others_are_pictures(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    comments = PngImagePlugin.PngInfo()
    comments.add_text("parameters", "a cat, 20 steps")
    comments.add_itxt("workflow", '{"cem-explorer": 1}')
    comments.add_text("cem-explorer", "{}")  # another kind of chunk
    image.save(tmp_path / "a.png", pnginfo=comments)
    image.save(tmp_path / "b.png")
    image.save(tmp_path / "c.webp", xmp=b"<x:xmpmeta>somebody's</x:xmpmeta>")
    image.save(tmp_path / "d.webp")
    image.save(tmp_path / "e.jpg")
    image.save(tmp_path / "f.gif")
    (tmp_path / "g.png").write_bytes(b"")
    (tmp_path / "h.webp").write_bytes(b"RIFF\x00\x00\x00\x00WEBP")
    (tmp_path / "i.txt").write_text(json.dumps(known()))
    (tmp_path / "j").mkdir()
    for path in [*sorted(tmp_path.iterdir()), tmp_path / "missing.png"]:
        assert export.read(path) is None, path


def cut(what: dict[str, Any], *names: str | int, to: Any) -> dict[str, Any]:
    """With one thing in it replaced."""
    inner: Any = what
    for name in names[:-1]:
        inner = inner[name]
    inner[names[-1]] = to
    return what


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 200_000, "cannot be read"),
        (b'{"program":' * 200_000, "cannot be read"),
        (b"[]", "they are not those of CEM Explorer"),
        (b"{}", "they are not those of CEM Explorer"),
        (b'{"program": "cem-explorer"}', "missing required field"),
        (cut(known(), "program", to="another"), "they are not those of CEM Explorer"),
        (cut(known(), "format", to=2), "by a newer CEM Explorer: update"),
        (cut(known(), "format", to="1"), "Expected `int`"),
        (cut(known(), "spec", "sampler", "a", to=1e999), "cannot be read"),
        (cut(known(), "spec", "sampler", "a", to=11), "Weight a must be a number between"),
        (cut(known(), "spec", "sampler", "steps", to=10**30), "cannot be read"),
        (cut(known(), "spec", "chains", to=[]), "between 1 and 1,024 chains"),
        (cut(known(), "spec", "chains", 0, "start", to={"kind": "program"}), "Invalid value 'program'"),
        (cut(known(), "spec", "id", to=["rm", "-rf"]), "Expected `str`"),
        (cut(known(), "labels", to=[1]), "not all of these are described"),
        (cut(known(), "changes", 0, "step", to=-1), "a step that was not recorded"),
        (cut(known(), "changes", 0, "step", to=7), "a step that was not recorded"),
        (cut(known(), "steps", to=-5), "not recorded"),
    ],
)
def test_settings_that_are_none_are_one_sentence(tmp_path: Path, text: bytes | dict[str, Any], why: str) -> None:
    path = picture(tmp_path / "hostile.png", text if isinstance(text, bytes) else json.dumps(text).encode())
    with pytest.raises(Refused, match=why) as refused:
        export.read(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_settings_that_unpack_without_end_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "LONGEST", 10_000)
    bomb = png.chunk(b"iTXt", b"cem-explorer\x00\x01\x00\x00\x00" + zlib.compress(b" " * 10_000_000))
    beginning = png.head(PIXELS.shape, b"")[:33]
    (tmp_path / "bomb.png").write_bytes(beginning + bomb + png.still(PIXELS) + png.END)
    with pytest.raises(Refused, match="cut short or too long"):
        export.read(tmp_path / "bomb.png")
    large = png.chunk(b"iTXt", b"cem-explorer\x00\x00\x00\x00\x00" + b" " * 20_000)
    (tmp_path / "large.png").write_bytes(beginning + large + png.still(PIXELS) + png.END)
    with pytest.raises(Refused, match="too long"):
        export.read(tmp_path / "large.png")
    (tmp_path / "run.json").write_bytes(b" " * 20_000)
    with pytest.raises(Refused, match="longer than"):
        export.read(tmp_path / "run.json")
    (tmp_path / "long.webp").write_bytes(webp.head(4, 4, loop=True) + webp.tail(b" " * 20_000))
    with pytest.raises(Refused, match="too long"):
        export.read(tmp_path / "long.webp")


@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(["morph.png", "morph.webp", "run.json"]))
def test_whatever_is_damaged_is_a_picture_a_run_or_a_sentence(exported: Path, data: st.DataObject, name: str) -> None:
    whole = bytearray((exported / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, min(len(whole) - 1, 3000)))
        how = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if how == "change":
            whole[place] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del whole[place : place + data.draw(st.integers(1, 5000))]
        else:
            whole[place:place] = data.draw(st.binary(min_size=1, max_size=20))
    path = exported.parent / f"damaged-{name}"
    path.write_bytes(whole)
    try:
        found = export.read(path)
    except Refused as refused:
        assert "\n" not in str(refused)  # noqa: PT017 - either way is right
    else:
        assert found is None or isinstance(found, export.RunFile)


# The session that it was exported from ----------------------------------------------------------------------------


def test_the_session_of_a_run_is_found(tmp_path: Path) -> None:
    run = export.settings(session())
    root = tmp_path / "sessions"
    assert export.session_of(run, root) is None
    (root / "damaged").mkdir(parents=True)
    (root / "damaged" / "session.json").write_text("{")
    other = msgspec.structs.replace(session().start, spec=msgspec.structs.replace(run.spec, id="another"))
    for name, start in (("b", other), ("c", session().start)):
        recorded = Session.record(root / name, start)
        recorded.append(session()[0])
        recorded.close()
    assert export.session_of(run, root) == root / "c"
