"""Pictures: of any journal, also of one that has hardly begun."""

from pathlib import Path

import pytest

from pipeline.runs.journal import Record
from pipeline.training.energy import energies, of_blocks
from pipeline.training.plots import _judged, _range, draw, series

FULL = [
    {"step": step, "train/bpb": 3.0, "gradient_norm": 1.0, "learning_rate": 0.1, "bytes_per_second": 1e4}
    | {f"energy/block_{block:02d}": float(block + step) for block in range(3)}
    for step in range(0, 30, 10)
]


@pytest.mark.parametrize("records", [FULL, FULL[:1], [{"step": 0, "validation/bpb": 3.0}]], ids=["full", "one", "bare"])
def test_pictures_are_drawn(tmp_path: Path, records: list[Record]) -> None:
    draw(records, tmp_path / "plots", "a run", bytes_per_step=512, references={"order0": 4.5, "gzip": None, "xz": 2.2})
    assert (tmp_path / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "plots" / "energy.png").exists() == ("energy/block_00" in records[0])


def test_what_matters_is_in_the_picture_and_the_start_is_not() -> None:
    references = [4.5, 2.4, 2.2]
    lowest, highest = _range([7.5, 5.0, 3.0, 2.1], references)
    assert lowest is not None and highest is not None
    assert 1.9 < lowest < 2.1 and 4.5 < highest < 4.7
    lowest, highest = _range([7.5, 6.0, 5.0], references)  # above the worst reference all the time
    assert lowest is not None and highest is not None
    assert lowest < 2.2 and highest > 7.5
    lowest, highest = _range([7.5, 6.0, 5.0, 4.4], references)  # below it at the very end
    assert highest is not None and 5.5 < highest < 6.0
    assert _range([], references) == (None, None)


def test_the_map_says_what_is_healthy_and_what_is_not() -> None:
    calm = [{"step": step, "energy/block_00": 2.0, "energy/block_01": 3.0} for step in range(3)]
    assert "Here: the last block has 1.5 × the energy of the first, and 1 × what it had" in _judged(calm)
    steep = [record | {"energy/block_01": 60.0} for record in calm]
    assert "The last block explodes" in _judged(steep)


def test_blocks_are_in_the_order_of_their_numbers() -> None:
    values = {f"energy/block_{block:02d}": float(block) for block in range(121)}
    record: Record = {"step": 0, **dict(sorted(values.items()))}
    assert energies(record) == [float(block) for block in range(121)]
    assert of_blocks([*record, "state_energy/block_07"], "energy") == list(values)


def test_a_series_skips_records_without_the_metric() -> None:
    assert series([{"step": 0, "a": 1.0}, {"step": 1}, {"step": 2, "a": 3.0}], "a") == ([0, 2], [1.0, 3.0])
