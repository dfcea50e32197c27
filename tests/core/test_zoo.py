"""RobustBench's list, read from a package that only looks like it, and files that a made-up downloader brings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from cem_core import checkpoints, zoo
from cem_core.checkpoints import Cancelled
from cem_core.messages import Refused

HEAD = """
from collections import OrderedDict
import nothing_of_this_name
raise RuntimeError("this file was run")
"""
LISTS = {
    "cifar10": HEAD
    + """
from robustbench.model_zoo.enums import ThreatModel
linf = OrderedDict([
    ('Andriushchenko2020Understanding', {
        'model': lambda: PreActResNet(PreActBlock, [2, 2, 2, 2]),
        'gdrive_id': 'id-1',
    }),
    ('Chen2020Adversarial', {'model': Chen2020AdversarialNet, 'gdrive_id': ['id-a', 'id-b', 'id-c']}),
    ('Debenedetti2022Light_XCiT-S12', {'model': (lambda: timm.create_model('x')), 'gdrive_id': None}),
    ('Standard_R50', {'model': lambda: normalize_model(resnet50(), mu, sigma), 'gdrive_id': ''}),
    ('Tuple', {'model': lambda: Net(mean=(0.5, 0.5), std=('a', 'b')), 'gdrive_id': "id-2"}),
    ('Without', {'model': Net}),
    (NAME, {'model': Net, 'gdrive_id': 'id-computed'}),
    ('Computed', {'model': Net, 'gdrive_id': ID}),
    ('Options', dict(model=Net, gdrive_id='id-call')),
    ('Unpacked', {**COMMON, 'gdrive_id': 'id-3'}),
])
l2 = OrderedDict([('Andriushchenko2020Understanding', {'gdrive_id': 'id-4', 'model': Net})])
common_corruptions = OrderedDict([('Hendrycks2020AugMix_WRN', {'model': Net, 'gdrive_id': 'id-5'})])
cifar_10_models = OrderedDict([(ThreatModel.Linf, linf), (ThreatModel.L2, l2)])
other, more = [('Other', {'gdrive_id': 'id-other'})], 1
settings: dict = {}
""",
    "cifar100": HEAD + "linf = OrderedDict([])\n",
    "imagenet": HEAD
    + "linf = OrderedDict([('Salman2020Do_R18', {'model': Net, 'gdrive_id': 'id-6', 'preprocessing': 'Crop'})])\n",
}
FOUND = [
    ("cifar10", "Linf", "Andriushchenko2020Understanding", "id-1"),
    ("cifar10", "Linf", "Tuple", "id-2"),
    ("cifar10", "Linf", "Unpacked", "id-3"),
    ("cifar10", "L2", "Andriushchenko2020Understanding", "id-4"),
    ("cifar10", "corruptions", "Hendrycks2020AugMix_WRN", "id-5"),
    ("imagenet", "Linf", "Salman2020Do_R18", "id-6"),
]
DOWNLOADER = """
class exceptions:
    class FileURLRetrievalError(Exception): ...
    class FolderContentsMaximumLimitError(Exception): ...

asked, bring = [], lambda output: output.write(b"")

def download(*, id, output, quiet):
    asked.append((id, quiet))
    return bring(output)
"""


@pytest.fixture
def robustbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of its lists; the package, and one that downloads, can be found but must not be run."""
    folder = tmp_path / "site" / "robustbench" / "model_zoo"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text('raise RuntimeError("robustbench was imported")')
    for name, text in LISTS.items():
        (folder / f"{name}.py").write_text(text)
    (tmp_path / "site" / "gdown.py").write_text(DOWNLOADER)
    for name in ("robustbench", "gdown"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(zoo, "user_data_path", lambda name: tmp_path / "data" / name)
    yield folder
    assert "robustbench" not in sys.modules
    sys.modules.pop("gdown", None)


@pytest.fixture
def gdown(robustbench: Path) -> Any:
    import gdown

    return gdown


ENTRY = zoo.Entry("cifar10", "Linf", "Andriushchenko2020Understanding", "id-1")


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "data").rglob("*") if path.is_file())


# The list ---------------------------------------------------------------------------------------------------------


def test_the_list_is_read_and_never_run(robustbench: Path) -> None:
    assert zoo.installed()
    assert [(e.dataset, e.threat, e.name, e.drive) for e in zoo.entries()] == FOUND
    assert not {"robustbench", "gdown", "nothing_of_this_name"} & sys.modules.keys()


def test_an_entry_knows_its_place(robustbench: Path, tmp_path: Path) -> None:
    first = zoo.entries()[0]
    assert first == ENTRY
    assert first.path == tmp_path / "data/cem-explorer/robustbench/cifar10/Linf/Andriushchenko2020Understanding.pt"
    assert not first.downloaded
    assert len({entry.path for entry in zoo.entries()}) == len(FOUND), "no two share a file"


BROKEN = {
    "no Python": ("cifar10.py", "this is (no Python"),
    "zeros": ("cifar10.py", "x = 1\0"),
    "no text": ("imagenet.py", b"\xff\xfe\xfd"),
    "missing": ("cifar100.py", None),
}


