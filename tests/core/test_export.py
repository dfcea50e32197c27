from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scenarios_session import CLASSES, SAMPLER, session

from cem_core.events import events
from cem_core.export import (
    FORMATS,
    KINDS,
    Export,
    Progress,
    RunFile,
    destination,
    export,
    layout,
    missing,
    settings,
    stills,
)
from cem_core.export import folder as folder_module
from cem_core.images import to_uint8
from cem_core.messages import Refused, RunSpec
from cem_core.session import Session

ALL = {"run.json", "frames", "morph.png", "sheet.png", "curves.csv"}


def write(run: Session, out: Path, **choices: Any) -> list[Progress]:
    return list(export(run, out, Export(**choices)))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "curves.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# What is written --------------------------------------------------------------------------------------------------


def test_everything_is_written_and_nothing_else_stays(tmp_path: Path) -> None:
    write(session(), tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"out"}
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == ALL
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("channels", [1, 3])
def test_the_frames_are_the_pixels(tmp_path: Path, channels: int) -> None:
    run = session(5, 2, channels=channels)
    write(run, tmp_path / "out", formats=("png",))
    folders = sorted((tmp_path / "out" / "frames").iterdir())
    assert [folder.name for folder in folders] == ["chain-01-horse", "chain-02-ship"]
    for chain, folder in enumerate(folders):
        assert sorted(p.name for p in folder.iterdir()) == [f"step-{i:04d}.png" for i in range(5)]
        for step in run:
            with Image.open(folder / f"step-{step.index:04d}.png") as image:
                assert image.mode == ("RGB" if channels == 3 else "L")
                shown = np.asarray(image).reshape(8, 8, channels)
            assert np.array_equal(shown, to_uint8(step.pixels[chain]).transpose(1, 2, 0))


def test_each_frame_carries_the_settings_of_its_run(tmp_path: Path) -> None:
    run = session()
    write(run, tmp_path / "out", formats=("png",))
    with Image.open(tmp_path / "out" / "frames" / "chain-02-ship" / "step-0004.png") as image:
        text = json.loads(image.info["cem-explorer"])
    step = run[4]
    assert text["frame"] == {
        "chain": 2,
        "start": "image 2.png",
        "target": "ship",
        "step": 4,
        "energy": float(step.energy[1]),
        "joint": float(step.joint[1]),
        "log_p": float(step.log_p[1]),
        "distance": float(step.distance[1]),
        "events": [event.kind for event in events(run) if (event.step, event.chain) == (4, 1)],
    }
    assert text["frame"]["events"]
    assert text["program"] == "cem-explorer"
    assert text["checkpoint"]["sha256"] == "ab" * 32
    assert text["versions"]["torch"] == "2.13.0"
    assert msgspec.convert(text["spec"], RunSpec) == run.start.spec


def test_run_json_brings_the_run_back(tmp_path: Path) -> None:
    run = session()
    write(run, tmp_path / "out", formats=(), first=2)
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"run.json"}
    found = msgspec.json.decode((tmp_path / "out" / "run.json").read_bytes(), type=RunFile)
    assert found == settings(run, Export(formats=(), first=2))
    assert found.spec == run.start.spec
    assert found.checkpoint == run.start.checkpoint
    assert [(change.step, change.sampler.a) for change in found.changes] == [(3, 0.5)]
    assert (found.steps, found.end and found.end.reason) == (7, "done")


@pytest.mark.parametrize("picture", ["morph.png", "sheet.png"])
def test_the_pictures_carry_the_settings_too(tmp_path: Path, picture: str) -> None:
    run = session()
    write(run, tmp_path / "out")
    with Image.open(tmp_path / "out" / picture) as image:
        assert msgspec.json.decode(image.info["cem-explorer"].encode(), type=RunFile) == settings(run, Export())


