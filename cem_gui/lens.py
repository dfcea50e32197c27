"""The lens: each step of the run in sight split into its class part ∇f(x,y) and its marginal part ∇LSE(x).

Steps are recorded, so they are split afterwards: those of the chosen chain one after the other, and first of all those
that are looked at. The measuring thread gets one small piece of work at a time, and rests while a run goes on.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtGui import QAction

from cem_core.messages import Floats, Sampler
from cem_core.probes import requests
from cem_core.probes.requests import Subject
from cem_core.probes.results import Note, Split
from cem_core.session import Session
from cem_gui.panels.curves import CurvesPanel, Parts
from cem_gui.panels.evolution import EvolutionPanel, Maps
from cem_gui.player import Player
from cem_gui.prober import Job, Prober
from cem_gui.sight import Sight
from cem_gui.widgets.figures import figure

_BUDGET: Final = 128 * 2**20
"""Bytes of maps that are kept; those of the step in sight always are."""
_PIECE_SECONDS: Final = 0.15
"""What a piece of work should take, so that another step in sight need not wait for long."""
_PIECE_MOST: Final = 64
_LATEST: Final = 8
"""Answers over which the cost is averaged: the first take longer."""
_READING_SECONDS: Final = 0.01
"""How long the window may be kept from painting by reading steps for a piece."""
_REST: Final = 4
"""While a run goes on, the lens rests so many times as long as it worked: it takes at most a fifth of the machine."""
_ACROSS: Final = 0.05
"""Cosine up to which directions count as orthogonal."""

_Place: TypeAlias = tuple[int, int]
"""A step, and a chain."""


class _Known:
    """What is known of one run: numbers for good, maps as far as memory goes."""

    def __init__(self, session: Session) -> None:
        self.lost = sum(not session.kept(step) for step in range(len(session)))
        """Steps whose pixels were thinned out; later ones are all kept."""
        self.maps: OrderedDict[_Place, tuple[Floats, Floats]] = OrderedDict()
        """∇f(x,y) and ∇LSE(x), (C, H, W) each; what was looked at last is last."""
        self._numbers: dict[int, Floats] = {}
        self._firsts: dict[int, int] = {}

    def numbers(self, chain: int, steps: int) -> Floats:
        """(T, 4) ‖∇f‖, ‖∇LSE‖, cosine, and 1 if they are known, at so many steps of a chain; NaN where they are not."""
        table = self._numbers.get(chain)
        if table is None or len(table) < steps:
            grown = np.full((max(64, 2 * steps), 4), np.nan, np.float32)
            if table is not None:
                grown[: len(table)] = table
            self._numbers[chain] = table = grown
        return table[:steps]

    def has(self, step: int, chain: int) -> bool:
        return not math.isnan(self.numbers(chain, step + 1)[step, 3])

    def unknown(self, session: Session, chain: int) -> Iterator[int]:
        """The steps of a chain that can be split and were not, in order."""
        first = self._firsts.get(chain, 0)
        while first < len(session) and (not session.kept(first) or self.has(first, chain)):
            first += 1
        self._firsts[chain] = first
        yield from (step for step in range(first, len(session)) if session.kept(step) and not self.has(step, chain))


class Lens(QObject):
    """Off until somebody turns it on; what it costs is shown beside it."""

    said = Signal(str)
    """A sentence that should be read."""

    def __init__(
        self,
        prober: Prober,
        player: Player,
        sight: Sight,
        evolution: EvolutionPanel,
        curves: CurvesPanel,
        action: QAction,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._prober, self._player, self._sight = prober, player, sight
        self._evolution, self._curves, self._action = evolution, curves, action
        self._runs: WeakKeyDictionary[Session, _Known] = WeakKeyDictionary()
        self._session: Session | None = None
        self._job: Job | None = None
        self._piece: list[_Place] = []
        """What the job is about."""
        self._asked_at = 0
        """The step in sight when it was begun."""
        self._shown: Maps | None = None
        self._shown_at: dict[int, int] = {}
        """Chain → the step of which its maps are shown."""
        self._drawn = -1
        """The chain whose curves are drawn as far as they are known."""
        self._took: deque[tuple[int, float]] = deque(maxlen=_LATEST)
        """Images and seconds of the latest answers."""
        self._rests_until = 0.0
        evolution.lens.setToolTip(f"{action.toolTip()} ({action.shortcut().toString()})")
        evolution.show_lens(False)
        evolution.lens_wanted.connect(self.switch)
        evolution.viewed.connect(self._look)
        curves.lens_wanted.connect(self.switch)
        action.triggered.connect(self.switch)
        sight.moved.connect(self._look)
        player.gait_changed.connect(self._look)
        prober.told.connect(self._told)
        prober.ended.connect(self._ended)

    @property
    def on(self) -> bool:
        return self._action.isChecked()

    @Slot(bool)
    def switch(self, on: bool) -> None:
        """Turn it on or off; the numbers that are known stay."""
        self._action.setChecked(on)
        self._evolution.show_lens(on)
        self._leave()
        if on:
            self._look()
        else:
            self._curves.show_parts(None)
            self._curves.tell("")

    # ---- what is asked -----------------------------------------------------------------------------------------------

    @Slot()
    def _look(self) -> None:
        """Show what is known of what is in sight, and ask for what is not."""
        session = self._sight.session
        if not self.on or session is None or not len(session):
            return
        if not session.start.checkpoint.classes:
            self._fail("The lens is off: it splits the steps of models with classes, and this one has none.")
            return
        if session is not self._session:
            self._leave()
            self._session = session
        known = self._known(session)
        self._show_curves(session, known)
        self._show_maps(session, known, self._sight.step)
        self._show_cost(session, known)
        if self._job is None and not self._rests:
            self._ask(session, known)

    @property
    def _each(self) -> float:
        """Seconds an image takes; inf until it is known."""
        images, seconds = (sum(values) for values in zip(*self._took, strict=True)) if self._took else (0, 0.0)
        return max(seconds / images, 1e-6) if images else math.inf

    @property
    def _rests(self) -> bool:
        return self._player.gait == "running" and time.perf_counter() < self._rests_until

    def _known(self, session: Session) -> _Known:
        if session not in self._runs:
            self._runs[session] = _Known(session)
        return self._runs[session]

    def _ask(self, session: Session, known: _Known) -> None:
        many = min(max(int(_PIECE_SECONDS / self._each), 1), _PIECE_MOST)
        pixels: list[Floats] = []
        self._piece, self._asked_at = [], self._sight.step
        last, of_step = -1, np.empty(0, np.float32)
        begun = time.perf_counter()
        try:
            for step, chain in islice(self._wanted(session, known), many):
                if pixels and time.perf_counter() - begun > _READING_SECONDS:
                    break
                if step != last:
                    last, of_step = step, session[step].pixels
                self._piece.append((step, chain))
                pixels.append(of_step[chain])
        except OSError as error:
            self._fail(f"The lens is off again: a step could not be read back ({error.strerror or error}).")
            return
        if not pixels:
            return
        spec, labels = session.start.spec, session.start.labels
        self._job = Job(
            requests.Lens(
                Subject(spec.checkpoint, spec.choices, spec.device),
                np.stack(pixels),
                labels[self._sight.chain],
                batch=len(pixels),
                labels=tuple(labels[chain] for _, chain in self._piece),
                sha256=session.start.checkpoint.sha256,
            )
        )
        self._prober.begin(self._job)

    def _wanted(self, session: Session, known: _Known) -> Iterator[_Place]:
        """What is not known, the most urgent first: what is in sight, then the rest of the chosen chain."""
        step, chosen = self._sight.step, self._sight.chain
        yield from self._missing(known)
        if not self._evolution.of_lens and not known.has(step, chosen):
            yield step, chosen
        yield from ((other, chosen) for other in known.unknown(session, chosen) if other != step)

    def _missing(self, known: _Known) -> Iterator[_Place]:
        """The maps that are looked at and not known: first those of which the oldest are shown, so that a run that is
        faster than the lens leaves none behind."""
        step = self._sight.step
        chains = [chain for chain in self._looked_at() if (step, chain) not in known.maps]
        return ((step, chain) for chain in sorted(chains, key=lambda chain: self._shown_at.get(chain, -1)))

    def _looked_at(self) -> list[int]:
        """Chains whose maps are on the screen, the chosen one first."""
        if not self._evolution.of_lens or self._session is None:
            return []
        chosen = self._sight.chain
        others = () if self._evolution.is_large else range(len(self._session.start.labels))
        return [chosen, *(chain for chain in others if chain != chosen)]

    def _leave(self) -> None:
        """Want no more of the run that was looked at, and keep its numbers alone."""
        if self._job is not None:
            self._job.cancel()
        for known in self._runs.values():
            known.maps.clear()
        self._session, self._job, self._shown, self._drawn = None, None, None, -1
        self._shown_at.clear()
        self._took.clear()

    def _fail(self, sentence: str) -> None:
        self.switch(False)
        self.said.emit(sentence)

    # ---- what is answered --------------------------------------------------------------------------------------------

    @Slot(object, list)
    def _told(self, job: Job, answers: list[Split | Note]) -> None:
        if job is not self._job or self._session is None:
            return
        for answer in answers:
            if isinstance(answer, Note):
                self.said.emit(answer.says)
            else:
                self._take(self._known(self._session), answer)
        # A run that goes on is elsewhere by now, and shows what was in sight a moment ago.
        self._show_maps(self._session, self._known(self._session), self._asked_at)
        self._drawn = -1
        self._look()

    @Slot(object, str)
    def _ended(self, job: Job, problem: str) -> None:
        if job is not self._job:
            return
        self._job = None
        if problem:
            self._fail(problem)
        else:
            self._look()

    def _take(self, known: _Known, answer: Split) -> None:
        self._took.append((len(answer.cosine), answer.seconds))
        self._rests_until = time.perf_counter() + _REST * answer.seconds
        for i, (step, chain) in enumerate(self._piece[answer.first : answer.first + len(answer.cosine)]):
            found = answer.class_norm[i], answer.marginal_norm[i], answer.cosine[i], 1
            known.numbers(chain, step + 1)[step] = found
            known.maps[step, chain] = answer.class_part[i].copy(), answer.marginal_part[i].copy()
        in_sight = self._sight.step
        for chain in self._looked_at():
            if (in_sight, chain) in known.maps:
                known.maps.move_to_end((in_sight, chain))
        room = _BUDGET // (2 * answer.class_part[0].nbytes)
        while len(known.maps) > room and next(iter(known.maps))[0] != in_sight:
            known.maps.popitem(last=False)

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def _show_curves(self, session: Session, known: _Known) -> None:
        step, chain = self._sight.step, self._sight.chain
        numbers = known.numbers(chain, len(session))
        if self._drawn != chain:
            self._drawn = chain
            self._curves.show_parts(Parts(*numbers.T[:3]))
        label = session.start.labels[chain]
        drift = float(session.numbers.gradient_norm[step, chain])
        class_norm, marginal_norm, cosine = (float(value) for value in numbers[step, :3])
        name = session.start.checkpoint.classes[label]
        self._curves.tell(explain(_row_at(session, step), class_norm, marginal_norm, cosine, drift, name))

    def _show_maps(self, session: Session, known: _Known, step: int) -> None:
        ours = (step, self._sight.step)
        fresh = [
            chain
            for chain in self._looked_at()
            if self._shown_at.get(chain) not in ours and (step, chain) in known.maps
        ]
        if not fresh:
            return
        if self._shown is None:
            checkpoint = session.start.checkpoint
            shape = len(session.start.labels), checkpoint.channels, checkpoint.size, checkpoint.size
            self._shown = Maps(np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32))
        for chain in fresh:
            self._shown.class_part[chain], self._shown.marginal_part[chain] = known.maps[step, chain]
            self._shown_at[chain] = step
        self._evolution.show_maps(self._shown)

    def _show_cost(self, session: Session, known: _Known) -> None:
        done = int(np.isfinite(known.numbers(self._sight.chain, len(session))[:, 3]).sum())
        total = len(session) - known.lost
        looked_at = self._looked_at()
        maps = sum(self._shown_at.get(chain) == self._sight.step for chain in looked_at)
        words = []
        if maps < len(looked_at):
            words.append(f"maps {maps:,} of {len(looked_at):,}")
        if done < total:
            words.append(f"{done:,} of {total:,} steps")
        if self._took:
            own = f" (run {_told_time(1 / self._player.rate)})" if self._player.rate else ""
            words.append(f"{_told_time(self._each)} a step{own}")
        tip = (
            "What the lens takes for one step of one chain: a forward and two backward passes, in float32.\n"
            f"A step of the run moves {len(session.start.labels):,} at once."
        )
        if maps < len(looked_at):
            tip += "\nMaps that are still to come are empty, or those of the step that was in sight before."
        self._evolution.show_cost(" · ".join(words), tip)


def explain(row: Sampler, class_norm: float, marginal_norm: float, cosine: float, drift: float, target: str) -> str:
    """What the two parts come to in a step of a sampler, in a line; empty where they are not known.

    drift: ‖a∇f + b∇LSE‖₂; target: name of the class y.
    """
    if math.isnan(class_norm):
        return ""
    if not class_norm or not marginal_norm:
        return f"{'∇LSE' if class_norm else '∇f'} is zero here: the model does not tell which way to go."
    a, b, who = row.a, row.b, f"{row.name}, {_formula(row.a, row.b)},"
    if not a and not b:
        return f"{row.name} follows neither part: nothing but noise moves the chain."
    if not a or not b:
        moved, how = (f"E(x,{target})", b * cosine) if not a else ("E(x)", a * cosine)
        change = "hardly changes" if abs(how) <= _ACROSS * abs(a + b) else "falls" if how > 0 else "rises"
        left_out = "∇f" if not a else "∇LSE"
        return f"{who} leaves {left_out} out (cos {figure(cosine)}): along it {moved} {change}."
    kept = drift / (abs(a) * class_norm + abs(b) * marginal_norm)
    aims = {
        (True, False): f"what tells {target} from the rest",
        (False, True): f"what leads away from {target}",
        (True, True): f"towards {target} and where images are likely",
        (False, False): f"away from {target} and from where images are likely",
    }
    return f"{who} keeps {kept:.0%} of both lengths (cos {figure(cosine)}): {aims[a > 0, b > 0]}."


def _formula(a: float, b: float) -> str:
    """∇f − ∇LSE, 0.5∇f + 2∇LSE, −∇f …"""
    terms = [(weight, part) for weight, part in ((a, "∇f"), (b, "∇LSE")) if weight]
    text = ""
    for weight, part in terms:
        sign = ("−" if weight < 0 else "") if not text else (" − " if weight < 0 else " + ")
        text += sign + ("" if abs(weight) == 1 else f"{abs(weight):g}") + part
    return text


def _row_at(session: Session, step: int) -> Sampler:
    """The row that made a step."""
    made = [row for first, row in session.changes if first <= step]
    return made[-1] if made else session.start.spec.sampler


def _told_time(seconds: float) -> str:
    ms = 1000 * seconds
    return f"{seconds:.1f} s" if ms >= 1000 else f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"
