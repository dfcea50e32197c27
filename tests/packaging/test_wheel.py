"""The wheel alone is the whole program: it runs in an empty environment outside the checkout, assets included."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    # A home of its own, and nothing that could point Python back to the checkout.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    env |= {"HOME": str(cwd), "XDG_CONFIG_HOME": str(cwd), "XDG_CACHE_HOME": str(cwd), "XDG_DATA_HOME": str(cwd)}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Built with the hatchling of the test extra: no network.
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", folder, CHECKOUT, cwd=folder)
    (made,) = folder.glob("cem_explorer-*.whl")
    return made


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and borrows the dependencies."""
    home = tmp_path_factory.mktemp("empty")
    venv.create(home / "venv", with_pip=False, symlinks=os.name != "nt")
    python = program(home, "python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    # Folders named in a .pth go to the end of sys.path and their own .pth files are not read: the editable
    # install of the checkout, which is one of those, stays out of sight.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    borrowed = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    return home


def program(home: Path, name: str) -> Path:
    folder = home / "venv" / ("Scripts" if os.name == "nt" else "bin")
    return folder / (name + ".exe" if os.name == "nt" else name)


def test_wheel_holds_all_assets_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assets = {p.relative_to(CHECKOUT).as_posix() for p in (CHECKOUT / "assets").rglob("*") if p.is_file()}
    assert assets
    assert {f"cem_core/{name}" for name in assets} <= set(names)
    assert not [name for name in names if name.startswith(("assets/", "tests/"))]
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


def test_the_installed_packages_are_the_wheels(home: Path) -> None:
    where = "import cem_core, cem_core.bundle as b, cem_gui; print(cem_core.__file__, cem_gui.__path__[0], b.ASSETS)"
    for path in run(program(home, "python"), "-c", where, cwd=home).split():
        assert Path(path).is_relative_to(home / "venv")
        assert "site-packages" in path


def test_models_are_listed(home: Path) -> None:
    models = json.loads(run(program(home, "cem-explorer"), "models", "--json", cwd=home))
    assert models
    assert all(next(iter(model)) == "name" for model in models)


def test_demo_runs(home: Path) -> None:
    run(program(home, "cem-explorer"), "demo", "--steps", "3", "--out", home / "déjà vu", cwd=home)
    files = [p for p in (home / "déjà vu").rglob("*") if p.is_file()]
    assert [p for p in files if p.suffix == ".png"]
    assert all(p.stat().st_size for p in files)


def test_gui_script_is_there(home: Path) -> None:
    assert program(home, "cem-explorer-gui").exists()
