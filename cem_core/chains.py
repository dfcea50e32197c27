"""Which start, target and seed each chain of a run gets: one rule for the window and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cem_core import bundle
from cem_core.messages import Chain, GaussianStart, ImageStart, Reference, Refused, Sampler, Start


def lay_out(
    sampler: Sampler,
    starts: Sequence[Start],
    targets: Sequence[int],
    count: int,
    seed: int = 0,
    seen: Sequence[int | None] = (),
) -> tuple[Chain, ...]:
    """`count` chains that take the starts in turn and, each time round, the next target.

    Args:
        targets: class indices; of an encoder, indices into its reference batch. A sampler that flees its class (a < 0)
            takes the one that the model sees in an image and has no use for them.
        seed: of the first chain; the next has the next.
        seen: the class of each start where it is known. Such a chain begins half a list away and is never sent where
            it already is: classes that stand side by side are often alike, and a cat that becomes a ship shows more.

    Raises:
        Refused: there is nothing to start from, or a target is needed and none is given.
    """
    if not starts:
        raise Refused("There is no image to start from: add one, or start from a class Gaussian or noise.")
    chains = []
    for i in range(count):
        turn, which = divmod(i, len(starts))
        start = starts[which]
        label: int | None = None
        unnamed = isinstance(start, GaussianStart) and not start.of
        if unnamed or sampler.a >= 0:
            label = _target(targets, which + turn, seen[which] if which < len(seen) else None)
            if label is None and (sampler.a > 0 or unnamed):
                raise Refused(f"{sampler.name} needs a target: choose at least one.")
        chains.append(Chain(start, seed + i, label))
    return tuple(chains)


def compared(batch: Iterable[str], starts: Iterable[Start], targets: Iterable[str] = ()) -> tuple[str, ...]:
    """Paths of the reference batch of an encoder's run: the chosen one, then the images of the run itself, each once.

    Args:
        targets: images that chains are sent to.
    """
    own = (start.path for start in starts if isinstance(start, ImageStart))
    return tuple(dict.fromkeys([*batch, *own, *targets]))


def settled(reference: Reference | None, temperature: float) -> Reference:
    """What an encoder's run compares with, and how: the bundled samples and this temperature where nothing is said."""
    reference = reference or Reference(tuple(map(str, bundle.samples())))
    return reference if reference.temperature else msgspec.structs.replace(reference, temperature=temperature)


def _target(targets: Sequence[int], index: int, seen: int | None) -> int | None:
    if not targets:
        return None
    if seen is not None:
        index += len(targets) // 2
    target = targets[index % len(targets)]
    return targets[(index + 1) % len(targets)] if target == seen else target
