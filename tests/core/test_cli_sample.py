"""Samples on the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result

from cem_core import bundle, cli, cluster, samplers
from cem_core.evaluation.shards import RECORD, SHEET, Samples, open_samples

SHARDS = {"shard-00000.npz", "shard-00001.npz", "shard-00002.npz"}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    features = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "encoder.safetensors", features, image_size="32"))


def ask(*arguments: object) -> Result:
    """The command, with nothing on a terminal."""
    return CliRunner().invoke(cli.main, ["sample", *map(str, arguments)])


def few(checkpoint: object, out: Path) -> list[object]:
    """Ten samples in three shards."""
    return ["--checkpoint", checkpoint, "--start", "noise", "--num", 10, "--batch", 4, "--steps", 3, "--out", out]


def ran(*arguments: object) -> str:
    result = ask(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def refused(*arguments: object) -> str:
    """Exit code 1 and one line on stderr."""
    result = ask(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def pixels(samples: Samples) -> bytes:
    return b"".join(samples.read(index).pixels.tobytes() for index in range(len(samples)))


@pytest.fixture(scope="module")
def undisturbed(net: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed")
    ran(*few(net, out))
    return pixels(open_samples(out))


def test_it_makes_them_and_says_how_many_where_and_how_fast(net: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (line,) = ran(*few(net, out)).splitlines()
    said = re.fullmatch(r"10 samples in (.+), 10 of them made in ([\d.,]+) s \(([\d.,]+) samples/s\)", line)
    assert said is not None, line
    assert said[1] == str(out)
    assert {path.name for path in out.iterdir()} == {RECORD, SHEET} | SHARDS
    samples = open_samples(out)
    assert samples.record.request.sampler.name == "RCS", "the usual row from draws"
    assert [samples.read(index).labels.tolist() for index in range(3)] == [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0]]
    assert ran(*few(net, out)) == f"10 samples in {out}, all there before\n"


def test_what_is_said_is_what_is_asked(net: str, tmp_path: Path) -> None:
    ran(*few(net, tmp_path), "--sampler", "ta", "--seed", 5, "--any-class", "--step-size", 0.5, "--radius", "8/255",
        "--norm", "linf")  # fmt: skip
    request = open_samples(tmp_path).record.request
    assert (request.num, request.batch, request.seed, request.start) == (10, 4, 5, "noise")
    assert (request.per_class, request.subject.device) == (False, "cpu" if not _cuda() else "cuda")
    row = request.sampler
    assert (row.name, row.steps, row.step_size, row.radius, row.norm) == ("TA", 3, 0.5, 8 / 255, "linf")


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def test_an_encoder_spreads_unless_it_is_told_otherwise(encoder: str, tmp_path: Path) -> None:
    photo = bundle.photos()[0]
    ran(*few(encoder, tmp_path), "--start", "gaussian", "--reference", photo, "--dot", "--temperature", 2)
    record = open_samples(tmp_path).record
    assert record.request.sampler.name == "MaxEnt"
    assert record.request.reference is not None
    assert record.request.reference.images == (str(photo),)
    assert (record.request.reference.cosine, record.request.reference.temperature) == (False, 2)
    assert len(record.classes) == 10


def test_for_programs_there_is_an_object(net: str, tmp_path: Path) -> None:
    found = json.loads(ran(*few(net, tmp_path), "--json"))
    assert (found["folder"], found["num"], found["made"]) == (str(tmp_path), 10, 10)
    assert found["samples_per_second"] == pytest.approx(10 / found["seconds"])
    assert (found["checkpoint"], found["classes"]) == ("tiny.safetensors", list(tiny.CLASSES))
    again = json.loads(ran(*few(net, tmp_path), "--json"))
    assert (again["num"], again["made"]) == (10, 0)


def test_other_packages_are_a_note_beside_the_line(net: str, tmp_path: Path) -> None:
    ran(*few(net, tmp_path))
    record = json.loads((tmp_path / RECORD).read_text())
    record["versions"]["numpy"] = "0.1"
    (tmp_path / RECORD).write_text(json.dumps(record))
    (tmp_path / "shard-00001.npz").unlink()
    result = ask(*few(net, tmp_path))
    assert result.exit_code == 0
    assert "10 samples in" in result.stdout
    assert "4 of them made" in result.stdout
    assert result.stderr.startswith("Note: The samples that were there were made with numpy 0.1, not ")


# Interrupted ------------------------------------------------------------------------------------------------------


def test_interrupted_it_says_so_in_a_line_and_goes_on_when_asked_again(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: bytes
) -> None:
    read, taken = samplers.read, []

    def interrupted(*args: Any) -> Any:
        if len(taken) == 5:  # in the second shard
            raise KeyboardInterrupt
        taken.append(args)
        return read(*args)

    monkeypatch.setattr(samplers, "read", interrupted)
    result = ask(*few(net, tmp_path))
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr == "Interrupted at 4 of 10 samples: the same command goes on from there.\n"
    assert {path.name for path in tmp_path.iterdir()} == {RECORD, "shard-00000.npz"}
    monkeypatch.undo()
    assert "6 of them made" in ran(*few(net, tmp_path))
    assert pixels(open_samples(tmp_path)) == undisturbed


KILLED = """
import os, signal, sys
from cem_core import cli, writing
replace, left = writing.replace, 2
def killed(path, data):
    global left
    if path.name.startswith("shard"):
        if not left:
            path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    replace(path, data)
