"""Labelled images wherever they lie: class folders, archives, what torchvision leaves on disk, the bundled samples."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cem_core import bundle, datasets, images
from cem_core.datasets import Labelled, open_labelled
from cem_core.messages import Refused
from cem_core.models.torchvision_nets import import_torchvision
from cem_core.probes.requests import Data

CLASSES = ("cat", "dog", "horse")


def nothing_skipped(path: str, why: str) -> None:
    raise AssertionError((path, why))


def grey(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(out, "PNG")
    return out.getvalue()


def files(damaged: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Three images of each class, of which each has a grey of its own."""
    found = {f"{name}/{i}.png": grey(50 * label + i) for label, name in enumerate(CLASSES) for i in range(3)}
    return found | {name: found[name][:40] for name in damaged}


def folder(path: Path, damaged: tuple[str, ...] = ()) -> Path:
    for name, data in files(damaged).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive(path: Path, damaged: tuple[str, ...] = ()) -> Path:
    """Its members in another order than that of their names."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in reversed(files(damaged).items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


KINDS = {"folder": lambda path, damaged=(): folder(path, damaged),
         "archive": lambda path, damaged=(): archive(path / "a.tar.gz", damaged)}  # fmt: skip


# Folders and archives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parts_join_to_the_whole(tmp_path: Path, kind: str) -> None:
    data = open_labelled(Data(str(KINDS[kind](tmp_path))))
    assert (data.classes, data.labels.tolist(), len(data)) == (CLASSES, [0, 0, 0, 1, 1, 1, 2, 2, 2], 9)
    parts = [data.part(first, first + 4, 4, nothing_skipped) for first in (0, 4, 8)]
    assert [kept.tolist() for _, kept in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    whole = np.concatenate([pixels for pixels, _ in parts])
    assert whole.dtype == np.uint8
    assert whole.shape == (9, 4, 4, 3)
    assert whole[:, 1, 2, 0].tolist() == [0, 1, 2, 50, 51, 52, 100, 101, 102]
    assert data.part(0, 9, 2, nothing_skipped)[0].shape == (9, 2, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_unreadable_images_are_left_out_and_told(tmp_path: Path, kind: str) -> None:
    damaged = ("cat/1.png", "horse/2.png")
    data = open_labelled(Data(str(KINDS[kind](tmp_path, damaged))))
    told: list[tuple[str, str]] = []
    pixels, kept = data.part(0, 9, 4, lambda path, why: told.append((path, why)))
    assert kept.tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert pixels[:, 0, 0, 0].tolist() == [0, 2, 50, 51, 52, 100, 101]
    assert tuple(path for path, _ in told) == damaged
    assert all(why.startswith((path, path.split("/")[-1])) for path, why in told)
    told.clear()
    pixels, kept = data.part(8, 9, 4, lambda path, why: told.append((path, why)))
    assert (len(pixels), len(kept), len(told)) == (0, 0, 1)
    with pytest.raises(Refused, match="png "):
        datasets.open_dataset(data.path).arrays(4)  # type: ignore[attr-defined]


def test_of_a_folder_only_the_wanted_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_labelled(Data(str(folder(tmp_path)), num=6))
    read: list[str] = []
    monkeypatch.setattr(datasets, "prepare", lambda path, size: read.append(path.name) or images.prepare(path, size))
    data.part(2, 4, 4, nothing_skipped)
    assert read == ["0.png", "1.png"]  # of dog


def test_an_archive_is_streamed_once_for_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_labelled(Data(str(archive(tmp_path / "a.tar.gz"))))
    opened: list[int] = []
    genuine = datasets._unpacked
    monkeypatch.setattr(datasets, "_unpacked", lambda path: opened.append(1) or genuine(path))
    for first in range(9):
        data.part(first, first + 1, 4, nothing_skipped)
    assert len(opened) == 1
    data.part(0, 9, 8, nothing_skipped)
    assert len(opened) == 2
    assert data.take(3).part(0, 3, 4, nothing_skipped)[0][:, 0, 0, 0].tolist() == [0, 50, 100]
    assert len(opened) == 3


def test_an_archive_that_memory_cannot_hold_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_labelled(Data(str(archive(tmp_path / "a.tar.gz"))))
    monkeypatch.setattr(datasets, "_streamed", nothing_skipped)
    with pytest.raises(Refused, match=r"The 9 images of a\.tar\.gz take 10\.8 GB of memory: take fewer, or unpack it"):
        data.part(0, 1, 20_000, nothing_skipped)


@pytest.mark.parametrize(
    ("num", "labels"), [(1, [0]), (3, [0, 1, 2]), (5, [0, 0, 1, 1, 2]), (99, [0] * 3 + [1] * 3 + [2] * 3)]
)
def test_so_many_images_evenly_over_the_classes(tmp_path: Path, num: int, labels: list[int]) -> None:
    assert open_labelled(Data(str(folder(tmp_path)), num=num)).labels.tolist() == labels


@pytest.mark.parametrize("images", [0, 1])
def test_a_folder_without_class_folders_is_refused(tmp_path: Path, images: int) -> None:
    for i in range(images):
        (tmp_path / f"{i}.png").write_bytes(grey(i))
    with pytest.raises(Refused, match="no images in class folders"):
        open_labelled(Data(str(tmp_path)))


def test_the_bundled_samples() -> None:
    data = open_labelled(Data())
    assert data.name == "bundled samples"
    assert len(data) == len(bundle.samples()) == 20
    pixels, _ = data.part(0, 20, 32, nothing_skipped)
    assert np.bincount(data.labels).tolist() == [2] * 10
    for path, label, image in zip(bundle.samples(), data.labels, pixels, strict=True):
        assert data.classes[label] == bundle.sample_class(path)
        assert np.array_equal(image, np.asarray(Image.open(path).convert("RGB")))
    assert sorted(open_labelled(Data(num=10)).labels) == list(range(10))
    with pytest.raises(Refused, match="have no split test: leave the split out"):
        open_labelled(Data(split="test"))


# Datasets of torchvision ------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST: unsigned bytes, big-endian sizes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(root: Path, name: str = "MNIST") -> np.ndarray:
    """Four training images and three test images, whose values are returned."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
    for split, part in (("train", slice(0, 4)), ("t10k", slice(4, 7))):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(values[part]))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(7, dtype=np.uint8)[part]))
    return values


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "CIFAR10") -> np.ndarray:
    """A CIFAR with two images a file, whose digests pass for the published ones; (2, 32, 32, 3) those of the test."""
    of = getattr(import_torchvision().datasets, kind)
    base = root / of.base_folder
    base.mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)

    def write(name: str, content: Any) -> str:
        (base / name).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((base / name).read_bytes()).hexdigest()

    labels = "labels" if kind == "CIFAR10" else "fine_labels"
    for field in ("train_list", "test_list"):
        entry = {"data": values if field == "test_list" else 255 - values, labels: [3, 9]}
        monkeypatch.setattr(of, field, [[name, write(name, entry)] for name, _ in getattr(of, field)])
    meta = {of.meta["key"]: [f"class {i}" for i in range(10)]}
    monkeypatch.setattr(of, "meta", of.meta | {"md5": write(of.meta["filename"], meta)})
    return values.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1)


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("inside", ["", "MNIST", "MNIST/raw"])
@pytest.mark.parametrize(("split", "part"), [(None, slice(4, 7)), ("test", slice(4, 7)), ("train", slice(0, 4))])
def test_mnist(tmp_path: Path, inside: str, split: str | None, part: slice) -> None:
    values = mnist(tmp_path)
    data = open_labelled(Data(str(tmp_path / inside), split))
    assert data.name == f"MNIST {split or 'test'}"
    assert data.classes == tuple("0123456789")
    assert data.labels.tolist() == list(range(7)[part])
    pixels, kept = data.part(1, 3, 28, nothing_skipped)
    assert kept.tolist() == [1, 2]
    assert np.array_equal(pixels, np.repeat(values[part][1:3, ..., None], 3, 3))
    scaled, _ = data.part(0, 2, 32, nothing_skipped)
    assert scaled.shape == (2, 32, 32, 3)
    assert abs(scaled.mean() - values[part][:2].mean()) < 2


