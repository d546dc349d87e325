"""Tables that fit a terminal: as many columns as there is room for, the most telling first, the rest by name."""

import re
from dataclasses import dataclass
from itertools import pairwise

from rich.table import Table

from pipeline.shown import cell

_GAP = 2


@dataclass(frozen=True)
class Column:
    """A column: what it is called, and its cells. `weight`: where there is no room for all, those of the largest go;
    None: it stays. `styles`: of its cells, as rich has them."""

    name: str
    cells: list[str]
    weight: int | None = None
    header: str | None = None
    """In lines; None: the name, broken into narrow ones."""
    left: bool = False
    styles: list[str] | None = None

    @property
    def heading(self) -> str:
        return narrow(self.name) if self.header is None else self.header

    @property
    def width(self) -> int:
        """Columns of a terminal, the gap to the next one included."""
        return max(len(line) for text in (self.heading, *self.cells) for line in text.split("\n")) + _GAP


def fitted(columns: list[Column], width: int, row_styles: list[str] | None = None) -> tuple[Table, list[str]]:
    """The columns, in their order, that fit a terminal of so many columns, as a table; and the names of the others."""
    room = width - sum(column.width for column in columns if column.weight is None)
    shown = [column for column in columns if column.weight is None]
    for column in sorted((one for one in columns if one.weight is not None), key=lambda one: one.weight or 0):
        if column.width <= room:
            shown.append(column)
            room -= column.width
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    kept = [column for column in columns if column in shown]
    for column in kept:
        table.add_column(cell(column.heading), justify="left" if column.left else "right", no_wrap=True)
    for number, row in enumerate(zip(*(_styled(column) for column in kept), strict=True)):
        table.add_row(*row, style=row_styles[number] if row_styles else None)
    return table, [column.name for column in columns if column not in shown]


def narrow(name: str) -> str:
    """A name in narrow lines: broken at spaces, and behind dots and underscores, where a line would be long."""
    pieces, lines = re.findall(r"[^ ._]+[._]?", name), [""]
    for piece, following in pairwise([*pieces, ""]):
        lines[-1] += piece
        if following and (len(lines[-1]) + len(following) > 9 or not piece.endswith((".", "_"))):
            lines.append("")
    return "\n".join(lines)


def _styled(column: Column) -> list[str]:
    cells = [cell(text) for text in column.cells]
    if column.styles is None:
        return cells
    return [f"[{style}]{text}[/{style}]" if style else text for text, style in zip(cells, column.styles, strict=True)]
