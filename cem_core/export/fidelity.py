"""How much of the perturbation x − x₀ a format keeps: measured by writing a few frames and reading them back."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cem_core.export import animations, video
from cem_core.export.choices import KINDS, Export, Format
from cem_core.export.folder import plainly
from cem_core.export.layout import Layout
from cem_core.images import hwc, to_uint8
from cem_core.messages import Refused
from cem_core.session import Session

_SAMPLE: Final = 5
"""Steps that are written, evenly spaced."""
_CHAINS: Final = 16
"""That are measured, from the first on."""


class Fidelity(msgspec.Struct, frozen=True):
    """What is left of x − x₀ when it is read back from the pictures."""

    kept: float
    """1 − (‖d′ − d‖ / ‖d‖)², not below 0: the share of the perturbation d that its copy d′ explains."""
    cosine: float
    """Between d′ and d."""

    @property
    def sentence(self) -> str:
        return f"keeps {100 * self.kept:.0f} % of the perturbation (cosine {self.cosine:.2f})"


def measure(
    session: Session, choices: Export, format: Format, stopped: Callable[[], bool] = lambda: False
) -> Fidelity | None:
    """Of a format of animation or video, with the layout and scale that are chosen.

    Args:
        stopped: asked before each frame; once it is true the answer is None.

    Returns:
        None where nothing has been moved yet, so that there is no perturbation.

    Raises:
        Refused: the choices do not fit the run, the format cannot be written, or the disk is full.
    """
    steps = [index for index in choices.steps(len(session)) if session.kept(index)]
    start = session[0].pixels
    chosen = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, _SAMPLE).round().astype(int))]
    layout = Layout(session, choices, steps, _CHAINS)
    write = (animations.WRITERS | video.WRITERS)[format]
    with tempfile.TemporaryDirectory(prefix="cem-explorer-") as folder, plainly(Path(folder)):
        path = Path(folder) / Path(KINDS[format].file).name
        with write(path, layout.size, choices.seconds(len(chosen)), True, b"{}") as show:
            for index in chosen:
                if stopped():
                    return None
                show(layout.frame(session[index]))
        moved = original = copied = both = 0.0
        for index, frame in zip(chosen, _frames(path), strict=False):
            if stopped():
                return None
            x0, x = (hwc(to_uint8(pixels[:_CHAINS])).astype(np.float32) for pixels in (start, session[index].pixels))
            d, d_copy = x - x0, layout.images(frame) - x0
            moved += float(np.square(d_copy - d).sum(dtype=np.float64))
            original += float(np.square(d).sum(dtype=np.float64))
            copied += float(np.square(d_copy).sum(dtype=np.float64))
            both += float((d * d_copy).sum(dtype=np.float64))
    if not original:
        return None
    return Fidelity(max(0.0, 1 - moved / original), both / (math.sqrt(original * copied) or 1.0))


def _frames(path: Path) -> Iterator[NDArray[Any]]:
    """(H, W, 3) each, as a player shows them."""
    if path.suffix in (".png", ".webp", ".gif"):
        with Image.open(path) as image:
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                yield np.asarray(image.convert("RGB"))
        return
    import av

    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise Refused(f"{path.name} could not be read back ({error.strerror}): choose another format.") from error
