"""A file as a stream of bytes, as it is."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from h2q.alphabet import BYTES
from h2q.errors import require
from pipeline.shown import printable

_BLOCK = 1 << 24


class RawFile:
    """The bytes of a local file, mapped: nothing is decoded, cut or added."""

    alphabet = BYTES

    def __init__(self, path: str | Path, sha256: str | None = None, option: str = "--data") -> None:
        """`sha256`: of its content, where it is known already; `option`: which names it.

        Raises: UserError if there is no such file, it cannot be read, or it is empty.
        """
        self.path = Path(path).absolute()
        self.name = printable(self.path.name)
        require(self.path.exists(), f"no file {self.path}: name another as {option}")
        require(not self.path.is_dir(), f"{option} must be a file, but {self.path} is a folder: name a file in it")
        require(self.path.is_file(), f"{option} must be an ordinary file, but {self.path} is none: save it to a file")
        try:
            size = self.path.stat().st_size
            require(
                size > 0, f"the data must not be empty, found 0 bytes in {self.path}: name another file as {option}"
            )
            self._bytes = np.memmap(self.path, np.uint8, mode="r")
        except PermissionError:
            require(False, f"{self.path} cannot be read by you: change its permissions or name another as {option}")
        self.sha256 = sha256 or self._digest()
        """What `sha256sum` says of it."""

    def __len__(self) -> int:
        return len(self._bytes)

    def __reduce__(self) -> tuple[type["RawFile"], tuple[str, str]]:
        return RawFile, (str(self.path), self.sha256)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Bytes [start, stop) as uint8: a view of the map."""
        return np.asarray(self._bytes[start:stop])

    def stream(self) -> Iterator[np.ndarray]:
        """All of it in order, a block at a time."""
        for start in range(0, len(self), _BLOCK):
            yield self.read(start, min(start + _BLOCK, len(self)))

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for block in self.stream():
            digest.update(block.data)
        return digest.hexdigest()
