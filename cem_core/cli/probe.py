"""Measurements of models: probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cem_core.cli.options import assuming, chosen, fraction
from cem_core.cli.progress import progress_bar


@click.command()
@click.option("--checkpoint", "checkpoints_", multiple=True, required=True, metavar="NAME|FILE", help="Repeatable.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder or archive of class folders.")
@click.option("--split", default=None, help="Such as test, where the data has splits.")
@click.option("--norm", type=click.Choice(["l2", "linf"], case_sensitive=False), default="l2", show_default=True)
@click.option("--eps", default="0,0.25,0.5,1", show_default=True, help="Radii, such as 0,1/255,8/255; 0 is clean.")
@click.option("--num", type=int, default=None, help="Images, evenly over the classes. Default: all.")
@assuming
@click.option("--json", "as_json", is_flag=True)
def probe(
    checkpoints_: tuple[str, ...],
    data: Path,
    split: str | None,
    norm: Any,
    eps: str,
    num: int | None,
    assumed: tuple[str, ...],
    as_json: bool,
) -> None:
    """Accuracy against ε under PGD-20 (random start, step 2.5·ε/20)."""
    import msgspec

    from cem_core import checkpoints, probes
    from cem_core.datasets import open_dataset
    from cem_core.messages import Refused

    strengths = [fraction("--eps", part) for part in eps.split(",")]
    dataset = open_dataset(data, split).take(num)
    rows = []
    for reference in checkpoints_:
        model, checkpoint = checkpoints.load(reference, choices=chosen(reference, assumed))
        if dataset.classes != checkpoint.classes:
            raise Refused(f"The classes of {data.name} are not those of {checkpoint.name}.")
        pixels, labels = dataset.arrays(checkpoint.size)
        with progress_bar(checkpoint.name, len(strengths) * len(labels)) as advance:
            last: dict[float, probes.Point] = {}
            for point in probes.accuracy(model, pixels, labels, norm, strengths):
                advance(point.total - (last[point.eps].total if point.eps in last else 0))
                last[point.eps] = point
        rows += [(checkpoint.name, point) for point in last.values()]
    if as_json:
        objects = [{"name": name, "norm": norm, **msgspec.to_builtins(p), "accuracy": p.accuracy} for name, p in rows]
        click.echo(msgspec.json.encode(objects).decode())
    else:
        for name, p in rows:
            click.echo(f"{name}  {norm} {p.eps:.4g}  {100 * p.accuracy:5.1f} %  ({p.correct} of {p.total})")
