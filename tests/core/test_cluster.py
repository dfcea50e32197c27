from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import deeds
import pytest
import tiny
from click.testing import CliRunner
from deeds import Answer, Deeds
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cem_core import bundle, cli, cluster
from cem_core.cluster import LOCAL, Where, running, shares, spread
from cem_core.messages import Refused
from cem_core.probes.measuring import Cancelled, measure
from cem_core.probes.report import JOURNAL
from cem_core.probes.requests import Accuracy, Attack, Data, Subject
from cem_core.probes.results import Cell, Lights, Opening

CHECKOUT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("ray")  # it takes seconds to start, and all cores meanwhile
LOCALLY = Where(LOCAL, 2)


@pytest.fixture(scope="module")
def workers() -> Iterator[Where]:
    """Two of them, for all tests that ask."""
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    with running(LOCALLY):
        yield LOCALLY


def items_of(answers: Iterator[Answer]) -> list[int]:
    return sorted(answer.item for answer in answers)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (CHECKOUT, Path(deeds.__file__).parent)))}


# In this process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [None, Where(), Where("", 1)], ids=str)
def test_in_this_process_answers_come_in_order_and_all(tmp_path: Path, where: Where | None) -> None:
    own = os.getpid()
    assert list(spread(Deeds(str(tmp_path)), (3, 1), where)) == [
        "item 3 began", Answer(3, own, threads=os.environ["OMP_NUM_THREADS"], heavy="torch" in sys.modules),
        "item 1 began", Answer(1, own, threads=os.environ["OMP_NUM_THREADS"], heavy="torch" in sys.modules),
    ]  # fmt: skip
    with pytest.raises(Refused, match="Item 3 cannot be done"):
        list(spread(Deeds(str(tmp_path), refuses=(3,)), (3, 1), where))
    with pytest.raises(Refused, match="There is no such file"):
        list(spread(Deeds(str(tmp_path), opens=False), (3, 1), where))


def test_ray_is_not_imported_unless_somebody_asks_for_it(tmp_path: Path) -> None:
    code = (
        "import deeds, sys\nfrom cem_core import cluster\nwith cluster.running(cluster.Where()):\n"
        "    assert list(cluster.spread(deeds.Deeds(sys.argv[1]), range(3)))\n"
        "assert not {'ray', 'torch'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], env=environment(),
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_ray_it_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Refused, match=r'pip install "cem-explorer\[cluster\]"'):
        next(spread(Deeds(str(tmp_path)), (1,), LOCALLY))
    assert not list(spread(Deeds(str(tmp_path)), (), LOCALLY)), "nobody is needed for nothing"


