"""Pictures: of any journal, also of one that has hardly begun."""

from pathlib import Path

import pytest

from pipeline.runs.journal import Record
from pipeline.training.plots import draw, series

FULL = [
    {"step": step, "train/bpb": 3.0, "gradient_norm": 1.0, "learning_rate": 0.1, "bytes_per_second": 1e4}
    | {f"energy/block_{block:02d}": float(block + step) for block in range(3)}
    for step in range(0, 30, 10)
]


@pytest.mark.parametrize("records", [FULL, FULL[:1], [{"step": 0, "validation/bpb": 3.0}]], ids=["full", "one", "bare"])
def test_pictures_are_drawn(tmp_path: Path, records: list[Record]) -> None:
    draw(records, tmp_path / "plots", "a run")
    assert (tmp_path / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "plots" / "energy.png").exists() == ("energy/block_00" in records[0])


def test_a_series_skips_records_without_the_metric() -> None:
    assert series([{"step": 0, "a": 1.0}, {"step": 1}, {"step": 2, "a": 3.0}], "a") == ([0, 2], [1.0, 3.0])
