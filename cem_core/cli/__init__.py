"""The command line. Nothing heavy is imported before a command needs it, so that --help is instant."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from contextlib import suppress
from typing import Any

import click

from cem_core import __version__
from cem_core.cli import (
    checkpoints,
    energies,
    evaluate,
    heads,
    landscape,
    lens,
    link,
    probe,
    runs,
    sample,
    sessions,
    smallest,
    starts,
    table,
    train,
)


class _Group(click.Group):
    """Turns bad input into one line and exit code 1."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that knows no ∇ shows a question mark
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        logging.lastResort = None  # what libraries say of bad input is said in our own sentence
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return super().invoke(ctx)
        except ValueError as error:
            from cem_core.messages import Refused

            if isinstance(error, Refused):
                raise click.ClickException(" ".join(str(error).split())) from error
            raise
        except RuntimeError as error:
            if "home directory" not in str(error):  # as pathlib says it
                raise
            raise click.ClickException("A path begins with ~ and a name that no user has: write it in full.") from error
        except OSError as error:
            if error.errno != errno.ENOSPC:  # click itself knows of closed pipes
                raise
            _let_go_of(sys.stdout)
            raise click.ClickException("There is no room for what is written: make some.") from error


def _let_go_of(stream: Any) -> None:
    """What is left in its buffer goes nowhere, or the interpreter would try to write it once more as it ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="cem-explorer")
def main() -> None:
    """Read classifiers as energy-based models and watch images move through them.

    The window is opened by cem-explorer-gui; everything here does the same work without it.
    """


for _command in (
    runs.morph, runs.demo, sessions.export_, checkpoints.models, checkpoints.inspect, checkpoints.convert, probe.probe,
    energies.energies, link.link, lens.lens, landscape.landscape, starts.fit_starts, heads.fit_head, sessions.sessions,
    sessions.replay, sessions.resume, sample.sample, evaluate.evaluate, table.table, smallest.smallest, train.train,
):  # fmt: skip
    main.add_command(_command)
