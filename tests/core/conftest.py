from __future__ import annotations

import os

import hypothesis

# The same examples every time, and no clock: neither chance nor a busy machine may fail a test.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("steady")

# One thread, here and in every process that is started: on tiny nets a second one only waits, and on a busy machine
# it waits a thousand times longer. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
