"""Scoring on a GPU by a CUDA graph: a batch of windows costs launches more than arithmetic."""

import numpy as np
import torch

from h2q.decode.graph import recorded
from h2q.model import ByteModel
from pipeline.evaluation.scoring import code_lengths, tabulate
from pipeline.training.precision import Autocast


class ReplayedScore:
    """What `pipeline.evaluation.scoring.score` gives, for batches of few shapes: each is recorded when it first comes.

    A replay computes what the recorded step did, by the same kernels. The model's parameters may change between calls,
    in place.
    """

    def __init__(self, model: ByteModel, window: int, autocast: Autocast) -> None:
        self._model, self._window, self._autocast = model, window, autocast
        self._recorded: dict[tuple[int, int], _Recorded] = {}

    def __call__(self, rows: np.ndarray, skip: int) -> np.ndarray:
        """The table (see `scoring.Tally`) of windows (B, T + 1) uint8, whose first `skip` targets count by position
        alone."""
        key = (rows.shape[0], rows.shape[1])
        if key not in self._recorded:
            dtype = torch.from_numpy(rows[:1].copy()).dtype
            self._recorded[key] = _Recorded(self._model, key, dtype, self._autocast)
        return tabulate(self._recorded[key].nats(rows), rows, skip, self._window)


class _Recorded:
    def __init__(self, model: ByteModel, shape: tuple[int, int], dtype: torch.dtype, autocast: Autocast) -> None:
        rows, length = shape
        device = model.device
        self._data = torch.zeros(rows, length, dtype=dtype, device=device)
        self._nats = torch.zeros(rows, length - 1, device=device, dtype=model.dtype)

        @torch.no_grad()
        def work() -> None:
            self._nats.copy_(code_lengths(model, self._data, autocast)[0])

        self._work = recorded(work, device)

    def nats(self, rows: np.ndarray) -> torch.Tensor:
        self._data.copy_(torch.from_numpy(rows.copy()))
        self._work()
        return self._nats
