"""What pictures and sounds have in common: the libraries that read them, and how much of a file is read."""

import importlib
from typing import Any, BinaryIO

from h2q.errors import UserError, require

LARGEST_FILE = 1 << 27
"""Bytes of a picture's or a sound's file at most: it is read into memory whole."""


def library(name: str) -> Any:
    """A module of the extra `senses`. Raises: UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: soundfile without libsndfile
        package = name.partition(".")[0]
        raise UserError(f"pictures and sounds need the package {package}: pip install -e '.[senses]'") from error


def whole(file: BinaryIO, name: str) -> bytes:
    """All bytes of a file. Raises: UserError for one of 0 bytes or more than `LARGEST_FILE`."""
    data = file.read(LARGEST_FILE + 1)
    require(len(data) > 0, f"{name} must hold a picture or a sound, found 0 bytes: remove it or fill it")
    require(
        len(data) <= LARGEST_FILE,
        f"the file of a picture or a sound must hold at most {LARGEST_FILE:,} bytes, {name} holds more: make it "
        "smaller or cut it",
    )
    return data
