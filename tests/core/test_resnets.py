from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from source import Source, Tensors
from sources_resnet import (
    HE_RESNET,
    MULTI_BN_RESNET,
    RESNET,
    SOURCES,
    BnListResNet,
    CifarBottleneck,
    CifarResNet,
    HeResNet,
    SupCon,
    TorchBlock,
    TorchBottleneck,
    TorchResNet,
    amoc,
)
from torch import Tensor, nn

from cem_core.messages import Refused
from cem_core.models import he_resnet, multi_bn_resnet, resnet
from cem_core.models.family import Evidence, Plan, Shapes
from cem_core.models.model import Network

FAMILIES = {"resnet": resnet, "he_resnet": he_resnet, "multi_bn_resnet": multi_bn_resnet}
TITLES = {
    "kuangliu": "ResNet-18 ×0.0625 wide",
    "robustness-cifar": "ResNet-17 ×0.0625 wide",
    "wide": "Wide ResNet-14-4",
    "resnext": "ResNeXt-14 4x2d",
    "kuangliu-resnext": "ResNeXt-29 2x2d",
    "akamaster": "ResNet-20 ×0.25 wide",
    "acl": "Multi-BN ResNet-18 ×0.0625 wide",
}
by_id = partial(pytest.mark.parametrize, "source", ids=lambda source: source.id)


def below_prefix(tree: Mapping[str, Any]) -> Tensors:
    """The state dict in a file of one of the sources, and what stands beside the network in it."""
    for wrapper in ("teacher", "state_dict", "model", "net"):
        if isinstance(tree.get(wrapper), Mapping):
            tree = tree[wrapper]
            break
    contrast = any(key.endswith("queue") for key in tree)
    order = ("module.encoder_q.",) if contrast else ("encoder_k.", "module.model.", "module.", "backbone.", "encoder.")
    prefix = next((prefix for prefix in order if prefix + "conv1.weight" in tree), "")
    return {key.removeprefix(prefix): value for key, value in tree.items()}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def recognised(shapes: Shapes, evidence: Evidence = Evidence()) -> Plan | None:  # noqa: B008
    plans = [plan for family in FAMILIES.values() if (plan := family.recognise(shapes, evidence))]
    assert len(plans) <= 1
    return plans[0] if plans else None


def opened(net: nn.Module, **choices: str) -> tuple[Plan, Network]:
    return loaded(net.state_dict(), **choices)


def loaded(tensors: Mapping[str, Tensor], **choices: str) -> tuple[Plan, Network]:
    plan = recognised(shapes_of(tensors), Evidence(choices=choices))
    assert plan is not None
    built = plan.build()
    built.load_state_dict({key: tensors[name] for key, name in plan.keys().items()})
    return plan, built.eval()


def images(size: int, channels: int = 3, number: int = 2) -> Tensor:
    return torch.randn(number, channels, size, size, generator=torch.Generator().manual_seed(1))


def value(plan: Plan, what: str) -> str:
    return next(fact.value for fact in plan.facts if fact.what == what)


@by_id(SOURCES)
@torch.no_grad()
def test_every_source_is_recognised_and_gives_what_its_own_code_gives(source: Source) -> None:
    reference = source.network()
    tensors = below_prefix(source.wrap(reference.state_dict()))
    plan, net = loaded(tensors, **source.choices)
    x = images(64 if source.size == 224 else source.size, source.channels)
    expected = source.logits(reference, x)
    assert torch.equal(net(x), expected)
    assert plan.family == source.family
    assert (plan.channels, plan.size) == (source.channels, source.size)
    assert plan.features == net.features(x).shape[1]
    assert plan.classes == (0 if source.encoder else expected.shape[1])
    assert source.facts.items() <= {fact.what: fact.value for fact in plan.facts}.items()
    assert plan.title == TITLES.get(source.id, plan.title)
    assert plan.stem is not None
    assert {plan.stem[0], plan.stem[1] + ".running_mean"} <= tensors.keys()
    net.fold()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


@by_id(SOURCES)
def test_extra_keys_do_not_prevent_recognition(source: Source) -> None:
    shapes = shapes_of(below_prefix(source.wrap(source.network().state_dict())))
    evidence = Evidence(choices=source.choices)
    plan = recognised(shapes, evidence)
    extra = {"projector.0.weight": (3, 3), "junk": (), "layers": (2,), "": (1,), "conv1.scores": shapes["conv1.weight"]}
    again = recognised({**extra, **shapes}, evidence)
    assert plan is not None
    assert again is not None
    assert (again.title, again.facts, again.keys()) == (plan.title, plan.facts, plan.keys())


