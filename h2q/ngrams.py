"""Which n-gram tables a model has, read from an option. No torch here."""

import re
from typing import NamedTuple

from h2q.errors import require

SYMBOLS = 257
"""What a place of an n-gram can hold in an alphabet of bytes: one of 256, or nothing, before the beginning."""

MOST_ROWS = 1 << 26


class Ngrams(NamedTuple):
    """One table: a row of `width` numbers for the last `order` bytes."""

    order: int
    rows: int
    width: int
    symbols: int = SYMBOLS
    """What a place can hold."""

    @property
    def exact(self) -> bool:
        """Whether each n-gram has a row of its own."""
        return self.rows == self.symbols**self.order


def read_ngrams(text: str, symbols: int = SYMBOLS) -> tuple[Ngrams, ...]:
    """`2:2048x8,3:4096x8` → a table of 2,048 rows of 8 numbers for the last two bytes, and one for the last three.
    `all` in place of the rows: one for each n-gram. Raises: UserError for what cannot be read so."""
    return tuple(_read(part, text, symbols) for part in text.split(",")) if text else ()


def _read(part: str, text: str, symbols: int) -> Ngrams:
    found = re.fullmatch(r"(\d{1,3}):(all|\d{1,9})x(\d{1,6})", part.strip())
    rule = "model.ngrams must be tables as ORDER:ROWSxWIDTH, like 2:2048x8,3:4096x8"
    require(found is not None, f"{rule}, got {text!r}")
    assert found is not None
    order, width = int(found[1]), int(found[3])
    rows = symbols**order if found[2] == "all" else int(found[2])
    require(2 <= order <= 64, f"{rule}: ORDER is the number of bytes, 2 to 64, got {order} (one is the embedding)")
    require(1 <= rows <= MOST_ROWS, f"{rule}: ROWS are 1 to {MOST_ROWS}, got {rows}")
    require(width >= 1, f"{rule}: WIDTH is at least 1, got {width}")
    return Ngrams(order, rows, width, symbols)
