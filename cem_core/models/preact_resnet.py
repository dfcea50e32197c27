"""PreAct ResNet-18/34 for 32×32 images, as kuangliu/pytorch-cifar and locuslab name its keys (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cem_core.messages import Fact
from cem_core.models.family import Plan, Shapes, count
from cem_core.models.model import Network

FAMILY = "preact_resnet"
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
_DEPTHS: Mapping[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: str, *, shortcut_activated: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.act = ACTIVATIONS[activation]()
        self.shortcut_activated = shortcut_activated
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.bn1(x))
        if hasattr(self, "shortcut"):
            x = self.shortcut(h if self.shortcut_activated else x)
        h = self.act(self.bn2(self.conv1(h)))
        return x + self.conv2(h)  # type: ignore[no-any-return]

    def fold(self) -> None:
        if isinstance(self.bn2, nn.BatchNorm2d):
            self.conv1, self.bn2 = fuse_conv_bn_eval(self.conv1, self.bn2), nn.Identity()


class PreActResNet(Network):
    """Normalised (B, C, H, W) to logits (B, K)."""

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        channels: int,
        classes: int,
        activation: str,
        *,
        shortcut_activated: bool,
        final_bn: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        inputs = width
        for stage, number in enumerate(blocks, start=1):
            outputs = width * 2 ** (stage - 1)
            strides = (1 if stage == 1 else 2, *[1] * (number - 1))
            layer = []
            for stride in strides:
                layer.append(Block(inputs, outputs, stride, activation, shortcut_activated=shortcut_activated))
                inputs = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*layer))
        self.stages = len(blocks)
        self.act = ACTIVATIONS[activation]()
        if final_bn:
            self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        h = self.conv1(x)
        for stage in range(1, self.stages + 1):
            h = getattr(self, f"layer{stage}")(h)
        if hasattr(self, "bn"):
            h = self.act(self.bn(h))
        return self.linear(h.mean((2, 3)))  # type: ignore[no-any-return]

    def fold(self) -> None:
        for block in self.modules():
            if isinstance(block, Block):
                block.fold()


def recognise(shapes: Shapes, metadata: Mapping[str, str]) -> Plan | None:
    """A plan if the keys are those of this family with basic blocks, else None."""
    signature = {"conv1.weight", "layer1.0.bn1.weight", "layer1.0.conv2.weight", "linear.weight"}
    if not signature <= shapes.keys() or "bn1.weight" in shapes or "layer1.0.conv3.weight" in shapes:
        return None
    stem = shapes["conv1.weight"]
    if len(stem) != 4 or stem[2] != 3 or len(shapes["linear.weight"]) != 2:
        return None
    blocks = tuple(count(shapes, f"layer{stage}") for stage in range(1, 5))
    final_bn = "bn.weight" in shapes
    activation = metadata.get("activation", "relu")
    shortcut = metadata.get("shortcut_input", "activated" if final_bn else "raw")
    if activation not in ACTIVATIONS or 0 in blocks:
        return None
    return Plan(
        family=FAMILY,
        title=f"PreAct ResNet-{_DEPTHS.get(blocks, 2 + 2 * sum(blocks))}",
        channels=stem[1],
        classes=shapes["linear.weight"][0],
        size=32,
        facts=(
            Fact("depth", str(_DEPTHS.get(blocks, 2 + 2 * sum(blocks))), "file"),
            Fact("width", str(stem[0]), "file"),
            Fact("activation", activation, "file" if "activation" in metadata else "guess"),
            Fact("shortcut input", shortcut, "file" if "shortcut_input" in metadata else "guess"),
        ),
        build=partial(
            PreActResNet,
            blocks,
            stem[0],
            stem[1],
            shapes["linear.weight"][0],
            activation,
            shortcut_activated=shortcut == "activated",
            final_bn=final_bn,
        ),
    )
