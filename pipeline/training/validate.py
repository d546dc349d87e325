"""Bits per byte of a whole split."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from h2q.model import ByteModel
from pipeline.corpus.corpus import Split
from pipeline.corpus.lanes import windows
from pipeline.training.precision import Autocast

if TYPE_CHECKING:  # It loads Ray.
    from pipeline.training.worker import Worker

ROWS = {"cpu": 16, "cuda": 64}
"""Windows to a batch, by device; fixed, so that a result does not depend on the batch of the training. With 64 a CPU is
no faster, and a worker of preset `laptop` holds 120 MB more."""

POSITIONS = 1 << 16
"""Bytes to a batch on a GPU, where they make more than its rows: fewer would leave it waiting for launches."""


def batch_rows(device: str, seq_len: int) -> int:
    """Windows to a batch on a device of this type."""
    return ROWS[device] if device == "cpu" else max(ROWS[device], POSITIONS // seq_len)


@torch.no_grad()
def bits_per_byte(
    model: ByteModel,
    split: Split,
    worker: "Worker",
    autocast: Autocast,
    *,
    size: int | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> float:
    """Code length of the split under the model, over its bytes: every byte once, in windows of `seq_len` side by side.
    `size`: of its first so many bytes. `on_progress` is told about how many were scored, of how many.

    The first byte, which nothing predicts, is charged the 8 bits of a uniform guess, so that the figure is that of a
    code and can be set beside a compressor's. The workers share the windows; all get the same result.
    """
    training = model.training
    model.eval()
    nats = torch.zeros((), dtype=torch.float64, device=worker.device)
    rows = batch_rows(worker.device.type, model.config.seq_len)
    size, done = size or len(split), 0
    for x, y in windows(split, model.config.seq_len, rows, worker.world_rank, worker.world_size, worker.device, size):
        with autocast():
            logits = model(x)
        nats += functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").double()
        done += y.numel() * worker.world_size
        on_progress(min(done, size), size)
    model.train(training)
    return (worker.sum(nats).item() / math.log(2) + 8) / size
