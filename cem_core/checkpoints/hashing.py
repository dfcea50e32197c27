"""The SHA-256 of a file: what a checkpoint is known by."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cem_core.checkpoints.reading import Watch, Watched

_known: dict[tuple[Path, int, int], str] = {}


def sha256(path: Path, watch: Watch | None = None) -> str:
    """In hexadecimal; remembered as long as the file does not change."""
    stat = path.stat()
    key = path, stat.st_mtime_ns, stat.st_size
    if key not in _known:
        with Watched(path, watch) as file:
            _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[key]
