"""The samplers as rows of numbers: drift = a·∇f(x,y) + b·∇LSE(x) (theory and sources: docs/samplers.md).

A new sampler is a row here.
"""

from __future__ import annotations

from typing import Final

from cem_core.messages import Sampler

_255: Final = 1 / 255

SAMPLERS: Final[dict[str, Sampler]] = {
    row.name: row
    for row in (
        # name, class weight, marginal weight; the formulas are in docs/samplers.md
        Sampler(name="TA", a=1, b=-1),
        Sampler(name="CS", a=1, b=0),
        Sampler(name="RCS", a=1, b=1, noise=0.01),
        Sampler(name="Langevin", a=0, b=1, noise=0.01),
        Sampler(name="PGD", a=-1, b=1, radius=1.0, step_size=0.125, steps=20, random_start=True),
        Sampler(name="PGD-targeted", a=1, b=-1, radius=1.0, step_size=0.125, steps=20, random_start=True),
        Sampler(
            name="PGD-Linf", a=-1, b=1, norm="linf", radius=8 * _255, step_size=2 * _255, steps=20,
            random_start=True,
        ),
        Sampler(
            name="PGD-Linf-targeted", a=1, b=-1, norm="linf", radius=8 * _255, step_size=2 * _255, steps=20,
            random_start=True,
        ),
        # of encoders alone: the chains are each other's batch
        Sampler(name="MaxEnt", a=0, b=-1, noise=0.01, coupled=True),
        Sampler(name="PGD-unsup", a=-1, b=1, coupled=True),
    )
}  # fmt: skip

ABOUT: Final[dict[str, str]] = {
    "TA": "Targeted attack: towards the class, against the marginal. Reaches its target most surely.",
    "CS": "Conditional sampling: climbs f(x,y), that is p(x|y).",
    "RCS": "Reinforced conditional sampling: class and marginal together. Best from class Gaussians.",
    "Langevin": "Climbs the marginal p(x) with noise; no class is asked for.",
    "PGD": "Untargeted attack: away from the class that the model sees, within an L2 ball.",
    "PGD-targeted": "Targeted attack within an L2 ball.",
    "PGD-Linf": "Untargeted attack within an L∞ ball.",
    "PGD-Linf-targeted": "Targeted attack within an L∞ ball.",
    "MaxEnt": "Spreads the chains of an encoder in feature space, towards maximum entropy. No class is asked for.",
    "PGD-unsup": "Ascends InfoNCE: away from each chain's own start, towards the other chains. Of encoders.",
}
"""One sentence a row."""
OF_IMAGES: Final[dict[str, str]] = ABOUT | {
    "TA": "Towards the image, against the marginal.",
    "CS": "Climbs f(x,x'): towards the image in feature space.",
    "RCS": "Towards the image and where images are likely, together.",
    "Langevin": "Climbs the marginal p(x) with noise; no image is asked for.",
    "PGD": "Away from the reference image that the start is most like, within an L2 ball.",
}
"""The same for an encoder."""

FROM_IMAGES: Final = "TA"
"""The default for images: of TA, CS and RCS the one that reaches its target most surely (docs/samplers.md)."""
FROM_DRAWS: Final = "RCS"
"""The default for class Gaussians and noise."""
TOWARDS: Final = "CS"
"""The default of an encoder where there is a target: ∇ g(x)ᵀg(x')."""
ROUND: Final = "Langevin"
"""The default of an encoder for images without one."""
SPREAD: Final = "MaxEnt"
"""The default of an encoder for Gaussians and noise."""


def default(*, encoder: bool, images: bool, target: bool) -> str:
    """The row for a model, for what chains start from, and for whether they are sent somewhere."""
    if not encoder:
        return FROM_IMAGES if images else FROM_DRAWS
    return TOWARDS if target else ROUND if images else SPREAD
