"""Start-up: logging, style, window, threads. torch is imported on a thread, after the window is on the screen."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import tempfile
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import IO

import platformdirs
from PySide6.QtCore import QMessageLogContext, QSettings, Qt, QtMsgType, qInstallMessageHandler
from PySide6.QtWidgets import QApplication

from cem_gui import theme
from cem_gui.window import MainWindow

log = logging.getLogger("cem_gui")
_DISPLAYLESS = ("offscreen", "minimal", "vnc")
_LEVELS = {
    QtMsgType.QtDebugMsg: logging.DEBUG,
    QtMsgType.QtInfoMsg: logging.INFO,
    QtMsgType.QtWarningMsg: logging.WARNING,
    QtMsgType.QtCriticalMsg: logging.ERROR,
    QtMsgType.QtFatalMsg: logging.CRITICAL,
}


def main() -> int:
    """Open the window and run until it is closed. Returns the exit code."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        if os.environ.get("QT_QPA_PLATFORM") not in _DISPLAYLESS:
            print(
                "There is no display to open a window on: run `cem-explorer demo --out demo` instead.", file=sys.stderr
            )
            return 1
    folder = _writable(platformdirs.user_log_path("cem-explorer"))
    crash_file = _keep_log(folder)
    # Qt aborts on a name that is no text; the paths are read from the arguments themselves.
    app = QApplication([argument for argument in sys.argv if argument.isprintable()])
    app.setApplicationName("CEM Explorer")
    app.setDesktopFileName("cem-explorer")
    app.setAttribute(Qt.ApplicationAttribute.AA_DontShowIconsInMenus)
    settings = QSettings(
        str(_writable(platformdirs.user_config_path("cem-explorer")) / "window.ini"),
        QSettings.Format.IniFormat,
    )
    theme.apply(app, str(settings.value("scheme", "system")))
    window = MainWindow(settings, folder)
    app.aboutToQuit.connect(window.finish)
    window.show()
    app.processEvents()
    code = 0
    if window.isVisible():  # it may have been closed already
        window.start([_text(argument) for argument in sys.argv[1:] if not argument.startswith("-")])
        code = app.exec()
    qInstallMessageHandler(None)
    faulthandler.disable()
    crash_file.close()
    return code


def _text(path: str) -> str:
    """A path that can be sent between threads: bytes that are no text become a replacement character."""
    return path.encode(errors="replace").decode()


def _writable(folder: Path) -> Path:
    """The folder, or one that lasts as long as the program where a home cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="cem-explorer-"))


def _keep_log(folder: Path) -> IO[str]:
    """Everything that goes wrong is in the log file, whatever thread or library it comes from."""
    handler = RotatingFileHandler(folder / "cem-explorer.log", maxBytes=2**20, backupCount=3, encoding="utf-8")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(threadName)s %(levelname)s %(name)s: %(message)s", handlers=[handler]
    )
    crash_file = (folder / "crash.log").open("a")
    faulthandler.enable(crash_file)
    sys.excepthook = _log_exception
    threading.excepthook = lambda args: _log_exception(args.exc_type, args.exc_value, args.exc_traceback)
    qInstallMessageHandler(_log_qt)
    return crash_file


def _log_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        QApplication.quit()
        return
    log.error("unexpected", exc_info=(kind, error or kind(), trace))


def _log_qt(level: QtMsgType, _context: QMessageLogContext, text: str) -> None:
    if level == QtMsgType.QtFatalMsg:  # the program ends here: say why where it was started
        print(text, file=sys.stderr)
    log.log(_LEVELS.get(level, logging.WARNING), "Qt: %s", text)


if __name__ == "__main__":
    raise SystemExit(main())
