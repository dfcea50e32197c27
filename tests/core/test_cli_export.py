"""`cem-explorer export`, the export options of `morph`, and `morph --run`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result
from PIL import Image
from scenarios_session import session

from cem_core import bundle, cli, export
from cem_core.export import FORMATS, GAINS, LAYOUTS, Export
from cem_core.export.command import command
from cem_core.session import Session

CAT = next(path for path in bundle.samples() if path.name == "cat-1.jpg")
HORSE = next(path for path in bundle.samples() if path.name == "horse-1.jpg")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def ran(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def failed(*arguments: object) -> str:
    """The one line on stderr."""
    result = run(*arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), "no traceback"
    return result.stderr.splitlines()[-1]


def record(out: Path) -> dict[str, Any]:
    found = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def frames(out: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted((out / "frames").rglob("*.png")):
        with Image.open(path) as image:
            found[path.relative_to(out).as_posix()] = np.asarray(image)
    return found


def assert_equal(one: Path, other: Path) -> None:
    ours, theirs = frames(one), frames(other)
    assert list(ours) == list(theirs)
    assert ours
    assert all(np.array_equal(pixels, theirs[name]) for name, pixels in ours.items())


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sessions are, with one in it, called `one`."""
    monkeypatch.setenv("CEM_EXPLORER_SESSIONS", str(tmp_path / "sessions"))
    recorded = Session.record(tmp_path / "sessions" / "one", session().start)
    for step in session():
        recorded.append(step)
    recorded.close()
    return tmp_path / "sessions"


# Options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["morph", "demo", "export"])
def test_the_help_names_all_that_there_is(name: str) -> None:
    text = ran(name, "--help").output
    for word in (*FORMATS, *LAYOUTS, str(GAINS[-1])):
        assert word in text


def test_what_is_not_said_is_as_in_the_window(home: Path, tmp_path: Path) -> None:
    ran("export", "one", "--out", tmp_path / "out")
    choices = export.read(tmp_path / "out" / "run.json").exported  # type: ignore[union-attr]
    assert choices is not None
    assert set(choices.formats) == set(Export().formats)
    assert Export(formats=choices.formats) == choices


