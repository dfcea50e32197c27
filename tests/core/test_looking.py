"""What is to be seen in the folder of a table: its numbers, its samples, and the real images nearest to one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from cem_core.datasets import open_labelled
from cem_core.evaluation import features, looking, shards
from cem_core.evaluation.features import Kept
from cem_core.evaluation.report import FEATURES, RECORD, REFERENCE, SAMPLES, Report, cell
from cem_core.evaluation.requests import Row, Table
from cem_core.evaluation.results import Plan, Scores
from cem_core.evaluation.shards import Samples, Shard
from cem_core.evaluation.statistics import Features
from cem_core.images import Bytes
from cem_core.messages import Checkpoint, Floats, Refused
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import Data, Subject

CLASSES = ("cat", "dog", "horse")
SIZE = 8
NET = Checkpoint("net", "/nets/net.pt", "ab" * 32, "Net", "net", 10, CLASSES, 3, SIZE, ())


def table(data: Path | str = "/data/pets", num: int = 10, batch: int = 4, seeds: tuple[int, ...] = (0, 5)) -> Table:
    rows = tuple(
        Row(name=name, subject=Subject("net.pt", device="cpu"), sampler=SAMPLERS[name]) for name in ("TA", "RCS")
    )
    return Table(rows=rows, reference=Data(str(data)), extractor=Subject("judge.pt"), num=num, seeds=seeds, batch=batch)


def pixels_of(numbers: range, channels: int = 3) -> Bytes:
    """Every sample is of one grey, which is its number."""
    return np.broadcast_to(
        np.array(numbers, np.uint8)[:, None, None, None], (len(numbers), SIZE, SIZE, channels)
    ).copy()


def sampled(
    folder: Path, asked: Table, row: int = 1, seed: int = 5, *, classes: tuple[str, ...] = CLASSES, channels: int = 3,
    but: tuple[int, ...] = (),
) -> Samples:  # fmt: skip
    request = asked.evaluation(asked.rows[row], seed).samples
    known = msgspec.structs.replace(NET, channels=channels)
    record = shards.Record(request=request, checkpoint=known, classes=classes, device="cpu", versions={})
    samples = shards.claim(folder / cell(asked.rows[row], seed) / SAMPLES, record)
    for index in set(range(len(samples))) - set(but):
        places = request.places(index)
        labels = np.array([place % max(1, len(classes)) for place in places])
        seeds = np.array([request.seed_of(place) for place in places])
        samples.keep(index, Shard(pixels_of(places, channels), labels, seeds))
    return samples


def kept(folder: Path, found: Floats, batch: int) -> Kept:
    record = features.Record(
        images="", extractor="", choices={}, precision="float32", size=0, num=len(found), batch=batch
    )
    folder.mkdir(parents=True)
    (folder / features.RECORD).write_bytes(msgspec.json.encode(record))
    these = Kept(folder, record)
    for item in range(len(these)):
        places = these.places(item)
        these.keep(item, Features(found[places.start : places.stop], None))
    return these


def labelled(folder: Path, each: int = 4) -> Path:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            grey = np.full((SIZE, SIZE, 3), 20 * label + number, np.uint8)
            Image.fromarray(grey).save(folder / name / f"{number}.png")
    return folder


def reported(asked: Table) -> Report:
    report = Report(asked)
    found: dict[str, Any] = {"extractor": "judge", "inception": False, "num": 10, "reference": 100, "floor": 1.5,
                             "kernel": 0.01, "kernel_deviation": 0.001, "score": None, "score_deviation": None,
                             "precision": 0.5, "recall": 0.25, "compared": 10}  # fmt: skip
    for seed, distance in ((0, 9.0), (5, 10.0)):
        report.add(1, seed, Plan(asked.evaluation(asked.rows[1], seed), NET, CLASSES, 10, 3, 0, "CPU", ("A note.",),
                                 {"torch": "2"}))  # fmt: skip
        report.add(1, seed, Scores(frechet=distance, **found))
    return report


# Numbers ----------------------------------------------------------------------------------------------------------


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = reported(table())
    report.write(tmp_path)
    assert looking.is_table(tmp_path)
    found = looking.open_table(tmp_path)
    for name, value in vars(report).items():
        assert getattr(found, name) == value, name
    assert found.markdown() == report.markdown()


def test_a_table_of_which_nothing_is_measured_yet(tmp_path: Path) -> None:
    Report(table()).write(tmp_path)
    found = looking.open_table(tmp_path)
    assert found.request == table()
    assert found.measured == 0


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    assert not looking.is_table(tmp_path)
    with pytest.raises(Refused, match="holds no table"):
        looking.open_table(tmp_path)
    reported(table()).write(tmp_path)
    whole = json.loads((tmp_path / RECORD).read_text())
    for text in (
        "", "{", "[" * 10_000, json.dumps(whole | {"made_by": "somebody"}), json.dumps(whole | {"rows": []}),
        json.dumps(whole | {"request": whole["request"] | {"seeds": []}}),
    ):  # fmt: skip
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(Refused, match="damaged, or of another version"):
            looking.open_table(tmp_path)


# Samples ----------------------------------------------------------------------------------------------------------


def test_samples_are_sorted_by_class(tmp_path: Path) -> None:
    sampled(tmp_path, table())
    found = looking.samples(tmp_path, table(), 1, 5)
    assert [row.name for row in found.rows] == list(CLASSES)
    assert [row.numbers for row in found.rows] == [(0, 3, 6, 9), (1, 4, 7), (2, 5, 8)]
    for row in found.rows:
        for pixels, number in zip(row.pixels, row.numbers, strict=True):
            assert (pixels == number).all()
    assert (found.total, found.whole) == (10, True)


def test_other_cells_have_none_yet(tmp_path: Path) -> None:
    sampled(tmp_path, table())
    for row, seed in ((0, 5), (1, 0)):
        assert looking.samples(tmp_path, table(), row, seed) == looking.Shown((), 0, False)


def test_those_that_are_there_are_shown_while_more_are_made(tmp_path: Path) -> None:
    sampled(tmp_path, table(), but=(1,))
    found = looking.samples(tmp_path, table(), 1, 5)
    assert [row.numbers for row in found.rows] == [(0, 3, 9), (1,), (2, 8)]
    assert not found.whole


def test_samples_without_classes_come_in_their_order_and_grey_ones_are_shown(tmp_path: Path) -> None:
    asked = table(num=100, batch=50)
    sampled(tmp_path, asked, classes=(), channels=1)
    found = looking.samples(tmp_path, asked, 1, 5)
    assert [len(row.numbers) for row in found.rows] == [16, 16, 16, 16, 16, 16, 4]
    assert not any(row.name for row in found.rows)
    assert [number for row in found.rows for number in row.numbers] == list(range(100))
    assert found.rows[1].pixels.shape == (16, SIZE, SIZE, 3)
    assert (found.rows[1].pixels[2] == 18).all()


def test_of_many_samples_the_first_of_each_class_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more shards are read than that takes."""
    asked = table(num=200, batch=10)
    sampled(tmp_path, asked)
    read: list[int] = []
    whole = Samples.read
    monkeypatch.setattr(Samples, "read", lambda self, shard: (read.append(shard), whole(self, shard))[1])
    found = looking.samples(tmp_path, asked, 1, 5)
    assert [len(row.numbers) for row in found.rows] == [48, 48, 48]
    assert read == list(range(15))
    assert found.total == 200


