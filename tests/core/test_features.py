"""Folders of features: of samples and of labelled images, whoever makes which file and whenever."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cem_core import datasets
from cem_core.cluster import spread
from cem_core.evaluation import features, shards
from cem_core.evaluation.extractors import open_extractor
from cem_core.evaluation.features import Extracting, Kept, claim, kept, open_kept
from cem_core.evaluation.requests import Sampling
from cem_core.evaluation.results import Made, Progress
from cem_core.evaluation.shards import Shard
from cem_core.images import Bytes
from cem_core.messages import Floats, Refused
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import Data, Subject

SIZE = 16


@pytest.fixture
def net(tmp_path: Path) -> Subject:
    return Subject(str(tiny.saved(tmp_path / "net.safetensors")), device="cpu")


def labelled(folder: Path, each: int = 4, side: int = SIZE) -> Path:
    random = np.random.default_rng(0)
    for name in tiny.CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(folder / name / f"{number}.png")
    return folder


def sampled(folder: Path, net: Subject, num: int = 10, batch: int = 4, seed: int = 0) -> Path:
    from cem_core import checkpoints

    known = checkpoints.inspect(net.reference)
    request = Sampling(subject=net, sampler=SAMPLERS["RCS"], num=num, batch=batch, seed=seed)
    record = shards.Record(request=request, checkpoint=known, classes=known.classes, device="cpu", versions={})
    samples = shards.claim(folder, record)
    for index in range(len(samples)):
        places = request.places(index)
        samples.keep(index, Shard(pixels_of(places), np.zeros(len(places), np.int64),
                                  np.array([request.seed_of(place) for place in places])))  # fmt: skip
    return folder


def pixels_of(places: range) -> Bytes:
    each = [np.random.default_rng(place).integers(0, 256, (SIZE, SIZE, 3), np.uint8) for place in places]
    return np.stack(each)


def asked(net: Subject, images: Path, folder: Path, **changes: Any) -> Extracting:
    return Extracting(extractor=net, images=Data(str(images)), folder=str(folder), what="features", **changes)


def made(extracting: Extracting) -> Kept:
    found = claim(extracting)
    for _ in spread(extracting, range(len(found))):
        pass
    return found


def all_of(folder: Path) -> Floats:
    return np.concatenate([part.features for part in kept(folder)])


# Whole ------------------------------------------------------------------------------------------------------------


def test_samples_have_a_file_for_each_shard(net: Subject, tmp_path: Path) -> None:
    found = made(asked(net, sampled(tmp_path / "samples", net), tmp_path / "features"))
    assert (found.num, len(found)) == (10, 3)
    parts = list(kept(tmp_path / "features"))
    assert [len(part.features) for part in parts] == [4, 4, 2]
    extractor = open_extractor(net)
    for first, part in zip((0, 4, 8), parts, strict=True):
        wanted = extractor.features(pixels_of(range(first, min(first + 4, 10))))
        np.testing.assert_array_equal(part.features, wanted.features)
        assert part.logits is not None
        np.testing.assert_array_equal(part.logits, wanted.logits)
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == [
        "features-00000.npz", "features-00001.npz", "features-00002.npz", "features.json",
    ]  # fmt: skip


def test_labelled_images_come_with_their_classes_in_turns(net: Subject, tmp_path: Path) -> None:
    folder = labelled(tmp_path / "real")
    made(asked(net, folder, tmp_path / "features", batch=5))
    pixels, labels = datasets.open_dataset(folder).arrays(SIZE)
    order = datasets.in_turns(labels)
    assert labels[order].tolist() == [0, 1, 2] * 4
    wanted = open_extractor(net).features(pixels[order]).features
    np.testing.assert_allclose(all_of(tmp_path / "features"), wanted, rtol=1e-4, atol=1e-5)
    assert [len(part.features) for part in kept(tmp_path / "features")] == [5, 5, 2]


def test_labelled_images_are_read_at_the_size_of_the_samples(net: Subject, tmp_path: Path) -> None:
    folder = labelled(tmp_path / "real", each=1, side=64)
    made(asked(net, folder, tmp_path / "own"))
    made(asked(net, folder, tmp_path / "small", size=8))
    for size, name in ((SIZE, "own"), (8, "small")):
        wanted = open_extractor(net).features(datasets.open_dataset(folder).arrays(size)[0]).features
        np.testing.assert_allclose(all_of(tmp_path / name), wanted, rtol=1e-4, atol=1e-5)


def test_an_encoder_leaves_no_logits(tmp_path: Path) -> None:
    weights = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    net = Subject(str(tiny.saved(tmp_path / "net.safetensors", weights)), device="cpu")
    made(asked(net, labelled(tmp_path / "real"), tmp_path / "features"))
    assert [part.logits for part in kept(tmp_path / "features")] == [None]


def test_it_tells_how_far_it_is(net: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cem_core.evaluation.extractors._AT_ONCE", 3)
    extracting = asked(net, labelled(tmp_path / "real"), tmp_path / "features", batch=8)
    claim(extracting)
    answers = list(spread(extracting, [1]))
    assert answers[:-1] == [Progress("features", 1, 0.75), Progress("features", 1, 1.0)]
    assert isinstance(answers[-1], Made)
    assert (answers[-1].what, answers[-1].shard, answers[-1].count, answers[-1].found) == ("features", 1, 4, False)
    assert list(spread(extracting, [1])) == [Made("features", 1, 4, found=True)]


# Whoever makes it, and whenever -----------------------------------------------------------------------------------


def test_any_order_by_any_worker_leaves_the_same_files(net: Subject, tmp_path: Path) -> None:
    images = labelled(tmp_path / "real")
    one, other = (asked(net, images, tmp_path / name, batch=5) for name in ("one", "other"))
    made(one)
    claim(other)
    workers = [other.open(), other.open()]
    for turn, item in enumerate((2, 0, 1, 0)):
        for _ in workers[turn % 2].do(item):
            pass
    for name in ("features-00000.npz", "features-00001.npz", "features-00002.npz", "features.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_stopping_within_a_shard_leaves_no_part_of_it(
    net: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cem_core.evaluation.extractors._AT_ONCE", 2)
    extracting = asked(net, labelled(tmp_path / "real"), tmp_path / "features", batch=5)
    found = claim(extracting)
    answers = spread(extracting, range(3))
    for answer in answers:
        if isinstance(answer, Progress) and answer.shard == 1:
            break
    answers.close()  # type: ignore[attr-defined]
    assert found.done() == {0}
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == ["features-00000.npz", "features.json"]
    again = [answer for answer in spread(extracting, range(3)) if isinstance(answer, Made)]
    assert [(answer.shard, answer.found) for answer in again] == [(0, True), (1, False), (2, False)]
    assert found.done() == {0, 1, 2}


def test_more_samples_go_on_in_the_same_folder(net: Subject, tmp_path: Path) -> None:
    extracting = asked(net, sampled(tmp_path / "samples", net), tmp_path / "features")
    made(extracting)
    sampled(tmp_path / "samples", net, num=13)
    found = claim(extracting)
    assert (found.num, len(found)) == (13, 4)
    assert found.done() == {0, 1}  # the third was of two samples, and has four by now
    answers = [answer for answer in spread(extracting, range(4)) if isinstance(answer, Made)]
    assert [answer.found for answer in answers] == [True, True, False, False]
    assert len(all_of(tmp_path / "features")) == 13


def test_folders_may_be_moved(net: Subject, tmp_path: Path) -> None:
    made(asked(net, labelled(tmp_path / "real"), tmp_path / "features"))
    for name in ("real", "features", "net.safetensors"):
        (tmp_path / "there").mkdir(exist_ok=True)
        shutil.move(tmp_path / name, tmp_path / "there" / name)
    there = tmp_path / "there"
    moved = asked(Subject(str(there / "net.safetensors"), device="cpu"), there / "real", there / "features")
    assert claim(moved).done() == {0}


# Something else ---------------------------------------------------------------------------------------------------

OTHERS: dict[str, Callable[[Extracting, Path], Extracting]] = {
    "an extractor": lambda was, path: msgspec.structs.replace(
        was, extractor=Subject(str(tiny.saved(path / "other.safetensors", tiny.weights(1))), device="cpu")
    ),
    "a reading": lambda was, _: msgspec.structs.replace(
        was, extractor=Subject(was.extractor.reference, {"activation": "relu"}, "cpu")
    ),
    "a precision": lambda was, _: msgspec.structs.replace(
        was, extractor=Subject(was.extractor.reference, {}, "cpu", "bfloat16")
    ),
    "a number": lambda was, _: msgspec.structs.replace(was, images=Data(was.images.path, num=6)),
    "images": lambda was, path: msgspec.structs.replace(was, images=Data(str(labelled(path / "more", each=5)))),
    "a size": lambda was, _: msgspec.structs.replace(was, size=8),
    "a batch": lambda was, _: msgspec.structs.replace(was, batch=7),
    "samples": lambda was, path: msgspec.structs.replace(
        was, images=Data(str(sampled(path / "samples", was.extractor)))
    ),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_another_thing_is_never_mixed_in(
    net: Subject, tmp_path: Path, change: Callable[[Extracting, Path], Extracting]
) -> None:
    extracting = asked(net, labelled(tmp_path / "real"), tmp_path / "features")
    made(extracting)
    before = (tmp_path / "features" / "features.json").read_bytes()
    with pytest.raises(Refused, match="features holds features of other images, by another extractor, or of"):
        claim(change(extracting, tmp_path))
    assert (tmp_path / "features" / "features.json").read_bytes() == before
    assert claim(extracting).done() == {0}


def test_samples_of_another_seed_are_other_images(net: Subject, tmp_path: Path) -> None:
    made(asked(net, sampled(tmp_path / "one", net), tmp_path / "features"))
    with pytest.raises(Refused, match="features of other images"):
        claim(asked(net, sampled(tmp_path / "two", net, seed=1), tmp_path / "features"))


def test_a_folder_of_something_else_is_left_alone(net: Subject, tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "thesis.txt").write_text("mine")
    with pytest.raises(Refused, match=r"is not empty and was not made by cem-explorer evaluate"):
        claim(asked(net, labelled(tmp_path / "real"), tmp_path / "features"))
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["thesis.txt"]
    with pytest.raises(Refused, match=r"features holds no features: choose a folder that cem-explorer evaluate made"):
        open_kept(tmp_path / "features")


def test_an_image_that_cannot_be_read_is_named(net: Subject, tmp_path: Path) -> None:
    folder = labelled(tmp_path / "real")
    path = folder / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Refused, match=r"dog/2\.png of real cannot be used: 2\.png is damaged or cut short"):
        made(asked(net, folder, tmp_path / "features"))


def test_a_damaged_shard_of_samples_is_named(net: Subject, tmp_path: Path) -> None:
    path = sampled(tmp_path / "samples", net) / "shard-00001.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Refused, match=r"shard-00001\.npz in .* is damaged"):
        made(asked(net, tmp_path / "samples", tmp_path / "features"))


# Damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    path = tmp_path_factory.mktemp("whole")
    net = Subject(str(tiny.saved(path / "net.safetensors")), device="cpu")
    return made(asked(net, labelled(path / "real"), path / "features"))


@given(st.data())
def test_a_changed_byte_is_noticed_or_changes_nothing(whole: Kept, data: st.DataObject) -> None:
    before, good = whole.read(0), whole.path(0).read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place] ^= data.draw(st.integers(1, 255))
    try:
        whole.path(0).write_bytes(bad)
        if whole.has(0):
            assert all(np.array_equal(a, b) for a, b in zip(whole.read(0), before, strict=True))
        else:
            with pytest.raises(Refused, match=r"features-00000\.npz is damaged \(.*\): evaluate again, which makes"):
                whole.read(0)
    finally:
        whole.path(0).write_bytes(good)


def arrays(found: Kept) -> dict[str, Any]:
    with np.load(found.path(0)) as there:
        return dict(there)


@pytest.mark.parametrize(
    "changes",
    [
        {"of": np.array("0" * 64)}, {"features": np.zeros((12, 4))}, {"features": np.zeros((11, 4), np.float32)},
        {"features": np.full((12, 4), np.nan, np.float32)}, {"logits": np.zeros(12, np.float32)},
        {"features": np.array([{"a": 1}], object)}, {"features": None}, {"features": np.zeros((12, 0), np.float32)},
    ],
    ids=str,
)  # fmt: skip
def test_a_file_of_anything_else_is_damaged(whole: Kept, changes: dict[str, Any]) -> None:
    good = whole.path(0).read_bytes()
    file = io.BytesIO()
    np.savez(file, **{key: value for key, value in (arrays(whole) | changes).items() if value is not None})
    try:
        whole.path(0).write_bytes(file.getvalue())
        assert not whole.has(0)
        with pytest.raises(Refused, match="is damaged"):
            whole.read(0)
    finally:
        whole.path(0).write_bytes(good)


def test_a_compressed_file_is_not_unpacked(whole: Kept) -> None:
    good, file = whole.path(0).read_bytes(), io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(10**6))
    try:
        whole.path(0).write_bytes(file.getvalue())
        with pytest.raises(Refused, match="it is compressed"):
            whole.read(0)
    finally:
        whole.path(0).write_bytes(good)


def test_a_damaged_file_is_made_anew(net: Subject, tmp_path: Path) -> None:
    extracting = asked(net, labelled(tmp_path / "real"), tmp_path / "features", batch=5)
    found = made(extracting)
    good = found.path(1).read_bytes()
    found.path(1).write_bytes(good[:-50])
    found.path(2).unlink()
    assert found.done() == {0}
    with pytest.raises(Refused, match=r"has no features-00002\.npz: evaluate again"):
        found.read(2)
    made(extracting)
    assert found.path(1).read_bytes() == good
    assert found.done() == {0, 1, 2}


@pytest.mark.parametrize("change", [{"num": 0}, {"batch": "x"}, {"made_by": "somebody"}], ids=str)
def test_a_record_of_anything_else_is_refused(net: Subject, tmp_path: Path, change: dict[str, Any]) -> None:
    made(asked(net, labelled(tmp_path / "real"), tmp_path / "features"))
    path = tmp_path / "features" / features.RECORD
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(Refused, match=r"features\.json is damaged, or of another version"):
        list(kept(tmp_path / "features"))
