"""Encoders: f(x,x') over a reference batch, rows that couple chains, and runs of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from msgspec.structs import replace
from PIL import Image
from scenarios import SHAPE, Encoder, alike, beginnings, walk
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from cem_core import bundle, checkpoints, replaying, runner, samplers
from cem_core.messages import (
    Chain,
    ImageStart,
    Message,
    NoiseStart,
    Reference,
    Refused,
    RunEnd,
    RunSpec,
    RunStart,
    Sampler,
    Step,
)
from cem_core.presets import SAMPLERS
from cem_core.samplers import State
from cem_core.session import Session

SAMPLES = bundle.samples()
Y = torch.tensor([0, 1, 2, 3, 5])
SEEDS = (0, 1, 7, 2**63 - 1, 12345)
EXACT: dict[str, Any] = {"dtype": torch.float64}


def begun(dtype: torch.dtype = torch.float64) -> State:
    """Five chains that have left their starts."""
    x0 = beginnings().to(dtype)
    x = (x0 + 0.1 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)).clamp(0, 1)
    return State(x, x0, Y, SEEDS)


# What is compared -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cosine", "temperature"), [(True, 0.5), (True, 0.07), (False, 1.0), (False, 3.0)])
def test_f_is_the_inner_product_of_features_or_their_cosine_over_the_temperature(
    cosine: bool, temperature: float
) -> None:
    g = Encoder(**EXACT).embedding
    x, batch = beginnings().double(), beginnings(6, seed=9).double()
    found = alike(cosine=cosine, temperature=temperature, **EXACT)(x)
    assert found.shape == (5, 6)
    for i in range(5):
        for j in range(6):
            u, v = g(x[i : i + 1])[0].tolist(), g(batch[j : j + 1])[0].tolist()
            inner = sum(a * b for a, b in zip(u, v, strict=True))
            if cosine:
                inner /= sum(a * a for a in u) ** 0.5 * sum(b * b for b in v) ** 0.5
            assert float(found[i, j]) == pytest.approx(inner / temperature, rel=1e-10)


def test_energies_are_those_of_the_reference_batch() -> None:
    f, state = alike(**EXACT), begun()
    reading = samplers.read(f, SAMPLERS["CS"], state)
    logits = f(state.x)
    torch.testing.assert_close(reading.energy, -logits.exp().sum(1).log(), rtol=1e-10, atol=0)
    torch.testing.assert_close(reading.joint, -logits[torch.arange(5), Y], rtol=1e-10, atol=0)
    torch.testing.assert_close(
        reading.energy - reading.joint, logits.softmax(1)[torch.arange(5), Y].log(), rtol=1e-9, atol=1e-12
    )


def test_cs_climbs_the_inner_product_with_the_features_of_the_target() -> None:
    g, state = Encoder(**EXACT).embedding, begun()
    to = g(beginnings(6, seed=9).double()[Y])
    leaf = state.x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((g(leaf) * to).sum(), leaf)
    found = samplers.read(alike(cosine=False, temperature=1, **EXACT), SAMPLERS["CS"], state).drift
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


# Rows that couple chains ------------------------------------------------------------------------------------------


def f_of(x: Tensor, others: Tensor) -> Tensor:
    """(B, B') cosines over 0.5, written anew."""
    g = Encoder(**EXACT).embedding
    return F.normalize(g(x), dim=1) @ F.normalize(g(others), dim=1).T / 0.5


def left_of(i: int) -> list[int]:
    return [j for j in range(5) if j != i]


def climbed_by_maxent(i: int, x: Tensor, state: State) -> Tensor:
    return -f_of(x, state.x[left_of(i)]).exp().sum().log()


def climbed_by_pgd(i: int, x: Tensor, state: State) -> Tensor:
    """InfoNCE of one image, by torch: its own start is the positive, the other chains are the negatives."""
    candidates = torch.cat([state.x0[i : i + 1], state.x[left_of(i)]])
    return F.cross_entropy(f_of(x, candidates), torch.tensor([0]))


COUPLED: list[tuple[str, Callable[[int, Tensor, State], Tensor]]] = [
    ("MaxEnt", climbed_by_maxent),
    ("PGD-unsup", climbed_by_pgd),
]


@pytest.mark.parametrize(("name", "climbed"), COUPLED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_coupled_drift_is_the_gradient_of_its_formula_while_the_others_stand_still(
    name: str, climbed: Callable[[int, Tensor, State], Tensor]
) -> None:
    state = begun()
    drift = samplers.read(alike(**EXACT), SAMPLERS[name], state).drift
    h = 1e-5
    for i in range(5):
        leaf = state.x[i : i + 1].clone().requires_grad_()
        (exact,) = torch.autograd.grad(climbed(i, leaf, state), leaf)
        torch.testing.assert_close(drift[i : i + 1], exact, rtol=1e-8, atol=1e-13)
        for pixel in range(0, exact.numel(), 37):
            nudge = torch.zeros(exact.numel(), dtype=torch.float64)
            nudge[pixel] = h
            x, by = state.x[i : i + 1], nudge.view(1, *SHAPE)
            slope = (climbed(i, x + by, state) - climbed(i, x - by, state)) / (2 * h)
            assert float(drift[i].flatten()[pixel]) == pytest.approx(float(slope), abs=1e-8)


@pytest.mark.parametrize("name", ["MaxEnt", "PGD-unsup"])
def test_a_coupled_drift_goes_with_its_chain_and_asks_for_all_of_them(name: str) -> None:
    state, order = begun(), [3, 0, 4, 2, 1]

    def drift(of: list[int]) -> Tensor:
        part = State(state.x[of], state.x0[of], Y[of], tuple(SEEDS[i] for i in of))
        return samplers.read(alike(**EXACT), SAMPLERS[name], part).drift

    whole = drift([0, 1, 2, 3, 4])
    torch.testing.assert_close(drift(order), whole[order], rtol=1e-10, atol=1e-15)
    split = torch.cat([drift([0, 1]), drift([2, 3, 4])])
    assert ((split - whole).flatten(1).norm(dim=1) > 0.05 * whole.flatten(1).norm(dim=1)).all()


def test_a_chain_of_a_row_that_is_not_coupled_knows_nothing_of_the_others() -> None:
    state, row = begun(), SAMPLERS["Langevin"]
    whole = samplers.read(alike(**EXACT), row, state)
    for i in range(5):
        part = State(state.x[i : i + 1], state.x0[i : i + 1], Y[i : i + 1], SEEDS[i : i + 1])
        alone = samplers.read(alike(**EXACT), row, part)
        torch.testing.assert_close(alone.drift[0], whole.drift[i], rtol=1e-10, atol=1e-15)
        torch.testing.assert_close(alone.energy[0], whole.energy[i], rtol=1e-12, atol=0)


def spread(x: Tensor) -> float:
    """Mean distance between the unit features of two chains."""
    return float(torch.pdist(F.normalize(Encoder().embedding(x), dim=1)).mean())


def test_maxent_spreads_chains_in_feature_space_and_pgd_leaves_their_starts() -> None:
    x0 = (beginnings()[:1] + 0.02 * torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    state = State(x0, x0, torch.zeros(8, dtype=torch.int64), tuple(range(8)))
    ways = {name: [s.x for s, _ in walk(alike(), SAMPLERS[name], state, 40)] for name in ("MaxEnt", "PGD-unsup")}
    assert spread(x0) < 0.2
    assert spread(ways["MaxEnt"][-1]) > 1
    near = F.cosine_similarity(Encoder().embedding(ways["PGD-unsup"][-1]), Encoder().embedding(x0))
    assert near.max() < 0.5


def test_a_run_that_becomes_coupled_reads_its_state_anew() -> None:
    state = begun(torch.float32)
    before, after = replace(SAMPLERS["MaxEnt"], coupled=False, noise=0.0), replace(SAMPLERS["MaxEnt"], noise=0.0)
    rows: Iterator[Sampler | None] = iter([after, None])
    (*_, (last, _, row)) = samplers.evolve(alike(), before, state, lambda _: next(rows))
    assert row == after
    straight = [s.x for s, _ in walk(alike(), after, state, 1)]
    assert torch.equal(last.x, straight[-1])


# Runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    features = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "encoder.safetensors", features))


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    random = np.random.default_rng(0)
    for name in ("one", "two", "three"):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in ("one", "two", "three")]


def spec(checkpoint: str, sampler: str, **changes: Any) -> RunSpec:
    row = replace(SAMPLERS[sampler], steps=6)
    chains = (Chain(ImageStart(str(SAMPLES[0])), 1), Chain(NoiseStart(), 2), Chain(ImageStart(str(SAMPLES[9])), 3))
    return replace(RunSpec("a run", checkpoint, row, chains, "cpu"), **changes)


def said(messages: list[Message]) -> str:
    end = messages[-1]
    assert isinstance(end, RunEnd)
    assert end.reason == "failed"
    return end.detail


def steps_of(messages: list[Message]) -> list[Step]:
    return [message for message in messages if isinstance(message, Step)]


def test_a_run_of_an_encoder_names_the_images_that_it_compares_with(encoder: str, images: list[str]) -> None:
    start, *steps, end = runner.play(spec(encoder, "Langevin"))
    assert isinstance(start, RunStart)
    assert start.references == start.candidates == tuple(path.stem for path in SAMPLES)
    assert (start.labels[0], start.labels[2]) == (0, 9), "an image of the batch is most like itself"
    assert end == RunEnd("a run", "done")
    assert all(step.logits.shape == (3, 20) for step in steps_of(list(steps)))
    reference = Reference(tuple(images), cosine=False, temperature=2)
    start, first, *_ = runner.play(spec(encoder, "Langevin", reference=reference))
    assert isinstance(start, RunStart)
    assert isinstance(first, Step)
    assert start.candidates == ("one", "two", "three")
    model, known = checkpoints.load(encoder, "cpu")
    assert known.classes == ()
    pixels = [np.asarray(Image.open(path), np.float32).transpose(2, 0, 1) / 255 for path in images]
    g, others = model.features(torch.from_numpy(first.pixels)), model.features(torch.from_numpy(np.stack(pixels)))
    np.testing.assert_allclose(first.logits, g @ others.T / 2, rtol=1e-4)


def test_towards_an_image_an_encoder_finds_it_more_alike(encoder: str, images: list[str]) -> None:
    chains = tuple(Chain(ImageStart(images[0]), seed, 1) for seed in range(2))
    steps = steps_of(list(runner.play(spec(encoder, "CS", chains=chains, reference=Reference(tuple(images))))))
    assert (steps[-1].joint < steps[0].joint - 0.1).all()
    assert (steps[-1].log_p > steps[0].log_p).all()


def test_a_classifier_without_its_head_is_an_encoder() -> None:
    asked = spec(bundle.DEFAULT_MODEL, "MaxEnt", choices={"head": "none"})
    start, *steps, end = runner.play(asked)
    assert isinstance(start, RunStart)
    assert (start.checkpoint.classes, start.checkpoint.features) == ((), 256)
    assert end == RunEnd("a run", "done")
    model, _ = checkpoints.load(bundle.DEFAULT_MODEL, "cpu")
    x = torch.from_numpy(steps_of(list(steps))[-1].pixels)
    headless, _ = checkpoints.load(bundle.DEFAULT_MODEL, "cpu", choices={"head": "none"})
    torch.testing.assert_close(headless(x), model.features(x))


def test_a_coupled_row_needs_an_encoder_and_two_chains(encoder: str, tmp_path: Path) -> None:
    classifier = str(tiny.saved(tmp_path / "net.safetensors"))
    alone = (Chain(NoiseStart()),)
    for name in ("MaxEnt", "PGD-unsup"):
        no_features = f"{name} compares features, not classes: choose an encoder, or for the head: none."
        too_few = f"{name} moves chains away from each other: give two or more."
        assert said(list(runner.play(spec(classifier, name)))) == no_features
        assert said(list(runner.play(spec(encoder, name, chains=alone)))) == too_few
        for checkpoint, chains, says in ((classifier, 2, no_features), (encoder, 1, too_few)):
            asked = spec(checkpoint, "Langevin", chains=tuple(Chain(NoiseStart(), i) for i in range(chains)))
            rows = [asked.sampler, asked.sampler]
            messages = list(runner.play(asked, lambda rows=rows, name=name: rows.pop() if rows else SAMPLERS[name]))
            assert said(messages) == says
            assert len(steps_of(messages)) == 3, "what was made before is kept"


def test_a_target_that_is_not_in_the_batch_is_refused(encoder: str, images: list[str]) -> None:
    asked = spec(encoder, "CS", chains=(Chain(NoiseStart(), label=3),), reference=Reference(tuple(images)))
    assert said(list(runner.play(asked))) == "encoder.safetensors has no reference image 3: it has 0 to 2."
    gone = replace(asked, reference=Reference((*images, "/nowhere/gone.png")))
    assert "gone.png" in said(list(runner.play(gone)))


def recorded(folder: Path, asked: RunSpec, steps: int | None = None) -> Session:
    """A run in a folder, interrupted after some steps."""
    session: Session | None = None
    for message in runner.play(asked):
        if isinstance(message, RunStart):
            session = Session.record(folder, message)
            continue
        assert session is not None
        if isinstance(message, Step):
            if message.index == steps:
                break
            session.append(message)
        else:
            session.finish(message)
    assert session is not None
    session.close()
    return Session.open(folder, write=True)


@pytest.mark.parametrize("sampler", ["MaxEnt", "PGD-unsup", "Langevin", "CS"])
def test_a_run_of_an_encoder_goes_on_to_the_same_pixels_and_can_be_verified(
    sampler: str, encoder: str, images: list[str], tmp_path: Path
) -> None:
    chains = tuple(Chain(NoiseStart(), i, 1) for i in range(4))
    asked = spec(encoder, sampler, chains=chains, reference=Reference(tuple(images), temperature=0.2))
    straight = steps_of(list(runner.play(asked)))
    session = recorded(tmp_path / "run", asked, 3)
    assert session.start.candidates == ("one", "two", "three")
    for message in replaying.resume(session):
        if isinstance(message, Step):
            session.append(message)
        elif isinstance(message, RunEnd):
            session.finish(message)
    assert len(session) == 7
    for step in straight:
        for name in ("pixels", "energy", "joint", "logits", "gradient_norm", "distance"):
            assert getattr(session[step.index], name).tobytes() == getattr(step, name).tobytes(), name
    (*_, verdict) = replaying.verify(session)
    assert verdict.bit_equal
    assert verdict.differs == ()
    session.close()


RECIPE = '{"name": "net", "objective": {"kind": "contrastive", "temperature": %s, "projection": 128}}'


@pytest.mark.parametrize(
    ("told", "temperature"),
    [
        ({"recipe": RECIPE % 0.2}, 0.2),
        ({"recipe": RECIPE % 1}, 1),
        ({"temperature": "0.07", "recipe": RECIPE % 0.2}, 0.07),
        ({}, None),
        ({"recipe": '{"objective": {"kind": "adversarial", "eps": 1}}'}, None),
        ({"recipe": RECIPE % 0}, None),
        ({"recipe": RECIPE % '"warm"'}, None),
        ({"recipe": "[" * 100_000}, None),
        ({"temperature": "NaN"}, None),
    ],
)
def test_the_temperature_of_an_encoder_is_read_from_its_file(
    told: dict[str, str], temperature: float | None, tmp_path: Path
) -> None:
    features = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    report = checkpoints.inspect(str(tiny.saved(tmp_path / "net.safetensors", features, **told)))
    fact = report.fact("temperature")
    assert report.temperature == (0.5 if temperature is None else temperature)
    assert (None if fact is None else (float(fact.value), fact.source)) == (temperature and (temperature, "file"))
    again = checkpoints.convert(report.path, tmp_path / "again.safetensors")
    assert again.fact("temperature") == fact
    classifier = checkpoints.inspect(str(tiny.saved(tmp_path / "classes.safetensors", **told)))
    assert classifier.fact("temperature") is None


def test_an_encoder_is_compared_at_its_own_temperature_and_the_run_says_so() -> None:
    model, known = checkpoints.load("cifar10-contrastive-l2", "cpu")
    assert known.temperature == 0.2
    start, first, *_ = runner.play(spec("cifar10-contrastive-l2", "Langevin"))
    assert isinstance(start, RunStart)
    assert isinstance(first, Step)
    assert start.spec.reference == Reference(tuple(map(str, SAMPLES)), temperature=0.2)
    g = F.normalize(model.embedding(torch.from_numpy(first.pixels)), dim=1)
    np.testing.assert_allclose(first.logits[:, [0, 9]], g @ g[[0, 2]].T / 0.2, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(start.likeness(first.logits)[[0, 2], [0, 9]], 1, rtol=1e-4)
    colder = spec("cifar10-contrastive-l2", "Langevin", reference=Reference(tuple(map(str, SAMPLES)), temperature=0.1))
    _, colder_first, *_ = runner.play(colder)
    assert isinstance(colder_first, Step)
    np.testing.assert_allclose(colder_first.logits, 2 * first.logits, rtol=1e-4)


@pytest.mark.parametrize("said", [Reference(tuple(map(str, SAMPLES)), temperature=0.5), None])
def test_a_record_of_before_files_told_it_is_at_a_half(said: Reference | None, tmp_path: Path) -> None:
    features = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    trained = str(tiny.saved(tmp_path / "net.safetensors", features, temperature="0.07"))
    asked = spec(trained, "Langevin", reference=Reference(tuple(map(str, SAMPLES)), temperature=0.5))
    straight = steps_of(list(runner.play(asked)))
    session = recorded(tmp_path / "run", asked, 3)
    session.start = replace(session.start, spec=replace(session.start.spec, reference=said))
    likeness = session.start.likeness(session.numbers.logits[0])
    np.testing.assert_allclose(likeness[[0, 2], [0, 9]], 1, rtol=1e-4)
    for message in replaying.resume(session):
        if isinstance(message, Step):
            session.append(message)
    assert session[6].pixels.tobytes() == straight[6].pixels.tobytes()
    (*_, verdict) = replaying.verify(session)
    assert verdict.bit_equal
    session.close()


@pytest.mark.parametrize("change", ["gone", "another"])
def test_a_run_goes_on_without_the_files_of_its_reference_images(
    change: str, encoder: str, images: list[str], tmp_path: Path
) -> None:
    asked = spec(encoder, "CS", chains=(Chain(NoiseStart(), 0, 1),), reference=Reference(tuple(images)))
    straight = steps_of(list(runner.play(asked)))
    session = recorded(tmp_path / "run", asked, 3)
    if change == "gone":
        Path(images[2]).unlink()
    else:
        Image.new("RGB", (16, 16), "red").save(images[2])
    for message in replaying.resume(session):
        if isinstance(message, Step):
            session.append(message)
    assert [step.pixels.tobytes() for step in straight[3:]] == [session[i].pixels.tobytes() for i in range(3, 7)]
    assert session[6].logits.tobytes() == straight[6].logits.tobytes()
    (*_, verdict) = replaying.verify(session)
    assert (verdict.bit_equal, verdict.differs) == (True, ())
    session.close()
    if change == "gone":
        assert "no file" in said(list(runner.play(asked)))


def test_an_older_record_does_not_go_on_with_another_reference_image(
    encoder: str, images: list[str], tmp_path: Path
) -> None:
    asked = spec(encoder, "CS", chains=(Chain(NoiseStart(), 0, 1),), reference=Reference(tuple(images)))
    session = recorded(tmp_path / "run", asked, 3)
    shutil.rmtree(tmp_path / "run" / "references")
    Image.new("RGB", (16, 16), "red").save(images[2])
    with pytest.raises(Refused, match="An image of its reference batch is another than when the run was recorded"):
        list(replaying.resume(session))
    assert len(session) == 3, "the session is as it was"
    (*_, verdict) = replaying.verify(session)
    assert not verdict.bit_equal
    assert any(difference.startswith("reference batch (") for difference in verdict.differs)
    session.close()
