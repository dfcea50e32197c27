"""How images must be normalised: what decides, in which order, and what the first batch norm betrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import cifar10
import numpy as np
import peers
import pytest
import sources_packages
import sources_preact
import sources_resnet
import sources_wide
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from source import Source, Tensors
from torch import Tensor
from torch.nn import functional

from cem_core import bundle, checkpoints, images
from cem_core.checkpoints import opening, preprocessing
from cem_core.checkpoints.preprocessing import NORMALISATIONS, PER_IMAGE, named, parse, probe
from cem_core.datasets import open_dataset
from cem_core.messages import Fact, Refused
from cem_core.models import Normalisation, Plan
from cem_core.models.model import Network

SOURCES = [*sources_preact.SOURCES, *sources_resnet.SOURCES, *sources_wide.SOURCES, *sources_packages.SOURCES]


def plan(
    size: int = 32,
    classes: int = 10,
    channels: int = 3,
    normalisation: tuple[str, float, str] | None = None,
    stem: tuple[str, str] | None = ("stem.weight", "bn"),
) -> Plan:
    return Plan(family="any", title="any", channels=channels, classes=classes, features=8, size=size, facts=(),
                build=Network, normalisation=normalisation, stem=stem)  # fmt: skip


def settled(
    of: Plan | None = None,
    stem: str = "net",
    said: Mapping[str, str] | None = None,
    choices: Mapping[str, str] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> Fact:
    tensors = tensors or {}
    return preprocessing.settle(of or plan(), stem, said or {}, choices or {}, tensors, tensors)[1]


# Names and numbers ------------------------------------------------------------------------------------------------

numbers = st.floats(-9, 9, width=32)
deviations = st.floats(0.0009765625, 9, width=32)


@given(st.sampled_from((1, 3)).flatmap(lambda n: st.tuples(*[st.tuples(numbers, deviations)] * n)))
def test_numbers_written_and_read_are_the_same(pairs: tuple[tuple[float, float], ...]) -> None:
    mean, std = tuple(m for m, _ in pairs), tuple(s for _, s in pairs)
    read = parse(named(mean, std), len(pairs))
    assert torch.equal(torch.tensor((read.mean, read.std)), torch.tensor((mean, std))), "to the last bit"
    assert not read.per_image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_names_written_and_read_are_the_same(name: str, channels: int) -> None:
    read = parse(name, channels)
    assert len(read.mean) == len(read.std) == channels
    assert parse(named(read.mean, read.std), channels) == read
    assert (read.mean, read.std) == tuple(values[:channels] for values in NORMALISATIONS[name])


def test_a_name_is_given_to_the_numbers_of_the_table_alone() -> None:
    assert named((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)) == "CIFAR-10 (.2023)"
    assert named((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) == "[-1,1]"
    assert named((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) == "none"
    assert named((0.1307,), (0.3081,)) == "MNIST"
    single = torch.tensor(NORMALISATIONS["ImageNet"]).tolist()
    assert named(*map(tuple, single)) == "ImageNet", "as single precision has them"
    assert named((0.4914, 0.4822, 0.4466), (0.2023, 0.1994, 0.2010)) == (
        "mean 0.4914/0.4822/0.4466, std 0.2023/0.1994/0.201"
    )


def test_per_image_is_tensorflows() -> None:
    assert parse(PER_IMAGE, 3).per_image
    assert parse(PER_IMAGE, 1) == Normalisation((0.0,), (1.0,), per_image=True)


BAD = (
    "", "image-net", "0.5", "mean", "mean 0.5, std 0.5", "mean 0.5/0.5/0.5", "mean 0.5/0.5/0.5, std 0.5/0.5",
    "mean 0.5/0.5/0.5, std 0.5/0.5/0", "mean 0.5/0.5/0.5, std 0.5/0.5/-1", "mean 0.5/0.5/nan, std 1/1/1",
    "mean 0.5/0.5/inf, std 1/1/1", "mean 0/0/0, std 1/1/inf", "mean 0/0/0, std 1/1/1e-300", "mean a/b/c, std 1/1/1",
    "mean 0/0/0, std 1/1/1, more", "std 1/1/1, mean 0/0/0", "mean 0/0/0, std 1/1/1\nmean", "mean //, std //",
    "mean 1e9/0/0, std 1/1/1", "x" * 10_000,
)  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:30])
def test_what_is_no_normalisation_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(Refused) as refused:
        settled(choices={"normalisation": text})
    said = str(refused.value)
    assert "is no normalisation: give one of none, CIFAR-10, " in said
    assert said.endswith("per image, or mean 0.5/0.5/0.5, std 0.25/0.25/0.25.")
    assert len(said) < 400
    assert "\n" not in said


@given(st.text(max_size=60), st.sampled_from((1, 3)))
def test_no_text_breaks_it(text: str, channels: int) -> None:
    try:
        found = parse(text, channels)
    except Refused:
        return
    assert len(found.mean) == len(found.std) == channels
    assert all(s > 0 for s in found.std)


# What decides -----------------------------------------------------------------------------------------------------

BUFFERS = {"normalize.mean": torch.tensor([0.4, 0.5, 0.6]), "normalize.std": torch.tensor([0.1, 0.2, 0.3])}
WRITTEN = "mean 0.400000006/0.5/0.600000024, std 0.100000001/0.200000003/0.300000012"


def stem_of(name: str) -> Tensors:
    """A first convolution and a batch norm that has seen CIFAR-10 in a normalisation."""
    return seen_by(KERNELS["random"](32, 3, torch.Generator().manual_seed(0)), name, photos=False)


def test_each_source_goes_before_those_after_it() -> None:
    published, sure, usual = "Hendrycks2019Using", ("none", 0.95, "its code"), ("CIFAR-100", 0.85, "usual")
    said = {"normalisation": "ImageNet"}
    choices = {"normalisation": "MNIST"}
    everything = BUFFERS | stem_of("none")
    bare = stem_of("none")
    steps = [
        (settled(plan(normalisation=sure), published, said, choices, everything), "MNIST", "choice", 1.0),
        (settled(plan(normalisation=sure), published, said, {}, everything), "ImageNet", "file", 1.0),
        (settled(plan(normalisation=sure), published, {}, {}, everything), WRITTEN, "file", 1.0),
        (settled(plan(normalisation=sure), published, {}, {}, bare), "none", "guess", 0.95),
        (settled(plan(normalisation=usual), published, {}, {}, bare), "[-1,1]", "name", 0.9),
        (settled(plan(normalisation=usual), "net", {}, {}, bare), "CIFAR-100", "guess", 0.85),
        (settled(plan(), "net", {}, {}, bare), "none", "guess", 0.75),
        (settled(plan(), "net", {}, {}, {}), "CIFAR-10", "guess", 0.4),
    ]
    for fact, value, source, confidence in steps:
        assert (fact.value, fact.source, fact.confidence) == (value, source, confidence)
        assert fact.free
        assert fact.why
        assert "none" in fact.options


@pytest.mark.parametrize(
    ("of", "usual"),
    [
        (plan(), "CIFAR-10"),
        (plan(classes=0), "CIFAR-10"),
        (plan(64, 200), "CIFAR-10"),
        (plan(classes=100), "CIFAR-100"),
        (plan(224, 1000), "ImageNet"),
        (plan(96), "ImageNet"),
        (plan(28, channels=1), "none"),
    ],
)
def test_where_nothing_speaks_the_usual_is_assumed_and_said_to_be(of: Plan, usual: str) -> None:
    fact = settled(of)
    assert (fact.value, fact.source) == (usual, "guess")
    assert fact.confidence <= 0.6
    assert usual in fact.options


def test_numbers_in_a_file_that_are_for_another_network_are_left_aside() -> None:
    for said in ("mean 0.5, std 0.5", "loud", ""):
        assert settled(said={"normalisation": said}).source == "guess"
    for value in (torch.zeros(4), torch.tensor([0.1, 0.2, math.nan]), torch.tensor([0, 1, 2]), torch.zeros(3)):
        odd = {"normalize.mean": BUFFERS["normalize.mean"], "normalize.std": value}
        assert settled(tensors=odd).source == "guess", value
    assert settled(tensors={"normalize.mean": BUFFERS["normalize.mean"]}).source == "guess", "without a deviation"
    two = {"normalize.mean": BUFFERS["normalize.mean"], "other.std": BUFFERS["normalize.std"]}
    assert settled(tensors=two).source == "guess", "of two different parts"


PAIRS = (
    ("normalizer.new_mean", "normalizer.new_std"),
    ("module.normalizer.new_mean", "module.normalizer.new_std"),
    ("module.attacker.normalize.new_mean", "module.attacker.normalize.new_std"),
    ("normalize.mean", "normalize.std"),
    ("base_model.normalize.mean", "base_model.normalize.std"),
    ("state_dict.encoder_k.normalize.mean", "state_dict.encoder_k.normalize.std"),
    ("normalization.mean", "normalization.std"),
    ("normalise.mean", "normalise.std"),
    ("module.normalization.mean", "module.normalization.std"),
    ("0.mean", "0.std"),
    ("module.0.mean", "module.0.std"),
    ("mu", "sigma"),
    ("module.mu", "module.sigma"),
    ("mean", "std"),
    ("model.mean", "model.std"),
)


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)], ids=str)
@pytest.mark.parametrize(("mean", "std"), PAIRS)
def test_a_normaliser_in_the_file_is_found_exactly(mean: str, std: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    values = BUFFERS["normalize.mean"].view(shape), BUFFERS["normalize.std"].view(shape)
    torch.save({"model": below("net.", tiny.weights()) | dict(zip((mean, std), values, strict=True))}, tmp_path / "net")
    opened = opening.opened(str(tmp_path / "net"))
    assert torch.equal(torch.tensor(opened.normalisation.mean), BUFFERS["normalize.mean"])
    assert torch.equal(torch.tensor(opened.normalisation.std), BUFFERS["normalize.std"])
    fact = opened.checkpoint.fact("normalisation")
    assert fact is not None
    assert (fact.value, fact.source) == (WRITTEN, "file")


def test_a_normaliser_of_pixels_from_0_to_255_is_brought_to_those_from_0_to_1() -> None:
    numbers = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
    found = settled(tensors={f"normalize.{part}": 255 * torch.tensor(values) for part, values in numbers.items()})
    assert (found.source, found.why) == ("file", "its numbers are of pixels from 0 to 255")
    given = parse(found.value, 3)
    assert (given.mean, given.std) == (pytest.approx(numbers["mean"]), pytest.approx(numbers["std"]))


def below(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def test_a_normaliser_of_known_numbers_has_their_name_in_double_precision_too(tmp_path: Path) -> None:
    for name, (mean, std) in NORMALISATIONS.items():
        for dtype in (torch.float32, torch.float64):
            pair = {"normalize.mean": torch.tensor(mean, dtype=dtype), "normalize.std": torch.tensor(std, dtype=dtype)}
            fact = settled(tensors=pair)
            assert parse(fact.value, 3) == parse(name, 3)


# Published names --------------------------------------------------------------------------------------------------

TEN, HUNDRED, LARGE = plan(), plan(classes=100), plan(224, 1000, normalisation=("ImageNet", 0.9, "large"))
SHORT = "mean 0.491/0.482/0.447, std 0.247/0.243/0.262"
PUBLISHED: Final[Mapping[str, tuple[Plan, tuple[str, ...]]]] = {
    "none": (
        TEN,
        (
            "Andriushchenko2020Understanding", "Carmon2019Unlabeled", "Sehwag2020Hydra", "Wang2020Improving",
            "Zhang2019Theoretically", "Zhang2019You", "Zhang2020Attacks", "Zhang2020Geometry", "Huang2020Self",
            "Huang2021Exploring", "Huang2021Exploring_ema", "Wu2020Adversarial", "Wu2020Adversarial_extra",
            "Sehwag2021Proxy", "Sehwag2021Proxy_R18", "Sitawarin2020Improving", "Cui2020Learnable_34_20",
            "Sridhar2021Robust_34_15", "Addepalli2021Towards_RN18", "Addepalli2022Efficient_WRN_34_10",
            "Chen2021LTD_WRN34_20", "Jia2022LAS-AT_70_16", "Cui2023Decoupled_WRN-34-10", "Chen2024Data_WRN_34_20",
            "Dai2021Parameterizing", "model_cifar_wrn", "wide10_trades_eps8", "RoCL_ckpt", "advcl-finetuned",
        ),
    ),
    "[-1,1]": (TEN, ("Hendrycks2019Using", "Hendrycks2020AugMix_WRN", "Hendrycks2020AugMix_ResNeXt")),
    "CIFAR-10": (
        TEN,
        (
            "Rice2020Overfitting", "Wong2020Fast", "Kireev2021Effectiveness_RLAT", "Chen2020Efficient",
            "Pang2020Boosting", "Augustin2020Adversarial_34_10_extra", "Gowal2020Uncovering_70_16_extra",
            "Gowal2021Improving_R18_ddpm_100m", "Rebuffi2021Fixing_106_16_cutmix_extra", "Rade2021Helper_R18_extra",
            "Pang2022Robustness_WRN70_16", "Wang2023Better_WRN-28-10", "Xu2023Exploring_WRN-28-10",
            "Cui2023Decoupled_WRN-28-10", "Bartoldson2024Adversarial_WRN-94-16",
        ),
    ),
    "CIFAR-10 (.2023)": (TEN, ("Engstrom2019Robustness", "cifar_nat", "cifar_l2_0_25", "cifar_linf_8")),
    SHORT: (TEN, ("Rony2019Decoupling", "Diffenderfer2021Winning_LRR", "Diffenderfer2021Winning_Binary")),
    "ImageNet": (TEN, ("Chen2020Adversarial",)),
    PER_IMAGE: (TEN, ("Ding2020MMA",)),
    "CIFAR-100": (
        HUNDRED,
        (
            "Wu2020Adversarial", "Rice2020Overfitting", "Gowal2020Uncovering", "Rebuffi2021Fixing_R18_ddpm",
            "Rade2021Helper_R18_ddpm", "Pang2022Robustness_WRN28_10", "Wang2023Better_WRN-70-16",
            "Cui2023Decoupled_WRN-28-10", "Diffenderfer2021Winning_LRR",
        ),
    ),
    "AMOC CIFAR-100": (HUNDRED, ("Chen2020Efficient",)),
    "none ": (
        HUNDRED,
        (
            "Cui2020Learnable_34_20_LBGAT6", "Sitawarin2020Improving", "Addepalli2021Towards_PARN18",
            "Chen2021LTD_WRN34_10", "Jia2022LAS-AT_34_20", "Cui2023Decoupled_WRN-34-10_autoaug",
            "Chen2024Data_WRN_34_10",
        ),
    ),
    "[-1,1] ": (HUNDRED, ("Hendrycks2019Using", "Hendrycks2020AugMix_WRN")),
    "ImageNet ": (
        LARGE,
        (
            "Salman2020Do_50_2", "Engstrom2019Robustness", "Wong2020Fast", "Standard_R50", "Hendrycks2020AugMix",
            "Hendrycks2020Many", "Geirhos2018_SIN", "Erichson2022NoisyMix", "wide_resnet50_2_linf_eps4.0",
        ),
    ),
    "none  ": (
        LARGE,
        ("Chen2024Data_WRN_50_2", "Singh2023Revisiting_ConvNeXt-T-ConvStem", "Singh2023Revisiting_ViT-B-ConvStem"),
    ),
}  # fmt: skip
"""Normalisation → networks that need it, by the names of their files."""


@pytest.mark.parametrize(
    ("of", "stem", "name"),
    [(of, stem, name.strip()) for name, (of, stems) in PUBLISHED.items() for stem in stems],
    ids=lambda value: value if isinstance(value, str) else str(value.classes),
)
def test_published_models_are_known_by_name(of: Plan, stem: str, name: str) -> None:
    for written in (stem, stem.lower()):
        assert settled(of, written).value == name


@pytest.mark.parametrize(
    "stem", ["resnet18", "trades_my_own", "best", "checkpoint-90", "procl", "my_wong2021", "sehwag", "standard", ""]
)
def test_other_names_say_nothing(stem: str) -> None:
    assert settled(TEN, stem).source == "guess"


def test_no_name_decides_for_grey_images() -> None:
    assert settled(plan(28, channels=1), "Rony2019Decoupling").source == "guess"


# What the first batch norm has seen -------------------------------------------------------------------------------


def random_kernels(count: int, side: int, random: torch.Generator) -> Tensor:
    return torch.randn(count, 3, side, side, generator=random) / (3 * side**2) ** 0.5


def gabors(count: int, side: int, random: torch.Generator) -> Tensor:
    """Edges and gratings of every direction, half of them in grey as trained networks have them."""
    y, x = torch.meshgrid(*[torch.arange(side) - side // 2] * 2, indexing="ij")
    angle, phase, speed = torch.rand(3, count, 1, 1, generator=random)
    along = x * torch.cos(angle * 2 * math.pi) + y * torch.sin(angle * 2 * math.pi)
    waves = torch.cos((1.2 + 4.8 * speed) / side * along + phase * 2 * math.pi)
    colours = torch.randn(count, 3, 1, 1, generator=random) / 2 + torch.arange(count).view(-1, 1, 1, 1) % 2
    return colours * (waves * torch.exp(-(x**2 + y**2) * 6 / side**2))[:, None] / side


KERNELS: Final[Mapping[str, Callable[[int, int, torch.Generator], Tensor]]] = {
    "random": random_kernels,
    "gabor": gabors,
}


def training_images(*, photos: bool) -> Tensor:
    """The bundled images with the mean and deviation of the whole of CIFAR-10, or of ImageNet."""
    paths, size = (bundle.photos(), 224) if photos else (bundle.samples(), 32)
    x = torch.from_numpy(np.stack([images.prepare(path, size, 3).pixels for path in paths]))
    wanted = ((0.485, 0.456, 0.406), (0.28, 0.271, 0.282)) if photos else NORMALISATIONS["CIFAR-10"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in wanted)
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True) * std + mean


def crops(x: Tensor) -> Tensor:
    """As augmentation cuts them from images with a black margin of 4 pixels: all positions on a grid."""
    wide, size = functional.pad(x, (4, 4, 4, 4)), x.shape[-1]
    return torch.cat([wide[..., i : i + size, j : j + size] for i in range(0, 9, 2) for j in range(0, 9, 2)])


def seen_by(kernels: Tensor, name: str, *, photos: bool, cropped: bool = False, stride: int = 1) -> Tensors:
    """A stem that was trained on images in a normalisation."""
    x = training_images(photos=photos)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALISATIONS[name])
    x = ((crops(x) if cropped else x) - mean) / std
    out = functional.conv2d(x, kernels, stride=stride, padding=kernels.shape[-1] // 2)
    return {
        "stem.weight": kernels,
        "bn.running_mean": out.mean((0, 2, 3)),
        "bn.running_var": out.var((0, 2, 3)),
    }


WANTED = ("none", "CIFAR-10", "CIFAR-10 (.2023)", "[-1,1]", "ImageNet")


@pytest.mark.parametrize("cropped", [False, True], ids=["whole", "cropped"])
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("side", [1, 3])
def test_a_small_stem_tells_its_normalisation(side: int, name: str, kernels: str, cropped: bool) -> None:
    for seed in range(3):
        filters = KERNELS[kernels](16, side, torch.Generator().manual_seed(seed))
        fact = settled(plan(), tensors=seen_by(filters, name, photos=False, cropped=cropped))
        assert (fact.value, fact.source, fact.confidence) == (name, "guess", 0.75)
        assert fact.why.startswith("its first batch norm saw inputs of mean ")


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["none", "[-1,1]", "ImageNet"])
@pytest.mark.parametrize("side", [3, 7])
def test_a_large_stem_tells_its_normalisation(side: int, name: str, kernels: str) -> None:
    for seed in range(3):
        filters = KERNELS[kernels](16, side, torch.Generator().manual_seed(seed))
        fact = settled(plan(224, 1000), tensors=seen_by(filters, name, photos=True, stride=2))
        assert (fact.value, fact.source, fact.confidence) == (name, "guess", 0.75)


def asked(source: Source, path: Path) -> Plan | None:
    """The plan of a network of a family, if its normalisation is left to its first batch norm."""
    torch.save(source.wrap(source.network().state_dict()), path)
    found = opening.opened(str(path), source.choices).plan
    return found if found.channels == 3 and found.stem and not found.normalisation else None


ASKED = {
    "robust_overfitting PreAct-18", "kuangliu", "rocl", "akamaster", "TRADES WRN-10-2", "DM WRN, TinyImageNet",
    "densenet", "mobilenet_v2", "mnasnet", "shufflenet_v2",
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.id)
def test_every_family_with_a_stem_is_asked_by_its_own_keys(source: Source, tmp_path: Path) -> None:
    found = asked(source, tmp_path / "net.pt")
    assert found or source.id not in ASKED
    if found is None or found.stem is None:
        return
    weight, norm = found.stem
    side = found.build().state_dict()[weight_name(found, weight)].shape[-1]
    filters = random_kernels(16, side, torch.Generator().manual_seed(1))
    large = found.size > 64
    for name in ("none", "[-1,1]", "ImageNet"):
        stem = seen_by(filters, name, photos=large, stride=2 if large else 1)
        ours = {weight: filters, **{f"{norm}.{key}": stem[f"bn.{key}"] for key in ("running_mean", "running_var")}}
        assert settled(found, tensors=ours).value == name


def weight_name(found: Plan, key: str) -> str:
    return next(ours for ours, theirs in found.keys().items() if theirs == key)


def test_jem_has_no_batch_norm_to_ask() -> None:
    jem = next(source for source in SOURCES if source.family == "jem")
    assert probe(plan(stem=None), jem.network().state_dict()) is None


ODD: Mapping[str, Callable[[Tensors], Tensors]] = {
    "no weight": lambda t: {key: value for key, value in t.items() if key != "stem.weight"},
    "no mean": lambda t: {key: value for key, value in t.items() if key != "bn.running_mean"},
    "no variance": lambda t: {key: value for key, value in t.items() if key != "bn.running_var"},
    "few filters": lambda t: {key: value[:7] for key, value in t.items()},
    "another length": lambda t: t | {"bn.running_mean": torch.zeros(31)},
    "nan": lambda t: t | {"bn.running_mean": torch.full((32,), math.nan)},
    "infinite": lambda t: t | {"bn.running_var": torch.full((32,), math.inf)},
    "no variance seen": lambda t: t | {"bn.running_var": torch.zeros(32)},
    "negative variance": lambda t: t | {"bn.running_var": torch.full((32,), -1.0)},
    "zeros": lambda t: {key: torch.zeros_like(value) for key, value in t.items()},
    "meta": lambda t: {key: value.to("meta") for key, value in t.items()},
    "grey": lambda t: t | {"stem.weight": t["stem.weight"][:, :1]},
    "large filters": lambda t: t | {"stem.weight": torch.zeros(32, 3, 13, 13)},
    "oblong filters": lambda t: t | {"stem.weight": torch.zeros(32, 3, 3, 5)},
    "a linear layer": lambda t: t | {"stem.weight": torch.zeros(32, 3)},
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_what_cannot_be_asked_is_not_answered(change: Callable[[Tensors], Tensors]) -> None:
    assert probe(plan(), change(stem_of("none"))) is None


def test_half_precision_is_asked_too() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        halves = {key: value.to(dtype) for key, value in stem_of("ImageNet").items()}
        assert settled(tensors=halves).value == "ImageNet"


def test_restricted_imagenet_is_for_its_nine_classes() -> None:
    stem = seen_by(gabors(32, 7, torch.Generator().manual_seed(0)), "RestrictedImageNet", photos=True, stride=2)
    assert settled(plan(224, 1000), tensors=stem).value == "ImageNet", "so near that only the classes tell"
    assert settled(plan(224, 9), tensors=stem).value in ("ImageNet", "RestrictedImageNet")
    assert "RestrictedImageNet" in settled(plan(224, 9), tensors=stem).options


# Real weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bundle.models())
def test_the_bundled_models_tell_theirs_without_their_metadata(name: str, tmp_path: Path) -> None:
    save_file(load_file(bundle.models()[name]), tmp_path / "net.safetensors")
    fact = checkpoints.inspect(str(tmp_path / "net.safetensors")).fact("normalisation")
    assert fact is not None
    assert (fact.value, fact.source) == ("CIFAR-10", "guess")


@pytest.fixture(scope="module")
def others_model() -> str:
    """A ResNet-18 of another project, as its package ships it: saved on a GPU, in the old format, in 2021."""
    path = peers.package("pyautoattack") / "examples" / "model_test.pt"
    if not path.is_file():
        pytest.skip("this pyautoattack comes without its model")
    return str(path)


def test_a_published_file_opens_in_one_go(others_model: str) -> None:
    model, report = checkpoints.load(others_model, "cpu")
    assert (report.title, report.family, report.parameters) == ("ResNet-18", "resnet", 11_173_962)
    assert report.classes[0] == "airplane"
    assert len(report.classes) == 10
    assert (report.ignored, report.warnings) == ((), ())
    fact = report.fact("normalisation")
    assert fact is not None
    assert (fact.value, fact.source, fact.confidence) == ("none", "guess", 0.75)
    checked = checkpoints.check(others_model)
    assert checked is not None
    assert checked.right >= 19
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    checkpoints.forget()


def test_its_accuracy_is_that_of_its_authors(others_model: str, tmp_path: Path) -> None:
    model, report = checkpoints.load(others_model, "cpu")
    dataset = open_dataset(cifar10.some(tmp_path, each=20))
    assert dataset.classes == report.classes
    pixels, labels = dataset.arrays(report.size)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        right = sum(int((model(part).argmax(1) == y).sum()) for part, y in zip(
            x.split(100), torch.from_numpy(labels).split(100), strict=True))  # fmt: skip
    assert 0.78 <= right / len(labels) <= 0.93, "0.84 of a thousand; these are JPEGs"
    checkpoints.forget()


@pytest.mark.parametrize("text", ["imagenet", "IMAGENET", "ImageNet"])
def test_a_name_may_be_spelt_in_any_case(text: str) -> None:
    assert preprocessing.parse(text, 3) == preprocessing.parse("ImageNet", 3)
