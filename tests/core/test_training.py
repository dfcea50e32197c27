"""Training: recipes, a loss that falls, robustness that comes, and going on to the same weights."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scenarios import beginnings, linear, smooth
from torch import Tensor
from torch.nn import functional

from cem_core import checkpoints, writing
from cem_core.cli import main
from cem_core.datasets import Arrays
from cem_core.messages import Refused
from cem_core.training import loop, objectives, recipe
from cem_core.training.history import History
from cem_core.training.progress import EPOCHS, LOG, STATE, Began, Ended, Epoch, Progress, Word
from cem_core.training.progress import RECIPE as RECIPE_FILE
from cem_core.training.recipe import Adversarial, Recipe

RECIPE = """
name = "tiny"
seed = 3

[data]
path = "images"
held = {held}
crop = 2

[network]
width = 4
size = 16

[objective]
{objective}

[optimiser]
epochs = {epochs}
batch = 16
rate = 0.1
average = 0.9
"""
STANDARD = 'kind = "standard"'
SINGLE = 'kind = "adversarial"\neps = 0.5\nsteps = 1'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Bright and dark squares of noise in two class folders, which anything can tell apart."""
    random = np.random.default_rng(0)
    for name, level in (("bright", 170), ("dark", 80)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(40):
            pixels = np.clip(random.normal(level, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i:02}.png")
    return tmp_path


def written(folder: Path, objective: str = STANDARD, epochs: int = 2, held: int = 16) -> Path:
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(objective=objective, epochs=epochs, held=held))
    return path


def trained(asked: Recipe, out: Path, steps: int | None = None, *, resume: bool = False) -> list[Word]:
    """All it says; stopped before the step of that number."""
    said: list[Word] = []
    left = iter(range(10**6 if steps is None else steps))
    for word in loop.train(asked, out, lambda: next(left, None) is not None, "cpu", resume=resume):
        said.append(word)
    return said


def weights(out: Path) -> dict[str, bytes]:
    """To the last bit."""
    return {name: value.numpy().tobytes() for name, value in load_file(out / "tiny.safetensors").items()}


@pytest.mark.parametrize(
    "objective",
    [STANDARD, SINGLE, SINGLE.replace("= 1", "= 3") + '\nnorm = "linf"', SINGLE + "\nconsistency = 0.1",
     'kind = "trades"\neps = 0.5\nsteps = 2'],
)  # fmt: skip
def test_it_learns_and_what_it_writes_opens(folder: Path, objective: str) -> None:
    asked = recipe.read(written(folder, objective.replace("0.5", "0.05") if "linf" in objective else objective, 3))
    said = trained(asked, folder / "out")
    assert isinstance(said[0], Began)
    assert isinstance(said[-1], Ended)
    assert said[-1].reason == "done"
    epochs = [word for word in said if isinstance(word, Epoch)]
    assert [word.epoch for word in epochs] == [1, 2, 3]
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].clean is not None
    assert epochs[-1].clean > 0.8
    for file in [folder / "out" / "tiny.safetensors", *(folder / "out" / word.file for word in epochs)]:
        model, found = checkpoints.load(str(file), "cpu")
        assert (found.classes, found.size, found.title) == (("bright", "dark"), 16, "PreAct ResNet-18")
        assert not [fact for fact in found.facts if fact.source == "guess"]
    with torch.no_grad():
        levels = torch.tensor([170.0, 80.0]).view(2, 1, 1, 1) / 255
        assert model(levels.expand(2, 3, 16, 16)).argmax(1).tolist() == [0, 1]
    lines = (folder / "out" / LOG).read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Began | Progress | Epoch | Ended) for line in lines] == said


