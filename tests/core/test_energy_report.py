"""What is made of energies: AUROC, histograms, files and the command."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from statistics import NormalDist
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from PIL import Image

from cem_core import bundle, cli
from cem_core.messages import Checkpoint, Floats, Refused
from cem_core.probes import measuring
from cem_core.probes.energy_report import KINDS, EnergyReport, Row, direction
from cem_core.probes.requests import Attack, Data, Energies, Subject
from cem_core.probes.results import Light, Lights, Note, Opening, Sample, auroc

VALUES = nps.arrays(np.float32, st.integers(1, 30), elements=st.integers(-5, 5).map(float))


def checkpoint(name: str) -> Checkpoint:
    return Checkpoint(name, name, "0" * 64, "Net", "net", 1, ("cat", "dog"), 3, 8, ())


def report(images: int = 4, models: int = 1, eps: float = 0.5, generated: int = 0) -> EnergyReport:
    subjects = tuple(Subject(f"m{i}") for i in range(models))
    request = Energies(subjects, Data("/data/set"), Attack(), eps, generated)
    found = EnergyReport()
    found.add(Opening(request, tuple(checkpoint(f"m{i}") for i in range(models)), ("cat", "dog"), images, ("A note.",)))
    return found


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


# AUROC ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [0.0, 0.5, 1.0, 2.0, -1.0])
def test_the_auroc_of_two_gaussians_is_known(apart: float) -> None:
    """Φ(d/√2), here of their quantiles instead of draws, so that it is exact up to the steps between them."""
    normal = NormalDist()
    one = np.array([normal.inv_cdf((i + 0.5) / 2000) for i in range(2000)], np.float32)
    assert auroc(one, one + np.float32(apart)) == pytest.approx(normal.cdf(apart / math.sqrt(2)), abs=1e-3)


@given(negative=VALUES, positive=VALUES)
def test_the_auroc_is_the_share_of_pairs(negative: Floats, positive: Floats) -> None:
    above = positive[:, None] > negative[None]
    ties = positive[:, None] == negative[None]
    assert auroc(negative, positive) == pytest.approx((above + 0.5 * ties).mean())
    assert auroc(negative, positive) + auroc(positive, negative) == pytest.approx(1)
    assert auroc(negative, negative) == pytest.approx(0.5)
    assert auroc(2 * negative + 1, 2 * positive + 1) == pytest.approx(auroc(negative, positive))


def test_the_auroc_of_nothing() -> None:
    assert math.isnan(auroc(floats(), floats(1)))
    assert math.isnan(auroc(floats(1), floats()))


# What is known so far ---------------------------------------------------------------------------------------------


def test_rows_are_means_and_shifts() -> None:
    found = report(4, generated=2)
    for kind, energy in (("clean", floats(-1, -3)), ("adversarial", floats(0, -3)), ("clean", floats(-2, -2)),
                         ("adversarial", floats(-1, 0)), ("generated", floats(-9, -9))):  # fmt: skip
        found.add(Sample(0, kind, energy))  # type: ignore[arg-type]
    clean, adversarial, generated = found.rows(0)
    assert clean[:3] == ("clean", 4, -2.0)
    assert clean.deviation == pytest.approx(math.sqrt(0.5))
    assert (clean.change, adversarial.change, generated.change) == (0, 1, -7)
    assert math.isnan(clean.auroc)
    assert adversarial.auroc == (4 + 0.5 + 3.5 + 4) / 16
    assert generated.auroc == 0
    assert found.energy(0, "clean").tolist() == [-1, -3, -2, -2]
    assert found.complete


def test_a_shift_is_that_of_the_same_images() -> None:
    """After an interruption, some images are known as they are and not yet attacked."""
    found = report(4)
    found.add(Sample(0, "clean", floats(-1, -3)))
    found.add(Sample(0, "adversarial", floats(0, -2)))
    found.add(Sample(0, "clean", floats(100, 100)))
    assert found.rows(0)[1].change == 1
    assert (found.measured, found.expected, found.complete) == (6, 8, False)


@pytest.mark.parametrize(
    ("value", "said"),
    [(math.nan, ""), (0.97, "less likely than clean"), (0.03, "more likely than clean"), (0.52, "not told from clean")],
)
def test_which_way_an_auroc_points(value: float, said: str) -> None:
    assert direction(Row("adversarial", 9, 0, 1, 0, value)) == said


@given(
    parts=st.lists(
        nps.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=3
    )
)
def test_histograms_share_their_bins_and_miss_nothing(parts: list[Floats]) -> None:
    found = report()
    for kind, energy in zip(KINDS, parts, strict=False):
        found.add(Sample(0, kind, energy))
    edges, shares = found.histogram(0)
    assert 10 <= len(edges) - 1 <= 60
    assert np.all(np.diff(edges) > 0)
    assert set(shares) == set(KINDS[: len(parts)])
    for each in shares.values():
        assert len(each) == len(edges) - 1
        assert each.sum() == pytest.approx(1)


def test_models_have_bins_of_their_own() -> None:
    found = report(models=2)
    found.add(Sample(0, "clean", floats(-1, 1)))
    found.add(Sample(1, "clean", floats(-100, 100)))
    assert [found.histogram(i).edges[[0, -1]].tolist() for i in (0, 1)] == [[-1, 1], [-100, 100]]


def test_before_anything_is_known() -> None:
    found = report()
    assert found.rows(0) == []
    assert not found.histogram(0).shares
    assert found.expected == 8
    assert EnergyReport().expected == 0
    assert not EnergyReport().complete


# Files ------------------------------------------------------------------------------------------------------------


def filled(models: int = 2) -> EnergyReport:
    random = np.random.default_rng(0)
    found = report(50, models, generated=20)
    for number in range(models):
        clean = random.normal(-5, 2, 50).astype(np.float32)
        found.add(Sample(number, "clean", clean))
        found.add(Sample(number, "adversarial", clean + 1))
        found.add(Sample(number, "generated", clean[:20] - 30))
        found.add(Lights(number, (Light("logits", "alarm", "They are none.", "Do something."),)))
    found.add(Note("It was halved."))
    found.add(Note("Damaged.", "cat/\udcff.png"))
    return found


def test_the_table_has_every_energy_to_the_last_bit(tmp_path: Path) -> None:
    found = filled()
    found.write(tmp_path)
    with (tmp_path / "energies.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 120
    for number in (0, 1):
        for kind in KINDS:
            mine = [row for row in rows if (row["model"], row["kind"]) == (f"m{number}", kind)]
            assert [int(row["image"]) for row in mine] == list(range(1, len(mine) + 1))
            assert np.array_equal(np.array([row["energy"] for row in mine], np.float32), found.energy(number, kind))


def test_the_record_says_all(tmp_path: Path) -> None:
    found = filled()
    found.write(tmp_path)
    record = json.loads((tmp_path / "energies.json").read_text())
    assert record["notes"] == ["A note.", "It was halved."]
    assert list(record["skipped"].values()) == ["Damaged."]
    assert msgspec.convert(record["request"], Energies) == found.request
    assert len(record["models"]) == 2
    for number, model in enumerate(record["models"]):
        assert model["lights"][0]["state"] == "alarm"
        assert [kind["kind"] for kind in model["kinds"]] == list(KINDS)
        assert model["kinds"][1]["change"] == pytest.approx(1, abs=1e-5)
        assert model["kinds"][0]["auroc"] is None
        assert model["kinds"][2]["auroc"] == 0
        assert model["edges"] == found.histogram(number).edges.tolist()


@pytest.mark.parametrize("models", [1, 4])
def test_the_drawings_are_whole(tmp_path: Path, models: int) -> None:
    filled(models).write(tmp_path)
    svg = ElementTree.parse(tmp_path / "energies.svg").getroot()
    texts = [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    for number in range(models):
        assert f"{number + 1}  m{number}" in texts
    assert sum("AUROC" in text for text in texts) == 2 * models
    assert all(texts.count(kind) == models for kind in KINDS)
    high = float(svg.attrib["height"])
    points = [pair.split(",") for element in svg.iter() for pair in element.attrib.get("points", "").split()]
    assert all(0 <= float(x) <= 760 and 0 <= float(y) <= high for x, y in points)
    picture = np.asarray(Image.open(tmp_path / "energies.png"))
    assert picture.shape == (2 * high, 1520, 3)
    panels = np.split(picture[96:-68], models)
    assert all((panel != 255).any(2).mean() > 0.05 for panel in panels)


@pytest.mark.parametrize("energy", [floats(1, 1, 1), floats(7), floats(-1e30, 1e30)])
def test_energies_that_are_hard_to_draw(tmp_path: Path, energy: Floats) -> None:
    found = report()
    found.add(Sample(0, "clean", energy))
    found.write(tmp_path)
    svg = ElementTree.parse(tmp_path / "energies.svg").getroot()
    numbers = [float(n) for element in svg.iter() for n in element.attrib.get("points", "").replace(",", " ").split()]
    assert np.isfinite(numbers).all()
    assert len(numbers) > 20


def test_a_folder_that_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "energies.csv").write_text("mine")
    with pytest.raises(Refused, match="choose another folder"):
        filled().write(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    filled().write(tmp_path / "own")
    filled(1).write(tmp_path / "own")
    assert len(json.loads((tmp_path / "own" / "energies.json").read_text())["models"]) == 1


# The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A tiny model and six images for it."""
    model = tiny.saved(tmp_path / "net.safetensors")
    for number, name in enumerate(tiny.CLASSES):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (16, 16), (90 * number, 99 * i, 9)).save(tmp_path / "set" / name / f"{i}.png")
    return ["energies", "--checkpoint", str(model), "--data", str(tmp_path / "set"), "--device", "cpu"]


