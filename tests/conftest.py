"""Comes before every test, and before any of them brings torch along."""

import cem_core  # noqa: F401 - says how torch's threads wait for each other
