"""What the command line says of checkpoints, and what it is told of them: inspect, convert, --assume, --remember."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sources_resnet
import sources_wide
import tiny
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import nn

from cem_core import bundle, checkpoints, cli, runner
from cem_core.checkpoints import choices, opening
from cem_core.messages import Chain, Checkpoint, ReplayStart, RunSpec, RunStart, Sampler, Step

CAT = next(path for path in bundle.samples() if path.name == "cat-1.jpg")
SOURCES = {source.id: source for source in [*sources_wide.SOURCES, *sources_resnet.SOURCES]}


@pytest.fixture(autouse=True)
def nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(choices, "user_config_path", lambda name: tmp_path / "config" / name)
    yield tmp_path / "config" / "cem-explorer" / "choices.json"
    checkpoints.forget()


def run(*arguments: object, columns: int = 80) -> Result:
    """The command, with nothing on a terminal."""
    environment = {"COLUMNS": str(columns), "TERM": "dumb"}
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], env=environment)


def ran(*arguments: object, columns: int = 80) -> str:
    result = run(*arguments, columns=columns)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def refused(*arguments: object) -> str:
    """Exit code 1 and one line on stderr."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def described(*arguments: object) -> Checkpoint:
    return msgspec.json.decode(ran("inspect", *arguments, "--json"), type=Checkpoint)