def test_the_animation_shows_all_chains_at_every_step(tmp_path: Path) -> None:
    run = session(5, 3)
    write(run, tmp_path / "out", formats=("apng",), scale=2, fps=25, loop=False)
    with Image.open(tmp_path / "out" / "morph.png") as image:
        assert (image.n_frames, image.size, image.mode) == (5, (2 * 17, 2 * 17), "RGB")  # 2×2 cells, a gap of 1
        assert image.info["loop"] == 1
        for step in run:
            image.seek(step.index)
            assert image.info["duration"] == 40
            grid = np.asarray(image)
            cells = [grid[:16, :16], grid[:16, 18:], grid[18:, :16]]
            for cell, pixels in zip(cells, to_uint8(step.pixels), strict=True):
                assert np.array_equal(cell, pixels.transpose(1, 2, 0).repeat(2, 0).repeat(2, 1))
            assert (grid[18:, 18:] == 255).all()


def test_an_animation_of_one_step_that_loops(tmp_path: Path) -> None:
    write(session(1, 1), tmp_path / "out", formats=("apng",))
    with Image.open(tmp_path / "out" / "morph.png") as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (1, (256, 256), 0)


@given(cell=st.sampled_from([8, 28, 32, 96, 224, 299, 512]), columns=st.integers(1, 16), rows=st.integers(1, 16))
def test_the_automatic_scale_is_large_where_there_is_room(cell: int, columns: int, rows: int) -> None:
    def area(scale: int) -> int:
        return columns * rows * (cell * scale) ** 2

    scale = layout.scale(Export(), cell, columns, rows)
    assert scale == 1 or area(scale) <= 16_000_000
    assert cell * scale >= 256 or area(scale + 1) > 16_000_000
    assert cell * (scale - 1) < 256


def test_the_curves_bring_the_same_numbers_back(tmp_path: Path) -> None:
    run = session(5, 2)
    write(run, tmp_path / "out", formats=("csv",))
    table = rows(tmp_path / "out")
    assert len(table) == 10
    assert list(table[0])[:10] == [
        *("step", "chain", "start", "target", "energy", "joint_energy", "log_p", "p", "gradient_norm", "distance")
    ]
    assert list(table[0])[10:] == [
        *("top1", "events", "a", "b", "step_size", "noise", "norm", "radius"),
        *(f"logit_{name}" for name in CLASSES),
    ]
    for row in table:
        step, chain = run[int(row["step"])], int(row["chain"]) - 1
        for column, values in (
            ("energy", step.energy),
            ("joint_energy", step.joint),
            ("log_p", step.log_p),
            ("gradient_norm", step.gradient_norm),
            ("distance", step.distance),
        ):
            assert np.float32(row[column]) == values[chain]
        logits = np.array([row[f"logit_{name}"] for name in CLASSES], np.float32)
        assert np.array_equal(logits, step.logits[chain])
        softmax = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum()
        assert float(row["p"]) == pytest.approx(softmax[CLASSES.index(row["target"])], rel=1e-4)
        assert row["top1"] == CLASSES[logits.argmax()]
        assert row["start"] == f"image {chain + 1}.png"
        assert float(row["a"]) == (1 if step.index < 3 else 0.5)
        assert (float(row["b"]), float(row["step_size"]), float(row["noise"])) == (1, 0.25, SAMPLER.noise)


def test_the_table_holds_what_happened(tmp_path: Path) -> None:
    run = session(9, 2)
    write(run, tmp_path / "out", formats=("csv",))
    told = {(int(row["step"]), int(row["chain"]) - 1): row["events"] for row in rows(tmp_path / "out")}
    happened = events(run)
    assert {place for place, text in told.items() if text} == {(event.step, event.chain) for event in happened}
    for event in happened:
        assert event.kind in told[event.step, event.chain].split("; ")
    assert msgspec.json.decode((tmp_path / "out" / "run.json").read_bytes(), type=RunFile).events == tuple(happened)
    write(run, tmp_path / "out", formats=("csv",), first=8)
    told = {(int(row["step"]), int(row["chain"]) - 1): row["events"] for row in rows(tmp_path / "out")}
    for event in happened:
        where = "" if event.step == 8 else f" (step {event.step})"
        assert f"{event.kind}{where}" in told[8, event.chain].split("; ")


