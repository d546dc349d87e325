"""The code length of windows under a model, told apart by position and by byte value.

W: bytes of a window. Nats are summed in float64, for each batch of windows alone; batches are added in the order of the
plan. So a total is the same, bit for bit, whoever computed the batches.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch.nn import functional

from h2q.alphabet import ALPHABET, BYTES, Kind
from h2q.errors import require
from h2q.model import ByteModel
from pipeline.evaluation.byte_classes import MARKED, class_of, classes
from pipeline.training.precision import Autocast


@dataclass(frozen=True)
class Tally:
    """Nats and numbers of the bytes scored so far. `table` is (2, W + ALPHABET) float64: row 0 nats, row 1 bytes;
    the last ALPHABET columns by the value of the byte, or symbol, each once. The first W by the position of the target
    in its window, in every window that holds it: windows that overlap tell of every position, though the code takes a
    byte only once."""

    table: np.ndarray

    @classmethod
    def empty(cls, window: int) -> Self:
        return cls(np.zeros((2, window + ALPHABET)))

    def add(self, table: np.ndarray) -> None:
        """Another tally's table on top."""
        self.table[:] += table

    @property
    def scored(self) -> int:
        """Bytes scored."""
        return int(self._values[1].sum())

    @property
    def bits(self) -> float:
        """Their code length under the model."""
        return math.fsum(self._values[0]) / math.log(2)

    def by_position(self) -> tuple[np.ndarray, np.ndarray]:
        """Bits per byte (NaN where there was none) and bytes for each position of the window, (W,) each."""
        return _rates(self._positions)

    def by_class(self, kind: Kind = "text") -> dict[str, tuple[int, float]]:
        """Bytes and their bits for each class of bytes, of text or of anything, that occurs."""
        names = [*classes(kind), MARKED]
        nats, counts = (np.bincount(class_of(kind), weights=row, minlength=len(names)) for row in self._values)
        found = zip(names, counts.tolist(), (nats / math.log(2)).tolist(), strict=True)
        return {name: (int(count), bits) for name, count, bits in found if count}

    @property
    def _positions(self) -> np.ndarray:
        return self.table[:, :-ALPHABET]

    @property
    def _values(self) -> np.ndarray:
        return self.table[:, -ALPHABET:]


def _rates(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nats, counts = rows
    with np.errstate(invalid="ignore"):
        return nats / counts / math.log(2), counts.astype(np.int64)


@torch.no_grad()
def score(
    model: ByteModel,
    rows: np.ndarray,
    skip: int,
    window: int,
    autocast: Autocast,
    state: torch.Tensor | None = None,
) -> np.ndarray:
    """The table (see Tally) of one batch of windows, (B, T + 1) uint8 with T ≤ W, whose first `skip` targets count by
    position alone, behind a state if one is carried.

    The model must be in evaluation mode; it computes on the device where it lies.
    """
    data = torch.from_numpy(rows.copy()).to(model.device)
    return tabulate(code_lengths(model, data, autocast, state)[0], rows, skip, window)


def code_lengths(
    model: ByteModel, data: torch.Tensor, autocast: Autocast, state: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats of the targets of windows, (B, T + 1) uint8 or symbols → (B, T), on the device where both lie, behind a
    state (None: behind nothing), which ends at a marker; and the state behind them."""
    before = model.new_state(len(data)) if state is None else state
    marked = model.config.carries and data.dtype == torch.int16
    data = data.long()
    with autocast():
        logits, after = model(data[:, :-1], state=before, reset=data[:, :-1] >= BYTES if marked else None)
    targets = data[:, 1:]
    nats = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nats.view(targets.shape), after


def tabulate(found: torch.Tensor, rows: np.ndarray, skip: int, window: int) -> np.ndarray:
    """The table of windows from the nats of their targets."""
    nats = found.cpu().double().numpy()
    table, values = Tally.empty(window).table, rows[:, 1 + skip :].ravel()
    length = nats.shape[1]
    table[0, :length], table[1, :length] = nats.sum(axis=0), len(rows)
    table[0, window:] = np.bincount(values, weights=nats[:, skip:].ravel(), minlength=ALPHABET)
    table[1, window:] = np.bincount(values, minlength=ALPHABET)
    return table


def check_window(window: int, model: ByteModel) -> None:
    """Raises: UserError for a window that the model has no positions for."""
    positions = model.config.longest
    require(
        1 <= window <= (positions or window),
        f"window must be from 1 to the model's {positions} positions (model.seq_len), got {window}",
    )


def check_alphabet(histogram: np.ndarray, vocab: int, name: str, option: str = "--data") -> None:
    """Raises: UserError for data with byte values that the model has no symbol for. `option`: which names it."""
    largest = int(np.flatnonzero(histogram)[-1])
    require(
        largest < vocab,
        f"{name} holds the byte {largest}, but the model's alphabet ends at {vocab - 1} (model.vocab {vocab}): it was "
        f"trained on another vocabulary; name a file of its symbols' numbers as {option}",
    )
