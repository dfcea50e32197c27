"""Opening models in the window: on the way, when open, read otherwise, and of late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
import torch
from PySide6.QtCore import QSettings, Qt, QTimer
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QComboBox
from windows import (
    LONG,
    Published,
    Wait,
    at_start,
    choose,
    data_of,
    discard,
    drop,
    notice,
    run_to_end,
    type_number,
)

from cem_core import bundle, checkpoints, zoo
from cem_core.checkpoints import Check
from cem_core.messages import Refused, ReplayStart
from cem_gui.panels.details import Details
from cem_gui.window import MainWindow


def click(button: QAbstractButton) -> None:
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)


def saved(path: Path, *without: str, **beside: torch.Tensor) -> Path:
    """A file of torch's former format: tiny weights, without some keys and with others."""
    kept = {key: value for key, value in tiny.weights().items() if not key.startswith(without)}
    torch.save({**kept, **beside}, path, _use_new_zipfile_serialization=False)
    return path


def is_open(window: MainWindow, path: Path | str) -> Callable[[], bool]:
    """And its images are shown."""
    return lambda: (
        window.models.current.reference == str(path)
        and at_start(window)
        and window.player.session.start.spec.checkpoint == str(path)
    )


@pytest.fixture
def gate(monkeypatch) -> Iterator[threading.Event]:
    """Files that go on being read until this is set; bundled models open as ever."""
    gate = threading.Event()
    load = checkpoints.load

    def reads(reference, *others):
        while not gate.is_set() and reference not in bundle.models():
            others[-1](0.5)
        return load(reference, *others)

    monkeypatch.setattr(checkpoints, "load", reads)
    yield gate
    gate.set()


# On the way ----------------------------------------------------------------------------------------------------------


def test_the_window_lives_while_a_large_file_is_read(
    window: MainWindow, wait: Wait, tmp_path: Path, monkeypatch
) -> None:
    """It answers between any two words on how far the file is: nothing of the reading happens on its thread."""
    path = saved(tmp_path / "large.pt", ballast=torch.zeros(2**23))
    beat, beats, told = threading.Event(), QTimer(), []
    beats.timeout.connect(beat.set)
    beats.start(0)
    load = checkpoints.load

    def loads(*arguments):
        *arguments, watch = arguments
        if not callable(watch):  # a run that begins
            return load(*arguments, watch)

        def slowly(share: float) -> None:
            beat.clear()
            assert beat.wait(LONG / 1000), "the window hangs"
            told.append(share)
            watch(share)

        return load(*arguments, slowly)

    monkeypatch.setattr(checkpoints, "load", loads)
    drop(window, data_of(path))
    wait(is_open(window, path))
    beats.stop()
    assert len(told) >= 16  # 32 MB, hashed and read, in pieces
    assert 0 < min(told) < max(told) <= 1


def test_cancel_keeps_what_is_open(window: MainWindow, wait: Wait, tmp_path: Path, gate) -> None:
    session, facts = window.player.session, [line.text() for line in window.model.facts.values()]
    drop(window, data_of(saved(tmp_path / "large.pt")))
    wait(lambda: window.model.opening.isVisible() and window.model.opening.bar.value() > 0)
    assert window.model.opening.what.text() == "Opening large.pt"
    click(window.model.opening.cancel)
    assert not window.model.opening.isVisible()
    assert not window.models.is_opening
    gate.set()
    done: list[object] = []
    window.filing.files.sifted.connect(lambda *_: done.append(True))
    window.filing.files.sift([], 32)
    wait(lambda: done)  # whatever the file thread had to say has been said
    assert window.models.current.reference == bundle.DEFAULT_MODEL
    assert window.player.session is session
    assert [line.text() for line in window.model.facts.values()] == facts
    assert window.model.choice.currentText() == bundle.DEFAULT_MODEL
    assert notice(window) == ""


