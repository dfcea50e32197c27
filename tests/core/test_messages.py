from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cem_core.messages import (
    MAX_CHAINS,
    MAX_SEED,
    MAX_STEPS,
    Chain,
    Checkpoint,
    Fact,
    GaussianStart,
    ImageStart,
    NoiseStart,
    Refused,
    ReplayStart,
    RunEnd,
    RunSpec,
    RunStart,
    Sampler,
    Step,
)
from cem_core.presets import ABOUT, FROM_DRAWS, FROM_IMAGES, ROUND, SAMPLERS, SPREAD, TOWARDS, default

# Numbers ----------------------------------------------------------------------------------------------------------

NO_NUMBERS = [math.nan, math.inf, -math.inf]
BAD: dict[str, tuple[str, list[Any]]] = {
    "a": ("Weight a", [*NO_NUMBERS, 10.01, -10.01, 1e300]),
    "b": ("Weight b", [*NO_NUMBERS, 10.01, -10.01, -1e300]),
    "step_size": ("Step size", [*NO_NUMBERS, 0, 0.0, -0.25, 1000.1, 1e300]),
    "noise": ("Noise", [*NO_NUMBERS, -1e-9, 10.1, 1e300]),
    "radius": ("Radius", [*NO_NUMBERS, 0, -1, 10_001, 1e300]),
    "steps": ("Steps", [0, -1, -(10**9), MAX_STEPS + 1, 10**18, math.nan, math.inf]),
}
BAD_NUMBERS = [(field, value, called) for field, (called, values) in BAD.items() for value in values]


@pytest.mark.parametrize(("field", "value", "called"), BAD_NUMBERS)
def test_a_number_out_of_range_is_refused_in_a_sentence(field: str, value: float, called: str) -> None:
    with pytest.raises(Refused) as refused:
        replace(SAMPLERS["RCS"], **{field: value})
    said = str(refused.value)
    assert said.startswith(f"{called} must be ")
    assert said.endswith(".")
    assert f"not {value:,}" in said or f"not {value:g}" in said
    with pytest.raises(Refused):
        Sampler(**{"name": "x", "a": 1, "b": 1, field: value})


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("a", [-10, 0, 10]),
        ("b", [-10, 0, 10]),
        ("step_size", [1e-9, 1000]),
        ("noise", [0, 10]),
        ("radius", [None, 1e-9, 10_000]),
        ("steps", [1, MAX_STEPS]),
    ],
)
def test_the_ends_of_each_range_are_allowed(field: str, values: list[Any]) -> None:
    for value in values:
        assert getattr(replace(SAMPLERS["RCS"], **{field: value}), field) == value


@pytest.mark.parametrize("field", [field for field in BAD if field != "steps"])
@given(value=st.floats())
def test_every_float_is_taken_as_it_is_or_refused(field: str, value: float) -> None:
    try:
        assert getattr(replace(SAMPLERS["RCS"], **{field: value}), field) == value
        assert math.isfinite(value)
    except Refused:
        pass


def test_a_random_start_needs_a_ball() -> None:
    with pytest.raises(Refused, match="A random start needs a ball: give a radius"):
        Sampler(name="x", a=1, b=1, random_start=True)
    with pytest.raises(Refused, match="A random start needs a ball"):
        replace(SAMPLERS["PGD"], radius=None)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**200, -(2**200)])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(Refused, match=f"A seed must be between 0 and {MAX_SEED}, not {seed}"):
        Chain(NoiseStart(), seed)


@pytest.mark.parametrize("count", [0, MAX_CHAINS + 1])
def test_a_run_without_or_with_too_many_chains_is_refused(count: int) -> None:
    with pytest.raises(Refused, match="A run needs between 1 and 1,024 chains"):
        RunSpec("x", "model", SAMPLERS["TA"], (Chain(NoiseStart()),) * count)


def test_a_refusal_is_a_value_error() -> None:
    assert issubclass(Refused, ValueError)


