"""Parts of inputs, the blocks of bytes that they become, and the checking of UTF-8."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from h2q.errors import UserError
from pipeline.senses.sounds import Coding
from pipeline.shown import printable
from pipeline.storage.path import AnyPath, locate, text_of

BLOCK = 8 << 20
"""Bytes read at once."""
Format = (
    Literal["text", "bytes", "wikitext", "manual", "parquet", "jsonl", "csv", "arrow", "wikitext-arrow"]
    | Literal["image", "audio", "image-arrow", "audio-arrow", "image-embedded", "audio-embedded"]
)
BY_BYTE: tuple[Format, ...] = ("text", "bytes", "wikitext", "manual", "jsonl")
"""Formats whose parts are ranges of bytes, and so may be cut anywhere."""
Invalid = Literal["error", "keep", "replace"]
Block = tuple[np.ndarray, np.ndarray]
"""Bytes (uint8), and the offsets in them where documents begin (int64)."""


@dataclass(frozen=True)
class InputPart:
    """A part of one input: bytes, row groups or record batches [start, stop), by format; of a CSV file, the whole.

    `label` names the input for people; `size` is the part's share of the work, in bytes of input; `origin`: see
    `ListedFile`.
    """

    path: AnyPath
    label: str
    format: Format
    start: int
    stop: int
    size: int
    origin: str = ""

    @property
    def shown(self) -> str:
        """The input in messages: its path, or what it was unpacked from."""
        return self.origin or printable(str(self.path))

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"path": text_of(self.path)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "InputPart":
        return cls(**{**values, "path": locate(values["path"])})


@dataclass(frozen=True)
class Reading:
    """How inputs are read: the column of tables, what follows each row, what invalid UTF-8 becomes, whether a
    placeholder for its marker is put before each document, and what samples of sounds become."""

    column: str = "text"
    separator: str = ""
    invalid: Invalid = "error"
    marked: bool = False
    samples: Coding = "ulaw"


def raise_invalid(data: bytes, where: str, base: int) -> None:
    """Raise the UserError that names the first byte of `data` that is not valid UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} {base + error.start} is not valid UTF-8 (0x{data[error.start]:02x}, {error.reason}): mend the "
            "file, or give --corpus.invalid keep (bytes as they are) or replace (U+FFFD), or --corpus.kind bytes"
        ) from None


def is_utf8(data: bytes) -> bool:
    """Arrow's check: an order of magnitude faster than decoding."""
    edges = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.Array.from_buffers(pa.large_utf8(), 1, [None, edges, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def mend(data: bytes) -> bytes:
    """The text with U+FFFD in place of what is not valid UTF-8."""
    return data.decode("utf-8", "replace").encode()
