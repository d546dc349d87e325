"""Where the lanes of a step forget their state: a pure function of the step, so that there is nothing to save.

L: lanes, T: bytes of a lane in a step, W: workers.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.config import RunConfig
from pipeline.corpus.lanes import lane_stretches
from pipeline.corpus.mixed import AnySplit

if TYPE_CHECKING:  # It loads Ray.
    from pipeline.training.worker import Worker


class Resets:
    """`resets(step)` → before which of the step's inputs a state is set to zero, (L/W, T), or None if there is none.

    That is where a lane, read as a ring, begins again; where a document begins, if `reset_at` says so; and at the start
    of the share `cold_starts` of all chunks, drawn for each lane from the run's seed and the step, whatever the number
    of workers. Windows drawn at random follow on nothing: they all start at zero.
    """

    def __init__(self, split: AnySplit, config: RunConfig, *, world_rank: int = 0, world_size: int = 1) -> None:
        lanes = config.training.lanes
        self._split, self._config, self._chunk = split, config, config.chunk
        self._stretches = lane_stretches(split, lanes)
        share = lanes // world_size
        self._mine = range(world_rank * share, (world_rank + 1) * share)

    def __call__(self, step: int) -> np.ndarray | None:
        training = self._config.training
        found = np.zeros((len(self._mine), self._chunk), bool)
        if training.windows == "random":
            found[:, 0] = True
        else:
            drawn = np.random.Generator(np.random.Philox(key=training.seed, counter=[0, step, 1, 0]))
            found[:, 0] = drawn.random(training.lanes)[self._mine.start : self._mine.stop] < training.cold_starts
            for row, lane in zip(found, self._mine, strict=True):
                self._mark(row, step * self._chunk, *self._stretches[lane])
        return found if found.any() else None

    def _mark(self, row: np.ndarray, offset: int, start: int, stop: int) -> None:
        """Mark in a row the beginnings of the lane [start, stop), and of its documents, from byte `offset` on."""
        size = stop - start
        row[-offset % size :: size] = True
        if self._config.training.reset_at == "document":
            places = self._documents[np.searchsorted(self._documents, start) : np.searchsorted(self._documents, stop)]
            for first in ((places - start - offset) % size).tolist():
                row[first::size] = True

    @cached_property
    def _documents(self) -> np.ndarray:
        return self._split.document_starts()


def resets_on(config: RunConfig, split: AnySplit, worker: "Worker") -> Callable[[int], Tensor | None]:
    """A step's number → where the worker's rows of its batch forget their state, on its device; None if nowhere."""
    if not config.carries:
        return lambda step: None
    resets = Resets(split, config, world_rank=worker.world_rank, world_size=worker.world_size)

    def on_device(step: int) -> Tensor | None:
        found = resets(step)
        return None if found is None else torch.from_numpy(found).to(worker.device)

    return on_device
