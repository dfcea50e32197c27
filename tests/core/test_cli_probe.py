from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from click.testing import CliRunner, Result

from cem_core import bundle, cli
from cem_core.probes import accuracy, lights
from cem_core.probes.report import JOURNAL, PNG, RESULTS, SVG, TABLE
from cem_core.probes.results import Light

SAMPLES = bundle.samples()


def probe(*arguments: object) -> Result:
    """The command, with nothing on a terminal."""
    return CliRunner().invoke(cli.main, ["probe", *map(str, arguments)])


def ran(*arguments: object) -> Result:
    result = probe(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result


def refused(*arguments: object) -> str:
    """Exit code 1 and one line on stderr."""
    result = probe(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def results(out: Path) -> dict[str, Any]:
    found = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def points(out: Path) -> list[list[tuple[float, int, int]]]:
    return [[(p["eps"], p["correct"], p["total"]) for p in model["points"]] for model in results(out)["models"]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for path in SAMPLES:
        (folder / bundle.sample_class(path)).mkdir(exist_ok=True)
        shutil.copy(path, folder / bundle.sample_class(path))
    return folder


@pytest.fixture(scope="module")
def pets(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classes of the tiny models."""
    folder = tmp_path_factory.mktemp("pets")
    for name in tiny.CLASSES:
        shutil.copytree(data / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Two tiny models, as options."""
    folder = tmp_path_factory.mktemp("nets")
    found: list[object] = []
    for seed in (0, 1):
        found += ["--checkpoint", tiny.saved(folder / f"tiny-{seed}.safetensors", tiny.weights(seed))]
    return found


# Numbers ----------------------------------------------------------------------------------------------------------


def test_it_counts_what_is_right_and_stays_right(data: Path) -> None:
    found = json.loads(
        ran("--checkpoint", "cifar10-robust-l2", "--checkpoint", "cifar10-standard", "--data", data, "--eps", "0,1",
            "--num", 10, "--steps", 5, "--json").stdout
    )  # fmt: skip
    assert [(row["name"], row["norm"], row["eps"], row["total"]) for row in found] == [
        ("cifar10-robust-l2", "l2", 0, 10),
        ("cifar10-robust-l2", "l2", 1, 10),
        ("cifar10-standard", "l2", 0, 10),
        ("cifar10-standard", "l2", 1, 10),
    ]
    robust, attacked, standard, broken = (row["correct"] for row in found)
    assert all(row["low"] <= row["accuracy"] == row["correct"] / 10 <= row["high"] for row in found)
    assert robust >= 9
    assert standard >= 9
    assert attacked >= 5
    assert broken <= 1
    assert {row["attack"] for row in found} == {"PGD-5"}
    assert found[0]["lights"] == {}


def test_piped_it_writes_a_line_for_each_number(nets: list[object], pets: Path) -> None:
    output = ran(*nets, "--data", pets, "--norm", "LINF", "--eps", "0,1/255", "--num", 5).stdout
    rows = output.splitlines()[:4]
    names = ["tiny-0.safetensors", "tiny-1.safetensors"]
    assert [row.split()[:3] for row in rows] == [[name, "linf", eps] for name in names for eps in ("0", "0.003922")]
    assert all(re.search(r"\d+\.\d %  \(\d of 5\)$", row) for row in rows)


def test_each_norm_has_radii_of_its_own(nets: list[object], pets: Path) -> None:
    for norm, radii in (("L2", ["0", "0.25", "0.5", "1"]), ("Linf", ["0", "0.003922", "0.007843", "0.01569"])):
        output = ran(*nets[:2], "--data", pets, "--norm", norm, "--steps", 1).stdout
        assert [row.split()[2] for row in output.splitlines()][:4] == radii


def test_without_data_it_takes_the_bundled_samples_and_says_so(nets: list[object]) -> None:
    output = ran(*nets, "--eps", 0).stdout
    assert "of 6)" in output.splitlines()[0]
    assert "bundled samples, too few to compare models by" in output
    assert "classes of bundled samples are judged" in output


def test_what_is_assumed_holds_for_every_model(nets: list[object], pets: Path, tmp_path: Path) -> None:
    ran(*nets, "--data", pets, "--eps", 0, "--assume", "activation=relu", "--precision", "bfloat16", "--out", tmp_path)
    assert [model["choices"] for model in results(tmp_path)["models"]] == [{"activation": "relu"}] * 2
    assert [model["precision"] for model in results(tmp_path)["models"]] == ["bfloat16"] * 2


# What to know of them ---------------------------------------------------------------------------------------------


def test_lights_that_warn_are_told_below(nets: list[object], pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lit = (Light("mode", "alarm", "It is in train mode.", "Call eval()."), Light("logits", "fine", "They are logits."))
    monkeypatch.setattr(lights, "of_model", lambda *_: lit)
    once = Light("restarts", "unknown", "Only one start.", "Try five.")
    stuck = Light("loss", "doubt", "It did not rise.", "Take more steps.")
    monkeypatch.setattr(lights, "of_cells", lambda cells, _: (once, stuck) if cells[0].eps else ())
    output = ran(*nets[:2], "--data", pets, "--eps", "0,0.5,1", "--steps", 1).stdout.splitlines()
    assert output[3:] == [
        "alarm  tiny-0.safetensors: It is in train mode. Call eval().",
        "doubt  tiny-0.safetensors, ε 0.5, 1: It did not rise. Take more steps.",
    ]
    (row, *_) = json.loads(ran(*nets[:2], "--data", pets, "--eps", "0.5", "--steps", 1, "--json").stdout)
    assert row["lights"] == {"mode": "alarm", "restarts": "unknown", "loss": "doubt"}


def test_unreadable_images_are_listed_and_counted(nets: list[object], pets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(pets, folder)
    for number in range(13):
        (folder / "cat" / f"x{number:02}.png").write_bytes(b"no image")
    output = ran(*nets, "--data", folder, "--eps", 0, "--out", tmp_path / "out").stdout
    assert "of 6)" in output.splitlines()[0]
    (said,) = [line for line in output.splitlines() if "could not be read" in line]
    assert said.startswith("note  13 images could not be read and are left out: cat/x00.png, cat/x01.png")
    assert said.endswith("cat/x09.png and 3 more.")
    assert len(results(tmp_path / "out")["skipped"]) == 13


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals here")
def test_on_a_terminal_there_is_a_table_after_a_bar(nets: list[object], pets: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cem_core.cli", "probe", *nets, "--data", pets, "--norm", "Linf", "--eps",
               "0,8/255", "--steps", 2]  # fmt: skip
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(list(map(str, command)), stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert process.returncode == 0, text
    assert re.search(r"attacking \S+ +\d+/24", text)
    assert "PGD-2, linf" in text
    assert re.search(r"tiny-0\.safetensors +0 +\d+\.\d % +\d+\.\d … \d+\.\d % +6", text)
    assert re.search(r"\n +8/255 +\d+\.\d %", text)
    assert "unknown  tiny-0.safetensors, ε 8/255: Only one start" in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


# A folder of results ----------------------------------------------------------------------------------------------


def test_the_folder_holds_the_numbers_and_the_curve(nets: list[object], pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    ran(*nets, "--data", pets, "--norm", "Linf", "--eps", "0,8/255", "--steps", 2, "--out", out)
    assert {path.name for path in out.iterdir()} == {RESULTS, TABLE, SVG, PNG, JOURNAL}
    assert results(out)["complete"] is True
    with (out / TABLE).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == "all"]
    assert [row["eps_told"] for row in rows] == ["0", "8/255"] * 2
    assert "8/255" in (out / SVG).read_text(encoding="utf-8")


def options(nets: list[object], data: Path) -> list[object]:
    """Two models, three radii, two batches: twelve cells, of which eight attack."""
    return [*nets, "--data", data, "--eps", "0,0.5,1", "--batch", 3, "--steps", 2]


@pytest.fixture
def undisturbed(nets: list[object], pets: Path, tmp_path: Path) -> list[list[tuple[float, int, int]]]:
    ran(*options(nets, pets), "--out", tmp_path / "undisturbed")
    return points(tmp_path / "undisturbed")


def test_interrupted_it_writes_what_it_has_and_goes_on_when_asked_again(
    nets: list[object], pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any
) -> None:
    out = tmp_path / "out"
    attacked = accuracy._Part.attacked
    done: list[float] = []

    def interrupted(*args: Any) -> Any:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(args[2])
        return attacked(*args)

    monkeypatch.setattr(accuracy._Part, "attacked", interrupted)
    result = probe(*options(nets, pets), "--out", out)
    assert result.exit_code == 130
    assert result.stderr == "Interrupted at 15 of 36 judgements: the same command goes on from there.\n"
    assert len(result.stdout.splitlines()) >= 5
    assert results(out)["complete"] is False
    assert sum(total for model in points(out) for *_, total in model) == 15

    done.clear()
    monkeypatch.setattr(accuracy._Part, "attacked", lambda *args: done.append(args[2]) or attacked(*args))
    ran(*options(nets, pets), "--out", out)
    assert len(done) == 7
    assert results(out)["complete"] is True
    assert points(out) == undisturbed
    ran(*options(nets, pets), "--out", out)
    assert len(done) == 7


def test_interrupted_without_a_folder_it_says_what_would_help(
    nets: list[object], pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy._Part, "attacked", interrupted)
    result = probe(*options(nets, pets))
    assert result.exit_code == 130
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "with --out DIR the same command would go on from there" in line


KILLED = """
import os, signal, sys
from cem_core import cli
from cem_core.probes import accuracy
attacked, left = accuracy._Part.attacked, 5
def killed(*args):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return attacked(*args)
accuracy._Part.attacked = killed
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_it_goes_on_when_asked_again(
    nets: list[object], pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any
) -> None:
    out = tmp_path / "out"
    arguments = [str(part) for part in ("probe", *options(nets, pets), "--out", out)]
    child = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True)
    assert child.returncode == -signal.SIGKILL
    assert len((out / JOURNAL).read_bytes().splitlines()) == 5
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"key": {"checkpoi')  # and in the middle of a line
    done: list[float] = []
    attacked = accuracy._Part.attacked
    monkeypatch.setattr(accuracy._Part, "attacked", lambda *args: done.append(args[2]) or attacked(*args))
    ran(*options(nets, pets), "--out", out)
    assert len(done) == 7
    assert points(out) == undisturbed


def test_what_was_measured_is_written_whatever_ends_it(
    nets: list[object], pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked = accuracy._Part.attacked

    def broken(self: Any, attack: Any, eps: float) -> Any:
        if eps == 1:
            accuracy.halving(0, 1, 1, _nothing_fits, lambda _: None)
        return attacked(self, attack, eps)

    monkeypatch.setattr(accuracy._Part, "attacked", broken)
    assert "Not even one image" in refused(*options(nets, pets), "--out", tmp_path)
    assert points(tmp_path)[0] == [(0, points(tmp_path)[0][0][1], 3), (0.5, points(tmp_path)[0][1][1], 3)]


def _nothing_fits(first: int, last: int) -> None:
    raise MemoryError


def test_the_folder_of_another_is_left_alone(nets: list[object], pets: Path, tmp_path: Path) -> None:
    (tmp_path / TABLE).write_text("theirs")
    assert "holds a results.csv that was not made by cem-explorer probe" in refused(
        *nets, "--data", pets, "--out", tmp_path
    )
    assert [path.name for path in tmp_path.iterdir()] == [TABLE]
    assert (tmp_path / TABLE).read_text() == "theirs"


# Bad input --------------------------------------------------------------------------------------------------------


def test_bad_numbers_are_one_line(nets: list[object], pets: Path, tmp_path: Path) -> None:
    def said(*arguments: object) -> str:
        found = refused(*nets, "--data", pets, "--out", tmp_path / "out", *arguments)
        assert not (tmp_path / "out").exists()
        return found

    for eps in ("nan", "inf", "-1", "0,-0.5", "1,nan", "20000"):
        assert "ε must be a number between 0 and 10000" in said("--eps", eps)
    assert "eight grey levels are 8/255" in said("--norm", "Linf", "--eps", 8)
    for count in (0, -3):
        assert "Images must be between 1 and" in said("--num", count)
        assert "Steps of an attack must be between 1 and" in said("--steps", count)
        assert "Restarts of an attack must be between 1 and" in said("--restarts", count)
    assert "The batch must be between 0 and" in said("--batch", -1)
    assert "The seed of an attack must be between 0 and" in said("--seed", -1)
    for workers in (2, 64):
        assert "Several workers need Ray: say --ray local" in said("--workers", workers)
    for workers in (0, -1, 10_001):
        assert "Workers must be between 1 and 10,000" in said("--ray", "local", "--workers", workers)
    for address in ("nowhere", "http:/x:1", "host:port"):
        assert "is no address of a Ray cluster: say host:port, auto or local" in said("--ray", address)
    assert "is of Ray's client" in said("--ray", "ray://head:10001")
    assert "Between 1 and 4 models can be compared, not 6" in said(*nets, *nets)


def test_bad_data_are_one_line(nets: list[object], pets: Path, tmp_path: Path) -> None:
    assert "There is no folder or archive" in refused(*nets, "--data", tmp_path / "nowhere")
    assert "has no images in class folders" in refused(*nets, "--data", tmp_path)
    assert "has no split test" in refused(*nets, "--data", pets, "--split", "test")
    (tmp_path / "other" / "truck").mkdir(parents=True)
    shutil.copy(SAMPLES[-1], tmp_path / "other" / "truck")
    assert "No classes are shared" in refused(*nets, "--data", tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", 5, "--attack", "apgd-ce"], "--steps is of pgd: apgd-ce knows its own."),
        (["--restarts", 5, "--attack", "AutoAttack"], "--restarts is of pgd: autoattack knows its own."),
        (["--attack", "fgsm"], "'fgsm' is not one of"),
        (["--norm", "l1"], "'l1' is not one of"),
        (["--eps", "0,,1"], "'' is not a number"),
        (["--eps", ""], "'' is not a number"),
        (["--eps", "8/0"], "'8/0' is not a number"),
        (["--assume", "normalisation"], "is not FACT=VALUE"),
    ],
)
def test_wrong_usage_is_exit_code_2(nets: list[object], arguments: list[object], says: str) -> None:
    result = probe(*nets, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert says in result.stderr


def test_an_entry_of_other_labels_is_measured_again(nets: list[object], pets: Path, tmp_path: Path) -> None:
    asked = (*nets, "--data", pets, "--eps", "0,0.1", "--steps", 2, "--out", tmp_path / "out")
    ran(*asked)
    before, journal = points(tmp_path / "out"), tmp_path / "out" / JOURNAL
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        line["cell"] |= {"labels": [99], "correct": [True], "attacked": 0, "vanished": 0, "stuck": 0, "broken": []}
    journal.write_text("\n".join(map(json.dumps, lines)))
    ran(*asked)
    assert points(tmp_path / "out") == before
