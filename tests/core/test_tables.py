from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cem_core.evaluation.report import FILES, MARKDOWN, PNG, RECORD, SHEET, SVG, Mean, Report, mean, student
from cem_core.evaluation.requests import Table
from cem_core.evaluation.results import Plan, Scores
from cem_core.evaluation.rows import Model, rows
from cem_core.messages import Checkpoint, Refused
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import Data, Subject

ROBUST = Model("robust", Subject("/models/robust.pt"), False)
ENCODER = Model("contrast", Subject("/models/contrast.pt"), True)


def table(*models: Model, seeds: tuple[int, ...] = (0, 1, 2), **asked: Any) -> Table:
    lines = rows(models or (ROBUST, ENCODER), **asked)
    return Table(rows=lines, reference=Data("/data/pets", "test"), extractor=Subject("judge.pt"), num=200, seeds=seeds)


def checkpoint(name: str) -> Checkpoint:
    classes = () if name == "contrast" else ("cat", "dog")
    return Checkpoint(name, f"/models/{name}.pt", name[0] * 64, "A net", "net", 1000, classes, 3, 32, ())


def scores(frechet: float, **more: Any) -> Scores:
    known: dict[str, Any] = {"extractor": "judge", "inception": False, "num": 200, "reference": 1000, "floor": 1.5,
                             "kernel": 0.01, "kernel_deviation": 0.001, "score": 5.0, "score_deviation": 0.1,
                             "precision": 0.5, "recall": 0.25, "compared": 200}  # fmt: skip
    return Scores(frechet=frechet, **known | more)


def reported(request: Table, distances: dict[str, list[float]], **more: Any) -> Report:
    """By the name of a row: the distance of each seed as far as they are known."""
    report = Report(request)
    for number, row in enumerate(request.rows):
        for seed, frechet in zip(request.seeds, distances.get(row.name, ()), strict=False):
            known = checkpoint(Path(row.subject.reference).stem)
            report.add(number, seed, Plan(request.evaluation(row, seed), known, known.classes, 200, 2, 0, "CPU",
                                          ("Something is to be known.",), {"torch": "2"}))  # fmt: skip
            report.add(number, seed, scores(frechet, **more))
    return report


def lines(report: Report) -> dict[str, list[str]]:
    """The cells of the first table of the Markdown, by row."""
    found = [line for line in report.markdown().split("## ")[0].splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in found)}


# The interval -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (11, 2.201), (15, 2.131), (30, 2.042), (100, 1.984),
     (1000, 1.962)],
)  # fmt: skip
def test_the_quantiles_are_the_tabled_ones(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=6e-4)


def test_the_interval_is_that_of_student() -> None:
    """Of 1, 2, 3: the mean 2, the deviation 1, and 4.3027/√3 either way."""
    known = mean([1, 2, 3])
    assert known == pytest.approx((2, 4.3027 / math.sqrt(3), 3))
    assert (known.low, known.high) == pytest.approx((-0.4842, 4.4842), abs=1e-4)
    assert mean([7, 7, 7]) == Mean(7, 0, 3)


def test_a_single_seed_has_no_interval() -> None:
    known = mean([48.21])
    assert known.value == 48.21
    assert math.isnan(known.half)
    assert str(known) == "48.21"


@pytest.mark.parametrize(
    ("value", "half", "told"),
    [(48.213, 1.34, "48.2 ± 1.3"), (148.213, 13.4, "148 ± 13"), (0.012345, 0.00042, "0.01235 ± 0.00042"),
     (1480, 260, "1480 ± 260"), (0.5, 0, "0.5")],
)  # fmt: skip
def test_numbers_are_told_to_two_digits_of_their_uncertainty(value: float, half: float, told: str) -> None:
    assert str(Mean(value, half, 3)) == told


def test_the_interval_covers_what_it_says() -> None:
    """Of 3 normal draws, in 95 of 100 cases."""
    random = np.random.default_rng(0)
    found = [mean(random.normal(5, 2, 3).tolist()) for _ in range(4000)]
    assert np.mean([known.low <= 5 <= known.high for known in found]) == pytest.approx(0.95, abs=0.012)


# The rows ---------------------------------------------------------------------------------------------------------


