"""Kinds of bytes, for people who ask where the bits go."""

import string

import numpy as np

_MEMBERS = {
    "letters": string.ascii_letters.encode(),
    "digits": string.digits.encode(),
    "whitespace": string.whitespace.encode(),
    "punctuation": string.punctuation.encode(),
    "multi-byte UTF-8": bytes(range(0x80, 0x100)),
}

CLASSES = (*_MEMBERS, "control")
"""Every byte value belongs to one: ASCII letters, digits, whitespace, punctuation and markup; 0x80 and above, which
UTF-8 uses for all other characters; and what is left, the ASCII control characters."""


def class_of() -> np.ndarray:
    """The number of its class for each byte value, (256,) int64."""
    numbers = np.full(256, len(_MEMBERS), np.int64)
    for number, members in enumerate(_MEMBERS.values()):
        numbers[np.frombuffer(members, np.uint8)] = number
    return numbers