def test_a_newer_model_cancels_the_one_on_its_way(window: MainWindow, wait: Wait, tmp_path: Path, gate) -> None:
    other = list(bundle.models())[1]
    drop(window, data_of(saved(tmp_path / "large.pt")))
    wait(window.model.opening.isVisible)
    choose(window.model.choice, other)
    wait(is_open(window, other))
    assert not gate.is_set()
    assert not window.model.opening.isVisible()


def test_another_precision_is_for_what_is_on_its_way(window: MainWindow, wait: Wait, tmp_path: Path, gate) -> None:
    path = saved(tmp_path / "net.pt")
    drop(window, data_of(path))
    wait(window.model.opening.isVisible)
    choose(window.model.precision, "bfloat16")
    gate.set()
    wait(is_open(window, path))
    assert window.player.session.start.spec.precision == "bfloat16"


@pytest.fixture
def fresh(qtbot, home: Path, wait: Wait) -> Iterator[MainWindow]:
    """A window that was just opened, with nothing in it yet."""
    fresh = MainWindow(QSettings(str(home / "window.ini"), QSettings.Format.IniFormat), home / "log")
    with qtbot.waitExposed(fresh):
        fresh.show()
    fresh.activateWindow()
    wait(fresh.isActiveWindow)
    yield fresh
    fresh.close()
    discard(fresh)


