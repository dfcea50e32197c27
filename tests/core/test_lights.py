"""Sanity lights: for each a model that must trip it, and one that must not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from scenarios import beginnings, linear, smooth
from torch import Tensor, nn

from cem_core import bundle, checkpoints, datasets
from cem_core.checkpoints.checking import Check
from cem_core.messages import Checkpoint, Fact, Norm
from cem_core.probes import lights, subjects
from cem_core.probes.attacks import perturb
from cem_core.probes.measuring import Cancelled
from cem_core.probes.requests import Attack, Data, Subject
from cem_core.probes.results import Cell, Light, worst
from cem_core.samplers import Logits

KNOWN = Checkpoint("function", "", "", "function", "", 0, ("a", "b", "c", "d"), 3, 8, ())


def seen_of(
    logits_of: Logits, module: nn.Module | None = None, norm: Norm = "l2", images: int = 12
) -> dict[str, Light]:
    """The lights of a model whose labels are what it sees, so that it recognises all."""
    x = beginnings(images)
    with torch.no_grad():
        y = logits_of(x).argmax(1)
    found = lights.of_model(logits_of, module, KNOWN, x, y, Attack(norm=norm))
    assert [light.name for light in found] == ["logits", "mode", "preprocessing", "unbounded"]
    return {light.name: light for light in found}


def attacked(logits_of: Logits, eps: float, **settings: int) -> dict[str, Light]:
    """The lights of an attack."""
    x = beginnings(12)
    with torch.no_grad():
        y = logits_of(x).argmax(1)
    outcome = perturb(logits_of, x, y, Attack(**settings), eps, range(12))
    cell = Cell(0, eps, 0, tuple(y.tolist()), tuple((~outcome.flipped).tolist()), len(x), int(outcome.vanished.sum()),
                int(outcome.stuck.sum()), outcome.broken)  # fmt: skip
    return {light.name: light for light in lights.of_cells([cell])}


def states(seen: dict[str, Light]) -> dict[str, str]:
    return {name: light.state for name, light in seen.items()}


def staircase(x: Tensor) -> Tensor:
    """Right almost everywhere, and flat there."""
    return smooth()((x * 4).round() / 4)


# A model as such --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_smooth_model_is_fine(norm: Norm) -> None:
    seen = seen_of(smooth(), norm=norm)
    assert set(states(seen).values()) == {"fine"}
    assert not any(light.do for light in seen.values())


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(
    "masked",
    [staircase, lambda x: 1000 * smooth()(x), lambda x: smooth()(x.detach()) + 0 * x.mean()],
    ids=["staircase", "large", "detached"],
)
def test_masked_gradients_do_not_reach_every_image_without_bounds(masked: Logits, norm: Norm) -> None:
    light = seen_of(masked, norm=norm)["unbounded"]
    assert light.state == "alarm"
    assert "of 12 images withstand" in light.says
    assert light.do


def test_a_single_survivor_is_a_doubt() -> None:
    """Class 0 for one image of twelve, whatever is done to it: a background that no other image has."""
    x = beginnings(12)
    w = torch.full_like(x[0], 0.01)

    def logits_of(images: Tensor) -> Tensor:
        out = linear(w, -0.9)(images)
        mine = torch.zeros(len(images), 1)
        mine[:1] = 1e4 if len(images) == 12 else 0
        return out + mine * torch.tensor([1.0, -1.0])

    y = logits_of(x).argmax(1)
    assert lights._unbounded(logits_of, x, y, Attack()).state == "doubt"


def test_nothing_is_attacked_where_nothing_is_recognised() -> None:
    x = beginnings(12)
    y = (smooth()(x).argmax(1) + 1) % 4
    found = {light.name: light for light in lights.of_model(smooth(), None, KNOWN, x, y, Attack())}
    assert found["unbounded"].state == "unknown"
    assert found["preprocessing"].state == "alarm"
    assert "no more than by guessing" in found["preprocessing"].says


@pytest.mark.parametrize(
    ("outputs", "state"),
    [
        (lambda f: f, "fine"),
        (lambda f: f.softmax(1), "alarm"),
        (lambda f: f.bfloat16().softmax(1).float(), "alarm"),
        (lambda f: (1000 * f).softmax(1), "alarm"),
        (lambda f: f.log_softmax(1), "doubt"),
        (lambda f: f.sigmoid(), "doubt"),
        (lambda f: f.abs(), "fine"),
        (lambda f: -f.abs(), "fine"),
        (lambda f: f.softmax(1) - 0.5, "fine"),
        (lambda f: f.log_softmax(1) - 1, "fine"),
    ],
)
def test_probabilities_are_told_from_logits(outputs: Logits, state: str) -> None:
    assert lights._logits(outputs(4 * smooth()(beginnings(12)))).state == state


class Net(nn.Module):
    """Convolution, batch norm, dropout; statistics that are not those of any batch."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_mean.fill_(-0.5)
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))
        return out


