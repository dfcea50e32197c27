from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner, Result
from msgspec.structs import replace
from PIL import Image
from scenarios import SHAPE, beginnings, linear, smooth, well
from torch import Tensor

from cem_core import bundle, checkpoints, cli, images, samplers
from cem_core.messages import Refused
from cem_core.presets import SAMPLERS
from cem_core.probes import lens_report, subjects
from cem_core.probes.lens import lens, split
from cem_core.probes.measuring import Cancelled
from cem_core.probes.requests import Lens, Subject
from cem_core.probes.results import Note, Split
from cem_core.samplers import State
from cem_core.session import Session

Y = torch.tensor([0, 1, 2, 3, 0])


def norm(part: Tensor) -> Tensor:
    return part.double().flatten(1).norm(dim=1)


# The two parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if not row.coupled])
def test_every_row_is_made_of_the_two_parts(name: str) -> None:
    row = SAMPLERS[name]
    state = State(beginnings(), beginnings(), Y, (0,) * 5)
    parts = split(smooth(), state.x, state.y)
    drift = samplers.read(smooth(), row, state).drift
    assert drift.abs().max() > 0.1
    assert torch.allclose(row.a * parts.class_part + row.b * parts.marginal_part, drift, rtol=0, atol=1e-5)


def test_on_a_linear_model_they_are_known() -> None:
    """f(x,0) = (w·x + b)/2 = -f(x,1): ∇f(x,0) = w/2 and ∇LSE = (p₀ - p₁)·w/2."""
    w = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) / 3
    x, y = beginnings(4), torch.tensor([0, 1, 0, 1])
    margin = (w * x).flatten(1).sum(1)
    bias = -float(margin.median())
    parts = split(linear(w, bias), x, y)
    lean = torch.tanh((margin + bias) / 2)
    assert lean.min() < -0.1 < 0.1 < lean.max(), "both signs, or the test proves little"
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])
    torch.testing.assert_close(parts.class_part, sign.view(-1, 1, 1, 1) * w.expand_as(x) / 2)
    torch.testing.assert_close(parts.marginal_part, lean.view(-1, 1, 1, 1) * w.expand_as(x) / 2)
    far = lean.abs() > 1e-3
    torch.testing.assert_close(parts.cosine[far], (sign * lean.sign())[far])


def test_they_are_the_slopes_that_differences_give() -> None:
    logits_of = smooth(dtype=torch.float64)
    x = beginnings(2).double()
    random = torch.Generator().manual_seed(2)
    for y in (torch.tensor([1, 3]), torch.tensor([0, 2])):
        parts = split(logits_of, x, y)
        for _ in range(3):
            way = torch.randn(x.shape, generator=random, dtype=torch.float64)
            ahead, behind = logits_of(x + 1e-6 * way), logits_of(x - 1e-6 * way)
            rise = (ahead - behind)[range(2), y] / 2e-6
            torch.testing.assert_close((parts.class_part * way).flatten(1).sum(1), rise, rtol=1e-6, atol=1e-7)
            rise = (ahead.logsumexp(1) - behind.logsumexp(1)) / 2e-6
            torch.testing.assert_close((parts.marginal_part * way).flatten(1).sum(1), rise, rtol=1e-6, atol=1e-7)


def test_lengths_and_angle_say_how_long_the_drift_of_ta_is() -> None:
    logits_of, x = smooth(dtype=torch.float64), beginnings().double()
    parts = split(logits_of, x, Y)
    c, m, cosine = norm(parts.class_part), norm(parts.marginal_part), parts.cosine
    drift = samplers.read(logits_of, SAMPLERS["TA"], State(x, x, Y, (0,) * 5)).gradient_norm
    assert cosine.max() - cosine.min() > 0.1
    torch.testing.assert_close(drift**2, c**2 + m**2 - 2 * c * m * cosine)


def test_an_angle_is_one_at_any_scale_and_none_at_zero() -> None:
    """With one class the parts are the same."""
    for curvature in (1e-15, 1.0, 1e15):
        torch.testing.assert_close(
            split(well(curvature), beginnings(2), torch.zeros(2).long()).cosine, torch.ones(2), rtol=0, atol=1e-5
        )
    centre = torch.full((1, *SHAPE), 0.5)
    assert split(well(1.0), centre, torch.zeros(1).long()).cosine.isnan().all()


# The answers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors"))


