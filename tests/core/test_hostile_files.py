"""Files that mean harm, and files that came to harm: nothing runs, crashes, hangs or fills the memory."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fuzzing
import hostile
import pytest
import tiny
import torch
from safetensors.torch import save_file

from cem_core import checkpoints
from cem_core.messages import Refused

CONSTANT = 64 * 2**20
"""Bytes that opening may take beside twice the file: what the objects of a pickle may take at most."""
TESTS = Path(fuzzing.__file__).parent
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it")


def refused(path: Path) -> str:
    """The one line that both ways to open a file give."""
    said = set()
    for open_file in (checkpoints.inspect, checkpoints.load):
        with pytest.raises(Refused) as error:
            open_file(str(path))
        said.add(str(error.value))
    (line,) = said
    check(line, path.name)
    return line


def check(line: str, name: str) -> None:
    assert re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]{10,400}", line), line
    assert name in line


# Code -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="the proof is made by a command of POSIX")
@pytest.mark.parametrize("form", ["zip", "stream"])
@pytest.mark.parametrize("careless", hostile.CARELESS)
def test_no_code_runs(careless: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, proof = tmp_path / "files", tmp_path / "proof"
    folder.mkdir()
    monkeypatch.chdir(folder)
    data = {"zip": hostile.in_zip, "stream": hostile.in_stream}[form](hostile.run_by(careless, proof))
    if form == "stream":
        data = hostile.in_stream(hostile.run_by(careless, proof), keys=b"]", data=b"")
    path = folder / "evil.pt"
    path.write_bytes(data)
    modules = set(sys.modules)
    refused(path)
    assert not proof.exists(), "it ran"
    assert set(sys.modules) == modules
    assert list(tmp_path.rglob("*")) == [folder, path]
    torch.load(io.BytesIO(data), weights_only=False)
    assert proof.exists(), "it could not have run: the test proves nothing"


@pytest.mark.skipif(os.name == "nt", reason="the proof is made by a command of POSIX")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_code_beside_weights_is_left_and_named(zipped: bool, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch '{tmp_path / 'proof'}'",)

    data = hostile.torch_file({"state_dict": tiny.weights(), "args": Evil()}, zipped=zipped)
    (tmp_path / "net.pt").write_bytes(data)
    _, report = checkpoints.load(str(tmp_path / "net.pt"))
    assert report.ignored == (f"{os.system.__module__}.system",)
    assert not (tmp_path / "proof").exists()


def test_names_that_lead_elsewhere_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in ("../../evil", "/tmp/cem-explorer-evil", "archive/../../../evil", "C:\\evil"):
        (folder / "net.pt").write_bytes(hostile.zipped(hostile._members() | {name: b"evil"}))
        assert checkpoints.inspect(str(folder / "net.pt")).title == "PreAct ResNet-10"
        assert not Path("/tmp/cem-explorer-evil").exists()
        assert {path.name for path in tmp_path.rglob("*")} == {"a", "b", "net.pt"}


# Memory and time --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile")
    paths = []
    for number, (title, data) in enumerate(hostile.files()):
        paths.append(folder / f"{number} {re.sub(r'[^a-zA-Z0-9 ]', '', title)}.pt")
        paths[-1].write_bytes(data)
    found = hostile.opened_alone(paths, folder, 280)
    assert {path.name for path in folder.iterdir()} == {"good", *(path.name for path in paths)}, "a file was written"
    return found | {"sizes": {path.name: path.stat().st_size for path in paths}}


@linux
def test_every_trap_is_refused_in_a_line(outcomes: dict[str, dict[str, Any]]) -> None:
    for name in outcomes["sizes"]:
        first, second = outcomes[name]["said"]
        assert first, f"{name} opens"
        assert first == second
        check(first, name)


@linux
def test_no_trap_takes_long(outcomes: dict[str, dict[str, Any]]) -> None:
    assert {name: outcomes[name]["seconds"] for name in outcomes["sizes"] if outcomes[name]["seconds"] > 20} == {}, (
        "each was opened twice"
    )


@linux
def test_no_trap_fills_the_memory(outcomes: dict[str, dict[str, Any]]) -> None:
    grown = {name: outcomes[name]["grown"] for name, size in outcomes["sizes"].items()}
    assert {n: g / 2**20 for n, g in grown.items() if g > 2 * outcomes["sizes"][n] + CONSTANT} == {}


@linux
def test_no_trap_changes_what_there_was(outcomes: dict[str, dict[str, Any]]) -> None:
    for name in outcomes["sizes"]:
        assert outcomes[name]["imported"] == []
        assert not outcomes[name]["changed"], name


@linux
@pytest.mark.parametrize("form", ["zip", "stream", "safetensors"])
def test_a_large_good_file_takes_no_more_than_twice_its_size(form: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    weights = tiny.weights() | {f"aux.{number}.weight": torch.zeros(2**20, 2) for number in range(8)}
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    assert path.stat().st_size > 60 * 2**20
    outcome = hostile.opened_alone([path], tmp_path, 60)["large"]
    assert outcome["said"] == ["", ""]
    assert outcome["grown"] < 2 * path.stat().st_size + CONSTANT


@pytest.mark.parametrize("form", ["zip", "stream", "safetensors"])
def test_a_file_that_is_cut_while_its_model_is_open_does_no_harm(form: str, tmp_path: Path) -> None:
    """As when a training writes its checkpoint anew; a file that were mapped would end the program."""
    path = tmp_path / "net"
    path.write_bytes({"zip": hostile.ZIP, "stream": hostile.STREAM, "safetensors": hostile.SAFE}[form])
    model, _ = checkpoints.load(str(path), "cpu")
    os.truncate(path, 9)
    assert model(torch.zeros(1, 3, 16, 16)).isfinite().all()


# Damage -----------------------------------------------------------------------------------------------------------


def test_the_originals_open(tmp_path: Path) -> None:
    for name, data in fuzzing.originals().items():
        (tmp_path / "net").write_bytes(data)
        assert checkpoints.load(str(tmp_path / "net"), "cpu"), name


def test_no_damage_leads_to_anything_but_a_line(tmp_path: Path) -> None:
    """10,000 damaged copies of files of every kind, the same every time, in two processes that may be killed."""
    processes = []
    for first, last in ((0, 5000), (5000, 10_000)):
        folder = tmp_path / str(first)
        folder.mkdir()
        command = [sys.executable, fuzzing.__file__, str(first), str(last), str(folder)]
        processes.append((folder, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)))
    try:
        for folder, process in processes:
            try:
                out, _ = process.communicate(timeout=300)
            except subprocess.TimeoutExpired:
                out = b"hung"
            if process.returncode != 0:
                number = int((folder / "at").read_text())
                pytest.fail(
                    f"copy {number} ({fuzzing.mutated(number)[0]}): {process.returncode}\n{out.decode()[-2000:]}"
                )
    finally:
        for _, process in processes:
            process.kill()
            process.communicate()
