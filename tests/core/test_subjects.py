from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cem_core import bundle, images
from cem_core.messages import Checkpoint, Refused
from cem_core.probes import subjects
from cem_core.probes.requests import Subject
from cem_core.probes.results import Note
from cem_core.probes.subjects import Opened, alike, halving, shared


def model(name: str, *classes: str) -> Checkpoint:
    return Checkpoint(name, name, "", "", "", 0, classes, 3, 32, ())


# Classes ----------------------------------------------------------------------------------------------------------


def test_the_same_classes_in_the_same_order_need_no_columns() -> None:
    one, other = model("a", "cat", "sea lion"), model("b", "Cat", "sea_lion")
    assert shared([one, other], [("data", ["CAT", "sea-lion"])]) == (("cat", "sea lion"), (None, None), ())


def test_another_order_is_found_by_name() -> None:
    one, other = model("a", "cat", "dog", "horse"), model("b", "horse", "cat", "dog")
    assert shared([one, other]) == (("cat", "dog", "horse"), (None, (1, 2, 0)), ())


def test_what_is_not_shared_is_left_out_and_named() -> None:
    one, other = model("a", "cat", "dog", "horse", "ship"), model("b", "truck", "dog", "cat", "ship")
    found = shared([one, other], [("pets", ["cat", "dog", "goldfish"])])
    assert found.classes == ("cat", "dog")
    assert found.columns == ((0, 1), (2, 1))
    assert found.notes == (
        "2 of the 4 classes of a are judged, being shared by all; its others are left out: horse, ship.",
        "2 of the 4 classes of b are judged, being shared by all; its others are left out: truck, ship.",
        "2 of the 3 classes of pets are judged, being shared by all; its others are left out: goldfish.",
    )


def test_data_may_have_more_than_the_models_without_changing_their_columns() -> None:
    found = shared([model("a", "cat", "dog")], [("data", ["ape", "cat", "dog"])])
    assert found.columns == (None,)
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (("ship", "truck"), "No classes are shared, and two are needed to judge: a has cat, dog; b has ship, truck."),
        (("ship", "dog"), "Only one class is shared"),
        (tuple(f"class {i}" for i in range(1000)), "b has class 0, class 1, class 2, class 3 and 996 more."),
    ],
    ids=["none", "one", "numbers"],
)
def test_fewer_than_two_are_refused_with_the_reason(classes: tuple[str, ...], says: str) -> None:
    with pytest.raises(Refused) as refused:
        shared([model("a", "cat", "dog"), model("b", *classes)])
    assert says in str(refused.value)


def test_names_that_a_list_has_twice_are_judged_only_where_all_lists_are_the_same() -> None:
    birds = model("a", "crane", "crane", "owl", "wren")  # as ImageNet has them
    assert shared([birds, birds]).columns == (None, None)
    found = shared([birds, model("b", "owl", "crane", "wren")])
    assert found.classes == ("owl", "wren")
    assert found.columns == ((2, 3), (0, 2))


@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, unique=True), min_size=1, max_size=4))
def test_columns_lead_to_the_shared_names(lists: list[list[str]]) -> None:
    models = [model(str(number), *names) for number, names in enumerate(lists)]
    common = set(lists[0]).intersection(*lists)
    if len(common) < 2 and any(names != lists[0] for names in lists):
        with pytest.raises(Refused):
            shared(models)
        return
    found = shared(models)
    assert set(found.classes) == common
    for names, columns in zip(lists, found.columns, strict=True):
        assert tuple(names if columns is None else [names[i] for i in columns]) == found.classes
    assert bool(found.notes) == any(len(names) > len(common) for names in lists)


def test_case_and_signs_between_words_do_not_matter() -> None:
    assert len({alike(name) for name in ("Sea Lion", "sea_lion", " SEA-LION ", "sea  lion")}) == 1
    assert alike("sea lion") != alike("sealion")


# Models -----------------------------------------------------------------------------------------------------------


