"""Samples are those of runs, and the same whoever makes their shards and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from cem_core import bundle, checkpoints, cluster, runner, samplers, starts
from cem_core.evaluation import sampling, shards
from cem_core.evaluation.requests import MAX_NUM, Sampling
from cem_core.evaluation.results import Made, Plan, Progress
from cem_core.evaluation.sampling import Making, label, sample
from cem_core.evaluation.shards import RECORD, SHEET, Shard, open_samples
from cem_core.images import Bytes, to_uint8
from cem_core.messages import MAX_SEED, Chain, Reference, Refused, RunSpec, RunStart, Step
from cem_core.presets import SAMPLERS
from cem_core.probes.measuring import Cancelled
from cem_core.probes.requests import Subject

STEPS = 3
PHOTO = bundle.photos()[0]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A classifier, of a size without class Gaussians."""
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a size with class Gaussians."""
    features = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    return str(tiny.saved(tmp_path_factory.mktemp("nets") / "encoder.safetensors", features, image_size="32"))


def asked(
    checkpoint: str, name: str = "RCS", num: int = 10, row: dict[str, Any] | None = None, **changes: Any
) -> Sampling:
    """In shards of four."""
    sampler = msgspec.structs.replace(SAMPLERS[name], **({"steps": STEPS} | (row or {})))
    usual: dict[str, Any] = {"start": "noise", "batch": 4}
    return Sampling(subject=Subject(checkpoint, device="cpu"), sampler=sampler, num=num, **(usual | changes))


def made(request: Sampling, folder: Path) -> list[Shard]:
    for _ in sample(request, folder):
        pass
    samples = open_samples(folder)
    return [samples.read(index) for index in range(len(samples))]


def same(left: list[Shard], right: list[Shard]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.tobytes() == b.tobytes()


def refused(request: Sampling, folder: Path) -> str:
    with pytest.raises(Refused) as caught:
        made(request, folder)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def planned(request: Sampling, folder: Path) -> Making:
    """A folder with a record and no shard, and the work of it."""
    answers = sample(request, folder)
    plan = next(answers)
    assert isinstance(plan, Plan)
    assert isinstance(plan.request, Sampling)
    answers.close()
    return Making(plan.request, str(folder))


# What is made -----------------------------------------------------------------------------------------------------


def played(request: Sampling, shard: int, chains: list[Chain]) -> Bytes:
    """The last step of a run of these chains, rounded."""
    spec = RunSpec(
        "a run", request.subject.reference, request.sampler, tuple(chains), "cpu", reference=request.reference
    )
    messages = list(runner.play(spec))
    start, last = messages[0], messages[-2]
    assert isinstance(start, RunStart)
    assert isinstance(last, Step), messages[-1]
    assert last.index == request.sampler.steps
    return to_uint8(last.pixels).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["TA", "CS", "RCS", "Langevin", "PGD", "PGD-Linf-targeted"])
def test_a_sample_is_the_last_image_of_a_run(name: str, net: str, tmp_path: Path) -> None:
    request = asked(net, name, seed=7)
    found = made(request, tmp_path)
    for index, shard in enumerate(found):
        chains = [request.chain(place, int(y)) for place, y in zip(request.places(index), shard.labels, strict=True)]
        assert shard.pixels.tobytes() == np.ascontiguousarray(played(request, index, chains)).tobytes()
        assert shard.seeds.tolist() == [chain.seed for chain in chains]
    assert len({image.tobytes() for shard in found for image in shard.pixels}) == request.num, "none is like another"


@pytest.mark.parametrize("start", ["gaussian", "overall", "noise"])
@pytest.mark.parametrize("name", ["MaxEnt", "PGD-unsup", "Langevin"])
def test_a_sample_of_an_encoder_is_the_last_image_of_a_run(name: str, start: str, encoder: str, tmp_path: Path) -> None:
    request = asked(encoder, name, 6, start=start, reference=Reference((str(PHOTO),), cosine=False, temperature=3.0))
    classes = starts.gaussian_classes(checkpoints.inspect(encoder)) if start == "gaussian" else ()
    for index, shard in enumerate(made(request, tmp_path)):
        places = request.places(index)
        assert shard.labels.tolist() == [place % 10 if classes else 0 for place in places]
        chains = [request.chain(place, 0, classes[place % 10] if classes else "") for place in places]
        assert shard.pixels.tobytes() == np.ascontiguousarray(played(request, index, chains)).tobytes()
    assert open_samples(tmp_path).classes == classes


def test_a_sample_of_a_bundled_model_begins_with_the_gaussian_of_its_class(tmp_path: Path) -> None:
    request = asked(bundle.DEFAULT_MODEL, "CS", 3, {"steps": 1}, start="gaussian", batch=2)
    found = made(request, tmp_path)
    assert [shard.labels.tolist() for shard in found] == [[0, 1], [2]]
    for index, shard in enumerate(found):
        chains = [request.chain(place, place) for place in request.places(index)]
        assert shard.pixels.tobytes() == np.ascontiguousarray(played(request, index, chains)).tobytes()
    record = open_samples(tmp_path).record
    assert record.request.subject.reference == bundle.DEFAULT_MODEL, "a name that means the same anywhere"
    assert "class Gaussians" in record.versions


@pytest.mark.parametrize(("num", "batch"), [(1, 4), (4, 4), (5, 4), (7, 1), (3, 100)])
def test_there_are_exactly_as_many_as_were_asked_for(num: int, batch: int, net: str, tmp_path: Path) -> None:
    found = made(asked(net, num=num, batch=batch), tmp_path)
    assert sum(len(shard.pixels) for shard in found) == num
    assert [seed for shard in found for seed in shard.seeds.tolist()] == list(range(num))
    assert all(shard.pixels.shape[1:] == (16, 16, 3) for shard in found)


def test_progress_is_told_after_each_step(net: str, tmp_path: Path) -> None:
    plan, *answers = sample(asked(net, num=6), tmp_path)
    assert isinstance(plan, Plan)
    assert (plan.num, plan.shards, plan.done, plan.classes, plan.device) == (6, 2, 0, tiny.CLASSES, "CPU")
    assert plan.notes == ()
    told = [(a.shard, a.share) if isinstance(a, Progress) else a for a in answers]
    for index, count in enumerate((4, 2)):
        *steps, end = told[4 * index : 4 * index + 4]
        assert steps == [(index, (step + 1) / STEPS) for step in range(STEPS)]
        assert isinstance(end, Made)
        assert (end.what, end.shard, end.count, end.found) == ("samples", index, count, False)
        assert end.seconds > 0
    assert files(tmp_path) == {RECORD, SHEET, "shard-00000.npz", "shard-00001.npz"}


# Labels and seeds -------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_in_turns_no_class_comes_more_than_once_oftener_than_another(num: int, classes: int, seed: int) -> None:
    request = asked("net", num=num, seed=seed)
    counts = Counter(label(request, place, classes) for place in range(num))
    found = [counts[y] for y in range(classes)]
    assert sum(found) == num
    assert max(found) - min(found) <= 1


@given(st.integers(1, 40), st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_a_drawn_class_is_that_of_the_seed_alone(classes: int, seed: int, place: int) -> None:
    request = asked("net", num=1001, seed=seed, per_class=False)
    drawn = label(request, place, classes)
    assert 0 <= drawn < classes
    assert drawn == label(msgspec.structs.replace(request, num=MAX_NUM, batch=7), place, classes)


def test_drawn_classes_are_as_often_as_chance_has_it() -> None:
    request = asked("net", num=6000, per_class=False)
    found = np.bincount([label(request, place, 3) for place in range(6000)], minlength=3)
    assert abs(found - 2000).max() < 5 * (6000 * 2 / 9) ** 0.5
    assert found.max() > found.min()
    other = msgspec.structs.replace(request, seed=1)
    agree = np.mean([label(request, place, 3) == label(other, place, 3) for place in range(6000)])
    assert agree == pytest.approx(1 / 3, abs=0.05)


def test_drawn_labels_are_those_that_samples_are_made_with(net: str, tmp_path: Path) -> None:
    request = asked(net, per_class=False, seed=3)
    found = [y for shard in made(request, tmp_path) for y in shard.labels.tolist()]
    assert found == [label(request, place, 3) for place in range(10)]
    assert found != [place % 3 for place in range(10)]


SEEDS = st.integers(0, MAX_SEED // MAX_NUM - 1)
PLACES = st.integers(0, MAX_NUM - 1)


@given(SEEDS, SEEDS, PLACES, PLACES)
def test_no_two_samples_of_any_two_seeds_share_one(seed: int, other: int, place: int, another: int) -> None:
    left, right = (asked("net", seed=s).seed_of(p) for s, p in ((seed, place), (other, another)))
    assert (left == right) == ((seed, place) == (other, another))
    assert 0 <= left <= MAX_SEED
    assert Chain(asked("net").chain(place, 0).start, left).seed == left


@given(st.integers(1, 5000), st.integers(1, 4096))
def test_shards_hold_each_place_once(num: int, batch: int) -> None:
    request = asked("net", num=num, batch=batch)
    assert [place for index in range(request.shards) for place in request.places(index)] == list(range(num))


# The same however they are made -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["RCS", "MaxEnt"])
def request_of(request: pytest.FixtureRequest, net: str, encoder: str) -> Sampling:
    return asked(net) if request.param == "RCS" else asked(encoder, "MaxEnt", start="gaussian")


@pytest.fixture(scope="module")
def whole(request_of: Sampling, tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    """Made at once."""
    return made(request_of, tmp_path_factory.mktemp("whole"))


def test_in_any_order_and_by_several_works(request_of: Sampling, whole: list[Shard], tmp_path: Path) -> None:
    making = msgspec.msgpack.decode(msgspec.msgpack.encode(planned(request_of, tmp_path)), type=Making)
    works = [making.open(), making.open()]
    for index in (2, 0, 1):
        *_, end = works[index % 2].do(index)
        assert isinstance(end, Made)
        assert not end.found
    *_, again = works[1].do(2)
    assert again == Made("samples", 2, 2, found=True), "a worker may have died before it could tell"
    samples = open_samples(tmp_path)
    same([samples.read(index) for index in range(3)], whole)


def test_interrupted_at_any_answer_and_gone_on_with(request_of: Sampling, whole: list[Shard], tmp_path: Path) -> None:
    for heard in range(2, 13):
        folder = tmp_path / str(heard)
        answers = sample(request_of, folder)
        found = [next(answers) for _ in range(heard)]
        answers.close()
        kept = {a.shard for a in found if isinstance(a, Made)}
        assert open_samples(folder).done() == kept
        plan, *rest = sample(request_of, folder)
        assert isinstance(plan, Plan)
        assert plan.done == len(kept)
        ends = [a for a in rest if isinstance(a, Made)]
        assert {a.shard for a in ends if a.found} == kept
        assert sorted(a.shard for a in ends) == [0, 1, 2]
        assert not {a.shard for a in rest if isinstance(a, Progress)} & kept
        same(made(request_of, folder), whole)


def test_cancelled_it_ends_before_the_next_step(
    request_of: Sampling, whole: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = samplers.step
    monkeypatch.setattr(samplers, "step", lambda row, state, drift: steps.append(state.step) or step(row, state, drift))
    for most in (0, 1, STEPS + 1):
        steps.clear()
        folder = tmp_path / str(most)
        with pytest.raises(Cancelled):
            for _ in sample(request_of, folder, lambda most=most: len(steps) < most):  # type: ignore[misc]
                pass
        assert len(steps) == most
        assert open_samples(folder).done() == ({0} if most > STEPS else set())
    same(made(request_of, tmp_path / "1"), whole)


def test_their_number_may_grow(request_of: Sampling, whole: list[Shard], tmp_path: Path) -> None:
    made(msgspec.structs.replace(request_of, num=6), tmp_path)
    kept = (tmp_path / "shard-00000.npz").stat().st_mtime_ns
    same(made(request_of, tmp_path), whole)
    assert (tmp_path / "shard-00000.npz").stat().st_mtime_ns == kept, "what was whole was left alone"
    assert "holds 10 samples, which is more than 6" in refused(msgspec.structs.replace(request_of, num=6), tmp_path)


def test_a_damaged_shard_is_made_anew(request_of: Sampling, whole: list[Shard], tmp_path: Path) -> None:
    made(request_of, tmp_path)
    path = tmp_path / "shard-00001.npz"
    path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "shard-00002.npz").write_bytes((tmp_path / "shard-00000.npz").read_bytes())
    answers = list(sample(request_of, tmp_path))
    assert [a.shard for a in answers if isinstance(a, Made) and not a.found] == [1, 2]
    same(made(request_of, tmp_path), whole)


def test_workers_by_ray_make_the_same(
    request_of: Sampling, whole: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cluster.spread` would, which has tests of its own: each worker opens its work, and only last answers come."""

    def spread(opens: Making, items: list[int], where: cluster.Where, *, go_on: Callable[[], bool]) -> Any:
        assert where.address == "local"
        assert go_on()
        for item in reversed(items):
            *_, last = msgspec.msgpack.decode(msgspec.msgpack.encode(opens), type=Making).open().do(item)
            yield last

    monkeypatch.setattr(cluster, "spread", spread)
    plan, *ends = sample(request_of, tmp_path, where=cluster.Where("local", 2))
    assert isinstance(plan, Plan)
    assert plan.device == "CPU, 2 workers"
    assert [end.shard for end in ends if isinstance(end, Made)] == [2, 1, 0]
    samples = open_samples(tmp_path)
    same([samples.read(index) for index in range(3)], whole)
    plan = next(sample(request_of, tmp_path, where=cluster.Where("auto")))
    assert isinstance(plan, Plan)
    assert (plan.device, plan.done) == ("CPU, Ray", 3)


