from __future__ import annotations

import builtins
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios import SHAPE, beginnings, linear, smooth
from torch import Tensor

from cem_core import bundle, checkpoints, images, samplers
from cem_core.messages import Norm, Refused
from cem_core.models import Model
from cem_core.probes import attacks
from cem_core.probes.attacks import perturb, pgd
from cem_core.probes.measuring import Cancelled
from cem_core.probes.requests import Attack, AttackName
from cem_core.samplers import Logits, State

NORMS: tuple[Norm, ...] = ("l2", "linf")
THEIRS: tuple[AttackName, ...] = ("apgd-ce", "apgd-t", "autoattack")
DUAL = {"l2": 2, "linf": 1}


def middling(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights of a linear model, and images so far from black and white that no small ball leaves the box."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=random), 0.3 + 0.4 * torch.rand(count, *SHAPE, generator=random)


def margins(w: Tensor, bias: float, x: Tensor) -> Tensor:
    return (w * x).flatten(1).sum(1) + bias


def reach(w: Tensor, norm: Norm) -> float:
    """By how much a perturbation of length 1 changes w·x at most."""
    return float(torch.linalg.vector_norm(w.flatten(), DUAL[norm]))


# PGD: known answers -------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(eps=st.floats(0.002, 0.1), seed=st.integers(0, 20), steps=st.integers(8, 40))
def test_linf_pgd_on_a_linear_model_ends_in_the_corner_and_flips_what_the_closed_form_says(
    eps: float, seed: int, steps: int
) -> None:
    w, x = middling(24, seed)
    bias = -float((w * x).flatten(1).sum(1).median())
    margin = margins(w, bias, x)
    y = (margin < 0).long()
    outcome = perturb(linear(w, bias), x, y, Attack(norm="linf", steps=steps), eps, range(24))
    towards = torch.where(y == 0, -1.0, 1.0).view(-1, 1, 1, 1) * w.sign()
    torch.testing.assert_close(outcome.adversarial, x + eps * towards, rtol=0, atol=2e-7)
    left = margin.abs() / (eps * reach(w, "linf"))
    assert outcome.flipped[left < 0.999].all()
    assert not outcome.flipped[left > 1.001].any()
    assert not outcome.vanished.any()
    assert not outcome.stuck.any()


def test_l2_pgd_on_a_linear_model_flips_what_the_closed_form_says() -> None:
    w, x = middling(400)
    bias = -float((w * x).flatten(1).sum(1).median())
    margin = margins(w, bias, x)
    for eps in (0.05, 0.2):
        outcome = perturb(linear(w, bias), x, (margin < 0).long(), Attack(norm="l2", steps=100), eps, range(400))
        left = margin.abs() / (eps * reach(w, "l2"))
        assert 20 < int((left < 1).sum()) < 380, "the closed form must tell the images apart"
        assert outcome.flipped[left < 0.99].all()
        assert not outcome.flipped[left > 1.0001].any()


def test_from_the_image_itself_l2_pgd_goes_straight_to_the_edge() -> None:
    w, x = middling(5)
    y = (margins(w, 0, x) < 0).long()
    end, _ = attacks.climb(linear(w, 0), pgd("l2", 0.3), State(x, x, y, (0,) * 5))
    towards = torch.where(y == 0, -1.0, 1.0).view(-1, 1, 1, 1) * w / w.norm()
    torch.testing.assert_close(end, x + 0.3 * towards, rtol=0, atol=1e-6)


# PGD: properties ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=30)
@given(eps=st.floats(1e-6, 3.0), restarts=st.integers(1, 3), seed=st.integers(0, 2**31 - 1))
def test_what_pgd_leaves_is_in_ball_and_box_and_judged(norm: Norm, eps: float, restarts: int, seed: int) -> None:
    model, x = smooth(), beginnings(6)
    eps = min(eps, 1.0) if norm == "linf" else eps
    y = model(x).argmax(1)
    outcome = perturb(model, x, y, Attack(norm=norm, steps=5, restarts=restarts), eps, range(seed, seed + 6))
    assert samplers.length(outcome.adversarial - x, norm).max() <= eps * (1 + 1e-5) + 1e-7
    assert 0 <= outcome.adversarial.min() <= outcome.adversarial.max() <= 1
    assert torch.equal(outcome.flipped, model(outcome.adversarial).argmax(1) != y)


@pytest.mark.parametrize("norm", NORMS)
def test_a_split_batch_meets_the_same_attack_and_so_does_another_order(norm: Norm) -> None:
    model, x, eps = smooth(), beginnings(7), 0.3 if norm == "l2" else 0.02
    y = model(x).argmax(1)
    attack = Attack(norm=norm, steps=6, restarts=3)
    whole = perturb(model, x, y, attack, eps, range(40, 47))
    assert 0 < int(whole.flipped.sum()) < 7, "some must fall at a later restart or never"
    parts = [
        perturb(model, x[some], y[some], attack, eps, [40 + i for i in some]) for some in ([0, 1, 2], [6, 5, 4, 3])
    ]
    for field in ("adversarial", "flipped", "vanished", "stuck"):
        first, second = (getattr(part, field) for part in parts)
        assert torch.equal(getattr(whole, field), torch.cat([first, second.flip(0)])), field
    assert whole.broken == tuple(a + b for a, b in zip(parts[0].broken, parts[1].broken, strict=True))
    assert sum(whole.broken) == int(whole.flipped.sum())


def test_restarts_begin_elsewhere_and_only_what_stands_is_attacked_again() -> None:
    model, x = smooth(), beginnings(9)
    y = model(x).argmax(1)
    begun: list[Tensor] = []

    def watched(points: Tensor) -> Tensor:
        begun.append(points.detach().clone())
        return model(points)

    outcome = perturb(watched, x, y, Attack(norm="linf", steps=2, restarts=4), 0.02, range(9))
    starts = begun[:: 2 + 1]  # two steps, and the judgement
    standing = 9
    for start, fell in zip(starts, outcome.broken, strict=False):
        assert len(start) == standing
        standing -= fell
    assert 0 < standing < 9
    assert len(starts) == 4
    assert not torch.equal(starts[0][~outcome.flipped], starts[-1])


@pytest.mark.parametrize("name", ["pgd", *THEIRS])
def test_without_a_ball_the_images_are_judged_as_they_are(name: AttackName) -> None:
    model, x = smooth(), beginnings(4)
    y = model(x).argmax(1)
    wrong = torch.tensor([False, True, False, False])
    outcome = perturb(model, x, torch.where(wrong, (y + 1) % 4, y), Attack(name=name), 0, range(4))
    assert torch.equal(outcome.adversarial, x)
    assert torch.equal(outcome.flipped, wrong)
    assert not outcome.vanished.any()
    assert not outcome.stuck.any()


def test_the_row_is_that_of_madry_whatever_the_radius() -> None:
    row = pgd("linf", 8 / 255, 10)
    assert (row.a, row.b, row.radius, row.steps, row.random_start) == (-1, 1, 8 / 255, 10, True)
    assert row.step_size == pytest.approx(2 / 255)
    x = beginnings(2)
    everything = perturb(smooth(), x, smooth()(x).argmax(1), Attack(steps=1), 10_000.0, (0, 1))
    assert everything.adversarial.isfinite().all()


# PGD: what is not to be trusted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_that_is_zero_has_vanished_and_its_loss_is_stuck(norm: Norm) -> None:
    def masked(x: Tensor) -> Tensor:
        return smooth()(x) * 0 + torch.tensor([1.0, 0, 0, 0])

    outcome = perturb(masked, beginnings(3), torch.zeros(3, dtype=torch.long), Attack(norm=norm), 0.1, range(3))
    assert outcome.vanished.all()
    assert outcome.stuck.all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("name", "sharpness", "lost"), [
    ("pgd", 1, False), ("pgd", 30, False), ("pgd", 1e5, True),
    ("apgd-ce", 1, False), ("apgd-ce", 30, True),  # p(y|x) is 1 there, and half of its gradient is gone
    ("apgd-t", 30, False), ("apgd-t", 1e5, False),
])  # fmt: skip
def test_gradients_of_a_model_that_is_too_sure_are_lost_in_rounding(
    name: AttackName, sharpness: float, lost: bool, norm: Norm
) -> None:
    """Logits of a margin of 1, sharpened."""
    w, x = middling(3)
    bias = (1 - margins(w, 0, x)).view(-1)

    def sure(points: Tensor) -> Tensor:
        half = sharpness * (margins(w, 0, points) + bias) / 2
        return torch.stack([half, -half, -half, -half], 1)

    outcome = perturb(sure, x, torch.zeros(3, dtype=torch.long), Attack(name=name, norm=norm, steps=2), 1e-6, range(3))
    assert outcome.vanished.tolist() == [lost] * 3


