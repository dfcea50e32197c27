"""A table in the real window: begun with one key, followed, cancelled, gone on with, opened again and looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QFileDialog
from tiny import CLASSES, saved, weights
from windows import Wait, choose, press, save_image, type_number

from cem_core.cluster import LOCAL
from cem_core.evaluation import looking, tables
from cem_core.evaluation.report import FEATURES, MARKDOWN, REFERENCE, SAMPLES, Report, cell
from cem_core.evaluation.requests import Table
from cem_core.evaluation.shards import open_samples
from cem_gui.evaluating import EvaluateStage
from cem_gui.window import _STAGES, MainWindow

IMAGES, NUM = 102, 100
SIZE = 16


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images."""
    folder = tmp_path_factory.mktemp("real")
    for number in range(IMAGES):
        save_image(folder / CLASSES[number % 3] / f"{number}.png", SIZE, number)
    return folder


@pytest.fixture
def stage(window: MainWindow, wait: Wait, tmp_path: Path, real: Path) -> EvaluateStage:
    """Two small models are compared, a third gives features, and the reference images are chosen."""
    window.models.open(str(saved(tmp_path / "net-0.safetensors", weights(0))))
    wait(lambda: window.models.current.reference.endswith("net-0.safetensors") and not window.models.is_opening)
    for number in range(2):
        window.subjects.choose(number, str(tmp_path / f"net-{number}.safetensors"))
        saved(tmp_path / f"net-{number}.safetensors", weights(number))
    window.tabs.setCurrentIndex(1 + list(_STAGES).index("evaluate"))
    wait(lambda: window.subjects.ready)
    choice = window.evaluate.panel.choice
    choice.num.setValue(NUM)
    choice.choose_extractor(str(saved(tmp_path / "judge.safetensors", weights(9))))
    choice.choose_reference(str(real))
    tick(window.evaluate, "TA", "RCS")
    return window.evaluate


def tick(stage: EvaluateStage, *names: str) -> None:
    """These rows of the open model, and no others."""
    tree = stage.panel.choice.rows
    for at in range(tree.topLevelItemCount()):
        head = tree.topLevelItem(at)
        for item in (head.child(i) for i in range(head.childCount())):
            wanted = at == 0 and item.text(0) in names and item.text(1) == "noise"
            item.setCheckState(0, Qt.CheckState.Checked if wanted else Qt.CheckState.Unchecked)


def texts(stage: EvaluateStage) -> list[list[str]]:
    table = stage.panel.table
    items = [table.topLevelItem(i) for i in range(table.topLevelItemCount())]
    return [[item.text(column) for column in range(table.columnCount())] for item in items]


def told(stage: EvaluateStage) -> str:
    return stage.panel.notice.text.text() if stage.panel.notice.isVisible() else ""


def begin(stage: EvaluateStage) -> None:
    stage.panel.table.window().setFocus()
    press(Qt.Key.Key_Space)
    assert stage.busy, told(stage)


def finished(stage: EvaluateStage, wait: Wait) -> Report:
    wait(lambda: not stage.busy)
    assert told(stage) == ""
    assert stage._report is not None
    assert stage._report.complete
    return stage._report


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# One table -----------------------------------------------------------------------------------------------------------


def test_one_key_makes_a_table_and_its_numbers_are_the_cores(
    window: MainWindow, wait: Wait, stage: EvaluateStage, home: Path, tmp_path: Path
) -> None:
    assert stage.panel.empty.isVisible()
    assert stage.panel.empty.text() == f"Press Begin, or Space: 2 rows of {NUM} samples are made and measured."
    assert not list(home.rglob("evaluation*")), "nothing is made before somebody says so"
    begin(stage)
    assert window.acts.run.iconText() == "Cancel"
    report = finished(stage, wait)
    assert stage._folder.is_relative_to(home), "where the program keeps its things"

    expected = Report(report.request)
    for row, seed, answer in tables.table(report.request, tmp_path / "same", lambda: True, None):
        expected.add(row, seed, answer)
    assert report.cells == expected.cells
    assert [line[0] for line in texts(stage)] == ["TA, noise", "RCS, noise"]
    for row, line in enumerate(texts(stage)):
        for column, number in ((1, "frechet"), (3, "kernel"), (4, "score"), (5, "precision"), (6, "recall")):
            assert line[column].removeprefix("★ ") == str(expected.mean(row, number)).replace("-", "−")
        assert line[2] == f"{expected.cells[row, 0].floor:.3g}"
        assert line[7] == "done"
    distances = [expected.mean(row, "frechet").value for row in range(2)]
    assert [line[1].startswith("★") for line in texts(stage)] == [
        distances[0] < distances[1],
        distances[1] < distances[0],
    ]
    assert stage.panel.table.headerItem().text(1) == "Fréchet distance ↓\njudge"
    assert stage.status == "2 of 2 cells are measured"
    assert not window.acts.run.isEnabled()
    assert (stage._folder / MARKDOWN).is_file()


