"""Work in items, spread over nobody, over processes of this machine, or over a Ray cluster. No torch; Ray when asked.

A `Work` is made once for each worker, from a message, and does one item at a time. What it does must not depend on
who does it or when, so that an item may be done again after a worker died. Ray starts the workers and starts those
again that died; which items are left is known here.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from cem_core import __version__
from cem_core.messages import Refused
from cem_core.probes.measuring import Cancelled, GoOn

LOCAL = "local"
MAX_WORKERS = 10_000
ANSWERS_IN: Final = 10
"""Seconds in which a cluster must answer."""
COMES_UP_IN: Final = 300
"""Seconds in which the first worker must have come up."""
DEATHS: Final = 5
"""So many workers die at an item, and it is given up."""
_HELD: Final = 2
"""Items that a worker has, the one that it does among them: so it never waits for the next."""
_ASKED_EVERY: Final = 0.5
"""Seconds between two questions whether to go on."""
_OBJECTS: Final = 256 * 2**20
"""Bytes of memory for answers on their way, on this machine: they are small, and Ray would take a third of all."""

_log = logging.getLogger(__name__)
_nowhere = logging.NullHandler()
"""So that what Ray logs goes to those who listen, and not to the terminal if nobody does."""


class Where(msgspec.Struct, frozen=True):
    """Who works.

    Raises:
        Refused: the address is none, the number of workers is out of range, or several are wanted without Ray.
    """

    address: str = ""
    """Empty: this process; "local": processes of this machine; else a Ray cluster, as host:port, or auto for the one
    that this machine belongs to."""
    workers: int | None = None
    """None: one for each GPU; where there is none, one for two cores."""

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= MAX_WORKERS:
            raise Refused(f"Workers must be between 1 and {MAX_WORKERS:,}, not {self.workers:,}.")
        if not self.address and (self.workers or 1) > 1:
            raise Refused("Several workers need Ray: say --ray local, or --ray ADDRESS of a cluster.")
        if "://" in self.address:
            raise Refused(f"{self.address} is of Ray's client, which is not used here: run this on a machine of the "
                          "cluster, with the host:port of ray start --head, or auto.")  # fmt: skip
        if self.address not in ("", LOCAL, "auto") and not re.fullmatch(r"[^\s/]+:\d{1,5}", self.address):
            raise Refused(f"{self.address} is no address of a Ray cluster: say host:port, auto or local.")


class Work(Protocol):
    """What a worker does, again and again."""

    def do(self, item: int) -> Iterator[Any]:
        """The answers to one item, as they come; the last says that it is done."""


class Opens(Protocol):
    """How a worker gets its work: a message that can be sent, and knows how to begin. Raises Refused."""

    def open(self) -> Work: ...


def spread(
    opens: Opens,
    items: Iterable[int],
    where: Where | None = None,
    *,
    every: bool = False,
    go_on: GoOn = lambda: True,
) -> Iterator[Any]:
    """The answers of all items: in this process in their order, elsewhere as they come, each item once.

    A generator that is closed early stops its workers.

    Args:
        every: from elsewhere all answers to an item travel, together when it is done; else only the last one.
        go_on: asked twice a second while others work; in this process the work itself asks.

    Raises:
        Refused: what the work refuses, or it fails on a worker; or the cluster does not answer, has another version,
            or Ray is not installed.
        Cancelled: `go_on` said so.
    """
    if where is None or not where.address:
        work = opens.open()
        for item in items:
            yield from work.do(item)
    elif left := list(items):
        with running(where):
            yield from _Employer(_import_ray(), opens, left, where, every).answers(go_on)


@contextmanager
def running(where: Where | None) -> Iterator[None]:
    """Ray, as long as the context lasts: for several `spread`s in a row, which then need not start it each.

    One that is running in this process already is used, and left running.

    Raises:
        Refused: the cluster does not answer, has another version, or Ray is not installed.
    """
    if where is None or not where.address:
        yield
        return
    ray = _import_ray()
    if ray.is_initialized():
        yield
        return
    try:
        _connect(ray, where)
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of processes that have not ended yet
            ray.shutdown()  # ends what was begun here, and only leaves a cluster that was there before


def versions() -> dict[str, str]:
    """Of what decides numbers; found without importing any of it. "+cpu" and the like are left out."""
    return {"cem-explorer": __version__, "torch": metadata.version("torch").partition("+")[0]}


# Ray --------------------------------------------------------------------------------------------------------------

_ASKS: Final = """
import socket, sys
from ray._private.services import canonicalize_bootstrap_address_or_die as found
from ray._raylet import GcsClient
print("imported", flush=True)
address = sys.argv[1]
if address != "auto":
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port))).close()
try:
    GcsClient(address=found(address))
except Exception as error:
    sys.exit(3 if type(error).__name__ == "AuthenticationError" else 1)
