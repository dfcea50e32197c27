"""An encoder with a reference batch is a classifier of images: the non-parametric CEM (Wang et al. 2022, NP-CEM).

    p(x,x') = exp f(x,x') / Z,   f(x,x') = g(x)ᵀg(x'),   E(x) = -log Σ_j exp f(x,x_j)

The x_j of the reference batch take the place of classes: f(x,·) are logits, and energies, samplers and sessions need
not know the difference. As an option features have unit length and a temperature divides, as contrastive training has
it: f(x,x') = cos(g(x), g(x')) / τ.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from cem_core.models import Model

_AT_ONCE: Final = 256
"""Images that go through the encoder together, where they need not."""


class Similarity:
    """f(x,·) over a reference batch: (B, C, H, W) in [0,1] to (B, K), differentiable in x.

    Args:
        references: (K, C, H, W) in [0,1].
        cosine: compare unit features.
        temperature: what similarities are divided by.
    """

    def __init__(self, encoder: Model, references: Tensor, *, cosine: bool = True, temperature: float = 0.5) -> None:
        self._encoder = encoder
        self._cosine = cosine
        self._scale = temperature**-0.5
        self._anchors: tuple[Tensor, Tensor] | None = None
        self._references = self._still(references)

    @property
    def device(self) -> torch.device:
        return self._encoder.device

    def __call__(self, x: Tensor) -> Tensor:
        return self.compared(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """(B, D) such that f(x,x') is the inner product of two of them."""
        g = self._encoder.embedding(x)
        if self._cosine:
            g = functional.normalize(g, dim=1)
        scaled: Tensor = g * self._scale
        return scaled

    def compared(self, g: Tensor) -> Tensor:
        """(B, D) of `embed` to (B, K) f(x,·)."""
        f: Tensor = g @ self._references.T
        return f

    def anchored(self, x0: Tensor) -> Tensor:
        """(B, D) of the starts of a run, which are embedded once."""
        if self._anchors is None or self._anchors[0] is not x0:
            self._anchors = x0, self._still(x0)
        return self._anchors[1]

    def _still(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.embed(part) for part in torch.split(x, _AT_ONCE)])
