"""The families whose networks are torchvision's and timm's."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from source import Source, Tensors
from sources_packages import (
    HAS_TIMM,
    HAS_TORCHVISION,
    SOURCES,
    before_torch_0_4_1,
    before_torchvision_0_13,
    densenet,
    mobilenet_v2,
    stirred,
    timm_vit,
    vit,
)
from torch import nn

from cem_core.messages import Refused
from cem_core.models import convnext, mnasnet, shufflenet_v2, timm_nets, torchvision_nets, vgg
from cem_core.models import densenet as densenet_family
from cem_core.models import mobilenet_v2 as mobilenet_family
from cem_core.models import vit as vit_family
from cem_core.models.family import Evidence, Plan, Shapes
from cem_core.models.model import Model, Network, Normalisation

RECOGNISERS: dict[str, Callable[[Shapes, Evidence], Plan | None]] = {
    "densenet": densenet_family.recognise,
    "vgg": vgg.recognise,
    "mobilenet_v2": mobilenet_family.recognise,
    "mnasnet": mnasnet.recognise,
    "shufflenet_v2": shufflenet_v2.recognise,
    "convnext": convnext.recognise,
    "vit": vit_family.recognise,
    "timm_vit": timm_nets.recognise_vit,
    "timm_convnext": timm_nets.recognise_convnext,
}
TITLES = {
    "vgg-cifar": ("VGG-11 with batch norm", 12),
    "densenet": ("DenseNet-13", 8),
    "densenet-three-blocks": ("DenseNet-16", 13),
    "densenet-old-keys": ("DenseNet-13", 8),
    "densenet-encoder": ("DenseNet-13", 8),
    "vgg": ("VGG-11", 9),
    "vgg-bn": ("VGG-11 with batch norm", 9),
    "vgg-own": ("VGG-6 with batch norm", 9),
    "vgg-open-end": ("VGG-6", 9),
    "vgg-encoder": ("VGG-11 with batch norm", 9),
    "mobilenet_v2": ("MobileNetV2", 1280),
    "mobilenet_v2-encoder": ("MobileNetV2", 1280),
    "mnasnet": ("MNASNet", 1280),
    "mnasnet-encoder": ("MNASNet", 1280),
    "shufflenet_v2": ("ShuffleNetV2", 16),
    "shufflenet_v2-encoder": ("ShuffleNetV2", 16),
    "convnext": ("ConvNeXt", 10),
    "convnext-one-stage": ("ConvNeXt", 5),
    "convnext-encoder": ("ConvNeXt", 10),
    "convnext-encoder-bare": ("ConvNeXt", 10),
    "vit": ("ViT-2/8", 64),
    "vit-three-heads": ("ViT-2/6", 5),
    "vit-old-keys": ("ViT-2/8", 64),
    "vit-encoder": ("ViT-2/8", 64),
    "timm-vit": ("ViT-2/8 (timm)", 64),
    "timm-vit-three-heads": ("ViT-2/8 (timm)", 12),
    "timm-vit-deit3": ("ViT-2/8 (timm)", 64),
    "timm-vit-averaged": ("ViT-2/8 (timm)", 64),
    "dino": ("ViT-2/8 (timm)", 64),
    "timm-convnext": ("ConvNeXt (timm)", 10),
    "timm-convnext-v2": ("ConvNeXtV2 (timm)", 10),
    "timm-convnext-convolutions": ("ConvNeXt (timm)", 10),
    "timm-convnext-norm-first": ("ConvNeXt (timm)", 10),
    "timm-convnext-encoder": ("ConvNeXt (timm)", 10),
}
"""And features."""

every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.id)
with_torchvision = pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not installed")
with_timm = pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed")


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def file_of(source: Source) -> tuple[nn.Module, Tensors]:
    """Its network, and the tensors as they lie in a file, without wrapper and prefix."""
    net = source.network()
    tensors = net.state_dict()
    return net, source.wrap(tensors) if source.wrap in (before_torch_0_4_1, before_torchvision_0_13) else tensors


def images(source: Source) -> torch.Tensor:
    """Two that differ in brightness and contrast too, because noise averages out."""
    x = torch.randn(2, source.channels, source.size, source.size, generator=torch.Generator().manual_seed(1))
    return torch.stack((x[0], 0.5 * x[1] + 1.5))


def planned(family: str, shapes: Shapes, **evidence: Any) -> Plan:
    plan = RECOGNISERS[family](shapes, Evidence(**evidence))
    assert plan is not None
    return plan


def opened(plan: Plan, tensors: Tensors) -> Network:
    taken = {}
    for own, key in plan.keys().items():
        counter = own.endswith("num_batches_tracked")
        taken[own] = tensors.get(key, torch.tensor(0)) if counter else tensors[key]
    with torch.device("meta"):
        net = plan.build()
    net.load_state_dict(taken, assign=True)
    return net.eval()


@every_source
def test_it_is_recognised_by_its_own_family_alone(source: Source) -> None:
    net, tensors = file_of(source)
    shapes = shapes_of(tensors)
    found = {name: recognise(shapes, Evidence(choices=source.choices)) for name, recognise in RECOGNISERS.items()}
    assert [name for name, plan in found.items() if plan] == [source.family]
    plan = found[source.family]
    assert plan is not None
    classes = 0 if source.encoder else source.logits(net, torch.rand(1, source.channels, *[source.size] * 2)).shape[1]
    assert (plan.family, plan.title, plan.features) == (source.family, *TITLES[source.id])
    assert (plan.channels, plan.classes, plan.size) == (source.channels, classes, source.size)
    assert source.facts.items() <= {fact.what: fact.value for fact in plan.facts}.items()
    assert plan.normalisation is None
    if plan.stem:
        assert plan.stem[0] in shapes
        assert f"{plan.stem[1]}.running_mean" in shapes


@every_source
def test_it_gives_the_same_bits_and_folded_nearly_the_same(source: Source) -> None:
    net, tensors = file_of(source)
    plan = planned(source.family, shapes_of(tensors), choices=source.choices)
    own = opened(plan, tensors)
    x = images(source)
    with torch.no_grad():
        expected = source.logits(net, x)
        assert (expected[0] - expected[1]).norm() > 1e-3 * expected.norm()  # not dead
        assert torch.equal(own(x), expected)
        features = own.features(x)
        assert features.shape == (2, plan.features)
        assert torch.equal(own.head(features) if own.head else features, expected)
        own.fold()
        torch.testing.assert_close(own(x), expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


@every_source
def test_as_it_runs_it_has_the_same_gradient(source: Source) -> None:
    """Folded, in another memory format, and with activations that work in place."""
    net, tensors = file_of(source)
    own = opened(planned(source.family, shapes_of(tensors), choices=source.choices), tensors)
    model = Model(own, Normalisation((0.5,) * source.channels, (0.25,) * source.channels))
    model.frozen(torch.device("cpu"), torch.float32)
    x = images(source)
    gradients = []
    for function in (model, lambda x: source.logits(net, (x - 0.5) / 0.25)):
        x = x.detach().requires_grad_()
        out = function(x)
        out.square().sum().backward()
        gradients.append(x.grad)
    assert gradients[1].norm() > 0
    assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[1].norm()


@every_source
def test_each_batch_norm_behind_a_convolution_is_folded(source: Source) -> None:
    _, tensors = file_of(source)
    net = opened(planned(source.family, shapes_of(tensors), choices=source.choices), tensors)
    net.fold()
    for part in net.modules():
        children = list(part.children()) if isinstance(part, nn.Sequential) else []
        for before, after in pairwise(children):
            assert not (isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d))
        assert not isinstance(getattr(part, "norm2", None), nn.BatchNorm2d)


@every_source
def test_more_keys_do_not_matter(source: Source) -> None:
    _, tensors = file_of(source)
    shapes = shapes_of(tensors)
    plain = planned(source.family, shapes, choices=source.choices)
    more = {
        "queue": (128, 64),
        "projector.0.weight": (8, 8),
        "fc_proj.weight": (3, 3),
        "step": (),
        "head.mlp.0.weight": (8, 8),
    }
    plan = planned(source.family, {**more, **shapes}, choices=source.choices)
    assert (plan.title, plan.classes, plan.facts, plan.keys()) == (
        plain.title,
        plain.classes,
        plain.facts,
        plain.keys(),
    )


@every_source
def test_broken_shapes_are_no_error(source: Source) -> None:
    _, tensors = file_of(source)
    shapes = shapes_of(tensors)
    for key, shape in shapes.items():
        without = {other: size for other, size in shapes.items() if other != key}
        wrong = ((), (0,), (1,), (5, 0), (2, 3), (1, 1, 7), (3, 1, 2, 2), (0, 0, 0, 0), tuple(0 for _ in shape),
                 (*shape, 1), tuple(size + 1 for size in shape), tuple(10**12 for _ in shape))  # fmt: skip
        for broken in (without, *({**shapes, key: size} for size in wrong)):
            for recognise in RECOGNISERS.values():
                try:
                    recognise(broken, Evidence(choices=source.choices))
                except Refused:
                    continue


@every_source
def test_no_smaller_network_is_made_of_what_is_left_of_a_file(source: Source) -> None:
    """Where it is recognised without one of its keys, it is as before: it takes that key, and opening fails."""
    _, tensors = file_of(source)
    shapes = shapes_of(tensors)
    whole = planned(source.family, shapes, choices=source.choices)
    optional = ("head", "classifier", "fc.", "fc_norm", "attn.qkv.bias", "gamma", "grn", "norm_pre", "running_")
    for dropped in shapes:
        if not any(part in dropped for part in optional):
            left = {key: shape for key, shape in shapes.items() if key != dropped}
            plan = RECOGNISERS[source.family](left, Evidence(choices=source.choices))
            assert plan is None or (plan.title, plan.features, plan.facts) == (whole.title, whole.features, whole.facts)


@pytest.mark.parametrize("recognise", RECOGNISERS.values(), ids=RECOGNISERS)
def test_nothing_is_recognised_in_nothing(recognise: Callable[[Shapes, Evidence], Plan | None]) -> None:
    assert recognise({}, Evidence()) is None
    assert recognise({"conv1.weight": (64, 3, 7, 7), "fc.weight": (10, 512)}, Evidence()) is None
    assert recognise({f"features.{'٣'}.weight": (4, 3, 3, 3), "features.007.weight": (4, 4, 3, 3)}, Evidence()) is None


@every_source
def test_recognising_imports_no_package(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tensors = file_of(source)
    shapes = shapes_of(tensors)

    def imported(*_: object) -> ModuleType:
        raise AssertionError

    monkeypatch.setattr("importlib.import_module", imported)
    torchvision_nets.import_torchvision.cache_clear()
    planned(source.family, shapes, choices=source.choices)


# At their full sizes --------------------------------------------------------------------------------------------------

FULL_SIZE = {
    "densenet121": ("densenet", "DenseNet-121", 64, {}),
    "vgg16_bn": ("vgg", "VGG-16 with batch norm", 64, {"init_weights": False}),
    "vgg11": ("vgg", "VGG-11", 64, {"init_weights": False}),
    "mobilenet_v2": ("mobilenet_v2", "MobileNetV2", 64, {}),
    "mnasnet1_0": ("mnasnet", "MNASNet", 64, {}),
    "shufflenet_v2_x1_0": ("shufflenet_v2", "ShuffleNetV2 ×1.0", 64, {}),
    "convnext_tiny": ("convnext", "ConvNeXt Tiny", 64, {}),
    "vit_b_16": ("vit", "ViT-B/16", 224, {}),
}


@with_torchvision
@pytest.mark.parametrize("name", FULL_SIZE)
def test_at_full_size(name: str) -> None:
    family, title, size, options = FULL_SIZE[name]
    net = stirred(getattr(torchvision_nets.import_torchvision().models, name)(**options)).eval()
    tensors = net.state_dict()
    plan = planned(family, shapes_of(tensors))
    assert (plan.title, plan.classes, plan.size) == (title, 1000, 224)
    assert plan.normalisation is not None
    assert plan.normalisation[:2] == ("ImageNet", 0.85)
    if family == "vit":
        assert {fact.what: fact.value for fact in plan.facts}["attention heads"] == "12"
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(opened(plan, tensors)(x), net(x))


@with_torchvision
@pytest.mark.parametrize(
    ("name", "family", "title"),
    [
        ("densenet161", "densenet", "DenseNet-161"),
        ("densenet169", "densenet", "DenseNet-169"),
        ("densenet201", "densenet", "DenseNet-201"),
        ("vgg13", "vgg", "VGG-13"),
        ("vgg19_bn", "vgg", "VGG-19 with batch norm"),
        ("mnasnet0_5", "mnasnet", "MNASNet"),
        ("mnasnet0_75", "mnasnet", "MNASNet"),
        ("mnasnet1_3", "mnasnet", "MNASNet"),
        ("shufflenet_v2_x0_5", "shufflenet_v2", "ShuffleNetV2 ×0.5"),
        ("shufflenet_v2_x1_5", "shufflenet_v2", "ShuffleNetV2 ×1.5"),
        ("shufflenet_v2_x2_0", "shufflenet_v2", "ShuffleNetV2 ×2.0"),
        ("convnext_small", "convnext", "ConvNeXt Small"),
        ("convnext_base", "convnext", "ConvNeXt Base"),
        ("convnext_large", "convnext", "ConvNeXt Large"),
        ("vit_l_32", "vit", "ViT-L/32"),
        ("vit_h_14", "vit", "ViT-H/14"),
    ],
)
def test_the_other_sizes_have_the_same_shapes(name: str, family: str, title: str) -> None:
    with torch.device("meta"):
        tensors = getattr(torchvision_nets.import_torchvision().models, name)().state_dict()
    plan = planned(family, shapes_of(tensors))
    assert plan.title == title
    if family == "vit":
        assert plan.facts[-1].value == "16"
    with torch.device("meta"):
        built = plan.build().state_dict()
    assert {plan.key_of(key): tensor.shape for key, tensor in built.items()} == {
        key: tensor.shape for key, tensor in tensors.items()
    }


@with_timm
@pytest.mark.parametrize(
    ("module", "name", "title", "heads"),
    [
        ("vision_transformer", "vit_tiny_patch16_224", "ViT-Ti/16 (timm)", "3"),
        ("vision_transformer", "vit_base_patch32_384", "ViT-B/32 (timm)", "12"),
        ("vision_transformer", "vit_huge_patch14_224", "ViT-H/14 (timm)", "16"),
        ("vision_transformer", "vit_small_patch14_dinov2", "ViT-S/14 (timm)", "6"),
        ("deit", "deit_small_patch16_224", "ViT-S/16 (timm)", "6"),
        ("deit", "deit3_base_patch16_224", "ViT-B/16 (timm)", "12"),
        ("convnext", "convnext_tiny", "ConvNeXt Tiny (timm)", ""),
        ("convnext", "convnextv2_base", "ConvNeXtV2 Base (timm)", ""),
    ],
)
def test_models_of_timm_have_the_same_shapes(module: str, name: str, title: str, heads: str) -> None:
    torchvision_nets.import_torchvision()
    models = __import__(f"timm.models.{module}", fromlist=[name])
    with torch.device("meta"):
        tensors = getattr(models, name)(pretrained=False).state_dict()
    plan = planned("timm_convnext" if "convnext" in module else "timm_vit", shapes_of(tensors))
    assert plan.title == title
    assert not heads or plan.facts[-1].value == heads
    with torch.device("meta"):
        built = plan.build().state_dict()
    assert {plan.key_of(key): tensor.shape for key, tensor in built.items()} == {
        key: tensor.shape for key, tensor in tensors.items()
    }


@with_timm
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("beit", "beit_base_patch16_224"),
        ("cait", "cait_xxs24_224"),
        ("deit", "deit_small_distilled_patch16_224"),
        ("xcit", "xcit_nano_12_p16_224"),
        ("vision_transformer", "vit_small_patch14_reg4_dinov2"),
        ("vision_transformer", "vit_base_patch16_clip_224"),
        ("vision_transformer", "vit_base_patch16_siglip_224"),
    ],
)
def test_relatives_that_compute_otherwise_are_not_taken_for_a_vit(module: str, name: str) -> None:
    torchvision_nets.import_torchvision()
    models = __import__(f"timm.models.{module}", fromlist=[name])
    with torch.device("meta"):
        shapes = shapes_of(getattr(models, name)(pretrained=False).state_dict())
    assert all(recognise(shapes, Evidence()) is None for recognise in RECOGNISERS.values())


# What shapes leave open -----------------------------------------------------------------------------------------------


@with_torchvision
def test_attention_heads_are_asked_for_and_change_the_logits() -> None:
    net = vit(num_heads=4).eval()
    tensors = net.state_dict()
    plan = planned("vit", shapes_of(tensors))
    fact = next(fact for fact in plan.facts if fact.what == "attention heads")
    assert (fact.value, fact.source, fact.options) == ("1", "guess", ("1", "2", "4", "8", "16", "32", "64"))
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert not torch.equal(opened(plan, tensors)(x), net(x))
        chosen = planned("vit", shapes_of(tensors), choices={"attention_heads": "4"})
        assert torch.equal(opened(chosen, tensors)(x), net(x))
    with pytest.raises(Refused, match="attention heads"):
        planned("vit", shapes_of(tensors), choices={"attention_heads": "3"})


@with_torchvision
@pytest.mark.parametrize("family", ["densenet", "mobilenet_v2"])
def test_a_grey_image_makes_another_first_convolution(family: str) -> None:
    net = {"densenet": densenet, "mobilenet_v2": lambda: mobilenet_v2(0.1)}[family]()
    first = next(name for name, part in net.named_modules() if isinstance(part, nn.Conv2d))
    old = net.get_submodule(first)
    torchvision_nets.replace(
        net, first, nn.Conv2d(1, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
    )
    tensors = net.eval().state_dict()
    plan = planned(family, shapes_of(tensors))
    assert plan.channels == 1
    x = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(opened(plan, tensors)(x), net(x))


@with_timm
def test_a_thousand_classes_say_less_of_a_vit_in_timms_layout() -> None:
    plan = planned("timm_vit", shapes_of(timm_vit(1000).state_dict()))
    assert plan.normalisation is not None
    assert plan.normalisation[1] < 0.85


# Packages that are missing --------------------------------------------------------------------------------------------


@pytest.fixture
def importing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What each import gives or raises, in turn; and a world in which torchvision is half imported."""
    world = SimpleNamespace(
        modules={"torchvision": 1, "torchvision.ops": 2, "torchvision_more": 3}, asked=[], answers=[]
    )

    def import_module(name: str) -> Any:
        world.asked.append(name)
        answer = world.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("importlib.import_module", import_module)
    monkeypatch.setattr(torchvision_nets, "sys", world)
    monkeypatch.setattr(torchvision_nets, "_declare_operators", lambda: world.asked.append("declared"))
    torchvision_nets.import_torchvision.cache_clear()
    yield world
    torchvision_nets.import_torchvision.cache_clear()


