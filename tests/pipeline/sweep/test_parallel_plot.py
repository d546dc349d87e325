"""Parallel coordinates: each scale has ticks that can be read, and its ends."""

import pytest

from pipeline.sweep.parallel_plot import _height, ticks
from pipeline.sweep.space import Choices, Dimension, Range


@pytest.mark.parametrize(
    ("dimension", "wanted"),
    [
        (Choices("model.depth", (4, 2, 8)), [4, 2, 8]),
        (Range("training.learning_rate", 1e-4, 1e-2, True, False), [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2]),
        (Range("training.weight_decay", 1e-8, 1e-1, True, False), [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (Range("training.clip", 0.5, 2.5, False, False), [0.5, 1.0, 1.5, 2.0, 2.5]),
        (Range("model.depth", 1, 3, False, True), [1, 2, 3]),
    ],
    ids=str,
)
def test_ticks_are_round_and_hold_the_ends(dimension: Dimension, wanted: list[float]) -> None:
    assert ticks(dimension) == pytest.approx(wanted)
    heights = [_height(dimension)(value) for value in ticks(dimension)]
    assert min(heights) == 0 and max(heights) == 1