def test_a_damaged_shard_is_told_of(tmp_path: Path) -> None:
    samples = sampled(tmp_path, table())
    samples.path(1).write_bytes(b"nothing")
    with pytest.raises(Refused, match=r"shard-00001\.npz in .* is damaged"):
        looking.samples(tmp_path, table(), 1, 5)


# Neighbours -------------------------------------------------------------------------------------------------------


def test_the_nearest_real_images_are_found_across_files(tmp_path: Path) -> None:
    """Features that lie on a line: a place further, a distance more."""
    asked = table(labelled(tmp_path / "pets"))
    sampled(tmp_path, asked)
    order = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]  # classes in turns, of images that are sorted by path
    line = np.zeros((12, 3), np.float32)
    line[:, 0] = np.arange(12)
    kept(tmp_path / REFERENCE, line, 5)
    ours = np.zeros((10, 3), np.float32)
    ours[:, 0] = np.linspace(20, 3.2, 10)
    kept(tmp_path / cell(asked.rows[1], 5) / FEATURES, ours, 4)
    found = looking.neighbours(tmp_path, asked, 1, 5, 9, 4)
    places = [3, 4, 2, 5]
    assert [one.distance for one in found] == pytest.approx([0.2, 0.8, 1.2, 1.8], abs=1e-5)
    assert [one.name for one in found] == [CLASSES[place % 3] for place in places]
    for one, place in zip(found, places, strict=True):
        label, number = divmod(order[place], 4)
        assert (one.pixels == 20 * label + number).all()
    assert len(looking.neighbours(tmp_path, asked, 1, 5, 0, 100)) == 12


