"""Several processes that train as one: what torchrun starts, on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from cem_core.messages import Refused
from cem_core.training import loop, recipe
from cem_core.training.progress import EPOCHS, LOG, STATE, Began, Ended, Epoch, Progress
from cem_core.training.ranks import Ranks

CHECKOUT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
RECIPE = """
name = "tiny"

[data]
path = "images"
held = 4
crop = 1

[network]
width = 2
size = 8
activation = "silu"  # without a kink, where rounding would decide

[optimiser]
epochs = {epochs}
batch = 8
rate = 0.02
average = 0.9

[objective]
"""
STANDARD = 'kind = "standard"'
ADVERSARIAL = 'kind = "adversarial"\neps = 0.5\nsteps = 2\nconsistency = 0.2'
CONTRASTIVE = (
    'kind = "contrastive"\nroutes = 2\nclean = 0.5\nviews = {size = 8}\n[objective.attack]\neps = 0.5\nsteps = 2'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, level in (("bright", 170), ("dark", 80)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(14):
            pixels = np.clip(random.normal(level, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i:02}.png")
    return tmp_path


def written(folder: Path, objective: str = STANDARD, epochs: int = 2) -> Path:
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(epochs=epochs) + objective)
    return path


def started(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    a, b = (torch.cat([tensors[key].double().flatten() for key in sorted(one)]) for tensors in (one, other))
    return float((a - b).norm() / a.norm())


@pytest.mark.parametrize("objective", [ADVERSARIAL, CONTRASTIVE], ids=["adversarial", "contrastive"])
def test_two_processes_do_what_one_does(folder: Path, objective: str) -> None:
    """Where batch norms know no batch, but for rounding; the negatives of InfoNCE are all there."""
    path = str(written(folder, objective))
    script = str(CHECKOUT / "tests" / "several.py")
    for command in ([sys.executable, script, path, str(folder / "one")],
                    [*TORCHRUN, script, path, str(folder / "two")]):  # fmt: skip
        done = started(command)
        assert done.returncode == 0, done.stderr[-3000:]
    states = [load_file(folder / name / STATE) for name in ("one", "two")]
    for part in ("net.", "average.", "momentum."):
        one, two = ({key: value for key, value in state.items() if key.startswith(part)} for state in states)
        assert apart(one, two) < 1e-4
    words = [
        msgspec.json.decode(line, type=Began | Progress | Epoch | Ended)
        for line in (folder / "two" / LOG).read_bytes().splitlines()
    ]
    assert [type(word) for word in words] == [Began, Epoch, Progress, Epoch, Ended]  # each was said once
    assert words[0].device.startswith("2 × ")  # type: ignore[union-attr]
    assert sorted(file.name for file in (folder / "two" / EPOCHS).iterdir()) == [
        "tiny-001.safetensors", "tiny-002.safetensors"]  # fmt: skip
    weights = [load_file(file) for file in sorted((folder / "two").glob("weights-*.safetensors"))]
    assert len(weights) == 2
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_and_resume_goes_on(folder: Path, number: signal.Signals) -> None:
    """With the batch norms that each has for itself."""
    command = [*TORCHRUN, "-m", "cem_core.cli", "train", str(written(folder, epochs=400)), "--out", str(folder / "out"),
               "--device", "cpu"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("tiny: 24 images")
        assert running.stdout.readline().startswith("epoch 1:")
        running.send_signal(number)
        rest, said = running.communicate(timeout=120)
    assert "tiny: 24 images" not in rest  # one speaks
    assert said.count("--resume goes on") == 1
    lines = (folder / "out" / LOG).read_bytes().splitlines()
    stopped = msgspec.json.decode(lines[-1], type=Ended)
    assert stopped.reason == "stopped"
    said_next: list[object] = []
    asked = recipe.read(folder / "tiny.toml")
    left = iter(range(2))
    for word in loop.train(asked, folder / "out", lambda: next(left, None) is not None, "cpu", resume=True):
        said_next.append(word)
    assert isinstance(said_next[0], Began)
    assert said_next[0].first == stopped.step
    assert isinstance(said_next[-1], Ended)
    assert said_next[-1].step == stopped.step + 2


def test_where_one_ends_the_other_ends_too_and_only_one_says_why(folder: Path) -> None:
    """Only the first sees what lies in the folder: the other waits for it."""
    (folder / "out").mkdir()
    (folder / "out" / LOG).write_text("theirs")
    done = started([*TORCHRUN, "-m", "cem_core.cli", "train", str(written(folder)), "--out", str(folder / "out"),
                    "--device", "cpu"])  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("but no recipe of a training") == 1
    assert "[rank" not in done.stderr  # as a traceback of the other begins


def test_a_batch_that_cannot_be_shared_is_told(folder: Path) -> None:
    asked = recipe.read(written(folder))
    for count in (3, 8):
        with pytest.raises(Refused, match=f"cannot be shared by {count} processes"):
            list(loop._train(asked, None, lambda: True, torch.device("cpu"), Ranks(1, count)))


@pytest.mark.parametrize("views", [1, 2])
def test_the_parts_make_the_batch(views: int) -> None:
    x = torch.arange(views * 6 * 2).view(views * 6, 2)
    parts = [Ranks(index, 3).part(x, 6) for index in range(3)]
    assert all(len(part) == views * 2 for part in parts)
    whole = torch.stack([part.view(views, 2, 2) for part in parts], 1).view(-1, 2)
    torch.testing.assert_close(whole, x)
    assert Ranks().part(x, 6) is x