@pytest.mark.parametrize(("name", "text"), BROKEN.values(), ids=BROKEN)
def test_a_list_that_cannot_be_read_is_a_sentence(robustbench: Path, name: str, text: str | bytes | None) -> None:
    path = robustbench / name
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Refused, match=r"^RobustBench's list cannot be read \(.+\): install another version of it\.$"):
        zoo.entries()


@pytest.mark.parametrize("missing", ["the package", "its list"])
def test_without_the_package_it_is_said_how_to_install_it(
    missing: str, robustbench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "the package":
        monkeypatch.setattr(zoo, "find_spec", lambda _: None)
    else:
        robustbench.rename(robustbench.with_name("elsewhere"))
    assert not zoo.installed()
    with pytest.raises(Refused) as refused:
        zoo.entries()
    assert str(refused.value) == zoo.HOW_TO_INSTALL
    assert "pip install 'cem-explorer[robustbench]'" in zoo.HOW_TO_INSTALL


def test_without_a_downloader_the_list_is_there_and_the_files_are_not(
    robustbench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = zoo.find_spec
    monkeypatch.setattr(zoo, "find_spec", lambda name: None if name == "gdown" else find(name))
    assert not zoo.installed()
    assert len(zoo.entries()) == len(FOUND)
    with pytest.raises(Refused, match="RobustBench is not installed"):
        zoo.fetch(ENTRY)
    assert left(tmp_path) == []


# Files ------------------------------------------------------------------------------------------------------------


def test_a_file_comes_beside_its_place_and_is_renamed(gdown: Any, tmp_path: Path) -> None:
    seen: list[tuple[list[str], float]] = []

    def bring(output: Any) -> None:
        torch.save(tiny.weights(), output)
        assert output.tell() > 0

    gdown.bring = bring
    path = zoo.fetch(ENTRY, lambda share: seen.append((left(tmp_path), share)))
    assert path == ENTRY.path
    assert ENTRY.downloaded
    assert left(tmp_path) == [path.name]
    assert gdown.asked == [("id-1", True)]
    assert seen
    assert all(share == 0 for _, share in seen)
    assert all(len(names) == 1 and names[0].endswith(".partial") for names, _ in seen), "not at its place before"
    report = checkpoints.inspect(str(path))
    normalisation = report.fact("normalisation")
    assert normalisation is not None
    assert (normalisation.value, normalisation.source) == ("none", "name")


def test_a_file_that_is_there_is_not_fetched_again(gdown: Any) -> None:
    gdown.bring = lambda output: output.write(b"weights")
    assert zoo.fetch(ENTRY) == zoo.fetch(ENTRY)
    assert ENTRY.path.read_bytes() == b"weights"
    assert len(gdown.asked) == 1


def failing(error: BaseException) -> Any:
    def bring(output: Any) -> None:
        output.write(b"the beginning")
        raise error

    return bring


def test_failures_are_a_sentence_and_leave_nothing(gdown: Any, tmp_path: Path) -> None:
    cases = [
        (failing(ConnectionError("no route\nand a traceback")), "(no route): look after the connection."),
        (failing(ConnectionResetError(104, "reset")), "look after the connection."),
        (failing(OSError()), "(OSError): look after the connection."),
        (failing(TimeoutError("x" * 1000)), "look after the connection."),
        (failing(OSError(28, "No space left on device")), "cannot be written (No space left on device): make room"),
        (failing(gdown.exceptions.FileURLRetrievalError("quota")), "Google Drive does not hand it out now."),
        (failing(gdown.exceptions.FolderContentsMaximumLimitError("50")), "Google Drive does not hand it out now."),
        (lambda _: None, "Google Drive may ask to wait when a file is much in demand."),
    ]  # fmt: skip
    for bring, says in cases:
        gdown.bring = bring
        with pytest.raises(Refused) as refused:
            zoo.fetch(ENTRY)
        assert says in str(refused.value)
        assert ENTRY.name in str(refused.value)
        assert len(str(refused.value)) < 400
        assert "\n" not in str(refused.value)
        assert left(tmp_path) == []
        assert not ENTRY.downloaded
    gdown.bring = lambda output: output.write(b"weights")
    assert zoo.fetch(ENTRY).read_bytes() == b"weights", "and the next time it works"


@pytest.mark.parametrize(
    "error", [Cancelled(), KeyboardInterrupt(), RuntimeError("a bug")], ids=lambda e: type(e).__name__
)
def test_whatever_ends_a_download_leaves_nothing(error: BaseException, gdown: Any, tmp_path: Path) -> None:
    def watch(share: float) -> None:
        raise error

    gdown.bring = lambda output: output.write(b"weights")
    with pytest.raises(type(error)):
        zoo.fetch(ENTRY, watch)
    assert left(tmp_path) == []


def test_a_place_that_cannot_be_written_is_a_sentence(gdown: Any, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    gdown.bring = lambda _: pytest.fail("it was asked for")
    with pytest.raises(Refused, match="cannot be written"):
        zoo.fetch(ENTRY)
