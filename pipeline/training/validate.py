"""Bits per byte of a whole split."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from h2q.alphabet import BYTES
from h2q.model import ByteModel
from pipeline.corpus.lanes import windows
from pipeline.corpus.mixed import AnySplit, MixedSplit
from pipeline.corpus.side_by_side import chunks, stretches
from pipeline.training.precision import Autocast

if TYPE_CHECKING:  # It loads Ray.
    from pipeline.training.worker import Worker

ROWS = {"cpu": 16, "cuda": 64}
"""Windows to a batch, by device; fixed, so that a result does not depend on the batch of the training. With 64 a CPU is
no faster on windows of 256 bytes, and a worker of preset `laptop` holds 120 MB more."""

POSITIONS = {"cpu": 1 << 12, "cuda": 1 << 16}
"""Bytes to a batch where they make more than its rows: fewer leave a GPU waiting for launches, a CPU for Python."""


LANES = 16
"""Into how many lanes a split is cut through which a state is carried, whatever the number of workers. Each starts at
zero, which costs what the state is worth over a few hundred bytes."""

LANE_BYTES = 1 << 12
"""A lane is no shorter than this: a short split has fewer of them."""


def batch_rows(device: str, seq_len: int) -> int:
    """Windows to a batch on a device of this type."""
    return max(ROWS[device], POSITIONS[device] // seq_len)


class EvaluationStopped(Exception):
    """Some worker was told to stop before the split was scored."""


@torch.no_grad()
def bits_per_byte(
    model: ByteModel,
    split: AnySplit,
    worker: "Worker",
    autocast: Autocast,
    *,
    size: int | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
    carry: bool = True,
) -> float:
    """Code length of the split under the model, over its bytes: every byte once, in windows of `seq_len` side by side.
    `size`: of its first so many bytes. `on_progress` is told about how many were scored, of how many.

    With a state, in `LANES` lanes side by side through which it is carried, so that a byte is scored with all of its
    lane that came before; not `carry`: every window starts at zero. Where documents are marked, lanes begin with one,
    and the state ends at a marker.

    The first byte, which nothing predicts, is charged the bits of a uniform guess (8 of a byte), so that the figure is
    that of a code and can be set beside a compressor's. The workers share the windows, or the lanes; all get the same
    result.
    Raises: EvaluationStopped, on all workers, once `stopped` says so on one.
    """
    training = model.training
    model.eval()
    nats = torch.zeros((), dtype=torch.float64, device=worker.device)
    size, done, cut = size or len(split), 0, False
    parts = _carried if carry and model.config.carries else _windowed
    for part, count in parts(model, split, worker, autocast, size):
        nats += part
        done += count * worker.world_size
        on_progress(min(done, size), size)
        if cut := done < size and stopped():
            break
    model.train(training)
    total, unfinished = worker.sum(torch.stack([nats, torch.full_like(nats, cut)])).tolist()
    if unfinished:
        raise EvaluationStopped
    return (total / math.log(2) + math.log2(split.alphabet)) / size


class Score(Protocol):
    """Bits per byte of a split, or of its first `size` bytes."""

    def __call__(self, split: AnySplit, *, size: int, on_progress: Callable[[int, int], object]) -> float: ...


def by_kind(score: Score, split: AnySplit, size: int, on_progress: Callable[[int, int], object]) -> dict[str, float]:
    """The score of a split as `bpb`. Of a mix that is the code length of all its symbols over their number, and each
    part's own is there as `KIND/bpb`; of the `size` symbols every part has its share, its first ones."""
    if not isinstance(split, MixedSplit):
        return {"bpb": score(split, size=size, on_progress=on_progress)}
    sizes = [min(max(2, size * len(part.split) // len(split)), len(part.split)) for part in split.parts]
    total, before, found = sum(sizes), 0, {}
    for part, share in zip(split.parts, sizes, strict=True):

        def told(done: int, _: int, before: int = before) -> None:
            on_progress(before + done, total)

        found[f"{part.kind}/bpb"] = score(part.split, size=share, on_progress=told)
        before += share
    return {"bpb": sum(bpb * share for bpb, share in zip(found.values(), sizes)) / total} | found


Parts = Iterator[tuple[torch.Tensor, int]]
"""Nats of some bytes, and how many they are."""


def _windowed(model: ByteModel, split: AnySplit, worker: "Worker", autocast: Autocast, size: int) -> Parts:
    """This worker's share of the windows."""
    rows, length = batch_rows(worker.device.type, model.config.seq_len), model.config.seq_len
    for x, y in windows(split, length, rows, worker.world_rank, worker.world_size, worker.device, size):
        with autocast():
            logits = model(x)
        yield functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").double(), y.numel()


def _carried(model: ByteModel, split: AnySplit, worker: "Worker", autocast: Autocast, size: int) -> Parts:
    """This worker's share of the lanes."""
    count, length = max(1, min(LANES, size // LANE_BYTES)), model.config.seq_len
    length *= max(1, batch_rows(worker.device.type, length) // ROWS["cpu"])
    rank, workers = worker.world_rank, worker.world_size
    # Half a picture without its header is not what the model has learned.
    marked = split.alphabet > BYTES
    lanes = stretches(size, count, split.document_starts(size) if marked else None)
    mine = lanes[rank * len(lanes) // workers : (rank + 1) * len(lanes) // workers]
    state = model.new_state(len(mine))
    for rows, counts in chunks(split, mine, length):
        data, ends = (torch.from_numpy(part).to(worker.device).long() for part in (rows, counts))
        with autocast():
            logits, state = model(data[:, :-1], state=state, reset=data[:, :-1] >= BYTES if marked else None)
        each = functional.cross_entropy(logits.transpose(1, 2), data[:, 1:], reduction="none")
        there = torch.arange(each.shape[1], device=worker.device) < ends[:, None]
        yield torch.where(there, each, 0).double().sum(), int(counts.sum())
