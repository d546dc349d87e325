"""A sound comes back sample for sample, and what cannot is refused in one line that names the file."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from h2q.errors import UserError
from pipeline.senses import media
from pipeline.senses.sounds import (
    Sound,
    from_ulaw,
    read_sound,
    sound_document,
    sound_of,
    sound_shape,
    to_ulaw,
    write_sound,
)

soundfile = pytest.importorskip("soundfile")

EVERY_SAMPLE = np.arange(-(1 << 15), 1 << 15).astype(np.int16)


@given(
    arrays(np.int16, st.tuples(st.integers(1, 40), st.integers(1, 3))),
    st.sampled_from([1, 8000, 44_100, 96_000]),
    st.sampled_from(["WAV", "FLAC"]),
)
def test_samples_come_back_from_a_file_and_from_a_document(samples: np.ndarray, rate: int, format: str) -> None:
    file = io.BytesIO()
    write_sound(Sound(rate, samples), file, format)
    read = read_sound(io.BytesIO(file.getvalue()), "x")
    assert read.rate == rate and np.array_equal(read.samples, samples)
    document = sound_document(read, "pcm16")
    assert sound_shape(document) == (rate, samples.shape[1], 2)
    back = sound_of(document)
    assert back.rate == rate and np.array_equal(back.samples, samples)


def test_ulaw_is_that_of_libsndfile_comes_back_and_rises() -> None:
    decoded = from_ulaw(to_ulaw(EVERY_SAMPLE))
    file = io.BytesIO(wav(EVERY_SAMPLE, "ULAW"))
    assert np.array_equal(read_sound(file, "x").samples[:, 0], decoded)
    assert np.array_equal(from_ulaw(to_ulaw(decoded)), decoded)
    assert (np.diff(to_ulaw(EVERY_SAMPLE).astype(int)) >= 0).all()
    document = sound_document(Sound(8000, decoded[:, None]), "ulaw")
    assert np.array_equal(sound_of(document).samples[:, 0], decoded)


def test_pcm_of_a_document_rises_with_the_amplitude() -> None:
    document = sound_document(Sound(8000, EVERY_SAMPLE[:, None]), "pcm16")
    assert document[5:9] == bytes([0, 0, 0, 1]) and document[-2:] == bytes([255, 255])


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE", "PCM_U8", "PCM_16"])
def test_other_depths_are_taken_where_16_bits_hold_them(subtype: str) -> None:
    samples = EVERY_SAMPLE[::256] if subtype == "PCM_U8" else EVERY_SAMPLE
    data = wav(samples if subtype.startswith("PCM") else samples / (1 << 15), subtype)
    assert np.array_equal(read_sound(io.BytesIO(data), "x").samples[:, 0], samples)


def wav(samples: np.ndarray, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format=format, subtype=subtype)
    return file.getvalue()


def lying(at: int, value: int, length: int) -> bytes:
    data = bytearray(wav(EVERY_SAMPLE[:1000]))
    data[at : at + length] = value.to_bytes(length, "little")
    return bytes(data)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "more than there is": (lambda: lying(40, 1 << 30, 4), "states 1,073,741,824 bytes of samples, but there are 2,000"),
    "less than there is": (lambda: lying(40, 100, 4), "states 50 samples, but what follows them is no part"),
    "truncated": (lambda: wav(EVERY_SAMPLE)[:1000], "states 131,072 bytes of samples, but there are 956"),
    "a truncated FLAC": (lambda: wav(EVERY_SAMPLE, format="FLAC")[:-500], "a/file"),
    "no channel": (lambda: lying(22, 0, 2), "damaged"),
    "no rate": (lambda: lying(24, 0, 4), "damaged"),
    "a rate of 3 GHz": (lambda: lying(24, 0x70000000, 4), "at most 16,777,215 samples a second"),
    "24 bits": (lambda: wav((EVERY_SAMPLE.astype(np.int32) << 16) + 256, "PCM_24"), "24 bit PCM.*convert it to 16"),
    "float": (lambda: wav(np.array([0.1, 0.2]), "FLOAT"), "32 bit float.*convert it to 16"),
    "no number": (lambda: wav(np.array([0.5, np.nan]), "DOUBLE"), "convert it to 16"),
    "0 samples": (lambda: wav(EVERY_SAMPLE[:0]), "at least 1 sample"),
    "text": (lambda: b"Once upon a time\n" * 50, "no sound that soundfile reads"),
    "empty": (lambda: b"", "found 0 bytes"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_kept_is_refused_in_one_line_that_names_the_file(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        read_sound(io.BytesIO(make()), "a/file.wav")
    assert "a/file.wav" in str(error.value) and "\n" not in str(error.value)


def test_too_many_samples_are_refused_from_the_header_and_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.senses.sounds.LARGEST_SOUND", 100)
    with pytest.raises(UserError, match="at most 100 samples, x has 1,000: cut it"):
        read_sound(io.BytesIO(wav(EVERY_SAMPLE[:1000])), "x")


def test_a_library_that_is_missing_is_said_with_its_remedy() -> None:
    with pytest.raises(UserError, match=r"need the package nothing_such: pip install -e '\.\[senses\]'"):
        media.library("nothing_such.part")


def test_a_file_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "LARGEST_FILE", 3)
    assert media.whole(io.BytesIO(b"abc"), "x") == b"abc"
    with pytest.raises(UserError, match="at most 3 bytes, x holds more"):
        media.whole(io.BytesIO(b"abcd"), "x")
