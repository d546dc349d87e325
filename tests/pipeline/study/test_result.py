"""What a study concludes from its outcomes: fronts, slopes, sentences."""

import math

import pytest

from pipeline.study.result import CURRENCIES, Outcome, front, slope, verdict


def outcome(family: str, dim: int, cost: float, *bits: float) -> Outcome:
    return Outcome(family, dim, bits, dict.fromkeys(CURRENCIES, cost))


def test_the_front_holds_what_no_other_beats() -> None:
    ones = [outcome("a", 1, 1, 3.0), outcome("a", 2, 2, 2.5), outcome("b", 1, 2, 2.4), outcome("b", 2, 4, 2.4)]
    assert [(one.family, one.dim) for one in front(ones, "seconds")] == [("a", 1), ("b", 1)]


def test_a_line_without_noise_is_fitted_exactly_and_its_interval_is_a_point() -> None:
    ones = [outcome("a", dim, cost, 3 - 0.1 * math.log2(cost)) for dim, cost in ((1, 8), (2, 16), (4, 64))]
    found = slope(ones, "parameters")
    assert found is not None
    assert (found.per_doubling, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1))


def test_the_interval_is_that_of_least_squares() -> None:
    """By hand: x 0, 1, 2, y 1, 3, 2: slope ½, residual 1.5 on one degree of freedom, error √(1.5 / 2) × 12.71."""
    found = slope([outcome("a", 1, 1, 1.0), outcome("a", 2, 2, 3.0), outcome("a", 4, 4, 2.0)], "seconds")
    assert found is not None
    error = math.sqrt(1.5 / 2) * 12.71
    assert (found.low, found.high) == pytest.approx((0.5 - error, 0.5 + error))


@pytest.mark.parametrize("costs", [(5, 5, 5), (1, 2)])
def test_there_is_no_slope_of_equal_costs_or_two_points(costs: tuple[int, ...]) -> None:
    assert slope([outcome("a", dim, cost, 2.0 + dim) for dim, cost in enumerate(costs)], "seconds") is None


def test_a_difference_beyond_twice_the_spread_is_settled_and_less_is_not() -> None:
    ones = [outcome("a", 64, 10, 2.00, 2.02), outcome("b", 32, 10, 2.10, 2.11)]
    said = verdict(ones, "seconds", " s")
    assert said == (
        "time of training, at most 10 s: a is best: a 2.010 ± 0.014 (dim 64), b 2.105 ± 0.007 (dim 32), 0.095 apart, "
        "6.7 × the spread of seeds"
    )
    near = [ones[0], outcome("b", 32, 10, 2.01, 2.05)]
    assert "not settled: a 2.010 ± 0.014 (dim 64), b 2.030 ± 0.028 (dim 32), 0.020 apart, 0.7 ×" in verdict(
        near, "seconds", " s"
    )


def test_one_seed_settles_nothing() -> None:
    assert "not settled, with one seed" in verdict([outcome("a", 1, 1, 1.0), outcome("b", 1, 1, 9.0)], "seconds", " s")


def test_families_are_compared_at_the_largest_cost_that_all_reach() -> None:
    """The larger b is out of reach of a; c begins above it."""
    ones = [
        outcome("a", 1, 100, 2.5, 2.5), outcome("a", 2, 200, 2.3, 2.31),
        outcome("b", 1, 150, 2.4, 2.41), outcome("b", 2, 900, 1.9, 1.9),
        outcome("c", 1, 300, 1.0, 1.0),
    ]  # fmt: skip
    said = verdict(ones, "parameters", "")
    assert "at most 200: a is best" in said and "(dim 2), b 2.405" in said
    assert said.endswith("; c begins at 300, with 1.000 ± 0.000")
    assert "fewer than two families" in verdict(ones[:2], "parameters", "")
