"""Which windows score a stream of bytes: each byte but the very first is a target exactly once.

N: bytes of the stream. W: bytes of a window. S: stride, 1 ≤ S ≤ W. L: lanes, read side by side.

Windows of a lane begin S bytes apart. The first scores all its targets, every later one its last S only, which then
have at least W − S + 1 bytes of context; S = W is side by side, as training evaluates. Lane i reads from byte i·N/L on
and scores up to the first byte of the next lane, so that none is left out.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from h2q.errors import require
from pipeline.corpus.side_by_side import stretches

ROWS = 64
"""Windows of one forward pass. Fixed, like all of the plan: a figure must not depend on who computes it."""


class Stream(Protocol):
    """Bytes that can be read anywhere: a split of a prepared corpus, or a file."""

    name: str
    sha256: str

    @property
    def alphabet(self) -> int:
        """How many symbols there are of which it may be made."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray: ...

    def stream(self) -> Iterator[np.ndarray]: ...


class Windows(NamedTuple):
    """Windows of one length, scored in one forward pass: window i reads `length` bytes from `start` + i·`stride` on.

    Its targets are the bytes one further; the first `skip` of them were scored by the window before.
    """

    start: int
    rows: int
    length: int
    stride: int
    skip: int

    def read(self, data: Stream) -> np.ndarray:
        """(rows, length + 1) uint8: inputs and targets, overlapping."""
        last = self.start + (self.rows - 1) * self.stride
        span = data.read(self.start, last + self.length + 1)
        return np.lib.stride_tricks.sliding_window_view(span, self.length + 1)[:: self.stride]


def plan(size: int, *, window: int, stride: int, lanes: int = 1) -> list[Windows]:
    """All windows of a stream of `size` bytes, in order.

    Raises: UserError for fewer than 2 bytes, or a stride outside 1 … window.
    """
    require(size >= 2, f"the data must hold at least 2 bytes to be scored, found {size}")
    check_stride(stride, window)
    return [windows for first, last in stretches(size, lanes) for windows in _lane(first, last, window, stride)]


def check_stride(stride: int, window: int) -> None:
    """Raises: UserError for a stride that would leave bytes out, or never advance."""
    require(1 <= stride <= window, f"stride must be from 1 to the window's {window} bytes, got {stride}")


def check_lanes(size: int, lanes: int) -> None:
    """Raises: UserError for fewer than two bytes a lane: one to read and one to score."""
    require(
        size >= 2 * max(1, lanes), f"the data must hold 2 bytes for each of {lanes} lanes, found {size}: lower --lanes"
    )


def lane_edges(size: int, lanes: int) -> list[int]:
    """Where the lanes begin, and behind the last one the size: lane i owns bytes [i·N/L, (i+1)·N/L)."""
    require(lanes >= 1, f"lanes must be at least 1, got {lanes}")
    return [lane * size // lanes for lane in range(lanes + 1)]


def _lane(start: int, stop: int, window: int, stride: int) -> Iterator[Windows]:
    """The windows whose targets are bytes start + 1 … stop."""
    targets, overlap = stop - start, window - stride
    full = (targets - window) // stride + 1 if targets >= window else 0
    if full and overlap:
        yield Windows(start, 1, window, stride, 0)
    for number in range(1 if overlap else 0, full, ROWS):
        yield Windows(start + number * stride, min(ROWS, full - number), window, stride, overlap)
    left = targets - full * stride
    if left > overlap or (left and not full):
        yield Windows(start + full * stride, 1, left, stride, overlap if full else 0)