def test_all_formats_at_once(tmp_path: Path) -> None:
    formats = tuple(name for name in FORMATS if not missing(name))
    write(session(), tmp_path / "out", formats=formats, layout="curves", captions=True)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"run.json", *(KINDS[name].file for name in formats)}
    write(session(), tmp_path / "out", formats=("csv",))  # all of them are known to be ours
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"run.json", "curves.csv"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_curves_of_numbers_that_are_none_are_drawn(tmp_path: Path, value: float) -> None:
    run = session(4, 2)
    run._scalars["energy"][2] = value
    run._scalars["distance"][:] = value
    run._scalars["logits"][:, 0] = 0
    with np.errstate(all="ignore"):
        write(run, tmp_path / "out", formats=("svg", "plot", "apng"), layout="curves", captions=True)
    document = (tmp_path / "out" / "curves.svg").read_text()
    assert not re.search(r"\b(nan|inf)\b", document.split("</metadata>")[1])


def test_curves_of_many_steps_and_chains_stay_small(tmp_path: Path) -> None:
    write(session(5000, 2, size=1), tmp_path / "out", formats=("svg", "plot"))
    assert (tmp_path / "out" / "curves.svg").stat().st_size < 400_000
    with Image.open(tmp_path / "out" / "curves.png") as image:
        assert image.size == (2080, 1440)
    write(session(2, 300, size=1), tmp_path / "out", formats=("svg", "plot"))


def test_of_a_thinned_session_the_pictures_that_are_left_are_written(tmp_path: Path) -> None:
    run = session(9, 1)
    run._dropped = {1, 2, 3, 5, 6, 7}
    with pytest.raises(Refused, match="were thinned out: choose others, or their numbers and curves alone"):
        write(run, tmp_path / "out", first=5, last=7)
    write(run, tmp_path / "out", formats=("png", "apng", "sheet", "csv"))
    assert len(rows(tmp_path / "out")) == 9
    assert [p.name for p in sorted((tmp_path / "out" / "frames").rglob("*.png"))] == [
        f"step-000{i}.png" for i in (0, 4, 8)
    ]
    with Image.open(tmp_path / "out" / "morph.png") as image:
        assert image.n_frames == 3
    write(run, tmp_path / "out", formats=("csv", "svg", "plot"), first=5, last=7)


def test_steps_on_disk_are_exported_like_those_in_memory(tmp_path: Path) -> None:
    spilled = session(6, 2, budget=1)
    assert spilled.in_memory < 3000
    write(spilled, tmp_path / "spilled", formats=("png", "csv"))
    write(session(6, 2), tmp_path / "kept", formats=("png", "csv"))
    assert contents(tmp_path / "spilled") == contents(tmp_path / "kept")


@given(
    recorded=st.integers(1, 40), first=st.integers(0, 45), last=st.none() | st.integers(0, 45), every=st.integers(1, 9)
)
def test_a_range_of_steps(recorded: int, first: int, last: int | None, every: int) -> None:
    end = recorded - 1 if last is None else last
    if first > end or end >= recorded:
        with pytest.raises(Refused, match=r"range|cannot be exported"):
            Export(first=first, last=last, every=every).steps(recorded)
        return
    steps = Export(first=first, last=last, every=every).steps(recorded)
    assert steps[0] == first
    assert steps[-1] == end
    assert set(np.diff(steps[:-1])) <= {every}
    assert all(0 < gap <= every for gap in np.diff(steps[-2:]))


def test_the_range_is_what_is_written(tmp_path: Path) -> None:
    write(session(9, 1), tmp_path / "out", first=1, last=6, every=2)
    assert [int(row["step"]) for row in rows(tmp_path / "out")] == [1, 3, 5, 6]
    assert len(list((tmp_path / "out" / "frames").rglob("*.png"))) == 4
    with Image.open(tmp_path / "out" / "morph.png") as image:
        assert image.n_frames == 4


