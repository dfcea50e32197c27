"""Where chains begin: an image, the Gaussian of a class, or noise.

Class Gaussians follow Santurkar et al. 2019: N(mean_y, cov_y + 1e-4·I) of the training images of class y, here with the
covariance as `rank` leading directions and a per-pixel remainder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save as safetensors_bytes

from cem_core import bundle, images, writing
from cem_core.messages import (
    Chain,
    Checkpoint,
    Floats,
    GaussianStart,
    ImageStart,
    OverallStart,
    Refused,
    ReplayStart,
    SessionStart,
)  # fmt: skip

_START_KEY: Final = np.uint64(2**63 + 2)
"""Where the keys of starts lie: beyond any step, so a start is independent of the noise of its chain."""


def make(
    checkpoint: Checkpoint, chains: Iterable[Chain], replay: Callable[[int], Floats] | None = None
) -> tuple[Floats, list[str], list[str]]:
    """(B, C, H, W) in [0,1], the name of each start, and what was done to each image.

    Args:
        replay: the i-th image (C, H, W) of the checkpoint's replay buffer; None: it has none.

    Raises:
        Refused: an image or a recorded step cannot be read, or there are no statistics for the classes of this model.
    """
    recorded = lru_cache(maxsize=4)(_recorded)
    pixels, names, notes = [], [], []
    for chain in chains:
        random = np.random.Generator(np.random.Philox(key=np.array([chain.seed, _START_KEY], np.uint64)))
        shape = (checkpoint.channels, checkpoint.size, checkpoint.size)
        note = ""
        if isinstance(chain.start, ImageStart):
            path = Path(chain.start.path)
            picture = _picture(path, _version(path), checkpoint.size, checkpoint.channels)
            name, start, note = picture.name, picture.pixels, picture.note
        elif isinstance(chain.start, GaussianStart):
            if not chain.start.of and (chain.label is None or not checkpoint.classes):
                raise Refused("A class Gaussian start needs a class: choose one.")
            classes, gaussians = _statistics(checkpoint.classes, shape)
            label = _label_of(chain.start, chain.label, classes)
            name, start = f"Gaussian of {classes[label]}", gaussians.draw(label, random)
        elif isinstance(chain.start, OverallStart):
            name, start = "overall Gaussian", _statistics(checkpoint.classes, shape)[1].draw_any(random)
        elif isinstance(chain.start, ReplayStart):
            if replay is None or not checkpoint.replay:
                raise Refused(f"{checkpoint.name} has no replay buffer: start from images or noise.")
            index = int(random.integers(checkpoint.replay))
            name, start = f"replay {index}", _square(replay(index), shape)
        elif isinstance(chain.start, SessionStart):
            name, start, note = _forked(*recorded(chain.start.session, chain.start.step), chain.start, shape)
        else:
            name, start = "noise", random.random(shape, np.float32)
        pixels.append(start)
        names.append(name)
        notes.append(note)
    return np.stack(pixels), names, notes


def _square(image: Floats, shape: tuple[int, ...]) -> Floats:
    if image.shape != shape:
        raise Refused(f"The replay buffer holds images of {image.shape[-1]} pixels: choose that image size.")
    return image


def _recorded(session: str, step: int) -> tuple[tuple[str, ...], Floats]:
    """Of a recorded run: the names of its chains, and (B, C, H, W) after a step."""
    from cem_core import recording

    folder = Path(session)
    header = recording.read_header(folder)
    try:
        return header.start.names, recording.frames(folder, header).read(step)
    except OSError as error:
        raise Refused(f"{folder.name} has no step {step:,} to start from. {error}") from error


def _forked(
    names: tuple[str, ...], pixels: Floats, fork: SessionStart, shape: tuple[int, ...]
) -> tuple[str, Floats, str]:
    """Name, pixels (C, H, W) and note; what has another size is scaled, as there is nothing better to do."""
    if not 0 <= fork.chain < len(pixels):
        raise Refused(f"{Path(fork.session).name} has no chain {fork.chain + 1}: it has {len(pixels):,}.")
    name, start = f"{names[fork.chain]}, step {fork.step:,}", pixels[fork.chain]
    if start.shape == shape:
        return name, start, ""
    if len(start) != shape[0]:
        raise Refused(
            f"{Path(fork.session).name} has images of {len(start)} channels, and this model takes {shape[0]}: choose "
            "another model."
        )
    return name, _scaled(start, shape[-1]), f"{start.shape[-1]}×{start.shape[-2]} → {shape[-1]}×{shape[-2]}"


def _scaled(pixels: Floats, size: int) -> Floats:
    """(C, H, W) in [0,1] → (C, size, size) in [0,1], without rounding to 8 bits."""
    from PIL import Image

    scaled = [Image.fromarray(channel).resize((size, size), Image.Resampling.LANCZOS) for channel in pixels]
    return np.stack([np.asarray(channel, np.float32) for channel in scaled]).clip(0, 1)


def has_gaussians(checkpoint: Checkpoint) -> bool:
    """Whether class Gaussians are at hand for the classes and size of this model."""
    try:
        gaussian_classes(checkpoint)
    except Refused:
        return False
    return True


def gaussian_classes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Of which classes there are Gaussians: those of the model; for an encoder any of its size.

    Raises:
        Refused: there are none.
    """
    return _statistics(checkpoint.classes, (checkpoint.channels, checkpoint.size, checkpoint.size))[0]


def pictures(checkpoint: Checkpoint, paths: Iterable[str]) -> Floats:
    """(K, C, H, W) in [0,1]: images as this model takes them. Raises Refused if one cannot be read."""
    files = [Path(path) for path in paths]
    return np.stack([_picture(file, _version(file), checkpoint.size, checkpoint.channels).pixels for file in files])


