"""E(x) of clean, adversarial and generated images, as JEM looks at it (Grathwohl et al. 2020)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from cem_core import datasets, energies, presets, samplers, starts
from cem_core.images import Bytes
from cem_core.messages import Chain, Floats, GaussianStart, NoiseStart, Refused, Sampler
from cem_core.probes import lights, subjects
from cem_core.probes.attacks import perturb
from cem_core.probes.measuring import Cancelled, GoOn, asking
from cem_core.probes.requests import Energies
from cem_core.probes.results import Cell, Kind, Light, Lights, Note, Opening, Sample
from cem_core.probes.subjects import Opened


def histograms(request: Energies, go_on: GoOn = lambda: True) -> Iterator[Opening | Lights | Sample | Note]:
    """Energies of the first images of each kind and model, with lights; then of the next.

    Adversarial images are moved away from what the model sees in them, right or wrong, so that each differs from its
    clean one. Where ε is 0 there are none. The n-th energies of clean and adversarial images are of the same image.

    Raises:
        Refused: a model or the data cannot be used, they share no classes, no image can be read, or an energy is no
            number.
        Cancelled: `go_on` said so.
    """
    comparison = subjects.comparison(request)
    data, opened, shared, order, shown, batch = comparison
    labels = np.zeros(len(data), np.int64)
    labels[order] = shown
    said: list[Note] = []
    measured = [_Measured(request, one, batch, said.append, go_on) for one in opened]
    generating = [each.generating for each in measured] if request.generated else []
    yield comparison.opening(request, *shared.notes, *generating)

    skipped = subjects.noting(said)
    read = False
    for first in range(0, max(len(order), request.generated), batch):
        upto = first + batch
        pictures: dict[int, tuple[Bytes, datasets.Indices]] = {}
        for subject, (model, columns) in enumerate(zip(measured, shared.columns, strict=True)):
            size = model.opened.checkpoint.size
            if size not in pictures:
                pictures[size] = datasets.gather(data, order[first:upto], size, skipped)
            pixels, kept = pictures[size]
            for kind, work in model.of_images(pixels, kept) if len(kept) else ():
                yield model.sample(subject, kind, len(kept), work)
            if len(kept):
                read = True
                some = slice(lights.LOOKED_AT)
                yield Lights(subject, model.lights(pixels[some], labels[kept[some]], columns))
            if first < request.generated:
                last = min(upto, request.generated)
                yield model.sample(subject, "generated", last - first, model.generated(first))
            while said:
                yield said.pop(0)
    if not read:
        raise comparison.unread()


Work = Callable[[int, int], Tensor]
"""The energies of some of the images, (last - first,)."""


class _Measured:
    """A model, how many images go through it at once, and what its attacks told."""

    def __init__(self, request: Energies, opened: Opened, batch: int, say: Callable[[Note], None], go_on: GoOn) -> None:
        self.opened = opened
        self._request, self._say, self._go_on = request, say, go_on
        self._batch = batch
        self._as_such: tuple[Light, ...] = ()
        self._cells: list[Cell] = []
        self._gaussians = starts.has_gaussians(opened.checkpoint)
        row = presets.SAMPLERS[presets.FROM_DRAWS if self._gaussians else "Langevin"]
        self._sampler = request.sampler or row

    @property
    def generating(self) -> str:
        """How it generates, in a sentence."""
        row, begun = self._sampler, "class Gaussians" if self._gaussians else "noise"
        return f"{self.opened.checkpoint.name} generates by {row.steps:,} steps of {row.name} from {begun}."

    def sample(self, subject: int, kind: Kind, images: int, work: Work) -> Sample:
        """The energies of so many images, in batches that fit into memory."""
        begun, found = time.perf_counter(), list[Floats]()

        def some(first: int, last: int) -> None:
            energy = work(first, last)
            if not energy.isfinite().all():
                raise Refused(self._broken(kind))
            found.append(energy.float().cpu().numpy())

        self._batch = subjects.halving(0, images, self._batch, some, self._say)
        return Sample(subject, kind, np.concatenate(found), time.perf_counter() - begun)

    def _broken(self, kind: Kind) -> str:
        said = f"{self.opened.checkpoint.name} gives energies of {kind} images that are no numbers"
        return f"{said}: " + ("try a smaller step size." if kind == "generated" else "its weights are broken.")

    def of_images(self, pixels: Bytes, kept: datasets.Indices) -> Iterator[tuple[Kind, Work]]:
        """What is done with pictures (N, H, W, 3), of which `kept` are the places in the data."""
        yield "clean", lambda first, last: self._energy(self._tensor(pixels[first:last]))
        if self._request.eps > 0:
            yield "adversarial", lambda first, last: self._moved(pixels[first:last], kept[first:last])

    def _tensor(self, pixels: Bytes) -> Tensor:
        return subjects.tensor(pixels, self.opened)

    def _logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return asking(self.opened.model, self._go_on)(x)

    def _energy(self, x: Tensor) -> Tensor:
        return energies.marginal(self._logits(x))

    def _moved(self, pixels: Bytes, kept: datasets.Indices) -> Tensor:
        """(N,) energies of the adversarial images."""
        attack, eps = self._request.attack, self._request.eps
        x = self._tensor(pixels)
        seen = self._logits(x).argmax(1)
        seeds = [attack.seed + index for index in kept.tolist()]
        outcome = perturb(self.opened.model, x, seen, attack, eps, seeds, self._go_on)
        energy = self._energy(outcome.adversarial)
        stood = tuple((~outcome.flipped).tolist())  # noted last: where memory does not suffice, all is done again
        vanished, stuck = int(outcome.vanished.sum()), int(outcome.stuck.sum())
        self._cells.append(Cell(0, eps, 0, tuple(seen.tolist()), stood, len(seen), vanished, stuck, outcome.broken))
        return energy

    def lights(self, pixels: Bytes, labels: datasets.Indices, columns: tuple[int, ...] | None) -> tuple[Light, ...]:
        """Of the model as such, once, and of all its attacks so far. labels: indices of shared classes."""
        if not self._as_such:
            model, checkpoint = self.opened

            def look(first: int, last: int) -> None:
                x, y = self._tensor(pixels[first:last]), torch.from_numpy(labels[first:last]).to(model.device)
                judged = subjects.restricted(model, columns)
                found = lights.of_model(judged, model, checkpoint, x, y, self._request.attack, self._go_on, columns)
                self._as_such = self._as_such or found

            subjects.halving(0, len(labels), len(labels), look, self._say)
        return (*self._as_such, *lights.of_cells(self._cells, self._request.attack))

    def generated(self, begun: int) -> Work:
        """What generates images begun, begun + 1, …, each from its own seed, the classes in turns."""
        model, checkpoint = self.opened
        sampler = self._sampler

        def following(index: int) -> Sampler | None:
            if not self._go_on():
                raise Cancelled
            return sampler if index < sampler.steps else None

        def work(first: int, last: int) -> Tensor:
            chains = [
                Chain(
                    GaussianStart() if self._gaussians else NoiseStart(),
                    self._request.attack.seed + begun + i,
                    (begun + i) % len(checkpoint.classes),
                )
                for i in range(first, last)
            ]
            x0 = torch.from_numpy(starts.make(checkpoint, chains)[0]).to(model.device)
            y = torch.tensor([chain.label for chain in chains], device=model.device)
            state = samplers.begin(sampler, x0, y, tuple(chain.seed for chain in chains))
            energy = torch.empty(0)
            for _, reading, _ in samplers.evolve(model, sampler, state, following):
                energy = reading.energy
            return energy

        return work
