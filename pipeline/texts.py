"""From a piece of an input to blocks of bytes: one small function for each format, memory bounded by the block."""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from h2q.config import UserError
from pipeline import storage

BLOCK = 8 << 20
"""Bytes read at once."""
_HEADING = 4096
"""Longest article heading, in bytes, that is recognised."""
_ARTICLE = re.compile(rb"(?<=\n) \n = (?!=)[^\n]* = \n(?= \n)")
"""Where an article of WikiText begins: a blank line, ` = Title = `, a blank line. `= = Title = =` heads a section."""

Format = Literal["text", "bytes", "wikitext", "manual", "parquet", "jsonl", "csv", "arrow"]
Invalid = Literal["error", "keep", "replace"]
Block = tuple[np.ndarray, np.ndarray]
"""Bytes (uint8), and the offsets in them where documents begin (int64)."""


@dataclass(frozen=True)
class Piece:
    """A part of one input: bytes [start, stop) of a file, row groups of a table.

    `label` names the input for people; `size` is the piece's share of the work, in bytes of input.
    """

    path: str
    label: str
    format: Format
    start: int
    stop: int
    size: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Reading:
    """How inputs are read: the column of tables, what follows each row, and what invalid UTF-8 becomes."""

    column: str = "text"
    separator: str = ""
    invalid: Invalid = "error"


def blocks(piece: Piece, reading: Reading) -> Iterator[Block]:
    """The bytes of a piece, in order. Raises: UserError naming the input and the place of what is wrong."""
    return _READERS[piece.format](piece, reading)


def _bytes(piece: Piece, reading: Reading) -> Iterator[Block]:
    """A file as it is; the file is the document."""
    with storage.opened(piece.path) as file:
        if piece.start == piece.stop == 0:
            yield np.empty(0, np.uint8), np.zeros(1, np.int64)
        for at in range(piece.start, piece.stop, BLOCK):
            data = _read(file, piece, at, min(at + BLOCK, piece.stop))
            yield np.frombuffer(data, np.uint8), np.zeros(int(at == 0), np.int64)


def _text(piece: Piece, reading: Reading) -> Iterator[Block]:
    """A UTF-8 file; the file is the document, or, in WikiText, the article."""
    if reading.invalid == "keep" and piece.format == "text":
        yield from _bytes(piece, reading)
        return
    with storage.opened(piece.path) as file:
        # Both neighbours of a cut move it to the same place: the beginning of the character that it falls into.
        cut = (lambda at: at) if reading.invalid == "keep" else (lambda at: _character(file, piece, at))
        start, stop = cut(piece.start), cut(piece.stop)
        if piece.start == piece.stop == 0:
            yield np.empty(0, np.uint8), np.zeros(1, np.int64)
        while start < stop:
            end = min(start + BLOCK, stop)
            end = end if end == stop else max(cut(end), start + 1)
            data = _read(file, piece, start, end)
            starts = _articles(file, piece, start, end) if piece.format == "wikitext" else [0] * (start == 0)
            yield _valid(data, np.array(starts, np.int64), reading.invalid, piece.path, start)
            start = end


def _read(file: pa.NativeFile, piece: Piece, start: int, stop: int) -> bytes:
    data = file.read_at(stop - start, start)
    if len(data) != stop - start:
        raise UserError(
            f"{piece.path} changed while it was read: {start + len(data)} bytes, {stop} expected; run again"
        )
    return data


def _character(file: pa.NativeFile, piece: Piece, at: int) -> int:
    """`at`, moved back to the lead byte when it falls inside a UTF-8 character."""
    if at == 0 or at >= file.size():
        return at
    first = max(0, at - 3)
    near = _read(file, piece, first, at + 1)
    for back in range(len(near)):
        byte = near[-1 - back]
        if byte & 0xC0 != 0x80:
            length = 1 + (byte >= 0xC2) + (byte >= 0xE0) + (byte >= 0xF0) if byte <= 0xF4 else 1
            return at - back if length > back else at
    return at


def _articles(file: pa.NativeFile, piece: Piece, start: int, stop: int) -> list[int]:
    """Offsets from `start` at which articles begin in [start, stop); the file's first byte always begins one."""
    before = b"\n" if start == 0 else file.read_at(1, start - 1)
    text = before + file.read_at(stop - start + _HEADING, start)
    found = [match.start() - 1 for match in _ARTICLE.finditer(text, 0) if match.start() - 1 < stop - start]
    return found if start or (found and found[0] == 0) else [0, *found]


def article_starts(piece: Piece) -> Iterator[int]:
    """The offsets in the file at which the articles of a WikiText file begin, in order."""
    with storage.opened(piece.path) as file:
        for at in range(piece.start, piece.stop, BLOCK):
            yield from (at + start for start in _articles(file, piece, at, min(at + BLOCK, piece.stop)))


def _valid(data: bytes, starts: np.ndarray, invalid: Invalid, path: str, base: int) -> Block:
    """Text whose UTF-8 was checked; replaced by U+FFFD where it is invalid, if that was asked for."""
    if invalid == "keep" or _is_utf8(data):
        return np.frombuffer(data, np.uint8), starts
    if invalid == "error":
        raise_invalid(data, f"{path} at byte", base)
    # Documents begin at characters, so each may be mended on its own and its new offset is known.
    edges = [0, *starts.tolist(), len(data)]
    mended = [data[a:b].decode("utf-8", "replace").encode() for a, b in pairwise(edges)]
    ends = np.cumsum([len(part) for part in mended], dtype=np.int64)
    return np.frombuffer(b"".join(mended), np.uint8), ends[:-1]


def raise_invalid(data: bytes, place: str, base: int) -> None:
    """Raise the UserError that names the first byte of `data` that is not valid UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place} {base + error.start} is not valid UTF-8 (0x{data[error.start]:02x}, {error.reason}): mend the "
            "file, or give --corpus.invalid keep (bytes as they are) or replace (U+FFFD), or --corpus.kind bytes"
        ) from None


def _is_utf8(data: bytes) -> bool:
    """Arrow's check: an order of magnitude faster than decoding."""
    edges = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.Array.from_buffers(pa.large_utf8(), 1, [None, edges, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _manual(piece: Piece, reading: Reading) -> Iterator[Block]:
    """Bytes [start, stop) of Python's reference manual; a topic is a document."""
    text, starts = manual()
    here = starts[(starts >= piece.start) & (starts < piece.stop)] - piece.start
    yield np.frombuffer(text, np.uint8)[piece.start : piece.stop], here


def manual() -> tuple[bytes, np.ndarray]:
    """The reference manual that every CPython carries, topics by name, a blank line after each; where they start."""
    from pydoc_data.topics import topics

    texts = [(topics[name].strip() + "\n\n").encode() for name in sorted(topics)]
    return b"".join(texts), np.cumsum([0, *map(len, texts[:-1])], dtype=np.int64)


_READERS: dict[str, Callable[[Piece, Reading], Iterator[Block]]] = {
    "bytes": _bytes,
    "text": _text,
    "wikitext": _text,
    "manual": _manual,
}