def test_class_names_of_any_kind_make_plain_file_names(tmp_path: Path) -> None:
    names = ("café au lait", "../../etc/passwd", "猫", "", "a" * 300, "CON\x00\n", "tench, Tinca tinca")
    run = session(2, 7, classes=names, names=tuple(f"{i}\udce9.png" for i in range(7)))
    write(run, tmp_path / "out")
    assert sorted(folder.name for folder in (tmp_path / "out" / "frames").iterdir()) == [
        "chain-01-cafe-au-lait",
        "chain-02-etc-passwd",
        "chain-03-class-2",
        "chain-04-class-3",
        f"chain-05-{'a' * 40}",
        "chain-06-con",
        "chain-07-tench-tinca-tinca",
    ]
    assert {row["target"] for row in rows(tmp_path / "out")} >= {"猫", "tench, Tinca tinca"}
    assert msgspec.json.decode((tmp_path / "out" / "run.json").read_bytes(), type=RunFile).starts[0] == "0?.png"


def test_numbers_that_are_none_can_be_exported(tmp_path: Path) -> None:
    run = session(3, 1)
    run._scalars["energy"][2] = np.nan
    write(run, tmp_path / "out")
    with Image.open(tmp_path / "out" / "frames" / "chain-01-horse" / "step-0002.png") as image:
        assert json.loads(image.info["cem-explorer"])["frame"]["energy"] is None
    assert rows(tmp_path / "out")[2]["energy"] == "nan"


def test_a_run_that_goes_on_can_be_exported(tmp_path: Path) -> None:
    run = session(3, 1)
    run.end = None
    write(run, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "run.json").read_bytes())["end"] is None


@pytest.mark.parametrize(("chains", "size", "scale"), [(1, 32, None), (3, 8, 1), (70, 8, 4), (2, 224, None)])
def test_the_sheet_has_a_row_for_each_chain_and_clips_nothing(
    tmp_path: Path, chains: int, size: int, scale: int | None
) -> None:
    classes = tuple(f"an exceedingly long class name, the {i}th of its kind" for i in range(10))
    run = session(12, chains, size=size, classes=classes)
    write(run, tmp_path / "out", formats=("sheet",), scale=scale)
    with Image.open(tmp_path / "out" / "sheet.png") as image:
        sheet = np.asarray(image)
    for edge in (sheet[:8], sheet[-8:], sheet[:, :8], sheet[:, -8:]):
        assert (edge == 255).all()
    zoom = layout.scale(Export(scale=scale), size, 10, min(chains, 64))
    last = places(sheet, to_uint8(run[11].pixels[0]).transpose(1, 2, 0).repeat(zoom, 0).repeat(zoom, 1))
    first = places(sheet, to_uint8(run[0].pixels[0]).transpose(1, 2, 0).repeat(zoom, 0).repeat(zoom, 1))
    assert len(last) == len(first) == 1
    assert last[0][0] == first[0][0]
    assert last[0][1] > first[0][1] + 9 * size * zoom


