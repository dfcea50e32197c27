"""A request in, its answers out: the one file that joins the probes. The command line and the window both read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cem_core.messages import Refused
from cem_core.probes.requests import Accuracy, Energies, Landscape, Lens, Request, Smallest
from cem_core.probes.results import Answer

if TYPE_CHECKING:
    from torch import Tensor

    from cem_core.cluster import Where
    from cem_core.samplers import Logits

GoOn = Callable[[], bool]


class Cancelled(Exception):
    """Somebody does not want the answer any more."""


def asking(logits_of: Logits, go_on: GoOn) -> Logits:
    """The same logits; before each forward pass it asks whether to go on, and raises Cancelled if not."""

    def logits(x: Tensor) -> Tensor:
        if not go_on():
            raise Cancelled
        return logits_of(x)

    return logits


def measure(
    request: Request, go_on: GoOn = lambda: True, journal: Path | None = None, where: Where | None = None
) -> Iterator[Answer]:
    """The answers to a request, as they come.

    Args:
        go_on: asked before each forward pass, also within attacks of other packages; False ends it at once.
        journal: a file in which the cells of accuracies are kept; those that it holds are not measured again.
        where: who measures accuracies; None: this process, as all else.

    Raises:
        Refused: a model, the data or an image cannot be used as asked.
        Cancelled: `go_on` said so.
    """
    from cem_core.runner import out_of_memory

    try:
        yield from _answers(request, go_on, journal, where)
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise Refused(
            "There is not enough memory for this: choose a smaller batch, or close other programs."
        ) from error


def _answers(request: Request, go_on: GoOn, journal: Path | None, where: Where | None) -> Iterator[Answer]:
    match request:
        case Accuracy():
            from cem_core.probes.accuracy import accuracy

            yield from accuracy(request, go_on, journal, where)
        case Energies():
            from cem_core.probes.histograms import histograms

            yield from histograms(request, go_on)
        case Smallest():
            from cem_core.probes.smallest import smallest

            yield from smallest(request, go_on)
        case Landscape():
            from cem_core.probes.landscape import landscape

            yield from landscape(request, go_on)
        case Lens():
            from cem_core.probes.lens import lens

            yield from lens(request, go_on)
