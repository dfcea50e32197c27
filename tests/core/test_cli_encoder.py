"""Encoders on the command line: targets are images, and chains may spread."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios_session import session

from cem_core import bundle, cli, export, sheet
from cem_core.chains import compared, lay_out
from cem_core.export.command import command
from cem_core.messages import GaussianStart, ImageStart, NoiseStart, OverallStart, Reference, RunSpec, Start
from cem_core.presets import SAMPLERS

SAMPLES = [str(path) for path in bundle.samples()]
CAT, DOG = (str(bundle.ASSETS / "samples" / f"{name}-1.jpg") for name in ("cat", "dog"))
PHOTO = str(bundle.photos()[0])
HEADLESS = ("--checkpoint", "cifar10-robust-l2", "--assume", "head=none")
FAST = ("--steps", 2, "--formats", "csv")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def ran(out: Path, *arguments: object) -> export.RunFile:
    result = run(*arguments, *FAST, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.output == ""
    found = export.read(out / "run.json")
    assert found is not None
    return found


def refused(*arguments: object) -> str:
    result = run(*arguments, "--steps", 1)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    features = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    return tiny.saved(tmp_path / "net.safetensors", features)


# morph and demo ---------------------------------------------------------------------------------------------------


def test_an_image_moves_towards_another(encoder: Path, tmp_path: Path) -> None:
    for name in ("a cat.jpg", "a dog.jpg"):
        shutil.copy(CAT if "cat" in name else DOG, tmp_path / name)
    cat, dog = (str(tmp_path / f"a {name}.jpg") for name in ("cat", "dog"))
    run_file = ran(tmp_path / "out", "morph", cat, "--checkpoint", encoder, "--target", dog)
    assert run_file.spec.sampler.name == "CS"
    assert run_file.spec.reference == Reference((*SAMPLES, cat, dog), temperature=0.5)
    assert run_file.candidates[-2:] == ("a cat", "a dog")
    assert [chain.label for chain in run_file.spec.chains] == [21]
    with (tmp_path / "out" / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["target"] for row in rows] == ["a dog"] * 3
    assert rows[0]["top1"] in ("a cat", "cat-1"), "its own copy and it are alike"
    columns = [column for column in rows[0] if column.startswith("similarity_")]
    assert columns == [f"similarity_{name}" for name in run_file.candidates]


@pytest.mark.parametrize("target", ["dog-1", "dog-1.jpg", SAMPLES.index(DOG), DOG])
def test_a_target_is_a_name_an_index_or_a_path(target: object, encoder: Path, tmp_path: Path) -> None:
    run_file = ran(tmp_path / "out", "morph", CAT, "--checkpoint", encoder, "--target", target)
    assert run_file.spec.reference == Reference(tuple(SAMPLES), temperature=0.5), "no image stands in it twice"
    assert run_file.candidates[run_file.labels[0]] == "dog-1"


def test_what_is_compared_with_and_how_can_be_said(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "batch").mkdir()
    for path in SAMPLES[:3]:
        shutil.copy(path, tmp_path / "batch")
    (tmp_path / "batch" / "notes.txt").touch()
    run_file = ran(tmp_path / "out", "morph", CAT, "--checkpoint", encoder, "--reference", tmp_path / "batch",
                   "--reference", DOG, "--dot", "--temperature", 2, "--target", 1)  # fmt: skip
    batch = [str(tmp_path / "batch" / Path(path).name) for path in SAMPLES[:3]]
    assert run_file.spec.reference == Reference((*batch, DOG, CAT), cosine=False, temperature=2)
    assert run_file.labels == (1,)


def test_the_temperature_is_that_of_the_training_unless_it_is_said(encoder: Path, tmp_path: Path) -> None:
    features = {key: value for key, value in tiny.weights(1).items() if not key.startswith("linear")}
    trained = tiny.saved(tmp_path / "trained.safetensors", features, temperature="0.07")
    asked = ("morph", CAT, "--target", DOG, "--checkpoint")
    own = ran(tmp_path / "own", *asked, trained)
    assert own.spec.reference == Reference(tuple(SAMPLES), temperature=0.07)
    assert "--temperature" not in command(own)
    said = ran(tmp_path / "said", *asked, trained, "--temperature", 0.5)
    assert "--temperature 0.5" in command(said)
    untold = ran(tmp_path / "untold", *asked, encoder)
    assert "--temperature 0.5" in command(untold), "what the file does not tell today it may tell tomorrow"
    linked = tmp_path / "linked"
    result = run("link", CAT, "--target", DOG, "--checkpoint", encoder, "--checkpoint", trained, *FAST, "--out", linked)
    assert result.exit_code == 0, result.output
    runs = json.loads((linked / "link.json").read_text())["runs"]
    assert [runs[name]["reference"]["temperature"] for name in ("net", "trained")] == [0.5, 0.07]


def test_a_run_of_before_files_told_their_temperature_is_repeated_as_it_was(tmp_path: Path) -> None:
    features = {key: value for key, value in tiny.weights().items() if not key.startswith("linear")}
    trained = tiny.saved(tmp_path / "net.safetensors", features, temperature="0.07")
    ran(tmp_path / "first", "morph", CAT, "--target", DOG, "--checkpoint", trained, "--temperature", 0.5)
    record = tmp_path / "first" / "run.json"
    told = json.loads(record.read_text())
    told["spec"]["reference"] = None
    told["checkpoint"]["facts"] = [fact for fact in told["checkpoint"]["facts"] if fact["what"] != "temperature"]
    record.write_text(json.dumps(told))
    again = tmp_path / "again"
    result = run("morph", "--run", record, "--formats", "csv", "--out", again)
    assert (result.exit_code, result.output) == (0, "")
    files = (tmp_path / "first" / "curves.csv", again / "curves.csv")
    rows = [list(csv.DictReader(file.read_text(encoding="utf-8").splitlines())) for file in files]
    assert len(rows[0]) == 3
    for name in ("energy", "joint_energy", "distance"):
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]]
    before = export.read(record)
    assert before is not None
    assert "--temperature 0.5" in command(before)


def test_what_is_usual_for_an_encoder(tmp_path: Path) -> None:
    spread = ran(tmp_path / "spread", "morph", "--start", "overall", *HEADLESS).spec
    assert (spread.sampler.name, len(spread.chains)) == ("MaxEnt", 16)
    assert {chain.start for chain in spread.chains} == {OverallStart()}
    each = ran(tmp_path / "each", "morph", *HEADLESS, "--sampler", "Langevin").spec
    classes = [bundle.sample_class(path) for path in SAMPLES[::2]]
    assert [chain.start for chain in each.chains] == [GaussianStart(name) for name in classes]
    named = ran(tmp_path / "named", "morph", *HEADLESS, "--gaussian", "cat", "--gaussian", "ship", "--chains", 3).spec
    assert [chain.start for chain in named.chains] == [GaussianStart(name) for name in ("cat", "ship", "cat")]
    assert named.sampler.name == "MaxEnt"
    free = ran(tmp_path / "free", "morph", CAT, *HEADLESS)
    assert free.spec.sampler.name == "Langevin"
    assert free.target(0) == ""


def test_a_classifier_starts_from_the_gaussian_of_another_class_too(tmp_path: Path) -> None:
    found = ran(tmp_path / "out", "morph", "--gaussian", "cat", "--target", "dog")
    assert (found.starts, found.target(0)) == (("Gaussian of cat",), "dog")
    assert found.spec.reference is None


def test_demo_sends_each_image_to_the_next(encoder: Path, tmp_path: Path) -> None:
    found = ran(tmp_path / "out", "demo", "--checkpoint", encoder)
    own = [Path(name).stem for name in found.starts]
    assert [found.target(i) for i in range(10)] == [*own[1:], own[0]]
    assert found.spec.sampler.name == "CS"


def test_folders_of_chains_that_are_sent_nowhere_have_no_target(tmp_path: Path) -> None:
    result = run("morph", "--start", "noise", "--chains", 2, *HEADLESS, "--steps", 1, "--formats", "png,sheet,svg,plot",
                 "--layout", "curves", "--out", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out" / "frames").iterdir()) == ["chain-01", "chain-02"]
    assert "E(x,x')" in (tmp_path / "out" / "curves.svg").read_text(encoding="utf-8").replace("&#x27;", "'")


BAD: list[tuple[tuple[object, ...], str]] = [
    (("morph", CAT, "--target", "dog", "--temperature", 1), "--temperature is of encoders, and cifar10-robust-l2 has"),
    (("morph", CAT, "--target", "dog", "--dot"), "--cosine or --dot is of encoders"),
    (("morph", CAT, "--target", "dog", "--reference", DOG), "--reference is of encoders"),
    (("demo", "--cosine"), "take its head away with --assume head=none"),
    (("morph", CAT, CAT, "--sampler", "MaxEnt"), "MaxEnt compares features, not classes"),
    (("morph", "--sampler", "MaxEnt"), "MaxEnt compares features, not classes"),
    (("morph", CAT, "--sampler", "MaxEnt", *HEADLESS), "MaxEnt moves chains away from each other: give two or more."),
    (("morph", CAT, "--target", "crane", *HEADLESS), "There is no image called crane: give the path of one, or a"),
    (("morph", CAT, "--target", 99, *HEADLESS), "There is no image called 99"),
    (("morph", CAT, "--target", "x" * 5000, *HEADLESS), "There is no image called xxx"),
    (("morph", CAT, "--target", "~nobody-is-called-so/x.png", *HEADLESS), "begins with ~ and a name that no user has"),
    (("link", CAT, "--sampler", "MaxEnt", *HEADLESS, "--checkpoint", "cifar10-standard"), "give two or more"),
    (("morph", CAT, "--sampler", "CS", *HEADLESS), "CS needs a target: choose at least one."),
    (("morph", CAT, "--temperature", 0, *HEADLESS), "The temperature must be a number between 0.001 and 1000, not 0."),
    (("morph", "--gaussian", "crane", *HEADLESS), "There is no Gaussian of crane: choose one of airplane"),
    (("landscape", CAT, *HEADLESS), "or fit one with cem-explorer fit-head"),
    (("link", CAT, "--target", "dog", *HEADLESS, "--checkpoint", "no such"), "no model or file called no such"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[says[:30] for _, says in BAD])
def test_what_makes_no_sense_is_one_line(arguments: tuple[object, ...], says: str, tmp_path: Path) -> None:
    if arguments[0] == "landscape":
        result = run(*arguments, "--out", tmp_path / "out")
        assert says in result.stderr
    else:
        assert says in refused(*arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_repeated_tells_of_another_reference_image(encoder: Path, tmp_path: Path) -> None:
    shutil.copy(DOG, tmp_path / "to.jpg")
    first = tmp_path / "first"
    ran(first, "morph", CAT, "--checkpoint", encoder, "--target", tmp_path / "to.jpg")
    again = ("morph", "--run", first / "run.json", "--formats", "csv", "--out")
    assert run(*again, tmp_path / "same").output == ""
    told = []
    for folder in (first, tmp_path / "same"):
        with (folder / "curves.csv").open(newline="") as file:
            told.append([(row["energy"], row["joint_energy"], row["distance"]) for row in csv.DictReader(file)])
    assert told[0] == told[1]
    shutil.copy(PHOTO, tmp_path / "to.jpg")
    said = run(*again, tmp_path / "other").stderr
    assert said == "Note: an image of the reference batch is another than that of the run.\n"


def test_names_that_stand_twice_are_told_by_their_path(encoder: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(CAT, tmp_path / folder / "same.jpg")
    batch = ("--reference", tmp_path / "one", "--reference", tmp_path / "two")
    said = refused("morph", DOG, "--checkpoint", encoder, *batch, "--target", "same", "--out", tmp_path / "out")
    assert "2 reference images are called same: give the path of one." in said


def test_probes_and_runs_of_classes_refuse_an_encoder_and_say_the_way_out(encoder: Path, tmp_path: Path) -> None:
    says = "net.safetensors is an encoder, with features but no classes: choose a head for it (under Details, or "
    for arguments in (
        ("smallest", CAT, "--checkpoint", encoder),
        ("energies", "--checkpoint", encoder, "--eps", 1),
        ("landscape", CAT, "--checkpoint", encoder, "--out", tmp_path / "out"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert says in result.stderr
        assert "fit one with cem-explorer fit-head." in result.stderr
    assert run("morph", CAT, "--checkpoint", encoder, "--steps", 1, "--session", tmp_path / "run").exit_code == 0
    assert says in run("lens", tmp_path / "run", "--out", tmp_path / "lens").stderr
    assert not (tmp_path / "lens").exists()


def test_encoders_are_linked_among_themselves(encoder: Path, tmp_path: Path) -> None:
    features = {key: value for key, value in tiny.weights(1).items() if not key.startswith("linear")}
    other = tiny.saved(tmp_path / "other.safetensors", features)
    out = tmp_path / "out"
    result = run("link", CAT, "--target", DOG, "--checkpoint", encoder, "--checkpoint", other, *FAST, "--out", out)
    assert result.exit_code == 0, result.output
    found = [export.read(out / name / "run.json") for name in ("net", "other")]
    assert [one.target(0) for one in found if one] == ["dog-1", "dog-1"]
    with (out / "transfer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4
    assert {row["judged_by"] for row in rows} == {"net", "other"}
    record = json.loads((out / "link.json").read_text())
    assert record["runs"]["net"]["reference"] == record["runs"]["other"]["reference"]


def test_a_sheet_of_linked_runs_says_energies_where_a_chain_is_sent_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[sheet.Row] = []

    def drawn(_: str, said: list[sheet.Row], __: object) -> None:
        rows.extend(said)

    monkeypatch.setattr(sheet, "draw", drawn)
    aimed = session(2, classes=(), references=("a", "b"))
    (chain, *others), spec = aimed.start.spec.chains, aimed.start.spec
    row = msgspec.structs.replace(SAMPLERS["MaxEnt"], steps=1)
    free = msgspec.structs.replace(spec, sampler=row, chains=(msgspec.structs.replace(chain, label=None), *others))
    aimless = session(2, classes=(), references=("a", "b"))
    aimless.start = msgspec.structs.replace(aimless.start, spec=free)
    for run_of, target, number in (
        (aimed, "b", f"p {np.exp(aimed[0].log_p[0]):.2f}"),
        (aimless, "", f"E(x) {aimless[0].energy[0]:.2f}"),
    ):
        rows.clear()
        cli.link._sheet(["net"], [run_of])
        assert rows[0] == ("step 0", target, number)


def test_no_arrow_points_to_nothing() -> None:
    pictures = np.zeros((1, 64, 64, 3), np.uint8)
    ink = [
        int((sheet.draw("", [("", target, "")], [("", pictures)])[:, :30] < 128).any(2).sum()) for target in ("", "a")
    ]
    assert ink[0] == 0 < ink[1]


# The line that makes a run again ----------------------------------------------------------------------------------


def asked(line: str, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    caught: list[RunSpec] = []
    opened = session(1, classes=(), references=("a",)).start.checkpoint

    def open_it(options: dict[str, Any]) -> Any:
        options["choices"] = {}
        return opened

    with monkeypatch.context() as patched:
        patched.setattr(cli.runs, "_open", open_it)
        patched.setattr(cli.runs, "_run", lambda spec, _: caught.append(spec))
        result = CliRunner().invoke(cli.main, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    return caught[0]


DRAWS: list[list[Start]] = [
    [OverallStart()], [NoiseStart()], [GaussianStart("cat")], [GaussianStart("cat"), GaussianStart("a ship")],
]  # fmt: skip
BATCHES = [tuple(SAMPLES), ("/one.png", "/two two.png", "/it's.png"), (DOG,)]


@settings(max_examples=150, deadline=None)
@given(
    sampler=st.sampled_from(["CS", "TA", "Langevin", "PGD", "MaxEnt", "PGD-unsup"]),
    starts=st.sampled_from([*DRAWS, [ImageStart("/a.png"), ImageStart("/b b.png")], [ImageStart("/a.png")]]),
    batch=st.sampled_from(BATCHES),
    targets=st.lists(st.sampled_from([*SAMPLES[:2], DOG, PHOTO]), min_size=1, max_size=3),
    count=st.integers(2, 20),
    cosine=st.booleans(),
    temperature=st.sampled_from([0.5, 0.07]),
)
def test_a_run_of_an_encoder_comes_back(
    sampler: str,
    starts: list[Start],
    batch: tuple[str, ...],
    targets: list[str],
    count: int,
    cosine: bool,
    temperature: float,
) -> None:
    """With the batch as the window and the options lay it out: the chosen one, then the images of the run."""
    row = SAMPLERS[sampler]
    images = compared(batch, starts, targets)
    chains = lay_out(row, starts, [images.index(target) for target in targets], count)
    used = {chain.label for chain in chains} - {None}
    reference = Reference(compared(batch, starts, [path for path in targets if images.index(path) in used]),
                          cosine=cosine, temperature=temperature)  # fmt: skip
    if any(label >= len(reference.images) or reference.images[label] != images[label] for label in used):
        return
    spec = RunSpec("an-id", "cifar10-robust-l2", row, chains, reference=reference)
    known = export.settings(session(1, classes=(), references=("a",)))
    run_file = msgspec.structs.replace(known, spec=spec, changes=(), end=None)
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = asked(command(run_file), monkeypatch)
    assert msgspec.structs.replace(found, id="an-id") == spec


def test_a_large_batch_is_taken_from_the_record() -> None:
    reference = Reference(tuple(f"/{i}.png" for i in range(200)))
    chains = lay_out(SAMPLERS["MaxEnt"], [NoiseStart()], [], 2)
    spec = RunSpec("an-id", "net.pt", SAMPLERS["MaxEnt"], chains, reference=reference)
    known = export.settings(session(1, classes=(), references=("a",)))
    run_file = msgspec.structs.replace(known, spec=spec, changes=(), end=None)
    assert command(run_file, at="run.json", out="to") == "cem-explorer morph --run run.json --out to"
