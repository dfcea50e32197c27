from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner, Result
from msgspec.structs import replace
from PIL import Image
from torch import Tensor

from cem_core import bundle, checkpoints, cli, linked, runner
from cem_core.linked import Round
from cem_core.messages import (
    Chain,
    Checkpoint,
    GaussianStart,
    ImageStart,
    Message,
    NoiseStart,
    Refused,
    ReplayStart,
    RunEnd,
    RunSpec,
    RunStart,
    Sampler,
    Step,
)
from cem_core.presets import SAMPLERS
from cem_core.probes.requests import Linked, Subject

SAMPLES = bundle.samples()
ARRAYS = ("pixels", "energy", "joint", "logits", "gradient_norm", "distance")
CHAINS = (Chain(ImageStart(str(SAMPLES[0])), 1, 2), Chain(NoiseStart(), 2, 0), Chain(NoiseStart(), 3))


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three nets with the same classes; the last has them in another order."""
    folder = tmp_path_factory.mktemp("nets")
    orders = (None, None, ("horse", "Cat", "dog"))
    return [
        str(tiny.saved(folder / f"{i}.safetensors", tiny.weights(i), **classes(order)))
        for i, order in enumerate(orders)
    ]


def classes(names: tuple[str, ...] | None) -> dict[str, str]:
    return {} if names is None else {"classes": json.dumps(names)}


def spec(checkpoint: str, sampler: str = "RCS", run: str = "a run", **changes: Any) -> RunSpec:
    return RunSpec(run, checkpoint, replace(SAMPLERS[sampler], **({"steps": 3} | changes)), CHAINS, "cpu")


def subject(checkpoint: str) -> tuple[Subject, Checkpoint]:
    return Subject(checkpoint, device="cpu"), checkpoints.load(checkpoint, "cpu")[1]


def of_run(rounds: list[Round], run: int) -> list[Message]:
    """What one run said, in order; what comes after its end is None."""
    said = [round.messages[run] for round in rounds]
    messages = [message for message in said if message is not None]
    assert said == messages + [None] * (len(said) - len(messages)), "None only after the end"
    return messages


def steps_of(rounds: list[Round], run: int) -> list[Step]:
    return [message for message in of_run(rounds, run) if isinstance(message, Step)]


def same(left: list[Message], right: list[Message]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        if isinstance(one, Step):
            assert isinstance(other, Step)
            assert (one.run, one.index, one.sampler) == (other.run, other.index, other.sampler)
            for name in ARRAYS:
                assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), f"{name} of step {one.index}"
        else:
            assert one == other


def saying(rows: list[Sampler | None]) -> Callable[[], Sampler | None]:
    """Says the rows one after the other, then the last for ever."""
    left = list(rows)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


# The rounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["RCS", "PGD"])
def test_each_run_says_what_it_says_alone(nets: list[str], sampler: str) -> None:
    specs = tuple(spec(net, sampler, str(i)) for i, net in enumerate(nets))
    rounds = list(linked.play(Linked(specs)))
    for i, alone in enumerate(specs):
        same(of_run(rounds, i), list(runner.play(alone)))
    kinds = [{type(message) for message in round.messages} for round in rounds]
    assert kinds == [{RunStart}, {Step}, {Step}, {Step}, {Step}, {RunEnd}]


def test_all_begin_with_the_same_pixels(nets: list[str]) -> None:
    """The same noise, and the same point of the ball around it."""
    rounds = list(linked.play(Linked(tuple(spec(net, "PGD-targeted", steps=1) for net in nets))))
    first = [message.pixels for message in rounds[1].messages if isinstance(message, Step)]
    assert len(first) == 3
    for pixels in first[1:]:
        assert pixels.tobytes() == first[0].tobytes()
    last = [steps_of(rounds, i)[-1].pixels for i in range(3)]
    assert not np.array_equal(last[0], last[1]), "they part ways"


def test_one_model_alone_is_a_linked_run_too(nets: list[str]) -> None:
    rounds = list(linked.play(Linked((spec(nets[0]),))))
    same(of_run(rounds, 0), list(runner.play(spec(nets[0]))))
    assert all(round.crossing is None for round in rounds)


def test_it_is_asked_once_a_round_before_the_steps(nets: list[str]) -> None:
    events: list[str] = []
    row = spec(nets[0]).sampler

    def live() -> Sampler:
        events.append("asked")
        return row

    for round in linked.play(Linked((spec(nets[0]), spec(nets[1]))), live):
        events.append(",".join(str(m.index) if isinstance(m, Step) else type(m).__name__ for m in round.messages))
    assert events == ["RunStart,RunStart", "0,0", "asked", "1,1", "asked", "2,2", "asked", "3,3", "asked",
                      "RunEnd,RunEnd"]  # fmt: skip


def test_a_change_reaches_all_at_the_same_step(nets: list[str]) -> None:
    specs = (spec(nets[0], run="0"), spec(nets[1], run="1"))
    row, other = specs[0].sampler, replace(specs[0].sampler, a=-1.0, step_size=0.5)
    rounds = list(linked.play(Linked(specs), saying([row, other])))
    for i, alone in enumerate(specs):
        same(of_run(rounds, i), list(runner.play(alone, saying([row, other]))))
        assert [step.sampler for step in steps_of(rounds, i)] == [row, row, other, other]


@pytest.mark.parametrize("after", [0, 2])
def test_a_stop_ends_all(nets: list[str], after: int) -> None:
    specs = (spec(nets[0], run="0"), spec(nets[1], run="1"))
    rounds = list(linked.play(Linked(specs), saying([specs[0].sampler] * after + [None])))
    assert rounds[-1].messages == (RunEnd("0", "stopped"), RunEnd("1", "stopped"))
    assert [len(steps_of(rounds, i)) for i in range(2)] == [after + 1] * 2


# Runs that end before the others ----------------------------------------------------------------------------------


def test_one_that_cannot_begin_leaves_the_others(nets: list[str]) -> None:
    specs = (spec("no-such-model", run="0"), spec(nets[1], run="1"))
    rounds = list(linked.play(Linked(specs)))
    (end,) = of_run(rounds, 0)
    assert isinstance(end, RunEnd)
    assert "There is no model or file called no-such-model" in end.detail
    same(of_run(rounds, 1), list(runner.play(specs[1])))
    crossing = rounds[1].crossing
    assert crossing is not None
    assert np.isfinite(crossing.energy).all(axis=2).tolist() == [[False, False], [False, True]]


def test_where_none_can_begin_there_is_one_round(nets: list[str]) -> None:
    (round,) = linked.play(Linked((spec("no-such-model"), spec("nor-this"))))
    assert all(isinstance(message, RunEnd) for message in round.messages)


def test_one_that_diverges_leaves_the_others(nets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load = checkpoints.load

    def broken_later(reference: str, *others: Any) -> tuple[Any, Checkpoint]:
        """The first net has no value once an image is not what it was."""
        model, checkpoint = load(reference, *others)
        if reference != nets[0]:
            return model, checkpoint
        seen: list[Tensor] = []

        def logits(x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return model(x) * (1.0 if torch.equal(seen[-1], seen[0]) else torch.nan)

        logits.device = model.device  # type: ignore[attr-defined]
        return logits, checkpoint

    specs = (spec(nets[0], run="0"), spec(nets[1], run="1"))
    alone = list(runner.play(specs[1]))
    monkeypatch.setattr(checkpoints, "load", broken_later)
    rounds = list(linked.play(Linked(specs)))
    start, first, end = of_run(rounds, 0)
    assert isinstance(start, RunStart)
    assert isinstance(first, Step)
    assert isinstance(end, RunEnd)
    assert (end.reason, end.diverged) == ("failed", (0, 1, 2))
    same(of_run(rounds, 1), alone)
    for round in rounds[2:-1]:
        assert round.crossing is not None
        assert np.isnan(round.crossing.energy[0]).all(), "it has no image any more"
        assert np.isfinite(round.crossing.energy[1, 1]).all()


# The crossing -----------------------------------------------------------------------------------------------------


def test_every_model_judges_the_images_of_every_run(nets: list[str]) -> None:
    specs = linked.lay_out(spec(nets[0]), tiny.CLASSES, [subject(net) for net in nets])
    rounds = list(linked.play(Linked(specs)))
    assert rounds[0].crossing is None
    assert rounds[-1].crossing is None
    starts = [message for message in rounds[0].messages if isinstance(message, RunStart)]
    for index, round in enumerate(rounds[1:-1]):
        assert round.crossing is not None
        assert round.crossing.index == index
        assert round.crossing.energy.shape == round.crossing.log_p.shape == (3, 3, 3)
        for i, step in enumerate(round.messages):
            assert isinstance(step, Step)
            assert round.crossing.energy[i, i].tobytes() == step.energy.tobytes()
            assert round.crossing.log_p[i, i].tobytes() == step.log_p.tobytes()
            for j, net in enumerate(nets):
                logits = checkpoints.load(net, "cpu")[0](torch.from_numpy(step.pixels)).double()
                log_p = logits.log_softmax(1)[range(3), list(starts[j].labels)]
                np.testing.assert_allclose(round.crossing.energy[i, j], -logits.logsumexp(1), atol=1e-5)
                np.testing.assert_allclose(round.crossing.log_p[i, j], log_p, atol=1e-5)


def test_twins_agree_in_everything(nets: list[str]) -> None:
    rounds = list(linked.play(Linked((spec(nets[0]), spec(nets[0])))))
    same(of_run(rounds, 0), of_run(rounds, 1))
    for round in rounds[1:-1]:
        assert round.crossing is not None
        for values in (round.crossing.energy, round.crossing.log_p):
            np.testing.assert_allclose(values, np.broadcast_to(values[0, 0], values.shape), rtol=0, atol=1e-6)


def test_it_is_left_out_where_nobody_asks_for_it(nets: list[str]) -> None:
    rounds = linked.play(Linked((spec(nets[0]), spec(nets[1])), crossed=False))
    assert all(round.crossing is None for round in rounds)


def test_nothing_is_asked_of_a_model_that_takes_other_images(nets: list[str], tmp_path: Path) -> None:
    small = str(tiny.saved(tmp_path / "small.safetensors", image_size="8"))
    rounds = list(linked.play(Linked((spec(nets[0]), spec(small)))))
    assert rounds[1].crossing is not None
    assert np.isfinite(rounds[1].crossing.log_p).all(axis=2).tolist() == [[True, False], [False, True]]


# The chains of each model -----------------------------------------------------------------------------------------


def test_labels_go_by_the_name_of_the_class(nets: list[str]) -> None:
    asked = spec(nets[0])
    specs = linked.lay_out(asked, tiny.CLASSES, [subject(net) for net in nets])
    assert [[chain.label for chain in one.chains] for one in specs] == [[2, 0, None], [2, 0, None], [0, 1, None]]
    assert [one.checkpoint for one in specs] == nets
    assert len({one.id for one in specs} | {asked.id}) == 4
    for one in specs:
        assert one.sampler == asked.sampler
        assert [(c.start, c.seed) for c in one.chains] == [(c.start, c.seed) for c in asked.chains]


@pytest.mark.parametrize("start", [GaussianStart(), NoiseStart(), ReplayStart(), ImageStart("cat.png")])
def test_starts_are_passed_on(nets: list[str], start: Any) -> None:
    asked = replace(spec(nets[0]), chains=(Chain(start, 7, 1),))
    for one in linked.lay_out(asked, tiny.CLASSES, [subject(net) for net in nets[:2]]):
        assert one.chains == asked.chains


def test_how_a_model_is_read_and_computed_is_its_own(nets: list[str]) -> None:
    checkpoint = subject(nets[0])[1]
    subjects = [(Subject(nets[0], {"normalisation": "none"}, "cpu", precision), checkpoint)
                for precision in ("float32", "bfloat16")]  # fmt: skip
    for one, (wanted, _) in zip(linked.lay_out(spec(nets[1]), tiny.CLASSES, subjects), subjects, strict=True):
        assert (one.checkpoint, one.choices) == (nets[0], {"normalisation": "none"})
        assert (one.device, one.precision) == ("cpu", wanted.precision)


def test_names_differ_in_case_and_sign_and_may_stand_twice() -> None:
    def laid_out(ours: tuple[str, ...], theirs: tuple[str, ...], label: int) -> int | None:
        checkpoint = Checkpoint("b", "b", "0", "b", "b", 1, theirs, 3, 16, ())
        asked = replace(spec("a"), chains=(Chain(NoiseStart(), 0, label),))
        return linked.lay_out(asked, ours, [(Subject("b"), checkpoint)])[0].chains[0].label

    assert laid_out(("cat", "Great_White-shark"), ("great white shark", "cat"), 1) == 0
    assert laid_out(("crane", "crane", "cat"), ("Crane", "crane", "cat"), 1) == 1, "equal lists keep every index"
    many = tuple(f"class {i}" for i in range(30_000))
    assert laid_out(many, many[::-1], 29_999) == 0, "at once"
    with pytest.raises(Refused, match="b has no class like crane: choose one that all models know, cat"):
        laid_out(("crane", "cat"), ("cat", "crane", "crane"), 0)


def test_what_cannot_be_linked_is_refused(nets: list[str]) -> None:
    one = subject(nets[0])

    def other(**changes: Any) -> list[tuple[Subject, Checkpoint]]:
        return [one, (Subject("b"), replace(one[1], name="b", **changes))]

    for subjects, says in (
        (other(classes=("cat", "ship", "dog")), "b has no class like horse: choose one that all models know, cat, dog"),
        (other(classes=("car", "ship")), r"b has no class like cat: these models share no class\."),
        (other(size=32), r"not 3×16×16 \(0\.safetensors\) and 3×32×32 \(b\): choose models of one size\."),
        (other(channels=1), r"not 3×16×16 \(0\.safetensors\) and 1×16×16 \(b\)"),
        (other(classes=()), "b is an encoder, with features but no classes: choose a head for it"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=says):
            linked.lay_out(spec(nets[0]), tiny.CLASSES, subjects)


def test_runs_of_other_chains_are_refused(nets: list[str]) -> None:
    with pytest.raises(Refused, match="give each as many"):
        Linked((spec(nets[0]), replace(spec(nets[1]), chains=CHAINS[:1])))


# The command ------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_link_exports_each_run_and_what_is_between_them(nets: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("link", SAMPLES[0], "--target", "dog", "--checkpoint", nets[0], "--checkpoint", nets[2], "--steps", 3,
             "--sampler", "RCS", "--seed", 7, "--device", "cpu", "--formats", "csv", "--out", out)  # fmt: skip
    for _ in range(2):  # the second time, in place of the first
        result = run(*asked)
        assert result.exit_code == 0, result.output
        assert result.output == ""
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {"link.json", "sheet.png", "transfer.csv", "0/run.json", "0/curves.csv", "2/run.json",
                     "2/curves.csv"}  # fmt: skip
    with (out / "transfer.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 4
    sampler = replace(SAMPLERS["RCS"], steps=3)
    specs = tuple(RunSpec(str(i), net, sampler, (Chain(ImageStart(str(SAMPLES[0])), 7, label),), "cpu")
                  for i, (net, label) in enumerate(((nets[0], 1), (nets[2], 2))))  # fmt: skip
    crossings = [round.crossing for round in linked.play(Linked(specs)) if round.crossing is not None]
    for row in rows:
        i, j = (("0", "2").index(row[name]) for name in ("run_of", "judged_by"))
        crossing = crossings[int(row["step"])]
        assert np.float32(row["energy"]) == crossing.energy[i, j, 0]
        assert np.float32(row["log_p"]) == crossing.log_p[i, j, 0]
        assert float(row["p"]) == pytest.approx(np.exp(crossing.log_p[i, j, 0]))
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.height > 4 * 128


def test_of_two_models_one_may_fail(nets: list[str], tmp_path: Path) -> None:
    """What came of the other is there all the same."""
    broken = {key: value * torch.nan for key, value in tiny.weights().items()}
    path = tiny.saved(tmp_path / "broken.safetensors", broken)
    out = tmp_path / "out"
    result = run("link", SAMPLES[0], "--target", "dog", "--checkpoint", nets[0], "--checkpoint", path, "--steps", 2,
                 "--device", "cpu", "--formats", "csv", "--out", out)  # fmt: skip
    assert result.exit_code == 1
    assert "the weights of this model are broken" in result.stderr
    assert {path.name for path in out.iterdir()} == {"link.json", "sheet.png", "transfer.csv", "0"}


def test_link_leaves_other_folders_alone(nets: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = run("link", SAMPLES[0], "--target", "dog", "--checkpoint", nets[0], "--out", tmp_path)
    assert result.exit_code == 1
    assert "is not empty and was not made by cem-explorer link" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_more_than_four_are_refused(nets: list[str], tmp_path: Path) -> None:
    five = [argument for net in (*nets, *nets[:2]) for argument in ("--checkpoint", net)]
    result = run("link", SAMPLES[0], "--target", "dog", *five, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "Between 1 and 4 models can be compared, not 5" in result.stderr


def test_an_encoder_is_told_before_its_targets_are_looked_for(nets: list[str], tmp_path: Path) -> None:
    features = {key: value for key, value in tiny.weights().items() if not key.startswith("linear.")}
    encoder = tiny.saved(tmp_path / "encoder.safetensors", features)
    result = run("link", SAMPLES[0], "--target", "cat", "--checkpoint", encoder, "--checkpoint", nets[0],
                 "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 1
    assert "encoder.safetensors is an encoder, with features but no classes: choose a head" in result.stderr