# Who gets what ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machines", "wanted", "most", "found"),
    [
        ([(8, 0)], None, 99, (4, 2, 0)),
        ([(1, 0)], None, 99, (1, 1, 0)),
        ([(8, 0)], 3, 99, (3, 2, 0)),
        ([(8, 0)], 3, 1, (1, 8, 0)),
        ([(6, 0), (6, 0)], 3, 99, (3, 3, 0)),  # four each would leave two and two for the third
        ([(4, 0), (64, 8)], None, 99, (8, 8, 1)),
        ([(4, 0), (64, 8)], 4, 99, (4, 8, 1)),
        ([(16, 4), (16, 4)], 16, 99, (16, 2, 0.5)),
        ([(2, 1), (2, 1)], 3, 99, (3, 1, 0.5)),
        ([(8, 8)] * 125, 1000, 10**6, (1000, 1, 1)),
    ],
)
def test_shares_are_equal(machines: list[tuple[int, int]], wanted: int | None, most: int, found: object) -> None:
    assert shares(machines, wanted, most) == found


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=6), st.integers(1, 300))
def test_all_shares_fit_at_once(machines: list[tuple[int, int]], wanted: int) -> None:
    """None waits for ever for what is not there, and with one GPU each none is idle that was asked for."""
    cores, gpus = (sum(of) for of in zip(*machines, strict=True))
    if not gpus and wanted > cores:
        with pytest.raises(Refused, match=f"ask for at most {cores}"):
            shares(machines, wanted, 10**6)
        return
    share = shares(machines, wanted, 10**6)
    assert share.workers == wanted
    if gpus:
        assert sum(g * round(1 / share.gpus) for _, g in machines) >= wanted
        assert all(share.cores * g * round(1 / share.gpus) <= c for c, g in machines if g)
    else:
        assert sum(c // share.cores for c, _ in machines) >= wanted


@pytest.mark.parametrize(
    ("address", "workers", "says"),
    [
        ("", 2, "Several workers need Ray"),
        (LOCAL, 0, "between 1 and 10,000, not 0"),
        (LOCAL, 10_001, "between 1 and 10,000, not 10,001"),
        ("ray://head:10001", None, "is of Ray's client"),
        ("head", None, "is no address"),
        ("head:port", None, "is no address"),
        ("head:6379/x", None, "is no address"),
    ],
)
def test_who_cannot_be_meant_is_refused(address: str, workers: int | None, says: str) -> None:
    with pytest.raises(Refused, match=says):
        Where(address, workers)


# Clusters that are none -------------------------------------------------------------------------------------------


def test_an_address_where_nobody_listens_is_one_line() -> None:
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Refused, match=f"No Ray cluster answers at {address}: check the address"):
        cluster._check_answers(address)
    with pytest.raises(Refused, match=r"No Ray cluster answers at no\.such\.host\.invalid:6379"):
        cluster._check_answers("no.such.host.invalid:6379")


