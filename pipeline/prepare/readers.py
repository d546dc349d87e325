"""From a piece of an input to blocks of bytes: which function reads which format."""

from collections.abc import Callable, Iterator

from pipeline.prepare import tables, texts
from pipeline.prepare.pieces import Block, Format, Piece, Reading

_READERS: dict[Format, Callable[[Piece, Reading], Iterator[Block]]] = {
    "bytes": texts.raw,
    "text": texts.text,
    "wikitext": texts.text,
    "manual": texts.topics,
    "parquet": tables.parquet,
    "jsonl": tables.jsonl,
    "csv": tables.csv,
    "arrow": tables.arrow,
    "wikitext-arrow": tables.wikitext_arrow,
}


def blocks(piece: Piece, reading: Reading) -> Iterator[Block]:
    """The bytes of a piece, in order. Raises: UserError naming the input and the place of what is wrong."""
    return _READERS[piece.format](piece, reading)
