"""What a study shows: each family at each size with its costs, fronts, slopes, and a sentence for each currency.

Pure functions of the outcomes.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CURRENCIES = {
    "seconds": "time of training",
    "multiply_adds": "multiply-adds of training",
    "parameters": "parameters",
    "stored_bytes": "stored bytes",
}
"""What bits per byte are set against, and how a person reads it."""

SAME = 1.02
"""Costs that differ by less count as equal."""

SETTLED = 2.0
"""A difference counts where it is more than so many times the spread of seeds, and its 95 % interval excludes 0."""


@dataclass(frozen=True)
class Outcome:
    """A family at a size."""

    family: str
    dim: int
    bits: tuple[float, ...]
    """Bits per byte of the test split, for each seed."""
    costs: dict[str, float]
    """By `CURRENCIES`; the same for all seeds."""
    validation: float
    """Bits per byte of the validation split, mean over seeds: what a size is chosen by."""

    @property
    def mean(self) -> float:
        return statistics.fmean(self.bits)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds, None for one."""
        return statistics.stdev(self.bits) if len(self.bits) > 1 else None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.spread is None else f" ± {self.spread:.3f}")


@dataclass(frozen=True)
class Slope:
    """Bits per byte for each doubling of a cost, by least squares over sizes and seeds, with the ends of its 95 %
    interval."""

    per_doubling: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.per_doubling:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def front(outcomes: Sequence[Outcome], currency: str) -> list[Outcome]:
    """Those that no other beats: none is as cheap and as good, and better in one; the cheapest first."""
    order = sorted(outcomes, key=lambda one: (one.costs[currency], one.mean))
    kept: list[Outcome] = []
    for one in order:
        if not kept or one.mean < kept[-1].mean:
            kept.append(one)
    return kept


def slope(outcomes: Sequence[Outcome], currency: str) -> Slope | None:
    """Of one family; None with fewer than three points, or where all cost the same."""
    points = [(math.log2(one.costs[currency]), bits) for one in outcomes for bits in one.bits]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if len(points) < 3 or max(xs) - min(xs) < math.log2(SAME):
        return None
    from scipy import stats

    fitted: Any = stats.linregress(xs, ys)
    error = float(fitted.stderr * stats.t.ppf(0.975, len(points) - 2))
    return Slope(rise := float(fitted.slope), rise - error, rise + error)


def difference(first: Outcome, second: Outcome) -> tuple[float, float]:
    """The ends of the 95 % interval of how much more the second takes than the first, by Welch's t over the seeds."""
    from scipy import stats

    found: Any = stats.ttest_ind(second.bits, first.bits, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return float(low), float(high)


def families(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each family, the smallest size first."""
    found: dict[str, list[Outcome]] = {}
    for one in sorted(outcomes, key=lambda one: one.dim):
        found.setdefault(one.family, []).append(one)
    return found


def verdict(outcomes: Sequence[Outcome], currency: str, unit: str) -> str:
    """Who is best at equal cost, by how much and how surely; or that this is not settled.

    The cost is the largest that every family reaches; each counts with the size that costs no more (but for `SAME`) and
    is best on the validation split.
    """
    name = CURRENCIES[currency]
    if len({one.family for one in outcomes}) < 2:
        return f"{name}: nothing to compare, fewer than two families were trained"
    limit = min(max(one.costs[currency] for one in of_one) for of_one in families(outcomes).values())
    within = [one for one in outcomes if one.costs[currency] <= SAME * limit]
    best = sorted(
        (min(of_one, key=lambda one: one.validation) for of_one in families(within).values()), key=lambda one: one.mean
    )
    at = f"{name}, at most {_short(limit)}{unit} (or {100 * (SAME - 1):.0f} % more): "
    besides = "".join(
        f"; {family} begins at {_short(cheapest.costs[currency])}{unit}, with {cheapest}"
        for family, of_one in families(outcomes).items()
        if (cheapest := min(of_one, key=lambda one: one.costs[currency])).costs[currency] > SAME * limit
    )
    if len(best) < 2:
        return f"{at}only {best[0].family} is so cheap{besides}"
    first, second = best[:2]
    apart, spreads = second.mean - first.mean, [one.spread for one in (first, second) if one.spread is not None]
    found = f"{first.family} {first} (dim {first.dim}), {second.family} {second} (dim {second.dim})"
    if len(spreads) < 2:
        return f"{at}not settled, with one seed; {found}{besides}"
    (low, high), times = difference(first, second), apart / max(*spreads, 1e-9)
    told = f"{apart:.3f} apart ({low:.3f} to {high:.3f}), {times:.1f} × the spread of seeds"
    if times <= SETTLED or not low > 0:
        wanted = f"where more than {SETTLED:g} × is wanted, and an interval above 0"
        return f"{at}not settled: {found}, {told}, {wanted}{besides}"
    return f"{at}{first.family} is best: {found}, {told}{besides}"


def _short(number: float) -> str:
    """`12.3k`."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
