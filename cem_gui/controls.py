"""What the window asks of a run while it is played, on another thread."""

from __future__ import annotations

import threading
from typing import Literal

from cem_core.messages import Sampler

Gait = Literal["paused", "running"]


class Controls:
    """What the window asks of one run, before and while it is played. Every method may be called from any thread."""

    def __init__(self, sampler: Sampler, gait: Gait = "paused") -> None:
        self._changed = threading.Condition()
        self._sampler = sampler
        self._gait: Gait = gait
        self._steps_wanted = 0
        self._stopped = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def ready(self) -> bool:
        """`following` would answer at once."""
        return self._stopped or self._gait == "running" or self._steps_wanted > 0

    def change(self, sampler: Sampler) -> None:
        """The row for every step from the next one on."""
        with self._changed:
            self._sampler = sampler

    def go(self, gait: Gait) -> None:
        with self._changed:
            self._gait = gait
            self._changed.notify_all()

    def one_step(self) -> None:
        """Pause, after one more step."""
        with self._changed:
            self._gait = "paused"
            self._steps_wanted += 1
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def following(self, *, wait: bool = True) -> Sampler | None:
        """For the run: the row of the next step, once there may be one; None: stop.

        wait: else somebody who found it `ready` takes the step, even if it is paused at this very moment.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self.ready)
            self._steps_wanted = max(0, self._steps_wanted - 1)
            return None if self._stopped else self._sampler

    def hold(self) -> bool:
        """For the run: pause, and whether somebody let it go on."""
        with self._changed:
            self._gait, self._steps_wanted = "paused", 0
        return self.following() is not None
