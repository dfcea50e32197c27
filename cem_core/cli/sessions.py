"""Recorded runs: sessions, replay, resume, export."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cem_core.cli.options import export_choices, exporting
from cem_core.cli.progress import progress_bar
from cem_core.cli.runs import played, write_export

if TYPE_CHECKING:
    from cem_core.sessions import Summary


@click.command("export")
@click.argument("session")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR")
@exporting
def export_(session: str, out: Path, **options: Any) -> None:
    """Export SESSION, a recorded run: its folder, its name, or the beginning of one.

    \b
    cem-explorer export "2026-03-01 12.00.00 TA" --format mp4 --layout difference --out clip
    """
    from cem_core import export, sessions
    from cem_core.session import Session

    choices, out = export_choices(options), export.destination(out)
    recorded = Session.open(sessions.resolve(session), budget=sessions.settings().memory)
    write_export(recorded, out, choices)
    if sys.stdout is not None and sys.stdout.isatty():
        click.echo(f"Exported to {out}: chains {len(recorded.start.labels)}, steps {len(recorded) - 1}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
@click.option("--delete", metavar="SESSION", help="Move one into the trash.")
@click.option("--restore", metavar="NAME", help="Take one back out of the trash.")
@click.option("--empty-trash", is_flag=True, help="Delete for good what was deleted.")
@click.option(
    "--thin",
    nargs=2,
    type=(str, int),
    metavar="SESSION K",
    help="Keep the pixels of one step in K, and all numbers; for good.",
)
@click.option("--disk", type=click.FloatRange(0, 10**6), metavar="GB", help="Room that all may take; remembered.")
@click.option("--memory", type=click.FloatRange(0, 10**6), metavar="MB",
              help="Memory for the pixels of one; remembered.")  # fmt: skip
def sessions(
    as_json: bool, delete: str | None, restore: str | None, empty_trash: bool, thin: tuple[str, int] | None,
    disk: float | None, memory: float | None,
) -> None:  # fmt: skip
    """List the recorded runs. A SESSION is a folder, a name, or the beginning of one."""
    import msgspec

    from cem_core import sessions

    if disk is not None or memory is not None:
        known = sessions.settings()
        sessions.save_settings(
            msgspec.structs.replace(
                known,
                disk=known.disk if disk is None else round(disk * 10**9),
                memory=known.memory if memory is None else round(memory * 10**6),
            )
        )
    if restore is not None:
        sessions.restore(restore)
    if delete is not None:
        name = sessions.delete(sessions.resolve(delete))
        click.echo(f"In the trash; to undo: cem-explorer sessions --restore {shlex.quote(name)}", err=True)
    if thin is not None:
        gone = sessions.thin(sessions.resolve(thin[0]), thin[1])
        click.echo(f"The pixels of {gone:,} steps are gone.", err=True)
    if empty_trash:
        sessions.empty_trash()
    found = sessions.found()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([_plain(summary) for summary in found])).decode())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("name", "state", "steps", "chains", "sampler", "model", "size"):
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for summary in found:
        state = summary.state + (f", thinned {summary.thinned}" if summary.thinned > 1 else "")
        table.add_row(*map(Text, (summary.name, state, f"{summary.steps:,}", str(summary.chains), summary.sampler,
                                  summary.model, sessions.told_size(summary.size))))  # fmt: skip
    if found:
        console.print(table)
    for summary in found:
        if summary.damaged:
            console.print(Text(summary.detail))
    total = sum(summary.size for summary in found)
    may = sessions.told_size(sessions.settings().disk)
    click.echo(f"{len(found)} in {sessions.root()}, {sessions.told_size(total)} of {may}", err=True)
    if said := sessions.over_budget(found):
        click.echo(f"Note: {said}", err=True)


@click.command()
@click.argument("session")
@click.option("--verify", is_flag=True, help="Run it again and compare every pixel and number.")
@click.option("--json", "as_json", is_flag=True, help="One object, for programs.")
def replay(session: str, verify: bool, as_json: bool) -> None:
    """Tell what a recorded run did; with --verify, run it again and say whether it comes out the same.

    The exit code of --verify is 1 if it does not.
    """
    import msgspec

    from cem_core import events, sessions
    from cem_core.messages import Refused
    from cem_core.session import Session

    folder = sessions.resolve(session)
    recorded = Session.open(folder, budget=sessions.settings().memory)
    summary, found = sessions.summarise(folder), events.events(recorded)
    lost = summary.steps + 1 - len(recorded) if not summary.running else 0
    verdict = None
    if verify:
        from cem_core import replaying

        with progress_bar("verifying", len(recorded)) as advance:
            try:
                for so_far in replaying.verify(recorded):
                    verdict = so_far
                    advance(1)
            except OSError as error:
                raise Refused(str(error)) from error
    if as_json:
        told: dict[str, Any] = {"session": _plain(summary), "events": msgspec.to_builtins(found)}
        if verdict is not None:
            told["verdict"] = {**msgspec.to_builtins(verdict), "sentence": verdict.sentence}
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
    else:
        click.echo(f"{summary.name}: {summary.model}, {summary.sampler}, chains {summary.chains}, steps "
                   f"{summary.steps:,}, {summary.state}")  # fmt: skip
        for event in found:
            click.echo(f"  step {event.step:6,}  chain {event.chain + 1:4}  {event.kind}")
        if verdict is not None:
            click.echo(verdict.sentence)
    if lost > 0:
        said = f"the last {lost:,} steps" if lost > 1 else "the last step"
        click.echo(f"Note: the pixels of {said} are missing or damaged: resume makes them again.", err=True)
    if verdict is not None and (lost > 0 or not verdict.bit_equal):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("session")
@click.option("--steps", type=int, help="In all. Default: as many as were asked for when it was recorded.")
def resume(session: str, steps: int | None) -> None:
    """Go on with a recorded run that was interrupted or stopped, to the pixels it would have had."""
    import msgspec

    from cem_core import replaying, sessions
    from cem_core.messages import Refused, RunEnd
    from cem_core.session import Session

    recorded = Session.open(sessions.resolve(session), write=True, budget=sessions.settings().memory)
    row = recorded[len(recorded) - 1].sampler if len(recorded) else recorded.start.spec.sampler
    if steps is not None:
        row = msgspec.structs.replace(row, steps=steps)
    done = len(recorded) - 1
    if done >= row.steps:
        if recorded.end is None:  # killed between its last step and the word that it was the last
            recorded.finish(RunEnd(recorded.start.spec.id, "done"))
            recorded.close()
            return
        recorded.close()
        raise Refused(f"It has its {done:,} steps: ask for more with --steps.")
    played(replaying.resume(recorded, lambda: row), recorded, row.steps - done)
    if recorded.end and recorded.end.reason == "failed":
        raise Refused(recorded.end.detail)


def _plain(summary: Summary) -> dict[str, Any]:
    """For programs: all that is told, and what follows from it."""
    import msgspec

    return {**msgspec.to_builtins(summary), "state": summary.state}
