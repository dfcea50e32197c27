from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cifar10
import numpy as np
import pytest
import tiny
import torch
from plain import PlainNet
from scenarios import SHAPE, linear
from torch import Tensor, nn

from cem_core import bundle, datasets
from cem_core.datasets import Arrays
from cem_core.messages import Checkpoint, Norm, Refused
from cem_core.probes import accuracy as probe
from cem_core.probes import attacks, subjects
from cem_core.probes.measuring import Cancelled, measure
from cem_core.probes.report import Report
from cem_core.probes.requests import Accuracy, Attack, AttackName, Data, Subject
from cem_core.probes.results import Answer, Cell, Lights, Note, Opening
from cem_core.probes.subjects import Opened

CLASSES = ("left", "right")
IMAGES = 300
Answers = list[Answer]


class Fake(nn.Module):
    """Any function of images, in place of a model."""

    device = torch.device("cpu")

    def __init__(self, logits_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits_of = logits_of

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_of(x)


def checkpoint(name: str, classes: tuple[str, ...] = CLASSES, size: int = SHAPE[1]) -> Checkpoint:
    return Checkpoint(name, f"/{name}", name, "a function", "function", 0, classes, 3, size, ())


Models = dict[str, Callable[[Tensor], Tensor]]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    """Functions by the references under which they can be measured."""
    known: Models = {}
    monkeypatch.setattr(
        subjects,
        "open_subject",
        lambda one: Opened(Fake(known[one.reference]), checkpoint(one.reference)),  # type: ignore[arg-type]
    )
    return known


def binary(radii: tuple[float, ...] = ()) -> tuple[Tensor, float, Arrays, Tensor]:
    """w, b, labelled images well inside the box, and of each the L2 distance of its pixels to the border, which is
    negative where the label is wrong. None lies within 2 % of the radii times the ratio of the norms of w."""
    random = torch.Generator().manual_seed(5)
    w = torch.randn(SHAPE, generator=random)
    w[0, 0] = 0  # pixels that do not matter
    pixels = (51 + 153 * torch.rand(2 * IMAGES, *SHAPE[1:], SHAPE[0], generator=random)).round().byte()
    x = pixels.permute(0, 3, 1, 2).float() / 255
    product = (w * x).sum((1, 2, 3))
    bias = -float(product.mean())
    signed = (product + bias) / w.norm()
    clear = torch.stack([(signed.abs() - radius).abs() > 0.02 * radius for radius in radii] or [signed != 0]).all(0)
    signed, pixels = signed[clear][:IMAGES], pixels[clear][:IMAGES]
    labels = (signed < 0).long()
    labels[::10] = 1 - labels[::10]  # some are wrong before any attack
    distance = signed.abs().where((signed < 0).long() == labels, -1.0)
    assert len(labels) == IMAGES
    return w, bias, Arrays("noise", CLASSES, pixels.numpy(), labels.numpy()), distance


def served(monkeypatch: pytest.MonkeyPatch, data: Arrays) -> None:
    monkeypatch.setattr(datasets, "open_labelled", lambda _: data)


def asked(*names: str, eps: tuple[float, ...] = (0, 0.1), batch: int = 128, **attack: Any) -> Accuracy:
    return Accuracy(tuple(map(Subject, names)), Data("somewhere"), Attack(**attack), eps, batch)


def reported(answers: Iterator[Answer] | Answers) -> Report:
    report = Report()
    for answer in answers:
        report.add(answer)
    return report


def counts(answers: Iterator[Answer] | Answers, subject: int = 0) -> list[tuple[float, int, int]]:
    return [(point.eps, point.correct, point.total) for point in reported(answers).points(subject)]


def outcomes(answers: Iterator[Answer] | Answers) -> list[tuple[bool, ...]]:
    """For each ε of the first model, which images stand."""
    cells = [cell for cell in answers if isinstance(cell, Cell) and cell.subject == 0]
    radii = sorted({cell.eps for cell in cells})
    return [sum((cell.correct for cell in cells if cell.eps == eps), ()) for eps in radii]


@pytest.fixture
def without_lights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.lights, "of_model", lambda *_: ())