def test_a_loss_that_does_not_rise_is_stuck() -> None:
    """The gradient points the wrong way, as that of a model whose backward pass is not that of its forward pass."""
    w, x = middling(4)
    model = linear(w, 0)

    def lying(points: Tensor) -> Tensor:
        true, false = model(points), -model(points)
        return false + (true - false).detach()

    y = (margins(w, 0, x) < 0).long()
    outcome = perturb(lying, x, y, Attack(norm="linf"), 0.01, range(4))
    assert outcome.stuck.all()
    assert not outcome.vanished.any()


@pytest.mark.parametrize("name", ["pgd", "apgd-ce"])
def test_logits_that_are_no_numbers_are_refused(name: AttackName) -> None:
    def broken(x: Tensor) -> Tensor:
        return smooth()(x) * math.nan

    with pytest.raises(Refused, match="its weights are broken"):
        perturb(broken, beginnings(2), torch.zeros(2, dtype=torch.long), Attack(name=name), 0.1, (0, 1))


@pytest.mark.parametrize("name", ["pgd", *THEIRS])
def test_every_forward_pass_can_be_the_last(name: AttackName) -> None:
    model, x = smooth(), beginnings(3)
    y = model(x).argmax(1)
    tracing = sys.gettrace()
    for allowed in (0, 3, 7, 9, 30):  # among them the passes of pyautoattack's own checks
        passes: list[int] = []

        def counted(points: Tensor, passes: list[int] = passes) -> Tensor:
            passes.append(len(points))
            return model(points)

        def go_on(passes: list[int] = passes, allowed: int = allowed) -> bool:
            return len(passes) < allowed

        with pytest.raises(Cancelled):
            perturb(counted, x, y, Attack(name=name, steps=40), 1e-4, range(3), go_on)
        assert len(passes) == allowed
        assert sys.gettrace() is tracing


