"""Pictures without pyplot: no global state, no display needed."""

from io import BytesIO
from pathlib import Path
from typing import Any

from pipeline.terminal import human_bytes


def new_figure(rows: int, columns: int, title: str | None) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 3.5 * rows), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def bytes_axis(axis: Any, first: float, last: float) -> None:
    """Make x one of bytes, in powers of ten, logarithmic where it spans one; `first` and `last` are what is drawn."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if last > first:
        axis.set_xlim(first / (last / first) ** 0.02, last * (last / first) ** 0.02)
    if last >= 10 * first:
        axis.set_xscale("log")
        # So few powers of ten leave room for what lies between.
        near = last < 200 * first
        axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5) if near else (2, 3, 4, 5, 6, 7, 8, 9)))
        axis.xaxis.set_minor_formatter(_bytes() if near else NullFormatter())
    axis.xaxis.set_major_formatter(_bytes())


def log_numbers(scale: Any, spread: float = 1.0) -> None:
    """Write 1, 2 and 5 times the powers of ten at a logarithmic scale (`axis.xaxis` or `axis.yaxis`) as plain numbers,
    the powers alone where largest over smallest, `spread`, leaves no room."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    scale.set_major_locator(LogLocator(subs=(1, 2, 5) if spread <= 1000 else (1,)))
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    scale.set_minor_formatter(NullFormatter())


def _bytes() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda count, _: human_bytes(count))


def png_of(figure: Any) -> bytes:
    """A figure as the bytes of a PNG."""
    picture = BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    return picture.getvalue()


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, to a disk or a URI."""
    path.write_bytes(png_of(figure))