def test_the_rows_are_those_of_the_paper_and_the_starts() -> None:
    found = rows([ROBUST, ENCODER])
    assert [(row.name, row.subject.reference, row.start) for row in found] == [
        ("starts", "/models/robust.pt", "gaussian"),
        ("starts, overall", "/models/contrast.pt", "overall"),
        *((name, "/models/robust.pt", "gaussian") for name in ("TA", "Langevin", "CS", "RCS")),
        ("PGD-unsup", "/models/contrast.pt", "gaussian"),
        ("MaxEnt", "/models/contrast.pt", "gaussian"),
        ("PGD-unsup, overall", "/models/contrast.pt", "overall"),
        ("MaxEnt, overall", "/models/contrast.pt", "overall"),
    ]
    assert found[2].sampler == SAMPLERS["TA"]
    assert found[-1].sampler == SAMPLERS["MaxEnt"]
    still = found[0].sampler
    assert (still.a, still.b, still.noise, still.steps, still.radius) == (0, 0, 0, 1, None)


def test_models_without_a_row_leave_none() -> None:
    assert [row.name for row in rows([ROBUST])] == ["starts", "TA", "Langevin", "CS", "RCS"]
    assert [row.name for row in rows([ENCODER], start="overall")] == ["starts, overall", "PGD-unsup, overall",
                                                                      "MaxEnt, overall"]  # fmt: skip


def test_a_sweep_runs_over_b_without_noise_on_every_classifier() -> None:
    other = Model("plain", Subject("/models/plain.pt"), False)
    found = rows([ROBUST, other, ENCODER], ["rcs"], sweep=True, steps=7)
    assert [row.name for row in found] == [
        name
        for model in ("robust", "plain")
        for name in (f"RCS, {model}", *(f"b = {b}, {model}" for b in ("-1", "-0.5", "0", "0.5", "1")))
    ]
    swept = [row.sampler for row in found if row.name.startswith("b = ")]
    assert [sampler.b for sampler in swept] == [-1, -0.5, 0, 0.5, 1] * 2
    assert {(sampler.a, sampler.noise, sampler.steps) for sampler in swept} == {(1, 0, 7)}


def test_rows_are_named_and_come_once() -> None:
    assert [row.name for row in rows([ROBUST, ENCODER], ["maxent", "STARTS", "MaxEnt", "TA"], start="gaussian")] == [
        "starts", "TA", "MaxEnt"
    ]  # fmt: skip
    with pytest.raises(Refused, match="There is no row 'SGLD': choose among starts, TA, CS,"):
        rows([ROBUST], ["SGLD"])
    with pytest.raises(Refused, match="MaxEnt needs an encoder, and no model given is one"):
        rows([ROBUST], ["MaxEnt"])
    with pytest.raises(Refused, match="TA needs a classifier, and no model given is one"):
        rows([ENCODER], ["TA"])
    with pytest.raises(Refused, match="A sweep of b needs a classifier"):
        rows([ENCODER], sweep=True)


# Adding up --------------------------------------------------------------------------------------------------------

WHOLE = {
    "starts": [60.0, 61, 62], "starts, overall": [80.0, 81, 82], "TA": [50.0, 51, 52], "Langevin": [70.0, 71, 72],
    "CS": [30.0, 31, 32], "RCS": [50.5, 51.5, 52.5], "PGD-unsup": [90.0, 91, 92], "MaxEnt": [40.0, 41, 42],
    "PGD-unsup, overall": [95.0, 96, 97], "MaxEnt, overall": [55.0, 56, 57],
}  # fmt: skip


def test_cells_add_up_to_means() -> None:
    report = reported(table(), WHOLE)
    assert report.complete
    assert (report.measured, report.expected) == (30, 30)
    assert report.mean(2, "frechet") == mean([50, 51, 52])
    assert report.mean(2, "precision") == Mean(0.5, 0, 3)
    assert report.names["frechet"] == "Fréchet distance (judge)"
    assert report.notes == ["Something is to be known."]


def test_only_inception_makes_a_fid() -> None:
    assert reported(table(), WHOLE, inception=True).names["frechet"] == "FID"
    said = reported(table(), WHOLE).markdown()
    assert "no FID" in said
    assert "| FID" not in said
    assert "no FID" not in reported(table(), WHOLE, inception=True).markdown()


