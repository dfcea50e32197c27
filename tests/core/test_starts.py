from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from scenarios_session import session

from cem_core import bundle, starts
from cem_core.messages import Chain, Checkpoint, GaussianStart, ImageStart, NoiseStart, OverallStart, Refused
from cem_core.starts import Gaussians, fit, save

SHAPE = (3, 4, 4)
PIXELS = 48


def known(classes: int = 2, rank: int = 2, seed: int = 0) -> Gaussians:
    """Gaussians well inside the box, with orthogonal directions that stand far out of the rest."""
    random = np.random.default_rng(seed)
    mean = 0.5 + 0.1 * random.uniform(-1, 1, (classes, *SHAPE))
    directions = np.stack([np.linalg.qr(random.normal(size=(PIXELS, rank)))[0].T for _ in range(classes)])
    directions *= 0.25 * np.array([1.0, 0.6])[:rank, None]
    rest = np.full((classes, *SHAPE), 0.03)
    return Gaussians(*(part.astype(np.float32) for part in (mean, directions.reshape(classes, rank, *SHAPE), rest)))


def covariance(gaussians: Gaussians, label: int) -> np.ndarray:
    flat = gaussians.directions[label].reshape(-1, PIXELS).astype(np.float64)
    return flat.T @ flat + np.diag(gaussians.rest[label].reshape(-1).astype(np.float64) ** 2)


def drawn(gaussians: Gaussians, label: int, count: int) -> np.ndarray:
    random = np.random.default_rng(label)
    return np.stack([gaussians.draw(label, random) for _ in range(count)])


def checkpoint(*, classes: tuple[str, ...] = ("left", "right"), size: int = 4, channels: int = 3) -> Checkpoint:
    found = session(steps=0, chains=1, size=size, channels=channels).start.checkpoint
    return msgspec.structs.replace(found, classes=classes)


# Gaussians --------------------------------------------------------------------------------------------------------


def test_draws_have_the_mean_and_covariance_they_are_drawn_from() -> None:
    gaussians = known()
    for label in (0, 1):
        pixels = drawn(gaussians, label, 6000)
        assert pixels.shape == (6000, *SHAPE)
        assert pixels.dtype == np.float32
        flat = pixels.reshape(-1, PIXELS).astype(np.float64)
        np.testing.assert_allclose(flat.mean(0), gaussians.mean[label].reshape(-1), atol=0.006)
        np.testing.assert_allclose(np.cov(flat, rowvar=False), covariance(gaussians, label), atol=0.0016)


def test_fit_recovers_the_gaussians_that_images_are_drawn_from() -> None:
    true = known()
    pixels = np.concatenate([drawn(true, label, 4000) for label in (0, 1)])
    images = (pixels * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    labels = np.repeat([0, 1], 4000)
    order = np.random.default_rng(0).permutation(len(labels))
    found = fit(images[order], labels[order], 2, rank=2, ridge=1e-4)
    np.testing.assert_allclose(found.mean, true.mean, atol=0.006)
    for label in (0, 1):
        ridge = 1e-4 * np.eye(PIXELS)
        np.testing.assert_allclose(covariance(found, label), covariance(true, label) + ridge, atol=0.0016)
        lengths = np.linalg.norm(found.directions[label].reshape(2, -1), axis=1)
        assert lengths == pytest.approx([0.25, 0.15], rel=0.05), "the greatest first"


def test_the_overall_gaussian_has_the_mean_and_covariance_of_the_mixture() -> None:
    true = known()
    images = np.concatenate([drawn(true, label, 500) for label in (0, 1)])
    found = fit((images * 255).round().astype(np.uint8).transpose(0, 2, 3, 1), np.repeat([0, 1], 500), 2, rank=2)
    random = np.random.default_rng(7)
    drawn_of_all = np.stack([found.draw_any(random) for _ in range(12_000)])
    assert drawn_of_all.shape == (12_000, *SHAPE)
    assert drawn_of_all.dtype == np.float32
    assert drawn_of_all.min() >= 0
    assert drawn_of_all.max() <= 1
    means = found.mean.reshape(2, PIXELS).astype(np.float64)
    apart = (means[0] - means[1]) / 2
    within = (covariance(found, 0) + covariance(found, 1)) / 2
    assert np.abs(np.outer(apart, apart)).max() > 3 * 0.0016, "what is between the classes can be told from nothing"
    flat = drawn_of_all.reshape(-1, PIXELS).astype(np.float64)
    np.testing.assert_allclose(flat.mean(0), means.mean(0), atol=0.006)
    np.testing.assert_allclose(np.cov(flat, rowvar=False), within + np.outer(apart, apart), atol=0.0016)


def test_starts_without_a_label(statistics: Path) -> None:
    encoder = checkpoint(classes=())
    chains = [Chain(OverallStart(), 3), Chain(OverallStart(), 4), Chain(GaussianStart("right"), 3)]
    pixels, names, _ = starts.make(encoder, chains)
    assert names == ["overall Gaussian", "overall Gaussian", "Gaussian of right"]
    assert not np.array_equal(pixels[0], pixels[1])
    np.testing.assert_array_equal(starts.make(encoder, chains[:1])[0][0], pixels[0])
    np.testing.assert_array_equal(starts.make(checkpoint(), [Chain(GaussianStart(), 3, 1)])[0][0], pixels[2])
    np.testing.assert_array_equal(starts.make(checkpoint(), [Chain(GaussianStart("right"), 3, 0)])[0][0], pixels[2])
    with pytest.raises(Refused, match="There is no Gaussian of up: choose one of left, right"):
        starts.make(encoder, [Chain(GaussianStart("up"))])
    with pytest.raises(Refused, match="A class Gaussian start needs a class: choose one"):
        starts.make(encoder, [Chain(GaussianStart(), label=1)])


def test_the_variance_of_every_pixel_is_that_of_the_images_plus_the_ridge() -> None:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (60, 4, 4, 3), np.uint8)
    for rank in (1, 5, 48):
        found = fit(images, np.zeros(60, np.int64), 1, rank=rank, ridge=1e-3)
        expected = (images.reshape(60, -1) / 255).reshape(60, 4, 4, 3).transpose(0, 3, 1, 2).var(0, ddof=1) + 1e-3
        np.testing.assert_allclose(covariance(found, 0).diagonal(), expected.reshape(-1), rtol=1e-4)


