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
from msgspec.structs import replace
from PIL import Image
from scenarios import SHAPE, beginnings, linear, smooth, well
from torch import Tensor

from cem_core import bundle, checkpoints, cli, images
from cem_core.messages import Floats, Refused
from cem_core.probes import landscape_report, subjects
from cem_core.probes.landscape import along, around, landscape, survey
from cem_core.probes.measuring import Cancelled
from cem_core.probes.requests import Landscape, Subject
from cem_core.probes.results import Note, Plane, Survey
from cem_core.samplers import Logits
from cem_core.session import Session


class Counted:
    """Logits, and the images that they were asked for."""

    def __init__(self, logits_of: Logits) -> None:
        self.logits_of = logits_of
        self.batches: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(x.detach().clone())
        return self.logits_of(x)


def dot(one: Floats, other: Floats) -> float:
    return float((one.astype(np.float64) * other).sum())


def orthonormal(plane: Plane) -> None:
    assert dot(plane.u, plane.u) == pytest.approx(1, abs=1e-6)
    assert dot(plane.v, plane.v) == pytest.approx(1, abs=1e-6)
    assert dot(plane.u, plane.v) == pytest.approx(0, abs=1e-6)
    assert plane.u.dtype == plane.v.dtype == plane.origin.dtype == plane.path.dtype == np.float32


def plain_plane(extent: float = 1.0) -> Plane:
    """A square around a grey image, in two random directions."""
    plane = around(smooth(), torch.full((1, *SHAPE), 0.5), torch.tensor([0]), extent, 3)
    orthonormal(plane)
    return plane


def surveys(logits_of: Logits, plane: Plane, size: int, batch: int, y: int | None = None) -> list[Survey]:
    answers = list(survey(logits_of, plane, None if y is None else torch.tensor([y]), size, batch))
    found = [answer for answer in answers if isinstance(answer, Survey)]
    assert found == answers
    return found


# The square -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 9, 16])
def test_in_a_well_the_energy_grows_with_the_square_of_the_distance(size: int) -> None:
    plane = plain_plane()
    last = surveys(well(3.0, 0.4), plane, size, 50)[-1]
    axis = np.linspace(-1, 1, size)
    for i, t in enumerate(axis):
        for j, s in enumerate(axis):
            point = plane.origin.astype(np.float64) + s * plane.u + t * plane.v
            assert point.min() > 0
            assert point.max() < 1
            assert last.energy[i, j] == pytest.approx(1.5 * np.square(point - 0.4).sum(), rel=1e-5)


def test_outside_the_box_the_model_sees_what_a_sampler_would() -> None:
    plane = plain_plane(extent=20.0)
    counted = Counted(well(3.0))
    last = surveys(counted, plane, 8, 64)[-1]
    for x in counted.batches:
        assert x.min() == 0
        assert x.max() == 1
    assert last.energy[7, 0] == pytest.approx(1.5 * np.square(plane.image(-20, 20) - 0.5).sum(), rel=1e-5)


def test_the_energy_of_a_class_is_its_logit() -> None:
    plane = plain_plane()
    points = torch.tensor(np.stack([plane.image(s, t) for t in np.linspace(-1, 1, 4) for s in np.linspace(-1, 1, 4)]))
    logits = smooth()(points).double()
    for y, wanted in ((2, -logits[:, 2]), (None, -logits.logsumexp(1))):
        found = surveys(smooth(), plane, 4, 5, y)[-1].energy
        np.testing.assert_allclose(found, wanted.view(4, 4), atol=1e-5)


@pytest.mark.parametrize(("size", "batch"), [(2, 1), (7, 3), (16, 256), (33, 100), (64, 256)])
def test_each_point_is_evaluated_once_and_shown_at_once(size: int, batch: int) -> None:
    counted = Counted(smooth())
    found = surveys(counted, plain_plane(), size, batch)
    points = torch.cat(counted.batches).flatten(1)
    assert len(points) == size**2
    assert len(points.unique(dim=0)) == size**2
    assert len(found) == len(counted.batches) == math.ceil(size**2 / batch)
    assert [answer.done for answer in found] == [min((i + 1) * batch, size**2) for i in range(len(found))]
    for answer in found:
        assert np.isfinite(answer.energy).sum() == answer.done
        assert np.isfinite(answer.coarse).all(), "no gaps from the first batch on"
    np.testing.assert_array_equal(found[-1].coarse, found[-1].energy)
    for before, after in pairwise(found):
        known = np.isfinite(before.energy)
        np.testing.assert_array_equal(after.energy[known], before.energy[known])


