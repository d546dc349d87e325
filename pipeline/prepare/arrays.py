"""JSON that holds a table, arrays of its rows or a row a line, as JSON Lines."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from pipeline.prepare.inputs import Invalid

LONGEST = 1 << 28
"""Characters of the longest row, all of which must be in memory."""
_BLOCK = 1 << 18
_GAP = re.compile(r"[\s,]*")
_ERRORS = {"error": "strict", "keep": "surrogateescape", "replace": "replace"}


def is_array(head: bytes) -> bool:
    """Whether a JSON file begins as an array of objects or texts: a table."""
    return re.match(rb'\s*\[\s*[{"\]]', head) is not None


def is_lines(head: bytes) -> bool:
    """Whether a JSON file begins with an object on a line of its own and another below it."""
    line, _, rest = head.partition(b"\n")
    if not rest.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def array_lines(blocks: Iterator[bytes], column: str, invalid: Invalid) -> Iterator[bytes]:
    """A line for each element of the arrays, many at a time: an object as it is, a text as the row's column.

    Raises: ValueError naming the element that is no row, or for what is no JSON.
    """
    lines, size = list[bytes](), 0
    for number, row in enumerate(_elements(_texts(blocks, invalid))):
        if isinstance(row, str):
            row = {column: row}
        if not isinstance(row, dict):
            raise ValueError(f"element {number} of the array must be an object or a text, found {str(row)[:40]}")
        lines.append(json.dumps(row).encode() + b"\n")
        size += len(lines[-1])
        if size >= _BLOCK:
            yield b"".join(lines)
            lines, size = [], 0
    yield b"".join(lines)


def _texts(blocks: Iterator[bytes], invalid: Invalid) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(_ERRORS[invalid])
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _elements(texts: Iterator[str]) -> Iterator[Any]:
    """The elements of an array, and of those behind it (`cat` puts two together), of which a block's worth is in
    memory."""
    decode = json.JSONDecoder().raw_decode
    ahead, at, wanted, begun = "", 0, 1, False
    for more in texts:
        ahead, at = ahead[at:] + more, 0
        wanted = wanted if more else 1  # nothing follows
        while len(ahead) - at >= wanted:
            match = _GAP.match(ahead, at)
            at = match.end() if match else at
            if at == len(ahead):
                break
            if ahead[at] == ("]" if begun else "["):
                begun, at = not begun, at + 1
                continue
            if not begun:
                raise ValueError(f"only another array may follow an array, found {ahead[at : at + 40]!r}")
            try:
                row, at = decode(ahead, at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(ahead) - 16
                if not cut or len(ahead) - at > LONGEST:
                    raise
                wanted = 2 * (len(ahead) - at)  # a long row is tried again when there is twice as much
                break
            wanted = 1
            yield row
    if begun:
        raise ValueError("the array does not end")
