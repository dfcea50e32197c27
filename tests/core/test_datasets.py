from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cem_core import datasets
from cem_core.datasets import Dataset, open_dataset
from cem_core.messages import Refused

TREE = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("dog", "cat", "été") for i in range(4)]


def pixels_of(file: str) -> np.ndarray:
    return np.random.default_rng(list(file.encode())).integers(0, 256, (4, 4, 3), np.uint8)


def png(file: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels_of(file)).save(out, "PNG")
    return out.getvalue()


def folder(path: Path, files: list[str]) -> Path:
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_bytes(png(file))
    return path


def archive(path: Path, files: list[str], kind: str = "") -> Path:
    with tarfile.open(path, f"w:{kind}") as tar:
        for file in files:
            member = tarfile.TarInfo(file)
            member.size = len(png(file))
            tar.addfile(member, io.BytesIO(png(file)))
    return path


def check(data: Dataset, split: str) -> None:
    """What TREE must give."""
    assert data.classes == ("cat", "dog", "été")
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [file.rsplit("train/")[-1].rsplit("test/")[-1] for file in data.files][3:5] == ["cat/3.png", "dog/0.png"]
    pixels, labels = data.arrays(4)
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int64
    for image, file in zip(pixels, data.files, strict=True):
        assert split in file
        assert np.array_equal(image, pixels_of(file.removeprefix("around/")))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder(tmp_path: Path, split: str) -> None:
    folder(tmp_path, TREE)
    check(open_dataset(tmp_path, split), split)
    check(open_dataset(tmp_path, split), split)


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_an_archive_gives_the_same_in_any_order(tmp_path: Path, kind: str) -> None:
    check(open_dataset(archive(tmp_path / "data.tar", TREE[::-1], kind), "train"), "train")


def test_a_folder_around_it_and_other_files_do_not_matter(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", [f"./{file}" for file in TREE])
    assert open_dataset(path, "test").files[0] == "test/cat/0.png"
    around = folder(tmp_path / "data", TREE)
    (around / "README.md").write_text("read me")
    (around / "train" / "cat" / "._0.png").write_text("litter of a Mac")
    (around / "train" / "cat" / "labels.csv").write_text("1,2")
    (around / "train" / "empty").mkdir()
    data = open_dataset(tmp_path, "train")
    assert len(data) == 12
    assert data.files[0] == "data/train/cat/0.png"


def test_without_splits(tmp_path: Path) -> None:
    folder(tmp_path / "flat", ["cat/1.png", "cat/deeper/2.png", "dog/1.JPG"])
    data = open_dataset(tmp_path / "flat")
    assert data.files == ("cat/1.png", "cat/deeper/2.png", "dog/1.JPG")
    assert data.labels.tolist() == [0, 0, 1]
    assert open_dataset(folder(tmp_path / "one", ["train/cat/1.png"])).classes == ("cat",)
    assert open_dataset(folder(tmp_path / "class", ["cat/1.png"])).classes == ("cat",)


def test_images_of_another_size_are_made_to_fit(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("L", (60, 40), 7).save(tmp_path / "cat" / "x.gif")
    pixels, _ = open_dataset(tmp_path).arrays(8)
    assert np.unique(pixels).tolist() == [7]


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=4), every=st.integers(1, 4), first=st.integers(1, 30))
def test_a_part_is_even_across_classes(counts: list[int], every: int, first: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    files = tuple(f"{label}/{i}" for i, label in enumerate(labels))
    whole = Dataset(Path(), tuple("abcd"[: len(counts)]), files, labels)
    thinned = whole.take(every=every)
    assert np.bincount(thinned.labels).tolist() == [-(-count // every) for count in counts]
    part = whole.take(first, every)
    assert len(part) == min(first, len(thinned))
    assert list(part.files) == [file for file in files if file in part.files]
    taken = np.bincount(part.labels, minlength=len(counts))
    for count, available in zip(taken, np.bincount(thinned.labels), strict=True):
        assert count == available or count >= taken.max() - 1


def test_a_part_of_an_archive(tmp_path: Path) -> None:
    part = open_dataset(archive(tmp_path / "a.tar", TREE), "train").take(first=6, every=2)
    assert part.files == tuple(f"train/{name}/{i}.png" for name in ("cat", "dog", "été") for i in (0, 2))
    assert np.array_equal(part.arrays(4)[0][3], pixels_of("train/dog/2.png"))
    with pytest.raises(Refused, match="at least 1"):
        part.take(first=0)


def test_links_and_paths_that_lead_out_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png("secret"))
    path = archive(tmp_path / "a.tar", ["cat/1.png", "../dog/1.png"])
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"cat/link{kind.decode()}.png")
            member.type, member.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(member)
    data = open_dataset(path)
    assert data.files == ("cat/1.png",)
    data.arrays(4)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar", "secret.png"]


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    folder(tmp_path, ["cat/1.png", "dog/1.png"])
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    assert open_dataset(tmp_path).classes == ("cat", "dog")


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["itself.png", "nowhere.png", "cat", "."])
def test_links_that_lead_nowhere_and_to_folders_are_passed_over(tmp_path: Path, target: str) -> None:
    folder(tmp_path, ["cat/1.png", "dog/1.png"])
    (tmp_path / "dog" / "itself.png").symlink_to(tmp_path / "dog" / target)
    (tmp_path / "bird").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "dog" / "1.png")
    assert open_dataset(tmp_path).files == ("cat/1.png", "cat/2.png", "dog/1.png")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"cannot be read .*too long"):
        open_dataset(tmp_path / ("x" * 300))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("before", [0, 1])
