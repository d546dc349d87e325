"""How many bits each byte around a moment costs the projector, by its distance, on text that it was not trained on.

Shapes: `L` lanes read side by side, `M` moments, `F` numbers of a moment, `n` bytes before it, `m` behind it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from h2q.errors import require
from h2q.projector import Projector
from pipeline.corpus.side_by_side import Bytes, stretches
from pipeline.projector.core import Reader
from pipeline.projector.step import Moments
from pipeline.training.precision import Autocast

LANES = 16
"""Into how many lanes held-out text is cut, through which the core's state is carried; fewer where it is short."""


@dataclass
class Costs:
    """Nats by distance, summed over moments: `last` (n,), nearest first, and `ahead` (m,)."""

    last: np.ndarray
    ahead: np.ndarray
    moments: int = 0

    def bits(self) -> tuple[np.ndarray, np.ndarray]:
        """Bits per byte by distance, before and behind the moment."""
        return self.last / self.moments / math.log(2), self.ahead / self.moments / math.log(2)


def held_out(
    core: Reader,
    data: Bytes,
    *,
    last: int,
    ahead: int,
    stride: int,
    at_once: int,
    device: torch.device,
    size: int | None = None,
    window: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Moments]:
    """Moments every `stride` bytes of the text, or of its first `size` bytes, in lanes side by side through which the
    core's state is carried; with a `window` it starts at zero so many bytes before each moment. A core that attends
    reads `at_once` bytes before each moment at once, as in training, and for that goes through the text more than once:
    the stride is then raised to a divisor or a multiple of these. `share`: which of how many workers this is.

    Raises: UserError for a text without a single moment.
    """
    size, piece, before = min(size or len(data), len(data)), stride, max(last, window or 0)
    if core.attends:  # its windows follow each other without a gap
        stride = next(each for each in count(stride) if at_once % each == 0 or each % at_once == 0)
        piece = max(at_once, stride)
    need = before + piece + ahead
    require(
        size >= need,
        f"held-out text must have {need} bytes, for one moment with all that is written of it, found {size}: use more "
        "text, or lower --projector.last",
    )
    lanes = max(1, min(LANES, size // (4 * need)))
    starts = [start for start, _ in stretches(size, lanes)][
        share[0] * lanes // share[1] : (share[0] + 1) * lanes // share[1]
    ]
    states = [core.new_state(len(starts))] * (piece // stride)

    def read(first: int, stop: int) -> Tensor:
        rows = np.stack([data.read(start + first, start + stop) for start in starts])
        return torch.from_numpy(rows).to(device).long()

    for number, place in enumerate(range(piece, size // lanes - ahead + 1 if starts else 0, stride)):
        if window is None:
            state = states[number % len(states)]
            features, states[number % len(states)] = core.moment(read(place - piece, place), state)
        if place >= before:
            if window is not None:
                features, _ = core.moment(read(place - window, place), core.new_state(len(starts)))
            yield Moments(features, read(place - last, place), read(place, place + ahead))


@torch.no_grad()
def cost(model: Projector, features: Tensor, found: Moments, autocast: Autocast) -> Costs:
    """What the bytes around moments cost where the projector is given these features (M, F) for them."""
    with autocast():
        logits = model(features, model.in_order(found.last), found.ahead)
    last, ahead = (
        functional.cross_entropy(each.transpose(1, 2), text, reduction="none").double().sum(0)
        for each, text in zip(logits, (model.in_order(found.last), found.ahead), strict=True)
    )
    nearest_first = last if model.projector.order == "newest-first" else last.flip(0)
    return Costs(nearest_first.cpu().numpy(), ahead.cpu().numpy(), len(features))


def add(total: Costs | None, more: Costs) -> Costs:
    """The costs of both."""
    if total is None:
        return more
    return Costs(total.last + more.last, total.ahead + more.ahead, total.moments + more.moments)
