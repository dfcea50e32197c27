"""A table in its folder: an evaluation for each row and seed, and files of what has come of them so far.

reference/      what the extractor sees in the real images, for all rows
RCS/seed-0/     an evaluation (`evaluating`)
table.json, table.md, table.csv, table.svg, table.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from cem_core import checkpoints, cluster
from cem_core.cluster import Where
from cem_core.evaluation.evaluating import Yardstick, check_apart, enough_memory, evaluate
from cem_core.evaluation.looking import is_table, open_table
from cem_core.evaluation.report import REFERENCE, Report, cell
from cem_core.evaluation.requests import Table
from cem_core.evaluation.results import Answer, Scores
from cem_core.messages import Checkpoint, Refused
from cem_core.probes.measuring import GoOn
from cem_core.runner import check_row


def table(
    request: Table, folder: Path, go_on: GoOn = lambda: True, where: Where | None = None
) -> Iterator[tuple[int, int, Answer]]:
    """(row, seed, answer) of all evaluations: each row once before any gets its second seed. The files are written
    anew after every cell, and a folder goes on.

    Raises:
        Refused: as `evaluating.evaluate`, or the models differ in size.
        Cancelled: `go_on` said so. What was finished is kept.
    """
    with enough_memory():
        check_apart(folder, request.reference)
        report = Report(request)
        report.claim(folder)
        _check_models(request)
        yardstick = Yardstick(request.reference, request.extractor, folder / REFERENCE)
        _recall(report, folder)
        report.write(folder)
        with cluster.running(where):
            for seed in request.seeds:
                for number, row in enumerate(request.rows):
                    place = folder / cell(row, seed)
                    for answer in evaluate(request.evaluation(row, seed), place, go_on, where, yardstick=yardstick):
                        report.add(number, seed, answer)
                        if isinstance(answer, Scores):
                            report.write(folder)
                        yield number, seed, answer


def _check_models(request: Table) -> None:
    """Raises Refused for what would be refused hours later."""
    first: Checkpoint | None = None
    for row in request.rows:
        known = checkpoints.inspect(row.subject.reference, row.subject.choices)
        check_row(row.sampler, known, request.batch)
        request.evaluation(row, request.seeds[0])
        first = first or known
        if known.size != first.size:
            raise Refused(
                f"{first.name} makes images of {first.size} pixels and {known.name} of {known.size}: the distances of "
                "one table must be of one size; make two tables."
            )


def _recall(report: Report, folder: Path) -> None:
    """What an earlier table in this folder has of the same cells stands in the files until they are looked at again."""
    if not is_table(folder):
        return
    try:
        before = open_table(folder)
    except Refused:  # an older version's: all is looked at anew
        return
    request = report.request
    if replace(before.request, rows=request.rows, seeds=request.seeds) != request:
        return
    for number, row in enumerate(request.rows):
        if row in before.request.rows:
            was = before.request.rows.index(row)
            report.cells |= {(number, seed): before.cells[was, seed] for seed in request.seeds
                             if (was, seed) in before.cells}  # fmt: skip
            if was in before.checkpoints:
                report.checkpoints[number] = before.checkpoints[was]
    report.notes, report.versions, report.devices = before.notes, before.versions, before.devices
