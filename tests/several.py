"""Trains a recipe as one of several processes, with batch norms that know no batch: N processes do what one does.

Each leaves its weights in OUT/weights-RANK.safetensors.
Started by torchrun: python -m torch.distributed.run --nproc-per-node 2 tests/several.py RECIPE OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from cem_core.training import loop, recipe


def alone(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """As in evaluation: each image by itself."""
    return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def main(path: str, out: str) -> None:
    nn.BatchNorm1d.forward = nn.BatchNorm2d.forward = alone  # type: ignore[method-assign]
    weights: list[nn.Module] = []
    begun = loop._begun

    def noted(*given: Any) -> Any:
        state = begun(*given)
        weights.append(state.net)
        return state

    loop._begun = noted
    for _ in loop.train(recipe.read(Path(path)), Path(out), device="cpu"):
        pass
    tensors = {name: value.detach() for name, value in weights[0].named_parameters()}
    save_file(tensors, Path(out) / f"weights-{os.environ.get('RANK', '0')}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