def test_few_images_of_many_pixels_give_the_same_gaussian_faster() -> None:
    x = np.random.default_rng(2).random((30, PIXELS)).astype(np.float32)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    variance, leading = starts._principal(x, 5)
    np.testing.assert_allclose(variance, x.astype(np.float64).var(0, ddof=1))
    np.testing.assert_allclose(leading.T @ leading, (vectors[:, -5:] * values[-5:]) @ vectors[:, -5:].T, atol=1e-8)
    np.testing.assert_allclose((leading**2).sum(1), values[:-6:-1], rtol=1e-6)
    many = np.random.default_rng(3).integers(0, 256, (20, 64, 64, 3), np.uint8)
    assert fit(many, np.zeros(20, np.int64), 1, rank=8).directions.shape == (1, 8, 3, 64, 64)  # else many minutes


def test_draws_stay_in_the_box() -> None:
    wide = known()
    wide.rest[:] = 3
    pixels = drawn(wide, 0, 20)
    assert pixels.min() == 0
    assert pixels.max() == 1


@pytest.mark.parametrize("rank", [0, -1, 49, 10**6])
def test_a_rank_that_makes_no_sense_is_refused(rank: int) -> None:
    with pytest.raises(Refused, match="The rank must be between 1 and 48"):
        fit(np.zeros((60, 4, 4, 3), np.uint8), np.zeros(60, np.int64), 1, rank=rank)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(Refused, match="Class 1 has 3 images: a covariance of rank 3 needs more"):
        fit(np.zeros((13, 4, 4, 3), np.uint8), np.repeat([0, 1], [10, 3]), 2, rank=3)


# Files of statistics ----------------------------------------------------------------------------------------------


