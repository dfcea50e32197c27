"""The file thread: opens checkpoints, reads images, writes exports, so that none waits for a run nor a run for them.

The first checkpoint brings torch along, which takes longer than all else: by then the window is on the screen.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from PySide6.QtCore import QObject, QThread, QTimer, Signal, Slot

from cem_core import export, images
from cem_core.export import Export, Progress, RunFile
from cem_core.messages import Checkpoint, Device, Precision, Refused
from cem_core.session import Session

if TYPE_CHECKING:
    from cem_core.zoo import Entry

log = logging.getLogger(__name__)

Found = TypeVar("Found")

_TELL_EVERY: Final = 0.05
"""Seconds between two words on how far an opening is."""


@dataclass(frozen=True, eq=False)
class Opening:
    """A model that somebody wants open. `cancelled` may be set from any thread."""

    reference: str
    """Name of a bundled model or path of a file; or what is shown of an entry."""
    device: Device
    precision: Precision
    choices: dict[str, str] | None = None
    """What the file is to be read as; None: what was remembered of it."""
    remember: bool = False
    """Read it so from now on, if it opens so."""
    entry: Entry | None = None
    """A published model, which is downloaded first unless it is there."""
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model that is open, and as what."""

    reference: str
    device: Device
    precision: Precision
    choices: dict[str, str]
    checkpoint: Checkpoint
    gaussians: tuple[str, ...]
    """The classes that have Gaussians to start from."""
    notes: tuple[str, ...] = ()
    """A sentence each."""

    @property
    def measured(self) -> bool:
        """Whether its accuracy is known better than a check could tell."""
        return self.checkpoint.fact("accuracy") is not None and not self.choices


@dataclass(frozen=True)
class Verdict:
    """What the bundled images say of a model."""

    right: int
    total: int
    sentence: str
    """Empty if all is well."""
    better: bool
    """Another reading of the file would do better."""


