from __future__ import annotations

import csv
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scenarios import SHAPE, beginnings, linear, smooth
from torch import Tensor

from cem_core import bundle, checkpoints, cli, images, samplers
from cem_core.messages import Norm, Refused
from cem_core.probes import smallest_report
from cem_core.probes.measuring import Cancelled, measure
from cem_core.probes.requests import Smallest, Subject
from cem_core.probes.results import Bound, Flip
from cem_core.probes.smallest import Bracket, search
from cem_core.samplers import Logits

NORMS: tuple[Norm, ...] = ("l2", "linf")
DUAL = {"l2": 2, "linf": 1}
SAMPLES = bundle.samples()


def last(logits_of: Logits, x: Tensor, y: int, norm: Norm, steps: int = 20, seed: int = 0) -> Bracket:
    (*_, bracket) = search(logits_of, x, y, norm, steps, seed)
    return bracket


def honest(bracket: Bracket, logits_of: Logits, x: Tensor, y: int, norm: Norm) -> bool:
    """What is said of the adversarial image is true of it."""
    adversarial = bracket.adversarial
    return (
        bool((logits_of(adversarial).argmax(1) != y).all())
        and bracket.high == float(samplers.length(adversarial - x, norm))
        and 0 <= float(adversarial.min()) <= float(adversarial.max()) <= 1
        and 0 <= bracket.low <= bracket.high
    )