def test_a_checkpoint_tells_of_its_training_but_not_where_the_data_lie(folder: Path) -> None:
    trained(recipe.read(written(folder, SINGLE, epochs=1)), folder / "out")
    with safe_open(folder / "out" / "tiny.safetensors", "pt") as file:
        told = file.metadata()
    assert msgspec.json.decode(told["recipe"])["data"]["path"] == "images"
    assert str(folder) not in str(told)
    against = checkpoints.inspect(str(folder / "out" / "tiny.safetensors")).fact("trained against")
    assert against is not None
    assert against.value == "L2, ε = 0.5"


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_an_interrupted_training_comes_to_the_same_weights(folder: Path, stop: int) -> None:
    """Four steps an epoch: within one, in the next, and at the very end."""
    asked = recipe.read(written(folder, SINGLE))
    trained(asked, folder / "straight")
    stopped = trained(asked, folder / "halting", stop)
    assert isinstance(stopped[-1], Ended)
    assert (stopped[-1].reason, stopped[-1].step) == (("stopped", stop) if stop < 8 else ("done", 8))
    trained(asked, folder / "halting", resume=True)
    assert weights(folder / "straight") == weights(folder / "halting")


def test_a_killed_training_comes_to_the_same_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said to it: it is gone between two steps, with the state that it last kept."""
    asked = recipe.read(written(folder))
    trained(asked, folder / "straight")
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    words = loop.train(asked, folder / "killed", device="cpu")
    for word in words:
        if isinstance(word, Epoch):
            break
    words.close()
    trained(asked, folder / "killed", resume=True)
    assert weights(folder / "straight") == weights(folder / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_and_resume_goes_on(folder: Path, number: signal.Signals) -> None:
    asked = recipe.read(written(folder, SINGLE, epochs=400))
    command = [sys.executable, "-m", "cem_core.cli", "train", str(folder / "tiny.toml"), "--out", str(folder / "out"),
               "--device", "cpu"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("tiny: 64 images")
        assert running.stdout.readline().startswith("epoch 1:")
        running.send_signal(number)
        if number == signal.SIGTERM:  # schedulers send it to the program, and once more through what started it
            running.send_signal(number)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert "--resume goes on" in said
    stopped = msgspec.json.decode((folder / "out" / LOG).read_bytes().splitlines()[-1], type=Ended)
    began, *_ = trained(asked, folder / "out", stopped.step, resume=True)
    assert isinstance(began, Began)
    assert began.first == stopped.step
    again = CliRunner().invoke(main, command[3:])
    assert again.exit_code == 1
    assert "holds a training already" in again.output
    written(folder, STANDARD)
    other = CliRunner().invoke(main, [*command[3:], "--resume"])
    assert other.exit_code == 1
    assert "another recipe" in other.output


def crossed(net: Callable[[Tensor], Tensor], y: Tensor) -> Callable[[Tensor], Tensor]:
    """What adversarial training ascends."""
    return lambda x: functional.cross_entropy(net(x), y, reduction="sum")


# Attacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("start", [False, True])
def test_the_attack_reaches_the_corner_of_a_linear_model(norm: str, start: bool) -> None:
    w = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    x, y = torch.full((4, 3, 8, 8), 0.5), torch.tensor([0, 1, 0, 1])
    attack = Adversarial(eps=0.1, norm=norm, steps=1, random_start=start)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = objectives.attacked(crossed(linear(w, 0.0), y), x, attack, noise)
    away = torch.where(y[:, None, None, None] == 0, -w, w)
    corner = x + 0.1 * (away.sign() if norm == "linf" else away / away.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    # A single step of 1.25·ε from anywhere in the ball: the corner itself, unless it began at the far side.
    if not start:
        torch.testing.assert_close(found, corner)
    else:
        gained, most = ((w * (point - x)).flatten(1).sum(1).abs() for point in (found, corner))
        assert (gained > 0.5 * most).all()


@given(eps=st.floats(0.01, 3), steps=st.integers(1, 4), norm=st.sampled_from(["l2", "linf"]), seed=st.integers(0, 99))
def test_attacked_images_stay_in_ball_and_box(eps: float, steps: int, norm: str, seed: int) -> None:
    x = beginnings(3, seed=seed)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    attack = Adversarial(eps=min(eps, 1.0), norm=norm, steps=steps)
    found = objectives.attacked(crossed(smooth(seed=seed), torch.tensor([0, 1, 2])), x, attack, noise)
    size = (found - x).flatten(1).norm(p=2 if norm == "l2" else math.inf, dim=1)
    assert ((found >= 0) & (found <= 1)).all()
    assert (size <= attack.eps * (1 + 1e-5) + 1e-6).all()


def test_the_contrastive_part_of_the_likelihood_gradient_is_that_of_adversarial_training() -> None:
    """∇θ of CE at x̂ = −E_ŷ[∇θ f(x̂,y) − ∇θ f(x̂,ŷ)], ŷ ~ p(y|x̂): numerically, over all ŷ."""
    weights = torch.randn(5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    x = torch.rand(1, 12, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return (x.flatten(1) @ weights.T).tanh()

    y = torch.tensor([2])
    (of_loss,) = torch.autograd.grad(functional.cross_entropy(f(x), y), weights)
    p = f(x).softmax(1).detach()[0]
    gradients = [torch.autograd.grad(f(x)[0, k], weights)[0] for k in range(5)]
    contrastive = gradients[2] - sum(p[k] * gradients[k] for k in range(5))
    torch.testing.assert_close(of_loss, -contrastive)


# Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = 3", "Expected `str`"),
        (RECIPE.format(objective=STANDARD, epochs=0, held=0), "epochs must be between 1"),
        (RECIPE.format(objective='kind = "magic"', epochs=1, held=0), "magic"),
        (RECIPE.format(objective=STANDARD + "\neps = 1", epochs=1, held=0), "unknown field `eps`"),
        (RECIPE.format(objective=SINGLE.replace("0.5", "-1"), epochs=1, held=0), "eps must be above 0"),
        (RECIPE.format(objective=STANDARD, epochs=1, held=0).replace('"tiny"', '"../tiny"'), "name of a file"),
        (RECIPE.format(objective=SINGLE.replace("0.5", "4000"), epochs=1, held=0), "at most 1000"),
        ("[data", "is not TOML"),
        ("a = " + 5000 * "[", "is not TOML"),
        ("#" * 2**21, "which no recipe is"),
        *(
            (RECIPE.format(objective=STANDARD, epochs=1, held=0).replace(said, instead), says)
            for said, instead, says in (
                ("width = 4", "width = " + 400 * "9", "not a number of many digits"),
                ("size = 16", "size = 16\nmean = [nan, 0.0, 0.0]", "mean must be between"),
                ("crop = 2", "crop = 16", "crop must be below the size of the images"),
                ("width = 4", "wide = 4", "`$.network`; docs/training.md lists all keys"),
                ('"images"', '""', "path of the data is empty"),
                ('"tiny"', '"state"', "name of a file"),
                ('"tiny"', '".."', "name of a file"),
                ('"tiny"', f'"{101 * "x"}"', "name of a file"),
            )
        ),
    ],
    ids=lambda text: text[-20:],
)
def test_bad_recipes_are_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(Refused) as refused:
        recipe.read(tmp_path / "bad.toml")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (SINGLE + "\nstep_size = 0", "step_size must be above 0"),
        (SINGLE + "\nconsistency = -1", "consistency must be between 0"),
        (SINGLE + "\nbeta = 6.0", "unknown field `beta`"),
        (STANDARD + "\nroutes = 2", "unknown field `routes`"),
        ('kind = "trades"\neps = 0.5\nbeta = 0', "beta must be above 0"),
        ('kind = "trades"\neps = 0.5\nrandom_start = false', "leave random_start out"),
        ('kind = "contrastive"\nroutes = 2', "add [objective.attack]"),
        ('kind = "contrastive"\neps = 0.5', "unknown field `eps`"),
        ('kind = "contrastive"\n[objective.attack]\nsteps = 2', "missing required field `eps`"),
    ],
    ids=lambda text: text[-30:],
)
def test_keys_that_do_not_fit_each_other_are_one_sentence(folder: Path, objective: str, says: str) -> None:
    with pytest.raises(Refused) as refused:
        recipe.read(written(folder, objective))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def broken_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of that step is no number."""
    whole, steps = objectives.loss, iter(range(10**6))

    def loss(*given: Any) -> Tensor:
        return whole(*given) * (math.nan if next(steps) == step else 1)

    monkeypatch.setattr(objectives, "loss", loss)


