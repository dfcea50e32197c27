"""A package, as another one of this name may be installed: without this, `python -m tests.bench` would find that."""