def request_of(net: str, points: int = 7, **changes: Any) -> Lens:
    pixels = beginnings(points, (3, 16, 16)).numpy()
    return Lens(**({"subject": Subject(net, device="cpu"), "pixels": pixels, "label": 1} | changes))


def test_every_point_may_have_a_label_of_its_own(net: str) -> None:
    [mixed] = lens(request_of(net, labels=(0, 1, 0, 1, 1, 0, 0)))
    [zeros], [ones] = (lens(request_of(net, label=label)) for label in (0, 1))
    assert not np.allclose(zeros.class_part, ones.class_part)
    for i, label in enumerate((0, 1, 0, 1, 1, 0, 0)):
        np.testing.assert_allclose(mixed.class_part[i], (zeros, ones)[label].class_part[i], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(mixed.marginal_part[i], zeros.marginal_part[i], rtol=1e-4, atol=1e-6)
    with pytest.raises(Refused, match="2 labels for 7 points"):
        request_of(net, labels=(0, 1))
    with pytest.raises(Refused, match="has no class 99"):
        next(lens(request_of(net, labels=(0, 1, 0, 1, 1, 0, 99))))


def test_another_checkpoint_than_the_one_that_is_meant_is_refused(net: str) -> None:
    sha256 = checkpoints.inspect(net).sha256
    assert isinstance(next(lens(request_of(net, sha256=sha256))), Split)
    with pytest.raises(Refused, match="another file than the one that the run was made with"):
        next(lens(request_of(net, sha256="0" * 64)))


def test_a_trajectory_is_answered_in_pieces(net: str) -> None:
    asked = request_of(net, batch=3, first=10)
    answers = list(lens(asked))
    assert all(isinstance(answer, Split) for answer in answers)
    found = [answer for answer in answers if isinstance(answer, Split)]
    assert [answer.first for answer in found] == [10, 13, 16]
    assert [len(answer.cosine) for answer in found] == [3, 3, 1]
    model = checkpoints.load(net, "cpu")[0]
    whole = split(model, torch.tensor(asked.pixels), torch.full((7,), 1))
    for name, wanted in (
        ("class_part", whole.class_part), ("marginal_part", whole.marginal_part), ("cosine", whole.cosine),
        ("class_norm", norm(whole.class_part)), ("marginal_norm", norm(whole.marginal_part)),
    ):  # fmt: skip
        values = np.concatenate([getattr(answer, name) for answer in found])
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5)


def test_it_ends_when_nobody_wants_it(net: str) -> None:
    left = [True, True]
    answers = lens(request_of(net, batch=2), lambda: bool(left and left.pop()))
    assert isinstance(next(answers), Split)
    assert isinstance(next(answers), Split)
    with pytest.raises(Cancelled):
        next(answers)


