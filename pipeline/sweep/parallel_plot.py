"""The picture of all configurations at once: one line for each, through all its values, in parallel coordinates."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.sweep.configuration import Configuration
from pipeline.sweep.plot_style import ordered, sweep_figure
from pipeline.sweep.space import Choices, Dimension, Space, Value, show
from pipeline.sweep.sweep import Sweep


def draw_parallel(sweep: Sweep, configurations: list[Configuration], path: Path) -> None:
    """One line a configuration, coloured by bits per byte; the best are drawn last."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axes = sweep_figure(1, 1, f"{sweep.name}: configurations", width=2.4 * (len(sweep.space) + 1) + 2)
    axis = axes[0, 0]
    results = [one.bpb for one in configurations if one.bpb is not None]
    lowest, spread = min(results), (max(results) - min(results)) or 1.0
    colours: Any = ScalarMappable(Normalize(lowest, max(results)), colormaps["viridis"])
    for one in reversed(configurations):
        heights = [_height(dimension)(one.values[dimension.field]) for dimension in sweep.space]
        heights.append(((one.bpb or 0.0) - lowest) / spread)
        whole = one.state == "finished"
        axis.plot(
            range(len(heights)),
            heights,
            color=colours.to_rgba(one.bpb),
            linestyle="-" if whole else ":",
            linewidth=2 if whole else 1.2,
        )
    _draw_scales(axis, sweep.space)
    for bpb in even_ticks(lowest, lowest + spread):
        _label(axis, f"{bpb:g}", len(sweep.space), (bpb - lowest) / spread)
    figure.colorbar(colours, ax=axis, label="validation bits per byte (dotted: pruned)")
    figure.savefig(path, dpi=120)


def _draw_scales(axis: Any, space: Space) -> None:
    """A vertical line with its values for each field, and one for bits per byte."""
    for x, dimension in enumerate(space):
        axis.axvline(x, color="0.6", linewidth=0.8)
        for value in ticks(dimension):
            _label(axis, show(value), x, _height(dimension)(value))
    axis.axvline(len(space), color="0.6", linewidth=0.8)
    axis.set_xticks(range(len(space) + 1), [*(dimension.field for dimension in space), "bits per byte"])
    axis.set_yticks([])
    axis.set_xlim(-0.1, len(space) + 0.1)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)


def _height(dimension: Dimension) -> Callable[[Value], float]:
    """Where a value lies on its vertical axis, from 0 to 1."""
    if isinstance(dimension, Choices):
        values = ordered(dimension)
        return lambda value: values.index(value) / max(1, len(values) - 1)
    scale = math.log if dimension.log else float
    low, high = scale(dimension.low), scale(dimension.high)
    return lambda value: (scale(value) - low) / (high - low)  # type: ignore[arg-type]


def _label(axis: Any, text: str, x: float, height: float) -> None:
    """A tick of a vertical scale, with its value beside it."""
    axis.plot([x - 0.015, x + 0.015], [height, height], color="0.4", linewidth=0.8)
    axis.annotate(
        text,
        (x, height),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )


def ticks(dimension: Dimension) -> list[Value]:
    """The values that are written at a field's scale: all of a list, both ends of a range and round ones between."""
    if isinstance(dimension, Choices):
        return list(dimension.values)
    low, high = dimension.low, dimension.high
    between = _log_ticks(low, high) if dimension.log else even_ticks(low, high)
    height = _height(dimension)
    # Not upon the ends.
    apart = [value for value in between if 0.06 < height(value) < 0.94 and not (dimension.integer and value % 1)]
    return [low, *(int(value) if dimension.integer else value for value in apart), high]


def even_ticks(low: float, high: float) -> list[float]:
    """About four round numbers in the range."""
    from matplotlib.ticker import MaxNLocator

    return [round(float(value), 12) for value in MaxNLocator(4).tick_values(low, high) if low <= value <= high]


def _log_ticks(low: float, high: float) -> list[float]:
    """At most about six of 1, 2 and 5 times the powers of ten in the range; of a wide one the powers alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, (last - first) // 6)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    powers = range(first, last + 1, every)
    return [float(f"{factor}e{power}") for power in powers for factor in factors if low <= factor * 10.0**power <= high]
