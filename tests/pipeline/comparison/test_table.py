"""A comparison on a terminal: readable however narrow it is."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.comparison.compare import compare
from pipeline.comparison.compared_run import ComparedRun
from pipeline.comparison.find import newest_runs, ranked
from pipeline.comparison.table import table
from pipeline.runs.folder import RunFolder

Past = Callable[..., RunFolder]


@pytest.fixture
def ten(tmp_path: Path, past_run: Past) -> list[ComparedRun]:
    """Ten runs that differ in many options, and one of them in its end."""
    for number in range(10):
        options = {
            "learning_rate": 0.0063255530 / (number + 1),
            "axiom_lambda": 0.1 * 1.37**number,
            "evaluate_every": 100 + number,
            "weight_decay": number / 7,
            "seed": number,
        }
        past_run(tmp_path / f"laptop-20261127-0330{number:02d}", 2.0 + number / 977, **options)
    return newest_runs(10, str(tmp_path))


def drawn(runs: list[ComparedRun], width: int) -> tuple[list[str], list[str]]:
    """The lines of the table, as a terminal shows them, and what had no room."""
    said = io.StringIO()
    shown, hidden = table(compare(runs), width)
    Console(file=said, width=width).print(shown)
    return said.getvalue().splitlines(), hidden


@pytest.mark.parametrize("width", [60, 80, 100, 160, 250])
def test_a_run_is_one_line_and_what_has_no_room_is_named(ten: list[ComparedRun], width: int) -> None:
    lines, hidden = drawn(ten, width)
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if re.match(r"\S*-\d{4}", line)]
    assert [row[0][-10:] for row in rows] == [run.name[-10:] for run in ten], "each by the end of its name"
    assert rows[0][1:3] == ["2.0000", "2.1000"] and rows[9][1] == "2.0092"
    assert {len(row) for row in rows} == {len(rows[0])} and len(rows[0]) >= 4
    assert "…" not in "".join("".join(row[1:]) for row in rows), "what is shown is shown whole"
    different = {
        f"training.{name}" for name in ("learning_rate", "axiom_lambda", "evaluate_every", "weight_decay", "seed")
    }
    head = "".join(lines[: next(number for number, line in enumerate(lines) if re.match(r"\S*-\d{4}", line))])
    assert all(name in hidden or name.rpartition(".")[2].split("_")[-1] in head for name in different)
    assert (hidden == []) == (width >= 100)


def test_numbers_have_no_more_digits_than_tell_anything(ten: list[ComparedRun]) -> None:
    text = "\n".join(drawn(ten, 250)[0])
    assert "0.006326" in text and "0.0063255" not in text


def test_two_corpora_are_told_apart_and_ranked_apart(tmp_path: Path, past_run: Past) -> None:
    for name, bpb, corpus in (("one", 3.0, "a"), ("two", 1.0, "b"), ("three", 2.0, "a"), ("four", 4.0, "b")):
        past_run(tmp_path / name, bpb, corpus=corpus)
    runs = newest_runs(9, str(tmp_path))
    assert [run.name for run in runs] == ["two", "four", "three", "one"], "the newest run's corpus first"
    assert [run.name for run in ranked(runs[::-1])] == ["three", "one", "two", "four"]
    text = "\n".join(drawn(runs, 80)[0])
    assert "aaaaaa" in text and "bbbbbb" in text