def test_reference_images_that_are_samples(tmp_path: Path) -> None:
    asked = table()
    real = sampled(tmp_path / "others", asked)
    asked = table(real.folder)
    sampled(tmp_path, asked)
    kept(tmp_path / REFERENCE, np.eye(10, dtype=np.float32), 4)
    kept(tmp_path / cell(asked.rows[1], 5) / FEATURES, np.eye(10, dtype=np.float32), 4)
    found = looking.neighbours(tmp_path, asked, 1, 5, 7, 1)
    assert [(one.name, one.distance) for one in found] == [("dog", 0)]
    assert (found[0].pixels == 7).all()


def test_images_of_an_archive_are_those_of_the_folder_that_it_was_made_of(tmp_path: Path) -> None:
    import tarfile

    folder = labelled(tmp_path / "pets")
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        for path in sorted(folder.rglob("*.png"), reverse=True):  # stored in another order
            archive.add(path, path.relative_to(tmp_path))
    places = [7, 0, 11, 3]
    found = [looking._real(Data(str(path)), places, SIZE) for path in (folder, tmp_path / "pets.tar")]
    assert [name for name, _ in found[0]] == [name for name, _ in found[1]]
    for (_, one), (_, other) in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({int(pixels.mean()) for _, pixels in found[0]}) == 4


def test_images_that_changed_since_are_looked_up_anew(tmp_path: Path) -> None:
    import os

    folder = labelled(tmp_path / "pets")
    before = looking._real(Data(str(folder)), [0], SIZE)[0][1]
    for path in folder.rglob("*.png"):
        Image.fromarray(np.full((SIZE, SIZE, 3), 200, np.uint8)).save(path)
    (folder / "zebra").mkdir()
    Image.fromarray(np.full((SIZE, SIZE, 3), 201, np.uint8)).save(folder / "zebra" / "0.png")
    os.utime(folder, (10**9, 10**9))
    after = looking._real(Data(str(folder)), [0, 3], SIZE)
    assert (before != after[0][1]).all()
    assert after[1][0] == "zebra"
    assert len(open_labelled(Data(str(folder)))) == 13


def test_features_that_are_not_there_yet_are_told_of(tmp_path: Path) -> None:
    asked = table(labelled(tmp_path / "pets"))
    sampled(tmp_path, asked)
    with pytest.raises(Refused, match="are not there yet"):
        looking.neighbours(tmp_path, asked, 1, 5, 0, 4)
    ours = kept(tmp_path / cell(asked.rows[1], 5) / FEATURES, np.zeros((10, 3), np.float32), 4)
    ours.path(1).unlink()
    with pytest.raises(Refused, match="are not there yet"):
        looking.neighbours(tmp_path, asked, 1, 5, 5, 4)
    with pytest.raises(Refused, match="holds no features"):
        looking.neighbours(tmp_path, asked, 1, 5, 0, 4)
