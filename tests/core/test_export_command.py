"""The line that makes a run again: it is parsed by the command itself, and the same run must come out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios_session import CLASSES, session

from cem_core import cli, export
from cem_core.chains import lay_out
from cem_core.export.command import command, rows
from cem_core.messages import (
    Chain,
    GaussianStart,
    ImageStart,
    NoiseStart,
    Refused,
    ReplayStart,
    RunEnd,
    RunSpec,
    Sampler,
    SessionStart,
    Start,
)
from cem_core.presets import SAMPLERS

ODD = ("horse", "7", "horse", "", " dog ", "-x", "a b", "$HOME `ls` 'x'", "猫", "two\nlines")
"""Classes of which most are not found by their name."""


def run_of(spec: RunSpec, classes: tuple[str, ...] = CLASSES, **changes: Any) -> export.RunFile:
    """A run with these settings, of which nothing was changed."""
    known = export.settings(session(1))
    checkpoint = msgspec.structs.replace(known.checkpoint, classes=classes)
    plain: dict[str, Any] = {"changes": (), "end": None, "spec": spec, "checkpoint": checkpoint}
    return msgspec.structs.replace(known, **(plain | changes))


def asked(line: str, classes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> tuple[RunSpec, dict[str, Any]]:
    """What the command of a line would run."""
    caught: list[tuple[RunSpec, dict[str, Any]]] = []
    checkpoint = msgspec.structs.replace(session(1).start.checkpoint, classes=classes)

    def opened(options: dict[str, Any]) -> Any:
        said = (part.partition("=") for part in options["assumed"])
        options["choices"] = {fact: value for fact, _, value in said}
        return checkpoint

    with monkeypatch.context() as patched:
        patched.setattr(cli.runs, "_open", opened)
        patched.setattr(cli.runs, "_run", lambda spec, options: caught.append((spec, options)))
        program, *arguments = shlex.split(line)
        assert program == "cem-explorer"
        result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    return caught[0]


SAMPLERS_ = st.builds(
    Sampler,
    name=st.sampled_from([*SAMPLERS, "custom"]),
    a=st.floats(-10, 10),
    b=st.sampled_from([-1.0, 0.0, 1.0, 0.1 + 0.2]),
    step_size=st.sampled_from([0.25, 2 / 255, 1e-9, 1000.0]),
    noise=st.sampled_from([0.0, 0.01, 5e-324]),
    norm=st.sampled_from(["l2", "linf"]),
    radius=st.just(8 / 255) | st.floats(1e-6, 10),
    steps=st.integers(1, 100_000),
    random_start=st.booleans(),
    normalised=st.booleans(),
) | st.builds(
    Sampler,
    name=st.sampled_from([*SAMPLERS, "custom"]),
    a=st.just(1.0),
    b=st.just(0.0),
    steps=st.integers(1, 100),
)
STARTS = st.sampled_from([GaussianStart(), NoiseStart(), ReplayStart()]).map(lambda one: [one]) | st.lists(
    st.sampled_from(["/a.png", "/with space.png", "/it's.png", "/猫.png", "/$(rm)"]).map(ImageStart),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(
    sampler=SAMPLERS_,
    starts=STARTS,
    targets=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    count=st.integers(1, 12),
    seed=st.sampled_from([0, 7, 2**62]),
    classes=st.sampled_from([CLASSES, ODD]),
    device=st.sampled_from(["auto", "cpu"]),
    precision=st.sampled_from(["float32", "bfloat16"]),
    choices=st.sampled_from([{}, {"normalisation": "none", "layout": "a=b c"}]),
    checkpoint=st.sampled_from(["cifar10-robust-l2", "/my models/net.pt"]),
)
def test_what_the_window_and_the_options_lay_out_comes_back(
    sampler: Sampler,
    starts: list[Start],
    targets: list[int],
    count: int,
    seed: int,
    classes: tuple[str, ...],
    device: Any,
    precision: Any,
    choices: dict[str, str],
    checkpoint: str,
) -> None:
    chains = lay_out(sampler, starts, targets, count, seed)
    spec = RunSpec("an-id", checkpoint, sampler, chains, device, precision, choices)
    with pytest.MonkeyPatch.context() as monkeypatch:
        found, options = asked(command(run_of(spec, classes), out="to here"), classes, monkeypatch)
    row = msgspec.structs.replace(found.sampler, name=sampler.name)
    assert msgspec.structs.replace(found, id="an-id", sampler=row) == spec
    assert options["out"] == Path("to here")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_targets_one_by_one_come_back(data: st.DataObject) -> None:
    """As for the bundled images, each of which is sent to another class than its own."""
    paths = data.draw(st.lists(st.sampled_from(["/a.png", "/b.png", "/c.png"]), min_size=1, max_size=8))
    labels = data.draw(st.lists(st.integers(0, 9), min_size=len(paths), max_size=len(paths)))
    chains = tuple(
        Chain(ImageStart(path), 5 + i, label) for i, (path, label) in enumerate(zip(paths, labels, strict=True))
    )
    spec = RunSpec("an-id", "cifar10-robust-l2", SAMPLERS["TA"], chains)
    with pytest.MonkeyPatch.context() as monkeypatch:
        found, _ = asked(command(run_of(spec)), CLASSES, monkeypatch)
    assert found.chains == chains


def test_a_line_is_short_where_little_was_chosen() -> None:
    chains = lay_out(SAMPLERS["TA"], [ImageStart("/cat 1.png")], [5], 1)
    spec = RunSpec("id", "cifar10-robust-l2", SAMPLERS["TA"], chains)
    assert command(run_of(spec), out="to") == "cem-explorer morph '/cat 1.png' --target dog --sampler TA --out to"


def test_a_run_that_was_stopped_is_as_long_as_it_was() -> None:
    spec = RunSpec("id", "cifar10-robust-l2", SAMPLERS["TA"], (Chain(ImageStart("/a.png"), 0, 5),))
    stopped = run_of(spec, end=RunEnd("id", "stopped"), steps=18)
    assert "--steps 17" in command(stopped)


TWO_KINDS = (Chain(ImageStart("/a.png"), 0, 5), Chain(GaussianStart(), 1, 5))
OUT_OF_ORDER = (Chain(ImageStart("/a.png"), 0, 5), Chain(ImageStart("/a.png"), 9, 5))
FORKED = (Chain(SessionStart("/session", 3, 0), 0, 5),)
DASHED = (Chain(ImageStart("-rf"), 0, 5),)


@pytest.mark.parametrize("chains", [TWO_KINDS, OUT_OF_ORDER, FORKED, DASHED])
def test_what_options_cannot_say_is_taken_from_the_record(chains: tuple[Chain, ...]) -> None:
    run = run_of(RunSpec("id", "cifar10-robust-l2", SAMPLERS["TA"], chains))
    with pytest.raises(Refused, match=r"export it, and use --run with its run\.json"):
        command(run)
    line = command(run, at="/my run/run.json", out="to")
    assert line == "cem-explorer morph --run '/my run/run.json' --out to"


def test_a_sampler_that_was_changed_is_taken_from_the_record() -> None:
    run = export.settings(session(7))
    assert command(run, at="run.json") == "cem-explorer morph --run run.json --out morph"


def test_a_run_that_was_only_made_longer_can_be_said() -> None:
    spec = RunSpec("id", "cifar10-robust-l2", SAMPLERS["TA"], (Chain(ImageStart("/a.png"), 0, 5),))
    longer = msgspec.structs.replace(SAMPLERS["TA"], name="custom", steps=99)
    changes = (export.carried.Change(3, longer),)
    assert "--steps 99" in command(run_of(spec, changes=changes, steps=7))
    assert "--steps 80" in command(run_of(spec, changes=changes, steps=81, end=RunEnd("id", "done")))


# The rows of a run that is run again ------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["done", "stopped", None])
@pytest.mark.parametrize("recorded", [1, 2, 4, 7])
def test_the_rows_come_as_they_were_recorded(recorded: int, reason: Any) -> None:
    run = export.settings(session(recorded))
    run = msgspec.structs.replace(run, end=RunEnd("a-run", reason) if reason else None)
    live, index = rows(run), 0
    made = []
    while (row := live()) is not None and index < row.steps and index < 60:
        index += 1
        made.append(row)
    expected = [step.sampler for step in session(recorded)][1:]
    if reason is not None:
        assert len(made) == recorded - 1
        assert (row is None) == (reason == "stopped" or recorded == 1)
    else:
        assert len(made) == 60
    assert [row.a for row in made[: recorded - 1]] == [row.a for row in expected]