def _label_of(start: GaussianStart, label: int | None, classes: tuple[str, ...]) -> int:
    if not start.of:
        assert label is not None
        return label
    if start.of not in classes:
        raise Refused(f"There is no Gaussian of {start.of[:40]}: choose one of {', '.join(classes[:12])}.")
    return classes.index(start.of)


class Gaussians:
    """N(mean_k, U_k U_kᵀ + diag(rest_k²)) for each class k.

    mean: (K, C, H, W); directions: (K, rank, C, H, W), scaled by their deviation; rest: (K, C, H, W).
    """

    def __init__(self, mean: Floats, directions: Floats, rest: Floats) -> None:
        self.mean, self.directions, self.rest = mean, directions, rest

    def draw_any(self, random: np.random.Generator) -> Floats:
        """(C, H, W), clamped to [0,1], from the Gaussian with the mean and covariance of all classes together."""
        count = len(self.mean)
        centre = self.mean.mean(0)
        spread = np.concatenate([self.directions.reshape(-1, *self.mean.shape[1:]), self.mean - centre])
        along = random.standard_normal(len(spread), np.float32) / np.float32(count**0.5)
        beside = random.standard_normal(self.mean.shape[1:], np.float32) * np.sqrt((self.rest**2).mean(0))
        return np.asarray((centre + np.tensordot(along, spread, 1) + beside).clip(0, 1), np.float32)

    def draw(self, label: int, random: np.random.Generator) -> Floats:
        """(C, H, W), clamped to [0,1]."""
        along = random.standard_normal(self.directions.shape[1], np.float32)
        beside = random.standard_normal(self.mean.shape[1:], np.float32)
        drawn = self.mean[label] + np.tensordot(along, self.directions[label], 1) + self.rest[label] * beside
        return np.asarray(drawn.clip(0, 1), np.float32)


def fit(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], classes: int, *, rank: int, ridge: float = 1e-4
) -> Gaussians:
    """The Gaussian of each class from images (N, H, W, C); ridge is the variance added to every pixel.

    Raises:
        Refused: the rank does not suit the images.
    """
    shape = (pixels.shape[3], *pixels.shape[1:3])
    if not 1 <= rank <= int(np.prod(shape)):
        raise Refused(f"The rank must be between 1 and {int(np.prod(shape)):,}, not {rank:,}.")
    means, directions, rests = [], [], []
    for label in range(classes):
        x = pixels[labels == label].transpose(0, 3, 1, 2).reshape(-1, int(np.prod(shape))).astype(np.float32) / 255
        if len(x) <= rank:
            raise Refused(f"Class {label} has {len(x)} images: a covariance of rank {rank} needs more.")
        mean = x.mean(0)
        variance, leading = _principal(x, rank)
        rest = np.sqrt((variance - (leading**2).sum(0)).clip(0) + ridge)
        means.append(mean.reshape(shape))
        directions.append(leading.reshape(rank, *shape))
        rests.append(rest.reshape(shape))
    return Gaussians(*(np.stack(part).astype(np.float32) for part in (means, directions, rests)))


def _principal(x: Floats, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From n points of d numbers: (d,) variances, and (rank, d) directions scaled by their deviation, longest first."""
    n, d = x.shape
    if n < d:  # the singular vectors, from the smaller of the two products
        centred = (x - x.mean(0, np.float64)) / np.sqrt(n - 1)
        _, vectors = np.linalg.eigh(centred @ centred.T)
        return (centred**2).sum(0), vectors[:, -rank:].T[::-1] @ centred
    covariance = np.cov(x, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    return covariance.diagonal(), (vectors[:, -rank:] * np.sqrt(values[-rank:].clip(0))).T[::-1]


def save(gaussians: Gaussians, classes: tuple[str, ...], path: Path, source: str) -> None:
    """Write the statistics in half precision, which is finer than the deviation of any pixel by far.

    Raises:
        Refused: the file cannot be written, or the path leads to something else than a file.
    """
    metadata = {"classes": msgspec.json.encode([_text(name) for name in classes]).decode(), "source": _text(source)}
    parts = {"mean": gaussians.mean, "directions": gaussians.directions, "rest": gaussians.rest}
    writing.replace(
        path,
        safetensors_bytes({key: np.ascontiguousarray(value, np.float16) for key, value in parts.items()}, metadata),
    )


def _text(name: str) -> str:
    """What is no text in the name of a folder, which no JSON can hold, becomes question marks."""
    return name.encode("utf-8", "replace").decode()


@lru_cache(maxsize=4)
def _statistics(classes: tuple[str, ...], shape: tuple[int, ...]) -> tuple[tuple[str, ...], Gaussians]:
    """The Gaussians of these classes and what they are called; without classes, any of this shape."""
    for path in bundle.start_statistics():
        with safe_open(path, framework="numpy") as file:
            fits = tuple(file.get_slice("mean").get_shape()[1:]) == shape
            known = tuple(msgspec.json.decode(file.metadata()["classes"], type=list[str]))
            if fits and (not classes or known == classes):
                parts = (file.get_tensor(key).astype(np.float32) for key in ("mean", "directions", "rest"))
                return known, Gaussians(*parts)
    raise Refused(
        "There are no class Gaussians for the classes of this model, or not of its size: start from images or noise."
    )


def _version(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0  # images.prepare says what is wrong
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=256)
def _picture(path: Path, _version: tuple[int, int], size: int, channels: int) -> images.Picture:
    return images.prepare(path, size, channels)