@by_id(SOURCES)
def test_damaged_shapes_are_never_an_error(source: Source) -> None:
    shapes = shapes_of(below_prefix(source.wrap(source.network().state_dict())))
    evidence = Evidence(choices=source.choices)
    for key, shape in shapes.items():
        if not shape or key.startswith(("module.", "encoder_q.")):  # counters, and another network
            continue
        rest = {k: v for k, v in shapes.items() if k != key}
        FAMILIES[source.family].recognise(rest, evidence)
        for other in ((), (0,), (0, 0, 0, 0), (0, *shape[1:]), (*shape[:1], 0, *shape[2:]), (*shape, 1), shape[::-1]):
            FAMILIES[source.family].recognise({**rest, key: other}, evidence)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_no_error(family: str) -> None:
    for source in SOURCES:
        shapes = shapes_of(below_prefix(source.wrap(source.network().state_dict())))
        plan = FAMILIES[family].recognise(shapes, Evidence(choices=source.choices))
        assert (plan is not None) == (family == source.family)


@pytest.mark.parametrize(
    "shapes",
    [{}, {"conv1.weight": ()}, {"bn1.bn_list.0.weight": ()}, {"bn1.bn_clean.weight": (), "bn1.bn_adv.weight": (3,)}],
)
def test_scraps_are_not_recognised(shapes: Shapes) -> None:
    assert recognised(shapes) is None


@pytest.mark.parametrize("what", ["activation", "stem_padding"])
def test_a_choice_that_does_not_exist_is_refused(what: str) -> None:
    with pytest.raises(Refused):
        recognised(shapes_of(TorchResNet(padding=1).state_dict()), Evidence(choices={what: "loud"}))
    with pytest.raises(Refused):
        recognised(shapes_of(BnListResNet().state_dict()), Evidence(choices={"route": "loud"}))


# Titles of the networks as they are published, without building them


@pytest.mark.parametrize(
    ("build", "title"),
    [
        (partial(CifarResNet, blocks=(2, 2, 2, 2), width=64), "ResNet-18"),
        (partial(CifarResNet, blocks=(2, 2, 2, 2), width=320), "ResNet-18 ×5 wide"),
        (partial(CifarResNet, CifarBottleneck, (3, 4, 6, 3), 64), "ResNet-50"),
        (partial(TorchResNet, TorchBlock, (3, 4, 6, 3), 64), "ResNet-34"),
        (partial(TorchResNet, TorchBottleneck, (3, 4, 23, 3), 64), "ResNet-101"),
        (partial(TorchResNet, TorchBottleneck, (3, 8, 36, 3), 64), "ResNet-152"),
        (partial(TorchResNet, TorchBottleneck, (3, 4, 6, 3), 64, base=2), "Wide ResNet-50-2"),
        (partial(TorchResNet, TorchBottleneck, (3, 4, 6, 3), 64, base=4), "Wide ResNet-50-4"),
        (partial(TorchResNet, TorchBottleneck, (3, 4, 23, 3), 64, base=2), "Wide ResNet-101-2"),
        (partial(TorchResNet, TorchBottleneck, (3, 4, 6, 3), 64, groups=32, base=4 / 64), "ResNeXt-50 32x4d"),
        (partial(HeResNet, 3, 16), "ResNet-20"),
        (partial(HeResNet, 18, 16), "ResNet-110"),
        (partial(HeResNet, 3, 32), "ResNet-20 ×2 wide"),
        (partial(HeResNet, 9, 16, option="B"), "ResNet-56"),
        (partial(BnListResNet, width=64), "Multi-BN ResNet-18"),
    ],
)
def test_title_of_the_published_sizes(build: Any, title: str) -> None:
    with torch.device("meta"):
        shapes = shapes_of(build().state_dict())
    plan = recognised(shapes)
    assert plan is not None
    assert plan.title == title
    assert set(plan.keys().values()) <= shapes.keys()


# Known traps


def test_the_size_follows_from_stem_pool_and_classes() -> None:
    def size(net: nn.Module) -> int:
        return opened(net)[0].size

    assert size(CifarResNet(width=1)) == 32
    assert size(CifarResNet(width=1, feat_scale=9)) == 96
    assert size(CifarResNet(width=1, channels=1)) == 28
    assert size(TorchResNet(width=1, padding=1, classes=200)) == 64
    assert size(TorchResNet(width=1, classes=200)) == 224