# Known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_on_a_linear_model_the_curve_is_the_closed_form(
    models: Models, monkeypatch: pytest.MonkeyPatch, norm: Norm
) -> None:
    """An image stands if its distance to the border is above ε, in L∞ times ‖w‖₂ ÷ ‖w‖₁."""
    w = binary()[0]
    dual = 1.0 if norm == "l2" else float(w.norm() / w.abs().sum())
    distances = (0.0, 0.1, 0.2, 0.4)
    w, bias, data, distance = binary(distances[1:])
    models["it"] = linear(w, bias)
    served(monkeypatch, data)
    eps = tuple(radius * dual for radius in distances)
    share = [int((distance > radius).sum()) for radius in distances]
    assert share[0] == 0.9 * IMAGES
    assert len(set(share)) == 4, "the radii tell images apart"
    found = counts(measure(asked("it", eps=eps, norm=norm, steps=60)))
    assert found == [(radius, correct, IMAGES) for radius, correct in zip(eps, share, strict=True)]


def bundled(folder: Path) -> Path:
    for path in bundle.samples():
        (folder / bundle.sample_class(path)).mkdir(exist_ok=True)
        shutil.copy(path, folder / bundle.sample_class(path))
    return folder


def independent(pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], eps: float, steps: int) -> tuple[int, int]:
    """Clean and robust count of the bundled robust model: another network, another PGD, other noise."""
    net = PlainNet(bundle.models()[bundle.DEFAULT_MODEL])
    x0 = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    y = torch.from_numpy(labels)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        right = net(x0).argmax(1) == y
    x0, y = x0[right], y[right]
    offset = torch.randn(x0.shape, generator=random)
    x = (x0 + eps * offset / offset.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    for _ in range(steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(x), y, reduction="sum"), x)
        with torch.no_grad():
            x = x + 2.5 * eps / steps * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            away = (x - x0).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            x = (x0 + (x - x0) * (eps / away).clamp(max=1)).clamp(0, 1)
    with torch.no_grad():
        return int(right.sum()), int((net(x).argmax(1) == y).sum())


def agree(folder: Path, eps: float, steps: int) -> None:
    pixels, labels = datasets.open_dataset(folder).arrays(32)
    clean, robust = independent(pixels, labels, eps, steps)
    request = Accuracy((Subject(bundle.DEFAULT_MODEL),), Data(str(folder)), Attack(norm="l2", steps=steps), (0, eps))
    (_, ours_clean, total), (_, ours_robust, _) = counts(measure(request))
    assert total == len(labels)
    assert abs(ours_clean - clean) <= total // 100
    assert abs(ours_robust - robust) <= total // 100
    assert 0 < ours_robust < ours_clean


@pytest.mark.usefixtures("without_lights")
def test_the_bundled_samples_are_judged_as_by_an_independent_evaluation(tmp_path: Path) -> None:
    agree(bundled(tmp_path), eps=1.5, steps=8)


@pytest.mark.usefixtures("without_lights")
def test_the_test_images_are_judged_as_by_an_independent_evaluation(tmp_path: Path) -> None:
    agree(cifar10.some(tmp_path, each=10), eps=0.5, steps=6)


# What is counted --------------------------------------------------------------------------------------------------


