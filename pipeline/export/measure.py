"""What int8 costs: bits per byte of the model and of what its file holds, over the same bytes."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch

from h2q.model import ByteModel
from pipeline.corpus.side_by_side import stretches
from pipeline.evaluation.carried import score_lane
from pipeline.evaluation.scoring import Tally, score
from pipeline.evaluation.windows import Stream, plan
from pipeline.export.encoding import INT8, encoding_of, scaled, unscaled
from pipeline.export.parts import parts

ALLOWED = 0.01
"""Bits per byte that int8 may cost before the export says which part to keep in fp16."""
SAMPLE_BYTES = 1 << 16
"""Of the data, for the cost of one part."""

Progress = Callable[[Tally], None]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What rounding costs on some data."""

    data: str
    bytes: int
    before: float
    """Bits per byte of the model."""
    after: float
    """Of what its file holds."""
    worst: str | None = None
    """The part whose rounding costs most, where all together cost more than is allowed."""


def cost_of(
    model: ByteModel, rounded: ByteModel, data: Stream, name: str, halves: frozenset[str], show: Progress
) -> Cost:
    """Score the model and what its file holds on all of the data."""
    before, after = (bits_per_byte(one, data, len(data), show) for one in (model, rounded))
    worst = None if after - before <= ALLOWED else costliest(model, data, halves)
    return Cost(data=name, bytes=len(data), before=before, after=after, worst=worst)


def bits_per_byte(model: ByteModel, data: Stream, size: int, show: Progress = lambda tally: None) -> float:
    """Of the first `size` bytes, in windows side by side; of a model with a state, in one stream, as it will run."""
    window = model.config.seq_len
    tally = Tally.empty(window)
    if model.config.carries:
        (lane,) = stretches(size, 1)
        tally.add(score_lane(model, data, lane, contextlib.nullcontext, lambda part: show(Tally(part))))
        return tally.bits / tally.scored
    for windows in plan(size, window=window, stride=window):
        tally.add(score(model, windows.read(data), windows.skip, window, contextlib.nullcontext))
        show(tally)
    return tally.bits / tally.scored


@torch.no_grad()
def costliest(model: ByteModel, data: Stream, halves: frozenset[str]) -> str | None:
    """The part of which rounding alone costs most, on a sample; None where all are kept in fp16 already."""
    rounded, size = copy.deepcopy(model), min(len(data), SAMPLE_BYTES)
    found: dict[str, float] = {}
    for part in parts(rounded):
        if encoding_of(part, "int8", halves) == INT8:
            exact = part.tensor
            part.fill(unscaled(*scaled(exact)))
            found[part.name] = bits_per_byte(rounded, data, size)
            part.fill(exact)
    return max(found, key=found.__getitem__, default=None)