def test_something_else_that_listens_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    monkeypatch.setattr(cluster, "ANSWERS_IN", 5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(Refused, match="No Ray cluster answers at 127"):
            cluster._check_answers(f"127.0.0.1:{other.getsockname()[1]}")
        assert select.select([other], [], [], 0)[0], "it was asked"


# On Ray -----------------------------------------------------------------------------------------------------------


def test_each_item_is_done_once_by_others(workers: Where, tmp_path: Path) -> None:
    found: list[Answer] = list(spread(Deeds(str(tmp_path)), range(50), workers))
    assert items_of(iter(found)) == list(range(50))
    assert {answer.tries for answer in found} == {1}
    assert os.getpid() not in {answer.process for answer in found}
    share = max(1, cluster._cores() // 2)
    assert {(answer.threads, answer.heavy) for answer in found} == {(str(share), False)}


def test_every_answer_comes_if_asked_for(workers: Where, tmp_path: Path) -> None:
    found = list(spread(Deeds(str(tmp_path)), range(9), workers, every=True))
    assert all(told == f"item {answer.item} began" for told, answer in zip(found[::2], found[1::2], strict=True))
    assert items_of(found[1::2]) == list(range(9))


def test_what_a_worker_refuses_is_refused_here_and_not_tried_again(workers: Where, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"^Item 5 cannot be done: leave it out\.$"):
        list(spread(Deeds(str(tmp_path), refuses=(5,)), range(20), workers))
    assert (tmp_path / "5").stat().st_size == 10, "tried once"
    with pytest.raises(Refused, match=r"^There is no such file: choose another\.$"):
        list(spread(Deeds(str(tmp_path), opens=False), range(20), workers))


def test_what_nobody_expected_is_a_line_here_and_a_traceback_in_the_log(
    workers: Where, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Refused, match=r"^Item 6 failed on a worker: ZeroDivisionError: item 6 is odd$"):
        list(spread(Deeds(str(tmp_path), breaks=(6,)), range(20), workers))
    assert 'raise ZeroDivisionError(f"item {item}' in caplog.text


def test_workers_of_another_version_are_refused_with_both(
    workers: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = cluster.versions()
    monkeypatch.setattr(cluster, "versions", lambda: theirs | {"cem-explorer": "9.9"})
    with pytest.raises(Refused, match=f"has cem-explorer {theirs['cem-explorer']}, and here it is 9.9: install"):
        list(spread(Deeds(str(tmp_path)), range(20), workers))
    assert not list(tmp_path.iterdir()), "nothing was done"


def test_workers_killed_at_random_lose_and_double_nothing(
    workers: Where, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ten times, whoever answered last or somebody else, whatever they were doing."""
    chance, living, killed = random.Random(7), dict[int, None](), 0
    found: list[Answer] = []
    for answer in spread(Deeds(str(tmp_path)), range(120), workers):
        found.append(answer)
        living[answer.process] = None
        if killed < 10 and len(found) % 8 == 0:
            victim = chance.choice([answer.process, *list(living)[-2:]])
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                victim = answer.process
                os.kill(victim, signal.SIGKILL)
            del living[victim]
            killed += 1
    assert killed == 10
    assert items_of(iter(found)) == list(range(120))
    assert capfd.readouterr() == ("", ""), "what Ray says of it goes to the log"


def test_an_item_at_which_workers_die_is_done_by_the_next(workers: Where, tmp_path: Path) -> None:
    found: list[Answer] = list(spread(Deeds(str(tmp_path), dies=(3,), times=2), range(12), workers))
    assert items_of(iter(found)) == list(range(12))
    assert next(answer.tries for answer in found if answer.item == 3) == 3


def test_an_item_at_which_workers_die_again_and_again_is_named(
    workers: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "DEATHS", 2)
    with pytest.raises(Refused, match="2 workers died at item 4: it may need more memory"):
        list(spread(Deeds(str(tmp_path), dies=(4,)), (4,), workers))
    assert (tmp_path / "4").stat().st_size == 2 * 10


def ended(process: int) -> bool:
    """Whether it is gone, or goes within a minute."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 60)[0])
    finally:
        os.close(descriptor)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no way to wait for the processes of others")
def test_a_stream_that_is_closed_or_cancelled_stops_its_workers(workers: Where, tmp_path: Path) -> None:
    answers = spread(Deeds(str(tmp_path), waits=(5, 6)), range(20), workers)
    process = next(answers).process
    answers.close()  # type: ignore[attr-defined]
    assert ended(process)

    left = iter(range(20))
    answers = spread(Deeds(str(tmp_path), waits=(5, 6)), range(20), workers, go_on=lambda: next(left, None) is not None)
    process = next(answers).process
    with pytest.raises(Cancelled):
        list(answers)
    assert ended(process)


# Probes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> Accuracy:
    """Two models, three radii, the bundled images in two ranges, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(12):
        path = bundle.samples()[number % len(bundle.samples())]
        label = folder / tiny.CLASSES[number % 3]
        label.mkdir(exist_ok=True)
        (label / f"{number:02}.jpg").write_bytes(path.read_bytes() if number else b"no image")
    nets = tuple(tiny.saved(folder / f"{seed}.safetensors", tiny.weights(seed)) for seed in (0, 1))
    subjects = tuple(Subject(str(net), device="cpu") for net in nets)
    return Accuracy(subjects, Data(str(folder)), Attack(steps=3, restarts=2), (0, 0.5, 2), 5)


def without_seconds(answers: Iterator[object]) -> list[str]:
    return sorted(str(replace(answer, seconds=0.0) if isinstance(answer, Cell) else answer) for answer in answers)


def test_probes_are_the_same_to_the_last_cell(workers: Where, request_: Accuracy) -> None:
    here, there = list(measure(request_)), list(measure(request_, where=workers))
    assert len({cell.correct for cell in here if isinstance(cell, Cell)}) > 3
    assert sum(isinstance(answer, Lights) for answer in there) == 2
    assert isinstance(there[0], Opening)
    assert without_seconds(iter(there)) == without_seconds(iter(here))


def test_what_is_in_the_journal_is_not_measured_by_workers_either(
    workers: Where, request_: Accuracy, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    half = measure(request_, journal=journal)
    before = [next(half) for _ in range(7)]
    half.close()  # type: ignore[attr-defined]
    kept = journal.read_bytes()
    there = list(measure(request_, journal=journal, where=workers))
    assert journal.read_bytes().startswith(kept)
    assert len(journal.read_bytes().splitlines()) == 2 * 3 * 3, "models, radii, ranges"
    cells = [answer for answer in before if isinstance(answer, Cell)]
    assert cells
    assert all(cell in there for cell in cells), "with the seconds that they took"
    assert sorted(map(str, measure(request_, journal=journal))) == sorted(map(str, there))


def test_the_command_does_the_same(workers: Where, request_: Accuracy, tmp_path: Path) -> None:
    asked = ["probe", "--data", request_.data.path, "--eps", "0,0.5,2", "--batch", "5", "--steps", "3", "--json"]
    for subject in request_.subjects:
        asked += ["--checkpoint", subject.reference]
    here = CliRunner().invoke(cli.main, asked)
    there = CliRunner().invoke(cli.main, [*asked, "--ray", "local", "--workers", "2", "--out", str(tmp_path)])
    assert (here.exit_code, there.exit_code, there.stderr) == (0, 0, "")
    assert json.loads(there.stdout) == json.loads(here.stdout)
    assert len((tmp_path / JOURNAL).read_bytes().splitlines()) == 2 * 3 * 3, "models, radii, ranges"


# Whole programs ---------------------------------------------------------------------------------------------------

WAITING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what is run in the background may be kept from it
from contextlib import closing
from cem_core.cluster import Where, spread
from cem_core.cli import main
import click, deeds

@main.command()
@click.argument("folder")
@click.argument("address")
def wait(folder, address):
    with closing(spread(deeds.Deeds(folder, waits=(8, 9)), range(10), Where(address, 2))) as answers:
        for number, answer in enumerate(answers, 1):
            print(number, flush=True)

main()
"""


def descendants(process: int) -> set[int]:
    found = {
        int(child)
        for task in Path(f"/proc/{process}/task").iterdir()
        for child in (task / "children").read_text().split()
    }
    return found.union(*map(descendants, found))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_ctrl_c_ends_all_and_leaves_no_process(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, "wait", str(tmp_path), LOCAL], env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        while (line := running.stdout.readline()) != "8\n":
            assert line, running.stderr and running.stderr.read()
        begun = descendants(running.pid)
        assert len(begun) >= 4, "two workers, and what Ray needs"
        os.killpg(running.pid, signal.SIGINT)  # as a terminal sends it: to all of them
        rest, said = running.communicate(timeout=120)
    assert running.returncode == 1
    assert (rest, said.strip()) == ("", "Aborted!")
    assert all(ended(process) for process in begun)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_a_cluster_that_was_there_before_is_joined_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "5e" * 32)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address", "127.0.0.1", "--port",
            str(port), "--num-cpus", "2", "--num-gpus", "0", "--include-dashboard", "false",
            "--object-store-memory", str(100 * 2**20), "--disable-usage-stats", "--block"]  # fmt: skip
    with subprocess.Popen(
        head, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as running:
        try:
            assert running.stdout is not None
            while "--block" not in (line := running.stdout.readline()):
                assert line, "it ended"
            begun = descendants(running.pid)
            code = (
                "import deeds, sys\nfrom cem_core.cluster import Where, spread\n"
                f"print([a.item for a in spread(deeds.Deeds({str(tmp_path)!r}), [7], Where(sys.argv[1]))])\n"
                "from cem_core.cluster import _import_ray; assert not _import_ray().is_initialized()"
            )
            done = subprocess.run([sys.executable, "-c", code, f"127.0.0.1:{port}"], env=environment(),
                                  capture_output=True, text=True, timeout=120)  # fmt: skip
            assert (done.returncode, done.stdout) == (0, "[7]\n"), done.stderr
            cluster._check_answers(f"127.0.0.1:{port}")  # it is still there
            monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
            with pytest.raises(Refused, match=f"The Ray cluster at 127.0.0.1:{port} wants its token"):
                cluster._check_answers(f"127.0.0.1:{port}")
        finally:
            running.terminate()
            running.communicate(timeout=60)
    assert all(ended(process) for process in begun)
