"""A comparison as a table: whole for a page, and as much of it as a terminal can show."""

from dataclasses import replace

from rich.table import Table

from pipeline.columns import Column, fitted, narrow
from pipeline.comparison.compare import BPB, RESULTS, Comparison

WIDE = 5
"""More runs than this are the rows of a page's table, not its columns."""
Grid = list[list[str]]


def grid(comparison: Comparison, mark: str = "{}") -> Grid:
    """The table as text, a header row first: what differs, then results; the best of a result inside `mark`."""
    rows = [["run", *(run.name for run in comparison.runs)], ["status", *(run.status for run in comparison.runs)]]
    rows += [[name, *values] for name, values in comparison.differences.items()]
    rows += [[name, *_texts(comparison, name, mark)] for name in comparison.results]
    return [list(row) for row in zip(*rows)] if len(comparison.runs) > WIDE else rows


def table(comparison: Comparison, width: int) -> tuple[Table, list[str]]:
    """The runs as rows, for a terminal of so many columns; and the names of what did not fit.

    Bits per byte come first, then what differs, then other results that do.
    """
    names = [run.name for run in comparison.runs]
    left = max(12, width // 3)
    shown = [name if len(name) <= left else f"…{name[1 - left :]}" for name in names]
    return fitted([Column("run", shown, left=True), *_columns(comparison)], width)


def _columns(comparison: Comparison) -> list[Column]:
    """What may be shown beside the names, the most telling first."""
    results = {name: _texts(comparison, name, "{}") for name in comparison.results}
    telling = [name for name in results if len(comparison.runs) == 1 or len(set(results[name])) > 1]
    if "best validation bpb" in telling and results["best validation bpb"] == results["validation bpb"]:
        telling.remove("best validation bpb")
    of_bpb = [name for name in BPB if name in telling and name != "best validation bpb"]
    columns = [Column(name, results[name], styles=_best(comparison, name)) for name in of_bpb]
    if len({run.corpus_sha256 for run in comparison.runs}) > 1:
        columns.append(Column("corpus", [(run.corpus_sha256 or "–")[:6] for run in comparison.runs]))
    if {run.status for run in comparison.runs} != {"finished"}:
        columns.append(Column("status", [run.status for run in comparison.runs]))
    lasts = [name.rpartition(".")[2] for name in comparison.differences]
    for name, values in comparison.differences.items():
        last = name.rpartition(".")[2]
        header = narrow(last if lasts.count(last) == 1 else name)
        columns.append(Column(name, [_sensible(value) for value in values], header=header))
    columns += [Column(name, results[name]) for name in telling if name not in of_bpb]
    return [replace(column, weight=number) for number, column in enumerate(columns)]


def _best(comparison: Comparison, name: str) -> list[str]:
    best = comparison.best(name)
    return ["bold green" if best is not None and run.results[name] == best else "" for run in comparison.runs]


def _texts(comparison: Comparison, name: str, mark: str) -> list[str]:
    """A result of every run, for people; the best inside `mark`."""
    best, values = comparison.best(name), [run.results[name] for run in comparison.runs]
    texts = ["–" if value is None else RESULTS[name](value) for value in values]
    return [mark.format(text) if value == best else text for text, value in zip(texts, values)]


def _sensible(value: str) -> str:
    """The value of a field with no more digits than tell anything; a long one by its end."""
    try:
        short = f"{float(value):.4g}"
    except ValueError:
        short = value
    text = short if len(short) < len(value) else value
    return text if len(text) <= 20 else f"…{text[-19:]}"
