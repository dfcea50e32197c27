from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image

from cem_core.messages import Checkpoint, Norm, Refused
from cem_core.probes.report import JOURNAL, PNG, RESULTS, SVG, TABLE, Report, attack_told, told
from cem_core.probes.requests import Accuracy, Attack, Data, Subject
from cem_core.probes.results import Answer, Cell, Light, Lights, Note, Opening, Point, wilson

FILES = {RESULTS, TABLE, SVG, PNG}
CLASSES = ("cat", "dog", "horse")
ALARM = Light("logits", "alarm", "They are probabilities.", "Leave the softmax out.")


def checkpoint(name: str) -> Checkpoint:
    return Checkpoint(name, f"/models/{name}.pt", name[0] * 64, "A net", "net", 1000, CLASSES, 3, 32, ())


def opening(
    names: tuple[str, ...] = ("one", "two"), eps: tuple[float, ...] = (0, 0.5), images: int = 5, norm: Norm = "l2"
) -> Opening:
    subjects = tuple(Subject(f"/models/{name}.pt") for name in names)
    request = Accuracy(subjects, Data("/data/pets"), Attack(norm=norm), eps)
    return Opening(request, tuple(map(checkpoint, names)), CLASSES, images, ("Something is left out.",), {"torch": "2"})


def cell(subject: int, eps: float, correct: str, first: int = 0, **more: Any) -> Cell:
    """`correct` is + and - for each image; classes are taken in turns."""
    labels = tuple((first + i) % 3 for i in range(len(correct)))
    right = tuple(sign == "+" for sign in correct)
    return Cell(subject, eps, first, labels, right, attacked=len(labels) if eps else 0, **more)


def reported(*answers: Answer) -> Report:
    report = Report()
    for answer in answers:
        report.add(answer)
    return report


WHOLE = (
    opening(),
    cell(0, 0, "++++"), cell(0, 0.5, "+-+-"), Lights(0, (ALARM, Light("mode", "fine", "It is evaluated."))),
    cell(1, 0, "+++-"), cell(1, 0.5, "----"),
    cell(0, 0, "-", 4), cell(0, 0.5, "-", 4), cell(1, 0, "+", 4), cell(1, 0.5, "-", 4),
)  # fmt: skip


# The band ---------------------------------------------------------------------------------------------------------


