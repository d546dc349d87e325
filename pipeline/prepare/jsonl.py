"""JSON Lines by their text column: a block of lines by Arrow's parser, and line by line where that does not do."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from h2q.errors import UserError, require
from pipeline.prepare.inputs import BLOCK, Block, InputPart, Reading, is_utf8, raise_invalid
from pipeline.prepare.rows import no_column, row_block
from pipeline.storage import uri as storage

LONGEST = 1 << 28
"""Bytes of the longest line, all of which must be in memory."""


def jsonl(part: InputPart, reading: Reading) -> Iterator[Block]:
    """The lines of a JSONL file that begin in bytes [start, stop)."""
    seen, names = False, set[str]()
    with storage.opened(part.path) as file:
        for at, lines in _lines(file, part):
            texts = _by_arrow(lines, reading.column)
            if texts is None:
                rows = list(_rows(lines, at, part, reading))
                names.update(*(row for _, row in rows))
                texts = pa.array([_text(row, where, part, reading) for where, row in rows], pa.large_binary())
            seen = seen or texts.null_count < len(texts) or reading.column in names
            yield row_block(texts, Reading(reading.column, reading.separator, "keep"), str(part.path), at)
    require(seen or not names, no_column(part, reading, sorted(names)))


def _by_arrow(lines: bytes, column: str) -> pa.Array | None:
    """The texts, or None where they are not plain: invalid UTF-8, half a surrogate pair, nothing in the column, or a
    line that is no object, which can end Arrow's parser and this process with it."""
    from pyarrow import json as arrow_json

    data = np.frombuffer(lines, np.uint8)
    begins = data[np.flatnonzero(data[:-1] == ord("\n")) + 1]
    if lines[:1] != b"{" or not np.all(begins == ord("{")) or not is_utf8(lines):
        return None
    schema = pa.schema([(column, pa.large_string())])
    try:
        table = arrow_json.read_json(
            pa.BufferReader(lines),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    texts: Any = table.column(column).combine_chunks()
    return None if texts.null_count == len(texts) else texts


def _rows(lines: bytes, at: int, part: InputPart, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """The offset of every line in the file, and its object."""
    errors = {"error": "strict", "keep": "surrogateescape", "replace": "replace"}[reading.invalid]
    for line in lines.split(b"\n"):
        where, at = at, at + len(line) + 1
        if not line.strip():
            continue
        if reading.invalid == "error":
            raise_invalid(line, f"{part.shown} at byte", where)
        try:
            row = json.loads(line.decode("utf-8", errors))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{part.shown}, the line from byte {where}: {error}; mend the file") from None
        found = line[:40].decode("utf-8", "replace")
        require(
            isinstance(row, dict),
            f"{part.shown}, the line from byte {where} must be a JSON object, found {found}: mend the file",
        )
        yield where, row


def _text(row: dict[str, Any], where: int, part: InputPart, reading: Reading) -> bytes | None:
    """The row's text. JSON can write half of a surrogate pair (`\\ud800`), which is no text."""
    text = row.get(reading.column)
    require(
        text is None or isinstance(text, str),
        f"{part.shown}, the line from byte {where}: column {reading.column!r} must hold text, found "
        f"{type(text).__name__}: give --corpus.column NAME",
    )
    if text is None:
        return None
    try:
        return text.encode("utf-8", "surrogateescape" if reading.invalid == "keep" else "strict")
    except UnicodeEncodeError as error:
        if reading.invalid == "error":
            half = f"\\u{ord(text[error.start]):04x}"
            raise UserError(
                f"{part.shown}, the line from byte {where}: the text holds {half}, half of a surrogate pair: mend the "
                "file, or give --corpus.invalid replace (U+FFFD) or keep"
            ) from None
    if reading.invalid == "keep":
        return text.encode("utf-8", "surrogatepass")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _lines(file: pa.NativeFile, part: InputPart) -> Iterator[tuple[int, bytes]]:
    """(offset, whole lines) of the lines that begin in bytes [start, stop), about a block at a time."""
    at = part.start and _line_end(file, part.start - 1, part)
    while at < part.stop:
        end = _line_end(file, min(at + BLOCK, part.stop) - 1, part)
        yield at, file.read_at(end - at, at)
        at = end


def _line_end(file: pa.NativeFile, at: int, part: InputPart) -> int:
    """The offset behind the first line end at or after `at`; the file's end if there is none."""
    size, first = file.size(), at
    while at < size:
        ahead = file.read_at(1 << 16, at)
        end = ahead.find(b"\n")
        if end >= 0:
            return at + end + 1
        at += len(ahead)
        require(
            at - first <= LONGEST,
            f"{part.shown}: a line must have at most {LONGEST} bytes, that around byte {first} has more: mend the file",
        )
    return size
