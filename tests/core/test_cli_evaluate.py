"""evaluate and table on the command line: what is printed, what is left, and one line for bad input."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result
from PIL import Image

from cem_core import cli
from cem_core.evaluation import evaluating
from cem_core.evaluation.evaluating import RECORD
from cem_core.evaluation.report import FILES, MARKDOWN, PNG, REFERENCE, SAMPLES, SHEET
from cem_core.evaluation.report import RECORD as TABLE

SIDE, IMAGES, NUM = 16, 120, 100


def command(*arguments: object) -> Result:
    """With nothing on a terminal."""
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def ran(*arguments: object) -> Result:
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result


def refused(*arguments: object, code: int = 1) -> str:
    """One line on stderr; of what click refuses, the last."""
    result = command(*arguments)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 or code == 2
    assert lines[-1].startswith("Error: ")
    return lines[-1]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("real"), np.random.default_rng(1)
    for number in range(IMAGES):
        path = folder / tiny.CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small classifiers, and judge, which sees features."""
    folder = tmp_path_factory.mktemp("nets")
    for seed, name in enumerate(("one", "two", "judge")):
        tiny.saved(folder / f"{name}.safetensors", tiny.weights(seed))
    return folder


@pytest.fixture
def against(real: Path, nets: Path) -> list[object]:
    return ["--reference", real, "--extractor", nets / "judge.safetensors"]


@pytest.fixture
def made(nets: Path) -> list[object]:
    return ["--checkpoint", nets / "one.safetensors", "--sampler", "TA", "--start", "noise", "--steps", 2, "--num", NUM,
            "--batch", 50]  # fmt: skip


@pytest.fixture
def tabled(nets: Path) -> list[object]:
    return ["--checkpoint", nets / "one.safetensors", "--rows", "starts,ta", "--start", "noise", "--steps", 2, "--num",
            NUM, "--batch", 50, "--seeds", "0,1"]  # fmt: skip


def left(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes())
    assert isinstance(found, dict)
    return found


# evaluate ---------------------------------------------------------------------------------------------------------


