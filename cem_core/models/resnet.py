"""Post-activation ResNets (He et al. 2015), as kuangliu/pytorch-cifar and as torchvision name their keys.

The first are the CIFAR networks of MadryLab/robustness, RoCL and SupContrast; the second are those of torchvision and
timm, Salman et al., MoCo, DINO and solo-learn, and of ACL after fine-tuning. One class serves them all. torchvision's
own is not used, because to import that takes longer than to import torch.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from math import isqrt
from typing import Final, Literal, NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from cem_core.models.activations import ACTIVATIONS
from cem_core.models.family import Evidence, Plan, Shapes, count, shown
from cem_core.models.model import Network, fold_pair, fold_sequences

FAMILY: Final = "resnet"
_HEADS: Final = ("linear", "fc", "fc.fc")
_PARTS: Final = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "shortcut", "downsample"}
_UNUSED: Final = {"queue", "queue_ptr", "projector", "predictor", "prototypes", "head", "head_proj", "head_pred"}


class Stage(NamedTuple):
    """Blocks of one width; the first of them changes the size."""

    blocks: int
    inner: int
    outputs: int
    groups: int
    bottleneck: bool
    shortcut: Literal["none", "convolution", "padding"]
    """Of the first block; all others have none."""


class Padding(nn.Module):
    """A shortcut without parameters: every second pixel, and channels of zeros on both sides (He et al.'s option A)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        side = (self.channels - x.shape[1]) // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))


class Block(nn.Module):
    """Two 3×3 convolutions; as a bottleneck, 1×1, 3×3 in groups and 1×1."""

    def __init__(self, inputs: int, stage: Stage, stride: int, shortcut: str, activation: str) -> None:
        super().__init__()
        inner, outputs = stage.inner, stage.outputs
        self.act = ACTIVATIONS[activation]()
        self.bn1 = nn.BatchNorm2d(inner)
        if stage.bottleneck:
            self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=stage.groups, bias=False)
            self.bn2 = nn.BatchNorm2d(inner)
            self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
        self.bottleneck = stage.bottleneck
        self.shortcut: nn.Module = nn.Identity()
        if shortcut == "convolution":
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        elif shortcut == "padding":
            self.shortcut = Padding(outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            h = self.bn3(self.conv3(self.act(h)))
        return self.act(h + self.shortcut(x))  # type: ignore[no-any-return]

    def fold(self) -> None:
        fold_pair(self, "conv1", "bn1")
        fold_pair(self, "conv2", "bn2")
        if self.bottleneck:
            fold_pair(self, "conv3", "bn3")


class ResNet(Network):
    """Normalised (B, C, H, W) to logits (B, K); `classes` 0: no head.

    Args:
        kernel: of the first convolution; with 7 it has stride 2 and a max-pool after it, as for ImageNet.
        cells: the mean is taken over each of cells² parts of the image.
        cifar_pool: how the mean is taken: the same but for the last bit.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        channels: int,
        width: int,
        classes: int,
        activation: str,
        *,
        kernel: int,
        padding: int,
        cells: int,
        cifar_pool: bool,
        head_bias: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, kernel, 2 if kernel == 7 else 1, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = ACTIVATIONS[activation]()
        self.pool = nn.MaxPool2d(3, 2, 1) if kernel == 7 else nn.Identity()
        inputs = width
        for number, stage in enumerate(stages, start=1):
            layer = [Block(inputs, stage, 1 if number == 1 else 2, stage.shortcut, activation)]
            layer += [Block(stage.outputs, stage, 1, "none", activation) for _ in range(stage.blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*layer))
            inputs = stage.outputs
        self.stages, self.cells, self.cifar_pool = len(stages), cells, cifar_pool
        self.head = nn.Linear(inputs * cells**2, classes, bias=head_bias) if classes else None

    def features(self, x: Tensor) -> Tensor:
        h = self.pool(self.act(self.bn1(self.conv1(x))))
        for number in range(1, self.stages + 1):
            h = getattr(self, f"layer{number}")(h)
        if self.cells > 1:
            return F.adaptive_avg_pool2d(h, self.cells).flatten(1)
        if self.cifar_pool:
            return F.avg_pool2d(h, list(h.shape[2:])).flatten(1)
        return h.mean((2, 3))  # type: ignore[no-any-return]

    def fold(self) -> None:
        fold_pair(self, "conv1", "bn1")
        for block in self.modules():
            if isinstance(block, Block):
                block.fold()
        fold_sequences(self)


def recognise(shapes: Shapes, evidence: Evidence) -> Plan | None:
    """A plan if the keys are those of this family, else None."""
    return read(shapes, evidence, family=FAMILY, stages=4, base=64, solo=True)


def read(shapes: Shapes, evidence: Evidence, *, family: str, stages: int, base: int, solo: bool = False) -> Plan | None:
    """A plan if the keys are those of a post-activation ResNet.

    Args:
        stages: how many there must be. Shortcuts without parameters are only known with three.
        base: width of the first convolution in a network that is not called wide.
        solo: whether it may be solo-learn's, where a first 3×3 convolution has padding 2.
    """
    stem, blocks = _conv(shapes, "conv1.weight"), [key for key in shapes if key.startswith("layer")]
    if stem is None or stem[2] not in (1, 3, 7) or _foreign(shapes):
        return None
    if any(key.startswith(f"layer{stages + 1}.") for key in blocks):
        return None
    width, channels, kernel = stem
    name = "downsample" if any(".downsample." in key for key in blocks) else "shortcut"
    found = _stages(shapes, width, name, stages)
    if found is None:
        return None
    features = found[-1].outputs
    head = next((head for head in _HEADS if f"{head}.weight" in shapes), "")
    # MoCo projects with `fc`; AdvCL's files after linear evaluation have a `linear` that was never trained
    contrastive = any(key.split(".")[-1] == "queue" or key.startswith("head_proj.") for key in shapes)
    head = "" if contrastive else head
    classes, cells = 0, 1
    if head:
        last = shapes[f"{head}.weight"]
        if len(last) != 2 or min(last) < 1:
            return None
        classes, cells = last[0], isqrt(last[1] // features)
        if cells > 8 or last[1] != features * cells**2:
            return None

    activation = evidence.settle("activation", tuple(ACTIVATIONS), "relu", 0.95, "all published files")
    facts = [activation]
    padding = kernel // 2
    if solo and kernel == 3 and name == "downsample":
        fact = evidence.settle("stem padding", ("1", "2"), "1", 0.9 if classes else 0.7, "only solo-learn has 2")
        facts.append(fact)
        padding = int(fact.value)
    size = 224 if kernel == 7 else 32 * cells
    if cells == 1 and kernel == 3:
        size = 28 if channels == 1 else 64 if classes == 200 else 32  # MNIST, Tiny ImageNet, CIFAR
    depth = 2 + (3 if found[0].bottleneck else 2) * sum(stage.blocks for stage in found)
    normalisation = None
    if kernel == 7 and channels == 3 and classes in (0, 1000):
        normalisation = ("ImageNet", 0.9 if classes else 0.7, "a network for 224×224 images")
    return Plan(
        family=family,
        title=_title(found, depth, width / base),
        channels=channels,
        classes=classes,
        features=features * cells**2,
        size=size,
        facts=(
            shown("depth", depth),
            shown("width", width),
            shown("layout", "ImageNet" if kernel == 7 else "CIFAR"),
            *facts,
        ),
        build=partial(
            ResNet,
            found,
            channels,
            width,
            classes,
            activation.value,
            kernel=kernel,
            padding=padding,
            cells=cells,
            cifar_pool=name == "shortcut" and head != "fc",
            head_bias=f"{head}.bias" in shapes,
        ),
        key_of=partial(_key_of, head=head or ("linear" if name == "shortcut" else "fc"), shortcut=name),
        normalisation=normalisation,
        stem=("conv1.weight", "bn1"),
        idle=partial(_idle, projections=() if head else _HEADS),
    )


def _title(stages: tuple[Stage, ...], depth: int, factor: float) -> str:
    first = stages[0]
    if first.groups > 1:
        return f"ResNeXt-{depth} {first.groups}x{first.inner // first.groups}d"
    if first.bottleneck and 4 * first.inner != first.outputs:
        return f"Wide ResNet-{depth}-{4 * first.inner / first.outputs:g}"
    return f"ResNet-{depth}" + (f" ×{factor:g} wide" if factor != 1 else "")


def _key_of(key: str, head: str, shortcut: str) -> str:
    if key.startswith("head."):
        return head + key.removeprefix("head")
    return key.replace(".shortcut.", f".{shortcut}.")


def _idle(key: str, projections: tuple[str, ...]) -> bool:
    first, last = key.split(".")[0], key.split(".")[-1]
    return first in _UNUSED or last == "scores" or first in projections


def _conv(shapes: Shapes, key: str) -> tuple[int, int, int] | None:
    """Outputs, inputs and side of a convolution."""
    shape = shapes.get(key, ())
    return (shape[0], shape[1], shape[2]) if len(shape) == 4 and min(shape) > 0 and shape[2] == shape[3] else None


def _foreign(shapes: Shapes) -> bool:
    """Whether there are biases, or parts of a block, that no ResNet has: squeeze and excitation, for example."""
    for key, shape in shapes.items():
        module, _, leaf = key.rpartition(".")
        parts = module.split(".")
        inside = len(parts) > 2 and parts[0].startswith("layer") and parts[1].isdigit()
        if inside and parts[2] not in _PARTS and shape:
            return True
        is_conv = parts[-1].startswith("conv") or (inside and parts[3:] == ["0"])
        if leaf == "bias" and is_conv and (inside or module == "conv1"):
            return True
    return False


def _stages(shapes: Shapes, width: int, shortcut: str, number: int) -> tuple[Stage, ...] | None:
    """What is known of each stage, if they fit together."""
    if shapes.get("bn1.weight") != (width,) or "bn1.running_mean" not in shapes:
        return None
    stages: list[Stage] = []
    inputs = width
    for i in range(1, number + 1):
        stage = _stage(shapes, f"layer{i}", inputs, shortcut, "padding" if number == 3 and i > 1 else "none")
        if stage is None:
            return None
        stages.append(stage)
        inputs = stage.outputs
    alike = {(stage.bottleneck, stage.groups) for stage in stages}
    doubling = all((2 * a.inner, 2 * a.outputs) == (b.inner, b.outputs) for a, b in pairwise(stages))
    shortcuts = {stage.shortcut for stage in stages[1:]}
    return tuple(stages) if len(alike) == 1 and doubling and len(shortcuts) == 1 and "none" not in shortcuts else None


def _stage(
    shapes: Shapes, layer: str, inputs: int, shortcut: str, otherwise: Literal["none", "padding"]
) -> Stage | None:
    blocks = count(shapes, layer)
    conv1, conv2 = _conv(shapes, f"{layer}.0.conv1.weight"), _conv(shapes, f"{layer}.0.conv2.weight")
    if not blocks or conv1 is None or conv2 is None:
        return None
    bottleneck = f"{layer}.0.conv3.weight" in shapes
    last = _conv(shapes, f"{layer}.0.conv3.weight") if bottleneck else conv2
    if last is None or (conv1[2], conv2[2]) != (1 if bottleneck else 3, 3) or (bottleneck and last[2] != 1):
        return None
    inner, outputs, groups = conv1[0], last[0], conv1[0] // conv2[1]
    fits = conv1[1] == inputs and groups * conv2[1] == inner and shapes.get(f"{layer}.0.bn1.weight") == (inner,)
    fits &= (conv2[0], last[1]) == (inner, inner) if bottleneck else groups == 1
    if blocks > 1:
        second = _conv(shapes, f"{layer}.1.conv1.weight")
        fits &= second is not None and second[1] == outputs
    if not fits:
        return None
    way: Literal["none", "convolution", "padding"] = otherwise
    if f"{layer}.0.{shortcut}.0.weight" in shapes:
        way = "convolution"
        if _conv(shapes, f"{layer}.0.{shortcut}.0.weight") != (outputs, inputs, 1):
            return None
        if shapes.get(f"{layer}.0.{shortcut}.1.weight") != (outputs,):
            return None
    elif inputs != outputs and way == "none":
        return None
    return Stage(blocks, inner, outputs, groups, bottleneck, way)