def places(whole: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """(y, x) wherever a picture is found in a larger one."""
    height, width, _ = part.shape
    corners = np.argwhere((whole == part[0, 0]).all(-1))
    return [(y, x) for y, x in corners.tolist() if np.array_equal(whole[y : y + height, x : x + width], part)]


def test_a_class_name_of_a_million_letters_is_cut(tmp_path: Path) -> None:
    run = session(2, 1, classes=("W" * 1_100_000,))
    write(run, tmp_path / "out", formats=("sheet",))
    with Image.open(tmp_path / "out" / "sheet.png") as image:
        assert max(image.size) < 2000


# Progress and cancel ----------------------------------------------------------------------------------------------


def test_progress_rises_to_its_total(tmp_path: Path) -> None:
    told = write(session(5), tmp_path / "out")
    assert [progress.done for progress in told] == list(range(8))
    assert {progress.total for progress in told} == {7}
    assert [progress.what for progress in told[-3:]] == ["Drawings", "Settings", "Done"]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_cancel_at_any_point_leaves_all_as_it_was(tmp_path: Path, earlier: bool) -> None:
    out = tmp_path / "deeper" / "still" / "out" if not earlier else tmp_path / "out"
    if earlier:
        write(session(2, 1, seed=1), out)
    before = contents(tmp_path)
    run = session(3, 2)
    points = 5  # 3 steps, the sheet, the settings
    for point in range(points):
        writing = export(run, out)
        for _ in range(point + 1):
            next(writing)
        assert contents(tmp_path) != before
        writing.close()
        assert contents(tmp_path) == before
    writing = export(run, out)
    for _ in range(points + 1):
        done = next(writing)
    assert done.done == done.total
    writing.close()
    assert {entry.name for entry in out.iterdir()} == ALL


def test_nothing_happens_before_the_first_step(tmp_path: Path) -> None:
    export(session(), tmp_path / "out").close()
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interruption_while_writing_leaves_nothing(
    tmp_path: Path, interruption: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(session(2, 1), tmp_path / "out")
    before = contents(tmp_path)

    def interrupted(*_: object) -> None:
        raise interruption

    monkeypatch.setattr(stills, "sheet", interrupted)
    with pytest.raises(interruption):
        write(session(), tmp_path / "out")
    assert contents(tmp_path) == before


# The folder -------------------------------------------------------------------------------------------------------


def test_an_empty_folder_and_an_earlier_export_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(session(9, 2), out)
    (out / ".DS_Store").touch()
    write(session(2, 1), out, formats=("png",))
    assert {entry.name for entry in tmp_path.iterdir()} == {"out"}
    assert {entry.name for entry in out.iterdir()} == {"run.json", "frames"}
    assert len(list(out.rglob("step-*.png"))) == 2


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(session(2, 1), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "run.json").exists()


def test_a_relative_path_with_strange_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(session(2, 1), Path("Bilder für Zoë/猫 1"))
    assert (tmp_path / "Bilder für Zoë" / "猫 1" / "run.json").exists()


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "all of it"},
        {"run.json": "{not json"},
        {"run.json": '{"program": "another"}'},
        {"run.json": "[]"},
        {"frames": "mine"},
    ],
)
def test_a_foreign_folder_is_refused_and_untouched(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(Refused, match=r"is not empty and was not made by CEM Explorer: choose another folder\.$"):
        export(session(), tmp_path)
    assert contents(tmp_path) == before


def test_an_export_with_something_of_the_user_inside_is_refused(tmp_path: Path) -> None:
    write(session(2, 1), tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(Refused, match=r"also holds notes\.txt, which is not part of an export"):
        export(session(), tmp_path / "out")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["run.json", "morph.png", "sheet.png", "curves.csv", "frames/chain-01-horse/step-0000.png", "frames/.DS_Store"],
)
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_something_else_under_a_name_of_ours_is_not_deleted(tmp_path: Path, name: str, kind: str) -> None:
    place = tmp_path / "out" / name
    write(session(2, 1), tmp_path / "out")
    (tmp_path / "run.json").write_bytes((tmp_path / "out" / "run.json").read_bytes())
    place.unlink(missing_ok=True)
    if kind == "folder":
        place.mkdir()
        (place / "thesis.tex").write_text("mine")
    else:
        place.symlink_to(tmp_path / "run.json")
    before = contents(tmp_path)
    sentence = "was not made by CEM Explorer" if name == "run.json" else f"also holds {name},"
    with pytest.raises(Refused, match=sentence):
        destination(tmp_path / "out")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["frames", "frames/chain-01-horse"])
def test_a_link_in_the_place_of_a_folder_of_frames_is_not_followed(tmp_path: Path, name: str) -> None:
    write(session(2, 1), tmp_path / "out")
    (tmp_path / "out" / name).rename(tmp_path / "moved")
    (tmp_path / "out" / name).symlink_to(tmp_path / "moved")
    with pytest.raises(Refused, match=f"also holds {name},"):
        destination(tmp_path / "out")


