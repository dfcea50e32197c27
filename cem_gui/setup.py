"""What the next run is made of: model, sampler, starts, targets and seeds, with every change of it undoable."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

import msgspec
from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtGui import QImage, QUndoCommand, QUndoStack

from cem_core import bundle
from cem_core.chains import compared, lay_out
from cem_core.export import RunFile
from cem_core.messages import (
    Chain,
    Checkpoint,
    Device,
    GaussianStart,
    ImageStart,
    NoiseStart,
    OverallStart,
    Precision,
    Reference,
    Refused,
    ReplayStart,
    RunSpec,
    RunStart,
    Sampler,
    SessionStart,
    Start,
)
from cem_gui.models import Models
from cem_gui.panels.sampler import SamplerPanel, StartKind
from cem_gui.pictures import Pictures

CHAINS: Final = 12
_DRAWN: Final[dict[StartKind, Start]] = {"overall": OverallStart(), "noise": NoiseStart(), "replay": ReplayStart()}
_MOST_UNDONE: Final = 200
_NUMBERS: Final = {
    "name": "sampler",
    "a": "class weight",
    "b": "marginal weight",
    "step_size": "step size",
    "noise": "noise",
    "steps": "number of steps",
    "radius": "ball",
    "norm": "norm",
    "normalised": "normalisation",
    "random_start": "random point of the ball",
}
"""How the numbers of a sampler are called in the Edit menu; the first that changed gives its name."""
_OF_A_RUN: Final = "settings of a run"
_PARTS: Final = {
    "model": "model",
    "fork": "fork",
    "paths": "images",
    "start": "start",
    "gaussian": "Gaussian",
    "sampler": "",
    "towards": "image to move towards",
    "comparison": "reference batch",
    "targets": "targets",
    "own": "target of a chain",
    "count": "number of chains",
    "seed": "seed",
}


Target: TypeAlias = int | str
"""A class, or with an encoder the path of an image."""


class Choice(NamedTuple):
    """A model, and as what it is read."""

    reference: str
    device: Device
    precision: Precision
    choices: tuple[tuple[str, str], ...]


class Comparison(NamedTuple):
    """What an encoder compares images with, besides those of the run itself, and how."""

    images: tuple[str, ...] = ()
    """Empty: the bundled samples."""
    cosine: bool = True
    temperature: float | None = None
    """None: the encoder's own."""

    @property
    def batch(self) -> tuple[str, ...]:
        return self.images or tuple(map(str, bundle.samples()))


_OF_SAMPLES: Final = Comparison()


class Fork(NamedTuple):
    """A step of a recorded run that chains start from."""

    session: str
    step: int
    chains: int
    targets: tuple[Target, ...]
    images: tuple[str, ...] = ()
    """What an encoder compared its images with."""


@dataclass(frozen=True)
class Settings:
    """All that the person may set."""

    model: Choice
    sampler: Sampler
    start: StartKind
    paths: tuple[str, ...]
    targets: tuple[int, ...]
    own: tuple[tuple[int, Target], ...]
    """(chain, target) where that was chosen for one alone."""
    count: int
    seed: int
    fork: Fork | None = None
    gaussian: str = ""
    """The class that it is of; empty: of the target, or with an encoder of each class in turn."""
    towards: tuple[str, ...] = ()
    """Of an encoder: images that chains are sent to."""
    comparison: Comparison = _OF_SAMPLES


class _Awaited(NamedTuple):
    """What is to be set once its model is open."""

    settings: Settings
    name: str
    """Under which it can be undone; empty: it is an undoing."""
    begins: bool


