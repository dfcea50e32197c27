"""What a test of a family needs: a small network that is no part of the program, and how its repository saves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A network as its repository has it, with random weights and small."""

    id: str
    build: Callable[[], nn.Module]
    family: str
    """As the program names it."""
    wrap: Callable[[Tensors], Any] = lambda tensors: {"state_dict": tensors, "epoch": 7}
    """How its own code writes the state dict."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What must be recognised: fact → value."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """What a person has to say, because the file cannot."""
    channels: int = 3
    size: int = 32
    logits: Callable[[nn.Module, Tensor], Tensor] = lambda net, x: net(x)
    """Normalised images → what the opened network must give, bit for bit: logits, or features of an encoder."""
    encoder: bool = False

    def network(self, seed: int = 0) -> nn.Module:
        """In eval mode, with batch norms that have seen something."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.build().eval()
            with torch.no_grad():
                for part in net.modules():
                    if isinstance(part, nn.modules.batchnorm._BatchNorm):
                        for tensor, low in ((part.weight, 0.5), (part.running_var, 0.5), (part.bias, -0.2)):
                            if tensor is not None:
                                tensor.uniform_(low, low + 1 if low > 0 else 0.2)
                        if part.running_mean is not None:
                            part.running_mean.normal_(0, 0.2)
        return net
