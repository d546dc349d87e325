"""Scoring with a state that is carried: every byte of a lane with all of the lane that came before it.

A lane is scored by itself, in chunks of one length, whoever scores it: so a figure does not depend on the number of
workers. One lane is the whole stream. Of several, each but the first starts cold, without what it would remember.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from h2q.model import ByteModel
from pipeline.corpus.side_by_side import Stretch, chunks
from pipeline.evaluation.scoring import Tally, code_lengths, tabulate
from pipeline.evaluation.windows import Stream
from pipeline.training.precision import Autocast

AT_ONCE = {"cpu": 1 << 11, "cuda": 1 << 15}
"""Bytes of a lane that go through the model at once, by device, to a multiple of its `seq_len`."""

COLD = 1 << 11
"""Bytes of a lane over which its cold start is measured, behind as many that warm it up."""


def score_lane(
    model: ByteModel,
    data: Stream,
    lane: Stretch,
    autocast: Autocast,
    on_part: Callable[[np.ndarray], object] = lambda table: None,
) -> np.ndarray:
    """The table of a lane (see `scoring.Tally`), by position in its chunk of `seq_len`. `on_part` is given what there
    is of it after each part."""
    window = model.config.seq_len
    table = Tally.empty(window).table
    for nats, row, _ in _through(model, data, lane, autocast, model.new_state(1)):
        whole = nats.shape[1] // window * window
        for part, first, length in ((nats[:, :whole], 0, window), (nats[:, whole:], whole, nats.shape[1] - whole)):
            if part.numel():
                rows = np.lib.stride_tricks.sliding_window_view(row[0, first:], length + 1)[::length]
                table += tabulate(part.view(len(rows), length), rows, 0, window)
        on_part(table)
    return table


def cold_start_bits(model: ByteModel, data: Stream, lanes: list[Stretch], autocast: Autocast) -> float:
    """What it costs that all lanes but the first start cold: bits of their first bytes, over those of the same bytes
    behind as many that warm the state up."""
    nats = 0.0
    for lane in lanes[1:]:
        first = Stretch(lane.first, min(lane.first + COLD, lane.last))
        before = Stretch(max(0, lane.first - COLD), lane.first)
        *_, (_, _, warm) = _through(model, data, before, autocast, model.new_state(1))
        for state, sign in ((model.new_state(1), 1), (warm, -1)):
            nats += sign * sum(
                float(found.double().sum()) for found, *_ in _through(model, data, first, autocast, state)
            )
    return nats / math.log(2)


@torch.no_grad()
def _through(
    model: ByteModel, data: Stream, lane: Stretch, autocast: Autocast, state: Tensor
) -> Iterator[tuple[Tensor, np.ndarray, Tensor]]:
    """Nats (1, T) of the targets of a lane, the bytes (1, T + 1) and the state behind them, part by part."""
    length = model.config.seq_len
    for rows, _ in chunks(data, [lane], max(1, AT_ONCE[model.device.type] // length) * length):
        nats, state = code_lengths(model, torch.from_numpy(rows).to(model.device), autocast, state)
        yield nats, rows, state
