"""Pictures without pyplot: no global state, no display needed."""

from io import BytesIO
from pathlib import Path
from typing import Any


def new_figure(rows: int, columns: int, title: str | None) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 3.5 * rows), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, to a disk or a URI."""
    picture = BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    path.write_bytes(picture.getvalue())
