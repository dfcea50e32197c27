from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cem_core.evaluation import shards
from cem_core.evaluation.requests import Sampling
from cem_core.evaluation.shards import MADE_BY, RECORD, SHEET, Record, Samples, Shard, claim, is_samples, open_samples
from cem_core.messages import Checkpoint, Refused
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import Subject

CLASSES = ("cat", "dog", "horse")
CHECKPOINT = Checkpoint("net", "/nets/net.pt", "ab" * 32, "Net", "net", 10, CLASSES, 3, 4, ())


def record(num: int = 10, batch: int = 4, checkpoint: Checkpoint = CHECKPOINT, **changes: Any) -> Record:
    request = Sampling(
        subject=Subject("net.pt", device="cpu"), sampler=SAMPLERS["RCS"], num=num, batch=batch, **changes
    )
    return Record(request=request, checkpoint=checkpoint, classes=CLASSES, device="cpu", versions={"cem-explorer": "1"})


def shard(samples: Samples, index: int) -> Shard:
    request, size = samples.record.request, samples.record.checkpoint.size
    places = request.places(index)
    random = np.random.default_rng(index)
    return Shard(
        random.integers(0, 256, (len(places), size, size, samples.record.checkpoint.channels), np.uint8),
        np.array([place % len(CLASSES) for place in places]),
        np.array([request.seed_of(place) for place in places]),
    )


def filled(folder: Path, asked: Record | None = None) -> Samples:
    samples = claim(folder, asked or record())
    for index in range(len(samples)):
        samples.keep(index, shard(samples, index))
    return samples


