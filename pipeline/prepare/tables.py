"""Tables by their text column: Parquet, JSONL, CSV, and Arrow files of `datasets`. A row is a document.

Every reader yields Arrow arrays of texts, in the order of the rows, of about a block each.
"""

import csv as csv_parser
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from h2q.errors import UserError, require
from pipeline.prepare.inputs import BLOCK, Block, Format, InputPart, Invalid, Reading, is_utf8, mend, raise_invalid
from pipeline.prepare.texts import ARTICLE
from pipeline.storage import uri as storage
from pipeline.storage.listing import ListedFile

CSV_FIELD = 1 << 30
"""Longest field of a CSV row, in characters."""


def parts_of(file: ListedFile, kind: Format, column: str) -> list[InputPart]:
    """The parts of a table that can be read on their own: row groups, or the whole. Raises: UserError."""
    if kind == "parquet":
        return _row_groups(file, column)
    if kind == "arrow":
        return _batches(file, column)
    return [InputPart(file.path, file.label, kind, 0, file.size, file.size)]


def parquet(part: InputPart, reading: Reading) -> Iterator[Block]:
    """Row groups [start, stop) of a Parquet file."""
    import pyarrow.parquet as pq

    with storage.opened(part.path) as file:
        table = pq.ParquetFile(file)
        rows = 0
        for group in range(part.start, part.stop):
            about = table.metadata.row_group(group)
            many = max(1, BLOCK * max(about.num_rows, 1) // max(_column_bytes(about, reading.column), 1))
            batches = table.iter_batches(many, row_groups=[group], columns=[reading.column], use_threads=False)
            for batch in batches:
                yield _block(batch.column(0), reading, f"{part.path}, row group {part.start}, row", rows)
                rows += len(batch)


def jsonl(part: InputPart, reading: Reading) -> Iterator[Block]:
    """The lines of a JSONL file that begin in bytes [start, stop)."""
    from pyarrow import json

    schema = pa.schema([(reading.column, pa.large_string())])
    parse = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    with storage.opened(part.path) as file:
        for at, lines in _lines(file, part):
            if reading.invalid != "keep" and not is_utf8(lines):
                if reading.invalid == "error":
                    raise_invalid(lines, f"{part.path} at byte", at)
                lines = lines.decode("utf-8", "replace").encode()
            if not lines.strip():
                continue
            try:
                table = json.read_json(
                    pa.BufferReader(lines),
                    read_options=json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
                    parse_options=parse,
                )
            except pa.ArrowException as error:
                raise UserError(f"{part.path}, the lines from byte {at}: {error}; mend the file") from error
            texts = table.column(reading.column).combine_chunks()
            if texts.null_count == len(texts):
                raise UserError(_no_column(part, reading, _keys(lines)))
            yield _block(texts, Reading(reading.column, reading.separator, "keep"), str(part.path), at)


def csv(part: InputPart, reading: Reading) -> Iterator[Block]:
    """A whole CSV (or TSV) file with a header: only a reading from the start tells where quotes open and close.

    Read by Python's own parser: Arrow's loses part of a quoted CR LF, and overlooks quotes behind a NUL, where values
    are long. Bytes that are not UTF-8 pass through as surrogates.
    """
    with storage.opened(part.path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv_parser.reader(text, delimiter="\t" if part.label.lower().endswith(".tsv") else ",", strict=True)
        csv_parser.field_size_limit(CSV_FIELD)
        try:
            header = next(rows, [])
            if reading.column not in header:
                raise UserError(_no_column(part, reading, header))
            column = header.index(reading.column)
            values: list[bytes] = []
            row, size = 1, 0
            for fields in rows:
                if not fields:
                    continue  # an empty line is no row
                require(
                    len(fields) == len(header),
                    f"{part.path}, line {rows.line_num}: a row must have {len(header)} fields like the header, found "
                    f"{len(fields)}: mend the file",
                )
                values.append(fields[column].encode("utf-8", "surrogateescape"))
                size += len(values[-1])
                if size >= BLOCK:
                    yield _block(pa.array(values, pa.large_binary()), reading, f"{part.path}, row", row)
                    row, size, values = row + len(values), 0, []
            yield _block(pa.array(values, pa.large_binary()), reading, f"{part.path}, row", row)
        except csv_parser.Error as error:
            raise UserError(
                f"{part.path}, line {rows.line_num} cannot be read as CSV: {error}; mend the file"
            ) from error


def arrow(part: InputPart, reading: Reading) -> Iterator[Block]:
    """Record batches [start, stop) of an Arrow stream file, as `datasets` keeps them."""
    row = 0
    for batch in _stream(part, part.start, part.stop):
        yield _block(batch.column(reading.column), reading, f"{part.path}, batch {part.start}, row", row)
        row += len(batch)


def wikitext_arrow(part: InputPart, reading: Reading) -> Iterator[Block]:
    """WikiText's lines, as the hub has them, made the original file again: the hub empties its blank lines, ` \\n`.

    The document is the article.
    """
    before = _lines_again(_stream(part, part.start - 1, part.start), reading) if part.start else b"\n"
    own = _lines_again(_stream(part, part.start, part.stop), reading)
    after = _lines_again(_stream(part, part.stop, part.stop + 1), reading)
    articles = [match.start() - len(before) for match in ARTICLE.finditer(before + own + after)]
    starts = [start for start in articles if 0 <= start < len(own)]
    if part.start == 0 and starts[:1] != [0]:
        starts = [0, *starts]
    yield np.frombuffer(own, np.uint8), np.array(starts, np.int64)


def _lines_again(batches: Iterator[pa.RecordBatch], reading: Reading) -> bytes:
    rows = [row for batch in batches for row in batch.column(reading.column).to_pylist()]
    return "".join(row or " \n" for row in rows).encode()


def _block(texts: Any, reading: Reading, where: str, first: int) -> Block:
    """The texts end to end, and where each begins. A missing text is an empty document."""
    require(
        pa.types.is_string(texts.type)
        or pa.types.is_large_string(texts.type)
        or pa.types.is_binary(texts.type)
        or pa.types.is_large_binary(texts.type),
        f"{where} {first}: column {reading.column!r} must hold text, found {texts.type}: give --corpus.column NAME",
    )
    texts = pc.fill_null(texts.cast(pa.large_binary()), b"")
    if reading.invalid != "keep":
        texts = _checked(texts, reading.invalid, where, first)
    if reading.separator:
        ends = [pa.scalar(end, pa.large_binary()) for end in (b"", reading.separator.encode())]
        texts = pc.call_function("binary_join_element_wise", [texts, *ends])
    if not len(texts):
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    _, edges, values = texts.buffers()
    offsets = np.frombuffer(edges, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(values or b"", np.uint8)[offsets[0] : offsets[-1]]
    return data, offsets[:-1] - offsets[0]


def _checked(texts: Any, invalid: Invalid, where: str, first: int) -> Any:
    """The texts, all valid UTF-8."""
    try:
        texts.cast(pa.large_string())
        return texts
    except pa.ArrowInvalid:
        rows = texts.to_pylist()
    if invalid == "replace":
        return pa.array([mend(row) for row in rows], pa.large_binary())
    for number, row in enumerate(rows):
        raise_invalid(row, f"{where} {first + number}, byte", 0)
    raise AssertionError("Arrow and Python disagree on UTF-8")


def _lines(file: pa.NativeFile, part: InputPart) -> Iterator[tuple[int, bytes]]:
    """(offset, whole lines) of the lines that begin in bytes [start, stop), about a block at a time."""
    at = part.start and _line_end(file, part.start - 1)
    while at < part.stop:
        end = _line_end(file, min(at + BLOCK, part.stop) - 1)
        yield at, file.read_at(end - at, at)
        at = end


def _line_end(file: pa.NativeFile, at: int) -> int:
    """The offset behind the first line end at or after `at`; the file's end if there is none."""
    size = file.size()
    while at < size:
        ahead = file.read_at(1 << 16, at)
        end = ahead.find(b"\n")
        if end >= 0:
            return at + end + 1
        at += len(ahead)
    return size


def _keys(lines: bytes) -> list[str]:
    import json

    first = json.loads(next(line for line in lines.split(b"\n") if line.strip()).decode("utf-8", "replace"))
    return sorted(first) if isinstance(first, dict) else []


def _row_groups(file: ListedFile, column: str) -> list[InputPart]:
    import pyarrow.parquet as pq

    with storage.opened(file.path) as opened:
        try:
            about = pq.ParquetFile(opened).metadata
        except pa.ArrowInvalid as error:
            raise UserError(f"{file.path} cannot be read as Parquet: {error}; mend or remove the file") from error
        part = InputPart(file.path, file.label, "parquet", 0, 0, 0)
        names = about.schema.to_arrow_schema().names
        require(column in names, _no_column(part, Reading(column), names))
        sizes = [_column_bytes(about.row_group(i), column) for i in range(about.num_row_groups)]
    return [InputPart(file.path, file.label, "parquet", i, i + 1, size) for i, size in enumerate(sizes)]


def _column_bytes(group: Any, column: str) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(part.total_uncompressed_size for part in columns if part.path_in_schema.split(".")[0] == column)


def _batches(file: ListedFile, column: str) -> list[InputPart]:
    part = InputPart(file.path, file.label, "arrow", 0, 0, 0)
    parts = []
    for number, batch in enumerate(_stream(part, 0, None)):
        require(column in batch.schema.names, _no_column(part, Reading(column), batch.schema.names))
        parts.append(InputPart(file.path, file.label, "arrow", number, number + 1, batch.column(column).nbytes))
    return parts


def _stream(part: InputPart, start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
    """Record batches [start, stop) of the mapped stream file; those before are passed over without being read."""
    assert isinstance(part.path, Path), part.path
    with pa.memory_map(str(part.path)) as file:
        for number, batch in enumerate(pa.ipc.open_stream(file)):
            if stop is not None and number >= stop:
                return
            if number >= start:
                yield batch


def _no_column(part: InputPart, reading: Reading, names: list[str]) -> str:
    return (
        f"{part.path} has no text in a column {reading.column!r}; its columns are {', '.join(names)}: "
        "give --corpus.column NAME"
    )