def test_a_header_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, kind: bytes, before: int) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 2**33
    bomb = tarfile.TarInfo("cat/1.png").tobuf() * before + header.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(bomb + bytes(10240))
    with pytest.raises(Refused, match="is not a tar archive, or damaged"):
        open_dataset(tmp_path / "a.tar")


def test_names_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type = tarfile.GNUTYPE_LONGNAME
    (tmp_path / "a.tar").write_bytes(header.tobuf() * 5000 + bytes(1024))
    with pytest.raises(Refused, match="is not a tar archive, or damaged"):
        open_dataset(tmp_path / "a.tar")


@pytest.mark.parametrize("settings", [{"size": "-1" + "0" * 30}, {"GNU.sparse.map": "1,x", "GNU.sparse.size": "9"}])
def test_settings_that_are_no_numbers_are_refused(tmp_path: Path, settings: dict[str, str]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("cat/1.png")
        member.pax_headers = settings
        tar.addfile(member)
    with pytest.raises(Refused, match=r"is not a tar archive, or damaged|cannot be read|no images in class folders"):
        open_dataset(tmp_path / "a.tar")


def test_missing_and_without_classes(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="There is no folder or archive"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(Refused, match="no images in class folders"):
        open_dataset(tmp_path)
    folder(tmp_path, ["1.png", "2.png"])
    with pytest.raises(Refused, match="no images in class folders"):
        open_dataset(tmp_path)


def test_where_no_classes_are_needed_every_image_counts(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"has no images\.$"):
        open_dataset(tmp_path, classless=True)
    several = folder(tmp_path / "several", ["cat/1.png", "dog/1.png", "dog/2.png"])
    assert open_dataset(several, classless=True).labels.tolist() == [0, 1, 1]
    folder(several, ["3.png"])
    for path, files in (
        (several, ("3.png", "cat/1.png", "dog/1.png", "dog/2.png")),
        (folder(tmp_path / "one", ["cat/1.png", "cat/deeper/2.png"]), ("cat/1.png", "cat/deeper/2.png")),
        (folder(tmp_path / "none", ["2.png", "1.png", "notes.txt/3.png"]), ("1.png", "2.png", "notes.txt/3.png")),
        (archive(tmp_path / "flat.tar", ["b.png", "a.png"]), ("a.png", "b.png")),
    ):
        found = open_dataset(path, classless=True)
        assert found.files == files
        assert found.classes == (path.name,)
        assert found.labels.tolist() == [0] * len(files)
    both = folder(tmp_path / "both", ["train/1.png", "train/2.png", "test/3.png"])
    assert open_dataset(both, "train", classless=True).files == ("train/1.png", "train/2.png")


def test_splits(tmp_path: Path) -> None:
    folder(tmp_path / "both", TREE)
    with pytest.raises(Refused, match="has the splits test, train: choose one"):
        open_dataset(tmp_path / "both")
    with pytest.raises(Refused, match="has the splits test, train, not val: choose one"):
        open_dataset(tmp_path / "both", "val")
    folder(tmp_path / "flat", ["cat/1.png", "dog/1.png"])
    with pytest.raises(Refused, match="has no split train"):
        open_dataset(tmp_path / "flat", "train")


def test_not_an_archive(tmp_path: Path) -> None:
    for name, content in (("text.tar", b"Dear diary, " * 200), ("empty.tar", b""), ("zip.tar", b"PK\x03\x04" * 512)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Refused, match=rf"{name} (is not a tar archive|has no images)"):
            open_dataset(tmp_path / name)


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_an_archive_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    whole = archive(tmp_path / "whole.tar", TREE, kind).read_bytes()
    cut = tmp_path / "cut.tar"
    refusals = set()
    for end in range(1, len(whole), len(whole) // 40) if kind else range(512, 1024 * len(TREE), 512):
        cut.write_bytes(whole[:end])
        try:
            found = len(open_dataset(cut, "train"))
        except Refused as refusal:
            refusals.add(str(refusal))
        else:
            assert kind
            assert found == 12, "only what follows the last image is gone"
    assert refusals == {f"{cut} is not a tar archive, or damaged: fetch it again."}


def test_an_archive_that_changes_is_refused(tmp_path: Path) -> None:
    data = open_dataset(archive(tmp_path / "a.tar", TREE), "train")
    archive(tmp_path / "a.tar", TREE[:5])
    with pytest.raises(Refused, match="has changed since it was opened"):
        data.arrays(4)


def test_damage_inside_an_archive_is_refused(tmp_path: Path) -> None:
    for kind in ("gz", "bz2", "xz"):
        path = archive(tmp_path / f"a.{kind}", TREE, kind)
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
        path.write_bytes(whole)
        with pytest.raises(Refused, match=r"is not a tar archive|cannot be read|is damaged"):
            open_dataset(path, "train").arrays(4)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    folder(tmp_path, ["cat/1.png", "cat/2.png"])
    (tmp_path / "cat" / "2.png").write_bytes(png("x")[:60])
    with pytest.raises(Refused, match=r"2\.png is damaged"):
        open_dataset(tmp_path).arrays(4)


def test_a_huge_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "a.tar", TREE)
    monkeypatch.setattr(datasets, "MAX_MEMBER", 50)
    with pytest.raises(Refused, match="is larger than"):
        open_dataset(path, "train")