def test_samples_are_those_on_the_disk_and_neighbours_are_the_nearest(
    window: MainWindow, wait: Wait, stage: EvaluateStage, real: Path
) -> None:
    begin(stage)
    report = finished(stage, wait)
    assert stage.panel.row == 1, "the one that was worked on last"
    stage.panel.table.setFocus()
    press(Qt.Key.Key_Up)
    wait(lambda: stage._seen == (stage._folder, 0, 0) and stage.panel.grid.isVisible())
    assert stage.panel.whose.text() == "TA, noise"
    press(Qt.Key.Key_Down)
    wait(lambda: stage._seen == (stage._folder, 1, 0) and stage.panel.grid.isVisible() and stage._looking is None)
    assert stage.panel.whose.text() == "RCS, noise"
    samples = open_samples(stage._folder / cell(report.request.rows[1], 0) / SAMPLES)
    pixels = np.concatenate([samples.read(i).pixels for i in range(len(samples))])
    labels = np.concatenate([samples.read(i).labels for i in range(len(samples))])
    grid = stage.panel.grid
    assert [row.name for row in grid._rows] == list(CLASSES)
    for label, row in enumerate(grid._rows):
        for number, image in zip(row.numbers, row.pixels, strict=True):
            assert labels[number] == label
            np.testing.assert_array_equal(image, pixels[number])

    QTest.mouseClick(grid.widget(), Qt.MouseButton.LeftButton, pos=grid.card(2, 1).center())
    wait(lambda: stage.panel.nearest.items)
    from cem_core.evaluation.features import kept

    number = grid.chosen
    ours = np.concatenate([part.features for part in kept(samples.folder.parent / FEATURES)])
    theirs = np.concatenate([part.features for part in kept(stage._folder / REFERENCE)])
    distances = np.sort(np.linalg.norm(theirs - ours[number], axis=1))
    assert [item.said for item in stage.panel.nearest.items] == [f"{far:.3g}" for far in distances[:12]]
    assert {item.name for item in stage.panel.nearest.items} <= set(CLASSES)
    nearest = looking.neighbours(stage._folder, report.request, 1, 0, number, 1)[0]
    from PIL import Image

    assert any(
        np.array_equal(np.asarray(Image.open(path).convert("RGB")), nearest.pixels)
        for path in (real / nearest.name).iterdir()
    )

    QTest.mouseDClick(grid.widget(), Qt.MouseButton.LeftButton, pos=grid.card(2, 1).center())
    assert stage.panel.is_large
    press(Qt.Key.Key_Escape)
    assert not stage.panel.is_large


def test_what_is_cancelled_goes_on_where_it_was_and_comes_out_the_same(
    window: MainWindow, wait: Wait, stage: EvaluateStage, tmp_path: Path
) -> None:
    stage.panel.choice.seeds.setValue(2)
    stage.panel.choice.num.setValue(150)
    begin(stage)
    wait(lambda: (stage._folder / "TA, noise" / "seed-0" / SAMPLES / "shard-00000.npz").is_file())
    press(Qt.Key.Key_Escape)
    assert not stage.busy
    assert stage.status.startswith("Cancelled: ")
    assert stage.run_text == "Go on"
    assert stage.panel.run.text() == "Go on"
    wait(stage.panel.run.isEnabled)
    before = files(stage._folder)
    QTest.mouseClick(stage.panel.run, Qt.MouseButton.LeftButton)
    report = finished(stage, wait)
    after = files(stage._folder)
    kept = {name for name in before if "shard-" in name}
    assert kept
    assert all(after[name] == before[name] for name in kept), "what was made is not made again"
    expected = Report(report.request)
    for row, seed, answer in tables.table(report.request, tmp_path / "same", lambda: True, None):
        expected.add(row, seed, answer)
    assert report.cells == expected.cells
    assert "2 seeds" in texts(stage)[0][-1]
    assert "±" in texts(stage)[0][1]


