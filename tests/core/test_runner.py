from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import tiny
import torch
from msgspec.structs import replace
from scenarios import smooth
from torch import Tensor

from cem_core import bundle, checkpoints, runner, samplers, starts
from cem_core.messages import (
    Chain,
    Checkpoint,
    GaussianStart,
    ImageStart,
    Message,
    NoiseStart,
    RunEnd,
    RunSpec,
    RunStart,
    Sampler,
    Step,
)
from cem_core.presets import SAMPLERS
from cem_core.session import Session

SAMPLES = bundle.samples()
ARRAYS = ("pixels", "energy", "joint", "logits", "gradient_norm", "distance")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors"))


def spec(checkpoint: str, sampler: str = "RCS", chains: tuple[Chain, ...] | None = None, **changes: Any) -> RunSpec:
    row = replace(SAMPLERS[sampler], **({"steps": 5} | changes))
    chains = chains or (
        Chain(ImageStart(str(SAMPLES[0])), 1, 2),
        Chain(NoiseStart(), 2, 0),
        Chain(ImageStart(str(SAMPLES[9])), 2**63 - 1),
    )
    return RunSpec("a run", checkpoint, row, chains, "cpu")


def parts(messages: list[Message]) -> tuple[RunStart, list[Step], RunEnd]:
    """The three parts of a run that began, whatever became of it: RunStart, Step 0, Step 1, …, RunEnd."""
    start, *steps, end = messages
    assert isinstance(start, RunStart)
    assert isinstance(end, RunEnd)
    assert end.run == start.spec.id
    for index, step in enumerate(steps):
        assert isinstance(step, Step)
        assert step.index == index
        assert step.run == start.spec.id
    return start, steps, end


def same(left: list[Step], right: list[Step]) -> None:
    assert len(left) == len(right)
    for step, again in zip(left, right, strict=True):
        assert step.sampler == again.sampler
        for name in ARRAYS:
            assert getattr(step, name).tobytes() == getattr(again, name).tobytes(), f"{name} of step {step.index}"


def failed(messages: list[Message]) -> str:
    end = messages[-1]
    assert isinstance(end, RunEnd)
    assert end.reason == "failed"
    assert "\n" not in end.detail
    assert end.detail.endswith(".")
    return end.detail


def live(rows: list[Sampler | None]) -> Callable[[], Sampler | None]:
    """Says the rows one after the other, then the last for ever."""
    left = list(rows)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


# The stream -------------------------------------------------------------------------------------------------------


def test_a_run_is_one_start_then_the_steps_then_one_end(net: str) -> None:
    asked = spec(net)
    start, steps, end = parts(list(runner.play(asked)))
    assert end == RunEnd("a run", "done", "")
    assert len(steps) == 6
    assert start.spec == asked
    assert start.checkpoint == checkpoints.load(net, "cpu")[1]
    assert start.names == ("airplane-1.jpg", "noise", SAMPLES[9].name)
    assert start.notes[0].startswith("32×32 JPEG → 16×16")
    assert start.notes[1] == ""
    assert start.device == "CPU"
    assert start.versions["torch"] == torch.__version__
    assert msgspec.json.decode(msgspec.json.encode(start), type=RunStart) == start
    for step in steps:
        assert step.sampler == asked.sampler
        assert step.pixels.shape == (3, 3, 16, 16)
        assert step.logits.shape == (3, 3)
        assert all(getattr(step, name).shape == (3,) for name in ("energy", "joint", "gradient_norm", "distance"))
        assert all(getattr(step, name).dtype == np.float32 for name in ARRAYS)
        assert all(getattr(step, name).flags.c_contiguous for name in ARRAYS)


def test_the_first_step_is_the_start(net: str) -> None:
    asked = spec(net)
    _, steps, _ = parts(list(runner.play(asked)))
    pixels, *_ = starts.make(checkpoints.load(net, "cpu")[1], asked.chains)
    np.testing.assert_array_equal(steps[0].pixels, pixels)
    assert steps[0].distance.tolist() == [0, 0, 0]


def test_the_numbers_of_a_step_are_those_of_its_pixels(net: str) -> None:
    model, _ = checkpoints.load(net, "cpu")
    start, steps, _ = parts(list(runner.play(spec(net))))
    for step in steps:
        logits = model(torch.from_numpy(step.pixels)).double()
        np.testing.assert_allclose(step.logits, logits, atol=1e-5)
        np.testing.assert_allclose(step.energy, -logits.logsumexp(1), atol=1e-5)
        np.testing.assert_allclose(step.joint, -logits[[0, 1, 2], list(start.labels)], atol=1e-5)
        np.testing.assert_allclose(step.log_p, logits.log_softmax(1)[[0, 1, 2], list(start.labels)], atol=1e-5)
        moved = (step.pixels - steps[0].pixels).reshape(3, -1)
        np.testing.assert_allclose(step.distance, np.linalg.norm(moved, axis=1), atol=1e-5)


