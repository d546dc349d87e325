"""The time that is left over all trials."""

import pytest

from pipeline.sweep.remaining import Remaining


def test_a_start_is_paid_once_a_trial_and_not_once_a_step() -> None:
    """Four trials of 100 steps, two at a time: 20 s to start, then 0.1 s a step."""
    left = Remaining(4, 100, at_once=2)
    left.started(1, 50.0)
    left.started(2, 50.0)
    assert left.seconds() is None, "nobody knows before a step"
    left.reached(1, 10, 0.1, 71.0)
    left.reached(2, 10, 0.1, 71.0)
    assert left.seconds() == pytest.approx((9 + 9 + 30 + 30) / 2)
    left.ended(1, 80.0)
    left.ended(2, 70.0)
    left.started(3, 80.0)
    assert left.seconds() == pytest.approx(25 * 2 / 2), "the two to come may be stopped early, as the second was"
    left.reached(3, 50, 0.1, 105.0)
    assert left.seconds() == pytest.approx((5 + 25) / 2)
    left.started(4, 105.0)
    left.ended(3, 110.0)
    left.ended(4, 130.0)
    assert left.seconds() == 0


def test_a_trial_that_tells_nothing_before_its_end_is_known_by_those_that_ended() -> None:
    left = Remaining(2, 100, at_once=1)
    left.started(1, 0.0)
    left.reached(1, 100, None, 30.0)
    assert left.seconds() is None
    left.ended(1, 30.0)
    assert left.seconds() == 30
