from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from scenarios_session import SAMPLER
from scenarios_session import session as made

from cem_core import frames, recording, runner, sessions
from cem_core.cli import main
from cem_core.messages import Message, Refused, RunEnd, Step
from cem_core.session import Session
from cem_core.sessions import Settings

STEPS = list(made(steps=9))
START = made(steps=0).start
DONE = RunEnd("a-run", "done")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the sessions of one test, and the settings beside it."""
    monkeypatch.setenv(sessions.ELSEWHERE, str(tmp_path / "sessions"))
    monkeypatch.setattr(sessions, "_settings_file", lambda: tmp_path / "config" / "sessions.json")
    return tmp_path / "sessions"


def recorded(folder: Path, steps: int = 5, end: RunEnd | None = DONE, **given: Any) -> Path:
    session = Session.record(folder, msgspec.structs.replace(START, **given))
    for step in STEPS[:steps]:
        session.append(step)
    if end is not None:
        session.finish(end)
    session.close()
    return folder


def aged(folder: Path, created: str) -> Path:
    path = folder / "session.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**told, "created": created}), encoding="utf-8")
    return folder


# Where -------------------------------------------------------------------------------------------------------------


def test_the_environment_is_heard_before_the_settings(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sessions.root() == root
    sessions.save_settings(Settings(folder=str(tmp_path / "other")))
    assert sessions.root() == root
    monkeypatch.delenv(sessions.ELSEWHERE)
    assert sessions.root() == tmp_path / "other"
    sessions.save_settings(Settings())
    assert sessions.root().parts[-2:] == ("cem-explorer", "sessions")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"disk": -1}', '{"disk": "much"}', '{"colour": 1}', "\xff", "[" * 10**5, '{"memory": 1e400}']
)
def test_settings_that_are_none_are_the_usual(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "sessions.json").write_text(text, encoding="latin-1")
    assert sessions.settings() == Settings()


@given(st.text(max_size=80))
def test_a_folder_can_be_named_after_any_sampler(name: str) -> None:
    spec = msgspec.structs.replace(START.spec, sampler=msgspec.structs.replace(SAMPLER, name=name))
    place = sessions.new_folder(msgspec.structs.replace(START, spec=spec))
    assert place.parent == sessions.root()
    assert not set(place.name) & set('/\\:*?"<>|\0\n')
    assert place.name == place.name.strip()
    assert len(place.name.encode()) <= 255


def test_runs_of_the_same_second_have_places_of_their_own() -> None:
    names = set()
    for _ in range(4):
        session = sessions.record(START)
        assert session.recording is not None
        names.add(session.recording.folder.name)
        session.close()
    assert len(names) == 4


# What is there -----------------------------------------------------------------------------------------------------


def test_nothing_is_there_at_first() -> None:
    assert sessions.found() == []
    assert sessions.deleted() == []
    assert sessions.over_budget() == ""


def test_every_session_is_told_of(root: Path) -> None:
    aged(recorded(root / "a"), "2026-01-01T00:00:00+00:00")
    aged(recorded(root / "b", 3, None), "2026-01-03T00:00:00+01:00")
    aged(recorded(root / "c", 0, None), "not a date")
    running = Session.record(root / "d", START)
    (root / "no session").mkdir()
    (root / "file").touch()
    found = {Path(summary.folder).name: summary for summary in sessions.found()}
    assert list(found) == ["d", "b", "a", "c"]
    a, b, c, d = (found[name] for name in "abcd")
    assert (a.name, a.steps, a.chains, a.model, a.sampler) == ("a", 4, 3, "Robust CIFAR-10 (L2)", "RCS")
    assert (a.state, b.state, c.state, d.state) == ("done", "interrupted", "interrupted", "running elsewhere")
    assert [name for name in "abcd" if found[name].interrupted] == ["b", "c"]
    assert (b.steps, c.steps) == (2, 0)
    for name in "ab":
        whole = sum(path.stat().st_size for path in (root / name).rglob("*") if path.is_file())
        assert 0 <= whole - found[name].size < 2000, "all but what describes the array"
    running.close()


def test_a_damaged_one_is_told_of_with_its_sentence(root: Path) -> None:
    recorded(root / "whole")
    (recorded(root / "header") / "session.json").write_bytes(b"{")
    (recorded(root / "table") / "steps.sqlite").write_bytes(b"nothing")
    (recorded(root / "lost") / "steps.sqlite").unlink()
    found = {summary.name: summary for summary in sessions.found()}
    assert {name for name, summary in found.items() if summary.damaged} == {"header", "table", "lost"}
    for name in ("header", "table", "lost"):
        assert found[name].state == "damaged"
        assert not found[name].interrupted
        assert name in found[name].detail
        assert found[name].size > 1000


def test_a_session_is_found_by_a_name_or_its_beginning(root: Path) -> None:
    cat, dog = recorded(root / "cat to dog"), recorded(root / "cat to horse")
    recorded(root / "cat")
    session = Session.open(dog, write=True)
    assert session.recording is not None
    session.recording.rename("My favourite")
    session.close()
    assert sessions.resolve("cat to d") == cat
    assert sessions.resolve("cat") == root / "cat"
    assert sessions.resolve("My f") == dog
    assert sessions.resolve(str(cat)) == cat
    assert sessions.resolve(str(cat / "session.json")) == cat
    with pytest.raises(Refused, match="cat to may be any of"):
        sessions.resolve("cat to")
    for nobody in ("bird", "/no/such", "../cat"):
        with pytest.raises(Refused, match="There is no session called"):
            sessions.resolve(nobody)


def test_a_budget_is_pointed_out_with_the_oldest_first(root: Path) -> None:
    for number in range(5):
        aged(recorded(root / f"run {number}"), f"2026-01-0{number + 1}T00:00:00+00:00")
    total = sum(summary.size for summary in sessions.found())
    sessions.save_settings(Settings(disk=total))
    assert sessions.over_budget() == ""
    sessions.save_settings(Settings(disk=total - 1))
    assert "run 0 (" in sessions.over_budget()
    assert "run 1" not in sessions.over_budget()
    sessions.save_settings(Settings(disk=0))
    assert "run 2 (" in sessions.over_budget()
    assert sessions.over_budget().endswith("and 2 more could be deleted.")
    assert len(sessions.found()) == 5, "nothing is deleted by itself"


@pytest.mark.parametrize(
    ("nbytes", "says"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (21_474_836_480, "21.5 GB"), (10**15, "1,000.0 TB")],
)
def test_sizes_are_told_as_people_say_them(nbytes: int, says: str) -> None:
    assert sessions.told_size(nbytes) == says


# What is done ------------------------------------------------------------------------------------------------------


def test_what_was_deleted_comes_back(root: Path) -> None:
    folder = recorded(root / "run")
    assert sessions.delete(folder) == "run"
    assert sessions.found() == []
    assert sessions.deleted() == ["run"]
    recorded(root / "run")
    assert sessions.delete(folder) == "run (2)"
    assert sessions.restore("run") == folder
    assert sessions.restore("run (2)") == root / "run (2)"
    assert [len(Session.open(Path(summary.folder))) for summary in sessions.found()] == [5, 5]
    sessions.delete(folder)
    sessions.empty_trash()
    sessions.empty_trash()
    assert sessions.deleted() == []
    with pytest.raises(Refused, match="There is no run in the trash"):
        sessions.restore("run")


def test_what_is_being_recorded_or_is_no_session_is_not_deleted(root: Path) -> None:
    session = Session.record(root / "run", START)
    with pytest.raises(Refused, match="being recorded"):
        sessions.delete(root / "run")
    with pytest.raises(Refused, match="being recorded"):
        sessions.thin(root / "run", 2)
    session.close()
    with pytest.raises(Refused, match="no session"):
        sessions.delete(root)
    assert (root / "run" / "session.json").exists()


def test_thinning_keeps_each_kth_step_the_last_and_all_numbers(root: Path) -> None:
    folder = recorded(root / "run", 9)
    before = sessions.summarise(folder)
    assert sessions.thin(folder, 3) == 5
    session = Session.open(folder)
    assert [index for index in range(9) if session.kept(index)] == [0, 3, 6, 8]
    for step in STEPS:
        if session.kept(step.index):
            assert session[step.index].pixels.tobytes() == step.pixels.tobytes()
        else:
            with pytest.raises(OSError, match=f"step {step.index} were thinned out: kept are those of one step in 3"):
                session[step.index]
    np.testing.assert_array_equal(session.numbers.logits, [step.logits for step in STEPS])
    assert session.end == RunEnd("a-run", "done")
    assert recording.read_header(folder).thinned == 3
    after = sessions.summarise(folder)
    assert (after.thinned, after.steps) == (3, before.steps)
    assert after.size < before.size
    assert len(list((folder / "pixels").iterdir())) == 5


def test_thinning_goes_on_where_it_was(root: Path) -> None:
    folder = recorded(root / "run", 9)
    sessions.thin(folder, 2)
    for every in (-1, 0, 1, 3):
        with pytest.raises(Refused, match=f"One step in {every} cannot be kept: choose a multiple of 2"):
            sessions.thin(folder, every)
    assert sessions.thin(folder, 4) == 2
    session = Session.open(folder)
    assert [index for index in range(9) if session.kept(index)] == [0, 4, 8]


def test_a_thinned_session_goes_on_with_every_step(root: Path) -> None:
    folder = recorded(root / "run", 6, None)
    sessions.thin(folder, 5)
    session = Session.open(folder, write=True)
    for step in STEPS[6:]:
        session.append(step)
    session.close()
    session = Session.open(folder)
    assert [index for index in range(9) if session.kept(index)] == [0, 5, 6, 7, 8]


@pytest.mark.parametrize("every", [1, 0, -2])
def test_only_two_or_more_thin(root: Path, every: int) -> None:
    folder = recorded(root / "run")
    with pytest.raises(Refused, match="choose 2 or more"):
        sessions.thin(folder, every)
    assert not recording.is_held(folder)
    assert all(Session.open(folder).kept(index) for index in range(5))


# The command line --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors"))


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def ran(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def morph(net: str, *more: object) -> list[object]:
    return ["morph", "--start", "noise", "--target", "dog", "--checkpoint", net, "--steps", 4, "--chains", 2, *more]


def test_morph_records_and_the_rest_is_told_of(net: str, root: Path) -> None:
    ran(*morph(net, "--record"))
    (summary,) = json.loads(ran("sessions", "--json"))
    assert (summary["steps"], summary["state"], summary["sampler"]) == (4, "done", "RCS")
    assert Path(summary["folder"]).parent == root
    assert summary["name"] in ran("sessions")
    told = json.loads(ran("replay", summary["name"], "--verify", "--json"))
    assert told["verdict"]["bit_equal"]
    assert told["verdict"]["sentence"] == "All 5 steps are bit-equal."
    assert {event["kind"] for event in told["events"]} >= {"energy minimum", "largest jump"}
    assert "All 5 steps are bit-equal." in ran("replay", summary["name"], "--verify")


def test_nothing_is_recorded_unless_asked(net: str, root: Path, tmp_path: Path) -> None:
    ran(*morph(net, "--formats", "csv", "--out", tmp_path / "out"))
    assert not root.exists()


def test_morph_records_into_a_folder_and_exports_too(net: str, tmp_path: Path) -> None:
    ran(*morph(net, "--formats", "csv", "--out", tmp_path / "out", "--session", tmp_path / "mine"))
    assert (tmp_path / "out").exists()
    session = Session.open(tmp_path / "mine")
    assert (len(session), session.end and session.end.reason) == (5, "done")
    assert "is there already" in refused(run(*morph(net, "--session", tmp_path / "mine")))


def test_either_an_export_or_a_recording(net: str) -> None:
    result = run(*morph(net))
    assert result.exit_code == 2
    assert "--out" in result.stderr
    assert "--record" in result.stderr


def test_resume_goes_on_to_the_same_pixels(net: str, tmp_path: Path) -> None:
    ran(*morph(net, "--session", tmp_path / "short"))
    assert "It has its 4 steps: ask for more with --steps." in refused(run("resume", tmp_path / "short"))
    ran("resume", tmp_path / "short", "--steps", 7)
    ran(*morph(net, "--session", tmp_path / "long", "--steps", 7))
    short, long = Session.open(tmp_path / "short"), Session.open(tmp_path / "long")
    for one, other in zip(short, long, strict=True):
        assert one.pixels.tobytes() == other.pixels.tobytes()
    assert short.end is not None
    assert short.end.reason == "done"


def test_what_is_recorded_elsewhere_is_not_resumed(net: str, tmp_path: Path) -> None:
    ran(*morph(net, "--session", tmp_path / "run"))
    session = Session.open(tmp_path / "run", write=True)
    assert "another program records it" in refused(run("resume", tmp_path / "run", "--steps", 9))
    session.close()


class Interrupted:
    """A run in which Ctrl-C is pressed after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.play = runner.play

    def __call__(self, *args: Any) -> Iterator[Message]:
        for message in self.play(*args):
            yield message
            if isinstance(message, Step) and message.index == self.after:
                raise KeyboardInterrupt