def test_a_table_is_opened_again_and_another_begun_beside_it(
    window: MainWindow, wait: Wait, stage: EvaluateStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "tables" / "first"
    folder.mkdir(parents=True)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    QTest.mouseClick(stage.panel.choice.folder_button, Qt.MouseButton.LeftButton)
    wait(lambda: stage.panel.choice.folder.text() == str(folder))
    begin(stage)
    finished(stage, wait)
    seen, before = texts(stage), files(folder)
    QTest.mouseClick(stage.panel.other, Qt.MouseButton.LeftButton)
    assert stage.panel.choice.isVisible()
    assert stage._folder == folder.parent / "evaluation", "a new one, beside it"
    assert stage.panel.empty.isVisible()
    QTest.mouseClick(stage.panel.other, Qt.MouseButton.LeftButton)
    wait(lambda: stage._report is not None)
    assert texts(stage) == seen
    assert stage.panel.run.toolTip() == "All is measured."
    wait(lambda: stage.panel.grid.isVisible())
    assert files(folder) == before


def test_a_table_of_the_command_line_is_shown_and_gone_on_with(
    window: MainWindow, wait: Wait, stage: EvaluateStage, tmp_path: Path
) -> None:
    """The models that are compared, and all settings, are others."""
    request = stage._wanted()
    folder, asked = tmp_path / "table", Table(rows=request.rows, reference=request.reference,
                                             extractor=request.extractor, num=NUM, seeds=(3, 4))  # fmt: skip
    for _, seed, _ in (answers := tables.table(asked, folder, lambda: True, None)):
        if seed == 4:
            break
    answers.close()
    window.subjects.choose(0, "cifar10-robust-l2")
    stage.panel.choice.num.setValue(777)
    stage.open(str(folder))
    wait(lambda: stage._report is not None)
    assert stage.run_text == "Go on"
    assert "1 of 2 seeds" in texts(stage)[0][-1]
    assert [stage.panel.seeds.itemText(i) for i in range(2)] == ["Seed 3", "Seed 4"]
    begin(stage)
    report = finished(stage, wait)
    assert report.request == asked
    assert stage.panel.choice.num.value() == 777


# What is chosen ------------------------------------------------------------------------------------------------------


def test_the_samplers_panel_is_a_row_and_other_models_add_theirs(
    window: MainWindow, wait: Wait, stage: EvaluateStage
) -> None:
    window.tabs.setCurrentIndex(0)
    choose(window.sampler.preset, "RCS")
    type_number(window.sampler.b, "0.5")
    window.tabs.setCurrentIndex(1 + list(_STAGES).index("evaluate"))
    tick(stage, "RCS with b 0.5")
    tree = stage.panel.choice.rows
    assert tree.topLevelItemCount() == 2
    [row] = stage._wanted().rows
    assert (row.name, row.sampler.b, row.subject.reference) == (
        "RCS with b 0.5, noise",
        0.5,
        window.models.current.reference,
    )
    tree.topLevelItem(1).child(0).setCheckState(0, Qt.CheckState.Checked)
    assert [row.name for row in stage._wanted().rows] == [
        "RCS with b 0.5, noise, net-0.safetensors", "starts, noise, net-1.safetensors"
    ]  # fmt: skip


def test_settings_are_there_again(window: MainWindow, stage: EvaluateStage, real: Path) -> None:
    from PySide6.QtCore import QObject

    parent = QObject()
    again = EvaluateStage(window.prober, window.subjects, window.models, window.setup, window.filing.files,
                          window.settings, parent)  # fmt: skip
    assert again.panel.choice.settings == stage.panel.choice.settings
    assert again.panel.choice.path == str(real)
    again.panel.deleteLater()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("nothing ticked", "Tick at least one row."),
        ("no address", "Give the address of the Ray cluster"),
    ],
)
def test_what_cannot_be_begun_is_said_below_the_settings(
    window: MainWindow, stage: EvaluateStage, wrong: str, said: str
) -> None:
    if wrong == "nothing ticked":
        tick(stage)
    else:
        choose(stage.panel.choice.where, "local")
        QTest.keyClick(stage.panel.choice.where, Qt.Key.Key_Down)
    assert said in stage.panel.choice.problem.text()
    assert not stage.panel.run.isEnabled()
    assert not window.acts.run.isEnabled()
    assert not stage.busy


