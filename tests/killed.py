"""Records runs of a tiny model to be killed: a child for each folder that is told on stdin, whose id is told on stderr.

A child says a dot on stdout whenever a step was taken, and its end is a "!". It is forked from here, since loading
torch takes longer than a run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import google_crc32c  # noqa: F401
import numcodecs.blosc  # noqa: F401

from cem_core import runner
from cem_core.messages import Chain, NoiseStart, RunSpec, RunStart, Step
from cem_core.presets import SAMPLERS
from cem_core.session import Session

STEPS = 8


def spec(net: str) -> RunSpec:
    from msgspec.structs import replace

    chains = (Chain(NoiseStart(), 1, 0), Chain(NoiseStart(), 2, 1), Chain(NoiseStart(), 3))
    return RunSpec("a run", net, replace(SAMPLERS["RCS"], steps=STEPS), chains, "cpu")


def record(net: str, folder: Path, told: int) -> None:
    session: Session | None = None
    for message in runner.play(spec(net)):
        if isinstance(message, RunStart):
            session = Session.record(folder, message)
        elif isinstance(message, Step):
            assert session is not None
            session.append(message)
            os.write(told, b".")
        elif session is not None:
            session.finish(message)


def main(net: str) -> None:
    for _ in runner.play(spec(net)):  # what the first run brings along, no child need bring again
        pass
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                record(net, Path(line.rstrip("\n")), sys.stdout.fileno())
            finally:
                os._exit(0)
        sys.stderr.write(f"{child}\n")
        sys.stderr.flush()
        os.waitpid(child, 0)
        os.write(sys.stdout.fileno(), b"!")  # the child is gone


if __name__ == "__main__":
    main(sys.argv[1])
