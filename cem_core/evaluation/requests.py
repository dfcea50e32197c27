"""What can be asked of samples: frozen messages, each answered by a stream (`evaluating`)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from cem_core.messages import (
    MAX_SEED,
    Chain,
    GaussianStart,
    NoiseStart,
    OverallStart,
    Reference,
    Refused,
    Sampler,
    Start,
)
from cem_core.probes.requests import Data, Subject

StartName = Literal["gaussian", "overall", "noise"]
MAX_NUM: Final = 2**31
"""Samples of one seed."""
MAX_BATCH: Final = 4096
INCEPTION: Final = "inception"
"""The extractor whose numbers alone are called FID, KID and Inception score."""


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """N samples of one model: all that decides their pixels, on one kind of device.

    They are made in shards of `batch`, each as one batch of its own whoever makes it and when, so that the pixels are
    the same however the shards are spread.

    Raises:
        Refused: a number is out of range, or the last sample of a coupled row would be alone.
    """

    subject: Subject
    sampler: Sampler
    num: int
    start: StartName = "gaussian"
    """gaussian: of the class of each sample; overall: the one Gaussian of all classes; noise: uniform in [0,1]."""
    per_class: bool = True
    """Each class as often as any other, in turns; else every sample draws its class."""
    seed: int = 0
    batch: int = 100
    """Samples that are made together: the size of a shard. Of coupled rows, it decides who spreads from whom."""
    reference: Reference | None = None
    """Of an encoder, as in `RunSpec`."""

    def __post_init__(self) -> None:
        for what, value, high in (("Samples", self.num, MAX_NUM), ("The batch", self.batch, MAX_BATCH)):
            if not 1 <= value <= high:
                raise Refused(f"{what} must be between 1 and {high:,}, not {value:,}.")
        if not 0 <= self.seed < MAX_SEED // MAX_NUM:
            raise Refused(f"The seed must be between 0 and {MAX_SEED // MAX_NUM - 1:,}, not {self.seed:,}.")
        if self.sampler.coupled and (self.batch < 2 or self.num % self.batch == 1):
            raise Refused(f"{self.sampler.name} spreads samples from each other: a last one alone has no other; change "
                          "their number by one, or the batch.")  # fmt: skip

    @property
    def shards(self) -> int:
        return -(-self.num // self.batch)

    def places(self, shard: int) -> range:
        """Which samples are in a shard."""
        return range(shard * self.batch, min((shard + 1) * self.batch, self.num))

    def seed_of(self, sample: int) -> int:
        """Of the chain of a sample: no two samples of any two seeds share one."""
        return self.seed * MAX_NUM + sample

    def chain(self, sample: int, label: int, gaussian: str = "") -> Chain:
        """Of a sample. `gaussian` names the class of its Gaussian, where labels do not."""
        begun: dict[StartName, Start] = {
            "gaussian": GaussianStart(gaussian), "overall": OverallStart(), "noise": NoiseStart(),
        }  # fmt: skip
        return Chain(begun[self.start], self.seed_of(sample), label)


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How near samples are to real images, in the features of an extractor.

    Raises:
        Refused: too few neighbours or images are asked for.
    """

    samples: Sampling | Data
    """To be made; or there already: a folder of shards, or any labelled images."""
    reference: Data
    """Real images; or a folder of shards."""
    extractor: Subject
    """`reference` of it: "inception", with the path of its weights as the choice "weights" unless they are in torch's
    cache; or any checkpoint that has features."""
    compared: int = 10_000
    """At most so many images of either side make up precision, recall and the kernel distance, whose cost grows with
    the square; the Fréchet distance and the score are always of all."""
    neighbours: int = 3
    """k of precision and recall (Kynkäänniemi et al. 2019)."""
    seed: int = 0
    """Of the splits and subsets that torchmetrics draws."""

    def __post_init__(self) -> None:
        if not 1 <= self.neighbours <= 100:
            raise Refused(f"Neighbours must be between 1 and 100, not {self.neighbours:,}.")
        if not 100 <= self.compared <= 100_000:
            raise Refused(f"Compared images must be between 100 and 100,000, not {self.compared:,}.")


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of a table: how samples are made, whatever the seed."""

    name: str
    subject: Subject
    sampler: Sampler
    start: StartName = "gaussian"
    reference: Reference | None = None


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rows × seeds of evaluations with the same reference and extractor: the paper's table.

    Raises:
        Refused: no row, a name twice, or no seed.
    """

    rows: tuple[Row, ...]
    reference: Data
    extractor: Subject
    num: int = 2000
    """Samples of each row and seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    batch: int = 100
    compared: int = 10_000

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if not names or not self.seeds:
            raise Refused("A table needs at least one row and one seed.")
        if len(set(names)) < len(names) or len(set(self.seeds)) < len(self.seeds):
            raise Refused("The rows of a table must have different names, and its seeds be different.")

    def evaluation(self, row: Row, seed: int) -> Evaluation:
        """One cell of the table."""
        sampling = Sampling(subject=row.subject, sampler=row.sampler, num=self.num, start=row.start, seed=seed,
                            batch=self.batch, reference=row.reference)  # fmt: skip
        return Evaluation(samples=sampling, reference=self.reference, extractor=self.extractor, compared=self.compared)
