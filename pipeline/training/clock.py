"""Seconds and rate of training, without what is paused (evaluation, sampling, saving)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Runs from its making, on top of the seconds of earlier starts of the run."""

    def __init__(self, step: int, seconds: float) -> None:
        self._zero = time.perf_counter() - seconds
        self._paused_at: float | None = None
        self._lap = (step, seconds)

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return (self._paused_at or time.perf_counter()) - self._zero

    def steps_per_second(self, step: int) -> float:
        """Rate since this was asked last, `step` steps being done now."""
        (last_step, last_seconds), self._lap = self._lap, (step, self.seconds)
        return (step - last_step) / max(self._lap[1] - last_seconds, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What passes inside does not count."""
        began = self._paused_at = time.perf_counter()
        try:
            yield
        finally:
            self._zero += time.perf_counter() - began
            self._paused_at = None
