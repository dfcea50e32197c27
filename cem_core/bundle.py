"""What ships with the program: models, sample images, start statistics, icons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
ASSETS: Final = next((p for p in (_HERE / "assets", _HERE.parent / "assets") if p.is_dir()), _HERE / "assets")
"""Inside the package when installed, beside it in a checkout."""

DEFAULT_MODEL: Final = "cifar10-robust-l2"
TWIN: Final = "cifar10-standard"
"""The same network, trained without an adversary: what it is compared with."""
HEAD: Final = ".linear.safetensors"
"""How a head is called that lies beside its encoder, behind the encoder's stem."""


def models() -> dict[str, Path]:
    """The bundled checkpoints by name, the default and its twin first."""
    files = sorted((ASSETS / "models").glob("*.safetensors"))
    found = {p.stem: p for p in files if not p.name.endswith(HEAD)}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != DEFAULT_MODEL, name != TWIN))}


def samples() -> list[Path]:
    """The bundled images; `horse-1.jpg` shows a horse."""
    return sorted(p for p in (ASSETS / "samples").iterdir() if p.suffix in {".png", ".jpg"})


def measured(model: Path) -> list[dict[str, float | str]]:
    """What `cem-explorer probe --json` found of a bundled model; empty where nothing is recorded."""
    path = model.with_suffix(".measured.json")
    return list(json.loads(path.read_text())) if path.exists() else []


def first_samples(number: int) -> list[Path]:
    """So many bundled images, every class once before any twice."""
    return sorted(samples(), key=lambda path: path.stem.rsplit("-", 1)[1])[:number]


def photos() -> list[Path]:
    """Bundled images that are larger than any small model's input."""
    return sorted((ASSETS / "photos").glob("*.jpg"))


def sample_class(path: str | Path) -> str:
    """What a bundled image shows, from its name."""
    return Path(path).stem.rsplit("-", 1)[0]


def start_statistics() -> list[Path]:
    return sorted((ASSETS / "starts").glob("*.safetensors"))


def class_shown(path: str | Path, classes: Sequence[str]) -> int | None:
    """Which of the classes a bundled image shows; None for any other image, whatever its name."""
    if Path(path).parent != ASSETS / "samples" or sample_class(path) not in classes:
        return None
    return classes.index(sample_class(path))