def test_a_head_that_does_not_fit_is_no_resnet() -> None:
    assert recognised(shapes_of(CifarResNet(width=1, feat_scale=2).state_dict())) is None
    net = TorchResNet(width=1)
    for shape in ((10, 8, 1, 1), (10, 7), (0, 8), (10,), (10, 0)):  # the first is the convolution of CARD's edge-popup
        assert recognised(shapes_of(net.state_dict()) | {"fc.weight": shape}) is None


def test_padding_two_has_the_same_keys_and_is_only_a_choice() -> None:
    one, two = (TorchResNet(width=4, classes=0, padding=padding).eval() for padding in (1, 2))
    two.load_state_dict(one.state_dict())
    x = images(32)
    for padding, reference in (("1", one), ("2", two)):
        assert torch.equal(opened(one, stem_padding=padding)[1](x), reference(x))
    plan = recognised(shapes_of(one.state_dict()), Evidence(said={"stem_padding": "2"}))
    assert plan is not None
    assert value(plan, "stem padding") == "2"
    assert not torch.equal(one(x), two(x))
    kuangliu = recognised(shapes_of(CifarResNet(width=1).state_dict()))
    assert kuangliu is not None
    assert all(fact.what != "stem padding" for fact in kuangliu.facts)


@torch.no_grad()
def test_adaptive_pooling_with_kuanglius_names_differs_in_the_last_bit_only() -> None:
    net = SupCon().eval()
    mine = opened(net.encoder)[1]
    x = images(32)
    torch.testing.assert_close(mine(x), F.adaptive_avg_pool2d(net.encoder.maps(x), 1).flatten(1), rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_a_cifar_pool_with_torchvisions_names() -> None:
    net = TorchResNet(width=4, padding=1)
    net.avgpool = nn.AvgPool2d(4)  # as Diffenderfer's LRR
    x = images(32)
    torch.testing.assert_close(opened(net.eval())[1](x), net(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_kuanglius_encoder_with_a_linear_layer_called_fc() -> None:
    """SupContrast's SupCEResNet, below its prefix."""
    encoder, head = CifarResNet(width=4, classes=0).eval(), nn.Linear(32, 10)
    tensors = encoder.state_dict() | {f"fc.{key}": value for key, value in head.state_dict().items()}
    x = images(32)
    expected = head(F.adaptive_avg_pool2d(encoder.maps(x), 1).flatten(1))
    assert torch.equal(loaded(tensors)[1](x), expected)


def test_mocos_projection_is_not_a_head_where_its_queue_is_seen() -> None:
    shapes = shapes_of(TorchResNet(width=1, classes=128).state_dict())
    with_queue, without = recognised({**shapes, "queue": (128, 65536)}), recognised(shapes)
    assert with_queue is not None
    assert without is not None
    assert (with_queue.classes, without.classes) == (0, 128)
    assert with_queue.idle("fc.weight")
    assert with_queue.idle("queue")
    assert not without.idle("fc.weight")


def test_networks_with_more_in_their_blocks_are_left_alone() -> None:
    shapes = shapes_of(CifarResNet(width=4).state_dict())
    for extra in ("layer1.0.se.fc1.weight", "layer1.0.fc1.weight", "layer2.0.attn.weight"):  # kuangliu's SENet …
        assert recognised({**shapes, extra: (1, 4, 1, 1)}) is None
    assert recognised({**shapes, "layer1.0.bn0.weight": (4,)}) is None  # Chen2020Adversarial has them before
    for bias in ("conv1.bias", "layer1.0.conv1.bias", "layer2.0.shortcut.0.bias"):  # as in JEM
        assert recognised({**shapes, bias: (4,)}) is None
    assert recognised({key: shape for key, shape in shapes.items() if "running" not in key}) is None  # group norm


def test_networks_whose_blocks_do_not_fit_together_are_left_alone() -> None:
    """kuangliu's DPN and RegNet have the keys of a bottleneck ResNet."""
    shapes = shapes_of(CifarResNet(CifarBottleneck, (2, 1, 1, 1)).state_dict())
    assert recognised(shapes) is not None
    assert recognised({**shapes, "layer1.1.conv1.weight": (4, 20, 1, 1)}) is None  # the block before gives 16
    regnet = dict(shapes)
    for key, shape in shapes.items():
        if key.startswith("layer4."):
            regnet[key] = tuple(3 * side // 2 if side == 32 else side for side in shape)
    assert recognised(regnet) is None


def test_four_stages_never_lack_a_shortcut() -> None:
    shapes = shapes_of(CifarResNet(width=4).state_dict())
    assert recognised({key: shape for key, shape in shapes.items() if ".shortcut." not in key}) is None


def test_a_head_may_lack_its_bias() -> None:
    net = CifarResNet(width=4)
    net.linear = nn.Linear(32, 10, bias=False)
    x = images(32)
    assert torch.equal(opened(net.eval())[1](x), net(x))


@pytest.mark.parametrize(
    ("build", "name", "normalisation"),
    [
        (CifarResNet, "", None),
        (partial(TorchResNet, classes=1000), "", "ImageNet"),
        (TorchResNet, "", None),
        (partial(CifarResNet, classes=0), "", None),
        (BnListResNet, "", "ImageNet"),
        (partial(BnListResNet, 1), "", "ImageNet"),
        (partial(BnListResNet, 3, "advcl"), "", "none"),
        (amoc, "paras", "AMOC CIFAR-10"),
        (amoc, "cifar100-paras", "AMOC CIFAR-100"),
    ],
)
def test_normalisation_only_where_the_format_decides(build: Any, name: str, normalisation: str | None) -> None:
    plan = recognised(shapes_of(build().state_dict()), Evidence(name=name))
    assert plan is not None
    assert (plan.normalisation and plan.normalisation[0]) == normalisation


@pytest.mark.parametrize(("name", "route"), [("paras", "adv"), ("ACC-paras", "adv"), ("CAC_paras", "clean")])
def test_amocs_route_follows_its_kind_of_pretraining(name: str, route: str) -> None:
    plan = recognised(shapes_of(amoc().state_dict()), Evidence(name=name))
    assert plan is not None
    assert value(plan, "route") == route


def test_amoc_after_linear_evaluation() -> None:
    head = {"fc.fc.weight": torch.randn(100, 32), "fc.fc.bias": torch.randn(100)}
    plan, _ = loaded(amoc().state_dict() | head)
    assert (plan.classes, plan.normalisation and plan.normalisation[0]) == (100, "AMOC CIFAR-100")


def test_what_multi_bn_files_hold_beside_a_route_is_known() -> None:
    for net in (BnListResNet(), BnListResNet(3, "advcl"), amoc()):
        tensors = net.state_dict()
        plan, _ = loaded(tensors)
        rest = tensors.keys() - set(plan.keys().values())
        assert rest
        assert all(plan.idle(key) for key in rest if not key.startswith("normalize."))
        assert not any(plan.idle(key) for key in plan.keys().values())


def test_single_norms_offer_no_route() -> None:
    for routes in (0, 1):
        plan, _ = opened(BnListResNet(routes))
        assert all(fact.what != "route" for fact in plan.facts)
    assert recognised(shapes_of(BnListResNet(4).state_dict())) is None


# torchvision's own


@pytest.fixture(scope="module")
def torchvision_models() -> Any:
    from cem_core.models.torchvision_nets import import_torchvision

    try:
        return import_torchvision().models
    except Refused as refusal:
        pytest.skip(str(refusal))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("resnet18", "ResNet-18"),
        ("resnet34", "ResNet-34"),
        ("resnet50", "ResNet-50"),
        ("resnet101", "ResNet-101"),
        ("wide_resnet50_2", "Wide ResNet-50-2"),
        ("resnext50_32x4d", "ResNeXt-50 32x4d"),
        ("resnext101_32x8d", "ResNeXt-101 32x8d"),
    ],
)
@torch.no_grad()
def test_the_same_as_torchvision(torchvision_models: Any, name: str, title: str) -> None:
    build = getattr(torchvision_models, name)
    reference = Source(name, lambda: build(weights=None), "resnet").network()
    tensors = reference.state_dict()
    plan, net = loaded(tensors)
    x = images(64, number=1)
    assert plan.title == title
    assert (plan.classes, plan.size, plan.normalisation and plan.normalisation[0]) == (1000, 224, "ImageNet")
    assert set(plan.keys().values()) == tensors.keys()
    expected = reference(x)
    assert torch.equal(net(x), expected)
    net.fold()
    torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_sources_cover_every_family() -> None:
    assert [{source.family for source in group} for group in (RESNET, HE_RESNET, MULTI_BN_RESNET)] == [
        {family} for family in FAMILIES
    ]
