"""The file thread: opens checkpoints, reads images, writes exports, so that none waits for a run nor a run for them.

The first checkpoint brings torch along, which takes longer than all else: by then the window is on the screen.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path

from PySide6.QtCore import QObject, QThread, QTimer, Signal, Slot

from cem_core import export, images
from cem_core.export import Export, Progress
from cem_core.messages import Device, Precision, Refused
from cem_core.session import Session

log = logging.getLogger(__name__)


class Files(QObject):
    """Lives on its own thread. An export is advanced piece by piece, so that drops and a cancel get their turn."""

    opened = Signal(str, object, object, bool)
    """What was asked for, (device, precision), the Checkpoint, and whether its classes have Gaussians to start from."""
    refused = Signal(str, str)
    """What was asked for, and why it could not be opened."""
    checked = Signal(list, list)
    """Paths that are images, and a sentence for each that is not."""
    exporting = Signal(object)
    """Progress."""
    exported = Signal(str, str)
    """The folder that was written, or empty; and a sentence if it failed."""

    def __init__(self) -> None:
        super().__init__()
        self._export: Generator[Progress, None, None] | None = None
        self._out = ""

    @Slot(str, str, str)
    def open(self, reference: str, device: Device, precision: Precision) -> None:
        """Open a bundled model or a file; `opened` or `refused` follows. The run in progress is not touched."""
        from cem_core import checkpoints, starts

        try:
            _, checkpoint = checkpoints.load(reference, device, precision)
        except Refused as refused:
            self.refused.emit(reference, str(refused))
        except Exception as error:
            log.exception("opening %s failed", reference)
            self.refused.emit(reference, f"{reference} could not be opened ({error}): the log file has the details.")
        else:
            self.opened.emit(reference, (device, precision), checkpoint, starts.has_gaussians(checkpoint))

    @Slot(list, int)
    def check(self, paths: list[str], size: int) -> None:
        """Which of these files a model of this input size can start from."""
        good, bad = [], []
        for path in paths:
            try:
                images.prepare(path, size)
            except Refused as refused:
                bad.append(str(refused))
            except Exception as error:
                log.exception("reading %s failed", path)
                bad.append(f"{Path(path).name} could not be read ({error}): the log file has the details.")
            else:
                good.append(path)
        self.checked.emit(good, bad)

    @Slot(object, str, object)
    def export(self, session: Session, out: str, choices: Export) -> None:
        """Begin an export; `exporting` follows until `exported`. An export in progress is cancelled."""
        self.cancel()
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
    def cancel(self) -> None:
        """End the export in progress; it leaves nothing behind."""
        if self._export is not None:
            self._export.close()
            self._export = None
            self.exported.emit("", "")

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


class FilesThread(QThread):
    """The thread and its object."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("files")
        self.files = Files()
        self.files.moveToThread(self)
        self.finished.connect(self.files.cancel)

    def finish(self) -> None:
        """Cancel what is under way and wait."""
        self.quit()
        self.wait()