def test_it_goes_from_coarse_to_fine() -> None:
    """After n² points, those of an even grid are known, and every other shows the nearest of them."""
    energy = surveys(smooth(), plain_plane(), 16, 256)[-1].energy
    for answer in surveys(smooth(), plain_plane(), 16, 16)[:4]:
        if answer.done not in (16, 64):
            continue
        stride = 16 // math.isqrt(answer.done)
        known = np.argwhere(np.isfinite(answer.energy))
        assert known.tolist() == [[i, j] for i in range(0, 16, stride) for j in range(0, 16, stride)]
        for point in np.ndindex(16, 16):
            distances = np.abs(known - point).max(1)
            shown = [energy[tuple(k)] for k in known[distances == distances.min()]]
            assert any(answer.coarse[point] == pytest.approx(value, abs=1e-6) for value in shown)


def test_between_two_grids_the_finer_wins_where_it_is_known() -> None:
    found = surveys(smooth(), plain_plane(), 16, 10)
    for answer in found:
        known = np.isfinite(answer.energy)
        np.testing.assert_array_equal(answer.coarse[known], answer.energy[known])
        assert np.isin(answer.coarse, answer.energy[known]).all(), "nothing is made up"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_energy_without_a_value_stays_a_gap_and_counts(value: float) -> None:
    plane = plain_plane()

    def broken(x: Tensor) -> Tensor:
        left = ((x - 0.5) * torch.tensor(plane.u)).flatten(1).sum(1) < -0.5
        return torch.where(left[:, None], value, smooth()(x))

    last = surveys(broken, plane, 9, 30)[-1]
    assert last.done == 81
    assert np.isnan(last.energy[:, :2]).all()
    assert np.isfinite(last.energy[:, 3:]).all()


# Around an image --------------------------------------------------------------------------------------------------


def test_the_first_direction_leads_away_from_the_class() -> None:
    """On a linear model it is the normal of the border."""
    w = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    x = torch.full((1, *SHAPE), 0.5)
    for y, sign in ((0, -1), (1, 1)):
        plane = around(linear(w, 0.0), x, torch.tensor([y]), 0.5, 0)
        orthonormal(plane)
        np.testing.assert_allclose(plane.u, sign * (w / w.norm()).numpy(), atol=1e-5)
        np.testing.assert_array_equal(plane.origin, x[0].numpy())
        assert plane.names == ("adversarial", "random")
        assert (plane.extent, plane.path.tolist()) == (0.5, [[0, 0]])
        assert math.isnan(plane.held)


def test_where_the_gradient_is_zero_both_directions_are_random() -> None:
    plane = around(well(1.0), torch.full((1, *SHAPE), 0.5), torch.tensor([0]), 1.0, 0)
    orthonormal(plane)
    assert plane.names[0].startswith("random")


def test_the_same_seed_is_the_same_plane() -> None:
    def of(seed: int) -> Plane:
        return around(smooth(), beginnings(1), torch.tensor([0]), 1.0, seed)

    assert of(1).v.tobytes() == of(1).v.tobytes()
    assert of(1).u.tobytes() == of(2).u.tobytes()
    assert abs(dot(of(1).v, of(2).v)) < 0.5


# Along a trajectory -----------------------------------------------------------------------------------------------


def flat_trajectory(points: int, wide: float = 1.0, high: float = 0.3) -> tuple[Floats, Floats, Floats]:
    """A path in a plane of pixels: (T, C, H, W), its coordinates (T, 2) there, and the two directions."""
    plane = plain_plane()
    along_ = np.linspace(0, 1, points)
    coordinates = np.stack([wide * along_, high * np.sin(9 * along_)], axis=1)
    pixels = 0.5 + np.einsum("ta,achw->tchw", coordinates, np.stack([plane.u, plane.v]))
    return pixels.astype(np.float32), coordinates, np.stack([plane.u, plane.v])