def test_a_file_that_does_not_open_at_the_start_gives_way_and_is_told(
    fresh: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    (tmp_path / "net.pt").write_text("hello")
    fresh.start([str(tmp_path / "net.pt")])
    wait(lambda: at_start(fresh))
    assert fresh.models.current.reference == bundle.DEFAULT_MODEL
    assert notice(fresh) == "net.pt is a text file, not a checkpoint."


def test_nothing_is_open_after_the_first_was_cancelled(fresh: MainWindow, wait: Wait, tmp_path: Path, gate) -> None:
    fresh.start([str(saved(tmp_path / "large.pt"))])
    wait(fresh.model.opening.isVisible)
    click(fresh.model.opening.cancel)
    assert fresh.evolution.empty.text().startswith("No model is open.")
    assert fresh.status.text() == "No model is open"
    choose(fresh.model.choice, bundle.DEFAULT_MODEL)
    wait(lambda: at_start(fresh))


# Open ----------------------------------------------------------------------------------------------------------------


def test_what_is_strange_about_a_file_is_said(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    drop(window, data_of(saved(tmp_path / "net.pt", ballast=torch.zeros(3, 3))))
    wait(lambda: "ballast is not used" in notice(window))


def test_the_check_of_a_file_is_told(window: MainWindow, wait: Wait, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoints, "check", lambda *_, **__: Check(8, 20, ("normalisation", "none", 19)))
    drop(window, data_of(saved(tmp_path / "net.pt")))
    wait(lambda: window.model.facts["Check"].text() == "8 of 20 images recognised")
    assert "Only 8 of 20 bundled CIFAR-10 images are recognised" in notice(window)
    click(window.evolution._notice.offer)
    assert details(window).isVisible()
    details(window).reject()


def test_a_measured_model_says_what_was_measured(window: MainWindow) -> None:
    assert "clean" in window.model.facts["Check"].text()


def test_rocl_names_its_files_in_its_own_way(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    path = saved(tmp_path / "ckpt.t7rocl_run_0")
    drop(window, data_of(path))
    wait(is_open(window, path))


def test_the_replay_buffer_is_a_start(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    assert window.sampler.start.findData("replay") < 0
    path = saved(tmp_path / "jem.pt", replay_buffer=torch.rand(50, 3, 16, 16) * 2 - 1)
    drop(window, data_of(path))
    wait(is_open(window, path))
    index = window.sampler.start.findData("replay")
    assert "50 images" in window.sampler.start.itemData(index, Qt.ItemDataRole.ToolTipRole)
    choose(window.sampler.start, "replay")
    wait(lambda: at_start(window) and window.player.session.start.names[0].startswith("replay"))
    assert window.player.session.start.spec.chains[0].start == ReplayStart()
    choose(window.model.choice, bundle.DEFAULT_MODEL)
    wait(is_open(window, bundle.DEFAULT_MODEL))
    assert window.sampler.start.findData("replay") < 0
    assert window.sampler.start_kind == "image"


# Read otherwise ------------------------------------------------------------------------------------------------------


def details(window: MainWindow) -> Details:
    found = window.models._details
    assert found is not None
    return found


def pick(field: QComboBox, text: str) -> None:
    """By the keyboard."""
    field.setFocus()
    QTest.keyClick(field, Qt.Key.Key_Home)
    for _ in range(field.findText(text)):
        QTest.keyClick(field, Qt.Key.Key_Down)
    assert field.currentText() == text


@pytest.fixture
def net(window: MainWindow, wait: Wait, tmp_path: Path) -> Path:
    """A file that is open, with its details."""
    path = saved(tmp_path / "net.pt")
    drop(window, data_of(path))
    wait(is_open(window, path))
    click(window.model.details_button)
    return path


def chosen(window: MainWindow, what: str) -> Callable[[], bool]:
    """A run of it stands ready."""
    return lambda: at_start(window) and window.player.session.start.spec.choices.get("activation") == what


def test_a_fact_that_is_changed_opens_the_file_anew(window: MainWindow, wait: Wait, net: Path) -> None:
    assert window.model.facts["Network"].mark.isVisible()
    pick(details(window).fields["activation"], "gelu")
    click(details(window).apply)
    wait(chosen(window, "gelu"))
    assert details(window).isVisible()
    assert window.player.session.start.checkpoint.fact("activation").source == "choice"
    assert details(window).fields["activation"].currentText() == "gelu"
    assert checkpoints.recall(str(net)) == {"activation": "gelu"}
    click(details(window).reset)
    wait(lambda: at_start(window) and window.player.session.start.spec.choices == {})
    assert details(window).fields["activation"].currentText() == "relu"
    assert checkpoints.recall(str(net)) == {}
    details(window).reject()


def test_what_was_chosen_holds_when_the_file_is_opened_again(window: MainWindow, wait: Wait, net: Path) -> None:
    pick(details(window).fields["activation"], "gelu")
    click(details(window).apply)
    wait(chosen(window, "gelu"))
    details(window).reject()
    choose(window.model.choice, bundle.DEFAULT_MODEL)
    wait(is_open(window, bundle.DEFAULT_MODEL))
    assert window.player.session.start.spec.choices == {}
    copied = net.with_name("copied.pt")
    copied.write_bytes(net.read_bytes())
    drop(window, data_of(copied))
    wait(chosen(window, "gelu"))
    choose(window.model.precision, "bfloat16")
    wait(lambda: chosen(window, "gelu")() and window.player.session.start.spec.precision == "bfloat16")


def test_a_value_that_makes_no_sense_is_told_in_the_dialog(window: MainWindow, wait: Wait, net: Path) -> None:
    session, line = window.player.session, details(window).fields["image size"].lineEdit()
    pick(details(window).fields["activation"], "gelu")
    line.selectAll()
    QTest.keyClicks(line, "7")
    click(details(window).apply)
    wait(details(window).problem.isVisible)
    assert "whole number of pixels" in details(window).problem.text()
    assert line.text() == "7"
    assert details(window).fields["activation"].currentText() == "gelu"
    assert notice(window) == ""
    assert window.player.session is session
    assert window.models.current.choices == checkpoints.recall(str(net)) == {}
    details(window).reject()
    assert window.models._details is None


def test_reading_it_otherwise_can_be_cancelled(window: MainWindow, wait: Wait, net: Path, gate) -> None:
    pick(details(window).fields["activation"], "gelu")
    click(details(window).apply)
    wait(lambda: details(window).bar.value() > 0)
    click(details(window).close_button)
    assert details(window).isVisible()
    assert not window.models.is_opening
    assert window.models.current.choices == {}
    details(window).reject()


# Of late -------------------------------------------------------------------------------------------------------------


def recent(window: MainWindow) -> list[str]:
    """What the menu offers."""
    return [action.text() for action in window.models.recent_menu.actions() if action.data()]


def test_files_that_opened_are_offered_again_newest_first(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    assert recent(window) == []
    paths = [saved(tmp_path / name) for name in ("a & b.pt", "c.pt")]
    (tmp_path / "bad.pt").write_text("hello")
    for path in (*paths, paths[0]):
        drop(window, data_of(path))
        wait(is_open(window, path))
    drop(window, data_of(tmp_path / "bad.pt"))
    wait(lambda: notice(window))
    assert recent(window) == ["a && b.pt", "c.pt"]
    assert [action.toolTip() for action in window.models.recent_menu.actions()[:2]] == [str(tmp_path)] * 2
    assert window.model.choice.findData(str(paths[1])) > 0
    [action] = [action for action in window.models.recent_menu.actions() if action.text() == "c.pt"]
    action.trigger()
    wait(is_open(window, paths[1]))
    assert recent(window) == ["c.pt", "a && b.pt"]

    window.settings.sync()
    other = MainWindow(QSettings(window.settings.fileName(), QSettings.Format.IniFormat), window._log_folder)
    assert recent(other) == ["c.pt", "a && b.pt"]
    assert other.model.choice.findData(str(paths[0])) > 0
    other.close()
    discard(other)

    window.acts.clear_recent.trigger()
    assert recent(window) == []
    assert not window.acts.clear_recent.isEnabled()
    assert window.model.choice.currentText() == "c.pt"  # it is open all the same


def test_no_more_than_ten_are_kept_and_namesakes_told_apart(window: MainWindow, tmp_path: Path) -> None:
    paths = [str(tmp_path / str(i) / "net.pt") for i in range(14)]
    window.models._set_recent(paths)
    assert recent(window) == [f"net.pt ({i})" for i in range(10)]


def test_a_file_that_has_gone_is_taken_off(window: MainWindow, wait: Wait, tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt")
    drop(window, data_of(path))
    wait(is_open(window, path))
    choose(window.model.choice, bundle.DEFAULT_MODEL)
    wait(is_open(window, bundle.DEFAULT_MODEL))
    path.unlink()
    window.models.recent_menu.actions()[0].trigger()
    wait(lambda: notice(window))
    assert "net.pt was taken off the recent files." in notice(window)
    assert recent(window) == []
    assert window.model.choice.findData(str(path)) < 0
    assert window.model.choice.currentText() == bundle.DEFAULT_MODEL


# Encoders ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """With a head in a file beside it."""
    weights = tiny.weights()
    torch.save({key: weights[key] for key in ("linear.weight", "linear.bias")}, tmp_path / "enc_linear.pt")
    return saved(tmp_path / "enc.pt", "linear")


def test_an_encoder_opens_and_runs(window: MainWindow, wait: Wait, encoder: Path) -> None:
    drop(window, data_of(encoder))
    wait(is_open(window, encoder))
    assert window.model.facts["Classes"].text() == "Encoder · 32 features"
    assert notice(window) == ""
    type_number(window.sampler.steps, "2")
    wait(lambda: at_start(window) and window.player.session.start.spec.sampler.steps == 2)
    run_to_end(window, wait)
    assert len(window.player.session) == 3
    choose(window.model.choice, bundle.DEFAULT_MODEL)
    wait(is_open(window, bundle.DEFAULT_MODEL))
    assert window.player.session.start.checkpoint.classes


def test_a_head_beside_an_encoder_can_be_chosen(window: MainWindow, wait: Wait, encoder: Path) -> None:
    drop(window, data_of(encoder))
    wait(is_open(window, encoder))
    window.acts.details.trigger()
    pick(details(window).fields["head"], "enc_linear.pt")
    click(details(window).apply)
    wait(lambda: at_start(window) and window.player.session.start.spec.choices == {"head": "enc_linear.pt"})
    details(window).reject()
    window.activateWindow()
    wait(window.isActiveWindow)
    type_number(window.sampler.steps, "2")
    run_to_end(window, wait)
    assert len(window.player.session) == 3


def test_a_classifier_without_its_head_is_an_encoder_and_comes_back(
    window: MainWindow, wait: Wait, tmp_path: Path
) -> None:
    path = tiny.saved(tmp_path / "net.safetensors", tiny.weights())
    drop(window, data_of(path))
    wait(is_open(window, path))
    for value, said, classes in (("none", "Head: none · 32 features", 0), ("own", "3 · cat … horse", 3)):
        window.acts.details.trigger()
        pick(details(window).fields["head"], value)
        click(details(window).apply)
        wait(lambda: at_start(window) and len(window.player.session.start.checkpoint.classes) == classes)  # noqa: B023
        details(window).reject()
        assert window.model.facts["Classes"].text() == said
    assert window.sampler.chips.isVisible()


# Published models ----------------------------------------------------------------------------------------------------


def test_without_robustbench_it_is_said_how_to_get_it(window: MainWindow, wait: Wait, monkeypatch) -> None:
    monkeypatch.setattr(zoo, "installed", lambda: False)
    window.acts.open_zoo.trigger()
    wait(lambda: notice(window) == zoo.HOW_TO_INSTALL)


@pytest.fixture
def published(monkeypatch) -> list[Published]:
    """One model that must be downloaded."""
    entries = [Published("cifar10", "Linf", "Tiny2024")]
    monkeypatch.setattr(zoo, "installed", lambda: True)
    monkeypatch.setattr(zoo, "entries", lambda: entries)
    return entries


def test_a_published_model_is_downloaded_and_opened(
    window: MainWindow, wait: Wait, tmp_path: Path, published, monkeypatch
) -> None:
    path, gate = saved(tmp_path / "Tiny2024.pt"), threading.Event()

    def fetch(entry, watch):
        assert entry is published[0]
        while not gate.is_set():
            watch(0.25)
        return path

    monkeypatch.setattr(zoo, "fetch", fetch)
    window.acts.open_zoo.trigger()
    wait(lambda: window.models._zoo and window.models._zoo.isVisible())
    click(window.models._zoo.accept_button)
    wait(lambda: window.model.opening.isVisible() and "Downloading" in window.model.opening.what.text())
    gate.set()
    wait(is_open(window, path))
    assert recent(window) == ["Tiny2024.pt"]


@pytest.mark.parametrize("how", ["cancelled", "refused"])
def test_a_download_that_comes_to_nothing(window: MainWindow, wait: Wait, published, monkeypatch, how: str) -> None:
    def fetch(entry, watch):
        while how == "cancelled":
            watch(0)
        raise Refused("Tiny2024 could not be downloaded: look after the connection.")

    monkeypatch.setattr(zoo, "fetch", fetch)
    session = window.player.session
    window.acts.open_zoo.trigger()
    wait(lambda: window.models._zoo and window.models._zoo.isVisible())
    click(window.models._zoo.accept_button)
    if how == "cancelled":
        wait(window.model.opening.isVisible)
        click(window.model.opening.cancel)
        assert notice(window) == ""
    else:
        wait(lambda: "could not be downloaded" in notice(window))
    assert window.player.session is session
    assert window.model.choice.currentText() == bundle.DEFAULT_MODEL


def test_nothing_is_downloaded_without_being_asked(window: MainWindow, wait: Wait, published, monkeypatch) -> None:
    monkeypatch.setattr(zoo, "fetch", lambda *_: pytest.fail("it was"))
    window.acts.open_zoo.trigger()
    wait(lambda: window.models._zoo and window.models._zoo.isVisible())
    QTest.keyClick(window.models._zoo, Qt.Key.Key_Escape)
    assert window.models._zoo is None
    assert not window.models.is_opening
