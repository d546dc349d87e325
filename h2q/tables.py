"""Tables of n-grams: what the last n bytes were, added to the embedded byte at the input of every half.

The key of the last n bytes is a polynomial in their symbols, hashed to a row; different n-grams may share one, and
training makes the best of it. So a model knows at once what a recurrence or attention would have to learn to compare.
(Hash embeddings: Svenstrup et al. 2017; n-gram features for recurrent models: Mikolov et al. 2011.)

A *symbol* is a byte plus one, or 0 for nothing: before the beginning of what the model reads, and before a reset.
Shapes: `B` lanes, `T` bytes, `C` bytes before that are still needed, one less than the longest n-gram; `D` width of a
half (or of the stream).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from h2q.ngrams import Ngrams

MULTIPLIER, PRIME = 2654435761, 4294967291
"""Knuth's multiplicative hash, and the largest prime below 2³²."""


class NgramTables(nn.Module):
    """Hashed embeddings of the last n bytes, one table for each n; zero until initialised. Their rows lie side by side
    in the width, from its beginning again where it ends."""

    def __init__(self, tables: Sequence[Ngrams], width: int) -> None:
        super().__init__()
        self.tables, self.width, self.symbols = tuple(tables), width, tables[0].symbols
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(table.rows, table.width)) for table in tables)
        self.context = max(table.order for table in tables) - 1
        """C."""

    def forward(self, x: Tensor, before: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Bytes x (B, T) behind the symbols before (B, C) → what is added to their embeddings (B, T, D), and the last C
        symbols. Where reset (B, T) is true all before the byte is nothing."""
        count, length = self.context, x.shape[1]
        symbols = torch.cat((before, x + 1), dim=1)
        since = None if reset is None else functional.pad(reset.long().cumsum(1), (count, 0))
        """How many resets there were: nothing is read across one."""
        key, keys = x + 1, {}
        for distance in range(1, count + 1):
            places = slice(count - distance, count - distance + length)
            earlier = symbols[:, places]
            if since is not None:
                earlier = earlier * (since[:, places] == since[:, count:])
            key = key * self.symbols + earlier
            keys[distance + 1] = key
        rows = [_hashed(keys[table.order], table) for table in self.tables]
        added = torch.cat([functional.embedding(at, weight) for at, weight in zip(rows, self.weights)], dim=-1)
        added = functional.pad(added, (0, -added.shape[-1] % self.width))
        if added.shape[-1] > self.width:
            added = added.unflatten(-1, (-1, self.width)).sum(-2)
        behind = symbols[:, length:]
        if since is not None:
            behind = behind * (since[:, length:] == since[:, -1:])
        return added, behind

    def rows(self, symbols: Sequence[int]) -> list[int]:
        """The row of each table for the last C + 1 symbols, newest last, in plain integers: for one byte at a time."""
        key, keys = symbols[-1], {}
        for distance in range(1, self.context + 1):
            key = _wrapped(key * self.symbols + symbols[-1 - distance])
            keys[distance + 1] = key
        return [
            keys[table.order] if table.exact else _wrapped(keys[table.order] * MULTIPLIER) % PRIME % table.rows
            for table in self.tables
        ]


def _hashed(key: Tensor, table: Ngrams) -> Tensor:
    return key if table.exact else (key * MULTIPLIER).remainder(PRIME).remainder(table.rows)


def _wrapped(value: int) -> int:
    """As int64 arithmetic leaves it."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
