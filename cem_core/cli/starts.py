"""Where chains begin: fit-starts."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("fit-starts")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--split", default=None, help="Such as train, where the data has splits.")
@click.option("--size", type=int, default=32, show_default=True, help="Side of the images in pixels.")
@click.option("--rank", type=int, default=48, show_default=True, help="Directions of the covariance that are kept.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE")
def fit_starts(data: Path, split: str | None, size: int, rank: int, out: Path) -> None:
    """Fit the Gaussian of each class of DATA, to start chains from."""
    from cem_core import starts
    from cem_core.datasets import open_dataset
    from cem_core.messages import Refused

    if not 1 <= size <= 64:  # a covariance has (3·size²)² entries
        raise Refused(f"Size must be between 1 and 64, not {size:,}.")
    dataset = open_dataset(data, split)
    pixels, labels = dataset.arrays(size)
    gaussians = starts.fit(pixels, labels, len(dataset.classes), rank=rank)
    starts.save(gaussians, dataset.classes, out, source=f"{data.name}, {len(labels):,} images, rank {rank}")