def test_samples_are_made_and_compared_under_honest_names(
    made: list[object], against: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    printed = ran("evaluate", *made, *against, "--out", out).stdout
    scores = left(out / RECORD)["scores"]
    first, kernel, score, precision, recall, *notes = printed.splitlines()
    assert first == (
        f"Fréchet distance (judge)  {scores['frechet']:.5g}  (floor {scores['floor']:.4g}, 100 samples against 120 "
        "real images)"
    )
    assert kernel.startswith(f"kernel distance (judge)  {scores['kernel']:.4g} ± ")
    assert score.startswith(f"class score (judge)  {scores['score']:.4g} ± ")
    assert precision == f"precision  {scores['precision']:.3f}  (100 samples against 100 real images)"
    assert recall.startswith(f"recall  {scores['recall']:.3f}  ")
    assert "FID" not in printed
    assert all(note.startswith("note  ") for note in notes)
    assert len(list((out / SAMPLES).glob("shard-*.npz"))) == 2
    assert ran("evaluate", *made, *against, "--out", out).stdout == printed


def test_samples_that_are_there_give_the_same_numbers(
    made: list[object], against: list[object], tmp_path: Path
) -> None:
    ran("sample", *made, "--out", tmp_path / "samples")
    apart = json.loads(ran("evaluate", tmp_path / "samples", *against, "--out", tmp_path / "1", "--json").stdout)
    whole = json.loads(ran("evaluate", *made, *against, "--out", tmp_path / "2", "--json").stdout)
    assert apart["frechet"] == whole["frechet"]
    assert (apart["num"], apart["reference"], apart["inception"]) == (100, 120, False)
    assert apart["names"]["frechet"] == "Fréchet distance (judge)"
    assert (apart["checkpoint"], whole["checkpoint"]) == (None, "one.safetensors")


def test_what_does_not_go_together_is_one_sentence(
    made: list[object], against: list[object], real: Path, nets: Path, tmp_path: Path
) -> None:
    out = ["--out", tmp_path / "out"]
    assert "Give DIR; or --sampler or --checkpoint" in refused("evaluate", *against, *out, code=2)
    told = refused("evaluate", real, "--num", 5, *against, *out, code=2)
    assert "--num is of samples that are made: leave it out, or DIR." in told
    told = refused("evaluate", real, *against, "--weights", "w.pth", *out, code=2)
    assert "--weights is of inception" in told
    assert "nowhere" in refused("evaluate", tmp_path / "nowhere", *against, *out)
    assert "There is no model or file" in refused("evaluate", real, "--reference", real, "--extractor", "ghost", *out)
    assert "Several workers need Ray" in refused("evaluate", *made, *against, *out, "--workers", 2)
    assert not (tmp_path / "out").exists()


def test_without_an_extractor_and_the_weights_of_inception_one_must_be_named(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    told = refused("evaluate", real, "--reference", real, "--out", tmp_path / "out")
    assert told.startswith("Error: Say what sees features: --extractor FILE")
    told = refused("evaluate", real, "--reference", real, "--extractor", "inception", "--out", tmp_path / "out")
    assert "The weights of Inception are not here" in told


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Somebody presses Ctrl-C after so many numbers of samples."""
    counted, found = iter(range(after)), evaluating.scores

    def scores(*args: Any, **named: Any) -> Any:
        if next(counted, None) is None:
            raise KeyboardInterrupt
        return found(*args, **named)

    monkeypatch.setattr(evaluating, "scores", scores)


def test_an_interrupted_evaluation_goes_on(
    made: list[object], against: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        interrupted(context, 0)
        result = command("evaluate", *made, *against, "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr == "Interrupted (features): the same command goes on from there.\n"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    ran("evaluate", *made, *against, "--out", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == before


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals here")
def test_on_a_terminal_there_is_a_table(made: list[object], against: list[object], tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "cem_core.cli", "evaluate", *made, *against, "--out", tmp_path]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(list(map(str, line)), stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert process.returncode == 0, text
    assert re.search(r"number +value +floor +samples +real images", text)
    assert re.search(r"Fréchet distance \(judge\) +[\d.]+ +[\d.]+ +100 +120", text)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


def test_so_many_real_images_are_compared_with(made: list[object], against: list[object], tmp_path: Path) -> None:
    printed = ran("evaluate", *made, *against, "--num-reference", 110, "--out", tmp_path / "out").stdout
    assert "100 samples against 110 real images" in printed
    assert left(tmp_path / "out" / RECORD)["scores"]["reference"] == 110
    few = refused("evaluate", *made, *against, "--num-reference", 99, "--out", tmp_path / "few")
    assert "99 real images, and fewer than 100 tell nothing" in few


# table ------------------------------------------------------------------------------------------------------------


def test_a_table_is_made(tabled: list[object], against: list[object], tmp_path: Path) -> None:
    printed = ran("table", *tabled, *against, "--out", tmp_path).stdout.splitlines()
    assert [line.split("  ")[0] for line in printed[:3]] == ["floor", "starts, noise", "TA, noise"]
    of = "(100 samples of each row and seed against 120 real images)"
    assert all("Fréchet distance (judge) " in line and line.endswith(of) for line in printed[:3])
    assert all("±" in line for line in printed[1:3])
    assert printed[3].startswith("one.safetensors: TA, noise has the lowest Fréchet distance (judge), ")
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, REFERENCE, "starts, noise", "TA, noise"}
    lines = list(csv.DictReader((tmp_path / SHEET).read_text(encoding="utf-8").splitlines()))
    of_each = {(line["row"], line["seed"]): float(line["frechet"]) for line in lines}
    for row in ("starts, noise", "TA, noise"):
        cells = [left(tmp_path / row / f"seed-{seed}" / RECORD)["scores"]["frechet"] for seed in (0, 1)]
        assert [of_each[row, str(seed)] for seed in (0, 1)] == pytest.approx(cells)
        assert of_each[row, "all"] == pytest.approx(np.mean(cells))
        assert cells[0] != cells[1], "seeds are other samples"
    with Image.open(tmp_path / PNG) as picture:
        picture.load()
        assert picture.width > 800


def test_an_interrupted_table_says_what_is_measured_and_goes_on_to_the_same(
    tabled: list[object], against: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        interrupted(context, 3)
        result = command("table", *tabled, *against, "--out", tmp_path / "out")
    assert result.exit_code == 130
    (said,) = result.stderr.splitlines()
    assert "3 of 4 cells" in said
    assert said.endswith(f"{tmp_path / 'out' / MARKDOWN}: the same command goes on from there.")
    partial = (tmp_path / "out" / MARKDOWN).read_text(encoding="utf-8")
    assert "**Unfinished: 3 of 4 cells" in partial
    assert "(1 of 2 seeds)" in partial
    with monkeypatch.context() as context:  # and again at once: nothing is lost
        interrupted(context, 0)
        assert command("table", *tabled, *against, "--out", tmp_path / "out").exit_code == 130
    assert (tmp_path / "out" / MARKDOWN).read_text(encoding="utf-8") == partial
    ran("table", *tabled, *against, "--out", tmp_path / "out")
    ran("table", *tabled, *against, "--out", tmp_path / "whole")
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_row_and_a_seed_more_are_made_on_top(
    tabled: list[object], against: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran("table", *tabled, *against, "--out", tmp_path)
    before = left(tmp_path / TABLE)["rows"]
    counted: list[int] = []
    scores = evaluating.scores
    monkeypatch.setattr(evaluating, "scores", lambda *a, **k: counted.append(1) or scores(*a, **k))
    more = [*tabled, "--rows", "ta,cs,starts", "--seeds", "0,1,2"]
    found = json.loads(ran("table", *more, *against, "--out", tmp_path, "--json").stdout)
    assert len(counted) == 9 - 4
    assert found["complete"] is True
    by_name = {row["name"]: row["seeds"] for row in found["rows"]}
    assert all(by_name[row["name"]][seed] == row["seeds"][seed] for row in before for seed in ("0", "1"))


def test_a_sweep_is_of_every_classifier(against: list[object], nets: Path, tmp_path: Path) -> None:
    models = [part for name in ("one", "two") for part in ("--checkpoint", nets / f"{name}.safetensors")]
    printed = ran("table", *models, "--rows", "starts", "--sweep", "--start", "noise", "--steps", 2, "--num", 100,
                  "--seeds", 0, *against, "--out", tmp_path).stdout  # fmt: skip
    rows = left(tmp_path / TABLE)["request"]["rows"]
    swept = [row for row in rows if row["name"].startswith("b = ")]
    assert [row["sampler"]["b"] for row in swept] == [-1, -0.5, 0, 0.5, 1] * 2
    assert {(row["sampler"]["a"], row["sampler"].get("noise", 0), row["sampler"]["steps"]) for row in swept} == {
        (1, 0, 2)
    }
    for name in ("one", "two"):
        assert re.search(rf"^{name}.safetensors: .*The sweep of b, the nearest first: b = \S+, noise, {name}", printed,
                         re.MULTILINE)  # fmt: skip
    assert "a single seed says nothing of others" in printed


def test_rows_that_cannot_be_are_refused_before_anything_is_made(
    tabled: list[object], against: list[object], nets: Path, tmp_path: Path
) -> None:
    out = ["--out", tmp_path / "out"]
    assert "There is no row 'SGLD'" in refused("table", *tabled, "--rows", "SGLD", *against, *out)
    assert "MaxEnt needs an encoder" in refused("table", *tabled, "--rows", "MaxEnt", *against, *out)
    assert "--seeds" in refused("table", *tabled, "--seeds", "0,x", *against, *out, code=2)
    assert "its seeds be different" in refused("table", *tabled, "--seeds", "1,1", *against, *out)
    assert not (tmp_path / "out").exists()
    other = tiny.saved(tmp_path / "other.safetensors", image_size="24")
    told = refused("table", *tabled, "--checkpoint", other, "--rows", "TA", *against, *out)
    assert "one.safetensors makes images of 16 pixels and other.safetensors of 24" in told
    few = refused("table", *tabled, "--num", 99, *against, "--out", tmp_path / "few")
    assert "99 samples, and fewer than 100 tell nothing" in few


def test_a_folder_with_a_table_of_somebody_else_is_left_alone(
    tabled: list[object], against: list[object], tmp_path: Path
) -> None:
    (tmp_path / SHEET).write_text("theirs")
    assert "was not made by cem-explorer table" in refused("table", *tabled, *against, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [SHEET]
