"""What a model wrote behind a marker becomes a picture or a sound that can be opened, whatever it wrote.

Symbols are those of one document without its marker: header and content. A marker among them ends it.
"""

import io
import math
from collections.abc import Sequence

import numpy as np

from h2q.alphabet import BYTES, HEADER
from pipeline.senses.media import Media
from pipeline.senses.pictures import picture_shape, write_picture
from pipeline.senses.sounds import Sound, sound_header, sound_of, sound_shape, takes, write_sound
from pipeline.senses.synthesis import RATE


def document_bytes(symbols: Sequence[int]) -> bytes:
    """The symbols up to the first that is no byte."""
    end = next((i for i, symbol in enumerate(symbols) if symbol >= BYTES), len(symbols))
    return bytes(symbols[:end])


def written_file(kind: Media, symbols: Sequence[int], format: str) -> tuple[bytes, str]:
    """The file of a picture or a sound, of the format (png; wav, flac), and what was done, in words."""
    file = io.BytesIO()
    if kind == "image":
        pixels, told = written_picture(symbols)
        write_picture(pixels, file, format)
    else:
        sound, told = written_sound(symbols, format)
        write_sound(sound, file, format)
    return file.getvalue(), told


def written_picture(symbols: Sequence[int]) -> tuple[np.ndarray, str]:
    """Pixels (H, W, C) of the size that the header states, and what was done, in words.

    What ended early is filled up with black, what is too long is cut. Behind a header that states no picture the bytes
    are shades of grey, in a square that holds them.
    """
    document = document_bytes(symbols)
    content = np.frombuffer(document, np.uint8)[HEADER:]
    shape = picture_shape(document[:HEADER])
    told = "its header states no picture, so all is grey, in a square: " if shape is None else ""
    side = max(1, math.ceil(math.sqrt(len(content))))
    height, width, channels = shape or (side, side, 1)
    told += f"{width} × {height} pixels, {'grey' if channels == 1 else 'RGB'}"
    pixels = np.zeros(height * width * channels, np.uint8)
    kept = min(len(content), len(pixels))
    pixels[:kept] = content[:kept]
    if kept < len(pixels):
        told += f"; it ended {bytes_of(len(pixels) - kept)} early: filled up with black"
    elif kept < len(content):
        told += f"; it went on for {bytes_of(len(content) - kept)}: cut"
    return pixels.reshape(height, width, channels), told


def written_sound(symbols: Sequence[int], format: str = "wav") -> tuple[Sound, str]:
    """A sound as its header states it, and what was done, in words.

    A last sample that is not whole is left out, and where there is none it is silence. Behind a header that states no
    sound, or none that a file of the format can hold, the bytes are µ-law of a telephone.
    """
    document = document_bytes(symbols)
    header, content = document[:HEADER], document[HEADER:]
    told, shape = "", sound_shape(header)
    if shape is None or not takes(format, *shape[:2]):
        told = f"its header states no sound{' that FLAC takes' if shape else ''}, so all is µ-law: "
        header, shape = sound_header(RATE, 1, 1), (RATE, 1, 1)
    rate, channels, width = shape
    whole = len(content) // (channels * width) * channels * width
    sound = sound_of(header + (content[:whole] or silence(channels, width)))
    seconds = f"{len(sound.samples) / rate:.2f} s at {rate:,} samples a second"
    told += f"{seconds}, {channels} channel{'s' if channels > 1 else ''}, {'µ-law' if width == 1 else '16-bit PCM'}"
    if not whole:
        told += "; it ended before the first sample: one of silence"
    elif whole < len(content):
        told += f"; {bytes_of(len(content) - whole)} of a sample that is not whole left out"
    return sound, told


def bytes_of(count: int) -> str:
    return f"{count:,} byte{'s' if count != 1 else ''}"


def silence(channels: int, width: int) -> bytes:
    """One sample of silence in every channel."""
    return bytes((128, 0)[:width]) * channels
