"""Text files, files as bytes, WikiText: from a part to blocks of bytes, a block in memory."""

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from h2q.errors import UserError
from pipeline.prepare.inputs import BLOCK, Block, InputPart, Invalid, Reading, is_utf8, mend, raise_invalid
from pipeline.storage import uri as storage

_HEADING = 4096
"""Longest article heading, in bytes, that is recognised."""
ARTICLE = re.compile(rb"(?<=\n) \n = (?!=)[^\n]* = \n(?= \n)")
"""Where an article of WikiText begins: a blank line, ` = Title = `, a blank line. `= = Title = =` heads a section."""


def raw(part: InputPart, reading: Reading) -> Iterator[Block]:
    """A file as it is; the file is the document."""
    with storage.opened(part.path) as file:
        if part.start == part.stop == 0:
            yield np.empty(0, np.uint8), np.zeros(1, np.int64)
        for at in range(part.start, part.stop, BLOCK):
            data = _read(file, part, at, min(at + BLOCK, part.stop))
            yield np.frombuffer(data, np.uint8), np.zeros(int(at == 0), np.int64)


def text(part: InputPart, reading: Reading) -> Iterator[Block]:
    """A UTF-8 file; the file is the document, or, in WikiText, the article."""
    if reading.invalid == "keep" and part.format == "text":
        yield from raw(part, reading)
        return
    with storage.opened(part.path) as file:
        # Both neighbours of a cut move it to the same place: the beginning of the character that it falls into.
        cut = (lambda at: at) if reading.invalid == "keep" else (lambda at: _character(file, part, at))
        start, stop = cut(part.start), cut(part.stop)
        if part.start == part.stop == 0:
            yield np.empty(0, np.uint8), np.zeros(1, np.int64)
        while start < stop:
            end = min(start + BLOCK, stop)
            end = end if end == stop else max(cut(end), start + 1)
            data = _read(file, part, start, end)
            starts = _articles(file, part, start, end) if part.format == "wikitext" else [0] * (start == 0)
            yield _valid(data, np.array(starts, np.int64), reading.invalid, part.shown, start)
            start = end


def _read(file: pa.NativeFile, part: InputPart, start: int, stop: int) -> bytes:
    data = file.read_at(stop - start, start)
    if len(data) != stop - start:
        raise UserError(
            f"{part.shown} changed while it was read: {start + len(data)} bytes, {stop} expected; run again"
        )
    return data


def _character(file: pa.NativeFile, part: InputPart, at: int) -> int:
    """`at`, moved back to the lead byte when it falls inside a UTF-8 character."""
    if at == 0 or at >= file.size():
        return at
    first = max(0, at - 3)
    near = _read(file, part, first, at + 1)
    for back in range(len(near)):
        byte = near[-1 - back]
        if byte & 0xC0 != 0x80:
            length = 1 + (byte >= 0xC2) + (byte >= 0xE0) + (byte >= 0xF0) if byte <= 0xF4 else 1
            return at - back if length > back else at
    return at


def _articles(file: pa.NativeFile, part: InputPart, start: int, stop: int) -> list[int]:
    """Offsets from `start` at which articles begin in [start, stop); the file's first byte always begins one."""
    before = b"\n" if start == 0 else file.read_at(1, start - 1)
    text = before + file.read_at(stop - start + _HEADING, start)
    starts = [match.start() - 1 for match in ARTICLE.finditer(text, 0) if match.start() - 1 < stop - start]
    return starts if start or (starts and starts[0] == 0) else [0, *starts]


def article_starts(part: InputPart) -> Iterator[int]:
    """The offsets in the file at which the articles of a WikiText file begin, in order."""
    with storage.opened(part.path) as file:
        for at in range(part.start, part.stop, BLOCK):
            yield from (at + start for start in _articles(file, part, at, min(at + BLOCK, part.stop)))


def _valid(data: bytes, starts: np.ndarray, invalid: Invalid, shown: str, base: int) -> Block:
    """Text whose UTF-8 was checked; replaced by U+FFFD where it is invalid, if that was asked for."""
    if invalid == "keep" or is_utf8(data):
        return np.frombuffer(data, np.uint8), starts
    if invalid == "error":
        raise_invalid(data, f"{shown} at byte", base)
    # Documents begin at characters, so each may be mended on its own and its new offset is known.
    edges = [0, *starts.tolist(), len(data)]
    mended = [mend(data[a:b]) for a, b in pairwise(edges)]
    ends = np.cumsum([len(part) for part in mended], dtype=np.int64)
    return np.frombuffer(b"".join(mended), np.uint8), ends[:-1]