# Known answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=12)
@given(seed=st.integers(0, 99), far=st.floats(0.002, 0.98))
def test_on_a_binary_linear_model_it_is_the_margin_over_the_dual_norm(norm: Norm, seed: int, far: float) -> None:
    """From images in the middle of the box, up to nearly its edge."""
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(SHAPE, generator=random)
    if norm == "l2":
        w /= w.abs().max()  # so that the whole way of an L2 attack lies in the box
    x = torch.full((1, *SHAPE), 0.5)
    dual = float(torch.linalg.vector_norm(w.flatten(), DUAL[norm]))
    exact = far * 0.5 * (dual if norm == "l2" else 1)
    bias = exact * dual - float((w * x).sum())
    model = linear(w, bias)
    found = last(model, x, 0, norm)
    assert honest(found, model, x, 0, norm)
    assert found.high == pytest.approx(exact, abs=1e-3)
    assert found.high * 0.99 <= found.low < exact * 1.0001, "an attack that succeeds just above fails just below"


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=12)
@given(seed=st.integers(0, 99), classes=st.integers(3, 10))
def test_on_a_linear_model_of_many_classes_it_is_the_nearest_of_their_planes(
    norm: Norm, seed: int, classes: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(classes, *SHAPE, generator=random) * (0.2 + torch.rand(classes, 1, 1, 1, generator=random))
    x = 0.45 + 0.1 * torch.rand(1, *SHAPE, generator=random)
    bias = torch.rand(classes, generator=random) - (weights * x).flatten(1).sum(1)  # margins below 1

    def model(points: Tensor) -> Tensor:
        return (weights * points[:, None]).flatten(2).sum(2) + bias

    logits = model(x)[0]
    y = int(logits.argmax())
    planes = [
        float((logits[y] - logits[k]) / torch.linalg.vector_norm((weights[y] - weights[k]).flatten(), DUAL[norm]))
        for k in range(classes)
        if k != y
    ]
    found = last(model, x, y, norm)
    assert honest(found, model, x, y, norm)
    assert found.high == pytest.approx(min(planes), abs=1e-3)
    assert found.high == pytest.approx(min(planes), rel=0.01, abs=1e-6)


@pytest.mark.parametrize(("norm", "away"), [("l2", 2.5), ("linf", 0.3)])
def test_around_a_single_pixel_the_distance_is_known_even_at_the_edge_of_the_box(norm: Norm, away: float) -> None:
    """Class 1 begins where the mean has risen by so much; half of the pixels are white already and cannot help."""
    x = torch.full((1, *SHAPE), 0.5)
    x[..., ::2] = 1
    free = x.numel() // 2
    rise = away * math.sqrt(free) if norm == "l2" else away * free

    def model(points: Tensor) -> Tensor:
        lead = (points - x).flatten(1).sum(1) - rise
        return torch.stack([-lead, lead], 1)

    found = last(model, x, 0, norm, steps=60)
    assert honest(found, model, x, 0, norm)
    assert found.high == pytest.approx(away, rel=0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_that_is_wrong_already_needs_nothing(norm: Norm) -> None:
    model, x = smooth(), beginnings(1)
    wrong = (int(model(x).argmax()) + 1) % 4
    (bracket,) = search(model, x, wrong, norm)
    assert (bracket.low, bracket.high) == (0, 0)
    assert torch.equal(bracket.adversarial, x)


@pytest.mark.parametrize(("norm", "whole"), [("l2", math.sqrt(0.7**2 * 192)), ("linf", 0.7)])
def test_what_nothing_flips_is_told_with_the_ball_that_holds_all_images(norm: Norm, whole: float) -> None:
    def certain(points: Tensor) -> Tensor:
        return points.flatten(1)[:, :3] * 0.1 + torch.tensor([1.0, 0, 0])

    x = torch.full((1, *SHAPE), 0.3)
    found = last(certain, x, 0, norm, steps=3)
    assert found.high == math.inf
    assert found.low == pytest.approx(whole)
    assert torch.equal(found.adversarial, x)


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_whose_gradient_is_hidden_is_flipped_if_a_ball_is_large_enough(norm: Norm) -> None:
    """No gradient at the image itself, as of a quantised input; only the random start of a large ball meets one."""

    def hidden(points: Tensor) -> Tensor:
        lead = ((points - 0.5).abs() - 0.05).relu().flatten(1).sum(1) * 4 - 1
        return torch.stack([-lead, lead], 1)

    x = torch.full((1, *SHAPE), 0.5)
    found = last(hidden, x, 0, norm)
    assert honest(found, hidden, x, 0, norm)
    assert found.high < {"l2": 2.0, "linf": 0.06}[norm]


# Properties -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_brackets_only_narrow_and_what_they_hold_is_true(norm: Norm, seed: int) -> None:
    model, x = smooth(5, seed=seed), beginnings(1, seed=seed)
    y = int(model(x).argmax())
    brackets = list(search(model, x, y, norm, 20, seed))
    for before, after in pairwise(brackets):
        assert after.high <= before.high
        assert after.low >= min(before.low, after.high)
    assert honest(brackets[-1], model, x, y, norm)
    assert brackets[-1].low >= 0.99 * brackets[-1].high
    again = last(model, x, y, norm, 20, seed)
    assert torch.equal(again.adversarial, brackets[-1].adversarial)


def test_nothing_far_smaller_flips_a_curved_model() -> None:
    """Of 300 images on the sphere at 0.9 of the bound, and 200 steps of another attack within it, none does."""
    model, x = smooth(4), beginnings(1, seed=2)
    y = int(model(x).argmax())
    found = last(model, x, y, "l2", 40)
    random = samplers.normal(tuple(range(300)), 0, SHAPE)
    inside = (x + samplers.project(1e3 * random, "l2", 0.9 * found.high)).clamp(0, 1)
    assert (model(inside).argmax(1) == y).all()
    for _ in range(200):
        leaf = inside.requires_grad_()
        logits = model(leaf)
        others = logits.scatter(1, torch.full((300, 1), y), -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((others - logits[:, y]).sum(), leaf)
        moved = inside.detach() - x + 0.02 * found.high * samplers.unit(gradient, "l2")
        inside = (x + samplers.project(moved, "l2", 0.9 * found.high)).clamp(0, 1)
    assert (model(inside).argmax(1) == y).all()


def test_a_step_is_the_most_that_passes_between_two_answers() -> None:
    passes: list[int] = []

    def counted(points: Tensor) -> Tensor:
        passes.append(len(points))
        return smooth()(points)

    x = beginnings(1)
    most, before = 0, 0
    for _ in search(counted, x, int(smooth()(x).argmax()), "l2", 40):
        most, before = max(most, sum(passes) - before), sum(passes)
    assert most < 60, "images through the model"


# Requests -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("nets")
    return str(tiny.saved(folder / "a.safetensors")), str(tiny.saved(folder / "b.safetensors", tiny.weights(1)))


def flips(request: Smallest) -> list[Flip]:
    return [answer for answer in measure(request) if isinstance(answer, Flip)]


def test_every_model_and_norm_is_answered_after_its_bounds(nets: tuple[str, str]) -> None:
    request = Smallest(tuple(map(Subject, nets)), str(SAMPLES[0]), steps=8)
    seen: list[tuple[int, Norm]] = []
    bound: Bound | None = None
    for answer in measure(request):
        if isinstance(answer, Bound):
            bound = answer
            continue
        assert isinstance(answer, Flip)
        assert bound is not None
        assert (bound.subject, bound.norm) == (answer.subject, answer.norm)
        assert (bound.low, bound.high) == (answer.failed, answer.eps)
        seen.append((answer.subject, answer.norm))
        model, checkpoint = checkpoints.load(nets[answer.subject])
        assert np.array_equal(answer.pixels, images.prepare(SAMPLES[0], checkpoint.size).pixels)
        for pixels, logits in ((answer.pixels, answer.before), (answer.adversarial, answer.after)):
            assert np.allclose(model(torch.from_numpy(pixels)[None])[0].numpy(), logits, atol=1e-5)
        assert answer.label == answer.before.argmax()
        assert answer.seen == answer.after.argmax() != answer.label
        change = (answer.adversarial - answer.pixels).ravel()
        assert np.linalg.norm(change, 2 if answer.norm == "l2" else np.inf) == pytest.approx(answer.eps, rel=1e-5)
    assert seen == [(0, "l2"), (0, "linf"), (1, "l2"), (1, "linf")]


def test_the_class_is_found_by_its_name_however_it_is_written(nets: tuple[str, str], tmp_path: Path) -> None:
    other = str(tiny.saved(tmp_path / "c.safetensors", classes=json.dumps(["Horse", "DOG", "Cat"])))
    request = Smallest((Subject(nets[0]), Subject(other)), str(SAMPLES[0]), label="horse", norms=("linf",), steps=2)
    found = flips(request)
    assert [flip.label for flip in found] == [2, 0]
    assert sum(flip.eps == 0 for flip in found) >= 1, "the same weights cannot mean both"


def test_pixels_are_taken_as_they_are(nets: tuple[str, str]) -> None:
    pixels = np.random.default_rng(0).random((3, 16, 16), np.float32)
    (flip,) = flips(Smallest((Subject(nets[0]),), pixels=pixels, norms=("l2",), steps=4))
    assert np.array_equal(flip.pixels, pixels)
    for wrong, says in (
        (pixels[:, :8], "The image is 3×8×16, and a.safetensors takes 3×16×16"),
        (pixels - 1, r"lie in \[0,1\]"),
    ):
        with pytest.raises(Refused, match=says):
            flips(Smallest((Subject(nets[0]),), pixels=wrong))


def test_a_class_that_a_model_does_not_know_is_refused_before_anything_is_attacked(nets: tuple[str, str]) -> None:
    with pytest.raises(
        Refused, match=r"a\.safetensors has no class zebra: choose another of its classes, such as cat, dog, horse"
    ):
        next(measure(Smallest((Subject(nets[0]),), str(SAMPLES[0]), label="zebra")))


def test_it_can_be_cancelled_at_any_pass(nets: tuple[str, str]) -> None:
    request = Smallest((Subject(nets[0]),), str(SAMPLES[0]))
    asked = iter([True] * 30)
    with pytest.raises(Cancelled):
        list(measure(request, lambda: next(asked, False)))


def test_the_bundled_robust_model_needs_more_than_its_standard_twin() -> None:
    pair = Subject(bundle.DEFAULT_MODEL), Subject(bundle.TWIN)
    found = flips(Smallest(pair, str(SAMPLES[0]), norms=("linf",), steps=10))
    robust, standard = sorted(found, key=lambda flip: flip.subject)
    assert robust.eps > 2 * standard.eps > 0
    assert standard.failed > 0.99 * standard.eps


# Command --------------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["smallest", *map(str, arguments)])


def refusal(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def ran(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def test_the_command_prints_a_line_for_each_model_and_norm(nets: tuple[str, str]) -> None:
    two = ("--checkpoint", nets[0], "--checkpoint", nets[1], "--steps", 5)
    lines = ran(SAMPLES[0], *two).splitlines()
    assert [line.split()[:2] for line in lines] == [
        [f"{name}.safetensors", norm] for name in "ab" for norm in ("L2", "L∞")
    ]
    found: list[dict[str, Any]] = json.loads(ran(SAMPLES[0], *two, "--norm", "linf", "--json"))
    assert [(row["name"], row["norm"]) for row in found] == [("a.safetensors", "linf"), ("b.safetensors", "linf")]
    assert f"ε ≤ {found[0]['eps']:.4f} ({255 * found[0]['eps']:.2f}/255)" in lines[1]
    assert lines[1].endswith(f"{found[0]['label']} → {found[0]['seen']}")
    assert found[0]["failed"] < found[0]["eps"]


def test_what_is_written_is_what_was_found(nets: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "flips"
    for _ in range(2):  # the second time over its own files
        ran(SAMPLES[0], "--checkpoint", nets[0], "--steps", 5, "--out", out)
    l2, linf = flips(Smallest((Subject(nets[0]),), str(SAMPLES[0]), steps=5))
    record = json.loads((out / "smallest.json").read_text())
    assert [row["eps"] for row in record["results"]] == pytest.approx([l2.eps, linf.eps])
    assert "upper bound" in record["eps_is"]

    table = list(csv.DictReader((out / "energies.csv").read_text().splitlines()))
    assert [(row["norm"], row["class"]) for row in table] == [(n, c) for n in NORMS for c in tiny.CLASSES]
    assert [float(row["before"]) for row in table[:3]] == pytest.approx((-l2.before).tolist())
    assert [float(row["after"]) for row in table[3:]] == pytest.approx((-linf.after).tolist())

    exact = np.load(out / "1-a-linf-adversarial.npy", allow_pickle=False)
    assert np.array_equal(exact, linf.adversarial)
    shown = np.asarray(Image.open(out / "1-a-linf-adversarial.png"))
    assert np.array_equal(shown, images.to_uint8(linf.adversarial).transpose(1, 2, 0))
    gain = smallest_report.gain(linf)
    difference = np.asarray(Image.open(out / f"1-a-linf-difference-x{gain}.png"))
    assert np.array_equal(difference, images.difference(linf.adversarial[None], linf.pixels[None], gain)[0])
    most = np.abs(linf.adversarial - linf.pixels).max()
    assert gain * most <= 1
    assert gain == 32 or 2 * gain * most > 1


def test_a_model_that_is_wrong_and_one_that_nothing_flips_are_said_so(nets: tuple[str, str], tmp_path: Path) -> None:
    tensors = tiny.weights()
    tensors["linear.weight"] *= 1e-20  # lost beside the bias
    tensors["linear.bias"] = torch.tensor([1.0, 0, 0])
    sure = tiny.saved(tmp_path / "sure.safetensors", tensors)
    out = tmp_path / "flips"
    arguments = (SAMPLES[0], "--checkpoint", sure, "--norm", "linf", "--steps", 2)
    assert "none  cat; no attack succeeded within" in ran(*arguments, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["energies.csv", "smallest.json"]
    assert json.loads((out / "smallest.json").read_text())["results"][0]["eps"] is None
    assert "0  dog, but seen as cat as it is" in ran(*arguments, "--label", "dog")


def test_bad_input_is_a_sentence(nets: tuple[str, str], tmp_path: Path) -> None:
    assert "There is no file none.png" in refusal(tmp_path / "none.png", "--checkpoint", nets[0])
    assert "no class zebra" in refusal(SAMPLES[0], "--checkpoint", nets[0], "--label", "zebra")
    assert "no model or file called nobody" in refusal(SAMPLES[0], "--checkpoint", "nobody")
    assert "Between 1 and 4 models" in refusal(SAMPLES[0], *(["--checkpoint", nets[0]] * 5))
    assert "Steps of an attack" in refusal(SAMPLES[0], "--checkpoint", nets[0], "--steps", 0)
    for seed in (-1, 2**31, 10**30):
        assert "The seed of an attack" in refusal(SAMPLES[0], "--checkpoint", nets[0], "--seed", seed)
    (tmp_path / "thesis.txt").write_text("keep me")
    assert "was not made by cem-explorer smallest" in refusal(SAMPLES[0], "--checkpoint", nets[0], "--out", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "keep me"
