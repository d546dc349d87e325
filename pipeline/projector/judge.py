"""What a projector recovers of held-out text, by distance from the moment, beside controls that know less.

Bits recovered at a distance = bits per byte of the decoder without a state − with it: how far back they go is the
memory horizon of the core.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from h2q.projector import Projector
from pipeline.corpus.side_by_side import Bytes
from pipeline.projector.core import Reader
from pipeline.projector.score import Costs, add, cost, held_out
from pipeline.projector.step import Moments
from pipeline.training.precision import Autocast

MOMENTS, STRIDE, FREE = 4096, 16, 512
"""Moments that are scored at most, bytes between them at least, and how many of them are written freely."""

BATCH = 256
"""Moments that are scored at once."""

CONTROLS = ("other position", "zero state")
"""Which must recover nothing."""

CLEAR = 0.5
"""Bits of the last byte that must be recovered at least: half of less would be noise."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Bits per byte by distance, nearest first, of the projector and of each control; and what it writes freely."""

    moments: int
    last: dict[str, list[float]]
    """By what the decoder is given: `carried`, `reset` (a state that starts at zero where these bytes begin), and of
    the controls `without` (no state), `other position`, `zero state`."""
    ahead: dict[str, list[float]]
    exact: list[float]
    """Share of the bytes written freely that are right, by distance."""
    all_exact: dict[int, float]
    """Share of moments whose last so many bytes are all right."""
    error_rate: dict[int, float]
    """Edits for each byte of the last so many: insertions, deletions, replacements."""

    def recovered(self, name: str = "carried") -> list[float]:
        """Bits recovered by distance."""
        return [without - bits for without, bits in zip(self.last["without"], self.last[name], strict=True)]

    @property
    def remembers(self) -> bool:
        """Whether clearly some of the last byte is recovered, and more than by a control."""
        return self.recovered()[0] >= max(CLEAR, *(self.recovered(name)[0] for name in CONTROLS))

    @property
    def half_point(self) -> int | None:
        """The distance at which half of the bits of the last byte are left; None: farther than was asked, or nothing
        of that byte is clearly recovered."""
        recovered = self.recovered()
        left = (at for at, bits in enumerate(recovered, start=1) if bits < recovered[0] / 2)
        return next(left, None) if self.remembers else None


def judge(
    model: Projector,
    core: Reader,
    data: Bytes,
    autocast: Autocast,
    size: int | None = None,
    on_progress: Callable[[int, int], object] = lambda *_: None,
) -> Judgement:
    """Judge on held-out text, or its first `size` bytes; `on_progress` hears how many of all bytes are scored.

    Raises: UserError for too little text.
    """
    model.eval()
    asked, size = model.projector, min(size or len(data), len(data))
    stride = max(STRIDE, size // MOMENTS)
    told: dict[str, Any] = {
        "last": asked.last,
        "ahead": asked.next,
        "stride": stride,
        "at_once": model.config.seq_len,
        "device": model.device,
        "size": size,
    }
    every = _all(held_out(core, data, **told))
    given = {
        "carried": every.features,
        "reset": _all(held_out(core, data, **told, window=asked.last)).features,
        "without": torch.full_like(every.features, torch.nan),
        "other position": every.features.roll(len(every.features) // 2, 0),  # half of the text away
        "zero state": torch.zeros_like(every.features),
    }
    costs: dict[str, Costs] = {}
    for part in torch.arange(len(every.features)).split(BATCH):
        some = Moments(*(each[part] for each in every))
        for name, features in given.items():
            costs[name] = add(costs.get(name), cost(model, features[part], some, autocast))
        written = len(given) * (asked.last + asked.next)
        on_progress(int(part[-1] + 1) * written, len(every.features) * written)
    bits = {name: each.bits() for name, each in costs.items()}
    return Judgement(
        moments=len(every.features),
        last={name: last.tolist() for name, (last, _) in bits.items()},
        ahead={name: ahead.tolist() for name, (_, ahead) in bits.items()},
        **_freely(model, every),
    )


def _all(parts: Iterator[Moments]) -> Moments:
    return Moments(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _freely(model: Projector, every: Moments) -> dict[str, Any]:
    """What is right of the bytes written freely, over some moments of all."""
    some = torch.linspace(0, len(every.features) - 1, min(FREE, len(every.features))).long()
    written = model.in_order(model.freely(every.features[some], model.projector.last)).flip(1).cpu().numpy()
    truth = every.last[some].flip(1).cpu().numpy()  # both nearest first
    right = written == truth
    lengths = [n for n in (1, 8, 32, 128, 512) if n < right.shape[1]] + [right.shape[1]]
    return {
        "exact": right.mean(0).tolist(),
        "all_exact": {n: float(right[:, :n].all(1).mean()) for n in lengths},
        "error_rate": {n: float((edits(written[:, :n], truth[:, :n]) / n).mean()) for n in lengths},
    }


def edits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Levenshtein distance of each row of the one to that of the other: (B, n), (B, m) → (B,)."""
    before = np.tile(np.arange(other.shape[1] + 1), (len(one), 1))
    for row in range(one.shape[1]):
        now = np.empty_like(before)
        now[:, 0] = row + 1
        replaced = before[:, :-1] + (one[:, row, None] != other)
        now[:, 1:] = np.minimum(replaced, before[:, 1:] + 1)
        for column in range(1, now.shape[1]):
            now[:, column] = np.minimum(now[:, column], now[:, column - 1] + 1)
        before = now
    return before[:, -1]