def same(left: Shard, right: Shard) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def refused(act: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


# Whole ------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    samples = filled(tmp_path / "samples")
    again = open_samples(samples.folder)
    assert again.record == samples.record
    assert (again.num, again.classes, len(again)) == (10, CLASSES, 3)
    assert again.done() == samples.done() == {0, 1, 2}
    for index in range(3):
        assert same(again.read(index), shard(samples, index))
    assert sorted(path.name for path in samples.folder.iterdir()) == [
        RECORD, "shard-00000.npz", "shard-00001.npz", "shard-00002.npz"
    ]  # fmt: skip


def test_a_shard_is_what_evaluators_of_guided_diffusion_read(tmp_path: Path) -> None:
    samples = filled(tmp_path)
    with np.load(samples.path(2), allow_pickle=False) as found:
        assert sorted(found.files) == ["arr_0", "arr_1", "of", "seeds"]
        assert (found["arr_0"].shape, found["arr_0"].dtype) == ((2, 4, 4, 3), np.uint8)
        assert found["arr_1"].tolist() == [2, 0]
        assert found["seeds"].tolist() == [8, 9]
        assert str(found["of"]) == samples.record.of


def test_the_record_says_how_they_were_made_and_reads_as_it_was_written(tmp_path: Path) -> None:
    samples = claim(tmp_path, record())
    found = json.loads((tmp_path / RECORD).read_text())
    assert found["made_by"] == MADE_BY
    assert found["request"]["sampler"]["name"] == "RCS"
    assert found["classes"] == list(CLASSES)
    assert open_samples(tmp_path).record.of == samples.record.of, "1 and 1.0 are the same weight"


def test_what_can_be_told_by_its_name_is_a_folder_of_samples(tmp_path: Path) -> None:
    assert not is_samples(tmp_path)
    assert not is_samples(tmp_path / "nowhere")
    claim(tmp_path, record())
    assert is_samples(tmp_path)


# Damaged ----------------------------------------------------------------------------------------------------------


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    samples = filled(tmp_path)
    samples.path(1).unlink()
    assert samples.done() == {0, 2}
    assert "has no shard-00001.npz: go on with cem-explorer sample" in refused(samples.read, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return filled(tmp_path_factory.mktemp("samples"))


@given(st.data())
def test_a_changed_byte_is_noticed_or_changes_nothing(whole: Samples, data: st.DataObject) -> None:
    kept = whole.path(0).read_bytes()
    at = data.draw(st.integers(0, len(kept) - 1))
    flip = data.draw(st.integers(1, 255))
    whole.path(0).write_bytes(kept[:at] + bytes([kept[at] ^ flip]) + kept[at + 1 :])
    try:
        assert not whole.has(0) or same(whole.read(0), shard(whole, 0))
    finally:
        whole.path(0).write_bytes(kept)


@given(st.data())
def test_a_torn_shard_is_not_there(whole: Samples, data: st.DataObject) -> None:
    kept = whole.path(1).read_bytes()
    whole.path(1).write_bytes(kept[: data.draw(st.integers(0, len(kept) - 1))])
    try:
        assert whole.done() == {0, 2}
        assert "shard-00001.npz" in refused(whole.read, 1)
        assert "damaged" in refused(whole.read, 1)
    finally:
        whole.path(1).write_bytes(kept)


def arrays(samples: Samples, index: int = 0) -> dict[str, Any]:
    made = shard(samples, index)
    return {"arr_0": made.pixels, "arr_1": made.labels, "seeds": made.seeds, "of": np.array(samples.record.of)}


def test_a_shard_that_is_what_it_says_is_taken(whole: Samples) -> None:
    """So that what follows fails for its own reason."""
    np.savez(whole.path(0), **arrays(whole))
    assert same(whole.read(0), shard(whole, 0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arr_0": np.zeros((3, 4, 4, 3), np.uint8)}, "its arr_0 has another s"),
        ({"arr_0": np.zeros((4, 3, 4, 4), np.uint8)}, "its arr_0 has another shape or type"),
        ({"arr_0": np.zeros((4, 4, 4, 3), np.int8)}, "its arr_0 has another shape or type"),
        ({"arr_0": np.asfortranarray(np.zeros((4, 4, 4, 3), np.uint8))}, "its arr_0 has another shape or type"),
        ({"arr_0": np.zeros((4, 4, 4, 3))}, "its arr_0 has another shape or type"),
        ({"arr_1": np.array([0, 1, 2, 3])}, "labels of no class"),
        ({"arr_1": np.array([0, 1, 2, -1])}, "labels of no class"),
        ({"arr_1": np.array([0, 1, 2, 0], np.uint64)}, "its arr_1 has another shape or type"),
        ({"seeds": np.array([0, 1, 2, 4])}, "it is of other samples"),
        ({"of": np.array("0" * 64)}, "it is of other samples"),
        ({"of": np.array("0" * 63)}, "its of has another shape or type"),
    ],
)
def test_a_shard_of_anything_else_is_damaged(whole: Samples, changes: dict[str, Any], says: str) -> None:
    kept = whole.path(0).read_bytes()
    np.savez(whole.path(0), **(arrays(whole) | changes))
    try:
        assert 0 not in whole.done()
        assert says in refused(whole.read, 0)
    finally:
        whole.path(0).write_bytes(kept)


class _Runs:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def test_nothing_in_a_shard_is_ever_run(tmp_path: Path) -> None:
    samples = filled(tmp_path / "samples")
    trap = np.array([_Runs(tmp_path / "ran")], object)
    np.savez(samples.path(0), **(arrays(samples) | {"arr_1": trap}), allow_pickle=True)
    samples.path(1).write_bytes(pickle.dumps(_Runs(tmp_path / "ran")))
    assert samples.done() == {2}
    for index in (0, 1):
        assert "damaged" in refused(samples.read, index)
    assert not (tmp_path / "ran").exists()
    pickle.loads(samples.path(1).read_bytes())
    assert (tmp_path / "ran").exists(), "the trap is one"


def _zipped(path: Path, members: dict[str, bytes], kind: int) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_nothing_in_a_shard_is_ever_unpacked(tmp_path: Path) -> None:
    """A small file may unpack to anything; ours are stored as they are."""
    samples = filled(tmp_path)
    members = {name: _npy(array) for name, array in arrays(samples).items()}
    _zipped(samples.path(0), members, zipfile.ZIP_STORED)
    assert samples.has(0)
    _zipped(samples.path(0), members, zipfile.ZIP_DEFLATED)
    assert "its arr_0 has another size" in refused(samples.read, 0)
    _zipped(samples.path(0), members | {"arr_0": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    assert "its arr_0 has another size" in refused(samples.read, 0)
    os.truncate(samples.path(0), 10**9)
    assert "larger than 4 samples are" in refused(samples.read, 0)


def test_a_header_that_promises_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    samples = filled(tmp_path)
    members = {name: _npy(array) for name, array in arrays(samples).items()}
    honest = members["arr_0"]
    members["arr_0"] = honest.replace(b"(4, 4, 4, 3), }       ", b"(4000000000, 4, 4, 3)}")
    assert len(members["arr_0"]) == len(honest)
    assert members["arr_0"] != honest
    _zipped(samples.path(0), members, zipfile.ZIP_STORED)
    assert "its arr_0 has another shape" in refused(samples.read, 0)


# Folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_may_get_more(tmp_path: Path) -> None:
    filled(tmp_path)
    more = claim(tmp_path, record(11))
    assert more.done() == {0, 1}, "the last shard was short"
    assert open_samples(tmp_path).num == 11
    assert "holds 11 samples, which is more than 10: ask for as many" in refused(claim, tmp_path, record(10))
    assert open_samples(tmp_path).num == 11


def test_what_made_the_first_stays_known(tmp_path: Path) -> None:
    claim(tmp_path, msgspec.structs.replace(record(), versions={"cem-explorer": "1", "torch": "2.9"}))
    claim(tmp_path, msgspec.structs.replace(record(20), versions={"cem-explorer": "1", "torch": "2.10"}))
    assert open_samples(tmp_path).record.versions["torch"] == "2.9"


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (record(seed=1), "seed"),
        (record(batch=5), "batch"),
        (record(start="noise", per_class=False), "start, classes in turns"),
        (record(checkpoint=msgspec.structs.replace(CHECKPOINT, sha256="cd" * 32)), "checkpoint"),
        (record(checkpoint=msgspec.structs.replace(CHECKPOINT, size=8)), "reading of the checkpoint"),
        (msgspec.structs.replace(record(), device="cuda"), "kind of device"),
        (msgspec.structs.replace(record(), versions={"cem-explorer": "2"}), "version of the program"),
        (msgspec.structs.replace(record(), versions={"cem-explorer": "1", "reference batch": "ab"}), "reference batch"),
    ],
)
def test_a_folder_of_other_samples_is_left_alone(tmp_path: Path, other: Record, differs: str) -> None:
    samples = filled(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert f"holds other samples than these ({differs}): ask for the same" in refused(claim, tmp_path, other)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert other.of != samples.record.of


def test_each_number_of_the_sampler_decides_and_its_name_does_not(tmp_path: Path) -> None:
    claim(tmp_path, record())
    for change in ({"steps": 61}, {"noise": 0.02}, {"step_size": 0.5}, {"norm": "linf"}, {"normalised": False}):
        row = msgspec.structs.replace(SAMPLERS["RCS"], **change)
        other = msgspec.structs.replace(record(), request=msgspec.structs.replace(record().request, sampler=row))
        (name,) = change
        assert f"({name.replace('_', ' ')})" in refused(claim, tmp_path, other)
    row = msgspec.structs.replace(SAMPLERS["RCS"], name="ours")
    claim(tmp_path, msgspec.structs.replace(record(), request=msgspec.structs.replace(record().request, sampler=row)))


@pytest.mark.parametrize("name", ["notes.txt", "shard-00003.npz", "shard-000001.npz", "shard-1.npz", "features"])
def test_a_foreign_file_is_named(tmp_path: Path, name: str) -> None:
    samples = filled(tmp_path)
    (tmp_path / name).touch()
    assert f"also holds {name}, which is none of its samples" in refused(open_samples, tmp_path)
    assert f"also holds {name}" in refused(claim, tmp_path, record())
    assert samples.done() == {0, 1, 2}


def test_what_has_the_name_of_a_shard_and_is_no_file_is_foreign(tmp_path: Path) -> None:
    samples = filled(tmp_path)
    samples.path(2).unlink()
    samples.path(2).mkdir()
    assert "also holds shard-00002.npz" in refused(open_samples, tmp_path)
    assert 2 not in samples.done()
    samples.path(2).rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(samples.path(2))
        assert "also holds shard-00002.npz" in refused(open_samples, tmp_path)
        assert "no ordinary file" in refused(samples.read, 2)


def test_what_others_leave_behind_is_nothing_to_speak_of(tmp_path: Path) -> None:
    filled(tmp_path)
    for name in (".DS_Store", "Thumbs.db", ".nfs000000000001", SHEET):
        (tmp_path / name).touch()
    (tmp_path / ".cem-explorer-abc").mkdir()
    assert open_samples(tmp_path).done() == {0, 1, 2}


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    assert "is not empty and was not made by cem-explorer sample" in refused(claim, tmp_path, record())
    assert "holds no samples" in refused(open_samples, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "holds no samples" in refused(open_samples, tmp_path / "nowhere")
    assert "cannot be used" in refused(claim, tmp_path / "thesis.tex", record())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"made_by": "cem-explorer sample"}',
        b"\xff",
        b"[" * 10**5,
        b'{"made_by": "cem-explorer sample", ' * 9,
    ],
)
def test_a_record_that_is_none_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    assert "is damaged, or of another version of the program" in refused(open_samples, tmp_path)
    assert refused(claim, tmp_path, record())
    assert (tmp_path / RECORD).read_bytes() == content


@pytest.mark.parametrize("change", [{"size": 0}, {"size": 10**9}, {"channels": 2}, {"channels": -1}])
def test_a_record_of_impossible_images_takes_no_memory(tmp_path: Path, change: dict[str, int]) -> None:
    samples = filled(tmp_path)
    found = msgspec.json.decode((tmp_path / RECORD).read_bytes())
    found["checkpoint"] |= change
    (tmp_path / RECORD).write_bytes(msgspec.json.encode(found))
    if change == {"size": 10**9}:
        assert "damaged" in refused(open_samples(tmp_path).read, 0)
    else:
        assert "is damaged" in refused(open_samples, tmp_path)
    assert samples.done() == {0, 1, 2}


# To look at -------------------------------------------------------------------------------------------------------


def _plain(samples: Samples) -> None:
    """Sample n is of grey level 100 + n, all over."""
    for index in range(len(samples)):
        made, places = shard(samples, index), samples.record.request.places(index)
        made.pixels[:] = 100 + np.array(places)[:, None, None, None]
        samples.keep(index, made if samples.classes else made._replace(labels=np.zeros_like(made.labels)))


def test_the_sheet_has_a_row_for_each_class(tmp_path: Path) -> None:
    samples = claim(tmp_path, record(8))
    _plain(samples)
    picture = shards.sheet(samples)
    grey = np.where(picture.min(2) == picture.max(2), picture[..., 0], 0)  # the text is bluish
    found = {level: np.argwhere(grey == level).mean(0) for level in range(100, 108)}
    counts = {level: (grey == level).sum() for level in found}
    assert min(counts.values()) >= 64 * 64
    rows = [found[level][0] for level in found]
    assert rows[0] == pytest.approx(rows[3], abs=1) == pytest.approx(rows[6], abs=1)
    assert rows[0] < rows[1] < rows[2]
    columns = [found[level][1] for level in (100, 103, 106)]
    assert columns[0] < columns[1] < columns[2]


def test_without_classes_the_sheet_shows_the_first(tmp_path: Path) -> None:
    samples = claim(tmp_path, msgspec.structs.replace(record(12), classes=()))
    _plain(samples)
    grey = shards.sheet(samples)[..., 0]
    found = [np.argwhere(grey == 100 + place).mean(0) for place in range(12)]
    assert found[0][0] == pytest.approx(found[9][0], abs=1)
    assert found[10][0] > found[9][0]
    assert found[0][1] < found[1][1]
