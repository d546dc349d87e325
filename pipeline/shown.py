"""What may be shown: text from outside without what would upset a terminal, and addresses without their secrets."""

import logging
from functools import cache


def printable(text: str) -> str:
    """Text that cannot upset a terminal: control characters other than line ends and tabs as U+FFFD."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


@cache
def note(sentence: str) -> None:
    """Tell people, once, what they should know although the work goes on: a line on standard error."""
    # Where nobody has configured logging, Python writes a warning there; a library's user may send it elsewhere.
    logging.getLogger("h2q").warning("note: %s", printable(sentence))