@pytest.mark.parametrize("kind", ["pipe", "nested", "large"])
def test_a_record_that_is_none_is_not_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "run.json"
    if kind == "pipe":
        os.mkfifo(record)
    else:
        record.write_text("[" * 100_000 if kind == "nested" else '{"program": "cem-explorer"}')
        monkeypatch.setattr(folder_module, "_LONGEST_RECORD", 2**20 if kind == "nested" else 20)
    with pytest.raises(Refused, match="was not made by CEM Explorer"):
        destination(tmp_path)


def test_a_folder_that_is_filled_meanwhile_is_refused(tmp_path: Path) -> None:
    writing = export(session(), tmp_path / "out")
    next(writing)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(Refused, match="was not made by CEM Explorer"):
        list(writing)
    assert contents(tmp_path) == {"out": None, "out/mine.txt": b"mine"}


def killed(out: Path, mark: str, earlier: Path | None = None) -> None:
    """What an export leaves when its program is killed; `earlier`: just when it was to take the place of that."""
    partial = out.with_name(f".{out.name}.partial-{mark}")
    (partial / "made").mkdir(parents=True)
    (partial / "made" / "morph.png").write_bytes(b"half of")
    (partial / "lock").touch()
    if earlier is not None:
        earlier.rename(out.with_name(f".{out.name}.earlier-{mark}"))


def test_what_a_kill_left_behind_is_put_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed(out, "abcd1234")
    write(session(2, 1), tmp_path / "other")
    assert {p.name for p in tmp_path.iterdir()} == {"other", ".out.partial-abcd1234"}  # not for others to decide
    write(session(2, 1), out)
    assert {p.name for p in tmp_path.iterdir()} == {"other", "out"}