def test_the_command(asked: list[str], tmp_path: Path) -> None:
    options = ["--checkpoint", asked[2], "--assume", "normalisation=none", "--eps", "1/2", "--generated", "3"]
    result = CliRunner().invoke(cli.main, [*asked, *options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    name = "net.safetensors (1: float32, normalisation none)"
    assert lines[0].startswith(f"{name}  clean  6  mean E(x) ")
    assert lines[1].startswith(f"{name}  adversarial  6  mean E(x) ")
    assert lines[2].startswith(f"{name}  generated  3  mean E(x) ")
    assert all("  ΔE " in line and "  AUROC " in line for line in lines[1:3])
    assert [line.split("  ")[1] for line in lines[3:6]] == list(KINDS)
    assert any("generates by 60 steps of Langevin from noise" in line for line in lines)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"energies.{kind}" for kind in ("csv", "json", "png", "svg")
    ]
    record = json.loads((tmp_path / "out" / "energies.json").read_text())
    assert record["complete"]
    assert [[kind["images"] for kind in model["kinds"]] for model in record["models"]] == [[6, 6, 3]] * 2


def test_the_command_for_programs(asked: list[str]) -> None:
    result = CliRunner().invoke(cli.main, [*asked, "--norm", "Linf", "--json"])
    assert result.exit_code == 0, result.output
    clean, adversarial = json.loads(result.stdout)
    assert (clean["name"], clean["kind"], clean["images"], clean["auroc"]) == ("net.safetensors", "clean", 6, None)
    assert adversarial["change"] == pytest.approx(adversarial["mean"] - clean["mean"], abs=1e-5)
    assert clean["lights"]["preprocessing"] == "unknown"  # six images


def test_without_a_radius_nothing_is_adversarial(asked: list[str]) -> None:
    result = CliRunner().invoke(cli.main, [*asked, "--eps", "0", "--num", "3", "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["kind"], row["images"], row["auroc"]) == ("clean", 3, None)


def test_what_is_known_is_written_when_it_is_interrupted(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = measuring.measure

    def interrupted(request: Energies) -> object:
        for answer in genuine(request):
            yield answer
            if isinstance(answer, Sample):
                raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure", interrupted)
    result = CliRunner().invoke(cli.main, [*asked, "--num", "3", "--out", str(tmp_path / "out")])
    assert result.exit_code == 130
    assert "Interrupted at 3 of 6 energies." in result.output
    record = json.loads((tmp_path / "out" / "energies.json").read_text())
    assert not record["complete"]
    assert record["models"][0]["kinds"][0]["images"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--eps", "-1"], "ε must be a number between 0"),
        (["--eps", "8", "--norm", "Linf"], "eight grey levels are 8/255"),
        (["--generated", "-1"], "Generated images must be between 0"),
        (["--data", "/nowhere"], "There is no folder or archive"),
        (["--split", "test"], "have no split"),
    ],
)
def test_the_command_refuses_in_a_sentence(options: list[str], said: str) -> None:
    result = CliRunner().invoke(cli.main, ["energies", "--checkpoint", bundle.DEFAULT_MODEL, *options])
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output
