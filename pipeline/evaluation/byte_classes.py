"""Kinds of bytes, for people who ask where the bits go."""

import string

import numpy as np

from h2q.alphabet import ALPHABET, Kind

_TEXT = {
    "letters": string.ascii_letters.encode(),
    "digits": string.digits.encode(),
    "whitespace": string.whitespace.encode(),
    "punctuation": string.punctuation.encode(),
    "multi-byte UTF-8": bytes(range(0x80, 0x100)),
    "control": bytes({*range(0x20), 0x7F} - {*string.whitespace.encode()}),
}
"""Of text: ASCII letters, digits, whitespace, punctuation and markup; 0x80 and above, which UTF-8 uses for all other
characters; and what is left, the ASCII control characters."""

_BYTES = {
    "0x00": bytes(1),
    "0x01–0x3f": bytes(range(0x01, 0x40)),
    "0x40–0x7f": bytes(range(0x40, 0x80)),
    "0x80–0xbf": bytes(range(0x80, 0xC0)),
    "0xc0–0xfe": bytes(range(0xC0, 0xFF)),
    "0xff": bytes([0xFF]),
}
"""Of what is no text (sounds, images, programs): by the value; 0x00 and 0xff, of which such files are full, alone."""

MARKED = "markers"
"""The class of symbols that are no bytes (see `h2q.alphabet`)."""


def classes(kind: Kind) -> dict[str, bytes]:
    """The byte values of each class, by its name: every value belongs to one."""
    return _TEXT if kind == "text" else _BYTES


def class_of(kind: Kind) -> np.ndarray:
    """The number of its class for each symbol, (ALPHABET,) int64: behind those of bytes that of markers."""
    numbers = np.full(ALPHABET, len(classes(kind)), np.int64)
    for number, members in enumerate(classes(kind).values()):
        numbers[np.frombuffer(members, np.uint8)] = number
    return numbers
