"""A comparison as a table, on a terminal or anywhere."""

from rich.markup import escape
from rich.table import Table

from pipeline.comparison.compare import RESULTS, Comparison

WIDE = 5
"""More runs than this are the rows of a table, not its columns."""
Grid = list[list[str]]


def grid(comparison: Comparison, mark: str = "{}") -> Grid:
    """The table as text, a header row first: what differs, then results; the best of a result inside `mark`."""
    rows = [["run", *(run.name for run in comparison.runs)], ["status", *(run.status for run in comparison.runs)]]
    rows += [[name, *values] for name, values in comparison.differences.items()]
    for name, readable in RESULTS.items():
        best = comparison.best(name)
        values = [run.results[name] for run in comparison.runs]
        texts = ["–" if value is None else readable(value) for value in values]
        rows.append([name, *(mark.format(text) if value == best else text for text, value in zip(texts, values))])
    return [list(row) for row in zip(*rows)] if len(comparison.runs) > WIDE else rows


def table(comparison: Comparison) -> Table:
    """The grid on a terminal."""
    shown = Table(show_header=True)
    header, *rows = grid(comparison, mark="[bold green]{}[/bold green]")
    for index, name in enumerate(header):
        shown.add_column(escape(name), justify="right" if index else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(cell if cell.startswith("[bold green]") else escape(cell) for cell in row))
    return shown
