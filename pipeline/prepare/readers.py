"""From a part of an input to bytes: which function reads which format."""

from collections.abc import Callable, Iterator
from functools import partial

from pipeline.prepare import jsonl, manual, media, tables, texts
from pipeline.prepare.inputs import Block, Format, InputPart, Reading
from pipeline.storage.uri import opened

_READERS: dict[Format, Callable[[InputPart, Reading], Iterator[Block]]] = {
    "bytes": texts.raw,
    "text": texts.text,
    "wikitext": texts.text,
    "manual": manual.read,
    "parquet": tables.parquet,
    "jsonl": jsonl.jsonl,
    "csv": tables.csv,
    "arrow": tables.arrow,
    "wikitext-arrow": tables.wikitext_arrow,
    "image": partial(media.one_file, "image"),
    "audio": partial(media.one_file, "audio"),
    "image-arrow": partial(media.rows, "image"),
    "audio-arrow": partial(media.rows, "audio"),
    "image-embedded": partial(media.embedded_documents, "image"),
    "audio-embedded": partial(media.embedded_documents, "audio"),
}


def blocks(part: InputPart, reading: Reading) -> Iterator[Block]:
    """The bytes of a part, in order. Raises: UserError naming the input and the place of what is wrong."""
    return _READERS[part.format](part, reading)


def bytes_at(part: InputPart, at: int, size: int) -> bytes:
    """So many bytes of the input of a part that is a range of bytes, from `at` on; fewer at the input's end."""
    if part.format == "manual":
        return manual.manual()[0][at : at + size]
    with opened(part.path) as file:
        return file.read_at(size, at)