def test_every_option_is_in_the_record(home: Path, tmp_path: Path) -> None:
    ran(
        *("export", "one", "--out", tmp_path / "out", "--format", "csv", "--formats", "apng,csv", "--range", "1:5"),
        *("--every", 2, "--layout", "difference", "--gain", 16, "--captions", "--scale", 2, "--fps", 8, "--hold", 1.5),
        *("--ease", "--once"),
    )
    assert record(tmp_path / "out")["exported"] == {
        "formats": ["csv", "apng"], "first": 1, "last": 5, "every": 2, "layout": "difference", "gain": 16,
        "captions": True, "scale": 2, "fps": 8, "hold": 1.5, "ease": True, "loop": False,
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json", "curves.csv", "morph.png"}


@pytest.mark.parametrize(
    ("text", "first", "last"), [(":", 0, None), ("3:", 3, None), (":4", 0, 4), (" 2 : 4 ", 2, 4), ("5:5", 5, 5)]
)
def test_a_range(home: Path, tmp_path: Path, text: str, first: int, last: int | None) -> None:
    ran("export", "one", "--out", tmp_path / "out", "--format", "csv", "--range", text)
    exported = record(tmp_path / "out")["exported"]
    assert (exported["first"], exported["last"]) == (first, last)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--range", "3"), "'3' is not FIRST:LAST."),
        (("--range", "a:b"), "'a:b' is not FIRST:LAST."),
        (("--range", "1:2:3"), "'1:2:3' is not FIRST:LAST."),
        (("--range", "-3:"), "Steps -3 to None are no range"),
        (("--range", "5:2"), "Steps 5 to 2 are no range"),
        (("--range", "0:99"), "Steps 0 to 99 cannot be exported: steps 0 to 6 are recorded."),
        (("--layout", "mosaic"), "'mosaic' is not one of 'image', 'difference', 'original', 'curves'."),
        (("--gain", 5), "not 5 times."),
        (("--hold", "nan"), "The ends can be held for 0 to 10 seconds, not nan."),
        (("--format", "tiff"), "There is no format tiff: choose from png, sheet,"),
    ],
)
def test_what_makes_no_sense_is_said(home: Path, tmp_path: Path, arguments: tuple[object, ...], sentence: str) -> None:
    assert sentence in failed("export", "one", "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_what_lossy_formats_keep_is_said_first(home: Path, tmp_path: Path) -> None:
    result = ran("export", "one", "--out", tmp_path / "out", "--format", "apng,gif,webp-lossy")
    assert result.stdout == ""
    gif, webp = result.stderr.splitlines()
    assert gif.startswith("gif keeps ")
    assert webp.startswith("webp-lossy keeps ")
    assert " % of the perturbation (cosine " in gif


# Sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_is_exported_by_its_name_and_its_folder(home: Path, tmp_path: Path) -> None:
    ran("export", "one", "--out", tmp_path / "a", "--format", "png")
    ran("export", home / "one", "--out", tmp_path / "b", "--format", "png")
    for _ in export.export(session(), tmp_path / "c", Export(formats=("png",))):
        pass
    assert_equal(tmp_path / "a", tmp_path / "b")
    assert_equal(tmp_path / "a", tmp_path / "c")


def test_a_session_that_is_none(home: Path, tmp_path: Path) -> None:
    assert "There is no session called two" in failed("export", "two", "--out", tmp_path / "out")
    assert "is not empty and was not made by CEM Explorer" in failed("export", "one", "--out", home)


# The same run again -----------------------------------------------------------------------------------------------


@pytest.fixture
def before(net: Path, tmp_path: Path) -> Path:
    """A run of two images towards two classes, exported."""
    ran(
        *("morph", CAT, HORSE, "--target", "dog", "--target", "horse", "--checkpoint", net, "--sampler", "RCS"),
        *("--steps", 4, "--seed", 3, "--formats", "png,webp", "--out", tmp_path / "before"),
    )
    return tmp_path / "before"


@pytest.mark.parametrize("carrier", ["run.json", "morph.webp", "frames/chain-03-horse/step-0002.png"])
def test_a_run_is_run_again_from_what_carries_it(before: Path, tmp_path: Path, carrier: str) -> None:
    ran("morph", "--run", before / carrier, "--formats", "png", "--out", tmp_path / "again")
    assert_equal(before, tmp_path / "again")
    assert record(before)["spec"]["id"] != record(tmp_path / "again")["spec"]["id"]


def test_the_copied_line_makes_the_same_run(before: Path, tmp_path: Path) -> None:
    import shlex

    known = export.read(before / "run.json")
    assert known is not None
    line = command(known, out=str(tmp_path / "again"))
    assert "--run" not in line
    ran(*shlex.split(line)[1:], "--formats", "png")
    assert_equal(before, tmp_path / "again")


def test_what_was_changed_on_the_way_is_changed_again(before: Path, tmp_path: Path) -> None:
    """And the run is as long as it was, not as long as it was meant to be."""
    known = record(before)
    changed = known["spec"]["sampler"] | {"a": -2.0, "noise": 0.0, "steps": 50}
    known["changes"] = [{"step": 3, "sampler": changed}]
    known["steps"] = 7
    (tmp_path / "run.json").write_text(json.dumps(known))
    for name in ("one", "two"):
        ran("morph", "--run", tmp_path / "run.json", "--formats", "png,csv", "--out", tmp_path / name)
    assert_equal(tmp_path / "one", tmp_path / "two")
    with (tmp_path / "one" / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = [(int(row["step"]), float(row["a"])) for row in csv.DictReader(file) if row["chain"] == "1"]
    assert rows == [(0, 1), (1, 1), (2, 1), *((step, -2) for step in range(3, 7))]
    assert record(tmp_path / "one")["changes"] == known["changes"]
    ours, theirs = frames(tmp_path / "one"), frames(before)
    same = [name for name in theirs if np.array_equal(ours[name], theirs[name])]
    assert {name[-8:] for name in same} == {"0000.png", "0001.png", "0002.png"}


def test_a_session_is_run_again(net: Path, home: Path, tmp_path: Path) -> None:
    ran("morph", CAT, "--target", "dog", "--checkpoint", net, "--steps", 3, "--session", home / "two",
        "--formats", "png", "--out", tmp_path / "before")  # fmt: skip
    ran("morph", "--run", "two", "--formats", "png", "--out", tmp_path / "again")
    assert_equal(tmp_path / "before", tmp_path / "again")


def test_another_checkpoint_of_the_same_name_is_said(before: Path, tmp_path: Path) -> None:
    known = record(before)
    known["checkpoint"]["sha256"] = "00" * 32
    (tmp_path / "run.json").write_text(json.dumps(known))
    result = ran("morph", "--run", tmp_path / "run.json", "--formats", "png", "--out", tmp_path / "again")
    assert result.stderr == "Note: tiny.safetensors is another file than that of the run.\n"


@pytest.mark.parametrize(
    "more", [(CAT,), ("--target", "dog"), ("--steps", 3), ("--seed", 0), ("--sampler", "TA"), ("--plain",)]
)
def test_nothing_else_can_be_said_of_a_run_that_is_run_again(
    before: Path, tmp_path: Path, more: tuple[object, ...]
) -> None:
    assert "--run says all of a run: leave" in failed(
        "morph", *more, "--run", before / "run.json", "--out", tmp_path / "x"
    )


def test_what_carries_no_run(tmp_path: Path) -> None:
    assert f"{CAT.name} carries no run" in failed("morph", "--run", CAT, "--out", tmp_path / "x")
    (tmp_path / "run.json").write_text("{")
    assert "carries settings of a run that cannot be read" in failed(
        "morph", "--run", tmp_path / "run.json", "--out", tmp_path / "x"
    )