class Files(QObject):
    """Lives on its own thread, one thing at a time; a check waits for all else. An export is advanced piece by piece.

    The window asks by plain calls from its own thread, and is answered by signals.
    """

    progress = Signal(object, str, float)
    """Opening, what is being done, and the share of it."""
    opened = Signal(object, object)
    """Opening, OpenModel."""
    refused = Signal(object, str)
    """Opening, and why it could not be opened. Of one that was cancelled nothing is heard."""
    checked = Signal(object, object)
    """OpenModel that was not measured, and a Verdict; None where the bundled images say nothing of it."""
    zoo_listed = Signal(list, str)
    """The published models that can be had; or a sentence if there are none."""
    sifted = Signal(list, list)
    """Paths that are images, and a sentence for each that is not."""
    carried = Signal(object)
    """RunFile: the one file that was to be sifted carries a run."""
    exporting = Signal(object)
    """Progress."""
    exported = Signal(str, str)
    """The folder that was written, or empty; and a sentence if it failed."""
    measured = Signal(object, str, str)
    """Choices and a format of theirs; and a few words on how much of the perturbation it keeps."""
    _wanted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0
        """Counted on the window's thread, and `_begun` on the other: where it is more, somebody waits."""
        self._begun = 0
        self._ending = threading.Event()
        self._to_check: OpenModel | None = None
        self._export: Generator[Progress, None, None] | None = None
        self._out = ""
        self._measuring: Export | None = None
        self._wanted.connect(self._begin)

    # ---- on the window's thread --------------------------------------------------------------------------------------

    def open(self, opening: Opening) -> None:
        """Open a model; `opened` or `refused` follows unless it is cancelled. The run in progress is not touched."""
        self.ask(lambda: self._open(opening))

    def list_zoo(self) -> None:
        """Ask what published models there are; `zoo_listed` follows."""
        self.ask(self._list_zoo)

    def sift(self, paths: list[str], size: int) -> None:
        """Ask which of these files a model of this input size can start from; `sifted` follows."""
        self.ask(lambda: self._sift(paths, size))

    def export(self, session: Session, out: str, choices: Export) -> None:
        """Begin an export; `exporting` follows until `exported`. An export in progress is cancelled."""
        self.ask(lambda: self._begin_export(session, out, choices))

    def measure(self, session: Session, choices: Export) -> None:
        """Ask what each format keeps of the perturbation; `measured` follows unless others are asked for meanwhile."""
        self._measuring = choices
        self.ask(lambda: self._measure(session, choices))

    def stop_measuring(self) -> None:
        self._measuring = None

    def cancel(self) -> None:
        """End the export in progress; it leaves nothing behind."""
        self.ask(self._cancel)

    def end(self) -> None:
        """Let go of what is under way, since the program ends."""
        self._ending.set()

    def ask(self, job: Callable[[], None]) -> None:
        """Have something done on the file thread, in its turn."""
        self._asked += 1
        self._wanted.emit(job)

    # ---- on the file thread ------------------------------------------------------------------------------------------

    @Slot(object)
    def _begin(self, job: Callable[[], None]) -> None:
        self._begun += 1
        if not self._ending.is_set():
            job()
            QTimer.singleShot(0, self, self._check)

    def _open(self, opening: Opening) -> None:
        from cem_core import checkpoints

        try:
            model = self._opened(opening)
        except checkpoints.Cancelled:
            pass
        except Refused as refused:
            self.refused.emit(opening, str(refused))
        except Exception as error:
            log.exception("opening %s failed", opening.reference)
            said = f"{opening.reference} could not be opened ({error}): the log file has the details."
            self.refused.emit(opening, said)
        else:
            self._to_check = None if model.measured else model
            self.opened.emit(opening, model)

    def _opened(self, opening: Opening) -> OpenModel:
        from cem_core import checkpoints, starts

        def watching(what: str) -> Callable[[float], None]:
            told = 0.0

            def watch(share: float) -> None:
                nonlocal told
                if opening.cancelled.is_set() or self._ending.is_set():
                    raise checkpoints.Cancelled
                if time.monotonic() - told >= _TELL_EVERY:
                    told = time.monotonic()
                    self.progress.emit(opening, what, share)

            return watch

        reference, place = opening.reference, (opening.device, opening.precision)
        watch = watching("Opening")
        watch(0)
        if opening.entry is not None:
            from cem_core import zoo

            reference = str(zoo.fetch(opening.entry, watching("Downloading")))
        notes: list[str] = []
        choices = opening.choices
        if choices is None:
            choices = checkpoints.recall(reference)
        try:
            _, checkpoint = checkpoints.load(reference, *place, choices, watch)
        except Refused as refused:
            if opening.choices is not None or not choices:
                raise
            # Chosen in an older version, perhaps: no reason never to open the file again.
            notes.append(f"What was chosen for {Path(reference).name} before was left out: {refused}")
            choices = {}
            _, checkpoint = checkpoints.load(reference, *place, choices, watch)
        watch(1)
        if opening.remember:
            notes += _remember(checkpoint, choices)
        notes += checkpoint.warnings
        gaussians = starts.gaussian_classes(checkpoint) if starts.has_gaussians(checkpoint) else ()
        return OpenModel(reference, *place, choices, checkpoint, gaussians, tuple(notes))

    @Slot()
    def _check(self) -> None:
        """See what the model makes of the bundled images, once nobody waits for anything else."""
        model = self._to_check
        if model is None or self._export is not None or not self._idle():
            return  # whatever is done before it comes back here
        from cem_core import checkpoints

        try:
            check = checkpoints.check(
                model.reference, model.choices, self._idle, device=model.device, precision=model.precision
            )
        except Refused:  # the file has gone since
            check = None
        except Exception:
            log.exception("checking %s failed", model.reference)
            check = None
        if self._idle():  # else it was ended half-way
            self._to_check = None
            verdict = check and Verdict(check.right, check.total, check.sentence, check.better is not None)
            self.checked.emit(model, verdict)

    def _idle(self) -> bool:
        return self._asked == self._begun and not self._ending.is_set()

    def _list_zoo(self) -> None:
        from cem_core import zoo

        try:
            if zoo.installed():
                self.zoo_listed.emit(list(zoo.entries()), "")
            else:
                self.zoo_listed.emit([], zoo.HOW_TO_INSTALL)
        except Refused as refused:
            self.zoo_listed.emit([], str(refused))
        except Exception as error:
            log.exception("listing RobustBench failed")
            self.zoo_listed.emit([], f"RobustBench could not be asked ({error}): the log file has the details.")

    def _sift(self, paths: list[str], size: int) -> None:
        good: list[str] = []
        bad: list[str] = []
        if len(paths) == 1 and (run := self._carried(paths[0], bad)) is not None:
            self.carried.emit(run)
            return
        for path in paths:
            _, problem = tried(f"{Path(path).name} could not be read", partial(images.prepare, path, size))
            (bad if problem else good).append(problem or path)
        self.sifted.emit(good, bad)

    def _measure(self, session: Session, choices: Export) -> None:
        def stopped() -> bool:
            return self._measuring is not choices or self._ending.is_set()

        for format in choices.formats:
            try:
                found = export.measure(session, choices, format, stopped)
                sentence = "nothing has moved yet" if found is None else found.sentence
            except Refused as refused:
                sentence = str(refused)
            except Exception as error:
                log.exception("measuring %s failed", format)
                sentence = f"could not be measured ({error})"
            if stopped():
                return
            self.measured.emit(choices, format, sentence)

    @staticmethod
    def _carried(path: str, bad: list[str]) -> RunFile | None:
        """What an exported picture was made by. Somebody else's picture is just a picture."""
        try:
            return export.read(path)
        except Refused as refused:
            bad.append(str(refused))
        except Exception:
            log.exception("looking for a run in %s failed", path)
        return None

    def _begin_export(self, session: Session, out: str, choices: Export) -> None:
        self._cancel()
        try:
            self._export, self._out = export.export(session, out, choices), out
        except Refused as refused:
            self.exported.emit("", str(refused))
        except Exception as error:
            log.exception("export to %s failed", out)
            self.exported.emit("", f"The export failed ({error}): the log file has the details.")
        else:
            self._advance()

    @Slot()
    def _cancel(self) -> None:
        if self._export is not None:
            self._export.close()
            self._done("", "")

    @Slot()
    def _advance(self) -> None:
        if self._export is None:
            return
        try:
            progress = next(self._export)
        except StopIteration:
            self._done(self._out, "")
        except Refused as refused:
            self._done("", str(refused))
        except Exception as error:
            log.exception("export to %s failed", self._out)
            self._done("", f"The export failed ({error}): the log file has the details.")
        else:
            self.exporting.emit(progress)
            if progress.done == progress.total:  # it is in place: too late to be cancelled
                self._done(self._out, "")
            else:
                QTimer.singleShot(0, self, self._advance)

    def _done(self, out: str, problem: str) -> None:
        self._export = None
        self.exported.emit(out, problem)
        QTimer.singleShot(0, self, self._check)


def _remember(checkpoint: Checkpoint, choices: dict[str, str]) -> list[str]:
    """Keep what was chosen for a file; a sentence if that fails, which is no reason not to open it."""
    from cem_core import checkpoints

    try:
        checkpoints.remember(checkpoint.sha256, choices)
    except Refused as refused:
        return [f"What was chosen holds until the program ends: {refused}"]
    return []


def tried(failed: str, work: Callable[[], Found]) -> tuple[Found | None, str]:
    """What came of it, or why nothing did, in a sentence that begins with `failed` unless it is Refused."""
    try:
        return work(), ""
    except Refused as refused:
        return None, str(refused)
    except Exception as error:
        log.exception("%s", failed)
        return None, f"{failed} ({error}): the log file has the details."


class FilesThread(QThread):
    """The thread and its object."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("files")
        self.setStackSize(8 * 2**20)  # parsing what a hostile file holds may take more than some systems give
        self.files = Files()
        self.files.moveToThread(self)
        self.finished.connect(self.files._cancel)

    def finish(self) -> None:
        """Cancel what is under way and wait."""
        self.files.end()
        self.quit()
        self.wait()