def test_a_loss_that_is_no_number_stops_it_and_names_the_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second epoch: the checkpoint and the state of the first are whole, and the log says how it ended."""
    asked = recipe.read(written(folder))
    broken_at(6, monkeypatch)
    with pytest.raises(Refused, match="The loss became nan at step 6: resuming would come to the same"):
        trained(asked, folder / "out")
    history = History.open(folder / "out")
    history.read()
    assert history.ended is not None
    assert (history.ended.reason, history.ended.step) == ("failed", 4)
    assert "at step 6" in history.ended.detail
    assert not history.running
    (epoch,) = history.epochs
    assert checkpoints.load(str(history.checkpoint(epoch)), "cpu")[1].classes == ("bright", "dark")
    monkeypatch.undo()  # what was kept is whole: had it been an accident, it would go on
    trained(asked, folder / "out", resume=True)
    trained(asked, folder / "straight")
    assert weights(folder / "out") == weights(folder / "straight")


def test_a_state_that_is_no_numbers_does_not_replace_one_that_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is fine and its gradient is not: the weights are gone a step before anybody sees it."""
    asked = recipe.read(written(folder))
    trained(asked, folder / "out", 3)
    kept = (folder / "out" / STATE).read_bytes()
    descend = loop._descend

    def burst(state: Any, gradients: tuple[Tensor, ...], *rest: Any) -> None:
        descend(state, tuple(gradient * math.inf for gradient in gradients), *rest)

    monkeypatch.setattr(loop, "_descend", burst)
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    with pytest.raises(Refused, match="infinite before step 4: begin anew"):
        trained(asked, folder / "out", resume=True)
    assert (folder / "out" / STATE).read_bytes() == kept


