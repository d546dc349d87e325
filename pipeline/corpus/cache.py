"""Shards of a URI on a node's own disk: a folder of bounded size that the node's workers share.

A file is named by its sha256 and appears only after it was verified. Locks of the file system (flock) do the rest, so
that a killed worker leaves nothing locked: a shared lock on a shard while a worker has it mapped, an exclusive one on
its name while it is downloaded, and one on the folder while room is made, a shard appears, or one is locked.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from h2q.errors import UserError, require
from pipeline.corpus.shards import Shard, sha256_of
from pipeline.corpus.verified import is_verified, remember_verified
from pipeline.storage import uri as storage
from pipeline.storage.lock import is_locked, lock, lock_shared
from pipeline.storage.path import AnyPath


class CachedShard:
    """A cached shard that stays while this object lives."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle

    def __del__(self) -> None:
        os.close(self._handle)


@dataclass(frozen=True)
class Cache:
    """The cache in a folder. Its files never take more than `limit` bytes together."""

    folder: Path = Path("~/.cache/h2q/shards")
    """`~` is the home of whoever reads: the worker that the cache was sent to."""
    limit: int = 50_000_000_000

    def fetch(
        self, source: AnyPath, shard: Shard, rebuild: str, always: bool, forget: Callable[[], bool]
    ) -> CachedShard:
        """The shard on the local disk, verified (`always`: even if it was before); downloaded unless it is there.

        `forget` is called when room is needed and only shards in use are left: it lets go of one of the caller's and
        says whether there was one. Raises: UserError for a wrong shard, or when there is no room.
        """
        path = self.folder.expanduser().absolute() / f"{shard.sha256}.arrow"
        storage.make_folder(path.parent)
        with lock(path.with_suffix(".lock")):
            return _hold(path, shard, always) or self._download(source, path, shard, rebuild, forget)

    def _download(
        self, source: AnyPath, path: Path, shard: Shard, rebuild: str, forget: Callable[[], bool]
    ) -> CachedShard:
        part = path.with_suffix(".part")
        self._reserve(part, shard.file_bytes, forget)
        handle = os.open(part, os.O_RDWR)
        cached = CachedShard(path, handle)
        # The lock belongs to the file, not to its name: it holds through the renaming.
        lock_shared(handle)
        try:
            size, sha256 = _copy(source, handle)
            require(
                (size, sha256) == (shard.file_bytes, shard.sha256),
                f"shard {source} must have {shard.file_bytes} bytes of sha256 {shard.sha256}, "
                f"found {size} of {sha256}; rebuild it: {rebuild}",
            )
            with _folder_lock(path):
                os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        remember_verified([path])
        return cached

    def _reserve(self, part: Path, size: int, forget: Callable[[], bool]) -> None:
        """Make room for a file and take it, so that nobody else does."""
        while True:
            with _folder_lock(part):
                if _make_room(part.parent, self.limit - size):
                    with open(part, "wb") as file:
                        file.truncate(size)
                    return
            if not forget():
                raise UserError(
                    f"the cache {part.parent} must hold the shards in use, {self.limit} bytes are not enough for "
                    f"another {size}: raise --corpus.cache-bytes or prepare with smaller --corpus.shard-bytes"
                )


def _hold(path: Path, shard: Shard, always: bool) -> CachedShard | None:
    """The shard if it is there and right; one that was altered is deleted."""
    try:
        # Who makes room looks and deletes in one: nobody takes hold in between.
        with _folder_lock(path):
            handle = os.open(path, os.O_RDONLY)
            cached = CachedShard(path, handle)
            lock_shared(handle)
    except FileNotFoundError:
        return None
    right = os.fstat(handle).st_size == shard.file_bytes
    if right and (always or not is_verified(path)):
        right = sha256_of(path) == shard.sha256
        if right:
            remember_verified([path])
    if not right:
        path.unlink(missing_ok=True)
        return None
    # The time of the last use: what was not used for longest makes room first.
    os.utime(path, ns=(time.time_ns(), os.fstat(handle).st_mtime_ns))
    return cached


def _folder_lock(path: Path) -> IO[bytes]:
    return lock(path.parent / ".lock")


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All shards, those that are being downloaded too."""
    for path in folder.iterdir():
        if path.suffix in (".arrow", ".part"):
            with suppress(FileNotFoundError):  # one that was damaged may go meanwhile
                yield path, path.stat()


def _make_room(folder: Path, allowed: int) -> bool:
    """Delete what was not used for longest and is not in use until at most `allowed` bytes are left."""
    files = list(_files(folder))
    total = sum(stat.st_size for _, stat in files)
    for path, stat in sorted(files, key=lambda file: file[1].st_atime_ns):
        if total <= allowed:
            break
        # A shard is locked while a process has it mapped, its name while one is downloading it.
        if not is_locked(path.with_suffix(".lock") if path.suffix == ".part" else path):
            path.unlink(missing_ok=True)
            total -= stat.st_size
    return total <= allowed


def _copy(source: AnyPath, handle: int) -> tuple[int, str]:
    """Download into an open file; bytes and sha256 of what came."""
    digest, size = hashlib.sha256(), 0
    with storage.opened(source) as file:
        while block := file.read(1 << 22):
            os.pwrite(handle, block, size)
            digest.update(block)
            size += len(block)
    os.ftruncate(handle, size)
    os.fsync(handle)
    return size, digest.hexdigest()
