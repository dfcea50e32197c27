"""Runs `main()` of every module beside this one, or of those whose name holds one of the arguments."""

from __future__ import annotations

import importlib
import pkgutil
import sys

from tests import bench


def run(wanted: list[str]) -> None:
    for module in sorted(module.name for module in pkgutil.iter_modules(bench.__path__)):
        if module.startswith("_") or (wanted and not any(part in module for part in wanted)):
            continue
        page = importlib.import_module(f"tests.bench.{module}")
        print(f"\n{module}: {(page.__doc__ or '').splitlines()[0]}", flush=True)
        page.main()


if __name__ == "__main__":
    run(sys.argv[1:])
