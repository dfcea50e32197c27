"""Files are written beside their place and renamed: whoever looks finds the old one or the whole new one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cem_core.messages import Refused


def replace(path: Path, data: bytes) -> None:
    """Put a file in place at once.

    Raises:
        Refused: it cannot be written, or the path leads to something else than a file.
    """
    try:
        if not path.name or (path.exists() and not path.is_file()):
            raise Refused(f"{path} cannot be written, being no ordinary file: choose another name.")
        with tempfile.TemporaryDirectory(prefix=".cem-explorer-", dir=path.parent) as beside:
            made = Path(beside) / path.name
            made.write_bytes(data)  # with the usual permissions, which a temporary file has not
            made.replace(path)
    except OSError as error:
        raise Refused(f"{path} cannot be written ({error.strerror or error}): choose another file.") from error
