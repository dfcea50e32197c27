"""WideResNets, DeepMind's networks, JEM and MNIST networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from source import Source, Tensors
from sources_wide import DMWRN, JEMF, SOURCES, TradesWRN
from torch import Tensor, nn

from cem_core.messages import Refused
from cem_core.models import dm_preact_resnet, dm_wide_resnet, jem, mnist_nets, wide_resnet
from cem_core.models.family import Evidence, Plan, Shapes
from cem_core.models.model import Network
from cem_core.models.wide_resnet import Sizes, WideResNet

RECOGNISE: dict[str, Callable[[Shapes, Evidence], Plan | None]] = {
    "wide_resnet": wide_resnet.recognise,
    "dm_wide_resnet": dm_wide_resnet.recognise,
    "dm_preact_resnet": dm_preact_resnet.recognise,
    "jem": jem.recognise,
    "mnist_nets": mnist_nets.recognise,
}
GARBAGE = {
    "queue": (128, 65536),
    "queue_ptr": (1,),
    "projector.0.weight": (128, 64),
    "head.weight": (7, 7),
    "layers": (),
    "": (1,),
}
each = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.id)


def by_id(name: str) -> Source:
    return next(source for source in SOURCES if source.id == name)


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def plan_of(source: Source, shapes: Shapes) -> Plan:
    plan = RECOGNISE[source.family](shapes, Evidence(choices=source.choices))
    assert plan is not None
    return plan


def opened(plan: Plan, tensors: Tensors) -> Network:
    net = plan.build()
    net.load_state_dict({key: tensors[there] for key, there in plan.keys().items()}, strict=True)
    return net.eval()


def images(source: Source) -> Tensor:
    return torch.randn(2, source.channels, source.size, source.size, generator=torch.Generator().manual_seed(1))


def expected(source: Source, net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return source.logits(net, x)


@each
def test_recognised(source: Source) -> None:
    plan = plan_of(source, shapes_of(source.network().state_dict()))
    facts = {fact.what: fact.value for fact in plan.facts}
    assert plan.family == source.family
    assert {what: facts.get(what) for what in source.facts} == dict(source.facts)
    assert (plan.channels, plan.size) == (source.channels, source.size)
    assert (plan.classes == 0) == source.encoder


@each
def test_same_bits(source: Source) -> None:
    original = source.network()
    plan = plan_of(source, shapes_of(original.state_dict()))
    net = opened(plan, original.state_dict())
    x = images(source)
    with torch.no_grad():
        out, features = net(x), net.features(x)
    assert torch.equal(out, expected(source, original, x))
    assert out.shape == (2, plan.classes or plan.features)
    assert features.shape == (2, plan.features)


@each
def test_folded(source: Source) -> None:
    original = source.network()
    net = opened(plan_of(source, shapes_of(original.state_dict())), original.state_dict())
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    net.fold()
    x = images(source)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected(source, original, x), rtol=1e-4, atol=1e-5)
    assert not norms or sum(isinstance(part, nn.BatchNorm2d) for part in net.modules()) < norms


@each
def test_unused_keys_are_idle_or_counted(source: Source) -> None:
    shapes = shapes_of(source.network().state_dict())
    plan = plan_of(source, shapes)
    left = [key for key in shapes.keys() - set(plan.keys().values()) if not plan.idle(key)]
    assert not [key for key in left if not key.endswith("num_batches_tracked")]
    assert not any(plan.idle(key) for key in plan.keys().values())


@each
def test_extra_keys(source: Source) -> None:
    shapes = shapes_of(source.network().state_dict())
    plan, burdened = plan_of(source, shapes), plan_of(source, shapes | GARBAGE)
    assert (burdened.title, burdened.classes, burdened.facts) == (plan.title, plan.classes, plan.facts)


@each
def test_no_other_family_claims_it(source: Source) -> None:
    shapes = shapes_of(source.network().state_dict())
    others = [name for name, recognise in RECOGNISE.items() if name != source.family and recognise(shapes, Evidence())]
    assert others == []


def mutations(shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    for key, shape in shapes.items():
        yield {other: size for other, size in shapes.items() if other != key}
        for wrong in ((), shape[:1], (*shape, 3), (0,) * len(shape), (-1,) * len(shape), tuple(7 * n for n in shape)):
            yield shapes | {key: wrong}
    yield {}
    yield dict.fromkeys(shapes, ())
    yield dict.fromkeys(shapes, (0, 0, 0, 0))
    yield dict.fromkeys(shapes, (3, 3, 3, 3))


@each
def test_hostile_shapes(source: Source) -> None:
    built: set[tuple[object, ...]] = set()
    for shapes in mutations(shapes_of(source.network().state_dict())):
        for recognise in RECOGNISE.values():
            plan = recognise(shapes, Evidence(choices=source.choices))
            if plan is not None:
                if (settled := (plan.title, plan.channels, plan.classes, plan.features)) not in built:
                    assert plan.keys()
                    built.add(settled)
                assert min(plan.channels, plan.features, plan.size) > 0
                assert plan.classes >= 0


@each
def test_headless(source: Source) -> None:
    ends = ("fc.", "logits.", "class_output.", "energy_output.", "7.", "classifier.fc3.", "fc2.")
    tensors = {key: value for key, value in source.network().state_dict().items() if not key.startswith(ends)}
    plan = RECOGNISE[source.family](shapes_of(tensors), Evidence())
    assert plan is not None
    assert plan.classes == 0
    assert opened(plan, tensors)(images(source)).shape == (2, plan.features)


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("TRADES WRN-10-2", "WideResNet-10-2"),
        ("DeepMind WRN-16-2", "WideResNet-16-2 (DeepMind)"),
        ("DM R34", "PreAct ResNet-34 (DeepMind)"),
        ("JEM WRN-16-1", "WideResNet-16-1 (JEM)"),
        ("TRADES SmallCNN", "SmallCNN (TRADES)"),
        ("TRADES Net", "Net (TRADES)"),
        ("fast_adversarial MNIST", "Small CNN (fast_adversarial)"),
    ],
)
def test_titles(source: str, title: str) -> None:
    known = by_id(source)
    assert plan_of(known, shapes_of(known.network().state_dict())).title == title


@pytest.mark.parametrize(
    ("source", "name", "normalisation"),
    [
        ("DeepMind WRN-16-2", "", "CIFAR-10"),
        ("DeepMind WRN-16-2", "svhn_linf_wrn-16-2", "[-1,1]"),
        ("DM WRN, ReLU", "", "CIFAR-100"),
        ("DM WRN, TinyImageNet", "", None),
        ("DeepMind WRN, MNIST", "", "[-1,1]"),
        ("Rebuffi R18", "", "CIFAR-10"),
        ("DM R34", "", "CIFAR-100"),
        ("JEM WRN-10-2", "", "[-1,1]"),
        ("TRADES WRN-10-2", "", None),
        ("TRADES Net", "", "none"),
        ("convex_adversarial CIFAR", "", None),
    ],
)
def test_normalisation_that_the_format_decides(source: str, name: str, normalisation: str | None) -> None:
    known = by_id(source)
    plan = RECOGNISE[known.family](shapes_of(known.network().state_dict()), Evidence(name=name))
    assert plan is not None
    assert (plan.normalisation[0] if plan.normalisation else None) == normalisation


@each
def test_stem(source: Source) -> None:
    """A batch norm that is said to read the first convolution is as wide as it gives."""
    shapes = shapes_of(source.network().state_dict())
    if (stem := plan_of(source, shapes).stem) is not None:
        conv, norm = stem
        assert shapes[f"{norm}.running_mean"] == shapes[conv][:1]


RENAMED = {
    "init_conv": "conv1",
    "layer.0.block": "block1.layer",
    "layer.1.block": "block2.layer",
    "layer.2.block": "block3.layer",
    ".batchnorm_0": ".bn1",
    ".batchnorm_1": ".bn2",
    ".conv_0": ".conv1",
    ".conv_1": ".conv2",
    ".shortcut": ".convShortcut",
    "logits": "head",
}


def renamed(key: str) -> str:
    for old, new in RENAMED.items():
        key = key.replace(old, new)
    return f"bn1{key.removeprefix('batchnorm')}" if key.startswith("batchnorm") else key


def test_deepmind_weights_load_strictly_into_a_trades_network_and_are_wrong_there() -> None:
    source = by_id("DeepMind WRN-16-2")
    original = source.network()
    tensors, x = original.state_dict(), images(source)
    trap = WideResNet(Sizes(3, 16, (32, 64, 128), (2, 2, 2)), 10, "silu", "linear", bias=True).eval()
    trap.load_state_dict({renamed(key): value for key, value in tensors.items()}, strict=True)
    net = opened(plan_of(source, shapes_of(tensors)), tensors)
    with torch.no_grad():
        assert (trap(x) - original(x)).abs().max() > 1e-3  # a hundred times what folding may change
        assert torch.equal(net(x), original(x))


def test_the_second_first_stage_is_not_read() -> None:
    net = TradesWRN(sub_block1=True).eval()
    plan = wide_resnet.recognise(shapes_of(net.state_dict()), Evidence())
    assert plan is not None
    assert plan.idle("sub_block1.layer.0.conv1.weight")
    assert not any(key.startswith("sub_block1") for key in plan.keys().values())


def test_a_last_layer_without_bias_is_normalised() -> None:
    source = by_id("Boosting AT WRN")
    original = source.network()
    tensors, x = original.state_dict(), images(source)
    shapes = shapes_of(tensors)
    fact = next(fact for fact in plan_of(source, shapes).facts if fact.what == "last layer")
    assert fact.source == "guess"
    assert fact.why
    logits = {}
    for head in fact.options:
        plan = wide_resnet.recognise(shapes, Evidence(choices={"last_layer": head}))
        assert plan is not None
        with torch.no_grad():
            logits[head] = opened(plan, tensors)(x)
    assert logits["cosine"].abs().max() <= 1
    assert torch.equal(logits["cosine x15"], 15 * logits["cosine"])
    assert not torch.allclose(logits["linear"], logits["cosine"])


def test_energy_heads() -> None:
    net = JEMF().eval()
    shapes = shapes_of(net.state_dict())
    plan = jem.recognise(shapes, Evidence())
    assert plan is not None
    assert plan.classes == 10
    assert plan.idle("energy_output.weight")
    assert plan.idle("f.linear.bias")
    one = jem.recognise(shapes, Evidence(choices={"energy": "energy output"}))
    assert one is not None
    assert one.classes == 1
    assert one.idle("class_output.weight")
    alone = jem.recognise({k: v for k, v in shapes.items() if not k.startswith("class_output")}, Evidence())
    assert alone is not None
    assert alone.classes == 1
    with pytest.raises(Refused, match="energy"):
        jem.recognise(shapes, Evidence(choices={"energy": "both"}))


def test_log_density_of_jem_is_what_its_own_code_says() -> None:
    source = by_id("JEM WRN-10-2")
    original = source.network()
    x = images(source)
    net = opened(plan_of(source, shapes_of(original.state_dict())), original.state_dict())
    with torch.no_grad():
        assert torch.equal(net(x).logsumexp(1), original.classify(x).logsumexp(1))


def test_second_names_of_jempp_are_not_read() -> None:
    shapes = shapes_of(by_id("JEM++ yopo").network().state_dict())
    plan = jem.recognise(shapes, Evidence())
    assert plan is not None
    assert {key.split(".")[1] for key in shapes if plan.idle(key) and key.startswith("f.")} == {
        "layer_one",
        "other_layers",
    }


def test_norms_that_keep_the_same_are_a_guess() -> None:
    shapes = shapes_of(by_id("JEM GroupNorm").network().state_dict())
    plan = jem.recognise(shapes, Evidence())
    assert plan is not None
    fact = next(fact for fact in plan.facts if fact.what == "norm")
    assert (fact.source, fact.value, fact.options) == ("guess", "layer", ("layer", "instance"))
    assert fact.confidence <= 0.5
    said = jem.recognise(shapes, Evidence(said={"norm": "instance"}))
    assert said is not None
    assert next(fact for fact in said.facts if fact.what == "norm").source == "file"


def test_another_lenet_is_not_taken_for_one_of_mnist() -> None:
    shapes = shapes_of(by_id("TRADES Net").network().state_dict())
    assert mnist_nets.recognise(shapes | {"fc3.weight": (10, 10), "fc3.bias": (10,)}, Evidence()) is None
    assert mnist_nets.recognise(shapes | {"fc1.weight": (50, 321)}, Evidence()) is None


def test_sizes_without_a_place_for_the_stride_are_no_network() -> None:
    for net, recognise in ((TradesWRN(), wide_resnet.recognise), (DMWRN(), dm_wide_resnet.recognise)):
        shapes = {
            key: tuple(128 if n in (32, 64) else n for n in shape) for key, shape in shapes_of(net.state_dict()).items()
        }
        assert recognise(shapes, Evidence()) is None


def test_gradients_of_activations_agree_with_deepminds_own_swish() -> None:
    x = torch.linspace(-6, 6, 101, requires_grad=True)
    (ours,) = torch.autograd.grad(nn.functional.silu(x).sum(), x)
    (theirs,) = torch.autograd.grad((x * torch.sigmoid(x)).sum(), x)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("source", [by_id("TRADES WRN-10-2"), by_id("Rebuffi R18"), by_id("JEM++ yopo")])
def test_other_image_sizes_run(source: Source) -> None:
    plan = plan_of(source, shapes_of(source.network().state_dict()))
    assert plan.build().eval()(torch.randn(1, source.channels, 48, 48)).shape == (1, plan.classes or plan.features)
