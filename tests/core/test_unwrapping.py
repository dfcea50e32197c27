"""Where the weights lie in a file: below which wrapper and prefix, and which of several sets of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sources_resnet
import sources_wide
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from source import Source, Tensors
from torch import Tensor

from cem_core import checkpoints
from cem_core.checkpoints import opening, unwrapping
from cem_core.messages import Refused

GOOD, OTHER = tiny.weights(0), tiny.weights(1)


def below(prefix: str, tensors: Tensors = GOOD) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def saved(tree: Any, path: Path) -> str:
    torch.save(tree, path)
    return str(path)


def first(tree: Any) -> unwrapping.Candidate:
    """What is taken, by the one family whose keys these are."""
    return next(c for c in unwrapping.candidates(tree) if {"conv1.weight", "linear.weight"} <= c.tensors.keys())


def is_good(candidate: unwrapping.Candidate) -> bool:
    return all(torch.equal(candidate.tensors[key], value) for key, value in GOOD.items())


# One set of weights -----------------------------------------------------------------------------------------------

OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(8, 8), "conv1.weight": torch.zeros(4, 4)}}, "param_groups": []}
NORMALISER = {"mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1)}
WRAPPERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "model_state_dict", "teacher", "model", "state_dict",
    "P_state", "last", "net", "best", "student",
)  # fmt: skip
PREFIXES = (
    "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "module.model.",
    "module.model.model.", "base_model.", "base_model.model.", "module.0.", "module.1.", "0.", "1.", "encoder.",
    "encoder.module.", "encoder_q.", "encoder_k.", "module.encoder_q.", "backbone.", "module.backbone.", "arch.",
    "net.", "network.", "f.",
)  # fmt: skip
ALONE: dict[str, tuple[Any, str]] = {
    "bare": (GOOD, ""),
    **{f"below {key}": ({key: GOOD, "epoch": 3, "best_acc": 0.5}, key) for key in WRAPPERS},
    **{f"prefixed {prefix}": (below(prefix), prefix.rstrip(".")) for prefix in PREFIXES},
    "both": ({"state_dict": below("module.")}, "state_dict · module"),
    "below another": ({"model": {"state_dict": below("module.")}}, "model · state_dict · module"),
    "a name of one's own": ({"my net": GOOD, "note": "of Monday"}, "my net"),
    "in a list": ([{"lr": 0.1}, GOOD], "1"),
    "deep": ({"a": {"b": {"c": {"d": GOOD}}}}, "a · b · c · d"),
    "optimizer beside": ({"model": GOOD, "optimizer": OPTIMIZER, "optim": OPTIMIZER}, "model"),
    "state beside": (
        {"net": GOOD, "amp": {"w": torch.zeros(9, 9)}, "rng_state": torch.zeros(99), "lr_scheduler": OPTIMIZER},
        "net",
    ),
    "replay buffer": ({"model_state_dict": GOOD, "replay_buffer": torch.zeros(5, 3, 16, 16)}, "model_state_dict"),
    "AttackerModel": ({"model": below("module.model.") | below("module.attacker.model.")}, "model · module.model"),
    "DummyModel": (
        {"model": below("module.model.model.") | below("module.attacker.model.model.")},
        "model · module.model.model",
    ),
    "normaliser first": (below("0.", NORMALISER) | below("1."), "1"),
    "normaliser first, parallel": (below("module.0.", NORMALISER) | below("module.1."), "module.1"),
    "a projection beside": (
        {"model": below("encoder.") | {"head.0.weight": torch.zeros(8, 8), "head.2.weight": torch.zeros(8, 8)}},
        "model · encoder",
    ),
    "Lightning": (
        {
            "epoch": 3,
            "pytorch-lightning_version": "1.5",
            "state_dict": below("backbone.") | {"classifier.weight": torch.zeros(3, 9)},
            "optimizer_states": [OPTIMIZER],
            "lr_schedulers": [{"last_epoch": 3}],
            "callbacks": {"checkpoint": {"best": torch.zeros(())}},
            "hyper_parameters": {"lr": 0.1},
        },
        "state_dict · backbone",
    ),
}


@pytest.mark.parametrize(("tree", "where"), ALONE.values(), ids=ALONE)
def test_the_weights_are_found_and_where(tree: Any, where: str, tmp_path: Path) -> None:
    found = first(tree)
    assert is_good(found)
    assert found.where == where
    opened = opening.opened(saved(tree, tmp_path / "net.pt"))
    assert all(torch.equal(opened.tensors[key], value) for key, value in GOOD.items())
    fact = opened.checkpoint.fact("weights")
    if fact is None:
        assert where == ""
    else:
        assert (fact.value, fact.source, fact.options) == (where, "file", ()), "nothing to choose"


# Several sets -----------------------------------------------------------------------------------------------------

QUEUE = {"module.queue": torch.zeros(8, 16), "module.queue_ptr": torch.zeros(1)}
SEVERAL: dict[str, tuple[Any, str, str]] = {
    **{
        f"{better} before {worse}": ({worse: OTHER, better: GOOD}, better, worse)
        for better, worse in (
            ("state_dict_ema", "state_dict"),
            ("model_ema", "model"),
            ("ema", "model"),
            ("ema_state_dict", "state_dict"),
            ("model_state_dict", "unaveraged_model_state_dict"),
            ("last", "best"),
            ("teacher", "student"),
            ("state_dict", "something else"),
            ("model", "D"),
        )
    },
    "DINO": (
        {"student": below("module.backbone.", OTHER), "teacher": below("backbone.")},
        "teacher · backbone",
        "student · module.backbone",
    ),
    "MoCo": (
        {"state_dict": below("module.encoder_k.", OTHER) | below("module.encoder_q.") | QUEUE},
        "state_dict · module.encoder_q",
        "state_dict · module.encoder_k",
    ),
    "DynACL": (
        {"state_dict": below("encoder_q.", OTHER) | below("encoder_k.")},
        "state_dict · encoder_k",
        "state_dict · encoder_q",
    ),
    "momentum": (below("momentum_backbone.", OTHER) | below("backbone."), "backbone", "momentum_backbone"),
    "averaged, by prefix": (below("model.", OTHER) | below("model_ema."), "model_ema", "model"),
    "averaged, by prefixes": (below("net.", OTHER) | below("ema_model.module."), "ema_model.module", "net"),
    "averaged, nested": (
        {"net": below("module.", OTHER), "swa": {"n": 3}, "ema": {"state_dict": below("module.")}},
        "ema · state_dict · module",
        "net · module",
    ),
}


@pytest.mark.parametrize(("tree", "best", "other"), SEVERAL.values(), ids=SEVERAL)
def test_of_several_the_authors_one_is_taken_and_the_others_are_offered(
    tree: Any, best: str, other: str, tmp_path: Path
) -> None:
    reference = saved(tree, tmp_path / "net.pt")
    opened = opening.opened(reference)
    fact = opened.checkpoint.fact("weights")
    assert fact is not None
    assert (fact.value, fact.options, fact.source) == (best, (best, other), "guess")
    assert fact.confidence < 1
    for choice, expected in ((best, GOOD), (other, OTHER)):
        chosen = opening.opened(reference, {"weights": choice})
        assert all(torch.equal(chosen.tensors[key], value) for key, value in expected.items())
        fact = chosen.checkpoint.fact("weights")
        assert fact is not None
        assert (fact.value, fact.source, fact.confidence, fact.options) == (choice, "choice", 1.0, (best, other))
    with pytest.raises(Refused) as refused:
        opening.opened(reference, {"weights": "nowhere"})
    assert str(refused.value) == f"The weights cannot be 'nowhere': this file has {best}, {other}."


def test_the_chosen_weights_are_those_that_are_run(tmp_path: Path) -> None:
    reference = saved({"last": GOOD, "best": OTHER}, tmp_path / "net.pt")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    alone = {name: saved(part, tmp_path / name) for name, part in (("last", GOOD), ("best", OTHER))}
    for name, path in alone.items():
        ours = checkpoints.load(reference, "cpu", choices={"weights": name})[0]
        assert torch.equal(ours(x), checkpoints.load(path, "cpu")[0](x))


# Properties -------------------------------------------------------------------------------------------------------


def shuffled(tree: Any, chance: random.Random) -> Any:
    """The same with the keys of every mapping in another order."""
    if not isinstance(tree, dict):
        return tree
    keys = list(tree)
    chance.shuffle(keys)
    return {key: shuffled(tree[key], chance) for key in keys}


TREES = {**{name: tree for name, (tree, _) in ALONE.items()}, **{name: tree for name, (tree, *_) in SEVERAL.items()}}
AMBIGUOUS = {
    "two strangers": {"B": OTHER, "A": GOOD},
    "two strange prefixes": below("left.", OTHER) | below("right."),
    "one object, two names": {"state_dict": GOOD, "model": GOOD},
}


@given(st.sampled_from(sorted(TREES | AMBIGUOUS)), st.randoms(use_true_random=False))
def test_the_order_of_keys_never_matters(name: str, chance: random.Random) -> None:
    tree = (TREES | AMBIGUOUS)[name]
    places = [(c.where, sorted(c.tensors)) for c in unwrapping.candidates(tree)]
    assert [(c.where, sorted(c.tensors)) for c in unwrapping.candidates(shuffled(tree, chance))] == places


def _extra(key: str) -> st.SearchStrategy[Any]:
    scalars = st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.just(torch.zeros(())))
    held = st.recursive(scalars, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=5)
    return held.map(lambda value: {key: value})


@given(
    st.sampled_from(sorted(name for name, tree in TREES.items() if isinstance(tree, dict))),
    st.sampled_from(("args", "hparams", "metrics", "epoch", "projector.weight", "history")).flatmap(_extra),
)
def test_unrelated_keys_never_change_what_is_found(name: str, extra: dict[str, Any]) -> None:
    plain, found = first(TREES[name]), first({**TREES[name], **extra})
    assert is_good(found)
    assert found.where == plain.where


@pytest.mark.parametrize(
    "source",
    [*sources_wide.SOURCES, *sources_resnet.SOURCES],
    ids=lambda source: source.id,
)
def test_a_file_in_another_order_is_the_same_network(source: Source, tmp_path: Path) -> None:
    tree = source.wrap(source.network().state_dict())
    opened = opening.opened(saved(tree, tmp_path / "net.pt"), source.choices)
    again = opening.opened(saved(shuffled(tree, random.Random(1)), tmp_path / "net.pt"), source.choices)
    assert again.checkpoint.facts == opened.checkpoint.facts
    assert again.tensors.keys() == opened.tensors.keys()
    assert all(torch.equal(again.tensors[key], value) for key, value in opened.tensors.items())


# What stands beside -----------------------------------------------------------------------------------------------


def test_a_candidate_knows_what_lies_beside_it() -> None:
    tree = {"model": below("module."), "classifier": {"weight": torch.zeros(3, 8)}}
    found = first(tree)
    assert found.outer == "model.module."
    assert found.beside.keys() == {"classifier.weight"}
    assert found.everything.keys() == {f"model.module.{key}" for key in GOOD} | {"classifier.weight"}


@pytest.mark.parametrize(
    ("tree", "facts"),
    [
        ({"arch": "resnet18", "state_dict": {}}, {"arch": "resnet18"}),
        ({"args": {"dataset": "cifar10", "arch": "wrn"}}, {"arch": "wrn", "dataset": "cifar10"}),
        ({"arch": "outer", "args": {"arch": "inner"}}, {"arch": "outer"}),
        ({"arch": 18, "dataset": None}, {}),
        ({"classes": ["a", "b"]}, {"classes": '["a","b"]'}),
        ({"class_to_idx": {"b": 1, "a": 0}}, {"classes": '["a","b"]'}),
        ({"classes": 10, "args": {"class_names": ("a",)}}, {"classes": '["a"]'}),
        ({"class_to_idx": {"b": 2, "a": 0}, "classes": ["a", 1], "class_names": "ab"}, {}),
        ({"class_to_idx": {"b": 1, "a": "0"}}, {}),
        ({"dataset": "x" * 1000}, {"dataset": "x" * 100}),
        ([1], {}),
        (torch.zeros(3), {}),
    ],
)
def test_what_wrappers_tell(tree: Any, facts: dict[str, str]) -> None:
    assert unwrapping.facts_in(tree) == facts


LOOPS: dict[str, Callable[[dict[str, Any]], None]] = {
    "itself": lambda tree: tree.update(again=tree),
    "in a list": lambda tree: tree.update(again=[tree, [tree]]),
    "many": lambda tree: tree.update({str(i): {"up": tree} for i in range(100)}),
}


@pytest.mark.parametrize("tie", LOOPS.values(), ids=LOOPS)
def test_a_tree_that_holds_itself_has_an_end(tie: Callable[[dict[str, Any]], None]) -> None:
    tree: dict[str, Any] = {"state_dict": GOOD}
    tie(tree)
    assert is_good(first(tree))


def test_a_deep_or_wide_tree_has_an_end() -> None:
    deep: dict[str, Any] = {"w": torch.zeros(2, 2)}
    for _ in range(5000):
        deep = {"down": deep}
    assert list(unwrapping.candidates(deep)) == []
    wide: dict[str, Any] = {f"{i}": {"w": torch.zeros(2, 2)} for i in range(30_000)}
    assert len(list(unwrapping.candidates(wide))) < 30_000


@pytest.mark.parametrize("tree", [None, 3, "text", [], {}, torch.zeros(3), {"a": {"b": []}}, {1: {2: 3}}, {None: None}])
def test_a_tree_without_weights_has_no_candidates(tree: Any) -> None:
    assert list(unwrapping.candidates(tree)) == []


def test_keys_that_are_no_text_are_no_error() -> None:
    tree: dict[Any, Any] = {3: GOOD, None: 1, ("a", 2): {"x": 1}}
    assert is_good(first(tree))
    numbered: dict[Any, Tensor] = {i: torch.zeros(2, 2) for i in range(3)}
    assert [sorted(c.tensors) for c in unwrapping.candidates(numbered)] == [["0", "1", "2"]]
