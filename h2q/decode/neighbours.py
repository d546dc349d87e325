"""What stands beside the next byte, a symbol at a time, in plain numbers: `h2q.neighbours.look` of a single symbol is
some two hundred operations on tensors of one element each.

Shapes: `P` taps, `D` width.
"""

import torch
from torch import Tensor

from h2q.alphabet import BYTES, CARRIED, HEADER, LONGEST, MARKERS
from h2q.neighbours import (
    END,
    GREY,
    HIGH,
    INSTEAD,
    KEPT,
    MIDDLE,
    NONE,
    OWN,
    PIXEL,
    RED,
    SAMPLE,
    SOUND,
    Neighbours,
)
from h2q.strides import Strides


class SteppedNeighbours:
    """The neighbours of one lane. `carried` (CARRIED,), as `look` has it, is changed in place."""

    def __init__(self, strides: Strides, carried: Tensor) -> None:
        assert carried.shape == (CARRIED,)
        self._strides, self._own, self._symbols = strides, carried[:OWN], carried[OWN:]

    def add(self, symbol: int, stream: Tensor) -> tuple[Neighbours, Tensor] | None:
        """Read the symbol, and add what stands beside the next one to the stream (D,). What it is and what it says, as
        `Strides.raise_near` takes them; None where nothing is predicted from them."""
        values, role = self.read(symbol)
        strides, device = self._strides, stream.device
        if role in (NONE, END):
            stream += strides.inward.bias + strides.role_emb[role]
            return None
        neighbours = Neighbours(torch.tensor([[values]], device=device), torch.tensor([[role]], device=device))
        features = strides.features(neighbours)
        stream += strides.inputs(neighbours, features)[0, 0]
        return neighbours, features

    def read(self, symbol: int) -> tuple[list[float], int]:
        """Read the symbol: taps and role of the byte behind it; no taps where nothing is predicted from them."""
        found = self._beside(symbol)
        self._symbols[:-1] = self._symbols[1:].clone()
        self._symbols[-1] = symbol
        return found

    def _beside(self, symbol: int) -> tuple[list[float], int]:
        kind, since, skipped, *header = map(int, self._own.tolist())
        if symbol >= BYTES:
            kind, offset, skipped, header = symbol, -HEADER, 0, [0] * HEADER
        else:
            offset = since + 1 - HEADER
            if since < HEADER:
                header[since] = symbol
        picture, sound = (kind == MARKERS[name] and offset >= 0 for name in ("image", "audio"))
        unit = max(1, header[4]) if sound else 1
        frame = header[4] if picture else header[3] * header[4] if sound else 0
        frame *= frame <= LONGEST and unit <= 2
        row = (header[0] * 256 + header[1]) * frame * picture
        row *= row <= LONGEST
        ended = row > 0 and skipped + offset // row >= header[2] * 256 + header[3]
        period = max(1, row or frame)
        counted = offset if offset < KEPT * period else KEPT * period + offset % period
        if row:
            skipped = min(skipped + (offset - counted) // row, 1 << 17)
        self._own.copy_(torch.tensor([kind, counted + HEADER, skipped, *header]))
        if not frame:
            return [], NONE
        if ended:
            return [], END
        values = self._taps(symbol, counted, row, frame, unit, PIXEL if picture else SAMPLE)
        if picture:
            return values, GREY if frame == 1 else RED + min(2, counted % frame)
        return values, SOUND if unit == 1 else HIGH + counted % unit

    def _taps(
        self, symbol: int, offset: int, row: int, frame: int, unit: int, taps: tuple[tuple[int, int, int], ...]
    ) -> list[float]:
        columns, channel, low = row // frame, offset % frame // unit, offset % unit
        column = offset // frame % max(1, columns)
        firsts: dict[int, int] = {}
        for number, (up, left, back) in enumerate(taps):
            distance = up * row + left * frame + back * unit
            inside = 0 <= column - left < columns if row else up == 0
            if inside and back <= channel and distance <= min(offset, LONGEST):
                firsts[number] = LONGEST + 1 - low - distance
        indexes = [first + more for first in firsts.values() for more in range(unit)]
        read = self._symbols[torch.tensor(indexes, dtype=torch.int64).clamp(max=LONGEST - 1)].tolist()
        # The symbol itself is behind those that are carried.
        numbers = [symbol if at == LONGEST else value for at, value in zip(indexes, read, strict=True)]
        found: dict[int, float] = {}
        for number, value, second in zip(firsts, numbers[::unit], numbers[unit - 1 :: unit], strict=True):
            if unit == 2:
                value = value + second / 256 if low == 0 else 256 * (value - symbol) + second
            found[number] = float(value)
        nearest = found.get(0, found.get(1, float(MIDDLE)))
        values = [nearest]
        for number in range(1, len(taps)):
            values.append(found.get(number, values[INSTEAD[number]]))
        return values
