"""What is shown of a moment is aligned: under each byte stands what was written for it, however wide its sign."""

import pytest
from rich.cells import cell_len

from pipeline.projector.reading import Reading, signs


@pytest.mark.parametrize("text", ["plain\n", "é ß", "中文 text", "a 🙂 b", "カナ", "e\u0301", "\u200d\x00"])
def test_signs_are_as_wide_as_there_are_bytes(text: str) -> None:
    data = text.encode()
    for some in (data, data[1:], data[:-1]):
        assert len(signs(some)) == len(some) == sum(map(cell_len, signs(some)))


def test_wrong_bytes_are_marked_by_more_than_colour() -> None:
    was = "中 ab".encode()
    reading = Reading(6, was, b"\xe4\xb8\xad ax", b"c", b"c")
    assert reading.plain().splitlines()[1:4] == ["     was  中· ab", "    says  中· ax", "               ^"]
    styles = {reading.coloured().plain[span.start : span.end]: str(span.style) for span in reading.coloured().spans}
    assert styles["x"] == "red underline" and styles["a"] == "green" and styles["中"] == "green"


def test_a_wide_letter_is_wrong_where_its_second_byte_is() -> None:
    text = Reading(3, "中".encode(), "乭".encode(), b"", b"").coloured()
    assert "red underline" in {str(span.style) for span in text.spans if text.plain[span.start] == "乭"}
