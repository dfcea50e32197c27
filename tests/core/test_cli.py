from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from cem_core import bundle, cli, export, images, runner, session
from cem_core.messages import Checkpoint, RunEnd, Step

SAMPLES = bundle.samples()
CAT = next(path for path in SAMPLES if path.name == "cat-1.jpg")


def run(*arguments: object) -> Result:
    """The command, with nothing on a terminal."""
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def ran(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result


def refused(result: Result) -> str:
    """Exit code 1 and one line on stderr."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def misused(result: Result) -> str:
    """Exit code 2, usage, and the reason."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: ")
    return result.stderr


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("nets") / "tiny.safetensors")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def record(out: Path) -> dict[str, Any]:
    found = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


# morph ------------------------------------------------------------------------------------------------------------


def test_morph_exports_every_step_and_says_nothing_when_piped(net: Path, out: Path) -> None:
    result = ran("morph", CAT, "--target", "horse", "--checkpoint", net, "--steps", 3, "--out", out)
    assert result.output == ""
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    frames = {f"frames/chain-01-horse/step-{i:04}.png" for i in range(4)}
    assert files == frames | {"run.json", "morph.png", "sheet.png", "curves.csv"}
    assert record(out)["spec"]["sampler"]["name"] == "TA", "the default from images"


@pytest.mark.parametrize("target", ["horse", "2"])
def test_a_class_is_given_by_name_or_index(net: Path, out: Path, target: str) -> None:
    ran("morph", CAT, "--target", target, "--checkpoint", net, "--steps", 1, "--formats", "csv", "--out", out)
    assert record(out)["labels"] == [2]


def test_the_exported_pixels_are_those_of_the_run_that_the_settings_describe(out: Path) -> None:
    ran(
        "morph", CAT, "--target", "dog", "--sampler", "rcs", "--steps", 2, "--seed", 5, "--formats", "png", "--out", out
    )
    found = msgspec.convert(record(out), export.RunFile)
    steps = [message for message in runner.play(found.spec) if isinstance(message, Step)]
    assert len(steps) == found.steps == 3
    for step in steps:
        with Image.open(out / "frames" / "chain-01-dog" / f"step-{step.index:04}.png") as image:
            pixels = np.asarray(image)
        np.testing.assert_array_equal(pixels, images.to_uint8(step.pixels[0]).transpose(1, 2, 0))
    assert found.checkpoint.name == bundle.DEFAULT_MODEL
    assert found.end is not None
    assert found.end.reason == "done"


def test_every_number_is_an_option(net: Path, out: Path) -> None:
    ran("morph", CAT, "--target", "dog", "--checkpoint", net, "--sampler", "PGD-Linf-targeted", "--a", 0.5, "--b", -2,
        "--step-size", 0.01, "--noise", 0.002, "--norm", "LINF", "--radius", "4/255", "--steps", 2, "--no-random-start",
        "--plain", "--seed", 9, "--chains", 2, "--device", "cpu", "--precision", "bfloat16", "--every", 2, "--scale", 1,
        "--fps", 8, "--formats", "csv,apng", "--out", out)  # fmt: skip
    found = record(out)
    assert found["spec"]["sampler"] == {
        "name": "PGD-Linf-targeted", "a": 0.5, "b": -2, "step_size": 0.01, "noise": 0.002, "norm": "linf",
        "radius": 4 / 255, "steps": 2, "random_start": False, "normalised": False, "coupled": False,
    }  # fmt: skip
    assert [chain["seed"] for chain in found["spec"]["chains"]] == [9, 10]
    assert found["spec"]["precision"] == "bfloat16"
    assert found["exported"] | {"every": 2, "scale": 1, "fps": 8, "formats": ["csv", "apng"]} == found["exported"]


def test_a_ball_can_be_left_away(net: Path, out: Path) -> None:
    ran("morph", CAT, "--checkpoint", net, "--sampler", "pgd", "--radius", "none", "--steps", 1, "--out", out)
    assert record(out)["spec"]["sampler"]["radius"] is None
    assert record(out)["spec"]["sampler"]["random_start"] is False


def test_several_images_and_targets_are_all_pairs(net: Path, out: Path) -> None:
    ran("morph", *SAMPLES[:2], "--target", "cat", "--target", "dog", "--target", 2, "--checkpoint", net, "--steps", 1,
        "--formats", "png", "--out", out)  # fmt: skip
    found = record(out)
    assert len(set(zip(found["starts"], found["labels"], strict=True))) == 6
    assert len(list((out / "frames").iterdir())) == 6


