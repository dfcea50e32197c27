"""The arrows of ARCHITECTURE.md: who may import whom, read from the sources and from what is loaded in the end."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
QT = ("PySide6", "PyQt6", "shiboken6", "qtpy", "superqt", "pyqtgraph")
WITHOUT_TORCH = ("messages", "presets", "chains", "images", "datasets", "session", "bundle", "starts", "export",
                 "sheet", "png", "webp", "cli", "frames", "recording", "sessions", "events", "zoo",
                 "writing", "drawing", "cluster", "probes.requests", "probes.results", "probes.measuring",
                 "probes.journal",
                 "probes.lights", "probes.report", "probes.energy_report",
                 "training.recipe", "training.history",
                 "evaluation.requests", "evaluation.results", "evaluation.statistics", "evaluation.shards",
                 "evaluation.features", "evaluation.looking", "evaluation.report", "evaluation.rows")  # fmt: skip
HEAVY = ("torch", "cem_core.runner", "cem_core.samplers", "cem_core.checkpoints", "cem_core.models",
         "cem_core.energies", "cem_core.linked",
         *(f"cem_core.probes.{name}" for name in
           ("attacks", "accuracy", "smallest", "subjects", "histograms", "landscape", "lens")),
         "cem_core.evaluation.extractors", "cem_core.evaluation.metrics",
         "cem_core.evaluation.sampling", "cem_core.evaluation.evaluating", "cem_core.evaluation.tables")  # fmt: skip
"""What brings torch along."""
THREADS = ("files.py", "worker.py", "prober.py")
"""The threads beside the window's: only they import what is heavy, inside functions, after the window is shown."""


def sources(package: str) -> list[Path]:
    found = sorted((CHECKOUT / package).rglob("*.py"))
    assert found
    return found


def told(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def imported(source: str, *, only_at_once: bool = False) -> set[str]:
    """Dotted names of all that a source imports anywhere; with `only_at_once`, of what its import imports."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
        if not (only_at_once and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)
    return names


def among(names: Iterable[str], packages: Iterable[str]) -> set[str]:
    return {name for name in names for package in packages if name == package or name.startswith(package + ".")}


def loaded(statements: str) -> set[str]:
    """The modules that a fresh Python has loaded after the statements."""
    code = f"{statements}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import torch.nn as nn
from cem_core import runner, messages
if TYPE_CHECKING:
    from PySide6.QtCore import Qt
class Late:
    import pyqtgraph
    def load(self):
        try:
            from cem_core.samplers import step
        except ImportError:
            import superqt
"""
    at_once = {"torch.nn", "cem_core", "cem_core.runner", "cem_core.messages", "PySide6.QtCore", "PySide6.QtCore.Qt",
               "pyqtgraph"}  # fmt: skip
    assert imported(source, only_at_once=True) == at_once
    assert imported(source) == at_once | {"cem_core.samplers", "cem_core.samplers.step", "superqt"}
    assert among(imported(source), HEAVY) == {"torch.nn", "cem_core.runner", "cem_core.samplers",
                                              "cem_core.samplers.step"}  # fmt: skip
    assert among({"torchvision", "cem_core.runner_up"}, HEAVY) == set()


# The core ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sources("cem_core"), ids=told)
def test_the_core_knows_no_window(path: Path) -> None:
    assert not among(imported(path.read_text(encoding="utf-8")), (*QT, "cem_gui"))


def test_these_modules_of_the_core_load_no_torch() -> None:
    found = loaded("\n".join(f"import cem_core.{name}" for name in WITHOUT_TORCH))
    assert {f"cem_core.{name}" for name in WITHOUT_TORCH} <= found
    assert not among(found, HEAVY)
    assert not among(found, QT)


def test_all_modules_of_the_core_load_no_qt() -> None:
    modules = [
        told(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in sources("cem_core")
    ]
    found = loaded("\n".join(f"import {module}" for module in modules))
    assert set(modules) <= found
    assert "torch" in found
    assert not among(found, QT)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["morph", "--help"], ["probe", "-h"]])
def test_help_is_instant(arguments: list[str]) -> None:
    """Neither torch nor Qt nor numpy: nothing that takes time."""
    found = loaded(f"from cem_core.cli import main\nmain({arguments!r}, standalone_mode=False)")
    assert "click" in found
    assert not among(found, (*QT, "torch", "numpy", "PIL", "safetensors", "msgspec", "rich"))


# The window -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sources("cem_gui"), ids=told)
def test_only_the_threads_bring_torch_along(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not among(imported(source, only_at_once=path.name in THREADS), HEAVY)


@pytest.mark.parametrize("path", sources("cem_gui/panels"), ids=told)
def test_panels_know_widgets_and_colours_and_nothing_else_of_the_window(path: Path) -> None:
    names = among(imported(path.read_text(encoding="utf-8")), ["cem_gui"]) - {"cem_gui"}
    assert names == among(names, ["cem_gui.widgets", "cem_gui.theme"])


@pytest.mark.parametrize("path", sources("cem_gui/widgets"), ids=told)
def test_widgets_know_widgets_and_colours_and_nothing_else_of_the_window(path: Path) -> None:
    names = among(imported(path.read_text(encoding="utf-8")), ["cem_gui"]) - {"cem_gui"}
    assert names == among(names, ["cem_gui.widgets", "cem_gui.theme"])


def test_threads_are_started_by_the_window_alone() -> None:
    """Of all files only `player` knows the worker, and only `window` and those who ask for them the other threads."""
    knows = {told(path): imported(path.read_text(encoding="utf-8")) for path in sources("cem_gui")}
    assert {path for path, names in knows.items() if among(names, ["cem_gui.worker"])} == {"cem_gui/player.py"}
    assert {path for path, names in knows.items() if among(names, ["cem_gui.files"])} <= {
        "cem_gui/window.py", "cem_gui/models.py", "cem_gui/pictures.py", "cem_gui/exporter.py",
        "cem_gui/runs.py", "cem_gui/shelf.py", "cem_gui/landscape.py", "cem_gui/smallest.py", "cem_gui/subjects.py",
        "cem_gui/accuracy.py", "cem_gui/energies.py", "cem_gui/measurement.py", "cem_gui/results.py",
        "cem_gui/similarity.py", "cem_gui/training.py", "cem_gui/evaluating.py",
    }  # fmt: skip
    assert {path for path, names in knows.items() if among(names, ["cem_gui.prober"])} <= {
        "cem_gui/window.py", "cem_gui/runs.py", "cem_gui/measurement.py", "cem_gui/accuracy.py", "cem_gui/energies.py",
        "cem_gui/landscape.py", "cem_gui/lens.py", "cem_gui/linked.py", "cem_gui/smallest.py",
        "cem_gui/lockstep.py", "cem_gui/similarity.py", "cem_gui/training.py", "cem_gui/evaluating.py",
    }  # fmt: skip


def test_the_whole_window_is_loaded_without_torch() -> None:
    pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    modules = [
        told(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in sources("cem_gui")
    ]
    found = loaded("\n".join(f"import {module}" for module in modules))
    assert "cem_gui.window" in found
    assert not among(found, HEAVY)