def test_a_recipe_may_begin_with_a_mark(folder: Path) -> None:
    path = written(folder)
    plain = recipe.read(path)
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert recipe.read(path) == plain


@pytest.mark.parametrize("out", ["images", "images/run"])
def test_what_is_written_does_not_become_a_class(folder: Path, out: str) -> None:
    """Else the folders of a training would be among its classes when it goes on."""
    with pytest.raises(Refused, match="lies among the images"):
        trained(recipe.read(written(folder)), folder / out)
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["bright", "dark"]


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("tiny.toml", "is a file: choose a folder."),
        ("tiny.toml/out", "choose another folder, or mend this one"),
        ("x" * 300, "File name too long"),
        ("~nobody-is-called-so/out", "begins with ~ and a name that no user has"),
    ],
    ids=lambda text: text[:20],
)
def test_a_folder_that_cannot_be_is_one_sentence(folder: Path, out: str, says: str) -> None:
    path = out if out.startswith("~") else str(folder / out)
    done = CliRunner().invoke(main, ["train", str(written(folder)), "--out", path, "--device", "cpu"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert says in done.stderr
    assert "make room" not in done.stderr


def test_what_was_half_written_is_taken_away(folder: Path) -> None:
    """It was killed while it wrote; what others make there stays."""
    asked = recipe.read(written(folder))
    trained(asked, folder / "out", 5)
    halves = [
        folder / "out" / ".cem-explorer-1" / STATE,
        folder / "out" / EPOCHS / ".cem-explorer-2" / "tiny.safetensors",
    ]
    theirs = folder / "out" / ".cem-explorer-3" / "frame.png"
    for file in (*halves, theirs):
        file.parent.mkdir()
        file.write_bytes(b"half")
    trained(asked, folder / "out", resume=True)
    assert not any(file.parent.exists() for file in halves)
    assert theirs.exists()


def test_bad_data_is_one_sentence(folder: Path) -> None:
    asked = recipe.read(written(folder))
    for change, says in (
        ({"path": str(folder / "nowhere")}, "There is no folder or archive"),
        ({"path": str(folder / "images" / "dark")}, "no images in class folders"),
        ({"held": 80}, "would be held out"),
        ({"held": 1}, "is not one image for each of the 2 classes"),
    ):
        data = msgspec.structs.replace(asked.data, **change)
        with pytest.raises(Refused, match=says):
            trained(msgspec.structs.replace(asked, data=data), folder / "out")
    large = msgspec.structs.replace(asked, optimiser=msgspec.structs.replace(asked.optimiser, batch=65))
    with pytest.raises(Refused, match="make no batch"):
        trained(large, folder / "out2")
    (folder / "images" / "none").mkdir()
    with pytest.raises(Refused, match=r"none in .*images has no images: add some"):
        trained(asked, folder / "out")
    (folder / "images" / "none").rmdir()
    for file in list((folder / "images").rglob("*.png"))[::2]:
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(Refused, match=r"40 of 80 images cannot be read: mend them or take them out\. The first is "):
        trained(asked, folder / "out")
    shutil.rmtree(folder / "images" / "dark")
    with pytest.raises(Refused, match="has one class: there must be two or more, unless the objective is contrastive"):
        trained(asked, folder / "out")
    assert not (folder / "out").exists()


def test_datasets_of_torchvision_are_trained_on_by_the_split_that_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    pixels = np.clip(random.normal(80 + 90 * labels[:, None, None, None], 30, (40, 16, 16, 1)), 0, 255).astype(np.uint8)
    monkeypatch.setattr(loop, "open_labelled", lambda *_, **__: Arrays("MNIST", ("0", "1"), pixels, labels))
    asked = recipe.read(written(folder))
    with pytest.raises(Refused, match="say split"):
        trained(asked, folder / "out")
    named = msgspec.structs.replace(asked, data=msgspec.structs.replace(asked.data, split="train"))
    said = trained(named, folder / "out")
    assert isinstance(said[0], Began)
    assert (said[0].images, said[0].held, said[0].classes) == (24, 16, ("0", "1"))
    gone = Arrays("MNIST", ("0", "1", "2"), pixels, labels)
    monkeypatch.setattr(loop, "open_labelled", lambda *_, **__: gone)
    with pytest.raises(Refused, match="There is no image of 2"):
        trained(named, folder / "out2")


# The folder -------------------------------------------------------------------------------------------------------


def full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["log", STATE, EPOCHS, "tiny.safetensors", RECIPE_FILE])
def test_a_disk_that_is_full_is_told_and_what_was_kept_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """In the middle of the second epoch, or wherever the file is written next."""
    asked = recipe.read(written(folder))
    trained(asked, folder / "straight")
    out = folder / "out"
    if what != RECIPE_FILE:
        trained(asked, out, 5)
    before = {file: file.read_bytes() for file in out.rglob("*.safetensors")}
    replace = writing.replace

    def replaced(path: Path, data: bytes) -> None:
        with monkeypatch.context() as short:
            if what in (path.name, path.parent.name):
                short.setattr(Path, "write_bytes", full)
            replace(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "replace", replaced)
        if what == "log":
            patched.setattr(os, "write", lambda file, data: os.pwrite(file, data[:20], 0) if len(data) > 1 else 1)
        with pytest.raises(Refused, match=r"cannot be written \(No space left on device\): make room") as refused:
            trained(asked, out, resume=True)
        assert "\n" not in str(refused.value)
    after = {file: file.read_bytes() for file in before}
    assert after == before or what == "tiny.safetensors"  # by then the state is of the end
    trained(asked, out, resume=True)
    assert weights(out) == weights(folder / "straight")
    history = History.open(out)
    history.read()
    assert history.ended is not None
    assert history.ended.reason == "done"
    assert [word.epoch for word in history.epochs] == [1, 2]


def test_a_torn_line_swallows_no_word(folder: Path) -> None:
    asked = recipe.read(written(folder))
    trained(asked, folder / "out", 2)
    with (folder / "out" / LOG).open("ab") as file:
        file.write(b'{"kind":"progr')
    history = History.open(folder / "out")
    history.read()
    said = trained(asked, folder / "out", resume=True)
    assert history.read() == said


def test_one_folder_holds_one_training_at_a_time(folder: Path) -> None:
    """The lock is the system's, so one that is killed lets go."""
    written(folder, SINGLE, epochs=400)
    out = folder / "out"
    command = [sys.executable, "-m", "cem_core.cli", "train", str(folder / "tiny.toml"), "--out", str(out),
               "--device", "cpu"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("tiny: 64 images")
        assert running.stdout.readline().startswith("epoch 1:")
        history = History.open(out)
        assert history.running
        with pytest.raises(Refused, match="Another program trains in"):
            trained(recipe.read(folder / "tiny.toml"), out, resume=True)
        running.kill()
    history.read()
    assert not history.running
    assert history.ended is None
    assert trained(recipe.read(folder / "tiny.toml"), out, 1, resume=True)


def test_two_that_begin_at_once_do_not_mix(folder: Path) -> None:
    asked = recipe.read(written(folder))
    first, second = (loop.train(asked, folder / "out", device="cpu") for _ in range(2))
    assert isinstance(next(first), Began)
    with pytest.raises(Refused, match="Another program trains in"):
        next(second)
    assert isinstance(list(first)[-1], Ended)


def test_a_recipe_with_a_choice_less_is_the_same_training(folder: Path) -> None:
    """As an earlier version wrote it, which did not know the choice."""
    asked = recipe.read(written(folder, SINGLE))
    trained(asked, folder / "out", 3)
    path = folder / "out" / RECIPE_FILE
    older = json.loads(path.read_text())
    del older["objective"]["consistency"]
    path.write_text(json.dumps(older))
    said = trained(asked, folder / "out", resume=True)
    assert isinstance(said[0], Began)
    assert said[0].first == 3


def test_paths_from_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    path = written(folder, epochs=1)
    path.write_text(path.read_text().replace('"images"', '"~/images"'))
    done = CliRunner().invoke(main, ["train", "~/tiny.toml", "--out=~/out", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert (folder / "out" / "tiny.safetensors").exists()
    assert "images/s" in done.output


def test_an_encoder_says_what_its_shares_are(folder: Path) -> None:
    path = written(folder, 'kind = "contrastive"\nprojection = 8', epochs=1)
    done = CliRunner().invoke(main, ["train", str(path), "--out", str(folder / "out"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "of a linear head on its features" in done.output
    model, found = checkpoints.load(str(folder / "out" / "tiny.safetensors"), "cpu")
    assert not found.classes
    assert model.embedding(torch.zeros(1, 3, 16, 16)).shape == (1, 8)


def moved(folder: Path, kind: str) -> Path:
    """The 80 images of both classes, where no two classes are told apart."""
    images = folder / "images"
    if kind == "beside":
        shutil.copy(images / "dark" / "00.png", images / "preview.png")
        return images
    place = folder / "photos" / ("" if kind == "flat" else "all")
    place.mkdir(parents=True)
    for file in list(images.rglob("*.png")):
        file.rename(place / f"{file.parent.name}-{file.name}")
    return folder / "photos"


@pytest.mark.parametrize("kind", ["flat", "one", "beside"])
def test_an_encoder_learns_from_images_without_classes(folder: Path, kind: str) -> None:
    path = written(folder, 'kind = "contrastive"\nprojection = 8', epochs=2, held=1000)
    photos = moved(folder, kind)
    (photos / "empty").mkdir()
    command = ["train", str(path), "--data", str(photos), "--out", str(folder / "out"), "--device", "cpu"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "the images have no classes: no accuracy is measured, and none are held out" in done.output
    assert "clean" not in done.output
    history = History.open(folder / "out")
    words = history.read()
    assert history.began is not None
    assert (history.began.images, history.began.held, history.began.classes) == (80 + (kind == "beside"), 0, ())
    epochs = [word for word in words if isinstance(word, Epoch)]
    assert [(word.clean, word.robust, word.energy_gap) for word in epochs] == [(None, None, None)] * 2
    assert not checkpoints.load(str(folder / "out" / "tiny.safetensors"), "cpu")[1].classes
    again = CliRunner().invoke(main, [*command, "--resume"])
    assert again.output.endswith(f"done before: {folder / 'out' / 'tiny.safetensors'}\n")
    inside = CliRunner().invoke(main, [*command[:4], "--out", str(photos / "out")])
    assert "lies among the images" in inside.output


def test_a_classifier_does_not(folder: Path) -> None:
    path, photos = written(folder), moved(folder, "flat")
    done = CliRunner().invoke(main, ["train", str(path), "--data", str(photos), "--out", str(folder / "out")])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "has no images in class folders: it should hold <class>/<image>." in done.stderr


def test_a_damaged_state_is_told(folder: Path) -> None:
    asked = recipe.read(written(folder))
    trained(asked, folder / "out", 3)
    (folder / "out" / STATE).write_bytes(b"nothing")
    with pytest.raises(Refused, match="damaged or of another training"):
        trained(asked, folder / "out", resume=True)


@pytest.mark.parametrize(
    "changes", [{"step": "-1"}, {"step": "1000"}, {"seconds": "nan"}, {"seconds": "-1"}, {"step": "9" * 5000}], ids=str
)
def test_a_state_that_cannot_be_is_told(folder: Path, changes: dict[str, str]) -> None:
    asked = recipe.read(written(folder))
    trained(asked, folder / "out", 3)
    tensors = load_file(folder / "out" / STATE)
    save_file(tensors, folder / "out" / STATE, {"step": "3", "seconds": "1"} | changes)
    with pytest.raises(Refused, match="damaged or of another training"):
        trained(asked, folder / "out", resume=True)


def test_weights_that_are_no_numbers_are_not_written(folder: Path) -> None:
    asked = recipe.read(written(folder))
    trained(asked, folder / "out", 3)
    tensors = load_file(folder / "out" / STATE)
    broken = {key: value * math.nan if key.startswith("average.") else value for key, value in tensors.items()}
    save_file(broken, folder / "out" / STATE, {"step": "3", "seconds": "1"})
    with pytest.raises(Refused, match="The weights became infinite"):
        trained(asked, folder / "out", resume=True)
    assert not list((folder / "out").rglob("tiny*"))


@pytest.mark.parametrize("theirs", ["tiny.safetensors", LOG, EPOCHS])
def test_what_is_of_no_training_is_not_written_over(folder: Path, theirs: str) -> None:
    (folder / "out").mkdir()
    (folder / "out" / theirs).write_text("theirs")
    with pytest.raises(Refused, match="but no recipe of a training"):
        trained(recipe.read(written(folder)), folder / "out")
    assert [(path.name, path.read_text()) for path in (folder / "out").iterdir()] == [(theirs, "theirs")]


def test_narrow_networks_learn_from_large_images(folder: Path) -> None:
    path = written(folder, epochs=1)
    path.write_text(path.read_text().replace("size = 16", "size = 96").replace("width = 4", "width = 2"))
    assert isinstance(trained(recipe.read(path), folder / "out")[-1], Ended)


def test_too_little_memory_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(objectives, "loss", full)
    with pytest.raises(Refused, match="choose a smaller batch or network"):
        trained(recipe.read(written(folder)), folder / "out")
