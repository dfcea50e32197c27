"""A run that goes on is the run without an interruption; and what may be begun anywhere in a recorded one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from msgspec.structs import replace

from cem_core import bundle, checkpoints, recording, replaying, runner, starts
from cem_core.messages import (
    Chain,
    ImageStart,
    NoiseStart,
    Refused,
    RunEnd,
    RunSpec,
    RunStart,
    Sampler,
    SessionStart,
    Step,
)
from cem_core.presets import SAMPLERS
from cem_core.session import Session

ARRAYS = ("pixels", "energy", "joint", "logits", "gradient_norm", "distance")
STEPS = 9


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors"))


def spec(net: str, sampler: str = "RCS", chains: tuple[Chain, ...] | None = None, **changes: Any) -> RunSpec:
    chains = chains or (
        Chain(NoiseStart(), 1, 0),
        Chain(ImageStart(str(bundle.samples()[3])), 2),
        Chain(NoiseStart(), 3),
    )
    return RunSpec("a run", net, replace(SAMPLERS[sampler], **({"steps": STEPS} | changes)), chains, "cpu")


def play(asked: RunSpec, live: Callable[[], Sampler | None] | None = None) -> list[Step]:
    return [message for message in runner.play(asked, live) if isinstance(message, Step)]


def record(folder: Path, asked: RunSpec, until: int = STEPS, live: Callable[[], Sampler | None] | None = None) -> None:
    """The steps up to one; then the program is gone."""
    session: Session | None = None
    for message in runner.play(asked, live):
        if isinstance(message, RunStart):
            session = Session.record(folder, message)
        elif isinstance(message, Step) and session is not None:
            session.append(message)
            if message.index == until:
                break
    assert session is not None
    session.close()


def go_on(folder: Path, live: Callable[[], Sampler | None] | None = None) -> Session:
    session = Session.open(folder, write=True)
    for message in replaying.resume(session, live):
        assert not isinstance(message, RunStart)
        if isinstance(message, Step):
            session.append(message)
        else:
            session.finish(message)
    session.close()
    return Session.open(folder)


def same(left: list[Step], right: list[Step]) -> None:
    for step, again in zip(left, right, strict=True):
        assert (step.index, step.sampler) == (again.index, again.sampler)
        for name in ARRAYS:
            assert getattr(step, name).tobytes() == getattr(again, name).tobytes(), f"{name} of step {step.index}"


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "with noise": ("RCS", {"noise": 0.1}),
    "without": ("TA", {}),
    "in a ball": ("PGD-targeted", {"random_start": False}),
    "from a random point": ("PGD", {"random_start": True}),
    "in a box": ("PGD-Linf", {}),
    "plain": ("Langevin", {}),
}


@pytest.mark.parametrize("until", [0, 1, 5, STEPS])
@pytest.mark.parametrize(("sampler", "changes"), RUNS.values(), ids=RUNS)
def test_an_interrupted_run_goes_on_to_the_same_pixels(
    tmp_path: Path, net: str, sampler: str, changes: dict[str, Any], until: int
) -> None:
    chains = tuple(Chain(NoiseStart(), i, i) for i in range(3))
    asked = spec(net, sampler, chains, **changes)
    record(tmp_path / "run", asked, until)
    session = go_on(tmp_path / "run")
    same(list(session), play(asked))
    assert session.end == RunEnd("a run", "done")
    assert session.recording is not None
    assert session.recording.header.resumed == ()


def test_the_class_that_was_seen_stays_the_target(tmp_path: Path, net: str) -> None:
    asked = spec(net)
    record(tmp_path / "run", asked, 4)
    session = go_on(tmp_path / "run")
    same(list(session), play(asked))


def test_an_image_that_is_gone_is_not_missed(tmp_path: Path, net: str) -> None:
    cat = tmp_path / "cat.jpg"
    cat.write_bytes(bundle.samples()[0].read_bytes())
    asked = spec(net, "TA", (Chain(ImageStart(str(cat)), 0, 1),))
    whole = play(asked)
    record(tmp_path / "run", asked, 4)
    cat.unlink()
    same(list(go_on(tmp_path / "run")), whole)


def test_a_random_start_needs_its_image(tmp_path: Path, net: str) -> None:
    cat = tmp_path / "cat.jpg"
    cat.write_bytes(bundle.samples()[0].read_bytes())
    asked = spec(net, "PGD", (Chain(ImageStart(str(cat)), 0, 1),))
    record(tmp_path / "run", asked, 4)
    cat.write_bytes(bundle.samples()[1].read_bytes())
    with pytest.raises(Refused, match="its start is not what it was"):
        go_on(tmp_path / "run")
    cat.unlink()
    with pytest.raises(Refused, match=r"There is no file cat\.jpg"):
        go_on(tmp_path / "run")
    session = Session.open(tmp_path / "run")
    assert (len(session), session.end) == (5, None), "it is as it was"


def test_changes_made_on_the_way_are_kept(tmp_path: Path, net: str) -> None:
    asked = spec(net)
    other = replace(asked.sampler, b=-0.5, noise=0.2)
    rows = iter([asked.sampler, asked.sampler, *[other] * 20])
    again = iter([asked.sampler, asked.sampler, *[other] * 20])
    whole = play(asked, lambda: next(again))
    record(tmp_path / "run", asked, 5, lambda: next(rows))
    session = go_on(tmp_path / "run")
    same(list(session), whole)
    assert session.changes == [(3, other)]


def test_more_steps_than_were_asked_for(tmp_path: Path, net: str) -> None:
    asked = spec(net)
    record(tmp_path / "run", asked)
    longer = replace(asked.sampler, steps=STEPS + 4)
    session = go_on(tmp_path / "run", lambda: longer)
    again = play(replace(asked, sampler=longer))
    for step, expected in zip(session, again, strict=True):
        assert step.pixels.tobytes() == expected.pixels.tobytes()
    assert len(session) == STEPS + 5


def test_another_checkpoint_under_the_same_name_is_refused(tmp_path: Path, net: str) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(Path(net).read_bytes())
    record(tmp_path / "run", spec(str(file)), 3)
    tiny.saved(file, tiny.weights(seed=5))
    with pytest.raises(Refused, match="another file than the one that was recorded"):
        go_on(tmp_path / "run")
    file.unlink()
    with pytest.raises(Refused, match="There is no model or file"):
        go_on(tmp_path / "run")
    assert Session.open(tmp_path / "run").end is None


def test_another_version_is_put_down(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "run", spec(net), 3)
    monkeypatch.setattr(runner, "versions", lambda: {"torch": "99"})
    session = go_on(tmp_path / "run")
    assert session.recording is not None
    (resumed,) = session.recording.header.resumed
    assert resumed.step == 4
    assert any(said.startswith(f"torch ({torch.__version__}, now 99") for said in resumed.differs)


def test_a_run_that_diverged_diverges_again(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "run", spec(net), 3)
    real = runner._message

    def broken(*args: Any) -> Step:
        step = real(*args)
        return (
            replace(step, energy=np.where(np.arange(3) == 1, np.float32("nan"), step.energy))
            if step.index == 4
            else step
        )

    monkeypatch.setattr(runner, "_message", broken)
    session = go_on(tmp_path / "run")
    assert session.end is not None
    assert (session.end.reason, session.end.diverged) == ("failed", (1,))


def test_one_that_is_recorded_elsewhere_is_refused(tmp_path: Path, net: str) -> None:
    record(tmp_path / "run", spec(net), 3)
    first = Session.open(tmp_path / "run", write=True)
    with pytest.raises(Refused, match="another program records it"):
        next(replaying.resume(Session.open(tmp_path / "run", write=True)))
    first.close()


def test_one_without_steps_is_refused(tmp_path: Path, net: str) -> None:
    start = next(runner.play(spec(net)))
    assert isinstance(start, RunStart)
    Session.record(tmp_path / "run", start).close()
    session = Session.open(tmp_path / "run", write=True)
    with pytest.raises(Refused, match="no step to begin with"):
        next(replaying.resume(session))
    session.close()


# Forks -------------------------------------------------------------------------------------------------------------


def test_a_fork_begins_with_the_pixels_of_a_step(tmp_path: Path, net: str) -> None:
    record(tmp_path / "run", spec(net))
    parent = Session.open(tmp_path / "run")
    folder = str(tmp_path / "run")
    chains = (Chain(SessionStart(folder, 4, 1), 7, 2), Chain(NoiseStart(), 8), Chain(SessionStart(folder, 9, 0), 9))
    record(tmp_path / "fork", spec(net, "CS", chains), 3)
    fork = Session.open(tmp_path / "fork")
    np.testing.assert_array_equal(fork[0].pixels[[0, 2]], [parent[4].pixels[1], parent[9].pixels[0]])
    assert fork.start.names == (f"{parent.start.names[1]}, step 4", "noise", "noise, step 9")
    assert fork.start.notes == ("", "", "")
    assert fork.recording is not None
    assert fork.recording.header.origin == recording.Origin(folder, 4)
    assert [verdict.bit_equal for verdict in replaying.verify(fork)] == [True] * 4


def checkpoint(channels: int, size: int, net: str) -> Any:
    return replace(checkpoints.load(net, "cpu")[1], channels=channels, size=size)


def test_a_model_of_another_size_gets_scaled_pixels(tmp_path: Path, net: str) -> None:
    record(tmp_path / "run", spec(net), 2)
    start = SessionStart(str(tmp_path / "run"), 2, 1)
    pixels, _, notes = starts.make(checkpoint(3, 24, net), [Chain(start)])
    assert pixels.shape == (1, 3, 24, 24)
    assert pixels.dtype == np.float32
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert notes == ["16×16 → 24×24"]
    source = Session.open(tmp_path / "run")[2].pixels[1]
    np.testing.assert_allclose(pixels[0].mean((1, 2)), source.mean((1, 2)), atol=0.02)


def test_what_is_no_start_is_refused(tmp_path: Path, net: str) -> None:
    record(tmp_path / "run", spec(net), 2)
    folder = str(tmp_path / "run")
    for start, channels, says in (
        (SessionStart(folder, 3, 0), 3, "run has no step 3 to start from"),
        (SessionStart(folder, -1, 0), 3, "run has no step -1 to start from"),
        (SessionStart(folder, 1, 3), 3, "run has no chain 4: it has 3"),
        (SessionStart(folder, 1, -1), 3, "run has no chain 0"),
        (SessionStart(folder, 1, 0), 1, "images of 3 channels, and this model takes 1"),
        (SessionStart(str(tmp_path), 1, 0), 3, "is no session"),
        (SessionStart("\0", 1, 0), 3, "is no session"),
    ):
        with pytest.raises(Refused, match=says):
            starts.make(checkpoint(channels, 16, net), [Chain(start)])


def test_a_fork_in_a_message_is_one_in_json() -> None:
    import msgspec

    chain = Chain(SessionStart("/a", 3, 1), 5)
    assert msgspec.json.decode(msgspec.json.encode(chain), type=Chain) == chain
