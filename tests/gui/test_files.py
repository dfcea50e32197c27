"""The file thread: checkpoints, images and exports."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QObject, Signal, Slot
from scenarios_session import session as scenario
from windows import Wait, save_image

from cem_core import bundle
from cem_core.export import Export, Progress
from cem_core.messages import Checkpoint
from cem_core.session import Session
from cem_gui.files import Files, FilesThread


class Boss(QObject):
    """Asks as the window does: through queued signals."""

    open_wanted = Signal(str, str, str)
    check_wanted = Signal(list, int)
    export_wanted = Signal(object, str, object)
    cancelled = Signal()

    def __init__(self, thread: FilesThread) -> None:
        super().__init__()
        self.thread, self.files = thread, thread.files
        self.said: list[tuple[str, object]] = []
        files: Files = thread.files
        self.open_wanted.connect(files.open)
        self.check_wanted.connect(files.check)
        self.export_wanted.connect(files.export)
        self.cancelled.connect(files.cancel)
        files.opened.connect(self.hear_opened)
        files.refused.connect(self.hear_refused)
        files.checked.connect(self.hear_checked)
        files.exporting.connect(self.hear_progress)
        files.exported.connect(self.hear_exported)

    @Slot(str, object, object, bool)
    def hear_opened(self, asked: str, place: tuple[str, str], checkpoint: Checkpoint, gaussians: bool) -> None:
        self.said.append(("opened", (asked, place, checkpoint, gaussians)))

    @Slot(str, str)
    def hear_refused(self, asked: str, sentence: str) -> None:
        self.said.append(("refused", (asked, sentence)))

    @Slot(list, list)
    def hear_checked(self, good: list[str], bad: list[str]) -> None:
        self.said.append(("checked", (good, bad)))

    @Slot(object)
    def hear_progress(self, progress: Progress) -> None:
        self.said.append(("progress", progress))

    @Slot(str, str)
    def hear_exported(self, folder: str, problem: str) -> None:
        self.said.append(("exported", (folder, problem)))

    def heard(self, kind: str) -> list:
        return [what for which, what in self.said if which == kind]


@pytest.fixture
def boss(qapp) -> Iterator[Boss]:
    thread = FilesThread()
    thread.start()
    yield Boss(thread)
    thread.finish()


@pytest.fixture
def session() -> Session:
    return scenario(steps=40, chains=2, size=8)


# Checkpoints ---------------------------------------------------------------------------------------------------------


def test_a_bundled_model_opens(boss: Boss, wait: Wait) -> None:
    boss.open_wanted.emit(bundle.DEFAULT_MODEL, "cpu", "float32")
    wait(lambda: boss.said)
    [(asked, place, checkpoint, gaussians)] = boss.heard("opened")
    assert place == ("cpu", "float32")
    assert asked == checkpoint.name == bundle.DEFAULT_MODEL
    assert gaussians


@pytest.mark.parametrize("name", ["no such thing", "folder", "text.pt", "empty.pt", "picture.pt"])
def test_a_model_that_does_not_open_is_a_sentence(boss: Boss, wait: Wait, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    save_image(tmp_path / "picture.png").rename(tmp_path / "picture.pt")
    boss.open_wanted.emit(str(tmp_path / name), "cpu", "float32")
    wait(lambda: boss.said)
    [(asked, sentence)] = boss.heard("refused")
    assert asked == str(tmp_path / name)
    assert name in sentence
    assert sentence.endswith(".")


def test_what_nobody_foresaw_is_a_sentence_and_in_the_log(boss: Boss, wait: Wait, monkeypatch, caplog) -> None:
    from cem_core import checkpoints

    def fails(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(checkpoints, "load", fails)
    with caplog.at_level(logging.ERROR):
        boss.open_wanted.emit("some.pt", "cpu", "float32")
        wait(lambda: boss.said)
    [(asked, sentence)] = boss.heard("refused")
    assert asked == "some.pt"
    assert "some.pt could not be opened (division by zero)" in sentence
    assert "ZeroDivisionError" in caplog.text


# Images --------------------------------------------------------------------------------------------------------------


def test_good_and_bad_paths_are_told_apart(boss: Boss, wait: Wait, tmp_path: Path) -> None:
    good = [str(save_image(tmp_path / "ein Bär & ein Ü.png", 40, mode="RGBA")), str(bundle.samples()[0])]
    text = tmp_path / "text.png"
    text.write_text("no image")
    boss.check_wanted.emit([good[0], str(text), str(tmp_path / "gone.png"), good[1], str(tmp_path)], 32)
    wait(lambda: boss.said)
    [(taken, refused)] = boss.heard("checked")
    assert taken == good
    assert [sentence.split()[0] for sentence in refused] == ["text.png", "There", tmp_path.name]
    assert all(sentence.endswith(".") for sentence in refused)


def test_an_image_that_breaks_the_reader_is_a_sentence(boss: Boss, wait: Wait, monkeypatch, caplog) -> None:
    from cem_core import images

    def fails(path: str, size: int) -> None:
        raise ZeroDivisionError(path)

    monkeypatch.setattr(images, "prepare", fails)
    with caplog.at_level(logging.ERROR):
        boss.check_wanted.emit(["/a/b.png"], 32)
        wait(lambda: boss.said)
    [(good, bad)] = boss.heard("checked")
    assert good == []
    assert bad[0].startswith("b.png could not be read")
    assert "ZeroDivisionError" in caplog.text


# Exports -------------------------------------------------------------------------------------------------------------


def test_an_export_says_how_far_it_is(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    out = tmp_path / "Expört 1"
    boss.export_wanted.emit(session, str(out), Export(formats=("png", "csv")))
    wait(lambda: boss.heard("exported"))
    assert boss.heard("exported") == [(str(out), "")]
    told = [(progress.done, progress.total) for progress in boss.heard("progress")]
    assert told == [(done, 42) for done in range(43)]
    assert {path.name for path in out.iterdir()} == {"frames", "curves.csv", "run.json"}


def test_a_cancelled_export_leaves_nothing(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    boss.export_wanted.emit(session, str(tmp_path / "new" / "export"), Export())
    wait(lambda: len(boss.heard("progress")) >= 2)
    boss.cancelled.emit()
    wait(lambda: boss.heard("exported"))
    assert boss.heard("exported") == [("", "")]
    assert boss.heard("progress")[-1].done < 42
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_the_program_cancels_the_export(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    boss.export_wanted.emit(session, str(tmp_path / "export"), Export())
    wait(lambda: boss.heard("progress"))
    boss.thread.finish()
    wait(lambda: boss.heard("exported"))
    assert boss.heard("exported") == [("", "")]
    assert list(tmp_path.iterdir()) == []


def test_a_cancel_with_nothing_to_cancel_is_silent(boss: Boss, wait: Wait) -> None:
    boss.cancelled.emit()
    boss.check_wanted.emit([], 32)
    wait(lambda: boss.said)
    assert boss.said == [("checked", ([], []))]


def test_drops_get_their_turn_during_an_export(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    boss.export_wanted.emit(session, str(tmp_path / "export"), Export(formats=("png",)))
    wait(lambda: boss.heard("progress"))
    boss.check_wanted.emit([str(bundle.samples()[0])], 32)
    wait(lambda: boss.heard("exported"))
    kinds = [kind for kind, _ in boss.said]
    assert kinds.index("checked") < kinds.index("exported")
    assert boss.heard("exported") == [(str(tmp_path / "export"), "")]


def test_a_second_export_cancels_the_first(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    long = scenario(steps=300, chains=8)
    boss.export_wanted.emit(long, str(tmp_path / "first"), Export(formats=("png",)))
    wait(lambda: boss.heard("progress"))
    boss.export_wanted.emit(session, str(tmp_path / "second"), Export(formats=("csv",)))
    wait(lambda: len(boss.heard("exported")) == 2)
    assert boss.heard("exported") == [("", ""), (str(tmp_path / "second"), "")]
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_a_place_that_cannot_be_written_is_a_sentence(boss: Boss, wait: Wait, tmp_path: Path, session: Session) -> None:
    (tmp_path / "file").touch()
    boss.export_wanted.emit(session, str(tmp_path / "file" / "export"), Export())
    wait(lambda: boss.heard("exported"))
    [(folder, problem)] = boss.heard("exported")
    assert folder == ""
    assert "is a file, not a folder" in problem
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_up_is_a_sentence(
    boss: Boss, wait: Wait, tmp_path: Path, session: Session, monkeypatch
) -> None:
    import errno
    import os

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    boss.export_wanted.emit(session, str(tmp_path / "export"), Export())
    wait(lambda: boss.heard("exported"))
    [(folder, problem)] = boss.heard("exported")
    assert folder == ""
    assert problem.startswith("The disk is full")
    assert list(tmp_path.iterdir()) == []