"""
"""In a process of its own, as nothing else ends names, sockets and Ray's own patience of a minute in time."""


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_GCS_SERVER_REQUEST_TIMEOUT_SECONDS", str(ANSWERS_IN))  # read once, by the import
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
    except ImportError as error:
        raise Refused('Ray is not installed: pip install "cem-explorer[cluster]".') from error
    return ray


def _connect(ray: Any, where: Where) -> None:
    options: dict[str, Any] = {"address": where.address}
    if where.address == LOCAL:
        options |= {"num_cpus": where.workers or _cores() // 2 or 1, "include_dashboard": False,
                    "object_store_memory": _OBJECTS}  # fmt: skip
    else:
        _check_answers(where.address)
    logging.getLogger("ray._private").addHandler(_nowhere)  # as "ray" loses its handlers here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(**options, configure_logging=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        told = _line(error.__cause__ or error)
        if where.address == LOCAL:
            raise Refused(f"Ray could not be started on this machine: {told}") from error
        if "version mismatch" in told.lower():
            raise Refused(f"The cluster at {where.address} has other versions: {told}") from error
        raise Refused(f"This machine cannot join the Ray cluster at {where.address}: run ray start --address with it "
                      f"here first, or run this on a machine of the cluster ({told})") from error  # fmt: skip
    logging.getLogger("ray").addHandler(_nowhere)
    with suppress(AttributeError):  # it would print what it has to say of dead workers among our own lines
        ray._private.worker.print_to_stdstream = _to_the_log


def _to_the_log(said: Mapping[str, Any], *_: object, **__: object) -> None:
    _log.info("Ray: %s", " ".join(map(str, said.get("lines", ()))))


def _check_answers(address: str) -> None:
    """Raises Refused unless a Ray cluster answers there in time."""
    with subprocess.Popen([sys.executable, "-c", _ASKS, address], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, start_new_session=True) as asked:  # fmt: skip
        assert asked.stdout is not None
        try:
            asked.stdout.readline()  # the time that it takes to import Ray is not the cluster's
            code = asked.wait(ANSWERS_IN)
        except subprocess.TimeoutExpired:
            code = 1
        finally:
            asked.kill()
    at = "on this machine" if address == "auto" else f"at {address}"
    if code == 3:
        raise Refused(f"The Ray cluster {at} wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless it is "
                      "in ~/.ray/auth_token.")  # fmt: skip
    if code:
        raise Refused(f"No Ray cluster answers {at}: check the address, or start one with ray start --head.")


def _line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Workers ----------------------------------------------------------------------------------------------------------


class Shares(NamedTuple):
    """How many workers, and what each gets."""

    workers: int
    cores: int
    gpus: float


