"""A sound as a document of bytes, and back: rate, channels, bytes of a sample (see h2q/alphabet.py), then its samples.

N: samples of a channel. C: channels. Samples are (N, C) int16, as soundfile decodes them: those of an MP3 are what its
decoder makes of it. Nothing of the file but its samples and their rate is kept.
"""

import io
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Literal

import numpy as np

from h2q.alphabet import HEADER
from h2q.errors import UserError, first_line, require
from pipeline.senses.media import library, whole

Coding = Literal["ulaw", "pcm16"]
"""How a sample becomes bytes: one byte of µ-law (ITU-T G.711), as telephones have it, which rounds what is loud; or the
two of 16-bit PCM, which keeps all."""

LARGEST_RATE = (1 << 24) - 1
"""Samples a second at most: the header has 3 bytes for it."""
LARGEST_SOUND = 1 << 25
"""Samples at most, over all channels: six minutes of a compact disc, and more than an hour of a telephone."""

_WIDTH: dict[Coding, int] = {"ulaw": 1, "pcm16": 2}
_DEEP = {"PCM_24", "PCM_32", "ALAC_20", "ALAC_24", "ALAC_32", "DWVW_24"}
_HALF = 1 << 15
_BLOCK = 1 << 16
_UNKNOWN = 1 << 62
"""Samples of a stream whose length libsndfile does not know, and more."""
_LIE = re.compile(r"^\s*data\s*: (-?\d+) \(should be (\d+)\)", re.MULTILINE)
"""What libsndfile, which reads on, notes of a header that states other bytes than the file has."""
_JUNK = re.compile(r"^(Have .+ marker at position|\*\*\* Unknown chunk marker)", re.MULTILINE)
"""What it notes where the samples that a header states are followed by what is no chunk: by more samples."""


@dataclass(frozen=True)
class Sound:
    """Samples (N, C) int16, so many a second."""

    rate: int
    samples: np.ndarray


def read_sound(file: BinaryIO, name: str) -> Sound:
    """The samples of a file of any format that soundfile reads; `name` is for messages.

    Samples of 24 and 32 bits are taken where 16 hold them. Raises: UserError for what is no sound, is damaged, holds
    no sample, more than `LARGEST_SOUND` or samples that 16 bits do not hold.
    """
    data = whole(file, name)
    soundfile = library("soundfile")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            _check(sound, name)
            return Sound(sound.samplerate, _samples(sound, name))
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip().removeprefix("Error : ").rstrip(".")
        raise UserError(
            f"{name} is no sound that soundfile reads, or damaged ({reason}): replace it, leave it out, or convert it "
            "to WAV"
        ) from None
    except UserError:
        raise
    except Exception as error:  # A callback of the library's met what it did not expect.
        raise UserError(f"{name} is a damaged sound ({first_line(error)}): replace it or leave it out") from error


def sound_document(sound: Sound, coding: Coding) -> bytes:
    """The header and the samples in order, channels side by side, in bytes that rise with the amplitude."""
    header = sound_header(sound.rate, sound.samples.shape[1], _WIDTH[coding])
    if coding == "ulaw":
        return header + to_ulaw(sound.samples).tobytes()
    return header + (sound.samples.astype(np.int32) + _HALF).astype(">u2").tobytes()


def sound_header(rate: int, channels: int, width: int) -> bytes:
    """The 5 bytes before the samples; `width`: bytes of a sample."""
    return rate.to_bytes(3, "big") + bytes((channels, width))


def sound_shape(header: bytes) -> tuple[int, int, int] | None:
    """Rate, channels and bytes of a sample as a header states them; None where it is none, or states what no sound
    has."""
    if len(header) < HEADER:
        return None
    rate, channels, width = int.from_bytes(header[:3], "big"), header[3], header[4]
    return (rate, channels, width) if rate and channels and width in _WIDTH.values() else None


def sound_of(document: bytes) -> Sound:
    """The sound of a whole document, as `sound_document` made it; of µ-law, what its codes stand for."""
    shape = sound_shape(document[:HEADER])
    assert shape is not None
    rate, channels, width = shape
    content = np.frombuffer(document, np.uint8 if width == 1 else ">u2", offset=HEADER).reshape(-1, channels)
    return Sound(rate, from_ulaw(content) if width == 1 else (content.astype(np.int32) - _HALF).astype(np.int16))