# JSON -------------------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8"), max_size=8)
samplers = st.builds(
    Sampler,
    name=words,
    a=st.floats(-10, 10),
    b=st.floats(-10, 10),
    step_size=st.floats(1e-9, 1000),
    noise=st.floats(0, 10),
    norm=st.sampled_from(["l2", "linf"]),
    radius=st.floats(1e-9, 10_000),
    steps=st.integers(1, MAX_STEPS),
    random_start=st.booleans(),
    normalised=st.booleans(),
) | st.builds(Sampler, name=words, a=st.floats(-10, 10), b=st.floats(-10, 10), radius=st.none())
begins = st.builds(ImageStart, words) | st.builds(GaussianStart) | st.builds(NoiseStart) | st.builds(ReplayStart)
chains = st.builds(Chain, begins, st.integers(0, MAX_SEED), st.none() | st.integers(0, 999))
specs = st.builds(
    RunSpec,
    words,
    words,
    samplers,
    st.lists(chains, min_size=1, max_size=4).map(tuple),
    st.sampled_from(["auto", "cpu", "cuda"]),
    st.sampled_from(["float32", "bfloat16"]),
    st.dictionaries(words, words, max_size=3),
)
several = st.lists(words, max_size=3).map(tuple)
facts = st.builds(
    Fact,
    words,
    words,
    st.sampled_from(["file", "name", "guess", "choice"]),
    st.floats(0, 1),
    several,
    st.booleans(),
    words,
)  # fmt: skip
checkpoints = st.builds(
    Checkpoint, words, words, words, words, words, st.integers(0, 10**9), st.lists(words).map(tuple),
    st.integers(1, 3), st.integers(1, 512), st.lists(facts, max_size=3).map(tuple), st.integers(0, 4096), several,
    several, several, st.integers(0, 10**6),
)  # fmt: skip
run_starts = st.builds(
    RunStart, specs, checkpoints, st.lists(st.integers(0, 999)).map(tuple), several, several, words,
    st.dictionaries(words, words, max_size=3),
)  # fmt: skip
run_ends = st.builds(RunEnd, words, st.sampled_from(["done", "stopped", "failed"]), words)


@given(samplers | chains | specs | checkpoints | run_starts | run_ends)
def test_a_message_survives_json(message: Any) -> None:
    again = msgspec.json.decode(msgspec.json.encode(message), type=type(message))
    assert again == message
    assert msgspec.json.encode(again) == msgspec.json.encode(message)


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": 0},
        {"step_size": -1},
        {"noise": "much"},
        {"norm": "l3"},
        {"a": None},
        {"stepsize": 1},
        {"random_start": True},
        {"steps": 1.5},
    ],
)
def test_json_that_is_no_sampler_is_refused(changed: dict[str, Any]) -> None:
    found = msgspec.to_builtins(SAMPLERS["RCS"]) | changed
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(found), type=Sampler)


def test_json_that_is_no_chain_is_refused() -> None:
    for text in ('{"start": {"kind": "video"}}', '{"start": {"kind": "noise"}, "seed": -1}', '{"seed": 1}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=Chain)


def test_messages_are_frozen() -> None:
    with pytest.raises(AttributeError):
        SAMPLERS["RCS"].a = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Chain(NoiseStart()).seed = 2  # type: ignore[misc]


def test_log_p_of_a_step() -> None:
    energy, joint = np.array([-3, -2], np.float32), np.array([-2.5, -2], np.float32)
    step = Step("x", 0, SAMPLERS["TA"], *[np.zeros(2, np.float32)], energy, joint, *[np.zeros(2, np.float32)] * 3)
    assert step.log_p.tolist() == [-0.5, 0]


# The presets ------------------------------------------------------------------------------------------------------


def test_the_weights_of_the_presets_are_those_of_the_theory() -> None:
    weights = {name: (row.a, row.b) for name, row in SAMPLERS.items()}
    assert weights == {
        "TA": (1, -1),
        "CS": (1, 0),
        "RCS": (1, 1),
        "Langevin": (0, 1),
        "PGD": (-1, 1),
        "PGD-targeted": (1, -1),
        "PGD-Linf": (-1, 1),
        "PGD-Linf-targeted": (1, -1),
        "MaxEnt": (0, -1),
        "PGD-unsup": (-1, 1),
    }
    assert {name for name, row in SAMPLERS.items() if row.coupled} == {"MaxEnt", "PGD-unsup"}
    assert all(row.norm == ("linf" if "Linf" in name else "l2") for name, row in SAMPLERS.items())
    assert all(
        (row.radius is not None) == (name.startswith("PGD") and not row.coupled) for name, row in SAMPLERS.items()
    )


def test_every_preset_has_its_sentence() -> None:
    assert list(ABOUT) == list(SAMPLERS)
    usual = {default(encoder=e, images=i, target=t) for e in (0, 1) for i in (0, 1) for t in (0, 1)}
    assert usual == {FROM_IMAGES, FROM_DRAWS, TOWARDS, ROUND, SPREAD} <= set(SAMPLERS)
    assert default(encoder=True, images=True, target=True) == "CS"
    assert default(encoder=True, images=True, target=False) == "Langevin"
    assert default(encoder=True, images=False, target=False) == "MaxEnt"
