from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scenarios import SHAPE, alike, beginnings, linear, smooth, walk, well, well_and_plain
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from cem_core import energies, samplers
from cem_core.messages import Norm, Sampler
from cem_core.presets import SAMPLERS
from cem_core.samplers import Reading, State

Walked: TypeAlias = list[tuple[State, Reading]]

STEPS = 6
TOLERANCE = 1e-6
Y = torch.tensor([0, 1, 2, 3, 0])
SEEDS = (0, 1, 7, 2**63 - 1, 12345)


def played(row: Sampler, chains: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Walked:
    """STEPS steps of a row from some of the five beginnings, in the order given."""
    chosen = list(chains)
    begun = samplers.begin(row, beginnings()[chosen], Y[chosen], tuple(SEEDS[i] for i in chosen))
    return list(walk(field(row), row, begun, STEPS))


def field(row: Sampler) -> samplers.Logits:
    """Coupled rows are of encoders."""
    return alike() if row.coupled else smooth()


def same(left: Walked, right: Walked) -> None:
    """Bit-equal, every tensor of every step."""
    assert len(left) == len(right)
    for (state, reading), (other, again) in zip(left, right, strict=True):
        assert state.step == other.step
        assert torch.equal(state.x, other.x), f"pixels of step {state.step}"
        for name in Reading._fields:
            assert torch.equal(getattr(reading, name), getattr(again, name)), f"{name} of step {state.step}"


def joined(parts: list[Walked]) -> Walked:
    """The batches side by side."""
    steps = []
    for together in zip(*parts, strict=True):
        states, readings = zip(*together, strict=True)
        x, x0, y = (torch.cat([getattr(state, name) for state in states]) for name in ("x", "x0", "y"))
        reading = Reading(*(torch.cat(values) for values in zip(*readings, strict=True)))
        steps.append((State(x, x0, y, (), states[0].step), reading))
    return steps


# Every row × every property ---------------------------------------------------------------------------------------


def stays_in_the_box(row: Sampler) -> None:
    crossed = False
    for state, reading in played(row):
        assert state.x.min() >= 0
        assert state.x.max() <= 1
        direction = samplers.unit(reading.drift, row.norm)
        crossed |= bool(((state.x + row.step_size * direction - 0.5).abs() > 0.5).any())
    assert crossed, "no step would have left the box: the test proves nothing"


def stays_in_its_ball(row: Sampler) -> None:
    row = replace(row, radius=row.radius or 0.4, noise=max(row.noise, 0.01))
    furthest = 0.0
    for state, reading in played(row):
        distance = (state.x.double() - state.x0.double()).flatten(1).norm(p=2 if row.norm == "l2" else math.inf, dim=1)
        assert distance.max() <= row.radius + TOLERANCE
        assert torch.allclose(reading.distance.double(), distance, atol=TOLERANCE)
        furthest = max(furthest, float(distance.max()))
    assert furthest > 0.9 * row.radius, "no chain came near the edge: the test proves nothing"


def same_seed_same_bytes(row: Sampler) -> None:
    same(played(row), played(row))


def resumed_is_straight(row: Sampler) -> None:
    whole = played(row)
    middle = whole[STEPS // 2][0]
    copied = State(middle.x.clone(), middle.x0.clone(), middle.y.clone(), middle.seeds, middle.step)
    same(whole[STEPS // 2 :], list(walk(field(row), row, copied, STEPS - STEPS // 2)))


def split_is_whole(row: Sampler) -> None:
    whole = played(row)
    same(whole, joined([played(row, (0,)), played(row, (1, 2, 3)), played(row, (4,))]))


def order_does_not_matter(row: Sampler) -> None:
    same(joined([played(row, (i,)) for i in (3, 0, 4, 2, 1)]), played(row, (3, 0, 4, 2, 1)))


def energy_falls_in_a_well(row: Sampler) -> None:
    """-(a·f + b·LSE) is what a row descends: never up, and down by far at the end."""
    logits_of = well_and_plain(curvature=0.5)
    row = replace(row, noise=0.0)
    x0 = torch.where(beginnings() > 0.5, 0.8, 0.2)
    begun = samplers.begin(row, x0, torch.zeros(5, dtype=torch.int64), SEEDS)
    energy = [row.a * read.joint + row.b * read.energy for _, read in walk(logits_of, row, begun, STEPS)]
    for before, after in pairwise(energy):
        assert (after <= before + TOLERANCE).all()
    assert (energy[-1] < energy[0] - 1e-3).all()


PROPERTIES: list[Callable[[Sampler], None]] = [
    stays_in_the_box,
    stays_in_its_ball,
    same_seed_same_bytes,
    resumed_is_straight,
    split_is_whole,
    order_does_not_matter,
    energy_falls_in_a_well,
]
OF_CHAINS = (split_is_whole, order_does_not_matter, energy_falls_in_a_well)
"""Of chains that know nothing of each other; for coupled rows see test_similarity."""


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("row", SAMPLERS.values(), ids=lambda row: row.name)
def test_every_row(row: Sampler, holds: Callable[[Sampler], None]) -> None:
    if not (row.coupled and holds in OF_CHAINS):
        holds(row)


# Energies and the drift -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(r.a, r.b) for r in SAMPLERS.values()] + [(0.3, -1.7), (0, 0)])
def test_drift_is_the_gradient_of_a_f_plus_b_lse(a: float, b: float) -> None:
    logits_of = smooth(dtype=torch.float64)
    x = beginnings().double()
    state = State(x, x, Y, SEEDS)
    reading = samplers.read(logits_of, Sampler(name="x", a=a, b=b), state)

    def climbed(x: Tensor) -> Tensor:
        logits = logits_of(x)
        return a * logits[torch.arange(len(Y)), Y] + b * logits.exp().sum(1).log()

    h = 1e-5
    for pixel in range(0, x[0].numel(), 17):
        nudge = torch.zeros(x[0].numel(), dtype=torch.float64)
        nudge[pixel] = h
        slope = (climbed(x + nudge.view(SHAPE)) - climbed(x - nudge.view(SHAPE))) / (2 * h)
        assert torch.allclose(reading.drift.flatten(1)[:, pixel], slope, atol=1e-8)
    for norm in ("l2", "linf"):  # an L2 norm in either
        reading = samplers.read(logits_of, Sampler(name="x", a=a, b=b, norm=norm), state)
        assert torch.allclose(reading.gradient_norm, reading.drift.flatten(1).norm(dim=1))


def test_reading_tells_the_energies_of_the_state() -> None:
    x = beginnings()
    reading = samplers.read(smooth(), SAMPLERS["RCS"], State(x, torch.full_like(x, 0.5), Y, SEEDS))
    logits = smooth()(x)
    assert torch.equal(reading.logits, logits)
    assert torch.allclose(reading.energy, -logits.exp().sum(1).log(), atol=1e-5)
    assert torch.equal(reading.joint, -logits[torch.arange(len(Y)), Y])
    assert torch.allclose(reading.distance, (x - 0.5).flatten(1).norm(dim=1))
    assert not reading.drift.requires_grad
    assert not reading.logits.requires_grad


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.floats(0.1, 80))
def test_log_p_is_the_difference_of_the_energies(seed: int, classes: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, classes, generator=random, dtype=torch.float64) * scale
    y = torch.randint(classes, (7,), generator=random)
    log_p = energies.marginal(logits) - energies.joint(logits, y)
    assert torch.allclose(log_p, -F.cross_entropy(logits, y, reduction="none"), atol=1e-9)


def test_energies_of_huge_logits_are_finite() -> None:
    assert energies.marginal(torch.tensor([[1e4, -1e4], [-1e4, -1e4]])).tolist() == pytest.approx(
        [-1e4, 1e4 - math.log(2)], abs=1e-3
    )


def test_ta_descends_cross_entropy_and_pgd_climbs_it() -> None:
    x = beginnings().double()
    logits_of = smooth(dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits_of(leaf), Y, reduction="sum"), leaf)
    state = State(x, x, Y, SEEDS)
    assert torch.allclose(samplers.read(logits_of, SAMPLERS["TA"], state).drift, -gradient)
    assert torch.allclose(samplers.read(logits_of, SAMPLERS["PGD"], state).drift, gradient)


def test_reading_takes_one_forward_and_one_backward_pass() -> None:
    calls = []

    def logits_of(x: Tensor) -> Tensor:
        calls.append(x)
        return smooth()(x)

    assert len(list(walk(logits_of, SAMPLERS["RCS"], State(beginnings(), beginnings(), Y, SEEDS), 3))) == 4
    assert len(calls) == 4


def test_the_grad_mode_does_not_leak_out_of_a_run() -> None:
    for _ in walk(smooth(), SAMPLERS["RCS"], State(beginnings(), beginnings(), Y, SEEDS), 2):
        assert torch.is_grad_enabled()
    with torch.no_grad():  # nor in: a run works wherever it is consumed
        inside = list(walk(smooth(), SAMPLERS["RCS"], State(beginnings(), beginnings(), Y, SEEDS), 2))
    same(inside, list(walk(smooth(), SAMPLERS["RCS"], State(beginnings(), beginnings(), Y, SEEDS), 2)))


# One step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_step_is_the_formula(norm: Norm, normalised: bool) -> None:
    """clamp₀₁( Π_{‖x−x₀‖≤r} [ x + α·ĝ + η·ε ] ), in numpy and float64."""
    radius, size = (0.8, 0.6) if norm == "l2" else (0.05, 0.04)
    row = Sampler(name="x", a=1, b=1, norm=norm, radius=radius, step_size=size, noise=0.02, normalised=normalised)
    x0 = beginnings()
    x = (x0 + 0.02 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    drift = 0.1 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    made = samplers.step(row, State(x, x0, Y, SEEDS, step=4), drift)

    for i, seed in enumerate(SEEDS):
        g = drift[i].double().numpy()
        if normalised:
            g = np.sign(g) if norm == "linf" else g / np.sqrt((g**2).sum())
        noise = samplers.normal((seed,), 4, SHAPE)[0].numpy()
        offset = x[i].double().numpy() + size * g + 0.02 * noise - x0[i].double().numpy()
        if norm == "linf":
            offset = offset.clip(-radius, radius)
        else:
            offset *= min(1, radius / np.sqrt((offset**2).sum()))
        expected = (x0[i].double().numpy() + offset).clip(0, 1)
        np.testing.assert_allclose(made.x[i].numpy(), expected, atol=TOLERANCE)
    assert made.step == 5
    assert torch.equal(made.x0, x0)
    assert made.seeds == SEEDS


def test_a_step_leaves_the_state_it_starts_from_alone() -> None:
    x, x0 = beginnings(seed=1), beginnings()
    samplers.step(SAMPLERS["RCS"], State(x, x0, Y, SEEDS), torch.ones_like(x))
    samplers.step(SAMPLERS["PGD"], State(x0, x0, Y, SEEDS), torch.ones_like(x))
    assert torch.equal(x, beginnings(seed=1))
    assert torch.equal(x0, beginnings())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_chain_without_gradient_stays_where_it_is(norm: Norm) -> None:
    x = beginnings()
    row = Sampler(name="x", a=1, b=1, norm=norm, radius=0.1)
    assert torch.equal(samplers.step(row, State(x, x, Y, SEEDS), torch.zeros_like(x)).x, x)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e8])
def test_a_normalised_step_has_its_length_whatever_the_gradient(scale: float) -> None:
    x = torch.full((1, *SHAPE), 0.5)
    drift = scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    made = samplers.step(Sampler(name="x", a=1, b=1, step_size=0.25), State(x, x, Y[:1], (0,)), drift)
    expected = 0.25 if scale > 1e-11 else 0.0  # below, rounding is all there is
    assert float((made.x - x).norm()) == pytest.approx(expected, abs=1e-5)


@given(
    norm=st.sampled_from(["l2", "linf"]),
    radius=st.floats(1e-3, 20),
    size=st.floats(1e-3, 1000),
    noise=st.floats(0, 10),
    normalised=st.booleans(),
    random_start=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
def test_no_numbers_lead_out_of_box_or_ball(
    norm: Norm, radius: float, size: float, noise: float, normalised: bool, random_start: bool, seed: int
) -> None:
    row = Sampler(
        name="x", a=1, b=-1, norm=norm, radius=radius, step_size=size, noise=noise, normalised=normalised,
        random_start=random_start,
    )  # fmt: skip
    x0 = beginnings(2, (1, 3, 4), seed % 2**31)
    begun = samplers.begin(row, x0, Y[:2], (seed, seed // 2))
    for state, reading in walk(smooth(shape=(1, 3, 4)), row, begun, 2):
        assert state.x.min() >= 0
        assert state.x.max() <= 1
        distance = (state.x.double() - x0.double()).flatten(1).norm(p=2 if norm == "l2" else math.inf, dim=1)
        assert distance.max() <= radius + TOLERANCE
        assert all(torch.isfinite(values).all() for values in reading)


# Noise and random starts ------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_seed_and_step_alone() -> None:
    whole = samplers.normal(SEEDS, 3, SHAPE)
    for i, seed in enumerate(SEEDS):
        assert torch.equal(samplers.normal((seed,), 3, SHAPE)[0], whole[i])
    assert torch.equal(samplers.normal(SEEDS[::-1], 3, SHAPE), whole.flip(0))
    assert not torch.equal(samplers.normal(SEEDS, 4, SHAPE), whole)
    # The same numbers on every machine and in every version: replays depend on it.
    assert samplers.normal((7,), 3, (2,))[0].tolist() == pytest.approx([-1.44706750, -0.91342068], abs=1e-6)


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    neighbours = torch.stack([samplers.normal(tuple(range(8)), step, (4096,)) for step in range(4)]).flatten(0, 1)
    assert neighbours.mean().abs() < 0.015  # 3.9 deviations
    assert (neighbours.var() - 1).abs() < 0.02
    assert (neighbours.abs() > 1.959964).float().mean() == pytest.approx(0.05, abs=0.003)
    correlation = torch.corrcoef(neighbours)
    assert (correlation - torch.eye(32)).abs().max() < 0.08  # 5 deviations, of 496 pairs


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    row = Sampler(name="x", a=1, b=0, step_size=1e-6, noise=0.03)
    x = torch.full((8, 3, 16, 16), 0.5)
    made = samplers.step(row, State(x, x, torch.zeros(8, dtype=torch.int64), tuple(range(8))), torch.zeros_like(x))
    assert float((made.x - x).std()) == pytest.approx(0.03, rel=0.03)


def distance_to_uniform(sample: np.ndarray) -> float:
    """Kolmogorov and Smirnov's: the largest gap between the sample's distribution and that of U(0,1), times √n."""
    ordered, n = np.sort(sample.ravel()), sample.size
    up, down = np.arange(1, n + 1) / n - ordered, ordered - np.arange(n) / n
    return float(np.sqrt(n) * max(up.max(), down.max()))


KS_LIMIT = 1.95
"""A uniform sample exceeds it once in a thousand times; the seeds are fixed."""


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 2), SHAPE])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_random_start_is_uniform_in_the_ball(norm: Norm, shape: tuple[int, int, int]) -> None:
    radius, chains, n = 0.4, 2000, math.prod(shape)
    row = Sampler(name="x", a=1, b=1, norm=norm, radius=radius, random_start=True)
    x0 = torch.full((chains, *shape), 0.5)
    offset = samplers.begin(row, x0, torch.zeros(chains, dtype=torch.int64), tuple(range(chains))).x - x0
    offset = offset.double().flatten(1)
    if norm == "linf":
        for pixel in range(min(n, 4)):
            assert distance_to_uniform((offset[:, pixel] / radius / 2 + 0.5).numpy()) < KS_LIMIT
    else:
        length = offset.norm(dim=1)
        assert distance_to_uniform(((length / radius) ** n).numpy()) < KS_LIMIT
        mean = (offset / length[:, None]).mean(0)
        assert mean.norm() * chains**0.5 < 2.6  # of a uniform direction: 1 on average
        if n == 2:
            angle = torch.atan2(offset[:, 0], offset[:, 1]) / (2 * torch.pi) + 0.5
            assert distance_to_uniform(angle.numpy()) < KS_LIMIT


def test_a_random_start_keeps_its_centre_and_is_keyed_by_the_seed() -> None:
    row, x0 = SAMPLERS["PGD"], beginnings()
    begun = samplers.begin(row, x0, Y, SEEDS)
    assert torch.equal(begun.x0, x0)
    assert begun.step == 0
    assert not torch.equal(begun.x, x0)
    for i, seed in enumerate(SEEDS):
        assert torch.equal(samplers.begin(row, x0[i : i + 1], Y[i : i + 1], (seed,)).x[0], begun.x[i])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_random_start_has_nothing_to_do_with_the_noise_of_the_steps(norm: Norm) -> None:
    row = Sampler(name="x", a=1, b=1, norm=norm, radius=0.3, random_start=True)
    x0 = torch.full((len(Y), *SHAPE), 0.5)
    offset = (samplers.begin(row, x0, Y, SEEDS).x - x0).flatten(1)
    noises = torch.stack([samplers.normal(SEEDS, step, SHAPE).flatten(1) for step in range(50)])
    alike = F.cosine_similarity(noises, offset[None], dim=2)
    assert alike.abs().max() < 0.35  # 5 deviations


def test_without_a_random_start_a_chain_begins_at_its_start() -> None:
    x0 = beginnings()
    assert torch.equal(samplers.begin(replace(SAMPLERS["PGD"], random_start=False), x0, Y, SEEDS).x, x0)


# Changes during a run ---------------------------------------------------------------------------------------------


CHANGES: list[dict[str, Any]] = [
    {"a": -1.0},
    {"b": 0.5},
    {"step_size": 0.05},
    {"noise": 0.2},
    {"radius": 0.1},
    {"norm": "linf"},
    {"normalised": False},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_change_takes_hold_from_the_next_step_on(change: dict[str, Any]) -> None:
    before = SAMPLERS["RCS"]
    after = replace(before, **change)
    begun = samplers.begin(before, beginnings(), Y, SEEDS)
    straight = list(walk(smooth(), before, begun, STEPS))

    def following(index: int) -> Sampler | None:
        return None if index == STEPS else before if index < 3 else after

    visited = list(samplers.evolve(smooth(), before, begun, following))
    assert [row for _, _, row in visited] == [before] * 4 + [after] * (STEPS - 3)
    same([(s, r) for s, r, _ in visited[:4]], straight[:4])
    assert not torch.equal(visited[4][0].x, straight[4][0].x)
    resumed = list(walk(smooth(), after, visited[3][0], STEPS - 3))
    same([(s, r) for s, r, _ in visited[4:]], resumed[1:])


# Known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ak", [0.2, 1.0, 1.6])
def test_langevin_in_a_quadratic_well_has_the_discrete_time_variance(ak: float) -> None:
    """x ← x − a·k·(x−c) + √(2a)·ε is stationary at variance 1/(k(1−ak/2)), not at the 1/k of continuous time."""
    k = 1000.0
    a = ak / k
    row = replace(SAMPLERS["Langevin"], step_size=a, noise=math.sqrt(2 * a), normalised=False)
    x0 = torch.full((16, 3, 16, 16), 0.5)
    begun = samplers.begin(row, x0, torch.zeros(16, dtype=torch.int64), tuple(range(16)))
    settled = [state.x for state, _ in walk(well(k), row, begun, 60) if state.step > 30 and state.step % 5 == 0]
    drawn = torch.stack(settled).double()
    assert drawn.min() > 0, "clamping must never act"
    assert drawn.max() < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.001)
    assert float(drawn.var()) == pytest.approx(1 / (k * (1 - ak / 2)), rel=0.03)


def binary() -> tuple[Tensor, float, Tensor, Tensor]:
    """w and b of a model, 400 images well inside the box, and the margin of class 0 in each."""
    random = torch.Generator().manual_seed(5)
    w = torch.randn(SHAPE, generator=random)
    w[0, 0] = 0  # pixels that do not matter
    x = 0.2 + 0.6 * torch.rand(400, *SHAPE, generator=random)
    bias = -float((w * x).sum((1, 2, 3)).mean())
    margin = (w * x).sum((1, 2, 3)) + bias
    return w, bias, x, margin


def test_linf_pgd_on_a_linear_model_reaches_the_corner() -> None:
    w, bias, x, margin = binary()
    row = replace(SAMPLERS["PGD-Linf"], radius=0.05, step_size=0.01)
    y = (margin < 0).long()
    begun = samplers.begin(row, x, y, tuple(range(len(x))))
    (*_, (last, _)) = walk(linear(w, bias), row, begun, 20)
    moved = w != 0
    towards = torch.where(margin < 0, 1.0, -1.0)[:, None, None, None] * w.sign()
    assert torch.allclose(last.x[:, moved], (x + 0.05 * towards)[:, moved], atol=TOLERANCE)
    assert torch.equal(last.x[:, ~moved], begun.x[:, ~moved])


def test_l2_pgd_on_a_linear_model_ends_opposite_to_the_weights() -> None:
    w, bias, x, margin = binary()
    row = replace(SAMPLERS["PGD"], radius=0.5, step_size=0.1)
    begun = samplers.begin(row, x, (margin < 0).long(), tuple(range(len(x))))
    (*_, (last, _)) = walk(linear(w, bias), row, begun, 60)
    towards = torch.where(margin < 0, 1.0, -1.0)[:, None, None, None] * w / w.norm()
    assert torch.allclose(last.x, x + 0.5 * towards, atol=2e-3)


@pytest.mark.parametrize(("a", "b"), [(1.0, -1.0), (-1.0, 1.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.7, -1.3)])
def test_what_is_fed_back_is_exact_where_the_class_is_nearly_sure(a: float, b: float) -> None:
    """1 − p(y|x) is far below the rounding of 1 here: written as a difference, nothing would be left of it."""
    logits = torch.tensor([[30.0, 0.0, 1.0, 2.0], [0.0, 25.0, -3.0, 4.0]])
    y = torch.tensor([0, 1])
    fed = energies.cotangent(logits, y, a, b).double()
    p = logits.double().softmax(1)
    others = p.scatter(1, y[:, None], 0)
    exact = (b * others).scatter(1, y[:, None], (a + b) - b * others.sum(1, keepdim=True))
    torch.testing.assert_close(fed, exact, rtol=1e-5, atol=0)