@pytest.fixture
def statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the known Gaussians in the place of the bundled ones."""
    path = tmp_path / "made.safetensors"
    save(known(), ("left", "right"), path, "a test")
    monkeypatch.setattr(bundle, "start_statistics", lambda: [path])
    starts._statistics.cache_clear()
    return path


def test_saved_statistics_are_found_for_the_classes_and_size_they_are_of(statistics: Path) -> None:
    assert starts.has_gaussians(checkpoint())
    assert not starts.has_gaussians(checkpoint(classes=("right", "left")))
    assert not starts.has_gaussians(checkpoint(classes=("left",)))
    assert not starts.has_gaussians(checkpoint(size=8))
    assert not starts.has_gaussians(checkpoint(channels=1))
    assert starts.gaussian_classes(checkpoint(classes=())) == ("left", "right"), "an encoder takes any of its size"
    assert not starts.has_gaussians(checkpoint(classes=(), size=8))
    classes, found = starts._statistics(("left", "right"), SHAPE)
    assert classes == ("left", "right")
    for name in ("mean", "directions", "rest"):
        np.testing.assert_allclose(getattr(found, name), getattr(known(), name), atol=5e-4)
    assert [path.name for path in statistics.parent.iterdir()] == ["made.safetensors"]


def test_a_gaussian_start_is_drawn_from_the_class_of_its_chain(statistics: Path) -> None:
    assert statistics.exists()
    chains = [Chain(GaussianStart(), seed, label) for label in (0, 1) for seed in range(40)]
    pixels, names, notes = starts.make(checkpoint(), chains)
    assert names == ["Gaussian of left"] * 40 + ["Gaussian of right"] * 40
    assert notes == [""] * 80
    for label in (0, 1):
        np.testing.assert_allclose(pixels[40 * label : 40 * label + 40].mean(0), known().mean[label], atol=0.08)


def test_without_statistics_a_gaussian_start_is_refused(statistics: Path) -> None:
    assert statistics.exists()
    with pytest.raises(Refused, match="There are no class Gaussians for the classes of this model"):
        starts.make(checkpoint(classes=("up", "down")), [Chain(GaussianStart(), 0, 0)])


def test_a_gaussian_start_without_a_class_is_refused(statistics: Path) -> None:
    assert statistics.exists()
    with pytest.raises(Refused, match="A class Gaussian start needs a class"):
        starts.make(checkpoint(), [Chain(GaussianStart())])


@pytest.mark.parametrize("place", ["no-such-folder/starts", "folder"])
def test_statistics_that_cannot_be_written_are_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Refused, match="cannot be written"):
        save(known(), ("left", "right"), tmp_path / place, "a test")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.parametrize("place", ["", ".", "/", "..", "pipe", "link to nothing/x", "x" * 300])
def test_only_files_are_replaced(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("link to nothing").symlink_to("nothing")
    with pytest.raises(Refused, match="cannot be written"):
        save(known(), ("left", "right"), Path(place), "a test")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link to nothing", "pipe"]


def test_a_file_is_replaced_as_a_whole_and_for_all_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "starts"
    path.write_text("earlier")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(known(), ("left", "right"), path, "a test")
    assert [entry.name for entry in tmp_path.iterdir()] == ["starts"]
    assert path.read_text() == "earlier"
    monkeypatch.undo()
    mask = os.umask(0o022)
    try:
        save(known(), ("left", "right"), path, "a test")
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644


def test_class_names_that_are_no_text_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(known(), ("caf\udce9", "猫"), tmp_path / "made", "caf\udce9.tar")
    monkeypatch.setattr(bundle, "start_statistics", lambda: [tmp_path / "made"])
    starts._statistics.cache_clear()
    assert starts.has_gaussians(checkpoint(classes=("caf?", "猫")))


def test_the_bundled_statistics_are_of_the_bundled_models() -> None:
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    starts._statistics.cache_clear()
    cifar = checkpoint(classes=classes, size=32)
    assert starts.has_gaussians(cifar)
    pixels, *_ = starts.make(cifar, [Chain(GaussianStart(), 5, label) for label in range(10)])
    assert pixels.shape == (10, 3, 32, 32)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert (pixels.std((1, 2, 3)) > 0.1).all()


# Every start ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GaussianStart(), NoiseStart()])
def test_a_start_is_a_function_of_its_seed_alone(statistics: Path, kind: GaussianStart | NoiseStart) -> None:
    assert statistics.exists()
    seeds = [0, 1, 2, 2**63 - 1]
    whole = starts.make(checkpoint(), [Chain(kind, seed, 1) for seed in seeds])[0]
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() <= 1
    for i, seed in enumerate(seeds):
        np.testing.assert_array_equal(starts.make(checkpoint(), [Chain(kind, seed, 1)])[0][0], whole[i])
    assert len({start.tobytes() for start in whole}) == 4


def test_noise_is_uniform() -> None:
    pixels, names, _ = starts.make(checkpoint(size=64), [Chain(NoiseStart(), 3)])
    assert names == ["noise"]
    histogram, _ = np.histogram(pixels, 16, (0, 1))
    assert np.abs(histogram / pixels.size * 16 - 1).max() < 0.15


def test_an_image_start_is_the_image_made_to_fit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    fits, wide = tmp_path / "fits ☃.png", tmp_path / "wide.png"
    Image.fromarray(values).save(fits)
    Image.fromarray(np.tile(values, (2, 3, 1))).save(wide)
    chains = [Chain(ImageStart(str(path)), seed) for seed, path in enumerate((fits, wide, fits))]
    pixels, names, notes = starts.make(checkpoint(), chains)
    np.testing.assert_array_equal(pixels[0], values.transpose(2, 0, 1) / np.float32(255))
    np.testing.assert_array_equal(pixels[0], pixels[2])
    assert names == ["fits ☃.png", "wide.png", "fits ☃.png"]
    assert notes[0] == notes[2] == ""
    assert "12×8" in notes[1]


def test_an_image_that_changed_on_disk_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    made = []
    for shade in (0, 255):
        Image.new("RGB", (4, 4), (shade,) * 3).save(path)
        os.utime(path, (shade, shade))  # the clock of a file system is coarse
        made.append(float(starts.make(checkpoint(), [Chain(ImageStart(str(path)))])[0].mean()))
        path.unlink()
    assert made == [0, 1]
    with pytest.raises(Refused, match=r"There is no file x\.png"):
        starts.make(checkpoint(), [Chain(ImageStart(str(path)))])