def test_the_table_has_the_floor_the_means_and_the_paper() -> None:
    found = lines(reported(table(), WHOLE))
    assert found["row"] == ["model", "Fréchet distance (judge) ↓", "kernel distance (judge) ↓", "class score (judge) ↑",
                            "precision ↑", "recall ↑", "the paper's FID ↓", "its Inception score ↑"]  # fmt: skip
    assert found["floor"] == ["real images", "1.5", "", "", "", "", "", ""]
    assert found["starts"][:2] == ["not moved", "61.0 ± 2.5"]
    assert found["RCS"] == ["robust", "51.5 ± 2.5", "0.01", "5", "0.5", "0.25", "55.91", "9.80"]
    assert found["MaxEnt, overall"][-2:] == ["41.80 (ResNet18), 44.86 (ResNet50)", "8.24 (ResNet18), 9.57 (ResNet50)"]
    said = reported(table(), WHOLE).markdown()
    assert "200 samples of each row and seed against 1,000 real images of pets, test, in the features of judge" in said
    assert "500 each: what no sampler can be expected to pass" in said
    assert "in Inception features, of 50,000 samples" in said
    assert "Unfinished" not in said


def test_the_settings_of_each_row_are_below_it() -> None:
    said = reported(table(), WHOLE).markdown().split("## Settings")[1]
    found = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")]
                                               for line in said.splitlines() if line.startswith("|"))}  # fmt: skip
    assert found["RCS"] == ["robust", "gaussian", "1", "1", "0.25", "0.01", "L2", "none", "60", "alone"]
    assert found["MaxEnt, overall"][1:4] == ["overall", "0", "-1"]
    assert found["MaxEnt"][-1] == "coupled"
    assert found["starts"][-2] == "0"
    assert f"robust: SHA-256 `{'r' * 64}`" in said
    assert "- Something is to be known." in said


def test_an_encoder_without_classes_has_no_score() -> None:
    found = lines(reported(table(), WHOLE, score=None, score_deviation=None))
    assert "class score (judge) ↑" not in found["row"]
    assert len(found["RCS"]) == len(found["row"]) == len(found["floor"]) == 7


def test_rows_of_the_paper_are_told_by_the_kind_of_model() -> None:
    """A sampler that bears the same name, on another kind of model, is another thing."""
    request = table(Model("contrast", ENCODER.subject, False))
    assert lines(reported(request, {"Langevin": [1.0, 2, 3]}))["Langevin"][-2:] == ["", ""]


# What came nearest ------------------------------------------------------------------------------------------------


def test_what_contradicts_the_paper_is_said() -> None:
    robust, contrast = reported(table(), WHOLE).verdicts()
    assert robust == (
        "robust: CS has the lowest Fréchet distance (judge), 31.0 ± 2.5; next is TA with 51.0 ± 2.5, and their "
        "intervals do not overlap. Of the rows that the paper has, RCS is best there (FID 55.91, ResNet50) and CS "
        "here, with 31.0 ± 2.5 against 51.5 ± 2.5: this contradicts the paper. No nearer than the starts that it "
        "began with: Langevin."
    )
    assert "MaxEnt is best here as there (FID 36.44, ResNet18)." in contrast
    assert contrast.endswith("No nearer than the starts that they began with: PGD-unsup, PGD-unsup, overall.")


def test_what_is_not_sure_is_said_to_be_so() -> None:
    (said,) = reported(table(ROBUST), {"TA": [50.0, 51, 52], "RCS": [51.0, 52, 53]}).verdicts()
    assert "next is RCS with 52.0 ± 2.5, though their intervals overlap." in said
    assert said.endswith("against 52.0 ± 2.5, though their intervals overlap.")
    assert "contradicts" not in said
    (said,) = reported(table(ROBUST, seeds=(4,)), {"TA": [50.0], "RCS": [80.0]}).verdicts()
    assert "next is RCS with 80, though a single seed says nothing of others." in said
    assert "contradicts" not in said


# Files ------------------------------------------------------------------------------------------------------------


def test_all_files_are_written(tmp_path: Path) -> None:
    report = reported(table(), WHOLE)
    report.write(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)
    record = json.loads((tmp_path / "out" / RECORD).read_bytes())
    assert record["complete"] is True
    assert record["rows"][2]["means"]["frechet"] == pytest.approx({"mean": 51, "low": 48.5159, "high": 53.4841,
                                                                   "seeds": 3}, abs=1e-3)  # fmt: skip
    assert record["rows"][2]["seeds"]["1"]["frechet"] == 51
    assert record["request"]["rows"][2]["sampler"]["name"] == "TA"
    report.write(tmp_path / "out")  # again, in place of them
    assert (tmp_path / "out" / MARKDOWN).read_text(encoding="utf-8") == report.markdown()