@pytest.mark.parametrize("points", [3, 40, 700])
def test_a_path_that_lies_in_a_plane_is_drawn_as_it_is(points: int) -> None:
    pixels, coordinates, directions = flat_trajectory(points)
    plane = along(pixels, None, 0)
    assert plane is not None
    orthonormal(plane)
    assert plane.names == ("first principal component", "second principal component")
    assert plane.held == pytest.approx(1, abs=1e-5)
    for direction in (plane.u, plane.v):
        inside = sum(dot(direction, other) ** 2 for other in directions)
        assert inside == pytest.approx(1, abs=1e-4), "the directions span the plane of the path"
    drawn = plane.origin.astype(np.float64) + np.einsum("ta,achw->tchw", plane.path, np.stack([plane.u, plane.v]))
    np.testing.assert_allclose(drawn, pixels, atol=1e-5)
    centred = coordinates - coordinates.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    known = centred @ axes.T
    for i in range(2):
        sign = np.sign((known[:, i] * plane.path[:, i]).sum())
        # of many points the components come from some: they are turned a little
        np.testing.assert_allclose(plane.path[:, i], sign * known[:, i], atol=1e-4 if points < 128 else 2e-2)
    assert plane.path[-1, 0] > plane.path[0, 0]
    assert plane.extent == pytest.approx(1.15 * np.abs(plane.path).max())


def test_what_is_held_is_the_share_of_the_variance() -> None:
    pixels = beginnings(12).numpy()
    plane = along(pixels, None, 0)
    assert plane is not None
    centred = (pixels - pixels.mean(0)).reshape(12, -1).astype(np.float64)
    projected, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    assert plane.held == pytest.approx(np.square(lengths[:2]).sum() / np.square(lengths).sum(), abs=1e-5)
    assert plane.held < 0.5, "or the test proves nothing"
    np.testing.assert_allclose(np.abs(plane.path), np.abs(projected[:, :2] * lengths[:2]), atol=1e-4)


@pytest.mark.parametrize("points", [2, 30])
def test_beside_a_straight_path_the_second_direction_is_random(points: int) -> None:
    pixels = flat_trajectory(points, high=0.0)[0]
    plane = along(pixels, None, 0)
    assert plane is not None
    orthonormal(plane)
    assert plane.names == ("first principal component", "random")
    np.testing.assert_allclose(plane.path[:, 0], np.linspace(-0.5, 0.5, points), atol=1e-5)
    np.testing.assert_allclose(plane.path[:, 1], 0, atol=1e-5)
    assert plane.held == pytest.approx(1, abs=1e-5)
    other = along(pixels, 2.0, 1)
    assert other is not None
    assert other.extent == 2.0
    assert abs(dot(plane.v, other.v)) < 0.5


def test_a_path_that_stands_still_has_no_plane() -> None:
    assert along(np.repeat(beginnings(1).numpy(), 5, 0), None, 0) is None
    assert along(beginnings(1).numpy(), None, 0) is None


