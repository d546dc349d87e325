"""Pictures and sounds, each a document: files, rows of a data set that holds files, and what is embedded."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from h2q.errors import require
from pipeline.prepare.inputs import Block, Format, InputPart, Reading
from pipeline.prepare.tables import record_batches
from pipeline.senses.embedded import Document, embedded
from pipeline.senses.media import Media, library
from pipeline.senses.pictures import picture_document, read_picture
from pipeline.senses.sounds import read_sound, sound_document
from pipeline.storage import uri as storage

LIBRARIES: dict[Media, str] = {"image": "PIL.Image", "audio": "soundfile"}
"""What reads files of each kind."""


def check_readable(kind: Media) -> None:
    """Raises: UserError where what reads such files is not installed."""
    library(LIBRARIES[kind])


def one_file(kind: Media, part: InputPart, reading: Reading) -> Iterator[Block]:
    """A picture's or a sound's file. Raises: UserError naming it."""
    with storage.opened(part.path) as file:
        yield _one(_document(kind, file, part.shown, reading))


def embedded_parts(kind: Media, documents: tuple[Document, ...]) -> list[InputPart]:
    """The embedded documents as parts to be read."""
    format: Format = "image-embedded" if kind == "image" else "audio-embedded"
    return [
        InputPart(Path("embedded"), f"embedded {kind}", format, number, number + 1, len(document.document))
        for number, document in enumerate(documents)
    ]


def embedded_documents(kind: Media, part: InputPart, reading: Reading) -> Iterator[Block]:
    """Documents [start, stop) of those that are embedded."""
    documents, _ = embedded(kind, reading.samples)
    for document in documents[part.start : part.stop]:
        yield _one(document.document)


def rows(kind: Media, part: InputPart, reading: Reading) -> Iterator[Block]:
    """Record batches [start, stop) of files, as `datasets` keeps them; a row is a document."""
    number = 0
    for batch in record_batches(part, part.start, part.stop):
        column = batch.column(reading.column)
        require(
            pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0,
            f"{part.shown}: column {reading.column!r} must hold files, found {column.type}: give --corpus.column NAME",
        )
        for content in column.field("bytes").to_pylist():
            where = f"{part.shown}, batch {part.start}, row {number}"
            require(content is not None, f"{where} must hold a file's bytes, found none: leave it out")
            yield _one(_document(kind, io.BytesIO(content), where, reading))
            number += 1


def _document(kind: Media, file: Any, name: str, reading: Reading) -> bytes:
    if kind == "image":
        return picture_document(read_picture(file, name))
    return sound_document(read_sound(file, name), reading.samples)


def _one(document: bytes) -> Block:
    return np.frombuffer(document, np.uint8), np.zeros(1, np.int64)