def test_other_sets_in_the_format_of_mnist(tmp_path: Path) -> None:
    mnist(tmp_path / "a", "FashionMNIST")
    mnist(tmp_path / "b", "KMNIST")
    assert open_labelled(Data(str(tmp_path / "a"))).classes[0] == "T-shirt/top"
    assert open_labelled(Data(str(tmp_path / "b"))).name == "KMNIST test"
    mnist(tmp_path / "a")
    with pytest.raises(Refused, match=r"several datasets \(FashionMNIST, MNIST\): give the folder"):
        open_labelled(Data(str(tmp_path / "a")))
    assert open_labelled(Data(str(tmp_path / "a" / "MNIST"))).name == "MNIST test"


@pytest.mark.parametrize("kind", ["CIFAR10", "CIFAR100"])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    values = cifar(tmp_path, monkeypatch, kind)
    data = open_labelled(Data(str(tmp_path)))
    pixels, kept = data.part(0, 9, 32, nothing_skipped)
    assert np.array_equal(pixels, values)
    assert (kept.tolist(), data.labels.tolist(), data.classes[3]) == ([0, 1], [3, 9], "class 3")
    train = open_labelled(Data(str(tmp_path), "train", num=2))
    assert np.array_equal(train.part(0, 1, 32, nothing_skipped)[0], 255 - values[:1])
    with pytest.raises(Refused, match="has the splits test, train, not val: choose one"):
        open_labelled(Data(str(tmp_path), "val"))


VICTIMS = {
    "CIFAR10": ("data_batch_1", "data_batch_5", "test_batch", "batches.meta"),
    "CIFAR100": ("train", "test", "meta"),
}