def test_where_operators_are_missing_they_are_declared(importing: Any) -> None:
    importing.answers = [RuntimeError("operator torchvision::nms does not exist"), "the package"]
    assert torchvision_nets.import_torchvision() == "the package"
    assert torchvision_nets.import_torchvision() == "the package"
    assert importing.asked == ["torchvision", "declared", "torchvision"]
    assert importing.modules == {"torchvision_more": 3}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([ModuleNotFoundError("No module named 'torchvision'")], "is not installed"),
        ([RuntimeError("operator"), RuntimeError("still")], "does not work with this torch"),
        ([ImportError("libc10.so: undefined symbol")], "does not work with this torch"),
    ],
)
def test_without_torchvision_one_sentence_says_what_to_install(importing: Any, answers: list[Any], said: str) -> None:
    shapes = {"features.conv0.weight": (8, 3, 7, 7), "features.denseblock1.denselayer1.conv1.weight": (8, 8, 1, 1),
              "features.denseblock1.denselayer1.conv2.weight": (2, 8, 3, 3)}  # fmt: skip
    plan = planned("densenet", shapes)
    importing.answers = answers
    with pytest.raises(Refused, match=said) as error:
        plan.build()
    assert re.search(r'pip install "torchvision==0\.\d+\.\*"$', str(error.value))


def test_without_timm_one_sentence_says_what_to_install(importing: Any) -> None:
    shapes = {"patch_embed.proj.weight": (8, 3, 4, 4), "cls_token": (1, 1, 8), "pos_embed": (1, 5, 8),
              "blocks.0.mlp.fc1.weight": (16, 8), "blocks.0.attn.qkv.weight": (24, 8)}  # fmt: skip
    plan = planned("timm_vit", shapes)
    importing.answers = ["torchvision", ModuleNotFoundError("No module named 'timm'")]
    with pytest.raises(Refused, match=re.escape('pip install "cem-explorer[timm]"')):
        plan.build()
    assert importing.asked == ["torchvision", "timm.models.vision_transformer"]