writing.replace = killed
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_it_goes_on_when_asked_again(net: str, tmp_path: Path, undisturbed: bytes) -> None:
    """Even if what was half written had its name already, as after a power cut."""
    arguments = ["sample", *map(str, few(net, tmp_path))]
    child = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert {path.name for path in tmp_path.iterdir()} == {RECORD} | SHARDS
    assert open_samples(tmp_path).done() == {0, 1}
    assert "2 of them made" in ran(*few(net, tmp_path))
    assert pixels(open_samples(tmp_path)) == undisturbed


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="a system without terminals of this kind")
def test_on_a_terminal_there_is_a_bar(net: str, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "cem_core.cli", "sample", *map(str, few(net, tmp_path))]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while part := _read(ours):
        shown += part
    os.close(ours)
    assert child.communicate()[0].decode().startswith("10 samples in ")
    assert child.returncode == 0
    assert "sampling" in shown.decode()


def _read(descriptor: int) -> bytes:
    """Empty: the other side is closed, which some systems tell as an error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


# Elsewhere --------------------------------------------------------------------------------------------------------


def test_workers_are_asked_for_as_everywhere(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: bytes
) -> None:
    asked: list[object] = []

    def spread(opens: Any, items: list[int], where: cluster.Where, **_: Any) -> Any:
        asked.extend([where, items])
        work = msgspec.msgpack.decode(msgspec.msgpack.encode(opens), type=type(opens)).open()
        for item in items:
            *_, last = work.do(item)
            yield last

    monkeypatch.setattr(cluster, "spread", spread)
    assert "10 of them made" in ran(*few(net, tmp_path), "--ray", "local", "--workers", 2)
    assert asked == [cluster.Where("local", 2), [0, 1, 2]]
    assert pixels(open_samples(tmp_path)) == undisturbed
    assert "--ray" in refused(*few(net, tmp_path), "--workers", 2)


# Bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_line(net: str, encoder: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad: list[tuple[object, list[object], str]] = [
        (net, ["--num", 0], "Samples must be between 1 and"),
        (net, ["--batch", 0], "The batch must be between 1 and"),
        (net, ["--seed", -1], "The seed must be between 0 and"),
        (net, ["--steps", 0], "Steps must be between 1 and"),
        (net, ["--sampler", "nothing"], "There is no sampler called nothing"),
        (net, ["--sampler", "MaxEnt"], "compares features, not classes"),
        (net, ["--start", "gaussian"], "There are no class Gaussians"),
        (net, ["--dot"], "--cosine or --dot is of encoders"),
        (encoder, ["--sampler", "RCS"], "needs a target for each sample"),
        (encoder, ["--num", 9], "a last one alone has no other"),
        (encoder, ["--reference", tmp_path], "holds no image"),
        (tmp_path / "nowhere.pt", [], "nowhere.pt"),
    ]
    for checkpoint, arguments, says in bad:
        assert says in refused(*few(checkpoint, out), *arguments)
        assert not out.exists()
    (tmp_path / "a file").touch()
    assert "cannot be used" in refused(*few(net, tmp_path / "a file"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert "was not made by cem-explorer sample" in refused(*few(net, tmp_path / "full"))


def test_wrong_usage_is_exit_code_2(net: str) -> None:
    for arguments in (["--checkpoint", net], ["--out", "x", "--start", "image"], ["--out", "x", "--num", "many"]):
        assert ask(*arguments).exit_code == 2


def test_what_evaluators_of_guided_diffusion_read_needs_nothing_of_ours(net: str, tmp_path: Path) -> None:
    ran(*few(net, tmp_path))
    pictures, labels = [], []
    for name in sorted(SHARDS):
        with np.load(tmp_path / name, allow_pickle=False) as arrays:
            pictures.append(arrays["arr_0"])
            labels += arrays["arr_1"].tolist()
    assert np.concatenate(pictures).shape == (10, 16, 16, 3)
    assert labels == [place % 3 for place in range(10)]
