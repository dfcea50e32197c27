"""An evaluation: its numbers are those of the parts, it goes on from files, and bad input is one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from PIL import Image

from cem_core.evaluation import evaluating, features, sampling
from cem_core.evaluation.evaluating import RECORD, Yardstick, evaluate
from cem_core.evaluation.extractors import open_extractor
from cem_core.evaluation.metrics import scores
from cem_core.evaluation.report import FEATURES, REFERENCE, SAMPLES
from cem_core.evaluation.requests import Evaluation, Sampling
from cem_core.evaluation.results import Answer, Made, Plan, Scores
from cem_core.evaluation.shards import open_samples
from cem_core.messages import Refused, Sampler
from cem_core.probes.measuring import Cancelled
from cem_core.probes.requests import Data, Subject

SIDE, IMAGES, NUM, BATCH = 16, 120, 110, 40
STILL = Sampler(name="starts", a=0, b=0, steps=1)
MOVED = Sampler(name="TA", a=1, b=0, steps=2)


def images(folder: Path, num: int = IMAGES, classes: Sequence[str] = tiny.CLASSES, side: int = SIDE) -> Path:
    """Class folders of noise."""
    random = np.random.default_rng(1)
    for number in range(num):
        path = folder / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("net") / "net.safetensors"))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("judge") / "judge.safetensors", tiny.weights(9)))


@pytest.fixture
def request_(net: str, judge: str, real: Path) -> Evaluation:
    made = Sampling(subject=Subject(net), sampler=MOVED, num=NUM, start="noise", batch=BATCH)
    return Evaluation(samples=made, reference=Data(str(real)), extractor=Subject(judge))


def kinds(answers: Sequence[Answer]) -> list[tuple[str, int, bool]]:
    return [(one.what, one.shard, one.found) for one in answers if isinstance(one, Made)]


def last(answers: Sequence[Answer]) -> Scores:
    assert isinstance(answers[-1], Scores)
    return answers[-1]


def record(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / RECORD).read_bytes())
    assert isinstance(found, dict)
    return found


# Numbers ----------------------------------------------------------------------------------------------------------


def test_its_numbers_are_those_of_the_parts(request_: Evaluation, judge: str, real: Path, tmp_path: Path) -> None:
    answers = list(evaluate(request_, tmp_path / "out"))
    assert isinstance(answers[0], Plan)
    assert (answers[0].num, answers[0].shards, answers[0].done) == (NUM, 3, 0)
    assert kinds(answers) == [("reference", 0, False), *(("samples", i, False) for i in range(3)),
                              *(("features", i, False) for i in range(3))]  # fmt: skip
    made = open_samples(tmp_path / "out" / SAMPLES)
    extractor = open_extractor(Subject(judge))
    files = [path for label in tiny.CLASSES for path in sorted((real / label).iterdir())]
    pixels = np.stack([np.asarray(Image.open(path)) for path in files])
    order = np.argsort([index % (IMAGES // 3) for index in range(IMAGES)], kind="stable")  # the classes in turns
    expected = scores(
        "judge", False, [extractor.features(made.read(i).pixels) for i in range(3)], [extractor.features(pixels[order])]
    )
    found = last(answers)
    assert (found.extractor, found.inception, found.num, found.reference) == ("judge", False, NUM, IMAGES)
    for name, value in msgspec.structs.asdict(expected).items():
        if isinstance(value, float):
            assert getattr(found, name) == pytest.approx(value, rel=1e-5, abs=1e-7), name


def test_images_that_are_the_reference_are_at_distance_0(request_: Evaluation, real: Path, tmp_path: Path) -> None:
    same = msgspec.structs.replace(request_, samples=Data(str(real)))
    found = last(list(evaluate(same, tmp_path / "out")))
    assert found.frechet == pytest.approx(0, abs=1e-6)
    assert (found.precision, found.recall) == (1, 1)
    assert found.floor > 1e-3
    assert not (tmp_path / "out" / SAMPLES).exists()


def test_a_folder_of_samples_gives_the_numbers_of_making_them(request_: Evaluation, tmp_path: Path) -> None:
    assert isinstance(request_.samples, Sampling)
    whole = last(list(evaluate(request_, tmp_path / "whole")))
    list(sampling.sample(request_.samples, tmp_path / "samples"))
    apart = msgspec.structs.replace(request_, samples=Data(str(tmp_path / "samples")))
    assert last(list(evaluate(apart, tmp_path / "apart"))) == whole


def test_the_record_says_what_is_to_be_known(request_: Evaluation, judge: str, tmp_path: Path) -> None:
    found = last(list(evaluate(request_, tmp_path)))
    left = record(tmp_path)
    assert left["scores"] == msgspec.to_builtins(found)
    assert left["names"]["frechet"] == "Fréchet distance (judge)"
    assert left["request"]["samples"]["num"] == NUM
    assert left["reference"]["extractor"] == open_extractor(Subject(judge)).sha256
    assert left["samples"]["images"] == open_samples(tmp_path / SAMPLES).record.of
    assert left["checkpoint"]["name"] == "net.safetensors"
    assert left["seconds"] > 0
    assert {"cem-explorer", "torch", "torchmetrics", "torch-fidelity"} <= set(left["versions"])


# Going on ---------------------------------------------------------------------------------------------------------


def test_what_is_known_is_not_asked_again(
    request_: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = last(list(evaluate(request_, tmp_path)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(evaluating, "scores", lambda *_, **__: pytest.fail("known"))
    again = list(evaluate(request_, tmp_path))
    assert [type(answer) for answer in again] == [Plan, Scores]
    assert last(again) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("after", range(1, 18, 2))
def test_cancelled_anywhere_it_goes_on_to_the_same_numbers(
    request_: Evaluation, tmp_path: Path, after: int, whole: Scores
) -> None:
    left = iter(range(after - 1))
    first: list[Answer] = []
    with pytest.raises(Cancelled):
        first += evaluate(request_, tmp_path, lambda: next(left, None) is not None)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.npz")}
    answers = list(evaluate(request_, tmp_path))
    assert last(answers) == whole
    assert all(path.read_bytes() == data for path, data in files.items())
    assert sum(found for *_, found in kinds(answers)) == len(files)


@pytest.fixture(scope="module")
def whole(net: str, judge: str, real: Path, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    made = Sampling(subject=Subject(net), sampler=MOVED, num=NUM, start="noise", batch=BATCH)
    asked = Evaluation(samples=made, reference=Data(str(real)), extractor=Subject(judge))
    return last(list(evaluate(asked, tmp_path_factory.mktemp("whole") / "out")))


def test_more_samples_are_made_on_top(request_: Evaluation, tmp_path: Path, whole: Scores) -> None:
    assert isinstance(request_.samples, Sampling)
    fewer = msgspec.structs.replace(request_, samples=msgspec.structs.replace(request_.samples, num=100))
    assert last(list(evaluate(fewer, tmp_path))).num == 100
    answers = list(evaluate(request_, tmp_path))
    assert last(answers) == whole
    assert ("samples", 0, True) in kinds(answers)
    assert ("samples", 2, False) in kinds(answers)
    assert ("features", 2, False) in kinds(answers)


def test_other_numbers_of_the_same_features_are_counted_anew(request_: Evaluation, tmp_path: Path) -> None:
    found = last(list(evaluate(request_, tmp_path)))
    other = last(answers := list(evaluate(msgspec.structs.replace(request_, neighbours=20), tmp_path)))
    assert all(found for *_, found in kinds(answers))
    assert other.recall > found.recall
    assert other.frechet == found.frechet
    assert last(list(evaluate(request_, tmp_path))) == found


def test_a_damaged_file_is_made_anew(request_: Evaluation, tmp_path: Path, whole: Scores) -> None:
    list(evaluate(request_, tmp_path))
    for path in (tmp_path / SAMPLES / "shard-00001.npz", tmp_path / FEATURES / "features-00002.npz"):
        path.write_bytes(path.read_bytes()[:-99])
    (tmp_path / RECORD).write_text('{"made_by": "cem-explorer evaluate"}')
    answers = list(evaluate(request_, tmp_path))
    assert [one for one in kinds(answers) if not one[-1]] == [("samples", 1, False), ("features", 2, False)]
    assert last(answers) == whole


def test_several_share_a_yardstick(request_: Evaluation, tmp_path: Path, whole: Scores) -> None:
    shared = Yardstick(request_.reference, request_.extractor, tmp_path / REFERENCE)
    assert isinstance(request_.samples, Sampling)
    other = msgspec.structs.replace(request_, samples=msgspec.structs.replace(request_.samples, seed=1))
    one = list(evaluate(request_, tmp_path / "one", yardstick=shared))
    two = list(evaluate(other, tmp_path / "two", yardstick=shared))
    assert last(one) == whole
    assert last(two).floor == whole.floor
    assert last(two).frechet != whole.frechet
    assert ("reference", 0, True) in kinds(two)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [RECORD, FEATURES, SAMPLES]


# What is said of it -----------------------------------------------------------------------------------------------


def notes(request: Evaluation, folder: Path) -> str:
    plan = next(iter(evaluate(request, folder)))
    assert isinstance(plan, Plan)
    return " ".join(plan.notes)


def test_what_is_to_be_known_of_the_images_is_said(request_: Evaluation, tmp_path: Path) -> None:
    assert "images" not in notes(request_, tmp_path / "fine")
    large = Data(str(images(tmp_path / "large", side=24)))
    said = notes(msgspec.structs.replace(request_, reference=large), tmp_path / "1")
    assert "The images of large are 24 pixels wide and are scaled to the 16 of net.safetensors" in said
    others = Data(str(images(tmp_path / "others", classes=("cat", "dog", "Frog"))))
    said = notes(msgspec.structs.replace(request_, reference=others), tmp_path / "2")
    assert "horse of net.safetensors are no classes of others" in said
    assert "Frog of others are no classes of net.safetensors" in said
    cars = Data(str(images(tmp_path / "cars", classes=("old", "new"))))
    said = notes(msgspec.structs.replace(request_, reference=cars), tmp_path / "3")
    assert "net.safetensors has no class of cars (cat, dog, horse against new, old): check that it is the right" in said


# Bad input --------------------------------------------------------------------------------------------------------


def refused(request: Evaluation, folder: Path) -> str:
    with pytest.raises(Refused) as told:
        list(evaluate(request, folder))
    return str(told.value)


def test_too_few_images_tell_nothing(request_: Evaluation, tmp_path: Path) -> None:
    few = Data(str(images(tmp_path / "few", 99)))
    told = refused(msgspec.structs.replace(request_, reference=few), tmp_path / "out")
    assert told == "few has 99 real images, and fewer than 100 tell nothing: give more."
    assert "99 samples" in refused(msgspec.structs.replace(request_, samples=few), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_is_left_alone(request_: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "was not made by cem-explorer evaluate" in refused(request_, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_among_the_images_is_refused(request_: Evaluation, tmp_path: Path) -> None:
    real = images(tmp_path / "real")
    told = refused(msgspec.structs.replace(request_, reference=Data(str(real))), real / "out")
    assert "is inside" in told
    assert not (real / "out").exists()


def test_another_extractor_or_reference_is_not_mixed_in(request_: Evaluation, net: str, tmp_path: Path) -> None:
    list(evaluate(request_, tmp_path / "out"))
    before = (tmp_path / "out" / RECORD).read_bytes()
    told = refused(msgspec.structs.replace(request_, extractor=Subject(net)), tmp_path / "out")
    assert "holds features of other images, by another extractor" in told
    other = Data(str(images(tmp_path / "other", 130)))
    assert "other images" in refused(msgspec.structs.replace(request_, reference=other), tmp_path / "out")
    assert (tmp_path / "out" / RECORD).read_bytes() == before


def test_other_samples_are_not_mixed_in(request_: Evaluation, tmp_path: Path) -> None:
    list(evaluate(request_, tmp_path))
    assert isinstance(request_.samples, Sampling)
    other = msgspec.structs.replace(request_, samples=msgspec.structs.replace(request_.samples, sampler=STILL))
    assert "holds other samples than these (" in refused(other, tmp_path)


def test_a_lack_of_memory_is_said(request_: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(features.Extraction, "do", none_left)
    assert "not enough memory" in refused(request_, tmp_path)
