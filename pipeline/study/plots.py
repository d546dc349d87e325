"""The picture of a study: bits per byte against each currency, seeds as bands, fitted slopes, the front."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.figures import log_numbers, new_figure, save_figure
from pipeline.study.result import CURRENCIES, SAME, Outcome, families, front, slope


def draw(outcomes: Sequence[Outcome], title: str, path: Path) -> None:
    """Write it; nothing without an outcome."""
    if not outcomes:
        return
    figure, axes = new_figure(2, 2, title)
    figure.set_size_inches(12, 9)
    for axis, currency in zip(axes.flat, CURRENCIES):
        _draw_currency(axis, currency, outcomes)
    save_figure(figure, path)


def _draw_currency(axis: Any, currency: str, outcomes: Sequence[Outcome]) -> None:
    costs = [one.costs[currency] for one in outcomes]
    equal = max(costs) <= SAME * min(costs)  # All trainings had the same budget: their width is the axis.
    for number, (family, of_one) in enumerate(families(outcomes).items()):
        fitted = None if equal else slope(of_one, currency)
        xs = [one.dim if equal else one.costs[currency] for one in of_one]
        _draw_family(axis, xs, of_one, family if fitted is None else f"{family}: {fitted} a doubling", f"C{number}")
    best = [] if equal else front(outcomes, currency)
    if len(best) > 1:
        line = [one.costs[currency] for one in best], [one.mean for one in best]
        axis.step(*line, where="post", color="black", linewidth=0.8, label="Pareto front", zorder=1)
    axis.set_xscale("log")
    if equal:
        log_numbers(axis.xaxis)
        axis.set_xticks(sorted({one.dim for one in outcomes}))
    else:
        _log_sizes(axis.xaxis)
    axis.set_xlabel(f"width, model.dim, at equal {CURRENCIES[currency]}" if equal else CURRENCIES[currency])
    axis.set_ylabel("bits per byte of the test split")
    axis.grid(alpha=0.3, which="both")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.3 * (high - low))  # Room for the legend.
    axis.legend(fontsize=7, loc="upper left")


def _log_sizes(scale: Any) -> None:
    """Write 20M and 5G at a logarithmic scale."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
    scale.set_major_formatter(EngFormatter(sep=""))
    scale.set_minor_formatter(NullFormatter())


def _draw_family(axis: Any, xs: list[float], outcomes: list[Outcome], label: str, colour: str) -> None:
    axis.plot(xs, [one.mean for one in outcomes], "o-", color=colour, markersize=4, label=label)
    lows, highs = ([pick(one.bits) for one in outcomes] for pick in (min, max))
    axis.fill_between(xs, lows, highs, color=colour, alpha=0.2, linewidth=0)
    axis.vlines(xs, lows, highs, color=colour, linewidth=1)  # A band of no width shows nothing.
