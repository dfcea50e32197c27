"""python -m cem_core.cli"""

from cem_core.cli import main

if __name__ == "__main__":
    main()