def test_gaussian_starts_take_rcs(out: Path) -> None:
    ran(
        "morph",
        "--start",
        "gaussian",
        "--target",
        "frog",
        "--chains",
        3,
        "--steps",
        1,
        "--formats",
        "csv",
        "--out",
        out,
    )
    found = record(out)
    assert found["spec"]["sampler"]["name"] == "RCS"
    assert found["starts"] == ["Gaussian of frog"] * 3


def test_noise_starts_need_no_image(net: Path, out: Path) -> None:
    ran("morph", "--start", "noise", "--sampler", "langevin", "--checkpoint", net, "--steps", 1, "--out", out)
    assert record(out)["starts"] == ["noise"]


def test_names_with_spaces_and_of_any_script_simply_work(net: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Ünïcode und Leerzeichen 猫"
    folder.mkdir()
    image = shutil.copy(CAT, folder / "schöne Katze №1 ☃.jpg")
    weights = shutil.copy(net, folder / "mein Netz.safetensors")
    out = folder / "aus gabe" / "日本"
    ran("morph", image, "--target", "dog", "--checkpoint", weights, "--steps", 1, "--out", out)
    assert record(out)["starts"] == ["schöne Katze №1 ☃.jpg"]
    assert record(out)["checkpoint"]["name"] == "mein Netz.safetensors"


def test_paths_are_relative_to_the_working_directory(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CAT, "x.jpg")
    ran("morph", "x.jpg", "--target", "dog", "--checkpoint", net, "--steps", 1, "--out", "made")
    assert record(tmp_path / "made")["spec"]["chains"][0]["start"]["path"] == str(tmp_path / "x.jpg")


def test_an_earlier_export_is_replaced(net: Path, out: Path) -> None:
    for steps in (3, 1):
        ran("morph", CAT, "--target", "dog", "--checkpoint", net, "--steps", steps, "--formats", "png", "--out", out)
    assert len(list(out.rglob("step-*.png"))) == 2


# demo, models, fit-starts -----------------------------------------------------------------------------------------


def test_demo_morphs_an_image_of_each_class_into_another(out: Path) -> None:
    ran("demo", "--steps", 2, "--formats", "apng,sheet", "--out", out)
    found = record(out)
    classes = found["checkpoint"]["classes"]
    shown = [classes.index(bundle.sample_class(name)) for name in found["starts"]]
    assert sorted(shown) == sorted(found["labels"]) == list(range(10))
    assert all(label != own for label, own in zip(found["labels"], shown, strict=True))
    with Image.open(out / "morph.png") as image:
        assert image.n_frames == 3


def test_models_are_listed_as_objects_with_the_name_first() -> None:
    found = json.loads(ran("models", "--json").stdout)
    assert {next(iter(model)) for model in found} == {"name"}
    assert [model["name"] for model in found] == list(bundle.models())
    for model in msgspec.convert(found, list[Checkpoint]):
        assert len(model.classes) in (0, 10)
        assert len(model.sha256) == 64


def test_models_are_listed_for_people() -> None:
    output = ran("models").stdout
    assert "cifar10-robust-l2" in output
    assert "cifar10-standard" in output
    assert "\x1b" not in output, "no colours in a pipe"


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for path in SAMPLES:
        (folder / bundle.sample_class(path)).mkdir(exist_ok=True)
        shutil.copy(path, folder / bundle.sample_class(path))
    return folder


def test_fit_starts_writes_the_statistics_of_the_classes(class_folders: Path, tmp_path: Path) -> None:
    path = tmp_path / "starts.safetensors"
    ran("fit-starts", class_folders, "--size", 8, "--rank", 1, "--out", path)
    with safe_open(path, "numpy") as file:
        assert file.get_tensor("mean").shape == (10, 3, 8, 8)
        assert file.get_tensor("directions").shape == (10, 1, 3, 8, 8)
        assert json.loads(file.metadata()["classes"]) == sorted({bundle.sample_class(path) for path in SAMPLES})


# Bad input: exit code 1 and one line ------------------------------------------------------------------------------


def enormous(path: Path) -> None:
    """The head of a PNG of 30,000×30,000 pixels; its 2.7 GB are never written, nor read."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(90_001))) + chunk(b"IEND", b""))


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "notes.txt": (lambda path: path.write_text("a cat, in words"), "is not an image that can be read"),
    "words.png": (lambda path: path.write_text("a cat, in words"), "is not an image that can be read"),
    "cut.jpg": (lambda path: path.write_bytes(CAT.read_bytes()[:500]), "is damaged or cut short"),
    "large.png": (enormous, "more than 100 megapixels"),
    "empty.png": (lambda path: path.write_bytes(b""), "is empty"),
    "missing.png": (lambda _: None, "There is no file missing.png"),
    "folder.png": (lambda path: path.mkdir(), "is a folder"),
}


@pytest.mark.parametrize(("name", "make", "says"), [(name, *bad) for name, bad in BAD_IMAGES.items()], ids=BAD_IMAGES)
def test_a_bad_image_is_one_line(
    net: Path, tmp_path: Path, out: Path, name: str, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / name)
    result = run("morph", CAT, tmp_path / name, "--target", "dog", "--checkpoint", net, "--steps", 1, "--out", out)
    said = refused(result)
    assert name in said
    assert says in said
    assert not out.exists()


def misfit(path: Path) -> None:
    save_file(tiny.weights() | {"bn.weight": torch.zeros(5)}, path)


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.pt": (lambda _: None, "There is no model or file called"),
    "text.pt": (lambda path: path.write_text("weights"), "is a text file, not a checkpoint"),
    "page.pt": (lambda path: path.write_text("<!doctype html><p>404"), "is a web page"),
    "empty.pt": (lambda path: path.write_bytes(b""), "is empty"),
    "cut.pt": (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "is a damaged or incomplete torch file"),
    "shapes.safetensors": (misfit, "its weights do not fit"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
}


@pytest.mark.parametrize(
    ("name", "make", "says"), [(name, *bad) for name, bad in BAD_CHECKPOINTS.items()], ids=BAD_CHECKPOINTS
)
@pytest.mark.parametrize("command", ["morph", "demo", "probe"])
def test_a_bad_checkpoint_is_one_line(
    tmp_path: Path, class_folders: Path, out: Path, command: str, name: str, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / name)
    arguments: dict[str, list[object]] = {
        "morph": [CAT, "--target", "dog", "--out", out],
        "demo": ["--out", out],
        "probe": ["--data", class_folders],
    }
    said = refused(run(command, "--checkpoint", tmp_path / name, *arguments[command]))
    assert name in said
    assert says in said
    assert not out.exists()


NUMBERS: list[tuple[str, object, str]] = [
    ("--target", "unicorn", "has no class called unicorn: it knows cat, dog, horse."),
    ("--target", "3", "has no class called 3"),
    ("--target", "-1", "has no class called -1"),
    ("--target", "1.0", "has no class called 1.0"),
    ("--target", "٢", "has no class called ٢"),
    ("--target", "", "has no class called "),
    ("--sampler", "HMC", "There is no sampler called HMC: choose TA, CS, RCS"),
    ("--steps", 0, "Steps must be between 1 and 100,000, not 0."),
    ("--steps", -5, "Steps must be between 1 and 100,000, not -5."),
    ("--steps", 10**9, "Steps must be between 1 and 100,000, not 1,000,000,000."),
    ("--steps", 10**30, "Steps must be between 1 and 100,000"),
    ("--a", "nan", "Weight a must be a number between -10 and 10, not nan."),
    ("--a", "1e999", "Weight a must be a number between -10 and 10, not inf."),
    ("--b", "-inf", "Weight b must be a number between -10 and 10, not -inf."),
    ("--step-size", "nan", "Step size must be a number above 0"),
    ("--step-size", 0, "Step size must be a number above 0"),
    ("--step-size", -1, "Step size must be a number above 0"),
    ("--noise", "nan", "Noise must be a number between 0 and 10, not nan."),
    ("--noise", -0.1, "Noise must be a number between 0 and 10"),
    ("--radius", "nan", "Radius must be a number above 0"),
    ("--radius", "inf", "Radius must be a number above 0"),
    ("--radius", "-8/255", "Radius must be a number above 0"),
    ("--radius", "0", "Radius must be a number above 0"),
    ("--random-start", None, "A random start needs a ball: give a radius."),
    ("--seed", -1, "A seed must be between 0 and"),
    ("--seed", 2**64, "A seed must be between 0 and"),
    ("--chains", 0, "Chains must be between 1 and 1,024, not 0."),
    ("--chains", -1, "Chains must be between 1 and 1,024, not -1."),
    ("--chains", 10**9, "Chains must be between 1 and 1,024, not 1,000,000,000."),
    (
        "--formats",
        "tiff",
        "There is no format tiff: choose from png, sheet, apng, webp, webp-lossy, gif, mp4, ffv1, vp9, csv, svg, plot.",
    ),
    ("--formats", "", "There is no format"),
    ("--every", 0, "must be 1 or more, not 0."),
    ("--scale", 0, "The scale must be between 1 and 64, not 0."),
    ("--scale", 10**6, "The scale must be between 1 and 64"),
    ("--fps", "nan", "Frames per second must be a number between 0.1 and 120, not nan."),
    ("--fps", 0, "Frames per second must be a number between 0.1 and 120"),
]


@pytest.mark.parametrize(("option", "value", "says"), NUMBERS)
def test_a_bad_value_is_one_line(net: Path, out: Path, option: str, value: object, says: str) -> None:
    given = [option] if value is None else [option, value]
    target = [] if option == "--target" else ["--target", "dog"]
    said = refused(run("morph", CAT, *target, "--checkpoint", net, *given, "--out", out))
    assert says in said
    assert not out.exists()


def test_nothing_to_start_from_or_to_go_to_is_one_line(net: Path, out: Path) -> None:
    assert "TA needs a target: choose" in refused(run("morph", CAT, "--checkpoint", net, "--out", out))
    assert "There is no image to start from" in refused(
        run("morph", "--start", "image", "--target", "dog", "--checkpoint", net, "--out", out)
    )
    assert "There are no class Gaussians for the classes of this model" in refused(
        run("morph", "--start", "gaussian", "--target", "dog", "--checkpoint", net, "--out", out)
    )
    assert not out.exists()


def test_a_device_that_is_not_there_is_one_line(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "has no CUDA device" in refused(run("demo", "--device", "cuda", "--out", out))


def test_an_output_folder_that_is_no_place_to_write_is_one_line_before_any_work(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "play", lambda *_: pytest.fail("the run began"))
    (tmp_path / "file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").write_text("kept")
    places = {
        tmp_path / "file": "is a file, not a folder",
        tmp_path / "file" / "below": "is a file, not a folder",
        tmp_path / "full": "is not empty and was not made by CEM Explorer",
        tmp_path / ("x" * 300): "is too long",
    }
    for place, says in places.items():
        assert says in refused(run("morph", CAT, "--target", "dog", "--checkpoint", net, "--out", place))
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "holiday.jpg").read_text() == "kept"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_read_only_output_folder_is_one_line(net: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    said = refused(run("morph", CAT, "--target", "dog", "--checkpoint", net, "--out", tmp_path / "out"))
    assert "cannot be written to" in said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that even root cannot write to")
def test_an_output_folder_that_nobody_can_write_to_is_one_line(net: Path) -> None:
    said = refused(run("morph", CAT, "--target", "dog", "--checkpoint", net, "--steps", 1, "--out", "/proc/out"))
    assert "/proc" in said


def test_a_run_that_fails_at_once_is_one_line_and_no_files(tmp_path: Path, out: Path) -> None:
    path = tiny.saved(tmp_path / "nan.safetensors", tiny.weights() | {"linear.bias": torch.full((3,), torch.nan)})
    said = refused(run("morph", CAT, "--target", "dog", "--checkpoint", path, "--out", out))
    assert "E(x) of chain 1 is nan at its start" in said
    assert not out.exists()


def test_a_run_that_fails_later_is_exported_as_far_as_it_went(
    net: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner._broken
    broken = RunEnd("", "failed", "It broke.", (0,))
    monkeypatch.setattr(runner, "_broken", lambda step: broken if step.index == 2 else whole(step))
    result = run("morph", CAT, "--target", "dog", "--checkpoint", net, "--steps", 9, "--formats", "png", "--out", out)
    assert refused(result) == "Error: It broke."
    assert len(list(out.rglob("step-*.png"))) == 2
    assert record(out)["end"] == {"run": "", "reason": "failed", "detail": "It broke.", "diverged": [0]}


def test_a_disk_too_full_for_older_steps_is_one_line_and_the_rest_is_exported(
    net: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = session.Session.append

    def full(self: session.Session, step: Step) -> None:
        if step.index == 3:
            raise OSError(28, "No space left on device")
        append(self, step)

    monkeypatch.setattr(session.Session, "append", full)
    result = run("morph", CAT, "--target", "dog", "--checkpoint", net, "--steps", 9, "--formats", "png", "--out", out)
    assert "Older steps could not be kept on disk (No space left on device)" in refused(result)
    assert len(list(out.rglob("step-*.png"))) == 3


def test_bad_fits_are_one_line(class_folders: Path, tmp_path: Path) -> None:
    def fit(*options: object) -> Result:
        return run("fit-starts", class_folders, "--rank", 1, "--size", 8, "--out", tmp_path / "made", *options)

    assert "There is no folder or archive" in refused(
        run("fit-starts", tmp_path / "nowhere", "--out", tmp_path / "made")
    )
    for rank in (0, -1, 193, 10**9):
        assert "The rank must be between 1 and 192" in refused(fit("--rank", rank))
    for size in (0, -1, 65, 10**9):
        assert "Size must be between 1 and 64" in refused(fit("--size", size))
    assert "has 2 images: a covariance of rank 2 needs more" in refused(fit("--rank", 2))
    assert "cannot be written" in refused(fit("--out", tmp_path / "nowhere" / "made"))
    assert not (tmp_path / "made").exists()


# Wrong usage: exit code 2 -----------------------------------------------------------------------------------------

WRONG: list[tuple[list[object], str]] = [
    (["no-such-command"], "No such command"),
    (["morph", CAT, "--target", "dog"], "Missing option '--out'"),
    (["morph", CAT, "--out", "x", "--no-such-option"], "No such option"),
    (["morph", CAT, "--out", "x", "--steps", "many"], "is not a valid integer"),
    (["morph", CAT, "--out", "x", "--steps", "1.5"], "is not a valid integer"),
    (["morph", CAT, "--out", "x", "--a", "one"], "is not a valid float"),
    (["morph", CAT, "--out", "x", "--norm", "l3"], "is not one of 'l2', 'linf'"),
    (["morph", CAT, "--out", "x", "--start", "video"], "is not one of"),
    (["morph", CAT, "--out", "x", "--device", "tpu"], "is not one of"),
    (["morph", CAT, "--out", "x", "--target", "dog", "--radius", "wide"], "'wide' is not a number"),
    (["morph", CAT, "--out", "x", "--target", "dog", "--radius", "1/0"], "'1/0' is not a number"),
    (["morph", CAT, "--out", "x", "--start", "noise"], "IMAGES and --start noise exclude each other"),
    (["demo"], "Missing option '--out'"),
    (["demo", "extra", "--out", "x"], "unexpected extra argument"),
    (["probe", "--data", "x"], "Missing option '--checkpoint'"),
    (["probe", "--checkpoint", "cifar10-standard", "--data", "x", "--eps", "0,,1"], "'' is not a number"),
    (["fit-starts", "--out", "x"], "Missing argument"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=lambda value: " ".join(map(str, value))[-40:])
def test_wrong_usage_is_exit_code_2(arguments: list[object], says: str) -> None:
    assert says in misused(run(*arguments))


def test_help_names_every_command() -> None:
    output = ran("--help").stdout
    for command in ("morph", "demo", "models", "probe", "fit-starts"):
        assert command in output
        assert ran(command, "--help").stdout.startswith("Usage: ")


# In a process of its own ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals here")
def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left(net: Path, out: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cem_core.cli", "morph", CAT, "--target", "dog", "--checkpoint", net, "--steps",
               "20", "--formats", "csv", "--out", out]  # fmt: skip
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(list(map(str, command)), stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert process.returncode == 0, text
    assert re.search(r"sampling \S+ 20/20 \d+\.\d/s \d:\d\d:\d\d", text)
    assert "exporting " in text
    assert f"Exported to {out}: chains 1, steps 20" in text.replace("\r\n", "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so when the other end is closed
        return b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
def test_output_that_finds_no_room_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        said = subprocess.run([sys.executable, "-m", "cem_core.cli", "models"], stdout=full, stderr=-1, text=True)
    assert (said.returncode, said.stderr) == (1, "Error: There is no room for what is written: make some.\n")
