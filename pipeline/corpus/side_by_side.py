"""Stretches of bytes read side by side, a chunk of each at a time: what a model reads that carries a state along.

B: stretches, T: bytes of a chunk, N: bytes of the whole.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np


class Stretch(NamedTuple):
    """The first input and the last target: its targets are the bytes first + 1 … last."""

    first: int
    last: int


class Bytes(Protocol):
    """What can be read anywhere."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray: ...


def stretches(size: int, lanes: int, documents: np.ndarray | None = None) -> list[Stretch]:
    """N bytes as so many stretches of equal length, to a byte: every byte but the very first is a target once.

    With `documents`, where they start, a stretch begins with one: there may be fewer stretches, as long as they come.
    """
    edges = [lane * size // lanes for lane in range(lanes)]
    if documents is not None:
        later = documents[documents < size - 1]
        edges = sorted({0, *(int(later[at]) for at in np.searchsorted(later, edges) if at < len(later))})
    return list(itertools.starmap(Stretch, itertools.pairwise([*edges, size - 1])))


def chunks(data: Bytes, side_by_side: list[Stretch], length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(B, up to T + 1) as they are read, uint8 or int16, inputs and targets overlapping, from the beginning of the
    stretches to their end, and how many targets of each row count (B,): behind its end a row is filled up with zeros.
    """
    if not side_by_side:
        return
    for offset in range(0, max(last - first for first, last in side_by_side), length):
        rows = [
            data.read(min(first + offset, last), min(first + offset + length, last) + 1) for first, last in side_by_side
        ]
        counts = np.array([len(row) - 1 for row in rows])
        block = np.zeros((len(rows), counts.max() + 1), rows[0].dtype)
        for into, row in zip(block, rows, strict=True):
            into[: len(row)] = row
        yield block, counts
