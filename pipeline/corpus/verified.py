"""Which shards on this machine's disk were verified: remembered beside them, by size and time of change."""

import json
import os
from pathlib import Path

from pipeline.storage import uri as storage

_VERIFIED = ".verified.json"


def is_verified(path: str) -> bool:
    """Whether the sha256 of a local shard was found right when it had the size and time of change that it has now."""
    stat = os.stat(path)
    return _ledger(Path(path).parent).get(Path(path).name) == [stat.st_size, stat.st_mtime_ns]


def remember_verified(paths: list[str]) -> None:
    """Remember, beside the shards, that they were verified; where nothing can be written, nothing is remembered."""
    if not paths:
        return
    folder = Path(paths[0]).parent
    marks = {Path(path).name: [os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in paths}
    if os.access(folder, os.W_OK):
        storage.write_atomic(str(folder / _VERIFIED), json.dumps(_ledger(folder) | marks).encode())


def _ledger(folder: Path) -> dict[str, list[int]]:
    try:
        return json.loads((folder / _VERIFIED).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
