"""The time that is left over all trials."""

import pytest

from pipeline.sweep.remaining import Remaining


def test_the_time_left_is_that_of_the_steps_left() -> None:
    """Four trials of 100 steps, two at a time, a step of each in 1 s."""
    left = Remaining(4, 100, began=50.0)
    assert left.seconds(60.0) is None, "nobody knows before a step"
    left.reached(1, 10)
    left.reached(2, 10)
    assert left.seconds(60.0) == pytest.approx(90 + 100)
    left.ended(1, 100)
    left.ended(2, 50)
    left.reached(3, 25)
    assert left.seconds(150.0) == pytest.approx((75 + 75) * 100 / 175), "the fourth may be stopped early, as the second"
    left.ended(3, 100)
    left.ended(4, 100)
    assert left.seconds(300.0) == 0
