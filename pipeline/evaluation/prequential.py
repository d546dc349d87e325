"""The prequential code length: score the next chunk, then train on it, once through the data.

(Dawid 1984; the published code's "rolling horizon".) It is the code length of an online learner: a decoder that starts
from the same weights can follow, because every byte is scored before any update that saw it. So it can be set beside a
compressor's, which learns from the data alone too. From trained weights it is dynamic evaluation (Krause et al. 2018).

N: bytes of the stream. W: bytes of a window. S: stride, the new bytes of a lane in a step. L: lanes.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from h2q.errors import UserError, require
from pipeline.config import RunConfig
from pipeline.evaluation.scoring import Tally, score
from pipeline.evaluation.windows import Stream, check_stride, lane_edges
from pipeline.runs.checkpoint import Checkpoint
from pipeline.training.optimizer import set_learning_rate
from pipeline.training.precision import Autocast
from pipeline.training.schedule import learning_rate
from pipeline.training.step import optimizer_step
from pipeline.training.train_state import TrainState, new_train_state

Rate = Callable[[int], float]
"""The learning rate of a step."""


@dataclass(frozen=True)
class Point:
    """How far the learner is: bytes coded and their bits, the first byte of every lane included."""

    bytes: int
    bits: float
    consumed: int
    """Bytes of every lane that were coded (fewer where a lane has ended)."""


def online(
    train_state: TrainState,
    data: Stream,
    config: RunConfig,
    autocast: Autocast,
    *,
    window: int,
    stride: int,
    lanes: int,
    rate: Rate,
) -> Iterator[tuple[Point, Tally]]:
    """Score and learn chunk by chunk; where the learner is after each, and the tally so far.

    Optimizer settings, penalties and the seed of dropout are those of the config. The first byte of every lane, which
    nothing predicts, is charged 8 bits. Deterministic given train_state, config and torch's threads.
    Raises: UserError for data shorter than two bytes a lane, a stride outside 1 … window, or a learner that diverged.
    """
    steps = list(schedule(len(data), window=window, stride=stride, lanes=lanes))
    tally = Tally.empty(window)
    for step, batches in enumerate(steps):
        train_state.model.eval()
        rows = [read(data, batch) for batch in batches]
        for batch, bytes_read in zip(batches, rows, strict=True):
            state = train_state.carried[batch.lanes]
            tally.add(score(train_state.model, bytes_read, batch.skip, window, autocast, state))
        if not np.isfinite(tally.bits):
            raise UserError(
                f"the learner diverged: the code of the first {tally.scored} bytes is not finite; lower --learning-rate"
            )
        yield Point(tally.scored + lanes, tally.bits + 8 * lanes, (step * stride) + batches[0].length + 1), tally
        if step + 1 < len(steps):
            [whole] = rows  # Lanes differ by at most a byte: only in the last step do windows of two lengths occur.
            train_on(train_state, whole, config, autocast, rate(step), step)


@dataclass(frozen=True)
class Batch:
    """Windows of several lanes, all of `length` bytes: inputs from each of `starts` on, targets one byte further; the
    first `skip` targets were scored in the step before."""

    lanes: list[int]
    starts: list[int]
    length: int
    skip: int


def schedule(size: int, *, window: int, stride: int, lanes: int) -> Iterator[list[Batch]]:
    """The batches of every step. Lane i codes its own bytes [i·N/L, (i+1)·N/L) but the first, which is given.

    Raises: UserError for fewer than two bytes a lane, or a stride outside 1 … window.
    """
    require(
        size >= 2 * max(1, lanes), f"the data must hold 2 bytes for each of {lanes} lanes, found {size}: lower --lanes"
    )
    check_stride(stride, window)
    edges = lane_edges(size, lanes)
    sizes = [stop - start for start, stop in pairwise(edges)]
    for step in range(1 + max(0, -(-(max(sizes) - 1 - window) // stride))):
        at, skip = step * stride, window - stride if step else 0
        lengths = [min(window, size - 1 - at) for size in sizes]
        found = []
        for length in sorted({length for length in lengths if length > skip}, reverse=True):
            reading = [lane for lane in range(lanes) if lengths[lane] == length]
            found.append(Batch(reading, [edges[lane] + at for lane in reading], length, skip))
        yield found


def read(data: Stream, batch: Batch) -> np.ndarray:
    """(rows, length + 1) uint8: inputs and targets, overlapping."""
    return np.stack([data.read(start, start + batch.length + 1) for start in batch.starts])


def train_on(
    train_state: TrainState, rows: np.ndarray, config: RunConfig, autocast: Autocast, rate: float, step: int
) -> None:
    """One optimizer step on the rows just scored."""
    train_state.model.train()
    set_learning_rate(train_state.optimizer, rate)
    torch.manual_seed(zlib.crc32(f"{config.training.seed} {step} 0".encode()))
    data = torch.from_numpy(rows.astype(np.int64)).to(train_state.model.device)
    optimizer_step(train_state, train_state.model, data[:, :-1], data[:, 1:], config, autocast, detailed=False)


def learner(
    config: RunConfig, checkpoint: Checkpoint | None, device: torch.device, *, lanes: int | None = None
) -> TrainState:
    """What learns: new weights drawn from the config's seed, or those of the checkpoint with their moments. `lanes`: of
    the data, where they are not as many as the config's; a state begins in each of them at zero.

    A checkpoint that was imported has no moments: AdamW begins without. The rank stays what it is.
    """
    train_state = new_train_state(config, device, rows=lanes)
    if checkpoint is not None and checkpoint.optimizer:
        train_state.restore(replace(checkpoint, carried={}))
    elif checkpoint is not None:
        train_state.model.load_state_dict(checkpoint.model)
    return train_state


def learning_rates(config: RunConfig, checkpoint: Checkpoint | None, given: float | None) -> Rate:
    """The rate of each step: constant, after the config's warm-up where the weights are new.

    Not `given`, it is the config's peak for new weights, else the one at which the checkpoint was made.
    """
    training = replace(config.training, schedule="constant")
    if checkpoint is None:
        training = training if given is None else replace(training, learning_rate=given)
        return lambda step: learning_rate(step, training)
    state = checkpoint.state
    made_at = learning_rate(state["step"], config.training, state.get("leg")) * 0.5 ** state.get("rollbacks", 0)
    grown = len(state.get("growth", {}).get("grown_at", []))
    constant = made_at * config.growth.lr_scale**grown if given is None else given
    return lambda step: constant


def coded(data: Stream, lanes: int, consumed: int) -> Iterator[np.ndarray]:
    """The bytes that are coded when so many of every lane are, lane after lane (one lane: the prefix)."""
    edges = lane_edges(len(data), lanes)
    for start, stop in pairwise(edges):
        yield data.read(start, min(start + consumed, stop))


def milestones(points: list[Point], count: int = 12) -> list[Point]:
    """A dozen of the points, from 4 KiB or the first to the last, at equal ratios."""
    sizes = np.array([point.bytes for point in points])
    wanted = np.geomspace(min(max(4096, sizes[0]), sizes[-1]), sizes[-1], count)
    chosen = np.searchsorted(sizes, wanted * (1 - 1e-9))
    return [points[number] for number in np.unique(np.minimum(chosen, len(points) - 1))]