# What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(request: pytest.FixtureRequest, stage: EvaluateStage, tmp_path: Path) -> Iterator[str]:
    """Something is wrong; what will be said of it."""
    choice = stage.panel.choice
    match request.param:
        case "folder":
            choice.choose_reference(str(tmp_path / "nowhere"))
            yield "nowhere"
        case "extractor":
            (tmp_path / "bad.pt").write_bytes(b"nothing")
            choice.choose_extractor(str(tmp_path / "bad.pt"))
            yield "bad.pt"
        case "few":
            choice.images.setValue(5)
            yield "fewer than"


@pytest.mark.parametrize("broken", ["folder", "extractor", "few"], indirect=True)
def test_bad_input_is_one_sentence_and_the_settings_are_there_to_mend_it(
    window: MainWindow, wait: Wait, stage: EvaluateStage, broken: str, real: Path
) -> None:
    begin(stage)
    wait(lambda: not stage.busy)
    assert broken in told(stage)
    assert "\n" not in told(stage)
    assert "log file" not in told(stage)
    assert stage.panel.choice.isVisible()
    assert stage.panel.run.text() == "Begin"
    press(Qt.Key.Key_Escape)
    assert told(stage) == ""


def test_a_folder_with_foreign_files_is_refused_and_left_alone(
    window: MainWindow, wait: Wait, stage: EvaluateStage, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "table.md").write_text("mine")
    stage.open(str(folder))
    wait(lambda: stage._folder == folder)
    begin(stage)
    wait(lambda: not stage.busy)
    assert "mine" in told(stage)
    assert (folder / "table.md").read_text() == "mine"


def test_a_damaged_table_is_told_of_and_nothing_changes(
    window: MainWindow, wait: Wait, stage: EvaluateStage, tmp_path: Path
) -> None:
    (tmp_path / "table.json").write_text("{")
    folder = stage._folder
    stage.open(str(tmp_path))
    wait(lambda: told(stage))
    assert "damaged" in told(stage)
    assert stage._folder == folder
    assert stage._report is None


def test_the_window_is_closed_while_a_table_is_made(window: MainWindow, wait: Wait, stage: EvaluateStage) -> None:
    """`nothing_left` looks at what is left."""
    stage.panel.choice.num.setValue(100_000)
    begin(stage)
    wait(lambda: stage._course is not None and stage._course.what == "samples")
    window.close()


def test_other_measurements_have_their_turns_meanwhile(
    window: MainWindow, wait: Wait, stage: EvaluateStage, real: Path
) -> None:
    stage.panel.choice.num.setValue(100_000)
    begin(stage)
    wait(lambda: stage._course is not None and stage._course.what == "samples")
    accuracy = window.accuracy
    window.tabs.setCurrentIndex(1 + list(_STAGES).index("accuracy"))
    accuracy.panel.choice.choose_path(str(real))
    accuracy.panel.choice.num.setValue(6)
    accuracy.measure()
    wait(lambda: not accuracy.busy)
    assert accuracy.status.startswith("6 images measured")
    assert stage.busy
    assert stage._course.share < 1
    stage.stop()


def test_a_table_is_handed_over_to_ray_and_followed(
    window: MainWindow, wait: Wait, stage: EvaluateStage, tmp_path: Path
) -> None:
    """Other views are answered meanwhile, and the numbers are those of this process."""
    pytest.importorskip("ray")
    choose(stage.panel.choice.where, LOCAL)
    stage.panel.choice.workers.setValue(1)
    begin(stage)
    report = finished(stage, wait)
    expected = Report(report.request)
    for row, seed, answer in tables.table(report.request, tmp_path / "same", lambda: True, None):
        expected.add(row, seed, answer)
    assert report.cells == expected.cells


def test_a_cluster_that_does_not_answer_is_told_of(window: MainWindow, wait: Wait, stage: EvaluateStage) -> None:
    pytest.importorskip("ray")
    choose(stage.panel.choice.where, LOCAL)
    QTest.keyClick(stage.panel.choice.where, Qt.Key.Key_Down)
    QTest.keyClicks(stage.panel.choice.address, "127.0.0.1:1")
    begin(stage)
    wait(lambda: not stage.busy)
    assert "No Ray cluster answers at 127.0.0.1:1" in told(stage)
    assert stage.panel.choice.isVisible()
