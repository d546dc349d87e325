"""A model completes a picture or a sound, or writes one of its own: documents begun, and how much is missing."""

from collections.abc import Iterator, Sequence

import numpy as np

from h2q.alphabet import HEADER, MARKERS
from h2q.config import SamplingConfig
from h2q.documents import continued
from h2q.errors import require
from h2q.generate import stream
from h2q.model import ByteModel
from pipeline.senses.pictures import LARGEST_PICTURE, LARGEST_SIDE, picture_header, picture_shape
from pipeline.senses.sounds import Coding, Sound, sound_document, sound_shape

LONGEST = 1 << 20
"""Bytes that are written at most where nobody says how many: minutes."""
UNSTATED = 1 << 12
"""Bytes that are written behind a header that states neither a picture nor a sound."""
SECONDS = 2
"""Of a sound that nothing begins."""


def begun_picture(pixels: np.ndarray, height: int | None = None) -> list[int]:
    """The symbols of a picture of `height` rows (None: twice those there are), of which the first are known, (H, W, C).

    Raises: UserError for fewer rows than are known, or more than a picture may have.
    """
    rows, width, channels = pixels.shape
    whole = 2 * rows if height is None else height
    largest = min(LARGEST_SIDE, LARGEST_PICTURE // width)
    require(
        rows <= whole <= largest,
        f"height must be from the prompt's {rows} rows to {largest:,}, got {whole:,}: give another --height",
    )
    return [MARKERS["image"], *picture_header(width, whole, channels), *pixels.tobytes()]


def begun_sound(sound: Sound, coding: Coding) -> list[int]:
    """The symbols of a sound that goes on."""
    return [MARKERS["audio"], *sound_document(sound, coding)]


def missing(document: Sequence[int]) -> int | None:
    """How many bytes there are to be written behind the symbols of a document, as its header states them; None where
    that is not there yet. A sound becomes twice as long as it is, and without a beginning `SECONDS`."""
    header, content = bytes(document[1 : 1 + HEADER]), len(document) - 1 - HEADER
    if content < 0:
        return None
    if document[0] == MARKERS["image"]:
        shape = picture_shape(header)
        wanted = UNSTATED if shape is None else int(np.prod(shape))
        return min(wanted - content, LONGEST)
    stated = sound_shape(header)
    if content:
        return min(content, LONGEST)
    return UNSTATED if stated is None else min(int(np.prod(stated)) * SECONDS, LONGEST)


def completed(
    model: ByteModel,
    document: Sequence[int],
    config: SamplingConfig,
    length: int | None = None,
) -> Iterator[int]:
    """The bytes that the model writes behind the symbols of a document: at most `length`, or as many as are `missing`,
    fewer where it ends the document. Where there is no header, it writes one, which it cannot end."""
    begun, header = list(document), 1 + HEADER - len(document)
    if header > 0:
        for byte in stream(model, begun, header if length is None else min(header, length), config):
            begun.append(byte)
            yield byte
    left = missing(begun) if length is None else length - max(0, header)
    yield from continued(model, begun, max(0, left or 0), config)
