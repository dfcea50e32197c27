"""Energies of clean, adversarial and generated images, as they come."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from scenarios import linear

from cem_core import bundle, checkpoints, presets, runner, starts
from cem_core.energies import marginal
from cem_core.messages import Chain, GaussianStart, NoiseStart, Refused, RunSpec, Step
from cem_core.probes import attacks, histograms
from cem_core.probes.measuring import Cancelled, measure
from cem_core.probes.requests import Attack, Data, Energies, Subject
from cem_core.probes.results import Lights, Note, Opening, Sample
from cem_core.samplers import State

SIZE = 16
FAST = Attack(steps=2)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Four images of each class, in the size of the tiny models."""
    random = np.random.default_rng(0)
    for name in tiny.CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    return Data(str(tmp_path / "data"))


@pytest.fixture
def subjects(tmp_path: Path) -> tuple[Subject, Subject]:
    paths = (tiny.saved(tmp_path / f"{seed}.safetensors", tiny.weights(seed)) for seed in (1, 2))
    a, b = (Subject(str(path), {}, "cpu") for path in paths)
    return a, b


def told(request: Energies, **options: Any) -> list[Any]:
    return list(measure(request, **options))


def energies(answers: list[Any], subject: int, kind: str) -> np.ndarray:
    parts = [
        answer.energy
        for answer in answers
        if isinstance(answer, Sample) and (answer.subject, answer.kind) == (subject, kind)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def pictures(data: Data) -> torch.Tensor:
    """(12, 3, 16, 16) in the order in which they come: the classes in turns."""
    files = [Path(data.path) / name / f"{i}.png" for i in range(4) for name in tiny.CLASSES]
    return torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255 for file in files])


