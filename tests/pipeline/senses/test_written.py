"""Whatever a model writes becomes a file that opens, and what was done is said."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q.alphabet import MARKERS
from pipeline.senses.pictures import picture_document, picture_header, read_picture, write_picture
from pipeline.senses.sounds import Sound, read_sound, sound_document, sound_header, write_sound
from pipeline.senses.written import written_file, written_picture, written_sound

SYMBOLS = st.lists(st.integers(0, 259), max_size=300)
HEADERS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 4))


@given(SYMBOLS | st.tuples(HEADERS, SYMBOLS).map(lambda drawn: [*picture_header(*drawn[0]), *drawn[1]]))
def test_any_symbols_become_a_picture_that_opens(symbols: list[int]) -> None:
    pixels, told = written_picture(symbols)
    file = io.BytesIO()
    write_picture(pixels, file)
    file.seek(0)
    assert np.array_equal(read_picture(file, "x"), pixels) and "\n" not in told


@given(SYMBOLS | st.tuples(HEADERS, SYMBOLS).map(lambda drawn: [*sound_header(*drawn[0]), *drawn[1]]))
def test_any_symbols_become_a_sound_that_opens(symbols: list[int]) -> None:
    pytest.importorskip("soundfile")
    for format in ("wav", "flac"):
        sound, told = written_sound(symbols, format)
        file = io.BytesIO()
        write_sound(sound, file, format)
        file.seek(0)
        assert np.array_equal(read_sound(file, "x").samples, sound.samples) and "\n" not in told


@pytest.mark.parametrize("channels", [1, 8, 9, 255])
@pytest.mark.parametrize("rate", [1, 65_535, 65_536, 65_537, 65_540, 655_350, 655_360, (1 << 24) - 1])
def test_a_flac_file_has_its_own_rates_and_channels_and_opens(rate: int, channels: int) -> None:
    pytest.importorskip("soundfile")
    file, told = written_file("audio", [*sound_header(rate, channels, 1), *range(255)], "flac")
    read = read_sound(io.BytesIO(file), "x")
    held = channels <= 8 and rate in (1, 65_535, 65_540, 655_350)
    assert ((read.rate, read.samples.shape[1]) == (rate, channels)) == held == ("no sound that FLAC takes" not in told)


def test_a_whole_document_comes_back_as_it_is() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    back, told = written_picture([*picture_document(pixels), MARKERS["image"], 1, 2])
    assert np.array_equal(back, pixels) and told == "4 × 4 pixels, RGB"
    samples = np.arange(-8, 8).astype(np.int16).reshape(-1, 2)
    sound, told = written_sound([*sound_document(Sound(44100, samples), "pcm16"), MARKERS["text"]])
    assert (
        np.array_equal(sound.samples, samples) and told == "0.00 s at 44,100 samples a second, 2 channels, 16-bit PCM"
    )


@pytest.mark.parametrize(
    ("symbols", "shape", "told"),
    [
        ([*picture_header(3, 2, 1), 9], (2, 3, 1), "3 × 2 pixels, grey; it ended 5 bytes early: filled up with black"),
        ([*picture_header(3, 2, 1), *range(8)], (2, 3, 1), "3 × 2 pixels, grey; it went on for 2 bytes: cut"),
        ([*picture_header(0, 2, 1), *range(8)], (3, 3, 1), "its header states no picture, so all is grey, in a square"),
        ([*picture_header(60_000, 60_000, 3), 7], (1, 1, 1), "its header states no picture"),
        ([], (1, 1, 1), "its header states no picture"),
        ([MARKERS["text"], *picture_header(3, 2, 1)], (1, 1, 1), "its header states no picture"),
    ],
)
def test_what_is_done_to_a_picture_is_said(symbols: list[int], shape: tuple[int, ...], told: str) -> None:
    pixels, said = written_picture(symbols)
    assert pixels.shape == shape and told in said


@pytest.mark.parametrize(
    ("symbols", "size", "told"),
    [
        ([*sound_header(8000, 2, 2), *range(6)], 1, "; 2 bytes of a sample that is not whole left out"),
        ([*sound_header(8000, 1, 1)], 1, "; it ended before the first sample: one of silence"),
        ([*sound_header(8000, 1, 3), *range(6)], 6, "its header states no sound, so all is µ-law: 0.00 s at 8,000"),
        ([], 1, "its header states no sound"),
    ],
)
def test_what_is_done_to_a_sound_is_said(symbols: list[int], size: int, told: str) -> None:
    sound, said = written_sound(symbols)
    assert len(sound.samples) == size and told in said
    assert size > 1 or not np.any(sound.samples) or "left out" in said
