"""What is missing of a picture or a sound is what its header states."""

import numpy as np
import pytest

from h2q.alphabet import MARKERS
from h2q.errors import UserError
from pipeline.senses.completion import LONGEST, UNSTATED, begun_picture, begun_sound, missing
from pipeline.senses.pictures import picture_header
from pipeline.senses.sounds import Sound, sound_header


def test_a_picture_lacks_the_rows_below_its_prompt() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert missing(begun_picture(pixels)) == 4 * 6 * 3
    assert missing(begun_picture(pixels, 5)) == 6 * 3
    assert missing(begun_picture(pixels, 4)) == 0
    for height in (3, 70_000):
        with pytest.raises(UserError, match=f"from the prompt's 4 rows to 65,535, got {height:,}"):
            begun_picture(pixels, height)


def test_a_sound_becomes_twice_as_long() -> None:
    assert missing(begun_sound(Sound(8000, np.zeros((30, 2), np.int16)), "pcm16")) == 120


@pytest.mark.parametrize(
    ("kind", "header", "wanted"),
    [
        ("image", picture_header(20, 10, 3), 600),
        ("image", picture_header(0, 10, 3), UNSTATED),
        ("image", picture_header(4000, 4000, 3), LONGEST),
        ("audio", sound_header(8000, 2, 2), 64_000),
        ("audio", sound_header(8000, 2, 7), UNSTATED),
        ("image", bytes(3), None),
    ],
)
def test_behind_a_header_alone_there_is_what_it_states(kind, header: bytes, wanted: int | None) -> None:
    assert missing([MARKERS[kind], *header]) == wanted
