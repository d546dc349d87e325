"""Tables by their text column: Parquet, CSV, and Arrow files of `datasets`. A row is a document.

Every reader yields blocks of whole rows, in their order, of about BLOCK bytes each.
"""

import csv as csv_parser
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from h2q.errors import UserError, first_line, require
from pipeline.prepare.inputs import BLOCK, Block, Format, InputPart, Reading
from pipeline.prepare.rows import no_column, row_block
from pipeline.prepare.texts import ARTICLE
from pipeline.storage import uri as storage
from pipeline.storage.listing import ListedFile

CSV_FIELD = 1 << 28
"""Longest field of a CSV row, in characters."""
MOST_ROWS = 1 << 13
"""Rows of a Parquet file that are read at once."""


def parts_of(file: ListedFile, kind: Format, column: str) -> list[InputPart]:
    """The parts of a table that can be read on their own: row groups, or the whole. Raises: UserError."""
    if kind == "parquet":
        return _row_groups(file, column)
    if kind == "arrow":
        return _batches(file, column)
    return [InputPart(file.path, file.label, kind, 0, file.size, file.size, file.origin)]


def parquet(part: InputPart, reading: Reading) -> Iterator[Block]:
    """Row groups [start, stop) of a Parquet file."""
    import pyarrow.parquet as pq

    with storage.opened(part.path) as file, _readable(part):
        table = pq.ParquetFile(file, page_checksum_verification=True)
        rows = 0
        for group in range(part.start, part.stop):
            about = table.metadata.row_group(group)
            many = BLOCK * max(about.num_rows, 1) // max(_column_bytes(about, reading.column), 1)
            # A dictionary may say with a few bits what is long: not too many rows at once, whatever the size.
            many = min(max(many, 1), MOST_ROWS)
            batches = table.iter_batches(many, row_groups=[group], columns=[reading.column], use_threads=False)
            for batch in batches:
                yield row_block(batch.column(0), reading, f"{part.shown}, row group {part.start}, row", rows)
                rows += len(batch)


@contextmanager
def _readable(part: InputPart) -> Iterator[None]:
    """Name the file where Arrow finds its content damaged."""
    try:
        yield
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = first_line(error)
        raise UserError(f"{part.shown} cannot be read as Parquet: {reason}; mend or remove the file") from error


def csv(part: InputPart, reading: Reading) -> Iterator[Block]:
    """A whole CSV (or TSV) file with a header: only a reading from the start tells where quotes open and close.

    Read by Python's own parser: Arrow's loses part of a quoted CR LF, and overlooks quotes behind a NUL, where values
    are long. Bytes that are not UTF-8 pass through as surrogates.
    """
    with storage.opened(part.path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv_parser.reader(text, delimiter="\t" if part.path.name.lower().endswith(".tsv") else ",", strict=True)
        csv_parser.field_size_limit(CSV_FIELD)
        try:
            header = next(rows, [])
            if reading.column not in header:
                raise UserError(no_column(part, reading, header))
            column = header.index(reading.column)
            values: list[bytes] = []
            row, size = 1, 0
            for fields in rows:
                if not fields:
                    continue  # an empty line is no row
                require(
                    len(fields) == len(header),
                    f"{part.shown}, line {rows.line_num}: a row must have {len(header)} fields like the header, found "
                    f"{len(fields)}: mend the file",
                )
                values.append(fields[column].encode("utf-8", "surrogateescape"))
                size += len(values[-1])
                if size >= BLOCK:
                    yield row_block(pa.array(values, pa.large_binary()), reading, f"{part.shown}, row", row)
                    row, size, values = row + len(values), 0, []
            yield row_block(pa.array(values, pa.large_binary()), reading, f"{part.shown}, row", row)
        except csv_parser.Error as error:
            raise UserError(
                f"{part.shown}, line {rows.line_num} cannot be read as CSV: {error}; mend the file"
            ) from error


def arrow(part: InputPart, reading: Reading) -> Iterator[Block]:
    """Record batches [start, stop) of an Arrow stream file, as `datasets` keeps them."""
    row = 0
    for batch in record_batches(part, part.start, part.stop):
        yield row_block(batch.column(reading.column), reading, f"{part.shown}, batch {part.start}, row", row)
        row += len(batch)


def wikitext_arrow(part: InputPart, reading: Reading) -> Iterator[Block]:
    """WikiText's lines, as the hub has them, made the original file again: the hub empties its blank lines, ` \\n`.

    The document is the article.
    """
    before = _lines_again(record_batches(part, part.start - 1, part.start), reading) if part.start else b"\n"
    own = _lines_again(record_batches(part, part.start, part.stop), reading)
    after = _lines_again(record_batches(part, part.stop, part.stop + 1), reading)
    articles = [match.start() - len(before) for match in ARTICLE.finditer(before + own + after)]
    starts = [start for start in articles if 0 <= start < len(own)]
    if part.start == 0 and starts[:1] != [0]:
        starts = [0, *starts]
    yield np.frombuffer(own, np.uint8), np.array(starts, np.int64)


def _lines_again(batches: Iterator[pa.RecordBatch], reading: Reading) -> bytes:
    rows = [row for batch in batches for row in batch.column(reading.column).to_pylist()]
    return "".join(row or " \n" for row in rows).encode()


def _row_groups(file: ListedFile, column: str) -> list[InputPart]:
    import pyarrow.parquet as pq

    part = InputPart(file.path, file.label, "parquet", 0, 0, 0, file.origin)
    with storage.opened(file.path) as opened, _readable(part):
        about = pq.ParquetFile(opened).metadata
        names = about.schema.to_arrow_schema().names
        require(column in names, no_column(part, Reading(column), names))
        sizes = [_column_bytes(about.row_group(i), column) for i in range(about.num_row_groups)]
    return [replace(part, start=i, stop=i + 1, size=size) for i, size in enumerate(sizes)]


def _column_bytes(group: Any, column: str) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    # Those of a list lie below it: `a.list.element`; a name may hold dots.
    return sum(part.total_uncompressed_size for part in columns if f"{part.path_in_schema}.".startswith(f"{column}."))


def _batches(file: ListedFile, column: str) -> list[InputPart]:
    part = InputPart(file.path, file.label, "arrow", 0, 0, 0)
    parts = []
    for number, batch in enumerate(record_batches(part, 0, None)):
        require(column in batch.schema.names, no_column(part, Reading(column), batch.schema.names))
        parts.append(InputPart(file.path, file.label, "arrow", number, number + 1, batch.column(column).nbytes))
    return parts


def record_batches(part: InputPart, start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
    """Record batches [start, stop) of the mapped stream file; those before are passed over without being read."""
    assert isinstance(part.path, Path), part.path
    with pa.memory_map(os.fsencode(part.path)) as file:
        for number, batch in enumerate(pa.ipc.open_stream(file)):
            if stop is not None and number >= stop:
                return
            if number >= start:
                yield batch
