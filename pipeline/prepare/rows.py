"""Rows of a table: from an Arrow array of texts to a block."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from h2q.errors import require
from pipeline.prepare.inputs import Block, InputPart, Invalid, Reading, mend, raise_invalid


def row_block(texts: Any, reading: Reading, where: str, first: int) -> Block:
    """The texts end to end, and where each begins. A missing text is an empty document."""
    texts = pc.fill_null(_binary(texts, reading, where, first), b"")
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


def no_column(part: InputPart, reading: Reading, names: list[str]) -> str:
    """What to say where a table has no text in the column."""
    return (
        f"{part.shown} has no text in a column {reading.column!r}; its columns are {', '.join(names)}: "
        "give --corpus.column NAME"
    )


def _binary(texts: Any, reading: Reading, where: str, first: int) -> Any:
    """The texts as large_binary, however a table keeps them: as they are, by a dictionary, or not at all (nulls)."""
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if isinstance(texts, pa.ExtensionArray):
        texts = texts.storage
    readable = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_null,
    )
    require(
        any(fits(texts.type) for fits in readable),
        f"{where} {first}: column {reading.column!r} must hold text, found {texts.type}: give --corpus.column NAME",
    )
    return texts.cast(pa.large_binary())


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
