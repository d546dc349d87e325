"""Encodings of text: what a file begins with tells UTF-8 with a byte order mark, UTF-16 and UTF-32."""

import codecs
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.prepare.inputs import Invalid
from pipeline.prepare.packing import Stream

_BLOCK = 1 << 20
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class Encoding(NamedTuple):
    """A codec of Python, and the bytes of the mark at the beginning, which is no text."""

    codec: str
    mark: int

    def __str__(self) -> str:
        return f"{self.codec.upper()} with a byte order mark" if self.mark else self.codec.upper()


def encoding_of(head: bytes) -> Encoding | None:
    """The encoding of a file that begins like this; None for UTF-8 without a mark, or what is none of these.

    UTF-16 without a mark is known by its zeros, where most characters are Latin.
    """
    for mark, codec in _MARKS.items():
        if head.startswith(mark):
            return Encoding(codec, len(mark))
    pairs = len(head) // 2
    first, second = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    if pairs >= 8 and max(first, second) > 0.7 * pairs and min(first, second) == 0:
        return Encoding("utf-16-be" if first else "utf-16-le", 0)
    return None


def blocks_of(stream: Stream) -> Iterator[bytes]:
    """The stream to its end."""
    while block := stream.read(_BLOCK):
        yield block


def as_utf8(stream: Stream, encoding: Encoding, invalid: Invalid) -> Iterator[bytes]:
    """The text in UTF-8, without its mark. Raises: UnicodeDecodeError where that is not possible, unless replaced."""
    stream.read(encoding.mark)
    if encoding.codec == "utf-8":
        yield from blocks_of(stream)
        return
    decoder = codecs.getincrementaldecoder(encoding.codec)("replace" if invalid == "replace" else "strict")
    for block in blocks_of(stream):
        yield decoder.decode(block).encode()
    yield decoder.decode(b"", final=True).encode()
