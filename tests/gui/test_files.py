"""The file thread: checkpoints, images and exports."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from PySide6.QtCore import QObject, Slot
from scenarios_session import session as scenario
from windows import Wait, save_image

from cem_core import bundle, checkpoints, export
from cem_core.export import Export, Progress
from cem_core.messages import Refused
from cem_core.session import Session
from cem_gui.files import Files, FilesThread, Opening, OpenModel, Verdict


class Boss(QObject):
    """Asks and hears as the window does."""

    def __init__(self, thread: FilesThread) -> None:
        super().__init__()
        self.thread, self.files = thread, thread.files
        self.said: list[tuple[str, object]] = []
        files: Files = thread.files
        files.progress.connect(self.hear_share)
        files.opened.connect(self.hear_opened)
        files.refused.connect(self.hear_refused)
        files.checked.connect(self.hear_checked)
        files.zoo_listed.connect(self.hear_zoo)
        files.sifted.connect(self.hear_sifted)
        files.exporting.connect(self.hear_progress)
        files.exported.connect(self.hear_exported)
        files.measured.connect(self.hear_measured)

    def open(self, reference: str, choices: dict[str, str] | None = None) -> Opening:
        opening = Opening(reference, "cpu", "float32", choices, remember=choices is not None)
        self.files.open(opening)
        return opening

    @Slot(object, str, float)
    def hear_share(self, opening: Opening, what: str, share: float) -> None:
        self.said.append(("share", (opening.reference, what, share)))

    @Slot(object, object)
    def hear_opened(self, opening: Opening, model: OpenModel) -> None:
        assert not opening.cancelled.is_set()
        self.said.append(("opened", model))

    @Slot(object, str)
    def hear_refused(self, opening: Opening, sentence: str) -> None:
        self.said.append(("refused", (opening.reference, sentence)))

    @Slot(object, object)
    def hear_checked(self, model: OpenModel, verdict: Verdict | None) -> None:
        self.said.append(("checked", (model.reference, verdict)))

    @Slot(list, str)
    def hear_zoo(self, entries: list, problem: str) -> None:
        self.said.append(("zoo", (entries, problem)))

    @Slot(list, list)
    def hear_sifted(self, good: list[str], bad: list[str]) -> None:
        self.said.append(("sifted", (good, bad)))

    @Slot(object)
    def hear_progress(self, progress: Progress) -> None:
        self.said.append(("progress", progress))

    @Slot(str, str)
    def hear_exported(self, folder: str, problem: str) -> None:
        self.said.append(("exported", (folder, problem)))

    @Slot(object, str, str)
    def hear_measured(self, choices: Export, name: str, sentence: str) -> None:
        self.said.append(("measured", (choices, name, sentence)))

    def heard(self, kind: str) -> list:
        return [what for which, what in self.said if which == kind]


@pytest.fixture
def boss(qapp, home: Path) -> Iterator[Boss]:
    thread = FilesThread()
    thread.start()
    yield Boss(thread)
    thread.finish()


def left(folder: Path) -> list[str]:
    """What is there beside the home."""
    return [path.name for path in folder.iterdir() if path.name != "home"]


@pytest.fixture
def session() -> Session:
    return scenario(steps=40, chains=2, size=8)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def test_a_bundled_model_opens(boss: Boss, wait: Wait) -> None:
    boss.open(bundle.DEFAULT_MODEL)
    wait(lambda: boss.heard("opened"))
    [model] = boss.heard("opened")
    assert (model.device, model.precision) == ("cpu", "float32")
    assert model.reference == model.checkpoint.name == bundle.DEFAULT_MODEL
    assert model.gaussians
    assert (model.choices, model.notes) == ({}, ())


@pytest.mark.parametrize("name", ["no such thing", "folder", "text.pt", "empty.pt", "picture.pt"])
def test_a_model_that_does_not_open_is_a_sentence(boss: Boss, wait: Wait, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    save_image(tmp_path / "picture.png").rename(tmp_path / "picture.pt")
    boss.open(str(tmp_path / name))
    wait(lambda: boss.heard("refused"))
    [(asked, sentence)] = boss.heard("refused")
    assert asked == str(tmp_path / name)
    assert name in sentence
    assert sentence.endswith(".")


def test_what_nobody_foresaw_is_a_sentence_and_in_the_log(boss: Boss, wait: Wait, monkeypatch, caplog) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(checkpoints, "load", fails)
    with caplog.at_level(logging.ERROR):
        boss.open(bundle.DEFAULT_MODEL)
        wait(lambda: boss.heard("refused"))
    [(asked, sentence)] = boss.heard("refused")
    assert asked == bundle.DEFAULT_MODEL
    assert f"{asked} could not be opened (division by zero)" in sentence
    assert "ZeroDivisionError" in caplog.text


# Choices -------------------------------------------------------------------------------------------------------------


def test_what_was_chosen_is_remembered_of_the_file(boss: Boss, wait: Wait, tmp_path: Path) -> None:
    path = str(tiny.saved(tmp_path / "net.safetensors"))
    for choices, kept in (({"activation": "relu"}, {"activation": "relu"}), (None, {"activation": "relu"}), ({}, {})):
        boss.said.clear()
        boss.open(path, choices)
        wait(lambda: boss.heard("opened"))
        [model] = boss.heard("opened")
        assert model.choices == kept == checkpoints.recall(path)
        assert model.checkpoint.fact("activation").source == ("choice" if kept else "file")


def test_a_choice_that_does_not_suit_is_refused_and_not_remembered(boss: Boss, wait: Wait, tmp_path: Path) -> None:
    path = str(tiny.saved(tmp_path / "net.safetensors"))
    boss.open(path, {"activation": "tanh"})
    wait(lambda: boss.heard("refused"))
    assert "tanh" in boss.heard("refused")[0][1]
    assert checkpoints.recall(path) == {}


def test_what_was_remembered_and_suits_no_more_does_not_close_the_file(boss: Boss, wait: Wait, tmp_path: Path) -> None:
    path = tiny.saved(tmp_path / "net.safetensors")
    checkpoints.remember(checkpoints.sha256(path), {"activation": "tanh"})
    boss.open(str(path))
    wait(lambda: boss.heard("opened"))
    [model] = boss.heard("opened")
    assert model.choices == {}
    assert "What was chosen for net.safetensors before was left out" in model.notes[0]


def test_a_choice_that_cannot_be_kept_is_said(boss: Boss, wait: Wait, tmp_path: Path, monkeypatch) -> None:
    def full(digest: str, choices: object) -> None:
        raise Refused("The disk is full.")

    monkeypatch.setattr(checkpoints, "remember", full)
    boss.open(str(tiny.saved(tmp_path / "net.safetensors")), {"activation": "relu"})
    wait(lambda: boss.heard("opened"))
    [model] = boss.heard("opened")
    assert model.choices == {"activation": "relu"}
    assert model.notes == ("What was chosen holds until the program ends: The disk is full.",)


# Progress and cancelling ---------------------------------------------------------------------------------------------


@pytest.fixture
def endless(monkeypatch) -> None:
    """A file that is read until somebody has enough of it; a bundled model opens as ever."""
    load = checkpoints.load

    def reads(reference, device, precision, choices, watch):
        while reference not in bundle.models():
            watch(0.5)
        return load(reference, device, precision, choices, watch)

    monkeypatch.setattr(checkpoints, "load", reads)


def test_a_large_file_says_how_far_it_is(boss: Boss, wait: Wait, endless) -> None:
    opening = boss.open("/large.pt")
    wait(lambda: len(boss.heard("share")) > 2)
    assert boss.heard("share")[0] == ("/large.pt", "Opening", 0)
    assert boss.heard("share")[2] == ("/large.pt", "Opening", 0.5)
    opening.cancelled.set()


def test_of_a_cancelled_opening_nothing_is_heard(boss: Boss, wait: Wait, endless) -> None:
    opening = boss.open("/large.pt")
    wait(lambda: boss.heard("share"))
    opening.cancelled.set()
    boss.open(bundle.DEFAULT_MODEL)
    wait(lambda: boss.heard("opened"))
    assert not boss.heard("refused")
    assert [model.reference for model in boss.heard("opened")] == [bundle.DEFAULT_MODEL]


def test_one_that_was_cancelled_before_its_turn_is_left_out(boss: Boss, wait: Wait, endless) -> None:
    first, second = boss.open("/first.pt"), boss.open("/second.pt")
    wait(lambda: boss.heard("share"))
    second.cancelled.set()
    first.cancelled.set()
    boss.open(bundle.DEFAULT_MODEL)
    wait(lambda: boss.heard("opened"))
    assert {reference for reference, _, _ in boss.heard("share")} == {"/first.pt", bundle.DEFAULT_MODEL}


def test_the_end_of_the_program_cancels_an_opening(boss: Boss, wait: Wait, endless) -> None:
    boss.open("/large.pt")
    wait(lambda: boss.heard("share"))
    boss.thread.finish()
    assert not boss.heard("opened")


# The check -----------------------------------------------------------------------------------------------------------


CHOSEN = {"activation": "silu"}
"""What it is anyway; but now its accuracy is not known any more."""


def test_a_measured_model_is_not_checked(boss: Boss, wait: Wait, tmp_path: Path) -> None:
    boss.open(bundle.DEFAULT_MODEL)
    boss.open(str(tiny.saved(tmp_path / "net.safetensors")))
    wait(lambda: boss.heard("checked"))
    assert [reference for reference, _ in boss.heard("checked")] == [str(tmp_path / "net.safetensors")]


def test_a_model_is_tried_on_images_that_are_known(boss: Boss, wait: Wait) -> None:
    boss.open(bundle.DEFAULT_MODEL, CHOSEN)
    wait(lambda: boss.heard("checked"))
    [(reference, verdict)] = boss.heard("checked")
    assert reference == bundle.DEFAULT_MODEL
    assert verdict.total == 20
    assert verdict.right >= 12
    assert not verdict.sentence


def test_of_other_classes_the_images_say_nothing(boss: Boss, wait: Wait, tmp_path: Path) -> None:
    boss.open(str(tiny.saved(tmp_path / "net.safetensors")))
    wait(lambda: boss.heard("checked"))
    assert boss.heard("checked")[0][1] is None


def test_a_check_makes_way_and_comes_back(boss: Boss, wait: Wait, monkeypatch) -> None:
    begun = threading.Event()
    asked: list[bool] = []

    def check(reference, choices, go_on, **place):
        begun.set()
        while len(asked) == 0 and go_on():
            pass
        asked.append(go_on())

    monkeypatch.setattr(checkpoints, "check", check)
    boss.open(bundle.DEFAULT_MODEL, CHOSEN)
    wait(begun.is_set)
    boss.files.sift([str(bundle.samples()[0])], 32)
    wait(lambda: boss.heard("checked"))
    assert asked == [False, True]
    assert [kind for kind, _ in boss.said if kind != "share"] == ["opened", "sifted", "checked"]


def test_the_end_of_the_program_ends_the_check(boss: Boss, wait: Wait, monkeypatch) -> None:
    begun = threading.Event()

    def check(reference, choices, go_on, **place):
        begun.set()
        while go_on():
            pass

    monkeypatch.setattr(checkpoints, "check", check)
    boss.open(bundle.DEFAULT_MODEL, CHOSEN)
    wait(begun.is_set)
    boss.thread.finish()
    assert not boss.heard("checked")


def test_a_check_that_fails_is_no_news(boss: Boss, wait: Wait, monkeypatch, caplog) -> None:
    monkeypatch.setattr(checkpoints, "check", lambda *_, **__: 1 / 0)
    boss.open(bundle.DEFAULT_MODEL, CHOSEN)
    wait(lambda: boss.heard("checked"))
    assert boss.heard("checked") == [(bundle.DEFAULT_MODEL, None)]
    assert "ZeroDivisionError" in caplog.text


# Images --------------------------------------------------------------------------------------------------------------


def test_good_and_bad_paths_are_told_apart(boss: Boss, wait: Wait, tmp_path: Path) -> None:
    good = [str(save_image(tmp_path / "ein Bär & ein Ü.png", 40, mode="RGBA")), str(bundle.samples()[0])]
    text = tmp_path / "text.png"
    text.write_text("no image")
    boss.files.sift([good[0], str(text), str(tmp_path / "gone.png"), good[1], str(tmp_path)], 32)
    wait(lambda: boss.said)
    [(taken, refused)] = boss.heard("sifted")
    assert taken == good
    assert [sentence.split()[0] for sentence in refused] == ["text.png", "There", tmp_path.name]
    assert all(sentence.endswith(".") for sentence in refused)


def test_an_image_that_breaks_the_reader_is_a_sentence(boss: Boss, wait: Wait, monkeypatch, caplog) -> None:
    from cem_core import images

    def fails(path: str, size: int) -> None:
        raise ZeroDivisionError(path)

    monkeypatch.setattr(images, "prepare", fails)
    with caplog.at_level(logging.ERROR):
        boss.files.sift(["/a/b.png"], 32)
        wait(lambda: boss.said)
    [(good, bad)] = boss.heard("sifted")
    assert good == []
    assert bad[0].startswith("b.png could not be read")
    assert "ZeroDivisionError" in caplog.text


# Exports -------------------------------------------------------------------------------------------------------------


def test_an_export_says_how_far_it_is(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    out = tmp_path / "Expört 1"
    boss.files.export(session, str(out), Export(formats=("png", "csv")))
    wait(lambda: boss.heard("exported"))
    assert boss.heard("exported") == [(str(out), "")]
    told = [(progress.done, progress.total) for progress in boss.heard("progress")]
    assert told == [(done, 42) for done in range(43)]
    assert {path.name for path in out.iterdir()} == {"frames", "curves.csv", "run.json"}


def test_a_cancelled_export_leaves_nothing(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    boss.files.export(session, str(tmp_path / "new" / "export"), Export())
    wait(lambda: len(boss.heard("progress")) >= 2)
    boss.files.cancel()
    wait(lambda: boss.heard("exported"))
    assert boss.heard("exported") == [("", "")]
    assert boss.heard("progress")[-1].done < 42
    assert left(tmp_path) == []


def test_the_end_of_the_program_cancels_the_export(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    boss.files.export(session, str(tmp_path / "export"), Export())
    wait(lambda: boss.heard("progress"))
    boss.thread.finish()
    wait(lambda: boss.heard("exported"))
    assert boss.heard("exported") == [("", "")]
    assert left(tmp_path) == []


def test_a_cancel_with_nothing_to_cancel_is_silent(boss: Boss, wait: Wait) -> None:
    boss.files.cancel()
    boss.files.sift([], 32)
    wait(lambda: boss.said)
    assert boss.said == [("sifted", ([], []))]


def test_drops_get_their_turn_during_an_export(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    boss.files.export(session, str(tmp_path / "export"), Export(formats=("png",)))
    wait(lambda: boss.heard("progress"))
    boss.files.sift([str(bundle.samples()[0])], 32)
    wait(lambda: boss.heard("exported"))
    kinds = [kind for kind, _ in boss.said]
    assert kinds.index("sifted") < kinds.index("exported")
    assert boss.heard("exported") == [(str(tmp_path / "export"), "")]


def test_a_second_export_cancels_the_first(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    long = scenario(steps=300, chains=8)
    boss.files.export(long, str(tmp_path / "first"), Export(formats=("png",)))
    wait(lambda: boss.heard("progress"))
    boss.files.export(session, str(tmp_path / "second"), Export(formats=("csv",)))
    wait(lambda: len(boss.heard("exported")) == 2)
    assert boss.heard("exported") == [("", ""), (str(tmp_path / "second"), "")]
    assert left(tmp_path) == ["second"]


def test_a_place_that_cannot_be_written_is_a_sentence(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    (tmp_path / "file").touch()
    boss.files.export(session, str(tmp_path / "file" / "export"), Export())
    wait(lambda: boss.heard("exported"))
    [(folder, problem)] = boss.heard("exported")
    assert folder == ""
    assert "is a file, not a folder" in problem
    assert left(tmp_path) == ["file"]


def test_a_disk_that_fills_up_is_a_sentence(
    boss: Boss, wait: Wait, tmp_path: Path, session: Session, monkeypatch
) -> None:
    import errno
    import os

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    boss.files.export(session, str(tmp_path / "export"), Export())
    wait(lambda: boss.heard("exported"))
    [(folder, problem)] = boss.heard("exported")
    assert folder == ""
    assert problem.startswith("The disk is full")
    assert left(tmp_path) == []


# What formats keep ---------------------------------------------------------------------------------------------------


def test_what_formats_keep_is_measured_and_nothing_is_left(
    boss: Boss, wait: Wait, tmp_path: Path, session: Session
) -> None:
    choices = Export(formats=("apng", "webp-lossy"), scale=1)
    boss.files.measure(session, choices)
    wait(lambda: len(boss.heard("measured")) == 2)
    [(first, apng, all_of_it), (_, webp, less)] = boss.heard("measured")
    assert first is choices
    assert (apng, all_of_it) == ("apng", "keeps 100 % of the perturbation (cosine 1.00)")
    assert webp == "webp-lossy"
    assert less != all_of_it
    assert left(tmp_path) == []


def test_only_the_newest_measurement_is_told(boss: Boss, wait: Wait, session: Session) -> None:
    older, newer = Export(formats=("apng", "webp"), scale=1), Export(formats=("webp",), scale=2)
    boss.files.ask(lambda: None)
    boss.files.measure(session, older)
    boss.files.measure(session, newer)
    wait(lambda: [choices for choices, _, _ in boss.heard("measured")][-1:] == [newer])
    boss.files.measure(session, older)
    boss.files.stop_measuring()
    boss.files.sift(["/none.png"], 32)
    wait(lambda: boss.heard("sifted"))
    assert boss.heard("measured")[-1][0] is newer


def test_what_cannot_be_measured_is_said(
    boss: Boss, wait: Wait, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    boss.files.measure(session, Export(formats=("gif",), last=99))
    wait(lambda: boss.heard("measured"))
    assert boss.heard("measured")[0][2].startswith("Steps 0 to 99 cannot be exported")

    def fails(*_: object) -> None:
        raise ZeroDivisionError("no number")

    monkeypatch.setattr(export, "measure", fails)
    boss.files.measure(session, Export(formats=("gif",)))
    wait(lambda: len(boss.heard("measured")) == 2)
    assert boss.heard("measured")[1][2] == "could not be measured (no number)"