@pytest.mark.parametrize(("kind", "victim"), [(kind, name) for kind, names in VICTIMS.items() for name in names])
def test_a_pickle_that_was_tampered_with_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, victim: str
) -> None:
    cifar(tmp_path / "data", monkeypatch, kind)
    file = next((tmp_path / "data").rglob(victim))
    genuine = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps(genuine | {"more": Hostile(tmp_path / "trace")}, protocol=2))
    for split in ("train", "test"):
        with pytest.raises(
            Refused, match=rf"does not hold {kind} as torchvision fetches it: a file is missing or changed"
        ):
            open_labelled(Data(str(tmp_path / "data"), split))
    assert not (tmp_path / "trace").exists()
    pickle.loads(file.read_bytes())  # so it would have been seen
    assert (tmp_path / "trace").exists()


def test_what_old_versions_left_of_mnist_is_not_opened(tmp_path: Path) -> None:
    values = mnist(tmp_path)
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(pickle.dumps(Hostile(tmp_path / "trace")))
    pixels, _ = open_labelled(Data(str(tmp_path))).part(0, 3, 28, nothing_skipped)
    assert np.array_equal(pixels[..., 0], values[4:])
    assert not (tmp_path / "trace").exists()


IMAGES, LABELS = idx(np.zeros((3, 28, 28), np.uint8)), idx(np.zeros(3, np.uint8))
DAMAGED = {
    "cut": (IMAGES[:1000], LABELS),
    "empty": (b"", LABELS),
    "floats": (IMAGES[:2] + b"\x0d" + IMAGES[3:], LABELS),
    "fewer labels": (IMAGES, idx(np.zeros(2, np.uint8))),
    "label beyond the classes": (IMAGES, idx(np.full(3, 10, np.uint8))),
    "no images": (idx(np.zeros((0, 28, 28), np.uint8)), idx(np.zeros(0, np.uint8))),
    "images without pixels": (idx(np.zeros((3, 0, 28), np.uint8)), LABELS),
    "gigantic": (IMAGES[:4] + b"\xff" * 12 + IMAGES[16:], LABELS),
    "labels in rows": (IMAGES, idx(np.zeros((3, 1), np.uint8))),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    mnist(tmp_path)
    names = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    for name, data in zip(names, DAMAGED[damage], strict=True):
        (tmp_path / "MNIST" / "raw" / name).write_bytes(data)
    with pytest.raises(Refused, match="fetch it again"):
        open_labelled(Data(str(tmp_path)))


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(Refused, match="does not hold MNIST as torchvision fetches it"):
        open_labelled(Data(str(tmp_path)))


def stl(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    of = import_torchvision().datasets.STL10
    base = root / of.base_folder
    base.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96), np.uint8)  # the test images, column by column
    content = {"test_X.bin": values.tobytes(), "test_y.bin": bytes([1, 10]),
               "train_X.bin": values[:1].tobytes(), "train_y.bin": bytes([2])}  # fmt: skip
    for name, data in content.items():
        (base / name).write_bytes(data)
    (base / "class_names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    for field in ("train_list", "test_list"):
        digests = [[name, hashlib.md5(content.get(name, b"")).hexdigest()] for name, _ in getattr(of, field)]
        monkeypatch.setattr(of, field, digests)
    return values.transpose(0, 3, 2, 1)


def test_stl10_without_its_unlabelled_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = stl(tmp_path, monkeypatch)
    data = open_labelled(Data(str(tmp_path / "stl10_binary")))
    assert (data.labels.tolist(), data.classes[9]) == ([0, 9], "class 9")
    assert np.array_equal(data.part(0, 2, 96, nothing_skipped)[0], values)
    assert open_labelled(Data(str(tmp_path), "train")).labels.tolist() == [1]


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 3), np.uint8)
    scipy_io.savemat(tmp_path / "test_32x32.mat", {"X": values, "y": np.array([[10], [1], [9]], np.uint8)})
    with pytest.raises(Refused, match="does not hold SVHN as torchvision fetches it"):
        open_labelled(Data(str(tmp_path)))
    of = import_torchvision().datasets.SVHN
    digest = hashlib.md5((tmp_path / "test_32x32.mat").read_bytes()).hexdigest()
    monkeypatch.setattr(of, "split_list", of.split_list | {"test": [*of.split_list["test"][:2], digest]})
    data = open_labelled(Data(str(tmp_path)))
    assert (data.labels.tolist(), data.classes) == ([0, 1, 9], tuple("0123456789"))
    assert np.array_equal(data.part(0, 3, 32, nothing_skipped)[0], values.transpose(3, 0, 1, 2))
    with pytest.raises(Refused, match="has the splits test, not train"):
        open_labelled(Data(str(tmp_path), "train"))


def test_all_kinds_are_labelled(tmp_path: Path) -> None:
    mnist(tmp_path / "torchvision")
    folder(tmp_path / "folder")
    kinds: list[Labelled] = [open_labelled(Data(path)) for path in ("", *(str(p) for p in tmp_path.iterdir()))]
    for data in kinds:
        fewer = data.take(2)
        assert type(fewer) is type(data)
        assert len(fewer) == len(fewer.labels) == len(fewer.part(0, 2, 8, nothing_skipped)[0]) == 2
        assert fewer.classes == data.classes
        with pytest.raises(Refused, match="at least 1"):
            data.take(0)
