"""What the next run is made of: model, sampler, starts, targets and seeds, with every change of it undoable."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import msgspec
from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtGui import QUndoCommand, QUndoStack

from cem_core import bundle
from cem_core.chains import lay_out
from cem_core.export import RunFile
from cem_core.messages import (
    Chain,
    Device,
    GaussianStart,
    ImageStart,
    NoiseStart,
    Precision,
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
_DRAWN: Final[dict[StartKind, Start]] = {"gaussian": GaussianStart(), "noise": NoiseStart(), "replay": ReplayStart()}
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
    "sampler": "",
    "targets": "targets",
    "own": "target of a chain",
    "count": "number of chains",
    "seed": "seed",
}


class Choice(NamedTuple):
    """A model, and as what it is read."""

    reference: str
    device: Device
    precision: Precision
    choices: tuple[tuple[str, str], ...]


class Fork(NamedTuple):
    """A step of a recorded run that chains start from."""

    session: str
    step: int
    chains: int
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """All that the person may set."""

    model: Choice
    sampler: Sampler
    start: StartKind
    paths: tuple[str, ...]
    targets: tuple[int, ...]
    own: tuple[tuple[int, int], ...]
    """(chain, target) where that was chosen for one alone."""
    count: int
    seed: int
    fork: Fork | None = None


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
        self._own: dict[int, int] = {}
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
        pictures.taken.connect(self._images_taken)
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
        )

    @property
    def waits(self) -> bool:
        """More is to be set, once its model is open."""
        return self._awaited is not None

    def spec(self) -> RunSpec:
        """A new run with what is set. Raises Refused if that makes none."""
        model = self._models.current
        assert model is not None
        return RunSpec(
            uuid.uuid4().hex[:12],
            model.reference,
            self._sampler.sampler,
            self._chains(model.checkpoint.classes),
            model.device,
            model.precision,
            model.choices,
        )

    def _chains(self, classes: Sequence[str]) -> tuple[Chain, ...]:
        panel, kind = self._sampler, self._sampler.start_kind
        starts: list[Start]
        seen: list[int | None] = []
        if kind == "image":
            starts = [ImageStart(path) for path in self._pictures.paths]
            seen = [bundle.class_shown(path, classes) for path in self._pictures.paths]
        elif kind == "session" and self._fork is not None:
            starts = [SessionStart(self._fork.session, self._fork.step, chain) for chain in range(self._fork.chains)]
        else:
            starts = [_DRAWN.get(kind, NoiseStart())]
        chains = lay_out(panel.sampler, starts, panel.targets, panel.count.value(), panel.seed.value(), seen)
        return tuple(
            msgspec.structs.replace(chain, label=self._label(i, chain.label)) for i, chain in enumerate(chains)
        )

    def _label(self, chain: int, laid: int | None) -> int | None:
        """A forked chain keeps its target as long as that is among those that are chosen."""
        if chain in self._own:
            return self._own[chain]
        fork = self._fork if self._sampler.start_kind == "session" else None
        if fork is not None and laid is not None and fork.labels[chain % fork.chains] in self._sampler.targets:
            return fork.labels[chain % fork.chains]
        return laid

    # ---- set by hand -------------------------------------------------------------------------------------------------

    def set_target(self, chain: int, label: int) -> None:
        """The target of one chain alone."""
        self._own[chain] = label
        self._note()
        self.chains_changed.emit()

    def fork(self, session: str, step: int, start: RunStart) -> None:
        """Start from a step of a recorded run."""
        self._fork = Fork(session, step, len(start.labels), start.labels)
        self._own.clear()
        self._sampler.offer_fork(_named(self._fork))
        self._sampler.show_start("session")
        self._sampler.set_count(self._fork.chains)
        self._note()

    @Slot(object)
    def _numbers_set(self, sampler: Sampler) -> None:
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
        self._note()

    def _one_per_target(self) -> int:
        return max(1, min(CHAINS, len(self._sampler.targets)))

    @Slot()
    def _model_opened(self) -> None:
        model, awaited = self._models.current, self._awaited
        assert model is not None
        self._awaited = None
        self._own.clear()
        if not self._models.hindrance:
            self._sampler.show_checkpoint(model.checkpoint, model.gaussians)
            self._targets_before = self._one_per_target()
        if awaited is not None and awaited.settings.model.reference == model.reference:
            self._set(awaited.settings, awaited.name)
        else:
            awaited = None
            self._note()
        if awaited is None or awaited.begins:
            self.renewed.emit()

    @Slot()
    def _model_stayed(self) -> None:
        """What waited for another model is not set any more when somebody opens that one later."""
        self._awaited = None

    # ---- set by the program ------------------------------------------------------------------------------------------

    def adopt(self, start: RunStart, row: Sampler) -> None:
        """Set what a recorded run was made of, without beginning another; `row` made its last step."""
        self._restore(self._settings_of(start.spec, start.labels, start.checkpoint.classes, row), begins=False)

    def restore(self, run: RunFile) -> None:
        """Set what a run was made of, to begin it anew."""
        settings = self._settings_of(run.spec, run.labels, run.checkpoint.classes, run.spec.sampler)
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

    def _settings_of(self, spec: RunSpec, labels: tuple[int, ...], classes: Sequence[str], row: Sampler) -> Settings:
        first = spec.chains[0].start
        paths = tuple(dict.fromkeys(chain.start.path for chain in spec.chains if isinstance(chain.start, ImageStart)))
        given = [chain.label for chain in spec.chains]
        own = {i: label for i, label in enumerate(given) if label is not None}
        targets = sorted(set(own.values()))
        fork = None
        if isinstance(first, SessionStart):
            fork = Fork(first.session, first.step, len(spec.chains), labels)
        elif isinstance(first, ImageStart):
            seen = [bundle.class_shown(path, classes) for path in paths]
            own = self._beside(own, spec, [ImageStart(path) for path in paths], targets, seen)
        else:
            own = self._beside(own, spec, [first], targets, [])
        return Settings(
            Choice(spec.checkpoint, spec.device, spec.precision, tuple(sorted(spec.choices.items()))),
            row,
            first.__struct_config__.tag,  # type: ignore[arg-type]
            paths or tuple(self._pictures.paths),
            tuple(targets) or tuple(self._sampler.targets),
            tuple(sorted(own.items())),
            len(spec.chains),
            min(spec.chains[0].seed, self._sampler.seed.maximum()),
            fork,
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
        self._fork = settings.fork
        if self._fork is not None:
            panel.offer_fork(_named(self._fork))
        panel.show_sampler(settings.sampler)
        panel.show_start(settings.start)
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
