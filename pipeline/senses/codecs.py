"""What codecs made for pictures and for sounds make of the same documents, without loss, each at its strongest."""

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from h2q.alphabet import HEADER
from pipeline.senses.media import Media, library
from pipeline.senses.pictures import picture_of, write_picture
from pipeline.senses.sounds import sound_of, sound_shape

Size = Callable[[bytes], int | None]
"""Bytes of a document's file; None where the codec does not take it."""


def codec_sizes(kind: Media, documents: Iterable[bytes]) -> dict[str, int]:
    """Bytes of the documents as files of each codec, one file for each; without those that do not take them all."""
    codecs: dict[str, Size] = {"PNG": _png, "WebP": _webp} if kind == "image" else {"FLAC": _flac}
    sizes: dict[str, int | None] = dict.fromkeys(codecs, 0)
    for document in documents:
        for name, size in codecs.items():
            so_far = sizes[name]
            needed = None if so_far is None else size(document)
            sizes[name] = None if so_far is None or needed is None else so_far + needed
    return {name: size for name, size in sizes.items() if size is not None}


def _png(document: bytes) -> int | None:
    return _picture(document, "PNG", optimize=True)


def _webp(document: bytes) -> int | None:
    """Method 6 is worth nothing on photographs, and takes thirty times as long."""
    return _picture(document, "WEBP", lossless=True, quality=100, method=6 if len(document) < 1 << 12 else 4)


def _picture(document: bytes, format: str, **options: Any) -> int | None:
    file = io.BytesIO()
    try:
        write_picture(picture_of(document), file, format, **options)
    except (OSError, ValueError):  # WebP has sides of at most 16,383 pixels.
        return None
    return file.getbuffer().nbytes


def _flac(document: bytes) -> int | None:
    """The smaller of the samples' file and, of µ-law, that of its codes, which are samples of 8 bits as well."""
    sound, shape = sound_of(document), sound_shape(document[:HEADER])
    assert shape is not None
    sizes = [_encoded(sound.samples, sound.rate, "PCM_16")]
    if shape[2] == 1:
        codes = np.frombuffer(document, np.uint8, offset=HEADER).reshape(sound.samples.shape)
        sizes.append(_encoded((codes.astype(np.int16) - 128) << 8, sound.rate, "PCM_S8"))
    return min((size for size in sizes if size is not None), default=None)


def _encoded(samples: np.ndarray, rate: int, subtype: str) -> int | None:
    soundfile, file = library("soundfile"), io.BytesIO()
    try:
        soundfile.write(file, samples, rate, format="FLAC", subtype=subtype, compression_level=1.0)
    except soundfile.LibsndfileError:  # FLAC has 8 channels at most, and not every rate.
        return None
    return file.getbuffer().nbytes