# What is refused --------------------------------------------------------------------------------------------------


def test_other_samples_are_left_alone(net: str, encoder: str, tmp_path: Path) -> None:
    made(asked(net), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "holds other samples than these (seed)" in refused(asked(net, seed=1), tmp_path)
    assert "(noise)" in refused(asked(net, row={"noise": 0.5}), tmp_path)
    assert "checkpoint" in refused(asked(encoder, "Langevin"), tmp_path)
    (tmp_path / "thesis.tex").write_text("all of it")
    assert "also holds thesis.tex" in refused(asked(net), tmp_path)
    (tmp_path / "thesis.tex").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_samples_of_another_kind_of_device_are_left_alone(net: str, tmp_path: Path) -> None:
    made(asked(net), tmp_path)
    record = (tmp_path / RECORD).read_text().replace('"device": "cpu"', '"device": "cuda"')
    (tmp_path / RECORD).write_text(record)
    assert "(kind of device)" in refused(asked(net), tmp_path)


def test_a_worker_with_another_model_does_nothing(net: str, encoder: str, tmp_path: Path) -> None:
    making = planned(asked(net), tmp_path)
    other = msgspec.structs.replace(
        making.request, subject=Subject(encoder, device="cpu"), sampler=SAMPLERS["Langevin"]
    )
    with pytest.raises(Refused, match="holds other samples than these"):
        Making(other, making.folder).open()


def test_other_packages_are_told_and_other_images_of_a_reference_batch_refused(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(PHOTO.read_bytes())
    request = asked(encoder, "Langevin", reference=Reference((str(photo),)))
    made(msgspec.structs.replace(request, num=4), tmp_path / "out")
    now = runner.versions()
    monkeypatch.setattr(sampling, "versions", lambda: now | {"torch": "99"})
    plan = next(sample(request, tmp_path / "out"))
    assert isinstance(plan, Plan)
    (note,) = plan.notes
    assert f"made with torch {now['torch']}, not 99" in note
    photo.write_bytes(bundle.photos()[1].read_bytes())
    assert "(reference batch)" in refused(request, tmp_path / "out")


@pytest.mark.parametrize("name", ["MaxEnt", "PGD-unsup"])
def test_rows_that_compare_features_want_an_encoder(name: str, net: str, tmp_path: Path) -> None:
    assert "compares features, not classes: choose an encoder" in refused(asked(net, name), tmp_path / "out")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["TA", "CS", "RCS", "PGD"])
def test_rows_that_want_a_target_want_classes(name: str, encoder: str, tmp_path: Path) -> None:
    assert "needs a target for each sample, and an encoder has no classes" in refused(
        asked(encoder, name), tmp_path / "o"
    )
    assert files(tmp_path) == set()


def test_a_last_sample_alone_has_none_to_spread_from(encoder: str) -> None:
    for num, batch in ((9, 4), (4, 1)):
        with pytest.raises(Refused, match="a last one alone has no other"):
            asked(encoder, "MaxEnt", num, batch=batch)
    assert asked(encoder, "Langevin", 9).num == 9


def test_without_class_gaussians_other_starts_are_named(net: str, tmp_path: Path) -> None:
    assert "There are no class Gaussians for the classes of this model" in refused(
        asked(net, start="gaussian"), tmp_path
    )


@pytest.mark.parametrize("changes", [{"num": 0}, {"num": MAX_NUM + 1}, {"batch": 0}, {"batch": 4097}, {"seed": -1},
                                     {"seed": 2**32}])  # fmt: skip
def test_numbers_out_of_range_are_one_line(changes: dict[str, int]) -> None:
    with pytest.raises(Refused, match=r"must be between .* not .*\.$"):
        asked("net", **changes)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_told_and_its_shard_is_not_kept(
    number: float, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = samplers.read

    def broken(model: Any, row: Any, state: Any) -> Any:
        reading = read(model, row, state)
        if 6 in state.seeds and state.step == 2:
            reading.energy[state.seeds.index(6)] = number
        return reading

    monkeypatch.setattr(samplers, "read", broken)
    said = refused(asked(net), tmp_path)
    assert said.startswith("Sample 7 (seed 6) is no number any more at step 2: try a smaller step size")
    assert files(tmp_path) == {RECORD, "shard-00000.npz"}
    monkeypatch.undo()
    assert open_samples(tmp_path).done() == {0}
    assert len(made(asked(net), tmp_path)) == 3


def test_pixels_that_are_none_at_the_end_are_told(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = samplers.step

    def broken(row: Any, state: Any, drift: Any) -> Any:
        state = step(row, state, drift)
        if state.step == STEPS:
            state.x[1] = torch.nan
        return state

    monkeypatch.setattr(samplers, "step", broken)
    assert refused(asked(net), tmp_path).startswith("Sample 2 (seed 1) is no number any more at its end: try")
    assert files(tmp_path) == {RECORD}


def test_broken_weights_are_told_as_such(tmp_path: Path) -> None:
    weights = tiny.weights()
    weights["linear.bias"][0] = torch.nan
    broken = str(tiny.saved(tmp_path / "net.safetensors", weights))
    assert "weights of this model are broken" in refused(asked(broken), tmp_path / "out")
    assert files(tmp_path / "out") <= {RECORD}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                                   torch.OutOfMemoryError("CUDA out of memory")])  # fmt: skip
def test_without_memory_a_smaller_batch_is_named(
    error: Exception, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(samplers, "read", full)
    said = refused(asked(net), tmp_path)
    assert said == "4 samples at once do not fit into memory: choose a smaller batch (--batch); its samples are others."
    assert files(tmp_path) == {RECORD}


def test_what_nobody_expected_is_not_hidden(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("odd")

    monkeypatch.setattr(samplers, "read", broken)
    with pytest.raises(RuntimeError, match="odd"):
        made(asked(net), tmp_path)


def test_a_shard_that_cannot_be_written_is_told(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making = planned(asked(net), tmp_path)
    work = making.open()

    def full(*_: Any) -> None:
        raise Refused("shard-00000.npz cannot be written (No space left on device): choose another file.")

    monkeypatch.setattr(shards.writing, "replace", full)
    with pytest.raises(Refused, match="No space left"):
        list(work.do(0))
    assert files(tmp_path) == {RECORD}
