"""The run in sight, as the window sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from windows import LONG, Wait, discard, spec

from cem_core.messages import RunEnd, Sampler
from cem_gui.player import Player
from cem_gui.worker import Mailbox


class Witness:
    """Remembers what a player said, in order."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.said: list[object] = []
        player.began.connect(lambda: self.said.append(("began", player.session.start.spec.id)))
        player.grew.connect(lambda step: self.said.append(("grew", step.index)))
        player.ended.connect(lambda end: self.said.append(("ended", end.run, end.reason)))
        player.gait_changed.connect(lambda: self.said.append(player.gait))

    @property
    def grown(self) -> list[int]:
        return [line[1] for line in self.said if line[0] == "grew"]


@pytest.fixture
def player(qapp) -> Iterator[Player]:
    player = Player()
    player.start()
    yield player
    player.finish()
    discard(player)


@pytest.fixture
def witness(player: Player) -> Witness:
    return Witness(player)


def test_a_run_that_is_begun_paused_waits_at_its_start(player: Player, witness: Witness, wait: Wait) -> None:
    assert not player.waits
    player.begin(spec(), "paused")
    assert player.waits
    wait(lambda: player.session is not None)
    assert witness.said == ["paused", ("began", "a run")]
    assert player.live
    assert player.waits
    assert player.describe(5) == "Ready · Space runs"
    assert [step.index for step in player.session] == [0]


def test_it_runs_to_the_end_and_says_the_last_step(player: Player, witness: Witness, wait: Wait) -> None:
    player.begin(spec(steps=12), "running")
    wait(lambda: player.gait == "ended")
    assert witness.said[0] == "running"
    assert witness.said[1] == ("began", "a run")
    assert witness.said[-2:] == ["ended", ("ended", "a run", "done")]
    assert witness.grown == sorted(set(witness.grown))
    assert witness.grown[-1] == 12
    assert not player.live
    assert not player.waits
    assert player.rate > 0
    assert player.describe(12).startswith("Done after 12 steps · ")


def test_the_last_step_is_said_however_late_its_letter_is(player: Player, witness: Witness, wait: Wait) -> None:
    """A step is recorded before it is posted: the player may look between the two."""
    recorded, looked, last = threading.Event(), threading.Event(), 3

    class Late(Mailbox):
        def moved(self, step) -> None:
            if step.index == last:
                recorded.set()
                looked.wait(LONG / 1000)
            super().moved(step)

        def empty(self):
            if recorded.is_set():
                looked.set()
            news = super().empty()
            if news.step is not None and news.step.index == last - 1:
                recorded.wait(LONG / 1000)
            return news

    player._thread.worker.mailbox = Late()
    player.begin(spec(steps=last), "running")
    wait(lambda: player.gait == "ended")
    assert witness.grown[-1] == last


def test_one_step_after_the_other(player: Player, witness: Witness, wait: Wait) -> None:
    player.begin(spec(), "paused")
    wait(lambda: player.session is not None)
    for number in (1, 2):
        player.one_step()
        wait(lambda number=number: witness.grown[-1:] == [number])
    assert witness.grown == [1, 2]
    assert player.gait == "paused"
    assert player.describe(5) == "Paused at step 2 · Space goes on"
    player.go("running")
    assert player.gait == "running"
    wait(lambda: player.gait == "ended")
    assert witness.grown[-1] == 5


def test_a_run_may_be_told_to_step_before_it_has_begun(player: Player, witness: Witness, wait: Wait) -> None:
    player.begin(spec(), "paused")
    player.one_step()
    wait(lambda: player.session is not None and len(player.session) == 2)
    assert player.live


def test_stop_ends_it_and_nothing_more_can_be_asked(player: Player, witness: Witness, wait: Wait) -> None:
    player.begin(spec(steps=1000), "running")
    wait(lambda: witness.grown)
    player.stop()
    wait(lambda: player.gait == "ended")
    assert witness.said[-1] == ("ended", "a run", "stopped")
    said, recorded = list(witness.said), len(player.session)
    player.go("running")
    player.one_step()
    assert witness.said == said
    assert player.gait == "ended"
    assert len(player.session) == recorded
    assert player.describe(1000).startswith(f"Stopped after {recorded - 1} steps")


def test_a_change_reaches_the_run(player: Player, wait: Wait) -> None:
    wanted = spec()
    other: Sampler = msgspec.structs.replace(wanted.sampler, a=0.5)
    player.begin(wanted, "paused")
    wait(lambda: player.session is not None)
    player.change(other)
    player.one_step()
    wait(lambda: len(player.session) == 2)
    assert player.session.changes == [(1, other)]


def test_another_run_ends_the_one_in_progress(player: Player, witness: Witness, wait: Wait) -> None:
    player.begin(spec(name="first", steps=1000), "running")
    wait(lambda: witness.grown)
    first = player.session
    player.begin(spec(name="second", steps=2), "running")
    wait(lambda: player.gait == "ended")
    assert player.session.start.spec.id == "second"
    assert first.end.reason == "stopped"
    assert player.previous is first
    assert ("ended", "first", "stopped") not in witness.said


def test_of_many_runs_in_a_row_the_last_is_shown(player: Player, witness: Witness, wait: Wait) -> None:
    for number in range(20):
        player.begin(spec(name=str(number)), "paused")
    wait(lambda: player.live)
    assert [line for line in witness.said if line[0] == "began"][-1] == ("began", "19")
    assert player.previous is None


def test_back_and_forth_between_two_runs(player: Player, witness: Witness, wait: Wait) -> None:
    player.back()
    assert witness.said == []
    for name, steps in (("first", 2), ("second", 3)):
        player.begin(spec(name=name, steps=steps), "running")
        wait(lambda name=name: ("ended", name, "done") in witness.said)
    second = player.session
    player.back()
    first = player.session
    assert first.start.spec.id == "first"
    assert player.previous is second
    assert witness.said[-2:] == ["ended", ("began", "first")]
    assert player.rate == 0  # that of the other run would be no answer
    assert player.describe(2) == "Done after 2 steps · not recorded"
    player.back()
    assert player.session is second
    assert player.previous is first


def test_back_from_a_run_in_progress_stops_it(player: Player, witness: Witness, wait: Wait) -> None:
    player.begin(spec(name="first", steps=2), "running")
    wait(lambda: player.gait == "ended")
    player.begin(spec(name="second", steps=1000), "running")
    wait(lambda: player.live and len(player.session) > 2)
    second = player.session
    player.back()
    wait(lambda: second.end is not None)
    assert second.end.reason == "stopped"
    assert not player.live
    assert player.session.start.spec.id == "first"
    assert player.gait == "ended"


def test_a_run_that_cannot_begin_leaves_the_session(player: Player, witness: Witness, wait: Wait) -> None:
    player.begin(spec(steps=2), "running")
    wait(lambda: player.gait == "ended")
    session = player.session
    before = np.stack([step.pixels for step in session])
    player.begin(msgspec.structs.replace(spec(name="bad"), checkpoint="no such model"), "running")
    wait(lambda: witness.said[-1] == ("ended", "bad", "failed"))
    assert player.session is session
    assert player.gait == "ended"
    assert not player.live
    assert np.array_equal(np.stack([step.pixels for step in session]), before)
    assert session.end == RunEnd("a run", "done")


def test_to_finish_a_second_time_does_nothing(player: Player, wait: Wait) -> None:
    player.begin(spec(steps=1000), "running")
    wait(lambda: player.session is not None)
    player.finish()
    player.finish()
    assert player.session.end.reason == "stopped"
