"""Opens the window from a checkout: `python main.py`."""

from cem_gui.app import main

if __name__ == "__main__":
    raise SystemExit(main())