def test_only_what_is_right_as_it_is_gets_attacked(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    w, bias, data, distance = binary()
    models["it"] = linear(w, bias)
    served(monkeypatch, data)
    perturb, tried = probe.perturb, []

    def watched(logits_of: Any, x: Tensor, y: Tensor, *rest: Any) -> Any:
        assert (logits_of(x).argmax(1) == y).all()
        tried.append(len(x))
        return perturb(logits_of, x, y, *rest)

    monkeypatch.setattr(probe, "perturb", watched)
    answers = list(measure(asked("it", eps=(0, 0.1))))
    clean, attacked = outcomes(answers)
    assert sum(clean) == int((distance > 0).sum())
    assert sum(tried) == sum(clean)
    assert all(before or not after for before, after in zip(clean, attacked, strict=True))
    assert sum(cell.attacked for cell in answers if isinstance(cell, Cell)) == sum(clean)
    assert {cell.attacked for cell in answers if isinstance(cell, Cell) and cell.eps == 0} == {0}


def test_the_first_range_of_all_models_comes_first(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    w, bias, data, _ = binary()
    models |= {"one": linear(w, bias), "other": linear(-w, bias)}
    served(monkeypatch, data)
    first, *answers = measure(asked("one", "other", steps=1, batch=200))
    assert isinstance(first, Opening)
    assert (first.classes, first.images) == (CLASSES, IMAGES)
    cells = [answer for answer in answers if isinstance(answer, Cell)]
    assert [(cell.first, cell.subject, cell.eps) for cell in cells] == [
        (first, subject, eps) for first in (0, 200) for subject in (0, 1) for eps in (0, 0.1)
    ]
    assert [len(cell.labels) for cell in cells] == [200] * 4 + [100] * 4
    assert [answer.subject for answer in answers if isinstance(answer, Lights)] == [0, 1]
    assert isinstance(answers[2], Lights), "as soon as something is known of the model"


def test_classes_are_taken_in_turns(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    w, bias, data, _ = binary()
    by_class = np.argsort(data.labels, kind="stable")
    models["it"] = linear(w, bias)
    served(monkeypatch, Arrays("sorted", CLASSES, data.pixels[by_class], data.labels[by_class]))
    cells = [cell for cell in measure(asked("it", eps=(0,), batch=50)) if isinstance(cell, Cell)]
    assert Counter(cells[0].labels) == {0: 25, 1: 25}


def test_a_split_into_other_batches_changes_nothing(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    w, bias, data, _ = binary()
    models["it"] = linear(w, bias)
    served(monkeypatch, data)
    of = {"eps": (0, 0.1, 0.3), "steps": 3, "restarts": 2, "norm": "l2"}
    whole = outcomes(measure(asked("it", batch=1000, **of)))
    assert outcomes(measure(asked("it", batch=37, **of))) == whole
    assert len({sum(stand) for stand in whole}) == 3


def test_another_seed_is_another_attack_and_the_same_seed_the_same(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, bias, data, _ = binary()
    models["it"] = linear(w, bias)
    served(monkeypatch, data)
    seeds: list[int] = []
    perturb = probe.perturb

    def watched(*args: Any) -> Any:
        seeds.extend(args[5])
        return perturb(*args)

    monkeypatch.setattr(probe, "perturb", watched)
    one, again, other = (outcomes(measure(asked("it", steps=1, seed=seed))) for seed in (7, 7, 1000))
    assert one == again
    assert one != other
    count = sum(one[0])
    assert len(set(seeds[:count])) == count, "every image has noise of its own"
    assert seeds[:count] == seeds[count : 2 * count]
    assert min(seeds) >= 7


def test_a_radius_that_is_named_twice_is_measured_once(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    w, bias, data, _ = binary()
    models["it"] = linear(w, bias)
    served(monkeypatch, data)
    assert [total for *_, total in counts(measure(asked("it", eps=(0.1, 0, 0.1, -0.0), steps=1)))] == [IMAGES, IMAGES]


# Memory, broken models, cancelling --------------------------------------------------------------------------------


def small(logits_of: Callable[[Tensor], Tensor], room: int, sizes: list[int]) -> Callable[[Tensor], Tensor]:
    """The same on a machine on which only so many images fit."""

    def logits(x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return logits_of(x)

    return logits


def test_where_memory_does_not_suffice_the_batch_is_halved_and_that_is_said(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, bias, data, _ = binary()
    sizes: list[int] = []
    models |= {"it": small(linear(w, bias), 40, sizes), "plenty": linear(w, bias)}
    served(monkeypatch, data)
    of = {"eps": (0, 0.1), "steps": 2}
    answers = list(measure(asked("it", **of)))
    assert outcomes(answers) == outcomes(measure(asked("plenty", **of)))
    notes = [note.says for note in answers if isinstance(note, Note)]
    assert notes[:2] == [
        "128 images at once do not fit into memory: from here on 64 images go through the model.",
        "64 images at once do not fit into memory: from here on 32 images go through the model.",
    ]
    reached = sizes.index(64) + 1
    cells = [place for place, answer in enumerate(answers) if isinstance(answer, Cell)]
    assert max(sizes[reached:]) == 128, "the lights ask for themselves"
    assert [sizes[:reached].count(size) for size in (128, 64)] == [1, 1]
    assert all(isinstance(answer, Cell | Lights) for answer in answers[cells[1] + 4 :]), "nothing more to say"


def test_when_not_even_one_image_fits_it_is_refused(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    w, bias, data, _ = binary()
    models["it"] = small(linear(w, bias), 0, [])
    served(monkeypatch, data)
    with pytest.raises(Refused, match="Not even one image"):
        list(measure(asked("it")))


def test_data_that_do_not_fit_are_refused(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    w, bias, data, _ = binary()
    models["it"] = linear(w, bias)
    served(monkeypatch, data)

    def part(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Arrays, "part", part)
    with pytest.raises(Refused, match="choose a smaller batch"):
        list(measure(asked("it")))


def test_logits_that_are_no_numbers_are_refused(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    w, bias, data, _ = binary()
    models["it"] = linear(w * float("nan"), bias)
    served(monkeypatch, data)
    with pytest.raises(Refused, match="it gives logits that are no numbers: its weights are broken"):
        list(measure(asked("it")))


@pytest.mark.parametrize("asks", [0, 1, 5, 30])
def test_it_ends_at_the_forward_pass_before_which_somebody_said_so(
    models: Models, monkeypatch: pytest.MonkeyPatch, asks: int
) -> None:
    w, bias, data, _ = binary()
    sizes: list[int] = []
    models["it"] = small(linear(w, bias), 1000, sizes)
    served(monkeypatch, data)
    left = iter(range(asks))
    with pytest.raises(Cancelled):
        list(measure(asked("it", steps=100), lambda: next(left, None) is not None))
    assert len(sizes) == asks


# Going on ---------------------------------------------------------------------------------------------------------


def watch(models: Models) -> Counter[str]:
    """How many images each model was shown with gradients, which only an attack wants."""
    seen: Counter[str] = Counter()

    def watched(name: str, logits_of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def logits(x: Tensor) -> Tensor:
            seen[name] += len(x) if x.requires_grad else 0
            return logits_of(x)

        return logits

    for name, logits_of in models.items():
        models[name] = watched(name, logits_of)
    return seen


@pytest.mark.usefixtures("without_lights")
def test_what_was_interrupted_goes_on_where_it_ended(
    models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    w, bias, data, _ = binary()
    models |= {"one": linear(w, bias), "other": linear(w, bias + 1)}
    served(monkeypatch, data)
    seen = watch(models)
    request = asked("one", "other", eps=(0, 0.1, 0.2), steps=5, batch=100)
    undisturbed = list(measure(request))
    at_once = seen.total()
    seen.clear()

    journal = tmp_path / "journal.jsonl"
    stream = measure(request, journal=journal)
    before = [next(stream) for _ in range(10)]
    stream.close()  # as a killed process: nothing is tidied up
    half = seen.total()
    assert 0 < half < at_once
    after = list(measure(request, journal=journal))
    assert seen.total() == at_once, "nothing is measured twice"
    assert after[:10] == before, "the cells with the seconds that they took"
    assert [outcomes(after), counts(after, 1)] == [outcomes(undisturbed), counts(undisturbed, 1)]
    assert list(measure(request, journal=journal)) == after
    assert seen.total() == at_once


@pytest.mark.usefixtures("without_lights")
def test_cells_are_found_by_what_decides_them_alone(
    models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    w, bias, data, _ = binary()
    models |= {"one": linear(w, bias), "other": linear(w, bias + 1)}
    served(monkeypatch, data)
    seen = watch(models)
    journal = tmp_path / "journal.jsonl"
    list(measure(asked("one", "other", eps=(0, 0.1), steps=5, batch=100), journal=journal))
    seen.clear()

    def new(*names: str, **of: Any) -> int:
        """Whether anything was measured."""
        seen.clear()
        list(measure(asked(*names, **({"eps": (0, 0.1), "steps": 5, "batch": 100} | of)), journal=journal))
        return seen.total()

    assert not new("other", "one"), "another order"
    assert not new("one", eps=(0.1,)), "fewer"
    assert new("one", eps=(0, 0.1, 0.2))
    assert not new("one", eps=(0, 0.1, 0.2))
    assert new("one", steps=6)
    assert new("one", restarts=2)
    assert new("one", seed=1)
    assert new("one", norm="linf", eps=(0.01,))
    assert new("one", batch=99), "other ranges"
    served(monkeypatch, Arrays("less", CLASSES, data.pixels, 1 - data.labels))
    assert new("one"), "other labels"
    served(monkeypatch, Arrays("less", CLASSES, 255 - data.pixels, data.labels))
    assert new("one"), "other pixels"


@pytest.mark.usefixtures("without_lights")
def test_cells_of_another_version_of_a_package_are_measured_again(
    models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    w, bias, data, _ = binary()
    models["it"] = linear(w, bias)
    served(monkeypatch, data.take(8))
    seen = watch(models)

    def new(name: AttackName, version: str) -> bool:
        """Whether anything was measured."""
        monkeypatch.setattr(attacks.metadata, "version", lambda _: version)
        seen.clear()
        (opening, *_) = measure(asked("it", name=name, steps=2), journal=tmp_path / "journal.jsonl")
        assert isinstance(opening, Opening)
        assert opening.versions.get("pyautoattack") == (None if name == "pgd" else version)
        return seen.total() > 0

    for name in ("pgd", "apgd-ce"):
        assert [new(name, version) for version in "1121"] == [True, False, name != "pgd", False]


# Data and models that do not fit ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two tiny models, of cat, dog, horse at 16 pixels, and of dog, Horse, sheep at 8."""
    folder = tmp_path_factory.mktemp("nets")
    return (
        tiny.saved(folder / "first.safetensors"),
        tiny.saved(folder / "second.safetensors", classes='["dog", "Horse", "sheep"]', image_size="8"),
    )


def over(folder: Path, *nets: Path, eps: tuple[float, ...] = (0, 0.5), **attack: Any) -> Accuracy:
    return Accuracy(tuple(Subject(str(net), device="cpu") for net in nets), Data(str(folder)), Attack(**attack), eps)


def test_models_of_other_classes_and_sizes_are_compared_on_the_classes_that_they_share(
    nets: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = bundled(tmp_path)
    opening, *answers = measure(over(folder, *nets, steps=2))
    assert isinstance(opening, Opening)
    assert opening.classes == ("dog", "horse")
    assert opening.images == 4
    assert len(opening.notes) == 4
    assert "2 of the 3 classes of first.safetensors are judged" in opening.notes[0]
    assert "sheep" in opening.notes[1]
    assert "do not compare their curves" in opening.notes[3]
    clean = [cell for cell in answers if isinstance(cell, Cell) and cell.eps == 0]
    for net, columns, size, cell in zip(nets, ([1, 2], [0, 1]), (16, 8), clean, strict=True):
        model = subjects.open_subject(Subject(str(net), device="cpu")).model
        pixels, labels = datasets.open_dataset(folder).arrays(size)
        kept = np.isin(labels, [5, 7])  # dog, horse
        with torch.no_grad():
            logits = model(torch.from_numpy(pixels[kept]).permute(0, 3, 1, 2).float() / 255)[:, columns]
        expected = (logits.argmax(1).numpy() == (labels[kept] == 7)).tolist()  # dog, dog, horse, horse
        assert cell.labels == (0, 1, 0, 1)
        assert list(cell.correct) == [expected[i] for i in (0, 2, 1, 3)]


def test_images_that_cannot_be_read_are_left_out_counted_and_listed(nets: tuple[Path, Path], tmp_path: Path) -> None:
    folder = bundled(tmp_path)
    (folder / "dog" / "dog-1.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "horse" / "empty.png").touch()
    report = reported(measure(over(folder, *nets, steps=1)))
    assert sorted(report.skipped) == ["dog/dog-1.jpg", "horse/empty.png"]
    assert "dog-1.jpg" in report.skipped["dog/dog-1.jpg"]
    assert report.begun.images == 5
    assert [point.total for point in report.points(0)] == [3, 3]
    assert report.points(1)[0].per_class[0][1] == 1
    assert report.complete


def test_data_without_anything_to_judge_are_refused_in_a_sentence(nets: tuple[Path, Path], tmp_path: Path) -> None:
    def refused(folder: Path, *nets: Path) -> str:
        with pytest.raises(Refused) as told:
            list(measure(over(folder, *nets)))
        return str(told.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    shutil.copy(bundle.samples()[0], tmp_path / "flat")
    for folder in ("empty", "flat"):
        assert "has no images in class folders" in refused(tmp_path / folder, nets[0])
    broken = tmp_path / "broken"
    for name in ("cat", "dog"):
        (broken / name).mkdir(parents=True)
        (broken / name / "1.png").write_bytes(b"no image")
    assert "None of the 2 images of broken can be read" in refused(broken, nets[0])
    other = tmp_path / "other"
    for name in ("cat", "spoon"):
        (other / name).mkdir(parents=True)
        (other / name / "1.png").write_bytes(b"no image")
    assert "Only one class is shared" in refused(other, nets[0])


def test_the_bundled_samples_say_that_they_are_few(nets: tuple[Path, Path]) -> None:
    opening = next(measure(Accuracy((Subject(str(nets[0])),), Data(), Attack(), (0,))))
    assert isinstance(opening, Opening)
    assert "bundled samples, too few" in opening.notes[0]
    assert opening.versions["torch"] == torch.__version__