@pytest.mark.parametrize("known", [True, False], ids=["module", "function"])
@pytest.mark.parametrize("kind", ["norm", "drop"])
def test_train_mode(kind: str, known: bool) -> None:
    net = Net(0.5).eval()
    module = net if known else None
    assert seen_of(net, module)["mode"].state == "fine"
    getattr(net, kind).train()
    light = seen_of(net, module)["mode"]
    assert light.state == "alarm"
    assert "in train mode" in light.says
    said = {"norm": ("BatchNorm2d", "beside other images"), "drop": ("Dropout", "each time")}[kind]
    assert said[0 if known else 1] in light.says
    assert "eval()" in light.do


def test_a_flag_that_changes_nothing_is_fine() -> None:
    net = Net(0.5).eval()
    net.training = net.head.training = True
    assert seen_of(net, net)["mode"].state == "fine"


def test_a_batch_norm_that_takes_no_single_image() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4)).train()
    assert seen_of(net)["mode"].state == "alarm"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(("share", "state"), [(1e-3, "fine"), (0.2, "alarm")])
def test_train_mode_is_told_from_rounding_at_any_scale(scale: float, share: float, state: str) -> None:
    random = torch.Generator().manual_seed(0)

    def logits_of(x: Tensor) -> Tensor:
        f = scale * smooth()(x)
        return f + share * scale * torch.randn(f.shape, generator=random)

    assert lights._mode(logits_of, None, beginnings(8)).state == state


def recognised(share: float, classes: int = 4, images: int = 100, *facts: Fact) -> Light:
    """Of a function that recognises so many."""
    x = torch.zeros(images, 3, 8, 8)
    y = torch.arange(images) % classes
    right = torch.arange(images) < share * images
    columns = torch.arange(classes)
    known = msgspec.structs.replace(KNOWN, facts=facts)
    return lights._preprocessing(right, columns, None, known, x, y, lambda: True)


@pytest.mark.parametrize(
    ("share", "classes", "images", "state"),
    [
        (0.9, 10, 100, "fine"),
        (0.55, 10, 20, "fine"),
        (0.45, 10, 100, "doubt"),
        (0.12, 10, 100, "alarm"),
        (0.05, 2, 20, "alarm"),
        (0.5, 2, 100, "alarm"),
        (0.9, 2, 20, "fine"),
        (0.4, 100, 100, "fine"),
        (0.15, 100, 100, "doubt"),
        (0.02, 100, 100, "alarm"),
        (1.0, 2, 3, "unknown"),
    ],
)
def test_how_many_labelled_images_a_working_model_recognises(
    share: float, classes: int, images: int, state: str
) -> None:
    light = recognised(share, classes, images)
    assert light.state == state
    assert bool(light.do) == (state != "fine")
    assert f"of {images} labelled images" in light.says


@pytest.mark.parametrize(
    ("recorded", "state"), [("84.7 % clean, 9 % at L2 1", "doubt"), ("72 % clean", "fine"), ("?", "fine")]
)
def test_less_than_what_is_recorded_is_a_doubt(recorded: str, state: str) -> None:
    light = recognised(0.65, 10, 100, Fact("accuracy", recorded, "file"))
    assert light.state == state
    assert ("84.7 %" in light.says) == (state == "doubt")


def bundled(name: str, columns: tuple[int, ...] | None = None, norm: Norm = "l2", **choices: str) -> dict[str, Light]:
    opened = subjects.open_subject(Subject(name, choices, "cpu"))
    data = datasets.open_labelled(Data())
    pixels, _ = data.part(0, len(data), opened.checkpoint.size, lambda *said: pytest.fail(str(said)))
    keep = [i for i, label in enumerate(data.labels) if columns is None or label in columns]
    y = torch.tensor([label if columns is None else columns.index(label) for label in data.labels[keep]])
    x, logits_of = subjects.tensor(pixels[keep], opened), subjects.restricted(opened.model, columns)
    attack, wanted = Attack(norm=norm), lambda: True
    found = lights.of_model(logits_of, opened.model, opened.checkpoint, x, y, attack, wanted, columns)
    return {light.name: light for light in found}


@pytest.mark.parametrize("name", [bundle.DEFAULT_MODEL, bundle.TWIN])
def test_the_bundled_classifiers_are_fine(name: str) -> None:
    assert set(states(bundled(name)).values()) == {"fine"}


