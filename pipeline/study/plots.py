"""The picture of a study: bits per byte against each currency, seeds as bands, fitted slopes, the front."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.figures import new_figure
from pipeline.study.result import CURRENCIES, Outcome, families, front, slope


def draw(outcomes: Sequence[Outcome], title: str, path: Path) -> None:
    """Write it; nothing without an outcome."""
    if not outcomes:
        return
    figure, axes = new_figure(2, 2, title)
    figure.set_size_inches(12, 9)
    for axis, currency in zip(axes.flat, CURRENCIES):
        for number, (family, of_one) in enumerate(families(outcomes).items()):
            _draw_family(axis, currency, family, of_one, f"C{number}")
        best = front(outcomes, currency)
        if len(best) > 1:
            line = [one.costs[currency] for one in best], [one.mean for one in best]
            axis.step(*line, where="post", color="black", linewidth=0.8, label="Pareto front", zorder=1)
        axis.set_xscale("log")
        axis.set_xlabel(CURRENCIES[currency])
        axis.set_ylabel("bits per byte of the test split")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def _draw_family(axis: Any, currency: str, family: str, outcomes: list[Outcome], colour: str) -> None:
    xs = [one.costs[currency] for one in outcomes]
    fitted = slope(outcomes, currency)
    label = family if fitted is None else f"{family}: {fitted} a doubling"
    axis.plot(xs, [one.mean for one in outcomes], "o-", color=colour, markersize=4, label=label)
    lows, highs = ([pick(one.bits) for one in outcomes] for pick in (min, max))
    axis.fill_between(xs, lows, highs, color=colour, alpha=0.2, linewidth=0)
    axis.vlines(xs, lows, highs, color=colour, linewidth=1)  # A band of no width shows nothing.
