"""Which shards on this machine's disk were verified: remembered beside them, by size and time of change."""

import json
import os
from pathlib import Path

from pipeline.storage import uri as storage
from pipeline.storage.json_file import read_hint

_VERIFIED = ".verified.json"


def is_verified(path: Path) -> bool:
    """Whether the sha256 of a local shard was found right when it had the size and time of change that it has now."""
    stat = path.stat()
    return _ledger(path.parent).get(path.name) == [stat.st_size, stat.st_mtime_ns]


def remember_verified(paths: list[Path]) -> None:
    """Remember, beside the shards, that they were verified; where nothing can be written, nothing is remembered."""
    if not paths:
        return
    folder = paths[0].parent
    marks = {path.name: [stat.st_size, stat.st_mtime_ns] for path in paths for stat in [path.stat()]}
    if os.access(folder, os.W_OK):
        storage.write_atomic(folder / _VERIFIED, json.dumps(_ledger(folder) | marks).encode())


def _ledger(folder: Path) -> dict[str, list[int]]:
    return read_hint(folder / _VERIFIED, dict[str, list[int]], "shards are verified once more") or {}