def takes(format: str, rate: int, channels: int) -> bool:
    """Whether a file of this format (wav, flac) can say so. FLAC: 3 bits for channels, above 2¹⁶ the tens of a rate."""
    return format != "flac" or (channels <= 8 and (rate < 1 << 16 or (rate < 655_360 and rate % 10 == 0)))


def write_sound(sound: Sound, file: BinaryIO, format: str = "WAV") -> None:
    """Write samples as a sound of 16 bits, in a format without loss (WAV, FLAC)."""
    library("soundfile").write(file, sound.samples, sound.rate, format=format, subtype="PCM_16")


def to_ulaw(samples: np.ndarray) -> np.ndarray:
    """µ-law of int16 samples, counted from the most negative to the most positive, uint8 of the same shape."""
    return _ulaw_codes()[samples.astype(np.int32) + _HALF]


def from_ulaw(codes: np.ndarray) -> np.ndarray:
    """The int16 samples that such codes stand for. 127 and 128 both are silence."""
    return _ulaw_samples()[codes]


@lru_cache(maxsize=1)
def _ulaw_samples() -> np.ndarray:
    """(256,) int16, rising. G.711's 8 segments of 16 steps, each twice as wide as the last, scaled to 16 bits."""
    segment, step = np.divmod(np.arange(128), 16)
    magnitude = (((step << 3) + 132) << segment) - 132
    return np.concatenate([-magnitude[::-1], magnitude]).astype(np.int16)


@lru_cache(maxsize=1)
def _ulaw_codes() -> np.ndarray:
    """(65,536,) uint8: the code of each sample, from the most negative on."""
    sample = np.arange(-_HALF, _HALF)
    magnitude = np.minimum(np.abs(sample), 32635) + 132
    segment = np.frexp(magnitude)[1] - 8
    code = (segment << 4) | ((magnitude >> (segment + 3)) & 15)
    return np.where(sample < 0, 127 - code, 128 + code).astype(np.uint8)


def _check(sound: Any, name: str) -> None:
    """Raises: UserError for a sound whose samples cannot be kept, before they are decoded."""
    require(
        sound.samplerate <= LARGEST_RATE and sound.channels <= 255,
        f"a sound must have at most {LARGEST_RATE:,} samples a second and 255 channels, {name} states "
        f"{sound.samplerate:,} and {sound.channels}: convert it",
    )
    if lie := _LIE.search(sound.extra_info):
        stated, held = (f"{int(number):,}" for number in lie.groups())
        raise UserError(
            f"the header of {name} states {stated} bytes of samples, but there are {held}: it was cut short, or "
            "written to a pipe; convert it to mend its header"
        )
    require(
        not _JUNK.search(sound.extra_info),
        f"the header of {name} states {sound.frames:,} samples, but what follows them is no part of a sound's file: "
        "convert it to mend its header",
    )
    require(sound.frames > 0, f"a sound must have at least 1 sample, {name} has 0: remove it")
    if sound.frames < _UNKNOWN:
        _check_size(sound.frames * sound.channels, name)


def _check_size(samples: int, name: str) -> None:
    require(
        samples <= LARGEST_SOUND,
        f"a sound must have at most {LARGEST_SOUND:,} samples, {name} has {samples:,}: cut it into shorter ones",
    )


def _samples(sound: Any, name: str) -> np.ndarray:
    """All samples (N, C) int16, block by block."""
    real, deep = sound.subtype in ("FLOAT", "DOUBLE"), sound.subtype in _DEEP
    dtype = "float64" if real else "int32" if deep else "int16"
    blocks: list[np.ndarray] = []
    count = 0
    while len(block := sound.read(_BLOCK, dtype=dtype, always_2d=True)):
        count += block.size
        _check_size(count, name)
        scaled = block * _HALF if real else block / (1 << 16) if deep else block
        with np.errstate(invalid="ignore"):  # A sample that is no number is refused.
            kept = scaled if scaled.dtype == np.int16 else np.clip(scaled, -_HALF, _HALF - 1).astype(np.int16)
        require(
            np.array_equal(kept, scaled),
            f"a sound must have samples of at most 16 bits, {name} has {sound.subtype_info} that 16 do not hold: "
            "convert it to 16 bits",
        )
        blocks.append(kept)
    require(count > 0, f"a sound must have at least 1 sample, {name} has 0: remove it")
    if sound.frames < _UNKNOWN and "MPEG" not in sound.subtype:
        stated, held = sound.frames, count // sound.channels
        require(held == stated, f"{name} states {stated:,} samples, but holds {held:,}: it was cut short; replace it")
    return np.concatenate(blocks)
