"""What sees features in images: the Inception network that FID is defined with, or any checkpoint that has features."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cem_core import checkpoints
from cem_core.checkpoints import reading, sniffing
from cem_core.evaluation.requests import INCEPTION
from cem_core.evaluation.statistics import Features
from cem_core.images import Bytes
from cem_core.messages import Refused
from cem_core.models.program import Program
from cem_core.models.torchvision_nets import import_torchvision
from cem_core.probes.requests import Subject
from cem_core.probes.subjects import Opened, tensor

WEIGHTS: Final = "weights"
"""The choice that says where the weights of Inception are."""
_SIDE: Final = 299
"""To which Inception scales whatever it gets, as FID is defined."""
_PIXELS: Final = 250 * 64 * 64
"""That go through a network at once, and at most"""
_AT_ONCE: Final = 250
"""so many images: it is settled here and not by who asks, as the last bits of features depend on it."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """Sees features, and classes where it has any."""

    name: str
    inception: bool
    """With the weights that FID, KID and Inception score are defined with."""
    size: int
    """Side of the images that it sees, in pixels. Others are scaled to it."""
    channels: int
    length: int
    """Of features."""
    sha256: str
    """Of its file."""
    notes: tuple[str, ...]
    """A sentence each."""
    _forward: Callable[[Bytes], tuple[Tensor, Tensor | None]]
    _scales: bool = False
    """By itself."""

    @property
    def at_once(self) -> int:
        """How many images go through it together."""
        return max(1, min(_AT_ONCE, _PIXELS // self.size**2))

    def remarks(self, side: int, channels: int = 3) -> tuple[str, ...]:
        """What is done to images of that shape, a sentence each.

        Raises:
            Refused: images with so many channels cannot be seen.
        """
        self._check(channels)
        said = []
        if side != self.size:
            how = "by Inception itself, as FID is defined" if self._scales else "by Lanczos' filter"
            said.append(f"Images of {side}×{side} pixels are scaled to the {self.size}×{self.size} that {self.name} "
                        f"sees, {how}.")  # fmt: skip
        if channels != self.channels:
            how = "in grey" if self.channels == 1 else "with their grey in all three channels"
            said.append(f"{self.name} sees the images {how}.")
        return (*said, *self.notes)

    def features(self, pixels: Bytes) -> Features:
        """Of (N, H, W, C) images, C 1 or 3, all together as one batch.

        Raises:
            Refused: the images have other channels, or features come out infinite or NaN.
        """
        self._check(pixels.shape[3])
        pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3)).copy()  # torch wants to be able to write
        if not self._scales and pixels.shape[1:3] != (self.size, self.size):
            fitting = (self.size, self.size), Image.Resampling.LANCZOS  # as files are when they are read
            pixels = np.stack([np.asarray(Image.fromarray(image).resize(*fitting)) for image in pixels])
        with torch.no_grad():
            features, logits = (None if x is None else x.float().cpu().numpy() for x in self._forward(pixels))
        assert features is not None
        if not all(np.isfinite(x).all() for x in (features, logits) if x is not None):
            raise Refused(f"{self.name} sees features that are no numbers (NaN or infinite): choose another extractor.")
        return Features(features, logits)

    def _check(self, channels: int) -> None:
        if channels not in (1, 3):
            raise Refused(f"{self.name} sees images of 1 or 3 channels, not {channels}: choose other images.")


def open_extractor(subject: Subject) -> Extractor:
    """What a subject sees with.

    Raises:
        Refused: the file cannot be opened or has no features; the weights of Inception are not there, as nothing is
            ever fetched; or packages are missing.
    """
    return _inception(subject) if subject.reference == INCEPTION else _checkpoint(subject)


def file_of(subject: Subject) -> Path:
    """Where its weights are. Raises Refused if they are not there."""
    if subject.reference != INCEPTION:
        return checkpoints.resolve(subject.reference).resolve()
    if other := set(subject.choices) - {WEIGHTS}:
        raise Refused(f"There is no {min(other)!r} to choose for Inception: only {WEIGHTS}.")
    if WEIGHTS in subject.choices:
        return checkpoints.resolve(subject.choices[WEIGHTS]).resolve()
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _published()
    if not cached.is_file():
        raise Refused(f"The weights of Inception are not here and are not fetched: put torch-fidelity's {_published()} "
                      f"into {cached.parent}, or say where it is as the choice {WEIGHTS}=PATH; or choose a checkpoint "
                      "as the extractor.")  # fmt: skip
    return cached.resolve()


def _checkpoint(subject: Subject) -> Extractor:
    model, known = checkpoints.load(subject.reference, subject.device, subject.precision, subject.choices)
    if isinstance(model.net, Program) or not known.features:
        raise Refused(f"{known.name} gives logits only, being a {known.title}: choose a checkpoint that has features, "
                      "such as the state dict of the same network.")  # fmt: skip
    opened = Opened(model, known)
    dtype = next(model.net.parameters()).dtype

    def forward(pixels: Bytes) -> tuple[Tensor, Tensor | None]:
        features = model.features(tensor(pixels, opened))
        return features, None if model.net.head is None else model.net.head(features.to(dtype))

    name = Path(known.name).stem if known.name == Path(known.path).name else known.name
    return Extractor(name, False, known.size, known.channels, known.features, known.sha256, (), forward)


# Inception --------------------------------------------------------------------------------------------------------


def _inception(subject: Subject) -> Extractor:
    path = file_of(subject)
    place = checkpoints.where(subject.device)
    network = _network(path).to(place)

    def forward(pixels: Bytes) -> tuple[Tensor, Tensor | None]:
        x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(place)
        features = network(x)
        return features, features.mm(network.fc.weight.T)  # without bias, as the Inception score is defined

    digest = checkpoints.sha256(path)
    notes = []
    genuine = digest.startswith(Path(_published()).stem.rpartition("-")[2])
    if not genuine:
        notes.append(f"{path.name} is not torch-fidelity's {_published()}, so its numbers are not called FID, KID and "
                     "Inception score.")  # fmt: skip
    if subject.precision != "float32":
        notes.append("Inception is used in float32, as FID is defined.")
    name = "Inception" if genuine else f"Inception of {path.name}"
    return Extractor(name, genuine, _SIDE, 3, network.fc.in_features, digest, tuple(notes), forward, _scales=True)


def _network(path: Path) -> Any:
    """torchmetrics' Inception with the weights of a file, read by our own reader: theirs would run the code in it."""
    other = f"{path.name} does not hold Inception's weights as torch-fidelity publishes them: fetch {_published()}."
    try:
        tree = reading.read(path, sniffing.sniff(path)).tree
    except OSError as error:
        raise Refused(f"{path.name} cannot be read ({error.strerror or error}): check the file.") from error
    if not isinstance(tree, Mapping) or not all(isinstance(value, Tensor) for value in tree.values()):
        raise Refused(other)
    safe = io.BytesIO()
    torch.save(dict(tree), safe)
    safe.seek(0)
    try:
        return module("torchmetrics.image.fid").NoTrainInceptionV3("inception-v3-compat", ["2048"], safe)
    except RuntimeError as error:  # keys or shapes
        raise Refused(other) from error


def _published() -> str:
    """The name of torch-fidelity's file, which ends in the beginning of its SHA-256."""
    return str(module("torch_fidelity.feature_extractor_inceptionv3").URL_INCEPTION_V3).rpartition("/")[2]


@cache
def module(name: str) -> Any:
    """A module of torchmetrics or torch-fidelity, imported when it is first wanted: that takes a second.

    Raises:
        Refused: they are not installed.
    """
    import_torchvision()  # which both want, and one that is built for CUDA does not import without help
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module("torch_fidelity")  # without it torchmetrics imports, and fails later
            return import_module(name)
    except ImportError as error:
        raise Refused('This needs torchmetrics and torch-fidelity: pip install "cem-explorer[evaluate]"') from error
