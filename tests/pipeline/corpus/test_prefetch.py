"""Prefetched batches are those of the lanes, whatever order they are asked for in; the thread ends."""

import threading

import pytest
import torch

from pipeline.corpus.lanes import Lanes
from pipeline.corpus.prefetch import Prefetch
from pipeline.corpus.split import Region


class Bytes:
    """A split in memory."""

    name = "train"
    dtype = "uint8"

    def __init__(self, size: int) -> None:
        import numpy as np

        self.data = np.random.default_rng(0).integers(0, 256, size, dtype="uint8")
        self.broken = False

    def regions(self, lanes: int) -> list[Region]:
        return [Region("split", lanes, 0, len(self))]

    def __len__(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int):
        if self.broken:
            raise OSError("the disk is gone")
        return self.data[start:stop]


@pytest.fixture
def lanes() -> Lanes:
    return Lanes(Bytes(5000), lanes=6, seq_len=16)  # type: ignore[arg-type]


def test_batches_are_those_of_the_lanes_in_any_order(lanes: Lanes) -> None:
    with Prefetch(lanes, world_rank=1, world_size=3) as batches:
        for step in [0, 1, 2, 3, 9, 10, 4, 4, 100, 101, 102]:
            for got, expected in zip(batches(step), lanes.batch(step, 1, 3)):
                assert torch.equal(got, expected) and got.dtype == torch.int64


def test_it_reads_ahead_and_ends_its_thread(lanes: Lanes) -> None:
    before = threading.active_count()
    batches = Prefetch(lanes, ahead=2)
    batches(0)
    assert sorted(batches._coming) == [1, 2]
    batches.close()
    assert threading.active_count() == before


def test_an_error_of_reading_is_raised_where_the_batch_is_asked_for(lanes: Lanes) -> None:
    lanes.split.broken = True  # type: ignore[attr-defined]
    with Prefetch(lanes) as batches, pytest.raises(OSError, match="the disk is gone"):
        batches(0)


@pytest.mark.gpu
def test_batches_on_a_gpu_are_the_same(lanes: Lanes) -> None:
    with Prefetch(lanes, device="cuda") as batches:
        for step in range(200):
            x, y = batches(step)
            assert x.device.type == "cuda"
            expected = lanes.batch(step)
            assert torch.equal(x.cpu(), expected[0]) and torch.equal(y.cpu(), expected[1])
