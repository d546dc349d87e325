"""Where documents are few or large, splits are cut at line ends, and none is left empty."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import CorpusConfig
from pipeline.corpus.corpus import Corpus
from pipeline.prepare.cuts import line_start, reach
from pipeline.prepare.prepare import prepare


def rows_of(count: int, size: int, line: int | None) -> list[str]:
    """Rows of about `size` bytes, in lines of `line` bytes, or in none."""
    letters = np.random.default_rng(0).integers(97, 123, (count, size), dtype=np.uint8)
    if line:
        letters[:, line - 1 :: line] = ord("\n")
    return [row.tobytes().decode() for row in letters]


def write(folder: Path, kind: str, rows: list[str]) -> None:
    folder.mkdir()
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.table({"text": rows}), folder / "a.parquet", row_group_size=2)
    else:
        (folder / "a.txt").write_text("".join(rows))


def content(corpus: Corpus, split: str) -> bytes:
    return corpus.splits[split].read(0, len(corpus.splits[split])).tobytes()


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
@pytest.mark.parametrize(
    ("count", "size", "line"), [(5, 40_000, 80), (1, 40_000, 80), (5, 40_000, None), (1, 999, None)]
)
def test_few_rows_are_cut_in_order_and_no_split_is_empty(
    tmp_path: Path, kind: str, count: int, size: int, line: int | None
) -> None:
    rows = rows_of(count, size, line)
    write(tmp_path / "in", kind, rows)
    config = CorpusConfig(path=str(tmp_path / "in"), prepared=str(tmp_path / "data"), shard_bytes=50_000)
    corpus = prepare(config, local=True)
    parts = [content(corpus, split) for split in ("train", "validation", "test")]
    assert b"".join(parts) == "".join(rows).encode()
    shares = [len(part) / (count * size) for part in parts]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.06)
    if line:
        assert all(part.endswith(b"\n") for part in parts[:2])
    assert "cut at line ends" in corpus.notes[-1] or "at line ends" in corpus.notes[-1]
    left = {path.name for path in corpus.folder.glob("*.arrow")}
    assert left == {shard.name for split in corpus.splits.values() for shard in split.shards}


def test_ray_cuts_as_a_plain_loop_does(tmp_path: Path, ray_cluster: None) -> None:
    write(tmp_path / "in", "parquet", rows_of(9, 9000, 70))
    made = [
        prepare(
            CorpusConfig(path=str(tmp_path / "in"), prepared=str(tmp_path / str(local)), shard_bytes=20_000),
            local=local,
        )
        for local in (True, False)
    ]
    assert made[0].sha256 == made[1].sha256 and made[0].validation.bytes > 4000


def test_a_shard_that_was_lost_is_made_again_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "in", "jsonl", rows_of(5, 40_000, 80))
    config = CorpusConfig(path=str(tmp_path / "in"), prepared=str(tmp_path / "data"))
    corpus = prepare(config, local=True)
    (corpus.folder / corpus.test.shards[0].name).unlink()
    assert prepare(config, local=True).manifest == corpus.manifest


def test_many_rows_are_dealt_out_whole(tmp_path: Path) -> None:
    write(tmp_path / "in", "jsonl", rows_of(400, 90, 30))
    corpus = prepare(CorpusConfig(path=str(tmp_path / "in"), prepared=str(tmp_path / "data")), local=True)
    assert "row by row" in corpus.notes[-1] and corpus.validation.bytes % 90 == 0 < corpus.validation.bytes


@given(text=st.text("aé\n🙂", max_size=30), place=st.integers(0, 60), ahead=st.integers(4, 40))
def test_a_cut_is_at_a_line_or_a_character(text: str, place: int, ahead: int) -> None:
    data = text.encode()
    place = min(place, len(data))
    at = place + line_start(np.frombuffer(data[place : place + ahead], np.uint8))
    data[:at].decode()
    line = data.find(b"\n", place)
    assert at == line + 1 if 0 <= line < place + ahead else at < place + 4


def test_a_cut_looks_no_further_than_half_a_share() -> None:
    assert reach(1000, 0.1) == 50 and reach(10, 0.1) == 4 and reach(10**12, 0.1) == 8 << 20