def test_a_kill_between_two_renames_is_made_good(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(session(2, 1), out)
    before = contents(tmp_path)
    killed(out, "abcd1234", earlier=out)
    assert not out.exists()
    writing = export(session(), out)
    next(writing)
    writing.close()
    assert contents(tmp_path) == before
    write(session(), out)
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_an_export_in_progress_is_not_put_away(tmp_path: Path) -> None:
    first = export(session(), tmp_path / "out")
    next(first)
    write(session(2, 1), tmp_path / "out")
    assert len(list(first)) > 5
    assert {entry.name for entry in tmp_path.iterdir()} == {"out"}
    assert len(rows(tmp_path / "out")) == 7 * 3


def test_a_rename_that_fails_brings_the_earlier_export_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(session(2, 1), tmp_path / "out")
    before = contents(tmp_path)
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "made":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(Refused, match="Input/output error"):
        write(session(), tmp_path / "out")
    assert contents(tmp_path) == before


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for out, sentence in (
        (tmp_path / "file", "is a file, not a folder: choose another name"),
        (tmp_path / "file" / "out", "is a file, not a folder: choose another place"),
        (tmp_path / "file" / "out" / "deeper", "is a file, not a folder: choose another place"),
        (tmp_path / ("x" * 300), "is too long: nothing was exported"),
        (Path("/"), "cannot be replaced by an export"),
    ):
        with pytest.raises(Refused, match=sentence):
            export(session(), out)
        with pytest.raises(Refused, match=sentence):
            destination(out)

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", forbidden)
    with pytest.raises(Refused, match="cannot be written to: nothing was exported"):
        export(session(), tmp_path / "out")
    assert contents(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_folder_that_not_even_root_can_write() -> None:
    for out in ("/proc/out", "/proc/deeper/out"):
        with pytest.raises(Refused, match=rf"{out} cannot be written .*nothing was exported"):
            destination(out)
    with pytest.raises(Refused, match=r"/proc is a disk of its own .*: choose a new folder inside it"):
        destination("/proc")


@pytest.mark.parametrize("out", ["", "a\0b"])
def test_what_is_no_path_is_refused(out: str) -> None:
    with pytest.raises(Refused, match="needs a folder: give its path"):
        destination(out)


def test_the_current_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", "..", tmp_path / "here"):
        with pytest.raises(Refused, match=r"holds the current directory .*: choose a new folder inside it"):
            destination(out)
    assert destination("new") == tmp_path / "here" / "new"
    (tmp_path / "here").rmdir()
    assert destination(tmp_path / "other") == tmp_path / "other"
    with pytest.raises(Refused, match="nothing was exported"):
        destination("new")


def test_a_path_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert destination("~/out") == tmp_path / "out"
    assert destination(tmp_path / "~nobody-of-that-name") == tmp_path / "~nobody-of-that-name"
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("mode", [0o700, 0o2775])
def test_a_replaced_folder_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(mode)
    write(session(2, 1), tmp_path / "out", formats=())
    assert (tmp_path / "out").stat().st_mode & 0o7777 == mode


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "The disk is full: nothing was exported"),
        (errno.EDQUOT, "Your share of the disk is full"),
        (errno.EROFS, "is on a read-only disk"),
        (errno.EACCES, "cannot be written to"),
        (errno.EIO, "cannot be written .Input/output error"),
    ],
)
@pytest.mark.parametrize("name", ["step-0001.png", "morph.png", "sheet.png", "curves.csv", "run.json"])
def test_a_disk_that_fails_is_a_sentence(
    tmp_path: Path, number: int, sentence: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(session(2, 1), tmp_path / "out")
    before = contents(tmp_path)
    opened = Path.open

    def fails(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if self.name == name and mode != "rb" and "w" in mode:
            raise OSError(number, os.strerror(number))
        return opened(self, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(Refused, match=sentence):
        write(session(), tmp_path / "out")
    assert contents(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        return opened(Path("/dev/full") if "w" in mode else self, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", full)
    formats = [name for name in FORMATS if not missing(name)]
    for name in formats:
        with pytest.raises(Refused, match="The disk is full: nothing was exported"):
            write(session(4, 2, size=32), tmp_path / "out", formats=(name,))
        assert contents(tmp_path) == {}


def test_a_session_whose_own_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Session, "_read", fails)
    with pytest.raises(Refused, match="Input/output error"):
        write(session(6, 2, budget=1), tmp_path / "out")
    assert contents(tmp_path) == {}


# Choices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"formats": ("tiff",)}, "There is no format tiff: choose from png, sheet, apng, webp,"),
        ({"first": -1}, "no range"),
        ({"first": 3, "last": 2}, "no range"),
        ({"every": 0}, "must be 1 or more, not 0"),
        ({"scale": 0}, "between 1 and 64, not 0"),
        ({"scale": 65}, "between 1 and 64"),
        ({"layout": "mosaic"}, "There is no layout mosaic: choose from image, difference, original, curves"),
        ({"gain": 3}, "1, 2, 4, 8, 16, 32 times, not 3 times"),
        ({"hold": -1}, "between 0 and|for 0 to 10 seconds, not -1"),
        ({"hold": float("nan")}, "for 0 to 10 seconds, not nan"),
        ({"fps": 0}, "between 0.1 and 120"),
        ({"fps": float("nan")}, "between 0.1 and 120, not nan"),
        ({"fps": float("inf")}, "between 0.1 and 120"),
    ],
)
def test_choices_that_make_no_sense(choices: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        Export(**choices)


def test_choices_that_do_not_fit_the_run(tmp_path: Path) -> None:
    run = session(5, 4, size=100)
    with pytest.raises(Refused, match="Steps 0 to 5 cannot be exported: steps 0 to 4 are recorded"):
        export(run, tmp_path / "out", Export(last=5))
    with pytest.raises(Refused, match="nothing to export yet"):
        export(session(0), tmp_path / "out")
    with pytest.raises(Refused, match="12,800×12,800 pixels is too large: choose a smaller scale"):
        export(run, tmp_path / "out", Export(scale=64))
    assert contents(tmp_path) == {}
    write(run, tmp_path / "out", scale=64, formats=("csv",))
    shutil.rmtree(tmp_path / "out")
