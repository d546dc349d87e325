"""Tables that fit a terminal of any width, and say what they leave out."""

import io

import pytest
from rich.console import Console

from pipeline.columns import Column, fitted, narrow

COLUMNS = [
    Column("", ["1", ""]),
    Column("training.learning_rate", ["0.001", "0.0123"], 1, narrow("learning_rate")),
    Column("bpb", ["2.345", "2.456"], 0, styles=["bold green", ""]),
    Column("parameters", ["202,512", "[202,512]"], 3),
    Column("state", ["finished", "pruned"], 2, left=True),
]


@pytest.mark.parametrize("width", [10, 20, 30, 40, 60])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_cut(width: int) -> None:
    said = io.StringIO()
    table, hidden = fitted(COLUMNS, width)
    Console(file=said, width=width).print(table)
    lines = said.getvalue().splitlines()
    assert all(len(line) <= width for line in lines) and "…" not in said.getvalue()
    shown = [column for column in COLUMNS if column.name not in hidden]
    assert all(cell in said.getvalue() for column in shown for cell in column.cells)
    weights = [column.weight for column in COLUMNS if column.name in hidden and column.weight is not None]
    assert hidden == [column.name for column in COLUMNS if column.weight in weights]
    assert "bpb" not in hidden and (not hidden) == (width >= 42)


def test_long_names_are_broken_into_lines() -> None:
    assert narrow("learning_rate") == "learning_\nrate" and narrow("best validation bpb") == "best\nvalidation\nbpb"
    assert narrow("bpb") == "bpb"
