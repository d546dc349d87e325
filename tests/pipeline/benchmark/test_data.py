"""The benchmark of data prepares what it is told to, quietly, and reads the largest through lanes."""

from pathlib import Path

import pytest

from pipeline.benchmark.data import Options, run

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_equal_sizes_are_prepared_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    rows = run(Options(sizes=(0.01, 0.02, 0.02), shapes=((4, 16),), folder=str(tmp_path)))["rows"]
    names = [row["what"] for row in rows]
    assert names[1:4] == ["prepare 0.01 GB", "prepare 0.02 GB", "prepare 0.02 GB, again"]
    assert all(row["seconds"] > 0 for row in rows) and names[-1] == "random 4 × 16 int64"
    assert list(tmp_path.iterdir()) == []
    said = capfd.readouterr()
    assert said.out + said.err == ""