def test_the_band_is_the_published_one() -> None:
    """The first is the example of Newcombe (1998), table I, score method."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=5e-5)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)
    assert wilson(0, 0) == (0, 1)


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_band_solves_the_score_equation(counts: tuple[int, int]) -> None:
    """Its ends p are where the share lies 1.96 standard errors √(p(1-p)/n) from p (Wilson 1927)."""
    correct, total = counts
    share, band = correct / total, wilson(correct, total)
    assert 0 <= band.low <= share <= band.high <= 1
    for end in band:
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / total), rel=1e-4, abs=1e-9)
    mirrored = wilson(total - correct, total)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx(band)
    wider = wilson(2 * correct, 2 * total)
    assert band.high - band.low >= wider.high - wider.low


# Adding up --------------------------------------------------------------------------------------------------------


def test_cells_add_up_to_points() -> None:
    report = reported(*WHOLE)
    assert [(p.eps, p.correct, p.total, p.per_class) for p in report.points(0)] == [
        (0, 4, 5, ((2, 2), (1, 2), (1, 1))),
        (0.5, 2, 5, ((1, 2), (0, 2), (1, 1))),
    ]
    assert [p.correct for p in report.points(1)] == [4, 0]
    assert report.points(0)[0].band == wilson(4, 5)
    assert report.notes == ["Something is left out."]
    assert report.lights[0][0] == ALARM


def test_points_come_as_they_are_known_and_in_the_order_of_the_radii() -> None:
    report = reported(opening(eps=(0.5, 0, 0.5, 1)))
    assert report.eps == (0, 0.5, 1)
    assert report.points(0) == []
    report.add(cell(0, 1, "---"))
    report.add(cell(0, 0, "+++"))
    assert [(p.eps, p.total) for p in report.points(0)] == [(0, 3), (1, 3)]
    assert report.points(1) == []


def test_it_is_complete_when_every_image_is_judged_or_said_to_be_unreadable() -> None:
    report = Report()
    assert not report.complete
    for answer in WHOLE:
        assert not report.complete
        report.add(answer)
    assert report.complete
    assert (report.measured, report.expected) == (20, 20)
    short = reported(*WHOLE[:6], Note("1.png is damaged.", "dog/1.png"))
    assert short.complete
    assert short.skipped == {"dog/1.png": "1.png is damaged."}


def test_what_the_cells_say_of_themselves_lights_their_points() -> None:
    report = reported(opening(("one",)), cell(0, 0, "+++"), cell(0, 0.5, "+++", vanished=3))
    clean, attacked = report.points(0)
    assert clean.lights == ()
    assert {light.name: light.state for light in attacked.lights}["gradients"] == "alarm"


def test_the_same_file_measured_twice_has_two_names() -> None:
    begun = opening(("one", "one", "two"))
    subjects = (Subject("one"), Subject("one", {"activation": "relu"}, precision="bfloat16"), Subject("two"))
    report = reported(replace(begun, request=replace(begun.request, subjects=subjects)))
    assert report.names == ("one (1: float32)", "one (2: bfloat16, activation relu)", "two")


@pytest.mark.parametrize(
    ("eps", "norm", "text"),
    [
        (0, "linf", "0"), (8 / 255, "linf", "8/255"), (8 / 255, "l2", "0.03137"), (0.03, "linf", "0.03"),
        (1, "linf", "255/255"), (0.5, "l2", "0.5"), (1e-9, "linf", "1e-09"),
    ],
)  # fmt: skip
def test_radii_are_told_as_people_write_them(eps: float, norm: Norm, text: str) -> None:
    assert told(eps, norm) == text


def test_attacks_are_told_with_what_matters() -> None:
    assert attack_told(Attack(steps=40)) == "PGD-40"
    assert attack_told(Attack(restarts=5)) == "PGD-20, 5 restarts"
    assert attack_told(Attack(name="apgd-ce")) == "APGD-CE"


# Files ------------------------------------------------------------------------------------------------------------


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def results(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_table_has_a_row_for_each_model_radius_and_class(tmp_path: Path) -> None:
    reported(*WHOLE).write(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    found = rows(tmp_path / "out")
    assert [(row["model"], float(row["eps"]), row["class"]) for row in found] == [
        (name, eps, label) for name in ("one", "two") for eps in (0, 0.5) for label in ("all", *CLASSES)
    ]
    assert found[4] == {
        "model": "one", "sha256": "o" * 64, "precision": "float32", "attack": "PGD-20", "norm": "l2", "eps": "0.5",
        "eps_told": "0.5", "class": "all", "correct": "2", "total": "5", "accuracy": "0.4",
        "low": str(wilson(2, 5).low), "high": str(wilson(2, 5).high), "lights": found[4]["lights"],
    }  # fmt: skip
    assert found[4]["lights"].startswith("logits: alarm")
    assert "mode" not in found[4]["lights"]
    for row in found:
        assert float(row["accuracy"]) == int(row["correct"]) / int(row["total"])


def test_the_results_hold_all_that_is_known(tmp_path: Path) -> None:
    reported(*WHOLE[:-1], Note("256 images at once do not fit into memory: …")).write(tmp_path)
    found = results(tmp_path)
    assert found["complete"] is False
    assert found["request"]["attack"]["steps"] == 20
    assert found["notes"] == ["Something is left out.", "256 images at once do not fit into memory: …"]
    assert found["versions"] == {"torch": "2"}
    assert (found["images"], found["classes"]) == (5, list(CLASSES))
    one, two = found["models"]
    assert (one["name"], one["sha256"], one["title"]) == ("one", "o" * 64, "A net")
    assert one["lights"][0] == {"name": "logits", "state": "alarm", "says": ALARM.says, "do": ALARM.do}
    assert [(p["eps"], p["correct"], p["total"]) for p in one["points"]] == [(0, 4, 5), (0.5, 2, 5)]
    assert one["points"][1]["band"] == list(wilson(2, 5))
    assert two["points"][1]["total"] == 4


def test_the_drawing_shows_the_points_where_they_are(tmp_path: Path) -> None:
    reported(*WHOLE).write(tmp_path)
    svg = ElementTree.parse(tmp_path / SVG).getroot()
    space = "{http://www.w3.org/2000/svg}"
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in svg.iter(f"{space}circle")]
    (x0, y_80), (x1, y_40), (_, standard), (_, none) = [*dots[2:], *dots[:2]]  # the first model on top
    percent = (y_40 - y_80) / 40
    assert x1 > x0
    assert percent > 0
    assert standard == pytest.approx(y_80)
    assert none == pytest.approx(y_80 + 80 * percent, abs=0.02)
    assert len(list(svg.iter(f"{space}polygon"))) == 2
    text = " ".join(filter(None, (entry.text for entry in svg.iter(f"{space}text"))))
    for said in ("Accuracy under PGD-20 (L2)", "1  one", "2  two", "100 %", "5 images of pets; bands: 95 % (Wilson)"):
        assert said in text
    assert "unfinished" not in text
    with Image.open(tmp_path / PNG) as picture:
        assert picture.size == (1520, 1040)
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in ((0x14, 0x7A, 0x66), (0x2A, 0x66, 0xD0)):
        assert (colours == colour).all(1).sum() > 500


def test_an_unfinished_drawing_says_so(tmp_path: Path) -> None:
    reported(*WHOLE[:6]).write(tmp_path)
    assert "unfinished: 4 of 5 images of pets so far" in (tmp_path / SVG).read_text(encoding="utf-8")
    reported(opening()).write(tmp_path)
    assert "unfinished: 0 of 5 images" in (tmp_path / SVG).read_text(encoding="utf-8")


@pytest.mark.parametrize("eps", [(0.0,), (8 / 255,), (0, 1e-9), (0, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 1.0)])
def test_any_radii_can_be_drawn(tmp_path: Path, eps: tuple[float, ...]) -> None:
    cells = [cell(0, radius, "+-+") for radius in eps]
    reported(opening(("one",), eps, 3, "linf"), *cells).write(tmp_path)
    svg = ElementTree.parse(tmp_path / SVG).getroot()
    places = [float(dot.get("cx", "")) for dot in svg.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(set(places)) == len(eps)
    assert places == sorted(places)


def test_names_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    begun = opening(("a\udcff,\"'=<b>&",))
    begun = replace(begun, request=replace(begun.request, data=Data("/data/\udcff")))
    reported(begun, cell(0, 0, "+-"), Note("It is\udcff damaged.", "dog/\udcff.png")).write(tmp_path)
    ElementTree.parse(tmp_path / SVG)
    assert results(tmp_path)["skipped"] == {"dog/?.png": "It is? damaged."}
    assert rows(tmp_path)[0]["model"] == "a?,\"'=<b>&"


def test_writing_again_replaces_our_own_files_and_nothing_else(tmp_path: Path) -> None:
    reported(*WHOLE[:4]).write(tmp_path)
    (tmp_path / JOURNAL).write_bytes(b"{}\n")
    (tmp_path / "thesis.tex").write_text("years")
    reported(*WHOLE).write(tmp_path)
    assert results(tmp_path)["complete"] is True
    assert (tmp_path / "thesis.tex").read_text() == "years"
    assert (tmp_path / JOURNAL).read_bytes() == b"{}\n"
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, JOURNAL, "thesis.tex"}


@pytest.mark.parametrize("name", [RESULTS, TABLE, SVG, PNG, JOURNAL])
@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"made_by": "somebody"}', b"\xff", b"[" * 100_000])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=f"holds a {name} that was not made by cem-explorer probe: choose another folder"):
        reported(*WHOLE).write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: content}


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/below", "x" * 300):
        with pytest.raises(Refused, match="choose another folder"):
            Report.files.claim(tmp_path / place)
    (tmp_path / "out" / RESULTS).mkdir(parents=True)
    with pytest.raises(Refused, match="choose another folder"):
        Report.files.claim(tmp_path / "out")


def test_a_point_of_nothing_is_no_number() -> None:
    assert math.isnan(Point(0, 0, 0).accuracy)
    assert Point(0, 0, 0).band == (0, 1)
