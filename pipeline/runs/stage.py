"""What a run is busy with between two records, for whoever watches it: a small file in its folder, while it lasts."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from typing_extensions import TypedDict

from h2q.errors import UserError
from pipeline.storage.json_file import Count, read_json
from pipeline.storage.path import UriPath
from pipeline.storage.repeated import repeated
from pipeline.storage.uri import write_atomic

_EVERY_SECONDS = 1.0
_EVERY_SECONDS_ON_A_URI = 5.0


class Stage(TypedDict):
    """`done` of `total` bytes."""

    name: str
    done: Count
    total: Count


class StageNote:
    """In a `with` block: call `show` as often as you like, it writes seldom, and nothing of what takes no second.

    Writes nothing unless `active`: only the first worker does. A store that is away does not hurt the work.
    """

    def __init__(self, path: Path, *, active: bool = True) -> None:
        self._path, self._active, self._written = path, active, False
        self._pause = _EVERY_SECONDS_ON_A_URI if isinstance(path, UriPath) else _EVERY_SECONDS
        self._due = time.monotonic() + self._pause

    def show(self, name: str, done: int, total: int) -> None:
        """So far, `done` of `total` bytes."""
        now = time.monotonic()
        if not self._active or now < self._due:
            return
        self._due, self._written = now + self._pause, True
        stage: Stage = {"name": name, "done": done, "total": total}
        with suppress(OSError, UserError):
            content = json.dumps(stage).encode()
            # Who reads half of it reads again: no need to wait for the disk.
            write_atomic(self._path, content) if isinstance(self._path, UriPath) else self._path.write_bytes(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._written:
            with suppress(OSError, UserError):
                self._path.unlink(missing_ok=True)


@contextmanager
def watched_stage(path: Path, consume: Callable[[Stage | None], object]) -> Iterator[None]:
    """Inside, a consumer is handed what a StageNote says, in a thread of its own; None once it is over."""
    with suppress(OSError, UserError):
        path.unlink(missing_ok=True)  # of a start that was killed
    showing = False

    def look() -> None:
        nonlocal showing
        stage = _read(path)
        if stage or showing:
            consume(stage)
        showing = stage is not None

    with repeated(look, _EVERY_SECONDS_ON_A_URI if isinstance(path, UriPath) else _EVERY_SECONDS / 2, "stage"):
        yield


def _read(path: Path) -> Stage | None:
    try:
        return read_json(path, Stage, "it is written again")
    except (OSError, UserError):
        return None