def shares(machines: Sequence[tuple[int, int]], wanted: int | None, most: int) -> Shares:
    """Equal shares of the GPUs, or where there is none, of the cores.

    Args:
        machines: (cores, GPUs) of each.
        wanted: workers; None: as many as suit.
        most: workers that have anything to do.

    Raises:
        Refused: there are fewer cores than workers.
    """
    cores, gpus = (sum(of) for of in zip(*machines, strict=True))
    if gpus:
        workers = min(wanted or gpus, most)
        on_each = -(-workers // gpus)
        return Shares(workers, min(c // (g * on_each) for c, g in machines if g), 1 / on_each)
    workers = min(wanted or max(1, cores // 2), most)
    for share in range(max(c for c, _ in machines), 0, -1):
        if sum(c // share for c, _ in machines) >= workers:  # a share lies on one machine
            return Shares(workers, share, 0)
    raise Refused(f"There are {cores:,} cores and no GPU for {workers:,} workers: ask for at most {max(cores, 1):,}.")


class _Outcome(NamedTuple):
    """What came of an item."""

    answers: tuple[Any, ...] = ()
    refused: str = ""
    failed: str = ""
    """A line of what nobody expected, and"""
    traced: str = ""
    """its traceback."""


class _Worker:
    """What Ray runs: it opens its work with its first item, and keeps it open."""

    def __init__(self, threads: int, path: Sequence[str]) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read with torch, which nothing has imported yet
        sys.path += [folder for folder in path if folder not in sys.path]
        self._work: Work | None = None

    def versions(self) -> tuple[str, dict[str, str]]:
        """The machine, and `versions` there."""
        return platform.node(), versions()

    def do(self, opens: bytes, item: int, every: bool) -> _Outcome:
        try:
            work = self._work = self._work or pickle.loads(opens).open()
            return _Outcome(tuple(deque(work.do(item), None if every else 1)))
        except Refused as refused:
            return _Outcome(refused=str(refused))
        except Exception as error:
            return _Outcome(failed=f"{type(error).__name__}: {_line(error)}", traced=traceback.format_exc())


class _Hired:
    """A worker as it is seen from here."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.items: dict[Any, int] = {}
        """What it has, by what Ray will answer with; it does the first of them."""


class _Employer:
    """Who has which item, and which are left."""

    def __init__(self, ray: Any, opens: Opens, items: Sequence[int], where: Where, every: bool) -> None:
        self._ray, self._every = ray, every
        self._left, self._unanswered = deque(items), len(items)
        self._deaths: Counter[int] = Counter()
        self._waiting: dict[Any, _Hired] = {}
        """By what Ray will answer with, to an item or to a greeting; in the order in which they were given."""
        self._begun, self._came_up = time.monotonic(), False

        local = where.address == LOCAL
        machines = [
            (int(machine["Resources"].get("CPU", 0)), int(machine["Resources"].get("GPU", 0)))
            for machine in ray.nodes()
            if machine["Alive"]
        ]
        if local:  # of cores, Ray was told something else
            machines = [(max(_cores(), where.workers or 1), machines[0][1])]
        share = shares(machines, where.workers, len(items))
        kind = ray.remote(_Worker).options(
            num_cpus=0 if local else share.cores, num_gpus=share.gpus, scheduling_strategy="SPREAD", max_restarts=-1
        )
        path = [folder for folder in sys.path if folder] if local else []
        self._opens = ray.put(pickle.dumps(opens))  # once for each machine, however many workers there are
        self._team = [_Hired(kind.remote(max(1, share.cores), path)) for _ in range(share.workers)]
        for worker in self._team:
            self._greet(worker)

    def answers(self, go_on: GoOn) -> Iterator[Any]:
        try:
            while self._unanswered:
                come = self._ray.wait(list(self._waiting), timeout=_ASKED_EVERY)[0]
                if not go_on():
                    raise Cancelled
                if not come and not self._came_up and time.monotonic() - self._begun > COMES_UP_IN:
                    raise Refused(f"No worker has come up in {COMES_UP_IN // 60} minutes: all cores or GPUs may be "
                                  "taken; wait until some are free, or ask for fewer workers.")  # fmt: skip
                if come:  # and what else has come by now
                    come = self._ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=0)[0]
                for ref in come:
                    yield from self._heard(ref)
        finally:
            for worker in self._team:
                with suppress(Exception):  # the cluster may be gone
                    self._ray.kill(worker.actor)

    def _greet(self, worker: _Hired) -> None:
        """It answers when it has come up, or up again."""
        self._waiting[worker.actor.versions.options(max_task_retries=-1).remote()] = worker

    def _give(self, worker: _Hired) -> None:
        """An item to do, and the next one, unless others would have none then."""
        while self._left and len(worker.items) < (_HELD if len(self._left) > len(self._team) else 1):
            item = self._left.popleft()
            ref = worker.actor.do.remote(self._opens, item, self._every)
            worker.items[ref], self._waiting[ref] = item, worker

    def _heard(self, ref: Any) -> Iterator[Any]:
        worker = self._waiting.pop(ref, None)
        if worker is None:  # it has died meanwhile, and others do its items
            return
        if ref in worker.items:
            try:
                answers = self._told(worker.items[ref], ref)
            except self._ray.exceptions.RayError as error:
                self._bury(worker, error)
                return
            del worker.items[ref]
            self._unanswered -= 1
        else:
            self._check(ref)
            answers = ()
        self._give(worker)
        yield from answers

    def _told(self, item: int, ref: Any) -> tuple[Any, ...]:
        """The answers to an item. Raises Refused, or RayError if the worker has died."""
        try:
            outcome = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:  # answers that cannot be sent
            outcome = _Outcome(failed=_line(error)[-200:], traced=str(error))
        if outcome.refused:
            raise Refused(outcome.refused)
        if outcome.failed:
            _log.error("Item %d failed on a worker:\n%s", item, outcome.traced)
            raise Refused(f"Item {item:,} failed on a worker: {outcome.failed}")
        answers: tuple[Any, ...] = outcome.answers
        return answers

    def _bury(self, worker: _Hired, error: Exception) -> None:
        """Its items are left again; Ray starts it anew."""
        did, *_ = lost = list(worker.items.values())
        _log.warning("A worker died at item %d: %s", did, _line(error))
        self._deaths[did] += 1
        if self._deaths[did] == DEATHS:
            raise Refused(f"{DEATHS} workers died at item {did:,}: it may need more memory than they have; choose a "
                          "smaller batch, or fewer workers.") from error  # fmt: skip
        self._left.extendleft(reversed(lost))
        for ref in worker.items:
            self._waiting.pop(ref, None)
        worker.items.clear()
        self._greet(worker)

    def _check(self, greeting: Any) -> None:
        """Raises Refused if a worker has other versions than this process, or could not begin."""
        try:
            machine, theirs = self._ray.get(greeting)
        except self._ray.exceptions.RayError as error:
            _log.error("A worker did not begin: %s", error)
            raise Refused("A worker could not begin: install the same version of cem-explorer on all machines of the "
                          f"cluster ({_line(error)[:200]})") from error  # fmt: skip
        for name, ours in versions().items():
            if theirs.get(name) != ours:
                raise Refused(f"The worker on {machine} has {name} {theirs.get(name)}, and here it is {ours}: install "
                              "the same version on all machines.")  # fmt: skip
        self._came_up = True
