"""What the pictures of a sweep have in common: the look of a trial's state, the order of a field's values."""

from typing import Any

from pipeline.figures import new_figure
from pipeline.sweep.space import Choices, Value

COLOUR = {"finished": "tab:blue", "pruned": "tab:orange", "running": "tab:gray"}
MARKER = {"finished": "o", "pruned": "v", "running": "s"}
LABEL = {"finished": "finished", "pruned": "pruned, where it stopped", "running": "interrupted"}


def sweep_figure(rows: int, columns: int, title: str, width: float | None = None) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns)."""
    figure, axes = new_figure(rows, columns, title)
    figure.set_size_inches(width or max(6.5, 4.5 * columns), 3.8 * rows + 0.4)
    return figure, axes


def ordered(dimension: Choices) -> list[Value]:
    """Numbers by their size, anything else as it was listed."""
    numbers = [value for value in dimension.values if isinstance(value, int | float)]
    return [*sorted(numbers), *(value for value in dimension.values if value not in numbers)]
