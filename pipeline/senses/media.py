"""What pictures and sounds have in common: the libraries that read them, and how much of a file is read."""

import importlib
from typing import Any, BinaryIO, Literal

from h2q.errors import UserError, require

Media = Literal["image", "audio"]

LARGEST_FILE = 1 << 27
"""Bytes of a picture's or a sound's file at most: it is read into memory whole."""


def library(name: str) -> Any:
    """A module of the extra `senses`. Raises: UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: soundfile without libsndfile
        raise _missing(name.partition(".")[0]) from error


def version_of(package: str) -> str:
    """Of a package of the extra `senses`, which is not loaded. Raises: UserError where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError as error:
        raise _missing(package) from error


def _missing(package: str) -> UserError:
    return UserError(f"pictures and sounds need the package {package}: pip install -e '.[senses]'")


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