def test_along_says_the_same_each_time() -> None:
    pixels = beginnings(12).numpy()
    one, other = along(pixels, None, 0), along(pixels.copy(), None, 0)
    assert one is not None
    assert other is not None
    for name in ("origin", "u", "v", "path"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


# The answers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors"))


def request_of(net: str, points: int = 1, **changes: Any) -> Landscape:
    pixels = beginnings(points, (3, 16, 16)).numpy()
    return Landscape(**({"subject": Subject(net, device="cpu"), "pixels": pixels, "size": 8} | changes))


def answered(request: Landscape) -> tuple[Plane, Survey]:
    plane, *found = landscape(request)
    assert isinstance(plane, Plane)
    assert all(isinstance(answer, Survey) for answer in found)
    assert isinstance(found[-1], Survey)
    return plane, found[-1]


@pytest.mark.parametrize("points", [1, 5])
@pytest.mark.parametrize(("marginal", "label"), [(True, None), (True, 1), (False, 1), (False, None)])
def test_a_request_is_answered(net: str, points: int, marginal: bool, label: int | None) -> None:
    asked = request_of(net, points, marginal=marginal, label=label)
    plane, last = answered(asked)
    assert plane.path.shape == (points, 2)
    model = checkpoints.load(net, "cpu")[0]
    axis = np.linspace(-plane.extent, plane.extent, 8)
    logits = model(torch.tensor(np.stack([plane.image(s, t) for t in axis for s in axis])))
    seen = int(model(torch.tensor(asked.pixels[:1])).argmax()) if label is None else label
    wanted = -logits.logsumexp(1) if marginal else -logits[:, seen]
    np.testing.assert_allclose(last.energy.ravel(), wanted, atol=1e-4)


def test_the_first_picture_comes_within_five_passes(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = subjects.open_subject(Subject(net, device="cpu"))
    counted = Counted(opened.model)
    counted.device = opened.model.device  # type: ignore[attr-defined]
    monkeypatch.setattr("cem_core.probes.landscape.open_subject", lambda _: (counted, opened.checkpoint))
    for answer in landscape(request_of(net, size=64)):
        if isinstance(answer, Survey):
            assert np.isfinite(answer.coarse).all()
            break
    assert len(counted.batches) <= 5


def test_a_path_that_stands_still_is_seen_as_its_image(net: str) -> None:
    one = request_of(net)
    plane, last = answered(one)
    still, same = answered(replace(one, pixels=np.repeat(one.pixels, 4, 0)))
    assert still.path.tolist() == [[0, 0]] * 4
    assert still.u.tobytes() == plane.u.tobytes()
    np.testing.assert_array_equal(same.energy, last.energy)


@pytest.mark.parametrize("after", [0, 2, 6])
def test_it_ends_when_nobody_wants_it(net: str, after: int) -> None:
    asked: list[None] = []

    def go_on() -> bool:
        asked.append(None)
        return len(asked) <= after

    with pytest.raises(Cancelled):
        list(landscape(request_of(net, batch=4), go_on))
    assert len(asked) == after + 1, "it is asked before each pass"


def test_where_memory_is_short_the_batch_is_halved(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request_of(net, batch=32)
    _, whole = answered(asked)
    opened = subjects.open_subject(asked.subject)

    class Small:
        device = opened.model.device

        def __call__(self, x: Tensor) -> Tensor:
            if len(x) > 10:
                raise MemoryError
            return opened.model(x)  # type: ignore[no-any-return]

    monkeypatch.setattr("cem_core.probes.landscape.open_subject", lambda _: (Small(), opened.checkpoint))
    answers = list(landscape(asked))
    assert [note.says for note in answers if isinstance(note, Note)] == [
        "32 images at once do not fit into memory: from here on 16 images go through the model.",
        "16 images at once do not fit into memory: from here on 8 images go through the model.",
    ]
    last = answers[-1]
    assert isinstance(last, Survey)
    np.testing.assert_allclose(last.energy, whole.energy, atol=1e-5)


def test_of_large_images_fewer_go_through_at_once(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for numbers, batches in ((2**22, 1), (3 * 16 * 16 * 100, 3)):
        monkeypatch.setattr("cem_core.probes.landscape._NUMBERS", numbers)
        _, *found = landscape(request_of(net, size=16, batch=256))
        assert len(found) == batches


def test_what_cannot_be_drawn_is_refused(net: str) -> None:
    for changes, says in (
        ({"pixels": beginnings(1, (3, 8, 8)).numpy()}, "takes images of 3×16×16, not 3×8×8"),
        ({"label": 3}, "has no class 3"),
        ({"size": 1}, "Points on a side must be"),
        ({"extent": 0.0}, "The extent must be"),
        ({"extent": math.nan}, "The extent must be"),
        ({"seed": -1}, "The seed must be"),
    ):
        with pytest.raises(Refused, match=says):
            list(landscape(request_of(net, **changes)))


def test_a_model_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    broken = tiny.weights() | {"linear.bias": torch.full((3,), math.nan)}
    with pytest.raises(Refused, match="its weights are broken"):
        list(landscape(request_of(str(tiny.saved(tmp_path / "nan.safetensors", broken)))))


# The drawing ------------------------------------------------------------------------------------------------------


def test_the_colours_are_those_of_viridis() -> None:
    pyqtgraph = pytest.importorskip("pyqtgraph", exc_type=ImportError)
    known = pyqtgraph.colormap.get("viridis").getLookupTable(0, 1, 101)[:, :3].astype(int)
    ours = landscape_report.colours(np.linspace(-2, 3, 101, dtype=np.float32), -2, 3)
    assert np.abs(ours - known).max() <= 6
    assert len(set(landscape_report.colours(np.array([np.nan, -np.inf], np.float32), 0, 1)[0].tolist())) == 1, "grey"


def test_the_drawing_lies_as_the_table_says() -> None:
    """s to the right, t upwards."""
    plane = plain_plane()
    s, t = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16))
    for energy in (s, t):
        drawn = landscape_report.picture(plane, energy.astype(np.float32), "E(x)").astype(int)
        left, top, side = 180, 128, 960
        corners = [drawn[top + side * i // 10, left + side * j // 10] for i, j in ((9, 1), (9, 9), (1, 1), (1, 9))]
        values = [
            float(energy[round(15 * k), round(15 * m)]) for k, m in ((0.1, 0.1), (0.1, 0.9), (0.9, 0.1), (0.9, 0.9))
        ]
        wanted = landscape_report.colours(np.array(values, np.float32), -1, 1)
        assert np.abs(np.array(corners) - wanted).max() < 40
        assert np.abs(wanted[0].astype(int) - wanted[3]).max() > 100, "or the test proves nothing"


# The command ------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def written(out: Path) -> tuple[dict[str, Any], Floats]:
    """What the record says, and the energies of the table."""
    assert {path.name for path in out.iterdir()} == {"landscape.csv", "landscape.json", "landscape.png"}
    with Image.open(out / "landscape.png") as image:
        assert image.size == (1360, 1240)
    with (out / "landscape.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told = json.loads((out / "landscape.json").read_text(encoding="utf-8"))
    size = told["size"]
    at = np.linspace(-told["extent"], told["extent"], size)
    np.testing.assert_allclose([float(row["s"]) for row in rows], np.tile(at, size), atol=1e-6)
    np.testing.assert_allclose([float(row["t"]) for row in rows], np.repeat(at, size), atol=1e-6)
    return told, np.array([np.float32(row["energy"]) for row in rows], np.float32).reshape(size, size)


def test_the_command_maps_what_is_around_an_image(net: str, tmp_path: Path) -> None:
    image, out = bundle.samples()[0], tmp_path / "out"
    for _ in range(2):  # the second time, in place of the first
        result = run("landscape", image, "--checkpoint", net, "--energy", "xy", "--label", "dog", "--size", 8,
                     "--extent", 0.5, "--device", "cpu", "--out", out)  # fmt: skip
        assert result.exit_code == 0, result.output
    told, energy = written(out)
    assert (told["energy"], told["extent"], told["path"]) == ("E(x,dog)", 0.5, [[0, 0]])
    pixels = images.prepare(image, 16).pixels[None]
    _, known = answered(request_of(net, pixels=pixels, marginal=False, label=1, extent=0.5))
    np.testing.assert_array_equal(energy, known.energy)


def test_the_command_maps_what_is_along_a_run(net: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run("morph", bundle.samples()[0], "--target", "dog", "--checkpoint", net, "--steps", 5, "--chains", 2,
                 "--sampler", "RCS", "--device", "cpu", "--session", folder)  # fmt: skip
    assert result.exit_code == 0, result.output
    asked = ("landscape", folder, "--size", 8, "--device", "cpu")
    assert run(*asked, "--chain", 2, "--out", tmp_path / "out").exit_code == 0
    told, energy = written(tmp_path / "out")
    pixels = np.stack([step.pixels[1] for step in Session.open(folder)])
    plane, known = answered(request_of(net, pixels=pixels))
    assert told["checkpoint"] == "tiny.safetensors"
    np.testing.assert_array_equal(energy, known.energy)
    np.testing.assert_allclose(told["path"], plane.path)
    assert told["held"] == pytest.approx(plane.held)
    other = str(tiny.saved(tmp_path / "other.safetensors", tiny.weights(3)))
    assert run(*asked, "--energy", "xy", "--checkpoint", other, "--out", tmp_path / "seen").exit_code == 0
    assert written(tmp_path / "seen")[0]["energy"] == "E(x,dog)", "the target of the run"


def test_the_command_refuses_what_it_cannot_do(net: str, tmp_path: Path) -> None:
    image, out = bundle.samples()[0], tmp_path / "out"
    for arguments, says in (
        ((image, "--label", "bus"), "has no class called bus: it knows cat, dog, horse"),
        ((image, "--size", 1), "Points on a side must be between 2 and 1,024"),
        ((__file__,), "test_landscape.py is not an image"),
        (("nowhere.png",), "There is no file nowhere.png in "),
        (("nowhere",), "There is no session called nowhere"),
    ):
        result = run("landscape", *arguments, "--checkpoint", net, "--device", "cpu", "--out", out)
        assert result.exit_code == 1
        assert says in result.stderr
        assert not out.exists()
