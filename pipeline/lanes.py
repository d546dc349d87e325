"""(step, worker) → batch: a pure function, so that there is no iterator state to save.

L: lanes, rows of the global batch. T: bytes of context. N: bytes of the split. W: workers.

Lane i owns bytes [i·N/L, (i+1)·N/L), rounded down, and is read as a ring: at step s its inputs are its bytes
s·T … s·T+T−1 and its targets the bytes one further, all modulo the lane's length. So every byte is an input and a
target exactly once in every pass, whatever the remainder; an epoch ends when the longest lane has been passed.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from h2q.config import require
from pipeline.manifest import Split

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, (rows, T), int64."""


class Lanes:
    """The batches of a split. Holds nothing that depends on the step."""

    def __init__(
        self,
        split: Split,
        *,
        lanes: int,
        seq_len: int,
        windows: Literal["lanes", "random"] = "lanes",
        seed: int = 0,
    ) -> None:
        """Raises: UserError when the split is shorter than one chunk, T + 1 bytes, for every lane."""
        require(
            len(split) >= lanes * (seq_len + 1),
            f"the {split.name} split must hold one chunk of seq_len + 1 bytes for every lane, {lanes} × {seq_len + 1} "
            f"= {lanes * (seq_len + 1)} bytes, found {len(split)}: lower training.lanes or model.seq_len, "
            "or use more text",
        )
        self.split, self.lanes, self.seq_len, self.windows, self.seed = split, lanes, seq_len, windows, seed
        self._edges = [i * len(split) // lanes for i in range(lanes + 1)]

    def batch(self, step: int, world_rank: int = 0, world_size: int = 1, device: str | torch.device = "cpu") -> Batch:
        """The worker's rows of the global batch of a step: (L/W, T) inputs and the bytes one further."""
        rows = self.rows(step, world_rank, world_size)
        data = torch.from_numpy(rows).to(device).long()
        return data[:, :-1].contiguous(), data[:, 1:].contiguous()

    def rows(self, step: int, world_rank: int = 0, world_size: int = 1) -> np.ndarray:
        """The same as bytes: (L/W, T + 1) uint8, inputs and targets overlapping."""
        require(
            self.lanes % world_size == 0,
            f"training.lanes must be a multiple of the number of workers, {world_size}, got {self.lanes}",
        )
        share = self.lanes // world_size
        mine = range(world_rank * share, (world_rank + 1) * share)
        rows = np.empty((share, self.seq_len + 1), np.uint8)
        if self.windows == "random":
            starts = self._random_starts(step)
            for row, lane in zip(rows, mine):
                row[:] = self.split.read(starts[lane], starts[lane] + self.seq_len + 1)
        else:
            for row, lane in zip(rows, mine):
                self._read_ring(row, lane, step)
        return rows

    def epoch(self, step: int) -> int:
        """Complete passes through the split before this step."""
        if self.windows == "random":
            return step * self.lanes * self.seq_len // len(self.split)
        return step * self.seq_len // -(-len(self.split) // self.lanes)

    def _read_ring(self, row: np.ndarray, lane: int, step: int) -> None:
        start, stop = self._edges[lane], self._edges[lane + 1]
        at, filled = start + step * self.seq_len % (stop - start), 0
        while filled < len(row):
            data = self.split.read(at, min(at + len(row) - filled, stop))
            row[filled : filled + len(data)] = data
            at, filled = start, filled + len(data)

    def _random_starts(self, step: int) -> list[int]:
        """Where the windows of a step begin: word `lane` of the Philox stream with key `seed` and counter `step`."""
        words = np.random.Philox(key=self.seed, counter=[0, step, 0, 0]).random_raw(self.lanes)
        return [int(word) * (len(self.split) - self.seq_len) >> 64 for word in words]


def windows(
    split: Split,
    seq_len: int,
    batch: int,
    world_rank: int = 0,
    world_size: int = 1,
    device: str | torch.device = "cpu",
) -> Iterator[Batch]:
    """The split in order, in windows of T bytes that do not overlap: every byte but the very first is a target once.

    Yields (up to `batch`, T) inputs and targets; the split's ragged end, if any, comes last and alone: (1, under T).
    A worker gets its own contiguous share of the windows. Raises: UserError when the split has fewer than 2 bytes.
    """
    require(
        len(split) >= 2,
        f"the {split.name} split must hold at least 2 bytes to be scored, found {len(split)}: use more text "
        "or another corpus.holdout",
    )
    targets = len(split) - 1
    count = -(-targets // seq_len)
    first, last = world_rank * count // world_size, (world_rank + 1) * count // world_size
    full = min(last, targets // seq_len)
    for at in range(first, full, batch):
        rows = min(batch, full - at)
        data = torch.from_numpy(split.read(at * seq_len, (at + rows) * seq_len + 1).copy()).to(device).long()
        yield data[:-1].view(rows, seq_len), data[1:].view(rows, seq_len)
    if full < last:
        data = torch.from_numpy(split.read(full * seq_len, len(split)).copy()).to(device).long()
        yield data[None, :-1], data[None, 1:]
