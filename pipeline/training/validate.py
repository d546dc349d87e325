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


class EvaluationStopped(Exception):
    """Some worker was told to stop before the split was scored."""


@torch.no_grad()
def bits_per_byte(
    model: ByteModel,
    split: Split,
    worker: "Worker",
    autocast: Autocast,
    *,
    size: int | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> float:
    """Code length of the split under the model, over its bytes: every byte once, in windows of `seq_len` side by side.
    `size`: of its first so many bytes. `on_progress` is told about how many were scored, of how many.

    The first byte, which nothing predicts, is charged the 8 bits of a uniform guess, so that the figure is that of a
    code and can be set beside a compressor's. The workers share the windows; all get the same result.
    Raises: EvaluationStopped, on all workers, once `stopped` says so on one.
    """
    training = model.training
    model.eval()
    nats = torch.zeros((), dtype=torch.float64, device=worker.device)
    size, done, cut = size or len(split), 0, False
    rows = batch_rows(worker.device.type, model.config.seq_len)
    for x, y in windows(split, model.config.seq_len, rows, worker.world_rank, worker.world_size, worker.device, size):
        if cut := stopped():
            break
        with autocast():
            logits = model(x)
        nats += functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").double()
        done += y.numel() * worker.world_size
        on_progress(min(done, size), size)
    model.train(training)
    total, unfinished = worker.sum(torch.stack([nats, torch.full_like(nats, cut)])).tolist()
    if unfinished:
        raise EvaluationStopped
    return (total / math.log(2) + 8) / size