def test_where_no_label_is_given_it_is_what_the_model_sees(net: str) -> None:
    chains = tuple(Chain(ImageStart(str(path)), label=2 if i == 1 else None) for i, path in enumerate(SAMPLES))
    start, steps, _ = parts(list(runner.play(spec(net, "PGD", chains, random_start=False, steps=1))))
    seen = steps[0].logits.argmax(1).tolist()
    assert len(set(seen)) > 1
    assert list(start.labels) == [seen[0], 2, *seen[2:]]


def test_a_chain_alone_is_the_chain_among_others(net: str) -> None:
    """On an analytic energy to the bit (test_samplers); a convolution may round differently in another batch."""
    asked = spec(net, steps=3)
    _, together, _ = parts(list(runner.play(asked)))
    for i, chain in enumerate(asked.chains):
        _, alone, _ = parts(list(runner.play(replace(asked, chains=(chain,)))))
        for step, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(one.pixels[0], step.pixels[i], atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_spec_gives_the_same_bytes(net: str, sampler: str) -> None:
    asked = spec(net, sampler)
    if asked.sampler.coupled:
        asked = replace(asked, choices={"head": "none"})
    again = msgspec.json.decode(msgspec.json.encode(asked), type=RunSpec)
    same(parts(list(runner.play(asked)))[1], parts(list(runner.play(again)))[1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_bundled_model_gives_the_same_bytes_again(precision: str) -> None:
    chains = tuple(Chain(GaussianStart(), seed, seed) for seed in range(4))
    asked = replace(spec(bundle.DEFAULT_MODEL, "RCS", chains), precision=precision)
    same(parts(list(runner.play(asked)))[1], parts(list(runner.play(asked)))[1])


def test_another_seed_gives_other_pixels(net: str) -> None:
    for sampler in ("RCS", "PGD"):  # by noise, by the random start
        one, other = (
            parts(list(runner.play(spec(net, sampler, (Chain(ImageStart(str(SAMPLES[0])), seed, 1),)))))[1]
            for seed in (1, 2)
        )
        assert not np.array_equal(one[-1].pixels, other[-1].pixels)


def test_recorded_pixels_are_not_changed_by_later_steps(net: str) -> None:
    kept, copies = [], []
    for message in runner.play(spec(net)):
        if isinstance(message, Step):
            kept.append(message)
            copies.append(message.pixels.copy())
    for step, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(step.pixels, copy)


def test_a_run_can_be_left_alone(net: str) -> None:
    with contextlib.closing(runner.play(spec(net))) as messages:  # type: ignore[type-var]
        next(messages)
        next(messages)
    assert list(messages) == []


# Changes and stopping ---------------------------------------------------------------------------------------------


def test_the_live_row_is_asked_for_once_before_every_step(net: str) -> None:
    events: list[str] = []
    asked = spec(net, steps=3)

    def following() -> Sampler:
        events.append("asked")
        return asked.sampler

    for message in runner.play(asked, following):
        events.append(f"step {message.index}" if isinstance(message, Step) else type(message).__name__)
    assert events[:-2] == ["RunStart", "step 0", "asked", "step 1", "asked", "step 2", "asked", "step 3"]
    assert events[-2:] == ["asked", "RunEnd"], "more steps may be asked for when the last one is there"


CHANGES: dict[str, list[dict[str, Any]]] = {
    "weights": [{}, {"a": -1.0, "b": 0.5}, {}],
    "numbers": [{}, {"step_size": 1.0}, {"step_size": 1.0, "noise": 0.1}, {}, {}],
    "ball": [{"radius": 1.0}, {"radius": 0.2}, {"norm": "linf", "radius": 0.05}],
    "plain": [{}, {}, {"normalised": False, "step_size": 0.01}],
    "back and forth": [{}, {"b": -1.0}, {}, {"b": -1.0}, {}],
    "at once": [{"b": -1.0}],
    "more steps": [{}, {"steps": 9}],
    "name": [{}, {"name": "custom"}],
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_live_change_is_replayed_from_spec_and_recorded_changes(net: str, changes: list[dict[str, Any]]) -> None:
    asked = spec(net, steps=6)
    rows = [replace(asked.sampler, **change) for change in changes]
    messages = list(runner.play(asked, live(rows)))
    start, steps, end = parts(messages)
    assert end.reason == "done"
    assert steps[0].sampler == asked.sampler
    assert [step.sampler for step in steps[1:]] == [rows[min(i, len(rows) - 1)] for i in range(len(steps) - 1)]

    session = Session(start)
    for step in steps:
        session.append(step)
    changed = dict(session.changes)
    recorded, row = [], asked.sampler
    for index in range(1, len(session)):
        row = changed.get(index, row)
        recorded.append(row)
    again = parts(list(runner.play(session.start.spec, live(recorded))))[1]
    same(steps, again)
    same(list(session), again)


def test_a_change_leaves_the_steps_before_it_alone(net: str) -> None:
    asked = spec(net)
    other = replace(asked.sampler, a=-1.0)
    straight = parts(list(runner.play(asked)))[1]
    changed = parts(list(runner.play(asked, live([asked.sampler, asked.sampler, other]))))[1]
    same(changed[:3], straight[:3])
    assert not np.array_equal(changed[3].pixels, straight[3].pixels)


def test_fewer_steps_end_a_run_that_is_beyond_them(net: str) -> None:
    asked = spec(net)
    _, steps, end = parts(list(runner.play(asked, live([asked.sampler] * 3 + [replace(asked.sampler, steps=1)]))))
    assert len(steps) == 4
    assert end.reason == "done"


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_stop_is_at_the_next_step_and_says_so(net: str, after: int) -> None:
    asked = spec(net)
    _, steps, end = parts(list(runner.play(asked, live([asked.sampler] * after + [None]))))
    assert len(steps) == after + 1
    assert end == RunEnd("a run", "stopped", "")
    same(steps, parts(list(runner.play(asked)))[1][: after + 1])


# Failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"checkpoint": "no-such-model"}, "There is no model or file called no-such-model"),
        ({"chains": (Chain(ImageStart("/no/such/cat.png"), label=1),)}, "There is no file cat.png in /no/such"),
        ({"chains": (Chain(ImageStart(__file__), label=1),)}, "test_runner.py is not an image"),
        ({"chains": (Chain(NoiseStart(), label=3),)}, "has no class 3: it has 0 to 2"),
        ({"chains": (Chain(NoiseStart(), label=-1),)}, "has no class -1: it has 0 to 2"),
        ({"chains": (Chain(GaussianStart(), label=1),)}, "There are no class Gaussians for the classes of this model"),
        ({"chains": (Chain(GaussianStart()),)}, "A class Gaussian start needs a class"),
    ],
)
def test_what_cannot_begin_is_an_end_that_says_why(net: str, change: dict[str, Any], says: str) -> None:
    messages = list(runner.play(replace(spec(net), **change)))
    assert len(messages) == 1
    assert says in failed(messages)


class Cliff(NamedTuple):
    """A smooth energy that has no value once chain 2 has gone far from where it began."""

    x0: Tensor
    value: float
    device: torch.device = torch.device("cpu")

    def __call__(self, x: Tensor) -> Tensor:
        logits = smooth(3, shape=(3, 16, 16))(x)
        gone = (x - self.x0).detach().flatten(1).norm(dim=1) > 0.6
        gone &= torch.arange(len(x)) == 1
        return torch.where(gone[:, None], self.value, logits)


@pytest.fixture
def cliff(net: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], RunSpec]:
    def asked(value: float) -> RunSpec:
        run = spec(net, "CS", steps=20)
        report = checkpoints.load(net, "cpu")[1]
        x0 = torch.from_numpy(starts.make(report, run.chains)[0])

        def load(*_: Any) -> tuple[Cliff, Checkpoint]:
            return Cliff(x0, value), report

        monkeypatch.setattr(checkpoints, "load", load)
        return run

    return asked


@pytest.mark.parametrize(
    ("value", "says"), [(float("nan"), "E(x) of chain 2 became nan"), (float("inf"), "E(x) of chain 2 became -inf")]
)
def test_an_energy_without_a_value_ends_the_run_and_keeps_the_steps_before(
    cliff: Callable[[float], RunSpec], value: float, says: str
) -> None:
    _, steps, end = parts(list(runner.play(cliff(value))))
    assert says in failed([end])
    assert f"at step {len(steps)}; the steps before are kept" in end.detail
    assert len(steps) == 3, "0.25 a step, beyond 0.6 with the third"
    assert all(np.isfinite(getattr(step, name)).all() for step in steps for name in ARRAYS)


def test_a_checkpoint_of_nans_fails_at_once(tmp_path: Path) -> None:
    tensors = tiny.weights() | {"linear.weight": torch.full((3, 32), torch.nan)}
    path = tiny.saved(tmp_path / "nan.safetensors", tensors)
    start, steps, end = parts(list(runner.play(spec(str(path)))))
    assert start.labels[:2] == (2, 0)
    assert steps == []
    assert "E(x) of chain 1 is nan at its start" in failed([end])


def test_a_gradient_without_a_value_fails(tmp_path: Path) -> None:
    tensors = tiny.weights()
    tensors["linear.weight"] *= 1e37  # logits that float32 can hold, with gradients whose length it cannot
    path = tiny.saved(tmp_path / "steep.safetensors", tensors)
    assert "The gradient of chain 1 is inf at its start" in failed(list(runner.play(spec(str(path)))))


@pytest.mark.parametrize(
    "numbers", [{"normalised": False, "step_size": 1000.0}, {"noise": 10.0}, {"step_size": 1000.0}]
)
def test_the_largest_numbers_allowed_break_nothing(net: str, numbers: dict[str, Any]) -> None:
    for sampler in ("RCS", "PGD-Linf"):
        _, steps, end = parts(list(runner.play(spec(net, sampler, **numbers))))
        assert end.reason == "done"
        assert len(steps) == 6
        assert all(0 <= step.pixels.min() <= step.pixels.max() <= 1 for step in steps)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nMore lines"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: 4 TB"),
    ],
    ids=["Python", "CUDA", "CPU"],
)
def test_too_little_memory_is_said_plainly(net: str, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    whole = samplers.read

    def read(logits_of: Any, sampler: Sampler, state: samplers.State) -> samplers.Reading:
        if state.step == 2:
            raise error
        return whole(logits_of, sampler, state)

    monkeypatch.setattr(samplers, "read", read)
    _, steps, end = parts(list(runner.play(spec(net))))
    assert len(steps) == 2
    assert failed([end]) == "3 chains do not fit into memory: use fewer."


@pytest.mark.parametrize(
    "error", [RuntimeError("it broke\nin two lines"), ZeroDivisionError(), OSError(5, "I/O error")]
)
def test_an_error_nobody_thought_of_is_an_end_too(net: str, caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    asked = spec(net)

    def following() -> Iterator[Sampler]:
        yield asked.sampler
        yield asked.sampler
        raise error

    rows = following()
    _, steps, end = parts(list(runner.play(asked, lambda: next(rows))))
    assert len(steps) == 3
    assert failed([end]).startswith("Something went wrong (")
    assert "the log file has the details" in end.detail
    assert "Traceback" in caplog.text


# The bundled model ------------------------------------------------------------------------------------------------


def test_ta_takes_the_sample_images_to_their_targets() -> None:
    classes = checkpoints.load(bundle.DEFAULT_MODEL, "cpu")[1].classes
    chains = tuple(
        Chain(ImageStart(str(path)), 0, (classes.index(bundle.sample_class(path)) + 5) % 10) for path in SAMPLES[::4]
    )
    _, steps, end = parts(list(runner.play(spec(bundle.DEFAULT_MODEL, "TA", chains, steps=40))))
    assert end.reason == "done"
    assert (np.exp(steps[0].log_p) < 0.2).all()
    assert (np.exp(steps[-1].log_p) > 0.5).all()


@pytest.mark.parametrize("sampler", ["PGD", "PGD-Linf"])
def test_pgd_climbs_cross_entropy_and_stays_in_its_ball(sampler: str) -> None:
    chains = tuple(Chain(ImageStart(str(path)), i) for i, path in enumerate(SAMPLES[::4]))
    _, steps, end = parts(list(runner.play(spec(bundle.DEFAULT_MODEL, sampler, chains, steps=10, random_start=False))))
    assert end.reason == "done"
    assert (steps[-1].log_p < steps[0].log_p).all()
    radius = SAMPLERS[sampler].radius
    assert radius is not None
    assert steps[-1].distance.max() == pytest.approx(radius, abs=1e-5)


def test_a_strong_attack_sinks_into_the_wells_of_the_standard_model_and_not_of_the_robust_one() -> None:
    """At L2 2.0 untargeted PGD lowers E(x) of nearly every sample for the standard twin, of few for the robust.

    The robust model's E(x) of a sample is nearly E(x,y), which the attack raises, and no other class comes near.
    """
    chains = tuple(Chain(ImageStart(str(path)), i) for i, path in enumerate(SAMPLES[::2]))
    falling = {}
    for name in bundle.models():
        asked = spec(name, "PGD", chains, radius=2.0, step_size=0.25, steps=15, random_start=False)
        _, steps, _ = parts(list(runner.play(asked)))
        falling[name] = float((steps[-1].energy < steps[0].energy).mean())
    assert falling["cifar10-standard"] >= 0.8
    assert falling["cifar10-robust-l2"] <= 0.3
