"""(step, worker) → batch: a pure function, so that there is no iterator state to save.

L: lanes, rows of the global batch. T: bytes of context. N: bytes of the split. W: workers.

Lane i owns bytes [i·N/L, (i+1)·N/L), rounded down, and is read as a ring: at step s its inputs are its bytes
s·T … s·T+T−1 and its targets the bytes one further, all modulo the lane's length. So every byte is an input and a
target exactly once in every pass, whatever the remainder; lanes differ by one byte at most. In a mix that holds for
each kind by itself: its lanes, which follow on those of the kind before, share its bytes alone.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from h2q.errors import require
from pipeline.corpus.mixed import AnySplit

if TYPE_CHECKING:  # torch takes seconds to load: who only checks that the text will do need not wait for it
    import torch

Batch = tuple["torch.Tensor", "torch.Tensor"]
"""Inputs and targets, (rows, T), int64."""


_AHEAD = 1 << 16
"""Bytes of a lane that are read at once: chunks lie side by side, and a small read costs as much as a large one."""


class Lanes:
    """The batches of a split. What it remembers, the last block read, changes nothing but the time."""

    def __init__(
        self,
        split: AnySplit,
        *,
        lanes: int,
        seq_len: int,
        windows: Literal["lanes", "random"] = "lanes",
        seed: int = 0,
        ahead: int = 1,
    ) -> None:
        """`ahead`: bytes behind a chunk that its row holds besides.

        Raises: UserError when the split, or a part of a mixed one, is shorter than one chunk, T + 1 bytes, for every
        lane.
        """
        length = seq_len + ahead
        for name, count, start, stop in split.regions(lanes):
            require(
                stop - start >= count * length,
                f"the {name} must hold one chunk of seq_len + {ahead} bytes for every lane, {count} × {length} "
                f"= {count * length} bytes, found {stop - start}: lower training.lanes or model.seq_len, "
                "or use more text",
            )
        self.split, self.lanes, self.seq_len, self.windows, self.seed = split, lanes, seq_len, windows, seed
        self.ahead = ahead
        self._stretches = lane_stretches(split, lanes)
        self._steps = max(1, _AHEAD // seq_len)
        self._last: tuple[tuple[int, range], np.ndarray] | None = None

    def batch(self, step: int, world_rank: int = 0, world_size: int = 1, device: "str | torch.device" = "cpu") -> Batch:
        """The worker's rows of the global batch of a step: (L/W, T) inputs and the bytes one further; `ahead` − 1 more
        of both."""
        import torch

        rows = torch.from_numpy(self.rows(step, world_rank, world_size)).to(device)
        return rows[:, :-1].long(), rows[:, 1:].long()

    def rows(self, step: int, world_rank: int = 0, world_size: int = 1) -> np.ndarray:
        """The same as it is read: (L/W, T + ahead) uint8, or int16 of symbols, inputs and targets overlapping. The
        caller may keep it."""
        require(
            self.lanes % world_size == 0,
            f"training.lanes must be a multiple of the number of workers, {world_size}, got {self.lanes}",
        )
        share = self.lanes // world_size
        mine = range(world_rank * share, (world_rank + 1) * share)
        if self.windows == "random":
            rows = np.empty((share, self.seq_len + self.ahead), self.split.dtype)
            for row, start in zip(rows, self.random_starts(step)[mine.start : mine.stop]):
                row[:] = self.split.read(start, start + rows.shape[1])
            return rows
        number, within = divmod(step, self._steps)
        at = within * self.seq_len
        return self._block(number, mine)[:, at : at + self.seq_len + self.ahead].copy()

    def random_starts(self, step: int) -> list[int]:
        """Where the windows of a step begin: for lane i, word i of the Philox stream of key seed, counter step."""
        words = iter(np.random.Philox(key=self.seed, counter=[0, step, 0, 0]).random_raw(self.lanes).tolist())
        length = self.seq_len + self.ahead
        return [
            start + (next(words) * (stop - start - length + 1) >> 64)
            for _, count, start, stop in self.split.regions(self.lanes)
            for _ in range(count)
        ]

    def _block(self, number: int, mine: range) -> np.ndarray:
        """Steps number·K … number·K + K − 1 of some lanes, side by side: (lanes, K·T + ahead)."""
        last = self._last
        if last is None or last[0] != (number, mine):
            rows = np.empty((len(mine), self._steps * self.seq_len + self.ahead), self.split.dtype)
            for row, lane in zip(rows, mine):
                self._read_ring(row, lane, number * self._steps * self.seq_len)
            self._last = last = ((number, mine), rows)
        return last[1]

    def _read_ring(self, row: np.ndarray, lane: int, offset: int) -> None:
        """Fill the row with the lane's bytes from `offset` on, beginning again behind its last."""
        start, stop = self._stretches[lane]
        at, filled = start + offset % (stop - start), 0
        while filled < len(row):
            data = self.split.read(at, min(at + len(row) - filled, stop))
            row[filled : filled + len(data)] = data
            at, filled = start, filled + len(data)


def lane_stretches(split: AnySplit, lanes: int) -> list[tuple[int, int]]:
    """The symbols [start, stop) of each lane: of a mix, of the part that it belongs to."""
    return [
        (start + i * (stop - start) // count, start + (i + 1) * (stop - start) // count)
        for _, count, start, stop in split.regions(lanes)
        for i in range(count)
    ]


def windows(
    split: AnySplit,
    seq_len: int,
    batch: int,
    world_rank: int = 0,
    world_size: int = 1,
    device: "str | torch.device" = "cpu",
    size: int | None = None,
) -> Iterator[Batch]:
    """The split, or its first `size` bytes, in windows of T bytes that do not overlap: every byte but the very first is
    a target once.

    Yields (up to `batch`, T) inputs and targets; the split's ragged end, if any, comes last and alone: (1, under T).
    A worker gets its own contiguous share of the windows. Raises: UserError when the split has fewer than 2 bytes.
    """
    import torch

    require(
        len(split) >= 2,
        f"the {split.name} split must hold at least 2 bytes to be scored, found {len(split)}: use more text "
        "or another corpus.holdout",
    )
    size = size or len(split)
    targets = size - 1
    count = -(-targets // seq_len)
    first, last = world_rank * count // world_size, (world_rank + 1) * count // world_size
    full = min(last, targets // seq_len)
    for at in range(first, full, batch):
        rows = min(batch, full - at)
        data = torch.from_numpy(split.read(at * seq_len, (at + rows) * seq_len + 1).copy()).to(device).long()
        yield data[:-1].view(rows, seq_len), data[1:].view(rows, seq_len)
    if full < last:
        data = torch.from_numpy(split.read(full * seq_len, size).copy()).to(device).long()
        yield data[None, :-1], data[None, 1:]
