"""What a person said of checkpoints that may be read in more than one way, remembered by the hash of the file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from platformdirs import user_config_path

from cem_core import writing
from cem_core.checkpoints.hashing import sha256
from cem_core.checkpoints.opening import resolve
from cem_core.messages import Refused

log = logging.getLogger(__name__)

_KEPT: Final = 1000
"""Files that are remembered; the oldest are forgotten."""


def recall(reference: str) -> dict[str, str]:
    """What was chosen for a file before: fact → value; empty for most. Raises Refused if there is no such file."""
    known = _read()
    if not known:  # then the file need not be hashed
        return {}
    path = resolve(reference)
    try:
        return known.get(sha256(path.resolve()), {})
    except OSError as error:
        raise Refused(f"{path.name} cannot be read: {error.strerror or error}.") from error


def remember(digest: str, choices: Mapping[str, str]) -> None:
    """Keep what was chosen for the file with this SHA-256; nothing chosen: forget it.

    Raises:
        Refused: it cannot be written.
    """
    known = _read()
    known.pop(digest, None)
    if choices:
        known[digest] = dict(choices)
    kept = dict(list(known.items())[-_KEPT:])
    file = _file()
    with suppress(OSError):  # then the file says it better
        file.parent.mkdir(parents=True, exist_ok=True)
    writing.replace(file, msgspec.json.format(msgspec.json.encode(kept)))


def _file() -> Path:
    return user_config_path("cem-explorer") / "choices.json"


def _read() -> dict[str, dict[str, str]]:
    try:
        return msgspec.json.decode(_file().read_bytes(), type=dict[str, dict[str, str]])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("choices.json could not be read: %s", error)
        return {}
