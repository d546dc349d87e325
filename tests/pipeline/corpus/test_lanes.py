"""Laws of lanes: a pure function of the step, no byte lost, the same global batch whatever the number of workers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h2q.errors import UserError
from pipeline.corpus import shards
from pipeline.corpus.lanes import Lanes, windows
from pipeline.corpus.split import Split


def make_split(folder: Path, data: np.ndarray, shard_bytes: int = 1000) -> Split:
    """A split of these bytes in shards of the given size."""
    listed = []
    for number, at in enumerate(range(0, len(data), shard_bytes)):
        packed = shards.pack("train", data[at : at + shard_bytes], np.zeros(int(at == 0), np.int64))
        listed.append(packed.write(folder, f"train-{number}.arrow").to_dict())
    entry = {"shards": listed, "bytes": len(data), "documents": 1, "sha256": "", "sample_bytes": 0}
    entry |= {"order0_bpb": None, "gzip_bpb": None, "xz_bpb": None}
    return Split(folder, "train", entry, "")


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return make_split(tmp_path_factory.mktemp("split"), noise(24 * 300 + 17))


@pytest.mark.parametrize("kind", ["lanes", "random"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8, 12, 24])
def test_any_number_of_workers_sees_the_same_global_batch(split: Split, kind, world_size: int) -> None:
    lanes = Lanes(split, lanes=24, seq_len=32, windows=kind)
    for step in (0, 1, 8, 9, 10, 24):  # a pass takes 10 steps
        x, y = lanes.batch(step)
        parts = [lanes.batch(step, rank, world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat([part[0] for part in parts]), x)
        assert torch.equal(torch.cat([part[1] for part in parts]), y)


@settings(max_examples=25)  # each writes a split
@given(size=st.integers(40, 160), lanes=st.integers(1, 8), seq_len=st.integers(1, 9))
def test_every_byte_of_a_lane_is_an_input_once_in_every_pass(
    tmp_path_factory, size: int, lanes: int, seq_len: int
) -> None:
    if size < lanes * (seq_len + 1):
        return
    data = np.arange(size) % 251
    read = Lanes(make_split(tmp_path_factory.mktemp("s"), data.astype(np.uint8), 64), lanes=lanes, seq_len=seq_len)
    edges = [i * size // lanes for i in range(lanes + 1)]
    steps = 3 * size // (lanes * seq_len) + 1
    xs, ys = zip(*(read.batch(step) for step in range(steps)))
    for lane in range(lanes):
        own = data[edges[lane] : edges[lane + 1]]
        ring = np.resize(own, steps * seq_len + 1)
        assert torch.cat([x[lane] for x in xs]).tolist() == ring[:-1].tolist()
        assert torch.cat([y[lane] for y in ys]).tolist() == ring[1:].tolist()


@settings(max_examples=50)
@given(size=st.integers(2, 300), seq_len=st.integers(1, 40), batch=st.integers(1, 5), world_size=st.integers(1, 5))
def test_windows_score_every_byte_but_the_first_once_in_order(
    tmp_path_factory, size: int, seq_len: int, batch: int, world_size: int
) -> None:
    data = noise(size)
    split = make_split(tmp_path_factory.mktemp("s"), data, 50)
    pairs = [pair for rank in range(world_size) for pair in windows(split, seq_len, batch, rank, world_size)]
    assert torch.cat([y.flatten() for _, y in pairs]).tolist() == data[1:].tolist()
    assert torch.cat([x.flatten() for x, _ in pairs]).tolist() == data[:-1].tolist()
    assert all(len(x) <= batch and x.shape == y.shape for x, y in pairs)


def test_random_windows_differ_by_step_and_seed_and_lie_within_the_split(split: Split) -> None:
    lanes = Lanes(split, lanes=24, seq_len=32, windows="random", seed=1)
    assert torch.equal(lanes.batch(5)[0], lanes.batch(5)[0])
    assert not torch.equal(lanes.batch(5)[0], lanes.batch(6)[0])
    assert not torch.equal(lanes.batch(5)[0], Lanes(split, lanes=24, seq_len=32, windows="random").batch(5)[0])
    text = split.read(0, len(split)).tobytes()
    for x, y in zip(*lanes.batch(7)):
        assert bytes([*x.tolist(), int(y[-1])]) in text


def test_a_split_shorter_than_a_chunk_for_each_lane_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="24 × 33 = 792 bytes, found 791"):
        Lanes(make_split(tmp_path, noise(791)), lanes=24, seq_len=32)


def test_512_workers_over_a_million_shards_read_their_own_lanes_and_nothing_else(tmp_path: Path) -> None:
    """1 TiB in shards of 1 MiB, of which only those exist that hold the beginnings of some workers' lanes."""
    size, count, workers, per_worker, seq_len = 1 << 20, 10**6, 512, 2, 1024
    total, lanes = size * count, workers * per_worker
    each = {"bytes": size, "documents": 0, "file_bytes": size, "sha256": ""}
    listed = [{"name": f"train-{number}.arrow", **each} for number in range(count)]
    content = {}
    chosen = [0, 1, 255, 511]
    starts = {
        rank: [lane * total // lanes for lane in range(rank * per_worker, (rank + 1) * per_worker)] for rank in chosen
    }
    for number in {at // size for rank in chosen for at in starts[rank]}:
        content[number] = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
        packed = shards.pack("train", content[number], np.zeros(0, np.int64))
        listed[number] = packed.write(tmp_path, f"train-{number}.arrow").to_dict()
    entry = {"shards": listed, "bytes": total, "documents": 0, "sha256": "", "sample_bytes": 0}
    entry |= {"order0_bpb": None, "gzip_bpb": None, "xz_bpb": None}
    read = Lanes(Split(tmp_path, "train", entry, ""), lanes=lanes, seq_len=seq_len)
    for rank in chosen:
        for step in (0, 7):
            for row, at in zip(read.rows(step, rank, workers), starts[rank], strict=True):
                within = at % size + step * seq_len
                assert row.tobytes() == content[at // size][within : within + seq_len + 1].tobytes()
    # An epoch is as long for every worker: lanes differ by a byte at most.
    lengths = np.diff([lane * total // lanes for lane in range(lanes + 1)])
    assert lengths.max() - lengths.min() <= 1 and lengths.sum() == total
