"""What a study concludes from its outcomes: fronts, slopes, sentences."""

import math
import statistics

import numpy as np
import pytest

from pipeline.study.result import CURRENCIES, Outcome, difference, front, slope, verdict


def outcome(family: str, dim: int, cost: float, *bits: float, validation: float | None = None) -> Outcome:
    chosen_by = statistics.fmean(bits) if validation is None else validation
    return Outcome(family, dim, bits, dict.fromkeys(CURRENCIES, cost), chosen_by)


def test_the_front_holds_what_no_other_beats() -> None:
    ones = [outcome("a", 1, 1, 3.0), outcome("a", 2, 2, 2.5), outcome("b", 1, 2, 2.4), outcome("b", 2, 4, 2.4)]
    assert [(one.family, one.dim) for one in front(ones, "seconds")] == [("a", 1), ("b", 1)]


def test_a_line_without_noise_is_fitted_exactly_and_its_interval_is_a_point() -> None:
    ones = [outcome("a", dim, cost, 3 - 0.1 * math.log2(cost)) for dim, cost in ((1, 8), (2, 16), (4, 64))]
    found = slope(ones, "parameters")
    assert found is not None
    assert (found.per_doubling, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1))


def test_the_interval_is_that_of_least_squares() -> None:
    """By hand: x 0, 1, 2, y 1, 3, 2: slope ½, residual 1.5 on one degree of freedom, error √(1.5 / 2) × 12.706."""
    found = slope([outcome("a", 1, 1, 1.0), outcome("a", 2, 2, 3.0), outcome("a", 4, 4, 2.0)], "seconds")
    assert found is not None
    error = math.sqrt(1.5 / 2) * 12.706
    assert (found.low, found.high) == pytest.approx((0.5 - error, 0.5 + error), rel=1e-4)


@pytest.mark.parametrize("costs", [(5, 5, 5), (1, 2)])
def test_there_is_no_slope_of_equal_costs_or_two_points(costs: tuple[int, ...]) -> None:
    assert slope([outcome("a", dim, cost, 2.0 + dim) for dim, cost in enumerate(costs)], "seconds") is None


def test_a_difference_is_settled_beyond_twice_the_spread_and_where_its_interval_excludes_0() -> None:
    ones = [outcome("a", 64, 10, 2.00, 2.02), outcome("b", 32, 10, 2.10, 2.11)]
    said = verdict(ones, "seconds", " s")
    assert said == (
        "time of training, at most 10 s (or 2 % more): a is best: a 2.010 ± 0.014 (dim 64), b 2.105 ± 0.007 (dim 32), "
        "0.095 apart (0.026 to 0.164), 6.7 × the spread of seeds"
    )
    wanted = "the spread of seeds, where more than 2 × is wanted, and an interval above 0"
    near = verdict([ones[0], outcome("b", 32, 10, 2.01, 2.05)], "seconds", " s")
    assert "not settled: a 2.010 ± 0.014 (dim 64), b 2.030 ± 0.028 (dim 32), 0.020 apart (-0.118 to 0.158)" in near
    assert near.endswith(f"0.7 × {wanted}")
    few = verdict([ones[0], outcome("b", 32, 10, 2.05, 2.06)], "seconds", " s")
    assert "not settled" in few and few.endswith(f"3.2 × {wanted}"), "three times the spread, of two seeds"


def test_the_interval_of_a_difference_is_welchs() -> None:
    """By hand: variances 0.0002 and 0.00005 over two seeds each, degrees of freedom 1.4706, t of them 6.18."""
    low, high = difference(outcome("a", 1, 1, 2.00, 2.02), outcome("b", 1, 1, 2.10, 2.11))
    error = 6.18 * math.sqrt((0.0002 + 0.00005) / 2)
    assert (low, high) == pytest.approx((0.095 - error, 0.095 + error), abs=1e-3)


def test_a_size_is_chosen_on_the_validation_split_and_told_on_the_test_split() -> None:
    ones = [
        outcome("a", 64, 10, 2.00, 2.02, validation=2.2), outcome("a", 128, 10, 2.30, 2.32, validation=2.1),
        outcome("b", 32, 10, 2.10, 2.11),
    ]  # fmt: skip
    assert "b is best: b 2.105 ± 0.007 (dim 32), a 2.310 ± 0.014 (dim 128)" in verdict(ones, "seconds", " s")


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_families_are_seldom_told_apart(seeds: int) -> None:
    """In at most 5 % of 400 studies of two families that are the same. With two seeds it would be one of eight by twice
    the spread alone."""
    random = np.random.Generator(np.random.Philox(7))
    told = by_spread = 0
    for drawn in random.normal(2.3, 0.01, (400, 2, seeds)).tolist():
        ones = [outcome(family, 64, 10, *bits) for family, bits in zip("ab", drawn, strict=True)]
        told += "is best" in verdict(ones, "seconds", " s")
        by_spread += abs(ones[0].mean - ones[1].mean) > 2 * max(one.spread or 0.0 for one in ones)
    assert told <= 20 and (by_spread > 40 or seeds > 2)


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
    assert "at most 200 (or 2 % more): a is best" in said and "(dim 2), b 2.405" in said
    assert said.endswith("; c begins at 300, with 1.000 ± 0.000")
    assert "fewer than two families" in verdict(ones[:2], "parameters", "")
