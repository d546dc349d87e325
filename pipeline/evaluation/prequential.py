"""The prequential code length: score the next chunk, then train on it, once through the data.

(Dawid 1984; the published code's "rolling horizon".) It is the code length of an online learner: a decoder that starts
from the same weights can follow, because every byte is scored before any update that saw it. So it can be set beside a
compressor's, which learns from the data alone too. How it learns: `pipeline.evaluation.learner`.

N: bytes of the stream. W: bytes of a window. S: stride, the new bytes of a lane in a step. L: lanes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from h2q.errors import UserError
from pipeline.evaluation.learner import Learner
from pipeline.evaluation.scoring import Tally, code_lengths, tabulate
from pipeline.evaluation.windows import Stream, check_lanes, check_stride, lane_edges
from pipeline.training.precision import Autocast


@dataclass(frozen=True)
class Point:
    """How far the learner is: bytes coded and their bits, the first byte of every lane included."""

    bytes: int
    bits: float
    consumed: int
    """Bytes of every lane that were coded (fewer where a lane has ended)."""


def online(
    learner: Learner, data: Stream, autocast: Autocast, *, window: int, stride: int, lanes: int
) -> Iterator[tuple[Point, Tally]]:
    """Score and learn chunk by chunk; where the learner is after each, and the tally so far.

    The first byte of every lane, which nothing predicts, is charged 8 bits. Deterministic as the learner is.
    Raises: UserError for data shorter than two bytes a lane, a stride outside 1 … window, or a learner that diverged.
    """
    steps = list(schedule(len(data), window=window, stride=stride, lanes=lanes))
    tally, state = Tally.empty(window), learner.model.new_state(lanes)
    for step, batches in enumerate(steps):
        rows = [read(data, batch) for batch in batches]
        for batch, bytes_read in zip(batches, rows, strict=True):
            targets = torch.from_numpy(bytes_read).to(learner.model.device)
            with torch.no_grad():
                nats, state[batch.lanes] = code_lengths(learner.model, targets, autocast, state[batch.lanes])
            tally.add(tabulate(nats, bytes_read, batch.skip, window))
        if not np.isfinite(tally.bits):
            raise UserError(
                f"the learner diverged: the code of the first {tally.scored} bytes is not finite; lower --learning-rate"
            )
        yield Point(tally.scored + lanes, tally.bits + 8 * lanes, (step * stride) + batches[0].length + 1), tally
        if step + 1 < len(steps):
            [whole] = rows  # Lanes differ by at most a byte: only in the last step do windows of two lengths occur.
            learner.learn(whole)


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
    check_lanes(size, lanes)
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
