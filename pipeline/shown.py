"""What may be shown: text from outside without what would upset a terminal, and addresses without their secrets."""

import logging
import re
from functools import cache

_SECRETS = (
    # user:password@, whatever the password holds: up to the last @, because one that should have been quoted (/ ? # @)
    # must not pass. A port with an @ in the path behind it looks the same: rather too little is shown.
    (re.compile(r"://[^\s/@:]*:\S*@"), "://"),
    (re.compile(r"://[^/\s]*@"), "://"),
    # But viewStateShareKey, which every link to MLflow's pages has.
    (re.compile(r"([?&;#][^=&\s]*(?:(?<!Share)key|sig|cred|auth)[^=&\s]*)=[^&\s]*", re.IGNORECASE), r"\1="),
    (re.compile(r"([\w.-]*(?:secret|token|passw|pwd)[\w.-]*)=[^&\s]*", re.IGNORECASE), r"\1="),
)


def without_secrets(text: str) -> str:
    """The text (a path, a URI, a command line, a message) without the users, passwords, keys, tokens and signatures of
    the addresses in it."""
    for pattern, rest in _SECRETS:
        text = pattern.sub(rest, text)
    return text


def presentable(text: str) -> str:
    """Text for a terminal or a log: printable, without secrets."""
    return printable(without_secrets(text))


def printable(text: str) -> str:
    """Text that cannot upset a terminal: control characters other than line ends and tabs as U+FFFD, the bytes of a
    file's name that are not UTF-8 as escapes (`\\udce9`)."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in whole)


def cell(text: str) -> str:
    """Text from outside as a cell or a title of rich's: printable, and none of its markup."""
    from rich.markup import escape

    return escape(printable(text))


MARKS = "⟦⟧"
"""Around a prompt, before what a model wrote behind it."""


def marked_off(prompt: str) -> str:
    """A prompt between marks that hardly any text holds."""
    return f"{MARKS[0]}{prompt}{MARKS[1]}"


@cache
def note(sentence: str) -> None:
    """Tell people, once, what they should know although the work goes on: a line on standard error."""
    # Where nobody has configured logging, Python writes a warning there; a library's user may send it elsewhere.
    logging.getLogger("h2q").warning("note: %s", presentable(sentence))