class Setup(QObject):
    """`sampler`, `models` and `pictures` hold the parts; this knows the whole."""

    numbers_changed = Signal(object)
    """A Sampler: also during a run."""
    chains_changed = Signal()
    """Start, targets, number or seed: for the next run."""
    renewed = Signal()
    """Another model is open, or a run's settings were restored: to be begun anew."""

    def __init__(
        self, sampler: SamplerPanel, models: Models, pictures: Pictures, stack: QUndoStack, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._sampler, self._models, self._pictures = sampler, models, pictures
        self._own: dict[int, Target] = {}
        self._fork: Fork | None = None
        self._targets_before = 0
        """How many chains a single image had for the targets before."""
        self._known: Settings | None = None
        """What the undo stack believes; None before the first model is open."""
        self._awaited: _Awaited | None = None
        self._stack = stack
        stack.setUndoLimit(_MOST_UNDONE)
        sampler.set_count(CHAINS)
        sampler.changed.connect(self._numbers_set)
        sampler.chains_changed.connect(self._chains_set)
        sampler.targets_changed.connect(self._targets_set)
        sampler.towards.chosen.connect(pictures.aim)
        sampler.towards.dropped.connect(pictures.aim_dropped)
        sampler.towards.file_wanted.connect(pictures.ask_aim)
        sampler.reference.wanted.connect(pictures.group)
        pictures.taken.connect(self._images_taken)
        pictures.aimed.connect(self._aimed)
        pictures.grouped.connect(self._grouped)
        pictures.pictured.connect(self._pictured)
        models.opened.connect(self._model_opened)
        models.stayed.connect(self._model_stayed)

    # ---- what is set -------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings | None:
        """None while no model is open."""
        model = self._models.current
        if model is None:
            return None
        panel = self._sampler
        return Settings(
            Choice(model.reference, model.device, model.precision, tuple(sorted(model.choices.items()))),
            panel.sampler,
            panel.start_kind,
            tuple(self._pictures.paths),
            tuple(panel.targets),
            tuple(sorted(self._own.items())),
            panel.count.value(),
            panel.seed.value(),
            self._fork,
            panel.gaussian_class,
            tuple(self._pictures.towards),
            self._comparison,
        )

    @property
    def _comparison(self) -> Comparison:
        reference, checkpoint = self._sampler.reference, self._models.checkpoint
        own = checkpoint is not None and reference.temperature.value == checkpoint.temperature
        temperature = None if own else reference.temperature.value
        return Comparison(tuple(self._pictures.batch), reference.cosine.isChecked(), temperature)

    @property
    def waits(self) -> bool:
        """More is to be set, once its model is open."""
        return self._awaited is not None

    def spec(self) -> RunSpec:
        """A new run with what is set. Raises Refused if that makes none."""
        model = self._models.current
        assert model is not None
        starts = self._starts(model.gaussians)
        if model.checkpoint.classes:
            reference, chains = None, self._chains(starts, model.checkpoint.classes)
        else:
            reference = self._reference(starts)
            chains = self._chains_among(starts, reference.images)
        return RunSpec(
            uuid.uuid4().hex[:12],
            model.reference,
            self._sampler.sampler,
            chains,
            model.device,
            model.precision,
            model.choices,
            reference,
        )

    def _starts(self, gaussians: Sequence[str]) -> list[Start]:
        kind, fork = self._sampler.start_kind, self._fork
        if kind == "image":
            return [ImageStart(path) for path in self._pictures.paths]
        if kind == "session" and fork is not None:
            return [SessionStart(fork.session, fork.step, chain) for chain in range(fork.chains)]
        if kind == "gaussian":
            of, model = self._sampler.gaussian_class, self._models.checkpoint
            in_turn = not of and model is not None and not model.classes
            return [GaussianStart(name) for name in gaussians] if in_turn else [GaussianStart(of)]
        return [_DRAWN.get(kind, NoiseStart())]

    def _chains(self, starts: list[Start], classes: Sequence[str]) -> tuple[Chain, ...]:
        panel = self._sampler
        paths = [start.path for start in starts if isinstance(start, ImageStart)]
        seen = [bundle.class_shown(path, classes) for path in paths]
        chains = lay_out(panel.sampler, starts, panel.targets, panel.count.value(), panel.seed.value(), seen)
        return self._told(chains, {target: target for target in range(len(classes))})

    def _reference(self, starts: list[Start]) -> Reference:
        """Of an encoder: what is chosen, and the images of the run itself."""
        comparison, fork = self._comparison, self._fork if self._sampler.start_kind == "session" else None
        aims = [*self._pictures.towards, *(target for target in self._own.values() if isinstance(target, str))]
        images = compared((*comparison.batch, *(fork.images if fork is not None else ())), starts, aims)
        return Reference(images, comparison.cosine, self._sampler.reference.temperature.value)

    def _chains_among(self, starts: list[Start], images: tuple[str, ...]) -> tuple[Chain, ...]:
        """Of an encoder: its labels count images of the reference batch."""
        panel = self._sampler
        number: dict[Target, int] = {path: index for index, path in enumerate(images)}
        targets = [number[path] for path in self._pictures.towards] if panel.sampler.a > 0 else []
        if panel.sampler.a > 0 and not targets:
            raise Refused(f"{panel.sampler.name} needs an image to move towards: choose one, or drop it on Towards.")
        chains = lay_out(panel.sampler, starts, targets, panel.count.value(), panel.seed.value())
        return self._told(chains, number)

    def _told(self, chains: tuple[Chain, ...], number: dict[Target, int]) -> tuple[Chain, ...]:
        """With the targets that chains have alone; a forked chain keeps its own as long as that is among those that are
        chosen."""
        fork = self._fork if self._sampler.start_kind == "session" else None
        chosen: Sequence[Target] = self._sampler.targets if not self._encoder else self._pictures.towards

        def label(i: int, laid: int | None) -> int | None:
            own = self._own.get(i)
            if own is None and fork is not None and laid is not None and fork.targets[i % fork.chains] in chosen:
                own = fork.targets[i % fork.chains]
            return laid if own is None else number.get(own, laid)

        return tuple(msgspec.structs.replace(chain, label=label(i, chain.label)) for i, chain in enumerate(chains))

    @property
    def _encoder(self) -> bool:
        checkpoint = self._models.checkpoint
        return checkpoint is not None and not checkpoint.classes

    # ---- set by hand -------------------------------------------------------------------------------------------------

    def set_target(self, chain: int, label: int, start: RunStart) -> None:
        """The target of one chain alone, as the run in sight counts them."""
        self._own[chain] = _targets_of(start.spec, (label,), start.checkpoint)[0]
        self._note()
        self.chains_changed.emit()

    def fork(self, session: str, step: int, start: RunStart) -> None:
        """Start from a step of a recorded run."""
        self._fork = _fork(session, step, start.spec, start.labels, start.checkpoint)
        self._own.clear()
        self._sampler.offer_fork(_named(self._fork))
        self._sampler.show_start("session")
        self._sampler.set_count(self._fork.chains)
        self._note()

    @Slot(object)
    def _numbers_set(self, sampler: Sampler) -> None:
        before = self._known
        if sampler.coupled and before is not None and before.count < 2:  # chains that need each other
            self._sampler.set_count(CHAINS)
        self._note()
        self.numbers_changed.emit(sampler)

    @Slot()
    def _chains_set(self) -> None:
        self._note()
        self.chains_changed.emit()

    @Slot(list)
    def _targets_set(self) -> None:
        """A single image goes to every target that is chosen, as long as nobody asked for another number."""
        alone = len(self._pictures.paths) == 1 and self._sampler.start_kind == "image"
        if alone and self._sampler.count.value() == self._targets_before:
            self._sampler.set_count(self._one_per_target())
        self._targets_before = self._one_per_target()
        self._chains_set()

    @Slot()
    def _images_taken(self) -> None:
        """Start from them; one image goes to every target that is chosen, several go to one each."""
        number = len(self._pictures.paths)
        self._own.clear()
        self._sampler.set_start("image")
        self._sampler.set_count(number if number > 1 else self._one_per_target())
        self._show_images()
        self._note()

    @Slot()
    def _aimed(self) -> None:
        self._own.clear()
        self._show_images()
        self._chains_set()

    @Slot()
    def _grouped(self) -> None:
        self._show_images()
        self._chains_set()

    def _show_comparison(self, comparison: Comparison) -> None:
        """How images are compared, at the temperature of the encoder that is open unless it has one."""
        given, checkpoint = comparison.temperature, self._models.checkpoint
        assert checkpoint is not None
        self._sampler.reference.show_comparison(comparison.cosine, checkpoint.temperature if given is None else given)

    def _show_images(self) -> None:
        """What chains are sent to, and compared with."""
        panel, pictures = self._sampler, self._pictures
        samples = tuple(map(str, bundle.samples()))
        panel.towards.offers = (("Bundled samples", samples), ("Images of the set", tuple(pictures.paths)))
        panel.towards.show_paths(pictures.towards)
        if pictures.towards:
            pictures.picture(pictures.towards[0])
        number = len(pictures.batch or samples)
        what = "image" if pictures.batch else "sample"
        panel.reference.show_batch(f"{number:,} {what}{'' if number == 1 else 's'}")

    @Slot(str, object)
    def _pictured(self, path: str, picture: QImage) -> None:
        if self._pictures.towards[:1] == [path]:
            self._sampler.towards.show_picture(picture)

    def _one_per_target(self) -> int:
        if self._sampler.sampler.coupled:
            return CHAINS
        targets = self._pictures.towards if self._encoder else self._sampler.targets
        return max(1, min(CHAINS, len(targets)))

    @Slot()
    def _model_opened(self) -> None:
        model, awaited = self._models.current, self._awaited
        assert model is not None
        self._awaited = None
        self._own.clear()
        self._sampler.show_checkpoint(model.checkpoint, model.gaussians)
        self._show_comparison(_OF_SAMPLES if self._known is None else self._known.comparison)
        if self._encoder and not self._pictures.towards:
            self._pictures.towards = self._somewhere()
        self._targets_before = self._one_per_target()
        self._show_images()
        if awaited is not None and awaited.settings.model.reference == model.reference:
            self._set(awaited.settings, awaited.name)
        else:
            awaited = None
            self._note()
        if awaited is None or awaited.begins:
            self.renewed.emit()

    def _somewhere(self) -> list[str]:
        """An image to move towards where none was chosen: a bundled one that no chain starts from."""
        samples = list(map(str, bundle.samples()))
        return [path for path in samples if path not in self._pictures.paths][:1] or samples[:1]

    @Slot()
    def _model_stayed(self) -> None:
        """What waited for another model is not set any more when somebody opens that one later."""
        self._awaited = None

    # ---- set by the program ------------------------------------------------------------------------------------------

    def adopt(self, start: RunStart, row: Sampler) -> None:
        """Set what a recorded run was made of, without beginning another; `row` made its last step."""
        self._restore(self._settings_of(start.spec, start.labels, start.checkpoint, row), begins=False)

    def restore(self, run: RunFile) -> None:
        """Set what a run was made of, to begin it anew."""
        settings = self._settings_of(run.spec, run.labels, run.checkpoint, run.spec.sampler)
        self._restore(settings, begins=True)

    def _restore(self, settings: Settings, *, begins: bool) -> None:
        if not self._open(settings, _OF_A_RUN, begins):
            self._set(settings, _OF_A_RUN)
            if begins:
                self.renewed.emit()

    def _open(self, settings: Settings, name: str, begins: bool) -> bool:
        """Whether another model has to be opened first; then the rest is set once it is."""
        model, now = settings.model, self.settings
        if now is not None and now.model == model:
            return False
        self._awaited = _Awaited(settings, name, begins)
        self._models.open_as(model.reference, model.device, model.precision, dict(model.choices))
        return True

    def _apply(self, settings: Settings) -> None:
        """Set it as if by hand: a run in progress heeds it."""
        before = self.settings
        if before is None or self._open(settings, "", True):
            return
        self._set(settings)
        if settings.sampler != before.sampler:
            self.numbers_changed.emit(settings.sampler)
        if replace(settings, sampler=before.sampler) != before:
            self.chains_changed.emit()

    def _settings_of(self, spec: RunSpec, labels: tuple[int, ...], checkpoint: Checkpoint, row: Sampler) -> Settings:
        first = spec.chains[0].start
        paths = tuple(dict.fromkeys(chain.start.path for chain in spec.chains if isinstance(chain.start, ImageStart)))
        given = {i: chain.label for i, chain in enumerate(spec.chains) if chain.label is not None}
        starts: list[Start] = [ImageStart(path) for path in paths] if paths else [first]
        if isinstance(first, GaussianStart):
            starts = list(dict.fromkeys(chain.start for chain in spec.chains))
        fork = None
        if isinstance(first, SessionStart):
            fork = _fork(first.session, first.step, spec, labels, checkpoint)
        targets = sorted(set(given.values())) if checkpoint.classes else list(dict.fromkeys(given.values()))
        seen = [bundle.class_shown(path, checkpoint.classes) for path in paths]
        own = given if fork is not None else self._beside(given, spec, starts, targets, seen)
        aims, others = (_targets_of(spec, labels, checkpoint) for labels in (targets, tuple(own.values())))
        encoder = not checkpoint.classes
        return Settings(
            Choice(spec.checkpoint, spec.device, spec.precision, tuple(sorted(spec.choices.items()))),
            row,
            first.__struct_config__.tag,  # type: ignore[arg-type]
            paths or tuple(self._pictures.paths),
            tuple(self._sampler.targets) if encoder or not targets else tuple(targets),
            tuple(sorted(zip(own, others, strict=True))),
            len(spec.chains),
            min(spec.chains[0].seed, self._sampler.seed.maximum()),
            fork,
            first.of if isinstance(first, GaussianStart) and len(starts) == 1 else "",
            tuple(map(str, aims if encoder else ())) or tuple(self._pictures.towards) or tuple(self._somewhere()),
            _comparison(spec, starts) if encoder else self._comparison,
        )

    @staticmethod
    def _beside(
        own: dict[int, int], spec: RunSpec, starts: list[Start], targets: list[int], seen: list[int | None]
    ) -> dict[int, int]:
        """The targets that the chains would not get by themselves."""
        try:
            laid = lay_out(spec.sampler, starts, targets, len(spec.chains), 0, seen)
        except Refused:
            return own
        return {i: label for i, label in own.items() if laid[i].label != label}

    def _set(self, settings: Settings, name: str = "") -> None:
        """Show it. With a name it can be undone."""
        panel, before = self._sampler, self._known
        self._pictures.paths = list(settings.paths)
        self._pictures.towards, self._pictures.batch = list(settings.towards), list(settings.comparison.images)
        self._show_images()
        self._show_comparison(settings.comparison)
        self._fork = settings.fork
        if self._fork is not None:
            panel.offer_fork(_named(self._fork))
        panel.show_sampler(settings.sampler)
        panel.show_start(settings.start)
        panel.show_gaussian(settings.gaussian)
        panel.chips.choose(settings.targets)
        panel.set_count(settings.count)
        panel.set_seed(settings.seed)
        self._own = dict(settings.own)
        self._targets_before = self._one_per_target()
        self._known = now = self.settings
        if name and before is not None and now is not None and before != now:
            self._stack.push(_Change(self._apply, before, now, name))

    # ---- undo --------------------------------------------------------------------------------------------------------

    def _note(self) -> None:
        """Something was set by hand: remember how it was before."""
        before, now = self._known, self.settings
        self._known = now
        if before is not None and now is not None and before != now:
            self._stack.push(_Change(self._apply, before, now, _name(before, now), self._sampler.gesture))


class _Change(QUndoCommand):
    """From some settings to others. What one pull at a slider does is one change."""

    def __init__(
        self, apply: Callable[[Settings], None], before: Settings, after: Settings, name: str, gesture: int = 0
    ) -> None:
        super().__init__(name)
        self._apply = apply
        self._before, self._after = before, after
        self._gesture = gesture
        self._pushed = False

    def undo(self) -> None:
        self._apply(self._before)

    def redo(self) -> None:
        if self._pushed:
            self._apply(self._after)
        self._pushed = True  # it was set by hand before it was pushed

    def id(self) -> int:
        return 1 if self._gesture else -1

    def mergeWith(self, other: QUndoCommand) -> bool:
        if not isinstance(other, _Change) or other._gesture != self._gesture:
            return False
        self._after = other._after
        self.setObsolete(self._before == self._after)
        return True


def _name(before: Settings, after: Settings) -> str:
    """What is undone, in a word or two."""
    part = next(name for name in _PARTS if getattr(before, name) != getattr(after, name))
    if part != "sampler":
        return _PARTS[part]
    changed = (name for name in _NUMBERS if getattr(before.sampler, name) != getattr(after.sampler, name))
    return _NUMBERS[next(changed)]


def _named(fork: Fork) -> str:
    return f"Step {fork.step:,} of a run"


def _images(spec: RunSpec) -> tuple[str, ...]:
    """The reference batch of an encoder's run."""
    return spec.reference.images if spec.reference is not None else Comparison().batch


def _targets_of(spec: RunSpec, labels: Sequence[int], checkpoint: Checkpoint) -> tuple[Target, ...]:
    """What labels of a run mean, in whatever run they are given next."""
    return tuple(labels) if checkpoint.classes else tuple(_images(spec)[label] for label in labels)


def _fork(session: str, step: int, spec: RunSpec, labels: tuple[int, ...], checkpoint: Checkpoint) -> Fork:
    images = () if checkpoint.classes else _images(spec)
    return Fork(session, step, len(labels), _targets_of(spec, labels, checkpoint), images)


def _comparison(spec: RunSpec, starts: Sequence[Start]) -> Comparison:
    """What was chosen to compare the images of an encoder's run with, without those of the run itself."""
    cosine, images = spec.reference is None or spec.reference.cosine, _images(spec)
    samples = Comparison().batch
    targets = [images[chain.label] for chain in spec.chains if chain.label is not None]
    forks = isinstance(starts[0], SessionStart) and images[: len(samples)] == samples
    by_default = forks or set(compared(samples, starts, targets)) == set(images)
    return Comparison(() if by_default else images, cosine, spec.temperature)