def test_where_memory_is_short_the_batch_is_halved(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = next(iter(lens(request_of(net, 6))))
    assert isinstance(whole, Split)
    opened = subjects.open_subject(Subject(net, device="cpu"))

    class Small:
        device = opened.model.device

        def __call__(self, x: Tensor) -> Tensor:
            if len(x) > 2:
                raise MemoryError
            return opened.model(x)  # type: ignore[no-any-return]

    monkeypatch.setattr("cem_core.probes.lens.open_subject", lambda _: (Small(), opened.checkpoint))
    note, first, second = lens(request_of(net, 6, batch=4))
    assert isinstance(note, Note)
    assert "4 images at once do not fit into memory" in note.says
    assert isinstance(first, Split)
    assert isinstance(second, Split)
    assert (first.first, second.first) == (0, 4), "the piece that was begun, then smaller ones"
    joined = np.concatenate([first.class_part, second.class_part])
    np.testing.assert_allclose(joined, whole.class_part, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_the_model_is_refused(net: str, tmp_path: Path) -> None:
    for changes, says in (
        ({"pixels": beginnings(2, (3, 8, 8)).numpy()}, r"takes images of 3×16×16, not 3×8×8"),
        ({"pixels": beginnings(2, (1, 16, 16)).numpy()}, r"takes images of 3×16×16, not 1×16×16"),
        ({"label": 3}, "has no class 3: it has 0 to 2"),
        ({"label": -1}, "has no class -1"),
        ({"subject": Subject("no-such-model")}, "There is no model or file called no-such-model"),
    ):
        with pytest.raises(Refused, match=says):
            list(lens(request_of(net, **changes)))
    with pytest.raises(Refused, match="The batch must be"):
        request_of(net, batch=0)
    encoder = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    saved = str(tiny.saved(tmp_path / "encoder.safetensors", encoder))
    with pytest.raises(Refused, match="is an encoder"):
        list(lens(request_of(saved)))


def test_pixels_that_may_not_be_written_are_only_read(net: str) -> None:
    asked = request_of(net, 2)
    asked.pixels.setflags(write=False)
    assert len(list(lens(replace(asked)))) == 1


# The command ------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def recorded(folder: Path, net: str, *others: object) -> Path:
    cat = next(path for path in bundle.samples() if path.name == "cat-1.jpg")
    result = run("morph", cat, "--target", "dog", "--checkpoint", net, "--sampler", "RCS", "--device", "cpu",
                 "--session", folder, *others)  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder


def test_the_command_writes_numbers_curves_and_maps(net: str, tmp_path: Path) -> None:
    folder, out = recorded(tmp_path / "run", net, "--steps", 6, "--chains", 2), tmp_path / "out"
    for _ in range(2):  # the second time, in place of the first
        result = run("lens", folder, "--chain", 2, "--device", "cpu", "--out", out)
        assert result.exit_code == 0, result.output
    shown = (0, 2, 3, 4, 6)
    maps = {f"step-{step:04}-{part}.png" for step in shown for part in ("class", "marginal")}
    assert {path.name for path in out.iterdir()} == maps | {"lens.csv", "lens.json", "lens.svg", "lens.png"}
    session = Session.open(folder)
    model = checkpoints.load(net, "cpu")[0]
    with (out / "lens.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["chain"]) for row in rows] == [(str(i), "2") for i in range(7)]
    told = json.loads((out / "lens.json").read_text(encoding="utf-8"))
    scales = {one["file"]: one["white"] for one in told["maps"]}
    assert set(scales) == maps
    for row, step in zip(rows, session, strict=True):
        x = torch.tensor(step.pixels[1:])
        y = torch.tensor([session.start.labels[1]])
        parts = split(model, x, y)
        assert float(row["class_norm"]) == pytest.approx(float(norm(parts.class_part)), rel=1e-4)
        assert float(row["cosine"]) == pytest.approx(float(parts.cosine), abs=1e-4)
        for name in lens_report.ROWS:
            drift = samplers.read(model, SAMPLERS[name], State(x, x, y, (0,))).drift
            along = torch.nn.functional.cosine_similarity(drift.flatten(1), parts.class_part.flatten(1))
            assert float(row[f"{name}_norm"]) == pytest.approx(float(norm(drift)), rel=1e-3, abs=1e-6)
            assert float(row[f"{name}_cosine"]) == pytest.approx(float(along), abs=1e-3)
        if step.index not in shown:
            continue
        for part, values in (("class", parts.class_part), ("marginal", parts.marginal_part)):
            name = f"step-{step.index:04}-{part}.png"
            with Image.open(out / name) as image:
                levels = np.asarray(image)[::16, ::16].astype(np.float64)
            seen = images.hwc(values.numpy())[0].clip(-scales[name], scales[name])
            np.testing.assert_allclose(levels, 128 + 127.5 * seen / scales[name], atol=1)


def test_where_steps_were_thinned_out_the_others_are_split(net: str, tmp_path: Path) -> None:
    folder, out = recorded(tmp_path / "run", net, "--steps", 6), tmp_path / "out"
    run("sessions", "--thin", folder, 4)
    assert run("lens", folder, "--device", "cpu", "--out", out).exit_code == 0
    with (out / "lens.csv").open(encoding="utf-8") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    session = Session.open(folder)
    assert steps == [i for i in range(7) if session.kept(i)]
    assert len(steps) < 7


def test_the_command_refuses_what_it_cannot_do(net: str, tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    weights.write_bytes(Path(net).read_bytes())
    folder = recorded(tmp_path / "run", str(weights), "--steps", 1)
    result = run("lens", folder, "--chain", 2, "--out", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (1, "Error: There is no chain 2: the run has 1 to 1.\n")
    tiny.saved(weights, tiny.weights(5))
    result = run("lens", folder, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "other.safetensors is not the file that the run was made with any more" in result.stderr
    result = run("lens", "no such run", "--out", tmp_path / "out")
    assert "There is no session called no such run" in result.stderr
    assert not (tmp_path / "out").exists()
