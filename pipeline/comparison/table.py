"""A comparison as a table: whole for a page, and as much of it as a terminal can show."""

import re
from dataclasses import dataclass
from itertools import pairwise

from rich.markup import escape
from rich.table import Table

from pipeline.comparison.compare import BPB, RESULTS, Comparison

WIDE = 5
"""More runs than this are the rows of a page's table, not its columns."""
Grid = list[list[str]]


def grid(comparison: Comparison, mark: str = "{}") -> Grid:
    """The table as text, a header row first: what differs, then results; the best of a result inside `mark`."""
    rows = [["run", *(run.name for run in comparison.runs)], ["status", *(run.status for run in comparison.runs)]]
    rows += [[name, *values] for name, values in comparison.differences.items()]
    rows += [[name, *_texts(comparison, name, mark)] for name in RESULTS]
    return [list(row) for row in zip(*rows)] if len(comparison.runs) > WIDE else rows


def table(comparison: Comparison, width: int) -> tuple[Table, list[str]]:
    """The runs as rows, for a terminal of so many columns; and the names of what did not fit.

    Bits per byte come first, then what differs, then other results that do.
    """
    names = [run.name for run in comparison.runs]
    left = max(12, width // 3)
    first = _Column("run", "run", [name if len(name) <= left else f"…{name[1 - left :]}" for name in names])
    shown, hidden, room = [first], [], width - first.width
    for column in _columns(comparison):
        if column.width <= room:
            shown.append(column)
            room -= column.width
        else:
            hidden.append(column.name)
    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in shown:
        drawn.add_column(escape(column.header), justify="left" if column is first else "right", no_wrap=True)
    for row in zip(*(column.cells for column in shown)):
        drawn.add_row(*(escape(cell[1:]).join(_BEST) if cell.startswith(_MARK) else escape(cell) for cell in row))
    return drawn, hidden


@dataclass(frozen=True)
class _Column:
    name: str
    header: str
    """In lines."""
    cells: list[str]

    @property
    def width(self) -> int:
        """Columns of a terminal, a gap of two included."""
        return max(len(line) for text in (self.header, *self.cells) for line in text.split("\n")) + 2


_MARK = "\0"
_BEST = ("[bold green]", "[/bold green]")


def _columns(comparison: Comparison) -> list[_Column]:
    """What may be shown beside the names, the most telling first."""
    results = {name: _texts(comparison, name, _MARK + "{}") for name in RESULTS}
    telling = [name for name in results if len(comparison.runs) == 1 or len(set(results[name])) > 1]
    if "best validation bpb" in telling and results["best validation bpb"] == results["validation bpb"]:
        telling.remove("best validation bpb")
    of_bpb = [name for name in BPB if name in telling and name != "best validation bpb"]
    status = {run.status for run in comparison.runs}
    columns = [_Column(name, _broken(name), results[name]) for name in of_bpb]
    if len({run.corpus_sha256 for run in comparison.runs}) > 1:
        columns.append(_Column("corpus", "corpus", [(run.corpus_sha256 or "–")[:6] for run in comparison.runs]))
    if status != {"finished"}:
        columns.append(_Column("status", "status", [run.status for run in comparison.runs]))
    lasts = [name.rpartition(".")[2] for name in comparison.differences]
    for name, values in comparison.differences.items():
        last = name.rpartition(".")[2]
        header = last if lasts.count(last) == 1 else name
        columns.append(_Column(name, _broken(header), [_sensible(value) for value in values]))
    return columns + [_Column(name, _broken(name), results[name]) for name in telling if name not in of_bpb]


def _texts(comparison: Comparison, name: str, mark: str) -> list[str]:
    """A result of every run, for people; the best inside `mark`."""
    best, values = comparison.best(name), [run.results[name] for run in comparison.runs]
    texts = ["–" if value is None else RESULTS[name](value) for value in values]
    return [mark.format(text) if value == best else text for text, value in zip(texts, values)]


def _broken(name: str) -> str:
    """A header in narrow lines: broken at spaces, and behind dots and underscores, where a line would be long."""
    pieces, lines = re.findall(r"[^ ._]+[._]?", name), [""]
    for piece, following in pairwise([*pieces, ""]):
        lines[-1] += piece
        if following and (len(lines[-1]) + len(following) > 9 or not piece.endswith((".", "_"))):
            lines.append("")
    return "\n".join(lines)


def _sensible(value: str) -> str:
    """The value of a field with no more digits than tell anything; a long one by its end."""
    try:
        short = f"{float(value):.4g}"
    except ValueError:
        short = value
    text = short if len(short) < len(value) else value
    return text if len(text) <= 20 else f"…{text[-19:]}"
