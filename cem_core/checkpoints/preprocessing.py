"""How images must be normalised for a network, which hardly any file says.

What decides, in this order: a choice; numbers in the file; the format; the name of a published model; what the first
batch norm has seen; what is usual.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cem_core import bundle, images
from cem_core.messages import Fact, Refused
from cem_core.models import Normalisation, Plan

_HALF: Final = ((0.5,) * 3, (0.5,) * 3)
NORMALISATIONS: Final[Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "none": ((0.0,) * 3, (1.0,) * 3),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "CIFAR-10 (.2023)": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "[-1,1]": _HALF,
    "SVHN": _HALF,
    "AMOC CIFAR-10": ((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2617)),
    "AMOC CIFAR-100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "RestrictedImageNet": ((0.4717, 0.4499, 0.3837), (0.2600, 0.2516, 0.2575)),
    "MNIST": ((0.1307,) * 3, (0.3081,) * 3),
}
"""Mean and deviation of each channel, in [0,1] units; those of one channel are the first."""
_SMALL: Final = 64
"""Side of the largest images that are small ones, in pixels."""
_FARTHEST: Final = 3.0
"""From what a normalisation would give: beyond it, what a batch norm has seen speaks for none."""
PER_IMAGE: Final = "per image"
"""The mean and deviation of each image itself (TensorFlow's per_image_standardization)."""

_NO_DIGIT: Final = "mean 0.491/0.482/0.447, std 0.247/0.243/0.262"
_PUBLISHED: Final = (
    # The first pattern that is found in the name of the file, without case, decides: RobustBench's names, mostly.
    # Of networks for small images; the last column is for 100 classes where that differs.
    (r"hendrycks2019using|augmix", "[-1,1]", ""),
    (r"ding2020mma", PER_IMAGE, ""),
    (r"chen2020adversarial", "ImageNet", ""),
    (r"engstrom2019|cifar_nat|cifar_l2_|cifar_linf_", "CIFAR-10 (.2023)", ""),
    (r"rony2019|diffenderfer2021", _NO_DIGIT, "CIFAR-100"),
    (r"chen2020efficient", "CIFAR-10", "AMOC CIFAR-100"),
    (r"rice2020|wong2020fast|augustin2020|kireev2021|pang2020boosting|gowal202|rebuffi2021|rade2021|pang2022|wang2023|"
     r"bartoldson2024|xu2023|cui2023decoupled_wrn-28", "CIFAR-10", "CIFAR-100"),
    (r"wu2020adversarial", "none", "CIFAR-100"),
    (r"andriushchenko2020|carmon2019|sehwag202|wang2020improving|zhang2019|zhang2020|huang202[01]|sitawarin2020|cui2020|"
     r"sridhar2021|addepalli202|chen2021ltd|jia2022|cui2023|chen2024data|dai2021|^model_cifar_wrn|^wide.*trades|"
     r"(?<![a-z])(?:rocl|advcl)(?![a-z])", "none", ""),
)  # fmt: skip
_PUBLISHED_LARGE: Final = (
    (r"chen2024data|singh2023revisiting_(?:convnext|vit-b)", "none", ""),
    (r"wong2020fast|engstrom2019|salman2020|resnet\d+(?:_\d)?_l(?:2|inf)_eps", "ImageNet", ""),
)
"""The same for networks for large images, where some names stand for other networks."""
_LEAST: Final = 1e-6
"""Deviation that single precision can still divide by."""
_CIFAR: Final = (((0.4914, 0.4822, 0.4465), 0.25), ((0.4256, 0.4176, 0.3867), 0.28))
_CIFAR_100: Final = (((0.5071, 0.4865, 0.4409), 0.27), ((0.4392, 0.4213, 0.3818), 0.30))
_IMAGENET: Final = (((0.485, 0.456, 0.406), 0.276),)
"""Mean of each channel and deviation of training images in [0,1]: whole, and cropped with 4 black pixels around."""
_BUFFERS: Final = re.compile(
    r"(?:^|\.)(?:(normalizer|attacker\.normalize)\.new_(mean|std)|(normalize|normalization|normalise|0)\.(mean|std)"
    r"|(mu|sigma)|(mean|std))$"
)


def settle(
    plan: Plan,
    stem: str,
    said: Mapping[str, str],
    choices: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    everything: Mapping[str, Tensor],
) -> tuple[Normalisation, Fact]:
    """The normalisation for a network, and why.

    Args:
        stem: name of the file without its extension.
        said: what the file says: `normalisation`.
        tensors: of the network, by the file's keys.
        everything: all tensors of the file, with the buffers of a normaliser if there is one.

    Raises:
        Refused: something was chosen that is no normalisation.
    """
    options = _options(plan)

    def fact(name: str, source: str, confidence: float, why: str) -> tuple[Normalisation, Fact]:
        found = parse(name, plan.channels)
        return found, Fact("normalisation", name, source, confidence, options, True, why or _numbers(found))  # type: ignore[arg-type]

    if (chosen := choices.get("normalisation")) is not None:
        return fact(_spelt(chosen), "choice", 1.0, "")
    if (written := said.get("normalisation")) is not None:
        with suppress(Refused):  # numbers for another network
            return fact(written, "file", 1.0, "")
    if buffers := _buffers(plan.channels, everything):
        mean, std = buffers
        if max(mean) > 2:  # of pixels from 0 to 255: here they are from 0 to 1
            mean, std = (tuple(value / 255 for value in values) for values in buffers)
            return fact(named(mean, std), "file", 0.9, "its numbers are of pixels from 0 to 255")
        return fact(named(mean, std), "file", 1.0, "")
    if plan.normalisation and plan.normalisation[1] > 0.9:
        return fact(plan.normalisation[0], "guess", *plan.normalisation[1:])
    for pattern, usual, of_hundred in _PUBLISHED if plan.size <= _SMALL else _PUBLISHED_LARGE:
        if plan.channels == 3 and re.search(pattern, stem, re.IGNORECASE):
            name = of_hundred if of_hundred and plan.classes == 100 else usual
            return fact(name, "name", 0.9, "as the published model of this name")
    if plan.normalisation:
        return fact(plan.normalisation[0], "guess", *plan.normalisation[1:])
    if plan.channels != 3:
        return fact("none", "guess", 0.6, "usual for grey images")
    if probed := probe(plan, tensors):
        return fact(*probed)
    usual = "ImageNet" if plan.size > _SMALL else "CIFAR-100" if plan.classes == 100 else "CIFAR-10"
    return fact(usual, "guess", 0.4, "nothing speaks for another")


def parse(text: str, channels: int) -> Normalisation:
    """A name of the table, `per image`, or `mean a/b/c, std d/e/f`.

    Raises:
        Refused: it is none of these, or has another number of channels.
    """
    text = _spelt(text)
    if text == PER_IMAGE:
        return Normalisation((0.0,) * channels, (1.0,) * channels, per_image=True)
    if text in NORMALISATIONS:
        mean, std = NORMALISATIONS[text]
        return Normalisation(mean[:1] * channels, std[:1] * channels) if channels != 3 else Normalisation(mean, std)
    match = re.fullmatch(r"\s*mean\s+([^,]+),\s*std\s+([^,]+?)\s*", text)
    try:
        mean, std = (tuple(float(part) for part in group.split("/")) for group in match.groups()) if match else ((), ())
    except ValueError:
        mean, std = (), ()
    if len(mean) == len(std) == channels and all(map(_finite, mean + std)) and min(std) >= _LEAST:
        return Normalisation(mean, std)
    form = "mean " + "/".join(["0.5"] * channels) + ", std " + "/".join(["0.25"] * channels)
    raise Refused(
        f"{text[:60]!r} is no normalisation: give one of {', '.join(NORMALISATIONS)}, {PER_IMAGE}, or {form}."
    )


def _spelt(text: str) -> str:
    """A name of the table as it is written there."""
    return next((name for name in (*NORMALISATIONS, PER_IMAGE) if name.casefold() == text.casefold()), text)


def probe(plan: Plan, tensors: Mapping[str, Tensor]) -> tuple[str, str, float, str] | None:
    """What the first batch norm saw: (name, "guess", confidence, why); None if the network cannot be asked.

    The running mean of each of its channels is the sum of a filter times the mean of the input; its running variance
    is what the filter makes of images whose pixels are correlated as natural ones are.
    """
    if plan.stem is None:
        return None
    weight, mean, var = (
        tensors.get(key) for key in (plan.stem[0], *(f"{plan.stem[1]}.running_{k}" for k in ("mean", "var")))
    )
    if (
        weight is None
        or mean is None
        or var is None
        or weight.is_meta
        or weight.dim() != 4
        or weight.shape[1] != 3
        or not 1 <= weight.shape[-1] == weight.shape[-2] <= 11
    ):
        return None
    filters = weight.double()
    if len(filters) != len(mean) or len(filters) != len(var) or len(filters) < 8 or not _all_finite(filters, mean, var):
        return None
    sums = filters.sum((2, 3))
    seen_mean = torch.linalg.lstsq(sums, mean.double()[:, None], driver="gelsd").solution[:, 0]
    expected = _variance_of(filters, plan.size <= _SMALL)
    strong = expected > expected.max() * 1e-3
    seen_std = float((var.double()[strong] / expected[strong]).clamp(min=0).sqrt().median())
    if not seen_std > 0:
        return None
    distances: dict[str, float] = {}
    worlds = _IMAGENET if plan.size > 32 else _CIFAR_100 if plan.classes == 100 else _CIFAR
    for name in _options(plan):
        if name in NORMALISATIONS and (name != "RestrictedImageNet" or plan.classes == 9):
            centre, spread = (torch.tensor(values, dtype=torch.float64) for values in NORMALISATIONS[name])
            for mean_of_images, std_of_images in worlds:
                wanted_mean = (torch.tensor(mean_of_images, dtype=torch.float64) - centre) / spread
                wanted_std = std_of_images / float(spread.mean())
                off = float((wanted_mean - seen_mean).norm() / wanted_std) + 2 * abs(math.log(seen_std / wanted_std))
                distances[name] = min(off, distances.get(name, math.inf))
    best = min(distances, key=lambda name: distances[name])
    if distances[best] > _FARTHEST:
        return None
    why = f"its first batch norm saw inputs of mean {_list(seen_mean.tolist())} and deviation {seen_std:.2g}"
    return best, "guess", 0.75 if distances[best] < 0.8 else 0.5, why


def _variance_of(filters: Tensor, small: bool) -> Tensor:
    """(F,) variance of each filter's output (F, C, h, w) on natural images of unit variance."""
    flat = filters.flatten(1)
    return torch.einsum("fp,pq,fq->f", flat, _patches(filters.shape[-1], small), flat).clamp(min=1e-12)


@lru_cache(maxsize=4)
def _patches(side: int, small: bool) -> Tensor:
    """(3·side², 3·side²) covariance of the pixels under a filter, from the bundled images with their zero padding."""
    paths, size = (bundle.samples(), 32) if small else (bundle.photos(), 224)
    pixels = torch.from_numpy(np.stack([images.prepare(path, size, 3).pixels for path in paths])).double()
    mean, std = (moment((0, 2, 3), keepdim=True) for moment in (pixels.mean, pixels.std))
    taken = torch.nn.functional.unfold((pixels - mean) / std, side, padding=side // 2, stride=1 if small else 4)
    return torch.cov(taken.transpose(0, 1).flatten(1))


def _options(plan: Plan) -> tuple[str, ...]:
    if plan.channels == 1:
        return ("none", "MNIST", "[-1,1]", PER_IMAGE)
    if plan.size > _SMALL:
        return ("ImageNet", "none", "[-1,1]", "RestrictedImageNet")
    if plan.classes == 100:
        return ("none", "CIFAR-100", "CIFAR-10", "[-1,1]", "ImageNet", PER_IMAGE)
    return ("none", "CIFAR-10", "CIFAR-10 (.2023)", "[-1,1]", "ImageNet", PER_IMAGE)


def _buffers(channels: int, everything: Mapping[str, Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of a normaliser that was saved with the network."""
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for key, tensor in everything.items():
        match = _BUFFERS.search(key)
        if match and tensor.numel() == channels and not tensor.is_meta and tensor.is_floating_point():
            kind = next(group for group in reversed(match.groups()) if group)
            part = "mean" if kind in ("mean", "mu") else "std"
            found.setdefault(key[: match.start()] + str(match.group(1) or match.group(3) or ""), {})[part] = tuple(
                float(value) for value in tensor.flatten()
            )
    for pair in found.values():
        if len(pair) == 2 and all(map(_finite, pair["mean"] + pair["std"])) and min(pair["std"]) >= _LEAST:
            return pair["mean"], pair["std"]
    return None


def named(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """A name of the table if these are its numbers, in single precision; else the numbers."""
    for name, numbers in NORMALISATIONS.items():
        if torch.equal(torch.tensor((mean, std)), torch.tensor(numbers)[:, : len(mean)]):
            return name
    return f"mean {_list(mean, 9)}, std {_list(std, 9)}"


def _numbers(normalisation: Normalisation) -> str:
    if normalisation.per_image:
        return "the mean and deviation of each image itself"
    return f"mean {_list(normalisation.mean)}, std {_list(normalisation.std)}"


def _list(values: tuple[float, ...] | list[float], digits: int = 4) -> str:
    return "/".join(f"{round(v, 3) + 0.0 if digits == 4 and abs(v) < 0.01 else v:.{digits}g}" for v in values)


def _finite(value: float) -> bool:
    return abs(value) < 1e6


def _all_finite(*tensors: Tensor) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
