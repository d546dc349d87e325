"""The stopwatch: what is paused does not count."""

import pytest

from pipeline.training import clock as stopwatch
from pipeline.training.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock with one hand, which the test turns."""
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    return now


def test_seconds_are_those_of_training_on_top_of_earlier_starts(clock: list[float]) -> None:
    watch = Clock(step=10, seconds=50.0)
    clock[0] += 2
    with watch.paused():
        clock[0] += 30
        assert watch.seconds == 52.0
    clock[0] += 3
    assert watch.seconds == 55.0


def test_the_rate_is_that_since_it_was_asked_last(clock: list[float]) -> None:
    watch = Clock(step=10, seconds=50.0)
    clock[0] += 2
    assert watch.steps_per_second(14) == 2.0
    with watch.paused():
        clock[0] += 60
    clock[0] += 4
    assert watch.steps_per_second(18) == 1.0