def value(report: Checkpoint, what: str) -> tuple[str, str]:
    fact = report.fact(what)
    assert fact is not None
    return fact.value, fact.source


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Weights that leave much open."""
    torch.save({"last": tiny.weights(), "best": tiny.weights(1)}, tmp_path / "net_l2_0_5.pt")
    return tmp_path / "net_l2_0_5.pt"


@pytest.fixture
def jem(tmp_path: Path) -> Path:
    source = SOURCES["JEM WRN-10-2"]
    torch.save(source.wrap(source.network().state_dict()), tmp_path / "jem.pt")
    return tmp_path / "jem.pt"


# inspect ----------------------------------------------------------------------------------------------------------


def test_all_facts_are_told_and_of_what_is_assumed_all_options(net: Path) -> None:
    out = ran("inspect", net)
    flat = " ".join(out.split())
    report = checkpoints.inspect(str(net))
    assert out.splitlines()[:3] == [net.name, "PreAct ResNet-10, 0.02 M parameters, 3×32×32 to 3 classes", ""]
    for fact in report.facts:
        assert re.search(rf"^{fact.what}  +{re.escape(fact.value)}(  |$)", out, re.MULTILINE), fact.what
        assert fact.why in flat
        for option in fact.options:
            assert option in flat
    assert re.search(r"^normalisation +CIFAR-10 +assumed, 40 % sure: nothing speaks for another$", out, re.MULTILINE)
    assert re.search(r"^trained against +L2, ε = 0\.5 +from the file name, 80 % sure$", out, re.MULTILINE)
    assert f"SHA-256  {report.sha256}\n" in out
    assert out.endswith("What is assumed can be said: --assume FACT=VALUE, and --remember keeps it.\n")
    assert "\x1b" not in out, "no colours in a pipe"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["default", "JEM WRN-10-2", "moco-v2", "solo-learn", "dynacl"])
def test_the_table_fits_the_terminal_and_stands_in_columns(name: str, columns: int, tmp_path: Path) -> None:
    path: str | Path = bundle.DEFAULT_MODEL
    if name != "default":
        path = tmp_path / "net.pt"
        torch.save(SOURCES[name].wrap(SOURCES[name].network().state_dict()), path)
    lines = ran("inspect", path, columns=columns).splitlines()
    assert all(len(line) <= columns and line == line.rstrip() for line in lines)
    table = lines[3 : next(i for i, line in enumerate(lines) if line.startswith("SHA-256"))]
    indents = {len(match[0]) for line in table if (match := re.match(r"( *|\S+(?: \S+)* {2,})(?=\S)", line))}
    assert len(indents - {0}) <= 2, "values, and what is said of them"
    assert not any(line.endswith(("CIFAR-", "safetensors-", "leaky", "leaky relu")) for line in lines), (
        "names stay whole"
    )


def test_what_is_ignored_or_beside_is_told(jem: Path, tmp_path: Path) -> None:
    out = ran("inspect", jem)
    assert re.search(r"^replay buffer +20 images +starts of chains: --start replay$", out, re.MULTILINE)
    assert re.search(r"^ignored +energy_output\.bias, energy_output\.weight, f\.linear\.bias,$", out, re.MULTILINE)
    source = SOURCES["rocl"]
    torch.save(source.wrap(source.network().state_dict()), tmp_path / "rocl.pt")
    torch.save({"fc.weight": torch.ones(10, 32)}, tmp_path / "rocl_linear.pt")
    out = ran("inspect", tmp_path / "rocl.pt")
    assert "3×32×32 to 32 features" in out
    assert re.search(r"^heads beside it +rocl_linear\.pt +--assume head=…$", out, re.MULTILINE)


def test_many_ignored_keys_are_counted(tmp_path: Path) -> None:
    extra = {f"unused.{i}": torch.zeros(1) for i in range(1006)}
    torch.save(tiny.weights() | extra, tmp_path / "net.pt")
    assert "unused.1001 and 1,000 more" in " ".join(ran("inspect", tmp_path / "net.pt").split())


def test_very_long_values_are_cut(tmp_path: Path) -> None:
    path = tiny.saved(tmp_path / "net.safetensors", training="so many words " * 1000)
    out = ran("inspect", path, "--assume", "class_names=" + ",".join(f"{name} " * 100 for name in ("a", "b", "c")))
    assert len(out) < 3000
    assert re.search(r"^training +so many words so ", out, re.MULTILINE)
    assert out.count("…") == 2


def test_what_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tiny.saved(tmp_path / "[bold]net[red].safetensors", training="[red]x[/red] [-1,1] :cat:")
    out = ran("inspect", path)
    assert out.startswith("[bold]net[red].safetensors\n")
    assert "[red]x[/red] [-1,1] :cat:" in out


def test_json_is_one_object_that_is_the_message(net: Path) -> None:
    out = ran("inspect", net, "--json")
    found = json.loads(out)
    assert next(iter(found)) == "name"
    assert msgspec.convert(found, Checkpoint) == checkpoints.inspect(str(net))
    assert described(bundle.DEFAULT_MODEL) == checkpoints.inspect(bundle.DEFAULT_MODEL)


def test_warnings_are_told(tmp_path: Path) -> None:
    torch.save(tiny.weights() | {"extra.weight": torch.zeros(4, 4)}, tmp_path / "net.pt")
    out = ran("inspect", tmp_path / "net.pt")
    assert "Note: extra.weight is not used: this may be another network than it looks like." in " ".join(out.split())


def test_no_network_is_run_unless_it_is_to_be_checked(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(opening, "build", lambda _: pytest.fail("a network was made"))
        patched.setattr(nn.Module, "__call__", lambda *_: pytest.fail("a network was run"))
        ran("inspect", net)
        ran("inspect", net, "--json", "--assume", "activation=silu", "--remember")
    runs = []
    whole = opening.build
    monkeypatch.setattr(opening, "build", lambda opened: runs.append(opened) or whole(opened))
    ran("inspect", net, "--check")
    assert len(runs) == 1


def test_a_check_tells_what_is_recognised() -> None:
    out = ran("inspect", bundle.DEFAULT_MODEL, "--check")
    assert re.search(r"^check +\d+ of 20 bundled images recognised$", out, re.MULTILINE)
    assert "Note" not in out
    assert value(described(bundle.DEFAULT_MODEL, "--check"), "check")[0].endswith("of 20 bundled images recognised")
    assert described(bundle.DEFAULT_MODEL).fact("check") is None


def test_a_check_that_goes_badly_says_what_to_assume(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(load_file(bundle.models()[bundle.DEFAULT_MODEL]), path)
    arguments = ("inspect", path, "--check", "--assume", "activation=silu", "--assume", "normalisation=none")
    out = " ".join(ran(*arguments).split())
    assert "Note: Only" in out
    assert re.search(r"with normalisation “[^”]+” it would be 20\. Choose it with --assume\.", out)


def test_a_check_that_says_nothing_says_so(net: Path) -> None:
    assert "the bundled images say nothing" in ran("inspect", net, "--check")


# --assume and --remember ------------------------------------------------------------------------------------------


def test_what_is_assumed_is_told_as_chosen(net: Path) -> None:
    out = ran("inspect", net, "--assume", "shortcut-input=raw", "--assume", "normalisation = none", "--assume",
              "class names=a, b, c", "--assume", "weights=best", columns=120)  # fmt: skip
    for what, shown in (
        ("shortcut input", "raw"), ("normalisation", "none"), ("class names", "a, b, c"), ("weights", "best")
    ):  # fmt: skip
        assert re.search(rf"^{what} +{shown} +chosen", out, re.MULTILINE)
    assert not choices._file().exists(), "and not remembered"


def test_what_is_remembered_holds_for_every_command_until_it_is_forgotten(net: Path, tmp_path: Path) -> None:
    assert value(described(net), "activation") == ("relu", "guess")
    ran("inspect", net, "--assume", "activation=silu", "--remember")
    assert value(described(net), "activation") == ("silu", "choice")
    ran("inspect", net, "--assume", "shortcut_input=raw", "--remember")
    assert value(described(net), "activation") == ("silu", "choice"), "one after the other"
    assert value(described(net, "--assume", "activation=gelu"), "activation") == ("gelu", "choice")
    assert value(described(net), "activation") == ("silu", "choice")
    ran("convert", net, tmp_path / "made.safetensors")
    assert value(described(tmp_path / "made.safetensors"), "activation") == ("silu", "file")
    ran("morph", CAT, "--target", 1, "--steps", 1, "--checkpoint", net, "--formats", "csv", "--out", tmp_path / "out")
    assert record(tmp_path / "out")["spec"]["choices"] == {"activation": "silu", "shortcut_input": "raw"}
    ran("inspect", net, "--remember")
    assert value(described(net), "activation") == ("relu", "guess")


def test_what_no_longer_suits_can_be_forgotten(net: Path) -> None:
    checkpoints.remember(checkpoints.sha256(net), {"colour": "red"})
    assert "There is no 'colour' to choose" in refused("inspect", net)
    ran("inspect", net, "--remember")
    ran("inspect", net)


def test_what_is_impossible_is_not_remembered(net: Path) -> None:
    assert "The activation cannot be 'loud'" in refused("inspect", net, "--assume", "activation=loud", "--remember")
    assert not choices._file().exists()


BAD: list[tuple[str, str]] = [
    ("colour=red", "There is no 'colour' to choose for net_l2_0_5.pt: only weights, activation, shortcut_input"),
    ("activation=loud", "The activation cannot be 'loud': choose one of relu, silu"),
    ("depth=34", "The depth of net_l2_0_5.pt is settled by its weights: 10."),
    ("weights=ema", "The weights cannot be 'ema': this file has last, best."),
    ("normalisation=loud", "'loud' is no normalisation: give one of none, CIFAR-10"),
    ("image_size=0", "The image size must be a whole number of pixels from 8 to 1024, not '0'."),
    ("class_names=a,b", "The model has 3 classes and 2 names were given"),
]


@pytest.mark.parametrize(("assumed", "says"), BAD)
@pytest.mark.parametrize("command", ["inspect", "convert", "morph", "demo"])
def test_a_bad_assumption_is_one_line(command: str, assumed: str, says: str, net: Path, tmp_path: Path) -> None:
    arguments: dict[str, list[object]] = {
        "inspect": ["inspect", net],
        "convert": ["convert", net, tmp_path / "made.safetensors"],
        "morph": ["morph", CAT, "--target", "1", "--checkpoint", net, "--out", tmp_path / "out"],
        "demo": ["demo", "--checkpoint", net, "--out", tmp_path / "out"],
    }
    assert says in refused(*arguments[command], "--assume", assumed)
    assert not (tmp_path / "made.safetensors").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("assumed", ["activation", "=silu", "activation=", " = ", ""])
def test_an_assumption_of_another_form_is_wrong_usage(assumed: str, net: Path) -> None:
    result = run("inspect", net, "--assume", assumed)
    assert result.exit_code == 2
    assert "is not FACT=VALUE" in result.stderr
    assert result.stdout == ""


BAD_FILES = {
    "missing.pt": (None, "There is no model or file called"),
    "empty.pt": (b"", "is empty"),
    "page.pt": (b"<!doctype html><p>404", "is a web page"),
    "text.pt": (b"weights", "is a text file, not a checkpoint"),
    "cut.pt": (b"PK\x03\x04 and no more", "is a damaged or incomplete torch file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("command", [("inspect",), ("inspect", "--json"), ("inspect", "--check"), ("convert",)])
def test_a_bad_file_is_one_line(command: tuple[str, ...], name: str, tmp_path: Path) -> None:
    data, says = BAD_FILES[name]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    out = [tmp_path / "made"] if command == ("convert",) else []
    said = refused(*command, tmp_path / name, *out)
    assert name in said
    assert says in said
    assert not (tmp_path / "made").exists()


# convert ----------------------------------------------------------------------------------------------------------


def test_convert_writes_a_file_and_says_nothing_when_piped(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "schönes Netz №1.safetensors"
    assert ran("convert", net, out, "--assume", "weights=best", "--assume", "activation=silu") == ""
    assert torch.equal(load_file(out)["conv1.weight"], tiny.weights(1)["conv1.weight"])
    assert value(described(out), "activation") == ("silu", "file")


@pytest.mark.parametrize(
    ("out", "says"),
    [("none/made", "cannot be written"), (".", "no ordinary file"), ("net_l2_0_5.pt", "is the checkpoint itself")],
)
def test_a_bad_place_to_convert_to_is_one_line(out: str, says: str, net: Path, tmp_path: Path) -> None:
    data = net.read_bytes()
    assert says in refused("convert", net, tmp_path / out)
    assert net.read_bytes() == data


def test_wrong_usage_is_exit_code_2(net: Path) -> None:
    for arguments in (("inspect",), ("convert", net), ("inspect", net, net), ("inspect", net, "--out", "x")):
        assert run(*arguments).exit_code == 2


# morph ------------------------------------------------------------------------------------------------------------


def record(out: Path) -> dict[str, Any]:
    found = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_morph_with_an_assumption_is_the_run_that_it_records(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran("morph", CAT, "--target", "b", "--steps", 2, "--checkpoint", net, "--assume", "activation=silu", "--assume",
        "class_names=a,b,c", "--formats", "csv", "--out", out)  # fmt: skip
    found = record(out)
    assert found["spec"]["choices"] == {"activation": "silu", "class_names": "a,b,c"}
    assert found["labels"] == [1]
    assert found["checkpoint"]["classes"] == ["a", "b", "c"]
    assert {"what": "activation", "value": "silu"}.items() <= next(
        fact for fact in found["checkpoint"]["facts"] if fact["what"] == "activation"
    ).items()


def test_another_assumption_is_another_run(net: Path, tmp_path: Path) -> None:
    texts = set()
    for activation in ("relu", "silu", "relu"):
        out = tmp_path / f"out-{len(texts)}-{activation}"
        ran("morph", CAT, "--target", 1, "--steps", 1, "--checkpoint", net, "--assume", f"activation={activation}",
            "--formats", "csv", "--out", out)  # fmt: skip
        texts.add((out / "curves.csv").read_text())
    assert len(texts) == 2


def test_morph_from_the_replay_buffer(jem: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran("morph", "--start", "replay", "--target", "frog", "--chains", 3, "--steps", 1, "--seed", 4, "--checkpoint", jem,
        "--formats", "png", "--out", out)  # fmt: skip
    found = record(out)
    assert found["spec"]["sampler"]["name"] == "RCS"
    assert all(re.fullmatch(r"replay \d+", name) for name in found["starts"])
    assert [chain["start"] for chain in found["spec"]["chains"]] == [{"kind": "replay"}] * 3
    assert [chain["seed"] for chain in found["spec"]["chains"]] == [4, 5, 6]


def test_the_start_is_an_image_of_the_buffer_and_the_same_for_the_same_seed(jem: Path) -> None:
    buffer = checkpoints.replay(str(jem))
    assert buffer.shape == (20, 3, 32, 32)
    assert 0 <= float(buffer.min()) < float(buffer.max()) <= 1
    raw = torch.load(jem)["replay_buffer"]
    torch.testing.assert_close(buffer, ((raw + 1) / 2).clamp(0, 1))

    def starts(*seeds: int) -> tuple[tuple[str, ...], np.ndarray]:
        chains = tuple(Chain(ReplayStart(), seed, 0) for seed in seeds)
        spec = RunSpec("x", str(jem), Sampler(name="RCS", a=1, b=1, steps=1), chains, "cpu")
        messages = list(runner.play(spec))
        first = next(message for message in messages if isinstance(message, RunStart))
        return first.names, next(message for message in messages if isinstance(message, Step)).pixels

    names, pixels = starts(1, 2, 3, 1)
    assert names[0] == names[3]
    assert len(set(names)) > 1
    for name, image in zip(names, pixels, strict=True):
        np.testing.assert_array_equal(image, buffer[int(name.removeprefix("replay "))].numpy())
    np.testing.assert_array_equal(starts(2)[1][0], pixels[1]), "whatever runs beside it"


def test_a_chosen_normalisation_is_that_of_the_buffer(jem: Path) -> None:
    raw = torch.load(jem)["replay_buffer"]
    torch.testing.assert_close(checkpoints.replay(str(jem), {"normalisation": "none"}), raw.clamp(0, 1))


def test_no_replay_buffer_or_another_size_is_one_line(jem: Path, net: Path, tmp_path: Path) -> None:
    def replay(*arguments: object) -> str:
        return refused("morph", "--start", "replay", "--target", 1, "--steps", 1, "--out", tmp_path / "out", *arguments)

    assert "net_l2_0_5.pt has no replay buffer: start from images or noise." in replay("--checkpoint", net)
    sized = replay("--checkpoint", jem, "--assume", "image_size=48")
    assert "The replay buffer holds images of 32 pixels: choose that image size." in sized
    result = run("morph", CAT, "--start", "replay", "--checkpoint", jem, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "IMAGES and --start replay exclude each other." in result.stderr
    assert not (tmp_path / "out").exists()


def test_help_tells_of_all_this() -> None:
    for command, options in (
        ("inspect", ("--assume", "--remember", "--check", "--json")),
        ("convert", ("--assume",)),
        ("morph", ("--assume", "replay")),
    ):
        out = ran(command, "--help")
        assert all(option in out for option in options)
    assert "robustbench" not in sys.modules