def test_logits_of_the_shared_classes_alone(tmp_path: Path) -> None:
    opened = subjects.open_subject(Subject(str(tiny.saved(tmp_path / "net.safetensors")), device="cpu"))
    x = torch.rand(4, 3, 16, 16, requires_grad=True)
    whole = opened.model(x)
    part = subjects.restricted(opened.model, (2, 0))(x)
    assert torch.equal(part, whole[:, [2, 0]])
    assert subjects.restricted(opened.model, None) is opened.model
    (gradient,) = torch.autograd.grad(part.sum(), x)
    (expected,) = torch.autograd.grad(whole[:, [0, 2]].sum(), x)
    assert torch.allclose(gradient, expected)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    weights = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    path = tiny.saved(tmp_path / "encoder.safetensors", weights, classes="[]")
    with pytest.raises(Refused, match="encoder, with features but no classes"):
        subjects.open_subject(Subject(str(path), device="cpu"))


# Pixels -----------------------------------------------------------------------------------------------------------


def opened(channels: int, tmp_path: Path) -> Opened:
    weights = tiny.weights(channels=channels)
    about = {"mean": "[0.5]", "std": "[0.5]"} if channels == 1 else {}
    return subjects.open_subject(Subject(str(tiny.saved(tmp_path / "net.safetensors", weights, **about)), device="cpu"))


def test_colours_are_kept(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    x = subjects.tensor(pixels, opened(3, tmp_path))
    assert x.shape == (2, 3, 16, 16)
    assert np.array_equal(images.to_uint8(x.numpy()).transpose(0, 2, 3, 1), pixels)


def test_grey_is_what_the_window_makes_of_colours(tmp_path: Path) -> None:
    net = opened(1, tmp_path)
    path = bundle.samples()[0]
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    ours = subjects.tensor(pixels[None], net)
    assert np.array_equal(ours.numpy()[0], images.prepare(path, len(pixels), 1).pixels)
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (1, 16, 16, 3))
    assert torch.equal(subjects.tensor(levels, net)[0, 0], torch.arange(256).view(16, 16) / 255)


# Batches ----------------------------------------------------------------------------------------------------------


def fitting(room: int, done: list[int]) -> Callable[[int, int], None]:
    def work(first: int, last: int) -> None:
        if last - first > room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 TB")
        done.extend(range(first, last))

    return work


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 100), st.integers(1, 100))
def test_all_is_done_once_and_in_order_however_little_fits(first: int, count: int, batch: int, room: int) -> None:
    done: list[int] = []
    notes: list[Note] = []
    left = halving(first, first + count, batch, fitting(room, done), notes.append)
    assert done == list(range(first, first + count))
    assert 1 <= left <= batch
    assert bool(notes) == (min(batch, count) > room)
    assert left == batch or (left <= room and 4 * left + 3 >= min(room, count)), "no smaller than it must be"


def test_each_halving_is_said() -> None:
    notes: list[Note] = []
    assert halving(0, 8, 8, fitting(1, []), notes.append) == 1
    assert [note.says for note in notes] == [
        "8 images at once do not fit into memory: from here on 4 images go through the model.",
        "4 images at once do not fit into memory: from here on 2 images go through the model.",
        "2 images at once do not fit into memory: from here on 1 image goes through the model.",
    ]


def test_what_is_no_lack_of_memory_is_raised() -> None:
    def work(first: int, last: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        halving(0, 8, 8, work, lambda _: None)


def test_what_the_error_held_is_let_go_of_before_the_next_try() -> None:
    import weakref

    class Large:
        pass

    held: list[weakref.ref[Large]] = []

    def work(first: int, last: int) -> None:
        assert all(one() is None for one in held)
        large = Large()
        held.append(weakref.ref(large))
        if last - first > 1:
            raise MemoryError

    halving(0, 4, 4, work, lambda _: None)
    assert len(held) == 6


def test_nothing_fits() -> None:
    with pytest.raises(Refused, match="Not even one image at a time fits into memory"):
        halving(0, 3, 3, fitting(0, []), lambda _: None)
    assert halving(3, 3, 5, fitting(0, []), lambda _: None) == 5