# Parity with Foolbox --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> tuple[Model, Tensor, Tensor]:
    """The robust model with eight of its samples and their classes."""
    model, checkpoint = checkpoints.load(bundle.DEFAULT_MODEL, "cpu")
    paths = bundle.first_samples(8)
    x = torch.stack([torch.from_numpy(images.prepare(path, checkpoint.size).pixels) for path in paths])
    return model, x, torch.tensor([checkpoint.classes.index(bundle.sample_class(path)) for path in paths])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("random", [False, True], ids=["from the image", "from a random start"])
@pytest.mark.parametrize("norm", NORMS)
def test_pgd_equals_foolbox(
    norm: Norm, random: bool, bundled: tuple[Model, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    import foolbox

    model, x, y = bundled
    eps = 0.5 if norm == "l2" else 8 / 255
    row = pgd(norm, eps, steps=6)
    begun = samplers.begin(row, x, y, tuple(range(8))) if random else State(x, x, y, (0,) * 8)
    ours, _ = attacks.climb(model, row, begun)

    attack = {"l2": foolbox.attacks.L2PGD, "linf": foolbox.attacks.LinfPGD}[norm]
    oracle = attack(rel_stepsize=2.5 / 6, steps=6, random_start=random)
    start = foolbox.attacks.base.ep.astensor(begun.x)
    monkeypatch.setattr(oracle, "get_random_start", lambda *_: start)  # all the rest is theirs
    theirs = oracle.run(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilon=eps)
    assert samplers.length(theirs - x, norm).min() > 0.9 * eps
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    if random:  # and it is what a probe does
        probed = perturb(model, x, y, Attack(norm=norm, steps=6), eps, range(8))
        assert torch.equal(probed.adversarial, ours)


# Parity with pyautoattack ---------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    """What a direct call of pyautoattack takes."""

    def __init__(self, logits_of: Logits) -> None:
        super().__init__()
        self.logits_of = logits_of

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_of(x)


def directly(logits_of: Logits, x: Tensor, y: Tensor, name: AttackName, norm: Norm, eps: float, seed: int) -> Tensor:
    import pyautoattack

    whole: dict[str, Any] = (
        {"version": "standard"} if name == "autoattack" else {"version": "custom", "attacks": [name]}
    )
    adversary = pyautoattack.AutoAttack(
        Net(logits_of), norm={"l2": "L2", "linf": "Linf"}[norm], eps=eps, seed=seed, **whole
    )
    if name != "apgd-ce":
        adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = 3
    adversarial: Tensor = adversary.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return adversarial


@pytest.fixture
def generator_left_alone() -> Iterator[None]:
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", THEIRS)
def test_through_our_hands_pyautoattack_does_what_it_does_by_itself(
    name: AttackName, norm: Norm, generator_left_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyautoattack

    setting = pyautoattack.AutoAttack._set_version

    def shorter(adversary: Any, version: str) -> None:  # 5,000 queries take long; it is the same package for both
        setting(adversary, version)
        adversary.square.n_queries = 200

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", shorter)
    shape = (1, 5, 5)
    model, x = smooth(4, hidden=3, shape=shape), beginnings(4, shape, seed=3)
    y, eps = model(x).argmax(1), 0.2 if norm == "l2" else 0.04
    y[2] = (y[2] + 1) % 4  # wrong before any attack
    ours = perturb(model, x, y, Attack(name=name, norm=norm), eps, range(17, 21))
    with torch.random.fork_rng():
        theirs = directly(model, x, y, name, norm, eps, seed=17)
    assert 1 < int(ours.flipped.sum()) < 4, "some must stand, or nothing is compared"
    assert torch.equal(ours.flipped, model(theirs).argmax(1) != y)
    torch.testing.assert_close(ours.adversarial, theirs, rtol=0, atol=1e-6)
    assert samplers.length(ours.adversarial - x, norm).max() <= eps * (1 + 1e-6)
    assert ours.broken == ()


def test_the_same_seed_makes_the_same_bytes_and_another_does_not() -> None:
    model, x = smooth(4), beginnings(4)
    y = model(x).argmax(1)
    first, again, other = (
        perturb(model, x, y, Attack(name="apgd-ce"), 0.4, range(seed, seed + 4)).adversarial for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_leaves_the_ball_is_put_back_before_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyautoattack

    w, x = middling(2)
    y = (margins(w, 0, x) < 0).long()
    far = x + torch.where(y == 0, -9.0, 9.0).view(-1, 1, 1, 1) * w
    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", lambda *_, **__: (far, 1 - y))
    outcome = perturb(linear(w, 0), x, y, Attack(name="apgd-ce", norm="l2"), 1e-4, (0, 1))
    assert samplers.length(outcome.adversarial - x, "l2").max() <= 1.0001e-4
    assert not outcome.flipped.any()


@pytest.mark.parametrize("package", ["raise ImportError", "raise RuntimeError('other numpy')", "AutoAttacks = 3"])
def test_a_package_that_is_missing_or_broken_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    (tmp_path / "pyautoattack.py").write_text(package)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyautoattack"]:
        monkeypatch.delitem(sys.modules, name)
    model, x = smooth(4), beginnings(2)
    with pytest.raises(Refused, match="which is missing or does not work"):
        perturb(model, x, model(x).argmax(1), Attack(name="apgd-ce"), 0.1, (0, 1))
    sys.modules.pop("pyautoattack", None)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["apgd-t", "autoattack"])
def test_too_few_classes_for_a_targeted_loss_are_refused(name: AttackName, classes: int) -> None:
    model, x = smooth(classes), beginnings(2)
    with pytest.raises(Refused, match=f"needs 4 classes or more for its loss, and {classes} are judged here"):
        perturb(model, x, model(x).argmax(1), Attack(name=name), 0.1, (0, 1))


@pytest.mark.parametrize("classes", [4, 7])
@pytest.mark.parametrize("name", ["apgd-t", "autoattack"])
def test_fewer_than_ten_classes_are_all_attacked(name: AttackName, classes: int) -> None:
    model, x = smooth(classes), beginnings(2)
    y = model(x).argmax(1)
    assert perturb(model, x, y, Attack(name=name), 2.0, (0, 1)).flipped.all()


def test_pyautoattack_says_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    def probabilities(x: Tensor) -> Tensor:  # which it warns of
        return smooth(4)(x).softmax(1)

    x = beginnings(2)
    with caplog.at_level(logging.DEBUG):
        perturb(probabilities, x, probabilities(x).argmax(1), Attack(name="apgd-ce"), 0.1, (0, 1))
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []
    assert capfd.readouterr() == ("", "")


def test_without_the_package_its_name_and_the_way_to_it_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pyautoattack":
            raise ModuleNotFoundError(name)
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    x = beginnings(1)
    with pytest.raises(Refused, match=r"pip install 'cem-explorer\[attacks\]'"):
        perturb(smooth(), x, torch.tensor([0]), Attack(name="apgd-ce"), 0.1, (0,))