def test_the_energies_are_those_of_the_images(data: Data, subjects: tuple[Subject, Subject]) -> None:
    answers = told(Energies(subjects, data, FAST, 0.5, batch=5))
    opening = answers[0]
    assert isinstance(opening, Opening)
    assert (opening.images, opening.classes) == (12, tiny.CLASSES)
    x = pictures(data)
    places = [4 * (i % 3) + i // 3 for i in range(12)]  # of these images in the data
    for number, subject in enumerate(subjects):
        model, _ = checkpoints.load(subject.reference, "cpu")
        logits = model(x)
        clean = energies(answers, number, "clean")
        assert clean.dtype == np.float32
        assert clean == pytest.approx(-logits.logsumexp(1).numpy(), abs=1e-5)
        moved = attacks.perturb(model, x, logits.argmax(1), FAST, 0.5, places).adversarial
        assert energies(answers, number, "adversarial") == pytest.approx(-model(moved).logsumexp(1).numpy(), abs=1e-4)
        assert np.abs(energies(answers, number, "adversarial") - clean).min() > 1e-4
        assert not len(energies(answers, number, "generated"))


def test_all_models_and_kinds_come_range_by_range(data: Data, subjects: tuple[Subject, Subject]) -> None:
    answers = told(Energies(subjects, data, FAST, 0.5, generated=20, sampler=short("Langevin"), batch=8))
    samples = [answer for answer in answers if isinstance(answer, Sample)]
    order = [(sample.subject, sample.kind, len(sample.energy)) for sample in samples]
    rounds = [[("clean", n), ("adversarial", n), ("generated", 8)] for n in (8, 4)] + [[("generated", 4)]]
    assert order == [(subject, *each) for kinds in rounds for subject in (0, 1) for each in kinds]


def short(name: str) -> Any:
    return msgspec.structs.replace(presets.SAMPLERS[name], steps=3)


def test_generated_images_are_those_of_a_run(data: Data, subjects: tuple[Subject, Subject]) -> None:
    """There are no class Gaussians for three classes: they begin as noise, each from its own seed."""
    row = short("RCS")
    answers = told(Energies(subjects[:1], data, Attack(seed=7), 0, generated=5, sampler=row, batch=2))
    assert answers[0].notes == ("1.safetensors generates by 3 steps of RCS from noise.",)
    chains = tuple(Chain(NoiseStart(), 7 + i, i % 3) for i in range(5))
    steps = [
        step
        for step in runner.play(RunSpec("run", subjects[0].reference, row, chains, "cpu"))
        if isinstance(step, Step)
    ]
    assert len(steps) == 4
    assert energies(answers, 0, "generated") == pytest.approx(steps[-1].energy, abs=1e-4)


def test_what_generates_by_itself(
    data: Data, subjects: tuple[Subject, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    genuine = starts.make

    def make(checkpoint: Any, chains: Any, *rest: Any) -> Any:
        begun.extend(type(chain.start) for chain in chains)
        return genuine(checkpoint, [Chain(NoiseStart(), chain.seed) for chain in chains], *rest)

    monkeypatch.setattr(starts, "make", make)
    request = Energies(subjects[:1], data, FAST, 0, generated=1)
    assert told(request)[0].notes[0].endswith("generates by 60 steps of Langevin from noise.")
    monkeypatch.setattr(starts, "has_gaussians", lambda _: True)
    assert told(request)[0].notes[0].endswith("generates by 60 steps of RCS from class Gaussians.")
    assert begun == [NoiseStart, GaussianStart]


def test_the_batch_changes_nothing(data: Data, subjects: tuple[Subject, Subject]) -> None:
    request = Energies(subjects[:1], data, FAST, 0.5, generated=5, sampler=short("RCS"))
    whole, split = (told(msgspec.structs.replace(request, batch=batch)) for batch in (100, 3))
    for kind in ("clean", "adversarial", "generated"):
        assert energies(whole, 0, kind) == pytest.approx(energies(split, 0, kind), abs=1e-4)
    assert len({tuple(energies(told(request), 0, "generated").tolist()) for _ in range(2)}) == 1


def test_where_eps_is_zero_nothing_is_adversarial(data: Data, subjects: tuple[Subject, Subject]) -> None:
    answers = told(Energies(subjects[:1], data, FAST, 0))
    assert [answer.kind for answer in answers if isinstance(answer, Sample)] == ["clean"]
    (lit,) = [answer for answer in answers if isinstance(answer, Lights)]
    assert [light.name for light in lit.lights] == ["logits", "mode", "preprocessing", "unbounded"]


def test_lights_are_of_the_model_and_of_all_attacks_so_far(data: Data, subjects: tuple[Subject, Subject]) -> None:
    answers = told(Energies(subjects, data, FAST, 0.5, batch=6))
    lit = [answer for answer in answers if isinstance(answer, Lights)]
    assert [answer.subject for answer in lit] == [0, 1, 0, 1]
    names = ["logits", "mode", "preprocessing", "unbounded", "gradients", "loss", "restarts"]
    assert [[light.name for light in answer.lights] for answer in lit] == [names] * 4
    for answer, images in zip(lit, (6, 6, 12, 12), strict=True):
        assert f"of {images} images" in answer.lights[5].says or f"of {images} attacked" in answer.lights[4].says


def test_unreadable_images_are_left_out_and_told_once(
    data: Data, subjects: tuple[Subject, Subject], tmp_path: Path
) -> None:
    bad = Path(data.path) / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    answers = told(Energies(subjects, data, FAST, 0.5, batch=5))
    assert [answer.skipped for answer in answers if isinstance(answer, Note)] == ["dog/1.png"]
    for number in (0, 1):
        assert len(energies(answers, number, "clean")) == len(energies(answers, number, "adversarial")) == 11


def test_nothing_that_can_be_read_is_refused(data: Data, subjects: tuple[Subject, Subject]) -> None:
    for file in Path(data.path).rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(Refused, match="None of the 12 images of data can be read: choose other data"):
        told(Energies(subjects, data, FAST, 0.5))


def test_a_batch_that_memory_does_not_hold_is_halved_and_said(
    data: Data, subjects: tuple[Subject, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = told(Energies(subjects[:1], data, FAST, 0.5))
    genuine = histograms._Measured._logits

    def small(self: Any, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise MemoryError
        return genuine(self, x)

    monkeypatch.setattr(histograms._Measured, "_logits", small)
    answers = told(Energies(subjects[:1], data, FAST, 0.5))
    assert sum("do not fit into memory" in answer.says for answer in answers if isinstance(answer, Note)) == 2
    for kind in ("clean", "adversarial"):
        assert energies(answers, 0, kind) == pytest.approx(energies(expected, 0, kind), abs=1e-4)


def test_an_attack_that_is_made_again_for_want_of_memory_counts_once(
    data: Data, subjects: tuple[Subject, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, calls = histograms._Measured._energy, list[int]()

    def full_after_the_attack(self: Any, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(calls) == 2:
            raise MemoryError
        return genuine(self, x)

    monkeypatch.setattr(histograms._Measured, "_energy", full_after_the_attack)
    *_, lit = (answer for answer in told(Energies(subjects[:1], data, FAST, 0.5)) if isinstance(answer, Lights))
    assert calls == [12, 12, 6, 6]
    assert "of 12 images" in lit.lights[5].says or "of 12 attacked" in lit.lights[4].says


def test_energies_that_are_no_numbers(data: Data, tmp_path: Path, subjects: tuple[Subject, Subject]) -> None:
    weights = tiny.weights()
    weights["linear.bias"][0] = torch.nan
    broken = Subject(str(tiny.saved(tmp_path / "broken.safetensors", weights)), {}, "cpu")
    with pytest.raises(Refused, match="clean images that are no numbers: its weights are broken"):
        told(Energies((broken,), data, FAST, 0.5))


def test_nobody_waits_for_what_nobody_wants(data: Data, subjects: tuple[Subject, Subject]) -> None:
    asked = []

    def go_on() -> bool:
        asked.append(1)
        return len(asked) < stop

    for stop in (1, 3, 30, 90):
        asked.clear()
        with pytest.raises(Cancelled):
            told(Energies(subjects, data, FAST, 0.5, generated=100, batch=4), go_on=go_on)
        assert len(asked) == stop


def test_data_with_other_classes(data: Data, subjects: tuple[Subject, Subject]) -> None:
    (Path(data.path) / "dog").rename(Path(data.path) / "bird")
    answers = told(Energies(subjects, data, FAST, 0.5))
    assert (answers[0].classes, answers[0].images) == (("cat", "horse"), 8)
    assert len(energies(answers, 0, "clean")) == 8
    (Path(data.path) / "cat").rename(Path(data.path) / "ship")
    with pytest.raises(Refused, match="Only one class is shared"):
        told(Energies(subjects, data, FAST, 0.5))


# What attacks do to E(x) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.25, 0.75, 1.25, 1.75, 2.5])
def test_untargeted_pgd_raises_the_energy_until_the_class_is_even_and_lowers_it_after(share: float) -> None:
    """Two classes with opposite gradients: of margin m, E = -log 2cosh(m/2), and PGD takes ε‖w‖ off m."""
    w = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    x, y, margin = torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64), 3.0
    logits_of = linear(w, margin - float(w.sum()) / 2)
    eps = share * margin / float(w.norm())
    row = msgspec.structs.replace(attacks.pgd("l2", eps), random_start=False)
    moved, _ = attacks.climb(logits_of, row, State(x, x, y, (0, 1, 2, 3)))
    before, after = (marginal(logits_of(image)).mean().item() for image in (x, moved))
    assert before == pytest.approx(-math.log(2 * math.cosh(margin / 2)), abs=1e-4)
    assert after == pytest.approx(-math.log(2 * math.cosh(margin * (1 - share) / 2)), abs=1e-3)
    assert (after > before) == (share < 2)  # at the same margin on the other side, the energy is as it was


def test_on_the_bundled_robust_model_pgd_raises_the_energy_of_what_it_is_sure_of() -> None:
    answers = told(Energies((Subject(bundle.DEFAULT_MODEL, {}, "cpu"),), Data(num=6), Attack(steps=5), 0.5))
    change = energies(answers, 0, "adversarial") - energies(answers, 0, "clean")
    assert change.min() > 0