def test_ctrl_c_leaves_a_session_that_was_stopped(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runner, "play", Interrupted(2))
        result = run(*morph(net, "--session", tmp_path / "run"))
    assert result.exit_code == 1
    assert "Aborted" in result.stderr
    summary = sessions.summarise(tmp_path / "run")
    assert (summary.steps, summary.state) == (2, "stopped")
    ran("resume", tmp_path / "run")
    assert "bit-equal" in ran("replay", tmp_path / "run", "--verify")
    assert sessions.summarise(tmp_path / "run").steps == 4


def test_a_full_disk_is_said_and_the_run_can_go_on(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = frames.put, [6]

    def put(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(frames, "put", put)
        said = refused(run(*morph(net, "--session", tmp_path / "run")))
    assert "could not be recorded any longer (No space left on device): make room, and resume the session." in said
    assert sessions.summarise(tmp_path / "run").state == "interrupted"
    ran("resume", tmp_path / "run")
    ran("replay", tmp_path / "run", "--verify")
    assert sessions.summarise(tmp_path / "run").state == "done"


def test_verify_fails_where_the_record_was_changed(net: str, tmp_path: Path) -> None:
    ran(*morph(net, "--session", tmp_path / "run"))
    pixels = Session.open(tmp_path / "run")[1].pixels
    frames.Frames(tmp_path / "run" / "pixels", pixels.shape).write(1, 1 - pixels)
    result = run("replay", tmp_path / "run", "--verify")
    assert result.exit_code == 1
    assert "From step 1 on it differs" in result.stdout
    (tmp_path / "run" / "pixels" / "c.1.0.0.0.0").unlink()
    assert "The pixels of step 1 are missing" in refused(run("replay", tmp_path / "run", "--verify"))


def test_verify_tells_steps_that_are_missing_at_the_end(net: str, tmp_path: Path) -> None:
    ran(*morph(net, "--session", tmp_path / "run"))
    last = len(Session.open(tmp_path / "run")) - 1
    (tmp_path / "run" / "pixels" / f"c.{last}.0.0.0.0").unlink()
    result = run("replay", tmp_path / "run", "--verify")
    assert result.exit_code == 1
    assert "the pixels of the last step are missing or damaged: resume makes them again" in result.stderr
    ran("resume", tmp_path / "run")
    assert "bit-equal" in ran("replay", tmp_path / "run", "--verify")


def test_a_run_that_was_killed_after_its_last_step_is_done(net: str, tmp_path: Path) -> None:
    ran(*morph(net, "--session", tmp_path / "run"))
    with closing(sqlite3.connect(tmp_path / "run" / "steps.sqlite")) as table, table:
        table.execute("DELETE FROM ended")
    assert sessions.summarise(tmp_path / "run").state == "interrupted"
    ran("resume", tmp_path / "run")
    assert sessions.summarise(tmp_path / "run").state == "done"
    assert "It has its" in refused(run("resume", tmp_path / "run"))


def test_a_budget_is_remembered_and_pointed_out(net: str, root: Path, tmp_path: Path) -> None:
    recorded(root / "a run")
    result = run("sessions", "--disk", 0.000001, "--memory", 100)
    assert "a run (" in result.stderr
    assert "could be deleted" in result.stderr
    assert sessions.settings() == Settings(disk=1000, memory=10**8)
    result = run(*morph(net, "--record"))
    assert result.exit_code == 0
    assert result.stderr.startswith("Note: Sessions take")


def test_sessions_are_deleted_restored_and_thinned(root: Path) -> None:
    recorded(root / "a run", 9)
    result = run("sessions", "--delete", "a r")
    assert "--restore 'a run'" in result.stderr
    assert json.loads(ran("sessions", "--json")) == []
    ran("sessions", "--restore", "a run")
    assert "The pixels of 6 steps are gone." in run("sessions", "--thin", "a run", 4).stderr
    assert "thinned 4" in ran("sessions")
    ran("sessions", "--delete", "a run")
    ran("sessions", "--empty-trash")
    assert "There is no a run in the trash." in refused(run("sessions", "--restore", "a run"))
    assert list(root.rglob("*.json")) == []


@pytest.mark.parametrize("command", ["replay", "resume"])
def test_bad_sessions_are_refused(command: str, root: Path, tmp_path: Path) -> None:
    (recorded(root / "newer") / "session.json").write_text('{"format": 99, "version": "9"}', encoding="utf-8")
    assert "newer CEM Explorer (9)" in refused(run(command, "newer"))
    assert "There is no session called nobody" in refused(run(command, "nobody"))
    assert "There is no session called" in refused(run(command, tmp_path / "nothing"))


def test_a_damaged_session_does_not_hide_the_others(root: Path) -> None:
    recorded(root / "one")
    (recorded(root / "two") / "session.json").write_text("[", encoding="utf-8")
    listed = ran("sessions")
    assert "one" in listed
    assert "damaged" in listed
    assert "two has a damaged session.json" in listed


def test_a_root_that_cannot_be_read_is_refused(root: Path) -> None:
    root.parent.mkdir(exist_ok=True)
    root.write_text("not a folder", encoding="utf-8")
    assert "cannot be read" in refused(run("sessions"))
    with pytest.raises(Refused, match="cannot be written"):
        sessions.record(START)
