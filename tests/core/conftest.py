from __future__ import annotations

import hypothesis

# The same examples every time, and no clock: neither chance nor a busy machine may fail a test.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("steady")