@pytest.mark.parametrize("columns", [None, (9, 2, 5, 3, 4)], ids=["all classes", "some classes"])
def test_a_wrong_normalisation_is_named(columns: tuple[int, ...] | None) -> None:
    light = bundled(bundle.DEFAULT_MODEL, columns, normalisation="none")["preprocessing"]
    assert light.state == "alarm"
    assert "with normalisation “CIFAR-10” 100 % would be" in light.says
    assert "--assume normalisation=CIFAR-10" in light.do


def test_another_wrong_reading_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds it has tests of its own, and takes its time."""
    asked = []

    def check(path: str, choices: dict[str, str], *_: object, **__: object) -> Check:
        asked.append((Path(path).name, choices))
        return Check(4, 20, ("activation", "silu", 20))

    monkeypatch.setattr(checkpoints, "check", check)
    monkeypatch.setattr(lights, "_better_normalisation", lambda *_: None)
    light = bundled(bundle.DEFAULT_MODEL, normalisation="none")["preprocessing"]
    assert light.state == "alarm"
    assert "with activation “silu” 20 of 20 bundled ones would be, not 4" in light.says
    assert asked == [("cifar10-robust-l2.safetensors", {"normalisation": "none"})]


def test_nobody_waits_for_what_nobody_wants() -> None:
    asked = []

    def go_on() -> bool:
        asked.append(1)
        return len(asked) < 5

    x = beginnings(12)
    with pytest.raises(Cancelled):
        lights.of_model(smooth(), None, KNOWN, x, smooth()(x).argmax(1), Attack(), go_on)
    assert len(asked) == 5


# What attacks have told -------------------------------------------------------------------------------------------


def test_an_attack_that_works_is_fine() -> None:
    assert states(attacked(smooth(), 0.5, restarts=3)) == {"gradients": "fine", "loss": "fine", "restarts": "fine"}


@pytest.mark.parametrize("masked", [staircase, lambda x: 1000 * smooth()(x)], ids=["staircase", "large logits"])
def test_vanishing_gradients(masked: Logits) -> None:
    seen = attacked(masked, 0.5)
    assert seen["gradients"].state == "alarm"
    assert "zero or lost in rounding" in seen["gradients"].says


def test_a_loss_that_does_not_rise() -> None:
    """The loss is periodic, and one step of the attack is a whole period and goes nowhere."""
    seen = attacked(lambda x: torch.stack([(x.mean((1, 2, 3)) * 2e5).sin() + 5, 0 * x[:, 0, 0, 0]], 1), 1e-3)
    assert seen["loss"].state in ("doubt", "alarm")
    assert "did not raise the loss" in seen["loss"].says


def cell(attacked: int = 100, vanished: int = 0, stuck: int = 0, broken: tuple[int, ...] = (), eps: float = 1) -> Cell:
    return Cell(0, eps, 0, (0,) * 100, (True,) * 100, attacked, vanished, stuck, broken)


@pytest.mark.parametrize(("count", "state"), [(0, "fine"), (4, "fine"), (5, "doubt"), (24, "doubt"), (25, "alarm")])
def test_shares_are_of_all_images_that_were_attacked(count: int, state: str) -> None:
    rest = cell(300)
    for whole, cells in ((100, (1, 0)), (400, (1, 3))):
        scaled = count * whole // 100
        gradients, loss, _ = lights.of_cells([cell(vanished=scaled), *[cell()] * cells[1]])
        assert (gradients.state, loss.state) == (state, "fine")
        gradients, loss, _ = lights.of_cells([cell(stuck=scaled), *([rest] if cells[1] else [])])
        assert (gradients.state, loss.state) == ("fine", state)
        assert f"of {whole}" in gradients.says


@pytest.mark.parametrize(
    ("broken", "state"),
    [
        ([()], "unknown"),
        ([(40, 0)], "fine"),
        ([(40, 9, 0)], "fine"),
        ([(40, 1)], "doubt"),
        ([(40, 9, 5)], "alarm"),
        ([(40, 3), (40, 1)], "doubt"),
        ([(40, 1), (40, 0)], "fine"),
    ],
)
def test_restarts_that_disagree(broken: list[tuple[int, ...]], state: str) -> None:
    assert lights.of_cells([cell(broken=each) for each in broken])[2].state == state


def test_where_nothing_was_attacked() -> None:
    assert lights.of_cells([]) == ()
    assert lights.of_cells([cell(0, eps=0)]) == ()
    assert {light.state for light in lights.of_cells([cell(0)])} == {"unknown"}


def test_what_other_attacks_keep_to_themselves_is_unknown() -> None:
    seen = {light.name: light for light in lights.of_cells([cell(vanished=30)], Attack(name="autoattack"))}
    assert states(seen) == {"gradients": "alarm", "loss": "unknown", "restarts": "unknown"}
    assert worst(seen.values()) == "alarm"
