"""The symbols beyond the 256 bytes, and what stands behind them: where a document begins, and of what kind it is.

A document of a marked corpus is its marker, a header where its kind has one, and its content:

    text, bytes    the content as it is
    image          width (2 bytes), height (2), channels (1: grey, 3: RGB); pixels row by row, channels side by side
    audio          samples a second (3 bytes), channels (1), bytes of a sample (1: µ-law, 2: PCM); samples in order,
                   channels side by side

Numbers are big-endian. Samples are unsigned and rise with the amplitude, so that a byte is near the one before it:
PCM has 32,768 added, and a µ-law code is counted from the most negative to the most positive.
"""

from typing import Literal

Kind = Literal["text", "bytes", "image", "audio"]

BYTES = 256
"""Symbols that are bytes."""

MARKERS: dict[Kind, int] = {"bytes": 256, "text": 257, "image": 258, "audio": 259}
"""The symbol before a document of each kind."""

ALPHABET = BYTES + len(MARKERS)
"""Symbols of a model that reads marked documents."""

HEADER = 5
"""Bytes of the header of pictures and of sounds."""

LONGEST = 4096
"""How many bytes back a model with strides looks at most: rows of more (1,365 pixels of RGB) have none above."""

CARRIED = LONGEST + HEADER + 3
"""Numbers that such a model carries of them from chunk to chunk."""
