"""What a person reads at the end cannot upset the terminal."""

from pipeline.terminal import printable


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\nc é 中 \u2028") == "a\ufffd[2Jb\ufffd\ufffd\nc é 中 \ufffd"
