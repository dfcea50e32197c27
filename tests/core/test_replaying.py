from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from msgspec.structs import replace

from cem_core import bundle, frames, replaying, runner, sessions
from cem_core.messages import Chain, ImageStart, NoiseStart, Refused, RunSpec, RunStart, Sampler, Step
from cem_core.presets import SAMPLERS
from cem_core.replaying import Verdict
from cem_core.session import Session

STEPS = 6


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors"))


def record(folder: Path, net: str, *, live: Callable[[], Sampler | None] | None = None, sampler: str = "RCS",
           chains: tuple[Chain, ...] = (Chain(NoiseStart(), 1, 0), Chain(NoiseStart(), 2))) -> Session:  # fmt: skip
    session: Session | None = None
    for message in runner.play(RunSpec("a run", net, replace(SAMPLERS[sampler], steps=STEPS), chains, "cpu"), live):
        if isinstance(message, RunStart):
            session = Session.record(folder, message)
        elif isinstance(message, Step):
            assert session is not None
            session.append(message)
        elif session is not None:
            session.finish(message)
    assert session is not None
    session.close()
    return session


def verdict(session: Session) -> Verdict:
    *_, last = replaying.verify(session)
    return last


@pytest.mark.parametrize("sampler", ["RCS", "TA", "PGD", "PGD-Linf"])
def test_a_run_comes_out_the_same(tmp_path: Path, net: str, sampler: str) -> None:
    record(tmp_path / "run", net, sampler=sampler, chains=tuple(Chain(NoiseStart(), i, i) for i in range(3)))
    found = list(replaying.verify(Session.open(tmp_path / "run")))
    assert [so_far.steps for so_far in found] == list(range(1, STEPS + 2))
    assert found[-1] == Verdict(STEPS + 1)
    assert found[-1].sentence == "All 7 steps are bit-equal."


def test_every_change_on_the_way_is_made_again(tmp_path: Path, net: str) -> None:
    row = replace(SAMPLERS["RCS"], steps=STEPS)
    rows = iter([row, replace(row, b=-1.0), row, replace(row, steps=5), replace(row, steps=2)])
    session = record(tmp_path / "run", net, live=lambda: next(rows))
    assert len(session) > 3
    assert verdict(Session.open(tmp_path / "run")) == Verdict(len(session))


def test_a_run_that_was_stopped_is_run_as_far(tmp_path: Path, net: str) -> None:
    rows = iter([SAMPLERS["RCS"], SAMPLERS["RCS"], None])
    record(tmp_path / "run", net, live=lambda: next(rows))
    assert verdict(Session.open(tmp_path / "run")) == Verdict(3)


def test_an_image_that_is_gone_is_not_needed(tmp_path: Path, net: str) -> None:
    cat = tmp_path / "cat.jpg"
    cat.write_bytes(bundle.samples()[0].read_bytes())
    record(tmp_path / "run", net, chains=(Chain(ImageStart(str(cat)), 0, 1),))
    cat.unlink()
    assert verdict(Session.open(tmp_path / "run")) == Verdict(STEPS + 1)


def test_what_differs_is_measured(tmp_path: Path, net: str) -> None:
    session = record(tmp_path / "run", net)
    pixels = session[3].pixels.copy()
    pixels[1, 0, 0, 0] += np.float32(0.25) if pixels[1, 0, 0, 0] < 0.5 else np.float32(-0.25)
    frames.Frames(tmp_path / "run" / "pixels", pixels.shape).write(3, pixels)
    found = verdict(Session.open(tmp_path / "run"))
    assert (found.steps, found.bit_equal, found.first, found.energy) == (STEPS + 1, False, 3, 0)
    assert found.pixels == pytest.approx(0.25)
    assert found.sentence == "From step 3 on it differs: by at most 0.25 in a pixel and 0 in E(x), over 7 steps."


def test_another_device_or_version_is_said_and_promises_nothing(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "run", net)
    known = runner.versions()
    monkeypatch.setattr(runner, "versions", lambda: {**known, "torch": "99"})
    monkeypatch.setattr(runner, "device_name", lambda _: "NVIDIA H100")
    session = Session.open(tmp_path / "run")
    found = verdict(session)
    assert found.bit_equal
    assert found.differs == ("device (CPU, now NVIDIA H100)", f"torch ({known['torch']}, now 99)")
    assert (
        f"bit-equal. This is another device (CPU, now NVIDIA H100), torch ({known['torch']}, now 99)." in found.sentence
    )
    session._scalars["energy"][2] += 1
    assert verdict(session).sentence.endswith("Equal pixels are promised only where nothing has changed.")


def test_thinned_steps_are_compared_by_their_numbers(tmp_path: Path, net: str) -> None:
    record(tmp_path / "run", net)
    sessions.thin(tmp_path / "run", 4)
    found = verdict(Session.open(tmp_path / "run"))
    assert (found.bit_equal, found.thinned) == (True, 4)
    assert found.sentence == "All 7 steps are bit-equal. Of 4 of them the pixels were thinned out."


def test_a_model_that_is_gone_is_refused(tmp_path: Path) -> None:
    file = tiny.saved(tmp_path / "net.safetensors")
    record(tmp_path / "run", str(file))
    file.unlink()
    with pytest.raises(Refused, match="There is no model or file"):
        verdict(Session.open(tmp_path / "run"))


def test_a_step_that_is_damaged_is_an_error_in_a_sentence(tmp_path: Path, net: str) -> None:
    record(tmp_path / "run", net)
    (tmp_path / "run" / "pixels" / "c.2.0.0.0.0").unlink()
    with pytest.raises(OSError, match="The pixels of step 2 are missing"):
        verdict(Session.open(tmp_path / "run"))


def test_a_session_without_steps_is_refused(tmp_path: Path, net: str) -> None:
    start: Any = record(tmp_path / "run", net).start
    Session.record(tmp_path / "empty", start).close()
    with pytest.raises(Refused, match="no step to begin with"):
        verdict(Session.open(tmp_path / "empty"))


def test_a_run_of_random_starts_needs_what_it_began_with(tmp_path: Path, net: str) -> None:
    cat = tmp_path / "cat.jpg"
    cat.write_bytes(bundle.samples()[0].read_bytes())
    record(tmp_path / "run", net, sampler="PGD", chains=(Chain(ImageStart(str(cat)), 0, 1),))
    assert verdict(Session.open(tmp_path / "run")).bit_equal
    cat.unlink()
    with pytest.raises(Refused, match=r"There is no file cat\.jpg"):
        verdict(Session.open(tmp_path / "run"))