def test_the_csv_has_a_line_for_each_seed_and_one_for_all() -> None:
    found = list(csv.DictReader(io.StringIO(reported(table(), WHOLE).sheet())))
    assert len(found) == 40
    one = [line for line in found if line["row"] == "RCS"]
    assert [line["seed"] for line in one] == ["0", "1", "2", "all"]
    assert [float(line["frechet"]) for line in one] == [50.5, 51.5, 52.5, 51.5]
    assert one[0]["frechet_low"] == ""
    assert float(one[3]["frechet_low"]) == pytest.approx(51.5 - 2.4842, abs=1e-4)
    assert {(line["a"], line["b"], line["noise"], line["steps"], line["start"]) for line in one} == {
        ("1", "1", "0.01", "60", "gaussian")
    }
    assert (one[0]["extractor"], one[0]["inception"], one[0]["num"], one[0]["reference_num"]) == (
        "judge", "False", "200", "1000"
    )  # fmt: skip
    assert one[0]["paper_frechet"] == "55.91 ResNet50"


def test_what_is_unfinished_says_so(tmp_path: Path) -> None:
    report = reported(table(), {"starts": [60.0, 61, 62], "TA": [50.0, 51]})
    report.write(tmp_path)
    said = (tmp_path / MARKDOWN).read_text(encoding="utf-8")
    assert "**Unfinished: 5 of 30 cells (a row and a seed each) are measured.**" in said
    found = lines(report)
    assert found["TA"][1].startswith("50.5 ± 6.4")
    assert found["TA"][1].endswith("(2 of 3 seeds)")
    assert found["RCS"][1:6] == ["not yet"] * 5
    assert json.loads((tmp_path / RECORD).read_bytes())["complete"] is False
    assert "unfinished, 5 of 30 cells" in (tmp_path / SVG).read_text(encoding="utf-8")


def test_a_table_of_nothing_says_so(tmp_path: Path) -> None:
    Report(table()).write(tmp_path)
    assert "Nothing is measured yet." in (tmp_path / MARKDOWN).read_text(encoding="utf-8")
    assert (tmp_path / SHEET).read_text(encoding="utf-8").count("\n") == 1


def test_the_folder_of_another_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / SHEET).write_text("theirs")
    with pytest.raises(Refused, match=r"holds a table\.csv that was not made by cem-explorer table"):
        reported(table(), WHOLE).write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [SHEET]


# The drawing ------------------------------------------------------------------------------------------------------

_SVG = "{http://www.w3.org/2000/svg}"


def test_a_dot_stands_where_its_mean_is_between_the_ends_of_its_interval(tmp_path: Path) -> None:
    report = reported(table(), WHOLE)
    report.write(tmp_path)
    drawing = ElementTree.parse(tmp_path / SVG)
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in drawing.iter(f"{_SVG}circle")]
    means = [report.mean(row, "frechet") for row in range(10)]
    assert len(dots) == 10
    values = np.array([known.value for known in means if known])
    pixels, start = np.polyfit(values, [x for x, _ in dots], 1)
    np.testing.assert_allclose([x for x, _ in dots], start + pixels * values, atol=0.02)  # one axis for all
    assert pixels > 0
    assert [y for _, y in dots] == sorted(y for _, y in dots)  # in the order of the rows
    ends = [way.get("points", "").split() for way in drawing.iter(f"{_SVG}polyline")]
    level = {tuple(end.split(",")[1] for end in way): way for way in ends}
    for (x, y), known in zip(dots, means, strict=True):
        low, high = (float(end.split(",")[0]) for end in level[f"{y:.2f}", f"{y:.2f}"])
        assert known is not None
        assert (x - low, high - x) == pytest.approx((pixels * known.half,) * 2, abs=0.03)
    floors = [way for way in ends if abs(float(way[0].split(",")[0]) - (start + pixels * 1.5)) < 0.02]
    assert len(floors) == 1
    text = "".join(drawing.getroot().itertext())
    assert "floor 1.5" in text
    assert "51.0 ± 2.5" in text


def test_the_picture_shows_the_colours_of_both_models(tmp_path: Path) -> None:
    from cem_core.drawing import INK, colour_of

    reported(table(), WHOLE).write(tmp_path)
    with Image.open(tmp_path / PNG) as picture:
        picture.load()
        assert picture.mode == "RGB"
        drawn = set(picture.get_flattened_data() if hasattr(picture, "get_flattened_data") else picture.getdata())
    for colour in (colour_of(0), colour_of(1), INK):
        assert tuple(bytes.fromhex(colour[1:])) in drawn
